//! Folders that appear under their name when they are complete.
//!
//! Until then their files have no names, where the file system can do that, so that nothing is left of them however
//! the process ends; elsewhere they lie in a folder beside the later one, which is removed on an error.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use crate::new_file::{beside, folder_of, link, nameless};

/// A folder that is being written, in place of an empty one or of none.
#[derive(Debug)]
pub(crate) struct NewFolder {
    target: PathBuf,
    /// What it is called until it is complete.
    unfinished: PathBuf,
    /// Whether that is there, with all files in it. Until then they have no names.
    is_made: bool,
    files: Vec<(String, File)>,
}

/// Why there is no new folder.
#[derive(Debug)]
pub(crate) enum NewFolderError {
    /// There is something that a folder cannot take the place of.
    NotFree,
    Io(io::Error),
}

impl From<io::Error> for NewFolderError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl NewFolder {
    /// A folder that will be at `target`, where there is nothing yet or an empty folder.
    pub(crate) fn create(target: &Path) -> Result<Self, NewFolderError> {
        let is_free = match fs::read_dir(target) {
            Ok(mut entries) => entries.next().is_none(),
            // A link that leads nowhere is something too.
            Err(error) if error.kind() == io::ErrorKind::NotFound => !target.is_symlink(),
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => false,
            Err(error) => return Err(NewFolderError::Io(error)),
        };
        // A path such as `..` has no name of its own.
        if !is_free || target.file_name().is_none() {
            return Err(NewFolderError::NotFree);
        }
        let unfinished = beside(target);
        Ok(Self { target: target.to_owned(), unfinished, is_made: false, files: Vec::new() })
    }

    /// Where the file called `name` will be.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.target.join(name)
    }

    /// A new file in it, to be read and written. `name` is that of a plain file, and given once.
    pub(crate) fn file(&mut self, name: &str) -> io::Result<File> {
        let nameless = if self.is_made { None } else { nameless(folder_of(&self.target))? };
        let file = match nameless {
            Some(file) => file,
            None => {
                self.make()?;
                File::options().read(true).write(true).create_new(true).open(self.unfinished.join(name))?
            }
        };
        self.files.push((name.to_owned(), file.try_clone()?));
        Ok(file)
    }

    /// Puts the folder in its place: that of an empty folder, and of nothing else. It may be lost with the power.
    pub(crate) fn publish(mut self) -> Result<(), NewFolderError> {
        self.make()?;
        self.rename()
    }

    /// As [`NewFolder::publish`], and the folder is there after a power cut too, with all its files.
    pub(crate) fn publish_durably(mut self) -> Result<(), NewFolderError> {
        self.files.iter().try_for_each(|(_, file)| file.sync_all())?;
        self.make()?;
        File::open(&self.unfinished)?.sync_all()?;
        self.rename()?;
        Ok(File::open(folder_of(&self.target))?.sync_all()?)
    }

    /// Makes the folder beside the later one, and gives names to the files.
    fn make(&mut self) -> io::Result<()> {
        if self.is_made {
            return Ok(());
        }
        fs::create_dir(&self.unfinished)?;
        self.is_made = true;
        for (name, file) in &self.files {
            link(file, &self.unfinished.join(name))?;
        }
        Ok(())
    }

    /// Somebody else may have taken the place since it was found to be free.
    fn rename(&mut self) -> Result<(), NewFolderError> {
        fs::rename(&self.unfinished, &self.target).map_err(|error| match error.kind() {
            io::ErrorKind::DirectoryNotEmpty
            | io::ErrorKind::AlreadyExists
            | io::ErrorKind::NotADirectory => NewFolderError::NotFree,
            _ => NewFolderError::Io(error),
        })?;
        self.is_made = false;
        Ok(())
    }
}

impl Drop for NewFolder {
    fn drop(&mut self) {
        if self.is_made {
            // Best effort: the error that led here is what the caller hears of.
            let _ = fs::remove_dir_all(&self.unfinished);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::io::Write as _;
    use std::os::unix::fs::symlink;

    use super::*;

    fn write(mut new: NewFolder) -> NewFolder {
        for (name, content) in [("a", "1"), ("b", "22")] {
            new.file(name).unwrap().write_all(content.as_bytes()).unwrap();
            assert!(!new.path(name).exists());
        }
        new
    }

    fn names(folder: &Path) -> BTreeSet<String> {
        let entries = fs::read_dir(folder).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn nothing_is_left_of_a_folder_that_was_not_completed() {
        let around = tempfile::tempdir().unwrap();
        let create = || NewFolder::create(&around.path().join("new")).unwrap();
        drop(write(create()));
        // Where files cannot be without names.
        let mut named = create();
        named.make().unwrap();
        let named = write(named);
        assert_eq!(names(around.path()).len(), 1);
        drop(named);
        assert_eq!(names(around.path()).len(), 0);
        let mut named = create();
        named.make().unwrap();
        write(named).publish_durably().unwrap();
        assert_eq!(names(around.path()), ["new".to_owned()].into());
        assert_eq!(names(&around.path().join("new")), ["a".to_owned(), "b".to_owned()].into());
    }

    #[test]
    fn of_two_that_want_one_place_the_second_finds_it_taken() {
        let around = tempfile::tempdir().unwrap();
        let target = around.path().join("new");
        let create = || write(NewFolder::create(&target).unwrap());
        let (first, second, third) = (create(), create(), create());
        first.publish().unwrap();
        assert!(matches!(second.publish(), Err(NewFolderError::NotFree)));
        fs::remove_dir_all(&target).unwrap();
        fs::write(&target, "").unwrap();
        assert!(matches!(third.publish_durably(), Err(NewFolderError::NotFree)));
        assert_eq!(names(around.path()), ["new".to_owned()].into());
    }

    #[test]
    fn a_folder_appears_when_it_is_complete_and_takes_the_place_of_nothing() {
        let around = tempfile::tempdir().unwrap();
        let at = |name: &str| around.path().join(name);
        fs::create_dir(at("empty")).unwrap();
        fs::create_dir_all(at("full/of")).unwrap();
        fs::write(at("file"), "").unwrap();
        symlink("nowhere", at("link")).unwrap();
        for (target, is_free) in [
            ("none", true),
            ("empty", true),
            ("full", false),
            ("file", false),
            ("link", false),
            ("full/..", false),
        ] {
            let new = match NewFolder::create(&at(target)) {
                Ok(new) if is_free => new,
                Err(NewFolderError::NotFree) if !is_free => continue,
                other => panic!("{target}: {other:?}"),
            };
            write(new).publish().unwrap();
            assert_eq!(fs::read(at(target).join("b")).unwrap(), b"22");
        }
    }
}
