//! What a pull or a push tells whoever watches it.

use std::fmt;
use std::time::Duration;

use appliance::Blob;

use crate::RequestError;

/// Watches a pull or a push. Called from the task that runs it, often, and must return at once.
pub trait Progress: Send + Sync {
    /// Takes note of what has just happened.
    fn report(&self, event: Event<'_>);
}

/// What can happen during a pull or a push.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// What has to move is known; nothing of it has moved yet. Reported once.
    Planned(Plan),
    /// A blob begins to move.
    Started {
        /// The blob.
        blob: Blob,
        /// Bytes of it that an earlier attempt has moved already.
        at_bytes: u64,
    },
    /// More of a blob has moved.
    Moved {
        /// The blob.
        blob: Blob,
        /// Bytes since the last report.
        bytes: u64,
    },
    /// More of a blob is here without having moved: local chunks gave it.
    Rebuilt {
        /// The blob.
        blob: Blob,
        /// Bytes since the last report.
        bytes: u64,
    },
    /// A blob is there without having moved: the registry had it in another repository.
    Mounted {
        /// The blob.
        blob: Blob,
    },
    /// After a failure a blob goes on at another offset; what had moved beyond it moves again.
    Resumed {
        /// The blob.
        blob: Blob,
        /// Where it goes on.
        at_bytes: u64,
    },
    /// A blob is where it should be, checked and durable.
    Finished {
        /// The blob.
        blob: Blob,
    },
    /// Something failed and will be tried again.
    Waiting {
        /// What failed.
        reason: &'a RequestError,
        /// When it will be tried again.
        delay: Duration,
    },
}

/// How much has to move, and how much need not.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Plan {
    /// Blobs that have to move.
    pub blobs: usize,
    /// Their bytes; some may turn out to be rebuilt or mounted instead.
    pub bytes: u64,
    /// Blobs that are there already.
    pub present_blobs: usize,
    /// Their bytes.
    pub present_bytes: u64,
}

impl Plan {
    /// The plan for `all` blobs, of which the `missing` ones have to move.
    pub(crate) fn new(all: &[Blob], missing: &[Blob]) -> Self {
        let bytes =
            |blobs: &[Blob]| blobs.iter().fold(0, |sum: u64, blob| sum.saturating_add(blob.size_bytes));
        Self {
            blobs: missing.len(),
            bytes: bytes(missing),
            present_blobs: all.len() - missing.len(),
            present_bytes: bytes(all).saturating_sub(bytes(missing)),
        }
    }
}

/// Watches nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Progress for Silent {
    fn report(&self, _: Event<'_>) {}
}

impl fmt::Debug for dyn Progress + '_ {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Progress")
    }
}
