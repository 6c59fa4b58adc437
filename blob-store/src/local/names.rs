//! What leads to content: references, which people see, and pins, which are a program's own.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
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

/// The longest file name, in bytes.
const MAX_FILE_NAME: usize = 255;

impl LocalStore {
    /// What a reference names.
    ///
    /// One that ends in a digest may stand for something else than the blob of that digest: a pull of a
    /// lone manifest gives it an index. Where it does not, it names that blob.
    ///
    /// # Errors
    ///
    /// [`LocalStoreError::UnknownReference`] or [`LocalStoreError::Io`].
    pub fn resolve(&self, reference: &Reference) -> Result<Digest, LocalStoreError> {
        if let Some(name) = NameFile::read(self.reference_path(reference))? {
            return name.tagged().map(|tagged| tagged.digest);
        }
        match reference.version() {
            Version::Digest(digest) if self.contains(digest) => Ok(*digest),
            _ => Err(LocalStoreError::UnknownReference { reference: reference.clone() }),
        }
    }

    /// Lets `reference` name `digest` from now on, whatever it named before.
    ///
    /// # Errors
    ///
    /// [`LocalStoreError::Io`]; the reference then names what it named before.
    pub fn tag(&self, reference: &Reference, digest: &Digest) -> Result<(), LocalStoreError> {
        self.publish(&self.reference_path(reference), &format!("{digest} {reference}\n"))
    }

    /// Forgets references. What they named stays until the next [`LocalStore::sweep`].
    ///
    /// Nothing is read: a reference whose file was damaged is forgotten like any other.
    ///
    /// # Errors
    ///
    /// [`LocalStoreError::UnknownReference`], before any is forgotten; [`LocalStoreError::Io`].
    pub fn untag(&self, references: &[Reference]) -> Result<(), LocalStoreError> {
        for reference in references {
            let path = self.reference_path(reference);
            if !path.try_exists().during("examine", &path)? {
                return Err(LocalStoreError::UnknownReference { reference: reference.clone() });
            }
        }
        references.iter().try_for_each(|reference| remove(&self.reference_path(reference)))
    }

    /// All references, in order of their names.
    ///
    /// # Errors
    ///
    /// [`LocalStoreError::Io`], also where one cannot be understood: nobody is told that it is not there.
    pub fn references(&self) -> Result<Vec<Tagged>, LocalStoreError> {
        let names = self.names("refs")?;
        let mut found = names.iter().map(NameFile::tagged).collect::<Result<Vec<_>, _>>()?;
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
        self.publish(&self.root.join("pins").join(name), &format!("{digest}\n"))
    }

    /// Takes a pin back. One that is not there is none.
    ///
    /// # Errors
    ///
    /// [`LocalStoreError::Io`].
    pub fn unpin(&self, name: &str) -> Result<(), LocalStoreError> {
        remove(&self.root.join("pins").join(name))
    }

    /// All pins, by name.
    pub(super) fn pins(&self) -> Result<Vec<(String, Digest)>, LocalStoreError> {
        let pin = |name: &NameFile| {
            let text = name.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            Ok((text, name.understand(name.content.trim_end().parse())?))
        };
        self.names("pins")?.iter().map(pin).collect()
    }

    fn names(&self, folder: &str) -> Result<Vec<NameFile>, LocalStoreError> {
        let files = self.files(folder)?.into_iter();
        files.filter_map(|path| NameFile::read(path).transpose()).collect()
    }

    /// Readable where it fits into a file name; else the hash of what does not fit. No reference has a
    /// `%`, so the two cannot be confused.
    fn reference_path(&self, reference: &Reference) -> PathBuf {
        let text = reference.to_string();
        let mut name = text.replace('/', "%2F");
        if name.len() > MAX_FILE_NAME {
            name = format!("%{}", Digest::sha256(text.as_bytes()).hex());
        }
        self.root.join("refs").join(name)
    }

    /// Lets the file `path` hold `content`, at once and durably, after every blob that it may lead to.
    fn publish(&self, path: &Path, content: &str) -> Result<(), LocalStoreError> {
        for folder in ["blobs/sha256", "blobs/sha512"] {
            sync_folder(&self.root.join(folder))?;
        }
        let mut writer = self.writer()?;
        writer.write_all(content.as_bytes()).during("write", &writer.path.clone())?;
        writer.file.sync_all().during("flush", &writer.path)?;
        fs::rename(&writer.path, path).during("publish", path)?;
        writer.committed = true;
        sync_folder(path.parent().expect("a name lies in a folder"))
    }
}

/// A file that holds what a name stands for.
#[derive(Debug)]
struct NameFile {
    path: PathBuf,
    content: String,
    since: SystemTime,
}

