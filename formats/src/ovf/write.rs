//! An OVF descriptor, written: OVF 1.1, in the order and with the words that VMware and VirtualBox both take.
//!
//! Written are: the sections that the model has, each with an `Info` that its schema demands; items with their
//! elements in alphabetical order, controllers before what is attached to them, numbered from 1; sizes in bytes, since
//! VirtualBox passes over units. Sections that are not understood stand where they stood, with the namespaces that they
//! rely on declared on the envelope.
//!
//! Source: DSP0243 1.1.0, DSP8023 1.1.0; what VMware's ovftool and VirtualBox write and take.

mod hardware;
mod xml;

use std::collections::HashSet;

use super::error::quoted;
use super::model::{
    Collection, Compression, Descriptor, ForeignSection, Medium, NamespaceBinding, Product, VirtualSystem,
};
use super::xml::{Document, is_name};
use super::{OvfWriteError, names};
use xml::Writer;

/// Declarations on the envelope; further ones stand on the sections that need them.
const MOST_NAMESPACES: usize = 24;

/// Writes a descriptor as an XML document in UTF-8.
///
/// What [`parse`](super::parse) reads of it is the same, up to ids of items and namespaces' versions, titles
/// where there were none, and what the model says is never written.
///
/// # Errors
///
/// [`OvfWriteError`]: characters that XML cannot carry, ids that are not their own or lead nowhere.
pub fn write(descriptor: &Descriptor) -> Result<String, OvfWriteError> {
    check_ids(descriptor)?;
    let mut out = Writer::new(namespaces(descriptor));
    out.envelope();
    files(&mut out, descriptor)?;
    disks(&mut out, descriptor)?;
    networks(&mut out, descriptor)?;
    foreign(&mut out, &descriptor.foreign)?;
    match (&descriptor.collection, descriptor.systems.as_slice()) {
        (Some(collection), systems) => write_collection(&mut out, collection, systems)?,
        (None, [system]) => write_system(&mut out, system)?,
        (None, systems) => return Err(OvfWriteError::NoCollection { systems: systems.len() }),
    }
    out.close("Envelope");
    Ok(out.into_text())
}

/// What the envelope declares: the writer's own namespaces, then those that foreign sections rely on.
fn namespaces(descriptor: &Descriptor) -> Vec<NamespaceBinding> {
    let own = [
        ("", names::ENVELOPE),
        ("ovf", names::ENVELOPE),
        ("rasd", names::RASD),
        ("vmw", names::VMW),
        ("vssd", names::VSSD),
        ("xsi", names::XSI),
    ];
    let binding =
        |(prefix, uri): (&str, &str)| NamespaceBinding { prefix: prefix.to_owned(), uri: uri.to_owned() };
    let mut namespaces: Vec<_> = own.map(binding).into();
    for needed in descriptor.foreign_sections().flat_map(|(_, section)| &section.namespaces) {
        let is_free = namespaces.iter().all(|known| known.prefix != needed.prefix);
        if is_free && namespaces.len() < MOST_NAMESPACES && is_name(&needed.prefix) && !needed.uri.is_empty()
        {
            namespaces.push(needed.clone());
        }
    }
    namespaces
}

fn check_ids(descriptor: &Descriptor) -> Result<(), OvfWriteError> {
    let files = own_ids("files", descriptor.files.iter().map(|file| &file.id))?;
    let disks = own_ids("disks", descriptor.disks.iter().map(|disk| &disk.id))?;
    let networks = own_ids("networks", descriptor.networks.iter().map(|network| &network.name))?;
    own_ids("machines", descriptor.systems.iter().map(|system| &system.id))?;
    let leads_to = |field, id: &String, ids: &HashSet<&str>| {
        if ids.contains(id.as_str()) {
            return Ok(());
        }
        Err(OvfWriteError::Dangling { field, id: quoted(id) })
    };
    for disk in &descriptor.disks {
        disk.file.iter().try_for_each(|id| leads_to("the file of a disk", id, &files))?;
        disk.parent.iter().try_for_each(|id| leads_to("the parent of a disk", id, &disks))?;
    }
    for hardware in descriptor.systems.iter().map(|system| &system.hardware) {
        let controllers =
            own_ids("controllers", hardware.controllers.iter().map(|controller| &controller.instance))?;
        for drive in &hardware.drives {
            drive
                .controller
                .iter()
                .try_for_each(|id| leads_to("the controller of a drive", id, &controllers))?;
            match &drive.medium {
                Some(Medium::Disk(id)) => leads_to("the disk of a drive", id, &disks)?,
                Some(Medium::File(id)) => leads_to("the file of a drive", id, &files)?,
                Some(Medium::Blank { .. }) | None => {}
            }
        }
        for nic in &hardware.nics {
            nic.network.iter().try_for_each(|name| leads_to("the network of a NIC", name, &networks))?;
        }
    }
    Ok(())
}

