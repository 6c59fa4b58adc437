//! An OVA: a descriptor of the machines, their disks as streamOptimized VMDK, the policy in a section of hull's own.
//!
//! Where the appliance came from an OVF, that is what the descriptor begins as: products, licences, notes, operating
//! systems, properties and sections that nobody here understands stay as they are. What the config says is said by the
//! config alone.
//!
//! ```text
//! OVF of the appliance, if any --parse--> Descriptor --config--> Descriptor --write--> name.ovf, disks, name.mf
//! ```
//!
//! The policy travels along, and nobody but hull enforces it. That is told with every export.
//!
//! Source: DMTF DSP0243 1.1.0; what VMware and VirtualBox take of it.

mod hardware;
mod write;

use appliance::{Arch, Machine, Policy};
use formats::image::{Target, VmdkAdapter};
use formats::ovf::{
    Collection, Descriptor, FORMAT_VMDK_STREAM, FileReference, ForeignSection, Network, OperatingSystem,
    Product, Start, VirtualDisk, VirtualSystem,
};

use super::loss::{Effect, LossReport};
use super::{Content, Plan, PlanError, Planned, PlannedDisk, Subject};
use crate::import::label;
use crate::policy_section::{is_policy_section, policy_section};

pub(super) use write::write;

/// VirtualBox's own description of a machine: it would contradict the one that is written, and names disks by UUIDs
/// that the new ones do not have.
const VBOX_MACHINE: (&str, &str) = ("http://www.virtualbox.org/ovf/machine", "Machine");

/// An OVA that is to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Package {
    /// What the descriptor and the manifest are called, without what follows the full stop.
    pub stem: String,
    /// The descriptor, but for the lengths of files.
    pub descriptor: Descriptor,
    /// For each file of the descriptor the disk in it, and what it is written as.
    pub disks: Vec<(PlannedDisk, Target)>,
}

/// Plans the export of `subject` to an OVA. `ovf` is the descriptor that the appliance came from.
///
/// # Errors
///
/// [`PlanError::Ovf`], [`PlanError::Descriptor`].
pub fn ova(subject: &Subject<'_>, ovf: Option<&[u8]>) -> Result<Plan, PlanError> {
    let base = ovf.map(|ovf| formats::ovf::parse(ovf, None)).transpose().map_err(PlanError::Ovf)?;
    let base = base.unwrap_or_default();
    let mut report = LossReport::default();
    report_platform(&mut report);
    if base.options.len() > 1 {
        let becomes =
            "what the kept OVF says is taken from its default configuration, and the OVA has no other";
        report.notice(None, "ovf", Effect::Other, becomes);
    }
    let mut descriptor = Descriptor { foreign: foreign(&base.foreign), ..Descriptor::default() };
    descriptor.foreign.push(policy_section(&policy_of(subject)));
    let mut disks = Vec::new();
    for machine in &subject.machines {
        let from = system_of(&base, subject, machine);
        if from.is_some_and(|from| from.foreign.iter().any(is_vbox_machine)) {
            let becomes = "VirtualBox's own description of the machine is left out: the OVF's holds";
            report.notice(Some(&machine.name), "ovf", Effect::Other, becomes);
        }
        let (system, kinds) = system(machine, from, &mut report);
        for (disk, kind) in machine.disks.iter().zip(kinds) {
            let planned = PlannedDisk::OfAppliance { name: disk.name.clone() };
            disks.push((planned, Target::VmdkStream(adapter(kind))));
        }
        add_disks(&mut descriptor, machine);
        descriptor.systems.push(system);
    }
    add_networks(&mut descriptor, &base);
    descriptor.collection = collection(subject, &base);
    describe(subject, &mut descriptor);
    // Shows now what could not be written later.
    formats::ovf::write(&descriptor).map_err(PlanError::Descriptor)?;
    let package = Package { stem: subject.config.name.clone(), descriptor, disks };
    Ok(Plan { output: Planned::File(Content::Ova(Box::new(package))), report })
}

fn report_platform(report: &mut LossReport) {
    report.notice(
        None,
        "policy",
        Effect::Wider,
        "is carried along and holds again where hull imports it; VMware and VirtualBox enforce none of it, the \
         firewall neither",
    );
}

/// The machine's description in the OVF that it came from: by its identifier, by its name, or because there is
/// just one on both sides.
fn system_of<'a>(
    base: &'a Descriptor,
    subject: &Subject<'_>,
    machine: &Machine,
) -> Option<&'a VirtualSystem> {
    let is_called = |text: &str| label(text).as_deref() == Some(machine.name.as_str());
    let systems = &base.systems;
    let alone = (systems.len() == 1 && subject.config.machines.len() == 1).then(|| systems.first()).flatten();
    let by_id = systems.iter().find(|system| is_called(&system.id));
    let by_name = || systems.iter().find(|system| system.name.as_deref().is_some_and(is_called));
    by_id.or_else(by_name).or(alone)
}

