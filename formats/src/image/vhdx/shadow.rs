//! Changes of a file that are kept in memory, and the file as it is with them.
//!
//! They lie in an anonymous file, each at its offset, with holes around and where zeros belong; so a change to
//! terabytes of zeros takes no memory, and whoever reads the result reads from files as ever.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use rustix::fs::{FallocateFlags, MemfdFlags, fallocate, memfd_create};

use super::super::Refusal;
use super::super::source::Source;

#[derive(Debug)]
pub(super) struct Shadow {
    changes: File,
    size_bytes: u64,
    /// The ranges that are changed, in any order.
    changed: Vec<Range<u64>>,
    /// Bytes that may still be written.
    room: u64,
}

impl Shadow {
    /// No changes yet to a file of `file_bytes`, which is as long as `least_bytes` afterwards. At most `room`
    /// bytes are written.
    pub(super) fn new(file_bytes: u64, least_bytes: u64, room: u64) -> Result<Self, Refusal> {
        let changes =
            File::from(memfd_create(c"log", MemfdFlags::CLOEXEC).map_err(|errno| failed(errno.into()))?);
        let size_bytes = file_bytes.max(least_bytes);
        changes.set_len(size_bytes).map_err(failed)?;
        let mut shadow = Shadow { changes, size_bytes, changed: Vec::new(), room };
        shadow.changed.push(file_bytes..size_bytes);
        Ok(shadow)
    }

    /// The length of the file with its changes.
    pub(super) fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    pub(super) fn holds(&self, range: Range<u64>) -> bool {
        range.end <= self.size_bytes
    }

    /// Writes `content` at `offset`, unless there is no more room. What is written must lie in the file.
    pub(super) fn write(&mut self, offset: u64, content: &[u8]) -> Result<bool, Refusal> {
        let bytes = content.len() as u64;
        let Some(room) = self.room.checked_sub(bytes) else { return Ok(false) };
        self.room = room;
        self.changes.write_all_at(content, offset).map_err(failed)?;
        self.changed.push(offset..offset + bytes);
        Ok(true)
    }

    /// Writes zeros, which must lie in the file.
    pub(super) fn zero(&mut self, range: Range<u64>) -> Result<(), Refusal> {
        if !range.is_empty() {
            let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            fallocate(&self.changes, flags, range.start, range.end - range.start)
                .map_err(|errno| failed(errno.into()))?;
            self.changed.push(range);
        }
        Ok(())
    }

    /// `file` with the changes.
    pub(super) fn over(mut self, file: &Source) -> Result<Source, Refusal> {
        let changes = Source::new(self.changes)?;
        let piece = |source: &Source, range| source.window(range).expect("both hold what is asked of them");
        let mut pieces = Vec::new();
        let mut at = 0;
        self.changed.sort_by_key(|range| range.start);
        for range in self.changed.into_iter().filter(|range| !range.is_empty()) {
            if at < range.start {
                pieces.push(piece(file, at..range.start));
            }
            if at < range.end {
                pieces.push(piece(&changes, at.max(range.start)..range.end));
                at = range.end;
            }
        }
        if at < file.size_bytes() {
            pieces.push(piece(file, at..file.size_bytes()));
        }
        Ok(Source::concat(pieces))
    }
}

fn failed(source: io::Error) -> Refusal {
    Refusal::Io { what: "the log's changes back from memory".to_owned(), source }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn later_changes_cover_earlier_ones_and_the_rest_is_the_file() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[1; 20]).unwrap();
        let file = Source::new(file).unwrap();
        let mut shadow = Shadow::new(20, 24, 9).unwrap();
        assert!(shadow.write(2, &[2; 4]).unwrap());
        shadow.zero(5..8).unwrap();
        shadow.zero(21..22).unwrap();
        assert!(shadow.write(7, &[3; 3]).unwrap());
        assert!(shadow.write(12, &[4]).unwrap());
        assert!(!shadow.write(0, &[5; 2]).unwrap());
        assert!(shadow.holds(22..24) && !shadow.holds(22..25));
        let all = shadow.over(&file).unwrap();
        let mut content = vec![9; all.size_bytes() as usize];
        all.read_exact_at(&mut content, 0).unwrap();
        assert_eq!(content, [1, 1, 2, 2, 2, 0, 0, 3, 3, 3, 1, 1, 4, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0]);
    }
}
