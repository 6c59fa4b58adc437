//! One virtual machine of an OVF: its processors, drives and cards as hull has them.

use std::collections::BTreeMap;

use appliance::{Arch, Bus, Devices, Disk, DiskMode, Firmware, NicModel, Volume};
use formats::ovf::{
    self, Controller, ControllerKind, Drive, DriveKind, Hardware, Medium, NicKind, VirtualSystem,
};

use super::super::ImportError;
use super::super::draft::{Assumed, Draft, DraftImage, DraftMachine};
use super::super::names::Names;
use super::super::notice::{Notice, What, quoted};
use super::disks::{Disks, NVRAM};
use super::networks::Networks;
use super::properties;
use crate::hull_toml::Subject;

/// The most disks of a machine.
const MAX_DISKS: usize = 64;

/// The machine `name`. What is to be known of it goes to `draft`.
pub(super) fn draft(
    system: &VirtualSystem,
    name: String,
    disks: &mut Disks<'_>,
    networks: &Networks,
    draft: &mut Draft,
) -> Result<DraftMachine, ImportError> {
    let hardware = &system.hardware;
    let mut machine = DraftMachine {
        arch: arch(system),
        vcpus: hardware.vcpus,
        // In whole MiB, as memory is everywhere.
        memory_bytes: hardware.memory_bytes.map(whole_sectors),
        firmware: firmware(hardware),
        devices: devices(hardware),
        start_order: system.start.as_ref().map(|start| u32::from(start.order)),
        ..DraftMachine::new(&name)
    };
    let mut what = Vec::new();
    let drives = disk_drives(hardware);
    if drives.len() > MAX_DISKS {
        let (found, most) = (drives.len() as u64, MAX_DISKS as u64);
        return Err(ImportError::TooMany { what: "disks in a machine", found, most });
    }
    for drive in drives {
        match image(drive, disks)? {
            Found::Image { wanted, image } => {
                let disk = Disk {
                    name: disks.names.give(&wanted, "disk"),
                    size_bytes: 0,
                    mode: DiskMode::Overlay,
                    bus: hardware.controller_of(drive).map(|controller| bus(controller.kind)),
                };
                let from = format!("{}, {}", quoted(&image.layers[0].name), place(drive, hardware));
                draft.remarks.add(Subject::Drive(disk.name.clone()), from);
                machine.disks.push((disk, image));
            }
            Found::Blank { wanted, size_bytes } => {
                let volume = disks.names.give(&wanted, "data");
                what.push(What::BecameVolume { volume: volume.clone() });
                machine.volumes.push(Volume { name: volume, size_bytes: whole_sectors(size_bytes) });
            }
            Found::Nothing => {}
        }
    }
    nics(hardware, &mut machine, networks, draft);
    what.extend(left_out(system));
    draft.notices.extend(what.into_iter().map(|what| Notice { machine: Some(name.clone()), what }));
    Ok(machine)
}

/// Rounded up to 512; what is too large for that is too large for any machine, and refused where its config is checked.
fn whole_sectors(bytes: u64) -> u64 {
    bytes.checked_next_multiple_of(512).unwrap_or(bytes)
}

/// What lies in a disk drive.
enum Found {
    Image { wanted: String, image: DraftImage },
    Blank { wanted: String, size_bytes: u64 },
    Nothing,
}

fn image(drive: &Drive, disks: &mut Disks<'_>) -> Result<Found, ImportError> {
    let own = drive.name.clone().unwrap_or_default();
    let descriptor = disks.descriptor;
    match &drive.medium {
        None => Ok(Found::Nothing),
        Some(Medium::Blank { capacity_bytes }) => {
            Ok(Found::Blank { wanted: own, size_bytes: *capacity_bytes })
        }
        Some(Medium::File(id)) => {
            let image = DraftImage { layers: vec![disks.file(id)?], format: None, said_bytes: None };
            Ok(Found::Image { wanted: id.clone(), image })
        }
        Some(Medium::Disk(id)) => {
            let Some(disk) = descriptor.disk(id) else { return Ok(Found::Nothing) };
            let wanted = id.clone();
            Ok(match disks.image(disk)? {
                Some(image) => Found::Image { wanted, image },
                None => Found::Blank { wanted, size_bytes: disk.capacity_bytes },
            })
        }
    }
}

