//! Image files of a person's choice, opened as disks: the image, and all that may be used for it.
//!
//! Which files are opened is the caller's word alone; nothing that an image says of its backing file or its
//! parts leads to another one.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use formats::image::{
    self, Format, Image, ImageRequest, Layer, Limits, Missing, OpenError, Parts, ReadCache, Refusal, Source,
};
use rustix::fs::{Mode, OFlags};

use crate::parts::FolderParts;

/// An image file, and the files that may be used for it.
#[derive(Debug, Clone)]
pub struct ImageFiles<'a> {
    /// The image.
    pub image: &'a Path,
    /// What it is read as; found out where that is `None`.
    pub format: Option<Format>,
    /// The images that it is a difference to, the nearest first. All of them must be used.
    pub backing: &'a [PathBuf],
    /// The folder whose files an image cut into several may name.
    pub parts: Option<&'a Path>,
    /// The largest disk that is accepted, in bytes.
    pub max_size_bytes: u64,
}

/// Why an image file is not opened as a disk.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenImageError {
    /// A file or folder that was handed over cannot be opened.
    #[error("cannot open `{}`", path.display())]
    File {
        /// The file or folder.
        path: PathBuf,
        /// The reason.
        #[source]
        source: io::Error,
    },
    /// One of the files is no image that can be read.
    #[error(transparent)]
    Image(#[from] OpenError),
}

impl OpenImageError {
    /// True if the disk is larger than was asked for.
    pub fn is_too_large(&self) -> bool {
        matches!(self, Self::Image(error) if matches!(error.reason, Refusal::TooLarge { .. }))
    }

    /// What has to be handed over too, where that is all that is wrong.
    pub fn missing(&self) -> Option<Missing> {
        match self {
            Self::Image(error) => error.reason.missing(),
            Self::File { .. } => None,
        }
    }
}

/// Opens an image file as a disk.
///
/// # Errors
///
/// [`OpenImageError`].
pub fn open_image(files: &ImageFiles<'_>) -> Result<Image, OpenImageError> {
    let failed = |path: &Path, source| OpenImageError::File { path: path.to_owned(), source };
    let parts = files
        .parts
        .map(|folder| FolderParts::open(folder).map_err(|source| failed(folder, source)))
        .transpose()?;
    let paths: Vec<&Path> =
        std::iter::once(files.image).chain(files.backing.iter().map(PathBuf::as_path)).collect();
    let names: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
    let mut layers = Vec::new();
    for (path, name) in paths.into_iter().zip(&names) {
        let file = open_file(path).map_err(|source| failed(path, source))?;
        let source = Source::new(file).map_err(|reason| OpenError { name: name.clone(), reason })?;
        let format = if layers.is_empty() { files.format } else { None };
        layers.push(Layer { source, name, format });
    }
    let backing = layers.split_off(1);
    let layer = layers.remove(0);
    let parts = parts.as_ref().map(|parts| parts as &dyn Parts);
    let limits = Limits { max_size_bytes: files.max_size_bytes };
    Ok(image::open(ImageRequest { layer, backing, parts, limits, cache: ReadCache::new() })?)
}

/// A pipe is opened without waiting for a writer; [`Source`] refuses it then.
fn open_file(path: &Path) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    Ok(rustix::fs::open(path, flags, Mode::empty())?.into())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn files(image: &Path) -> ImageFiles<'_> {
        ImageFiles { image, format: None, backing: &[], parts: None, max_size_bytes: 1 << 20 }
    }

    #[test]
    fn errors_name_the_file_that_is_at_fault() {
        let folder = tempfile::tempdir().unwrap();
        let [image, missing, large] = ["a.raw", "missing", "large"].map(|name| folder.path().join(name));
        fs::write(&image, [1; 512]).unwrap();
        fs::File::create(&large).unwrap().set_len(2 << 20).unwrap();
        assert_eq!(open_image(&files(&image)).unwrap().disk.size_bytes(), 512);

        let backing = [missing.clone()];
        for request in [
            files(&missing),
            ImageFiles { backing: &backing, ..files(&image) },
            ImageFiles { parts: Some(&missing), ..files(&image) },
        ] {
            let error = open_image(&request).unwrap_err();
            assert!(matches!(&error, OpenImageError::File { path, .. } if *path == missing), "{error}");
        }
        assert!(open_image(&files(&large)).unwrap_err().is_too_large());
        let backing = [image.clone()];
        let error = open_image(&ImageFiles { backing: &backing, ..files(&image) }).unwrap_err();
        let OpenImageError::Image(OpenError { reason: Refusal::UnusedBacking { .. }, .. }) = error else {
            panic!("{error}")
        };
    }
}
