//! A machine as a VirtualMachine.
//!
//! Source: KubeVirt's API, `kubevirt.io/v1` VirtualMachine; its user guide, "Disks and Volumes", "Interfaces and
//! Networks", "Run Strategies", "Liveness and Readiness Probes".

use appliance::Machine;
use appliance::policy::{Health, HealthCheck, MachinePolicy, Restart};
use appliance::{Arch, Bus, Console, Devices, DiskMode, Firmware, NicModel};
use serde_json::{Value, json};

use super::super::Subject;
use super::super::hardware::cpu_features;
use super::super::loss::{Effect, LossReport};
use super::{claim_name, labels, object_name, quantity};

/// How long hull waits for the answer to a check.
const CHECK_SECONDS: u64 = 5;

/// The VirtualMachine for `machine`.
pub(super) fn of(
    subject: &Subject<'_>,
    machine: &Machine,
    policy: &MachinePolicy,
    image: &dyn Fn(&str) -> String,
    report: &mut LossReport,
) -> Value {
    let (interfaces, networks) = nics(machine, report);
    let mut spec = json!({
        "architecture": machine.arch.as_str(),
        "domain": {
            "cpu": cpu(machine, report),
            "memory": { "guest": quantity(machine.memory_bytes) },
            "firmware": { "bootloader": bootloader(machine.firmware) },
            "devices": {
                "autoattachSerialConsole": machine.console == Console::Serial,
                "autoattachGraphicsDevice": false,
                // Without this, a machine without NICs would be given one.
                "autoattachPodInterface": false,
                "disks": disks(machine, report),
                "interfaces": interfaces,
                "rng": {},
            },
        },
        "networks": networks,
        "volumes": volumes(subject, machine, image),
    });
    if machine.firmware == Firmware::UefiSecure && machine.arch == Arch::Amd64 {
        spec["domain"]["features"] = json!({ "smm": { "enabled": true } });
    }
    if let Some(health) = &policy.health {
        probes(&mut spec, machine, health, policy.lifecycle.restart, report);
    }
    report_policy(machine, policy, report);
    json!({
        "apiVersion": "kubevirt.io/v1",
        "kind": "VirtualMachine",
        "metadata": { "name": object_name(subject, &machine.name), "labels": labels(subject, &machine.name) },
        "spec": {
            "runStrategy": match policy.lifecycle.restart {
                Restart::No => "Once",
                Restart::OnFailure => "RerunOnFailure",
                Restart::Always => "Always",
            },
            "template": { "metadata": { "labels": labels(subject, &machine.name) }, "spec": spec },
        },
    })
}

fn cpu(machine: &Machine, report: &mut LossReport) -> Value {
    let mut cpu = json!({ "sockets": 1, "cores": machine.vcpus, "threads": 1 });
    match (&machine.cpu, machine.arch) {
        (None, _) => {}
        (Some(level), Arch::Amd64) => {
            let features = cpu_features(level).into_iter();
            let features: Vec<_> =
                features.map(|name| json!({ "name": name, "policy": "require" })).collect();
            cpu["model"] = "host-model".into();
            cpu["features"] = features.into();
        }
        (Some(_), Arch::Arm64) => {
            report.lose(Some(&machine.name), "cpu", Effect::Other, "every node is taken to be good enough");
        }
    }
    cpu
}

fn bootloader(firmware: Firmware) -> Value {
    match firmware {
        Firmware::Bios => json!({ "bios": {} }),
        Firmware::Uefi => json!({ "efi": { "secureBoot": false } }),
        Firmware::UefiSecure => json!({ "efi": { "secureBoot": true } }),
    }
}

fn disks(machine: &Machine, report: &mut LossReport) -> Vec<Value> {
    let mut disks = Vec::new();
    for disk in &machine.disks {
        let (bus, substitutes) = bus(machine.devices, disk.bus);
        if substitutes {
            let becomes = "a SATA disk stands in its place";
            report.lose(Some(&machine.name), format!("disk.{}.bus", disk.name), Effect::Other, becomes);
        }
        let mut entry = json!({ "name": disk.name, "disk": { "bus": bus } });
        match disk.mode {
            // libvirt, which KubeVirt asks, starts no machine with a read-only SATA disk.
            DiskMode::ReadOnly if bus == "sata" => {
                let becomes = "the guest can write to it until it stops: there are no read-only SATA disks";
                report.lose(Some(&machine.name), format!("disk.{}.mode", disk.name), Effect::Other, becomes);
            }
            DiskMode::ReadOnly => entry["disk"]["readonly"] = true.into(),
            DiskMode::Overlay | DiskMode::Ephemeral => {}
        }
        if disks.is_empty() {
            entry["bootOrder"] = 1.into();
        }
        disks.push(entry);
    }
    let volume_bus = bus(machine.devices, None).0;
    disks.extend(machine.volumes.iter().map(|volume| {
        json!({ "name": volume.name, "serial": serial(&volume.name), "disk": { "bus": volume_bus } })
    }));
    disks
}

/// virtio's serial numbers have at most 20 characters.
fn serial(name: &str) -> &str {
    &name[..name.len().min(20)]
}

