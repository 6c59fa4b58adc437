//! An appliance as one file: an OCI image-layout in a tar archive.
//!
//! Readable by `skopeo copy --all oci-archive:FILE`. Equal appliances give equal archives. The file
//! appears under its name when it is complete; nothing half-written is ever left there.
//!
//! Source: OCI image-spec 1.1, "Image Layout".

use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use appliance::{Blob, Digest, Reference, Version, media_type};
use blob_store::{LocalStore, LocalStoreError};
use serde_json::json;

use crate::contents::{Contents, ContentsError};
use crate::new_file::{NewFile, NewFileError};

/// Why an archive could not be written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ArchiveError {
    /// The appliance could not be read from the store.
    #[error(transparent)]
    Contents(#[from] ContentsError),
    /// A blob could not be read from the store.
    #[error(transparent)]
    Store(#[from] LocalStoreError),
    /// There is something that an archive cannot take the place of.
    #[error("`{}` is {kind}; expected a file, or nothing yet", path.display())]
    NotAFile {
        /// Where the archive was to go.
        path: PathBuf,
        /// What is there.
        kind: &'static str,
    },
    /// The archive could not be written.
    #[error("cannot write the archive `{}`", path.display())]
    Write {
        /// The archive.
        path: PathBuf,
        /// The reason.
        #[source]
        source: io::Error,
    },
}

/// Writes the appliance behind the index `digest` to `path`, in place of the file that was there before,
/// and returns the archive's size in bytes. Where `path` is a link, what it leads to is replaced.
///
/// # Errors
///
/// [`ArchiveError`]; what was at `path` before is then still there.
pub fn write_archive(
    store: &LocalStore,
    reference: &Reference,
    digest: &Digest,
    path: &Path,
) -> Result<u64, ArchiveError> {
    let failed = |source| ArchiveError::Write { path: path.to_owned(), source };
    let contents = Contents::read(store, digest)?;
    let new = NewFile::create(path).map_err(|error| match error {
        NewFileError::NotAFile(kind) => ArchiveError::NotAFile { path: path.to_owned(), kind },
        NewFileError::Io(source) => failed(source),
    })?;
    let mut tar = tar::Builder::new(BufWriter::with_capacity(1 << 20, new.file()));
    add(&mut tar, "oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#).map_err(failed)?;
    let index = Blob { digest: *digest, size_bytes: contents.index_bytes.len() as u64 };
    add(&mut tar, "index.json", &layout_index(reference, index)).map_err(failed)?;
    for blob in contents.blobs() {
        let source = store.blob(&blob.digest)?;
        let name = format!("blobs/{}/{}", blob.digest.algorithm().as_str(), blob.digest.hex());
        let header = header(&name, source.size_bytes()).map_err(failed)?;
        let checked =
            Checked { hasher: appliance::Hasher::new(blob.digest.algorithm()), from: source.file() };
        append_checked(&mut tar, &header, checked, &blob.digest)?.map_err(failed)?;
    }
    let buffered = tar.into_inner().map_err(failed)?;
    buffered.into_inner().map_err(|error| failed(error.into_error()))?;
    new.publish_durably().map_err(failed)
}

/// The layout's own `index.json`: one entry, with the tag as the name that tools look for.
fn layout_index(reference: &Reference, index: Blob) -> Vec<u8> {
    let mut entry = json!({
        "mediaType": media_type::INDEX, "digest": index.digest, "size": index.size_bytes,
    });
    if let Version::Tag(tag) = reference.version() {
        entry["annotations"] = json!({ "org.opencontainers.image.ref.name": tag });
    }
    appliance::canonical::to_vec(&json!({
        "schemaVersion": 2, "mediaType": media_type::INDEX, "manifests": [entry],
    }))
}

pub(crate) fn header(name: &str, size_bytes: u64) -> io::Result<tar::Header> {
    let mut header = tar::Header::new_ustar();
    header.set_path(name)?;
    header.set_size(size_bytes);
    header.set_mode(0o644);
    header.set_mtime(0);
    header.set_cksum();
    Ok(header)
}

pub(crate) fn add(tar: &mut tar::Builder<impl Write>, name: &str, content: &[u8]) -> io::Result<()> {
    tar.append(&header(name, content.len() as u64)?, content)
}

/// Hashes what passes through, so that a blob damaged on this disk never gets into an archive.
#[derive(Debug)]
struct Checked<'a> {
    hasher: appliance::Hasher,
    from: &'a File,
}

impl Read for Checked<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let read = self.from.read(buf)?;
        self.hasher.update(&buf[..read]);
        Ok(read)
    }
}

