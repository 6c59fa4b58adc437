//! What leads to content: references, which people see, and pins, which are a program's own.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use appliance::{Digest, Reference, Version};

use super::error::Context as _;
use super::{LocalStore, LocalStoreError, sync_folder};

/// A reference in the local store, and the digest of the index that it names.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tagged {
    /// The name.
    pub reference: Reference,
    /// What it names.
    pub digest: Digest,
    /// Since when it names that.
    pub since: SystemTime,
}

impl LocalStore {
    /// What a reference names.
    ///
    /// # Errors
    ///
    /// [`LocalStoreError::UnknownReference`] or [`LocalStoreError::Io`].
    pub fn resolve(&self, reference: &Reference) -> Result<Digest, LocalStoreError> {
        if let Version::Digest(digest) = reference.version() {
            return match self.contains(digest) {
                true => Ok(*digest),
                false => Err(LocalStoreError::UnknownReference { reference: reference.clone() }),
            };
        }
        let path = self.reference_path(reference);
        match fs::read_to_string(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(LocalStoreError::UnknownReference { reference: reference.clone() })
            }
            text => parse_digest(&text.during("read", &path)?).during("understand", &path),
        }
    }

    /// Lets `reference` name `digest` from now on, whatever it named before.
    ///
    /// # Errors
    ///
    /// [`LocalStoreError::Io`]; the reference then names what it named before.
    pub fn tag(&self, reference: &Reference, digest: &Digest) -> Result<(), LocalStoreError> {
        self.publish(&self.reference_path(reference), digest)
    }

    /// Forgets a reference. What it named stays until the next [`LocalStore::sweep`].
    ///
    /// # Errors
    ///
    /// [`LocalStoreError::UnknownReference`] or [`LocalStoreError::Io`].
    pub fn untag(&self, reference: &Reference) -> Result<(), LocalStoreError> {
        let path = self.reference_path(reference);
        match fs::remove_file(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(LocalStoreError::UnknownReference { reference: reference.clone() })
            }
            removed => removed.during("remove", &path),
        }
    }

    /// All references, in order of their names.
    ///
    /// # Errors
    ///
    /// [`LocalStoreError::Io`].
    pub fn references(&self) -> Result<Vec<Tagged>, LocalStoreError> {
        let mut found: Vec<Tagged> = self
            .named("refs")?
            .into_iter()
            // A file that somebody else put here names nothing.
            .filter_map(|(name, digest)| {
                let since = fs::metadata(self.root.join("refs").join(&name)).ok()?.modified().ok()?;
                Some(Tagged { reference: name.replace("%2F", "/").parse().ok()?, digest, since })
            })
            .collect();
        found.sort();
        Ok(found)
    }

    /// Keeps `digest`, and what its reader says it leads to, from being swept, under a name that is
    /// the caller's own.
    ///
    /// # Errors
    ///
    /// [`LocalStoreError::Io`].
    pub fn pin(&self, name: &str, digest: &Digest) -> Result<(), LocalStoreError> {
        self.publish(&self.root.join("pins").join(name), digest)
    }

    /// Takes a pin back. One that is not there is none.
    ///
    /// # Errors
    ///
    /// [`LocalStoreError::Io`].
    pub fn unpin(&self, name: &str) -> Result<(), LocalStoreError> {
        let path = self.root.join("pins").join(name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed.during("remove", &path),
        }
    }

    /// The names in `folder` with the digests that they hold.
    pub(super) fn named(&self, folder: &str) -> Result<Vec<(String, Digest)>, LocalStoreError> {
        let mut found = Vec::new();
        for path in self.files(folder)? {
            let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
            // Another process may remove it meanwhile.
            let Ok(text) = fs::read_to_string(&path) else { continue };
            if let Ok(digest) = parse_digest(&text) {
                found.push((name.to_owned(), digest));
            }
        }
        Ok(found)
    }

    fn reference_path(&self, reference: &Reference) -> PathBuf {
        self.root.join("refs").join(reference.to_string().replace('/', "%2F"))
    }

    /// Lets the file `path` hold `digest`, at once and durably.
    fn publish(&self, path: &Path, digest: &Digest) -> Result<(), LocalStoreError> {
        let mut writer = self.writer()?;
        writeln!(writer, "{digest}").during("write", &writer.path.clone())?;
        writer.file.sync_all().during("flush", &writer.path)?;
        fs::rename(&writer.path, path).during("publish", path)?;
        writer.committed = true;
        sync_folder(path.parent().expect("a name lies in a folder"))
    }
}

fn parse_digest(text: &str) -> io::Result<Digest> {
    text.trim_end().parse().map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

#[cfg(test)]
mod tests {
    use super::super::tests::store;
    use super::*;

    #[test]
    fn references_move_and_are_listed_in_order() {
        let (_folder, store) = store();
        let [one, two] = [b"1", b"2"].map(|content| store.put(content).unwrap().digest);
        let web: Reference = "r.example:5000/team/web:1".parse().unwrap();
        let app: Reference = "app".parse().unwrap();
        store.tag(&web, &one).unwrap();
        store.tag(&app, &one).unwrap();
        store.tag(&web, &two).unwrap();
        let listed: Vec<_> =
            store.references().unwrap().into_iter().map(|t| (t.reference, t.digest)).collect();
        assert_eq!(listed, [(app.clone(), one), (web.clone(), two)]);
        assert_eq!(store.resolve(&web.with_digest(one)).unwrap(), one);
        store.untag(&web).unwrap();
        assert!(matches!(store.resolve(&web), Err(LocalStoreError::UnknownReference { .. })));
        assert!(matches!(store.untag(&web), Err(LocalStoreError::UnknownReference { .. })));
    }
}
