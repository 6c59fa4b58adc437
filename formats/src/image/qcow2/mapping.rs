//! Where a stretch of the disk lies: L1 table, L2 tables, entries and subclusters.
//!
//! The L1 table is read and checked once, up to the entry the disk needs last; L2 tables are read page by page
//! when they are needed and kept in a bounded cache. Entries are checked each time they are used.
//!
//! Source: `qcow2.txt`, "Cluster mapping" and "Extended L2 Entries".

use std::ops::Range;
use std::sync::Arc;

use super::super::chain::Memory;
use super::super::mapped::{Extent, Place};
use super::super::read_cache::{PAGE_BYTES, Section};
use super::super::source::Source;
use super::super::unpack::Unit;
use super::super::{LeftOut, Refusal};
use super::FORMAT;
use super::header::{Header, L2Entry};
use crate::ReadError;

const OFFSET_MASK: u64 = 0x00ff_ffff_ffff_fe00;
/// Bit 63 says that a refcount is one, which only writers need to know.
const L1_RESERVED: u64 = !(OFFSET_MASK | COPIED);
const COPIED: u64 = 1 << 63;
const COMPRESSED: u64 = 1 << 62;
const READS_AS_ZEROS: u64 = 1 << 0;
const SECTOR: u64 = 512;
const SUBCLUSTERS: u64 = 32;

const L1_PIECE_BYTES: usize = 64 << 10;

#[derive(Debug)]
pub(super) struct Mapping {
    header: Header,
    /// Offsets of the L2 tables, 0 where there is none. Each table lies in the file, aligned, and
    /// overlaps neither header nor L1 nor refcount table.
    l2_offsets: Vec<u64>,
    /// The offsets of all L2 tables, ascending.
    l2_tables: Vec<u64>,
    /// Of L2 tables; a small table is one.
    l2_pages: Section,
}

/// A page of an L2 table.
struct L2Page {
    entries: Arc<Box<[u8]>>,
    /// Where in the file it lies.
    offset: u64,
}

/// An L2 entry, and where it stands.
struct Entry {
    descriptor: u64,
    /// Subcluster states: allocated in the lower half, zero in the upper. 0 in standard entries.
    bitmap: u64,
    /// Offset in the file.
    offset: u64,
    /// Which cluster of the disk it describes.
    cluster: u64,
}

impl Mapping {
    pub(super) fn load(file: &Source, header: Header, memory: &Memory) -> Result<Self, Refusal> {
        let count = header.size_bytes.div_ceil(header.bytes_per_table());
        memory.take_tables(count * 8)?;
        let mut l2_offsets = Vec::with_capacity(count as usize);
        let mut piece = vec![0; L1_PIECE_BYTES.min(count as usize * 8)];
        let mut at = header.l1_table.start;
        let end = at + count * 8;
        while at < end {
            let piece_bytes = piece.len().min((end - at) as usize);
            let piece = &mut piece[..piece_bytes];
            file.read(at, piece)?;
            for (index, entry) in words(piece).enumerate() {
                l2_offsets.push(l2_offset(entry, at + index as u64 * 8, file, &header)?);
            }
            at += piece_bytes as u64;
        }
        let present = || l2_offsets.iter().copied().filter(|&offset| offset != 0);
        let present_count = present().count();
        memory.take_tables(present_count as u64 * 8)?;
        let mut l2_tables = Vec::with_capacity(present_count);
        l2_tables.extend(present());
        l2_tables.sort_unstable();
        Ok(Mapping { header, l2_offsets, l2_tables, l2_pages: memory.cache.section() })
    }

    pub(super) fn size_bytes(&self) -> u64 {
        self.header.size_bytes
    }

    pub(super) fn left_out(&self) -> Vec<LeftOut> {
        let count = self.header.snapshots;
        if count == 0 { Vec::new() } else { vec![LeftOut::InternalSnapshots { count }] }
    }

    fn cluster_bytes(&self) -> u64 {
        self.header.cluster_bytes()
    }

    /// As [`Map::extent`](super::super::mapped::Map::extent). An extent ends where its page of the L2 table does,
    /// unless there is no table.
    pub(super) fn extent(&self, file: &Source, offset: u64, most: u64) -> Result<Extent<Unit>, ReadError> {
        let per_table = self.header.bytes_per_table();
        let l1_index = offset / per_table;
        if self.l2_offsets[l1_index as usize] == 0 {
            let last = (offset + most - 1) / per_table;
            let here = &self.l2_offsets[l1_index as usize..=last as usize];
            let absent = here.iter().take_while(|&&offset| offset == 0).count();
            let end = (l1_index + absent as u64) * per_table;
            return Ok(Extent { len: most.min(end - offset), place: Place::Inherited });
        }
        let page = self.l2_page(file, offset)?;
        let per_page = page.entries.len() as u64 / self.entry_bytes() * self.cluster_bytes();
        let most = most.min(per_page - offset % per_page);
        let mut extent = self.piece(file, &page, offset)?;
        while extent.len < most {
            let next = self.piece(file, &page, offset + extent.len)?;
            if !extent.continues_in(&next) {
                break;
            }
            extent.len += next.len;
        }
        extent.len = extent.len.min(most);
        Ok(extent)
    }

