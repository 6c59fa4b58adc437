//! `stats`: how busy a VM is, and what its firewall let through and dropped.

use serde_json::json;
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
    let vm = context.vms()?.get(&args.name)?;
    if !vm.state.status.is_alive() {
        let status = vm.state.status.as_str();
        return Err(CommandError::new(Exit::Failed, format_args!("the VM `{}` is {status}", args.name)));
    }
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
    let counters = stats.firewall.into_iter().map(|counter| {
        vec![counter.kind, counter.name, counter.packets.to_string(), text::size(counter.bytes)]
    });
    text::result("");
    text::table(&["FIREWALL", "RULE OR REASON", "PACKETS", "BYTES"], counters.collect());
    Ok(())
}
