//! What can be wrong with the bytes of a disk index.

use crate::ReadError;

/// Why bytes are not a root or a page of format version 1.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IndexError {
    /// Something else altogether.
    #[error("a disk index starts with `hulldisk`; this starts with `{found}`")]
    NotAnIndex {
        /// The first bytes, control characters escaped.
        found: String,
    },
    /// A format that this version of hull cannot read.
    #[error("the disk index has format version {found}; this hull reads version 1")]
    UnsupportedVersion {
        /// The version found.
        found: u16,
    },
    /// The root or the page is shorter or longer than its own counts say, or than any may be.
    #[error("the {part} has {found} bytes; {wanted}")]
    Length {
        /// `root` or `page`.
        part: &'static str,
        /// Its length in bytes.
        found: u64,
        /// What its length may be.
        wanted: &'static str,
    },
    /// One field has a value that it may not have.
    #[error("at byte {at} of the {part}, {field} is {found}; {wanted}")]
    Field {
        /// `root` or `page`.
        part: &'static str,
        /// Where the field lies, in bytes from the start of the part.
        at: u64,
        /// Its name in `docs/formats/disk-index.md`.
        field: &'static str,
        /// Its value.
        found: u64,
        /// What could stand there.
        wanted: &'static str,
    },
}

impl IndexError {
    /// The same, for somebody who reads a disk. `base` is where the part starts in the index.
    pub(super) fn in_index(self, base: u64) -> ReadError {
        let format = "disk index";
        match self {
            Self::NotAnIndex { found } => ReadError::Corrupt {
                format,
                offset: base,
                field: "magic",
                found: format!("`{found}`"),
                wanted: "a disk index starts with `hulldisk`",
            },
            Self::UnsupportedVersion { found } => ReadError::Corrupt {
                format,
                offset: base + 8,
                field: "version",
                found: found.to_string(),
                wanted: "this hull reads version 1",
            },
            Self::Length { found, wanted, .. } => {
                ReadError::Corrupt { format, offset: base, field: "length", found: found.to_string(), wanted }
            }
            Self::Field { at, field, found, wanted, .. } => {
                ReadError::Corrupt { format, offset: base + at, field, found: found.to_string(), wanted }
            }
        }
    }
}
