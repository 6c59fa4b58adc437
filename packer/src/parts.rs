//! The files of one folder, for images that were cut into several.
//!
//! Names come from inside an image. They are compared with those that the folder has, and never used as paths;
//! the kernel sees to it that no link leads out of the folder.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::path::Path;

use formats::image::{Parts, Source};
use rustix::fs::{Mode, OFlags, ResolveFlags};

/// A folder whose files an image may name.
#[derive(Debug)]
pub struct FolderParts {
    folder: File,
    /// What was in it when it was opened.
    names: BTreeSet<OsString>,
}

impl FolderParts {
    /// Opens `folder` and lists it.
    ///
    /// # Errors
    ///
    /// Those of the file system.
    pub fn open(folder: &Path) -> io::Result<Self> {
        let entries = std::fs::read_dir(folder)?;
        let names = entries.map(|entry| Ok(entry?.file_name())).collect::<io::Result<_>>()?;
        Ok(Self { folder: File::open(folder)?, names })
    }
}

impl Parts for FolderParts {
    fn part(&self, name: &str) -> io::Result<Option<Source>> {
        let Some(name) = self.names.get(OsStr::new(name)) else { return Ok(None) };
        // A pipe is opened without waiting for a writer, and then refused for what it is.
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        let file = rustix::fs::openat2(&self.folder, name, flags, Mode::empty(), resolve)?;
        Source::new(file.into()).map(Some).map_err(io::Error::other)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn parts_are_the_files_of_the_folder_and_nothing_else() {
        let around = tempfile::tempdir().unwrap();
        let folder = around.path().join("parts");
        fs::create_dir_all(folder.join("within")).unwrap();
        fs::write(around.path().join("secret"), "secret").unwrap();
        fs::write(folder.join("within/deep"), "deep").unwrap();
        fs::write(folder.join("a-s001.vmdk"), "part").unwrap();
        symlink("a-s001.vmdk", folder.join("inside")).unwrap();
        symlink("../secret", folder.join("outside")).unwrap();
        let parts = FolderParts::open(&folder).unwrap();
        for name in ["a-s001.vmdk", "inside"] {
            assert_eq!(parts.part(name).unwrap().unwrap().size_bytes(), 4, "{name}");
        }
        for name in ["missing", "../secret", "within/deep", "./a-s001.vmdk", "..", "", "a\0b"] {
            assert!(parts.part(name).unwrap().is_none(), "{name}");
        }
        for name in ["outside", "within"] {
            parts.part(name).unwrap_err();
        }
    }
}
