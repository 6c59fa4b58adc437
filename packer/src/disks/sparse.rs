//! Replacing packs of the base of which little is still used.
//!
//! Without this, an appliance that changes a little with each version would drag along ever more packs,
//! and whoever fetches them whole would fetch mostly what nobody uses.

use std::collections::BTreeMap;

use appliance::Blob;
use blob_store::LocalStore;
use formats::ReadError;
use formats::packed::{BLOCK_BYTES, FrameDecoder};
use sha2::{Digest as _, Sha256};

use super::WriteError;
use super::base::read_range;
use super::catalog::{ChunkId, FrameId, KnownFrame};
use super::pipeline::{Packing, Stop};

/// The chunks of a frame that are still used.
type UsedFrames = BTreeMap<FrameId, Vec<ChunkId>>;

impl Packing<'_, '_, '_> {
    /// Moves what is still used of each base pack into new packs, where that is less than half of it.
    pub(super) fn replace_sparse_packs(&mut self, store: &LocalStore) -> Result<(), Stop> {
        let mut used = vec![UsedFrames::new(); self.catalog.packs.len()];
        for id in (0..self.base_chunks).filter(|id| self.catalog.chunk(*id).used) {
            let frame = self.catalog.chunk(id).frame;
            used[self.catalog.frame(frame).pack as usize].entry(frame).or_default().push(id);
        }
        for (number, frames) in used.iter().enumerate() {
            let pack = self.catalog.packs[number];
            if 2 * self.used_bytes(frames) < pack.size_bytes {
                self.replace(&pack, frames, store)?;
            }
        }
        Ok(())
    }

    /// About how many bytes of their pack the frames' used chunks take.
    fn used_bytes(&self, frames: &UsedFrames) -> u64 {
        let of_frame = |(frame, chunks): (&FrameId, &Vec<ChunkId>)| {
            let frame = self.catalog.frame(*frame);
            let blocks: u64 = chunks.iter().map(|id| u64::from(self.catalog.chunk(*id).blocks)).sum();
            u64::from(frame.len) * blocks / u64::from(frame.blocks)
        };
        frames.iter().map(of_frame).sum()
    }

    fn replace(&mut self, pack: &Blob, frames: &UsedFrames, store: &LocalStore) -> Result<(), Stop> {
        let mut decoder = FrameDecoder::default();
        let mut content = Vec::new();
        for (frame, chunks) in frames {
            let frame = *self.catalog.frame(*frame);
            read_frame(pack, &frame, store, &mut decoder, &mut content)
                .map_err(|source| WriteError::ReadBase { pack: pack.digest, source })?;
            for id in chunks {
                let chunk = *self.catalog.chunk(*id);
                let start = usize::from(chunk.first) * BLOCK_BYTES as usize;
                let content = &content[start..start + chunk.content_bytes() as usize];
                check(content, &chunk.sha256)
                    .map_err(|source| WriteError::ReadBase { pack: pack.digest, source })?;
                let (frame, first) = self.append([content].into_iter(), content.len())?;
                let chunk = self.catalog.chunk_mut(*id);
                (chunk.frame, chunk.first) = (frame, first);
                self.statistics.repacked_bytes += content.len() as u64;
            }
        }
        Ok(())
    }
}

fn read_frame(
    pack: &Blob,
    frame: &KnownFrame,
    store: &LocalStore,
    decoder: &mut FrameDecoder,
    content: &mut Vec<u8>,
) -> Result<(), ReadError> {
    let mut compressed = vec![0; frame.len as usize];
    let what = || format!("the frame at byte {}", frame.offset);
    read_range(store, &pack.digest, frame.offset, &mut compressed)
        .map_err(|source| ReadError::Io { what: what(), source })?;
    let content_bytes = usize::from(frame.blocks) * BLOCK_BYTES as usize;
    decoder.decode(&compressed, content_bytes, content).map_err(|error| ReadError::Corrupt {
        format: "pack",
        offset: frame.offset,
        field: "frame",
        found: error.to_string(),
        wanted: "the base's index promises one zstd frame here",
    })
}

fn check(content: &[u8], wanted: &[u8; 32]) -> Result<(), ReadError> {
    let found: [u8; 32] = Sha256::digest(content).into();
    if found == *wanted {
        return Ok(());
    }
    Err(ReadError::WrongDigest {
        what: "a chunk of the pack".to_owned(),
        found: appliance::Digest::Sha256(found).to_string(),
        wanted: appliance::Digest::Sha256(*wanted).to_string(),
    })
}