impl NameFile {
    /// `None` if there is none, or none any more.
    fn read(path: PathBuf) -> Result<Option<Self>, LocalStoreError> {
        let mut file = match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened.during("open", &path)?,
        };
        let mut content = String::new();
        file.read_to_string(&mut content).during("read", &path)?;
        let since = file.metadata().and_then(|metadata| metadata.modified()).during("examine", &path)?;
        Ok(Some(Self { path, content, since }))
    }

    /// `<digest> <reference>`, as [`LocalStore::tag`] writes it.
    fn tagged(&self) -> Result<Tagged, LocalStoreError> {
        let (digest, reference) = self.content.trim_end().split_once(' ').unwrap_or_default();
        let digest = self.understand(digest.parse())?;
        let reference = self.understand(reference.parse())?;
        Ok(Tagged { reference, digest, since: self.since })
    }

    fn understand<T>(
        &self,
        parsed: Result<T, impl std::error::Error + Send + Sync + 'static>,
    ) -> Result<T, LocalStoreError> {
        parsed
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
            .during("understand", &self.path)
    }
}

/// Removes a file that may be gone already.
fn remove(path: &Path) -> Result<(), LocalStoreError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed.during("remove", path),
    }
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
        store.untag(std::slice::from_ref(&web)).unwrap();
        assert!(matches!(store.resolve(&web), Err(LocalStoreError::UnknownReference { .. })));
    }

    #[test]
    fn all_references_are_forgotten_or_none() {
        let (_folder, store) = store();
        let digest = store.put(b"1").unwrap().digest;
        let [here, missing]: [Reference; 2] = ["a:1", "a:2"].map(|text| text.parse().unwrap());
        store.tag(&here, &digest).unwrap();
        let both = [here.clone(), missing.clone()];
        let error = store.untag(&both).unwrap_err();
        assert!(matches!(error, LocalStoreError::UnknownReference { reference } if reference == missing));
        assert_eq!(store.resolve(&here).unwrap(), digest);
        store.untag(&[here.clone(), here.clone()]).unwrap();
        assert!(store.references().unwrap().is_empty());
    }

    #[test]
    fn a_reference_with_a_digest_names_what_was_tagged_so_and_else_the_blob() {
        let (_folder, store) = store();
        let [manifest, index] = [b"m", b"i"].map(|content| store.put(content).unwrap().digest);
        let reference = "web".parse::<Reference>().unwrap().with_digest(manifest);
        assert_eq!(store.resolve(&reference).unwrap(), manifest);
        store.tag(&reference, &index).unwrap();
        assert_eq!(store.resolve(&reference).unwrap(), index);
        let missing = reference.with_digest(Digest::sha256(b"missing"));
        assert!(matches!(store.resolve(&missing), Err(LocalStoreError::UnknownReference { .. })));
    }

    #[test]
    fn a_reference_of_any_length_can_be_kept() {
        let (_folder, store) = store();
        let digest = store.put(b"1").unwrap().digest;
        let texts = [
            format!("h.example/{}:{}", "a/".repeat(100) + "a", "t".repeat(128)),
            format!("h.example/{}:{}", "a/".repeat(100) + "b", "t".repeat(128)),
            format!("{}.example/web:1", "h".repeat(300)),
        ];
        for text in &texts {
            let reference: Reference = text.parse().unwrap();
            store.tag(&reference, &digest).unwrap();
            assert_eq!(store.resolve(&reference).unwrap(), digest);
        }
        let listed: Vec<_> = store.references().unwrap().iter().map(|t| t.reference.to_string()).collect();
        assert_eq!(listed, texts);
        store.untag(&texts.map(|text| text.parse().unwrap())).unwrap();
        assert!(store.references().unwrap().is_empty());
    }

    #[test]
    fn a_damaged_reference_is_an_error_until_it_is_forgotten() {
        let (_folder, store) = store();
        let digest = store.put(b"1").unwrap().digest;
        let reference: Reference = "web:1".parse().unwrap();
        let path = store.root().join("refs/web:1");
        for damaged in ["", "sha256:12 web:1", &digest.to_string(), "\u{fffd} web:1"] {
            store.tag(&reference, &digest).unwrap();
            fs::write(&path, damaged).unwrap();
            for error in [store.references().unwrap_err(), store.resolve(&reference).unwrap_err()] {
                assert!(error.to_string().ends_with("refs/web:1`"), "{error}");
            }
            store.untag(std::slice::from_ref(&reference)).unwrap();
            assert!(store.references().unwrap().is_empty());
        }
    }
}
