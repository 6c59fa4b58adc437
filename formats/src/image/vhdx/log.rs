//! The log, which holds changes of tables that had not all been made when the file was last closed.
//!
//! They are made here as the specification asks, but in memory: what comes out is the file as it would be
//! after the replay, put together from parts of the file and of what the log says. The file is not written.
//!
//! ```text
//! entry: | header, 64 bytes | descriptors, 32 bytes each | to 4 KiB | data sectors, 4 KiB each |
//! log:   entries one after the other, in a ring. The active sequence is the newest whose numbers are
//!        consecutive and whose last entry names one of its own as the tail; from there on all is replayed.
//! ```
//!
//! Source: \[MS-VHDX\] 2.3.

use std::ops::Range;

use super::super::Refusal;
use super::super::chain::Memory;
use super::super::source::Source;
use super::FORMAT;
use super::guid::Guid;
use super::header::Log;
use super::sealed::{CHECKSUM, Fields};
use super::shadow::Shadow;

const SECTOR: u64 = 4096;
const ENTRY_SIGNATURE: &[u8] = b"loge";
const HEADER_BYTES: usize = 64;
const DESCRIPTOR_BYTES: usize = 32;

/// Our limits, far above what is written: Hyper-V's logs have 1 MiB.
const LARGEST_LOG: u64 = 64 << 20;
const MOST_REPLAYED_BYTES: u64 = 32 << 20;
const MOST_DESCRIPTORS: u64 = 65536;
/// How many times the length of the log may be read in search of entries. One that was written is found in
/// two; in one that was made to, every sector may begin an entry of any length.
const MOST_PASSES: u64 = 4;
/// What a file can have, and more than the disk's greatest size.
const LARGEST_FILE: u64 = 1 << 62;

// Where the fields lie in an entry's header.
const ENTRY_LENGTH: usize = 8;
const TAIL: usize = 12;
const SEQUENCE_NUMBER: usize = 16;
const DESCRIPTOR_COUNT: usize = 24;
const LOG_GUID: usize = 32;
const FLUSHED_FILE_OFFSET: usize = 48;
const LAST_FILE_OFFSET: usize = 56;

const TOO_LONG: &str = "so much of a log is not replayed: have the image opened once where it was made, \
    or replay the log of a copy with `qemu-img check -f vhdx -r all`";

/// The file as it is once its log has been replayed; the file itself where the log is empty.
pub(super) fn replay(file: Source, log: &Log, memory: &Memory) -> Result<Source, Refusal> {
    if log.guid == Guid::ZERO {
        return Ok(file);
    }
    let ring = Ring { file: &file, range: log.range.clone(), guid: log.guid };
    let sequence = ring.active_sequence()?;
    // At most a sector for each descriptor, and at most as much as is replayed at all.
    let changes: u64 = sequence.iter().map(|entry| entry.descriptors).sum();
    memory.take_tables(changes.saturating_mul(SECTOR).min(MOST_REPLAYED_BYTES))?;
    ring.replay(&sequence)
}

/// The log of a file. Positions in it are counted on past its end.
struct Ring<'a> {
    file: &'a Source,
    range: Range<u64>,
    guid: Guid,
}

/// A valid entry.
#[derive(Debug, Clone, Copy)]
struct Entry {
    /// Its position.
    at: u64,
    bytes: u64,
    sequence_number: u64,
    /// The position of the oldest entry that was still needed when it was written.
    tail: u64,
    descriptors: u64,
    flushed_file_offset: u64,
    last_file_offset: u64,
}

