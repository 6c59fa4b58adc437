//! The bytes of a file that is made by hand, and broken by hand.

use std::fs::File;
use std::io::{self, Write as _};
use std::path::Path;

/// A file's content; what lies after it up to `len` is a hole.
#[derive(Debug, Clone, Default)]
pub(crate) struct Bytes {
    content: Vec<u8>,
    len: u64, // Invariant: at least `content.len()`.
}

impl Bytes {
    pub(crate) fn new(content: impl Into<Vec<u8>>) -> Self {
        let content = content.into();
        Self { len: content.len() as u64, content }
    }

    pub(crate) fn zeros(len: usize) -> Self {
        Self::new(vec![0; len])
    }

    /// Overwrites what is at `at`; the file grows where that is past its end.
    pub(crate) fn put(&mut self, at: usize, bytes: &[u8]) {
        let end = at + bytes.len();
        if self.content.len() < end {
            self.content.resize(end, 0);
        }
        self.content[at..end].copy_from_slice(bytes);
        self.len = self.len.max(end as u64);
    }

    pub(crate) fn be16(&mut self, at: usize, value: u16) {
        self.put(at, &value.to_be_bytes());
    }

    pub(crate) fn be32(&mut self, at: usize, value: u32) {
        self.put(at, &value.to_be_bytes());
    }

    pub(crate) fn be64(&mut self, at: usize, value: u64) {
        self.put(at, &value.to_be_bytes());
    }

    pub(crate) fn le16(&mut self, at: usize, value: u16) {
        self.put(at, &value.to_le_bytes());
    }

    pub(crate) fn le32(&mut self, at: usize, value: u32) {
        self.put(at, &value.to_le_bytes());
    }

    pub(crate) fn le64(&mut self, at: usize, value: u64) {
        self.put(at, &value.to_le_bytes());
    }

    pub(crate) fn get(&self, at: usize, len: usize) -> &[u8] {
        &self.content[at..at + len]
    }

    pub(crate) fn content(&self) -> &[u8] {
        &self.content
    }

    /// Ends the file at `len`.
    pub(crate) fn cut(&mut self, len: usize) {
        self.content.truncate(len);
        self.len = self.content.len() as u64;
    }

    /// Lets the file go on with a hole up to `len`.
    pub(crate) fn extend(&mut self, len: u64) {
        self.len = self.len.max(len);
    }

    pub(crate) fn write(&self, path: &Path) -> io::Result<()> {
        let mut file = File::create(path)?;
        file.write_all(&self.content)?;
        file.set_len(self.len)
    }
}
