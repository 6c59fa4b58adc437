//! What oVirt and RHV say of a disk where others have a controller: `ovf:disk-interface="VirtIO_SCSI"`.
//!
//! Source: the OVF writers of oVirt's engine.

use std::collections::HashMap;

use super::super::model::{Controller, Descriptor, Medium};
use super::super::xml::Element;
use super::{attribute, kinds, section_name};

/// Gives the machines the controllers that their disks in `sections` ask for.
pub(super) fn add_controllers(sections: &[Element<'_>], descriptor: &mut Descriptor) {
    let disks = sections.iter().flat_map(|section| section.children());
    let interface = |disk: Element<'_>| {
        let id = attribute(&disk, "diskId")?.into_owned();
        let interface = attribute(&disk, "disk-interface")?.to_ascii_lowercase();
        Some((id, kinds::ovirt_interface(&interface)?))
    };
    let interfaces: HashMap<_, _> =
        disks.filter(|disk| section_name(disk) == "Disk").filter_map(interface).collect();
    for system in &mut descriptor.systems {
        let hardware = &mut system.hardware;
        for drive in hardware.drives.iter_mut().filter(|drive| drive.controller.is_none()) {
            let Some(Medium::Disk(id)) = &drive.medium else { continue };
            let Some(&kind) = interfaces.get(id) else { continue };
            let known = hardware.controllers.iter().find(|controller| controller.kind == kind);
            let instance = known.map_or_else(|| format!("{kind:?}"), |known| known.instance.clone());
            if known.is_none() {
                hardware.controllers.push(Controller { instance: instance.clone(), kind, address: None });
            }
            drive.controller = Some(instance);
        }
    }
}