fn append_checked(
    tar: &mut tar::Builder<impl Write>,
    header: &tar::Header,
    mut checked: Checked<'_>,
    wanted: &Digest,
) -> Result<io::Result<()>, LocalStoreError> {
    let appended = tar.append(header, &mut checked);
    let found = checked.hasher.finish();
    match (&appended, found == *wanted) {
        (Ok(()), false) => {
            let found_bytes = header.size().unwrap_or_default();
            Err(LocalStoreError::WrongDigest { found, found_bytes, wanted: *wanted })
        }
        _ => Ok(appended),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;

    use appliance::manifest::{ApplianceIndex, PlatformManifest};
    use rustix::fs::{FileType, Mode};

    use super::*;

    /// A folder with a store in it, and the index of an appliance for platforms that were not pulled.
    fn stored() -> (tempfile::TempDir, LocalStore, Digest) {
        let folder = tempfile::tempdir().unwrap();
        let store = LocalStore::open(folder.path().join("store")).unwrap();
        let manifest = Blob { digest: Digest::sha256(b"arm"), size_bytes: 3 };
        let appliances = vec![PlatformManifest { platform: "linux/arm64".to_owned(), manifest }];
        let index = store.put(&ApplianceIndex { appliances }.to_bytes()).unwrap().digest;
        (folder, store, index)
    }

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn an_archive_replaces_a_file_or_what_a_link_leads_to() {
        let (folder, store, index) = stored();
        let write = |path: &Path| write_archive(&store, &"web:1".parse().unwrap(), &index, path).unwrap();
        let new = folder.path().join("new.tar");
        let bytes = write(&new);
        let want = fs::read(&new).unwrap();
        assert_eq!(want.len() as u64, bytes);

        let [elsewhere, link] = ["elsewhere/web.tar", "link.tar"].map(|name| folder.path().join(name));
        fs::create_dir(elsewhere.parent().unwrap()).unwrap();
        fs::write(&elsewhere, "old").unwrap();
        symlink("elsewhere/web.tar", &link).unwrap();
        write(&link);
        assert!(link.is_symlink());
        assert_eq!(fs::read(&elsewhere).unwrap(), want);
        assert_eq!(names(elsewhere.parent().unwrap()), ["web.tar"]);
        assert_eq!(names(folder.path()), ["elsewhere", "link.tar", "new.tar", "store"]);
    }

    #[test]
    fn an_archive_takes_the_place_of_nothing_but_a_file() {
        let (folder, store, index) = stored();
        let at = |name: &str| folder.path().join(name);
        fs::create_dir(at("folder")).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, at("pipe"), FileType::Fifo, Mode::RUSR, 0).unwrap();
        let _socket = UnixListener::bind(at("socket")).unwrap();
        symlink("nowhere", at("dangling")).unwrap();
        symlink("/dev/null", at("null")).unwrap();
        let before = names(folder.path());
        for (name, kind) in [
            ("folder", "is a directory;"),
            ("pipe", "is a pipe;"),
            ("socket", "is a socket;"),
            ("dangling", "is a link that leads nowhere;"),
            ("null", "is a device;"),
        ] {
            let reference = "web:1".parse().unwrap();
            let error = write_archive(&store, &reference, &index, &at(name)).unwrap_err();
            assert!(matches!(error, ArchiveError::NotAFile { .. }), "{error}");
            assert!(error.to_string().contains(kind), "{error}");
        }
        assert_eq!(names(folder.path()), before);
    }
}
