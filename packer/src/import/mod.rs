//! What other platforms made, as an appliance: disk images, OVF packages, Vagrant boxes, KubeVirt's disks.
//!
//! ```text
//! file --by its content--> image, OVF package, box, container image
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

mod draft;
mod error;
mod firmware;
mod image;
mod names;
mod notice;
mod unpack;
mod write_folder;

use std::path::{Path, PathBuf};

use appliance::{Arch, Devices, Firmware};
use formats::image::{Format, Source};

use crate::Appliance;
use crate::hull_toml::Remarks;

pub use error::ImportError;
pub use notice::{Notice, What};
pub use unpack::UnpackError;
pub use write_folder::WriteFolderError;

/// What is imported, and how.
#[derive(Debug, Clone)]
pub struct ImportRequest<'a> {
    /// The file, or the folder with an OVF in it.
    pub path: &'a Path,
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
    let file = image::open_file(request.path)?;
    let name = request.path.display().to_string();
    let source = Source::new(file).map_err(|reason| ImportError::image(&name, reason))?;
    image::draft(source, &name, request)?.open(request)
}

impl Kind {
    /// What it is, for a person.
    pub fn describe(self) -> String {
        match self {
            Kind::Image(format) => format!("a {format} disk image"),
        }
    }
}
