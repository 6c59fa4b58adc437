//! Freeing what nothing leads to.

use std::collections::HashSet;
use std::fs;
use std::path::PathBuf;

use appliance::Digest;
use rustix::fs::FlockOperation;

use super::error::Context as _;
use super::{LocalStore, LocalStoreError};

impl LocalStore {
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
        let needed: HashSet<PathBuf> =
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
}

#[cfg(test)]
mod tests {
    use super::super::tests::store;
    use super::*;

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
