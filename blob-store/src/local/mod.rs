//! This machine's appliances: blobs by digest, and the references that lead to them.
//!
//! ```text
//! store/                   for its owner only
//!   blobs/sha256/<hex>     content, read-only; whole and named by what it holds
//!   partial/<hex>.part     content that is still arriving; named by what it will be, survives a crash
//!   tmp/                   content whose digest is not known yet; swept when nobody holds the store
//!   refs/<reference>       the digest of the index that the reference names, a space, the reference;
//!                          as a file name `/` is `%2F`, and a long one is `%` and its sha256
//!   pins/<name>            digest of a manifest that something outside the references still uses
//!   lock                   held shared by whoever adds or uses content, exclusively by the sweep
//! ```
//!
//! A blob appears under its digest by rename, after its bytes were checked, in place of an older file of
//! that name: the same content, unless that file was damaged. So packing or fetching a blob again repairs
//! it. Nothing looks for damage: a small blob is checked whenever it is read, a pack only piece by piece
//! as its pieces are used, and [`LocalStore::contains`] asks for no more than the file.
//!
//! Reading a blob through [`BlobFile`] is by `pread`, so any number of threads may share it.

mod error;
mod names;
mod partial;
mod sweep;
mod writer;

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use appliance::{Algorithm, Blob, Digest, Hasher};
use rustix::fs::FlockOperation;

use error::Context as _;
pub use error::LocalStoreError;
pub use names::Tagged;
pub use partial::PartialBlob;
pub use sweep::{Root, SweepError};
pub use writer::BlobWriter;

/// The local store. Cheap to open; several processes may have it open at once.
#[derive(Debug, Clone)]
pub struct LocalStore {
    root: PathBuf,
}

/// A blob of the store, open for reading at any offset.
#[derive(Debug)]
pub struct BlobFile {
    file: File,
    size_bytes: u64,
}

/// Keeps the sweep away from the store while it is held. See [`LocalStore::hold`].
#[derive(Debug)]
pub struct Hold {
    _lock: File,
}

impl LocalStore {
    /// Opens the store at `root`, making it, and the folders that it is in, if they are not there.
    ///
    /// Nobody but the owner can enter it, so that nobody else reads what an appliance holds, or stops the
    /// owner by holding the lock. A store that others could enter is closed to them.
    ///
    /// # Errors
    ///
    /// [`LocalStoreError::Io`] where a folder cannot be made or closed to others.
    pub fn open(root: impl Into<PathBuf>) -> Result<Self, LocalStoreError> {
        let store = Self { root: root.into() };
        make_private(&store.root)?;
        for folder in ["blobs/sha256", "blobs/sha512", "partial", "tmp", "refs", "pins"] {
            make_folders(&store.root.join(folder))?;
        }
        // What a killed process left in `tmp` goes as soon as nobody can be writing there.
        if let Ok(_alone) = store.lock(FlockOperation::NonBlockingLockExclusive) {
            store.files("tmp")?.iter().try_for_each(|path| fs::remove_file(path).during("remove", path))?;
        }
        Ok(store)
    }

    /// Where the store is.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Keeps content that no reference names yet from being swept, until the result is dropped.
    /// Whoever packs, pulls or starts a VM holds the store meanwhile.
    ///
    /// # Errors
    ///
    /// [`LocalStoreError::Io`].
    pub fn hold(&self) -> Result<Hold, LocalStoreError> {
        self.lock(FlockOperation::LockShared)
    }

    fn lock(&self, operation: FlockOperation) -> Result<Hold, LocalStoreError> {
        let path = self.root.join("lock");
        let file =
            OpenOptions::new().create(true).append(true).mode(0o600).open(&path).during("open", &path)?;
        rustix::fs::flock(&file, operation).map_err(io::Error::from).during("lock", &path)?;
        Ok(Hold { _lock: file })
    }

