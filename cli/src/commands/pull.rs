//! `pull`: copy an appliance from a registry into the local store.

use std::time::Instant;

use appliance::Reference;

use crate::context::Context;
use crate::error::CommandError;
use crate::text;
use crate::transfer::{Bar, TransferArgs, block_on, speed};

/// Copy an appliance from a registry into the local store
///
/// Blobs that are here already are not fetched again, and a pull that was cut goes on where it
/// stopped. Nothing becomes visible to `run` before all of it has been checked.
#[derive(Debug, clap::Args)]
pub(crate) struct PullArgs {
    /// The appliance, as `HOST[:PORT]/NAME[:TAG|@DIGEST]`
    reference: Reference,
    /// The platform, where the appliance is there for several
    #[arg(long, value_name = "OS/ARCH")]
    platform: Option<String>,
    #[command(flatten)]
    transfer: TransferArgs,
}

pub(crate) fn run(context: &Context, args: &PullArgs) -> Result<(), CommandError> {
    let platform = args.platform.clone().unwrap_or_else(crate::host::platform);
    fetch(context, &args.reference, &platform, &args.transfer)
}

/// Pulls for this host, as `run` does.
pub(super) fn pull(context: &Context, reference: &Reference) -> Result<(), CommandError> {
    fetch(context, reference, &crate::host::platform(), &TransferArgs::default())
}

fn fetch(
    context: &Context,
    reference: &Reference,
    platform: &str,
    transfer: &TransferArgs,
) -> Result<(), CommandError> {
    let store = context.store()?;
    let _hold = store.hold()?;
    let client = transfer.client()?;
    let bar = Bar::new();
    let start = Instant::now();
    let pulled = block_on(client.pull(reference, &store, platform, &bar))?;
    bar.finish();
    let pulled = pulled?;
    if pulled.fetched_blobs == 0 {
        text::say(format_args!("{reference} is up to date."));
    } else {
        let rebuilt = match pulled.rebuilt_bytes {
            0 => String::new(),
            bytes => format!("; {} were rebuilt from what is here", text::size(bytes)),
        };
        text::say(format_args!(
            "Fetched {}, {}; {} were here{rebuilt}.",
            text::count(pulled.fetched_blobs as u64, "blob"),
            speed(pulled.fetched_bytes, start),
            text::size(pulled.present_bytes)
        ));
    }
    text::result(pulled.index);
    Ok(())
}
