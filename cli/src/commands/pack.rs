//! `pack`: make an appliance from a `hull.toml` and its disks.

use std::path::PathBuf;
use std::time::Instant;

use appliance::{Digest, Reference, Version};
use blob_store::LocalStore;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use packer::disks::WriteError;
use packer::{ArchiveError, PackError, PackOptions, PackRequest, Packed, pack, write_archive};

use crate::context::Context;
use crate::error::{CommandError, Exit};
use crate::text::{self, size};

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
    /// An earlier version: what it has already is not packed again [default: the newest here of that name]
    #[arg(long, value_name = "REF")]
    base: Option<Reference>,
    /// Pack everything anew
    #[arg(long, conflicts_with = "base")]
    no_base: bool,
    /// Also write the appliance to this file, as an OCI archive
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// The largest disk that is accepted, in GiB
    #[arg(long, value_name = "GIB", default_value_t = 64 << 10)]
    max_size: u64,
}

pub(crate) fn run(context: &Context, args: PackArgs) -> Result<(), CommandError> {
    if matches!(args.reference.version(), Version::Digest(_)) {
        return Err(CommandError::new(Exit::Usage, "a digest cannot be given to an appliance, only a tag")
            .hint("write it as NAME:TAG"));
    }
    let store = context.store()?;
    let _hold = store.hold()?;
    let start = Instant::now();
    let request = PackRequest {
        source: &args.source,
        base: base(&store, &args)?,
        max_disk_bytes: args.max_size.saturating_mul(1 << 30),
        options: PackOptions::default(),
    };
    let bar = Bar::new();
    let packed = pack(&request, &store, &bar);
    bar.0.finish_and_clear();
    let packed = packed?;
    report(&packed, start);
    if let Some(output) = &args.output {
        let bytes = write_archive(&store, &args.reference, &packed.index.digest, output)?;
        text::say(format_args!("Wrote {} ({}).", text::plain(&output.display().to_string()), size(bytes)));
    }
    // Last, so that a failure leaves every name as it was.
    store.tag(&args.reference, &packed.index.digest)?;
    text::result(packed.index.digest);
    Ok(())
}

/// The version whose packs are used again: the one that was named, or the newest of the same name.
fn base(store: &LocalStore, args: &PackArgs) -> Result<Option<Digest>, CommandError> {
    if args.no_base {
        return Ok(None);
    }
    if let Some(base) = &args.base {
        return Ok(Some(store.resolve(base)?));
    }
    let mut versions = store.references()?;
    versions.retain(|tagged| tagged.reference.repository() == args.reference.repository());
    Ok(versions.into_iter().max_by_key(|tagged| tagged.since).map(|tagged| tagged.digest))
}

fn report(packed: &Packed, start: Instant) {
    let found = &packed.disks.statistics;
    text::say(format_args!(
        "Packed {} of disks, {} of it data, in {}.",
        size(found.disk_bytes),
        size(found.data_bytes),
        text::duration(start.elapsed())
    ));
    if found.base_chunks > 0 {
        text::say(format_args!(
            "{} of {} were in the base already ({}).",
            found.base_chunks,
            text::count(found.chunks, "chunk"),
            size(found.base_bytes)
        ));
    }
    if found.damaged_base_frames > 0 {
        text::say(format_args!(
            "{} of the base were damaged; what they held was packed anew.",
            text::count(found.damaged_base_frames, "frame")
        ));
    }
    if found.repeated_chunks > 0 {
        text::say(format_args!(
            "{} of them repeated others ({}).",
            text::count(found.repeated_chunks, "chunk"),
            size(found.repeated_bytes)
        ));
    }
    text::say(format_args!("{}, {}.", text::count(found.new_packs, "new pack"), size(found.new_pack_bytes)));
}

/// A bar for each disk in turn.
struct Bar(ProgressBar);

impl Bar {
    /// On stderr, where that is a terminal.
    fn new() -> Self {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        let style = "{prefix} {bar:30} {binary_bytes}/{binary_total_bytes}  {binary_bytes_per_sec}";
        bar.set_style(ProgressStyle::with_template(style).expect("the template is right"));
        Self(bar)
    }
}

impl packer::Progress for Bar {
    fn packed(&self, name: &str, done_bytes: u64, size_bytes: u64) {
        if self.0.prefix() != name {
            self.0.set_prefix(name.to_owned());
        }
        self.0.set_length(size_bytes);
        self.0.set_position(done_bytes);
    }
}

impl From<PackError> for CommandError {
    fn from(error: PackError) -> Self {
        match error {
            PackError::NoHullToml { .. } => Self::from_error(Exit::NotFound, error)
                .hint("`hull pack DIR` expects a hull.toml in DIR; docs/hull-toml.md shows one"),
            PackError::HullToml { .. } | PackError::NotText { .. } => {
                Self::from_error(Exit::Usage, error).hint("docs/hull-toml.md has every key")
            }
            PackError::Source { .. } => Self::from_error(Exit::Usage, error)
                .hint("a source is a file in the folder of hull.toml, or in a folder inside it"),
            PackError::Image { .. } if error.is_too_large() => {
                Self::from_error(Exit::Failed, error).hint("`--max-size` accepts larger disks")
            }
            PackError::Image { .. } | PackError::Write(WriteError::Read { .. }) => Self::from_error(
                Exit::Failed,
                error,
            )
            .hint(
                "docs/hull-toml.md says which images are read; do not give a stranger's to tools that guess",
            ),
            PackError::Base(_)
            | PackError::BaseContents(_)
            | PackError::Write(WriteError::ReadBase { .. }) => {
                Self::from_error(Exit::Failed, error).hint("`--no-base` packs everything anew")
            }
            PackError::Write(WriteError::Store(error)) | PackError::Store(error) => error.into(),
            error => Self::from_error(Exit::Failed, error),
        }
    }
}

impl From<ArchiveError> for CommandError {
    fn from(error: ArchiveError) -> Self {
        match error {
            ArchiveError::Contents(error) => error.into(),
            ArchiveError::Store(error) => error.into(),
            error @ ArchiveError::NotAFile { .. } => Self::from_error(Exit::Usage, error)
                .hint("`--output` names a file that is there or is to be made"),
            error => Self::from_error(Exit::Failed, error)
                .hint("`--output` names a file, in a folder that is there and may be written to"),
        }
    }
}
