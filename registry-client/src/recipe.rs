//! How a missing pack can be made from packs that are here.
//!
//! ```text
//! index of the new disk   --> frames of missing packs, the chunks that they consist of
//! indexes of local disks  --> where each of these chunks lies in a pack that is here
//!                                   `--> per pack: rebuild these frames, fetch what is between them
//! ```
//!
//! A frame is the finest grain: a pack's digest covers compressed bytes, and those of a frame can be had again
//! from its content, by the encoder that wrote them. A recipe is a guess. The pack's own digest decides
//! whether it was right, and what has no recipe is fetched. So whatever cannot be read here counts as
//! not being here, and work and memory are bounded however large or hostile the indexes are.
//!
//! Nothing here reads content or uses the network.
//!
//! Source: `docs/formats/disk-index.md`.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;
use std::sync::Arc;

use appliance::manifest::{ApplianceIndex, ApplianceManifest, DiskLayer, MAX_BYTES};
use appliance::{Blob, Digest};
use blob_store::LocalStore;
use formats::packed::{Frame, PackedDisk, Page, RangeSource};

/// The most chunks that are looked for: about 7 GiB of content, and 50 MiB of memory to find them. Frames beyond
/// are fetched.
const MAX_CHUNKS: usize = 7 << 15;
/// The most local appliances that are looked into, the newest first.
const MAX_APPLIANCES: usize = 32;
/// The most of local indexes that is read, in bytes: those of about 180 GiB of content.
const MAX_INDEX_BYTES: u64 = 256 << 20;
/// A stretch shorter than this, between two that are fetched, is fetched with them: a request costs more.
const MIN_STRETCH_BYTES: u64 = 64 << 10;
/// A pack of which so much would be fetched anyway is fetched whole, by one plain request.
const MAX_FETCHED_PERCENT: u64 = 60;

/// Recipes by the pack that they make.
pub(crate) type Recipes = HashMap<Digest, Recipe>;

/// How to make a pack, front to back.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Recipe {
    // Invariant: each starts where the one before ends. What follows the last one is fetched.
    pub(crate) steps: Vec<Step>,
}

/// A part of a pack.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// A frame to be made from chunks that are here.
    Rebuild(Arc<FrameRecipe>),
    /// Bytes to be fetched, up to this offset.
    Fetch {
        /// Where the next step starts.
        end: u64,
    },
}

/// A frame that local chunks are the content of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FrameRecipe {
    /// Where it starts in its pack, in bytes.
    pub(crate) offset: u64,
    /// Its length in bytes, by the index.
    pub(crate) len: u32,
    /// Its content, in order.
    pub(crate) pieces: Vec<Piece>,
}

/// A chunk, and where it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) sha256: [u8; 32],
    /// Its length.
    pub(crate) blocks: u8,
    pub(crate) place: Place,
}

/// Where in the local store a chunk lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) pack: Arc<Digest>,
    /// Its frame; the number of the pack means nothing here.
    pub(crate) frame: Frame,
    /// Where it starts in the frame's content, in blocks.
    pub(crate) first: u16,
}

impl FrameRecipe {
    /// Where it ends in its pack.
    pub(crate) fn end(&self) -> u64 {
        self.offset + u64::from(self.len)
    }
}

/// The manifests of the appliances that references in `store` lead to, those tagged last first.
pub(crate) fn local_appliances(store: &LocalStore) -> Vec<ApplianceManifest> {
    let mut tagged = store.references().unwrap_or_default();
    tagged.sort_by_key(|tagged| std::cmp::Reverse(tagged.since));
    let mut seen = HashSet::new();
    let manifests = tagged.iter().flat_map(|tagged| {
        let index = store.read(&tagged.digest, MAX_BYTES).ok();
        let index = index.and_then(|bytes| ApplianceIndex::parse(&bytes).ok());
        index.map_or_else(Vec::new, |index| index.appliances)
    });
    manifests
        .filter(|entry| seen.insert(entry.manifest.digest))
        .filter_map(|entry| {
            ApplianceManifest::parse(&store.read(&entry.manifest.digest, MAX_BYTES).ok()?).ok()
        })
        .take(MAX_APPLIANCES)
        .collect()
}

/// How those of the `missing` packs of `new` can be made of which `local` appliances have enough. The
/// indexes of all their disks are in `store`, or count for nothing.
pub(crate) fn recipes(
    store: &LocalStore,
    new: &ApplianceManifest,
    missing: &[Blob],
    local: &[ApplianceManifest],
) -> Recipes {
    let mut survey = Survey::new(missing);
    new.disks.iter().for_each(|layer| survey.look_at_new(store, layer));
    local.iter().flat_map(|appliance| &appliance.disks).for_each(|layer| survey.look_at_local(store, layer));
    survey.recipes()
}