/// The machine, and what each of its disks is attached to.
fn system(
    machine: &Machine,
    from: Option<&VirtualSystem>,
    report: &mut LossReport,
) -> (VirtualSystem, Vec<formats::ovf::ControllerKind>) {
    let mut system = from.cloned().unwrap_or_default();
    system.id.clone_from(&machine.name);
    system.name.get_or_insert_with(|| machine.name.clone());
    system.operating_system.get_or_insert_with(|| operating_system(machine.arch));
    system.foreign = foreign(&system.foreign);
    system.foreign.retain(|section| !is_vbox_machine(section));
    system.start = machine.start_order.map(|order| Start {
        // hull.toml knows no higher ones.
        order: u16::try_from(order).unwrap_or(u16::MAX),
        ..system.start.unwrap_or_default()
    });
    let kinds = hardware::fit(&mut system.hardware, machine, report);
    (system, kinds)
}

/// What hull does not know of a guest, in the words of those who ask for it.
fn operating_system(arch: Arch) -> OperatingSystem {
    let (vmware_type, description) = match arch {
        Arch::Amd64 => ("otherGuest64", "Other_64"),
        Arch::Arm64 => ("arm-other-64", "Other_arm64"),
    };
    OperatingSystem {
        // "Other 64-bit" of CIM_OperatingSystem.OsType.
        id: 102,
        version: None,
        description: Some(description.to_owned()),
        vmware_type: Some(vmware_type.to_owned()),
    }
}

const fn adapter(kind: formats::ovf::ControllerKind) -> VmdkAdapter {
    use formats::ovf::ControllerKind as K;
    match kind {
        K::Ide | K::Ahci => VmdkAdapter::Ide,
        K::BusLogic => VmdkAdapter::BusLogic,
        _ => VmdkAdapter::LsiLogic,
    }
}

/// Disks have files, volumes start as zeros.
fn add_disks(descriptor: &mut Descriptor, machine: &Machine) {
    let format = Some(FORMAT_VMDK_STREAM.to_owned());
    for disk in &machine.disks {
        let file = format!("file-{}", disk.name);
        let href = format!("{}.vmdk", disk.name);
        descriptor.files.push(FileReference { id: file.clone(), href, ..FileReference::default() });
        descriptor.disks.push(VirtualDisk {
            id: disk.name.clone(),
            capacity_bytes: disk.size_bytes,
            file: Some(file),
            format: format.clone(),
            ..VirtualDisk::default()
        });
    }
    descriptor.disks.extend(machine.volumes.iter().map(|volume| VirtualDisk {
        id: volume.name.clone(),
        capacity_bytes: volume.size_bytes,
        format: format.clone(),
        ..VirtualDisk::default()
    }));
}

/// The networks that NICs name, with what the OVF said of them.
fn add_networks(descriptor: &mut Descriptor, base: &Descriptor) {
    let nics = descriptor.systems.iter().flat_map(|system| &system.hardware.nics);
    let mut names: Vec<&str> = nics.filter_map(|nic| nic.network.as_deref()).collect();
    names.sort_unstable();
    names.dedup();
    let network = |name: &str| {
        let known = base.networks.iter().find(|network| network.name == name).cloned();
        let description = if name == hardware::OUTSIDE {
            "The network that leads outside".to_owned()
        } else {
            "A private network between the machines".to_owned()
        };
        known.unwrap_or_else(|| Network { name: name.to_owned(), description: Some(description) })
    };
    descriptor.networks = names.into_iter().map(network).collect();
}

/// Needed around several machines, and around one that is not called as the appliance is.
fn collection(subject: &Subject<'_>, base: &Descriptor) -> Option<Collection> {
    let config = subject.config;
    let is_alone = matches!(subject.machines.as_slice(), [machine] if machine.name == config.name);
    if is_alone && base.collection.is_none() {
        return None;
    }
    let mut collection = base.collection.clone().unwrap_or_default();
    if label(collection.name.as_ref().unwrap_or(&collection.id)).as_deref() != Some(&config.name) {
        collection.name = Some(config.name.clone());
    }
    collection.id.clone_from(&config.name);
    collection.foreign = foreign(&collection.foreign);
    Some(collection)
}

/// Title and version, which a deployer sees as those of a product.
fn describe(subject: &Subject<'_>, descriptor: &mut Descriptor) {
    let config = subject.config;
    let of_collection = descriptor.collection.as_mut().map(|collection| &mut collection.products);
    let mut places: Vec<&mut Vec<Product>> = of_collection
        .into_iter()
        .chain(descriptor.systems.iter_mut().map(|system| &mut system.products))
        .collect();
    let place = places.iter().position(|products| !products.is_empty()).unwrap_or(0);
    let products = &mut places[place];
    if products.is_empty() {
        products.push(Product { name: Some(config.name.clone()), ..Product::default() });
    }
    let product = &mut products[0];
    if let Some(title) = &config.title {
        product.name = Some(title.clone());
    }
    if product.version.is_some() || product.full_version.as_ref() != Some(&config.version) {
        product.version = Some(config.version.clone());
    }
}

/// The sections without hull's own, which is written anew.
fn foreign(sections: &[ForeignSection]) -> Vec<ForeignSection> {
    sections.iter().filter(|section| !is_policy_section(section)).cloned().collect()
}

fn is_vbox_machine(section: &ForeignSection) -> bool {
    (section.namespace.as_str(), section.name.as_str()) == VBOX_MACHINE
}

/// The policy of the machines that are exported, and of no others.
fn policy_of(subject: &Subject<'_>) -> Policy {
    let mut policy = subject.policy.clone();
    policy.machines.retain(|name, _| subject.config.machine(name).is_none() || subject.has_machine(name));
    policy
}
