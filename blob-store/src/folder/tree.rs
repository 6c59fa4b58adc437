//! The files of the folder backend: how a key is put, found and removed. Blocking.

use std::collections::HashMap;
use std::fs::{self, DirEntry, File};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use rustix::fs::StatVfsMountFlags;

use super::folders::{Folders, Left};
use super::reader::BufferPool;
use super::reserve::Reserve;
use super::steps::Steps;
use crate::Key;
use crate::key::component_ok;
use crate::storage::{Entry, Put, StorageError};

/// Folder of the keys that are being put.
pub(super) const NEW: &str = ".new";
/// Folder of the open sessions.
pub(super) const SESSIONS: &str = ".sessions";

/// With less space than this in bytes a file system counts as full.
const LEAST_FREE: u64 = 16 << 20;

/// One folder, locked for this process.
#[derive(Debug)]
pub(super) struct Tree {
    root: PathBuf,
    access: Access,
    steps: Steps,
    /// Held while a folder is removed.
    folders: Mutex<Folders>,
    /// Paths of keys that are being linked, and by how many. A path that is here may or may not
    /// exist, and what exists may not survive a power cut.
    publishing: Mutex<HashMap<PathBuf, usize>>,
    /// Set by the first write that could not be made durable, never reset.
    is_read_only: AtomicBool,
    reserve: Reserve,
    next_new: AtomicU64,
    buffers: Arc<BufferPool>,
}

/// What the folder may be used for.
#[derive(Debug)]
pub(super) enum Access {
    /// For anything: nobody else has this lock.
    Alone { _lock: File },
    /// To read what its one user, if it has one, keeps there.
    ForReading,
}

impl Tree {
    pub(super) fn new(root: PathBuf, access: Access, steps: Steps) -> Self {
        Self {
            reserve: Reserve::new(&root),
            root,
            access,
            steps,
            folders: Mutex::default(),
            publishing: Mutex::default(),
            is_read_only: AtomicBool::new(false),
            next_new: AtomicU64::new(0),
            buffers: Arc::default(),
        }
    }

    pub(super) fn path(&self, key: &Key) -> PathBuf {
        self.root.join(key.as_str())
    }

    pub(super) fn session_folder(&self) -> PathBuf {
        self.root.join(SESSIONS)
    }

    pub(super) fn steps(&self) -> &Steps {
        &self.steps
    }

    pub(super) fn buffers(&self) -> &Arc<BufferPool> {
        &self.buffers
    }

    /// Fails once a write could not be made durable, and where the folder is open for reading only.
    pub(super) fn check_writable(&self) -> Result<(), StorageError> {
        match self.is_for_reading() || self.is_read_only.load(Ordering::Acquire) {
            true => Err(StorageError::ReadOnly),
            false => Ok(()),
        }
    }

    /// True where somebody else may be the folder's one user.
    pub(super) fn is_for_reading(&self) -> bool {
        matches!(self.access, Access::ForReading)
    }

    /// Fails where only tombstones may be put: there would be no space for them otherwise.
    pub(super) fn check_room(&self) -> Result<(), StorageError> {
        self.check_writable()?;
        let whole = self.reserve.make_whole(&self.steps);
        whole.map_err(|error| storage_error("make the reserve in", &self.root, error))
    }

    /// Fails where the next write would likely fail: after one that could not be made durable, on a file
    /// system that is mounted read-only, as the kernel does when a disk fails, and without space or file
    /// numbers left.
    pub(super) fn check_space(&self) -> Result<(), StorageError> {
        self.check_writable()?;
        let system = rustix::fs::statvfs(&self.root)
            .map_err(|error| storage_error("examine the file system of", &self.root, error.into()))?;
        if system.f_flag.contains(StatVfsMountFlags::RDONLY) {
            return Err(StorageError::ReadOnly);
        }
        let free_bytes = system.f_bavail.saturating_mul(system.f_frsize);
        // Some file systems do not number files, and have 0 of 0 left.
        let has_numbers = system.f_files == 0 || system.f_favail > 0;
        if free_bytes < LEAST_FREE || !has_numbers { Err(StorageError::Full) } else { Ok(()) }
    }

