//! Virtual disks: how large they are, what holds them, and what they are differences to.
//!
//! Source: DSP0243 1.1.0, 9.1 (DiskSection).

use std::collections::{HashMap, HashSet};

use super::super::error::quoted;
use super::super::model::{Descriptor, Medium, VirtualDisk};
use super::super::xml::Element;
use super::sections::check_new;
use super::{
    Doubt, OvfError, Reading, WHOLE_NUMBER, attribute, check_count, field, malformed, number,
    required_attribute, section_name, units,
};

/// The longest key of a property that a size may hang on.
const MOST_KEY_BYTES: usize = 128;

/// What the sizes of disks depend on.
struct Known {
    /// The disks that drives use.
    used: HashSet<String>,
    /// The defaults of properties, by key and full key, as far as they are numbers.
    defaults: HashMap<String, Option<u64>>,
}

impl Reading {
    /// The disks of all sections. Their sizes may hang on properties of the machines, which have been read.
    pub(super) fn disks(
        &mut self,
        sections: &[Element<'_>],
        descriptor: &mut Descriptor,
    ) -> Result<(), OvfError> {
        let known = Known { used: used_disks(descriptor), defaults: defaults(descriptor) };
        let mut ids = HashSet::new();
        for element in sections.iter().flat_map(|section| section.children()) {
            match section_name(&element).as_ref() {
                "Disk" => {}
                "SharedDisk" => {
                    check_shared(&element, &known)?;
                    continue;
                }
                _ => continue,
            }
            check_count(&element, descriptor.disks.len(), "disks")?;
            let id = required_attribute(&element, "diskId")?;
            check_new(&element, &mut ids, "ovf:diskId of Disk", &id)?;
            let Some(capacity_bytes) = self.capacity(&element, &known, known.used.contains(&id))? else {
                self.warn(&element, Doubt::DiskLeftOut { id })?;
                continue;
            };
            let text = |name| {
                attribute(&element, name).filter(|text| !text.is_empty()).map(|text| text.into_owned())
            };
            let file = text("fileRef").map(|file| self.file_id(&element, &file, descriptor)).transpose()?;
            let (parent, format) = (text("parentRef"), text("format"));
            let populated_bytes = attribute(&element, "populatedSize").and_then(|text| number(&text));
            descriptor.disks.push(VirtualDisk { id, capacity_bytes, file, parent, format, populated_bytes });
        }
        match sections.first() {
            Some(section) => check_parents(section, descriptor),
            None => Ok(()),
        }
    }

    /// The id of the file that a disk names; oVirt names it by its folder and id.
    fn file_id(
        &self,
        element: &Element<'_>,
        file: &str,
        descriptor: &Descriptor,
    ) -> Result<String, OvfError> {
        let by_href = || descriptor.files.iter().find(|known| self.ovirt && known.href == file);
        match descriptor.file(file).or_else(by_href) {
            Some(known) => Ok(known.id.clone()),
            None => Err(malformed(element, "ovf:fileRef of Disk", &quoted(file), "the id of a File")),
        }
    }

    /// The size of a disk in bytes; `None` if it is not known in this configuration, and no drive uses the disk.
    fn capacity(&self, element: &Element<'_>, known: &Known, is_used: bool) -> Result<Option<u64>, OvfError> {
        const FIELD: &str = "ovf:capacity of Disk";
        let (text, unit) = match attribute(element, "capacity") {
            Some(text) => (text, attribute(element, "capacityAllocationUnits")),
            // oVirt's own exports, in GiB.
            None => match attribute(element, "size").filter(|_| self.ovirt) {
                Some(text) => (text, Some("byte * 2^30".into())),
                None if !is_used => return Ok(None),
                None => return Err(malformed(element, FIELD, "missing", "the size of the disk")),
            },
        };
        let key = text.trim().strip_prefix("${").and_then(|rest| rest.strip_suffix('}'));
        let (value, wanted) = match key {
            None => (number(&text), WHOLE_NUMBER),
            Some(key) => {
                let value = known.defaults.get(key).copied().flatten();
                if value.is_none() && !is_used {
                    return Ok(None);
                }
                (value, "a property whose default is a whole number")
            }
        };
        let Some(value) = value else {
            return Err(malformed(element, FIELD, &quoted(&text), wanted));
        };
        let unit = unit.as_deref().filter(|unit| !unit.trim().is_empty()).unwrap_or("byte");
        let Some(unit_bytes) = units::bytes(unit) else {
            let field = field(element, "capacityAllocationUnits");
            return Err(malformed(element, &field, &quoted(unit), "bytes, as `byte * 2^30`"));
        };
        let Some(bytes) = value.checked_mul(unit_bytes) else {
            let found = format!("{value} times {unit_bytes} bytes");
            return Err(malformed(element, FIELD, &found, "less than 2^64 bytes"));
        };
        Ok(Some(bytes))
    }
}

/// The ids of the disks that drives use.
fn used_disks(descriptor: &Descriptor) -> HashSet<String> {
    let drives = descriptor.systems.iter().flat_map(|system| &system.hardware.drives);
    let used = drives.filter_map(|drive| match &drive.medium {
        Some(Medium::Disk(id)) => Some(id.clone()),
        _ => None,
    });
    used.collect()
}

fn defaults(descriptor: &Descriptor) -> HashMap<String, Option<u64>> {
    let of_systems = descriptor.systems.iter().flat_map(|system| &system.products);
    let of_collection = descriptor.collection.iter().flat_map(|collection| &collection.products);
    let mut defaults = HashMap::new();
    for product in of_systems.chain(of_collection) {
        let around =
            [&product.class, &product.instance].into_iter().flatten().map(String::len).sum::<usize>();
        for property in product.properties.iter().filter(|property| property.key.len() <= MOST_KEY_BYTES) {
            let value = property.value.as_deref().and_then(number);
            defaults.entry(property.key.clone()).or_insert(value);
            if (1..=MOST_KEY_BYTES).contains(&around) {
                defaults.entry(product.full_key(property)).or_insert(value);
            }
        }
    }
    defaults
}

fn check_shared(element: &Element<'_>, known: &Known) -> Result<(), OvfError> {
    match attribute(element, "diskId") {
        Some(id) if known.used.contains(id.as_ref()) => Err(OvfError::Unsupported {
            offset: element.offset(),
            field: "SharedDisk".to_owned(),
            found: "used by a drive".to_owned(),
            refused: "a disk that several machines write to is not read",
        }),
        _ => Ok(()),
    }
}

/// Differences must lead to a disk that is none.
fn check_parents(section: &Element<'_>, descriptor: &Descriptor) -> Result<(), OvfError> {
    let places: HashMap<&str, usize> =
        descriptor.disks.iter().enumerate().map(|(at, disk)| (disk.id.as_str(), at)).collect();
    // A disk that was seen on an earlier walk leads to an end, or the walk would have failed.
    let mut seen_on = vec![usize::MAX; descriptor.disks.len()];
    for start in 0..descriptor.disks.len() {
        let mut at = start;
        while seen_on[at] == usize::MAX {
            seen_on[at] = start;
            let Some(parent) = descriptor.disks[at].parent.as_deref() else { break };
            let Some(&next) = places.get(parent) else {
                return Err(malformed(section, "ovf:parentRef of Disk", &quoted(parent), "the id of a Disk"));
            };
            if seen_on[next] == start {
                let wanted = "a chain of disks that ends";
                return Err(malformed(section, "ovf:parentRef of Disk", &quoted(parent), wanted));
            }
            at = next;
        }
    }
    Ok(())
}
