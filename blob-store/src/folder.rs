//! A [`Storage`] in a folder of this machine's file system.
//!
//! ```text
//! <root>/<key>           content; a key's parts are folders, as they are written
//! <root>/.new/<n>        content of a key that is being put
//! <root>/.sessions/<id>  content of an open session
//! <root>/.reserve/<n>    space for tombstones on a full disk
//! <root>/.lock           locked by the one process that uses the folder
//! ```
//!
//! How a key appears, and why a crash at any point is harmless:
//!
//! 1. the content is written to a file of `.new` or `.sessions` and made durable;
//! 2. the file gets the key as its second name, by `link`, which fails if the key is there already;
//! 3. the key's folder is made durable; until then readers are told that the key is not there, so
//!    nobody builds on something that a power cut may take back;
//! 4. the first name is removed.
//!
//! A crash before 2 leaves a file that no key leads to; one between 2 and 4 leaves a file with two
//! names. [`FolderStorage::open`] finds both. Where it finds one with two names, it first makes the
//! whole file system durable, since the third step may be missing.
//!
//! With the last key of a folder the folder goes, too ([`folders`]).
//!
//! After a failed `fsync` the kernel may have dropped what was to be written and will report success
//! the next time. So nothing is retried: this process writes no more, and reads go on.

mod content;
mod folders;
mod listing;
mod reader;
mod reserve;
mod session;
mod steps;
mod tree;

use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use self::reader::BufferPool;
use self::session::FolderSession;
use self::steps::Steps;
pub use self::steps::{Faults, Step};
use self::tree::{Access, Tree};
use crate::Key;
use crate::storage::{
    ContentStream, Entry, KeyStream, Object, Put, Session, SessionId, SessionInfo, Sharing, Storage,
    StorageError,
};

/// A [`Storage`] in a folder. Clones are the same storage.
#[derive(Debug, Clone)]
pub struct FolderStorage {
    tree: Arc<Tree>,
}

/// Why a folder cannot be used as a storage.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenFolderError {
    /// Another process has it open.
    #[error("`{}` is in use by another process", root.display())]
    InUse {
        /// The folder.
        root: PathBuf,
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

impl FolderStorage {
    /// Opens the storage in `root`, making the folder if it is not there, and clears away what a
    /// crash left.
    ///
    /// # Errors
    ///
    /// [`OpenFolderError::InUse`] while another process, or another value in this one, has it open;
    /// [`OpenFolderError::Io`].
    pub fn open(root: impl Into<PathBuf>) -> Result<Self, OpenFolderError> {
        Self::open_with_faults(root, Arc::new(()))
    }

    /// As [`FolderStorage::open`], with every change to the disk, also those of opening, in the hands
    /// of `faults`. For tests of crashes and of disks that fail.
    ///
    /// # Errors
    ///
    /// As [`FolderStorage::open`].
    pub fn open_with_faults(
        root: impl Into<PathBuf>,
        faults: Arc<dyn Faults>,
    ) -> Result<Self, OpenFolderError> {
        let root = root.into();
        let steps = Steps::new(faults);
        let during = |action, path: &Path| {
            let path = path.to_owned();
            move |source| OpenFolderError::Io { action, path, source }
        };
        make_folders(&steps, &root).map_err(during("make the folder", &root))?;
        let path = root.join(".lock");
        let lock = open_lock(&steps, &path).map_err(during("open", &path))?;
        match rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(OpenFolderError::InUse { root }),
            locked => locked.map_err(io::Error::from).map_err(during("lock", &path))?,
        }
        let path = root.join(tree::SESSIONS);
        make_folders(&steps, &path).map_err(during("make the folder", &path))?;
        let path = root.join(tree::NEW);
        if !path.is_dir() {
            // The folder itself, and those above it that were made with it, must survive as well.
            // `.new` is made last, so a crash before this is done has it done at the next start.
            steps.sync_file_system(&root).map_err(during("make durable", &root))?;
            make_folders(&steps, &path).map_err(during("make the folder", &path))?;
        }
        tree::clear_leftovers(&steps, &root).map_err(during("clear away what was left in", &root))?;
        Ok(Self { tree: Arc::new(Tree::new(root, Access::Alone { _lock: lock }, steps)) })
    }

    /// Opens the storage in `root` to read it, also while another process has it open. Nothing is
    /// changed, and every write ends in [`StorageError::ReadOnly`]. A key that the other process has
    /// just put can be seen here a moment before it is certain to survive a power cut.
    ///
    /// # Errors
    ///
    /// [`OpenFolderError::Io`], also where the folder is no storage.
    pub fn open_for_reading(root: impl Into<PathBuf>) -> Result<Self, OpenFolderError> {
        let root = root.into();
        let path = root.join(tree::SESSIONS);
        match std::fs::read_dir(&path) {
            Err(source) => Err(OpenFolderError::Io { action: "find the storage's folder", path, source }),
            Ok(_) => {
                let steps = Steps::new(Arc::new(()));
                Ok(Self { tree: Arc::new(Tree::new(root, Access::ForReading, steps)) })
            }
        }
    }

    /// Runs `work` where it may block. It runs to its end even if the caller loses interest.
    async fn blocking<T, F>(&self, work: F) -> Result<T, StorageError>
    where
        T: Send + 'static,
        F: FnOnce(&Tree) -> Result<T, StorageError> + Send + 'static,
    {
        let tree = Arc::clone(&self.tree);
        blocking(move || work(&tree)).await
    }
}

