//! Freeing what nothing leads to.
//!
//! Whoever cannot be asked what it needs might need everything. So a single name that cannot be followed
//! keeps all blobs where they are, until that name is removed or its content is whole again.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use appliance::{Digest, Reference};
use rustix::fs::FlockOperation;

use super::error::Context as _;
use super::{LocalStore, LocalStoreError};

/// How long a download that was cut waits to be gone on with.
const PARTIAL_KEPT: Duration = Duration::from_secs(24 * 60 * 60);

/// Something that content is kept for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Root {
    /// A reference.
    Reference(Reference),
    /// A pin, by its name.
    Pin(String),
}

/// Why nothing was swept.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SweepError<E> {
    /// What a root needs cannot be told.
    #[error("cannot tell what {root} ({digest}) needs, so nothing was freed")]
    Follow {
        /// The root.
        root: Root,
        /// What it names.
        digest: Digest,
        /// The reason.
        #[source]
        source: E,
    },
    /// The store failed, perhaps when some had been freed already.
    #[error(transparent)]
    Store(#[from] LocalStoreError),
}

impl std::fmt::Display for Root {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Reference(reference) => write!(f, "`{reference}`"),
            Self::Pin(name) => write!(f, "the pin `{}`", name.escape_debug()),
        }
    }
}

impl LocalStore {
    /// Removes every blob that no reference and no pin leads to, and downloads that nobody has gone on
    /// with for a day. Returns how many bytes that were.
    ///
    /// `leads_to` says which digests a root (the digest of an index or a manifest) needs, itself
    /// included; the store cannot know. Waits until nobody holds the store; calls `waiting` first if
    /// somebody does.
    ///
    /// # Errors
    ///
    /// [`SweepError::Follow`] where `leads_to` fails: nothing is removed then. [`SweepError::Store`];
    /// blobs that are needed are never removed.
    pub fn sweep<E>(
        &self,
        leads_to: impl Fn(&Digest) -> Result<Vec<Digest>, E>,
        waiting: impl FnOnce(),
    ) -> Result<u64, SweepError<E>> {
        let _lock = match self.lock(FlockOperation::NonBlockingLockExclusive) {
            Err(LocalStoreError::Io { source, .. }) if source.kind() == io::ErrorKind::WouldBlock => {
                waiting();
                self.lock(FlockOperation::LockExclusive)?
            }
            locked => locked?,
        };
        let needed = self.needed(leads_to)?;
        let mut freed = 0;
        for folder in ["blobs/sha256", "blobs/sha512", "tmp"] {
            for path in self.files(folder)? {
                if !needed.contains(&path) {
                    freed += free(&path)?;
                }
            }
        }
        for path in self.files("partial")? {
            freed += free_if_abandoned(&path)?;
        }
        Ok(freed)
    }

    /// The files of all blobs that some root leads to.
    fn needed<E>(
        &self,
        leads_to: impl Fn(&Digest) -> Result<Vec<Digest>, E>,
    ) -> Result<HashSet<PathBuf>, SweepError<E>> {
        let references = self.references()?.into_iter();
        let references = references.map(|tagged| (Root::Reference(tagged.reference), tagged.digest));
        let pins = self.pins()?.into_iter().map(|(name, digest)| (Root::Pin(name), digest));
        let mut needed = HashSet::new();
        for (root, digest) in references.chain(pins) {
            let blobs = leads_to(&digest).map_err(|source| SweepError::Follow { root, digest, source })?;
            needed.extend(blobs.iter().map(|blob| self.blob_path(blob)));
        }
        Ok(needed)
    }
}

fn free(path: &Path) -> Result<u64, LocalStoreError> {
    let size_bytes = fs::metadata(path).during("examine", path)?.len();
    fs::remove_file(path).during("remove", path)?;
    Ok(size_bytes)
}

