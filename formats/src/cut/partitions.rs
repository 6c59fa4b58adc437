//! Where the partitions of a disk are, by its GPT or its MBR.
//!
//! Checksums are not looked at: a wrong partition is one in which no file system will be found.
//!
//! Source: UEFI specification 2.10, section 5 ("GUID Partition Table"); for MBR and its chain of
//! extended boot records, the same, section 5.2.1, and long practice.

use std::ops::Range;

use crate::Disk;

/// More partitions than this are not looked at.
const MAX_PARTITIONS: usize = 256;
/// The longest GPT that is read, in bytes: twice what [`MAX_PARTITIONS`] need.
const MAX_TABLE_BYTES: u64 = 2 * 128 * MAX_PARTITIONS as u64;

const MBR_TYPE_GPT: u8 = 0xee;
const MBR_TYPES_EXTENDED: [u8; 3] = [0x05, 0x0f, 0x85];

/// The partitions of `disk` in bytes, as its table lists them; none where there is no table.
pub(super) fn partitions(disk: &dyn Disk) -> Vec<Range<u64>> {
    let mut found = gpt(disk, 512).or_else(|| gpt(disk, 4096)).or_else(|| mbr(disk)).unwrap_or_default();
    found.retain(|part| part.start < part.end && part.end <= disk.size_bytes());
    found.truncate(MAX_PARTITIONS);
    found
}

fn gpt(disk: &dyn Disk, sector_bytes: u64) -> Option<Vec<Range<u64>>> {
    let mut header = [0; 92];
    disk.read_at(sector_bytes, &mut header).ok()?;
    if !header.starts_with(b"EFI PART") {
        return None;
    }
    let first_entry = le64(&header, 72).checked_mul(sector_bytes)?;
    let entries = u64::from(le32(&header, 80));
    let entry_bytes = u64::from(le32(&header, 84)).clamp(128, MAX_TABLE_BYTES);
    let table_bytes = entries.checked_mul(entry_bytes)?.min(MAX_TABLE_BYTES);
    let mut table = vec![0; table_bytes as usize];
    disk.read_at(first_entry, &mut table).ok()?;
    let entries = table.chunks_exact(entry_bytes as usize).filter(|entry| entry[..16] != [0; 16]);
    Some(
        entries
            .filter_map(|entry| {
                let start = le64(entry, 32).checked_mul(sector_bytes)?;
                let end = le64(entry, 40).checked_add(1)?.checked_mul(sector_bytes)?;
                Some(start..end)
            })
            .collect(),
    )
}

fn mbr(disk: &dyn Disk) -> Option<Vec<Range<u64>>> {
    let mut found = Vec::new();
    for entry in boot_record(disk, 0)? {
        if MBR_TYPES_EXTENDED.contains(&entry.kind) {
            logical(disk, entry.start, &mut found);
        } else if entry.kind != 0 && entry.kind != MBR_TYPE_GPT {
            found.push(entry.bytes(0));
        }
    }
    Some(found)
}

/// Follows the chain of boot records that starts at sector `extended`.
fn logical(disk: &dyn Disk, extended: u64, found: &mut Vec<Range<u64>>) {
    let mut at = extended;
    for _ in 0..MAX_PARTITIONS {
        let Some([partition, next, ..]) = boot_record(disk, at) else { return };
        if partition.kind != 0 {
            found.push(partition.bytes(at));
        }
        if !MBR_TYPES_EXTENDED.contains(&next.kind) {
            return;
        }
        at = extended + next.start;
    }
}

/// One of the four entries of a boot record, in sectors.
#[derive(Debug, Clone, Copy)]
struct MbrEntry {
    kind: u8,
    start: u64,
    sectors: u64,
}

impl MbrEntry {
    fn bytes(self, base: u64) -> Range<u64> {
        let start = (base + self.start) * 512;
        start..start + self.sectors * 512
    }
}

fn boot_record(disk: &dyn Disk, sector: u64) -> Option<[MbrEntry; 4]> {
    let mut record = [0; 512];
    disk.read_at(sector * 512, &mut record).ok()?;
    if record[510..] != [0x55, 0xaa] {
        return None;
    }
    Some(std::array::from_fn(|number| {
        let entry = &record[446 + number * 16..][..16];
        MbrEntry { kind: entry[4], start: le32(entry, 8).into(), sectors: le32(entry, 12).into() }
    }))
}

fn le32(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(std::array::from_fn(|byte| bytes[at + byte]))
}

fn le64(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(std::array::from_fn(|byte| bytes[at + byte]))
}
