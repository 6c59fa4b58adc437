//! Which chunks are known, and where each of them lies.

use std::collections::HashMap;

use appliance::Blob;
use formats::packed::{BLOCK_BYTES, Frame};

use super::packs::WrittenPacks;

/// A chunk's place in the catalog.
pub(super) type ChunkId = u32;
/// A frame's place in the catalog.
pub(super) type FrameId = u32;

/// The chunks of the base and of the disks packed so far, each once.
#[derive(Debug, Clone, Default)]
pub(super) struct Catalog {
    /// The base's packs, then the new ones once they are written.
    pub(super) packs: Vec<Blob>,
    chunks: Vec<KnownChunk>,
    frames: Vec<KnownFrame>,
    /// Chunks by the first 8 bytes of their digest. Where two begin alike, the second is not found and is
    /// stored again if it repeats: a few bytes lost, against half the memory.
    by_digest: HashMap<u64, ChunkId>,
}

/// A chunk, and where in which frame it lies.
#[derive(Debug, Clone, Copy)]
pub(super) struct KnownChunk {
    pub(super) sha256: [u8; 32],
    pub(super) frame: FrameId,
    /// In blocks from the start of the frame's content: below 256.
    pub(super) first: u8,
    pub(super) blocks: u8,
    /// True if a disk that is being packed has it.
    pub(super) used: bool,
}

/// A frame, and where in which pack it lies.
#[derive(Debug, Clone, Copy)]
pub(super) struct KnownFrame {
    /// The pack's place in [`Catalog::packs`].
    pub(super) pack: u32,
    /// In bytes from the start of the pack.
    pub(super) offset: u64,
    /// Compressed, in bytes.
    pub(super) len: u32,
    /// Content in blocks.
    pub(super) blocks: u16,
}

impl KnownChunk {
    pub(super) fn content_bytes(&self) -> u64 {
        u64::from(self.blocks) * BLOCK_BYTES
    }
}

impl KnownFrame {
    /// A frame of which nothing is known yet but its content.
    pub(super) fn unwritten(blocks: u16) -> Self {
        Self { pack: u32::MAX, offset: 0, len: 0, blocks }
    }

    /// The frame, as the index of a disk names it that gives its pack another number.
    pub(super) fn in_pack(&self, pack: u16) -> Frame {
        Frame { pack, offset: self.offset, len: self.len, blocks: self.blocks }
    }
}

impl Catalog {
    pub(super) fn chunk(&self, id: ChunkId) -> &KnownChunk {
        &self.chunks[id as usize]
    }

    pub(super) fn chunk_mut(&mut self, id: ChunkId) -> &mut KnownChunk {
        &mut self.chunks[id as usize]
    }

    pub(super) fn frame(&self, id: FrameId) -> &KnownFrame {
        &self.frames[id as usize]
    }

    pub(super) fn chunks(&self) -> &[KnownChunk] {
        &self.chunks
    }

    /// The pack that a chunk lies in.
    pub(super) fn pack_of(&self, id: ChunkId) -> u32 {
        self.frame(self.chunk(id).frame).pack
    }

    pub(super) fn find(&self, sha256: &[u8; 32]) -> Option<ChunkId> {
        let id = *self.by_digest.get(&prefix(sha256))?;
        (self.chunk(id).sha256 == *sha256).then_some(id)
    }

    /// Adds a chunk. Of those with the same digest, the last one is found.
    pub(super) fn add_chunk(&mut self, chunk: KnownChunk) -> ChunkId {
        let id = ChunkId::try_from(self.chunks.len()).expect("memory ends long before 2^32 chunks");
        let known = self.by_digest.entry(prefix(&chunk.sha256)).or_insert(id);
        // Whoever adds what is known already cannot use that.
        if self.chunks.get(*known as usize).is_some_and(|known| known.sha256 == chunk.sha256) {
            *known = id;
        }
        self.chunks.push(chunk);
        id
    }

    pub(super) fn add_frame(&mut self, frame: KnownFrame) -> FrameId {
        self.frames.push(frame);
        self.frames.len() as FrameId - 1
    }

    /// Says where the frames lie that were unwritten, and in which packs.
    pub(super) fn place_new_frames(&mut self, written: &WrittenPacks) {
        let first_pack = self.packs.len() as u32;
        let first_frame = self.frames.len() - written.frames.len();
        for (frame, place) in self.frames[first_frame..].iter_mut().zip(&written.frames) {
            frame.pack = first_pack + place.pack;
            frame.offset = place.offset;
            frame.len = place.len;
        }
        self.packs.extend(&written.packs);
    }

    /// How many frames there are: the number of the next one.
    pub(super) fn next_frame(&self) -> FrameId {
        self.frames.len() as FrameId
    }
}

fn prefix(sha256: &[u8; 32]) -> u64 {
    u64::from_le_bytes(*sha256.first_chunk().expect("32 is more than 8"))
}
