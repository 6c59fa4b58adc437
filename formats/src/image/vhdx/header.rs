//! The header section: which of the two headers is current, and what it says of the log.
//!
//! ```text
//! 0 file type identifier   64 KiB header 1   128 KiB header 2   192 KiB, 256 KiB region tables   1 MiB end
//! ```
//!
//! Source: \[MS-VHDX\] 2.2.1, 2.2.2. Two equal headers with one sequence number, which the specification calls
//! corrupt, are accepted as QEMU does: Disk2vhd writes them.

use std::ops::Range;

use super::super::Refusal;
use super::super::source::Source;
use super::guid::Guid;
use super::sealed::{self, Fields};
use super::{FORMAT, MIB};

/// Headers and region tables lie below; everything else above.
pub(super) const SECTION_BYTES: u64 = MIB;

pub(super) const OFFSETS: [u64; 2] = [64 << 10, 128 << 10];
pub(super) const HEADER_BYTES: usize = 4096;
pub(super) const SIGNATURE: &[u8; 4] = b"head";

// Where the fields lie in a header.
pub(super) const SEQUENCE_NUMBER: usize = 8;
pub(super) const FILE_WRITE_GUID: usize = 16;
pub(super) const DATA_WRITE_GUID: usize = 32;
const LOG_GUID: usize = 48;
const LOG_VERSION: usize = 64;
pub(super) const VERSION: usize = 66;
pub(super) const LOG_LENGTH: usize = 68;
pub(super) const LOG_OFFSET: usize = 72;

/// What the current header says.
#[derive(Debug)]
pub(super) struct Header {
    /// Names the state of the disk's content.
    pub(super) data_write: Guid,
    pub(super) log: Log,
}

/// Where the log is, and whether it holds anything.
#[derive(Debug)]
pub(super) struct Log {
    /// The GUID that its entries carry; zero where there are none.
    pub(super) guid: Guid,
    /// It lies in the file, past the header section, in whole mebibytes. It may be empty.
    pub(super) range: Range<u64>,
}

impl Header {
    pub(super) fn load(file: &Source) -> Result<Self, Refusal> {
        check_identifier(file)?;
        let first = sealed::load(file, OFFSETS[0], HEADER_BYTES, SIGNATURE)?;
        let second = sealed::load(file, OFFSETS[1], HEADER_BYTES, SIGNATURE)?;
        let (offset, bytes) = current(first, second)?;
        let fields = Fields { bytes: &bytes, offset };
        let version = fields.u16(VERSION);
        if version != 1 {
            return Err(FORMAT.unsupported(fields.at(VERSION), "Version", version, "only version 1 is read"));
        }
        Ok(Header { data_write: fields.guid(DATA_WRITE_GUID), log: log(file, &fields)? })
    }
}

fn check_identifier(file: &Source) -> Result<(), Refusal> {
    let magic = file.start(super::MAGIC.len())?;
    if magic != super::MAGIC {
        let found = format!("`{}`", magic.escape_ascii());
        return Err(FORMAT.malformed(0, "file type identifier", found, "`vhdxfile`"));
    }
    if !file.holds(0, SECTION_BYTES) {
        let found = format!("cut off after {} bytes", file.size_bytes());
        return Err(FORMAT.malformed(0, "header section", found, format!("{SECTION_BYTES} bytes")));
    }
    Ok(())
}

type Loaded = Result<Vec<u8>, String>;

/// The header that counts, and where it is.
fn current(first: Loaded, second: Loaded) -> Result<(u64, Vec<u8>), Refusal> {
    let number = |bytes: &[u8]| Fields { bytes, offset: 0 }.u64(SEQUENCE_NUMBER);
    match (first, second) {
        (Ok(first), Err(_)) => Ok((OFFSETS[0], first)),
        (Err(_), Ok(second)) => Ok((OFFSETS[1], second)),
        (Ok(first), Ok(second)) if number(&first) > number(&second) || first == second => {
            Ok((OFFSETS[0], first))
        }
        (Ok(first), Ok(second)) if number(&first) < number(&second) => Ok((OFFSETS[1], second)),
        (Ok(first), Ok(_)) => {
            let found = format!("{}, as in the other header, which differs", number(&first));
            Err(FORMAT.malformed(
                OFFSETS[0] + SEQUENCE_NUMBER as u64,
                "SequenceNumber",
                found,
                "one header that is newer",
            ))
        }
        (Err(first), Err(second)) => {
            let found = format!("{first}; that at byte {} is {second}", OFFSETS[1]);
            Err(FORMAT.malformed(OFFSETS[0], "header", found, "one of both with `head` and its CRC-32C"))
        }
    }
}

fn log(file: &Source, fields: &Fields<'_>) -> Result<Log, Refusal> {
    let guid = fields.guid(LOG_GUID);
    let version = fields.u16(LOG_VERSION);
    if guid != Guid::ZERO && version != 0 {
        let refused = "only version 0 of the log is read";
        return Err(FORMAT.unsupported(fields.at(LOG_VERSION), "LogVersion", version, refused));
    }
    let length = u64::from(fields.u32(LOG_LENGTH));
    if !length.is_multiple_of(MIB) {
        return Err(FORMAT.malformed(fields.at(LOG_LENGTH), "LogLength", length, "whole mebibytes"));
    }
    if length == 0 {
        return Ok(Log { guid, range: SECTION_BYTES..SECTION_BYTES });
    }
    let offset = fields.u64(LOG_OFFSET);
    if !offset.is_multiple_of(MIB) || offset < SECTION_BYTES {
        let wanted = "whole mebibytes, past the first one";
        return Err(FORMAT.malformed(fields.at(LOG_OFFSET), "LogOffset", offset, wanted));
    }
    if !file.holds(offset, length) {
        let wanted = format!("{length} bytes that lie in the file, which has {}", file.size_bytes());
        return Err(FORMAT.malformed(fields.at(LOG_OFFSET), "LogOffset", offset, wanted));
    }
    Ok(Log { guid, range: offset..offset + length })
}
