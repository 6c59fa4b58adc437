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
    if scrubbed.is_incomplete {
        text::say(format_args!("It ended there, since nothing could be read any more."));
    }
    let stuck = scrubbed.damaged.iter().find_map(|damaged| damaged.stays.as_ref());
    let damaged = format!("{} damaged", text::count(scrubbed.damaged.len() as u64, "object"));
    let failed = format!("{} could not be read", text::count(scrubbed.failed.len() as u64, "object"));
    let found = match (scrubbed.damaged.is_empty(), scrubbed.failed.is_empty()) {
        (true, true) => return Ok(()),
        (true, false) => {
            return Err(CommandError::new(Exit::Failed, failed)
                .hint("the storage did not answer for them; see its logs, and scrub again"));
        }
        (false, true) => damaged,
        (false, false) => format!("{failed}, and {damaged}"),
    };
    Err(match (stuck, mode) {
        (Some(reason), _) => {
            let message =
                format!("{found}; not all could be moved to the quarantine: {}", text::plain(reason));
            CommandError::new(Exit::Failed, message)
                .hint("make space, for example with `hull registry gc`, or mend the disk, and scrub again")
        }
        (None, Mode::Collect) => CommandError::new(Exit::Failed, format!("{found}, now in the quarantine"))
            .hint("push what is listed again, or restore it from a backup"),
        (None, Mode::DryRun) => {
            CommandError::new(Exit::Failed, found).hint("without `--dry-run` what is damaged is taken away")
        }
    })
}
