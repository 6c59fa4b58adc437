//! `ps`: list the VMs, as they truly are.

use serde_json::{Value, json};
use vm_runner::{Status, Vm, unix_now_s};

use crate::context::Context;
use crate::error::CommandError;
use crate::text;

/// List VMs
///
/// Those that run, and those that have failed. A VM whose supervisor was killed is cleaned up and
/// listed as failed.
#[derive(Debug, clap::Args)]
pub(crate) struct PsArgs {
    /// Also VMs that have stopped
    #[arg(long, short)]
    all: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(context: &Context, args: &PsArgs) -> Result<(), CommandError> {
    let mut listing = context.vms()?.list()?;
    let is_shown = |status: Status| args.all || status.is_alive() || status == Status::Failed;
    listing.vms.retain(|vm| is_shown(vm.state.status));
    if args.json {
        text::json(&listing.vms.iter().map(vm_json).collect());
    } else {
        let rows = listing.vms.iter().map(row).collect();
        text::table(&["NAME", "APPLIANCE", "STATUS", "FOR", "ACCEL", "PORTS", "REASON"], rows);
    }
    for (name, error) in &listing.damaged {
        text::say(format_args!("The VM `{name}` is damaged: {}", text::chain_of(error)));
        text::say(format_args!("hint: `hull rm {name}` removes it, with what its guest wrote"));
    }
    Ok(())
}

fn row(vm: &Vm) -> Vec<String> {
    let state = &vm.state;
    let ports = state.ports.iter().map(|port| format!("{} -> {}/{}", port.host, port.guest_port, port.proto));
    vec![
        vm.spec.name.clone(),
        vm.spec.reference.to_string(),
        state.status.as_str().to_owned(),
        text::age(unix_now_s().saturating_sub(state.since_unix_s)),
        state.accel.clone().unwrap_or_default(),
        ports.collect::<Vec<_>>().join(", "),
        state.reason.clone().unwrap_or_default(),
    ]
}

fn vm_json(vm: &Vm) -> Value {
    json!({
        "name": vm.spec.name,
        "id": vm.spec.id,
        "reference": vm.spec.reference,
        "manifest": vm.spec.manifest,
        "machine": vm.spec.machine,
        "createdUnixS": vm.spec.created_unix_s,
        "folder": vm.folder.path(),
        "state": serde_json::to_value(&vm.state).expect("a state serialises"),
    })
}
