//! Machines, and the collections that hold them, flattened.
//!
//! Source: DSP0243 1.1.0, 7.2 (Content), 7.3 (extensibility), 8.1 (VirtualHardwareSection), 9.4 (AnnotationSection), 9.7
//! (StartupSection), 9.9 (OperatingSystemSection).

use std::collections::{HashMap, HashSet};

use super::super::error::quoted;
use super::super::model::{Collection, Descriptor, Firmware, Hardware, Medium, Start, VirtualSystem};
use super::super::names;
use super::super::xml::Element;
use super::sections::check_new;
use super::{
    Doubt, OvfError, Reading, attribute, boolean, check_count, malformed, number, required_attribute,
    section_name, trimmed, words,
};

/// A machine or collection that is yet to be read.
struct Pending<'d> {
    element: Element<'d>,
    /// The orders of what it stands in, from the outermost in, and its own.
    orders: Vec<u16>,
    start: Option<Start>,
}

impl Reading {
    /// Reads what the envelope is about: a machine, or collections of them of any depth.
    pub(super) fn content(
        &mut self,
        root: &Element<'_>,
        descriptor: &mut Descriptor,
    ) -> Result<(), OvfError> {
        let mut pending = vec![Pending { element: *root, orders: Vec::new(), start: None }];
        // VMware gives a collection the id of one of its machines.
        let mut ids = HashSet::new();
        let mut collection_ids = HashSet::new();
        let mut orders = Vec::new();
        while let Some(next) = pending.pop() {
            let id = required_attribute(&next.element, "id")?;
            if section_name(&next.element) == "VirtualSystem" {
                check_count(&next.element, descriptor.systems.len(), "machines")?;
                check_new(&next.element, &mut ids, "ovf:id of VirtualSystem", &id)?;
                let system = self.system(&next.element, id)?;
                descriptor.systems.push(VirtualSystem { start: next.start, ..system });
                orders.push(next.orders);
                continue;
            }
            check_new(&next.element, &mut collection_ids, "ovf:id of VirtualSystemCollection", &id)?;
            let collection =
                descriptor.collection.get_or_insert_with(|| Collection { id, ..Collection::default() });
            let mut inside = self.collection(&next, collection)?;
            pending.extend(inside.drain(..).rev());
        }
        flatten_orders(&mut descriptor.systems, &orders);
        Ok(())
    }

