//! An older appliance, whose packs a new one goes on using.

use std::collections::HashMap;

use appliance::Digest;
use appliance::manifest::ApplianceManifest;
use blob_store::LocalStore;
use formats::ReadError;
use formats::packed::{Frame, PackedDisk};

use super::catalog::{Catalog, FrameId, KnownChunk, KnownFrame};
use super::reuse::read_range;

/// The chunks that an appliance's packs hold, as far as the packs are in the local store.
#[derive(Debug, Clone)]
pub struct Base {
    pub(super) catalog: Catalog,
}

/// Why an appliance cannot be a base.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BaseError {
    /// The index of one of its disks cannot be read.
    #[error("cannot read the index of disk {disk}")]
    Index {
        /// The disk's name.
        disk: String,
        /// The reason.
        #[source]
        source: ReadError,
    },
}

impl Base {
    /// Reads the indexes of the appliance's disks from the store. Content is not read: what is reused of it
    /// is checked first, by [`write_disks`](super::write_disks).
    ///
    /// # Errors
    ///
    /// [`BaseError`] where an index is not in the store or not what the manifest promises.
    pub fn read(manifest: &ApplianceManifest, store: &LocalStore) -> Result<Self, BaseError> {
        let mut catalog = Catalog::default();
        // What is not here cannot be pushed with the new appliance, so it is no base for it.
        catalog.packs = manifest.packs.iter().filter(|pack| store.contains(&pack.digest)).copied().collect();
        let numbers: HashMap<Digest, u32> = catalog.packs.iter().map(|pack| pack.digest).zip(0..).collect();
        let mut frames = HashMap::new();
        for layer in &manifest.disks {
            let failed = |source| BaseError::Index { disk: layer.name.clone(), source };
            let disk = PackedDisk::open(
                layer,
                |blob: &Digest, offset: u64, buf: &mut [u8]| read_range(store, blob, offset, buf),
                0,
            )
            .map_err(failed)?;
            let packs: Vec<Option<u32>> =
                disk.root().packs.iter().map(|pack| numbers.get(&pack.digest).copied()).collect();
            for entry in &disk.root().pages {
                let page = disk.page(entry).map_err(failed)?;
                for (chunk, frame) in page.chunks() {
                    let Some(pack) = packs[usize::from(frame.pack)] else { continue };
                    if catalog.find(&chunk.sha256).is_some() {
                        continue;
                    }
                    let frame = known_frame(&mut catalog, &mut frames, frame, pack);
                    catalog.add_chunk(KnownChunk {
                        sha256: chunk.sha256,
                        frame,
                        first: chunk.first as u8,
                        blocks: chunk.blocks,
                        used: false,
                    });
                }
            }
        }
        Ok(Self { catalog })
    }
}

fn known_frame(
    catalog: &mut Catalog,
    frames: &mut HashMap<(u32, Frame), FrameId>,
    frame: &Frame,
    pack: u32,
) -> FrameId {
    // Each disk's index gives the packs numbers of its own.
    let key = (pack, Frame { pack: 0, ..*frame });
    *frames.entry(key).or_insert_with(|| {
        catalog.add_frame(KnownFrame { pack, offset: frame.offset, len: frame.len, blocks: frame.blocks })
    })
}