fn own_ids<'a>(
    what: &'static str,
    ids: impl Iterator<Item = &'a String>,
) -> Result<HashSet<&'a str>, OvfWriteError> {
    let mut own = HashSet::new();
    for id in ids {
        if !own.insert(id.as_str()) {
            return Err(OvfWriteError::SameId { what, id: quoted(id) });
        }
    }
    Ok(own)
}

fn files(out: &mut Writer, descriptor: &Descriptor) -> Result<(), OvfWriteError> {
    out.open("References");
    for file in &descriptor.files {
        out.start("File");
        if let Some(chunk_bytes) = file.chunk_bytes {
            out.number_attribute("ovf:chunkSize", chunk_bytes);
        }
        if file.compression == Compression::Gzip {
            out.attribute("ovf:compression", "gzip")?;
        }
        out.attribute("ovf:href", &file.href)?;
        out.attribute("ovf:id", &file.id)?;
        if let Some(size_bytes) = file.size_bytes {
            out.number_attribute("ovf:size", size_bytes);
        }
        out.end_empty();
    }
    out.close("References");
    Ok(())
}

fn disks(out: &mut Writer, descriptor: &Descriptor) -> Result<(), OvfWriteError> {
    out.open("DiskSection");
    out.element("Info", "Virtual disk information")?;
    for disk in &descriptor.disks {
        out.start("Disk");
        out.number_attribute("ovf:capacity", disk.capacity_bytes);
        out.attribute("ovf:capacityAllocationUnits", "byte")?;
        out.attribute("ovf:diskId", &disk.id)?;
        out.some_attribute("ovf:fileRef", disk.file.as_deref())?;
        out.some_attribute("ovf:format", disk.format.as_deref())?;
        out.some_attribute("ovf:parentRef", disk.parent.as_deref())?;
        if let Some(populated_bytes) = disk.populated_bytes {
            out.number_attribute("ovf:populatedSize", populated_bytes);
        }
        out.end_empty();
    }
    out.close("DiskSection");
    Ok(())
}

fn networks(out: &mut Writer, descriptor: &Descriptor) -> Result<(), OvfWriteError> {
    out.open("NetworkSection");
    out.element("Info", "The list of logical networks")?;
    for network in &descriptor.networks {
        out.start("Network");
        out.attribute("ovf:name", &network.name)?;
        out.end_start();
        out.some_element("Description", network.description.as_deref())?;
        out.close("Network");
    }
    out.close("NetworkSection");
    Ok(())
}

fn write_collection(
    out: &mut Writer,
    collection: &Collection,
    systems: &[VirtualSystem],
) -> Result<(), OvfWriteError> {
    out.start("VirtualSystemCollection");
    out.attribute("ovf:id", &collection.id)?;
    out.end_start();
    out.element("Info", "A collection of virtual machines")?;
    out.some_element("Name", collection.name.as_deref())?;
    annotation(out, collection.annotation.as_deref())?;
    allocations(out, collection)?;
    start_order(out, systems)?;
    products(out, &collection.products)?;
    eulas(out, &collection.eulas)?;
    foreign(out, &collection.foreign)?;
    systems.iter().try_for_each(|system| write_system(out, system))?;
    out.close("VirtualSystemCollection");
    Ok(())
}

fn allocations(out: &mut Writer, collection: &Collection) -> Result<(), OvfWriteError> {
    if collection.allocations.is_empty() {
        return Ok(());
    }
    out.open("ResourceAllocationSection");
    out.element("Info", "Limits of the collection")?;
    for (instance, allocation) in (1..).zip(&collection.allocations) {
        out.open("Item");
        out.some_element("rasd:AllocationUnits", allocation.units.as_deref())?;
        out.element("rasd:ElementName", &format!("resource {instance}"))?;
        out.number("rasd:InstanceID", instance);
        out.some_number("rasd:Limit", allocation.limit);
        out.some_number("rasd:Reservation", allocation.reservation);
        out.number("rasd:ResourceType", allocation.resource_type.into());
        out.some_number("rasd:Weight", allocation.weight);
        out.close("Item");
    }
    out.close("ResourceAllocationSection");
    Ok(())
}

fn start_order(out: &mut Writer, systems: &[VirtualSystem]) -> Result<(), OvfWriteError> {
    if systems.iter().all(|system| system.start.is_none()) {
        return Ok(());
    }
    out.open("StartupSection");
    out.element("Info", "The order in which the virtual machines start")?;
    for system in systems {
        let Some(start) = &system.start else { continue };
        out.start("Item");
        out.attribute("ovf:id", &system.id)?;
        out.number_attribute("ovf:order", start.order.into());
        out.attribute("ovf:startAction", "powerOn")?;
        out.number_attribute("ovf:startDelay", start.delay_s.into());
        out.attribute("ovf:stopAction", "powerOff")?;
        out.attribute("ovf:waitingForGuest", if start.waits_for_guest { "true" } else { "false" })?;
        out.end_empty();
    }
    out.close("StartupSection");
    Ok(())
}

