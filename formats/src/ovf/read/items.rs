//! Virtual hardware: the items of a `VirtualHardwareSection`, each one device or quantity.
//!
//! ```text
//! elements --> Item (one per InstanceID for the chosen configuration, none of its bounds) --> Hardware
//! ```
//!
//! Source: DSP0243 1.1.0, 8.1 to 8.4, 9.8; CIM_ResourceAllocationSettingData, CIM_StorageAllocationSettingData,
//! CIM_EthernetPortAllocationSettingData.

use std::collections::{HashMap, HashSet};

use super::super::error::quoted;
use super::super::model::{
    Controller, Drive, DriveKind, Firmware, Hardware, Medium, Nic, OtherDevice, Setting, SettingKind,
};
use super::super::names;
use super::super::xml::Element;
use super::kinds::{self, Device, Said, resource};
use super::systems::hardware_kinds;
use super::{
    Doubt, MOST_ID_BYTES, OvfError, Reading, attribute, boolean, check_count, is_required, malformed, number,
    section_name, trimmed, units, words,
};

/// Kinds that one item may be of.
const MOST_SUB_TYPES: usize = 16;

/// An item as it stands in the document.
#[derive(Debug)]
struct Item<'d> {
    element: Element<'d>,
    resource_type: u16,
    /// Without repetitions of `Connection` and `HostResource`, of which the first counts.
    texts: HashMap<&'d str, String>,
    sub_types: Vec<String>,
    cores_per_socket: Option<String>,
    instance: String,
    rank: Rank,
}

/// How well an item fits the chosen configuration, the best last. Of those that share an `InstanceID` it is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    bound: Bound,
    /// It names the chosen configuration, and so replaces what is for all of them.
    names_configuration: bool,
}

/// `ovf:bound`: the limits of a range, and what to take in between.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Bound {
    Max,
    Min,
    Normal,
    None,
}

impl Reading {
    pub(super) fn hardware(&mut self, section: &Element<'_>) -> Result<Hardware, OvfError> {
        let transports = attribute(section, "transport").unwrap_or_default();
        let mut hardware = Hardware { transports: words(&transports).collect(), ..Hardware::default() };
        let mut items = Vec::new();
        for element in section.children() {
            match section_name(&element).as_ref() {
                "Info" => {}
                "System" if hardware.kinds.is_empty() => hardware.kinds = hardware_kinds(&element),
                "System" => {}
                "Item" | "EthernetPortItem" | "StorageItem" => {
                    check_count(&element, items.len(), "items")?;
                    if self.applies(&element) {
                        items.extend(self.item(&element)?);
                    }
                }
                _ if names::is_vmware(element.namespace()) => self.setting(&element, &mut hardware)?,
                _ => self.keep(&element, &mut hardware.foreign)?,
            }
        }
        for item in self.chosen_items(items)? {
            self.add(&item, &mut hardware)?;
        }
        self.attach_drives(section, &mut hardware)?;
        Ok(hardware)
    }