    pub(super) fn open(&self, key: &Key) -> Result<(File, u64), StorageError> {
        let path = self.path(key);
        let missing = || StorageError::Missing { key: key.clone() };
        let opened = File::open(&path).and_then(|file| file.metadata().map(|data| (file, data)));
        // Asked after the file was found: a key that was hidden before that is durable by now.
        match opened {
            Ok((file, data)) if data.is_file() && !self.is_hidden(&path) => Ok((file, data.len())),
            Ok(_) => Err(missing()),
            Err(error) if is_absent(&error) => Err(missing()),
            Err(source) => Err(StorageError::Io { action: "open", name: key.to_string(), source }),
        }
    }

    pub(super) fn size_bytes(&self, key: &Key) -> Result<u64, StorageError> {
        let path = self.path(key);
        let missing = || StorageError::Missing { key: key.clone() };
        match fs::metadata(&path) {
            Ok(data) if data.is_file() && !self.is_hidden(&path) => Ok(data.len()),
            Ok(_) => Err(missing()),
            Err(error) if is_absent(&error) => Err(missing()),
            Err(source) => Err(StorageError::Io { action: "examine", name: key.to_string(), source }),
        }
    }

    pub(super) fn put(&self, key: &Key, content: &[u8]) -> Result<Put, StorageError> {
        // What readers can see is durable already.
        if self.size_bytes(key).is_ok() {
            return Ok(Put::Exists);
        }
        self.check_room()?;
        self.put_new(key, content)
    }

    /// As [`Tree::put`], also on a full disk, as long as the reserve lasts.
    pub(super) fn put_tombstone(&self, key: &Key, content: &[u8]) -> Result<Put, StorageError> {
        if self.size_bytes(key).is_ok() {
            return Ok(Put::Exists);
        }
        self.check_writable()?;
        self.with_reserve(&self.path(key), || self.put_new(key, content))
    }

    /// Does `work` on `path`, and again each time that it finds the disk full, with more of the reserve
    /// given up.
    fn with_reserve<T>(
        &self,
        path: &Path,
        work: impl Fn() -> Result<T, StorageError>,
    ) -> Result<T, StorageError> {
        loop {
            match work() {
                // What was linked and is not durable could not be told from another's the second time.
                // A reserve that cannot be had is none: what the caller needs to know is `Full`.
                Err(StorageError::Full)
                    if !self.is_hidden(path) && self.reserve.give_up_one(&self.steps).unwrap_or(false) => {}
                done => return done,
            }
        }
    }

    fn put_new(&self, key: &Key, content: &[u8]) -> Result<Put, StorageError> {
        let number = self.next_new.fetch_add(1, Ordering::Relaxed);
        let path = self.root.join(NEW).join(number.to_string());
        let put = self.write_new(&path, content).and_then(|()| self.publish(&path, key));
        if put.is_err() {
            // If that fails too, the next start does it.
            let _ = self.discard(&path);
        }
        put
    }

    fn write_new(&self, path: &Path, content: &[u8]) -> Result<(), StorageError> {
        let file = self.steps.create(path).map_err(|error| storage_error("create", path, error))?;
        let written = self.steps.write(&file, path, 0, content);
        written.map_err(|error| storage_error("write", path, error))?;
        self.sync_file(&file, path)
    }

    /// Removes a file of `.new` or `.sessions` that came to nothing. One that has a key as well stays:
    /// the key may not be durable, and by this file the next start knows.
    pub(super) fn discard(&self, path: &Path) -> io::Result<()> {
        match fs::symlink_metadata(path)?.nlink() {
            1 => self.steps.remove(path),
            _ => Ok(()),
        }
    }

    /// Gives the durable content at `from` the name `key`, unless the key is there, and removes
    /// `from`. Steps 2 to 4 of the module's header. After an error `from` is still there.
    pub(super) fn publish(&self, from: &Path, key: &Key) -> Result<Put, StorageError> {
        let to = self.path(key);
        let folder = to.parent().expect("a key lies in the root or below");
        self.lock_folders().enter(folder);
        let put = self.link_durably(from, &to, folder);
        match put {
            Ok(_) => self.leave(folder, Left::Unchanged),
            // Folders may have been made for nothing.
            Err(_) => self.leave_perhaps_empty(folder),
        }
        put
    }

