//! Why a file is not opened as a disk.

use std::io;

use super::Format;
use crate::ReadError;

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
    /// The image is a difference to another one, which the caller did not hand over.
    #[error(
        "{format}: at byte {offset}, {field} is {found}: it is a difference to another image, which was not handed over"
    )]
    NoBacking {
        /// The format it was read as.
        format: Format,
        /// Where in the file the field lies.
        offset: u64,
        /// The field's name in the specification.
        field: &'static str,
        /// What was found.
        found: String,
    },
    /// The image names the files that it was cut into, and the caller handed over none.
    #[error(
        "{format}: at byte {offset}, {field} is {found}: the disk's content lies in other files, which were not handed over"
    )]
    NoParts {
        /// The format it was read as.
        format: Format,
        /// Where in the file the field lies.
        offset: u64,
        /// The field's name in the specification.
        field: &'static str,
        /// What was found.
        found: String,
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

/// What of a disk was not handed over with its image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missing {
    /// The image that it is a difference to.
    Backing,
    /// The files that it was cut into.
    Parts,
}

impl Refusal {
    /// What has to be handed over too, where that is all that is known to be wrong.
    pub fn missing(&self) -> Option<Missing> {
        match self {
            Self::NoBacking { .. } => Some(Missing::Backing),
            Self::NoParts { .. } => Some(Missing::Parts),
            _ => None,
        }
    }
}

/// Errors of reading files as this format.
impl Format {
    /// A field contradicts the specification.
    pub(super) fn malformed(
        self,
        offset: u64,
        field: &'static str,
        found: impl ToString,
        wanted: impl Into<String>,
    ) -> Refusal {
        let (found, wanted) = (found.to_string(), wanted.into());
        Refusal::Malformed { format: self, offset, field, found, wanted }
    }

    /// A field asks for something that is not read.
    pub(super) fn unsupported(
        self,
        offset: u64,
        field: &'static str,
        found: impl ToString,
        refused: &'static str,
    ) -> Refusal {
        Refusal::Unsupported { format: self, offset, field, found: found.to_string(), refused }
    }

    /// A field says that the image is a difference, and its parent was not handed over.
    pub(super) fn no_backing(self, offset: u64, field: &'static str, found: impl ToString) -> Refusal {
        Refusal::NoBacking { format: self, offset, field, found: found.to_string() }
    }

    /// A field names a file, and none were handed over.
    pub(super) fn no_parts(self, offset: u64, field: &'static str, found: impl ToString) -> Refusal {
        Refusal::NoParts { format: self, offset, field, found: found.to_string() }
    }

    /// A field that is only looked at where it is needed contradicts the specification.
    pub(super) fn corrupt(
        self,
        offset: u64,
        field: &'static str,
        found: impl ToString,
        wanted: &'static str,
    ) -> ReadError {
        ReadError::Corrupt { format: self.name(), offset, field, found: found.to_string(), wanted }
    }
}
