//! `hull.toml` and disk images in, an appliance in the local store out.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use appliance::manifest::{ApplianceIndex, ApplianceManifest, DiskLayer, PlatformManifest};
use appliance::{ApplianceConfig, Blob, Digest};
use blob_store::{LocalStore, LocalStoreError};
use formats::Disk;
use formats::image::{self, ImageRequest, Limits, OpenError, Refusal, Source};
use rustix::fs::{Mode, OFlags, ResolveFlags};

use crate::contents::{Contents, ContentsError, Platform};
use crate::disks::{Base, BaseError, PackOptions, PackedDisks, Progress, WriteError, write_disks};
use crate::hull_toml::{DiskSource, HullToml, HullTomlError};

/// The largest `hull.toml` that is read.
const MAX_HULL_TOML_BYTES: u64 = 1 << 20;

/// What is to be packed, and how.
#[derive(Debug, Clone)]
pub struct PackRequest<'a> {
    /// The folder with `hull.toml`, or the file itself.
    pub source: &'a Path,
    /// The index of an earlier version whose packs are used again where they fit.
    pub base: Option<Digest>,
    /// The largest disk that is accepted, in bytes.
    pub max_disk_bytes: u64,
    /// How disks are packed.
    pub options: PackOptions,
}

/// An appliance that has been packed. No reference names it yet.
#[derive(Debug, Clone)]
pub struct Packed {
    /// The index: what a tag is to name.
    pub index: Blob,
    /// The artifact manifest: what the appliance is.
    pub manifest: Blob,
    /// What it consists of.
    pub config: ApplianceConfig,
    /// The disks, with what packing them came to.
    pub disks: PackedDisks,
}

