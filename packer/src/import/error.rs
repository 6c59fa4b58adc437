//! Why a file is not imported.

use std::io;
use std::path::PathBuf;

use appliance::ConfigError;
use formats::ReadError;
use formats::image::{OpenError, Refusal};

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
    #[error("`{option}` is for a disk image; `{}` is {found}", path.display())]
    NotAnImage {
        /// The option's name.
        option: &'static str,
        /// The file.
        path: PathBuf,
        /// What it is.
        found: &'static str,
    },
    /// A compressed file cannot be unpacked.
    #[error(transparent)]
    Unpack(#[from] UnpackError),
    /// The appliance cannot be: with a disk of an impossible size, for instance.
    #[error(transparent)]
    Config(#[from] ConfigError),
}

impl ImportError {
    pub(super) fn image(name: &str, reason: Refusal) -> Self {
        OpenError { name: name.to_owned(), reason }.into()
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
