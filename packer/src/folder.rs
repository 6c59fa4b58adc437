//! An author's folder: `hull.toml` and the files that it names, opened.
//!
//! Every name is resolved by the kernel with the folder as its root, so that neither `..` nor a link leads out
//! of it. Nothing is written, and no file that `hull.toml` does not name is opened.
//!
//! Source: openat2(2), `RESOLVE_BENEATH`; `docs/hull-toml.md`.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use appliance::ConfigError;
use formats::image::{
    self, Image, ImageRequest, Layer, Limits, Missing, OpenError, Parts, ReadCache, Refusal, Source,
};
use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::Appliance;
use crate::hull_toml::{DiskSource, HullToml, HullTomlError, NamedFile};
use crate::parts::FolderParts;

/// The largest `hull.toml` that is read.
const MAX_HULL_TOML_BYTES: u64 = 1 << 20;
/// The largest OVF descriptor that is stored: the largest that is read.
const MAX_OVF_BYTES: u64 = 16 << 20;

/// An appliance as its author's folder describes it.
#[derive(Debug)]
pub struct OpenedFolder {
    /// The appliance.
    pub appliance: Appliance,
    /// What the images hold besides their disks: the disk's name, and what it is.
    pub left_out: Vec<(String, image::LeftOut)>,
}

