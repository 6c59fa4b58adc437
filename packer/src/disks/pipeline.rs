//! What happens between a disk and its packs. See the picture in [`super`].

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::thread;

use blob_store::LocalStore;
use formats::cut::{BlockMark, CutPlan, CutRule, Cutter};
use formats::packed::{BLOCK_BYTES, MAX_FRAME_BLOCKS};
use formats::{Disk, ReadError};
use sha2::{Digest as _, Sha256};

use super::catalog::{Catalog, ChunkId, FrameId, KnownChunk, KnownFrame};
use super::packs::{PackWriter, WrittenPacks};
use super::reuse::BaseFrames;
use super::windows::{Part, Window, Windows};
use super::workers::{Buffers, Promise, Workers};
use super::{Base, PackOptions, Progress, Statistics, WriteError};

const FRAME_BYTES: usize = (MAX_FRAME_BLOCKS * BLOCK_BYTES) as usize;

/// What the pipeline leaves: every chunk is in a pack, and every pack in the store.
#[derive(Debug)]
pub(super) struct Written {
    pub(super) catalog: Catalog,
    pub(super) disks: Vec<DiskRuns>,
    pub(super) statistics: Statistics,
}

/// A disk as runs of zeros and chunks.
#[derive(Debug)]
pub(super) struct DiskRuns {
    pub(super) cut_rule: CutRule,
    pub(super) runs: Vec<DiskRun>,
}

/// The next part of a disk.
#[derive(Debug, Clone, Copy)]
pub(super) enum DiskRun {
    Zeros { blocks: u32 },
    Chunk(ChunkId),
}

/// A window that has been read.
#[derive(Debug)]
struct Content {
    first_block: u64,
    bytes: Vec<u8>,
    buffers: Buffers,
}

impl Content {
    /// Reads a window. What is not stored of it, and what lies behind the disk's end, is zeros.
    fn read(disk: &dyn Disk, window: &Window, buffers: Buffers) -> Result<Self, ReadError> {
        let Range { start, end } = window.bytes;
        let len = (end - start).next_multiple_of(BLOCK_BYTES) as usize;
        let mut content = Self { first_block: start / BLOCK_BYTES, bytes: buffers.take_len(len), buffers };
        let whole = window.stored.first() == Some(&(start..start + len as u64));
        if !whole {
            content.bytes.fill(0);
        }
        for range in &window.stored {
            let place = (range.start - start) as usize..(range.end - start) as usize;
            disk.read_at(range.start, &mut content.bytes[place])?;
        }
        Ok(content)
    }

    /// The part of `blocks` that this window has.
    fn piece(&self, blocks: &Range<u64>) -> &[u8] {
        let here = |block: u64| {
            let bytes = block.saturating_sub(self.first_block) * BLOCK_BYTES;
            (bytes as usize).min(self.bytes.len())
        };
        &self.bytes[here(blocks.start)..here(blocks.end)]
    }
}

impl Cut {
    /// The chunk's content, in one piece or two.
    fn pieces(&self) -> impl Iterator<Item = &[u8]> {
        self.windows.iter().flatten().map(|window| window.piece(&self.blocks))
    }
}

impl Drop for Content {
    fn drop(&mut self) {
        self.buffers.give(std::mem::take(&mut self.bytes));
    }
}

/// A chunk that has been cut, and the one or two windows that its content is in.
#[derive(Debug)]
struct Cut {
    blocks: Range<u64>,
    windows: [Option<Arc<Content>>; 2],
}

/// A chunk that has been cut and hashed.
#[derive(Debug)]
struct Hashed {
    cut: Cut,
    sha256: [u8; 32],
}

/// Why the pipeline stops before its end.
#[derive(Debug)]
pub(super) enum Stop {
    /// For a reason that is known.
    Because(WriteError),
    /// Because packs can no longer be written; the thread that writes them knows why.
    PackWriter,
}

impl From<WriteError> for Stop {
    fn from(error: WriteError) -> Self {
        Self::Because(error)
    }
}

