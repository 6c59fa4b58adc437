//! What devices are, by `ResourceType` and `ResourceSubType`.
//!
//! The sub-type is free text: each platform has its own words, in any case, and several may stand there, the best
//! first.
//!
//! Source: CIM_ResourceAllocationSettingData, `ResourceType`; what VMware, VirtualBox and oVirt write as sub-types.

use super::super::model::{ControllerKind, DriveKind, NicKind};

/// CIM's `ResourceType`, as far as it is understood.
pub(in crate::ovf) mod resource {
    pub(in crate::ovf) const OTHER: u16 = 1;
    pub(in crate::ovf) const PROCESSOR: u16 = 3;
    pub(in crate::ovf) const MEMORY: u16 = 4;
    pub(in crate::ovf) const IDE: u16 = 5;
    pub(in crate::ovf) const SCSI: u16 = 6;
    pub(in crate::ovf) const ETHERNET: u16 = 10;
    pub(in crate::ovf) const FLOPPY: u16 = 14;
    pub(in crate::ovf) const CD: u16 = 15;
    pub(in crate::ovf) const DVD: u16 = 16;
    pub(in crate::ovf) const DISK: u16 = 17;
    pub(in crate::ovf) const OTHER_STORAGE: u16 = 20;
    pub(in crate::ovf) const SERIAL: u16 = 21;
    pub(in crate::ovf) const PARALLEL: u16 = 22;
    pub(in crate::ovf) const USB: u16 = 23;
    pub(in crate::ovf) const GRAPHICS: u16 = 24;
    pub(in crate::ovf) const FIREWIRE: u16 = 25;
    pub(in crate::ovf) const LOGICAL_DISK: u16 = 31;
    /// Not CIM's: VirtualBox's sound card.
    pub(in crate::ovf) const SOUND: u16 = 35;
    /// oVirt's, where CIM has storage.
    pub(in crate::ovf) const OVIRT_GRAPHICS: u16 = 20;
    /// oVirt's, where CIM has something else.
    pub(in crate::ovf) const OVIRT_DISPLAY: u16 = 26;
}

/// What an item is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Device {
    Processor,
    Memory,
    Controller,
    Drive(DriveKind),
    Nic,
    /// A guest boots and works without it.
    Harmless,
    /// oVirt's own, with a number that means something else to others.
    Ovirt,
    Unknown,
}

pub(super) fn device(resource_type: u16, sub_types: &[String], is_ovirt: bool) -> Device {
    match resource_type {
        resource::PROCESSOR => Device::Processor,
        resource::MEMORY => Device::Memory,
        0 | resource::OVIRT_GRAPHICS | resource::OVIRT_DISPLAY if is_ovirt => Device::Ovirt,
        resource::IDE | resource::SCSI => Device::Controller,
        resource::OTHER_STORAGE if sub_types.iter().any(|kind| kind.contains("nvdimm")) => Device::Unknown,
        resource::OTHER_STORAGE => Device::Controller,
        resource::ETHERNET => Device::Nic,
        resource::FLOPPY => Device::Drive(DriveKind::Floppy),
        resource::CD | resource::DVD => Device::Drive(DriveKind::CdRom),
        resource::DISK | resource::LOGICAL_DISK => Device::Drive(DriveKind::Disk),
        resource::SERIAL | resource::PARALLEL | resource::USB | resource::GRAPHICS | resource::FIREWIRE => {
            Device::Harmless
        }
        resource::SOUND if !sub_types.is_empty() => Device::Harmless,
        resource::OTHER if sub_types.iter().any(|kind| is_harmless(kind)) => Device::Harmless,
        _ => Device::Unknown,
    }
}

/// The sub-types of "other" devices that a guest does without.
fn is_harmless(sub_type: &str) -> bool {
    let kind = sub_type.to_ascii_lowercase();
    kind.starts_with("vmware.vmci")
        || kind.starts_with("vmware.soundcard.")
        || kind.starts_with("vmware.sound")
        || kind == "ensoniq1371"
}