fn write_system(out: &mut Writer, system: &VirtualSystem) -> Result<(), OvfWriteError> {
    out.start("VirtualSystem");
    out.attribute("ovf:id", &system.id)?;
    out.end_start();
    out.element("Info", "A virtual machine")?;
    out.some_element("Name", system.name.as_deref())?;
    annotation(out, system.annotation.as_deref())?;
    if let Some(operating_system) = &system.operating_system {
        out.start("OperatingSystemSection");
        out.number_attribute("ovf:id", operating_system.id.into());
        out.some_attribute("ovf:version", operating_system.version.as_deref())?;
        out.some_attribute("vmw:osType", operating_system.vmware_type.as_deref())?;
        out.end_start();
        out.element("Info", "The kind of installed guest operating system")?;
        out.some_element("Description", operating_system.description.as_deref())?;
        out.close("OperatingSystemSection");
    }
    hardware::write(out, system)?;
    products(out, &system.products)?;
    eulas(out, &system.eulas)?;
    foreign(out, &system.foreign)?;
    out.close("VirtualSystem");
    Ok(())
}

fn annotation(out: &mut Writer, annotation: Option<&str>) -> Result<(), OvfWriteError> {
    let Some(annotation) = annotation else { return Ok(()) };
    out.open("AnnotationSection");
    out.element("Info", "A human-readable annotation")?;
    out.element("Annotation", annotation)?;
    out.close("AnnotationSection");
    Ok(())
}

fn eulas(out: &mut Writer, eulas: &[String]) -> Result<(), OvfWriteError> {
    for eula in eulas {
        out.open("EulaSection");
        out.element("Info", "An end-user license agreement")?;
        out.element("License", eula)?;
        out.close("EulaSection");
    }
    Ok(())
}

fn products(out: &mut Writer, products: &[Product]) -> Result<(), OvfWriteError> {
    for product in products {
        out.start("ProductSection");
        out.some_attribute("ovf:class", product.class.as_deref())?;
        out.some_attribute("ovf:instance", product.instance.as_deref())?;
        out.end_start();
        out.element("Info", "Information about the installed software")?;
        out.some_element("Product", product.name.as_deref())?;
        out.some_element("Vendor", product.vendor.as_deref())?;
        out.some_element("Version", product.version.as_deref())?;
        out.some_element("FullVersion", product.full_version.as_deref())?;
        out.some_element("ProductUrl", product.product_url.as_deref())?;
        out.some_element("VendorUrl", product.vendor_url.as_deref())?;
        out.some_element("AppUrl", product.app_url.as_deref())?;
        properties(out, product)?;
        out.close("ProductSection");
    }
    Ok(())
}

fn properties(out: &mut Writer, product: &Product) -> Result<(), OvfWriteError> {
    let mut category = None;
    for property in &product.properties {
        if property.category.as_deref() != category {
            category = property.category.as_deref();
            out.element("Category", category.unwrap_or_default())?;
        }
        out.start("Property");
        out.attribute("ovf:key", &property.key)?;
        if property.password {
            out.attribute("ovf:password", "true")?;
        }
        out.some_attribute("ovf:qualifiers", property.qualifiers.as_deref())?;
        out.attribute("ovf:type", &property.kind)?;
        out.attribute("ovf:userConfigurable", if property.user_configurable { "true" } else { "false" })?;
        out.some_attribute("ovf:value", property.value.as_deref())?;
        out.end_start();
        out.some_element("Label", property.label.as_deref())?;
        out.some_element("Description", property.description.as_deref())?;
        out.close("Property");
    }
    Ok(())
}

/// Writes sections as they stand.
fn foreign(out: &mut Writer, sections: &[ForeignSection]) -> Result<(), OvfWriteError> {
    for section in sections {
        let refuse = |found: String| OvfWriteError::Foreign { name: quoted(&section.name), found };
        let xml = with_declarations(section, out.namespaces());
        // What goes out must be one element, whoever made the text.
        let alone = format!("{}{xml}</Envelope>", out.envelope_tag());
        let document = Document::parse(&alone).map_err(|error| refuse(error.to_string()))?;
        let root = document.root();
        if root.children().count() != 1 || !root.text().is_empty() {
            return Err(refuse("it is not one element".to_owned()));
        }
        out.verbatim(&xml);
    }
    Ok(())
}

/// The section's text; what the envelope declares otherwise than the section needs is declared in its start tag.
fn with_declarations(section: &ForeignSection, declared: &[NamespaceBinding]) -> String {
    let is_declared = |needed: &&NamespaceBinding| {
        let found = declared.iter().find(|known| known.prefix == needed.prefix);
        // All versions of OVF mean the same.
        let same = |known: &str| {
            known == needed.uri
                || (!needed.uri.is_empty() && names::is_ovf(known) && names::is_ovf(&needed.uri))
        };
        !found.is_some_and(|known| same(&known.uri))
    };
    let missing: String = section.namespaces.iter().filter(is_declared).map(xml::declaration).collect();
    let name_end =
        section.xml.find(|c: char| c.is_whitespace() || matches!(c, '>' | '/')).unwrap_or(section.xml.len());
    let (name, rest) = section.xml.split_at(name_end);
    format!("{name}{missing}{rest}")
}
