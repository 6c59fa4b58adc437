//! What of a disk has to be read, in pieces that several threads can read at once.

use std::ops::Range;

use formats::packed::{BLOCK_BYTES, PAGE_BLOCKS};
use formats::{Disk, ReadError, RunKind};

/// How much of a disk is read at once. A chunk lies in two windows at most.
pub(super) const WINDOW_BYTES: u64 = 1 << 20;
/// How far ahead a disk is asked what it has stored.
const LOOK_AHEAD_BYTES: u64 = 64 << 20;

const _: () = assert!((PAGE_BLOCKS * BLOCK_BYTES).is_multiple_of(WINDOW_BYTES));

/// The next part of a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Part {
    /// Whole blocks of which nothing is stored.
    Zeros {
        /// How many.
        blocks: u64,
    },
    /// Something that has to be read.
    Window(Window),
}

/// A piece of a disk with something stored in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Window {
    /// Where it lies, in bytes. Starts at a multiple of [`WINDOW_BYTES`], ends at one or with the disk.
    pub(super) bytes: Range<u64>,
    /// What is stored of it, in bytes of the disk; the rest is zeros.
    pub(super) stored: Vec<Range<u64>>,
}

/// The parts of one disk, in order, without gaps.
#[derive(Debug)]
pub(super) struct Windows<'a> {
    disk: &'a dyn Disk,
    size_bytes: u64,
    /// Where the next part starts.
    next: u64,
    /// Up to where the disk has been asked.
    asked: u64,
    /// Stored ranges between `next` and `asked`, in reverse order.
    stored: Vec<Range<u64>>,
}

impl<'a> Windows<'a> {
    pub(super) fn of(disk: &'a dyn Disk) -> Self {
        Self { disk, size_bytes: disk.size_bytes(), next: 0, asked: 0, stored: Vec::new() }
    }

    /// The next part; `None` at the end of the disk.
    pub(super) fn next_part(&mut self) -> Result<Option<Part>, ReadError> {
        if self.next == self.size_bytes {
            return Ok(None);
        }
        while self.stored.is_empty() && self.asked < self.size_bytes {
            self.ask()?;
        }
        let first_stored = self.stored.last().map_or(self.size_bytes, |range| range.start);
        let window_start = first_stored - first_stored % WINDOW_BYTES;
        if first_stored == self.size_bytes || window_start > self.next {
            let end = if first_stored == self.size_bytes { self.size_bytes } else { window_start };
            let blocks = (end - self.next).div_ceil(BLOCK_BYTES);
            self.next = end;
            return Ok(Some(Part::Zeros { blocks }));
        }
        let end = (window_start + WINDOW_BYTES).min(self.size_bytes);
        while self.asked < end {
            self.ask()?;
        }
        let bytes = self.next..end;
        self.next = end;
        Ok(Some(Part::Window(Window { bytes, stored: self.take_stored(end) })))
    }

    /// What is stored before `end`.
    fn take_stored(&mut self, end: u64) -> Vec<Range<u64>> {
        let mut taken = Vec::new();
        while let Some(range) = self.stored.pop_if(|range| range.start < end) {
            if range.end > end {
                self.stored.push(end..range.end);
            }
            taken.push(range.start..range.end.min(end));
        }
        taken
    }

    fn ask(&mut self) -> Result<(), ReadError> {
        let len = LOOK_AHEAD_BYTES.min(self.size_bytes - self.asked);
        let runs = self.disk.runs(self.asked, len)?;
        assert!(!runs.is_empty(), "a disk says how at least one byte is stored");
        let mut found: Vec<Range<u64>> = Vec::new();
        for run in runs {
            let range = self.asked..self.asked + run.len;
            self.asked = range.end;
            match (run.kind, found.last_mut()) {
                (RunKind::Zero, _) => (),
                (RunKind::Data, Some(last)) if last.end == range.start => last.end = range.end,
                (RunKind::Data, _) => found.push(range),
            }
        }
        found.reverse();
        // What was asked later lies behind.
        found.append(&mut self.stored);
        self.stored = found;
        Ok(())
    }
}
