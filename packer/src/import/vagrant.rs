//! Vagrant boxes: an archive with `metadata.json`, which says for which provider the rest is.
//!
//! Read are boxes for libvirt (one qcow2 image or several) and for VirtualBox (an OVF package). The `Vagrantfile` is a
//! program, and is never run.
//!
//! Source: Vagrant's documentation, "Box File Format"; vagrant-libvirt's, "Box Format", versions 1 and 2.

use appliance::{Arch, Devices, Disk, DiskMode};
use formats::image::{Format, Source};
use formats::ovf::Package;
use formats::tar::Members;
use serde::Deserialize;

use super::draft::{Assumed, Draft, DraftImage, NamedSource};
use super::names::{Names, label};
use super::notice::{Notice, What};
use super::{Import, ImportError, ImportRequest, Kind, archive, image, ovf};

/// The member that makes an archive a box.
pub(super) const METADATA: &str = "metadata.json";
const VAGRANTFILE: &str = "Vagrantfile";
/// Where libvirt boxes with one disk have it.
const IMAGE: &str = "box.img";
/// The most disks of a box: as many as a machine may have.
const MAX_DISKS: usize = 64;

const DEVICES: Assumed<Devices> =
    Assumed { value: Devices::Virtio, why: "boxes for libvirt are made for virtio" };

/// What is read of `metadata.json`.
#[derive(Debug, Deserialize)]
struct Metadata {
    provider: String,
    architecture: Option<String>,
    format: Option<String>,
    disks: Option<Vec<DiskEntry>>,
}

#[derive(Debug, Deserialize)]
struct DiskEntry {
    path: String,
    name: Option<String>,
    format: Option<String>,
}

/// The box in `source`, which has these `members`.
pub(super) fn import(
    source: &Source,
    members: &Members,
    request: &ImportRequest<'_>,
) -> Result<Import, ImportError> {
    let metadata = archive::small(members, METADATA)?.unwrap_or_default();
    let metadata: Metadata = serde_json::from_slice(&metadata)
        .map_err(|source| ImportError::Document { name: METADATA, source })?;
    let arch = metadata.architecture.as_deref().and_then(arch);
    let finish = |draft: &mut Draft| {
        draft.machines.iter_mut().for_each(|machine| machine.arch = arch.or(machine.arch));
        if members.get(VAGRANTFILE).is_some() {
            let names = vec![VAGRANTFILE.to_owned()];
            draft.notices.push(Notice { machine: None, what: What::FilesLeftOut { names } });
        }
    };
    match metadata.provider.as_str() {
        "libvirt" => {
            let mut draft = of_libvirt(members, &metadata, request)?;
            finish(&mut draft);
            draft.open(request, None)
        }
        "virtualbox" => {
            let package = Package::from_archive(source)?;
            let mut drafted = ovf::draft(&package, Kind::VagrantBox, request)?;
            finish(&mut drafted.draft);
            drafted.open(&package, request)
        }
        provider => Err(ImportError::BoxProvider { found: provider.to_owned() }),
    }
}

fn of_libvirt(
    members: &Members,
    metadata: &Metadata,
    request: &ImportRequest<'_>,
) -> Result<Draft, ImportError> {
    let one = || vec![DiskEntry { path: IMAGE.to_owned(), name: None, format: metadata.format.clone() }];
    let entries = metadata.disks.as_ref();
    let entries: Vec<_> = entries.map_or_else(one, |disks| disks.iter().map(DiskEntry::again).collect());
    if entries.len() > MAX_DISKS {
        return Err(ImportError::ManyDisks { found: entries.len(), most: MAX_DISKS });
    }
    let mut draft = Draft::new(Kind::VagrantBox, &request.default_name(), request);
    let mut names = Names::default();
    let mut disks = Vec::new();
    for (n, entry) in entries.iter().enumerate() {
        let missing = || ImportError::MissingFile { name: entry.path.clone() };
        let source = members.source(members.get(&entry.path).ok_or_else(missing)?);
        let layers = vec![NamedSource { source, name: entry.path.clone() }];
        let format = entry.format.as_deref().map(format).transpose()?;
        let wanted = entry.name.as_deref().and_then(label).unwrap_or_default();
        let name = names.give(&wanted, if n == 0 { "root" } else { "disk" });
        let disk = Disk { name, size_bytes: 0, mode: DiskMode::Overlay, bus: None };
        disks.push((disk, DraftImage { layers, format, said_bytes: None }));
    }
    let mut machine = image::with_nic(&draft.name, DEVICES);
    machine.disks = disks;
    draft.machines.push(machine);
    Ok(draft)
}

impl DiskEntry {
    fn again(&self) -> Self {
        Self { path: self.path.clone(), name: self.name.clone(), format: self.format.clone() }
    }
}

/// What the box says its images are. A disk that merely looks like another format is not taken for it.
fn format(name: &str) -> Result<Format, ImportError> {
    match name {
        "qcow2" => Ok(Format::Qcow2),
        "raw" => Ok(Format::Raw),
        found => Err(ImportError::BoxFormat { found: found.to_owned() }),
    }
}

fn arch(name: &str) -> Option<Arch> {
    match name {
        "amd64" | "x86_64" => Some(Arch::Amd64),
        "arm64" | "aarch64" => Some(Arch::Arm64),
        _ => None,
    }
}
