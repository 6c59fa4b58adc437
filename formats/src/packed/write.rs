//! Building a disk index, run by run.
//!
//! Source: `docs/formats/disk-index.md`.

use std::collections::BTreeMap;

use appliance::{Blob, Digest};

use super::root::{PageEntry, Root};
use super::{BLOCK_BYTES, Chunk, Frame, MAX_CHUNK_BLOCKS, PAGE_BLOCKS, Page, PageRun};
use crate::cut::CutRule;

/// Takes the runs of a disk in order, and gives its index.
///
/// What it is told comes from our own packer, so what cannot be right is a panic, not an error.
#[derive(Debug)]
pub struct IndexWriter {
    root: Root,
    /// The pages so far, end to end. Their offsets are counted from here until the root's length is known.
    pages: Vec<u8>,
    runs: Vec<PageRun>,
    /// Each frame of the page, and its number in order of first use.
    frames: BTreeMap<Frame, u32>,
    next_block: u64,
}

/// A disk index, ready to be stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncodedIndex {
    /// Root and pages.
    pub bytes: Vec<u8>,
    /// The root alone: the first `size_bytes` of `bytes`.
    pub root: Blob,
}

impl IndexWriter {
    /// An index of a disk of `size_bytes`, whose chunks lie in `packs`. Each of them must be used.
    pub fn new(size_bytes: u64, cut_rule: CutRule, packs: Vec<Blob>) -> Self {
        Self {
            root: Root { size_bytes, cut_rule, packs, pages: Vec::new() },
            pages: Vec::new(),
            runs: Vec::new(),
            frames: BTreeMap::new(),
            next_block: 0,
        }
    }

    /// The next `blocks` blocks are zeros.
    pub fn zero(&mut self, blocks: u64) {
        let mut left = blocks;
        while left > 0 {
            let here = left.min(PAGE_BLOCKS - self.next_block % PAGE_BLOCKS);
            match self.runs.last_mut() {
                Some(PageRun::Zero { blocks }) => *blocks += here as u32,
                _ => self.runs.push(PageRun::Zero { blocks: here as u32 }),
            }
            self.advance(here);
            left -= here;
        }
    }

    /// The next `blocks` blocks are the chunk `sha256`, which starts at block `first` of `frame`'s content.
    pub fn chunk(&mut self, blocks: u8, sha256: [u8; 32], frame: Frame, first: u16) {
        let len = u64::from(blocks);
        assert!((1..=MAX_CHUNK_BLOCKS).contains(&len), "a chunk of {blocks} blocks");
        assert!(
            self.next_block % PAGE_BLOCKS + len <= PAGE_BLOCKS,
            "a chunk that crosses into the next page"
        );
        let next = self.frames.len() as u32;
        let number = *self.frames.entry(frame).or_insert(next);
        self.runs.push(PageRun::Chunk(Chunk { blocks, frame: number, first, sha256 }));
        self.advance(len);
    }

    /// Ends the index. All blocks of the disk have been described.
    pub fn finish(mut self) -> EncodedIndex {
        assert_eq!(self.next_block, self.root.blocks(), "an index that does not cover its disk");
        if !self.runs.is_empty() {
            self.end_page();
        }
        let root_bytes = self.root.encoded_len();
        for page in &mut self.root.pages {
            page.offset += root_bytes;
        }
        let mut bytes = self.root.to_bytes();
        let root = Blob { digest: Digest::sha256(&bytes), size_bytes: root_bytes };
        bytes.extend(self.pages);
        EncodedIndex { bytes, root }
    }

    fn advance(&mut self, blocks: u64) {
        self.next_block += blocks;
        if self.next_block.is_multiple_of(PAGE_BLOCKS) {
            self.end_page();
        }
    }

    fn end_page(&mut self) {
        let mut runs = std::mem::take(&mut self.runs);
        let used = std::mem::take(&mut self.frames);
        if used.is_empty() {
            return;
        }
        // From the order of first use to ascending order.
        let mut renumbered = vec![0; used.len()];
        for (place, number) in used.values().enumerate() {
            renumbered[*number as usize] = place as u32;
        }
        for run in &mut runs {
            if let PageRun::Chunk(chunk) = run {
                chunk.frame = renumbered[chunk.frame as usize];
            }
        }
        let bytes = Page::new(used.into_keys().collect(), runs).to_bytes();
        self.root.pages.push(PageEntry {
            first_block: (self.next_block - 1) / PAGE_BLOCKS * PAGE_BLOCKS,
            offset: self.pages.len() as u64,
            len: bytes.len() as u32,
            sha256: sha256(&bytes),
        });
        self.pages.extend(bytes);
    }
}

/// The value of [`Digest::sha256`], without its algorithm.
pub(super) fn sha256(content: &[u8]) -> [u8; 32] {
    use sha2::Digest as _;
    sha2::Sha256::digest(content).into()
}

const _: () = assert!(BLOCK_BYTES * PAGE_BLOCKS == 256 << 20);
