//! A machine as a domain.
//!
//! Source: libvirt's documentation, "Domain XML format".

use appliance::policy::{FlowLimits, MachinePolicy, Resources, Restart};
use appliance::{Arch, Bus, Console, Devices, DiskMode, Firmware, Machine, Nic, NicModel};

use super::super::hardware::cpu_features;
use super::super::loss::{Effect, LossReport};
use super::xml::{Element, element};
use super::{Network, nwfilter};

/// What virtio takes as a serial number.
const MAX_SERIAL_CHARS: usize = 20;
/// What a PC's two IDE channels have room for.
const MOST_IDE_DISKS: usize = 4;

/// The file of a disk or volume, in the folder of the domain.
pub(super) fn file_name(disk: &str) -> String {
    format!("{disk}.qcow2")
}

/// The domain for `machine`, whose disks lie in `folder`.
pub(super) fn of(
    machine: &Machine,
    policy: &MachinePolicy,
    network: &Network<'_>,
    folder: &str,
    report: &mut LossReport,
) -> Element {
    report_policy(machine, policy, report);
    let board = Board::of(machine);
    let mut features = element("features").child(element("acpi"));
    if machine.arch == Arch::Amd64 {
        features = features.child(element("apic"));
    }
    if board == Board::Q35 && machine.firmware == Firmware::UefiSecure {
        features = features.child(element("smm").with("state", "on"));
    }
    let (on_poweroff, on_crash) = match policy.lifecycle.restart {
        Restart::No => ("destroy", "destroy"),
        Restart::OnFailure => ("destroy", "restart"),
        Restart::Always => ("restart", "restart"),
    };
    element("domain")
        .with("type", "kvm")
        .child(element("name").text(&machine.name))
        .child(element("memory").with("unit", "b").text(machine.memory_bytes))
        .child(element("vcpu").text(machine.vcpus))
        .child(os(machine, board))
        .child(features)
        .child(cpu(machine, report))
        .child(element("on_poweroff").text(on_poweroff))
        .child(element("on_reboot").text("restart"))
        .child(element("on_crash").text(on_crash))
        .child(devices(machine, policy, network, folder, board, report))
}

/// What the devices are plugged into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Board {
    Q35,
    /// The older PC, the only one with IDE.
    Pc,
    Virt,
}

impl Board {
    fn of(machine: &Machine) -> Self {
        let is_ide = |disk: &&appliance::Disk| disk.bus == Some(Bus::Ide);
        let ide = machine.disks.iter().filter(is_ide).count();
        match machine.arch {
            Arch::Arm64 => Self::Virt,
            Arch::Amd64
                if machine.devices == Devices::Compat
                    && machine.firmware == Firmware::Bios
                    && (1..=MOST_IDE_DISKS).contains(&ide) =>
            {
                Self::Pc
            }
            Arch::Amd64 => Self::Q35,
        }
    }
}

fn os(machine: &Machine, board: Board) -> Element {
    let kind = element("type")
        .with(
            "arch",
            match machine.arch {
                Arch::Amd64 => "x86_64",
                Arch::Arm64 => "aarch64",
            },
        )
        .with(
            "machine",
            match board {
                Board::Q35 => "q35",
                Board::Pc => "pc",
                Board::Virt => "virt",
            },
        )
        .text("hvm");
    let secure = match machine.firmware {
        Firmware::Bios => return element("os").child(kind),
        Firmware::Uefi => "no",
        Firmware::UefiSecure => "yes",
    };
    let feature = |name: &str| element("feature").with("enabled", secure).with("name", name);
    element("os")
        .with("firmware", "efi")
        .child(kind)
        .child(element("firmware").child(feature("enrolled-keys")).child(feature("secure-boot")))
}

fn cpu(machine: &Machine, report: &mut LossReport) -> Element {
    match machine.arch {
        Arch::Amd64 => {
            let features = machine.cpu.as_deref().map(cpu_features).unwrap_or_default().into_iter();
            let features =
                features.map(|name| element("feature").with("policy", "require").with("name", name));
            element("cpu").with("mode", "host-model").children(features)
        }
        Arch::Arm64 => {
            if machine.cpu.is_some() {
                let becomes = "every host is taken to be good enough";
                report.lose(Some(&machine.name), "cpu", Effect::Other, becomes);
            }
            element("cpu").with("mode", "host-passthrough")
        }
    }
}