    /// Steps 2 to 4, in a `folder` that nobody removes meanwhile.
    fn link_durably(&self, from: &Path, to: &Path, folder: &Path) -> Result<Put, StorageError> {
        self.make_folder(folder)?;
        if !self.hide_new(to) {
            let _ = self.steps.remove(from);
            return Ok(Put::Exists);
        }
        let put = match self.steps.link(from, to) {
            Ok(()) => Put::Created,
            // Somebody was faster, and may not have made the folder durable yet.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Put::Exists,
            Err(error) => {
                self.unhide_one(to);
                return Err(storage_error("link", to, error));
            }
        };
        // If this fails the key stays hidden for as long as this process lives.
        self.sync_folder(folder)?;
        self.lock_publishing().remove(to);
        // Should this fail, the next start finds a file with two names and removes this one.
        let _ = self.steps.remove(from);
        Ok(put)
    }

    pub(super) fn delete(&self, key: &Key) -> Result<(), StorageError> {
        self.check_writable()?;
        let path = self.path(key);
        let folder = path.parent().expect("a key lies in the root or below");
        self.lock_folders().enter(folder);
        // Some file systems need space to remove a name.
        let removed = self.with_reserve(&path, || match self.steps.remove(&path) {
            Err(error) if !is_absent(&error) => Err(storage_error("delete", &path, error)),
            _ => Ok(()),
        });
        if removed.is_err() {
            self.leave(folder, Left::Unchanged);
            return removed;
        }
        // Also where it was gone already: whoever removed it may not have come as far as this. If this
        // fails the folder is never left, so it stays, and the next try comes here as well.
        if folder.is_dir() {
            self.sync_folder(folder)?;
            self.leave(folder, Left::PerhapsEmpty);
        } else {
            self.leave(folder, Left::Unchanged);
        }
        Ok(())
    }

    /// Ends what [`Folders::enter`] began. The last to leave removes the folder, if it is empty, and so
    /// on upwards.
    fn leave(&self, folder: &Path, left: Left) {
        let mut folders = self.lock_folders();
        let may_go = folders.leave(folder, left)
            && !folders.is_anybody_below(folder)
            && self.is_deep(folder)
            && self.check_writable().is_ok();
        // Where it is not empty, or cannot be removed, nothing is lost.
        if !may_go || self.steps.remove_folder(folder).is_err() {
            return;
        }
        folders.forget(folder);
        let parent = folder.parent().expect("it lies deep in the root");
        folders.enter(parent);
        drop(folders);
        self.leave_perhaps_empty(parent);
    }

    /// As [`Tree::leave`], for one who has deleted nothing here and cannot know what others did before
    /// a crash.
    fn leave_perhaps_empty(&self, folder: &Path) {
        let is_empty = fs::read_dir(folder).is_ok_and(|mut names| names.next().is_none());
        match is_empty && self.is_deep(folder) && self.sync_folder(folder).is_ok() {
            true => self.leave(folder, Left::PerhapsEmpty),
            false => self.leave(folder, Left::Unchanged),
        }
    }

    /// False for the root and what lies directly in it.
    fn is_deep(&self, folder: &Path) -> bool {
        folder.strip_prefix(&self.root).is_ok_and(|below| below.components().count() > 1)
    }

    /// True for a file that is not durable yet.
    pub(super) fn is_hidden(&self, path: &Path) -> bool {
        self.lock_publishing().contains_key(path)
    }

