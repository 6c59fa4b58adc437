//! The `VirtualHardwareSection`, written.
//!
//! Titles stand in `Caption` too, which older VirtualBoxes read instead of `ElementName`.
//!
//! Source: DSP0243 1.1.0, 8; CIM_ResourceAllocationSettingData; sub-types as ovftool writes them, since VirtualBox knows
//! those too.

use std::collections::HashMap;

use super::super::OvfWriteError;
use super::super::model::{
    Controller, ControllerKind, Drive, DriveKind, Firmware, Hardware, Medium, Nic, NicKind, SettingKind,
    VirtualSystem,
};
use super::super::read::resource;
use super::xml::Writer;

pub(super) fn write(out: &mut Writer, system: &VirtualSystem) -> Result<(), OvfWriteError> {
    let hardware = &system.hardware;
    out.start("VirtualHardwareSection");
    if !hardware.transports.is_empty() {
        out.attribute("ovf:transport", &hardware.transports.join(" "))?;
    }
    out.end_start();
    out.element("Info", "Virtual hardware requirements")?;
    if !hardware.kinds.is_empty() {
        out.open("System");
        out.element("vssd:ElementName", "Virtual Hardware Family")?;
        out.number("vssd:InstanceID", 0);
        out.element("vssd:VirtualSystemIdentifier", system.name.as_deref().unwrap_or(&system.id))?;
        out.element("vssd:VirtualSystemType", &hardware.kinds.join(" "))?;
        out.close("System");
    }
    items(out, hardware)?;
    settings(out, hardware)?;
    super::foreign(out, &hardware.foreign)?;
    out.close("VirtualHardwareSection");
    Ok(())
}

fn items(out: &mut Writer, hardware: &Hardware) -> Result<(), OvfWriteError> {
    let mut instances = 1..;
    let mut next = || instances.next().unwrap_or(u64::MAX);
    if let Some(vcpus) = hardware.vcpus {
        processors(out, vcpus, hardware.cores_per_socket, next())?;
    }
    if let Some(memory_bytes) = hardware.memory_bytes {
        memory(out, memory_bytes, next())?;
    }
    let mut controllers = HashMap::new();
    for controller in &hardware.controllers {
        let instance = next();
        controllers.insert(controller.instance.as_str(), instance);
        write_controller(out, controller, instance)?;
    }
    for drive in &hardware.drives {
        let parent = drive.controller.as_deref().and_then(|controller| controllers.get(controller).copied());
        write_drive(out, drive, parent, next())?;
    }
    for nic in &hardware.nics {
        write_nic(out, nic, next())?;
    }
    for other in &hardware.others {
        let instance = next();
        out.start("Item");
        out.attribute("ovf:required", "false")?;
        out.end_start();
        let name = other.name.as_deref().unwrap_or("Device");
        out.element("rasd:AutomaticAllocation", "false")?;
        out.element("rasd:Caption", name)?;
        out.element("rasd:ElementName", name)?;
        out.number("rasd:InstanceID", instance);
        out.some_element("rasd:ResourceSubType", other.sub_type.as_deref())?;
        out.number("rasd:ResourceType", other.resource_type.into());
        out.close("Item");
    }
    Ok(())
}

fn processors(
    out: &mut Writer,
    vcpus: u32,
    cores_per_socket: Option<u32>,
    instance: u64,
) -> Result<(), OvfWriteError> {
    out.open("Item");
    out.element("rasd:AllocationUnits", "hertz * 10^6")?;
    let name = format!("{vcpus} virtual CPU(s)");
    out.element("rasd:Caption", &name)?;
    out.element("rasd:Description", "Number of Virtual CPUs")?;
    out.element("rasd:ElementName", &name)?;
    out.number("rasd:InstanceID", instance);
    out.number("rasd:ResourceType", resource::PROCESSOR.into());
    out.number("rasd:VirtualQuantity", vcpus.into());
    if let Some(cores) = cores_per_socket {
        out.verbatim(&format!("<vmw:CoresPerSocket ovf:required=\"false\">{cores}</vmw:CoresPerSocket>"));
    }
    out.close("Item");
    Ok(())
}

/// Memory in MiB, the only unit that VMware takes, where it is a whole number of them.
fn memory(out: &mut Writer, memory_bytes: u64, instance: u64) -> Result<(), OvfWriteError> {
    const MIB: u64 = 1 << 20;
    let (units, name, quantity) = match memory_bytes % MIB {
        0 => ("byte * 2^20", "MB", memory_bytes / MIB),
        _ => ("byte", " bytes", memory_bytes),
    };
    out.open("Item");
    out.element("rasd:AllocationUnits", units)?;
    let name = format!("{quantity}{name} of memory");
    out.element("rasd:Caption", &name)?;
    out.element("rasd:Description", "Memory Size")?;
    out.element("rasd:ElementName", &name)?;
    out.number("rasd:InstanceID", instance);
    out.number("rasd:ResourceType", resource::MEMORY.into());
    out.number("rasd:VirtualQuantity", quantity);
    out.close("Item");
    Ok(())
}

fn write_controller(out: &mut Writer, controller: &Controller, instance: u64) -> Result<(), OvfWriteError> {
    let (resource_type, sub_type, name) = controller_words(controller.kind);
    out.open("Item");
    out.some_number("rasd:Address", controller.address.map(u64::from));
    let title = format!("{name} {instance}");
    out.element("rasd:Caption", &title)?;
    out.element("rasd:Description", name)?;
    out.element("rasd:ElementName", &title)?;
    out.number("rasd:InstanceID", instance);
    out.some_element("rasd:ResourceSubType", sub_type)?;
    out.number("rasd:ResourceType", resource_type.into());
    out.close("Item");
    Ok(())
}

