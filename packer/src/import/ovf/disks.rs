//! An OVF's virtual disks: which files they are, and what they are a difference to.

use std::collections::BTreeMap;

use formats::ovf::{Compression, Descriptor, Package, PackageFile, VirtualDisk};

use super::super::draft::{DraftImage, NamedSource};
use super::super::names::Names;
use super::super::notice::{Notice, What};
use super::super::unpack::{Packing, unpack};
use super::super::{ImportError, ImportRequest};

/// The longest chain of disks that are differences to one another, as long as those of images.
const MAX_CHAIN: usize = 256;
/// The most files that all disks together are read from, those that are read for several counted for each.
const MAX_LAYERS: usize = 4096;

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
}

impl<'a> Disks<'a> {
    pub(super) fn new(
        descriptor: &'a Descriptor,
        package: &'a Package<'a>,
        request: &'a ImportRequest<'a>,
    ) -> Self {
        let (names, opened, uses) = (Names::default(), BTreeMap::new(), BTreeMap::new());
        Self { descriptor, package, request, names, opened, uses, layers: 0 }
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
        for name in &names {
            self.package.check(name, &|_| ())?;
        }
        let source = match file.compression {
            Compression::Identity => whole,
            Compression::Gzip => {
                let most = self.request.max_disk_bytes;
                // Two ids may name one file, which is unpacked once.
                let same = self.descriptor.files.iter().filter(|other| {
                    other.href == file.href
                        && other.compression == file.compression
                        && other.chunk_bytes == file.chunk_bytes
                        && other.size_bytes == file.size_bytes
                });
                if let Some(known) = same.filter_map(|other| self.opened.get(&other.id)).next() {
                    return Ok(known.clone());
                }
                unpack((&whole, &file.href), Packing::Gzip, most, self.request.scratch)?
            }
        };
        let opened = NamedSource { source, name: file.href.clone() };
        self.opened.insert(id.to_owned(), opened.clone());
        Ok(opened)
    }

    /// What is to be known of the disks and files together.
    pub(super) fn notices(&self) -> Vec<Notice> {
        let shared = self.uses.iter().filter(|(_, uses)| **uses > 1);
        let shared = shared.map(|(disk, _)| What::WasShared { disk: disk.clone() });
        let files = self.descriptor.files.iter().filter(|file| !self.opened.contains_key(&file.id));
        let names: Vec<_> = files.map(|file| file.href.clone()).collect();
        let left_out = (!names.is_empty()).then_some(What::FilesLeftOut { names });
        shared.chain(left_out).map(|what| Notice { machine: None, what }).collect()
    }
}
