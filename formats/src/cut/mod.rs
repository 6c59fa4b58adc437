//! Where a disk is cut into chunks, so that two versions of it have many chunks in common.
//!
//! ```text
//! rule 1, extents   inside an ext4 file system, on the whole disk or in a GPT or MBR partition:
//!                   before a block at which a file's extent starts
//! rule 2, content   everywhere else: after a block whose hash says so, once the chunk has 2 blocks
//! both              before and after a zero block, after 64 blocks, at the end of a page (256 MiB),
//!                   where one rule's part of the disk ends and the other's begins
//! ```
//!
//! Cuts are nothing but hints: whatever the file system claims, the content of all chunks together is
//! the content of the disk. Nothing here fails; what cannot be read or cannot be right only means fewer
//! good cuts. Time and memory are bounded, whatever a disk claims.
//!
//! Changing where a rule cuts, the hash included, needs a new version of the rule: disks that were cut
//! differently share little.

mod content;
mod ext4;
mod partitions;

pub use content::block_hash;

use std::ops::Range;

use crate::Disk;
use crate::packed::{BLOCK_BYTES, MAX_CHUNK_BLOCKS, PAGE_BLOCKS};

/// How the chunks of a disk were cut: a rule's number and its version, as in the disk index.
///
/// For whoever compares two disks: chunks that were cut alike are the ones that can be equal. Readers
/// do not need it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CutRule {
    /// The rule.
    pub id: u16,
    /// Its version.
    pub version: u16,
}

impl CutRule {
    /// Rule 1 where there is ext4, rule 2 elsewhere.
    pub const EXTENTS: Self = Self { id: 1, version: 1 };
    /// Rule 2 alone.
    pub const CONTENT: Self = Self { id: 2, version: 1 };
}

/// Where one disk is to be cut, as far as that is known before its content is read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CutPlan {
    /// Blocks that belong to an ext4 file system. Ascending, without overlap.
    file_systems: Vec<Range<u64>>,
    /// Blocks before which to cut: starts of extents, both ends of file systems. Ascending.
    starts: Vec<u64>,
}

/// What a block's content means for the cuts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlockMark {
    /// Nothing but zeros: part of no chunk.
    Zero,
    /// Content.
    Data,
    /// Content after which rule 2 ends a chunk of at least [`MIN_CONTENT_CHUNK_BLOCKS`].
    Boundary,
}

/// The shortest chunk that rule 2 ends because of a hash, in blocks.
pub const MIN_CONTENT_CHUNK_BLOCKS: u64 = 2;

/// Takes the marks of a disk's blocks in order, and says where its chunks are.
#[derive(Debug)]
pub struct Cutter<'a> {
    starts: &'a [u64],
    /// The chunk that the next block may belong to; empty if there is none.
    chunk: Range<u64>,
}

impl CutPlan {
    /// Looks for file systems on `disk`, and for extents in them.
    pub fn of(disk: &dyn Disk) -> Self {
        let mut found = partitions::partitions(disk);
        found.push(0..disk.size_bytes());
        let mut plan = Self::default();
        for part in found {
            let blocks = part.start.div_ceil(BLOCK_BYTES)..part.end / BLOCK_BYTES;
            let taken = plan.file_systems.iter().any(|other| overlap(other, &blocks));
            if !taken && let Some(file_system) = ext4::extents(disk, part, &mut plan.starts) {
                let end = file_system.end / BLOCK_BYTES;
                plan.file_systems.push(blocks.start..end.max(blocks.start));
            }
        }
        plan.file_systems.sort_by_key(|blocks| blocks.start);
        plan.starts.extend(plan.file_systems.iter().flat_map(|blocks| [blocks.start, blocks.end]));
        plan.starts.sort_unstable();
        plan.starts.dedup();
        plan
    }

    /// The rule that this plan follows.
    pub fn rule(&self) -> CutRule {
        if self.file_systems.is_empty() { CutRule::CONTENT } else { CutRule::EXTENTS }
    }

    /// What the blocks of `content`, the first of which is block `first`, mean for the cuts.
    /// `content` is whole blocks.
    pub fn marks(&self, first: u64, content: &[u8]) -> impl Iterator<Item = BlockMark> {
        content.chunks_exact(BLOCK_BYTES as usize).zip(first..).map(|(block, number)| {
            if is_zero(block) {
                BlockMark::Zero
            } else if !self.is_in_file_system(number) && block_hash(block).is_multiple_of(16) {
                BlockMark::Boundary
            } else {
                BlockMark::Data
            }
        })
    }

    /// Starts cutting.
    pub fn cutter(&self) -> Cutter<'_> {
        Cutter { starts: &self.starts, chunk: 0..0 }
    }

    fn is_in_file_system(&self, block: u64) -> bool {
        let before = self.file_systems.partition_point(|blocks| blocks.end <= block);
        self.file_systems.get(before).is_some_and(|blocks| blocks.contains(&block))
    }
}

