//! A disk of a pulled appliance, readable without unpacking.
//!
//! The index says where each piece lies, the local store has the packs, and `formats` checks every piece
//! against its digest. Packs that are still in the registry would be a second [`RangeSource`] beside
//! [`LocalPacks`]; whoever reads the disk would see no difference.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use appliance::Digest;
use appliance::manifest::ApplianceManifest;
use blob_store::{BlobFile, LocalStore, LocalStoreError};
use formats::packed::{DEFAULT_CACHE_BYTES, PackedDisk, RangeSource};
use formats::{Disk, ReadError};

/// The most blobs that one disk keeps open: fewer than any system's limit on open files.
const MAX_OPEN: usize = 256;

/// Why a disk cannot be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenDiskError {
    /// The appliance has no disk of this name.
    #[error("the appliance has no disk `{name}`; it has {found}")]
    NoSuchDisk {
        /// The name, control characters escaped.
        name: String,
        /// The names of the disks that it has.
        found: String,
    },
    /// The index uses a pack that is not in the local store.
    #[error("disk `{name}` needs pack {pack}, which is not in the local store")]
    MissingPack {
        /// The disk.
        name: String,
        /// The pack.
        pack: Digest,
    },
    /// The index cannot be read.
    #[error("disk `{name}` cannot be opened")]
    Index {
        /// The disk.
        name: String,
        /// The reason.
        #[source]
        source: ReadError,
    },
}

/// Opens the disk `name` of the appliance with this manifest, all of whose blobs are in `store`. Reads the
/// root of its index and nothing else.
///
/// # Errors
///
/// [`OpenDiskError`]. Damage further inside shows when it is read.
pub fn open_disk(
    store: &LocalStore,
    manifest: &ApplianceManifest,
    name: &str,
) -> Result<Box<dyn Disk>, OpenDiskError> {
    let Some(layer) = manifest.disks.iter().find(|disk| disk.name == name) else {
        let found: Vec<&str> = manifest.disks.iter().map(|disk| disk.name.as_str()).collect();
        let found = if found.is_empty() { "none".to_owned() } else { found.join(", ") };
        return Err(OpenDiskError::NoSuchDisk { name: name.escape_debug().to_string(), found });
    };
    let disk = PackedDisk::open(layer, LocalPacks::new(store.clone()), DEFAULT_CACHE_BYTES)
        .map_err(|source| OpenDiskError::Index { name: name.to_owned(), source })?;
    match disk.root().packs.iter().find(|pack| !store.contains(&pack.digest)) {
        Some(pack) => Err(OpenDiskError::MissingPack { name: name.to_owned(), pack: pack.digest }),
        None => Ok(Box::new(disk)),
    }
}

/// The blobs of the local store, by range.
#[derive(Debug)]
struct LocalPacks {
    store: LocalStore,
    // Invariant: at most `MAX_OPEN`.
    open: Mutex<HashMap<Digest, Arc<BlobFile>>>,
}

impl LocalPacks {
    fn new(store: LocalStore) -> Self {
        Self { store, open: Mutex::default() }
    }

    fn file(&self, digest: &Digest) -> io::Result<Arc<BlobFile>> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(file) = open.get(digest) {
            return Ok(Arc::clone(file));
        }
        let file = Arc::new(self.store.blob(digest).map_err(as_io)?);
        if open.len() == MAX_OPEN {
            open.clear();
        }
        open.insert(*digest, Arc::clone(&file));
        Ok(file)
    }
}

impl RangeSource for LocalPacks {
    fn read_range(&self, blob: &Digest, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.file(blob)?.read_at(offset, buf)
    }
}

fn as_io(error: LocalStoreError) -> io::Error {
    match error {
        LocalStoreError::Missing { .. } => io::Error::new(io::ErrorKind::NotFound, error),
        error => io::Error::other(error),
    }
}
