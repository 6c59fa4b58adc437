//! An OVF's virtual disks: which files they are, and what they are a difference to.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use formats::image::Source;
use formats::ovf::{Compression, Descriptor, FileReference, Package, PackageFile, Setting, VirtualDisk};

use super::super::draft::{DraftImage, NamedSource};
use super::super::names::Names;
use super::super::notice::{Notice, What};
use super::super::unpack::{Packing, Room, UnpackError, unpack};
use super::super::{ImportError, ImportRequest};

/// The longest chain of disks that are differences to one another, as long as those of images.
const MAX_CHAIN: usize = 256;
/// The most files that all disks together are read from, those that are read for several counted for each.
const MAX_LAYERS: usize = 4096;
/// An image has its tables besides the disk: a sixteenth of it is more than any format's have, and where the disk is
/// small, so much.
const IMAGE_SHARE: u64 = 16;
const IMAGE_BYTES: u64 = 16 << 20;
/// VMware's setting that says which file has a machine's firmware variables.
pub(super) const NVRAM: &str = "nvram";

/// The disks and files of a package, and what has been used of them so far.
#[derive(Debug)]
pub(super) struct Disks<'a> {
    pub(super) descriptor: &'a Descriptor,
    package: &'a Package<'a>,
    request: &'a ImportRequest<'a>,
    /// Names of disks and volumes, of which no two machines have the same.
    pub(super) names: Names,
    /// Files that have been opened, and unpacked where they are packed, by their ids.
    opened: BTreeMap<String, NamedSource>,
    /// How many drives use a disk, by its id.
    uses: BTreeMap<String, u32>,
    /// How many files have been used, over all drives.
    layers: usize,
    /// Files that have another size than the descriptor says.
    sizes: Vec<What>,
}

impl<'a> Disks<'a> {
    pub(super) fn new(
        descriptor: &'a Descriptor,
        package: &'a Package<'a>,
        request: &'a ImportRequest<'a>,
    ) -> Self {
        let (names, opened, uses) = (Names::default(), BTreeMap::new(), BTreeMap::new());
        Self { descriptor, package, request, names, opened, uses, layers: 0, sizes: Vec::new() }
    }

    /// The image of `disk`; `None` where it starts as zeros.
    pub(super) fn image(&mut self, disk: &VirtualDisk) -> Result<Option<DraftImage>, ImportError> {
        *self.uses.entry(disk.id.clone()).or_default() += 1;
        let mut layers = Vec::new();
        let mut next = Some(disk);
        // A chain that comes back to itself ends here too.
        for _ in 0..=MAX_CHAIN {
            let Some(layer) = next else {
                let image = DraftImage { layers, format: None, said_bytes: Some(disk.capacity_bytes) };
                return Ok((!image.layers.is_empty()).then_some(image));
            };
            if let Some(file) = &layer.file {
                self.layers += 1;
                if self.layers > MAX_LAYERS {
                    let (what, found) = ("images that all disks are read from", self.layers as u64);
                    return Err(ImportError::TooMany { what, found, most: MAX_LAYERS as u64 });
                }
                layers.push(self.file(file)?);
            }
            next = layer.parent.as_deref().and_then(|parent| self.descriptor.disk(parent));
        }
        Err(ImportError::EndlessChain { disk: disk.id.clone() })
    }

