//! A page of a disk index: what lies in 256 MiB of disk.
//!
//! Source: `docs/formats/disk-index.md`, section "Page".

use appliance::Blob;

use super::fields::Fields;
use super::{BLOCK_BYTES, IndexError, MAX_CHUNK_BLOCKS, MAX_FRAME_BLOCKS, MAX_PAGE_BYTES, max_frame_bytes};

pub(super) const HEADER_BYTES: u64 = 8;
pub(super) const FRAME_BYTES: u64 = 16;
pub(super) const CHUNK_BYTES: u64 = 40;
/// The shortest page: one frame, one chunk.
pub(super) const MIN_BYTES: u64 = HEADER_BYTES + FRAME_BYTES + CHUNK_BYTES;

const KIND_ZERO: u8 = 0;
const KIND_CHUNK: u8 = 1;

/// The runs of blocks that make up one page of disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    // Invariant: ascending by pack and offset, without overlap, inside their packs; each is used.
    frames: Vec<Frame>,
    // Invariant: together as many blocks as the page has; no two zero runs side by side; not all zero.
    runs: Vec<PageRun>,
    /// The first block of each run, counted from the page's first.
    starts: Vec<u32>,
}

/// Where a frame lies, and how much content it promises.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Frame {
    /// The pack's number in the root.
    pub pack: u16,
    /// Where the frame starts, in bytes from the start of the pack.
    pub offset: u64,
    /// Its length in bytes, compressed.
    pub len: u32,
    /// Its content in blocks, at most [`MAX_FRAME_BLOCKS`]: exactly what it decompresses to.
    pub blocks: u16,
}

/// A stretch of disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PageRun {
    /// Nothing but zeros.
    Zero {
        /// Its length.
        blocks: u32,
    },
    /// A chunk.
    Chunk(Chunk),
}

/// At most [`MAX_CHUNK_BLOCKS`] blocks of content, in one frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chunk {
    /// Its length.
    pub blocks: u8,
    /// The number of its frame in [`Page::frames`].
    pub frame: u32,
    /// Where it starts in the frame's content, in blocks.
    pub first: u16,
    /// Digest of its content.
    pub sha256: [u8; 32],
}

impl Frame {
    /// Its content in bytes: exactly what it decompresses to.
    pub fn content_bytes(&self) -> usize {
        usize::from(self.blocks) * BLOCK_BYTES as usize
    }
}

impl PageRun {
    /// Its length in blocks.
    pub fn blocks(&self) -> u32 {
        match self {
            Self::Zero { blocks } => *blocks,
            Self::Chunk(chunk) => chunk.blocks.into(),
        }
    }
}

impl Page {
    /// Reads a page that describes `blocks` blocks with the root's `packs`. `bytes` are all of it,
    /// already checked against the page's digest in the root.
    ///
    /// # Errors
    ///
    /// [`IndexError`], which names the first field that cannot be right.
    pub fn parse(bytes: &[u8], blocks: u64, packs: &[Blob]) -> Result<Self, IndexError> {
        let mut fields = Fields::new("page", bytes);
        if bytes.len() as u64 > MAX_PAGE_BYTES {
            return Err(fields.length("no page needs more than 3670024"));
        }
        let frame_count = fields.u32()?;
        let possible = (1..=blocks).contains(&u64::from(frame_count));
        fields.check(possible, ("frame count", 4), frame_count, "a page has 1 frame to one per block")?;
        let run_count = fields.u32()?;
        let possible = (1..=blocks).contains(&u64::from(run_count));
        fields.check(possible, ("run count", 4), run_count, "a page has 1 run to one per block")?;
        if (fields.left() as u64) < u64::from(frame_count) * FRAME_BYTES + u64::from(run_count) * 4 {
            return Err(fields.length("its counts need more"));
        }
        let frames = parse_frames(&mut fields, frame_count as usize, packs)?;
        let (runs, starts) = parse_runs(&mut fields, run_count as usize, blocks, &frames)?;
        match fields.left() {
            0 => Ok(Self { frames, runs, starts }),
            _ => Err(fields.length("it goes on after its last run")),
        }
    }

    /// A page of `frames` and `runs` that keep the invariants.
    pub(super) fn new(frames: Vec<Frame>, runs: Vec<PageRun>) -> Self {
        let starts = runs
            .iter()
            .scan(0, |next, run| {
                let start = *next;
                *next += run.blocks();
                Some(start)
            })
            .collect();
        Self { frames, runs, starts }
    }

    /// The bytes of this page.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend((self.frames.len() as u32).to_le_bytes());
        bytes.extend((self.runs.len() as u32).to_le_bytes());
        for frame in &self.frames {
            bytes.extend(frame.offset.to_le_bytes());
            bytes.extend(frame.len.to_le_bytes());
            bytes.extend(frame.pack.to_le_bytes());
            bytes.extend(frame.blocks.to_le_bytes());
        }
        for run in &self.runs {
            match run {
                PageRun::Zero { blocks } => {
                    bytes.extend([KIND_ZERO, 0]);
                    bytes.extend(((blocks - 1) as u16).to_le_bytes());
                }
                PageRun::Chunk(chunk) => {
                    bytes.extend([KIND_CHUNK, chunk.blocks]);
                    bytes.extend(chunk.first.to_le_bytes());
                    bytes.extend(chunk.frame.to_le_bytes());
                    bytes.extend(chunk.sha256);
                }
            }
        }
        bytes
    }

    /// The frames that the page's chunks lie in, ascending by pack and offset.
    pub fn frames(&self) -> &[Frame] {
        &self.frames
    }

    /// The runs, in the disk's order.
    pub fn runs(&self) -> &[PageRun] {
        &self.runs
    }

    /// The chunks, in the disk's order, each with its frame.
    pub fn chunks(&self) -> impl Iterator<Item = (&Chunk, &Frame)> {
        self.runs.iter().filter_map(|run| match run {
            PageRun::Zero { .. } => None,
            PageRun::Chunk(chunk) => Some((chunk, &self.frames[chunk.frame as usize])),
        })
    }

    /// The runs from the one that holds `block` on, each with its first block; both counted from the
    /// page's first block.
    pub fn runs_from(&self, block: u32) -> impl Iterator<Item = (u32, &PageRun)> {
        let skip = self.starts.partition_point(|start| *start <= block).saturating_sub(1);
        self.starts[skip..].iter().copied().zip(&self.runs[skip..])
    }
}

