//! Where a grain lies: grain directory, grain tables, entries and grain markers.
//!
//! The directory is read and checked once; grain tables are read when they are needed and kept in a
//! bounded cache. Entries and markers are checked each time they are used.
//!
//! Source: "Virtual Disk Format 5.0", "Grain Directory", "Grain Table", "Grain Marker".

use std::ops::Range;
use std::sync::Arc;

use super::super::Refusal;
use super::super::mapped::{Extent, Place};
use super::super::read_cache::{ReadCache, Section};
use super::super::source::Source;
use super::super::unpack::Unit;
use super::header::{ENTRIES_PER_TABLE, Header};
use super::{FORMAT, SECTOR};
use crate::ReadError;

const TABLE_BYTES: u64 = ENTRIES_PER_TABLE * 4;
const DIRECTORY_PIECE_BYTES: usize = 64 << 10;

/// A grain table entry for a grain of zeros, where the header's flags allow it.
const ZERO_GRAIN: u32 = 1;
/// The first sector of a compressed grain on the disk, and the bytes that follow.
const MARKER_BYTES: u64 = 12;
/// As QEMU: a compressed grain may be twice as large as its content, no more.
const LARGEST_EXPANSION: u64 = 2;

#[derive(Debug)]
pub(super) struct Grains {
    header: Header,
    /// Sectors of the grain tables, 0 where there is none. Each table lies in the file, past the header.
    directory: Vec<u32>,
    /// The sectors of all grain tables, ascending.
    table_sectors: Vec<u32>,
    tables: Section,
}

impl Grains {
    pub(super) fn load(file: &Source, header: Header, cache: &ReadCache) -> Result<Self, Refusal> {
        let Range { start, end } = header.directory;
        let count = (end - start) / 4;
        let mut directory = Vec::with_capacity(count as usize);
        let mut piece = vec![0; DIRECTORY_PIECE_BYTES.min((end - start) as usize)];
        let mut at = start;
        while at < end {
            let piece_bytes = piece.len().min((end - at) as usize);
            let piece = &mut piece[..piece_bytes];
            file.read(at, piece)?;
            for (index, entry) in entries(piece).enumerate() {
                check_table(entry, at + index as u64 * 4, file, &header)?;
                directory.push(entry);
            }
            at += piece_bytes as u64;
        }
        let mut table_sectors: Vec<u32> = directory.iter().copied().filter(|&sector| sector != 0).collect();
        table_sectors.sort_unstable();
        Ok(Grains { header, directory, table_sectors, tables: cache.section() })
    }

    pub(super) fn header(&self) -> &Header {
        &self.header
    }

    /// As [`Map::extent`](super::super::mapped::Map::extent). An extent ends where its grain table
    /// does, unless there is none.
    pub(super) fn extent(&self, file: &Source, offset: u64, most: u64) -> Result<Extent<Unit>, ReadError> {
        let per_table = self.header.bytes_per_table();
        let number = offset / per_table;
        if self.directory[number as usize] == 0 {
            let last = (offset + most - 1) / per_table;
            let here = &self.directory[number as usize..=last as usize];
            let absent = here.iter().take_while(|&&sector| sector == 0).count();
            let end = (number + absent as u64) * per_table;
            return Ok(Extent { len: most.min(end - offset), place: Place::Inherited });
        }
        let table = self.table(file, number)?;
        let most = most.min((number + 1) * per_table - offset);
        let mut extent = self.grain(file, number, &table, offset)?;
        while extent.len < most {
            let next = self.grain(file, number, &table, offset + extent.len)?;
            if !extent.continues_in(&next) {
                break;
            }
            extent.len += next.len;
        }
        extent.len = extent.len.min(most);
        Ok(extent)
    }

