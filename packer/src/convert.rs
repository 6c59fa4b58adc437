//! A disk in, an image file of any format out.

use std::io;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::thread;

use formats::image::{self, ImageWriteError, Target, WriteOptions};
use formats::{Disk, ReadError};

use crate::new_file::{NewFile, NewFileError};

/// Why an image file was not written. What was at its path before is still there.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WriteImageError {
    /// There is something that an image cannot take the place of.
    #[error("`{}` is {kind}; expected a file, or nothing yet", path.display())]
    NotAFile {
        /// Where the image was to go.
        path: PathBuf,
        /// What is there.
        kind: &'static str,
    },
    /// The file cannot be made, or not be put in its place.
    #[error("cannot write the image `{}`", path.display())]
    File {
        /// The image.
        path: PathBuf,
        /// The reason.
        #[source]
        source: io::Error,
    },
    /// The disk cannot be read.
    #[error("cannot read the disk")]
    Read(#[source] ReadError),
    /// The disk cannot be written as such an image.
    #[error("cannot write the image `{}`", path.display())]
    Image {
        /// The image.
        path: PathBuf,
        /// The reason.
        #[source]
        source: ImageWriteError,
    },
}

/// How an image file is written.
#[derive(Debug, Clone, Copy)]
pub struct WriteImageOptions {
    /// The threads that read, decompress and compress.
    pub threads: NonZeroUsize,
    /// What UUIDs and content identifiers in the image are made of; by default, chance.
    pub identity: [u8; 16],
}

impl WriteImageOptions {
    /// A thread for each processor, and an identity that no other image has.
    ///
    /// # Errors
    ///
    /// Those of asking the kernel for random bytes.
    pub fn new() -> io::Result<Self> {
        let mut identity = [0; 16];
        rustix::rand::getrandom(&mut identity, rustix::rand::GetRandomFlags::empty())?;
        Ok(Self { threads: thread::available_parallelism().unwrap_or(NonZeroUsize::MIN), identity })
    }
}

/// Writes `disk` to `path` as an image, in place of the file that was there before, and gives back the image's length in
/// bytes. Where `path` is a link, what it leads to is replaced. `progress` is told how much of the disk is
/// done.
///
/// As with other tools that copy disks, the image is not flushed to its device: a power cut soon after may
/// lose it.
///
/// # Errors
///
/// [`WriteImageError`].
pub fn write_image(
    disk: &dyn Disk,
    target: Target,
    path: &Path,
    options: &WriteImageOptions,
    progress: &image::Progress<'_>,
) -> Result<u64, WriteImageError> {
    let failed = |source| WriteImageError::File { path: path.to_owned(), source };
    let new = NewFile::create(path).map_err(|error| match error {
        NewFileError::NotAFile(kind) => WriteImageError::NotAFile { path: path.to_owned(), kind },
        NewFileError::Io(source) => failed(source),
    })?;
    let file = new.file().try_clone().map_err(failed)?;
    let WriteImageOptions { threads, identity } = *options;
    image::write(disk, target, file, &WriteOptions { threads, identity }, progress).map_err(|error| {
        match error {
            ImageWriteError::Read(source) => WriteImageError::Read(source),
            source => WriteImageError::Image { path: path.to_owned(), source },
        }
    })?;
    new.publish().map_err(failed)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::image::{ImageFiles, open_image};

    #[test]
    fn an_image_can_take_the_place_of_the_one_it_was_made_from() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk");
        let content = [7; 100 * 512];
        fs::write(&path, content).unwrap();
        let open = || {
            let files =
                ImageFiles { image: &path, format: None, backing: &[], parts: None, max_size_bytes: 1 << 20 };
            open_image(&files).unwrap()
        };
        let options = WriteImageOptions::new().unwrap();
        let image = open();
        let target = Target::Qcow2(image::Compression::Zlib);
        let bytes = write_image(&*image.disk, target, &path, &options, &|_| ()).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().len(), bytes);
        let image = open();
        assert_eq!(image.format, image::Format::Qcow2);
        let mut read = content.map(|_| 0);
        image.disk.read_at(0, &mut read).unwrap();
        assert_eq!(read, content);
    }

    #[test]
    fn a_failure_leaves_what_was_there() {
        let folder = tempfile::tempdir().unwrap();
        let [empty, old] = ["empty", "old"].map(|name| folder.path().join(name));
        fs::write(&empty, "").unwrap();
        fs::write(&old, "old").unwrap();
        let files =
            ImageFiles { image: &empty, format: None, backing: &[], parts: None, max_size_bytes: 1 << 20 };
        let image = open_image(&files).unwrap();
        let options = WriteImageOptions::new().unwrap();
        let target = Target::VmdkStream(image::VmdkAdapter::default());
        let error = write_image(&*image.disk, target, &old, &options, &|_| ()).unwrap_err();
        assert!(matches!(&error, WriteImageError::Image { path, .. } if *path == old), "{error}");
        assert_eq!(fs::read(&old).unwrap(), b"old");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
    }
}