/// Packs `disks`, all but their indexes.
pub(super) fn run(
    disks: &[(&str, &dyn Disk)],
    base: Option<&Base>,
    store: &LocalStore,
    options: &PackOptions,
    progress: &dyn Progress,
) -> Result<Written, WriteError> {
    thread::scope(|scope| {
        let buffers = Buffers::default();
        let waiting = options.threads + 4;
        let packs = PackWriter::start(scope, store, options.pack_bytes, waiting, buffers.clone());
        let catalog = base.map(|base| base.catalog.clone()).unwrap_or_default();
        let mut packing = Packing {
            workers: Workers::start(scope, options.threads, options.level),
            base_chunks: catalog.chunks().len() as ChunkId,
            base_frames: BaseFrames::of(&catalog, store, buffers.clone()),
            catalog,
            statistics: Statistics::default(),
            open_frame: buffers.take(),
            packs: &packs,
            buffers,
            waiting,
        };
        let packed = packing.disks(disks, progress).and_then(|packed| {
            packing.replace_packs(store)?;
            packing.end_frame()?;
            Ok(packed)
        });
        let Packing { catalog, statistics, .. } = packing;
        match packed {
            Ok(disks) => Ok(finish(Written { catalog, disks, statistics }, &packs.finish()?)),
            Err(Stop::Because(error)) => Err(error),
            Err(Stop::PackWriter) => Err(packs.finish().expect_err("the thread has stopped for a reason")),
        }
    })
}

/// Adds what is known once the packs are written.
fn finish(mut written: Written, packs: &WrittenPacks) -> Written {
    let statistics = &mut written.statistics;
    statistics.new_packs = packs.packs.len() as u64;
    statistics.new_pack_bytes = packs.packs.iter().map(|pack| pack.size_bytes).sum();
    written.catalog.place_new_frames(packs);
    written
}

/// The thread that decides.
pub(super) struct Packing<'a, 'scope, 'env> {
    workers: Workers<'env>,
    pub(super) base_frames: BaseFrames<'env>,
    packs: &'a PackWriter<'scope>,
    buffers: Buffers,
    /// How many windows, cuts and frames may each be on their way.
    waiting: usize,
    pub(super) catalog: Catalog,
    /// Chunks below this number are the base's.
    pub(super) base_chunks: ChunkId,
    pub(super) statistics: Statistics,
    /// The content of the next frame, so far.
    open_frame: Vec<u8>,
}

/// Chunks between the cutter and their places, in the disk's order.
#[derive(Debug, Default)]
struct OnTheWay {
    hashing: VecDeque<Promise<Vec<Hashed>>>,
    /// What the base has of them is being checked.
    checking: VecDeque<Vec<Hashed>>,
}

/// The next part of a disk, on its way.
enum Reading {
    Zeros { blocks: u64 },
    Window(Promise<Result<(Content, Vec<BlockMark>), ReadError>>),
}

impl<'env> Packing<'_, '_, 'env> {
    fn disks(
        &mut self,
        disks: &[(&'env str, &'env dyn Disk)],
        progress: &dyn Progress,
    ) -> Result<Vec<DiskRuns>, Stop> {
        let mut packed = Vec::with_capacity(disks.len());
        for (name, disk) in disks {
            let size_bytes = disk.size_bytes();
            let told = |blocks: u64| progress.packed(name, size_bytes.min(blocks * BLOCK_BYTES), size_bytes);
            packed.push(self.disk(name, *disk, &told)?);
            self.statistics.disk_bytes += size_bytes;
        }
        Ok(packed)
    }

    fn disk(&mut self, name: &str, disk: &'env dyn Disk, told: &dyn Fn(u64)) -> Result<DiskRuns, Stop> {
        let failed = |source| WriteError::Read { disk: name.to_owned(), source };
        let plan = Arc::new(CutPlan::of(disk));
        let mut windows = Windows::of(disk);
        let mut cutting = Cutting::new(&plan);
        let mut runs = RunList::default();
        let mut reading = VecDeque::new();
        let mut on_the_way = OnTheWay::default();
        loop {
            while reading.len() < self.waiting
                && let Some(part) = windows.next_part().map_err(failed)?
            {
                reading.push_back(self.read(disk, part, &plan));
            }
            let Some(next) = reading.pop_front() else { break };
            match next {
                Reading::Zeros { blocks } => cutting.zeros(blocks),
                Reading::Window(window) => {
                    let (content, marks) = window.wait().map_err(failed)?;
                    cutting.window(content, &marks);
                }
            }
            told(cutting.next_block);
            on_the_way.hashing.push_back(self.hash(cutting.take()));
            self.advance(&mut on_the_way, self.waiting, &mut runs)?;
        }
        let blocks = cutting.next_block;
        on_the_way.hashing.push_back(self.hash(cutting.finish()));
        self.advance(&mut on_the_way, 0, &mut runs)?;
        Ok(DiskRuns { cut_rule: plan.rule(), runs: runs.finish(blocks) })
    }