    /// Reads a collection's own sections; gives back what it holds.
    fn collection<'d>(
        &mut self,
        collection: &Pending<'d>,
        into: &mut Collection,
    ) -> Result<Vec<Pending<'d>>, OvfError> {
        let mut starts = HashMap::new();
        let mut inside = Vec::new();
        for element in collection.element.children() {
            if !self.applies(&element) {
                continue;
            }
            match section_name(&element).as_ref() {
                "Info" => {}
                "Name" => into.name = into.name.take().or_else(|| self.message(&element)),
                "AnnotationSection" => {
                    let annotation = self.child_message(&element, "Annotation");
                    into.annotation = into.annotation.take().or(annotation);
                }
                "ProductSection" => into.products.push(self.product(&element)?),
                "EulaSection" => into.eulas.extend(self.child_message(&element, "License")),
                "ResourceAllocationSection" => self.allocations(&element, &mut into.allocations)?,
                "StartupSection" => self.starts(&element, &mut starts)?,
                "VirtualSystem" | "VirtualSystemCollection" => inside.push(element),
                _ => self.keep(&element, &mut into.foreign)?,
            }
        }
        let place = |element: Element<'d>| {
            let start = attribute(&element, "id").and_then(|id| starts.remove(id.trim()));
            let (start, _) = start.unzip();
            let mut orders = collection.orders.clone();
            orders.push(start.as_ref().map_or(0, |start: &Start| start.order));
            Pending { element, orders, start }
        };
        let inside = inside.into_iter().map(place).collect();
        for (id, (_, offset)) in starts {
            self.warn_at(offset, Doubt::StartsNothing { id })?;
        }
        Ok(inside)
    }

    /// Reads a `StartupSection`: what starts when, and where that stands.
    fn starts(
        &mut self,
        section: &Element<'_>,
        starts: &mut HashMap<String, (Start, usize)>,
    ) -> Result<(), OvfError> {
        for item in section.children().filter(|element| section_name(element) == "Item") {
            let id = required_attribute(&item, "id")?;
            let numeric = |name: &'static str, most: u64| match attribute(&item, name) {
                None => Ok(0),
                Some(text) => number(&text).filter(|value| *value <= most).ok_or_else(|| {
                    let wanted = format!("a whole number up to {most}");
                    malformed(&item, &format!("ovf:{name} of Item"), &quoted(&text), &wanted)
                }),
            };
            let waits = attribute(&item, "waitingForGuest").and_then(|text| boolean(&text));
            let start = Start {
                order: numeric("order", u16::MAX.into())? as u16,
                delay_s: numeric("startDelay", u32::MAX.into())? as u32,
                waits_for_guest: waits.unwrap_or(false),
            };
            if starts.contains_key(&id) {
                self.warn(&item, Doubt::Repeated { what: "start order", name: id })?;
                continue;
            }
            starts.insert(id, (start, item.offset()));
        }
        Ok(())
    }

    fn system(&mut self, element: &Element<'_>, id: String) -> Result<VirtualSystem, OvfError> {
        let mut system = VirtualSystem { id, ..VirtualSystem::default() };
        let mut hardware: Option<Hardware> = None;
        let mut firmware = None;
        for element in element.children() {
            if !self.applies(&element) {
                continue;
            }
            match section_name(&element).as_ref() {
                "Info" => {}
                "Name" => system.name = system.name.take().or_else(|| self.message(&element)),
                "AnnotationSection" => {
                    let annotation = self.child_message(&element, "Annotation");
                    system.annotation = system.annotation.take().or(annotation);
                }
                "OperatingSystemSection" => {
                    let operating_system = self.operating_system(&element)?;
                    system.operating_system.get_or_insert(operating_system);
                }
                "ProductSection" => system.products.push(self.product(&element)?),
                "EulaSection" => system.eulas.extend(self.child_message(&element, "License")),
                "VirtualHardwareSection" if hardware.is_some() => {
                    self.warn(&element, Doubt::MoreHardware { system: system.id.clone() })?;
                }
                "VirtualHardwareSection" => hardware = Some(self.hardware(&element)?),
                _ => {
                    firmware = firmware.or_else(|| virtualbox_firmware(&element));
                    self.keep(&element, &mut system.foreign)?;
                }
            }
        }
        system.hardware = hardware.unwrap_or_default();
        system.hardware.firmware = system.hardware.firmware.or(firmware);
        Ok(system)
    }

    /// Makes sure that what drives name is there.
    pub(super) fn check_drives(&self, descriptor: &Descriptor) -> Result<(), OvfError> {
        let disks: HashSet<&str> = descriptor.disks.iter().map(|disk| disk.id.as_str()).collect();
        let files: HashSet<&str> = descriptor.files.iter().map(|file| file.id.as_str()).collect();
        let drives = descriptor.systems.iter().flat_map(|system| &system.hardware.drives);
        for (drive, offset) in drives.zip(&self.drive_offsets) {
            let (found, wanted) = match &drive.medium {
                Some(Medium::Disk(id)) if !disks.contains(id.as_str()) => (id, "the diskId of a Disk"),
                Some(Medium::File(id)) if !files.contains(id.as_str()) => (id, "the id of a File"),
                _ => continue,
            };
            let field = format!("HostResource of {}", quoted(&drive.instance));
            let (found, wanted) = (quoted(found), wanted.to_owned());
            return Err(OvfError::Malformed { offset: *offset, field, found, wanted });
        }
        Ok(())
    }
}

/// Makes one order of those of collections in collections.
fn flatten_orders(systems: &mut [VirtualSystem], orders: &[Vec<u16>]) {
    if orders.iter().all(|order| order.len() <= 1) {
        return;
    }
    let mut distinct: Vec<&Vec<u16>> = orders.iter().collect();
    distinct.sort_unstable();
    distinct.dedup();
    if distinct.len() == 1 {
        return;
    }
    for (system, order) in systems.iter_mut().zip(orders) {
        let rank = distinct.partition_point(|other| *other < order);
        let start = system.start.take().unwrap_or_default();
        // At most as many as there are machines.
        system.start = Some(Start { order: rank as u16, ..start });
    }
}

/// What VirtualBox's own section says of the firmware: `<Hardware><Firmware type="EFI"/>`.
fn virtualbox_firmware(section: &Element<'_>) -> Option<Firmware> {
    if section.namespace() != names::VBOX || section.name() != "Machine" {
        return None;
    }
    let named = |name: &'static str| move |element: &Element<'_>| element.name() == name;
    let hardware = section.children().find(named("Hardware"))?;
    let firmware = hardware.children().find(named("Firmware"))?;
    let kind = firmware.attribute(str::is_empty, "type")?;
    match kind.as_ref() {
        "BIOS" => Some(Firmware::Bios),
        kind if kind.starts_with("EFI") => Some(Firmware::Efi),
        _ => None,
    }
}

/// The hardware families that a `System` names.
pub(super) fn hardware_kinds(system: &Element<'_>) -> Vec<String> {
    let kinds = system.children().find(|element| element.name() == "VirtualSystemType");
    words(&kinds.and_then(|kinds| trimmed(&kinds)).unwrap_or_default()).collect()
}
