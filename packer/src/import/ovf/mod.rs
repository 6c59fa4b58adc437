//! An OVF package as a draft: which machines there are, and which file is which disk.
//!
//! The mapping, thing by thing, is in `docs/import.md`. What has no place in hull is told and stays in the OVF, which
//! is kept as it is.
//!
//! Source: DMTF DSP0243 1.1.0 and 2.1.1.

mod disks;
mod machine;
mod networks;
mod policy;

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use appliance::Policy;
use formats::image::{Parts, Source};
use formats::ovf::{Descriptor, Doubt, Package, Product, VirtualSystem, Warning};

use super::draft::Draft;
use super::names::{Names, label};
use super::notice::{Notice, What};
use super::{Import, ImportError, ImportRequest, Kind};
use crate::Progress;
use crate::policy_section;
use disks::Disks;
use networks::Networks;

pub(crate) use machine::disk_drives;

/// What VMware's tools write as a machine's identifier, whatever its name.
const NAMELESS: &str = "vm";

/// The most machines of an appliance.
const MAX_MACHINES: usize = 64;

/// A draft, and what may be used to open its disks.
#[derive(Debug)]
pub(super) struct Drafted {
    pub(super) draft: Draft,
    /// The names of the files that the descriptor refers to.
    referenced: Vec<String>,
    /// Those of them that are of no use unless an image names them.
    unused: Vec<String>,
}

/// What a package's descriptor says.
pub(super) fn import(
    package: &Package<'_>,
    kind: Kind,
    request: &ImportRequest<'_>,
) -> Result<Import, ImportError> {
    draft(package, kind, request)?.open(package, request)
}

/// A draft of what a package's descriptor says.
pub(super) fn draft(
    package: &Package<'_>,
    kind: Kind,
    request: &ImportRequest<'_>,
) -> Result<Drafted, ImportError> {
    let descriptor_name = || package.descriptor_name().to_owned();
    let descriptor = formats::ovf::parse(package.descriptor(), request.configuration)
        .map_err(|source| ImportError::Ovf { name: descriptor_name(), source })?;
    if descriptor.systems.is_empty() {
        return Err(ImportError::NoMachine { name: descriptor_name() });
    }
    if descriptor.systems.len() > MAX_MACHINES {
        let (found, most) = (descriptor.systems.len() as u64, MAX_MACHINES as u64);
        return Err(ImportError::TooMany { what: "machines", found, most });
    }
    let policy = policy::of(&descriptor)?;
    let names = machine_names(&descriptor, policy.as_ref());
    let appliance = match (&descriptor.collection, &*names) {
        (None, [name]) => Some(name.clone()),
        (Some(collection), _) => label(collection.name.as_ref().unwrap_or(&collection.id)),
        (None, _) => None,
    };
    let mut draft = Draft::new(kind, &appliance.unwrap_or_else(|| request.default_name()), request);
    describe(&mut draft, &descriptor);
    draft.notices.extend(of_package(package, &descriptor, policy.is_some()));
    draft.policy = policy;

    let networks = Networks::of(&descriptor);
    draft.notices.extend(networks.notices());
    let mut disks = Disks::new(&descriptor, package, request);
    let is_alone = descriptor.collection.is_none();
    for (system, own) in descriptor.systems.iter().zip(names) {
        let name = if is_alone { draft.name.clone() } else { own.clone() };
        if let Some(policy) = &mut draft.policy
            && let Some(of_machine) = policy.machines.remove(&own)
        {
            policy.machines.insert(name.clone(), of_machine);
        }
        let machine = machine::draft(system, name, &mut disks, &networks, &mut draft)?;
        draft.machines.push(machine);
    }
    draft.notices.extend(disks.notices());
    let unused = disks.unused();
    let is_policy = |warning: &&Warning| {
        draft.policy.is_some()
            && matches!(&warning.doubt, Doubt::SectionKept { name } if name == policy_section::NAME)
    };
    let warnings = descriptor.warnings.iter().filter(|warning| !is_policy(warning)).cloned();
    let warnings: Vec<_> = warnings.collect();
    draft
        .notices
        .extend(warnings.into_iter().map(|warning| Notice { machine: None, what: What::Doubt(warning) }));
    draft.ovf = Some(package.descriptor().to_owned());
    let referenced = descriptor.files.into_iter().map(|file| file.href).collect();
    Ok(Drafted { draft, referenced, unused })
}

impl Drafted {
    /// Opens the disks, out of `package`, of which this is the draft.
    pub(super) fn open(
        self,
        package: &Package<'_>,
        request: &ImportRequest<'_>,
    ) -> Result<Import, ImportError> {
        let (names, used) = (self.referenced, RefCell::default());
        let parts = Referenced { package, names, used, progress: request.progress };
        let mut imported = self.draft.open(request, Some(&parts))?;
        let used = parts.used.into_inner();
        let names: Vec<_> = self.unused.into_iter().filter(|name| !used.contains(name)).collect();
        if !names.is_empty() {
            imported.notices.push(Notice { machine: None, what: What::FilesLeftOut { names } });
        }
        Ok(imported)
    }
}

