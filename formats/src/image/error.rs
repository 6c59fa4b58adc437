//! Why a file is not opened as a disk.

use std::io;

use super::Format;

/// A disk image that is not opened, and why.
#[derive(Debug, thiserror::Error)]
#[error("cannot open {} as a disk", name.escape_debug())]
pub struct OpenError {
    /// The image, as the caller of [`open`](super::open) named it.
    pub name: String,
    /// What stands in the way.
    #[source]
    pub reason: Refusal,
}

/// What stands in the way of reading a file as a disk. Text from the file is escaped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The image contradicts its format.
    #[error("{format}: at byte {offset}, {field} is {found}; wanted {wanted}")]
    Malformed {
        /// The format it was read as.
        format: Format,
        /// Where in the file the field lies.
        offset: u64,
        /// The field's name in the specification.
        field: &'static str,
        /// What was found.
        found: String,
        /// What could stand there.
        wanted: String,
    },
    /// The image may be right, but needs something that is not read, most often for safety.
    #[error("{format}: at byte {offset}, {field} is {found}: {refused}")]
    Unsupported {
        /// The format it was read as.
        format: Format,
        /// Where in the file the field lies.
        offset: u64,
        /// The field's name in the specification.
        field: &'static str,
        /// What was found.
        found: String,
        /// What is not read, and a way out where there is one.
        refused: &'static str,
    },
    /// The disk is larger than [`Limits`](super::Limits) allow.
    #[error("{format}: the disk has {size_bytes} bytes; the limit is {max_size_bytes}")]
    TooLarge {
        /// The format it was read as.
        format: Format,
        /// The size that the image claims.
        size_bytes: u64,
        /// The largest accepted.
        max_size_bytes: u64,
    },
    /// Another kind of file that is known by its magic.
    #[error("this is {what}; {advice}")]
    OtherFormat {
        /// The kind of file, with its article.
        what: &'static str,
        /// What to do.
        advice: &'static str,
    },
    /// A base was handed over that the image has no use for.
    #[error("{format}: the image is no difference to another one; wanted no backing file for it")]
    UnusedBacking {
        /// The format it was read as.
        format: Format,
    },
    /// More images over one another than are opened at once.
    #[error("it is the last of a chain of {found} images; wanted at most {most}")]
    ChainTooLong {
        /// How many there are.
        found: usize,
        /// How many are opened.
        most: usize,
    },
    /// The tables that say where things lie are too large to be kept in memory.
    #[error(
        "its tables have {bytes} bytes, for which {left} are left; all images of a chain may have {most} together"
    )]
    TablesTooLarge {
        /// What this image's have.
        bytes: u64,
        /// What those that it is a difference to have left.
        left: u64,
        /// What a chain may have.
        most: u64,
    },
    /// A file that the image was cut into is not what the image says.
    #[error("its part `{}` cannot be used", name.escape_debug())]
    Part {
        /// The part's name, as it stands in the image.
        name: String,
        /// What stands in the way.
        #[source]
        reason: Box<Refusal>,
    },
    /// A file that the image was cut into is not there.
    #[error("its part `{}` is missing from the files that were handed over", name.escape_debug())]
    MissingPart {
        /// The part's name, as it stands in the image.
        name: String,
    },
    /// Not a thing that holds bytes at offsets.
    #[error("this is {found}; wanted a regular file or a block device")]
    NotAFile {
        /// What it is, with its article.
        found: &'static str,
    },
    /// The file cannot be read.
    #[error("cannot read {what}")]
    Io {
        /// What was being read.
        what: String,
        /// The reason.
        #[source]
        source: io::Error,
    },
}
