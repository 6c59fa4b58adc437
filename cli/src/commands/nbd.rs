//! `nbd`: offer a disk, of an appliance or in an image file, to other programs, without unpacking it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use appliance::Reference;
use packer::Contents;
use vm_runner::nbd::{Export, Exports, Listener, ReadFailure};

use crate::context::Context;
use crate::error::{CommandError, Exit};
use crate::image::ImageArgs;
use crate::text;

/// Offer a disk over NBD, read-only, until interrupted
///
/// For instance `qemu-img convert -O raw nbd+unix:///root?socket=SOCKET root.raw`. Every chunk of an appliance
/// is checked against its digest before it is served. An image file is read by hull alone, so that other
/// programs can use one from a stranger.
#[derive(Debug, clap::Args)]
pub(crate) struct NbdArgs {
    /// The appliance, as `[HOST[:PORT]/]NAME[:TAG|@DIGEST]`
    #[arg(required_unless_present = "image", conflicts_with_all = ["image", "ImageArgs"])]
    reference: Option<Reference>,
    /// The disk's name [default: all disks]
    #[arg(long, value_name = "NAME", conflicts_with = "image")]
    disk: Option<String>,
    /// An image file instead; it is offered as `disk`
    #[arg(long, value_name = "FILE")]
    image: Option<PathBuf>,
    #[command(flatten)]
    image_args: ImageArgs,
    /// Where to listen; must not exist
    #[arg(long, value_name = "PATH")]
    socket: PathBuf,
}

pub(crate) fn run(context: &Context, args: &NbdArgs) -> Result<(), CommandError> {
    match (&args.image, &args.reference) {
        (Some(image), _) => serve_image(image, args),
        (None, Some(reference)) => serve_appliance(context, reference, args),
        (None, None) => unreachable!("clap asks for one of them"),
    }
}

fn serve_appliance(context: &Context, reference: &Reference, args: &NbdArgs) -> Result<(), CommandError> {
    let store = context.store()?;
    let _hold = store.hold()?;
    let contents = Contents::read(&store, &store.resolve(reference)?)?;
    let platform = contents.platform(&crate::host::platform())?;
    let names = platform.manifest.disks.iter().map(|disk| disk.name.as_str());
    let names: Vec<&str> = match &args.disk {
        Some(name) => vec![name],
        None => names.collect(),
    };
    let mut exports = Vec::new();
    for name in names {
        let disk = registry_client::open_disk(&store, &platform.manifest, name)?;
        exports.push(Export::new(name, Arc::from(disk), report));
    }
    serve(exports, &args.socket)
}

fn serve_image(image: &Path, args: &NbdArgs) -> Result<(), CommandError> {
    let image = args.image_args.open(image)?;
    for left_out in &image.left_out {
        text::say(format_args!("Left out: {left_out}."));
    }
    serve(vec![Export::new("disk", Arc::from(image.disk), report)], &args.socket)
}

fn report(failure: &ReadFailure<'_>) {
    let error = text::chain_of(failure.error);
    text::say(format_args!("cannot read {} at byte {}: {error}", failure.export, failure.offset));
}

/// Serves until a signal asks to end.
fn serve(exports: Vec<Export>, socket: &Path) -> Result<(), CommandError> {
    let names: Vec<String> = exports.iter().map(|export| export.name().to_owned()).collect();
    let mut signals =
        signal_hook::iterator::Signals::new([signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM])?;
    let listener = Listener::bind(socket, Exports::new(exports)).map_err(|error| {
        CommandError::from_error(Exit::Failed, error).hint("`--socket` is a path where nothing is yet")
    })?;
    for name in names {
        text::result(format_args!("nbd+unix:///{name}?socket={}", socket.display()));
    }
    signals.forever().next();
    drop(listener);
    Ok(())
}
