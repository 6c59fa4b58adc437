//! OVF: the descriptor of a package of virtual machines, read and written.
//!
//! A package is one descriptor (XML), the disks, and often a manifest of digests. It lies in a folder or, as an
//! OVA, in a tar archive. Nothing here knows what becomes of a machine: sections that are not understood are carried
//! as text, and names of files are compared, never opened.
//!
//! Source: DMTF DSP0243 1.1.0 and 2.1.1 (OVF), DSP8023 (its schema and namespaces); and what VMware, VirtualBox and
//! oVirt write, where that differs.

mod certificate;
mod error;
mod foreign_text;
mod manifest;
mod model;
mod names;
mod ova;
mod package;
mod read;
mod write;
mod xml;

pub use certificate::Certificate;
pub use error::{Doubt, OvfError, OvfWriteError, Warning};
pub use manifest::{Manifest, ManifestDigest, ManifestEntry};
pub use model::{
    Collection, Compression, Controller, ControllerKind, DeploymentOption, Descriptor, Drive, DriveKind,
    FORMAT_VMDK_STREAM, FileReference, Firmware, ForeignSection, Hardware, Medium, NamespaceBinding, Network,
    Nic, NicKind, OperatingSystem, OtherDevice, Place, Product, Property, ResourceAllocation, Setting,
    SettingKind, Start, VirtualDisk, VirtualSystem,
};
pub use ova::{MemberWriter, OvaWriteError, OvaWriter};
pub use package::{Package, PackageError, PackageFile};
pub use read::parse;
pub use write::write;
