//! The file that an image is written to, by offset.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::ImageWriteError;
use crate::image::Format;

/// A regular file that was empty when it was handed in, so that whatever is not written reads as zeros.
#[derive(Debug)]
pub(in crate::image) struct Output {
    file: File,
    format: Format,
}

impl Output {
    /// Takes the file after a look at what it is.
    pub(in crate::image) fn new(file: File, format: Format) -> Result<Self, ImageWriteError> {
        let failed = |source| ImageWriteError::Write { format, what: "anything", offset: 0, source };
        let metadata = file.metadata().map_err(failed)?;
        if !metadata.is_file() {
            return Err(ImageWriteError::NotFresh { found: "no regular file".to_owned() });
        }
        if metadata.len() > 0 {
            return Err(ImageWriteError::NotFresh { found: format!("a file of {} bytes", metadata.len()) });
        }
        Ok(Output { file, format })
    }

    /// Writes `bytes` at `offset`; an error calls them `what`.
    pub(in crate::image) fn write_at(
        &self,
        offset: u64,
        bytes: &[u8],
        what: &'static str,
    ) -> Result<(), ImageWriteError> {
        self.file.write_all_at(bytes, offset).map_err(|source| self.failed(what, offset, source))
    }

    /// Makes the file `len` bytes long, the new ones zeros that take no space.
    pub(in crate::image) fn extend_to(&self, len: u64) -> Result<(), ImageWriteError> {
        self.file.set_len(len).map_err(|source| self.failed("the file's length", len, source))
    }

    /// The file as something that is written front to back.
    pub(in crate::image) fn stream(&self) -> impl io::Write {
        FrontToBack { file: &self.file, at: 0 }
    }

    fn failed(&self, what: &'static str, offset: u64, source: io::Error) -> ImageWriteError {
        ImageWriteError::Write { format: self.format, what, offset, source }
    }
}

/// Puts a field where it belongs in a structure that is to be written.
pub(in crate::image) fn put(structure: &mut [u8], at: usize, field: &[u8]) {
    structure[at..at + field.len()].copy_from_slice(field);
}

struct FrontToBack<'a> {
    file: &'a File,
    at: u64,
}

impl io::Write for FrontToBack<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write_at(bytes, self.at)?;
        self.at += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
