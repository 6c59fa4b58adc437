//! Replacing packs of the base of which little is still used, or which are damaged.
//!
//! Without this, an appliance that changes a little with each version would drag along ever more packs,
//! and whoever fetches them whole would fetch mostly what nobody uses. And a registry would not take a
//! pack that has rotted, nor a reader anything from it that is not in the frames known to be whole.

use std::collections::BTreeMap;

use appliance::Blob;
use blob_store::LocalStore;
use formats::packed::FrameDecoder;

use super::WriteError;
use super::catalog::{ChunkId, FrameId};
use super::pipeline::{Packing, Stop};
use super::reuse::{chunk_of, read_frame};

/// The chunks of a frame that are still used.
type UsedFrames = BTreeMap<FrameId, Vec<ChunkId>>;

impl Packing<'_, '_, '_> {
    /// Moves what is still used of a base pack into new packs, where that is less than half of it, or the
    /// pack is damaged.
    pub(super) fn replace_packs(&mut self, store: &LocalStore) -> Result<(), Stop> {
        let mut is_damaged = vec![false; self.catalog.packs.len()];
        for frame in self.base_frames.damaged() {
            is_damaged[self.catalog.frame(frame).pack as usize] = true;
            self.statistics.damaged_base_frames += 1;
        }
        let mut used = vec![UsedFrames::new(); self.catalog.packs.len()];
        for id in (0..self.base_chunks).filter(|id| self.catalog.chunk(*id).used) {
            let frame = self.catalog.chunk(id).frame;
            used[self.catalog.frame(frame).pack as usize].entry(frame).or_default().push(id);
        }
        for (number, frames) in used.iter().enumerate() {
            let pack = self.catalog.packs[number];
            if is_damaged[number] || 2 * self.used_bytes(frames) < pack.size_bytes {
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
        let failed = |source| WriteError::ReadBase { pack: pack.digest, source };
        let mut decoder = FrameDecoder::default();
        let (mut compressed, mut content) = (Vec::new(), Vec::new());
        for (frame, chunks) in frames {
            let frame = *self.catalog.frame(*frame);
            read_frame(pack, &frame, store, &mut decoder, &mut compressed, &mut content).map_err(failed)?;
            for id in chunks {
                let chunk = *self.catalog.chunk(*id);
                let content = chunk_of(&content, &chunk).map_err(failed)?;
                let (frame, first) = self.append([content].into_iter(), content.len())?;
                let chunk = self.catalog.chunk_mut(*id);
                (chunk.frame, chunk.first) = (frame, first);
                self.statistics.repacked_bytes += content.len() as u64;
            }
        }
        Ok(())
    }
}
