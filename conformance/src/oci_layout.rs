//! An OCI image layout, in a tar archive or in a folder: which files there are, and their bytes.
//!
//! Names in the archive are keys, never paths: nothing is unpacked and no link is followed. In a folder,
//! only plain files called as the layout says are opened. A blob is read where it lies, in pieces.
//!
//! Source: image-spec 1.1, "OCI Image Layout Specification".

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use serde_json::Value;
use tar::EntryType;

use crate::descriptor::{Descriptor, Digest};
use crate::report::Report;
use crate::rules::Rule;

/// The largest index, manifest, config or policy that is read.
pub(crate) const MAX_DOCUMENT_BYTES: u64 = 4 << 20;
/// The most files in a layout. Twice the packs of the largest disk, and room for everything else.
const MAX_FILES: usize = 40_000;
/// The longest name that an extension header of the archive may give.
const MAX_EXTENSION_BYTES: u64 = 64 << 10;
/// How much is hashed at once.
const PIECE_BYTES: usize = 256 << 10;

/// Why an archive cannot be judged at all.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// It cannot be opened or listed.
    #[error("`{}` cannot be read", path.display())]
    Unreadable {
        /// The archive or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It is a device, a pipe or a socket.
    #[error("`{}` is neither a file nor a folder", path.display())]
    NotAFile {
        /// What was given.
        path: PathBuf,
    },
}

/// The files of an OCI image layout.
#[derive(Debug, Default)]
pub(crate) struct Layout {
    /// `oci-layout` and `index.json`.
    files: BTreeMap<String, Blob>,
    blobs: BTreeMap<Digest, Blob>,
}

/// A file of the layout, not yet read.
#[derive(Debug)]
pub(crate) struct Blob {
    place: Place,
    pub(crate) size_bytes: u64,
}

#[derive(Debug)]
enum Place {
    Archive { file: Rc<File>, offset: u64 },
    Folder(PathBuf),
}

impl Layout {
    /// Lists the archive or folder at `path`.
    ///
    /// What is wrong inside goes to `report`; the files found up to there can still be judged.
    pub(crate) fn open(path: &Path, report: &mut Report) -> Result<Self, OpenError> {
        let unreadable = |source| OpenError::Unreadable { path: path.to_owned(), source };
        let kind = fs::metadata(path).map_err(unreadable)?.file_type();
        let mut layout = Self::default();
        if kind.is_dir() {
            layout.list_folder(path, report).map_err(unreadable)?;
        } else if kind.is_file() {
            let file = File::open(path).map_err(unreadable)?;
            if let Err(error) = layout.list_archive(Rc::new(file), report) {
                report.fail(Rule::ArchiveFiles, || format!("the archive cannot be read further: {error}"));
            }
        } else {
            return Err(OpenError::NotAFile { path: path.to_owned() });
        }
        Ok(layout)
    }

    /// `oci-layout` or `index.json`, as JSON.
    pub(crate) fn file(&self, name: &str, report: &mut Report) -> Option<Value> {
        let Some(blob) = self.files.get(name) else {
            report.fail(Rule::Documents, || format!("there is no `{name}`"));
            return None;
        };
        let (_, value) = report.accept(Rule::Documents, document(blob, name))?;
        Some(value)
    }

    /// The blob that `descriptor` names.
    pub(crate) fn blob(&self, descriptor: &Descriptor, what: &str, report: &mut Report) -> Option<&Blob> {
        let digest = &descriptor.digest;
        let found = self.blobs.get(digest);
        report.check(Rule::BlobsPresent, found.is_some(), || format!("{what}: there is no blob {digest}"));
        let (found, wanted) = (found?, descriptor.size_bytes);
        report.check(Rule::BlobSizes, found.size_bytes == wanted, || {
            format!("{what}: {digest} has {} bytes; its descriptor says {wanted}", found.size_bytes)
        });
        Some(found)
    }

    /// The blob with this digest, whoever names it.
    pub(crate) fn by_digest(&self, digest: &Digest) -> Option<&Blob> {
        self.blobs.get(digest)
    }

    /// The JSON document that `descriptor` names, with its bytes.
    pub(crate) fn document(
        &self,
        descriptor: &Descriptor,
        what: &str,
        report: &mut Report,
    ) -> Option<(Vec<u8>, Value)> {
        let blob = self.blob(descriptor, what, report)?;
        report.accept(Rule::Documents, document(blob, what))
    }

    /// Hashes every blob, also those that nothing names.
    pub(crate) fn check_digests(&self, report: &mut Report) {
        for (digest, blob) in &self.blobs {
            let result = blob.has_digest(digest).map_err(|error| format!("{digest} cannot be read: {error}"));
            let right = result.as_ref().is_ok_and(|right| *right);
            report.check(Rule::BlobDigests, right, || {
                result.err().unwrap_or_else(|| format!("the blob called {digest} has another digest"))
            });
        }
    }

    fn list_archive(&mut self, file: Rc<File>, report: &mut Report) -> io::Result<()> {
        let archive_bytes = file.metadata()?.len();
        let mut archive = tar::Archive::new(&*file);
        let mut long_name = None;
        for (number, entry) in archive.entries_with_seek()?.raw(true).enumerate() {
            let mut entry = entry?;
            if number > MAX_FILES {
                report.fail(Rule::ArchiveFiles, || format!("more than {MAX_FILES} entries"));
                break;
            }
            match entry.header().entry_type() {
                EntryType::XHeader | EntryType::GNULongName => {
                    long_name = extension_name(&mut entry)?.or(long_name);
                    continue;
                }
                EntryType::XGlobalHeader | EntryType::Directory => {}
                EntryType::Regular => {
                    let name = long_name.take().unwrap_or_else(|| entry.path_bytes().into_owned());
                    let name = String::from_utf8_lossy(&name).into_owned();
                    let (offset, size_bytes) = (entry.raw_file_position(), entry.header().entry_size()?);
                    let whole = offset.checked_add(size_bytes).is_some_and(|end| end <= archive_bytes);
                    report.check(Rule::ArchiveFiles, whole, || format!("`{name}` is cut short"));
                    let place = Place::Archive { file: Rc::clone(&file), offset };
                    self.add(name.trim_start_matches("./"), Blob { place, size_bytes }, report);
                }
                other => {
                    let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
                    report.fail(Rule::ArchiveFiles, || format!("`{name}` is of type {other:?}"));
                }
            }
            long_name = None;
        }
        Ok(())
    }

