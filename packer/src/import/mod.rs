//! What other platforms made, as an appliance: disk images, OVF packages, Vagrant boxes, KubeVirt's disks.
//!
//! ```text
//! file --by its content--> image, archive with one, OVF package, box, container image
//!                            `--> draft: machines, and the image of each disk
//!                                   `--> Import: the appliance with its disks opened, and what to know of it
//!                                          |--> Appliance::pack
//!                                          `--> write_folder: a hull.toml with the disks beside it
//! ```
//!
//! What a file is called decides nothing. Members of archives are read in place; no name from inside one is ever
//! used as a path. Nobody's firewall is guessed: without a policy of hull's own in it, everything is denied.
//!
//! What becomes of each thing in an OVF is in `docs/import.md`.

mod archive;
mod archived_image;
mod container;
mod draft;
mod error;
mod firmware;
mod folder;
mod image;
mod names;
mod notice;
mod ovf;
mod unpack;
mod vagrant;
mod write_folder;

use std::path::{Path, PathBuf};

use appliance::{Arch, Devices, Firmware};
use formats::image::{Format, Source};

use crate::hull_toml::Remarks;
use crate::{Appliance, Progress};

pub use container::ContainerImage;
pub(crate) use names::label;
pub(crate) use ovf::disk_drives;

pub use error::ImportError;
pub use notice::{Notice, What};
pub use unpack::UnpackError;
use unpack::{Packing, Room};
pub use write_folder::WriteFolderError;

/// What is imported, and how.
#[derive(Debug, Clone)]
pub struct ImportRequest<'a> {
    /// What is imported.
    pub origin: Origin<'a>,
    /// What may be used for a single disk image besides itself.
    pub image: ImageOptions<'a>,
    /// What is to be otherwise than the file says.
    pub wishes: Wishes,
    /// The configuration that is taken of those that an OVF offers; its default where that is `None`.
    pub configuration: Option<&'a str>,
    /// The largest disk, and the largest unpacked file, that is accepted, in bytes.
    pub max_disk_bytes: u64,
    /// A folder for files without names, which are gone when they are closed.
    pub scratch: &'a Path,
    /// Who is told how far checking and unpacking are.
    pub progress: &'a dyn Progress,
}

/// Where it is that is imported.
#[derive(Debug, Clone, Copy)]
pub enum Origin<'a> {
    /// A file, or the folder with an OVF package in it.
    Path(&'a Path),
    /// A container image that somebody has fetched.
    Container {
        /// How messages call it.
        name: &'a str,
        /// The image.
        image: &'a ContainerImage,
    },
}

/// What may be used for a single disk image besides itself.
#[derive(Debug, Clone, Copy, Default)]
pub struct ImageOptions<'a> {
    /// What it is read as; found out where that is `None`.
    pub format: Option<Format>,
    /// The images that it is a difference to, the nearest first.
    pub backing: &'a [PathBuf],
    /// The folder whose files an image cut into several may name.
    pub parts: Option<&'a Path>,
}

/// What a person wants of the appliance, whatever the file says. Machines' values hold for all of them.
#[derive(Debug, Clone, Default)]
pub struct Wishes {
    /// The appliance's name.
    pub name: Option<String>,
    /// Its version.
    pub version: Option<String>,
    /// The machines' architecture.
    pub arch: Option<Arch>,
    /// Their processors.
    pub vcpus: Option<u32>,
    /// Their memory in bytes.
    pub memory_bytes: Option<u64>,
    /// Their firmware.
    pub firmware: Option<Firmware>,
    /// Their device models.
    pub devices: Option<Devices>,
}

/// What a file was found to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kind {
    /// A disk image in this format.
    Image(Format),
    /// A disk image in this format in an archive, with what belongs to it.
    ArchivedImage(Format),
    /// An OVF descriptor with its files beside it.
    OvfFolder,
    /// An OVF package in one archive.
    Ova,
    /// A box for Vagrant.
    VagrantBox,
    /// A container image with a disk for KubeVirt.
    ContainerDisk,
}

