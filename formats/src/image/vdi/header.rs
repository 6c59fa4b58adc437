//! The VDI header: parsed, and refused unless everything it names lies in the file.
//!
//! A size that is no multiple of 512 is rounded up, as QEMU does it; VirtualBox made such images once.
//!
//! Source: `VDICore.h` of VirtualBox, `VDIPREHEADER`, `VDIHEADER1` and `VDIHEADER1PLUS`.

use std::ops::Range;

use super::super::chain::{Identity, Parent};
use super::super::source::Source;
use super::super::{Format, Limits, Refusal};
use super::{FORMAT, MAGIC, SECTOR};
use crate::Disk;

/// Up to the last field that is read.
pub(super) const HEADER_BYTES: usize = 456;

pub(super) const SIGNATURE: usize = 64;
pub(super) const VERSION: usize = 68;
pub(super) const HEADER_SIZE: usize = 72;
pub(super) const IMAGE_TYPE: usize = 76;
const FLAGS: usize = 80;
pub(super) const MAP_OFFSET: usize = 340;
pub(super) const DATA_OFFSET: usize = 344;
pub(super) const SECTOR_SIZE: usize = 360;
pub(super) const DISK_SIZE: usize = 368;
pub(super) const BLOCK_SIZE: usize = 376;
const BLOCK_EXTRA: usize = 380;
pub(super) const BLOCKS: usize = 384;
pub(super) const BLOCKS_ALLOCATED: usize = 388;
pub(super) const CREATION_UUID: usize = 392;
pub(super) const MODIFICATION_UUID: usize = 408;
const PARENT_UUID: usize = 424;

pub(super) const VERSION_1_1: u32 = 0x0001_0001;
/// Size of the header without the pre-header, which are the first 72 bytes, and without the logical geometry.
const LEAST_HEADER_SIZE: u32 = 384;

pub(super) const DYNAMIC: u32 = 1;
const FIXED: u32 = 2;
const DIFFERENCING: u32 = 4;

/// New blocks are filled with zeros, fixed, differencing: none changes what is read.
const KNOWN_FLAGS: u32 = 0x301;
/// VirtualBox's bounds for images that it did not make.
const BLOCK_BYTES: Range<u64> = 128 << 10..(128 << 20) + 1;
/// Ours: the map is kept in memory, where it needs 16 MiB then. A disk of 4 TiB in blocks of 1 MiB has as many.
pub(super) const MOST_BLOCKS: u64 = 4 << 20;

/// What a checked header says.
#[derive(Debug)]
pub(super) struct Header {
    /// A multiple of 512.
    pub(super) size_bytes: u64,
    /// A power of two.
    pub(super) block_bytes: u64,
    /// Blocks that the map has places for, at least as many as the disk needs.
    pub(super) blocks: u64,
    /// Where the map lies, as far as the disk needs it.
    pub(super) map: Range<u64>,
    /// Where block 0 of the file lies.
    pub(super) data_offset: u64,
    pub(super) uuid: [u8; 16],
    /// The image that this one differs from, if it is a difference.
    parent: Option<[u8; 16]>,
}

impl Header {
    pub(super) fn load(file: &Source, limits: Limits) -> Result<Self, Refusal> {
        let start = file.start(HEADER_BYTES)?;
        let Some(bytes) = start.first_chunk() else {
            let found = format!("cut off after {} bytes", start.len());
            return Err(FORMAT.malformed(0, "header", found, format!("{HEADER_BYTES} bytes")));
        };
        let fields = Fields { bytes };
        fields.check_version()?;
        let parent = fields.parent()?;
        let size_bytes = fields.size_bytes(limits)?;
        let block_bytes = fields.block_bytes()?;
        let blocks = fields.blocks(size_bytes.div_ceil(block_bytes))?;
        let map = fields.map(file, size_bytes.div_ceil(block_bytes))?;
        let data_offset = u64::from(fields.u32(DATA_OFFSET));
        let map_end = map.start + blocks * 4;
        if data_offset < map_end {
            let wanted = format!("at least {map_end}, where the block map ends");
            return Err(FORMAT.malformed(DATA_OFFSET as u64, "offData", data_offset, wanted));
        }
        Ok(Header {
            size_bytes,
            block_bytes,
            blocks,
            map,
            data_offset,
            uuid: fields.array(CREATION_UUID),
            parent,
        })
    }

    /// Takes the image that this one differs from, if it differs from one and `parent` is that one.
    pub(super) fn parent_disk(&self, parent: &mut Option<Parent>) -> Result<Option<Box<dyn Disk>>, Refusal> {
        let Some(wanted) = self.parent else {
            return Ok(None);
        };
        let Some(parent) = parent.take() else {
            return Err(FORMAT.no_backing(IMAGE_TYPE as u64, "u32Type", "4 (differencing)"));
        };
        match parent.identity {
            Some(Identity::Vdi(uuid)) if uuid == wanted => Ok(Some(parent.disk)),
            Some(Identity::Vdi(uuid)) => {
                let backing = format!("{}, the UUID of the backing file", text(uuid));
                Err(FORMAT.malformed(PARENT_UUID as u64, "uuidLinkage", text(wanted), backing))
            }
            _ => {
                let backing = "the UUID of the backing file, but that is no VDI";
                Err(FORMAT.malformed(PARENT_UUID as u64, "uuidLinkage", text(wanted), backing))
            }
        }
    }
}

fn text(uuid: [u8; 16]) -> String {
    format!("{:032x}", u128::from_be_bytes(uuid))
}

/// The header's fields, each with the checks that need no other.
struct Fields<'a> {
    bytes: &'a [u8; HEADER_BYTES],
}

