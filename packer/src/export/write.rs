//! What was planned, written: a file, or a folder of files, that is there when it is complete.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write as _};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::thread;

use appliance::Digest;
use formats::image::{self, ImageWriteError, WriteOptions};
use formats::ovf::{OvaWriteError, OvfWriteError};
use formats::{Disk, ReadError, Run, RunKind};

use super::{Content, Plan, Planned, PlannedDisk, container_disk, ova};
use crate::Progress;
use crate::new_file::{NewFile, NewFileError};
use crate::new_folder::{NewFolder, NewFolderError};

/// How an export is written.
#[derive(Debug, Clone, Copy)]
pub struct ExportOptions {
    /// The threads that read, decompress and compress.
    pub threads: NonZeroUsize,
    /// What is exported: the digest of the appliance's manifest. UUIDs and content identifiers are made of it, so that
    /// the same appliance gives the same bytes.
    pub manifest: Digest,
}

impl ExportOptions {
    /// A thread for each processor.
    pub fn new(manifest: Digest) -> Self {
        Self { threads: thread::available_parallelism().unwrap_or(NonZeroUsize::MIN), manifest }
    }
}

/// Why nothing was exported. What was at the path before is still there.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExportError {
    /// There is something that a file cannot take the place of.
    #[error("`{}` is {kind}; expected a file, or nothing yet", path.display())]
    NotAFile {
        /// Where the file was to go.
        path: PathBuf,
        /// What is there.
        kind: &'static str,
    },
    /// There is something that a folder cannot take the place of.
    #[error("`{}` is there already; expected an empty folder, or nothing yet", path.display())]
    NotFree {
        /// Where the folder was to go.
        path: PathBuf,
    },
    /// A file or folder could not be written.
    #[error("cannot write `{}`", path.display())]
    Write {
        /// The file or folder.
        path: PathBuf,
        /// The reason.
        #[source]
        source: io::Error,
    },
    /// A disk could not be written.
    #[error("cannot write `{}`", path.display())]
    Image {
        /// The file that it was written to.
        path: PathBuf,
        /// The reason.
        #[source]
        source: ImageWriteError,
    },
    /// The descriptor of an OVA could not be written.
    #[error("cannot write `{}`", path.display())]
    Ovf {
        /// The OVA.
        path: PathBuf,
        /// The reason.
        #[source]
        source: OvfWriteError,
    },
    /// An OVA could not be written.
    #[error("cannot write `{}`", path.display())]
    Ova {
        /// The OVA.
        path: PathBuf,
        /// The reason.
        #[source]
        source: OvaWriteError,
    },
}

impl Plan {
    /// The disks of the appliance that are needed to write it.
    pub fn disks(&self) -> Vec<&str> {
        let contents: Vec<&Content> = match &self.output {
            Planned::File(content) => vec![content],
            Planned::Folder(files) => files.iter().map(|(_, content)| content).collect(),
        };
        contents.into_iter().flat_map(Content::disks).filter_map(PlannedDisk::name).collect()
    }

    /// Writes what was planned to `path`, and gives back how many bytes that are. `disks` has those that
    /// [`Plan::disks`] names.
    ///
    /// # Errors
    ///
    /// [`ExportError`].
    ///
    /// # Panics
    ///
    /// If a disk is not among `disks`.
    pub fn write(
        &self,
        path: &Path,
        disks: &BTreeMap<String, Box<dyn Disk>>,
        options: &ExportOptions,
        progress: &dyn Progress,
    ) -> Result<u64, ExportError> {
        let writer = Writer { output: path, disks, options, progress };
        match &self.output {
            Planned::File(content) => {
                let new = NewFile::create(path).map_err(|error| match error {
                    NewFileError::NotAFile(kind) => ExportError::NotAFile { path: path.to_owned(), kind },
                    NewFileError::Io(source) => ExportError::Write { path: path.to_owned(), source },
                })?;
                writer.write(content, path, new.file())?;
                new.publish().map_err(|source| ExportError::Write { path: path.to_owned(), source })
            }
            Planned::Folder(files) => {
                let not_made = |error| match error {
                    NewFolderError::NotFree => ExportError::NotFree { path: path.to_owned() },
                    NewFolderError::Io(source) => ExportError::Write { path: path.to_owned(), source },
                };
                let mut new = NewFolder::create(path).map_err(not_made)?;
                let mut bytes = 0;
                for (name, content) in files {
                    let path = new.path(name);
                    let failed = |source| ExportError::Write { path: path.clone(), source };
                    let file = new.file(name).map_err(failed)?;
                    writer.write(content, &path, &file)?;
                    bytes += file.metadata().map_err(failed)?.len();
                }
                new.publish().map_err(not_made)?;
                Ok(bytes)
            }
        }
    }
}

