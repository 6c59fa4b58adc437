//! `registry gc`: delete what nothing refers to.

use registry::Mode;

use super::log::garbage_sentence;
use super::storage::{Absent, StorageArgs, act};
use crate::context::Context;
use crate::error::{CommandError, Exit};
use crate::text;

/// Delete what nothing refers to
///
/// Takes what the rules let go, then the blobs that no manifest names. Clients may push and pull
/// meanwhile, and nothing that they used within the grace period (24 h unless registry.toml says
/// otherwise) is deleted. A server does this by itself, too.
#[derive(Debug, clap::Args)]
pub(super) struct GcArgs {
    #[command(flatten)]
    storage: StorageArgs,
    /// Delete nothing, and say what would be
    #[arg(long)]
    dry_run: bool,
}

pub(super) fn run(context: &Context, args: &GcArgs) -> Result<(), CommandError> {
    let mode = if args.dry_run { Mode::DryRun } else { Mode::Collect };
    let collected =
        act(context, &args.storage, Absent::Error, async |operator| Ok(operator.collect(mode).await?))?;
    let begin = match mode {
        Mode::Collect => "Garbage collection",
        Mode::DryRun => "Nothing was changed. Garbage collection would have",
    };
    text::result(format_args!("{begin} {}.", garbage_sentence(&collected)));
    for retired in &collected.retired {
        text::result(format_args!("{}: {}", retired.name, text::plain(&retired.reason)));
    }
    for damaged in &collected.damaged {
        text::result(text::plain(damaged));
    }
    match collected.damaged.len() as u64 {
        0 => Ok(()),
        number => {
            let message =
                format!("{}; nothing more was collected there", text::count(number, "damaged record"));
            Err(CommandError::new(Exit::Failed, message).hint(
                "`hull registry scrub` takes away what its digest shows to be damaged; push that again",
            ))
        }
    }
}
