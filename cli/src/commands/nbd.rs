//! `nbd`: offer a disk of an appliance to other programs, without unpacking it.

use std::path::PathBuf;
use std::sync::Arc;

use appliance::Reference;
use packer::Contents;
use vm_runner::nbd::{Export, Exports, Listener};

use crate::context::Context;
use crate::error::{CommandError, Exit};
use crate::text;

/// Offer a disk of an appliance over NBD, read-only, until interrupted
///
/// For instance `qemu-img convert -O raw nbd+unix:///root?socket=SOCKET root.raw`. Every chunk is
/// checked against its digest before it is served.
#[derive(Debug, clap::Args)]
pub(crate) struct NbdArgs {
    /// The appliance, as `[HOST[:PORT]/]NAME[:TAG|@DIGEST]`
    reference: Reference,
    /// The disk's name [default: all disks]
    #[arg(long)]
    disk: Option<String>,
    /// Where to listen; must not exist
    #[arg(long)]
    socket: PathBuf,
}

pub(crate) fn run(context: &Context, args: &NbdArgs) -> Result<(), CommandError> {
    let store = context.store()?;
    let _hold = store.hold()?;
    let contents = Contents::read(&store, &store.resolve(&args.reference)?)?;
    let platform = contents.platform(&crate::host::platform())?;
    let names = platform.manifest.disks.iter().map(|disk| disk.name.as_str());
    let names: Vec<&str> = match &args.disk {
        Some(name) => vec![name],
        None => names.collect(),
    };
    let mut exports = Vec::new();
    for name in &names {
        let disk = registry_client::open_disk(&store, &platform.manifest, name)?;
        exports.push(Export::new(*name, Arc::from(disk), |failure| {
            text::say(format_args!(
                "cannot read {} at byte {}: {}",
                failure.export, failure.offset, failure.error
            ));
        }));
    }
    let mut signals =
        signal_hook::iterator::Signals::new([signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM])?;
    let listener = Listener::bind(&args.socket, Exports::new(exports)).map_err(|error| {
        CommandError::from_error(Exit::Failed, error).hint("`--socket` is a path where nothing is yet")
    })?;
    for name in names {
        text::result(format_args!("nbd+unix:///{name}?socket={}", args.socket.display()));
    }
    signals.forever().next();
    drop(listener);
    Ok(())
}