    /// Reads an item's elements; `None` if it is not understood and may be missing.
    fn item<'d>(&mut self, element: &Element<'d>) -> Result<Option<Item<'d>>, OvfError> {
        let mut item = Item {
            element: *element,
            resource_type: 0,
            texts: HashMap::new(),
            sub_types: Vec::new(),
            cores_per_socket: None,
            instance: String::new(),
            rank: self.rank(element)?,
        };
        for child in element.children() {
            let text = trimmed(&child).unwrap_or_default();
            if names::is_vmware(child.namespace()) && child.name() == "CoresPerSocket" {
                item.cores_per_socket = Some(text);
            } else if !names::is_cim(child.namespace()) {
                check_not_required(&child)?;
            } else if child.name() == "ResourceSubType" {
                let left = MOST_SUB_TYPES.saturating_sub(item.sub_types.len());
                item.sub_types.extend(words(&text).take(left));
            } else if !text.is_empty() {
                let name = if child.name() == "InstanceId" { "InstanceID" } else { child.name() };
                item.texts.entry(name).or_insert(text);
            }
        }
        item.instance = item.texts.remove("InstanceID").unwrap_or_default();
        if item.instance.len() > MOST_ID_BYTES {
            let found = format!("{} bytes long", item.instance.len());
            return Err(malformed(element, "InstanceID", &found, &format!("at most {MOST_ID_BYTES} bytes")));
        }
        item.resource_type = match (item.texts.get("ResourceType"), element.name()) {
            (Some(text), _) => number(text).and_then(|kind| u16::try_from(kind).ok()).ok_or_else(|| {
                malformed(element, "ResourceType", &quoted(text), "a number of CIM's resource types")
            })?,
            (None, "EthernetPortItem") => resource::ETHERNET,
            (None, "StorageItem") => resource::LOGICAL_DISK,
            (None, _) if is_required(element) => {
                return Err(malformed(
                    element,
                    "ResourceType",
                    "missing",
                    "a number of CIM's resource types",
                ));
            }
            (None, _) => return Ok(None),
        };
        Ok(Some(item))
    }

    fn rank(&self, element: &Element<'_>) -> Result<Rank, OvfError> {
        let bound = match attribute(element, "bound").as_deref() {
            None | Some("") => Bound::None,
            Some("normal") => Bound::Normal,
            Some("min") => Bound::Min,
            Some("max") => Bound::Max,
            Some(other) => {
                let wanted = "`min`, `max` or `normal`";
                return Err(malformed(element, "ovf:bound of Item", &quoted(other), wanted));
            }
        };
        Ok(Rank { bound, names_configuration: attribute(element, "configuration").is_some() })
    }

    /// One item for each `InstanceID`, in the order of the document; those without one get one.
    fn chosen_items<'d>(&mut self, items: Vec<Item<'d>>) -> Result<Vec<Item<'d>>, OvfError> {
        let mut best: HashMap<&str, Rank> = HashMap::new();
        for item in items.iter().filter(|item| !item.instance.is_empty()) {
            let rank = best.entry(&item.instance).or_insert(item.rank);
            *rank = item.rank.max(*rank);
        }
        let unbound: HashSet<u16> = items
            .iter()
            .filter(|item| item.rank.bound >= Bound::Normal)
            .map(|item| item.resource_type)
            .collect();
        let is_chosen = |item: &Item<'_>| {
            let is_best = best.get(item.instance.as_str()).is_none_or(|rank| *rank == item.rank);
            is_best && (item.rank.bound >= Bound::Normal || !unbound.contains(&item.resource_type))
        };
        let chosen: Vec<bool> = items.iter().map(is_chosen).collect();
        let numbers = items.iter().filter_map(|item| item.instance.parse::<u32>().ok());
        let mut next = numbers.max().unwrap_or(0);
        let mut seen = HashSet::new();
        let mut found = Vec::new();
        for (mut item, is_chosen) in items.into_iter().zip(chosen) {
            if !is_chosen {
                continue;
            }
            if item.instance.is_empty() {
                next = next.saturating_add(1);
                item.instance = next.to_string();
            }
            if !seen.insert(item.instance.clone()) {
                let found = format!("{} again", quoted(&item.instance));
                return Err(malformed(&item.element, "InstanceID", &found, "an id of its own"));
            }
            found.push(item);
        }
        Ok(found)
    }

    fn add(&mut self, item: &Item<'_>, hardware: &mut Hardware) -> Result<(), OvfError> {
        match kinds::device(item.resource_type, &item.sub_types, self.ovirt) {
            Device::Processor => self.add_processor(item, hardware),
            Device::Memory => {
                let memory_bytes = item.memory_bytes()?;
                hardware.memory_bytes.get_or_insert(memory_bytes);
                Ok(())
            }
            Device::Controller => self.add_controller(item, hardware),
            Device::Drive(kind) => self.add_drive(item, kind, hardware),
            Device::Nic => self.add_nic(item, hardware),
            Device::Ovirt => Ok(()),
            Device::Harmless => {
                hardware.others.push(OtherDevice {
                    instance: item.instance.clone(),
                    resource_type: item.resource_type,
                    sub_type: item.sub_type(),
                    name: item.name(),
                });
                Ok(())
            }
            Device::Unknown if is_required(&item.element) => Err(item.unknown_device()),
            Device::Unknown => {
                let (instance, resource_type, sub_type) =
                    (item.instance.clone(), item.resource_type, item.sub_type());
                self.warn(&item.element, Doubt::DeviceLeftOut { instance, resource_type, sub_type })
            }
        }
    }

    fn add_processor(&mut self, item: &Item<'_>, hardware: &mut Hardware) -> Result<(), OvfError> {
        let of_ovirt = |name| item.texts.get(name).and_then(|text| number(text)).filter(|_| self.ovirt);
        let product =
            of_ovirt("num_of_sockets").zip(of_ovirt("cpu_per_socket")).and_then(|(sockets, cores)| {
                sockets.checked_mul(cores)?.checked_mul(of_ovirt("threads_per_cpu").unwrap_or(1))
            });
        let count = match product {
            Some(product) => product,
            None => item.number("VirtualQuantity")?.unwrap_or(1),
        };
        let Some(vcpus) = u32::try_from(count).ok().filter(|count| *count > 0) else {
            let wanted = "from 1 to 4294967295 processors";
            return Err(malformed(&item.element, "VirtualQuantity", &count.to_string(), wanted));
        };
        if hardware.vcpus.is_some() {
            let name = item.instance.clone();
            return self.warn(&item.element, Doubt::Repeated { what: "processor item", name });
        }
        hardware.vcpus = Some(vcpus);
        let cores = item.cores_per_socket.as_ref().or_else(|| item.texts.get("cpu_per_socket"));
        let Some(text) = cores else { return Ok(()) };
        match number(text)
            .and_then(|cores| u32::try_from(cores).ok())
            .filter(|cores| (1..=vcpus).contains(cores))
        {
            Some(cores) => hardware.cores_per_socket = Some(cores),
            None => {
                let found = text.clone();
                self.warn(&item.element, Doubt::PassedOver { field: "CoresPerSocket", found })?;
            }
        }
        Ok(())
    }

    fn add_controller(&mut self, item: &Item<'_>, hardware: &mut Hardware) -> Result<(), OvfError> {
        let (kind, said) = kinds::controller(item.resource_type, &item.sub_types);
        if said == Said::Unknown {
            self.warn_kind(item)?;
        }
        let address = self.address(item, "Address")?;
        hardware.controllers.push(Controller { instance: item.instance.clone(), kind, address });
        Ok(())
    }

    fn add_nic(&mut self, item: &Item<'_>, hardware: &mut Hardware) -> Result<(), OvfError> {
        let (kind, said) = kinds::nic(&item.sub_types, self.ovirt);
        if said == Said::Unknown {
            self.warn_kind(item)?;
        }
        let mut mac = None;
        if let Some(text) = item.texts.get("Address").or_else(|| item.texts.get("MACAddress")) {
            mac = mac_address(text);
            if mac.is_none() {
                let found = text.clone();
                self.warn(&item.element, Doubt::PassedOver { field: "Address of a NIC", found })?;
            }
        }
        let connected = item.texts.get("AutomaticAllocation").and_then(|text| boolean(text));
        let address = self.address(item, "AddressOnParent")?;
        hardware.nics.push(Nic {
            instance: item.instance.clone(),
            kind,
            name: item.name(),
            network: item.texts.get("Connection").cloned(),
            mac,
            address,
            connected: connected.unwrap_or(true),
        });
        Ok(())
    }

    fn add_drive(
        &mut self,
        item: &Item<'_>,
        kind: DriveKind,
        hardware: &mut Hardware,
    ) -> Result<(), OvfError> {
        let medium = self.medium(item, kind)?;
        if medium.is_none() && kind == DriveKind::Disk {
            return self.warn(&item.element, Doubt::EmptyDisk { instance: item.instance.clone() });
        }
        self.drive_offsets.push(item.element.offset());
        let address = self.address(item, "AddressOnParent")?;
        hardware.drives.push(Drive {
            instance: item.instance.clone(),
            kind,
            name: item.name(),
            medium,
            controller: item.texts.get("Parent").filter(|_| !self.ovirt).cloned(),
            address,
        });
        Ok(())
    }

    fn medium(&mut self, item: &Item<'_>, kind: DriveKind) -> Result<Option<Medium>, OvfError> {
        let Some(resource) = item.texts.get("HostResource") else {
            let is_disk = kind == DriveKind::Disk;
            let blank = if is_disk { item.capacity_bytes()? } else { None };
            return Ok(blank.map(|capacity_bytes| Medium::Blank { capacity_bytes }));
        };
        let path = resource.strip_prefix("ovf:").unwrap_or(resource).trim_start_matches('/');
        match path.split_once('/') {
            Some(("disk", id)) => Ok(Some(Medium::Disk(id.to_owned()))),
            Some(("file", id)) => Ok(Some(Medium::File(id.to_owned()))),
            // The image group and the image.
            Some((_, id)) if self.ovirt && kind == DriveKind::Disk => Ok(Some(Medium::Disk(id.to_owned()))),
            _ if kind == DriveKind::Disk => {
                let wanted = "`ovf:/disk/` or `ovf:/file/` and an id";
                Err(malformed(&item.element, "HostResource", &quoted(resource), wanted))
            }
            _ => {
                let found = resource.clone();
                self.warn(&item.element, Doubt::PassedOver { field: "HostResource", found })?;
                Ok(None)
            }
        }
    }

    /// Makes sure that the controllers that drives name are there.
    fn attach_drives(&mut self, section: &Element<'_>, hardware: &mut Hardware) -> Result<(), OvfError> {
        let controllers: HashSet<&str> =
            hardware.controllers.iter().map(|controller| controller.instance.as_str()).collect();
        for drive in &mut hardware.drives {
            let known = |parent: &String| controllers.contains(parent.as_str());
            if let Some(parent) = drive.controller.take_if(|parent| !known(parent)) {
                let instance = drive.instance.clone();
                self.warn(section, Doubt::NoSuchController { instance, parent })?;
            }
        }
        Ok(())
    }

    /// VMware's settings of the machine.
    fn setting(&mut self, element: &Element<'_>, hardware: &mut Hardware) -> Result<(), OvfError> {
        let kind = match element.name() {
            "Config" => SettingKind::Config,
            "ExtraConfig" => SettingKind::ExtraConfig,
            _ => return self.keep(element, &mut hardware.foreign),
        };
        if !self.applies(element) {
            return Ok(());
        }
        let text = |name| {
            let own = element.attribute(names::is_vmware, name).or_else(|| attribute(element, name));
            own.unwrap_or_default().into_owned()
        };
        let (key, value) = (text("key"), text("value"));
        match (kind, key.as_str()) {
            (SettingKind::Config, "firmware") => {
                hardware.firmware = match value.to_ascii_lowercase().as_str() {
                    "efi" | "uefi" => Some(Firmware::Efi),
                    "bios" => Some(Firmware::Bios),
                    _ => {
                        let wanted = "`bios` or `efi`";
                        return Err(malformed(element, "vmw:Config firmware", &quoted(&value), wanted));
                    }
                };
            }
            (SettingKind::Config, "bootOptions.efiSecureBootEnabled") => {
                let Some(secure_boot) = boolean(&value) else {
                    let field = "vmw:Config bootOptions.efiSecureBootEnabled";
                    return Err(malformed(element, field, &quoted(&value), "`true` or `false`"));
                };
                hardware.secure_boot = Some(secure_boot);
            }
            (_, "") => self.warn(element, Doubt::PassedOver { field: "vmw:key", found: key })?,
            _ => hardware.settings.push(Setting { kind, key, value }),
        }
        Ok(())
    }

    fn address(&mut self, item: &Item<'_>, name: &'static str) -> Result<Option<u32>, OvfError> {
        let Some(text) = item.texts.get(name) else { return Ok(None) };
        let address = number(text).and_then(|address| u32::try_from(address).ok());
        if address.is_none() {
            self.warn(&item.element, Doubt::PassedOver { field: name, found: text.clone() })?;
        }
        Ok(address)
    }

    fn warn_kind(&mut self, item: &Item<'_>) -> Result<(), OvfError> {
        let (instance, sub_type) = (item.instance.clone(), item.sub_type().unwrap_or_default());
        self.warn(&item.element, Doubt::UnknownKind { instance, sub_type })
    }
}