/// Opens the file that is locked, and makes it if it is not there.
fn open_lock(steps: &Steps, path: &Path) -> io::Result<File> {
    match steps.reopen(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        opened => return opened,
    }
    match steps.create(path) {
        // Another process is starting too.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => steps.reopen(path),
        created => created,
    }
}

/// Makes `folder` and those above it that are missing.
fn make_folders(steps: &Steps, folder: &Path) -> io::Result<()> {
    if folder.as_os_str().is_empty() || folder.is_dir() {
        return Ok(());
    }
    if let Some(parent) = folder.parent() {
        make_folders(steps, parent)?;
    }
    match steps.make_folder(folder) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && folder.is_dir() => Ok(()),
        made => made,
    }
}

/// Runs `work` on a thread that may block.
async fn blocking<T, F>(work: F) -> Result<T, StorageError>
where
    T: Send + 'static,
    F: FnOnce() -> Result<T, StorageError> + Send + 'static,
{
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => {
                let source = io::Error::new(io::ErrorKind::Interrupted, "the runtime is shutting down");
                Err(StorageError::Io { action: "work on", name: "storage".to_owned(), source })
            }
        },
    }
}

#[async_trait]
impl Storage for FolderStorage {
    fn sharing(&self) -> Sharing {
        if self.tree.is_for_reading() { Sharing::Shared } else { Sharing::Exclusive }
    }

    async fn check_writable(&self) -> Result<(), StorageError> {
        self.blocking(|tree| tree.check_space()).await
    }

    async fn put_if_absent(&self, key: &Key, content: Bytes) -> Result<Put, StorageError> {
        let key = key.clone();
        self.blocking(move |tree| tree.put(&key, &content)).await
    }

    async fn put_tombstone(&self, key: &Key, content: Bytes) -> Result<Put, StorageError> {
        let key = key.clone();
        self.blocking(move |tree| tree.put_tombstone(&key, &content)).await
    }

    async fn size_bytes(&self, key: &Key) -> Result<u64, StorageError> {
        let key = key.clone();
        self.blocking(move |tree| tree.size_bytes(&key)).await
    }

    async fn open(&self, key: &Key) -> Result<Box<dyn Object>, StorageError> {
        let key = key.clone();
        self.blocking(move |tree| {
            let (file, size_bytes) = tree.open(&key)?;
            let buffers = Arc::clone(tree.buffers());
            Ok(Box::new(FolderObject { key, file, size_bytes, buffers }) as Box<dyn Object>)
        })
        .await
    }

    async fn list(
        &self,
        folder: &Key,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Entry>, StorageError> {
        let (folder, after) = (folder.clone(), after.map(str::to_owned));
        self.blocking(move |tree| listing::list(tree, &folder, after.as_deref(), limit)).await
    }

    fn keys_below(&self, folder: &Key) -> KeyStream<'_> {
        listing::keys_below(Arc::clone(&self.tree), folder)
    }

    async fn delete(&self, key: &Key) -> Result<(), StorageError> {
        let key = key.clone();
        self.blocking(move |tree| tree.delete(&key)).await
    }

    async fn begin(&self, id: SessionId) -> Result<Box<dyn Session>, StorageError> {
        let tree = Arc::clone(&self.tree);
        blocking(move || Ok(Box::new(FolderSession::begin(tree, id)?) as Box<dyn Session>)).await
    }

    async fn resume(&self, id: SessionId) -> Result<Box<dyn Session>, StorageError> {
        let tree = Arc::clone(&self.tree);
        blocking(move || Ok(Box::new(FolderSession::resume(tree, id)?) as Box<dyn Session>)).await
    }

    async fn abort(&self, id: SessionId) -> Result<(), StorageError> {
        self.blocking(move |tree| session::abort(tree, id)).await
    }

    async fn sessions(&self) -> Result<Vec<SessionInfo>, StorageError> {
        self.blocking(session::sessions).await
    }
}

/// A key's file, open for reading.
#[derive(Debug)]
struct FolderObject {
    key: Key,
    file: File,
    size_bytes: u64,
    buffers: Arc<BufferPool>,
}

impl Object for FolderObject {
    fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    fn stream(self: Box<Self>, range: Range<u64>) -> ContentStream {
        assert!(range.start <= range.end && range.end <= self.size_bytes, "{range:?} of {}", self.size_bytes);
        reader::stream(Arc::new(self.file), self.key.to_string(), range, self.buffers)
    }
}
