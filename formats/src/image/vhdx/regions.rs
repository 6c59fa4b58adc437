//! The region table: where the block allocation table and the metadata lie, and what no block may overlap.
//!
//! Source: \[MS-VHDX\] 2.2.3.

use std::ops::Range;

use super::super::Refusal;
use super::super::source::Source;
use super::guid::Guid;
use super::header::SECTION_BYTES;
use super::sealed::{self, Fields};
use super::{FORMAT, MIB};

pub(super) const OFFSETS: [u64; 2] = [192 << 10, 256 << 10];
pub(super) const TABLE_BYTES: usize = 64 << 10;
pub(super) const SIGNATURE: &[u8; 4] = b"regi";
pub(super) const HEADER_BYTES: usize = 16;
pub(super) const ENTRY_BYTES: usize = 32;
const MOST_ENTRIES: u32 = 2047;

// Where the fields lie in the table's header and in an entry.
pub(super) const ENTRY_COUNT: usize = 8;
pub(super) const FILE_OFFSET: usize = 16;
pub(super) const LENGTH: usize = 24;
pub(super) const REQUIRED: usize = 28;

pub(super) const BAT: Guid = Guid::new(0x2dc27766_f623_4200_9d64_115e9bfd4a08);
pub(super) const METADATA: Guid = Guid::new(0x8b7ca206_4790_4b9a_b8fe_575f050f886e);

/// The regions of a file. Each lies in it, in whole mebibytes, past the header section and apart from the
/// others and the log.
#[derive(Debug)]
pub(super) struct Regions {
    pub(super) bat: Range<u64>,
    pub(super) metadata: Range<u64>,
    /// The header section, the log and all regions, in ascending order. None is empty, no two overlap.
    taken: Vec<Range<u64>>,
}

impl Regions {
    pub(super) fn load(file: &Source, log: &Range<u64>) -> Result<Self, Refusal> {
        let (offset, table) = current(file)?;
        let header = Fields { bytes: &table, offset };
        let count = header.u32(ENTRY_COUNT);
        if count > MOST_ENTRIES {
            let wanted = format!("at most {MOST_ENTRIES}");
            return Err(FORMAT.malformed(header.at(ENTRY_COUNT), "EntryCount", count, wanted));
        }
        let (mut bat, mut metadata) = (None, None);
        let mut taken = vec![(offset, 0..SECTION_BYTES), (offset, log.clone())];
        let entries = table[HEADER_BYTES..].chunks_exact(ENTRY_BYTES).take(count as usize);
        for (index, bytes) in entries.enumerate() {
            let entry = Fields { bytes, offset: header.at(HEADER_BYTES + index * ENTRY_BYTES) };
            let guid = entry.guid(0);
            let region = region(file, &entry)?;
            let known = match guid {
                BAT => bat.replace(region.clone()),
                METADATA => metadata.replace(region.clone()),
                _ if entry.u32(REQUIRED) != 0 => {
                    let refused = "the file needs a region that is not known here";
                    return Err(FORMAT.unsupported(entry.at(0), "region", guid, refused));
                }
                _ => None,
            };
            if known.is_some() {
                return Err(FORMAT.malformed(entry.at(0), "region", guid, "each region once"));
            }
            taken.push((entry.at(FILE_OFFSET), region));
        }
        let taken = apart(taken)?;
        match (bat, metadata) {
            (Some(bat), Some(metadata)) => Ok(Regions { bat, metadata, taken }),
            _ => Err(FORMAT.malformed(offset, "region table", "incomplete", "a BAT and a metadata region")),
        }
    }

    /// Whether a block at `range` would overlap the header section, the log or a region.
    pub(super) fn overlap(&self, range: &Range<u64>) -> bool {
        let next = self.taken.partition_point(|taken| taken.end <= range.start);
        self.taken.get(next).is_some_and(|taken| taken.start < range.end)
    }
}

/// The first of both copies that is whole, and where it is.
fn current(file: &Source) -> Result<(u64, Vec<u8>), Refusal> {
    let flaw = match sealed::load(file, OFFSETS[0], TABLE_BYTES, SIGNATURE)? {
        Ok(table) => return Ok((OFFSETS[0], table)),
        Err(flaw) => flaw,
    };
    match sealed::load(file, OFFSETS[1], TABLE_BYTES, SIGNATURE)? {
        Ok(table) => Ok((OFFSETS[1], table)),
        Err(second) => {
            let found = format!("{flaw}; that at byte {} is {second}", OFFSETS[1]);
            Err(FORMAT.malformed(
                OFFSETS[0],
                "region table",
                found,
                "one of both with `regi` and its CRC-32C",
            ))
        }
    }
}

fn region(file: &Source, entry: &Fields<'_>) -> Result<Range<u64>, Refusal> {
    let (offset, length) = (entry.u64(FILE_OFFSET), u64::from(entry.u32(LENGTH)));
    if !offset.is_multiple_of(MIB) || offset < SECTION_BYTES {
        let wanted = "whole mebibytes, past the first one";
        return Err(FORMAT.malformed(entry.at(FILE_OFFSET), "FileOffset of a region", offset, wanted));
    }
    if !length.is_multiple_of(MIB) || length == 0 {
        return Err(FORMAT.malformed(entry.at(LENGTH), "Length of a region", length, "whole mebibytes"));
    }
    if !file.holds(offset, length) {
        let wanted = format!("{length} bytes that lie in the file, which has {}", file.size_bytes());
        return Err(FORMAT.malformed(entry.at(FILE_OFFSET), "FileOffset of a region", offset, wanted));
    }
    Ok(offset..offset + length)
}

/// The ranges in ascending order, each of which comes with the place of its field in the file.
fn apart(mut ranges: Vec<(u64, Range<u64>)>) -> Result<Vec<Range<u64>>, Refusal> {
    ranges.retain(|(_, range)| !range.is_empty());
    ranges.sort_by_key(|(_, range)| range.start);
    for pair in ranges.windows(2) {
        let ((_, before), (field, after)) = (&pair[0], &pair[1]);
        if after.start < before.end {
            let wanted = format!("an offset past {}, where another region or the log ends", before.end);
            return Err(FORMAT.malformed(*field, "FileOffset of a region", after.start, wanted));
        }
    }
    Ok(ranges.into_iter().map(|(_, range)| range).collect())
}
