//! Where a stretch of the disk lies: the block allocation table, and the sector bitmap in front of each block.
//!
//! The table is read and checked once, up to the entry that the disk needs last; bitmaps are read when they are
//! needed and kept in a bounded cache.
//!
//! A sector whose bit is clear is inherited in a differencing image, and zero in a dynamic one, as VirtualBox
//! reads it too; QEMU looks at no bitmap, but sets all bits of those it writes.
//!
//! Source: VHD specification 1.0, "Block Allocation Table and Data Blocks".

use std::convert::Infallible;

use super::super::Refusal;
use super::super::chain::Memory;
use super::super::mapped::{Extent, Map, Place};
use super::super::read_cache::{PAGE_BYTES, Section};
use super::super::source::Source;
use super::footer::Footer;
use super::header::Header;
use super::{FORMAT, SECTOR};
use crate::ReadError;

/// A table entry for a block that is not stored.
pub(super) const NO_BLOCK: u32 = u32::MAX;

const TABLE_PIECE_BYTES: u64 = 64 << 10;

/// A disk in blocks that are stored where they were first written.
#[derive(Debug)]
pub(super) struct Blocks {
    size_bytes: u64,
    block_bytes: u64,
    bitmap_bytes: u64,
    /// For each block of the disk, the sector of its bitmap, or [`NO_BLOCK`]. What the disk needs of a block
    /// lies in the file, apart from footers, header, this table and all other blocks.
    table: Vec<u32>,
    /// Pages of sector bitmaps; a small bitmap is one.
    bitmaps: Section,
}

impl Blocks {
    pub(super) fn load(
        file: &Source,
        footer: &Footer,
        header: &Header,
        memory: &Memory,
    ) -> Result<Self, Refusal> {
        memory.take_tables(header.table.end - header.table.start)?;
        let bitmap_bytes = bitmap_bytes(header.block_bytes);
        let count = (header.table.end - header.table.start) / 4;
        let mut blocks = Blocks {
            size_bytes: footer.size_bytes,
            block_bytes: header.block_bytes,
            bitmap_bytes,
            table: Vec::with_capacity(count as usize),
            bitmaps: memory.cache.section(),
        };
        let mut piece = vec![0; TABLE_PIECE_BYTES.min(count * 4) as usize];
        while (blocks.table.len() as u64) < count {
            let at = header.table.start + blocks.table.len() as u64 * 4;
            let piece_bytes = TABLE_PIECE_BYTES.min(header.table.end - at) as usize;
            let piece = &mut piece[..piece_bytes];
            file.read(at, piece)?;
            for entry in piece.as_chunks().0 {
                let entry = u32::from_be_bytes(*entry);
                blocks.check_entry(entry, footer, header)?;
                blocks.table.push(entry);
            }
        }
        blocks.check_apart(header)?;
        Ok(blocks)
    }

    /// Checks the entry that is to be added to the table.
    fn check_entry(&self, entry: u32, footer: &Footer, header: &Header) -> Result<(), Refusal> {
        if entry == NO_BLOCK {
            return Ok(());
        }
        let index = self.table.len() as u64;
        let start = u64::from(entry) * SECTOR;
        let needed = self.bitmap_bytes + self.visible_bytes(index);
        let refuse = |wanted: String| {
            let found = format!("sector {entry}");
            Err(FORMAT.malformed(
                header.table.start + index * 4,
                "block allocation table entry",
                found,
                wanted,
            ))
        };
        if start + needed > footer.data_end {
            let end = footer.data_end;
            return refuse(format!("a block of which {needed} bytes lie in front of byte {end}"));
        }
        let overlaps = |from: u64, to: u64| start < to && from < start + needed;
        if start < SECTOR
            || overlaps(header.place.start, header.place.end)
            || overlaps(header.table.start, header.table.end)
        {
            return refuse("a block apart from footer, header and block allocation table".to_owned());
        }
        Ok(())
    }

