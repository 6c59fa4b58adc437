//! The sections that hold no machine: files, disks, networks, configurations, products, licences.
//!
//! Source: DSP0243 1.1.0, 7.1 (References), 9.1 (DiskSection), 9.2 (NetworkSection), 9.5 (ProductSection), 9.6
//! (EulaSection), 9.8 (DeploymentOptionSection).

use std::collections::{HashMap, HashSet};

use super::super::error::quoted;
use super::super::model::{
    Compression, DeploymentOption, Descriptor, FileReference, Network, OperatingSystem, Product, Property,
    ResourceAllocation, VirtualDisk,
};
use super::super::names;
use super::super::xml::Element;
use super::{
    Doubt, OvfError, Reading, attribute, boolean, check_count, field, malformed, number, number_attribute,
    required_attribute, section_name, trimmed, units,
};

/// Products of one machine, and properties of one product.
const MOST_PROPERTIES: usize = 1 << 14;

impl Reading {
    pub(super) fn files(&mut self, section: &Element<'_>) -> Result<Vec<FileReference>, OvfError> {
        let mut files: Vec<FileReference> = Vec::new();
        let mut ids = HashSet::new();
        for element in section.children().filter(|element| section_name(element) == "File") {
            check_count(&element, files.len(), "files")?;
            let id = required_attribute(&element, "id")?;
            check_new(&element, &mut ids, "ovf:id of File", &id)?;
            let compression = match attribute(&element, "compression").as_deref() {
                None | Some("" | "identity") => Compression::Identity,
                Some("gzip") => Compression::Gzip,
                Some(other) => {
                    let (offset, field, found) =
                        (element.offset(), field(&element, "compression"), quoted(other));
                    let refused = "only gzip is read";
                    return Err(OvfError::Unsupported { offset, field, found, refused });
                }
            };
            let chunk_bytes = number_attribute(&element, "chunkSize")?;
            if chunk_bytes == Some(0) {
                return Err(malformed(&element, &field(&element, "chunkSize"), "0", "at least one byte"));
            }
            let href = required_attribute(&element, "href")?;
            let size = attribute(&element, "size");
            let size_bytes = size.as_deref().and_then(number);
            if let Some(found) = size.filter(|_| size_bytes.is_none()) {
                let found = found.into_owned();
                self.warn(&element, Doubt::PassedOver { field: "ovf:size of File", found })?;
            }
            files.push(FileReference { id, href, size_bytes, compression, chunk_bytes });
        }
        Ok(files)
    }

    /// The disks of a section. Their sizes may hang on properties of the machines, which have been read.
    pub(super) fn disks(
        &mut self,
        section: &Element<'_>,
        descriptor: &mut Descriptor,
    ) -> Result<(), OvfError> {
        let mut ids: HashSet<String> = descriptor.disks.iter().map(|disk| disk.id.clone()).collect();
        let used = descriptor.used_disks();
        let mut shared = None;
        for element in section.children() {
            match section_name(&element).as_ref() {
                "Disk" => {}
                "SharedDisk" => {
                    shared = shared.or(Some(element));
                    continue;
                }
                _ => continue,
            }
            check_count(&element, descriptor.disks.len(), "disks")?;
            let id = required_attribute(&element, "diskId")?;
            check_new(&element, &mut ids, "ovf:diskId of Disk", &id)?;
            let Some(capacity_bytes) = self.capacity(&element, descriptor, used.contains(&id))? else {
                self.warn(&element, Doubt::DiskLeftOut { id })?;
                continue;
            };
            let text = |name| {
                attribute(&element, name).filter(|text| !text.is_empty()).map(|text| text.into_owned())
            };
            let file = text("fileRef").map(|file| self.file_id(&element, file, descriptor)).transpose()?;
            let (parent, format) = (text("parentRef"), text("format"));
            let populated_bytes = attribute(&element, "populatedSize").and_then(|text| number(&text));
            descriptor.disks.push(VirtualDisk { id, capacity_bytes, file, parent, format, populated_bytes });
        }
        if let Some(shared) =
            shared.filter(|shared| attribute(shared, "diskId").is_some_and(|id| used.contains(id.as_ref())))
        {
            let (offset, field) = (shared.offset(), "SharedDisk".to_owned());
            let refused = "a disk that several machines write to is not read";
            return Err(OvfError::Unsupported {
                offset,
                field,
                found: "used by a drive".to_owned(),
                refused,
            });
        }
        check_parents(section, descriptor)
    }

    /// The id of the file that a disk names; oVirt names it by its folder and id.
    fn file_id(
        &self,
        element: &Element<'_>,
        file: String,
        descriptor: &Descriptor,
    ) -> Result<String, OvfError> {
        let by_href = || descriptor.files.iter().find(|known| self.ovirt && known.href == file);
        match descriptor.file(&file).or_else(by_href) {
            Some(known) => Ok(known.id.clone()),
            None => Err(malformed(element, "ovf:fileRef of Disk", &quoted(&file), "the id of a File")),
        }
    }

