//! VMDK images in one sparse file: streamOptimized, as OVAs carry them, and monolithicSparse.
//!
//! Read: header or footer, grain directory and tables, stored, zero and compressed grains. The embedded
//! descriptor is parsed for what it promises (its kind, one extent, no parent); the names in it are
//! never opened. Refused: flat, split, device and ESX kinds, snapshots of a parent, unknown flags.
//! The redundant grain directory is left alone, as is the unclean-shutdown mark.
//!
//! ```text
//! header (or footer) -> grain directory (in memory) -> grain tables (cached) -> grain
//! compressed grain: | first sector on the disk: u64 | bytes: u32 | zlib stream | up to a sector
//! ```
//!
//! Source: VMware, "Virtual Disk Format 5.0" (2011), "Hosted Sparse Extents" and "Stream-Optimized
//! Compressed Sparse Extents"; where it is silent, what QEMU 7.2 writes and accepts.

mod descriptor;
mod grains;
mod header;
mod write;

pub use write::{VmdkAdapter, write_stream_optimized};
pub(super) use write::{write_sparse, write_stream};

use super::chain::{Opened, Surroundings};
use super::decompress::{Codec, Decompressed, Decompressor};
use super::mapped::{Extent, Map, MappedDisk, Unit};
use super::source::Source;
use super::{Format, Refusal};
use crate::ReadError;
use grains::Grains;
use header::Header;

pub(super) const MAGIC: &[u8] = b"KDMV";
pub(super) const MAKE_ONE_FILE: &str = "only streamOptimized and monolithicSparse are read: \
    have it converted where it was made, with `qemu-img convert -O vmdk`";

const SECTOR: u64 = 512;

/// A VMDK disk: its grains' places, and the means to decompress them.
#[derive(Debug)]
pub(super) struct VmdkMap {
    grains: Grains,
    decompressor: Decompressor,
}

pub(super) fn open(file: Source, around: &mut Surroundings<'_>) -> Result<Opened, Refusal> {
    let header = Header::load(&file, around.limits)?;
    descriptor::check(&file, &header)?;
    let grains = Grains::load(&file, header)?;
    let decompressor = Decompressor::new(Codec::Zlib);
    Ok(Opened::new(MappedDisk::new(file, VmdkMap { grains, decompressor }, None)))
}

impl Map for VmdkMap {
    fn size_bytes(&self) -> u64 {
        self.grains.header().size_bytes()
    }

    fn unit_bytes(&self) -> u64 {
        self.grains.header().grain_bytes()
    }

    fn extent(&self, file: &Source, offset: u64, most: u64) -> Result<Extent, ReadError> {
        self.grains.extent(file, offset, most)
    }

    fn unpack(&self, file: &Source, unit: Unit, content: &mut [u8]) -> Result<(), ReadError> {
        let stream = self.grains.stream_of(file, unit)?;
        let read = |input: &mut [u8]| file.read(stream.offset, input);
        let on_disk = self.size_bytes() - unit.index * self.unit_bytes();
        let found = match self.decompressor.decompress(stream.len as usize, read, content)? {
            // The last grain may end where the disk does.
            Ok(Decompressed { len, ended: true }) if len as u64 >= on_disk.min(self.unit_bytes()) => {
                return Ok(());
            }
            Ok(Decompressed { ended: false, .. }) => "without an end".to_owned(),
            Ok(Decompressed { len, .. }) => format!("{len} bytes"),
            Err(_) => "not decodable".to_owned(),
        };
        let wanted = "it must decompress to one whole grain";
        Err(corrupt(stream.offset, "compressed grain", found, wanted))
    }
}

fn corrupt(offset: u64, field: &'static str, found: String, wanted: &'static str) -> ReadError {
    ReadError::Corrupt { format: Format::Vmdk.name(), offset, field, found, wanted }
}

/// A field that contradicts the specification.
fn malformed(offset: u64, field: &'static str, found: impl ToString, wanted: impl Into<String>) -> Refusal {
    let (found, wanted) = (found.to_string(), wanted.into());
    Refusal::Malformed { format: Format::Vmdk, offset, field, found, wanted }
}

fn unsupported(offset: u64, field: &'static str, found: impl ToString, refused: &'static str) -> Refusal {
    Refusal::Unsupported { format: Format::Vmdk, offset, field, found: found.to_string(), refused }
}