/// What is missing, and what of it has been found.
#[derive(Debug)]
struct Survey {
    missing: HashMap<Digest, MissingPack>,
    /// Where each chunk of a missing pack lies, once it was found.
    // Invariant: at most `MAX_CHUNKS`.
    chunks: HashMap<[u8; 32], Option<Place>>,
    /// How many chunks, repeated ones too, may still be listed.
    room: usize,
    /// How many chunks have not been found.
    lost: usize,
    /// How much of local indexes may still be read.
    index_bytes: u64,
}

#[derive(Debug)]
struct MissingPack {
    size_bytes: u64,
    /// By offset.
    frames: BTreeMap<u64, MissingFrame>,
}

#[derive(Debug)]
struct MissingFrame {
    len: u32,
    blocks: u16,
    /// Length and digest of its chunks, by the block of its content at which they start.
    chunks: BTreeMap<u16, (u8, [u8; 32])>,
}

impl Survey {
    fn new(missing: &[Blob]) -> Self {
        let packs = missing
            .iter()
            .map(|pack| (pack.digest, MissingPack { size_bytes: pack.size_bytes, frames: BTreeMap::new() }));
        Self {
            missing: packs.collect(),
            chunks: HashMap::new(),
            room: MAX_CHUNKS,
            lost: 0,
            index_bytes: MAX_INDEX_BYTES,
        }
    }

    /// Lists the frames of missing packs that the disk uses.
    fn look_at_new(&mut self, store: &LocalStore, layer: &DiskLayer) {
        let Ok(disk) = PackedDisk::open(layer, range_source(store), 0) else { return };
        let packs = &disk.root().packs;
        if !packs.iter().any(|pack| self.missing.contains_key(&pack.digest)) {
            return;
        }
        for entry in &disk.root().pages {
            let Ok(page) = disk.page(entry) else { continue };
            self.list(packs, &page);
            if self.room == 0 {
                return;
            }
        }
    }

    fn list(&mut self, packs: &[Blob], page: &Page) {
        for (chunk, frame) in page.chunks() {
            let Blob { digest, size_bytes } = packs[usize::from(frame.pack)];
            let pack = self.missing.get_mut(&digest).filter(|pack| pack.size_bytes == size_bytes);
            let Some(pack) = pack else { continue };
            if self.room == 0 {
                return;
            }
            let (len, blocks) = (frame.len, frame.blocks);
            let listed = pack.frames.entry(frame.offset).or_insert_with(|| {
                let chunks = BTreeMap::new();
                MissingFrame { len, blocks, chunks }
            });
            // Where two pages disagree about a frame, one of them is wrong; the pack's digest will tell.
            if (listed.len, listed.blocks) == (len, blocks)
                && listed.chunks.insert(chunk.first, (chunk.blocks, chunk.sha256)).is_none()
            {
                self.room -= 1;
                if self.chunks.insert(chunk.sha256, None).is_none() {
                    self.lost += 1;
                }
            }
        }
    }

    /// Notes which of the chunks the disk's packs hold, as far as those are whole and here.
    fn look_at_local(&mut self, store: &LocalStore, layer: &DiskLayer) {
        if self.lost == 0 {
            return;
        }
        let Ok(disk) = PackedDisk::open(layer, range_source(store), 0) else { return };
        let is_here =
            |pack: &Blob| store.blob(&pack.digest).is_ok_and(|file| file.size_bytes() == pack.size_bytes);
        let packs = disk.root().packs.iter();
        let packs: Vec<_> = packs.map(|pack| is_here(pack).then(|| Arc::new(pack.digest))).collect();
        for entry in &disk.root().pages {
            let Some(left) = self.index_bytes.checked_sub(entry.len.into()) else { return };
            self.index_bytes = left;
            let Ok(page) = disk.page(entry) else { continue };
            for (chunk, frame) in page.chunks() {
                if let Some(pack) = &packs[usize::from(frame.pack)]
                    && let Some(place @ None) = self.chunks.get_mut(&chunk.sha256)
                {
                    *place = Some(Place { pack: Arc::clone(pack), frame: *frame, first: chunk.first });
                    self.lost -= 1;
                }
            }
        }
    }

    fn recipes(self) -> Recipes {
        let with_recipe = self.missing.iter().filter_map(|(digest, pack)| {
            let frames = pack.frames.iter().filter_map(|(offset, frame)| {
                let pieces = frame.pieces(&self.chunks)?;
                Some(FrameRecipe { offset: *offset, len: frame.len, pieces })
            });
            Some((*digest, Recipe::new(pack.size_bytes, frames)?))
        });
        with_recipe.collect()
    }
}