    /// The page with the entry for byte `offset` of the disk, for which there must be an L2 table.
    fn l2_page(&self, file: &Source, offset: u64) -> Result<L2Page, ReadError> {
        let per_table = self.header.bytes_per_table();
        let page_bytes = self.cluster_bytes().min(PAGE_BYTES);
        let in_table = offset % per_table / self.cluster_bytes() * self.entry_bytes();
        let page = self.l2_offsets[(offset / per_table) as usize] + in_table / page_bytes * page_bytes;
        Ok(L2Page { entries: self.l2_pages.read(file, page, page_bytes)?, offset: page })
    }

    fn overlaps_tables(&self, range: Range<u64>) -> bool {
        let after = self.l2_tables.partition_point(|&table| table < range.end);
        let last_before = after.checked_sub(1).map(|last| self.l2_tables[last]);
        last_before.is_some_and(|table| table + self.cluster_bytes() > range.start)
            || self.header.overlaps_tables(range)
    }

    fn entry_bytes(&self) -> u64 {
        self.header.l2_entry.words() * 8
    }

    /// The extent from `offset` to the end of its cluster, or of its subclusters of the same kind.
    fn piece(&self, file: &Source, page: &L2Page, offset: u64) -> Result<Extent<Unit>, ReadError> {
        let cluster_bytes = self.cluster_bytes();
        let entry = self.entry(page, offset);
        let within = offset % cluster_bytes;
        let visible = cluster_bytes.min(self.header.size_bytes - (offset - within));
        if entry.descriptor & COMPRESSED != 0 {
            let unit = self.compressed(file, &entry)?;
            return Ok(Extent { len: visible - within, place: Place::Packed { unit, within } });
        }
        let host = self.host_offset(&entry)?;
        let (in_cluster, state) = self.state_around(&entry, host, within)?;
        let end = in_cluster.end.min(visible);
        let place = match state {
            State::Absent => Place::Inherited,
            State::Zero => Place::Zero,
            State::Stored if !file.holds(host, end) => {
                let found = format!("{host:#x}, {end} bytes of it in use");
                return Err(entry.corrupt("host cluster offset", found, "the cluster must lie in the file"));
            }
            State::Stored => Place::Stored { offset: host + within },
        };
        Ok(Extent { len: end - within, place })
    }

    fn entry(&self, page: &L2Page, offset: u64) -> Entry {
        let cluster = offset / self.cluster_bytes();
        let at = cluster * self.entry_bytes() % page.entries.len() as u64;
        let mut words = words(&page.entries[at as usize..]);
        let mut word = || words.next().expect("an entry lies on one page");
        let descriptor = word();
        let bitmap = match self.header.l2_entry {
            L2Entry::Standard => 0,
            L2Entry::Extended => word(),
        };
        Entry { descriptor, bitmap, offset: page.offset + at, cluster }
    }

    /// The host cluster's offset, 0 where there is none.
    fn host_offset(&self, entry: &Entry) -> Result<u64, ReadError> {
        let host = entry.descriptor & OFFSET_MASK;
        let zero_flag = match self.header.l2_entry {
            L2Entry::Standard if self.header.version >= 3 => READS_AS_ZEROS,
            L2Entry::Standard | L2Entry::Extended => 0,
        };
        let reserved = entry.descriptor & !(OFFSET_MASK | COPIED | zero_flag);
        if reserved != 0 {
            let found = format!("{:#x}", entry.descriptor);
            return Err(entry.corrupt("L2 entry", found, "its reserved bits must be 0"));
        }
        if !host.is_multiple_of(self.cluster_bytes()) {
            let wanted = "it must be a multiple of the cluster size";
            return Err(entry.corrupt("host cluster offset", format!("{host:#x}"), wanted));
        }
        if host != 0 && self.overlaps_tables(host..host.saturating_add(self.cluster_bytes())) {
            let wanted = "the cluster must not overlap the L1, an L2 or the refcount table";
            return Err(entry.corrupt("host cluster offset", format!("{host:#x}"), wanted));
        }
        Ok(host)
    }

