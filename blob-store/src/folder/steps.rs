//! Every system call by which the folder backend changes the disk, and nothing else.
//!
//! Each call is a [`Step`] that [`Faults`] sees before and after it, so that a test can fail it, kill
//! the process there, or write down what a power cut would leave. No other file of the backend
//! changes the disk; a test reads their sources and sees to it.

use std::fmt::Debug;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::sync::Arc;

/// One change to the disk. Paths are those of the file system, below the storage's root or above it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step<'a> {
    /// A new, empty file.
    Create {
        /// Its name.
        path: &'a Path,
    },
    /// Bytes are written to a file.
    Write {
        /// The file's name.
        path: &'a Path,
        /// Where the bytes go, in bytes from the file's beginning.
        offset: u64,
        /// What is written; never empty.
        bytes: &'a [u8],
    },
    /// A file ends at this size from now on.
    Cut {
        /// The file's name.
        path: &'a Path,
        /// Its new size in bytes.
        size_bytes: u64,
    },
    /// A file's content and size are made durable; its name is not.
    SyncData {
        /// The file's name.
        path: &'a Path,
    },
    /// The names in a folder are made durable; the folder's own name is not.
    SyncFolder {
        /// The folder.
        path: &'a Path,
    },
    /// Everything on the file system is made durable.
    SyncFileSystem {
        /// Something that lies on it.
        path: &'a Path,
    },
    /// A new, empty folder.
    MakeFolder {
        /// Its name.
        path: &'a Path,
    },
    /// A folder that is empty goes away.
    RemoveFolder {
        /// Its name.
        path: &'a Path,
    },
    /// A file gets a second name.
    Link {
        /// The name that it has.
        from: &'a Path,
        /// The name that it gets.
        to: &'a Path,
    },
    /// A file loses a name.
    Remove {
        /// The name.
        path: &'a Path,
    },
}

/// What happens to the steps of a [`FolderStorage`](super::FolderStorage): a seam for tests of crashes
/// and of disks that fail. `()` lets everything happen.
///
/// Called from several threads, also at the same time.
pub trait Faults: Debug + Send + Sync + 'static {
    /// Called before each step.
    ///
    /// # Errors
    ///
    /// The step is then not done, and fails with this error as if the kernel had said it.
    fn before(&self, step: Step<'_>) -> io::Result<()>;

    /// Called after a step that succeeded.
    fn after(&self, step: Step<'_>);
}

impl Faults for () {
    fn before(&self, _: Step<'_>) -> io::Result<()> {
        Ok(())
    }

    fn after(&self, _: Step<'_>) {}
}

/// The hand that changes the disk.
#[derive(Debug, Clone)]
pub(super) struct Steps {
    faults: Arc<dyn Faults>,
}

impl Steps {
    pub(super) fn new(faults: Arc<dyn Faults>) -> Self {
        Self { faults }
    }

    /// Makes a file that must not exist yet, to be written and read.
    pub(super) fn create(&self, path: &Path) -> io::Result<File> {
        self.step(Step::Create { path }, || {
            OpenOptions::new().read(true).write(true).create_new(true).open(path)
        })
    }

    /// Opens a file that exists, to be written and read. Changes nothing by itself.
    pub(super) fn reopen(&self, path: &Path) -> io::Result<File> {
        OpenOptions::new().read(true).write(true).open(path)
    }

    /// Opens a file that exists, to be written past the kernel's cache. Changes nothing by itself.
    pub(super) fn reopen_direct(&self, path: &Path) -> io::Result<File> {
        let flags = rustix::fs::OFlags::DIRECT.bits().cast_signed();
        OpenOptions::new().write(true).custom_flags(flags).open(path)
    }

    /// Writes all of `bytes` at `offset`. After an error some of them may be there.
    pub(super) fn write(&self, file: &File, path: &Path, offset: u64, bytes: &[u8]) -> io::Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        self.step(Step::Write { path, offset, bytes }, || file.write_all_at(bytes, offset))
    }

    pub(super) fn cut(&self, file: &File, path: &Path, size_bytes: u64) -> io::Result<()> {
        self.step(Step::Cut { path, size_bytes }, || file.set_len(size_bytes))
    }

    pub(super) fn sync_file(&self, file: &File, path: &Path) -> io::Result<()> {
        self.step(Step::SyncData { path }, || file.sync_data())
    }

    pub(super) fn sync_folder(&self, folder: &File, path: &Path) -> io::Result<()> {
        self.step(Step::SyncFolder { path }, || folder.sync_all())
    }

    pub(super) fn sync_file_system(&self, path: &Path) -> io::Result<()> {
        self.step(Step::SyncFileSystem { path }, || Ok(rustix::fs::syncfs(File::open(path)?)?))
    }

    /// Makes a folder that must not exist yet.
    pub(super) fn make_folder(&self, path: &Path) -> io::Result<()> {
        self.step(Step::MakeFolder { path }, || fs::create_dir(path))
    }

    /// Removes a folder, which must be empty.
    pub(super) fn remove_folder(&self, path: &Path) -> io::Result<()> {
        self.step(Step::RemoveFolder { path }, || fs::remove_dir(path))
    }

    /// Gives the file at `from` a second name, which must not exist yet.
    pub(super) fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.step(Step::Link { from, to }, || fs::hard_link(from, to))
    }

    pub(super) fn remove(&self, path: &Path) -> io::Result<()> {
        self.step(Step::Remove { path }, || fs::remove_file(path))
    }

    fn step<T>(&self, step: Step<'_>, call: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        self.faults.before(step)?;
        let done = call()?;
        self.faults.after(step);
        Ok(done)
    }
}
