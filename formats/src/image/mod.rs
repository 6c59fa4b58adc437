//! Foreign disk images, read as the guest's disk, and written.
//!
//! [`open`] turns an image into a [`Disk`]; [`detect()`] says by its magic what a file is; [`write()`] makes an image. Whatever is
//! not one whole disk is refused with the reason: backing files, data files and split extents that the caller
//! did not hand over, encryption, features not known here. No path named inside an image is ever opened, and
//! no field is believed before it was held against the length of the file.
//!
//! ```text
//! Source ---> raw, fixed vhd    RawDisk: the bytes are the disk
//!         |--> qcow2 --.
//!         |--> vmdk  --+
//!         |--> vhd   --+
//!         |--> vdi   --+
//!         `--> vhdx  --+-> MappedDisk: the format says where each stretch lies, the rest is shared
//! ```
//!
//! Amplification is legal: an image may name one stored cluster for all of its disk, so that a few
//! kilobytes read as terabytes of data. Readers stay fast and small then, but whoever copies a disk must
//! bound what it copies; [`Limits::max_size_bytes`] bounds what a disk may claim.

mod chain;
mod concat;
mod decompress;
mod detect;
mod error;
mod mapped;
mod qcow2;
mod quoted;
mod raw;
mod read_cache;
mod source;
mod unpack;
mod vdi;
mod vhd;
mod vhdx;
mod vmdk;
mod write;

use std::fmt;
use std::io;

pub use detect::{Format, detect};
pub use error::{Missing, OpenError, Refusal};
pub use read_cache::ReadCache;
pub use source::Source;
pub use vmdk::{VmdkAdapter, write_stream_optimized};
pub use write::{Compression, ImageWriteError, Progress, Target, WriteOptions, write};

use crate::Disk;

/// What an image may claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The largest disk, as the guest sees it, that is accepted.
    pub max_size_bytes: u64,
}

/// An image to be opened, and all that may be used for it.
#[derive(Debug)]
pub struct ImageRequest<'a> {
    /// The image.
    pub layer: Layer<'a>,
    /// The images that it is a difference to, the nearest first. All of them must be used.
    pub backing: Vec<Layer<'a>>,
    /// The files that an image cut into several may name; none where that is `None`.
    pub parts: Option<&'a dyn Parts>,
    /// What each of the images may claim.
    pub limits: Limits,
    /// Memory for reading; whoever keeps many disks open hands the same to all of them.
    pub cache: ReadCache,
}

/// One image file.
#[derive(Debug, Clone)]
pub struct Layer<'a> {
    /// Its bytes.
    pub source: Source,
    /// How messages call it.
    pub name: &'a str,
    /// What it is read as; what [`detect()`] finds where that is `None`.
    ///
    /// A caller that keeps an image for later use should keep its format too: a guest can write any magic to
    /// the first sector of a raw disk.
    pub format: Option<Format>,
}

/// The files of one folder or archive that the caller has handed over, by their names.
pub trait Parts: fmt::Debug {
    /// The file called `name`; `None` where there is none.
    ///
    /// `name` comes from inside an image. It is compared with the names of the files there are, and never
    /// used as a path.
    ///
    /// # Errors
    ///
    /// Those of opening the file.
    fn part(&self, name: &str) -> io::Result<Option<Source>>;
}

/// An opened image.
#[derive(Debug)]
pub struct Image {
    /// What it was read as.
    pub format: Format,
    /// The disk, as the guest sees it.
    pub disk: Box<dyn Disk>,
    /// What the image holds besides.
    pub left_out: Vec<LeftOut>,
    /// What its tables, and those of the images that it is a difference to, take of memory as long as the disk is
    /// open. The [`ReadCache`] comes on top.
    pub table_bytes: u64,
}

/// What an image holds that is not part of the disk as the guest sees it now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum LeftOut {
    /// Earlier states of the disk.
    InternalSnapshots {
        /// How many.
        count: u32,
    },
}

impl fmt::Display for LeftOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LeftOut::InternalSnapshots { count: 1 } => f.write_str("1 internal snapshot"),
            LeftOut::InternalSnapshots { count } => write!(f, "{count} internal snapshots"),
        }
    }
}

impl<'a> ImageRequest<'a> {
    /// A request for the image in `source`, alone, whatever its format; messages call it `name`.
    pub fn new(source: Source, name: &'a str, limits: Limits) -> Self {
        let layer = Layer { source, name, format: None };
        ImageRequest { layer, backing: Vec::new(), parts: None, limits, cache: ReadCache::new() }
    }
}

/// Opens a disk image.
///
/// # Errors
///
/// [`OpenError`], naming the field, where it lies, what it holds and what could stand there.
pub fn open(request: ImageRequest<'_>) -> Result<Image, OpenError> {
    chain::open(request)
}

/// The name that an image has for the one that it is a difference to, where its format is qcow2; for comparing with the names
/// of files at hand, and for nothing else. `None` for what is no such name: [`open`] says what is wrong then.
///
/// # Errors
///
/// [`Refusal::Io`].
pub fn declared_backing(source: &Source) -> Result<Option<String>, Refusal> {
    qcow2::backing_name(source)
}

/// Whether a file is a VMDK's descriptor file, whose disk lies in the files that it names.
///
/// # Errors
///
/// [`Refusal::Io`].
pub fn is_vmdk_descriptor(source: &Source) -> Result<bool, Refusal> {
    vmdk::is_descriptor(source)
}
