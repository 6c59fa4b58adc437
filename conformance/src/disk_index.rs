//! A disk's index, byte by byte as `docs/formats/disk-index.md` describes it.
//!
//! Reading goes on after a broken rule wherever the rest still has a meaning, so that one report names as
//! much as possible. What is returned can be used without another check: counts and numbers that lead
//! elsewhere are inside their bounds.
//!
//! ```text
//! root:  magic 8 | version 2 | cut rule 2 | its version 2 | reserved 2 | size 8 | P 4 | N 4 | P packs | N pages
//! page:  F 4 | R 4 | F frames | R runs
//! ```
//!
//! Source: disk-index, "Root" and "Page". All numbers are little-endian.

use std::collections::BTreeSet;

use crate::descriptor::Digest;
use crate::report::Report;
use crate::rules::Rule;

/// Bytes of a block.
pub(crate) const BLOCK_BYTES: usize = 4096;
/// The most blocks of a frame.
pub(crate) const MAX_FRAME_BLOCKS: u16 = 256;
/// The most bytes of a pack.
pub(crate) const MAX_PACK_BYTES: u64 = 64 << 20;
/// Bytes of a root before its lists.
pub(crate) const ROOT_HEADER_BYTES: usize = 32;
/// Blocks that a page describes, unless it is the disk's last.
const PAGE_BLOCKS: u64 = 65_536;
const MAX_DISK_BYTES: u64 = 1 << 46;
const MAX_PACKS: u32 = 16_384;
const MAX_CHUNK_BLOCKS: u8 = 64;
const PAGE_BYTES: std::ops::RangeInclusive<u32> = 64..=3_670_024;
const PACK_ENTRY_BYTES: u64 = 40;
const PAGE_ENTRY_BYTES: u64 = 52;
const PAGE_HEADER_BYTES: usize = 8;
const FRAME_BYTES: usize = 16;

/// The first 32 bytes of a root.
#[derive(Debug)]
pub(crate) struct RootHeader {
    pub(crate) cut_rule: (u16, u16),
    pub(crate) disk_bytes: u64,
    packs: u32,
    pages: u32,
}

/// A root's lists.
#[derive(Debug)]
pub(crate) struct Root {
    pub(crate) header: RootHeader,
    pub(crate) packs: Vec<Pack>,
    pub(crate) pages: Vec<PageEntry>,
}

/// A pack, as the root names it.
#[derive(Debug)]
pub(crate) struct Pack {
    pub(crate) digest: Digest,
    pub(crate) size_bytes: u64,
}

/// A page, as the root names it. It lies inside the index and on the disk.
#[derive(Debug)]
pub(crate) struct PageEntry {
    pub(crate) first_block: u64,
    pub(crate) offset: u64,
    pub(crate) length: u32,
    pub(crate) digest: Digest,
}

/// A page's lists.
#[derive(Debug)]
pub(crate) struct Page {
    pub(crate) frames: Vec<Frame>,
    pub(crate) runs: Vec<Run>,
}

/// A frame of a pack.
#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) offset: u64,
    pub(crate) length: u32,
    pub(crate) pack: u16,
    pub(crate) blocks: u16,
}

/// A run of blocks.
#[derive(Debug)]
pub(crate) enum Run {
    Zeros { blocks: u32 },
    Chunk(Chunk),
}

/// A chunk, and where it lies in the content of a frame.
#[derive(Debug)]
pub(crate) struct Chunk {
    pub(crate) blocks: u8,
    pub(crate) first_block_in_frame: u16,
    pub(crate) frame: u32,
    pub(crate) digest: [u8; 32],
}

impl RootHeader {
    /// Reads the first 32 bytes of an index.
    pub(crate) fn read(bytes: &[u8; ROOT_HEADER_BYTES], what: &str, report: &mut Report) -> Option<Self> {
        let mut fields = Fields(bytes);
        let (magic, version) = (fields.take::<8>()?, fields.u16()?);
        let known = magic == *b"hulldisk" && version == 1;
        if !report.check(Rule::RootMagic, known, || {
            format!("{what} begins with `{}`, version {version}", magic.escape_ascii())
        }) {
            return None;
        }
        let cut_rule = (fields.u16()?, fields.u16()?);
        let reserved = fields.u16()?;
        report.check(Rule::RootReserved, reserved == 0, || format!("{what}: {reserved:#06x}"));
        let header = Self { cut_rule, disk_bytes: fields.u64()?, packs: fields.u32()?, pages: fields.u32()? };
        let size = header.disk_bytes;
        let sized = report
            .check(Rule::DiskSize, (1..=MAX_DISK_BYTES).contains(&size), || format!("{what}: {size} bytes"));
        let (packs, pages) = (header.packs, header.pages);
        let few = report.check(Rule::PackCount, packs <= MAX_PACKS && (packs == 0) == (pages == 0), || {
            format!("{what}: {packs} packs and {pages} pages")
        });
        let most = header.disk_blocks().div_ceil(PAGE_BLOCKS);
        let fits = report.check(Rule::PageCount, u64::from(pages) <= most, || {
            format!("{what}: {pages} pages, and the disk has {most}")
        });
        // Without these bounds, the root's length is anybody's claim.
        (sized && fits && (few || packs <= MAX_PACKS)).then_some(header)
    }

