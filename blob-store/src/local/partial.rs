//! Content that arrives from elsewhere under a known digest, perhaps in several attempts.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use appliance::{Blob, Hasher};
use rustix::fs::FlockOperation;

use super::error::Context as _;
use super::{LocalStore, LocalStoreError, check};
use crate::write_back;

/// Content that arrives from elsewhere under a known digest. Dropped without
/// [`PartialBlob::commit`], what has arrived stays for the next attempt.
#[derive(Debug)]
pub struct PartialBlob {
    store: LocalStore,
    blob: Blob,
    path: PathBuf,
    file: File,
    hasher: Hasher,
    len: u64,
    /// How much of it is on its way to the disk.
    flushed: u64,
}

impl LocalStore {
    /// Starts, or goes on with, a blob that arrives from elsewhere.
    ///
    /// What an earlier attempt left is read once, to hash it; [`PartialBlob::len`] says where to go on.
    /// Another process that fetches the same blob is waited for.
    ///
    /// # Errors
    ///
    /// [`LocalStoreError::Io`].
    pub fn partial(&self, blob: Blob) -> Result<PartialBlob, LocalStoreError> {
        let path = self.root.join("partial").join(format!("{}.part", blob.digest.hex()));
        loop {
            let file = OpenOptions::new()
                .read(true)
                .append(true)
                .create(true)
                .mode(0o600)
                .open(&path)
                .during("create", &path)?;
            rustix::fs::flock(&file, FlockOperation::LockExclusive)
                .map_err(io::Error::from)
                .during("lock", &path)?;
            // Whoever held the lock may have renamed the file away; then this is not the file to fill.
            if is_at(&file, &path) {
                return PartialBlob::resume(self.clone(), blob, path, file);
            }
        }
    }
}

impl PartialBlob {
    fn resume(store: LocalStore, blob: Blob, path: PathBuf, mut file: File) -> Result<Self, LocalStoreError> {
        let mut hasher = Hasher::new(blob.digest.algorithm());
        let mut len = 0;
        let mut piece = vec![0; 1 << 20];
        loop {
            let read = file.read(&mut piece).during("read", &path)?;
            if read == 0 {
                break;
            }
            hasher.update(&piece[..read]);
            len += read as u64;
        }
        let mut partial = Self { store, blob, path, file, hasher, len, flushed: len };
        if len > blob.size_bytes {
            partial.restart()?;
        }
        Ok(partial)
    }

    /// How much has arrived: the offset at which to go on.
    #[expect(clippy::len_without_is_empty, reason = "an offset, not a collection")]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Forgets what has arrived, for a peer that cannot go on in the middle.
    ///
    /// # Errors
    ///
    /// [`LocalStoreError::Io`].
    pub fn restart(&mut self) -> Result<(), LocalStoreError> {
        self.file.set_len(0).during("empty", &self.path)?;
        self.hasher = Hasher::new(self.blob.digest.algorithm());
        self.len = 0;
        self.flushed = 0;
        Ok(())
    }

    /// Takes the next piece.
    ///
    /// # Errors
    ///
    /// [`LocalStoreError::WrongDigest`] when more arrives than the blob has (what arrived is then
    /// forgotten), [`LocalStoreError::Io`] (what had arrived before stays).
    pub fn append(&mut self, piece: &[u8]) -> Result<(), LocalStoreError> {
        let len = self.len + piece.len() as u64;
        if len > self.blob.size_bytes {
            self.hasher.update(piece);
            let found = std::mem::take(&mut self.hasher).finish();
            self.restart()?;
            return check(&self.blob.digest, &found, len);
        }
        self.file.write_all(piece).during("write", &self.path)?;
        self.hasher.update(piece);
        self.len = len;
        self.flushed = write_back::begin(&self.file, self.flushed, len);
        Ok(())
    }

