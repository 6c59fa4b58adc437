//! This machine's appliances: blobs by digest, and the references that lead to them.
//!
//! ```text
//! store/
//!   blobs/sha256/<hex>     content, read-only; whole and named by what it holds
//!   partial/<hex>.part     content that is still arriving; named by what it will be, survives a crash
//!   tmp/                   content whose digest is not known yet; swept when nobody holds the store
//!   refs/<reference>       digest of the index that the reference names; `/` written as `%2F`
//!   pins/<name>            digest of a manifest that something outside the references still uses
//!   lock                   held shared by whoever adds or uses content, exclusively by the sweep
//! ```
//!
//! A blob appears under its digest by rename, after its bytes were checked. Nothing is overwritten.
//! Reading a blob through [`BlobFile`] is by `pread`, so any number of threads may share it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use rustix::fs::FlockOperation;

use appliance::{Algorithm, Blob, Digest, Hasher, Reference};

/// The local store. Cheap to open; several processes may have it open at once.
#[derive(Debug, Clone)]
pub struct LocalStore {
    root: PathBuf,
}

/// A reference in the local store, and the digest of the index that it names.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tagged {
    /// The name.
    pub reference: Reference,
    /// What it names.
    pub digest: Digest,
    /// Since when it names that.
    pub since: SystemTime,
}

/// Why the local store could not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LocalStoreError {
    /// The blob is not in the store.
    #[error("{digest} is not in the local store")]
    Missing {
        /// The blob.
        digest: Digest,
    },
    /// Nothing in the store has this name.
    #[error("no appliance `{reference}` in the local store")]
    UnknownReference {
        /// The name.
        reference: Reference,
    },
    /// The content is not what its name promises.
    #[error("the content has digest {found} and {found_bytes} bytes; {wanted} was promised")]
    WrongDigest {
        /// The digest of what was found.
        found: Digest,
        /// Its size.
        found_bytes: u64,
        /// The digest that was promised.
        wanted: Digest,
    },
    /// A blob that is read whole is larger than its reader accepts.
    #[error("{digest} has {found} bytes; at most {limit} are read here")]
    TooLarge {
        /// The blob.
        digest: Digest,
        /// Its size in bytes.
        found: u64,
        /// The most that the caller accepts.
        limit: u64,
    },
    /// The file system failed.
    #[error("cannot {action} `{}`", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// With what.
        path: PathBuf,
        /// The reason.
        #[source]
        source: io::Error,
    },
}

/// Adds what was tried, and with what, to an [`io::Error`].
trait Context<T> {
    fn during(self, action: &'static str, path: &Path) -> Result<T, LocalStoreError>;
}

impl<T> Context<T> for io::Result<T> {
    fn during(self, action: &'static str, path: &Path) -> Result<T, LocalStoreError> {
        self.map_err(|source| LocalStoreError::Io { action, path: path.to_owned(), source })
    }
}

/// A blob of the store, open for reading at any offset.
#[derive(Debug)]
pub struct BlobFile {
    file: File,
    size_bytes: u64,
}

/// Content that is being written and whose digest is not known yet. Dropped without
/// [`BlobWriter::commit`], it is gone.
#[derive(Debug)]
pub struct BlobWriter {
    store: LocalStore,
    _hold: Hold,
    path: PathBuf,
    file: File,
    hasher: Hasher,
    size_bytes: u64,
    committed: bool,
}

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
}

/// Keeps the sweep away from the store while it is held. See [`LocalStore::hold`].
#[derive(Debug)]
pub struct Hold {
    _lock: File,
}

/// Makes names in `tmp` differ within one process.
static NEXT_TEMPORARY: AtomicU64 = AtomicU64::new(0);

