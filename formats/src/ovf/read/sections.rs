//! The sections that hold no machine: files, networks, configurations, products, licences.
//!
//! Source: DSP0243 1.1.0, 7.1 (References), 9.2 (NetworkSection), 9.5 (ProductSection), 9.6
//! (EulaSection), 9.8 (DeploymentOptionSection).

use std::collections::HashSet;

use super::super::error::quoted;
use super::super::model::{
    Compression, DeploymentOption, FileReference, Network, OperatingSystem, Product, Property,
    ResourceAllocation,
};
use super::super::names;
use super::super::xml::Element;
use super::{
    Doubt, OvfError, Reading, attribute, boolean, check_count, field, malformed, number, number_attribute,
    required_attribute, section_name, trimmed,
};

/// Products of one machine, and properties of one product.
const MOST_PROPERTIES: usize = 1 << 14;
/// A product's class and instance, which are part of the full key of each of its properties.
const MOST_CLASS_BYTES: usize = 256;

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
        let part_of_keys = |name| match attribute(section, name) {
            Some(text) if text.len() > MOST_CLASS_BYTES => {
                let found = format!("{} bytes long", text.len());
                let wanted = format!("at most {MOST_CLASS_BYTES} bytes");
                Err(malformed(section, &field(section, name), &found, &wanted))
            }
            text => Ok(text.filter(|text| !text.is_empty()).map(|text| text.into_owned())),
        };
        let (class, instance) = (part_of_keys("class")?, part_of_keys("instance")?);
        let mut product = Product { class, instance, ..Product::default() };
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