impl Cutter<'_> {
    /// The next block is `mark`. Returns the chunk that ends before it or with it, if one does.
    pub fn push(&mut self, mark: BlockMark) -> Option<Range<u64>> {
        let block = self.chunk.end;
        let before = self.ends_before(block, mark).then(|| self.end_chunk());
        self.chunk.end = block + 1;
        if mark == BlockMark::Zero {
            self.chunk.start = block + 1;
            return before.flatten();
        }
        let len = self.chunk.end - self.chunk.start;
        let boundary = mark == BlockMark::Boundary && len >= MIN_CONTENT_CHUNK_BLOCKS;
        let after = (boundary || len == MAX_CHUNK_BLOCKS).then(|| self.end_chunk());
        // A chunk that began with this block has not ended with it.
        before.flatten().or(after.flatten())
    }

    /// The next `blocks` blocks are zeros. Returns the chunk that ends before them, if there is one.
    pub fn push_zeros(&mut self, blocks: u64) -> Option<Range<u64>> {
        let ended = self.end_chunk();
        self.chunk = self.chunk.end + blocks..self.chunk.end + blocks;
        ended
    }

    /// The disk has ended. Returns its last chunk, if one has not ended before.
    pub fn finish(&mut self) -> Option<Range<u64>> {
        self.end_chunk()
    }

    fn ends_before(&mut self, block: u64, mark: BlockMark) -> bool {
        let passed = self.starts.iter().take_while(|start| **start < block).count();
        self.starts = &self.starts[passed..];
        mark == BlockMark::Zero || block.is_multiple_of(PAGE_BLOCKS) || self.starts.first() == Some(&block)
    }

    fn end_chunk(&mut self) -> Option<Range<u64>> {
        let ended = self.chunk.clone();
        self.chunk.start = self.chunk.end;
        (!ended.is_empty()).then_some(ended)
    }
}

/// True if there is nothing but zeros in `content`.
fn is_zero(content: &[u8]) -> bool {
    // In pieces that the compiler turns into a few wide instructions, so that content ends the search early.
    let mut pieces = content.chunks_exact(256);
    pieces.all(|piece| piece.iter().fold(0, |seen, byte| seen | byte) == 0)
        && pieces.remainder().iter().all(|byte| *byte == 0)
}

fn overlap(one: &Range<u64>, other: &Range<u64>) -> bool {
    one.start < other.end && other.start < one.end
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A plan with the given extents and no file system, so that marks can be given freely.
    fn plan(starts: &[u64]) -> CutPlan {
        CutPlan { file_systems: Vec::new(), starts: starts.to_vec() }
    }

    /// Blocks written as `.` for zeros, `d` for data and `b` for a boundary are cut into `want`.
    #[track_caller]
    fn check(starts: &[u64], blocks: &str, want: &[(u64, u64)]) {
        let plan = plan(starts);
        let mut cutter = plan.cutter();
        let mut found = Vec::new();
        for block in blocks.chars() {
            found.extend(cutter.push(match block {
                '.' => BlockMark::Zero,
                'd' => BlockMark::Data,
                _ => BlockMark::Boundary,
            }));
        }
        found.extend(cutter.finish());
        let found: Vec<_> = found.iter().map(|chunk| (chunk.start, chunk.end)).collect();
        assert_eq!(found, want, "{blocks}");
    }

    #[test]
    fn zeros_end_chunks_and_belong_to_none() {
        check(&[], "", &[]);
        check(&[], "...", &[]);
        check(&[], "dd..d", &[(0, 2), (4, 5)]);
        check(&[], ".d.", &[(1, 2)]);
    }

    #[test]
    fn a_boundary_ends_a_chunk_of_two_blocks_or_more() {
        check(&[], "dbd", &[(0, 2), (2, 3)]);
        check(&[], "bd", &[(0, 2)]);
        check(&[], "bbbb", &[(0, 2), (2, 4)]);
        check(&[], "db.b", &[(0, 2), (3, 4)]);
    }

    #[test]
    fn extents_start_chunks() {
        check(&[0, 1, 3], "dddd", &[(0, 1), (1, 3), (3, 4)]);
        check(&[2, 5], "d.d", &[(0, 1), (2, 3)]);
        check(&[2], "dbd", &[(0, 2), (2, 3)]);
    }

    #[test]
    fn a_chunk_has_at_most_64_blocks() {
        check(&[], &"d".repeat(130), &[(0, 64), (64, 128), (128, 130)]);
        check(&[10], &"d".repeat(80), &[(0, 10), (10, 74), (74, 80)]);
    }

    #[test]
    fn no_chunk_crosses_into_the_next_page() {
        let plan = plan(&[]);
        let mut cutter = plan.cutter();
        assert_eq!(cutter.push_zeros(PAGE_BLOCKS - 1), None);
        assert_eq!(cutter.push(BlockMark::Data), None);
        assert_eq!(cutter.push(BlockMark::Data), Some(PAGE_BLOCKS - 1..PAGE_BLOCKS));
        assert_eq!(cutter.push_zeros(5), Some(PAGE_BLOCKS..PAGE_BLOCKS + 1));
        assert_eq!(cutter.push(BlockMark::Data), None);
        assert_eq!(cutter.finish(), Some(PAGE_BLOCKS + 6..PAGE_BLOCKS + 7));
    }

    #[test]
    fn zeros_are_told_from_content_wherever_that_is() {
        let mut block = vec![0; 4096];
        assert!(is_zero(&block) && is_zero(&block[..100]));
        for at in [0, 1, 255, 256, 4095] {
            block[at] = 1;
            assert!(!is_zero(&block), "{at}");
            block[at] = 0;
        }
    }
}
