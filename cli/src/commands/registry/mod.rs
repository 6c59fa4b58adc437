//! `registry`: a registry of one's own. One file per subcommand; what they share is in
//! `config` and `storage`; `log` and `tls_files` are `serve`'s.

mod config;
mod log;
mod serve;
mod storage;
mod tls_files;

use clap::Subcommand;

use crate::context::Context;
use crate::error::CommandError;

/// Run a registry of your own
#[derive(Debug, clap::Args)]
pub(crate) struct RegistryArgs {
    #[command(subcommand)]
    command: RegistryCommand,
}

/// What can be done with a registry.
#[derive(Debug, Subcommand)]
enum RegistryCommand {
    Serve(serve::ServeArgs),
}

/// Runs `registry`.
pub(crate) fn run(context: &Context, args: RegistryArgs) -> Result<(), CommandError> {
    match args.command {
        RegistryCommand::Serve(args) => serve::run(context, args),
    }
}