    /// True if a key that readers can see lies in or below `folder`.
    pub(super) fn leads_to_a_key(&self, folder: &Path) -> io::Result<bool> {
        for entry in entries_of(folder)? {
            let found = match entry? {
                Entry::Folder(name) => self.leads_to_a_key(&folder.join(name))?,
                Entry::Key(name) => !self.is_hidden(&folder.join(name)),
            };
            if found {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Hides `path`, which does not exist yet. False if it exists: then it is durable, or hidden by
    /// whoever made it.
    fn hide_new(&self, path: &Path) -> bool {
        let mut publishing = self.lock_publishing();
        // One who waits for a key that another is publishing must make sure of it himself.
        let is_new = publishing.contains_key(path) || !path.exists();
        if is_new {
            *publishing.entry(path.to_owned()).or_default() += 1;
        }
        is_new
    }

    fn unhide_one(&self, path: &Path) {
        let mut publishing = self.lock_publishing();
        if let Some(count) = publishing.get_mut(path) {
            *count -= 1;
            if *count == 0 {
                publishing.remove(path);
            }
        }
    }

    fn lock_publishing(&self) -> MutexGuard<'_, HashMap<PathBuf, usize>> {
        self.publishing.lock().expect("nobody panics while holding the set")
    }

    /// Makes `folder`, which was entered, and the folders above it, durably.
    fn make_folder(&self, folder: &Path) -> Result<(), StorageError> {
        if folder == self.root || self.lock_folders().is_durable(folder) {
            return Ok(());
        }
        let parent = folder.parent().expect("a folder of the tree lies below the root");
        self.make_folder(parent)?;
        match self.steps.make_folder(folder) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(storage_error("make the folder", folder, error));
            }
            // One that exists was perhaps made just before a crash: it is made durable all the same.
            _ => self.sync_folder(parent)?,
        }
        self.lock_folders().note_durable(folder);
        Ok(())
    }

    fn lock_folders(&self) -> MutexGuard<'_, Folders> {
        self.folders.lock().expect("nobody panics while holding the folders")
    }

    pub(super) fn sync_file(&self, file: &File, path: &Path) -> Result<(), StorageError> {
        self.check_writable()?;
        self.steps.sync_file(file, path).map_err(|error| self.not_durable(path, error))
    }

    pub(super) fn sync_folder(&self, folder: &Path) -> Result<(), StorageError> {
        self.check_writable()?;
        // That it cannot be opened, perhaps as too many files are open, loses nothing.
        let opened = File::open(folder).map_err(|error| storage_error("open", folder, error))?;
        self.steps.sync_folder(&opened, folder).map_err(|error| self.not_durable(folder, error))
    }

    fn not_durable(&self, path: &Path, error: io::Error) -> StorageError {
        let error = storage_error("make durable", path, error);
        // A full disk loses this content only, and its writer is told so.
        if !matches!(error, StorageError::Full) {
            self.is_read_only.store(true, Ordering::Release);
        }
        error
    }
}

pub(super) fn storage_error(action: &'static str, path: &Path, source: io::Error) -> StorageError {
    match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => StorageError::Full,
        io::ErrorKind::ReadOnlyFilesystem => StorageError::ReadOnly,
        _ => StorageError::Io { action, name: path.display().to_string(), source },
    }
}

/// What lies in a folder, in no order; nothing where there is no such folder, or none any more.
pub(super) fn entries_of(folder: &Path) -> io::Result<impl Iterator<Item = io::Result<Entry>>> {
    let names = match fs::read_dir(folder) {
        // A key is no folder: nothing lies below it.
        Err(error) if is_absent(&error) => None,
        names => Some(names?),
    };
    let entry = |name: io::Result<DirEntry>| {
        let name = name?;
        // A name that is no part of a key was put here by somebody else and means nothing.
        let Some(text) = name.file_name().to_str().filter(|name| component_ok(name)).map(str::to_owned)
        else {
            return Ok(None);
        };
        Ok(Some(if name.file_type()?.is_dir() { Entry::Folder(text) } else { Entry::Key(text) }))
    };
    Ok(names.into_iter().flatten().map(entry).filter_map(|entry| match entry {
        // The folder, or what lay there, went away meanwhile.
        Err(error) if is_absent(&error) => None,
        entry => entry.transpose(),
    }))
}

/// True if an error says that no such file exists, rather than that it cannot be reached.
fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

/// Removes what a crash left in `.new`, and finished sessions; open sessions stay.
pub(super) fn clear_leftovers(steps: &Steps, root: &Path) -> io::Result<()> {
    let mut leftovers = Vec::new();
    let mut some_linked = false;
    for folder in [NEW, SESSIONS] {
        for entry in fs::read_dir(root.join(folder))? {
            let path = entry?.path();
            let is_linked = fs::symlink_metadata(&path)?.nlink() > 1;
            some_linked |= is_linked;
            if folder == NEW || is_linked {
                leftovers.push(path);
            }
        }
    }
    if some_linked {
        steps.sync_file_system(root)?;
    }
    leftovers.iter().try_for_each(|path| steps.remove(path))
}