/// The disk drives in the order in which a guest finds them: by the kind of controller that comes first in the
/// document, then by the controller's place and the drive's place on it.
pub(crate) fn disk_drives(hardware: &Hardware) -> Vec<&Drive> {
    let mut drives: Vec<_> = hardware.drives.iter().filter(|drive| drive.kind == DriveKind::Disk).collect();
    let kind = |drive: &Drive| hardware.controller_of(drive).map(|controller| controller.kind);
    let mut kinds = Vec::new();
    for found in drives.iter().map(|drive| kind(drive)) {
        if !kinds.contains(&found) {
            kinds.push(found);
        }
    }
    drives.sort_by_cached_key(|drive| {
        let rank = kinds.iter().position(|other| *other == kind(drive));
        let controller = hardware.controller_of(drive).map(|controller| controller.address.unwrap_or(0));
        (rank, controller, drive.address.unwrap_or(0))
    });
    drives
}

/// Where a drive is attached, for a person.
fn place(drive: &Drive, hardware: &Hardware) -> String {
    let Some(Controller { kind, address, .. }) = hardware.controller_of(drive) else {
        return "attached to nothing".to_owned();
    };
    format!("on {kind:?} controller {}, address {}", address.unwrap_or(0), drive.address.unwrap_or(0))
}

const fn bus(kind: ControllerKind) -> Bus {
    match kind {
        ControllerKind::Ide => Bus::Ide,
        ControllerKind::LsiLogicSas => Bus::LsiSas,
        ControllerKind::BusLogic => Bus::BusLogic,
        ControllerKind::PvScsi => Bus::Pvscsi,
        ControllerKind::VirtioScsi | ControllerKind::VirtioBlock => Bus::Virtio,
        ControllerKind::Ahci => Bus::Sata,
        ControllerKind::Nvme => Bus::Nvme,
        // Unnamed SCSI is what VMware and VirtualBox take it for.
        _ => Bus::LsiLogic,
    }
}

const fn model(kind: NicKind) -> NicModel {
    match kind {
        // The second version of VMware's own starts as a PCnet, until its driver comes.
        NicKind::PcNet | NicKind::VmxNet => NicModel::Pcnet,
        NicKind::E1000e => NicModel::E1000e,
        NicKind::Rtl8139 => NicModel::Rtl8139,
        NicKind::VmxNet3 => NicModel::Vmxnet3,
        NicKind::Virtio => NicModel::Virtio,
        _ => NicModel::E1000,
    }
}

/// Adds the network cards, in the order in which a guest finds them.
fn nics(hardware: &Hardware, machine: &mut DraftMachine, networks: &Networks, draft: &mut Draft) {
    let mut nics: Vec<&ovf::Nic> = hardware.nics.iter().collect();
    nics.sort_by_key(|nic| nic.address.unwrap_or(0));
    let mut names = Names::default();
    for (n, nic) in nics.into_iter().enumerate() {
        // A name of hull's own comes back; other platforms' are sentences.
        let own = nic.name.as_deref().filter(|name| appliance::is_label(name));
        let name = names.give(own.unwrap_or_default(), &format!("eth{n}"));
        let network = nic.network.as_deref();
        let mut from = nic.name.as_deref().map_or_else(|| "a network card".to_owned(), quoted);
        if let Some(network) = network {
            from += &format!(" on network {}", quoted(network));
        }
        if !nic.connected {
            from += ", not connected when the machine starts; here it is";
        }
        draft.remarks.add(Subject::Nic(machine.name.clone(), name.clone()), from);
        let network = network.and_then(|network| networks.private(network)).map(str::to_owned);
        machine.nics.push(appliance::Nic { name, network, model: nic.kind.map(model) });
    }
}

