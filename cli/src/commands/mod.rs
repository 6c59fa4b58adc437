//! The command line: one file per command, each with its arguments and what it does.

mod completions;
mod console;
mod convert;
mod export;
mod history;
mod images;
mod import;
mod inspect;
mod kill;
mod login;
mod logout;
mod logs;
mod nbd;
mod pack;
mod ps;
mod pull;
mod push;
mod registry;
mod rm;
mod rmi;
mod run;
mod start;
mod stats;
mod stop;
mod supervise;
mod tag;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use vm_runner::control::{self, Answer, Request};
use vm_runner::{Vm, Vms};

use crate::context::Context;
use crate::error::{CommandError, Exit};

/// Pack virtual machines with their firewall inside, keep them in a registry, run them on KVM
#[derive(Debug, Parser)]
#[command(name = "hull", version, disable_help_subcommand = true)]
#[command(after_help = "\
Exit codes: 0 done, 1 failed, 2 usage, 3 refused by policy or trust, 4 not found,
5 cannot reach the peer, 125 the VM could not be started.

HULL_HOME holds the local store and the VMs (default: $XDG_DATA_HOME/hull).
HULL_TOKEN_SERVICES names hosts, as HOST[:PORT],..., that see the login of a registry elsewhere if it says so.")]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What hull can do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Pack(pack::PackArgs),
    Import(Box<import::ImportArgs>),
    Convert(convert::ConvertArgs),
    Export(export::ExportArgs),
    Inspect(inspect::InspectArgs),
    History(history::HistoryArgs),
    Images(images::ImagesArgs),
    Tag(tag::TagArgs),
    Rmi(rmi::RmiArgs),
    Push(push::PushArgs),
    Pull(pull::PullArgs),
    Login(login::LoginArgs),
    Logout(logout::LogoutArgs),
    Run(Box<run::RunArgs>),
    Start(start::StartArgs),
    Ps(ps::PsArgs),
    Stop(stop::StopArgs),
    Kill(kill::KillArgs),
    Rm(rm::RmArgs),
    Logs(logs::LogsArgs),
    Console(console::ConsoleArgs),
    Stats(stats::StatsArgs),
    Nbd(nbd::NbdArgs),
    Registry(registry::RegistryArgs),
    Completions(completions::CompletionsArgs),
    #[command(hide = true)]
    Supervise(supervise::SuperviseArgs),
}

/// Runs a command.
pub(crate) fn run(context: &Context, command: Command) -> Result<ExitCode, CommandError> {
    let done = |()| ExitCode::SUCCESS;
    match command {
        Command::Pack(args) => pack::run(context, &args).map(done),
        Command::Import(args) => import::run(context, &args).map(done),
        Command::Convert(args) => convert::run(&args).map(done),
        Command::Export(args) => export::run(context, &args).map(done),
        Command::Inspect(args) => inspect::run(context, &args).map(done),
        Command::History(args) => history::run(&args).map(done),
        Command::Images(args) => images::run(context, &args).map(done),
        Command::Tag(args) => tag::run(context, &args).map(done),
        Command::Rmi(args) => rmi::run(context, &args).map(done),
        Command::Push(args) => push::run(context, &args).map(done),
        Command::Pull(args) => pull::run(context, &args).map(done),
        Command::Login(args) => login::run(args).map(done),
        Command::Logout(args) => logout::run(&args).map(done),
        Command::Run(args) => run::run(context, &args),
        Command::Start(args) => start::run(context, &args),
        Command::Ps(args) => ps::run(context, &args).map(done),
        Command::Stop(args) => stop::run(context, &args).map(done),
        Command::Kill(args) => kill::run(context, &args).map(done),
        Command::Rm(args) => rm::run(context, &args).map(done),
        Command::Logs(args) => logs::run(context, &args).map(done),
        Command::Console(args) => console::run(context, &args).map(done),
        Command::Stats(args) => stats::run(context, &args).map(done),
        Command::Nbd(args) => nbd::run(context, &args).map(done),
        Command::Registry(args) => registry::run(context, args).map(done),
        Command::Completions(args) => {
            completions::run(&args);
            Ok(ExitCode::SUCCESS)
        }
        Command::Supervise(args) => supervise::run(context, &args),
    }
}

/// The VM called `name`, which must run.
fn running(context: &Context, name: &str) -> Result<Vm, CommandError> {
    let vm = context.vms()?.get(name)?;
    if vm.state.status.is_alive() {
        return Ok(vm);
    }
    let status = vm.state.status.as_str();
    let hint = format!("`hull start {name}` starts it; `hull logs {name}` shows what it wrote");
    Err(CommandError::new(Exit::Failed, format_args!("the VM `{name}` is {status}")).hint(hint))
}

/// Asks a VM's supervisor.
fn ask(vm: &Vm, request: &Request) -> Result<Answer, CommandError> {
    control::ask(&vm.folder.control_socket(), request).map_err(|error| {
        let hint = format!("`hull logs --supervisor {}` may say why", vm.spec.name);
        CommandError::from_error(Exit::Failed, error).hint(hint)
    })
}

/// Asks a VM's supervisor to end it. One that has ended by then, whatever ended it, is no error.
fn end(vms: &Vms, vm: &Vm, request: &Request) -> Result<Answer, CommandError> {
    let answered = ask(vm, request);
    match answered {
        Err(_) if !vms.get(&vm.spec.name)?.state.status.is_alive() => Ok(Answer::Ended { by_itself: true }),
        answered => answered,
    }
}