/// Why nothing was packed. The store holds nothing new that a reference leads to.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PackError {
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
    /// A disk's source cannot be opened, or leads out of the folder by a link.
    #[error("`{}`, line {line}, column {column}: cannot open disk source `{}`", hull_toml.display(), path.display())]
    Source {
        /// The `hull.toml` that names it.
        hull_toml: PathBuf,
        /// The line.
        line: usize,
        /// The column.
        column: usize,
        /// The source, as it is written there.
        path: PathBuf,
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
    /// The base cannot be used.
    #[error("the base cannot be used")]
    Base(#[source] BaseError),
    /// The base cannot be read.
    #[error("the base cannot be read")]
    BaseContents(#[source] ContentsError),
    /// A disk could not be packed.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// The config cannot be: a disk of an impossible size.
    #[error(transparent)]
    Config(#[from] appliance::ConfigError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] LocalStoreError),
}

impl PackError {
    /// True if a disk is larger than the request accepts.
    pub fn is_too_large(&self) -> bool {
        matches!(self, Self::Image { source, .. } if matches!(source.reason, Refusal::TooLarge { .. }))
    }
}

/// Packs what `request` names into `store`.
///
/// Packing the same again gives the same digests: with equal disks, base and hull, all of it; and an
/// appliance that is what its base was *is* its base.
///
/// # Errors
///
/// [`PackError`].
pub fn pack(
    request: &PackRequest<'_>,
    store: &LocalStore,
    progress: &dyn Progress,
) -> Result<Packed, PackError> {
    let author = Author::read(request.source)?;
    let HullToml { mut config, policy, sources } = author.hull_toml.clone();
    let limits = Limits { max_size_bytes: request.max_disk_bytes };
    let disks = sources.iter().map(|disk| author.open_disk(disk, limits)).collect::<Result<Vec<_>, _>>()?;
    let sized = config.machines.iter_mut().flat_map(|machine| &mut machine.disks);
    sized.zip(&disks).for_each(|(entry, disk)| entry.size_bytes = disk.size_bytes());
    config.check()?;

    let base = request.base.map(|digest| base_of(store, &digest, &config.platform())).transpose()?.flatten();
    let base_disks =
        base.as_ref().map(|base| Base::read(&base.manifest, store)).transpose().map_err(PackError::Base)?;
    let named: Vec<(&str, &dyn Disk)> =
        sources.iter().zip(&disks).map(|(s, disk)| (s.disk.as_str(), &**disk)).collect();
    let disks = write_disks(&named, base_disks.as_ref(), store, &request.options, progress)?;

    let policy = store.put(&policy.to_bytes())?;
    let layers = disks.disks.iter().map(|disk| DiskLayer {
        name: disk.name.clone(),
        index: disk.index,
        root: disk.root,
    });
    let layers: Vec<_> = layers.collect();
    let manifest_of = |config: &ApplianceConfig| -> Result<Blob, LocalStoreError> {
        let config = store.put(&config.to_bytes())?;
        let manifest = ApplianceManifest {
            config,
            policy,
            disks: layers.clone(),
            packs: disks.packs.clone(),
            ovf: None,
            nvram: None,
        };
        store.put(&manifest.to_bytes())
    };
    let manifest = match &base {
        None => manifest_of(&config)?,
        Some(base) => {
            // With the base's own parent, is it the base?
            config.parent = base.config.parent;
            let same = manifest_of(&config)?;
            if same == base.manifest_blob {
                same
            } else {
                config.parent = Some(base.manifest_blob.digest);
                manifest_of(&config)?
            }
        }
    };
    let index =
        ApplianceIndex { appliances: vec![PlatformManifest { platform: config.platform(), manifest }] };
    let index = store.put(&index.to_bytes())?;
    Ok(Packed { index, manifest, config, disks })
}

/// The base for this platform; `None` where the base is for others only.
fn base_of(store: &LocalStore, digest: &Digest, platform: &str) -> Result<Option<Platform>, PackError> {
    let contents = Contents::read(store, digest).map_err(PackError::BaseContents)?;
    Ok(contents.platforms.into_iter().find(|entry| entry.platform == platform))
}

/// A `hull.toml` and the folder that its sources are in.
#[derive(Debug)]
struct Author {
    path: PathBuf,
    folder: File,
    hull_toml: HullToml,
}

impl Author {
    fn read(source: &Path) -> Result<Self, PackError> {
        let path = if source.is_dir() { source.join("hull.toml") } else { source.to_owned() };
        let failed = |source| PackError::NoHullToml { path: path.clone(), source };
        let folder = match path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        let folder = File::open(folder).map_err(failed)?;
        let mut bytes = Vec::new();
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let file = rustix::fs::open(&path, flags, Mode::empty()).map_err(|error| failed(error.into()))?;
        File::from(file).take(MAX_HULL_TOML_BYTES + 1).read_to_end(&mut bytes).map_err(failed)?;
        let not_text = |problem| PackError::NotText { path: path.clone(), problem };
        if bytes.len() as u64 > MAX_HULL_TOML_BYTES {
            return Err(not_text("it has more than 1 MiB"));
        }
        let text = String::from_utf8(bytes).map_err(|_| not_text("it is not UTF-8"))?;
        let hull_toml = HullToml::parse(&text)
            .map_err(|error| PackError::HullToml { path: path.clone(), error: Box::new(error) })?;
        Ok(Self { path, folder, hull_toml })
    }

    /// Opens a disk's source. The kernel sees to it that no link leads out of the folder.
    fn open_disk(&self, disk: &DiskSource, limits: Limits) -> Result<Box<dyn Disk>, PackError> {
        // A pipe is opened without waiting for a writer, and then refused for what it is.
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        let opened = rustix::fs::openat2(&self.folder, &disk.path, flags, Mode::empty(), resolve);
        let file = opened.map_err(|error| PackError::Source {
            hull_toml: self.path.clone(),
            line: disk.line,
            column: disk.column,
            path: disk.path.clone(),
            source: match error {
                rustix::io::Errno::XDEV => io::Error::other("it leads out of the folder of hull.toml"),
                error => error.into(),
            },
        })?;
        let name = self.path.with_file_name(&disk.path).display().to_string();
        let opened = Source::new(file.into())
            .map_err(|reason| OpenError { name: name.clone(), reason })
            .and_then(|source| image::open(ImageRequest::new(source, &name, limits)));
        let image = opened.map_err(|source| PackError::Image { disk: disk.disk.clone(), source })?;
        Ok(image.disk)
    }
}