/// The files of a package that its descriptor refers to, checked against the manifest before they are handed out.
#[derive(Debug)]
struct Referenced<'a> {
    package: &'a Package<'a>,
    names: Vec<String>,
    /// Those that have been handed out.
    used: RefCell<BTreeSet<String>>,
    progress: &'a dyn Progress,
}

impl Parts for Referenced<'_> {
    fn part(&self, name: &str) -> io::Result<Option<Source>> {
        if !self.names.iter().any(|other| other == name) {
            return Ok(None);
        }
        let Some(part) = self.package.part(name)? else { return Ok(None) };
        let done = AtomicU64::new(0);
        let checked = self.package.check(name, &|bytes| {
            let done = done.fetch_add(bytes, Ordering::Relaxed) + bytes;
            self.progress.prepared(name, done, part.size_bytes());
        });
        checked.map_err(io::Error::other)?;
        self.used.borrow_mut().insert(name.to_owned());
        Ok(Some(part))
    }
}

/// A name for each machine: its identifier, or where that says nothing, its name.
fn machine_names(descriptor: &Descriptor, policy: Option<&Policy>) -> Vec<String> {
    let mut names = Names::default();
    let wanted = |system: &VirtualSystem| {
        let is_in_policy = policy.is_some_and(|policy| policy.machines.contains_key(&system.id));
        match &system.name {
            Some(name) if system.id == NAMELESS && !is_in_policy => name.clone(),
            _ => system.id.clone(),
        }
    };
    descriptor.systems.iter().map(|system| names.give(&wanted(system), "machine")).collect()
}

/// Title, version and licences.
fn describe(draft: &mut Draft, descriptor: &Descriptor) {
    let collection = descriptor.collection.as_ref();
    let product = products(descriptor).next();
    draft.version =
        product.and_then(|product| product.version.clone().or_else(|| product.full_version.clone()));
    let name = match collection {
        Some(collection) => collection.name.clone(),
        None => descriptor.systems.first().and_then(|system| system.name.clone()),
    };
    let title = product.and_then(|product| product.name.clone()).or(name);
    draft.title = title.filter(|title| !title.trim().is_empty() && *title != draft.name);
    let of_systems = descriptor.systems.iter().flat_map(|system| &system.eulas);
    let mut seen = BTreeSet::new();
    let eulas = collection.into_iter().flat_map(|collection| &collection.eulas).chain(of_systems);
    draft.eulas = eulas.filter(|eula| !eula.trim().is_empty() && seen.insert(*eula)).cloned().collect();
}

fn products(descriptor: &Descriptor) -> impl Iterator<Item = &Product> {
    let collection = descriptor.collection.iter().flat_map(|collection| &collection.products);
    collection.chain(descriptor.systems.iter().flat_map(|system| &system.products))
}

/// What is to be known of the package as a whole.
fn of_package(package: &Package<'_>, descriptor: &Descriptor, has_policy: bool) -> Vec<Notice> {
    let mut what = Vec::new();
    if package.manifest().is_none() {
        what.push(What::NoManifest);
    }
    what.extend(package.certificate().cloned().map(What::Certificate));
    if let Some(taken) = &descriptor.configuration {
        let others = descriptor.options.iter().map(|option| &option.id).filter(|id| *id != taken);
        let others: Vec<_> = others.cloned().collect();
        if !others.is_empty() {
            what.push(What::Configuration { taken: taken.clone(), others });
        }
    }
    if has_policy {
        what.push(What::OwnPolicy);
    }
    let eulas = descriptor.collection.iter().flat_map(|collection| &collection.eulas);
    let count = eulas.chain(descriptor.systems.iter().flat_map(|system| &system.eulas)).count();
    if count > 0 {
        what.push(What::Licence { count });
    }
    if let Some(collection) = &descriptor.collection {
        let limits = collection.allocations.iter();
        let limits = limits.map(|limit| format!("resource type {}", limit.resource_type)).collect();
        what.extend(What::kept_only("limits for all machines together", limits));
        what.extend(properties(&collection.products));
    }
    what.into_iter().map(|what| Notice { machine: None, what }).collect()
}

/// What a deployer could set. The guest is not told here.
fn properties(products: &[Product]) -> Option<What> {
    let shown = |product: &Product| {
        let shown = product.properties.iter().map(|property| {
            let key = product.full_key(property);
            match &property.value {
                Some(_) if property.password => format!("{key}=(hidden)"),
                Some(value) if !value.is_empty() => format!("{key}={value}"),
                _ => key,
            }
        });
        shown.collect::<Vec<_>>()
    };
    What::kept_only("properties that a deployer may set", products.iter().flat_map(shown).collect())
}