impl MissingFrame {
    /// Chunks that are here and make up the whole content.
    fn pieces(&self, chunks: &HashMap<[u8; 32], Option<Place>>) -> Option<Vec<Piece>> {
        let mut pieces = Vec::with_capacity(self.chunks.len());
        let mut next = 0;
        for (first, (blocks, sha256)) in &self.chunks {
            if *first != next {
                return None;
            }
            let place = chunks.get(sha256)?.clone()?;
            pieces.push(Piece { sha256: *sha256, blocks: *blocks, place });
            next += u16::from(*blocks);
        }
        (next == self.blocks).then_some(pieces)
    }
}

impl Recipe {
    /// How to make a pack of `pack_bytes` of which these `frames`, in order of their offsets, can be rebuilt.
    /// `None` where it is better fetched whole.
    fn new(pack_bytes: u64, frames: impl Iterator<Item = FrameRecipe>) -> Option<Self> {
        let mut stretches: Vec<Vec<FrameRecipe>> = Vec::new();
        for frame in frames {
            match stretches.last_mut() {
                Some(stretch) if stretch_end(stretch) == frame.offset => stretch.push(frame),
                // Frames that overlap are nonsense; the pack's digest will tell which.
                Some(stretch) if stretch_end(stretch) > frame.offset => {}
                _ => stretches.push(vec![frame]),
            }
        }
        let is_worth_it = |stretch: &Vec<FrameRecipe>| {
            let (start, end) = (stretch[0].offset, stretch_end(stretch));
            start == 0 || end == pack_bytes || end - start >= MIN_STRETCH_BYTES
        };
        stretches.retain(is_worth_it);
        let rebuilt: u64 = stretches.iter().map(|stretch| stretch_end(stretch) - stretch[0].offset).sum();
        if (pack_bytes - rebuilt) * 100 >= pack_bytes * MAX_FETCHED_PERCENT {
            return None;
        }
        let (mut steps, mut at) = (Vec::new(), 0);
        for stretch in stretches {
            if stretch[0].offset > at {
                steps.push(Step::Fetch { end: stretch[0].offset });
            }
            at = stretch_end(&stretch);
            steps.extend(stretch.into_iter().map(|frame| Step::Rebuild(Arc::new(frame))));
        }
        Some(Self { steps })
    }
}

/// Where the last frame of a stretch of frames ends.
fn stretch_end(stretch: &[FrameRecipe]) -> u64 {
    stretch.last().map_or(0, FrameRecipe::end)
}

fn range_source(store: &LocalStore) -> impl RangeSource {
    let store = store.clone();
    move |blob: &Digest, offset: u64, buf: &mut [u8]| {
        store.blob(blob).map_err(io::Error::other)?.read_at(offset, buf)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// With these frames (offset, length) here, a pack is made like this: `r` for a frame that is rebuilt,
    /// `f` for a fetch, with the offsets at which they end. All in KiB.
    #[track_caller]
    fn check(pack: u64, frames: &[(u64, u64)], want: Option<&[(char, u64)]>) {
        let frames = frames.iter().map(|(offset, len)| FrameRecipe {
            offset: offset << 10,
            len: (*len as u32) << 10,
            pieces: Vec::new(),
        });
        let steps = Recipe::new(pack << 10, frames).map(|recipe| {
            let step = |step: &Step| match step {
                Step::Rebuild(frame) => ('r', frame.end() >> 10),
                Step::Fetch { end } => ('f', end >> 10),
            };
            recipe.steps.iter().map(step).collect::<Vec<_>>()
        });
        assert_eq!(steps.as_deref(), want);
    }

    #[test]
    fn what_is_between_rebuilt_frames_is_fetched_at_once() {
        check(1000, &[(0, 500), (500, 500)], Some(&[('r', 500), ('r', 1000)]));
        check(1000, &[(100, 300), (500, 300)], Some(&[('f', 100), ('r', 400), ('f', 500), ('r', 800)]));
        check(1000, &[(0, 700)], Some(&[('r', 700)]));
    }

    #[test]
    fn a_short_frame_between_two_fetches_is_fetched_with_them() {
        check(1000, &[(0, 500), (600, 63), (700, 64)], Some(&[('r', 500), ('f', 700), ('r', 764)]));
        check(1000, &[(0, 1), (100, 32), (132, 32), (200, 700), (999, 1)], {
            Some(&[
                ('r', 1),
                ('f', 100),
                ('r', 132),
                ('r', 164),
                ('f', 200),
                ('r', 900),
                ('f', 999),
                ('r', 1000),
            ])
        });
    }

    #[test]
    fn a_pack_that_is_mostly_missing_is_fetched_whole() {
        check(1000, &[], None);
        check(1000, &[(0, 400)], None);
        check(1000, &[(0, 401)], Some(&[('r', 401)]));
    }

    #[test]
    fn frames_that_overlap_are_not_believed_twice() {
        check(1000, &[(0, 500), (400, 300), (500, 300)], Some(&[('r', 500), ('r', 800)]));
    }
}