    /// Reads the marker of a compressed grain; gives where in the file the compressed bytes lie.
    pub(super) fn stream_of(&self, file: &Source, grain: Unit) -> Result<Unit, ReadError> {
        let (mut sector, mut len) = ([0; 8], [0; 4]);
        file.read(grain.offset, &mut sector)?;
        file.read(grain.offset + 8, &mut len)?;
        let (sector, len) = (u64::from_le_bytes(sector), u64::from(u32::from_le_bytes(len)));
        if sector != grain.index * (self.header.grain_bytes() / SECTOR) {
            let wanted = "it must be the first sector of the grain whose table entry points here";
            return Err(FORMAT.corrupt(grain.offset, "lba of the grain marker", sector.to_string(), wanted));
        }
        if len == 0 || len > grain.len - MARKER_BYTES {
            let wanted = "it must be at least 1, at most twice the grain's size, and end in the file";
            return Err(FORMAT.corrupt(
                grain.offset + 8,
                "size in the grain marker",
                len.to_string(),
                wanted,
            ));
        }
        Ok(Unit { offset: grain.offset + MARKER_BYTES, len, ..grain })
    }

    fn overlaps_table(&self, range: Range<u64>) -> bool {
        let after = self.table_sectors.partition_point(|&sector| u64::from(sector) * SECTOR < range.end);
        let last_before = after.checked_sub(1).map(|last| u64::from(self.table_sectors[last]) * SECTOR);
        last_before.is_some_and(|table| table + TABLE_BYTES > range.start)
    }

    fn table(&self, file: &Source, number: u64) -> Result<Arc<Box<[u8]>>, ReadError> {
        self.tables.read(file, u64::from(self.directory[number as usize]) * SECTOR, TABLE_BYTES)
    }

    /// The extent from `offset` to the end of its grain.
    fn grain(
        &self,
        file: &Source,
        number: u64,
        table: &[u8],
        offset: u64,
    ) -> Result<Extent<Unit>, ReadError> {
        let grain_bytes = self.header.grain_bytes();
        let index = offset / grain_bytes;
        let within = offset % grain_bytes;
        let visible = grain_bytes.min(self.header.size_bytes() - index * grain_bytes);
        let len = visible - within;
        let in_table = index % ENTRIES_PER_TABLE;
        let entry = u32::from_le_bytes(table.as_chunks().0[in_table as usize]);
        match entry {
            0 => return Ok(Extent { len, place: Place::Inherited }),
            ZERO_GRAIN if self.header.has_zero_grains => return Ok(Extent { len, place: Place::Zero }),
            _ => {}
        }
        let start = u64::from(entry) * SECTOR;
        let needed = if self.header.compressed { MARKER_BYTES + 1 } else { visible };
        let corrupt = |wanted| {
            let table = u64::from(self.directory[number as usize]) * SECTOR;
            Err(FORMAT.corrupt(table + in_table * 4, "grain table entry", format!("sector {entry}"), wanted))
        };
        if !file.holds(start, needed) {
            return corrupt("the grain must lie in the file");
        }
        if self.header.overlaps_metadata(start..start + needed) || self.overlaps_table(start..start + needed)
        {
            return corrupt(
                "the grain must not overlap header, descriptor, grain directory or a grain table",
            );
        }
        if !self.header.compressed {
            return Ok(Extent { len, place: Place::Stored { offset: start + within } });
        }
        let most = MARKER_BYTES + LARGEST_EXPANSION * grain_bytes;
        let unit = Unit { index, offset: start, len: most.min(file.size_bytes() - start) };
        Ok(Extent { len, place: Place::Packed { unit, within } })
    }
}

impl Header {
    fn overlaps_metadata(&self, range: Range<u64>) -> bool {
        let overlaps = |other: &Range<u64>| range.start < other.end && other.start < range.end;
        range.start < SECTOR || overlaps(&self.descriptor) || overlaps(&self.directory)
    }
}

/// Checks the grain directory's entry at byte `at` of the file.
fn check_table(entry: u32, at: u64, file: &Source, header: &Header) -> Result<(), Refusal> {
    let start = u64::from(entry) * SECTOR;
    let refuse =
        |wanted| Err(FORMAT.malformed(at, "grain directory entry", format!("sector {entry}"), wanted));
    if entry == 0 {
        return Ok(());
    }
    if !file.holds(start, TABLE_BYTES) {
        return refuse(format!("a grain table that lies in the file, which has {} bytes", file.size_bytes()));
    }
    if header.overlaps_metadata(start..start + TABLE_BYTES) {
        return refuse("a grain table apart from header, descriptor and grain directory".to_owned());
    }
    Ok(())
}

fn entries(bytes: &[u8]) -> impl Iterator<Item = u32> {
    bytes.as_chunks().0.iter().map(|entry| u32::from_le_bytes(*entry))
}
