//! Raw images: the file, or the block device, is the disk.
//!
//! A file whose length is no multiple of 512 is followed by zeros up to the next one, as QEMU does it.
//! Holes are found with `SEEK_HOLE` and `SEEK_DATA` and cost nothing; where the file system or the
//! device knows none, all of the disk is data.
//!
//! Source: lseek(2).

use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;

use super::file::ImageFile;
use super::{Format, Limits, Refusal};
use crate::disk::{Disk, ReadError, Run, RunKind, check_range};

const SECTOR: u64 = 512;

/// Ends [`Disk::runs`] early on a file with many holes.
const MOST_RUNS_PER_CALL: usize = 256;

#[derive(Debug)]
pub(super) struct RawDisk {
    file: ImageFile,
    /// The file's length, rounded up to whole sectors.
    size_bytes: u64,
}

impl RawDisk {
    pub(super) fn open(file: ImageFile, limits: Limits) -> Result<Self, Refusal> {
        let size_bytes = file.size_bytes().next_multiple_of(SECTOR);
        let max_size_bytes = limits.max_size_bytes;
        if size_bytes > max_size_bytes {
            return Err(Refusal::TooLarge { format: Format::Raw, size_bytes, max_size_bytes });
        }
        Ok(RawDisk { file, size_bytes })
    }

    /// The run that starts at `offset` and ends at `end` at the latest. Needs `offset < end`.
    fn run(&self, offset: u64, end: u64) -> Result<Run, ReadError> {
        let run = |to: u64, kind| Run { len: to.clamp(offset + 1, end) - offset, kind };
        if offset >= self.file.size_bytes() {
            return Ok(run(end, RunKind::Zero));
        }
        match self.seek(SeekFrom::Data(offset))? {
            Found::Nothing => {
                self.file.check_not_shrunk()?;
                return Ok(run(end, RunKind::Zero));
            }
            Found::Unsupported => return Ok(run(end, RunKind::Data)),
            Found::At(data) if data > offset => return Ok(run(data, RunKind::Zero)),
            Found::At(_) => {}
        }
        match self.seek(SeekFrom::Hole(offset))? {
            Found::At(hole) => Ok(run(hole, RunKind::Data)),
            Found::Nothing | Found::Unsupported => Ok(run(end, RunKind::Data)),
        }
    }

    /// Moves the file's own position, which nothing here reads from.
    fn seek(&self, to: SeekFrom) -> Result<Found, ReadError> {
        match seek(self.file.as_file(), to) {
            Ok(at) => Ok(Found::At(at)),
            Err(Errno::NXIO) => Ok(Found::Nothing),
            Err(Errno::INVAL | Errno::OPNOTSUPP) => Ok(Found::Unsupported),
            Err(errno) => {
                Err(ReadError::Io { what: "where the image's holes are".to_owned(), source: errno.into() })
            }
        }
    }
}

/// What a search for data or a hole came to.
enum Found {
    At(u64),
    /// There is none up to the end of the file.
    Nothing,
    Unsupported,
}

impl Disk for RawDisk {
    fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), ReadError> {
        check_range(offset, buf.len() as u64, self.size_bytes)?;
        let in_file = self.file.size_bytes().saturating_sub(offset).min(buf.len() as u64);
        let (content, padding) = buf.split_at_mut(in_file as usize);
        self.file.read(offset, content)?;
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
