//! Raw images: the file, or the block device, is the disk.
//!
//! A file whose length is no multiple of 512 is followed by zeros up to the next one, as QEMU does it.
//! Holes are what the file system says they are.

mod write;

pub(super) use write::{BLOCK_BYTES, find_data, write};

use super::source::Source;
use super::{Format, Limits, Refusal};
use crate::disk::{Disk, ReadError, Run, RunKind, check_range};

const SECTOR: u64 = 512;

/// Ends [`Disk::runs`] early on a file with many holes.
const MOST_RUNS_PER_CALL: usize = 256;

#[derive(Debug)]
pub(super) struct RawDisk {
    source: Source,
    /// The file's length, rounded up to whole sectors.
    size_bytes: u64,
}

impl RawDisk {
    pub(super) fn open(source: Source, limits: Limits) -> Result<Self, Refusal> {
        let size_bytes = source.size_bytes().next_multiple_of(SECTOR);
        let max_size_bytes = limits.max_size_bytes;
        if size_bytes > max_size_bytes {
            return Err(Refusal::TooLarge { format: Format::Raw, size_bytes, max_size_bytes });
        }
        Ok(RawDisk { source, size_bytes })
    }

    /// The run that starts at `offset` and ends at `end` at the latest. Needs `offset < end`.
    fn run(&self, offset: u64, end: u64) -> Result<Run, ReadError> {
        if offset >= self.source.size_bytes() {
            return Ok(Run { len: end - offset, kind: RunKind::Zero });
        }
        self.source.run(offset, end.min(self.source.size_bytes()))
    }
}

impl Disk for RawDisk {
    fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), ReadError> {
        check_range(offset, buf.len() as u64, self.size_bytes)?;
        let in_file = self.source.size_bytes().saturating_sub(offset).min(buf.len() as u64);
        let (content, padding) = buf.split_at_mut(in_file as usize);
        self.source.read(offset, content)?;
        padding.fill(0);
        Ok(())
    }

    fn runs(&self, offset: u64, len: u64) -> Result<Vec<Run>, ReadError> {
        check_range(offset, len, self.size_bytes)?;
        let end = offset + len;
        let mut at = offset;
        let mut runs: Vec<Run> = Vec::new();
        while at < end && runs.len() < MOST_RUNS_PER_CALL {
            let run = self.run(at, end)?;
            at += run.len;
            match runs.last_mut() {
                Some(last) if last.kind == run.kind => last.len += run.len,
                _ => runs.push(run),
            }
        }
        Ok(runs)
    }
}
