//! Packing into the local store: the options, the progress and the report that `pack` and `import` share.

use std::path::PathBuf;
use std::time::Instant;

use appliance::{Digest, Reference, Version};
use blob_store::LocalStore;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use packer::disks::WriteError;
use packer::{
    Appliance, ArchiveError, FolderError, Missing, PackError, PackOptions, PackRequest, Packed, write_archive,
};

use crate::error::{CommandError, Exit};
use crate::image::{IMAGES, LARGER};
use crate::target::OUTPUT;
use crate::text::{self, size};

/// How an appliance is packed.
#[derive(Debug, clap::Args)]
pub(crate) struct PackingArgs {
    /// An earlier version: what it has already is not packed again [default: the newest here of that name]
    #[arg(long, value_name = "REF")]
    base: Option<Reference>,
    /// Pack everything anew
    #[arg(long, conflicts_with = "base")]
    no_base: bool,
    /// Also write the appliance to this file, as an OCI archive
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// Refuses a reference that no new appliance can be given.
pub(crate) fn check_tag(reference: &Reference) -> Result<(), CommandError> {
    match reference.version() {
        Version::Tag(_) => Ok(()),
        Version::Digest(_) => {
            let message = "a digest cannot be given to an appliance, only a tag";
            Err(CommandError::new(Exit::Usage, message).hint("write it as NAME:TAG"))
        }
    }
}

impl PackingArgs {
    /// Packs `appliance` into `store`, which the caller holds, and gives it the name `reference`.
    pub(crate) fn pack(
        &self,
        appliance: &Appliance,
        reference: &Reference,
        store: &LocalStore,
    ) -> Result<Packed, CommandError> {
        let start = Instant::now();
        let request = PackRequest { base: self.base(store, reference)?, options: PackOptions::default() };
        let bar = Bar::new();
        let packed = appliance.pack(&request, store, &bar);
        bar.finish();
        let packed = packed?;
        report(&packed, start);
        if let Some(output) = &self.output {
            let bytes = write_archive(store, reference, &packed.index.digest, output)?;
            let output = text::plain(&output.display().to_string());
            text::say(format_args!("Wrote {output} ({}).", size(bytes)));
        }
        // Last, so that a failure leaves every name as it was.
        store.tag(reference, &packed.index.digest)?;
        Ok(packed)
    }

    /// The version whose packs are used again: the one that was named, or the newest of the same name.
    fn base(&self, store: &LocalStore, reference: &Reference) -> Result<Option<Digest>, CommandError> {
        if self.no_base {
            return Ok(None);
        }
        if let Some(base) = &self.base {
            return Ok(Some(store.resolve(base)?));
        }
        let mut versions = store.references()?;
        versions.retain(|tagged| tagged.reference.repository() == reference.repository());
        Ok(versions.into_iter().max_by_key(|tagged| tagged.since).map(|tagged| tagged.digest))
    }
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
#[derive(Debug)]
pub(crate) struct Bar(ProgressBar);

impl Bar {
    /// On stderr, where that is a terminal.
    pub(crate) fn new() -> Self {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        let style = "{prefix} {bar:30} {binary_bytes}/{binary_total_bytes}  {binary_bytes_per_sec}";
        bar.set_style(ProgressStyle::with_template(style).expect("the template is right"));
        Self(bar)
    }

    /// Takes the bar away.
    pub(crate) fn finish(&self) {
        self.0.finish_and_clear();
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

    fn prepared(&self, name: &str, done_bytes: u64, size_bytes: u64) {
        self.packed(&text::plain(name), done_bytes, size_bytes);
    }
}

impl From<FolderError> for CommandError {
    fn from(error: FolderError) -> Self {
        match error {
            FolderError::NoHullToml { .. } => Self::from_error(Exit::NotFound, error)
                .hint("`hull pack DIR` expects a hull.toml in DIR; docs/hull-toml.md shows one"),
            FolderError::HullToml { .. } | FolderError::NotText { .. } => {
                Self::from_error(Exit::Usage, error).hint("docs/hull-toml.md has every key")
            }
            FolderError::Named { .. } => Self::from_error(Exit::Usage, error)
                .hint("what hull.toml names is in its folder, or in a folder inside that"),
            FolderError::Image { .. } if error.is_too_large() => {
                Self::from_error(Exit::Failed, error).hint(LARGER)
            }
            FolderError::Image { .. } => {
                let hint = error.missing().map_or(IMAGES, |missing| match missing {
                    Missing::Backing => "`backing = [\"FILE\"]` in its [[disk]] names the image below it",
                    Missing::Parts => "`parts = \"DIR\"` in its [[disk]] names the folder that they are in",
                });
                Self::from_error(Exit::Failed, error).hint(hint)
            }
            error => Self::from_error(Exit::Failed, error),
        }
    }
}

impl From<PackError> for CommandError {
    fn from(error: PackError) -> Self {
        match error {
            PackError::Write(WriteError::Read { .. }) => Self::from_error(Exit::Failed, error).hint(IMAGES),
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
            error => Self::at_output(error, OUTPUT),
        }
    }
}
