//! `completions`: a script that completes hull's command line in a shell.

use clap::CommandFactory as _;

use super::Cli;

/// Print a script that completes hull's command line in a shell
#[derive(Debug, clap::Args)]
pub(crate) struct CompletionsArgs {
    /// The shell
    shell: clap_complete::Shell,
}

pub(crate) fn run(args: &CompletionsArgs) {
    clap_complete::generate(args.shell, &mut Cli::command(), "hull", &mut std::io::stdout());
}
