//! `registry backup`: copy a registry to a folder while it is in use.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use blob_store::{Copied, CopyReport, FolderStorage, Key, Storage};
use indicatif::ProgressBar;
use registry::BackupError;

use super::storage::{Place, StorageArgs, check_present, is_registry, open_alone};
use crate::context::Context;
use crate::error::{CommandError, Exit, OrExit as _};
use crate::text;
use crate::transfer::{block_on, speed};

/// Copy a registry to a folder, also while it is in use
///
/// Users, tags, manifests and blobs, as they are. Done again, it copies only what is new. What was deleted
/// since stays in the copy; open uploads and the quarantine are left out. The copy is a registry's folder:
/// `hull registry restore` puts it anywhere.
#[derive(Debug, clap::Args)]
pub(super) struct BackupArgs {
    /// The folder of the copy: a new one, or that of an earlier copy
    #[arg(long, value_name = "DIR")]
    to: PathBuf,
    #[command(flatten)]
    storage: StorageArgs,
}

pub(super) fn run(context: &Context, args: &BackupArgs) -> Result<(), CommandError> {
    let (_, place) = args.storage.read(context)?;
    let since = Instant::now();
    let copied = block_on(async {
        let from: Arc<dyn Storage> = match &place {
            Place::Bucket(_) => place.open().await?,
            Place::Folder(folder) => {
                check_present(folder)?;
                check_apart(folder, &args.to)?;
                let opened = FolderStorage::open_for_reading(folder).or_exit(Exit::Failed);
                Arc::new(opened.map_err(|error| error.hint("run this as the user that runs the server"))?)
            }
        };
        check_copy(&args.to)?;
        let Some(to) = open_alone(&args.to)? else {
            let message = format!("`{}` is in use by another process", args.to.display());
            return Err(CommandError::new(Exit::Failed, message)
                .hint("a copy that is served is no backup; restore it to another folder and serve that"));
        };
        let bar = Bar::new();
        Ok(registry::backup(from, to, |_: &Key, copied| bar.hear(copied)).await?)
    })??;
    say_copied(&copied, since);
    Ok(())
}

/// Says what was copied.
pub(super) fn say_copied(copied: &CopyReport, since: Instant) {
    text::say(format_args!(
        "Copied {} in {}.",
        speed(copied.copied_bytes, since),
        text::count(copied.copied_keys, "key")
    ));
}

/// Makes sure that a registry is not copied into itself.
fn check_apart(from: &Path, to: &Path) -> Result<(), CommandError> {
    let (Ok(from), Ok(to)) = (from.canonicalize(), to.canonicalize()) else { return Ok(()) };
    match to.starts_with(&from) {
        true => Err(CommandError::new(Exit::Usage, "a registry cannot be copied into its own folder")
            .hint("`--to` names another folder, on another disk if possible")),
        false => Ok(()),
    }
}

/// Makes sure that nothing else lies where the copy is to be.
fn check_copy(to: &Path) -> Result<(), CommandError> {
    let is_free = std::fs::read_dir(to).map_or(true, |mut entries| entries.next().is_none());
    match is_free || is_registry(to) {
        true => Ok(()),
        false => Err(CommandError::new(Exit::Usage, format!("`{}` holds something else", to.display()))
            .hint("`--to` names a new folder, or that of an earlier copy")),
    }
}

/// How far a copy is, for people at a terminal.
#[derive(Debug)]
pub(super) struct Bar(ProgressBar);

impl Bar {
    pub(super) fn new() -> Self {
        let bar = ProgressBar::new_spinner();
        bar.enable_steady_tick(Duration::from_millis(200));
        Self(bar)
    }

    /// One more key is done with.
    pub(super) fn hear(&self, copied: Copied) {
        self.0.inc(1);
        if matches!(copied, Copied::Now { .. }) {
            self.0.set_message(text::count(self.0.position(), "key"));
        }
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

impl From<BackupError> for CommandError {
    fn from(error: BackupError) -> Self {
        let (exit, hint) = match &error {
            BackupError::Nothing => (Exit::NotFound, Some("a registry has a file `layout` in its folder")),
            BackupError::Dangling { .. } => (
                Exit::Failed,
                Some(
                    "a backup that was interrupted, or that took longer than the grace period while much was \
                     deleted, is not whole: do it again",
                ),
            ),
            BackupError::Occupied => {
                (Exit::Usage, Some("restore to a new folder, or to an empty bucket or prefix"))
            }
            BackupError::Copy(_) => (Exit::Failed, Some("what was copied is not copied again: try again")),
            _ => (Exit::Failed, None),
        };
        let error = Self::from_error(exit, error);
        match hint {
            Some(hint) => error.hint(hint),
            None => error,
        }
    }
}