impl Item<'_> {
    fn name(&self) -> Option<String> {
        self.texts.get("ElementName").or_else(|| self.texts.get("Caption")).cloned()
    }

    fn sub_type(&self) -> Option<String> {
        (!self.sub_types.is_empty()).then(|| self.sub_types.join(" "))
    }

    fn number(&self, name: &'static str) -> Result<Option<u64>, OvfError> {
        let Some(text) = self.texts.get(name) else { return Ok(None) };
        number(text)
            .map(Some)
            .ok_or_else(|| malformed(&self.element, name, &quoted(text), super::WHOLE_NUMBER))
    }

    /// The memory in bytes. Where no unit is said, a number too small for bytes is one of MiB.
    fn memory_bytes(&self) -> Result<u64, OvfError> {
        let Some(quantity) = self.number("VirtualQuantity")? else {
            return Err(malformed(&self.element, "VirtualQuantity", "missing", "the size of the memory"));
        };
        let unit = self.texts.get("AllocationUnits").or_else(|| self.texts.get("VirtualQuantityUnits"));
        let unit = match unit {
            Some(unit) => unit.as_str(),
            None if quantity < 1 << 20 => "byte * 2^20",
            None => "byte",
        };
        let bytes = self.in_bytes(quantity, unit)?;
        if bytes == 0 {
            return Err(malformed(&self.element, "VirtualQuantity", "0", "at least one byte of memory"));
        }
        Ok(bytes)
    }

    /// The size that the item itself gives a disk, in bytes.
    ///
    /// In OVF 2 the quantity counts disks, and what is reserved is the size; writers of OVF 1 give the size as the
    /// quantity.
    fn capacity_bytes(&self) -> Result<Option<u64>, OvfError> {
        let quantity = self.number("VirtualQuantity")?;
        let unit = self.texts.get("AllocationUnits").map_or("", String::as_str);
        if let Some(own_unit) = self.texts.get("VirtualQuantityUnits").filter(|unit| {
            units::bytes(unit).is_some_and(|bytes| bytes > 1 || unit.to_ascii_lowercase().contains("byte"))
        }) {
            return quantity.map(|quantity| self.in_bytes(quantity, own_unit)).transpose();
        }
        let reservation = self.number("Reservation")?;
        let size = match (quantity, reservation) {
            (None | Some(1), Some(reservation)) => Some(reservation),
            (quantity, _) => quantity.filter(|_| !unit.is_empty()),
        };
        size.map(|size| self.in_bytes(size, if unit.is_empty() { "byte" } else { unit })).transpose()
    }

    fn in_bytes(&self, quantity: u64, unit: &str) -> Result<u64, OvfError> {
        let Some(unit_bytes) = units::bytes(unit) else {
            return Err(malformed(
                &self.element,
                "AllocationUnits",
                &quoted(unit),
                "bytes, as `byte * 2^20`",
            ));
        };
        quantity.checked_mul(unit_bytes).ok_or_else(|| {
            let found = format!("{quantity} times {unit_bytes} bytes");
            malformed(&self.element, "VirtualQuantity", &found, "less than 2^64 bytes")
        })
    }

    fn unknown_device(&self) -> OvfError {
        let found = match self.sub_type() {
            Some(sub_type) => format!("{} ({})", self.resource_type, quoted(&sub_type)),
            None => self.resource_type.to_string(),
        };
        OvfError::Unsupported {
            offset: self.element.offset(),
            field: format!("ResourceType of item {}", quoted(&self.instance)),
            found,
            refused: "the machine requires a device that is not known here; where it may be missing, the item says ovf:required=\"false\"",
        }
    }
}

/// An item's element that is not understood must say that it need not be; VMware's settings and storage policies do not matter.
fn check_not_required(element: &Element<'_>) -> Result<(), OvfError> {
    let is_setting = matches!(element.name(), "Config" | "ExtraConfig" | "StorageGroup")
        && names::is_vmware(element.namespace());
    if is_setting || !is_required(element) {
        return Ok(());
    }
    let found = format!("{} of {}", quoted(element.name()), quoted(element.namespace()));
    Err(OvfError::RequiredSection { offset: element.offset(), found })
}

/// A MAC address as `00:50:56:00:00:01`, with hyphens, or without anything between.
fn mac_address(text: &str) -> Option<[u8; 6]> {
    let digits: String = text.chars().filter(|c| !matches!(c, ':' | '-' | '.')).collect();
    if digits.len() != 12 || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let mut mac = [0; 6];
    for (at, byte) in mac.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&digits[2 * at..2 * at + 2], 16).ok()?;
    }
    Some(mac)
}