fn devices(
    machine: &Machine,
    policy: &MachinePolicy,
    network: &Network<'_>,
    folder: &str,
    board: Board,
    report: &mut LossReport,
) -> Element {
    let mut devices = element("devices").children(disks(machine, policy, folder, board, report));
    for nic in &machine.nics {
        devices = devices.child(interface(machine, nic, policy, network, report));
    }
    if machine.console == Console::Serial {
        let target = || element("target").with("port", 0);
        devices = devices
            .child(element("serial").with("type", "pty").child(target()))
            .child(element("console").with("type", "pty").child(target().with("type", "serial")));
    }
    if machine.devices == Devices::Virtio {
        let random = element("backend").with("model", "random").text("/dev/urandom");
        devices = devices.child(element("rng").with("model", "virtio").child(random));
    }
    if machine.arch == Arch::Amd64 {
        // Without it, nobody hears that the guest's kernel failed.
        devices = devices.child(element("panic").with("model", "isa"));
    }
    devices
}

/// What a disk is attached to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Attached {
    Virtio,
    Sata,
    Ide,
    Scsi(ScsiModel),
}

/// Kinds of SCSI controllers. Each disk is a target of its own there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ScsiModel {
    LsiSas,
    Pvscsi,
}

impl ScsiModel {
    /// How many disks one controller is given.
    const fn most_disks(self) -> usize {
        match self {
            Self::LsiSas => 7,
            Self::Pvscsi => 15,
        }
    }

    /// The place of the disk with this number, among the machine's SCSI disks. Left to itself, libvirt would count
    /// units, of which a target has one on pvscsi, and two on LSI SAS.
    fn address(self, number: usize) -> Element {
        element("address")
            .with("type", "drive")
            .with("controller", number / self.most_disks())
            .with("bus", 0)
            .with("target", number % self.most_disks())
            .with("unit", 0)
    }

    fn controller(self, index: usize) -> Element {
        let model = match self {
            Self::LsiSas => "lsisas1068",
            Self::Pvscsi => "vmpvscsi",
        };
        element("controller").with("type", "scsi").with("index", index).with("model", model)
    }
}

fn disks(
    machine: &Machine,
    policy: &MachinePolicy,
    folder: &str,
    board: Board,
    report: &mut LossReport,
) -> Vec<Element> {
    let mut elements = Vec::new();
    let mut controller = None;
    let mut scsi_disks = 0;
    let mut letters = Letters::default();
    let tuning = policy.resources.as_ref().and_then(tuning);
    let drives = machine.disks.iter().map(|disk| (disk.name.as_str(), Some(disk)));
    let drives = drives.chain(machine.volumes.iter().map(|volume| (volume.name.as_str(), None)));
    for (number, (name, disk)) in drives.enumerate() {
        let (attached, substitutes) =
            attach(machine.devices, disk.and_then(|disk| disk.bus), board, &mut controller);
        if substitutes {
            let becomes = "a SATA disk stands in its place";
            report.lose(Some(&machine.name), format!("disk.{name}.bus"), Effect::Other, becomes);
        }
        let serial: String = name.chars().take(MAX_SERIAL_CHARS).collect();
        let mut entry = element("disk")
            .with("type", "file")
            .with("device", "disk")
            .child(element("driver").with("name", "qemu").with("type", "qcow2").with("discard", "unmap"))
            .child(
                element("source")
                    .with("file", format!("{}/{}", folder.trim_end_matches('/'), file_name(name))),
            )
            .child(letters.target(attached))
            .children(tuning.clone())
            .child(element("serial").text(serial));
        if let Attached::Scsi(model) = attached {
            entry = entry.child(model.address(scsi_disks));
            scsi_disks += 1;
        }
        match disk.map(|disk| disk.mode) {
            // libvirt starts no machine with a read-only disk of these.
            Some(DiskMode::ReadOnly) if matches!(attached, Attached::Sata | Attached::Ide) => {
                let becomes = "the guest can write to it: there are no read-only SATA and IDE disks";
                report.lose(Some(&machine.name), format!("disk.{name}.mode"), Effect::Other, becomes);
            }
            Some(DiskMode::ReadOnly) => entry = entry.child(element("readonly")),
            Some(DiskMode::Ephemeral) => entry = entry.child(element("transient")),
            Some(DiskMode::Overlay) | None => {}
        }
        elements.push(entry.child(element("boot").with("order", number + 1)));
    }
    if let Some(model) = controller {
        elements.extend((0..scsi_disks.div_ceil(model.most_disks())).map(|index| model.controller(index)));
    }
    elements
}

/// What libvirt attaches a disk to, and whether that is something else than the guest had. A machine has one kind of
/// SCSI controller, which is the first that a disk asks for.
fn attach(
    devices: Devices,
    bus: Option<Bus>,
    board: Board,
    controller: &mut Option<ScsiModel>,
) -> (Attached, bool) {
    let model = match (devices, bus) {
        (Devices::Virtio, _) | (Devices::Compat, Some(Bus::Virtio)) => return (Attached::Virtio, false),
        (Devices::Compat, None | Some(Bus::Sata)) => return (Attached::Sata, false),
        (Devices::Compat, Some(Bus::Ide)) if board == Board::Pc => return (Attached::Ide, false),
        (Devices::Compat, Some(Bus::LsiSas)) => ScsiModel::LsiSas,
        (Devices::Compat, Some(Bus::Pvscsi)) => ScsiModel::Pvscsi,
        (Devices::Compat, Some(Bus::Ide | Bus::Nvme | Bus::BusLogic | Bus::LsiLogic)) => {
            return (Attached::Sata, true);
        }
    };
    if *controller.get_or_insert(model) == model {
        (Attached::Scsi(model), false)
    } else {
        (Attached::Sata, true)
    }
}