    /// The size of a disk in bytes; `None` if a property gives it that has no number here, and no drive uses the disk.
    fn capacity(
        &self,
        element: &Element<'_>,
        descriptor: &Descriptor,
        is_used: bool,
    ) -> Result<Option<u64>, OvfError> {
        const FIELD: &str = "ovf:capacity of Disk";
        let (text, unit) = match attribute(element, "capacity") {
            Some(text) => (text, attribute(element, "capacityAllocationUnits")),
            // oVirt's own exports, in GiB.
            None if self.ovirt => match attribute(element, "size") {
                Some(text) => (text, Some("byte * 2^30".into())),
                None => return Err(malformed(element, FIELD, "missing", "the size of the disk")),
            },
            None if !is_used => return Ok(None),
            None => return Err(malformed(element, FIELD, "missing", "the size of the disk")),
        };
        let key = text.trim().strip_prefix("${").and_then(|rest| rest.strip_suffix('}'));
        let value = match key {
            None => number(&text),
            Some(key) => match descriptor.property_value(key).and_then(number) {
                None if !is_used => return Ok(None),
                value => value,
            },
        };
        let Some(value) = value else {
            let wanted = match key {
                Some(_) => "a property whose default is a whole number",
                None => super::WHOLE_NUMBER,
            };
            return Err(malformed(element, FIELD, &quoted(&text), wanted));
        };
        let unit = unit.as_deref().filter(|unit| !unit.trim().is_empty()).unwrap_or("byte");
        let Some(unit_bytes) = units::bytes(unit) else {
            let field = field(element, "capacityAllocationUnits");
            return Err(malformed(element, &field, &quoted(unit), "bytes, as `byte * 2^30`"));
        };
        match value.checked_mul(unit_bytes) {
            Some(bytes) => Ok(Some(bytes)),
            None => {
                let found = format!("{value} times {unit_bytes} bytes");
                Err(malformed(element, FIELD, &found, "less than 2^64 bytes"))
            }
        }
    }

    pub(super) fn networks(
        &mut self,
        section: &Element<'_>,
        networks: &mut Vec<Network>,
    ) -> Result<(), OvfError> {
        for element in section.children().filter(|element| section_name(element) == "Network") {
            if !self.applies(&element) {
                continue;
            }
            check_count(&element, networks.len(), "networks")?;
            let name = required_attribute(&element, "name")?;
            if networks.iter().any(|network| network.name == name) {
                self.warn(&element, Doubt::Repeated { what: "network", name })?;
                continue;
            }
            let description = self.child_message(&element, "Description");
            networks.push(Network { name, description });
        }
        Ok(())
    }

    pub(super) fn options(&mut self, root: &Element<'_>) -> Result<Vec<DeploymentOption>, OvfError> {
        let mut options: Vec<DeploymentOption> = Vec::new();
        let mut ids = HashSet::new();
        let sections = root.children().filter(|element| section_name(element) == "DeploymentOptionSection");
        for element in sections.flat_map(|section| section.children()) {
            if section_name(&element) != "Configuration" {
                continue;
            }
            check_count(&element, options.len(), "configurations")?;
            let id = required_attribute(&element, "id")?;
            check_new(&element, &mut ids, "ovf:id of Configuration", &id)?;
            let is_default = attribute(&element, "default").and_then(|text| boolean(&text)).unwrap_or(false);
            let label = self.child_message(&element, "Label");
            let description = self.child_message(&element, "Description");
            options.push(DeploymentOption { id, label, description, is_default });
        }
        Ok(options)
    }

    pub(super) fn product(&mut self, section: &Element<'_>) -> Result<Product, OvfError> {
        let text =
            |name| attribute(section, name).filter(|text| !text.is_empty()).map(|text| text.into_owned());
        let mut product = Product { class: text("class"), instance: text("instance"), ..Product::default() };
        let mut category = None;
        for element in section.children() {
            match section_name(&element).as_ref() {
                "Product" => product.name = self.message(&element),
                "Vendor" => product.vendor = self.message(&element),
                "Version" => product.version = trimmed(&element),
                "FullVersion" => product.full_version = trimmed(&element),
                "ProductUrl" => product.product_url = trimmed(&element),
                "VendorUrl" => product.vendor_url = trimmed(&element),
                "AppUrl" => product.app_url = trimmed(&element),
                "Category" => category = self.message(&element),
                "Property" if self.applies(&element) => {
                    if product.properties.len() == MOST_PROPERTIES {
                        let what = "properties in one product";
                        return Err(OvfError::TooMany {
                            offset: element.offset(),
                            what,
                            most: MOST_PROPERTIES,
                        });
                    }
                    if let Some(property) = self.property(&element, category.as_deref())? {
                        product.properties.push(property);
                    }
                }
                _ => {}
            }
        }
        Ok(product)
    }

