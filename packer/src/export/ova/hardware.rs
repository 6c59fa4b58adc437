//! The hardware section, brought in line with the config.
//!
//! Processors, memory, firmware, disks and cards are what the config says. What the config does not know stays: MAC
//! addresses, networks' names, VMware's settings, other devices. Disks stay where they were as long as the drives
//! there are the same ones in kind and number.

use appliance::{Bus, Devices, DiskMode, Firmware, Machine, NicModel};
use formats::ovf::{self, Controller, ControllerKind, Drive, DriveKind, Hardware, Medium, NicKind};

use super::super::loss::{Effect, LossReport};
use crate::import::disk_drives;

/// The network that leads outside, by the name that VMware gives to it.
pub(super) const OUTSIDE: &str = "VM Network";
/// The oldest family of VMware's hardware that has secure boot and NVMe.
const FAMILY: &str = "vmx-13";
/// VMware counts network cards from here on.
const FIRST_NIC: u32 = 7;
/// The place on a SCSI bus that is the controller's own.
const SCSI_SELF: u32 = 7;

/// Makes `hardware` what `machine` is. Gives back what each disk is attached to.
pub(super) fn fit(
    hardware: &mut Hardware,
    machine: &Machine,
    report: &mut LossReport,
) -> Vec<ControllerKind> {
    if hardware.kinds.is_empty() {
        hardware.kinds.push(FAMILY.to_owned());
    }
    hardware.vcpus = Some(machine.vcpus);
    let divides = |cores: &u32| *cores > 0 && machine.vcpus.is_multiple_of(*cores);
    hardware.cores_per_socket = hardware.cores_per_socket.filter(divides);
    hardware.memory_bytes = Some(machine.memory_bytes);
    (hardware.firmware, hardware.secure_boot) = match machine.firmware {
        Firmware::Bios => (Some(ovf::Firmware::Bios), None),
        Firmware::Uefi => (Some(ovf::Firmware::Efi), Some(false)),
        Firmware::UefiSecure => (Some(ovf::Firmware::Efi), Some(true)),
    };
    hardware.nics = nics(&hardware.nics, machine);
    let kinds = drives(hardware, machine);
    report_machine(machine, report);
    kinds
}

fn report_machine(machine: &Machine, report: &mut LossReport) {
    let mut lose = |key: String, becomes: &str| report.lose(Some(&machine.name), key, Effect::Other, becomes);
    for disk in &machine.disks {
        match disk.mode {
            DiskMode::Overlay => {}
            DiskMode::Ephemeral => lose(format!("disk.{}.mode", disk.name), "what the guest writes is kept"),
            DiskMode::ReadOnly => lose(format!("disk.{}.mode", disk.name), "the guest can write to it"),
        }
    }
    if machine.cpu.is_some() {
        lose("cpu".to_owned(), "every host is taken to be good enough");
    }
    let unnamed = machine.disks.iter().any(|disk| disk.bus.is_none())
        || machine.nics.iter().any(|nic| nic.model.is_none());
    if machine.devices == Devices::Virtio && unnamed {
        let becomes =
            "disks are SATA and cards E1000 unless `bus` and `model` name others: VMware has no virtio";
        report.notice(Some(&machine.name), "devices", Effect::Other, becomes);
    }
}

/// The config's cards; each keeps what its predecessor in the OVF was besides.
fn nics(before: &[ovf::Nic], machine: &Machine) -> Vec<ovf::Nic> {
    let mut before: Vec<&ovf::Nic> = before.iter().collect();
    before.sort_by_key(|nic| nic.address.unwrap_or(0));
    let nic = |(n, nic): (usize, &appliance::Nic)| {
        let before = before.get(n);
        let network = before.and_then(|before| before.network.clone());
        ovf::Nic {
            instance: nic.name.clone(),
            kind: Some(nic_kind(nic.model)),
            name: Some(nic.name.clone()),
            network: network.or_else(|| nic.network.clone()).or_else(|| Some(OUTSIDE.to_owned())),
            mac: before.and_then(|before| before.mac),
            address: before.and_then(|before| before.address).or(Some(FIRST_NIC + n as u32)),
            connected: true,
        }
    };
    machine.nics.iter().enumerate().map(nic).collect()
}

const fn nic_kind(model: Option<NicModel>) -> NicKind {
    match model {
        None | Some(NicModel::E1000) => NicKind::E1000,
        Some(NicModel::E1000e) => NicKind::E1000e,
        Some(NicModel::Pcnet) => NicKind::PcNet,
        Some(NicModel::Rtl8139) => NicKind::Rtl8139,
        Some(NicModel::Vmxnet3) => NicKind::VmxNet3,
        Some(NicModel::Virtio) => NicKind::Virtio,
    }
}

const fn controller_kind(bus: Option<Bus>) -> ControllerKind {
    match bus {
        None | Some(Bus::Sata) => ControllerKind::Ahci,
        Some(Bus::Ide) => ControllerKind::Ide,
        Some(Bus::Nvme) => ControllerKind::Nvme,
        Some(Bus::BusLogic) => ControllerKind::BusLogic,
        Some(Bus::LsiLogic) => ControllerKind::LsiLogic,
        Some(Bus::LsiSas) => ControllerKind::LsiLogicSas,
        Some(Bus::Pvscsi) => ControllerKind::PvScsi,
        Some(Bus::Virtio) => ControllerKind::VirtioScsi,
    }
}