    /// The length of the whole root, at most 14,286,880 bytes.
    pub(crate) fn root_bytes(&self) -> u64 {
        ROOT_HEADER_BYTES as u64
            + PACK_ENTRY_BYTES * u64::from(self.packs)
            + PAGE_ENTRY_BYTES * u64::from(self.pages)
    }

    pub(crate) fn disk_blocks(&self) -> u64 {
        self.disk_bytes.div_ceil(BLOCK_BYTES as u64)
    }

    /// The blocks of the page that starts at `first_block`, which is on the disk.
    fn page_blocks(&self, first_block: u64) -> u32 {
        (self.disk_blocks() - first_block).min(PAGE_BLOCKS) as u32
    }
}

impl Root {
    /// Reads the lists of a root, `bytes`, of an index of `index_bytes`.
    pub(crate) fn read(
        header: RootHeader,
        bytes: &[u8],
        index_bytes: u64,
        what: &str,
        report: &mut Report,
    ) -> Option<Self> {
        let mut fields = Fields(bytes.get(ROOT_HEADER_BYTES..)?);
        let mut packs = Vec::new();
        let mut known = BTreeSet::new();
        for number in 0..header.packs {
            let digest = fields.take::<32>()?;
            let pack = Pack { digest: Digest::from_sha256(&digest), size_bytes: fields.u64()? };
            let right = known.insert(digest) && (1..=MAX_PACK_BYTES).contains(&pack.size_bytes);
            report.check(Rule::RootPacks, right, || {
                format!("{what}, pack {number}: {} of {} bytes", pack.digest, pack.size_bytes)
            });
            packs.push(pack);
        }
        let mut pages = Vec::new();
        let mut end = header.root_bytes();
        let mut next_block = 0;
        for number in 0..header.pages {
            let entry = PageEntry {
                first_block: fields.u64()?,
                offset: fields.u64()?,
                length: fields.u32()?,
                digest: Digest::from_sha256(&fields.take()?),
            };
            let what = format!("{what}, page {number}");
            pages.extend(entry.checked(&header, next_block, &mut end, index_bytes, &what, report));
            next_block = pages.last().map_or(0, |page: &PageEntry| page.first_block + 1);
        }
        report.check(Rule::IndexEnd, end == index_bytes, || {
            format!("{what}: the last page ends at byte {end}, the index at {index_bytes}")
        });
        Some(Self { header, packs, pages })
    }
}

impl PageEntry {
    /// The entry, if the page it names is on the disk and in the index. `end` is where the one before ends,
    /// and is moved on.
    fn checked(
        self,
        header: &RootHeader,
        next_block: u64,
        end: &mut u64,
        index_bytes: u64,
        what: &str,
        report: &mut Report,
    ) -> Option<Self> {
        let first = self.first_block;
        let ordered =
            first.is_multiple_of(PAGE_BLOCKS) && first < header.disk_blocks() && first >= next_block;
        let ordered = report.check(Rule::PageOrder, ordered, || format!("{what} starts at block {first}"));
        let (offset, length) = (self.offset, self.length);
        let joined = report.check(Rule::PageOffsets, offset == *end, || {
            format!("{what} starts at byte {offset}; byte {end} is next")
        });
        *end = offset.saturating_add(u64::from(length));
        let inside = PAGE_BYTES.contains(&length) && *end <= index_bytes;
        let inside = report.check(Rule::PageLengths, inside, || {
            format!("{what} has {length} bytes from {offset}, the index {index_bytes}")
        });
        (ordered && joined && inside).then_some(self)
    }
}

impl Page {
    /// Reads a page, whose digest is checked; `None` where its content cannot be followed.
    pub(crate) fn read(
        bytes: &[u8],
        root: &Root,
        first_block: u64,
        what: &str,
        report: &mut Report,
    ) -> Option<Self> {
        let blocks = root.header.page_blocks(first_block);
        let mut fields = Fields(bytes);
        let counts = [fields.u32()?, fields.u32()?];
        let [frame_count, run_count] = counts;
        let room = (bytes.len() - PAGE_HEADER_BYTES) / FRAME_BYTES;
        let right = counts.iter().all(|count| (1..=blocks).contains(count)) && frame_count as usize <= room;
        if !report.check(Rule::PageCounts, right, || {
            format!("{what}: {frame_count} frames, {run_count} runs, {blocks} blocks, {} bytes", bytes.len())
        }) {
            return None;
        }
        let mut frames = Vec::with_capacity(frame_count as usize);
        let mut usable = true;
        for number in 0..frame_count {
            let frame = Frame {
                offset: fields.u64()?,
                length: fields.u32()?,
                pack: fields.u16()?,
                blocks: fields.u16()?,
            };
            let what = format!("{what}, frame {number}");
            usable &= frame.check(root, frames.last(), &what, report);
            frames.push(frame);
        }
        let runs = read_runs(&mut fields, run_count, &frames, what, report)?;
        let described: u64 = runs.iter().map(|run| u64::from(run.blocks())).sum();
        usable &= report.check(Rule::PageBlocks, described == u64::from(blocks), || {
            format!("{what} describes {described} blocks; it has {blocks}")
        });
        let left = fields.0.len();
        report.check(Rule::PageEnd, left == 0, || {
            format!("{what} goes on for {left} bytes after its last run")
        });
        let used: BTreeSet<u32> = runs.iter().filter_map(Run::frame).collect();
        for number in 0..frame_count {
            report.check(Rule::FrameUse, used.contains(&number), || {
                format!("{what}, frame {number} is not used")
            });
        }
        usable.then_some(Self { frames, runs })
    }
}

