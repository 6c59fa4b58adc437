//! `registry restore`: make a registry of a backup.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use blob_store::{FolderStorage, Key, Storage};
use registry::Completeness;

use super::backup::{Bar, say_copied};
use super::storage::{Place, StorageArgs, check_present, open_alone};
use crate::context::Context;
use crate::error::{CommandError, Exit, OrExit as _};
use crate::text;
use crate::transfer::block_on;

/// Make a registry of a backup, in a new folder or an empty bucket
///
/// Where it is interrupted, doing it again goes on. Until it is over, no tag leads to what is not there yet.
#[derive(Debug, clap::Args)]
pub(super) struct RestoreArgs {
    /// The folder of the backup
    #[arg(long, value_name = "DIR")]
    from: PathBuf,
    /// Take what there is of a backup that was interrupted
    #[arg(long)]
    incomplete: bool,
    #[command(flatten)]
    storage: StorageArgs,
}

pub(super) fn run(context: &Context, args: &RestoreArgs) -> Result<(), CommandError> {
    let (_, place) = args.storage.read(context)?;
    let completeness = if args.incomplete { Completeness::Partial } else { Completeness::Whole };
    let since = Instant::now();
    let copied = block_on(async {
        check_present(&args.from)?;
        let from: Arc<dyn Storage> =
            Arc::new(FolderStorage::open_for_reading(&args.from).or_exit(Exit::Failed)?);
        let to = match &place {
            Place::Bucket(_) => place.open().await?,
            Place::Folder(folder) => open_alone(folder)?.ok_or_else(|| {
                let message = format!("`{}` is in use by another process", folder.display());
                CommandError::new(Exit::Failed, message).hint("stop the server, and restore to a new folder")
            })?,
        };
        let bar = Bar::new();
        Ok::<_, CommandError>(
            registry::restore(from, to, completeness, |_: &Key, copied| bar.hear(copied)).await?,
        )
    })??;
    say_copied(&copied, since);
    text::say(format_args!("{place} can be served."));
    Ok(())
}