    /// Path of a blob's file. For tools that must be given a path; others use [`LocalStore::blob`].
    pub fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.root.join("blobs").join(digest.algorithm().as_str()).join(digest.hex())
    }

    /// True if the whole blob is here.
    pub fn contains(&self, digest: &Digest) -> bool {
        self.blob_path(digest).exists()
    }

    /// Opens a blob for reading.
    ///
    /// # Errors
    ///
    /// [`LocalStoreError::Missing`] or [`LocalStoreError::Io`].
    pub fn blob(&self, digest: &Digest) -> Result<BlobFile, LocalStoreError> {
        let path = self.blob_path(digest);
        let file = match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(LocalStoreError::Missing { digest: *digest });
            }
            opened => opened.during("open", &path)?,
        };
        let size_bytes = file.metadata().during("examine", &path)?.len();
        Ok(BlobFile { file, size_bytes })
    }

    /// Reads a small blob whole, and checks it against its digest.
    ///
    /// # Errors
    ///
    /// [`LocalStoreError::TooLarge`] past `limit` bytes, [`LocalStoreError::WrongDigest`] where the
    /// file was damaged, [`LocalStoreError::Missing`], [`LocalStoreError::Io`].
    pub fn read(&self, digest: &Digest, limit: u64) -> Result<Vec<u8>, LocalStoreError> {
        let blob = self.blob(digest)?;
        if blob.size_bytes > limit {
            return Err(LocalStoreError::TooLarge { digest: *digest, found: blob.size_bytes, limit });
        }
        let mut bytes = vec![0; usize::try_from(blob.size_bytes).expect("a limit fits in memory")];
        blob.read_at(0, &mut bytes).during("read", &self.blob_path(digest))?;
        check(digest, &hash(digest.algorithm(), &bytes), blob.size_bytes)?;
        Ok(bytes)
    }

    fn files(&self, folder: &str) -> Result<Vec<PathBuf>, LocalStoreError> {
        let folder = self.root.join(folder);
        let entries = fs::read_dir(&folder).during("list", &folder)?;
        entries.map(|entry| Ok(entry.during("list", &folder)?.path())).collect()
    }

    /// Gives the complete file `from` the name of its content. The content is durable then; that it has
    /// this name is once something is published that may lead to it, which flushes all such names at once.
    fn adopt(&self, file: &File, from: &Path, blob: Blob) -> Result<(), LocalStoreError> {
        let to = self.blob_path(&blob.digest);
        file.set_permissions(Permissions::from_mode(0o444)).during("protect", from)?;
        file.sync_all().during("flush", from)?;
        fs::rename(from, &to).during("publish", &to)
    }
}

fn make_folders(path: &Path) -> Result<(), LocalStoreError> {
    DirBuilder::new().recursive(true).mode(0o700).create(path).during("make the folder", path)
}

fn make_private(path: &Path) -> Result<(), LocalStoreError> {
    make_folders(path)?;
    let mode = fs::metadata(path).during("examine", path)?.permissions().mode();
    if mode & 0o077 == 0 {
        return Ok(());
    }
    fs::set_permissions(path, Permissions::from_mode(0o700)).during("close to others", path)
}

fn sync_folder(path: &Path) -> Result<(), LocalStoreError> {
    File::open(path).and_then(|folder| folder.sync_all()).during("flush", path)
}

fn hash(algorithm: Algorithm, bytes: &[u8]) -> Digest {
    let mut hasher = Hasher::new(algorithm);
    hasher.update(bytes);
    hasher.finish()
}

fn check(wanted: &Digest, found: &Digest, found_bytes: u64) -> Result<(), LocalStoreError> {
    if wanted == found {
        Ok(())
    } else {
        Err(LocalStoreError::WrongDigest { found: *found, found_bytes, wanted: *wanted })
    }
}

impl BlobFile {
    /// Size of the blob in bytes.
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// Fills `buf` from `offset` on. The bytes are not checked here: whoever asks for a part of a blob
    /// has a digest of that part.
    ///
    /// # Errors
    ///
    /// What the file system says; past the end, [`io::ErrorKind::UnexpectedEof`].
    pub fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(buf, offset)
    }

    /// The file, read-only, for `sendfile` and the like.
    pub fn file(&self) -> &File {
        &self.file
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn store() -> (tempfile::TempDir, LocalStore) {
        let folder = tempfile::tempdir().unwrap();
        let store = LocalStore::open(folder.path().join("store")).unwrap();
        (folder, store)
    }

    pub(super) fn blob(content: &[u8]) -> Blob {
        Blob { digest: Digest::sha256(content), size_bytes: content.len() as u64 }
    }

    #[test]
    fn damage_is_found_when_a_blob_is_read() {
        let (_folder, store) = store();
        let put = store.put(b"content").unwrap();
        let path = store.blob_path(&put.digest);
        fs::remove_file(&path).unwrap();
        fs::write(&path, b"CONTENT").unwrap();
        assert!(matches!(store.read(&put.digest, 99), Err(LocalStoreError::WrongDigest { .. })));
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn nobody_but_the_owner_can_enter_the_store() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("share/hull/store");
        let store = LocalStore::open(&root).unwrap();
        for made in ["", "..", "../..", "blobs", "blobs/sha256", "partial", "tmp", "refs", "pins"] {
            assert_eq!(mode(&root.join(made)), 0o700, "{made}");
        }
        let _hold = store.hold().unwrap();
        assert_eq!(mode(&root.join("lock")), 0o600);
    }

    #[test]
    fn a_store_that_others_can_enter_is_closed_to_them() {
        let folder = tempfile::tempdir().unwrap();
        for open in [0o755, 0o711, 0o770] {
            fs::set_permissions(folder.path(), Permissions::from_mode(open)).unwrap();
            LocalStore::open(folder.path()).unwrap();
            assert_eq!(mode(folder.path()), 0o700);
        }
    }
}
