//! Whether the base's packs hold what the base's indexes promise.
//!
//! Neither is believed: a disk may have rotted, an appliance may have been made by somebody else. A frame
//! of the base is read, decompressed and compared with the digests of its chunks before anything refers
//! to it, once, by the workers, while the disk is still being read. What fails is as if the base did not
//! have it.

use std::io;

use appliance::{Blob, Digest};
use blob_store::LocalStore;
use formats::ReadError;
use formats::packed::{BLOCK_BYTES, FrameDecoder};
use sha2::{Digest as _, Sha256};

use super::catalog::{Catalog, ChunkId, FrameId, KnownChunk, KnownFrame};
use super::workers::{Buffers, Promise, Workers};

/// The frames of the base, and what is known of them.
#[derive(Debug)]
pub(super) struct BaseFrames<'env> {
    store: &'env LocalStore,
    buffers: Buffers,
    /// The base's chunks, frame by frame.
    chunks: Vec<ChunkId>,
    /// Where in `chunks` those of each frame begin, and where those of the last end.
    starts: Vec<u32>,
    states: Vec<State>,
}

#[derive(Debug)]
enum State {
    Unchecked,
    Checking(Promise<bool>),
    Whole,
    Damaged,
}

impl<'env> BaseFrames<'env> {
    /// Of the frames and chunks in `catalog`, all of them the base's, nothing is known yet.
    pub(super) fn of(catalog: &Catalog, store: &'env LocalStore, buffers: Buffers) -> Self {
        let frames = catalog.next_frame() as usize;
        let mut chunks: Vec<ChunkId> = (0..catalog.chunks().len() as ChunkId).collect();
        chunks.sort_by_key(|id| catalog.chunk(*id).frame);
        let first_of =
            |frame: usize| chunks.partition_point(|id| (catalog.chunk(*id).frame as usize) < frame);
        let starts = (0..=frames).map(|frame| first_of(frame) as u32).collect();
        let states = (0..frames).map(|_| State::Unchecked).collect();
        Self { store, buffers, chunks, starts, states }
    }

    /// True if the base has no frames.
    pub(super) fn is_empty(&self) -> bool {
        self.states.is_empty()
    }

    /// Has a frame checked, unless it is or was.
    pub(super) fn check(&mut self, frame: FrameId, catalog: &Catalog, workers: &Workers<'env>) {
        let number = frame as usize;
        if !matches!(self.states[number], State::Unchecked) {
            return;
        }
        let ids = &self.chunks[self.starts[number] as usize..self.starts[number + 1] as usize];
        let chunks: Vec<KnownChunk> = ids.iter().map(|id| *catalog.chunk(*id)).collect();
        let frame = *catalog.frame(frame);
        let pack = catalog.packs[frame.pack as usize];
        let (store, buffers) = (self.store, self.buffers.clone());
        self.states[number] = State::Checking(workers.run(move |codec| {
            let (mut compressed, mut content) = (buffers.take(), buffers.take());
            let read = read_frame(&pack, &frame, store, &mut codec.decoder, &mut compressed, &mut content);
            let is_whole = read.is_ok() && holds(&content, &chunks);
            buffers.give(compressed);
            buffers.give(content);
            is_whole
        }));
    }

    /// True if a frame that was given to [`check`](Self::check) is what the base says. Waits for that.
    pub(super) fn is_whole(&mut self, frame: FrameId) -> bool {
        let state = &mut self.states[frame as usize];
        *state = match std::mem::replace(state, State::Unchecked) {
            State::Checking(checking) => match checking.wait() {
                true => State::Whole,
                false => State::Damaged,
            },
            known => known,
        };
        matches!(state, State::Whole)
    }

    /// The frames that were checked and found damaged.
    pub(super) fn damaged(&self) -> impl Iterator<Item = FrameId> {
        let states = self.states.iter().zip(0..);
        states.filter(|(state, _)| matches!(state, State::Damaged)).map(|(_, frame)| frame)
    }
}

/// True if a frame's content has every one of its chunks, no two of them in the same place: so the work
/// is bounded by the content, whatever an index lists.
fn holds(content: &[u8], chunks: &[KnownChunk]) -> bool {
    let promised: u64 = chunks.iter().map(KnownChunk::content_bytes).sum();
    promised <= content.len() as u64 && chunks.iter().all(|chunk| chunk_of(content, chunk).is_ok())
}

/// Fills `content` with that of a frame of `pack`; `compressed` is where the frame itself goes.
pub(super) fn read_frame(
    pack: &Blob,
    frame: &KnownFrame,
    store: &LocalStore,
    decoder: &mut FrameDecoder,
    compressed: &mut Vec<u8>,
    content: &mut Vec<u8>,
) -> Result<(), ReadError> {
    compressed.resize(frame.len as usize, 0);
    let what = || format!("the frame at byte {}", frame.offset);
    read_range(store, &pack.digest, frame.offset, compressed)
        .map_err(|source| ReadError::Io { what: what(), source })?;
    let content_bytes = usize::from(frame.blocks) * BLOCK_BYTES as usize;
    decoder.decode(compressed, content_bytes, content).map_err(|error| ReadError::Corrupt {
        format: "pack",
        offset: frame.offset,
        field: "frame",
        found: error.to_string(),
        wanted: "the base's index promises one zstd frame here",
    })
}

/// The part of a frame's content that is `chunk`, which it is by its digest.
pub(super) fn chunk_of<'a>(content: &'a [u8], chunk: &KnownChunk) -> Result<&'a [u8], ReadError> {
    let start = usize::from(chunk.first) * BLOCK_BYTES as usize;
    let content = &content[start..start + chunk.content_bytes() as usize];
    let found: [u8; 32] = Sha256::digest(content).into();
    if found == chunk.sha256 {
        return Ok(content);
    }
    Err(ReadError::WrongDigest {
        what: "a chunk of the pack".to_owned(),
        found: Digest::Sha256(found).to_string(),
        wanted: Digest::Sha256(chunk.sha256).to_string(),
    })
}

/// Fills `buf` with the bytes of a blob of the store, from `offset` on.
pub(super) fn read_range(store: &LocalStore, blob: &Digest, offset: u64, buf: &mut [u8]) -> io::Result<()> {
    store.blob(blob).map_err(io::Error::other)?.read_at(offset, buf)
}