/// virtio only where the guest had nothing else.
fn devices(hardware: &Hardware) -> Assumed<Devices> {
    let mut drives = hardware.drives.iter().filter(|drive| drive.kind == DriveKind::Disk).peekable();
    let is_bare = drives.peek().is_none() && hardware.nics.is_empty();
    let virtio = !is_bare
        && drives.all(|drive| {
            hardware.controller_of(drive).is_some_and(|controller| bus(controller.kind) == Bus::Virtio)
        })
        && hardware.nics.iter().all(|nic| nic.kind == Some(NicKind::Virtio));
    match virtio {
        true => Assumed { value: Devices::Virtio, why: "its disks and NICs were virtio before" },
        false => Assumed {
            value: Devices::Compat,
            why: "its disks and NICs were not all virtio, and stay what they were",
        },
    }
}

fn firmware(hardware: &Hardware) -> Option<Firmware> {
    hardware.firmware.map(|firmware| match (firmware, hardware.secure_boot) {
        (ovf::Firmware::Bios, _) => Firmware::Bios,
        (ovf::Firmware::Efi, Some(true)) => Firmware::UefiSecure,
        (ovf::Firmware::Efi, _) => Firmware::Uefi,
    })
}

/// No number stands for an Arm guest; VMware's and VirtualBox's names of the types say it.
fn arch(system: &VirtualSystem) -> Option<Arch> {
    let operating_system = system.operating_system.as_ref()?;
    let names = [&operating_system.vmware_type, &operating_system.description];
    let is_arm = names.into_iter().flatten().any(|name| {
        let name = name.to_ascii_lowercase();
        name.starts_with("arm-") || ["arm64", "aarch64"].iter().any(|word| name.contains(word))
    });
    Some(if is_arm { Arch::Arm64 } else { Arch::Amd64 })
}

/// What of the machine has no place in hull.
fn left_out(system: &VirtualSystem) -> Vec<What> {
    let hardware = &system.hardware;
    let mut devices: BTreeMap<String, usize> = BTreeMap::new();
    for drive in hardware.drives.iter().filter(|drive| drive.kind != DriveKind::Disk) {
        let kind = if drive.kind == DriveKind::CdRom { "CD-ROM drive" } else { "floppy drive" };
        let content = if drive.medium.is_some() { " with a medium" } else { "" };
        *devices.entry(format!("{kind}{content}")).or_default() += 1;
    }
    for other in &hardware.others {
        let name = other.name.clone().or_else(|| other.sub_type.clone());
        let name = name.unwrap_or_else(|| format!("device of type {}", other.resource_type));
        *devices.entry(name).or_default() += 1;
    }
    let devices: Vec<String> = devices.into_keys().collect();
    let mut what = Vec::new();
    if !devices.is_empty() {
        what.push(What::DevicesLeftOut { devices });
    }
    let kept = |name, all: Vec<String>| What::kept_only(name, all);
    let settings = hardware.settings.iter().filter(|setting| setting.key != NVRAM);
    let settings = settings.map(|setting| format!("{}={}", setting.key, setting.value));
    what.extend(kept("settings of VMware's", settings.collect()));
    let macs = hardware.nics.iter().filter_map(|nic| nic.mac);
    let macs = macs.map(|mac| mac.map(|byte| format!("{byte:02x}")).join(":"));
    what.extend(kept("MAC addresses", macs.collect()));
    let sockets =
        hardware.cores_per_socket.filter(|cores| *cores > 1).map(|cores| format!("{cores} cores each"));
    what.extend(kept("arrangement of processors in sockets", sockets.into_iter().collect()));
    let waits = system.start.as_ref().filter(|start| start.delay_s > 0 || start.waits_for_guest);
    let waits = waits.map(|start| format!("{} s", start.delay_s));
    what.extend(kept("wait before the next machine starts", waits.into_iter().collect()));
    what.extend(properties(&system.products));
    what
}
