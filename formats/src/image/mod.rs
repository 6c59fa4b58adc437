//! Foreign disk images, read as the guest's disk: raw, qcow2 and VMDK.
//!
//! [`open`] turns an open file into a [`Disk`]; [`detect()`] says by its magic what a file is.
//! Whatever is not one disk in one file is refused with the reason: backing files, data files, split
//! extents, encryption, features not known here. No path named inside an image is ever opened, and no
//! field is believed before it was held against the length of the file.
//!
//! ```text
//! open ---> raw      RawDisk: the file is the disk
//!      |--> qcow2 --.
//!      `--> vmdk  --+-> MappedDisk: the format says where each stretch lies, the rest is shared
//! ```
//!
//! Amplification is legal: an image may name one stored cluster for all of its disk, so that a few
//! kilobytes read as terabytes of data. Readers stay fast and small then, but whoever copies a disk must
//! bound what it copies; [`Limits::max_size_bytes`] bounds what a disk may claim.

mod cache;
mod decompress;
mod detect;
mod error;
mod file;
mod mapped;
mod qcow2;
mod raw;
mod vmdk;

use std::fs::File;

pub use detect::{Format, detect};
pub use error::{OpenError, Refusal};

use crate::Disk;
use file::ImageFile;

/// What an image may claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The largest disk, as the guest sees it, that is accepted.
    pub max_size_bytes: u64,
}

/// Opens the disk image in `file`, as `format` or, where that is `None`, as what [`detect()`] finds.
///
/// `name` serves messages only. A caller that keeps an image for later use should keep its format too:
/// a guest can write any magic to the first sector of a raw disk.
///
/// # Errors
///
/// [`OpenError`], naming the field, where it lies, what it holds and what could stand there.
pub fn open(
    file: File,
    name: &str,
    format: Option<Format>,
    limits: Limits,
) -> Result<Box<dyn Disk>, OpenError> {
    open_unnamed(file, format, limits).map_err(|reason| OpenError { name: name.to_owned(), reason })
}

fn open_unnamed(file: File, format: Option<Format>, limits: Limits) -> Result<Box<dyn Disk>, Refusal> {
    let file = ImageFile::new(file)?;
    let format = match format {
        Some(format) => format,
        None => detect(file.as_file())?,
    };
    Ok(match format {
        Format::Raw => Box::new(raw::RawDisk::open(file, limits)?),
        Format::Qcow2 => Box::new(qcow2::open(file, limits)?),
        Format::Vmdk => Box::new(vmdk::open(file, limits)?),
    })
}