    /// The part of the cluster around byte `within` that is of one kind, and the kind.
    fn state_around(&self, entry: &Entry, host: u64, within: u64) -> Result<(Range<u64>, State), ReadError> {
        if self.header.l2_entry == L2Entry::Standard {
            let state = match host {
                _ if entry.descriptor & READS_AS_ZEROS != 0 => State::Zero,
                0 => State::Absent,
                _ => State::Stored,
            };
            return Ok((0..self.cluster_bytes(), state));
        }
        let (allocated, zero) = (entry.bitmap as u32, (entry.bitmap >> SUBCLUSTERS) as u32);
        let found = || format!("{:#018x}", entry.bitmap);
        if allocated & zero != 0 {
            let wanted = "no subcluster may be both allocated and zero";
            return Err(entry.corrupt("subcluster bitmap", found(), wanted));
        }
        if allocated != 0 && host == 0 {
            let wanted = "an allocated subcluster needs a host cluster";
            return Err(entry.corrupt("subcluster bitmap", found(), wanted));
        }
        let subcluster_bytes = self.cluster_bytes() / SUBCLUSTERS;
        let first = (within / subcluster_bytes) as u32;
        let states = [(allocated, State::Stored), (zero, State::Zero), (!(allocated | zero), State::Absent)];
        let (subclusters, state) = states
            .into_iter()
            .find(|(subclusters, _)| subclusters >> first & 1 == 1)
            .expect("the third holds what the others do not");
        let alike = (subclusters >> first).trailing_ones();
        let end = u64::from(first + alike) * subcluster_bytes;
        Ok((within..end, state))
    }

    /// The unit that a compressed cluster's descriptor names.
    fn compressed(&self, file: &Source, entry: &Entry) -> Result<Unit, ReadError> {
        let offset_bits = 62 - (self.header.cluster_bits - 8);
        let offset = entry.descriptor & ((1 << offset_bits) - 1);
        let more_sectors = (entry.descriptor & (COMPRESSED - 1)) >> offset_bits;
        let corrupt =
            |wanted| Err(entry.corrupt("compressed cluster offset", format!("{offset:#x}"), wanted));
        // The sectors at the end of the file may be cut off where the compressed data ends.
        let promised_end = (offset / SECTOR + more_sectors + 1) * SECTOR;
        if offset >= file.size_bytes() || promised_end > file.size_bytes().next_multiple_of(SECTOR) {
            return corrupt("the compressed cluster must lie in the file");
        }
        let end = promised_end.min(file.size_bytes());
        if offset < self.cluster_bytes() || self.overlaps_tables(offset..end) {
            return corrupt("it must not overlap the header, the L1, an L2 or the refcount table");
        }
        Ok(Unit { index: entry.cluster, offset, len: end - offset })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// What the backing file has there.
    Absent,
    Zero,
    Stored,
}

impl Entry {
    fn corrupt(&self, field: &'static str, found: String, wanted: &'static str) -> ReadError {
        FORMAT.corrupt(self.offset, field, found, wanted)
    }
}

impl Header {
    fn overlaps_tables(&self, range: Range<u64>) -> bool {
        let overlaps = |table: &Range<u64>| range.start < table.end && table.start < range.end;
        overlaps(&self.l1_table) || overlaps(&self.refcount_table)
    }
}

/// Checks the L1 entry at byte `at` of the file; gives the offset of its L2 table, or 0.
fn l2_offset(entry: u64, at: u64, file: &Source, header: &Header) -> Result<u64, Refusal> {
    let offset = entry & OFFSET_MASK;
    let refuse = |wanted: String| Err(FORMAT.malformed(at, "L1 entry", format!("{entry:#x}"), wanted));
    if entry & L1_RESERVED != 0 {
        return refuse("reserved bits that are 0".to_owned());
    }
    if offset == 0 {
        return Ok(0);
    }
    let cluster_bytes = header.cluster_bytes();
    if !offset.is_multiple_of(cluster_bytes) {
        return refuse(format!("an offset that is a multiple of the cluster size, {cluster_bytes}"));
    }
    if !file.holds(offset, cluster_bytes) {
        return refuse(format!("an L2 table that lies in the file, which has {} bytes", file.size_bytes()));
    }
    if header.overlaps_tables(offset..offset + cluster_bytes) {
        return refuse("an L2 table apart from the L1 and the refcount table".to_owned());
    }
    Ok(offset)
}

fn words(bytes: &[u8]) -> impl Iterator<Item = u64> {
    bytes.as_chunks().0.iter().map(|word| u64::from_be_bytes(*word))
}
