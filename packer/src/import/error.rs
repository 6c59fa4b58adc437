//! Why a file is not imported.

use std::io;
use std::path::PathBuf;

use appliance::policy::PolicyError;
use appliance::{ConfigError, Digest, DigestError};
use formats::ReadError;
use formats::image::{Format, Missing, OpenError, Refusal};
use formats::ovf::{OvfError, PackageError};
use formats::tar::TarError;

use super::UnpackError;

/// Why a file is not imported. Text from the file is escaped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImportError {
    /// A file or folder that was named cannot be opened.
    #[error("cannot open `{}`", path.display())]
    File {
        /// The file or folder.
        path: PathBuf,
        /// The reason.
        #[source]
        source: io::Error,
    },
    /// A disk's image cannot be read.
    #[error(transparent)]
    Image(#[from] OpenError),
    /// A disk could not be read to see what it boots with.
    #[error("cannot read disk {disk}")]
    Read {
        /// The disk's name.
        disk: String,
        /// The reason.
        #[source]
        source: ReadError,
    },
    /// An option that says something of a disk image, and the file is none.
    #[error("`{option}` is for a disk image; this is {found}")]
    NotAnImage {
        /// The option's name.
        option: &'static str,
        /// What the file is.
        found: String,
    },
    /// A configuration of an OVF is asked for, and the file is none.
    #[error("`--configuration` is for an OVF; this is {found}")]
    NotAnOvf {
        /// What the file is.
        found: String,
    },
    /// A compressed file cannot be unpacked.
    #[error(transparent)]
    Unpack(#[from] UnpackError),
    /// A compressed disk is longer than the descriptor lets it be.
    #[error(
        "`{}` unpacks to more than {most} bytes; wanted an image of a disk of {capacity_bytes}, as the OVF says",
        name.escape_debug()
    )]
    PastCapacity {
        /// The file.
        name: String,
        /// The most that is unpacked of it.
        most: u64,
        /// The disk's size in the descriptor.
        capacity_bytes: u64,
    },
    /// The descriptor cannot be read.
    #[error("cannot read the OVF descriptor `{}`", name.escape_debug())]
    Ovf {
        /// The descriptor.
        name: String,
        /// What is wrong with it.
        #[source]
        source: OvfError,
    },
    /// The descriptor describes no machine.
    #[error("the OVF descriptor `{}` has no virtual machine in it", name.escape_debug())]
    NoMachine {
        /// The descriptor.
        name: String,
    },
    /// A file that something in the archive names is not there.
    #[error("the file `{}` is named and is not there", name.escape_debug())]
    MissingFile {
        /// Its name.
        name: String,
    },
    /// An OVF package cannot be read, or is not what its manifest says.
    #[error(transparent)]
    Package(#[from] PackageError),
    /// A file of the package cannot be read.
    #[error("cannot read `{}`", name.escape_debug())]
    Member {
        /// The file.
        name: String,
        /// The reason.
        #[source]
        source: io::Error,
    },
    /// The file describes more of something than an appliance has, or than there is memory for.
    #[error("there are {found} {what}; at most {most} are read")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many.
        found: u64,
        /// The most that are read.
        most: u64,
    },
    /// A disk is a difference to a difference, and so on, for longer than is read, or to itself.
    #[error("disk `{}` is the last of a chain of more than 256 disks", disk.escape_debug())]
    EndlessChain {
        /// The disk's id in the descriptor.
        disk: String,
    },
    /// The policy in the OVF cannot be used.
    #[error("the policy of hull's in the OVF cannot be used")]
    Policy {
        /// What is wrong with it.
        #[source]
        source: Box<PolicyError>,
    },
    /// There are two policies of hull's in the OVF, of which one could hide the other.
    #[error("the OVF has two policies of hull's; expected one")]
    TwoPolicies,
    /// An archive cannot be read, or has in it what could be read in two ways.
    #[error("cannot read the archive `{}`", name.escape_debug())]
    Archive {
        /// The archive.
        name: String,
        /// What is wrong with it.
        #[source]
        source: TarError,
    },
    /// An archive of something else.
    #[error(
        "the archive `{}` is no OVA, Vagrant box, container image or disk image with its parts; it has {}",
        name.escape_debug(), list(members)
    )]
    UnknownArchive {
        /// The archive.
        name: String,
        /// Its first members.
        members: Vec<String>,
    },
    /// An archive with disk images of which not one is the disk that all others are parts of.
    #[error(
        "the archive `{}` has not one disk image to which all others in it belong; it has {}",
        name.escape_debug(), list(images)
    )]
    NotOneImage {
        /// The archive.
        name: String,
        /// The first of its images.
        images: Vec<String>,
    },
    /// What `hull pack -o` writes.
    #[error("this is an appliance already")]
    Appliance,
    /// A folder with several descriptors.
    #[error("the folder `{}` has two OVF descriptors, {}; name the one that is meant", path.display(), list(names))]
    TwoDescriptors {
        /// The folder.
        path: PathBuf,
        /// Two of them.
        names: [String; 2],
    },
    /// A folder without a descriptor.
    #[error("the folder `{}` has no OVF descriptor in it", path.display())]
    NoDescriptor {
        /// The folder.
        path: PathBuf,
    },
    /// A document is longer than any of its kind.
    #[error("`{}` has {found} bytes; at most {most} are read", name.escape_debug())]
    LongDocument {
        /// The document.
        name: String,
        /// Its length.
        found: u64,
        /// The most that is read.
        most: u64,
    },
    /// A document is not what its place says.
    #[error("{name} is not the JSON that is expected there")]
    Document {
        /// The document.
        name: &'static str,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
    /// A Vagrant box for a provider whose files are not read.
    #[error("the box is for the provider `{}`; read are boxes for libvirt and virtualbox", found.escape_debug())]
    BoxProvider {
        /// The provider.
        found: String,
    },
    /// A Vagrant box with images in another format than boxes have.
    #[error("the box says that its image is `{}`; wanted qcow2 or raw", found.escape_debug())]
    BoxFormat {
        /// The format.
        found: String,
    },
    /// A container image that is none for KubeVirt.
    #[error("the container image has no disk: no file in `disk/`, and not one alone at its root")]
    NoDisk,
    /// A container image with several disks.
    #[error("the container image has several files in `disk/`, {}; KubeVirt takes one", list(names))]
    SeveralDisks {
        /// Some of them.
        names: Vec<String>,
    },
    /// A disk in a container image that KubeVirt would not take.
    #[error("the container image's disk `{}` is {found}; KubeVirt takes raw and qcow2", name.escape_debug())]
    ContainerFormat {
        /// The disk.
        name: String,
        /// What it is.
        found: Format,
    },
    /// An archive without a container image for this architecture, or with several.
    #[error("the archive has not one container image for this architecture")]
    NoImage,
    /// A box with more disks than a machine may have.
    #[error("the box has {found} disks; at most {most} are read")]
    ManyDisks {
        /// How many.
        found: usize,
        /// The most that are read.
        most: usize,
    },
    /// A container image with more layers than container engines accept.
    #[error("the container image has {found} layers; at most {most} are read")]
    ManyLayers {
        /// How many.
        found: usize,
        /// The most that are read.
        most: usize,
    },
    /// A descriptor that names no content.
    #[error("`{}` is no digest", found.escape_debug())]
    BadDigest {
        /// What stands in its place.
        found: String,
        /// What is wrong with it.
        #[source]
        source: DigestError,
    },
    /// Content that is not what its digest promises.
    #[error(
        "`{name}` has digest {found} and {found_bytes} bytes, which is not what the image's documents promise"
    )]
    WrongDigest {
        /// The file.
        name: String,
        /// Its digest.
        found: Digest,
        /// Its size.
        found_bytes: u64,
    },
    /// The appliance cannot be: with a disk of an impossible size, for instance.
    #[error(transparent)]
    Config(#[from] ConfigError),
}

impl ImportError {
    pub(super) fn image(name: &str, reason: Refusal) -> Self {
        OpenError { name: name.to_owned(), reason }.into()
    }

    /// What has to be handed over too, where that is all that is wrong.
    pub fn missing(&self) -> Option<Missing> {
        match self {
            Self::Image(error) => error.reason.missing(),
            _ => None,
        }
    }

    /// True if something is larger than was accepted.
    pub fn is_too_large(&self) -> bool {
        match self {
            Self::Image(error) => matches!(error.reason, Refusal::TooLarge { .. }),
            Self::Unpack(error) => matches!(error, UnpackError::TooLarge { .. }),
            _ => false,
        }
    }
}

/// Names from a file.
fn list(names: &[String]) -> String {
    let quoted = names.iter().map(|name| format!("`{}`", name.escape_debug()));
    if names.is_empty() { "nothing in it".to_owned() } else { quoted.collect::<Vec<_>>().join(", ") }
}