/// The config's disks and volumes as drives. Empty CD-ROM and floppy drives stay; what lay in them is not part of an
/// appliance.
fn drives(hardware: &mut Hardware, machine: &Machine) -> Vec<ControllerKind> {
    let kinds: Vec<_> = machine.disks.iter().map(|disk| controller_kind(disk.bus)).collect();
    let names = machine.disks.iter().map(|disk| &disk.name);
    let names = names.chain(machine.volumes.iter().map(|volume| &volume.name));
    // Volumes come after the disks, so they are attached as the last of those.
    let last = kinds.last().copied().unwrap_or(ControllerKind::Ahci);
    let wanted: Vec<(String, ControllerKind)> =
        names.cloned().zip(kinds.iter().copied().chain(std::iter::repeat(last))).collect();
    let disks: Vec<Drive> = disk_drives(hardware).into_iter().cloned().collect();
    let mut others = std::mem::take(&mut hardware.drives);
    others.retain(|drive| drive.kind != DriveKind::Disk);
    others.iter_mut().for_each(|drive| drive.medium = None);
    if let Some(kept) = kept(&disks, &hardware.controllers, &wanted) {
        hardware.drives = kept.into_iter().chain(others).collect();
        return kinds;
    }
    let mut placed = Placed::default();
    others.iter_mut().for_each(|drive| placed.add_other(drive, &hardware.controllers));
    let drives = wanted.iter().map(|(name, kind)| placed.add(name, *kind)).collect::<Vec<_>>();
    hardware.drives = drives.into_iter().chain(others).collect();
    hardware.controllers = placed.controllers;
    kinds
}

/// The drives as they were, with the media that there are now; `None` where they are others now.
fn kept(
    before: &[Drive],
    controllers: &[Controller],
    wanted: &[(String, ControllerKind)],
) -> Option<Vec<Drive>> {
    let kind_of = |drive: &Drive| {
        let instance = drive.controller.as_ref()?;
        controllers
            .iter()
            .find(|controller| controller.instance == *instance)
            .map(|controller| controller.kind)
    };
    let is_same = |(drive, (_, wanted)): (&Drive, &(String, ControllerKind))| {
        let kind = kind_of(drive)?;
        let same = match kind {
            ControllerKind::Scsi => *wanted == ControllerKind::LsiLogic,
            ControllerKind::VirtioBlock => *wanted == ControllerKind::VirtioScsi,
            kind => kind == *wanted,
        };
        let has_medium = drive.medium.is_some();
        (same && has_medium).then_some(())
    };
    if before.len() != wanted.len() || before.iter().zip(wanted).any(|pair| is_same(pair).is_none()) {
        return None;
    }
    let again = |(drive, (name, _)): (&Drive, &(String, ControllerKind))| Drive {
        medium: Some(Medium::Disk(name.clone())),
        ..drive.clone()
    };
    Some(before.iter().zip(wanted).map(again).collect())
}

/// Controllers as they are needed, and how full each of them is.
#[derive(Debug, Default)]
struct Placed {
    controllers: Vec<Controller>,
    /// For each controller the next free place.
    next: Vec<u32>,
}

impl Placed {
    /// A drive for the disk `name` on the first controller of `kind` that has room.
    fn add(&mut self, name: &str, kind: ControllerKind) -> Drive {
        let (at, address) = self.place(kind);
        Drive {
            instance: name.to_owned(),
            kind: DriveKind::Disk,
            name: None,
            medium: Some(Medium::Disk(name.to_owned())),
            controller: Some(self.controllers[at].instance.clone()),
            address: Some(address),
        }
    }

    /// Finds another place for a drive that is no disk.
    fn add_other(&mut self, drive: &mut Drive, before: &[Controller]) {
        let controller =
            before.iter().find(|controller| Some(&controller.instance) == drive.controller.as_ref());
        // Floppy drives have no controller.
        let Some(controller) = controller else { return };
        let (at, address) = self.place(controller.kind);
        drive.controller = Some(self.controllers[at].instance.clone());
        drive.address = Some(address);
    }

    /// The controller's number, and the place on it.
    fn place(&mut self, kind: ControllerKind) -> (usize, u32) {
        let most = match kind {
            ControllerKind::Ide => 2,
            ControllerKind::Ahci => 30,
            ControllerKind::Nvme => 15,
            _ => 16,
        };
        let has_room =
            |(at, controller): &(usize, &Controller)| controller.kind == kind && self.next[*at] < most;
        let found = self.controllers.iter().enumerate().find(has_room).map(|(at, _)| at);
        let at = found.unwrap_or_else(|| {
            let of_kind = self.controllers.iter().filter(|controller| controller.kind == kind).count();
            let instance = format!("controller-{}", self.controllers.len());
            self.controllers.push(Controller { instance, kind, address: Some(of_kind as u32) });
            self.next.push(0);
            self.controllers.len() - 1
        });
        let is_scsi = !matches!(kind, ControllerKind::Ide | ControllerKind::Ahci | ControllerKind::Nvme);
        if is_scsi && self.next[at] == SCSI_SELF {
            self.next[at] += 1;
        }
        let address = self.next[at];
        self.next[at] += 1;
        (at, address)
    }
}