/// KubeVirt's bus for a disk, and whether it is another one than the guest had.
fn bus(devices: Devices, bus: Option<Bus>) -> (&'static str, bool) {
    match (devices, bus) {
        (Devices::Virtio, _) | (Devices::Compat, Some(Bus::Virtio)) => ("virtio", false),
        (Devices::Compat, None | Some(Bus::Sata)) => ("sata", false),
        // Its `scsi` is virtio's, which guests with other SCSI drivers do not know.
        (Devices::Compat, Some(_)) => ("sata", true),
    }
}

/// Interfaces, and the networks that they are in. Only the first one to the outside has a place there.
fn nics(machine: &Machine, report: &mut LossReport) -> (Vec<Value>, Vec<Value>) {
    let (mut interfaces, mut networks) = (Vec::new(), Vec::new());
    for nic in &machine.nics {
        let key = format!("nic.{}", nic.name);
        if nic.network.is_some() {
            let becomes = "it is left out: a pod has no private networks of its own";
            report.lose(Some(&machine.name), key, Effect::Narrower, becomes);
            continue;
        }
        if !networks.is_empty() {
            let becomes = "it is left out: a pod is in one network only";
            report.lose(Some(&machine.name), key, Effect::Narrower, becomes);
            continue;
        }
        let (model, substitutes) = nic_model(machine.devices, nic.model);
        if substitutes {
            let becomes = format!("a card of the model {model} stands in its place");
            report.lose(Some(&machine.name), format!("{key}.model"), Effect::Other, becomes);
        }
        interfaces.push(json!({ "name": nic.name, "model": model, "masquerade": {} }));
        networks.push(json!({ "name": nic.name, "pod": {} }));
    }
    (interfaces, networks)
}

fn nic_model(devices: Devices, model: Option<NicModel>) -> (&'static str, bool) {
    match (devices, model) {
        (Devices::Virtio, _) | (Devices::Compat, Some(NicModel::Virtio)) => ("virtio", false),
        (Devices::Compat, None | Some(NicModel::E1000)) => ("e1000", false),
        (Devices::Compat, Some(NicModel::E1000e)) => ("e1000e", false),
        (Devices::Compat, Some(NicModel::Pcnet)) => ("pcnet", false),
        (Devices::Compat, Some(NicModel::Rtl8139)) => ("rtl8139", false),
        (Devices::Compat, Some(NicModel::Vmxnet3)) => ("e1000", true),
    }
}

fn volumes(subject: &Subject<'_>, machine: &Machine, image: &dyn Fn(&str) -> String) -> Vec<Value> {
    let disks = machine.disks.iter().map(|disk| {
        json!({ "name": disk.name, "containerDisk": { "image": image(&disk.name), "path": "/disk/disk.img" } })
    });
    let claims = machine.volumes.iter().map(|volume| {
        let claim = claim_name(subject, &volume.name);
        json!({ "name": volume.name, "persistentVolumeClaim": { "claimName": claim } })
    });
    disks.chain(claims).collect()
}

/// Readiness is what hull calls healthy. A machine that is to be restarted is restarted when it stops being so.
fn probes(spec: &mut Value, machine: &Machine, health: &Health, restart: Restart, report: &mut LossReport) {
    let mut probe = json!({
        "periodSeconds": seconds(health.interval_ms),
        "timeoutSeconds": CHECK_SECONDS,
        "failureThreshold": health.retries,
    });
    match &health.check {
        HealthCheck::Http { port, path } => probe["httpGet"] = json!({ "port": port, "path": path }),
        HealthCheck::Tcp { port } => probe["tcpSocket"] = json!({ "port": port }),
        HealthCheck::Ready => {
            let becomes = "nobody asks: the port on which the guest says so is not there";
            report.lose(Some(&machine.name), "policy.health.check", Effect::Other, becomes);
            return;
        }
    }
    spec["readinessProbe"] = probe.clone();
    if restart != Restart::No {
        probe["initialDelaySeconds"] = seconds(health.start_period_ms).into();
        spec["livenessProbe"] = probe;
    }
}

/// Whole seconds, at least one.
fn seconds(ms: u64) -> u64 {
    ms.div_ceil(1000).max(1)
}

fn report_policy(machine: &Machine, policy: &MachinePolicy, report: &mut LossReport) {
    super::super::report_lifecycle(&machine.name, &policy.lifecycle, report);
    if policy.lifecycle.max_restarts.is_some() && policy.lifecycle.restart != Restart::No {
        let becomes = "it is restarted any number of times";
        report.lose(Some(&machine.name), "policy.lifecycle.max-restarts", Effect::Other, becomes);
    }
    if policy.resources.and_then(|resources| resources.disk).is_some() {
        let becomes = "its disks are as fast as they can be";
        report.lose(Some(&machine.name), "policy.resources.disk", Effect::Wider, becomes);
    }
    if machine.start_order.is_some() {
        let becomes = "machines start in no order";
        report.lose(Some(&machine.name), "start-order", Effect::Other, becomes);
    }
}
