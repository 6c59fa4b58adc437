//! VMDK images: in one sparse file, streamOptimized, as OVAs carry them, and monolithicSparse; and in several, a
//! descriptor file and the flat or sparse extents that it names. Differences to another VMDK, where that is handed over.
//!
//! Read: header or footer, grain directory and tables, stored, zero and compressed grains. The descriptor is parsed for
//! what it promises; the names in it are compared with those of the files handed over and never opened. Refused: the
//! sparse kinds of ESX, devices of the host, encryption, unknown flags. The redundant grain directory is left
//! alone, as is the unclean-shutdown mark.
//!
//! ```text
//! descriptor file -> extents, end to end: zeros, flat, or sparse:
//! header (or footer) -> grain directory (in memory) -> grain tables (cached) -> grain, or the parent's content
//! compressed grain: | first sector on the disk: u64 | bytes: u32 | zlib stream | up to a sector
//! ```
//!
//! Source: VMware, "Virtual Disk Format 5.0" (2011), "Hosted Sparse Extents" and "Stream-Optimized
//! Compressed Sparse Extents"; where it is silent, what QEMU 7.2 writes and accepts.

mod descriptor;
mod extents;
mod grains;
mod header;
mod write;

pub use write::{VmdkAdapter, write_stream_optimized};
pub(super) use write::{write_sparse, write_stream};

use std::ops::Range;

use super::chain::{Memory, Opened, Surroundings};
use super::decompress::{Codec, Decompressed, Decompressor};
use super::mapped::{Extent, Map, MappedDisk};
use super::source::Source;
use super::unpack::{Unit, Units};
use super::{Format, Refusal};
use crate::{Disk, ReadError};
use descriptor::Descriptor;
use grains::Grains;
use header::Header;

const FORMAT: Format = Format::Vmdk;

pub(super) const MAGIC: &[u8] = b"KDMV";

const WITHOUT_DESCRIPTOR: &str =
    "it is one extent of a disk in several files: open the descriptor file, which names all of them";

const SECTOR: u64 = 512;

/// A VMDK disk: its grains' places, and the means to decompress them.
#[derive(Debug)]
pub(super) struct VmdkMap {
    grains: Grains,
    units: Units,
    decompressor: Decompressor,
}

/// Whether a file that starts with `start`, its first 512 bytes, is a descriptor file, whose content lies in others.
pub(super) fn is_descriptor_file(start: &[u8]) -> bool {
    descriptor::is_descriptor_file(start)
}

/// Whether `file` is a descriptor file.
pub(super) fn is_descriptor(file: &Source) -> Result<bool, Refusal> {
    Ok(is_descriptor_file(&file.start(SECTOR as usize)?))
}

pub(super) fn open(file: Source, around: &mut Surroundings<'_>) -> Result<Opened, Refusal> {
    if is_descriptor(&file)? {
        return extents::open(&file, around);
    }
    let header = Header::load(&file, around.limits)?;
    let Range { start, end } = header.descriptor;
    if start == end {
        let at = header::DESCRIPTOR_OFFSET as u64;
        return Err(FORMAT.unsupported(at, "descriptorOffset", "0, no descriptor", WITHOUT_DESCRIPTOR));
    }
    let mut text = vec![0; (end - start) as usize];
    file.read(start, &mut text)?;
    let descriptor = Descriptor::parse(&text, start)?;
    let sectors = descriptor.check_embedded(&header)?;
    let parent = descriptor.take_parent(around)?.map(|parent| parent.disk);
    let disk = sparse_disk(file, header.with_size(sectors), parent, around.memory)?;
    Ok(Opened { identity: descriptor.identity(), ..Opened::new(disk) })
}

/// The disk in one sparse extent.
fn sparse_disk(
    file: Source,
    header: Header,
    parent: Option<Box<dyn Disk>>,
    memory: &Memory,
) -> Result<MappedDisk<VmdkMap>, Refusal> {
    memory.take_tables(2 * (header.directory.end - header.directory.start))?;
    let units = Units::new(header.grain_bytes(), &memory.cache);
    let decompressor = Decompressor::new(Codec::Zlib, memory.cache.workbenches());
    let grains = Grains::load(&file, header, &memory.cache)?;
    Ok(MappedDisk::new(file, VmdkMap { grains, units, decompressor }, parent))
}

impl Map for VmdkMap {
    type Packed = Unit;

    fn size_bytes(&self) -> u64 {
        self.grains.header().size_bytes()
    }

    fn extent(&self, file: &Source, offset: u64, most: u64) -> Result<Extent<Unit>, ReadError> {
        self.grains.extent(file, offset, most)
    }

    fn read_packed(&self, file: &Source, unit: Unit, within: u64, piece: &mut [u8]) -> Result<(), ReadError> {
        self.units.read(unit, within, piece, |content| self.unpack(file, unit, content))
    }
}

impl VmdkMap {
    /// Decompresses a grain into `content`, which has the size of one.
    fn unpack(&self, file: &Source, unit: Unit, content: &mut [u8]) -> Result<(), ReadError> {
        let stream = self.grains.stream_of(file, unit)?;
        let read = |input: &mut [u8]| file.read(stream.offset, input);
        let grain_bytes = self.grains.header().grain_bytes();
        let on_disk = self.size_bytes() - unit.index * grain_bytes;
        let found = match self.decompressor.decompress(stream.len as usize, read, content)? {
            // The last grain may end where the disk does.
            Ok(Decompressed { len, ended: true }) if len as u64 >= on_disk.min(grain_bytes) => {
                return Ok(());
            }
            Ok(Decompressed { ended: false, .. }) => "without an end".to_owned(),
            Ok(Decompressed { len, .. }) => format!("{len} bytes"),
            Err(_) => "not decodable".to_owned(),
        };
        let wanted = "it must decompress to one whole grain";
        Err(FORMAT.corrupt(stream.offset, "compressed grain", found, wanted))
    }
}
