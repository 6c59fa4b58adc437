//! The border between whoever has a guest's disk and whoever reads it.

use std::fmt;
use std::io;

/// A guest's disk, as the guest would see it: `size_bytes` of content, readable at any offset from
/// several threads at once.
pub trait Disk: Send + Sync + fmt::Debug {
    /// Size as the guest sees it, in bytes.
    fn size_bytes(&self) -> u64;

    /// Fills `buf` with the content from `offset` on.
    ///
    /// # Errors
    ///
    /// [`ReadError`]; `buf` then holds nothing that may be used. A range past the end of the disk
    /// is [`ReadError::OutOfRange`], never zeros.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), ReadError>;

    /// How the content from `offset` on is stored, in order and without gaps, covering at least the
    /// first byte and at most `len` bytes; no content is read to find out.
    ///
    /// `Zero` is a promise that the content reads as zeros. `Data` is none that it does not.
    ///
    /// # Errors
    ///
    /// As [`Disk::read_at`].
    fn runs(&self, offset: u64, len: u64) -> Result<Vec<Run>, ReadError>;
}

/// A stretch of a disk that is stored in one way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// Length in bytes, never 0.
    pub len: u64,
    /// How it is stored.
    pub kind: RunKind,
}

/// How a stretch of a disk is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunKind {
    /// Something is stored for it.
    Data,
    /// It reads as zeros.
    Zero,
}

/// Why a piece of a disk cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// The range does not lie on the disk.
    #[error("bytes {offset} to {} are not on the disk, which has {size_bytes} bytes", offset.saturating_add(*len))]
    OutOfRange {
        /// First byte asked for.
        offset: u64,
        /// Bytes asked for.
        len: u64,
        /// The disk's size.
        size_bytes: u64,
    },
    /// The image contradicts its format.
    #[error("{format}: at byte {offset} of the file, {field} is {found}; {wanted}")]
    Corrupt {
        /// The image's format, such as `qcow2`.
        format: &'static str,
        /// Where in the image file the field lies.
        offset: u64,
        /// The field's name in the specification.
        field: &'static str,
        /// What was found, control characters escaped.
        found: String,
        /// What could stand there.
        wanted: &'static str,
    },
    /// The content is not what its digest promises.
    #[error("{what} has digest {found}; the appliance promises {wanted}")]
    WrongDigest {
        /// What was checked, such as `chunk at block 77 of disk root`.
        what: String,
        /// The digest of what was read.
        found: String,
        /// The digest in the index, page or manifest.
        wanted: String,
    },
    /// One of the files that the image was cut into cannot be read.
    #[error("cannot read its part `{}`", name.escape_debug())]
    Part {
        /// The part's name, as it stands in the image.
        name: String,
        /// The reason.
        #[source]
        reason: Box<ReadError>,
    },
    /// The file, or whoever fetches ranges, failed.
    #[error("cannot read {what}")]
    Io {
        /// What was being read.
        what: String,
        /// The reason.
        #[source]
        source: io::Error,
    },
}

/// Checks that `len` bytes from `offset` on lie on a disk of `size_bytes`.
///
/// # Errors
///
/// [`ReadError::OutOfRange`] where they do not.
pub(crate) fn check_range(offset: u64, len: u64, size_bytes: u64) -> Result<(), ReadError> {
    match offset.checked_add(len) {
        Some(end) if end <= size_bytes => Ok(()),
        _ => Err(ReadError::OutOfRange { offset, len, size_bytes }),
    }
}