    fn check_apart(&self, header: &Header) -> Result<(), Refusal> {
        let mut stored: Vec<u32> = self.table.iter().copied().filter(|&entry| entry != NO_BLOCK).collect();
        stored.sort_unstable();
        let sectors = (self.bitmap_bytes + self.block_bytes) / SECTOR;
        let overlap = stored.windows(2).find(|pair| u64::from(pair[1] - pair[0]) < sectors);
        let Some(&[first, second]) = overlap else {
            return Ok(());
        };
        let index = self.table.iter().rposition(|&entry| entry == second).expect("it is from the table");
        let at = header.table.start + index as u64 * 4;
        let wanted = format!("a block apart from the one at sector {first}");
        Err(FORMAT.malformed(at, "block allocation table entry", format!("sector {second}"), wanted))
    }

    /// The bytes of the block that lie on the disk.
    fn visible_bytes(&self, index: u64) -> u64 {
        self.block_bytes.min(self.size_bytes - index * self.block_bytes)
    }
}

impl Map for Blocks {
    type Packed = Infallible;

    fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// An extent ends where its page of the sector bitmap does.
    fn extent(&self, file: &Source, offset: u64, most: u64) -> Result<Extent<Infallible>, ReadError> {
        let index = offset / self.block_bytes;
        let entry = self.table[index as usize];
        if entry == NO_BLOCK {
            let last = (offset + most - 1) / self.block_bytes;
            let here = &self.table[index as usize..=last as usize];
            let absent = here.iter().take_while(|&&entry| entry == NO_BLOCK).count() as u64;
            let end = (index + absent) * self.block_bytes;
            return Ok(Extent { len: most.min(end - offset), place: Place::Inherited });
        }
        let bitmap = u64::from(entry) * SECTOR;
        let within = offset % self.block_bytes;
        let page_bytes = self.bitmap_bytes.min(PAGE_BYTES);
        // What a page describes, and where in the block that starts.
        let described = page_bytes * 8 * SECTOR;
        let start = within - within % described;
        let page = self.bitmaps.read(file, bitmap + start / described * page_bytes, page_bytes)?;
        let most = most.min(self.block_bytes.min(start + described) - within);
        let sectors = (within - start) / SECTOR..(within - start + most).div_ceil(SECTOR);
        let end = start + alike(&page, sectors.start, sectors.end) * SECTOR;
        let place = if is_set(&page, sectors.start) {
            Place::Stored { offset: bitmap + self.bitmap_bytes + within }
        } else {
            Place::Inherited
        };
        Ok(Extent { len: most.min(end - within), place })
    }

    fn read_packed(&self, _: &Source, unit: Infallible, _: u64, _: &mut [u8]) -> Result<(), ReadError> {
        match unit {}
    }
}

/// The bytes of a block's bitmap: a bit for each sector, filled up to whole sectors.
pub(super) fn bitmap_bytes(block_bytes: u64) -> u64 {
    block_bytes.div_ceil(SECTOR * 8).next_multiple_of(SECTOR)
}

/// The first bit of a byte is its highest.
fn is_set(bitmap: &[u8], sector: u64) -> bool {
    bitmap[(sector / 8) as usize] & (0x80 >> (sector % 8)) != 0
}

/// Where the sectors from `first` on end, before `end`, whose bits are all the same.
fn alike(bitmap: &[u8], first: u64, end: u64) -> u64 {
    let set = is_set(bitmap, first);
    let whole = if set { 0xff } else { 0 };
    let mut at = first + 1;
    while at < end && is_set(bitmap, at) == set {
        at += if at.is_multiple_of(8) && bitmap[(at / 8) as usize] == whole { 8 } else { 1 };
    }
    at.min(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sectors_of_one_kind_are_one_stretch() {
        let bitmap = [0b1110_0000, 0, 0xff, 0xff, 0b1000_0000];
        for (first, end, want) in
            [(0, 40, 3), (1, 40, 3), (1, 2, 2), (3, 40, 16), (16, 40, 33), (16, 20, 20), (33, 40, 40)]
        {
            assert_eq!(alike(&bitmap, first, end), want, "from {first} to {end}");
        }
    }

    #[test]
    fn bitmaps_are_whole_sectors() {
        for (block_bytes, want) in [(512, 512), (2 << 20, 512), (4 << 20, 1024), (256 << 20, 65536)] {
            assert_eq!(bitmap_bytes(block_bytes), want);
        }
    }
}
