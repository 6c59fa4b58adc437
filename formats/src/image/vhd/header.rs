//! The dynamic disk header: where the block allocation table lies, and what a differencing image differs from.
//!
//! Source: VHD specification 1.0, "Dynamic Disk Header Format".

use std::ops::Range;

use super::super::Refusal;
use super::super::chain::{Identity, Parent};
use super::super::quoted::quoted_text;
use super::super::source::Source;
use super::fields::Fields;
use super::footer::{DATA_OFFSET, DISK_TYPE, Footer};
use super::{FORMAT, SECTOR};
use crate::Disk;

pub(super) const HEADER_BYTES: usize = 1024;
pub(super) const HEADER_COOKIE: &[u8] = b"cxsparse";

pub(super) const TABLE_OFFSET: usize = 16;
pub(super) const HEADER_VERSION: usize = 24;
pub(super) const TABLE_ENTRIES: usize = 28;
pub(super) const BLOCK_SIZE: usize = 32;
pub(super) const HEADER_CHECKSUM: usize = 36;
const PARENT_UNIQUE_ID: usize = 40;
const PARENT_NAME: Range<usize> = 64..576;

pub(super) const HEADER_VERSION_1: u32 = 0x0001_0000;

/// The least is the specification's and QEMU's. The most is ours: writers use 2 MiB, some 512 KiB.
const BLOCK_BYTES: Range<u64> = SECTOR..(256 << 20) + 1;
/// Ours: the table is kept in memory, where it needs 16 MiB then. The largest disk in blocks of 512 KiB has as many.
const MOST_BLOCKS: u64 = 4 << 20;

/// What a checked header says.
#[derive(Debug)]
pub(super) struct Header {
    /// A power of two, and at least a sector.
    pub(super) block_bytes: u64,
    /// Where the header lies.
    pub(super) place: Range<u64>,
    /// Where the block allocation table lies, as far as the disk needs it. Apart from the header and both footers.
    pub(super) table: Range<u64>,
    parent_unique_id: [u8; 16],
    /// As it stands in the file; for messages only.
    parent_name: String,
}

impl Header {
    pub(super) fn load(file: &Source, footer: &Footer) -> Result<Self, Refusal> {
        let place = lying_between_footers(footer, footer.header_offset, HEADER_BYTES as u64);
        let Some(place) = place else {
            let wanted = format!("{HEADER_BYTES} bytes between the footers, up to byte {}", footer.data_end);
            let at = footer.offset + DATA_OFFSET as u64;
            return Err(FORMAT.malformed(at, "data offset", footer.header_offset, wanted));
        };
        let fields = Fields::load(file, place.start)?;
        fields.check_cookie(HEADER_COOKIE, "cookie of the dynamic disk header")?;
        fields.check_sum(HEADER_CHECKSUM, "checksum of the dynamic disk header")?;
        let version = fields.u32(HEADER_VERSION);
        if version != HEADER_VERSION_1 {
            let refused = "only version 1.0, which is 0x10000, is read";
            let found = format!("{version:#x}");
            return Err(FORMAT.unsupported(fields.at(HEADER_VERSION), "header version", found, refused));
        }
        let block_bytes = check_block_size(&fields)?;
        let table = check_table(&fields, footer, &place, block_bytes)?;
        let name = fields.bytes[PARENT_NAME].as_chunks().0.iter().map(|unit| u16::from_be_bytes(*unit));
        let name: Vec<u16> = name.take_while(|&unit| unit != 0).collect();
        Ok(Header {
            block_bytes,
            place,
            table,
            parent_unique_id: fields.array(PARENT_UNIQUE_ID),
            parent_name: String::from_utf16_lossy(&name),
        })
    }

    /// The disk of the image that this one differs from, if `parent` is that image.
    pub(super) fn parent_disk(
        &self,
        footer: &Footer,
        parent: Option<Parent>,
    ) -> Result<Box<dyn Disk>, Refusal> {
        let Some(parent) = parent else {
            let found = format!("4 (differencing, from {})", quoted_text(&self.parent_name));
            return Err(FORMAT.no_backing(footer.offset + DISK_TYPE as u64, "disk type", found));
        };
        if parent.identity == Some(Identity::Vhd(self.parent_unique_id)) {
            return Ok(parent.disk);
        }
        let text = |id: [u8; 16]| format!("{:032x}", u128::from_be_bytes(id));
        let wanted = match parent.identity {
            Some(Identity::Vhd(id)) => format!("{}, the unique id of the backing file", text(id)),
            _ => "the unique id of the backing file, but that is no VHD".to_owned(),
        };
        let at = self.place.start + PARENT_UNIQUE_ID as u64;
        Err(FORMAT.malformed(at, "parent unique id", text(self.parent_unique_id), wanted))
    }
}

fn check_block_size(fields: &Fields<HEADER_BYTES>) -> Result<u64, Refusal> {
    let block_bytes = u64::from(fields.u32(BLOCK_SIZE));
    if BLOCK_BYTES.contains(&block_bytes) && block_bytes.is_power_of_two() {
        return Ok(block_bytes);
    }
    let wanted = format!("a power of two from {} to {}", BLOCK_BYTES.start, BLOCK_BYTES.end - 1);
    Err(FORMAT.malformed(fields.at(BLOCK_SIZE), "block size", block_bytes, wanted))
}

fn check_table(
    fields: &Fields<HEADER_BYTES>,
    footer: &Footer,
    header: &Range<u64>,
    block_bytes: u64,
) -> Result<Range<u64>, Refusal> {
    let entries = u64::from(fields.u32(TABLE_ENTRIES));
    let needed = footer.size_bytes.div_ceil(block_bytes);
    if entries < needed {
        let wanted = format!("at least {needed}, which the disk's size needs");
        return Err(FORMAT.malformed(fields.at(TABLE_ENTRIES), "max table entries", entries, wanted));
    }
    if needed > MOST_BLOCKS {
        let refused = "disks of more than 4194304 blocks are not read";
        return Err(FORMAT.unsupported(fields.at(TABLE_ENTRIES), "max table entries", entries, refused));
    }
    let start = fields.u64(TABLE_OFFSET);
    match lying_between_footers(footer, start, needed * 4) {
        Some(table) if table.end <= header.start || header.end <= table.start => Ok(table),
        _ => {
            let end = footer.data_end;
            let wanted =
                format!("{} bytes between the footers, up to byte {end}, apart from the header", needed * 4);
            Err(FORMAT.malformed(fields.at(TABLE_OFFSET), "table offset", start, wanted))
        }
    }
}

/// The `len` bytes at `start`, if they lie behind the footer's copy and in front of the footer.
fn lying_between_footers(footer: &Footer, start: u64, len: u64) -> Option<Range<u64>> {
    let end = start.checked_add(len)?;
    (start >= SECTOR && end <= footer.data_end).then_some(start..end)
}
