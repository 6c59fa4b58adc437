//! `tag`: give an appliance in the local store another name.

use appliance::{Reference, Version};

use crate::context::Context;
use crate::error::{CommandError, Exit};
use crate::text;

/// Give an appliance in the local store another name
#[derive(Debug, clap::Args)]
pub(crate) struct TagArgs {
    /// The appliance, as `[HOST[:PORT]/]NAME[:TAG|@DIGEST]`
    reference: Reference,
    /// Its further name, as `[HOST[:PORT]/]NAME[:TAG]`
    new: Reference,
}

pub(crate) fn run(context: &Context, args: &TagArgs) -> Result<(), CommandError> {
    if matches!(args.new.version(), Version::Digest(_)) {
        return Err(CommandError::new(Exit::Usage, "a digest cannot be given to an appliance, only a tag")
            .hint("write it as NAME:TAG"));
    }
    let store = context.store()?;
    let _hold = store.hold()?;
    let digest = store.resolve(&args.reference)?;
    store.tag(&args.new, &digest)?;
    text::say(format_args!("{} is now also {}", args.reference, args.new));
    Ok(())
}