    /// The file with this id, whole and unpacked.
    pub(super) fn file(&mut self, id: &str) -> Result<NamedSource, ImportError> {
        if let Some(opened) = self.opened.get(id) {
            return Ok(opened.clone());
        }
        let missing = || ImportError::MissingFile { name: id.to_owned() };
        let file = self.descriptor.file(id).ok_or_else(missing)?;
        let PackageFile { names, source: whole } = self.package.open(file)?;
        let (done, size_bytes) = (AtomicU64::new(0), whole.size_bytes());
        for name in &names {
            self.package.check(name, &|bytes| {
                let done = done.fetch_add(bytes, Ordering::Relaxed) + bytes;
                self.request.progress.prepared(&file.href, done, size_bytes);
            })?;
        }
        if let Some(said_bytes) = file.size_bytes.filter(|said| *said != size_bytes) {
            let (file, found_bytes) = (file.href.clone(), size_bytes);
            self.sizes.push(What::OtherFileSize { file, said_bytes, found_bytes });
        }
        let source = match file.compression {
            Compression::Identity => whole,
            Compression::Gzip => match self.unpacked(file) {
                Some(source) => source,
                None => self.unpack(file, &whole)?,
            },
        };
        let opened = NamedSource { source, name: file.href.clone() };
        self.opened.insert(id.to_owned(), opened.clone());
        Ok(opened)
    }

    /// What has been unpacked of a file of the same name. Two ids may name one, which is unpacked once.
    fn unpacked(&self, file: &FileReference) -> Option<Source> {
        let mut same = self.descriptor.files.iter().filter(|other| {
            other.href == file.href
                && other.compression == file.compression
                && other.chunk_bytes == file.chunk_bytes
                && other.size_bytes == file.size_bytes
        });
        same.find_map(|other| self.opened.get(&other.id)).map(|known| known.source.clone())
    }

    /// What is packed in `file`. No image of a disk is much longer than the disk.
    fn unpack(&self, file: &FileReference, packed: &Source) -> Result<Source, ImportError> {
        let disks = self.descriptor.disks.iter().filter(|disk| disk.file.as_ref() == Some(&file.id));
        let capacity_bytes = disks.map(|disk| disk.capacity_bytes).max();
        let room = self.request.room();
        let most = capacity_bytes.map_or(room.most_bytes, |capacity_bytes| {
            let besides = capacity_bytes / IMAGE_SHARE + IMAGE_BYTES;
            capacity_bytes.saturating_add(besides).min(room.most_bytes)
        });
        let unpacked = unpack((packed, &file.href), Packing::Gzip, Room { most_bytes: most, ..room });
        unpacked.map_err(|error| match (error, capacity_bytes) {
            (UnpackError::TooLarge { name, most }, Some(capacity_bytes)) if most < room.most_bytes => {
                ImportError::PastCapacity { name, most, capacity_bytes }
            }
            (error, _) => error.into(),
        })
    }

    /// What is to be known of the disks and files together.
    pub(super) fn notices(&self) -> Vec<Notice> {
        let shared = self.uses.iter().filter(|(_, uses)| **uses > 1);
        let shared = shared.map(|(disk, _)| What::WasShared { disk: disk.clone() });
        let (variables, _) = self.unopened();
        let names = variables.iter().map(|file| file.href.clone()).collect();
        let variables = (!variables.is_empty()).then_some(What::VariablesLeftOut { names });
        let what = shared.chain(self.sizes.iter().cloned()).chain(variables);
        what.map(|what| Notice { machine: None, what }).collect()
    }

    /// The names of files that no disk is, and that are not known to be anything else. An image may name them.
    pub(super) fn unused(&self) -> Vec<String> {
        let (_, others) = self.unopened();
        others.into_iter().map(|file| file.href.clone()).collect()
    }

    /// The files that no disk is: those with firmware variables, and others.
    fn unopened(&self) -> (Vec<&FileReference>, Vec<&FileReference>) {
        let files = self.descriptor.files.iter().filter(|file| !self.opened.contains_key(&file.id));
        files.partition(|file| self.has_variables(file))
    }

    /// Whether a file holds a machine's firmware variables: as VMware's tools refer to it, or call it.
    fn has_variables(&self, file: &FileReference) -> bool {
        let settings = self.descriptor.systems.iter().flat_map(|system| &system.hardware.settings);
        let is_named = |setting: &Setting| setting.value.strip_prefix("ovf:/file/") == Some(&*file.id);
        settings.filter(|setting| setting.key == NVRAM).any(is_named)
            || file.href.to_ascii_lowercase().ends_with(".nvram")
    }
}