/// Why a folder does not make an appliance.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FolderError {
    /// There is no `hull.toml`, or it cannot be read.
    #[error("cannot read `{}`", path.display())]
    NoHullToml {
        /// Where it was expected.
        path: PathBuf,
        /// The reason.
        #[source]
        source: io::Error,
    },
    /// It is no text, or too long.
    #[error("`{}` is not a hull.toml: {problem}", path.display())]
    NotText {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// Something in it is wrong.
    #[error("`{}`, {error}", path.display())]
    HullToml {
        /// The file.
        path: PathBuf,
        /// What and where; part of the message.
        error: Box<HullTomlError>,
    },
    /// A file that it names cannot be opened, or leads out of the folder by a link.
    #[error("`{}`, line {}, column {}: cannot open {what} `{}`", hull_toml.display(), .named.line, .named.column, .named.path.display())]
    Named {
        /// The `hull.toml` that names it.
        hull_toml: PathBuf,
        /// What it is to be.
        what: &'static str,
        /// The file, and where it is named.
        named: NamedFile,
        /// The reason.
        #[source]
        source: io::Error,
    },
    /// A disk's source is no image that can be read.
    #[error("disk `{disk}` cannot be read")]
    Image {
        /// The disk's name.
        disk: String,
        /// What is wrong with it.
        #[source]
        source: OpenError,
    },
    /// The config cannot be: a disk of an impossible size.
    #[error(transparent)]
    Config(#[from] ConfigError),
}

impl FolderError {
    /// True if a disk is larger than was accepted.
    pub fn is_too_large(&self) -> bool {
        matches!(self, Self::Image { source, .. } if matches!(source.reason, Refusal::TooLarge { .. }))
    }

    /// What `hull.toml` has to name too, where that is all that is wrong.
    pub fn missing(&self) -> Option<Missing> {
        match self {
            Self::Image { source, .. } => source.reason.missing(),
            _ => None,
        }
    }
}

/// Opens what `source` describes: a folder with a `hull.toml`, or that file itself. No disk may have more than
/// `max_disk_bytes`.
///
/// # Errors
///
/// [`FolderError`].
pub fn open_folder(source: &Path, max_disk_bytes: u64) -> Result<OpenedFolder, FolderError> {
    let limits = Limits { max_size_bytes: max_disk_bytes };
    let author = Author::read(source)?;
    let HullToml { config, policy, ovf, sources } = author.hull_toml.clone();
    let ovf = ovf.as_ref().map(|named| author.read_ovf(named)).transpose()?;
    let (mut disks, mut left_out) = (Vec::new(), Vec::new());
    for source in &sources {
        let image = author.open_disk(source, limits)?;
        left_out.extend(image.left_out.into_iter().map(|what| (source.disk.clone(), what)));
        disks.push(image.disk);
    }
    Ok(OpenedFolder { appliance: Appliance::new(config, policy, disks, ovf)?, left_out })
}

/// A `hull.toml` and the folder that its sources are in.
#[derive(Debug)]
struct Author {
    path: PathBuf,
    folder: File,
    hull_toml: HullToml,
    /// All disks stay open until the last is packed, and share it.
    cache: ReadCache,
}

impl Author {
    fn read(source: &Path) -> Result<Self, FolderError> {
        let path = if source.is_dir() { source.join("hull.toml") } else { source.to_owned() };
        let failed = |source| FolderError::NoHullToml { path: path.clone(), source };
        let folder = match path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        let folder = File::open(folder).map_err(failed)?;
        let file = rustix::fs::open(&path, OPEN, Mode::empty()).map_err(|error| failed(error.into()))?;
        let bytes = read_at_most(file, MAX_HULL_TOML_BYTES).map_err(failed)?;
        let not_text = |problem| FolderError::NotText { path: path.clone(), problem };
        let bytes = bytes.ok_or_else(|| not_text("it has more than 1 MiB"))?;
        let text = String::from_utf8(bytes).map_err(|_| not_text("it is not UTF-8"))?;
        let hull_toml = HullToml::parse(&text)
            .map_err(|error| FolderError::HullToml { path: path.clone(), error: Box::new(error) })?;
        Ok(Self { path, folder, hull_toml, cache: ReadCache::new() })
    }

    /// Reads the OVF descriptor. What it says is nobody's business here.
    fn read_ovf(&self, named: &NamedFile) -> Result<Vec<u8>, FolderError> {
        const WHAT: &str = "the OVF descriptor";
        let file = self.open(named, WHAT, OPEN)?;
        let bytes = read_at_most(file, MAX_OVF_BYTES).map_err(|error| self.failed(named, WHAT, error))?;
        bytes.ok_or_else(|| self.failed(named, WHAT, io::Error::other("it has more than 16 MiB")))
    }

    /// Opens a disk's source with all that may be used for it.
    fn open_disk(&self, disk: &DiskSource, limits: Limits) -> Result<Image, FolderError> {
        let image_failed = |source| FolderError::Image { disk: disk.disk.clone(), source };
        let all = std::iter::once(&disk.image).chain(&disk.backing);
        let names: Vec<_> =
            all.clone().map(|named| self.path.with_file_name(&named.path).display().to_string()).collect();
        let mut layers = Vec::new();
        for (named, name) in all.zip(&names) {
            let file = self.open(named, "disk source", OPEN)?;
            let source = Source::new(file.into())
                .map_err(|reason| image_failed(OpenError { name: name.clone(), reason }))?;
            layers.push(Layer { source, name, format: None });
        }
        let parts = disk.parts.as_ref().map(|folder| self.open_parts(folder)).transpose()?;
        let mut layers = layers.into_iter();
        let image = layers.next().expect("a disk has a source");
        let request = ImageRequest {
            layer: Layer { format: disk.format, ..image },
            backing: layers.collect(),
            parts: parts.as_ref().map(|parts| parts as &dyn Parts),
            limits,
            cache: self.cache.clone(),
        };
        image::open(request).map_err(image_failed)
    }

    fn open_parts(&self, named: &NamedFile) -> Result<FolderParts, FolderError> {
        const WHAT: &str = "the folder of parts";
        let folder = self.open(named, WHAT, OPEN.union(OFlags::DIRECTORY))?;
        FolderParts::new(folder).map_err(|error| self.failed(named, WHAT, error))
    }

    /// Opens a file that `hull.toml` names. The kernel sees to it that no link leads out of the folder.
    fn open(&self, named: &NamedFile, what: &'static str, flags: OFlags) -> Result<OwnedFd, FolderError> {
        let resolve = ResolveFlags::BENEATH.union(ResolveFlags::NO_MAGICLINKS);
        let opened = rustix::fs::openat2(&self.folder, &named.path, flags, Mode::empty(), resolve);
        opened.map_err(|error| match error {
            Errno::XDEV => {
                self.failed(named, what, io::Error::other("it leads out of the folder of hull.toml"))
            }
            error => self.failed(named, what, error.into()),
        })
    }

    fn failed(&self, named: &NamedFile, what: &'static str, source: io::Error) -> FolderError {
        FolderError::Named { hull_toml: self.path.clone(), what, named: named.clone(), source }
    }
}

/// A pipe is opened without waiting for a writer, and then refused for what it is.
const OPEN: OFlags = OFlags::RDONLY.union(OFlags::CLOEXEC).union(OFlags::NONBLOCK);

/// The file's content; `None` where that is longer than `most`.
fn read_at_most(file: OwnedFd, most: u64) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    File::from(file).take(most + 1).read_to_end(&mut bytes)?;
    Ok((bytes.len() as u64 <= most).then_some(bytes))
}
