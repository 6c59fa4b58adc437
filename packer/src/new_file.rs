//! Files that appear under their name when they are complete.
//!
//! Until then a file has no name at all, where the file system can do that, so that nothing is left of it
//! however the process ends; elsewhere it has one of its own beside the later one, and is removed on an error.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags};

/// A file that is being written, in place of a regular file or of none.
#[derive(Debug)]
pub(crate) struct NewFile {
    file: File,
    /// Where it will be, all links followed.
    target: PathBuf,
    /// Its own name beside the target, where it has one.
    unfinished: Option<PathBuf>,
}

/// Why there is no new file.
#[derive(Debug)]
pub(crate) enum NewFileError {
    /// There is something that a file cannot take the place of: what it is, with its article.
    NotAFile(&'static str),
    Io(io::Error),
}

impl NewFile {
    /// Opens a file beside `target` that is not going to stay.
    pub(crate) fn scratch(target: &Path) -> io::Result<Self> {
        Self::open(target.with_added_extension("scratch"))
    }

    /// Opens a file that will be at `path`. Where that is a link, what it leads to is replaced. A device or a pipe
    /// is never replaced by a file.
    pub(crate) fn create(path: &Path) -> Result<Self, NewFileError> {
        let target = target(path)?;
        Self::open(target).map_err(NewFileError::Io)
    }

    /// Opens a file, to be read and written, that will be at `target`.
    fn open(target: PathBuf) -> io::Result<Self> {
        if let Some(file) = nameless(folder_of(&target))? {
            return Ok(Self { file, target, unfinished: None });
        }
        let unfinished = beside(&target);
        // One can be there that a process of the same number has left, or a link that somebody has put in the way.
        let _ = fs::remove_file(&unfinished);
        let file = File::options().read(true).write(true).create_new(true).open(&unfinished)?;
        Ok(Self { file, target, unfinished: Some(unfinished) })
    }

    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// Puts the file in its place; gives back its length. It may be lost with the power, and the file that
    /// it replaces too.
    pub(crate) fn publish(mut self) -> io::Result<u64> {
        let size_bytes = self.file.metadata()?.len();
        if self.unfinished.is_none() {
            match link(&self.file, &self.target) {
                Err(rustix::io::Errno::EXIST) => {}
                linked => return linked.map(|()| size_bytes).map_err(io::Error::from),
            }
            // A name cannot be taken from another file but by renaming.
            let unfinished = beside(&self.target);
            // One can be there that a process of the same number has left.
            let _ = fs::remove_file(&unfinished);
            link(&self.file, &unfinished)?;
            self.unfinished = Some(unfinished);
        }
        if let Some(unfinished) = &self.unfinished {
            fs::rename(unfinished, &self.target)?;
            self.unfinished = None;
        }
        Ok(size_bytes)
    }

    /// As [`NewFile::publish`], and the file is there after a power cut too.
    pub(crate) fn publish_durably(self) -> io::Result<u64> {
        self.file.sync_all()?;
        let folder = folder_of(&self.target).to_owned();
        let size_bytes = self.publish()?;
        File::open(folder)?.sync_all()?;
        Ok(size_bytes)
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if let Some(unfinished) = &self.unfinished {
            // Best effort: the error that led here is what the caller hears of.
            let _ = fs::remove_file(unfinished);
        }
    }
}

/// The file that is replaced, all links followed.
fn target(path: &Path) -> Result<PathBuf, NewFileError> {
    let not_a_file = |kind| Err(NewFileError::NotAFile(kind));
    let kind = match path.metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => match path.is_symlink() {
            true => return not_a_file("a link that leads nowhere"),
            false => return Ok(path.to_owned()),
        },
        metadata => metadata.map_err(NewFileError::Io)?.file_type(),
    };
    match kind {
        kind if kind.is_file() => path.canonicalize().map_err(NewFileError::Io),
        kind if kind.is_dir() => not_a_file("a directory"),
        kind if kind.is_fifo() => not_a_file("a pipe"),
        kind if kind.is_socket() => not_a_file("a socket"),
        _ => not_a_file("a device"),
    }
}

/// The folder that `path` is in.
pub(crate) fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// A name beside `target` that no other process uses.
pub(crate) fn beside(target: &Path) -> PathBuf {
    let mut name = target.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.part", std::process::id()));
    target.with_file_name(name)
}

/// A file without a name; `None` where the file system has no such files, or they could not be named later.
pub(crate) fn nameless(folder: &Path) -> io::Result<Option<File>> {
    use rustix::io::Errno;
    if !Path::new("/proc/self/fd").exists() {
        return Ok(None);
    }
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    match rustix::fs::open(folder, flags, Mode::from_raw_mode(0o666)) {
        Ok(file) => Ok(Some(file.into())),
        // The last is what kernels and file systems say that know nothing of them.
        Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Gives a file without a name the name `to`.
pub(crate) fn link(file: &File, to: &Path) -> rustix::io::Result<()> {
    let from = format!("/proc/self/fd/{}", file.as_raw_fd());
    rustix::fs::linkat(CWD, from, CWD, to, AtFlags::SYMLINK_FOLLOW)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// A file without a name where that can be, and one with a name.
    fn both(path: &Path) -> [NewFile; 2] {
        let unfinished = beside(path);
        let named = NewFile {
            file: File::create(&unfinished).unwrap(),
            target: path.to_owned(),
            unfinished: Some(unfinished),
        };
        [NewFile::create(path).unwrap(), named]
    }

    #[test]
    fn a_file_appears_when_it_is_complete_and_not_before() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new");
        for before in [None, Some("old")] {
            for kind in 0..2 {
                let mut new = both(&path).into_iter().nth(kind).unwrap();
                let _ = fs::remove_file(&path);
                if let Some(before) = before {
                    fs::write(&path, before).unwrap();
                }
                new.file.write_all(b"content").unwrap();
                assert_eq!(fs::read(&path).ok().as_deref(), before.map(str::as_bytes));
                assert_eq!(new.publish().unwrap(), 7);
                assert_eq!(fs::read(&path).unwrap(), b"content");
                assert_eq!(names(folder.path()), ["new"]);
            }
        }
    }

    #[test]
    fn nothing_is_left_of_a_file_that_was_not_completed() {
        let folder = tempfile::tempdir().unwrap();
        drop(both(&folder.path().join("new")));
        assert!(names(folder.path()).is_empty());
    }

    #[test]
    fn nothing_appears_in_a_folder_that_is_not_there() {
        let folder = tempfile::tempdir().unwrap();
        let error = NewFile::create(&folder.path().join("no/new")).unwrap_err();
        assert!(matches!(error, NewFileError::Io(error) if error.kind() == io::ErrorKind::NotFound));
    }
}
