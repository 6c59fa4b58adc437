//! Disk images, written from anything that reads as a disk.
//!
//! [`write()`] copies a [`Disk`] into a fresh file in the format that [`Target`] names. What is known to be zero is not
//! read, what turns out to be zero is not stored. The same disk and the same options give the same bytes,
//! whatever the number of threads. Nothing but the file handed in is written, and it is never made shorter.
//!
//! ```text
//!  disk.runs -> windows -> read on the threads -> zero units dropped -> stored in order: format/write.rs
//!                                            `--> compressed, where the format does
//! ```
//!
//! A format's writer is a function `(&Job, &Output) -> Result<u64, ImageWriteError>` in its own folder. It asks
//! [`Job::each_unit`] or [`Job::each_packed_unit`] for the disk's content, and gives back the file's length.

mod compress;
mod output;
mod units;

use std::fmt;
use std::fs::File;
use std::io;
use std::num::NonZeroUsize;

pub(super) use compress::{Compressor, Recipe};
pub(super) use output::{Output, put};
pub(super) use units::{Packing, is_zero};

use super::{Format, VmdkAdapter, qcow2, raw, vdi, vhd, vhdx, vmdk};
use crate::{Disk, ReadError};

/// What a disk is written as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Target {
    /// The disk's bytes, with holes where it is zero.
    Raw,
    /// QEMU's copy-on-write format, version 3.
    Qcow2(Compression),
    /// VMware's for one growing file: monolithicSparse. Disks of less than 2 TiB.
    VmdkSparse(VmdkAdapter),
    /// VMware's for transport, compressed: streamOptimized.
    VmdkStream(VmdkAdapter),
    /// Virtual PC's and Hyper-V's: the disk's bytes and a footer. Disks of up to 2040 GiB.
    VhdFixed,
    /// Virtual PC's and Hyper-V's, growing. Disks of up to 2040 GiB.
    VhdDynamic,
    /// VirtualBox's, growing. Disks of up to 4 TiB.
    Vdi,
    /// Hyper-V's newer one, growing. Disks of up to 64 TiB.
    Vhdx,
}

/// How the clusters of a qcow2 image are compressed, each on its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    None,
    /// With deflate, which every reader knows.
    Zlib,
    /// With zstd, which QEMU knows since 5.1.
    Zstd,
}

/// How [`write()`] does its work.
#[derive(Debug, Clone, Copy)]
pub struct WriteOptions {
    /// The threads that read, decompress and compress. The output does not depend on their number.
    pub threads: NonZeroUsize,
    /// What a format makes its UUID or content identifier of. Of images with the same identity only one
    /// should be used in one place.
    pub identity: [u8; 16],
}

/// Told how many bytes of the disk are done, never fewer than before, by the thread that called [`write()`].
pub type Progress<'a> = dyn Fn(u64) + Sync + 'a;

/// Why an image was not written. What the file then holds is of no use.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImageWriteError {
    /// The disk cannot be read.
    #[error("cannot read the disk")]
    Read(#[from] ReadError),
    /// The file cannot be written.
    #[error("{format}: cannot write {what}, at byte {offset} of the file")]
    Write {
        /// What the disk is written as.
        format: Format,
        /// What was being written.
        what: &'static str,
        /// Where in the file.
        offset: u64,
        /// The reason.
        #[source]
        source: io::Error,
    },
    /// The file is not a fresh one.
    #[error("the output is {found}; wanted an empty regular file")]
    NotFresh {
        /// What it is, with its article.
        found: String,
    },
    /// The format has no room for such a disk.
    #[error("{format}: the disk has {size_bytes} bytes; the format holds at most {most}")]
    TooLarge {
        /// What the disk was to be written as.
        format: Format,
        /// The disk's size.
        size_bytes: u64,
        /// The largest that the format holds.
        most: u64,
    },
    /// The format has no disks without a single byte.
    #[error("{format}: the disk has no bytes; the format holds at least one sector")]
    NoBytes {
        /// What the disk was to be written as.
        format: Format,
    },
    /// The disk's content is more than the format's tables can point to.
    #[error("{format}: the file would have more than {most} bytes, and the format can point to no more")]
    FileTooLarge {
        /// What the disk was to be written as.
        format: Format,
        /// The largest file.
        most: u64,
    },
}

/// Writes `disk` to `out`, an empty regular file, and gives back the file's length in bytes.
///
/// The file's position is not relied on, and the file is not flushed to its device.
///
/// # Errors
///
/// [`ImageWriteError`].
pub fn write(
    disk: &dyn Disk,
    target: Target,
    out: File,
    options: &WriteOptions,
    progress: &Progress<'_>,
) -> Result<u64, ImageWriteError> {
    let out = Output::new(out, target.format())?;
    let job = Job { disk, options, progress };
    let file_bytes = match target {
        Target::Raw => raw::write(&job, &out)?,
        Target::VhdFixed => vhd::write_fixed(&job, &out)?,
        Target::VhdDynamic => vhd::write_dynamic(&job, &out)?,
        Target::Vdi => vdi::write(&job, &out)?,
        Target::Qcow2(compression) => qcow2::write(&job, compression, &out)?,
        Target::VmdkSparse(adapter) => vmdk::write_sparse(&job, adapter, &out)?,
        Target::VmdkStream(adapter) => vmdk::write_stream(&job, adapter, &out)?,
        Target::Vhdx => vhdx::write(&job, &out)?,
    };
    progress(disk.size_bytes());
    Ok(file_bytes)
}

impl Target {
    /// The format that reads it again.
    pub const fn format(self) -> Format {
        match self {
            Target::Raw => Format::Raw,
            Target::VhdFixed | Target::VhdDynamic => Format::Vhd,
            Target::Vdi => Format::Vdi,
            Target::Qcow2(_) => Format::Qcow2,
            Target::VmdkSparse(_) | Target::VmdkStream(_) => Format::Vmdk,
            Target::Vhdx => Format::Vhdx,
        }
    }
}

/// A disk that is being written, and how.
pub(super) struct Job<'a> {
    pub(super) disk: &'a dyn Disk,
    pub(super) options: &'a WriteOptions,
    pub(super) progress: &'a Progress<'a>,
}

impl fmt::Debug for Job<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Job")
            .field("disk", &self.disk)
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}
