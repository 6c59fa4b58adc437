//! `logout`: forget the login for a registry.

use crate::error::{CommandError, Exit, OrExit as _};
use crate::text;

/// Forget the login for a registry
#[derive(Debug, clap::Args)]
pub(crate) struct LogoutArgs {
    /// The registry, as HOST[:PORT]
    registry: String,
}

pub(crate) fn run(args: &LogoutArgs) -> Result<(), CommandError> {
    let file = super::login::file()?;
    if file.forget(&args.registry).or_exit(Exit::Failed)? {
        text::say(format_args!("The login for {} is forgotten.", args.registry));
    } else {
        text::say(format_args!("There was no login for {}.", args.registry));
    }
    Ok(())
}