/// What was imported, ready to be packed or written down.
#[derive(Debug)]
pub struct Import {
    /// What the file was.
    pub kind: Kind,
    /// The appliance, its disks opened.
    pub appliance: Appliance,
    /// What a person should know.
    pub notices: Vec<Notice>,
    /// The licences that its author wants agreed to.
    pub eulas: Vec<String>,
    /// For each disk the file that is all of it, where there is such a file.
    whole_images: Vec<Option<WholeImage>>,
    remarks: Remarks,
}

/// A disk image that needs no other file.
#[derive(Debug, Clone)]
struct WholeImage {
    source: Source,
    format: Format,
}

/// Reads a file that another platform made.
///
/// # Errors
///
/// [`ImportError`]. Nothing was written.
pub fn import(request: &ImportRequest<'_>) -> Result<Import, ImportError> {
    let imported = match request.origin {
        Origin::Container { image, .. } => container::import(image, request)?,
        Origin::Path(path) if path.is_dir() => folder::import(path, None, request)?,
        Origin::Path(path) => import_file(path, request)?,
    };
    let is_image = matches!(imported.kind, Kind::Image(_));
    if let Some(option) = request.image.first_given().filter(|_| !is_image) {
        return Err(ImportError::NotAnImage { option, found: imported.kind.describe() });
    }
    if request.configuration.is_some() && imported.appliance.ovf().is_none() {
        return Err(ImportError::NotAnOvf { found: imported.kind.describe() });
    }
    Ok(imported)
}

fn import_file(path: &Path, request: &ImportRequest<'_>) -> Result<Import, ImportError> {
    let name = path.display().to_string();
    let file = image::open_file(path)?;
    let source = Source::new(file).map_err(|reason| ImportError::image(&name, reason))?;
    // What a person says it is, it is.
    if request.image.format.is_some() {
        return image::import(source, &name, request);
    }
    let start = start(&source, &name)?;
    if archive::is_tar(&start) {
        return archive::import(&source, &name, request);
    }
    if folder::is_descriptor(&start) {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        return folder::import(folder.unwrap_or(Path::new(".")), path.file_name(), request);
    }
    if Packing::detect(&start) == Some(Packing::Gzip) {
        let unpacked = unpack::unpack((&source, &name), Packing::Gzip, request.room())?;
        return archive::import(&unpacked, &name, request);
    }
    image::import(source, &name, request)
}

/// The first sector of a file, or as much as there is.
fn start(source: &Source, name: &str) -> Result<Vec<u8>, ImportError> {
    let mut start = vec![0; source.size_bytes().min(512) as usize];
    let read = source.read_exact_at(&mut start, 0);
    read.map_err(|source| ImportError::Member { name: name.to_owned(), source })?;
    Ok(start)
}

impl ImportRequest<'_> {
    /// Where files are unpacked to.
    fn room(&self) -> Room<'_> {
        Room { folder: self.scratch, most_bytes: self.max_disk_bytes, progress: self.progress }
    }

    /// What the appliance is called if nothing in it says so and nobody wishes it.
    fn default_name(&self) -> String {
        let name = match self.origin {
            Origin::Path(path) => path.file_name().map(|name| name.to_string_lossy().into_owned()),
            Origin::Container { name, .. } => name.rsplit('/').next().map(str::to_owned),
        };
        let name = name.unwrap_or_default();
        let stem = name.split(['.', ':', '@']).find(|part| !part.is_empty()).unwrap_or_default();
        names::label(stem).unwrap_or_else(|| "imported".to_owned())
    }
}

impl ImageOptions<'_> {
    /// The first of the options that are given, by its name.
    fn first_given(&self) -> Option<&'static str> {
        let given = [
            ("--format", self.format.is_some()),
            ("--backing", !self.backing.is_empty()),
            ("--parts", self.parts.is_some()),
        ];
        given.into_iter().find_map(|(option, is_given)| is_given.then_some(option))
    }
}

impl Kind {
    /// What it is, for a person.
    pub fn describe(self) -> String {
        match self {
            Kind::Image(format) => format!("a {format} disk image"),
            Kind::ArchivedImage(format) => format!("an archive with a {format} disk image"),
            Kind::OvfFolder => "an OVF package".to_owned(),
            Kind::Ova => "an OVA, an OVF package in one file".to_owned(),
            Kind::VagrantBox => "a Vagrant box".to_owned(),
            Kind::ContainerDisk => "a container image with a disk for KubeVirt".to_owned(),
        }
    }
}