/// `ResourceType`, `ResourceSubType` and title.
fn controller_words(kind: ControllerKind) -> (u16, Option<&'static str>, &'static str) {
    match kind {
        ControllerKind::Ide => (resource::IDE, None, "IDE Controller"),
        ControllerKind::Scsi => (resource::SCSI, None, "SCSI Controller"),
        ControllerKind::LsiLogic => (resource::SCSI, Some("lsilogic"), "SCSI Controller"),
        ControllerKind::LsiLogicSas => (resource::SCSI, Some("lsilogicsas"), "SCSI Controller"),
        ControllerKind::BusLogic => (resource::SCSI, Some("buslogic"), "SCSI Controller"),
        ControllerKind::PvScsi => (resource::SCSI, Some("VirtualSCSI"), "SCSI Controller"),
        ControllerKind::VirtioScsi => (resource::OTHER_STORAGE, Some("VirtioSCSI"), "SCSI Controller"),
        ControllerKind::VirtioBlock => (resource::OTHER_STORAGE, Some("virtio"), "Virtio Controller"),
        ControllerKind::Ahci => (resource::OTHER_STORAGE, Some("vmware.sata.ahci"), "SATA Controller"),
        ControllerKind::Nvme => (resource::OTHER_STORAGE, Some("vmware.nvme.controller"), "NVMe Controller"),
    }
}

fn write_drive(
    out: &mut Writer,
    drive: &Drive,
    parent: Option<u64>,
    instance: u64,
) -> Result<(), OvfWriteError> {
    let (resource_type, name) = match drive.kind {
        DriveKind::Disk => (resource::DISK, "Hard Disk"),
        DriveKind::CdRom => (resource::CD, "CD-ROM"),
        DriveKind::Floppy => (resource::FLOPPY, "Floppy"),
    };
    out.open("Item");
    out.some_number("rasd:AddressOnParent", drive.address.map(u64::from));
    let blank_bytes = match drive.medium {
        Some(Medium::Blank { capacity_bytes }) => Some(capacity_bytes),
        _ => None,
    };
    out.some_element("rasd:AllocationUnits", blank_bytes.map(|_| "byte"))?;
    if drive.kind != DriveKind::Disk {
        out.element("rasd:AutomaticAllocation", if drive.medium.is_some() { "true" } else { "false" })?;
    }
    let generated = format!("{name} {instance}");
    let title = drive.name.as_deref().unwrap_or(&generated);
    out.element("rasd:Caption", title)?;
    out.element("rasd:ElementName", title)?;
    match &drive.medium {
        Some(Medium::Disk(id)) => out.element("rasd:HostResource", &format!("ovf:/disk/{id}"))?,
        Some(Medium::File(id)) => out.element("rasd:HostResource", &format!("ovf:/file/{id}"))?,
        Some(Medium::Blank { .. }) | None => {}
    }
    out.number("rasd:InstanceID", instance);
    out.some_number("rasd:Parent", parent);
    out.number("rasd:ResourceType", resource_type.into());
    out.some_number("rasd:VirtualQuantity", blank_bytes);
    out.close("Item");
    Ok(())
}

fn write_nic(out: &mut Writer, nic: &Nic, instance: u64) -> Result<(), OvfWriteError> {
    let sub_type = nic.kind.map(|kind| match kind {
        NicKind::PcNet => "PCNet32",
        NicKind::E1000 => "E1000",
        NicKind::E1000e => "E1000e",
        NicKind::Rtl8139 => "RTL8139",
        NicKind::VmxNet => "VmxNet",
        NicKind::VmxNet3 => "VmxNet3",
        NicKind::Virtio => "virtio",
    });
    let mac = nic.mac.map(|mac| mac.map(|byte| format!("{byte:02x}")).join(":"));
    out.open("Item");
    out.some_element("rasd:Address", mac.as_deref())?;
    out.some_number("rasd:AddressOnParent", nic.address.map(u64::from));
    out.element("rasd:AutomaticAllocation", if nic.connected { "true" } else { "false" })?;
    let generated = format!("Ethernet {instance}");
    let title = nic.name.as_deref().unwrap_or(&generated);
    out.element("rasd:Caption", title)?;
    out.some_element("rasd:Connection", nic.network.as_deref())?;
    out.element("rasd:ElementName", title)?;
    out.number("rasd:InstanceID", instance);
    out.some_element("rasd:ResourceSubType", sub_type)?;
    out.number("rasd:ResourceType", resource::ETHERNET.into());
    out.close("Item");
    Ok(())
}

fn settings(out: &mut Writer, hardware: &Hardware) -> Result<(), OvfWriteError> {
    let firmware = hardware.firmware.map(|firmware| match firmware {
        Firmware::Bios => "bios",
        Firmware::Efi => "efi",
    });
    let secure_boot = hardware.secure_boot.map(|secure_boot| if secure_boot { "true" } else { "false" });
    let own = [("firmware", firmware), ("bootOptions.efiSecureBootEnabled", secure_boot)];
    for (key, value) in own {
        value.map_or(Ok(()), |value| setting(out, SettingKind::Config, key, value))?;
    }
    hardware.settings.iter().try_for_each(|known| setting(out, known.kind, &known.key, &known.value))
}

fn setting(out: &mut Writer, kind: SettingKind, key: &str, value: &str) -> Result<(), OvfWriteError> {
    out.start(match kind {
        SettingKind::Config => "vmw:Config",
        SettingKind::ExtraConfig => "vmw:ExtraConfig",
    });
    out.attribute("ovf:required", "false")?;
    out.attribute("vmw:key", key)?;
    out.attribute("vmw:value", value)?;
    out.end_empty();
    Ok(())
}
