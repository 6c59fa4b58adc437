//! `ps`: list the VMs, as they truly are.

use serde_json::{Value, json};
use vm_runner::{Vm, unix_now_s};

use crate::context::Context;
use crate::error::CommandError;
use crate::text;

/// List VMs
///
/// A VM whose supervisor was killed is cleaned up and listed as failed.
#[derive(Debug, clap::Args)]
pub(crate) struct PsArgs {
    /// Also VMs that do not run
    #[arg(long, short)]
    all: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(context: &Context, args: &PsArgs) -> Result<(), CommandError> {
    let mut vms = context.vms()?.list()?;
    vms.retain(|vm| args.all || vm.state.status.is_alive());
    if args.json {
        text::json(&vms.iter().map(vm_json).collect());
        return Ok(());
    }
    let rows = vms.iter().map(|vm| {
        let state = &vm.state;
        let ports =
            state.ports.iter().map(|port| format!("{} -> {}/{}", port.host, port.guest_port, port.proto));
        let since = unix_now_s().saturating_sub(state.since_unix_s);
        vec![
            vm.spec.name.clone(),
            vm.spec.reference.to_string(),
            state.status.as_str().to_owned(),
            text::age(since),
            state.accel.clone().unwrap_or_default(),
            ports.collect::<Vec<_>>().join(", "),
            state.reason.clone().unwrap_or_default(),
        ]
    });
    text::table(&["NAME", "APPLIANCE", "STATUS", "FOR", "ACCEL", "PORTS", "REASON"], rows.collect());
    Ok(())
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