/// Removes a download unless somebody fills it, or may want to go on with it.
fn free_if_abandoned(path: &Path) -> Result<u64, LocalStoreError> {
    let file = File::open(path).during("open", path)?;
    if rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
        return Ok(0);
    }
    let changed = file.metadata().and_then(|metadata| metadata.modified()).during("examine", path)?;
    // A clock that was set back makes nothing old.
    let age = SystemTime::now().duration_since(changed).unwrap_or_default();
    if age < PARTIAL_KEPT { Ok(0) } else { free(path) }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{blob, store};
    use super::*;

    fn itself(root: &Digest) -> Result<Vec<Digest>, LocalStoreError> {
        Ok(vec![*root])
    }

    #[test]
    fn the_sweep_keeps_what_references_and_pins_lead_to() {
        let (_folder, store) = store();
        let [tagged, pinned, part, lost] =
            [b"tagged", b"pinned", b"a part", b"a lost"].map(|content| store.put(content).unwrap().digest);
        store.tag(&"x".parse().unwrap(), &tagged).unwrap();
        store.pin("vm", &pinned).unwrap();
        let leads_to = |root: &Digest| if *root == tagged { Ok(vec![tagged, part]) } else { itself(root) };
        let alone = || panic!("nobody holds the store");
        assert_eq!(store.sweep(leads_to, alone).unwrap(), 6);
        assert!(!store.contains(&lost) && store.contains(&part) && store.contains(&pinned));
        store.unpin("vm").unwrap();
        assert_eq!(store.sweep(leads_to, alone).unwrap(), 6);
    }

    #[test]
    fn a_name_that_cannot_be_followed_keeps_everything() {
        let (_folder, store) = store();
        let [root, lost] = [b"root", b"lost"].map(|content| store.put(content).unwrap().digest);
        let broken = |digest: &Digest| Err(LocalStoreError::Missing { digest: *digest });
        let reference: Reference = "web:1".parse().unwrap();
        let sweep_fails = |want: &str| {
            let error = store.sweep(broken, || ()).unwrap_err().to_string();
            assert!(error.contains(want), "{error}");
            assert!(store.contains(&lost));
        };
        store.tag(&reference, &root).unwrap();
        sweep_fails("cannot tell what `web:1` (sha256:");
        store.untag(&[reference]).unwrap();
        store.pin("0123abcd", &root).unwrap();
        sweep_fails("cannot tell what the pin `0123abcd` (sha256:");
        for (folder, content) in [("pins", "damaged"), ("refs", "damaged"), ("pins", "\u{fffd}")] {
            let path = store.root().join(folder).join("name");
            fs::write(&path, content).unwrap();
            sweep_fails(&format!("cannot understand `{}`", path.display()));
            fs::remove_file(&path).unwrap();
        }
        // What is there but cannot be read at all, not even by root.
        let path = store.root().join("refs/folder");
        fs::create_dir(&path).unwrap();
        sweep_fails(&format!("cannot read `{}`", path.display()));
    }

    #[test]
    fn the_sweep_says_that_it_waits_before_it_does() {
        let (_folder, store) = store();
        store.put(b"lost").unwrap();
        let mut hold = Some(store.hold().unwrap());
        assert_eq!(store.sweep(itself, || drop(hold.take())).unwrap(), 4);
        assert!(hold.is_none());
    }

    #[test]
    fn only_an_old_download_that_nobody_fills_is_swept() {
        let (_folder, store) = store();
        let [fresh, old, filled] = [b"fresh ", b"old   ", b"filled"].map(|content| blob(content));
        let start = |blob| {
            let mut partial = store.partial(blob).unwrap();
            partial.append(b"part").unwrap();
            partial
        };
        let set_old = |digest: Digest| {
            let path = store.root().join(format!("partial/{}.part", digest.hex()));
            File::open(path).unwrap().set_modified(SystemTime::now() - 2 * PARTIAL_KEPT).unwrap();
        };
        drop((start(fresh), start(old)));
        let being_filled = start(filled);
        set_old(old.digest);
        set_old(filled.digest);
        assert_eq!(store.sweep(itself, || ()).unwrap(), 4);
        drop(being_filled);
        for (blob, len) in [(fresh, 4), (old, 0), (filled, 4)] {
            assert_eq!(store.partial(blob).unwrap().len(), len);
        }
    }
}
