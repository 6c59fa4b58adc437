//! `pack`: make an appliance from a hull.toml and its disks.

use std::path::PathBuf;

use appliance::Reference;
use packer::{OpenedFolder, open_folder};

use crate::context::Context;
use crate::error::CommandError;
use crate::packing::{PackingArgs, check_tag};
use crate::text;

/// Make an appliance from a hull.toml and its disks
///
/// The result is in the local store under REF. Packing the same again gives the same digests.
#[derive(Debug, clap::Args)]
pub(crate) struct PackArgs {
    /// The folder with hull.toml
    source: PathBuf,
    /// The appliance's name, as `[HOST[:PORT]/]NAME[:TAG]`
    #[arg(long = "tag", short = 't', value_name = "REF")]
    reference: Reference,
    #[command(flatten)]
    packing: PackingArgs,
    /// The largest disk that is accepted, in GiB
    #[arg(long, value_name = "GIB", default_value_t = 64 << 10)]
    max_size: u64,
}

pub(crate) fn run(context: &Context, args: &PackArgs) -> Result<(), CommandError> {
    check_tag(&args.reference)?;
    let store = context.store()?;
    let _hold = store.hold()?;
    let OpenedFolder { appliance, left_out } =
        open_folder(&args.source, args.max_size.saturating_mul(1 << 30))?;
    for (disk, what) in left_out {
        text::say(format_args!("Not packed: {what} of disk {disk}."));
    }
    let packed = args.packing.pack(&appliance, &args.reference, &store)?;
    text::result(packed.index.digest);
    Ok(())
}