    /// Has a window read and marked.
    fn read(&self, disk: &'env dyn Disk, part: Part, plan: &Arc<CutPlan>) -> Reading {
        let window = match part {
            Part::Zeros { blocks } => return Reading::Zeros { blocks },
            Part::Window(window) => window,
        };
        let (plan, buffers) = (Arc::clone(plan), self.buffers.clone());
        Reading::Window(self.workers.run(move |_| {
            let content = Content::read(disk, &window, buffers)?;
            let marks = plan.marks(content.first_block, &content.bytes).collect();
            Ok((content, marks))
        }))
    }

    /// Has chunks hashed.
    fn hash(&self, cuts: Vec<Cut>) -> Promise<Vec<Hashed>> {
        self.workers.run(move |_| {
            cuts.into_iter()
                .map(|cut| {
                    let mut hasher = Sha256::new();
                    cut.pieces().for_each(|piece| hasher.update(piece));
                    Hashed { sha256: hasher.finalize().into(), cut }
                })
                .collect()
        })
    }

    /// Takes chunks on, until at most `waiting` windows' are left at each step.
    fn advance(&mut self, chunks: &mut OnTheWay, waiting: usize, runs: &mut RunList) -> Result<(), Stop> {
        while chunks.hashing.len() > waiting
            && let Some(hashed) = chunks.hashing.pop_front()
        {
            let hashed = hashed.wait();
            self.check_base_frames(&hashed);
            chunks.checking.push_back(hashed);
        }
        // Without a base there is nothing to wait for.
        let waiting = if self.base_frames.is_empty() { 0 } else { waiting };
        while chunks.checking.len() > waiting
            && let Some(hashed) = chunks.checking.pop_front()
        {
            self.place(hashed, runs)?;
        }
        Ok(())
    }

    /// Has the base's frames checked that may have one of the chunks.
    fn check_base_frames(&mut self, hashed: &[Hashed]) {
        for Hashed { sha256, .. } in hashed {
            if let Some(id) = self.catalog.find(sha256).filter(|id| *id < self.base_chunks) {
                self.base_frames.check(self.catalog.chunk(id).frame, &self.catalog, &self.workers);
            }
        }
    }

    /// Finds a chunk that can be referred to: one that was found in a disk, or that the base really has.
    fn find(&mut self, sha256: &[u8; 32], blocks: u64) -> Option<ChunkId> {
        let id = self.catalog.find(sha256)?;
        let known = *self.catalog.chunk(id);
        let is_there = id >= self.base_chunks || self.base_frames.is_whole(known.frame);
        (is_there && u64::from(known.blocks) == blocks).then_some(id)
    }

    /// Finds chunks in the catalog or adds them.
    fn place(&mut self, hashed: Vec<Hashed>, runs: &mut RunList) -> Result<(), Stop> {
        for Hashed { cut, sha256 } in hashed {
            let blocks = cut.blocks.end - cut.blocks.start;
            let content_bytes = blocks * BLOCK_BYTES;
            self.statistics.chunks += 1;
            self.statistics.data_bytes += content_bytes;
            let id = match self.find(&sha256, blocks) {
                Some(id) if id < self.base_chunks => {
                    self.statistics.base_chunks += 1;
                    self.statistics.base_bytes += content_bytes;
                    id
                }
                Some(id) => {
                    self.statistics.repeated_chunks += 1;
                    self.statistics.repeated_bytes += content_bytes;
                    id
                }
                None => {
                    let (frame, first) = self.append(cut.pieces(), content_bytes as usize)?;
                    let blocks = blocks as u8;
                    self.catalog.add_chunk(KnownChunk { sha256, frame, first, blocks, used: false })
                }
            };
            self.catalog.chunk_mut(id).used = true;
            runs.chunk(cut.blocks, id);
        }
        Ok(())
    }