    fn list_folder(&mut self, folder: &Path, report: &mut Report) -> io::Result<()> {
        for name in ["oci-layout", "index.json"] {
            self.add_from_folder(folder, name, report);
        }
        let Ok(algorithms) = fs::read_dir(folder.join("blobs")) else {
            report.fail(Rule::ArchiveFiles, || "there is no folder `blobs`".to_owned());
            return Ok(());
        };
        for algorithm in algorithms {
            let algorithm = algorithm?;
            if !algorithm.file_type()?.is_dir() {
                let name = algorithm.file_name();
                report.fail(Rule::BlobNames, || format!("`blobs/{}` is no folder", name.display()));
                continue;
            }
            for blob in fs::read_dir(algorithm.path())?.take(MAX_FILES) {
                let (kind, name) = (algorithm.file_name(), blob?.file_name());
                let name = format!("blobs/{}/{}", kind.to_string_lossy(), name.to_string_lossy());
                self.add_from_folder(folder, &name, report);
            }
        }
        Ok(())
    }

    fn add_from_folder(&mut self, folder: &Path, name: &str, report: &mut Report) {
        let path = folder.join(name);
        match fs::symlink_metadata(&path) {
            Ok(found) if found.is_file() => {
                report.check(Rule::ArchiveFiles, true, String::new);
                self.add(name, Blob { place: Place::Folder(path), size_bytes: found.len() }, report);
            }
            Ok(_) => report.fail(Rule::ArchiveFiles, || format!("`{name}` is no plain file")),
            Err(error) => report.fail(Rule::ArchiveFiles, || format!("`{name}`: {error}")),
        }
    }

    fn add(&mut self, name: &str, blob: Blob, report: &mut Report) {
        let twice = if let Some(blob_name) = name.strip_prefix("blobs/") {
            let digest = blob_name.split_once('/').and_then(|(kind, hex)| Digest::from_parts(kind, hex));
            let called = report.check(Rule::BlobNames, digest.is_some(), || format!("`{name}`"));
            called && digest.is_some_and(|digest| self.blobs.insert(digest, blob).is_some())
        } else {
            self.files.insert(name.to_owned(), blob).is_some()
        };
        if twice {
            report.fail(Rule::ArchiveFiles, || format!("`{name}` is there twice"));
        }
    }
}

impl Blob {
    /// Fills `buffer` from `offset` on; an error if the blob ends before.
    pub(crate) fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let end = offset.checked_add(buffer.len() as u64);
        if end.is_none_or(|end| end > self.size_bytes) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        match &self.place {
            Place::Archive { file, offset: start } => file.read_exact_at(buffer, start + offset),
            Place::Folder(path) => File::open(path)?.read_exact_at(buffer, offset),
        }
    }

    /// `length` bytes from `offset` on. The caller has bounded `length`; nothing is allocated that is not
    /// there.
    pub(crate) fn read(&self, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        if offset.checked_add(length as u64).is_none_or(|end| end > self.size_bytes) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut bytes = vec![0; length];
        self.read_at(offset, &mut bytes)?;
        Ok(bytes)
    }

    fn has_digest(&self, digest: &Digest) -> io::Result<bool> {
        let mut hasher = digest.of_same_kind();
        let mut piece = vec![0; PIECE_BYTES];
        let mut offset = 0;
        while offset < self.size_bytes {
            let length = (self.size_bytes - offset).min(PIECE_BYTES as u64) as usize;
            self.read_at(offset, &mut piece[..length])?;
            hasher.update(&piece[..length]);
            offset += length as u64;
        }
        Ok(hasher.finish() == *digest)
    }
}

fn document(blob: &Blob, what: &str) -> Result<(Vec<u8>, Value), String> {
    if blob.size_bytes > MAX_DOCUMENT_BYTES {
        return Err(format!("{what} has {} bytes", blob.size_bytes));
    }
    let bytes =
        blob.read(0, blob.size_bytes as usize).map_err(|error| format!("{what} cannot be read: {error}"))?;
    let value = serde_json::from_slice(&bytes).map_err(|error| format!("{what} is no JSON: {error}"))?;
    Ok((bytes, value))
}

/// The name that an extension header gives the entry after it.
fn extension_name(entry: &mut tar::Entry<'_, &File>) -> io::Result<Option<Vec<u8>>> {
    let kind = entry.header().entry_type();
    if entry.header().entry_size()? > MAX_EXTENSION_BYTES {
        return Err(io::Error::other("an extension header of more than 64 KiB"));
    }
    let mut bytes = Vec::new();
    entry.read_to_end(&mut bytes)?;
    if kind == EntryType::GNULongName {
        bytes.truncate(bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len()));
        return Ok(Some(bytes));
    }
    let mut name = None;
    for extension in tar::PaxExtensions::new(&bytes) {
        let extension = extension?;
        match extension.key_bytes() {
            b"path" => name = Some(extension.value_bytes().to_vec()),
            b"size" => return Err(io::Error::other("a file of more than 8 GiB")),
            _ => {}
        }
    }
    Ok(name)
}