/// The kind of a controller, and whether any of the sub-types said so.
pub(super) fn controller(resource_type: u16, sub_types: &[String]) -> (ControllerKind, Said) {
    let usual = match resource_type {
        resource::IDE => return (ControllerKind::Ide, Said::Known),
        resource::SCSI => ControllerKind::Scsi,
        _ => ControllerKind::Ahci,
    };
    first_known(sub_types, controller_kind).unwrap_or((usual, Said::of_none(sub_types)))
}

/// The kind of a NIC, and whether any of the sub-types said so.
pub(super) fn nic(sub_types: &[String], is_ovirt: bool) -> (Option<NicKind>, Said) {
    let kind = if is_ovirt { ovirt_nic_kind } else { nic_kind };
    match first_known(sub_types, kind).or_else(|| first_known(sub_types, nic_kind)) {
        Some((kind, said)) => (Some(kind), said),
        None => (None, Said::of_none(sub_types)),
    }
}

/// What the sub-types said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Said {
    Nothing,
    Known,
    Unknown,
}

impl Said {
    fn of_none(sub_types: &[String]) -> Self {
        if sub_types.is_empty() { Said::Nothing } else { Said::Unknown }
    }
}

fn first_known<T>(sub_types: &[String], kind: fn(&str) -> Option<T>) -> Option<(T, Said)> {
    sub_types.iter().find_map(|text| kind(&text.to_ascii_lowercase())).map(|kind| (kind, Said::Known))
}

/// A controller by its sub-type in lower case.
fn controller_kind(sub_type: &str) -> Option<ControllerKind> {
    Some(match sub_type {
        "piix3" | "piix4" | "ich6" | "ide" => ControllerKind::Ide,
        "lsilogic" | "lsi" => ControllerKind::LsiLogic,
        "lsilogicsas" | "lsisas1068" => ControllerKind::LsiLogicSas,
        "buslogic" => ControllerKind::BusLogic,
        "virtualscsi" | "pvscsi" => ControllerKind::PvScsi,
        "virtioscsi" | "virtio-scsi" | "virtio_scsi" => ControllerKind::VirtioScsi,
        "virtio" | "virtio-blk" => ControllerKind::VirtioBlock,
        "ahci" | "sata" | "vmware.sata.ahci" | "intelahci" => ControllerKind::Ahci,
        "nvme" | "vmware.nvme.controller" => ControllerKind::Nvme,
        _ => return None,
    })
}

/// A NIC by its sub-type in lower case.
fn nic_kind(sub_type: &str) -> Option<NicKind> {
    Some(match sub_type {
        "pcnet32" | "vlance" | "flexible" | "am79c970a" | "am79c973" | "am79c960" => NicKind::PcNet,
        "e1000" | "82540em" | "82543gc" | "82545em" => NicKind::E1000,
        "e1000e" | "82574l" | "82583v" => NicKind::E1000e,
        "rtl8139" | "8139" => NicKind::Rtl8139,
        "vmxnet" | "vmxnet2" => NicKind::VmxNet,
        "vmxnet3" => NicKind::VmxNet3,
        "virtio" | "virtio-net" | "virtionet" | "pv" => NicKind::Virtio,
        _ => return None,
    })
}

/// A NIC by oVirt's number for it.
fn ovirt_nic_kind(sub_type: &str) -> Option<NicKind> {
    Some(match sub_type {
        "1" => NicKind::Rtl8139,
        "2" => NicKind::E1000,
        "3" => NicKind::Virtio,
        "6" => NicKind::E1000e,
        _ => return None,
    })
}

/// A controller by the word that oVirt has on a disk, in lower case.
pub(super) fn ovirt_interface(interface: &str) -> Option<ControllerKind> {
    Some(match interface {
        "virtio" => ControllerKind::VirtioBlock,
        "virtio_scsi" => ControllerKind::VirtioScsi,
        "ide" => ControllerKind::Ide,
        "sata" => ControllerKind::Ahci,
        _ => return None,
    })
}