    /// Appends a chunk's content to the next frame, and returns that and where in it the chunk lies.
    pub(super) fn append<'b>(
        &mut self,
        pieces: impl Iterator<Item = &'b [u8]>,
        content_bytes: usize,
    ) -> Result<(FrameId, u8), Stop> {
        if self.open_frame.len() + content_bytes > FRAME_BYTES {
            self.end_frame()?;
        }
        let first = self.open_frame.len() / BLOCK_BYTES as usize;
        pieces.for_each(|piece| self.open_frame.extend_from_slice(piece));
        Ok((
            self.catalog.next_frame(),
            u8::try_from(first).expect("a chunk has a block, a frame at most 256"),
        ))
    }

    /// Has the next frame compressed and written, if there is anything in it.
    fn end_frame(&mut self) -> Result<(), Stop> {
        if self.open_frame.is_empty() {
            return Ok(());
        }
        let content = std::mem::replace(&mut self.open_frame, self.buffers.take());
        self.catalog.add_frame(KnownFrame::unwritten((content.len() / BLOCK_BYTES as usize) as u16));
        let buffers = self.buffers.clone();
        let frame = self.workers.run(move |codec| {
            let mut frame = buffers.take();
            codec.encoder.encode(&content, &mut frame);
            buffers.give(content);
            frame
        });
        if self.packs.frame(frame) { Ok(()) } else { Err(Stop::PackWriter) }
    }
}

/// Cuts windows into chunks.
struct Cutting<'a> {
    cutter: Cutter<'a>,
    next_block: u64,
    /// The last two windows: a chunk lies in them, whether it ends with this one or before the next.
    windows: [Option<Arc<Content>>; 2],
    cuts: Vec<Cut>,
}

impl<'a> Cutting<'a> {
    fn new(plan: &'a CutPlan) -> Self {
        Self { cutter: plan.cutter(), next_block: 0, windows: [None, None], cuts: Vec::new() }
    }

    fn zeros(&mut self, blocks: u64) {
        let ended = self.cutter.push_zeros(blocks);
        self.next_block += blocks;
        self.cut(ended);
        self.windows = [None, None];
    }

    fn window(&mut self, content: Content, marks: &[BlockMark]) {
        self.windows = [self.windows[1].take(), Some(Arc::new(content))];
        self.next_block += marks.len() as u64;
        for mark in marks {
            let ended = self.cutter.push(*mark);
            self.cut(ended);
        }
    }

    fn cut(&mut self, ended: Option<Range<u64>>) {
        let Some(blocks) = ended else { return };
        let windows = self
            .windows
            .each_ref()
            .map(|window| window.as_ref().filter(|window| !window.piece(&blocks).is_empty()).map(Arc::clone));
        self.cuts.push(Cut { blocks, windows });
    }

    /// The chunks that have ended since the last call.
    fn take(&mut self) -> Vec<Cut> {
        std::mem::take(&mut self.cuts)
    }

    /// The chunks that have ended with the disk.
    fn finish(mut self) -> Vec<Cut> {
        let ended = self.cutter.finish();
        self.cut(ended);
        self.cuts
    }
}

/// The runs of a disk, in order.
#[derive(Debug, Default)]
struct RunList {
    runs: Vec<DiskRun>,
    next_block: u64,
}

impl RunList {
    /// The chunk `id` is at `blocks`; between it and the last one are zeros.
    fn chunk(&mut self, blocks: Range<u64>, id: ChunkId) {
        self.zeros_to(blocks.start);
        self.runs.push(DiskRun::Chunk(id));
        self.next_block = blocks.end;
    }

    fn finish(mut self, blocks: u64) -> Vec<DiskRun> {
        self.zeros_to(blocks);
        self.runs
    }

    fn zeros_to(&mut self, block: u64) {
        while self.next_block < block {
            let blocks = u32::try_from(block - self.next_block).unwrap_or(u32::MAX);
            self.runs.push(DiskRun::Zeros { blocks });
            self.next_block += u64::from(blocks);
        }
    }
}
