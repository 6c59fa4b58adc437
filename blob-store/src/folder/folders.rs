//! What is known of the folders that keys lie in, so that empty ones can be removed.
//!
//! Whoever puts or deletes a key *enters* its folder first and *leaves* it afterwards. A folder is
//! removed, with this value locked, when it is empty and nobody is in it or below it. Hence:
//!
//! - Who is putting a key finds its folder there from the moment it was made.
//! - The folders that are known to be durable are there: what is removed is forgotten under the same
//!   lock, and made durable again if it is made again.
//! - Whatever was deleted from a folder is durably gone before the folder goes: who deletes something
//!   makes the folder durable before he leaves, and who finds it empty for another reason does the same.
//!   So the removal itself need not be made durable. A power cut may bring the folder back, but empty,
//!   and an empty folder means nothing. And who is to delete a key whose folder is not there has nothing
//!   to make durable.
//!
//! Who is killed between deleting a key and leaving its folder leaves that empty. Nobody looks for such
//! folders: there are few of them, and the next key that comes and goes there takes them along.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

/// How many folders are remembered as durable before the memory is emptied.
const MAX_DURABLE: usize = 16 << 10;

#[derive(Debug, Default)]
pub(super) struct Folders {
    /// Folders that survive a power cut, with all folders above them.
    durable: HashSet<PathBuf>,
    /// Folders that somebody is in.
    entered: HashMap<PathBuf, Entered>,
}

#[derive(Debug, Default)]
struct Entered {
    /// How many are in it.
    count: usize,
    /// Some of those who left may have left it empty.
    is_perhaps_empty: bool,
}

/// How somebody leaves a folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Left {
    /// No emptier than it was.
    Unchanged,
    /// Perhaps empty, and made durable since: nothing that was deleted from it can come back.
    PerhapsEmpty,
}

impl Folders {
    /// From now on neither `folder` nor one above it is removed.
    pub(super) fn enter(&mut self, folder: &Path) {
        self.entered.entry(folder.to_owned()).or_default().count += 1;
    }

    /// Ends what [`Folders::enter`] began. True if nobody is in `folder` now and it may be empty.
    pub(super) fn leave(&mut self, folder: &Path, left: Left) -> bool {
        let entered = self.entered.get_mut(folder).expect("who leaves a folder has entered it");
        entered.count -= 1;
        entered.is_perhaps_empty |= left == Left::PerhapsEmpty;
        if entered.count > 0 {
            return false;
        }
        self.entered.remove(folder).is_some_and(|entered| entered.is_perhaps_empty)
    }

    /// True while somebody is in `folder` or in one below it.
    pub(super) fn is_anybody_below(&self, folder: &Path) -> bool {
        self.entered.keys().any(|entered| entered.starts_with(folder))
    }

    pub(super) fn is_durable(&self, folder: &Path) -> bool {
        self.durable.contains(folder)
    }

    /// Notes that `folder`, which was entered, survives a power cut.
    pub(super) fn note_durable(&mut self, folder: &Path) {
        if self.durable.len() >= MAX_DURABLE {
            self.durable.clear();
        }
        self.durable.insert(folder.to_owned());
    }

    /// Notes that `folder` was removed.
    pub(super) fn forget(&mut self, folder: &Path) {
        self.durable.remove(folder);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_last_to_leave_a_folder_may_find_it_empty() {
        let (mut folders, folder) = (Folders::default(), Path::new("/s/a/b"));
        folders.enter(folder);
        folders.enter(folder);
        assert!(!folders.leave(folder, Left::PerhapsEmpty));
        assert!(folders.is_anybody_below(Path::new("/s/a")) && !folders.is_anybody_below(Path::new("/s/ab")));
        assert!(folders.leave(folder, Left::Unchanged));
        assert!(!folders.is_anybody_below(Path::new("/s")));
        folders.enter(folder);
        assert!(!folders.leave(folder, Left::Unchanged));
    }
}
