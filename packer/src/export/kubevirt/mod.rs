//! KubeVirt: for each machine a VirtualMachine and a NetworkPolicy, and a PersistentVolumeClaim for each volume.
//!
//! The disks go into containerDisks, which a registry must hold before the machines can start.
//!
//! Source: KubeVirt's API, `kubevirt.io/v1`; Kubernetes' API, `networking.k8s.io/v1` NetworkPolicy and `v1`
//! PersistentVolumeClaim.

mod network_policy;
mod virtual_machine;

use appliance::Machine;
use serde_json::{Value, json};

use super::disks::container_disk;
use super::loss::{Effect, LossReport};
use super::{Content, Plan, PlanError, Planned, PlannedDisk, Subject, yaml};

/// Names an appliance on everything that belongs to it.
const APPLIANCE_LABEL: &str = "hullvm.dev/appliance";
/// Names a machine on everything that belongs to it.
const MACHINE_LABEL: &str = "hullvm.dev/machine";
/// The longest name of a VirtualMachine, which is a label of its pod too.
const MAX_NAME: usize = 63;

/// Plans the export of `subject` to KubeVirt: a folder of documents for `kubectl apply -f`.
///
/// `image` is told a disk's name and gives the reference under which a registry has its containerDisk, which is
/// written beside the documents as an OCI archive, tagged `tag`.
///
/// # Errors
///
/// [`PlanError::Name`].
pub fn kubevirt(subject: &Subject<'_>, image: &dyn Fn(&str) -> String, tag: &str) -> Result<Plan, PlanError> {
    check_names(subject)?;
    let mut report = LossReport::default();
    super::report_appliance(subject, &mut report);
    report_platform(&mut report);
    let mut files = Vec::new();
    let mut add = |kind: &str, name: &str, document: &Value| {
        files.push((format!("{kind}-{name}.yaml"), Content::Text(yaml::document(document))));
    };
    for machine in &subject.machines {
        let policy = subject.policy.machine(&machine.name);
        for volume in &machine.volumes {
            add("volume", &volume.name, &volume_claim(subject, &machine.name, volume));
        }
        add("network-policy", &machine.name, &network_policy::of(subject, machine, &policy, &mut report));
        add("vm", &machine.name, &virtual_machine::of(subject, machine, &policy, image, &mut report));
    }
    for disk in subject.machines.iter().flat_map(|machine| &machine.disks) {
        let planned = PlannedDisk::OfAppliance { name: disk.name.clone() };
        files.push((format!("containerdisk-{}.tar", disk.name), container_disk(subject, planned, tag)));
    }
    Ok(Plan { output: Planned::Folder(files), report })
}

/// Kubernetes' names end with a letter or digit, hull's may end with `-`.
fn check_names(subject: &Subject<'_>) -> Result<(), PlanError> {
    let of_machine = |machine: &Machine| {
        let nics = machine.nics.iter().map(|nic| ("NIC", nic.name.clone()));
        let disks = machine.disks.iter().map(|disk| ("disk", disk.name.clone()));
        let volumes = machine.volumes.iter().map(|volume| ("volume", volume.name.clone()));
        [("machine", machine.name.clone())]
            .into_iter()
            .chain(nics)
            .chain(disks)
            .chain(volumes)
            .collect::<Vec<_>>()
    };
    let names = subject.machines.iter().flat_map(|machine| of_machine(machine));
    let mut names = std::iter::once(("appliance", subject.config.name.clone())).chain(names);
    if let Some((kind, name)) = names.find(|(_, name)| name.ends_with('-')) {
        return Err(PlanError::Name { kind, name, wanted: "names in Kubernetes end with a letter or digit" });
    }
    let long = |machine: &&&Machine| object_name(subject, &machine.name).len() > MAX_NAME;
    match subject.machines.iter().find(long) {
        None => Ok(()),
        Some(machine) => {
            let name = object_name(subject, &machine.name);
            Err(PlanError::Name {
                kind: "machine",
                name,
                wanted: "names of machines in KubeVirt have at most 63 characters",
            })
        }
    }
}

/// What the documents for a machine are called there. Another appliance in the namespace may have a machine of that
/// name, and must not lose its NetworkPolicy to this one's.
fn object_name(subject: &Subject<'_>, machine: &str) -> String {
    match subject.config.name.as_str() {
        appliance if appliance == machine => machine.to_owned(),
        appliance => format!("{appliance}-{machine}"),
    }
}

/// What a cluster does not promise, whatever a NetworkPolicy says.
fn report_platform(report: &mut LossReport) {
    for becomes in [
        "holds only where the cluster's network plugin enforces NetworkPolicies",
        "does not hold between a machine and the node that it runs on, which always reach each other",
        "is not alone: another NetworkPolicy in the namespace that selects the machine opens what it allows",
    ] {
        report.notice(None, "firewall", Effect::Wider, becomes);
    }
    report.notice(
        None,
        "disk.mode",
        Effect::Other,
        "what a guest writes to its disks is gone when it stops; volumes keep what is written to them",
    );
}

fn labels(subject: &Subject<'_>, machine: &str) -> Value {
    json!({ APPLIANCE_LABEL: subject.config.name, MACHINE_LABEL: machine })
}

/// What the claim for a volume is called: other appliances in the namespace have volumes too.
fn claim_name(subject: &Subject<'_>, volume: &str) -> String {
    format!("{}-{volume}", subject.config.name)
}

fn volume_claim(subject: &Subject<'_>, machine: &str, volume: &appliance::Volume) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": { "name": claim_name(subject, &volume.name), "labels": labels(subject, machine) },
        "spec": {
            "accessModes": ["ReadWriteOnce"],
            "resources": { "requests": { "storage": quantity(volume.size_bytes) } },
        },
    })
}

/// A number of bytes, as Kubernetes writes them.
fn quantity(bytes: u64) -> String {
    match (bytes.is_multiple_of(1 << 30), bytes.is_multiple_of(1 << 20)) {
        (true, _) => format!("{}Gi", bytes >> 30),
        (_, true) => format!("{}Mi", bytes >> 20),
        _ => bytes.to_string(),
    }
}
