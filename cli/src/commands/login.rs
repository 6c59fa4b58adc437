//! `login`: sign in to a registry.

use registry_client::credentials::{Credential, CredentialFile, Secret};
use registry_client::{LoginError, RequestError};

use crate::environment;
use crate::error::{CommandError, Exit};
use crate::prompt::{ask, ask_secret, read_line};
use crate::text;
use crate::transfer::{TransferArgs, block_on};

/// Sign in to a registry
///
/// The login is checked, then kept where docker keeps its own, with its credential helper if it has
/// one.
#[derive(Debug, clap::Args)]
pub(crate) struct LoginArgs {
    /// The registry, as HOST[:PORT]
    registry: String,
    /// The user
    #[arg(long, short)]
    username: Option<String>,
    /// Read the password from stdin
    #[arg(long)]
    password_stdin: bool,
    #[command(flatten)]
    transfer: TransferArgs,
}

pub(crate) fn run(args: LoginArgs) -> Result<(), CommandError> {
    let user = match args.username {
        Some(user) => user,
        None if args.password_stdin => {
            return Err(CommandError::new(Exit::Usage, "`--password-stdin` needs `--username`"));
        }
        None => ask("Username: ")?,
    };
    let password = if args.password_stdin { read_line()? } else { ask_secret("Password: ")? };
    let credential = Credential::Password { user, password: Secret::new(password) };
    let file = file()?;
    let client = args.transfer.client()?;
    match block_on(client.login(&args.registry, &credential, &file))? {
        Ok(()) => {}
        Err(LoginError::Request(error @ RequestError::LoginRefused { .. })) => {
            return Err(
                CommandError::from_error(Exit::Refused, error).hint("check the user and the password")
            );
        }
        Err(LoginError::Request(error)) => return Err(error.into()),
        Err(error) => return Err(CommandError::from_error(Exit::Failed, error)),
    }
    text::say(format_args!("Signed in to {}; the login is in {}.", args.registry, file.path().display()));
    Ok(())
}

/// docker's file for logins.
pub(super) fn file() -> Result<CredentialFile, CommandError> {
    environment::docker_config().map(CredentialFile::new).ok_or_else(|| {
        CommandError::new(Exit::Usage, "there is no home folder to keep logins in").hint("set DOCKER_CONFIG")
    })
}