impl Ring<'_> {
    fn bytes(&self) -> u64 {
        self.range.end - self.range.start
    }

    /// Where in the file a position of the log is.
    fn offset(&self, position: u64) -> u64 {
        self.range.start + position % self.bytes()
    }

    fn sector(&self, position: u64) -> Result<[u8; SECTOR as usize], Refusal> {
        let mut sector = [0; SECTOR as usize];
        self.file.read(self.offset(position), &mut sector)?;
        Ok(sector)
    }

    /// The entries that must be replayed, the oldest first.
    fn active_sequence(&self) -> Result<Vec<Entry>, Refusal> {
        if self.bytes() > LARGEST_LOG {
            let found = format!("{} bytes long", self.bytes());
            return Err(FORMAT.unsupported(self.range.start, "log", found, TOO_LONG));
        }
        let mut allowance = MOST_PASSES * self.bytes();
        let mut active: Vec<Entry> = Vec::new();
        let mut at = 0;
        while at < self.bytes() {
            let entries = self.sequence(at, &mut allowance)?;
            at += entries.iter().map(|entry| entry.bytes).sum::<u64>().max(SECTOR);
            let Some(last) = entries.last() else { continue };
            let newest = active.last().map_or(0, |entry| entry.sequence_number);
            let tail = entries.iter().position(|entry| entry.at % self.bytes() == last.tail);
            if let Some(tail) = tail
                && last.sequence_number > newest
            {
                active = entries[tail..].to_vec();
            }
        }
        if active.is_empty() {
            let wanted = "at least one, for the header says that the log is in use: \
                have the disk copied to a new image where it was made";
            return Err(FORMAT.malformed(
                self.range.start,
                "log",
                "without a valid sequence of entries",
                wanted,
            ));
        }
        Ok(active)
    }

    /// The valid entries from position `at` on whose numbers follow each other.
    fn sequence(&self, at: u64, allowance: &mut u64) -> Result<Vec<Entry>, Refusal> {
        let mut entries: Vec<Entry> = Vec::new();
        let mut next = at;
        while next - at < self.bytes() {
            let most = self.bytes() - (next - at);
            let Some(entry) = self.entry(next, most, allowance)? else { break };
            let number = entry.sequence_number;
            if entries.last().is_some_and(|last| last.sequence_number.checked_add(1) != Some(number)) {
                break;
            }
            next += entry.bytes;
            entries.push(entry);
        }
        Ok(entries)
    }

    /// The entry at position `at`, if there is one that is whole and has at most `most` bytes.
    fn entry(&self, at: u64, most: u64, allowance: &mut u64) -> Result<Option<Entry>, Refusal> {
        let first = self.sector(at)?;
        let fields = Fields { bytes: &first, offset: self.offset(at) };
        let entry = Entry {
            at,
            bytes: u64::from(fields.u32(ENTRY_LENGTH)),
            sequence_number: fields.u64(SEQUENCE_NUMBER),
            tail: u64::from(fields.u32(TAIL)),
            descriptors: u64::from(fields.u32(DESCRIPTOR_COUNT)),
            flushed_file_offset: fields.u64(FLUSHED_FILE_OFFSET),
            last_file_offset: fields.u64(LAST_FILE_OFFSET),
        };
        if !first.starts_with(ENTRY_SIGNATURE)
            || fields.guid(LOG_GUID) != self.guid
            || entry.sequence_number == 0
            || !(SECTOR..=most).contains(&entry.bytes)
            || !entry.bytes.is_multiple_of(SECTOR)
            || entry.descriptor_sectors() * SECTOR > entry.bytes
        {
            return Ok(None);
        }
        *allowance = allowance.checked_sub(entry.bytes).ok_or_else(|| {
            let found = "full of entries that are not whole";
            FORMAT.unsupported(self.range.start, "log", found, TOO_LONG)
        })?;
        let is_whole = self.is_whole(&entry, fields.u32(CHECKSUM))?;
        Ok(is_whole.then_some(entry))
    }

    /// Whether the entry's checksum, its descriptors and its data sectors are right.
    fn is_whole(&self, entry: &Entry, stored: u32) -> Result<bool, Refusal> {
        let mut crc = 0;
        let mut data_sectors = 0;
        let mut descriptors_left = entry.descriptors;
        for number in 0..entry.bytes / SECTOR {
            let mut sector = self.sector(entry.at + number * SECTOR)?;
            if number == 0 {
                sector[CHECKSUM..CHECKSUM + 4].fill(0);
            }
            crc = crc32c::crc32c_append(crc, &sector);
            if number < entry.descriptor_sectors() {
                for (_, bytes) in entry.descriptors_in(&sector, number) {
                    match Descriptor::parse(bytes, entry.sequence_number) {
                        None => return Ok(false),
                        Some(Descriptor::Data { .. }) => data_sectors += 1,
                        Some(Descriptor::Zero { .. }) => {}
                    }
                    descriptors_left -= 1;
                }
            } else if data_sectors > 0 {
                if !is_data_sector(&sector, entry.sequence_number) {
                    return Ok(false);
                }
                data_sectors -= 1;
            }
        }
        Ok(crc == stored && data_sectors == 0 && descriptors_left == 0)
    }

    fn replay(&self, entries: &[Entry]) -> Result<Source, Refusal> {
        let head = entries.last().expect("an active sequence is not empty");
        let size_bytes = self.file.size_bytes();
        if head.flushed_file_offset > size_bytes {
            let wanted = format!("at most {size_bytes}, which the file has; its end is missing");
            let at = self.offset(head.at) + FLUSHED_FILE_OFFSET as u64;
            return Err(FORMAT.malformed(at, "FlushedFileOffset", head.flushed_file_offset, wanted));
        }
        if head.last_file_offset > LARGEST_FILE {
            let at = self.offset(head.at) + LAST_FILE_OFFSET as u64;
            return Err(FORMAT.malformed(
                at,
                "LastFileOffset",
                head.last_file_offset,
                "a size that a file can have",
            ));
        }
        let descriptors: u64 = entries.iter().map(|entry| entry.descriptors).sum();
        if descriptors > MOST_DESCRIPTORS {
            let found = format!("in use, with {descriptors} changes");
            return Err(FORMAT.unsupported(self.range.start, "log", found, TOO_LONG));
        }
        let mut shadow = Shadow::new(size_bytes, head.last_file_offset, MOST_REPLAYED_BYTES)?;
        for entry in entries {
            self.replay_entry(entry, &mut shadow)?;
        }
        shadow.over(self.file)
    }

    fn replay_entry(&self, entry: &Entry, shadow: &mut Shadow) -> Result<(), Refusal> {
        let mut data_at = entry.at + entry.descriptor_sectors() * SECTOR;
        for number in 0..entry.descriptor_sectors() {
            let sector_at = entry.at + number * SECTOR;
            let sector = self.sector(sector_at)?;
            for (index, bytes) in entry.descriptors_in(&sector, number) {
                let at = self.offset(sector_at) + (index * DESCRIPTOR_BYTES) as u64;
                let Some(descriptor) = Descriptor::parse(bytes, entry.sequence_number) else {
                    return Err(FORMAT.malformed(
                        at,
                        "log descriptor",
                        "changing",
                        "a file that keeps still",
                    ));
                };
                if !shadow.holds(descriptor.range()) {
                    let found = format!("for bytes {:?} of the file", descriptor.range());
                    let wanted = format!("bytes that it has, of which there are {}", shadow.size_bytes());
                    return Err(FORMAT.malformed(at, "log descriptor", found, wanted));
                }
                self.apply(descriptor, &mut data_at, shadow)?;
            }
        }
        Ok(())
    }

    /// Makes a change, whose data sector, if it has one, is at position `data_at`.
    fn apply(&self, change: Descriptor, data_at: &mut u64, shadow: &mut Shadow) -> Result<(), Refusal> {
        let (offset, leading, trailing) = match change {
            Descriptor::Zero { range } => return shadow.zero(range),
            Descriptor::Data { offset, leading, trailing } => (offset, leading, trailing),
        };
        let mut content = self.sector(*data_at)?;
        content[..8].copy_from_slice(&leading);
        content[SECTOR as usize - 4..].copy_from_slice(&trailing);
        *data_at += SECTOR;
        if !shadow.write(offset, &content)? {
            let found = format!("in use, with changes of more than {MOST_REPLAYED_BYTES} bytes");
            return Err(FORMAT.unsupported(self.range.start, "log", found, TOO_LONG));
        }
        Ok(())
    }
}

