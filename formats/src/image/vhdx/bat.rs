//! The block allocation table: where each block of the disk lies.
//!
//! Its entries are read in pages when they are needed, kept in a bounded cache, and checked each time
//! they are used. After the entries of a chunk's blocks comes one for the chunk's sector bitmap, which says
//! of each sector whether a difference holds it; images that have no parent have no bitmaps, and QEMU before
//! 8.0 leaves noise in those entries.
//!
//! Source: \[MS-VHDX\] 2.4, 2.5. What it leaves undefined reads as zeros, as with QEMU.

use std::convert::Infallible;
use std::sync::Arc;

use super::super::Refusal;
use super::super::mapped::{Extent, Map, Place};
use super::super::read_cache::{PAGE_BYTES, ReadCache, Section};
use super::super::source::Source;
use super::metadata::Metadata;
use super::regions::Regions;
use super::{FORMAT, MIB};
use crate::ReadError;

pub(super) const ENTRY_BYTES: u64 = 8;
const ENTRIES_PER_PAGE: u64 = PAGE_BYTES / ENTRY_BYTES;

const STATE: u64 = 0b111;
const OFFSET: u64 = !(MIB - 1);
const RESERVED: u64 = !(STATE | OFFSET);

/// States that are written too.
pub(super) const ZERO: u64 = 2;
pub(super) const FULLY_PRESENT: u64 = 6;

const BITMAP_BLOCK_BYTES: u64 = MIB;
const BITMAP_PRESENT: u64 = 6;

#[derive(Debug)]
pub(super) struct Bat {
    metadata: Metadata,
    regions: Regions,
    /// Of the table, and of sector bitmaps, which lie apart from it.
    pages: Section,
}

/// What an entry says of its block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Block {
    Zero,
    Inherited,
    /// All of it is in the file from this offset on.
    Stored(u64),
    /// The sectors that the bitmap names are in the file, in a block from this offset on.
    Partial(u64),
}

impl Bat {
    pub(super) fn new(metadata: Metadata, regions: Regions, cache: &ReadCache) -> Result<Self, Refusal> {
        let needed = metadata.bat_entries() * ENTRY_BYTES;
        let region_bytes = regions.bat.end - regions.bat.start;
        if needed > region_bytes {
            let wanted = format!("at least {needed}, which the disk's size needs");
            return Err(FORMAT.malformed(
                regions.bat.start,
                "length of the BAT region",
                region_bytes,
                wanted,
            ));
        }
        Ok(Bat { metadata, regions, pages: cache.section() })
    }

    /// The bytes of a block that are on the disk, which the last one may reach past.
    fn visible_bytes(&self, number: u64) -> u64 {
        self.metadata.block_bytes.min(self.metadata.size_bytes - number * self.metadata.block_bytes)
    }

    /// A page of the table.
    fn page(&self, file: &Source, number: u64) -> Result<Arc<Box<[u8]>>, ReadError> {
        let first = number * ENTRIES_PER_PAGE;
        let entries = ENTRIES_PER_PAGE.min(self.metadata.bat_entries() - first);
        self.pages.read(file, self.offset_of_entry(first), entries * ENTRY_BYTES)
    }

    fn offset_of_entry(&self, number: u64) -> u64 {
        self.regions.bat.start + number * ENTRY_BYTES
    }

    /// The block that the entry with number `entry`, which is on `page`, describes.
    fn block(&self, file: &Source, number: u64, entry: u64, page: &[u8]) -> Result<Block, ReadError> {
        let value = entry_on(page, entry);
        let wrong = |found: String, wanted| {
            Err(FORMAT.corrupt(self.offset_of_entry(entry), "BAT entry", found, wanted))
        };
        if value & RESERVED != 0 {
            return wrong(format!("{value:#x}"), "its reserved bits must be 0");
        }
        let host = value & OFFSET;
        let has_parent = self.metadata.parent.is_some();
        let block = match value & STATE {
            0 if has_parent => return Ok(Block::Inherited),
            // Not present, undefined, zero, unmapped, and what version 0.95 of the specification had for unmapped.
            0 | 1 | ZERO | 3 | 5 => return Ok(Block::Zero),
            FULLY_PRESENT => Block::Stored(host),
            7 if has_parent => Block::Partial(host),
            7 => {
                return wrong(
                    format!("{value:#x}, partially present"),
                    "only a difference may have such blocks",
                );
            }
            state => {
                return wrong(
                    format!("{value:#x}, state {state}"),
                    "the state must be one that the specification has",
                );
            }
        };
        if self.regions.overlap(&(host..host.saturating_add(self.metadata.block_bytes))) {
            return wrong(
                format!("{value:#x}"),
                "the block must not overlap the header section, the log or a region",
            );
        }
        if !file.holds(host, self.visible_bytes(number)) {
            return wrong(format!("{value:#x}"), "the block must lie in the file");
        }
        Ok(block)
    }

