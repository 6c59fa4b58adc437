//! The block allocation table: where each block of the disk lies.
//!
//! Its entries are read in pages when they are needed, kept in a bounded cache, and checked each time
//! they are used. After the entries of a chunk's blocks comes one for the chunk's sector bitmap, which says
//! of each sector whether a difference holds it; images that have no parent have no bitmaps, and QEMU before
//! 8.0 leaves noise in those entries.
//!
//! Source: \[MS-VHDX\] 2.4, 2.5. What it leaves undefined reads as zeros, as with QEMU.

use std::sync::Arc;

use super::super::Refusal;
use super::super::cache::SlotCache;
use super::super::chain::Memory;
use super::super::mapped::{Extent, Place};
use super::super::source::Source;
use super::metadata::Metadata;
use super::regions::Regions;
use super::{MIB, corrupt, malformed};
use crate::ReadError;

pub(super) const ENTRY_BYTES: u64 = 8;
const ENTRIES_PER_PAGE: u64 = 8192;
const BAT_CACHE_BYTES: u64 = 8 << 20;

const STATE: u64 = 0b111;
const OFFSET: u64 = !(MIB - 1);
const RESERVED: u64 = !(STATE | OFFSET);

/// States that are written too.
pub(super) const ZERO: u64 = 2;
pub(super) const FULLY_PRESENT: u64 = 6;

/// Bytes of the sector bitmap that are read at once.
const BITMAP_PAGE_BYTES: u64 = 4096;
const BITMAP_BLOCK_BYTES: u64 = MIB;
const BITMAP_CACHE_BYTES: u64 = 1 << 20;
const BITMAP_PRESENT: u64 = 6;

#[derive(Debug)]
pub(super) struct Bat {
    metadata: Metadata,
    regions: Regions,
    /// By their numbers.
    pages: SlotCache<[u64]>,
    /// By their offsets in the file, in pages.
    bitmap_pages: SlotCache<[u8]>,
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
    pub(super) fn new(metadata: Metadata, regions: Regions, memory: &Memory) -> Result<Self, Refusal> {
        let needed = metadata.bat_entries() * ENTRY_BYTES;
        let region_bytes = regions.bat.end - regions.bat.start;
        if needed > region_bytes {
            let wanted = format!("at least {needed}, which the disk's size needs");
            return Err(malformed(regions.bat.start, "length of the BAT region", region_bytes, wanted));
        }
        let pages = metadata.bat_entries().div_ceil(ENTRIES_PER_PAGE);
        let [bat_bytes, bitmap_bytes] =
            [BAT_CACHE_BYTES, BITMAP_CACHE_BYTES].map(|all| memory.cache_bytes(all));
        Ok(Bat {
            metadata,
            regions,
            pages: SlotCache::new(bat_bytes, ENTRIES_PER_PAGE * ENTRY_BYTES, pages),
            bitmap_pages: SlotCache::new(bitmap_bytes, BITMAP_PAGE_BYTES, u64::MAX),
        })
    }

    pub(super) fn size_bytes(&self) -> u64 {
        self.metadata.size_bytes
    }

    pub(super) fn block_bytes(&self) -> u64 {
        self.metadata.block_bytes
    }

    /// As [`Map::extent`](super::super::mapped::Map::extent). An extent ends where its page of entries does.
    pub(super) fn extent(&self, file: &Source, offset: u64, most: u64) -> Result<Extent, ReadError> {
        let number = offset / self.block_bytes();
        let entry = self.metadata.entry_of_block(number);
        let page_number = entry / ENTRIES_PER_PAGE;
        let page = self.page(file, page_number)?;
        let block = self.block(file, number, entry, &page)?;
        let within = offset % self.block_bytes();
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

    /// The bytes of a block that are on the disk, which the last one may reach past.
    fn visible_bytes(&self, number: u64) -> u64 {
        self.block_bytes().min(self.size_bytes() - number * self.block_bytes())
    }

    fn page(&self, file: &Source, number: u64) -> Result<Arc<[u64]>, ReadError> {
        self.pages.get_or_load(number, || {
            let first = number * ENTRIES_PER_PAGE;
            let entries = ENTRIES_PER_PAGE.min(self.metadata.bat_entries() - first);
            let mut page = vec![0; (entries * ENTRY_BYTES) as usize];
            file.read(self.offset_of_entry(first), &mut page)?;
            Ok(page.as_chunks().0.iter().map(|entry| u64::from_le_bytes(*entry)).collect())
        })
    }

    fn offset_of_entry(&self, number: u64) -> u64 {
        self.regions.bat.start + number * ENTRY_BYTES
    }

    /// The block that the entry with number `entry`, which is on `page`, describes.
    fn block(&self, file: &Source, number: u64, entry: u64, page: &[u64]) -> Result<Block, ReadError> {
        let value = page[(entry % ENTRIES_PER_PAGE) as usize];
        let wrong =
            |found: String, wanted| Err(corrupt(self.offset_of_entry(entry), "BAT entry", found, wanted));
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
        if self.regions.overlap(&(host..host.saturating_add(self.block_bytes()))) {
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
    ) -> Result<Extent, ReadError> {
        let sector_bytes = self.metadata.sector_bytes;
        let first_sector = (number % self.metadata.blocks_per_chunk()) * (self.block_bytes() / sector_bytes);
        let sector = first_sector + within / sector_bytes;
        let bits_per_page = BITMAP_PAGE_BYTES * 8;
        let page =
            self.bitmap_page(file, number / self.metadata.blocks_per_chunk(), sector / bits_per_page)?;
        let (alike, stored) = alike_bits(&page, (sector % bits_per_page) as usize);
        let end = ((within / sector_bytes + alike) * sector_bytes).min(self.visible_bytes(number));
        let place = if stored { Place::Stored { offset: host + within } } else { Place::Inherited };
        Ok(Extent { len: end - within, place })
    }

    /// A page of a chunk's sector bitmap.
    fn bitmap_page(&self, file: &Source, chunk: u64, number: u64) -> Result<Arc<[u8]>, ReadError> {
        let entry = (chunk + 1) * (self.metadata.blocks_per_chunk() + 1) - 1;
        let page = self.page(file, entry / ENTRIES_PER_PAGE)?;
        let value = page[(entry % ENTRIES_PER_PAGE) as usize];
        let wrong = |wanted| {
            Err(corrupt(self.offset_of_entry(entry), "sector bitmap entry", format!("{value:#x}"), wanted))
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
        let offset = bitmap + number * BITMAP_PAGE_BYTES;
        self.bitmap_pages.get_or_load(offset / BITMAP_PAGE_BYTES, || {
            let mut page = vec![0; BITMAP_PAGE_BYTES as usize];
            file.read(offset, &mut page)?;
            Ok(page.into())
        })
    }
}

/// Where byte `within` of a block lies that is of one kind.
fn place(block: Block, within: u64) -> Place {
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