fn parse_frames(fields: &mut Fields<'_>, count: usize, packs: &[Blob]) -> Result<Vec<Frame>, IndexError> {
    let mut frames: Vec<Frame> = Vec::with_capacity(count);
    for _ in 0..count {
        let offset = fields.u64()?;
        let len = fields.u32()?;
        let pack = fields.u16()?;
        let blocks = fields.u16()?;
        let possible = (1..=MAX_FRAME_BLOCKS).contains(&u64::from(blocks));
        fields.check(possible, ("frame blocks", 2), blocks, "a frame holds 1 to 256 blocks")?;
        let known = usize::from(pack) < packs.len();
        fields.check(known, ("frame pack", 4), pack, "the root lists fewer packs")?;
        let possible = (1..=max_frame_bytes(blocks.into())).contains(&u64::from(len));
        fields.check(possible, ("frame length", 8), len, "so many blocks do not need so many bytes")?;
        let inside =
            offset.checked_add(len.into()).is_some_and(|end| end <= packs[usize::from(pack)].size_bytes);
        fields.check(inside, ("frame offset", 16), offset, "the pack ends before the frame does")?;
        let follows = frames.last().is_none_or(|last| {
            last.pack < pack || (last.pack == pack && last.offset + u64::from(last.len) <= offset)
        });
        fields.check(
            follows,
            ("frame offset", 16),
            offset,
            "frames ascend by pack and offset and do not overlap",
        )?;
        frames.push(Frame { pack, offset, len, blocks });
    }
    Ok(frames)
}

fn parse_runs(
    fields: &mut Fields<'_>,
    count: usize,
    page_blocks: u64,
    frames: &[Frame],
) -> Result<(Vec<PageRun>, Vec<u32>), IndexError> {
    let mut runs = Vec::with_capacity(count);
    let mut starts = Vec::with_capacity(count);
    let mut used = vec![false; frames.len()];
    let mut next = 0;
    for _ in 0..count {
        let run = parse_run(fields, frames)?;
        match (run, runs.last()) {
            (PageRun::Zero { .. }, Some(PageRun::Zero { .. })) => {
                return Err(fields.wrong(("run kind", 4), KIND_ZERO, "two zero runs are written as one"));
            }
            (PageRun::Chunk(chunk), _) => used[chunk.frame as usize] = true,
            _ => (),
        }
        starts.push(next as u32);
        next += u64::from(run.blocks());
        let width = if matches!(run, PageRun::Zero { .. }) { 4 } else { CHUNK_BYTES as usize };
        fields.check(next <= page_blocks, ("run", width), next, "the page has fewer blocks")?;
        runs.push(run);
    }
    fields.check(next == page_blocks, ("run total", 0), next, "the page has more blocks")?;
    match used.iter().position(|used| !used) {
        None => Ok((runs, starts)),
        Some(unused) => Err(IndexError::Field {
            part: "page",
            at: HEADER_BYTES + unused as u64 * FRAME_BYTES,
            field: "frame",
            found: unused as u64,
            wanted: "a frame that no chunk uses is not listed",
        }),
    }
}

fn parse_run(fields: &mut Fields<'_>, frames: &[Frame]) -> Result<PageRun, IndexError> {
    let kind = fields.u8()?;
    fields.check(kind <= KIND_CHUNK, ("run kind", 1), kind, "a run is 0, zeros, or 1, a chunk")?;
    let chunk_blocks = fields.u8()?;
    if kind == KIND_ZERO {
        fields.check(chunk_blocks == 0, ("reserved", 1), chunk_blocks, "it is 0 in a zero run")?;
        return Ok(PageRun::Zero { blocks: u32::from(fields.u16()?) + 1 });
    }
    let possible = (1..=MAX_CHUNK_BLOCKS).contains(&u64::from(chunk_blocks));
    fields.check(possible, ("chunk blocks", 1), chunk_blocks, "a chunk has 1 to 64 blocks")?;
    let first = fields.u16()?;
    let frame = fields.u32()?;
    let Some(promised) = frames.get(frame as usize).map(|frame| u32::from(frame.blocks)) else {
        return Err(fields.wrong(("chunk frame", 4), frame, "the page lists fewer frames"));
    };
    let inside = u32::from(first) + u32::from(chunk_blocks) <= promised;
    fields.check(
        inside,
        ("chunk first block", 6),
        first,
        "the frame's content ends before the chunk does",
    )?;
    Ok(PageRun::Chunk(Chunk { blocks: chunk_blocks, frame, first, sha256: fields.array()? }))
}
