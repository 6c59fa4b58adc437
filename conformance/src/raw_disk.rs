//! A raw disk that an appliance's disk must be equal to.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use crate::report::Report;
use crate::rules::Rule;

/// How much is compared at once.
const PIECE_BYTES: usize = 1 << 20;
static ZEROS: [u8; PIECE_BYTES] = [0; PIECE_BYTES];
/// Disk formats other than raw, and guests, count in sectors: a raw file goes on with zeros to a whole one.
const SECTOR_BYTES: u64 = 512;

/// A raw image on this machine, and the name of the disk that must be equal to it.
#[derive(Debug, Clone)]
pub struct RawDisk {
    /// The disk's name in the appliance.
    pub name: String,
    /// The image.
    pub path: PathBuf,
}

/// An open raw image.
#[derive(Debug)]
pub(crate) struct RawImage {
    file: File,
    file_bytes: u64,
}

impl RawImage {
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let file_bytes = file.metadata()?.len();
        Ok(Self { file, file_bytes })
    }

    /// Checks that a disk of `disk_bytes` can be this image; otherwise there is nothing to compare.
    pub(crate) fn check_size(&self, disk_bytes: u64, what: &str, report: &mut Report) -> bool {
        let file_bytes = self.file_bytes;
        let right =
            disk_bytes == file_bytes || Some(disk_bytes) == file_bytes.checked_next_multiple_of(SECTOR_BYTES);
        report.check(Rule::RawSize, right, || {
            format!("{what} has {disk_bytes} bytes, the raw disk {file_bytes}")
        })
    }

    /// Checks that the image has `content` at `offset`. What lies past its end is zeros.
    pub(crate) fn check_content(&self, offset: u64, content: &[u8], what: &str, report: &mut Report) {
        let mut found = vec![0; content.len()];
        let result = self.read(offset, &mut found).map(|()| {
            content.iter().zip(&found).position(|(disk, raw)| disk != raw).map(|at| offset + at as u64)
        });
        report.check(Rule::RawContent, matches!(result, Ok(None)), || match result {
            Ok(at) => format!("{what} differs from the raw disk at byte {}", at.unwrap_or(offset)),
            Err(error) => format!("the raw disk cannot be read: {error}"),
        });
    }

    /// Checks that the image has zeros from `from` up to `to`.
    pub(crate) fn check_zeros(&self, from: u64, to: u64, what: &str, report: &mut Report) {
        let mut offset = from;
        while offset < to.min(self.file_bytes) {
            let length = (to - offset).min(PIECE_BYTES as u64) as usize;
            self.check_content(offset, &ZEROS[..length], what, report);
            offset += length as u64;
        }
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let there = self.file_bytes.saturating_sub(offset).min(buffer.len() as u64) as usize;
        self.file.read_exact_at(&mut buffer[..there], offset)
    }
}
