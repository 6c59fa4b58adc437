//! `stats`: how busy a VM is, and what its firewall let through and dropped.

use serde_json::json;
use vm_runner::PublishedStats;
use vm_runner::control::{Answer, Request};

use crate::context::Context;
use crate::error::{CommandError, Exit};
use crate::text;

/// Show how busy a VM is, and what its firewall counted
#[derive(Debug, clap::Args)]
pub(crate) struct StatsArgs {
    /// The VM's name
    name: String,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(context: &Context, args: &StatsArgs) -> Result<(), CommandError> {
    let vm = super::running(context, &args.name)?;
    let Answer::Stats(stats) = super::ask(&vm, &Request::Stats)? else {
        return Err(CommandError::new(Exit::Failed, "the VM's supervisor answered something else"));
    };
    if args.json {
        text::json(&json!(stats));
        return Ok(());
    }
    text::result(format_args!(
        "Processor time {}, memory {}",
        text::duration(std::time::Duration::from_millis(stats.cpu_ms)),
        text::size(stats.memory_bytes)
    ));
    let disks = stats
        .disks
        .into_iter()
        .map(|disk| vec![disk.name, text::size(disk.read_bytes), text::size(disk.written_bytes)]);
    text::result("");
    text::table(&["DISK", "READ", "WRITTEN"], disks.collect());
    // There are more reasons to drop than anybody wants to read; those that did not happen stay away.
    let counters =
        stats.firewall.into_iter().filter(|counter| counter.kind != "dropped" || counter.packets > 0);
    let counters = counters.map(|counter| {
        vec![counter.kind, counter.name, counter.packets.to_string(), text::size(counter.bytes)]
    });
    text::result("");
    text::table(&["FIREWALL", "RULE OR REASON", "PACKETS", "BYTES"], counters.collect());
    if !stats.published.is_empty() {
        text::result("");
        let headings = ["PUBLISHED", "LET IN", "WRONG SOURCE", "TOO FAST", "TOO MANY", "NOT ANSWERED"];
        text::table(&headings, stats.published.into_iter().map(published).collect());
    }
    Ok(())
}

fn published(rule: PublishedStats) -> Vec<String> {
    let PublishedStats { rule, accepted, denied_source, denied_rate, denied_connections, unanswered } = rule;
    let counts = [accepted, denied_source, denied_rate, denied_connections, unanswered];
    std::iter::once(rule).chain(counts.map(|count| count.to_string())).collect()
}
