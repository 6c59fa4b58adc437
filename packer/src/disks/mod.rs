//! From disks to packs and disk indexes in the local store.
//!
//! ```text
//! disk --windows--> read, mark ==> cut --> hash ==> look up --> frame --> compress ==> pack --> store
//!                   (workers)              (workers)  |   ^               (workers)    (its own thread)
//!                                                     v   |
//!                                          check what the base has of it (workers)
//! ```
//!
//! What one thread alone decides, it decides in the disks' order: where chunks end, which are known
//! already, which frame a new one joins. So the result depends on the disks, the base and this version
//! of hull, and on nothing else; not on the number of threads, nor on which of them is faster.
//!
//! Memory is bounded however large the disks are: the queues are short, and what grows with a disk is
//! the table of its chunks, about 80 bytes for each.

mod base;
mod catalog;
mod index;
mod packs;
mod pipeline;
mod reuse;
mod sparse;
mod windows;
mod workers;

pub use base::{Base, BaseError};

use std::fmt::Debug;
use std::num::NonZero;
use std::{io, thread};

use appliance::Blob;
use appliance::manifest::DiskLayer;
use blob_store::{LocalStore, LocalStoreError};
use formats::packed::{DEFAULT_LEVEL, MAX_DISK_BYTES, MAX_PACK_BYTES, MAX_PACKS};
use formats::{Disk, ReadError};

/// More threads than this would not compress faster, and would need more memory than we promise.
const MAX_THREADS: usize = 16;

/// How to pack. [`PackOptions::default`] is what `hull pack` does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PackOptions {
    /// Threads that read, hash and compress: 1 to 16.
    pub threads: usize,
    /// zstd's level: 1 to 19.
    pub level: i32,
    /// Where a pack ends, in bytes; at most [`MAX_PACK_BYTES`].
    pub pack_bytes: u64,
}

impl Default for PackOptions {
    fn default() -> Self {
        let threads = thread::available_parallelism().map_or(1, NonZero::get);
        Self { threads: threads.min(MAX_THREADS), level: DEFAULT_LEVEL, pack_bytes: 32 << 20 }
    }
}

/// Disks that have been packed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackedDisks {
    /// One per disk, in their order.
    pub disks: Vec<DiskLayer>,
    /// The packs that the disks use: those of the base in its order, then the new ones.
    pub packs: Vec<Blob>,
    /// What was found.
    pub statistics: Statistics,
}

/// What was found in disks that were packed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Size of all disks, as their guests see them.
    pub disk_bytes: u64,
    /// How much of that is in chunks; the rest is zeros.
    pub data_bytes: u64,
    /// How many chunks there are.
    pub chunks: u64,
    /// How many of them the base's packs hold.
    pub base_chunks: u64,
    /// Their content in bytes.
    pub base_bytes: u64,
    /// How many are repetitions of others.
    pub repeated_chunks: u64,
    /// Their content in bytes.
    pub repeated_bytes: u64,
    /// Frames of the base's packs that are not what its indexes say. What they should hold is stored anew.
    pub damaged_base_frames: u64,
    /// Content of base packs that were replaced because little of them is still used, or because a frame of
    /// theirs is damaged, in bytes.
    pub repacked_bytes: u64,
    /// How many packs were written.
    pub new_packs: u64,
    /// Their size in bytes.
    pub new_pack_bytes: u64,
}

/// Is told how far the packing has come.
pub trait Progress: Debug + Sync {
    /// `done_bytes` of the disk `name`, which has `size_bytes`, have been read.
    fn packed(&self, name: &str, done_bytes: u64, size_bytes: u64);

    /// `done_bytes` of the file `name`, which has `size_bytes`, have been read to check or to unpack it. Only an import
    /// does that. The name is as it stands in a stranger's file.
    fn prepared(&self, _name: &str, _done_bytes: u64, _size_bytes: u64) {}
}

/// For those who do not want to know.
impl Progress for () {
    fn packed(&self, _name: &str, _done_bytes: u64, _size_bytes: u64) {}
}

/// Why disks could not be packed. Blobs that were complete by then stay in the store until it is swept.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WriteError {
    /// A disk of a size that no index can describe.
    #[error("disk {disk} has {size_bytes} bytes; a disk has 1 byte to 64 TiB")]
    DiskSize {
        /// Its name.
        disk: String,
        /// Its size.
        size_bytes: u64,
    },
    /// A disk could not be read.
    #[error("cannot read disk {disk}")]
    Read {
        /// Its name.
        disk: String,
        /// The reason.
        #[source]
        source: ReadError,
    },
    /// A pack of the base could not be read again, of which the new appliance needs a part.
    #[error("cannot read {pack}, which the base appliance has in the local store")]
    ReadBase {
        /// The pack.
        pack: appliance::Digest,
        /// The reason.
        #[source]
        source: ReadError,
    },
    /// A disk with so much content that no index can list its packs.
    #[error("disk {disk} needs {found} packs; an index lists at most {MAX_PACKS}")]
    TooManyPacks {
        /// Its name.
        disk: String,
        /// How many it needs.
        found: usize,
    },
    /// A pack could not be written.
    #[error("cannot write a pack into the local store")]
    WritePack(#[source] io::Error),
    /// The local store failed.
    #[error(transparent)]
    Store(#[from] LocalStoreError),
}

/// Packs `disks`, given by name, into `store`. What `base` has in its packs is referred to, not written
/// again; a base pack of which less than half is still used is replaced. The base is not believed: what is
/// reused of its packs is read and checked first.
///
/// The same disks, base, options except `threads`, and version of hull give the same digests. Nothing in
/// the store refers to the result yet: the caller holds the store until something does.
///
/// # Errors
///
/// [`WriteError`].
pub fn write_disks(
    disks: &[(&str, &dyn Disk)],
    base: Option<&Base>,
    store: &LocalStore,
    options: &PackOptions,
    progress: &dyn Progress,
) -> Result<PackedDisks, WriteError> {
    for (name, disk) in disks {
        let size_bytes = disk.size_bytes();
        if !(1..=MAX_DISK_BYTES).contains(&size_bytes) {
            return Err(WriteError::DiskSize { disk: (*name).to_owned(), size_bytes });
        }
    }
    let options = PackOptions {
        threads: options.threads.clamp(1, MAX_THREADS),
        pack_bytes: options.pack_bytes.min(MAX_PACK_BYTES),
        ..*options
    };
    let written = pipeline::run(disks, base, store, &options, progress)?;
    index::write(disks, written, store)
}
