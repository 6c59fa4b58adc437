//! `history`: what a tag in a registry has named, when, and by whom.

use appliance::Reference;
use registry_client::{HistoryError, TagEntry};
use serde_json::{Value, json};

use crate::error::{CommandError, Exit};
use crate::text;
use crate::transfer::{TransferArgs, block_on, exit_of};

/// Show what a tag has named, when it was moved and by whom
///
/// Registries of hull keep this; others do not. The newest comes first. Every digest can still be pulled
/// as HOST/NAME@DIGEST, until nothing refers to it and garbage collection has taken it away.
#[derive(Debug, clap::Args)]
pub(crate) struct HistoryArgs {
    /// The tag, as `HOST[:PORT]/NAME[:TAG]`
    reference: Reference,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    transfer: TransferArgs,
}

pub(crate) fn run(args: &HistoryArgs) -> Result<(), CommandError> {
    let client = args.transfer.client()?;
    let history = block_on(client.history(&args.reference))??;
    if args.json {
        let entries: Vec<Value> = history.iter().map(entry_json).collect();
        text::json(&json!({ "reference": args.reference, "history": entries }));
        return Ok(());
    }
    let row = |entry: TagEntry| {
        let digest = entry.digest.map_or_else(|| "deleted".to_owned(), |digest| digest.to_string());
        vec![time(entry.time), entry.by, digest]
    };
    text::table(&["WHEN", "BY", "DIGEST"], history.into_iter().map(row).collect());
    Ok(())
}

fn entry_json(entry: &TagEntry) -> Value {
    json!({ "time": time(entry.time), "by": entry.by, "digest": entry.digest })
}

/// As RFC 3339 has it, in UTC.
fn time(seconds: u64) -> String {
    // Whatever the registry says, years have four digits.
    let seconds = seconds.min(253_402_300_799);
    let (hours, minutes) = (seconds / 3600 % 24, seconds / 60 % 60);
    format!("{}T{hours:02}:{minutes:02}:{:02}Z", vm_runner::day_of(seconds), seconds % 60)
}

impl From<HistoryError> for CommandError {
    fn from(error: HistoryError) -> Self {
        match error {
            HistoryError::NoRegistry { .. } => Self::from_error(Exit::Usage, error)
                .hint("name the registry: `hull history HOST[:PORT]/NAME:TAG`"),
            HistoryError::NoTag { .. } => Self::from_error(Exit::Usage, error).hint("name a tag instead"),
            HistoryError::NotKept { .. } => Self::from_error(Exit::Failed, error)
                .hint("`hull registry serve` runs a registry that keeps it"),
            HistoryError::Request(error) => {
                let (exit, hint) = exit_of(Some(&error));
                let error = Self::from_error(exit, error);
                match hint {
                    Some(hint) => error.hint(hint),
                    None => error,
                }
            }
            error => Self::from_error(Exit::Failed, error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_as_rfc_3339_has_them() {
        let check = |seconds, want| assert_eq!(time(seconds), want);
        check(0, "1970-01-01T00:00:00Z");
        check(1_709_251_199, "2024-02-29T23:59:59Z");
        check(u64::MAX, "9999-12-31T23:59:59Z");
    }
}