    /// Ends the blob: checks it, flushes it and gives it its name.
    ///
    /// # Errors
    ///
    /// [`LocalStoreError::WrongDigest`] where the content is not what was promised; what arrived is
    /// then forgotten, so that the next attempt starts anew. [`LocalStoreError::Io`].
    pub fn commit(mut self) -> Result<(), LocalStoreError> {
        let found = std::mem::take(&mut self.hasher).finish();
        if let Err(error) = check(&self.blob.digest, &found, self.len) {
            self.restart()?;
            return Err(error);
        }
        self.store.adopt(&self.file, &self.path, self.blob)
    }
}

impl Drop for PartialBlob {
    fn drop(&mut self) {
        // Nothing to go on with, say because another process finished while this one waited. The lock is
        // still held, so nobody else fills this file.
        if self.len == 0 && is_at(&self.file, &self.path) {
            // Best effort: the sweep removes what stays.
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn is_at(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    match (file.metadata(), fs::metadata(path)) {
        (Ok(ours), Ok(there)) => (ours.dev(), ours.ino()) == (there.dev(), there.ino()),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{blob, store};
    use super::*;

    #[test]
    fn a_cut_download_goes_on_where_it_stopped() {
        let (_folder, store) = store();
        let whole = blob(b"first second");
        let mut partial = store.partial(whole).unwrap();
        partial.append(b"first ").unwrap();
        drop(partial);
        assert!(!store.contains(&whole.digest));
        let mut partial = store.partial(whole).unwrap();
        assert_eq!(partial.len(), 6);
        partial.append(b"second").unwrap();
        partial.commit().unwrap();
        assert_eq!(store.read(&whole.digest, 99).unwrap(), b"first second");
    }

    #[test]
    fn wrong_content_is_forgotten_so_that_the_next_attempt_starts_anew() {
        let (_folder, store) = store();
        let whole = blob(b"right");
        for wrong in [b"wrong".as_slice(), b"right and more"] {
            let mut partial = store.partial(whole).unwrap();
            let appended = partial.append(wrong);
            let error = appended.and_then(|()| partial.commit()).unwrap_err();
            assert!(matches!(error, LocalStoreError::WrongDigest { .. }), "{error}");
            assert_eq!(store.partial(whole).unwrap().len(), 0);
        }
        assert!(!store.contains(&whole.digest));
    }

    #[test]
    fn an_attempt_to_which_nothing_came_leaves_nothing() {
        let (_folder, store) = store();
        let whole = blob(b"whole");
        drop(store.partial(whole).unwrap());
        assert_eq!(store.files("partial").unwrap(), [] as [PathBuf; 0]);
        let mut partial = store.partial(whole).unwrap();
        partial.append(b"wh").unwrap();
        partial.restart().unwrap();
        drop(partial);
        assert_eq!(store.files("partial").unwrap(), [] as [PathBuf; 0]);
    }

    #[test]
    fn who_waited_for_another_download_fills_a_file_of_its_own() {
        let (_folder, store) = store();
        for content in [b"whole".as_slice(), b""] {
            let whole = blob(content);
            let mut first = store.partial(whole).unwrap();
            std::thread::scope(|scope| {
                let second = scope.spawn(|| drop(store.partial(whole).unwrap()));
                first.append(content).unwrap();
                first.commit().unwrap();
                second.join().unwrap();
            });
            assert_eq!(store.read(&whole.digest, 99).unwrap(), content);
            assert_eq!(store.files("partial").unwrap(), [] as [PathBuf; 0]);
        }
    }

    #[test]
    fn a_download_replaces_a_file_that_was_damaged() {
        let (_folder, store) = store();
        let whole = blob(b"whole");
        std::fs::write(store.blob_path(&whole.digest), b"hole").unwrap();
        let mut partial = store.partial(whole).unwrap();
        partial.append(b"whole").unwrap();
        partial.commit().unwrap();
        assert_eq!(store.read(&whole.digest, 99).unwrap(), b"whole");
    }
}
