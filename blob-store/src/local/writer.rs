//! Content that is being written and whose digest is not known yet.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use appliance::{Blob, Hasher};

use super::error::Context as _;
use super::{Hold, LocalStore, LocalStoreError};

/// Content that is being written and whose digest is not known yet. Dropped without
/// [`BlobWriter::commit`], it is gone.
#[derive(Debug)]
pub struct BlobWriter {
    store: LocalStore,
    _hold: Hold,
    pub(super) path: PathBuf,
    pub(super) file: File,
    hasher: Hasher,
    size_bytes: u64,
    pub(super) committed: bool,
}

/// Makes names in `tmp` differ within one process.
static NEXT_TEMPORARY: AtomicU64 = AtomicU64::new(0);

impl LocalStore {
    /// Adds `content` and returns what it is called.
    ///
    /// # Errors
    ///
    /// [`LocalStoreError::Io`]; the store is then unchanged.
    pub fn put(&self, content: &[u8]) -> Result<Blob, LocalStoreError> {
        let mut writer = self.writer()?;
        let path = writer.path.clone();
        writer.write_all(content).during("write", &path)?;
        writer.commit()
    }

    /// Starts a blob whose digest will be known when it is complete.
    ///
    /// # Errors
    ///
    /// [`LocalStoreError::Io`].
    pub fn writer(&self) -> Result<BlobWriter, LocalStoreError> {
        let hold = self.hold()?;
        let number = NEXT_TEMPORARY.fetch_add(1, Ordering::Relaxed);
        let path = self.root.join("tmp").join(format!("{}-{number}", std::process::id()));
        let file =
            OpenOptions::new().write(true).create(true).truncate(true).open(&path).during("create", &path)?;
        let hasher = Hasher::default();
        Ok(BlobWriter {
            store: self.clone(),
            _hold: hold,
            path,
            file,
            hasher,
            size_bytes: 0,
            committed: false,
        })
    }
}

impl BlobWriter {
    /// Ends the blob: flushes it and gives it its name. Content that the store had already is kept once,
    /// as it was written last.
    ///
    /// # Errors
    ///
    /// [`LocalStoreError::Io`]; nothing of it is then left.
    pub fn commit(mut self) -> Result<Blob, LocalStoreError> {
        let digest = std::mem::take(&mut self.hasher).finish();
        let blob = Blob { digest, size_bytes: self.size_bytes };
        // Also where there is a file of that name: it may be damaged, and to find out is to read it.
        self.store.adopt(&self.file, &self.path, blob)?;
        self.committed = true;
        Ok(blob)
    }
}

impl Write for BlobWriter {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let written = self.file.write(buf)?;
        self.hasher.update(&buf[..written]);
        self.size_bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Drop for BlobWriter {
    fn drop(&mut self) {
        if !self.committed {
            // Best effort: the sweep removes what stays.
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{blob, store};
    use super::*;

    #[test]
    fn what_is_put_is_read_back_under_its_digest() {
        let (_folder, store) = store();
        let put = store.put(b"content").unwrap();
        assert_eq!(put, blob(b"content"));
        assert_eq!(store.put(b"content").unwrap(), put);
        assert_eq!(store.read(&put.digest, 7).unwrap(), b"content");
        let error = store.read(&put.digest, 6).unwrap_err().to_string();
        assert!(error.ends_with("has 7 bytes; at most 6 are read here"), "{error}");
        assert_eq!(store.files("tmp").unwrap(), [] as [PathBuf; 0]);
    }

    #[test]
    fn what_a_killed_process_left_is_gone_at_the_next_opening() {
        let (_folder, store) = store();
        let left = store.root().join("tmp/1-1");
        fs::write(&left, b"left").unwrap();
        let mut writer = store.writer().unwrap();
        writer.write_all(b"unfinished").unwrap();
        LocalStore::open(store.root()).unwrap();
        assert!(writer.path.exists() && left.exists(), "a writer that lives keeps the store as it is");
        drop(writer);
        LocalStore::open(store.root()).unwrap();
        assert!(!left.exists());
    }

    #[test]
    fn what_is_put_again_replaces_what_was_damaged() {
        let (_folder, store) = store();
        let put = store.put(b"content").unwrap();
        let path = store.blob_path(&put.digest);
        for damaged in [b"CONTENT".as_slice(), b"cont", b"", b"content and more"] {
            fs::remove_file(&path).unwrap();
            fs::write(&path, damaged).unwrap();
            assert_eq!(store.put(b"content").unwrap(), put);
            assert_eq!(store.read(&put.digest, 99).unwrap(), b"content");
        }
    }
}