impl Fields<'_> {
    fn u32(&self, at: usize) -> u32 {
        u32::from_le_bytes(self.array(at))
    }

    fn array<const N: usize>(&self, at: usize) -> [u8; N] {
        *self.bytes[at..].first_chunk().expect("all fields lie well inside the header")
    }

    fn check_version(&self) -> Result<(), Refusal> {
        let signature = &self.bytes[SIGNATURE..SIGNATURE + 4];
        if signature != MAGIC {
            let (found, wanted) = (signature.escape_ascii(), MAGIC.escape_ascii());
            return Err(FORMAT.malformed(
                SIGNATURE as u64,
                "signature",
                format!("`{found}`"),
                format!("`{wanted}`"),
            ));
        }
        let version = self.u32(VERSION);
        if version != VERSION_1_1 {
            let found = format!("{}.{}", version >> 16, version & 0xffff);
            return Err(FORMAT.unsupported(VERSION as u64, "version", found, "only version 1.1 is read"));
        }
        let size = self.u32(HEADER_SIZE);
        if size < LEAST_HEADER_SIZE {
            let wanted = format!("at least {LEAST_HEADER_SIZE}");
            return Err(FORMAT.malformed(HEADER_SIZE as u64, "cbHeader", size, wanted));
        }
        let flags = self.u32(FLAGS);
        if flags & !KNOWN_FLAGS != 0 {
            let refused = "it has bits that are not known here";
            return Err(FORMAT.unsupported(FLAGS as u64, "fFlags", format!("{flags:#x}"), refused));
        }
        let sector_bytes = self.u32(SECTOR_SIZE);
        if u64::from(sector_bytes) != SECTOR {
            return Err(FORMAT.malformed(SECTOR_SIZE as u64, "cbSector", sector_bytes, SECTOR.to_string()));
        }
        Ok(())
    }

    /// What the image says it differs from.
    fn parent(&self) -> Result<Option<[u8; 16]>, Refusal> {
        let parent = self.array(PARENT_UUID);
        let named = parent != [0; 16];
        match (self.u32(IMAGE_TYPE), named) {
            (DYNAMIC | FIXED, false) => Ok(None),
            (DIFFERENCING, true) => Ok(Some(parent)),
            (DYNAMIC | FIXED, true) => {
                let wanted = "zeros, for the image is not a differencing one";
                Err(FORMAT.malformed(PARENT_UUID as u64, "uuidLinkage", text(parent), wanted))
            }
            (DIFFERENCING, false) => {
                let wanted = "the image that the differencing one differs from";
                Err(FORMAT.malformed(PARENT_UUID as u64, "uuidLinkage", "zeros", wanted))
            }
            (3, _) => {
                Err(FORMAT.unsupported(IMAGE_TYPE as u64, "u32Type", "3 (undo)", "undo images are not read"))
            }
            (other, _) => {
                let wanted = "1 (dynamic), 2 (fixed) or 4 (differencing)";
                Err(FORMAT.malformed(IMAGE_TYPE as u64, "u32Type", other, wanted))
            }
        }
    }

    fn size_bytes(&self, limits: Limits) -> Result<u64, Refusal> {
        let found = u64::from_le_bytes(self.array(DISK_SIZE));
        let max_size_bytes = limits.max_size_bytes;
        match found.checked_next_multiple_of(SECTOR) {
            Some(size_bytes) if size_bytes <= max_size_bytes => Ok(size_bytes),
            _ => Err(Refusal::TooLarge { format: Format::Vdi, size_bytes: found, max_size_bytes }),
        }
    }

    fn block_bytes(&self) -> Result<u64, Refusal> {
        let block_bytes = u64::from(self.u32(BLOCK_SIZE));
        if !BLOCK_BYTES.contains(&block_bytes) || !block_bytes.is_power_of_two() {
            let wanted = format!("a power of two from {} to {}", BLOCK_BYTES.start, BLOCK_BYTES.end - 1);
            return Err(FORMAT.malformed(BLOCK_SIZE as u64, "cbBlock", block_bytes, wanted));
        }
        let extra = self.u32(BLOCK_EXTRA);
        if extra != 0 {
            let refused = "blocks that have other data in front of them are not read";
            return Err(FORMAT.unsupported(BLOCK_EXTRA as u64, "cbBlockExtra", extra, refused));
        }
        Ok(block_bytes)
    }

    fn blocks(&self, needed: u64) -> Result<u64, Refusal> {
        let blocks = u64::from(self.u32(BLOCKS));
        if blocks < needed {
            let wanted = format!("at least {needed}, which the disk's size needs");
            return Err(FORMAT.malformed(BLOCKS as u64, "cBlocks", blocks, wanted));
        }
        if blocks > MOST_BLOCKS {
            let refused = "images of more than 4194304 blocks are not read";
            return Err(FORMAT.unsupported(BLOCKS as u64, "cBlocks", blocks, refused));
        }
        Ok(blocks)
    }

    fn map(&self, file: &Source, needed: u64) -> Result<Range<u64>, Refusal> {
        let start = u64::from(self.u32(MAP_OFFSET));
        let header_end = HEADER_SIZE as u64 + u64::from(self.u32(HEADER_SIZE));
        if start < header_end {
            let wanted = format!("at least {header_end}, where the header ends");
            return Err(FORMAT.malformed(MAP_OFFSET as u64, "offBlocks", start, wanted));
        }
        if !file.holds(start, needed * 4) {
            let size_bytes = file.size_bytes();
            let wanted = format!("{} bytes that lie in the file, which has {size_bytes}", needed * 4);
            return Err(FORMAT.malformed(MAP_OFFSET as u64, "offBlocks", start, wanted));
        }
        Ok(start..start + needed * 4)
    }
}
