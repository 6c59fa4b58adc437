//! qcow2 images, versions 2 and 3, as the guest sees them now: the active layer.
//!
//! Read: every cluster size from 512 bytes to 2 MiB, deflate and zstd clusters, zero clusters, extended
//! L2 entries with their subclusters; over a backing file, where the caller hands one over. Looked at and left
//! alone: refcounts of any width, also stale ones behind the dirty bit, internal snapshots, persistent bitmaps.
//! Refused: a backing file that was not handed over, external data files, encryption, feature bits the
//! specification does not know, images marked corrupt.
//!
//! Stricter than QEMU: reserved bits must be zero, and whatever the disk needs from a cluster must lie
//! in the file, where QEMU reads zeros past its end.
//!
//! ```text
//! header -> L1 table (in memory) -> L2 tables (cached) -> cluster: zero, in the file, compressed, or the parent's
//! ```
//!
//! Source: `docs/interop/qcow2.txt` of QEMU 7.2; its sections are named below.

mod header;
mod mapping;
mod write;

pub(super) use write::write;

use super::chain::{Opened, Surroundings};
use super::decompress::{Decompressed, Decompressor};
use super::mapped::{Extent, Map, MappedDisk};
use super::quoted::quoted;
use super::source::Source;
use super::unpack::{Unit, Units};
use super::{Format, Limits, Refusal};
use crate::ReadError;
use header::Header;
use mapping::Mapping;

const FORMAT: Format = Format::Qcow2;

pub(super) const MAGIC: &[u8] = b"QFI\xfb";

/// A qcow2 disk: its clusters' places, and the means to decompress them.
#[derive(Debug)]
pub(super) struct Qcow2Map {
    mapping: Mapping,
    units: Units,
    decompressor: Decompressor,
}

/// The format that an image names for its backing file, if it has one and names its format.
pub(super) fn declared_parent(file: &Source, limits: Limits) -> Result<Option<Format>, Refusal> {
    let Some(declared) = read_header(file, limits)?.backing.and_then(|backing| backing.format) else {
        return Ok(None);
    };
    let name = match declared.name.as_slice() {
        b"host_device" => b"raw",
        b"vpc" => b"vhd",
        name => name,
    };
    match Format::ALL.iter().find(|format| format.name().as_bytes() == name) {
        Some(&format) => Ok(Some(format)),
        None => {
            let found = format!("a backing file of format {}", quoted(&declared.name));
            Err(FORMAT.unsupported(declared.offset, "header extension", found, "that format is not read"))
        }
    }
}

/// The name of the backing file, where there is one that could be a file's: nothing else of the header is looked at.
pub(super) fn backing_name(file: &Source) -> Result<Option<String>, Refusal> {
    let start = file.start(header::BACKING_NAME_FIELDS_END)?;
    let Some(place) = header::backing_name(&start, file.size_bytes()) else { return Ok(None) };
    let mut name = vec![0; (place.end - place.start) as usize];
    file.read(place.start, &mut name)?;
    Ok(String::from_utf8(name).ok())
}

pub(super) fn open(file: Source, around: &mut Surroundings<'_>) -> Result<Opened, Refusal> {
    let header = read_header(&file, around.limits)?;
    let parent = match &header.backing {
        None => None,
        Some(backing) => Some(around.parent.take().ok_or_else(|| {
            FORMAT.no_backing(8, "backing_file_offset", format!("{} ({})", backing.offset, backing.name))
        })?),
    };
    let decompressor = Decompressor::new(header.codec, around.memory.cache.workbenches());
    let units = Units::new(header.cluster_bytes(), &around.memory.cache);
    let mapping = Mapping::load(&file, header, around.memory)?;
    let left_out = mapping.left_out();
    let map = Qcow2Map { mapping, units, decompressor };
    let disk = MappedDisk::new(file, map, parent.map(|parent| parent.disk));
    Ok(Opened { left_out, ..Opened::new(disk) })
}

fn read_header(file: &Source, limits: Limits) -> Result<Header, Refusal> {
    let start = file.start(header::LARGEST_CLUSTER)?;
    Header::parse(&start, file.size_bytes(), limits)
}

impl Map for Qcow2Map {
    type Packed = Unit;

    fn size_bytes(&self) -> u64 {
        self.mapping.size_bytes()
    }

    fn extent(&self, file: &Source, offset: u64, most: u64) -> Result<Extent<Unit>, ReadError> {
        self.mapping.extent(file, offset, most)
    }

    fn read_packed(&self, file: &Source, unit: Unit, within: u64, piece: &mut [u8]) -> Result<(), ReadError> {
        self.units.read(unit, within, piece, |content| self.unpack(file, unit, content))
    }
}

impl Qcow2Map {
    /// Decompresses a cluster into `content`, which has the size of one.
    fn unpack(&self, file: &Source, unit: Unit, content: &mut [u8]) -> Result<(), ReadError> {
        let read = |input: &mut [u8]| file.read(unit.offset, input);
        let found = match self.decompressor.decompress(unit.len as usize, read, content)? {
            // What follows a whole cluster is padding, or the next compressed cluster.
            Ok(Decompressed { len, .. }) if len == content.len() => return Ok(()),
            Ok(Decompressed { len, .. }) => format!("{len} bytes"),
            Err(_) => "not decodable".to_owned(),
        };
        let wanted = "it must decompress to a whole cluster";
        Err(FORMAT.corrupt(unit.offset, "compressed cluster", found, wanted))
    }
}
