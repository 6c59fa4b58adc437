//! The file that an image lies in: read by offset from any thread, its length taken once.
//!
//! The file's own position is never relied on. An image is expected to keep still while it is read;
//! where it shrinks, reads fail, and where it changes, they return what is there.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, FileTypeExt};

use super::Refusal;
use crate::ReadError;

#[derive(Debug)]
pub(super) struct ImageFile {
    file: File,
    size_bytes: u64,
}

/// A failed read of the file, which is a [`Refusal`] while opening and a [`ReadError`] later.
#[derive(Debug)]
pub(super) struct ReadFailed {
    offset: u64,
    len: usize,
    source: io::Error,
}

impl ImageFile {
    pub(super) fn new(file: File) -> Result<Self, Refusal> {
        let size_bytes = size_of(&file)?;
        Ok(ImageFile { file, size_bytes })
    }

    pub(super) fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    pub(super) fn as_file(&self) -> &File {
        &self.file
    }

    /// Whether `len` bytes from `offset` on lie in the file.
    pub(super) fn holds(&self, offset: u64, len: u64) -> bool {
        offset.checked_add(len).is_some_and(|end| end <= self.size_bytes)
    }

    /// Tells a hole at the end of the file from an end that has come nearer.
    pub(super) fn check_not_shrunk(&self) -> Result<(), ReadError> {
        let failed = |source| ReadError::Io { what: "the image's size".to_owned(), source };
        let now = self.file.metadata().map_err(failed)?;
        if now.is_file() && now.len() < self.size_bytes {
            return Err(failed(io::Error::new(io::ErrorKind::UnexpectedEof, "the file has become shorter")));
        }
        Ok(())
    }

    /// Fills `buf` with the file's bytes from `offset` on.
    pub(super) fn read(&self, offset: u64, buf: &mut [u8]) -> Result<(), ReadFailed> {
        self.file.read_exact_at(buf, offset).map_err(|source| ReadFailed { offset, len: buf.len(), source })
    }

    /// The file's first bytes: `most` of them, or as many as there are.
    pub(super) fn start(&self, most: usize) -> Result<Vec<u8>, ReadFailed> {
        let len = usize::try_from(self.size_bytes).map_or(most, |size| size.min(most));
        let mut start = vec![0; len];
        self.read(0, &mut start)?;
        Ok(start)
    }
}

/// The length of a regular file or block device, in bytes.
pub(super) fn size_of(file: &File) -> Result<u64, Refusal> {
    let failed = |source| Refusal::Io { what: "the file's size".to_owned(), source };
    let metadata = file.metadata().map_err(failed)?;
    let kind = metadata.file_type();
    if kind.is_file() {
        return Ok(metadata.len());
    }
    if kind.is_block_device() {
        return rustix::fs::seek(file, rustix::fs::SeekFrom::End(0)).map_err(|errno| failed(errno.into()));
    }
    let found = match () {
        () if kind.is_dir() => "a folder",
        () if kind.is_fifo() => "a pipe",
        () if kind.is_socket() => "a socket",
        () => "a character device",
    };
    Err(Refusal::NotAFile { found })
}

impl ReadFailed {
    fn what(&self) -> String {
        format!("{} bytes at byte {} of the image", self.len, self.offset)
    }
}

impl From<ReadFailed> for Refusal {
    fn from(failed: ReadFailed) -> Self {
        Refusal::Io { what: failed.what(), source: failed.source }
    }
}

impl From<ReadFailed> for ReadError {
    fn from(failed: ReadFailed) -> Self {
        ReadError::Io { what: failed.what(), source: failed.source }
    }
}