/// The names under which libvirt tells disks apart: `vda`, `sdb`, `hdc`.
#[derive(Debug, Default)]
struct Letters {
    vd: usize,
    sd: usize,
    hd: usize,
}

impl Letters {
    fn target(&mut self, attached: Attached) -> Element {
        let (prefix, bus, count) = match attached {
            Attached::Virtio => ("vd", "virtio", &mut self.vd),
            Attached::Sata => ("sd", "sata", &mut self.sd),
            Attached::Scsi(_) => ("sd", "scsi", &mut self.sd),
            Attached::Ide => ("hd", "ide", &mut self.hd),
        };
        let number = std::mem::replace(count, *count + 1);
        let letter = |n: usize| char::from(b'a' + (n % 26) as u8);
        let letters = match number {
            0..26 => letter(number).to_string(),
            _ => format!("{}{}", letter(number / 26 - 1), letter(number)),
        };
        element("target").with("dev", format!("{prefix}{letters}")).with("bus", bus)
    }
}

fn tuning(resources: &Resources) -> Option<Element> {
    let disk = resources.disk?;
    let bytes = disk.mbps.map(|mbps| element("total_bytes_sec").text(u64::from(mbps) * 1_000_000));
    let requests = disk.iops.map(|iops| element("total_iops_sec").text(iops));
    (bytes.is_some() || requests.is_some()).then(|| element("iotune").children(bytes).children(requests))
}

fn interface(
    machine: &Machine,
    nic: &Nic,
    policy: &MachinePolicy,
    network: &Network<'_>,
    report: &mut LossReport,
) -> Element {
    let (model, substitutes) = nic_model(machine.devices, nic.model);
    if substitutes {
        let becomes = format!("a card of the model {model} stands in its place");
        report.lose(Some(&machine.name), format!("nic.{}.model", nic.name), Effect::Other, becomes);
    }
    let parameter = |name: &str, value: String| element("parameter").with("name", name).with("value", value);
    let address = network.address(&machine.name, &nic.name);
    let filter = element("filterref")
        .with("filter", nwfilter::name(network, &machine.name))
        .children(address.map(|address| parameter("IP", address.to_string())));
    element("interface")
        .with("type", "network")
        .child(element("mac").with("address", network.mac(&machine.name, &nic.name)))
        .child(element("source").with("network", network.name(nic.network.as_deref())))
        .child(element("model").with("type", model))
        .children(bandwidth(policy.firewall.limits, machine.nics.len()))
        .child(filter)
}

/// A NIC's share of what the machine may send. libvirt counts in kilobytes.
fn bandwidth(limits: FlowLimits, nics: usize) -> Option<Element> {
    let kilobytes = u64::from(limits.egress_mbit?) * 125 / nics as u64;
    Some(element("bandwidth").child(element("outbound").with("average", kilobytes.max(1))))
}

fn nic_model(devices: Devices, model: Option<NicModel>) -> (&'static str, bool) {
    match (devices, model) {
        (Devices::Virtio, _) | (Devices::Compat, Some(NicModel::Virtio)) => ("virtio", false),
        (Devices::Compat, None | Some(NicModel::E1000)) => ("e1000", false),
        (Devices::Compat, Some(NicModel::E1000e)) => ("e1000e", false),
        (Devices::Compat, Some(NicModel::Pcnet)) => ("pcnet", false),
        (Devices::Compat, Some(NicModel::Rtl8139)) => ("rtl8139", false),
        (Devices::Compat, Some(NicModel::Vmxnet3)) => ("vmxnet3", false),
    }
}

fn report_policy(machine: &Machine, policy: &MachinePolicy, report: &mut LossReport) {
    let mut lose = |key: &str, becomes: &str| report.lose(Some(&machine.name), key, Effect::Other, becomes);
    if policy.health.is_some() {
        lose("policy.health", "nobody asks whether it works");
    }
    if policy.lifecycle.max_restarts.is_some() && policy.lifecycle.restart != Restart::No {
        lose("policy.lifecycle.max-restarts", "it is restarted any number of times");
    }
    if machine.start_order.is_some() {
        lose("start-order", "machines start in no order");
    }
    super::super::report_lifecycle(&machine.name, &policy.lifecycle, report);
}
