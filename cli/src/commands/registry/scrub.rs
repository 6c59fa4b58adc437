//! `registry scrub`: read everything again, and find what the disk has lost.

use std::num::NonZeroU64;

use registry::Mode;

use super::storage::{Absent, StorageArgs, act};
use crate::context::Context;
use crate::error::{CommandError, Exit};
use crate::text;

/// Read everything again, and take away what is damaged
///
/// Compares each blob and manifest with its digest. What is damaged goes to the folder `quarantine`, and
/// clients are told that it is not there: pushing it again heals it. Clients may push and pull meanwhile.
#[derive(Debug, clap::Args)]
pub(super) struct ScrubArgs {
    #[command(flatten)]
    storage: StorageArgs,
    /// Take nothing away, and say what is damaged
    #[arg(long)]
    dry_run: bool,
    /// Read no faster than this, in MiB per second
    #[arg(long, value_name = "MIB_PER_S")]
    rate: Option<NonZeroU64>,
}

pub(super) fn run(context: &Context, args: &ScrubArgs) -> Result<(), CommandError> {
    let mode = if args.dry_run { Mode::DryRun } else { Mode::Collect };
    let rate = args.rate.map(|rate| rate.get().saturating_mul(1 << 20));
    let scrubbed =
        act(context, &args.storage, Absent::Error, async |operator| Ok(operator.scrub(mode, rate).await?))?;
    for damaged in &scrubbed.damaged {
        text::result(format_args!("{} {}: {}", damaged.digest, damaged.key, text::plain(&damaged.problem)));
    }
    for failed in &scrubbed.failed {
        text::result(text::plain(failed));
    }
    let (objects, bytes) = (text::count(scrubbed.objects, "object"), text::size(scrubbed.bytes));
    text::say(format_args!("Read {bytes} in {objects}."));
    let stuck = scrubbed.damaged.iter().filter(|damaged| damaged.lacks_space).count() as u64;
    match (scrubbed.damaged.len() as u64, mode) {
        (0, _) => match scrubbed.failed.len() as u64 {
            0 => Ok(()),
            number => {
                let message = format!("{} could not be read this time", text::count(number, "object"));
                Err(CommandError::new(Exit::Failed, message)
                    .hint("the storage did not answer for them; see its logs, and scrub again"))
            }
        },
        (number, _) if stuck > 0 => {
            let number = text::count(number, "object");
            let message =
                format!("{number} damaged; there is no space in the quarantine for {stuck} of them");
            Err(CommandError::new(Exit::Failed, message)
                .hint("make space, for example with `hull registry gc`, and scrub again"))
        }
        (number, Mode::Collect) => {
            let message = format!("{} damaged, now in the quarantine", text::count(number, "object"));
            Err(CommandError::new(Exit::Failed, message)
                .hint("push what is listed again, or restore it from a backup"))
        }
        (number, Mode::DryRun) => {
            let message = format!("{} damaged", text::count(number, "object"));
            Err(CommandError::new(Exit::Failed, message).hint("without `--dry-run` they are taken away"))
        }
    }
}
