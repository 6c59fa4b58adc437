//! `registry`: a registry of one's own. One file per subcommand; what they share is in
//! `config`, `storage` and `accounts`; `log` and `tls_files` are `serve`'s.

mod accounts;
mod backup;
mod config;
mod gc;
mod log;
mod restore;
mod scrub;
mod serve;
mod storage;
mod tls_files;
mod token;
mod user;

use clap::Subcommand;

use crate::context::Context;
use crate::error::CommandError;

/// Run a registry of your own
///
/// What changes a registry works beside its server and without one; `--data` and `--config` say which
/// registry is meant.
#[derive(Debug, clap::Args)]
pub(crate) struct RegistryArgs {
    #[command(subcommand)]
    command: RegistryCommand,
}

/// What can be done with a registry.
#[derive(Debug, Subcommand)]
enum RegistryCommand {
    Serve(serve::ServeArgs),
    User(user::UserArgs),
    Token(token::TokenArgs),
    Gc(gc::GcArgs),
    Scrub(scrub::ScrubArgs),
    Backup(backup::BackupArgs),
    Restore(restore::RestoreArgs),
}

/// Runs `registry`.
pub(crate) fn run(context: &Context, args: RegistryArgs) -> Result<(), CommandError> {
    match args.command {
        RegistryCommand::Serve(args) => serve::run(context, args),
        RegistryCommand::User(args) => user::run(context, args),
        RegistryCommand::Token(args) => token::run(context, args),
        RegistryCommand::Gc(args) => gc::run(context, &args),
        RegistryCommand::Scrub(args) => scrub::run(context, &args),
        RegistryCommand::Backup(args) => backup::run(context, &args),
        RegistryCommand::Restore(args) => restore::run(context, &args),
    }
}