impl Entry {
    /// The sectors that hold its header and its descriptors.
    fn descriptor_sectors(&self) -> u64 {
        (HEADER_BYTES as u64 + self.descriptors * DESCRIPTOR_BYTES as u64).div_ceil(SECTOR)
    }

    /// The descriptors in its sector with that number, each with its place there, in descriptors.
    fn descriptors_in<'a>(
        &self,
        sector: &'a [u8; SECTOR as usize],
        number: u64,
    ) -> impl Iterator<Item = (usize, &'a [u8; DESCRIPTOR_BYTES])> + use<'a> {
        // The header takes the place of two.
        let header = (HEADER_BYTES / DESCRIPTOR_BYTES) as u64;
        let before = number * (SECTOR / DESCRIPTOR_BYTES as u64);
        let left = (self.descriptors + header).saturating_sub(before);
        let skip = if number == 0 { header } else { 0 };
        sector.as_chunks().0.iter().enumerate().take(left as usize).skip(skip as usize)
    }
}

/// A change of the file.
#[derive(Debug)]
enum Descriptor {
    Zero {
        range: Range<u64>,
    },
    /// A sector, whose first and last bytes made room for the log's own in the data sector.
    Data {
        offset: u64,
        leading: [u8; 8],
        trailing: [u8; 4],
    },
}

impl Descriptor {
    /// `None` where it is none that belongs to the entry with `sequence_number`.
    fn parse(bytes: &[u8; DESCRIPTOR_BYTES], sequence_number: u64) -> Option<Self> {
        let fields = Fields { bytes, offset: 0 };
        let offset = fields.u64(16);
        if fields.u64(24) != sequence_number || !offset.is_multiple_of(SECTOR) {
            return None;
        }
        match &bytes[..4] {
            b"zero" => {
                let len = fields.u64(8);
                let end = offset.checked_add(len)?;
                len.is_multiple_of(SECTOR).then_some(Descriptor::Zero { range: offset..end })
            }
            b"desc" => {
                offset.checked_add(SECTOR)?;
                let (leading, trailing) = (*bytes[8..].first_chunk()?, *bytes[4..].first_chunk()?);
                Some(Descriptor::Data { offset, leading, trailing })
            }
            _ => None,
        }
    }

    /// The bytes of the file that it changes.
    fn range(&self) -> Range<u64> {
        match self {
            Descriptor::Zero { range } => range.clone(),
            Descriptor::Data { offset, .. } => *offset..offset + SECTOR,
        }
    }
}

fn is_data_sector(sector: &[u8; SECTOR as usize], sequence_number: u64) -> bool {
    let fields = Fields { bytes: sector, offset: 0 };
    let number = u64::from(fields.u32(4)) << 32 | u64::from(fields.u32(SECTOR as usize - 4));
    sector.starts_with(b"data") && number == sequence_number
}