    /// The extent from byte `within` of a partially present block on, to where the sector bitmap changes, or
    /// to the end of its page.
    fn partial_extent(
        &self,
        file: &Source,
        number: u64,
        host: u64,
        within: u64,
    ) -> Result<Extent<Infallible>, ReadError> {
        let sector_bytes = self.metadata.sector_bytes;
        let first_sector =
            (number % self.metadata.blocks_per_chunk()) * (self.metadata.block_bytes / sector_bytes);
        let sector = first_sector + within / sector_bytes;
        let bits_per_page = PAGE_BYTES * 8;
        let page =
            self.bitmap_page(file, number / self.metadata.blocks_per_chunk(), sector / bits_per_page)?;
        let (alike, stored) = alike_bits(&page, (sector % bits_per_page) as usize);
        let end = ((within / sector_bytes + alike) * sector_bytes).min(self.visible_bytes(number));
        let place = if stored { Place::Stored { offset: host + within } } else { Place::Inherited };
        Ok(Extent { len: end - within, place })
    }

    /// A page of a chunk's sector bitmap.
    fn bitmap_page(&self, file: &Source, chunk: u64, number: u64) -> Result<Arc<Box<[u8]>>, ReadError> {
        let entry = (chunk + 1) * (self.metadata.blocks_per_chunk() + 1) - 1;
        let page = self.page(file, entry / ENTRIES_PER_PAGE)?;
        let value = entry_on(&page, entry);
        let wrong = |wanted| {
            Err(FORMAT.corrupt(
                self.offset_of_entry(entry),
                "sector bitmap entry",
                format!("{value:#x}"),
                wanted,
            ))
        };
        if value & RESERVED != 0 || value & STATE != BITMAP_PRESENT {
            return wrong("a partially present block needs a sector bitmap: state 6, reserved bits 0");
        }
        let bitmap = value & OFFSET;
        if self.regions.overlap(&(bitmap..bitmap.saturating_add(BITMAP_BLOCK_BYTES))) {
            return wrong("the bitmap must not overlap the header section, the log or a region");
        }
        if !file.holds(bitmap, BITMAP_BLOCK_BYTES) {
            return wrong("the bitmap must lie in the file");
        }
        self.pages.read(file, bitmap + number * PAGE_BYTES, PAGE_BYTES)
    }
}

impl Map for Bat {
    type Packed = Infallible;

    fn size_bytes(&self) -> u64 {
        self.metadata.size_bytes
    }

    /// An extent ends where its page of entries, or of a sector bitmap, does.
    fn extent(&self, file: &Source, offset: u64, most: u64) -> Result<Extent<Infallible>, ReadError> {
        let number = offset / self.metadata.block_bytes;
        let entry = self.metadata.entry_of_block(number);
        let page_number = entry / ENTRIES_PER_PAGE;
        let page = self.page(file, page_number)?;
        let block = self.block(file, number, entry, &page)?;
        let within = offset % self.metadata.block_bytes;
        if let Block::Partial(host) = block {
            let extent = self.partial_extent(file, number, host, within)?;
            return Ok(Extent { len: extent.len.min(most), ..extent });
        }
        let mut extent = Extent { len: self.visible_bytes(number) - within, place: place(block, within) };
        for next in number + 1.. {
            let entry = self.metadata.entry_of_block(next);
            if extent.len >= most || entry / ENTRIES_PER_PAGE != page_number {
                break;
            }
            let block = self.block(file, next, entry, &page)?;
            let whole = Extent { len: self.visible_bytes(next), place: place(block, 0) };
            if matches!(block, Block::Partial(_)) || !extent.continues_in(&whole) {
                break;
            }
            extent.len += whole.len;
        }
        Ok(Extent { len: extent.len.min(most), ..extent })
    }

    fn read_packed(&self, _: &Source, unit: Infallible, _: u64, _: &mut [u8]) -> Result<(), ReadError> {
        match unit {}
    }
}

/// The entry with number `entry`, which is on `page`.
fn entry_on(page: &[u8], entry: u64) -> u64 {
    u64::from_le_bytes(page.as_chunks().0[(entry % ENTRIES_PER_PAGE) as usize])
}

/// Where byte `within` of a block lies that is of one kind.
fn place(block: Block, within: u64) -> Place<Infallible> {
    match block {
        Block::Zero => Place::Zero,
        Block::Inherited => Place::Inherited,
        Block::Stored(host) | Block::Partial(host) => Place::Stored { offset: host + within },
    }
}

/// How many bits of `bitmap` from `first` on are as that one, and whether they are set. Bit 0 is a byte's lowest.
fn alike_bits(bitmap: &[u8], first: usize) -> (u64, bool) {
    let set = bitmap[first / 8] >> (first % 8) & 1 == 1;
    let different = |byte: u8| if set { !byte } else { byte };
    let in_byte = (different(bitmap[first / 8]) >> (first % 8)).trailing_zeros() as usize;
    if in_byte < 8 - first % 8 {
        return (in_byte as u64, set);
    }
    let next = first / 8 + 1;
    let whole = bitmap[next..].iter().take_while(|&&byte| different(byte) == 0).count();
    let last = bitmap.get(next + whole).map_or(0, |&byte| different(byte).trailing_zeros() as usize);
    (((next + whole) * 8 + last - first) as u64, set)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_are_counted_as_one_by_one() {
        let bitmap = [0b0000_0000, 0b1111_0000, 0xff, 0xff, 0b0000_0111, 0, 0, 0b1010_0000];
        let bit = |at: usize| bitmap[at / 8] >> (at % 8) & 1 == 1;
        for first in 0..bitmap.len() * 8 {
            let alike = (first..bitmap.len() * 8).take_while(|&at| bit(at) == bit(first)).count();
            assert_eq!(alike_bits(&bitmap, first), (alike as u64, bit(first)), "from bit {first}");
        }
    }
}
