//! Why the local store could not do what it was asked.

use std::io;
use std::path::{Path, PathBuf};

use appliance::{Digest, Reference};

/// Why the local store could not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LocalStoreError {
    /// The blob is not in the store.
    #[error("{digest} is not in the local store")]
    Missing {
        /// The blob.
        digest: Digest,
    },
    /// Nothing in the store has this name.
    #[error("no appliance `{reference}` in the local store")]
    UnknownReference {
        /// The name.
        reference: Reference,
    },
    /// The content is not what its name promises.
    #[error("the content has digest {found} and {found_bytes} bytes; {wanted} was promised")]
    WrongDigest {
        /// The digest of what was found.
        found: Digest,
        /// Its size.
        found_bytes: u64,
        /// The digest that was promised.
        wanted: Digest,
    },
    /// A blob that is read whole is larger than its reader accepts.
    #[error("{digest} has {found} bytes; at most {limit} are read here")]
    TooLarge {
        /// The blob.
        digest: Digest,
        /// Its size in bytes.
        found: u64,
        /// The most that the caller accepts.
        limit: u64,
    },
    /// The file system failed.
    #[error("cannot {action} `{}`", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// With what.
        path: PathBuf,
        /// The reason.
        #[source]
        source: io::Error,
    },
}

/// Adds what was tried, and with what, to an [`io::Error`].
pub(super) trait Context<T> {
    fn during(self, action: &'static str, path: &Path) -> Result<T, LocalStoreError>;
}

impl<T> Context<T> for io::Result<T> {
    fn during(self, action: &'static str, path: &Path) -> Result<T, LocalStoreError> {
        self.map_err(|source| LocalStoreError::Io { action, path: path.to_owned(), source })
    }
}
