//! qcow2 images, versions 2 and 3, as the guest sees them now: the active layer.
//!
//! Read: every cluster size from 512 bytes to 2 MiB, deflate and zstd clusters, zero clusters, extended
//! L2 entries with their subclusters. Looked at and left alone: refcounts of any width, also stale ones
//! behind the dirty bit, internal snapshots, persistent bitmaps. Refused: backing files, external data
//! files, encryption, feature bits the specification does not know, images marked corrupt.
//!
//! Stricter than QEMU: reserved bits must be zero, and whatever the disk needs from a cluster must lie
//! in the file, where QEMU reads zeros past its end.
//!
//! ```text
//! header -> L1 table (in memory) -> L2 tables (cached) -> cluster: zero, in the file, or compressed
//! ```
//!
//! Source: `docs/interop/qcow2.txt` of QEMU 7.2; its sections are named below.

mod header;
mod mapping;

use super::chain::{Opened, Surroundings};
use super::decompress::{Decompressed, Decompressor};
use super::mapped::{Extent, Map, MappedDisk, Unit};
use super::source::Source;
use super::{Format, Refusal};
use crate::ReadError;
use header::Header;
use mapping::Mapping;

pub(super) const MAGIC: &[u8] = b"QFI\xfb";

/// A qcow2 disk: its clusters' places, and the means to decompress them.
#[derive(Debug)]
pub(super) struct Qcow2Map {
    mapping: Mapping,
    decompressor: Decompressor,
}

pub(super) fn open(file: Source, around: &mut Surroundings<'_>) -> Result<Opened, Refusal> {
    let start = file.start(header::LARGEST_CLUSTER)?;
    let header = Header::parse(&start, file.size_bytes(), around.limits)?;
    let decompressor = Decompressor::new(header.codec);
    let mapping = Mapping::load(&file, header)?;
    let left_out = mapping.left_out();
    Ok(Opened { left_out, ..Opened::new(MappedDisk::new(file, Qcow2Map { mapping, decompressor }, None)) })
}

impl Map for Qcow2Map {
    fn size_bytes(&self) -> u64 {
        self.mapping.size_bytes()
    }

    fn unit_bytes(&self) -> u64 {
        self.mapping.cluster_bytes()
    }

    fn extent(&self, file: &Source, offset: u64, most: u64) -> Result<Extent, ReadError> {
        self.mapping.extent(file, offset, most)
    }

    fn unpack(&self, file: &Source, unit: Unit, content: &mut [u8]) -> Result<(), ReadError> {
        let read = |input: &mut [u8]| file.read(unit.offset, input);
        let found = match self.decompressor.decompress(unit.len as usize, read, content)? {
            // What follows a whole cluster is padding, or the next compressed cluster.
            Ok(Decompressed { len, .. }) if len == content.len() => return Ok(()),
            Ok(Decompressed { len, .. }) => format!("{len} bytes"),
            Err(_) => "not decodable".to_owned(),
        };
        Err(ReadError::Corrupt {
            format: Format::Qcow2.name(),
            offset: unit.offset,
            field: "compressed cluster",
            found,
            wanted: "it must decompress to a whole cluster",
        })
    }
}
