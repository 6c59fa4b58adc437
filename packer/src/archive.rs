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

/// Writes the appliance behind the index `digest` to `path`, whatever was there before, and returns
/// the archive's size in bytes.
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
    let contents = Contents::read(store, digest)?;
    let failed = |source| ArchiveError::Write { path: path.to_owned(), source };
    let unfinished = Unfinished::create(path).map_err(failed)?;
    let mut tar = tar::Builder::new(BufWriter::with_capacity(1 << 20, &unfinished.file));
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
    unfinished.publish(path).map_err(failed)
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

fn header(name: &str, size_bytes: u64) -> io::Result<tar::Header> {
    let mut header = tar::Header::new_ustar();
    header.set_path(name)?;
    header.set_size(size_bytes);
    header.set_mode(0o644);
    header.set_mtime(0);
    header.set_cksum();
    Ok(header)
}

fn add(tar: &mut tar::Builder<impl Write>, name: &str, content: &[u8]) -> io::Result<()> {
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

/// A file beside the one that it will become; gone again unless it is published.
#[derive(Debug)]
struct Unfinished {
    path: PathBuf,
    file: File,
    published: bool,
}

impl Unfinished {
    fn create(target: &Path) -> io::Result<Self> {
        let mut name = target.file_name().unwrap_or_default().to_owned();
        name.push(format!(".{}.part", std::process::id()));
        let path = target.with_file_name(name);
        let file = File::create(&path)?;
        Ok(Self { path, file, published: false })
    }

    fn publish(mut self, target: &Path) -> io::Result<u64> {
        self.file.sync_all()?;
        std::fs::rename(&self.path, target)?;
        self.published = true;
        Ok(self.file.metadata()?.len())
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if !self.published {
            // Best effort: the error that led here is what the caller hears of.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}