impl LocalStore {
    /// Opens the store at `root`, making it if it is not there.
    ///
    /// # Errors
    ///
    /// [`LocalStoreError::Io`] where a folder cannot be made.
    pub fn open(root: impl Into<PathBuf>) -> Result<Self, LocalStoreError> {
        let store = Self { root: root.into() };
        for folder in ["blobs/sha256", "blobs/sha512", "partial", "tmp", "refs", "pins"] {
            let path = store.root.join(folder);
            fs::create_dir_all(&path).during("make the folder", &path)?;
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
        let file = OpenOptions::new().create(true).append(true).open(&path).during("open", &path)?;
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

    /// What a reference names.
    ///
    /// # Errors
    ///
    /// [`LocalStoreError::UnknownReference`] or [`LocalStoreError::Io`].
    pub fn resolve(&self, reference: &Reference) -> Result<Digest, LocalStoreError> {
        if let appliance::Version::Digest(digest) = reference.version() {
            return match self.contains(digest) {
                true => Ok(*digest),
                false => Err(LocalStoreError::UnknownReference { reference: reference.clone() }),
            };
        }
        let path = self.reference_path(reference);
        match fs::read_to_string(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(LocalStoreError::UnknownReference { reference: reference.clone() })
            }
            text => parse_digest(&text.during("read", &path)?).during("understand", &path),
        }
    }

    /// Lets `reference` name `digest` from now on, whatever it named before.
    ///
    /// # Errors
    ///
    /// [`LocalStoreError::Io`]; the reference then names what it named before.
    pub fn tag(&self, reference: &Reference, digest: &Digest) -> Result<(), LocalStoreError> {
        self.publish(&self.reference_path(reference), digest)
    }

    /// Forgets a reference. What it named stays until the next [`LocalStore::sweep`].
    ///
    /// # Errors
    ///
    /// [`LocalStoreError::UnknownReference`] or [`LocalStoreError::Io`].
    pub fn untag(&self, reference: &Reference) -> Result<(), LocalStoreError> {
        let path = self.reference_path(reference);
        match fs::remove_file(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(LocalStoreError::UnknownReference { reference: reference.clone() })
            }
            removed => removed.during("remove", &path),
        }
    }

    /// All references, in order of their names.
    ///
    /// # Errors
    ///
    /// [`LocalStoreError::Io`].
    pub fn references(&self) -> Result<Vec<Tagged>, LocalStoreError> {
        let mut found: Vec<Tagged> = self
            .named("refs")?
            .into_iter()
            // A file that somebody else put here names nothing.
            .filter_map(|(name, digest)| {
                let since = fs::metadata(self.root.join("refs").join(&name)).ok()?.modified().ok()?;
                Some(Tagged { reference: name.replace("%2F", "/").parse().ok()?, digest, since })
            })
            .collect();
        found.sort();
        Ok(found)
    }

    /// Keeps `digest`, and what its reader says it leads to, from being swept, under a name that is
    /// the caller's own.
    ///
    /// # Errors
    ///
    /// [`LocalStoreError::Io`].
    pub fn pin(&self, name: &str, digest: &Digest) -> Result<(), LocalStoreError> {
        self.publish(&self.root.join("pins").join(name), digest)
    }

    /// Takes a pin back. One that is not there is none.
    ///
    /// # Errors
    ///
    /// [`LocalStoreError::Io`].
    pub fn unpin(&self, name: &str) -> Result<(), LocalStoreError> {
        let path = self.root.join("pins").join(name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed.during("remove", &path),
        }
    }

    /// Removes every blob that no reference and no pin leads to, and returns how many bytes that were.
    ///
    /// `leads_to` says which digests a root (the digest of an index or a manifest) needs, itself
    /// included; the store cannot know. Waits until nobody holds the store.
    ///
    /// # Errors
    ///
    /// [`LocalStoreError::Io`]; blobs that are needed are never removed.
    pub fn sweep(&self, leads_to: impl Fn(&Digest) -> Vec<Digest>) -> Result<u64, LocalStoreError> {
        let _lock = self.lock(FlockOperation::LockExclusive)?;
        let roots = self.named("refs")?.into_iter().chain(self.named("pins")?).map(|(_, digest)| digest);
        let needed: std::collections::HashSet<PathBuf> =
            roots.flat_map(|root| leads_to(&root)).map(|digest| self.blob_path(&digest)).collect();
        let mut freed = 0;
        for folder in ["blobs/sha256", "blobs/sha512", "tmp"] {
            for path in self.files(folder)? {
                if !needed.contains(&path) {
                    freed += fs::metadata(&path).during("examine", &path)?.len();
                    fs::remove_file(&path).during("remove", &path)?;
                }
            }
        }
        Ok(freed)
    }

    fn files(&self, folder: &str) -> Result<Vec<PathBuf>, LocalStoreError> {
        let folder = self.root.join(folder);
        let entries = fs::read_dir(&folder).during("list", &folder)?;
        entries.map(|entry| Ok(entry.during("list", &folder)?.path())).collect()
    }

    /// The names in `folder` with the digests that they hold.
    fn named(&self, folder: &str) -> Result<Vec<(String, Digest)>, LocalStoreError> {
        let mut found = Vec::new();
        for path in self.files(folder)? {
            let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
            // Another process may remove it meanwhile.
            let Ok(text) = fs::read_to_string(&path) else { continue };
            if let Ok(digest) = parse_digest(&text) {
                found.push((name.to_owned(), digest));
            }
        }
        Ok(found)
    }

    fn reference_path(&self, reference: &Reference) -> PathBuf {
        self.root.join("refs").join(reference.to_string().replace('/', "%2F"))
    }

