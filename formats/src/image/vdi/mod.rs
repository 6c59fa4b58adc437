//! VDI images, as VirtualBox makes them: dynamic, fixed and differencing, version 1.1.
//!
//! Read: the header, the block map, stored, free and zero blocks. A differencing image needs the image that it
//! differs from, by its UUID. Geometry, comment, count of allocated blocks and the UUIDs of modifications are left
//! alone: VirtualBox does not look at the latter either, and leaves a wrong one behind where it merges snapshots.
//! Refused: undo images, blocks with extra data, other versions.
//!
//! ```text
//! | pre-header, header | block map | block | block | ...
//! ```
//!
//! Wider than QEMU 7.2, which reads blocks of 1 MiB and no differencing images; stricter in that block numbers
//! must be below the image's count of blocks, each used once, and what the disk needs of a block be in the file.
//!
//! Source: `VDICore.h` and `VDI.cpp` of VirtualBox, in which the format is defined; there is no other.

mod blocks;
mod header;
mod write;

pub(super) use write::write;

use super::chain::{Identity, Opened, Surroundings};
use super::mapped::MappedDisk;
use super::source::Source;
use super::{Format, Refusal};
use blocks::Blocks;
use header::Header;

const FORMAT: Format = Format::Vdi;

/// At byte [`MAGIC_OFFSET`]; a text for people is in front of it.
pub(super) const MAGIC: &[u8] = b"\x7f\x10\xda\xbe";
pub(super) const MAGIC_OFFSET: usize = header::SIGNATURE;

const SECTOR: u64 = 512;

pub(super) fn open(file: Source, around: &mut Surroundings<'_>) -> Result<Opened, Refusal> {
    let header = Header::load(&file, around.limits)?;
    let parent = header.parent_disk(&mut around.parent)?;
    let blocks = Blocks::load(&file, &header, around.memory)?;
    let identity = Some(Identity::Vdi(header.uuid));
    Ok(Opened { identity, ..Opened::new(MappedDisk::new(file, blocks, parent)) })
}