    fn property(
        &mut self,
        element: &Element<'_>,
        category: Option<&str>,
    ) -> Result<Option<Property>, OvfError> {
        let Some(key) = attribute(element, "key").filter(|key| !key.trim().is_empty()) else {
            let found = attribute(element, "key").unwrap_or_default().into_owned();
            self.warn(element, Doubt::PassedOver { field: "ovf:key of Property", found })?;
            return Ok(None);
        };
        if key.contains(['.', ':']) {
            self.warn(element, Doubt::PropertyKey { key: key.clone().into_owned() })?;
        }
        let flag = |name| attribute(element, name).and_then(|text| boolean(&text)).unwrap_or(false);
        let text = |name| attribute(element, name).map(|text| text.into_owned());
        let for_this = element.children().filter(|child| section_name(child) == "Value");
        let for_this =
            for_this.filter(|child| attribute(child, "configuration").is_some() && self.applies(child));
        let for_this = for_this.filter_map(|child| attribute(&child, "value")).next();
        Ok(Some(Property {
            key: key.into_owned(),
            kind: text("type").unwrap_or_default(),
            value: for_this.map(|value| value.into_owned()).or_else(|| text("value")),
            user_configurable: flag("userConfigurable"),
            password: flag("password"),
            qualifiers: text("qualifiers"),
            label: self.child_message(element, "Label"),
            description: self.child_message(element, "Description"),
            category: category.and_then(|category| self.repeated(category)),
        }))
    }

    pub(super) fn operating_system(&mut self, section: &Element<'_>) -> Result<OperatingSystem, OvfError> {
        let id = match attribute(section, "id") {
            None => 0,
            Some(text) => match number(&text).and_then(|id| u16::try_from(id).ok()) {
                Some(id) => id,
                None => {
                    let (field, found) = ("ovf:id of OperatingSystemSection", text.into_owned());
                    self.warn(section, Doubt::PassedOver { field, found })?;
                    0
                }
            },
        };
        let vmware_type = section.attribute(names::is_vmware, "osType").filter(|text| !text.is_empty());
        Ok(OperatingSystem {
            id,
            version: attribute(section, "version")
                .filter(|text| !text.is_empty())
                .map(|text| text.into_owned()),
            description: self.child_message(section, "Description"),
            vmware_type: vmware_type.map(|text| text.into_owned()),
        })
    }

    /// The text of the first element of this name right inside `element`.
    pub(super) fn child_message(&self, element: &Element<'_>, name: &str) -> Option<String> {
        let child = element.children().find(|child| section_name(child) == name)?;
        self.message(&child)
    }

    pub(super) fn allocations(
        &mut self,
        section: &Element<'_>,
        allocations: &mut Vec<ResourceAllocation>,
    ) -> Result<(), OvfError> {
        for item in section.children().filter(|element| section_name(element) == "Item") {
            if !self.applies(&item) || attribute(&item, "bound").is_some_and(|bound| bound != "normal") {
                continue;
            }
            check_count(&item, allocations.len(), "resource allocations")?;
            let mut allocation = ResourceAllocation::default();
            for element in item.children().filter(|element| names::is_cim(element.namespace())) {
                let text = trimmed(&element).unwrap_or_default();
                match element.name() {
                    "ResourceType" => {
                        let kind = number(&text).and_then(|kind| u16::try_from(kind).ok());
                        let wanted = "a number of CIM's resource types";
                        allocation.resource_type =
                            kind.ok_or_else(|| malformed(&element, "ResourceType", &quoted(&text), wanted))?;
                    }
                    "AllocationUnits" => allocation.units = Some(text).filter(|text| !text.is_empty()),
                    "Reservation" => allocation.reservation = number(&text),
                    "Limit" => allocation.limit = number(&text),
                    "Weight" => allocation.weight = number(&text),
                    _ => {}
                }
            }
            allocations.push(allocation);
        }
        Ok(())
    }
}

impl Descriptor {
    /// The default of a property, by its key or full key.
    fn property_value(&self, key: &str) -> Option<&str> {
        let of_systems = self.systems.iter().flat_map(|system| &system.products);
        let of_collection = self.collection.iter().flat_map(|collection| &collection.products);
        let mut properties = of_systems
            .chain(of_collection)
            .flat_map(|product| product.properties.iter().map(move |property| (product, property)));
        let (_, found) = properties
            .find(|(product, property)| property.key == key || product.full_key(property) == key)?;
        found.value.as_deref()
    }
}

/// Refuses an id that is there already.
pub(super) fn check_new(
    element: &Element<'_>,
    ids: &mut HashSet<String>,
    field: &str,
    id: &str,
) -> Result<(), OvfError> {
    if ids.insert(id.to_owned()) {
        return Ok(());
    }
    Err(malformed(element, field, &format!("{} again", quoted(id)), "an id of its own"))
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
