//! `push`: copy an appliance from the local store to the registry in its name.

use std::time::Instant;

use appliance::Reference;

use crate::context::Context;
use crate::error::CommandError;
use crate::text;
use crate::transfer::{Bar, TransferArgs, block_on, speed};

/// Copy an appliance from the local store to the registry in its name
///
/// Blobs that the registry has already are not sent again.
#[derive(Debug, clap::Args)]
pub(crate) struct PushArgs {
    /// The appliance, as `HOST[:PORT]/NAME[:TAG]`
    reference: Reference,
    #[command(flatten)]
    transfer: TransferArgs,
}

pub(crate) fn run(context: &Context, args: &PushArgs) -> Result<(), CommandError> {
    let store = context.store()?;
    let _hold = store.hold()?;
    let client = args.transfer.client()?;
    let bar = Bar::new();
    let start = Instant::now();
    let pushed = block_on(client.push(&args.reference, &store, &bar))?;
    bar.finish();
    let pushed = pushed?;
    text::say(format_args!(
        "Sent {}, {}; {} were there.",
        text::count(pushed.uploaded_blobs as u64, "blob"),
        speed(pushed.uploaded_bytes, start),
        text::size(pushed.present_bytes)
    ));
    text::result(pushed.digest);
    Ok(())
}
