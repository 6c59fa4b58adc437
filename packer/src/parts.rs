//! The files of one folder, for images that are cut into several.
//!
//! The folder is listed once, and what an image names is compared with that list. A name from inside an image is
//! never used as a path: what is opened is an entry of the folder, and no link leads out of it.
//!
//! Source: openat2(2), `RESOLVE_BENEATH`.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use formats::image::{Parts, Refusal, Source};
use rustix::fs::{Dir, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

/// The most entries of a folder that are looked at.
const MAX_ENTRIES: usize = 1 << 16;

/// The files of one folder, by their names.
#[derive(Debug)]
pub struct FolderParts {
    folder: OwnedFd,
    /// The entries when it was listed, except those whose names are no UTF-8: no image could name them.
    names: BTreeSet<String>,
}

impl FolderParts {
    /// The files of `folder`.
    ///
    /// # Errors
    ///
    /// Those of listing it; and where it has more than 65536 entries.
    pub fn new(folder: OwnedFd) -> io::Result<Self> {
        let mut names = BTreeSet::new();
        for (n, entry) in Dir::read_from(folder.as_fd())?.enumerate() {
            if n >= MAX_ENTRIES {
                return Err(io::Error::other(format!("the folder has more than {MAX_ENTRIES} entries")));
            }
            if let Ok(name) = entry?.file_name().to_str()
                && !matches!(name, "." | "..")
            {
                names.insert(name.to_owned());
            }
        }
        Ok(Self { folder, names })
    }

    /// The files of the folder at `path`.
    ///
    /// # Errors
    ///
    /// Those of opening it, and as [`FolderParts::new`].
    pub fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Self::new(rustix::fs::open(path, flags, Mode::empty())?)
    }

    /// The names of the entries, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.names.iter().map(String::as_str)
    }
}

impl Parts for FolderParts {
    fn part(&self, name: &str) -> io::Result<Option<Source>> {
        let Some(entry) = self.names.get(name) else { return Ok(None) };
        // A pipe is opened without waiting for a writer, and then refused for what it is.
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        match rustix::fs::openat2(&self.folder, entry, flags, Mode::empty(), resolve) {
            Ok(file) => Source::new(File::from(file)).map(Some).map_err(|refusal| match refusal {
                Refusal::Io { source, .. } => source,
                refusal => io::Error::other(refusal.to_string()),
            }),
            Err(Errno::XDEV) => Err(io::Error::other("it is a link that leads out of the folder")),
            Err(error) => Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use rustix::fs::FileType;

    use super::*;

    #[test]
    fn only_entries_of_the_folder_are_parts_of_it() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join("parts").join(name);
        fs::create_dir_all(at("inner")).unwrap();
        fs::write(folder.path().join("outside"), "secret").unwrap();
        fs::write(at("a.vmdk"), "abc").unwrap();
        fs::write(at("inner/b"), "b").unwrap();
        symlink("a.vmdk", at("link")).unwrap();
        symlink("../outside", at("leads-out")).unwrap();
        symlink("/etc/hostname", at("absolute")).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, at("pipe"), FileType::Fifo, Mode::RUSR, 0).unwrap();
        let parts = FolderParts::open(&folder.path().join("parts")).unwrap();
        let size = |name: &str| match parts.part(name) {
            Ok(part) => Ok(part.map(|part| part.size_bytes())),
            Err(error) => Err(error.to_string()),
        };
        assert_eq!(size("a.vmdk"), Ok(Some(3)));
        assert_eq!(size("link"), Ok(Some(3)));
        for absent in ["b", "inner/b", "../outside", "..", ".", "", "/etc/hostname", "A.vmdk", "a.vmdk\0"] {
            assert_eq!(size(absent), Ok(None), "{absent}");
        }
        for (name, words) in
            [("leads-out", "leads out"), ("absolute", "leads out"), ("pipe", "pipe"), ("inner", "folder")]
        {
            let error = size(name).unwrap_err();
            assert!(error.contains(words), "{name}: {error}");
        }
    }
}