    /// Lets the file `path` hold `digest`, at once and durably.
    fn publish(&self, path: &Path, digest: &Digest) -> Result<(), LocalStoreError> {
        let mut writer = self.writer()?;
        writeln!(writer, "{digest}").during("write", &writer.path.clone())?;
        writer.file.sync_all().during("flush", &writer.path)?;
        fs::rename(&writer.path, path).during("publish", path)?;
        writer.committed = true;
        sync_folder(path.parent().expect("a name lies in a folder"))
    }

    /// Gives the complete file `from` the name of its content, durably.
    fn adopt(&self, file: &File, from: &Path, blob: Blob) -> Result<(), LocalStoreError> {
        use std::os::unix::fs::PermissionsExt as _;
        let to = self.blob_path(&blob.digest);
        file.set_permissions(fs::Permissions::from_mode(0o444)).during("protect", from)?;
        file.sync_all().during("flush", from)?;
        fs::rename(from, &to).during("publish", &to)?;
        sync_folder(to.parent().expect("a blob lies in a folder"))
    }
}

fn is_at(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    match (file.metadata(), fs::metadata(path)) {
        (Ok(ours), Ok(there)) => (ours.dev(), ours.ino()) == (there.dev(), there.ino()),
        _ => false,
    }
}

fn sync_folder(path: &Path) -> Result<(), LocalStoreError> {
    File::open(path).and_then(|folder| folder.sync_all()).during("flush", path)
}

fn parse_digest(text: &str) -> io::Result<Digest> {
    text.trim_end().parse().map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
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

impl BlobWriter {
    /// Ends the blob: flushes it and gives it its name. Content that the store had already is kept once.
    ///
    /// # Errors
    ///
    /// [`LocalStoreError::Io`]; nothing of it is then left.
    pub fn commit(mut self) -> Result<Blob, LocalStoreError> {
        let digest = std::mem::take(&mut self.hasher).finish();
        let blob = Blob { digest, size_bytes: self.size_bytes };
        if !self.store.contains(&digest) {
            self.store.adopt(&self.file, &self.path, blob)?;
            self.committed = true;
        }
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
        let mut partial = Self { store, blob, path, file, hasher, len };
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

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> (tempfile::TempDir, LocalStore) {
        let folder = tempfile::tempdir().unwrap();
        let store = LocalStore::open(folder.path().join("store")).unwrap();
        (folder, store)
    }

    fn blob(content: &[u8]) -> Blob {
        Blob { digest: Digest::sha256(content), size_bytes: content.len() as u64 }
    }

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
    fn damage_is_found_when_a_blob_is_read() {
        let (_folder, store) = store();
        let put = store.put(b"content").unwrap();
        let path = store.blob_path(&put.digest);
        fs::remove_file(&path).unwrap();
        fs::write(&path, b"CONTENT").unwrap();
        assert!(matches!(store.read(&put.digest, 99), Err(LocalStoreError::WrongDigest { .. })));
    }

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
    fn references_move_and_are_listed_in_order() {
        let (_folder, store) = store();
        let [one, two] = [b"1", b"2"].map(|content| store.put(content).unwrap().digest);
        let web: Reference = "r.example:5000/team/web:1".parse().unwrap();
        let app: Reference = "app".parse().unwrap();
        store.tag(&web, &one).unwrap();
        store.tag(&app, &one).unwrap();
        store.tag(&web, &two).unwrap();
        let listed: Vec<_> =
            store.references().unwrap().into_iter().map(|t| (t.reference, t.digest)).collect();
        assert_eq!(listed, [(app.clone(), one), (web.clone(), two)]);
        assert_eq!(store.resolve(&web.with_digest(one)).unwrap(), one);
        store.untag(&web).unwrap();
        assert!(matches!(store.resolve(&web), Err(LocalStoreError::UnknownReference { .. })));
        assert!(matches!(store.untag(&web), Err(LocalStoreError::UnknownReference { .. })));
    }

    #[test]
    fn the_sweep_keeps_what_references_and_pins_lead_to() {
        let (_folder, store) = store();
        let [tagged, pinned, part, lost] =
            [b"tagged", b"pinned", b"a part", b"a lost"].map(|content| store.put(content).unwrap().digest);
        store.tag(&"x".parse().unwrap(), &tagged).unwrap();
        store.pin("vm", &pinned).unwrap();
        let leads_to = |root: &Digest| if *root == tagged { vec![tagged, part] } else { vec![*root] };
        assert_eq!(store.sweep(leads_to).unwrap(), 6);
        assert!(!store.contains(&lost) && store.contains(&part) && store.contains(&pinned));
        store.unpin("vm").unwrap();
        assert_eq!(store.sweep(leads_to).unwrap(), 6);
    }
}
