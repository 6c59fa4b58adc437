//! Packs and disk indexes: hull's own form of a disk, written and read.
//!
//! ```text
//! index blob   root | page | page | ...        where each piece of the disk lies, and its digest
//! pack blob    frame | frame | frame | ...     independent zstd frames of whole 4 KiB blocks
//! ```
//!
//! Trust runs in one direction. Whoever opens a disk knows the root's digest; the root has the
//! digest of every page, a page the digest of every chunk, and nothing is used before it was
//! checked. Sizes are compared with their limits before anything is allocated for them.
//!
//! This module never decides where chunks are cut ([`crate::cut`]) and never knows where blobs are
//! kept ([`RangeSource`]).
//!
//! Source: `docs/formats/disk-index.md`, format version 1; RFC 8878 for the frames.

mod disk;
mod error;
mod fields;
mod frame;
mod page;
mod root;
mod write;

pub use disk::{DEFAULT_CACHE_BYTES, PackedDisk, RangeSource};
pub use error::IndexError;
pub use frame::{FrameDecoder, FrameEncoder, FrameError};
pub use page::{Chunk, Frame, Page, PageRun};
pub use root::{PageEntry, Root};
pub use write::{EncodedIndex, IndexWriter};

/// The unit of everything: chunks, frames and zero runs are whole blocks of this many bytes.
pub const BLOCK_BYTES: u64 = 4096;
/// Blocks of disk that one page describes (256 MiB); the last page of a disk describes what is left.
pub const PAGE_BLOCKS: u64 = 65_536;
/// The longest chunk, in blocks (256 KiB).
pub const MAX_CHUNK_BLOCKS: u64 = 64;
/// The most content in a frame, in blocks (1 MiB).
pub const MAX_FRAME_BLOCKS: u64 = 256;
/// The largest disk: 64 TiB, as in VHDX.
pub const MAX_DISK_BYTES: u64 = 64 << 40;
/// The most packs that one disk may use.
pub const MAX_PACKS: usize = 16_384;
/// The largest pack in bytes.
pub const MAX_PACK_BYTES: u64 = 64 << 20;
/// The largest root in bytes: every page of the largest disk, and every pack.
pub const MAX_ROOT_BYTES: u64 = root::HEADER_BYTES
    + MAX_PACKS as u64 * root::PACK_BYTES
    + MAX_DISK_BYTES / BLOCK_BYTES / PAGE_BLOCKS * root::PAGE_BYTES;
/// The largest page in bytes: every block a chunk and a frame of its own.
pub const MAX_PAGE_BYTES: u64 = page::HEADER_BYTES + PAGE_BLOCKS * (page::FRAME_BYTES + page::CHUNK_BYTES);

/// zstd's level in packs that hull writes. Readers take any; it matters to who makes a frame anew.
pub const DEFAULT_LEVEL: i32 = 3;

/// The most bytes that a frame of `blocks` blocks may take: zstd's own bound for incompressible content.
pub const fn max_frame_bytes(blocks: u64) -> u64 {
    let content = blocks * BLOCK_BYTES;
    content + content / 256 + 64
}