impl Content {
    fn disks(&self) -> Vec<&PlannedDisk> {
        match self {
            Self::Text(_) => Vec::new(),
            Self::Image { disk, .. } | Self::ContainerDisk { disk, .. } => vec![disk],
            Self::Ova(package) => package.disks.iter().map(|(disk, _)| disk).collect(),
        }
    }
}

impl PlannedDisk {
    fn name(&self) -> Option<&str> {
        match self {
            Self::OfAppliance { name } => Some(name),
            Self::Empty { .. } => None,
        }
    }
}

/// What writing a file needs.
pub(super) struct Writer<'a> {
    /// Where everything goes.
    output: &'a Path,
    disks: &'a BTreeMap<String, Box<dyn Disk>>,
    options: &'a ExportOptions,
    progress: &'a dyn Progress,
}

impl Writer<'_> {
    /// Writes `content` to `file`, which is empty; messages call it `path`.
    fn write(&self, content: &Content, path: &Path, mut file: &File) -> Result<(), ExportError> {
        let failed = |source| ExportError::Write { path: path.to_owned(), source };
        match content {
            Content::Text(text) => file.write_all(text.as_bytes()).map_err(failed),
            Content::Image { disk, target } => self.image(disk, *target, path, file),
            Content::ContainerDisk { disk, image, arch, tag } => {
                let disk_image = self.scratch().map_err(failed)?;
                self.image(disk, *image, path, disk_image.file())?;
                container_disk::write(disk_image.file(), *arch, tag, file).map_err(failed)
            }
            Content::Ova(package) => ova::write(self, package, path, file),
        }
    }

    /// A file that is gone when it goes out of scope.
    pub(super) fn scratch(&self) -> io::Result<NewFile> {
        NewFile::scratch(self.output)
    }

    /// Writes a disk to `file`, which is empty.
    pub(super) fn image(
        &self,
        disk: &PlannedDisk,
        target: image::Target,
        path: &Path,
        file: &File,
    ) -> Result<(), ExportError> {
        let failed = |source| ExportError::Write { path: path.to_owned(), source };
        let empty;
        let (name, disk): (_, &dyn Disk) = match disk {
            PlannedDisk::OfAppliance { name } => (
                name.as_str(),
                &**self.disks.get(name).expect("the caller has the disks that the plan names"),
            ),
            PlannedDisk::Empty { size_bytes } => {
                empty = EmptyDisk { size_bytes: *size_bytes };
                ("", &empty)
            }
        };
        let progress = |done_bytes| {
            if !name.is_empty() {
                self.progress.packed(name, done_bytes, disk.size_bytes());
            }
        };
        let file_name = path.file_name().unwrap_or_default().as_encoded_bytes();
        let seed =
            [self.options.manifest.to_string().as_bytes(), b"/", name.as_bytes(), b"/", file_name].concat();
        let hash = Digest::sha256(&seed).hex();
        let identity = std::array::from_fn(|n| {
            u8::from_str_radix(&hash[2 * n..2 * n + 2], 16).expect("a digest is hex digits")
        });
        let options = WriteOptions { threads: self.options.threads, identity };
        let file = file.try_clone().map_err(failed)?;
        image::write(disk, target, file, &options, &progress)
            .map_err(|source| ExportError::Image { path: path.to_owned(), source })?;
        Ok(())
    }
}

/// A disk of zeros.
#[derive(Debug)]
struct EmptyDisk {
    size_bytes: u64,
}

impl EmptyDisk {
    fn check(&self, offset: u64, len: u64) -> Result<(), ReadError> {
        match offset.checked_add(len) {
            Some(end) if end <= self.size_bytes => Ok(()),
            _ => Err(ReadError::OutOfRange { offset, len, size_bytes: self.size_bytes }),
        }
    }
}

impl Disk for EmptyDisk {
    fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), ReadError> {
        self.check(offset, buf.len() as u64)?;
        buf.fill(0);
        Ok(())
    }

    fn runs(&self, offset: u64, len: u64) -> Result<Vec<Run>, ReadError> {
        self.check(offset, len)?;
        Ok(vec![Run { len, kind: RunKind::Zero }])
    }
}