impl Frame {
    fn check(&self, root: &Root, before: Option<&Self>, what: &str, report: &mut Report) -> bool {
        let Self { offset, length, pack, blocks } = *self;
        let end = offset.saturating_add(u64::from(length));
        let free = before.is_none_or(|before| {
            let before_end = before.offset.saturating_add(u64::from(before.length));
            (before.pack, before_end) <= (pack, offset)
        });
        report.check(Rule::FrameOrder, free, || {
            format!("{what}: byte {offset} of pack {pack} is not after it")
        });
        let named = root.packs.get(usize::from(pack));
        report.check(Rule::FramePack, named.is_some(), || {
            format!("{what}: pack {pack}, and the root has {}", root.packs.len())
        });
        let inside = named.is_some_and(|pack| end <= pack.size_bytes);
        if named.is_some() {
            report
                .check(Rule::FramePlace, inside, || format!("{what}: it ends at byte {end} of pack {pack}"));
        }
        let sized = report.check(Rule::FrameBlocks, (1..=MAX_FRAME_BLOCKS).contains(&blocks), || {
            format!("{what}: {blocks}")
        });
        let content = u32::from(blocks) * BLOCK_BYTES as u32;
        let most = content + content / 256 + 64;
        let short = report.check(Rule::FrameLength, (1..=most).contains(&length), || {
            format!("{what}: {length} bytes for {blocks} blocks of content")
        });
        inside && sized && short
    }
}

impl Run {
    /// How many blocks it has.
    pub(crate) fn blocks(&self) -> u32 {
        match self {
            Self::Zeros { blocks } => *blocks,
            Self::Chunk(chunk) => u32::from(chunk.blocks),
        }
    }

    fn frame(&self) -> Option<u32> {
        match self {
            Self::Zeros { .. } => None,
            Self::Chunk(chunk) => Some(chunk.frame),
        }
    }
}

/// Reads a page's runs; `None` where one is not understood, since nothing after it has a known place.
fn read_runs(
    fields: &mut Fields<'_>,
    count: u32,
    frames: &[Frame],
    what: &str,
    report: &mut Report,
) -> Option<Vec<Run>> {
    let mut runs = Vec::new();
    let mut usable = true;
    for number in 0..count {
        let what = format!("{what}, run {number}");
        let run = match fields.take::<4>() {
            Some([0, reserved, low, high]) => {
                let after_zeros = matches!(runs.last(), Some(Run::Zeros { .. }));
                report.check(Rule::ZeroRuns, reserved == 0 && !after_zeros, || {
                    format!("{what}: reserved byte {reserved}; after another zero run: {after_zeros}")
                });
                Some(Run::Zeros { blocks: u32::from(u16::from_le_bytes([low, high])) + 1 })
            }
            Some([1, blocks, low, high]) => {
                let first_block_in_frame = u16::from_le_bytes([low, high]);
                fields.u32().zip(fields.take()).map(|(frame, digest)| {
                    let chunk = Chunk { blocks, first_block_in_frame, frame, digest };
                    usable &= chunk.check(frames, &what, report);
                    Run::Chunk(chunk)
                })
            }
            _ => None,
        };
        if !report.check(Rule::RunKinds, run.is_some(), || format!("{what} is of no kind, or cut short")) {
            return None;
        }
        runs.extend(run);
    }
    usable.then_some(runs)
}

impl Chunk {
    fn check(&self, frames: &[Frame], what: &str, report: &mut Report) -> bool {
        let blocks = self.blocks;
        let sized = report.check(Rule::ChunkBlocks, (1..=MAX_CHUNK_BLOCKS).contains(&blocks), || {
            format!("{what}: {blocks}")
        });
        let frame = frames.get(self.frame as usize);
        report.check(Rule::ChunkFrame, frame.is_some(), || {
            format!("{what}: frame {}, and the page has {}", self.frame, frames.len())
        });
        let Some(frame) = frame else { return false };
        let end = u32::from(self.first_block_in_frame) + u32::from(blocks);
        let inside = report.check(Rule::ChunkPlace, end <= u32::from(frame.blocks), || {
            format!("{what} ends at block {end} of a frame of {}", frame.blocks)
        });
        sized && inside
    }
}

/// Takes fields from the front of some bytes; `None` when they are used up.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (field, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*field)
    }

    fn u16(&mut self) -> Option<u16> {
        self.take().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_le_bytes)
    }
}
