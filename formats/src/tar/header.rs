//! One header of 512 bytes.
//!
//! | offset | bytes | field | here |
//! |---:|---:|---|---|
//! | 0 | 100 | name | up to the first NUL, zeros from there on |
//! | 100 | 24 | mode, uid, gid | passed over |
//! | 124 | 12 | size | octal, or base 256 |
//! | 136 | 12 | mtime | passed over |
//! | 148 | 8 | checksum | the sum of all bytes, these taken as spaces |
//! | 156 | 1 | type | |
//! | 157 | 100 | link name | passed over: links are refused |
//! | 257 | 8 | magic and version | POSIX's or GNU's |
//! | 345 | 155 | prefix of the name | POSIX's only |

use std::ops::Range;

use super::{TarError, malformed};
use crate::image::Source;

/// What headers and contents are padded to.
pub(crate) const BLOCK: u64 = 512;

const NAME: Range<usize> = 0..100;
const MODE: Range<usize> = 100..108;
const UID: Range<usize> = 108..116;
const GID: Range<usize> = 116..124;
const SIZE: Range<usize> = 124..136;
const MTIME: Range<usize> = 136..148;
const CHECKSUM: Range<usize> = 148..156;
const TYPE: usize = 156;
const MAGIC: Range<usize> = 257..265;
const PREFIX: Range<usize> = 345..500;

const POSIX: &[u8] = b"ustar\x0000";
const GNU: &[u8] = b"ustar  \0";

/// The first size that 11 octal digits cannot say.
pub(super) const OCTAL_END: u64 = 1 << 33;

/// A checked header.
#[derive(Debug)]
pub(super) struct Header {
    /// Where in the archive it lies.
    pub(super) offset: u64,
    pub(super) name: String,
    pub(super) size_bytes: u64,
    pub(super) kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    File,
    Folder,
    /// GNU's: its content is the next member's name.
    LongName,
    /// PAX: its content is records about the next member.
    Extended,
    /// PAX: its content is records about all members from here on.
    Global,
    /// GNU's: its content is where the next member, a link, leads.
    LongLink,
    /// Neither file nor folder but what is named, with its article.
    Special(&'static str),
}

impl Header {
    /// Reads the header at `offset`; `None` at the mark of the archive's end.
    pub(super) fn read(source: &Source, offset: u64) -> Result<Option<Self>, TarError> {
        let mut block = [0; BLOCK as usize];
        if source.size_bytes() - offset < BLOCK {
            let found = format!("cut off after {} bytes", source.size_bytes() - offset);
            return Err(malformed(offset, "header", &found, "512 bytes, or 512 zeros for the end"));
        }
        source.read_exact_at(&mut block, offset).map_err(|source| TarError::Io { offset, source })?;
        if block.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        check_sum(offset, &block)?;
        let is_posix = match &block[MAGIC] {
            POSIX => true,
            GNU => false,
            other => {
                let found = format!("`{}`", other.escape_ascii());
                return Err(malformed(offset, "magic", &found, "`ustar\\x0000` or `ustar  \\x00`"));
            }
        };
        let mut name = text(offset, &block[NAME])?.to_owned();
        let prefix = if is_posix { text(offset, &block[PREFIX])? } else { "" };
        if !prefix.is_empty() {
            name = format!("{prefix}/{name}");
        }
        let kind = kind(offset, block[TYPE], &name)?;
        let Some(size_bytes) = number(&block[SIZE]) else {
            let found = format!("`{}`", block[SIZE].escape_ascii());
            return Err(malformed(
                offset,
                "size",
                &found,
                "octal digits, or a number below 2^64 in base 256",
            ));
        };
        Ok(Some(Header { offset, name, size_bytes, kind }))
    }
}

fn kind(offset: u64, kind: u8, name: &str) -> Result<Kind, TarError> {
    let found = match kind {
        b'0' | 0 => return Ok(Kind::File),
        b'5' => return Ok(Kind::Folder),
        b'L' => return Ok(Kind::LongName),
        b'x' => return Ok(Kind::Extended),
        b'g' => return Ok(Kind::Global),
        b'K' => return Ok(Kind::LongLink),
        b'1' => return Ok(Kind::Special("a hard link")),
        b'2' => return Ok(Kind::Special("a symbolic link")),
        b'3' | b'4' => return Ok(Kind::Special("a device")),
        b'6' => return Ok(Kind::Special("a pipe")),
        b'S' => "a sparse file",
        b'M' => "the rest of a file from another archive",
        _ => "of a kind that is not known here",
    };
    Err(TarError::Refused { offset, name: name.to_owned(), found })
}

fn check_sum(offset: u64, block: &[u8; BLOCK as usize]) -> Result<(), TarError> {
    let sum = sum(block);
    let stored = octal(&block[CHECKSUM]);
    if stored == Some(sum) {
        return Ok(());
    }
    let found = match stored {
        Some(stored) => format!("{stored:o}"),
        None => format!("`{}`", block[CHECKSUM].escape_ascii()),
    };
    Err(malformed(offset, "checksum", &found, &format!("{sum:o}, the octal sum of the header's bytes")))
}

fn sum(block: &[u8; BLOCK as usize]) -> u64 {
    let bytes = block.iter().enumerate();
    bytes.map(|(at, byte)| u64::from(if CHECKSUM.contains(&at) { b' ' } else { *byte })).sum()
}

/// Text up to the first NUL, behind which only others stand.
fn text(offset: u64, field: &[u8]) -> Result<&str, TarError> {
    let end = field.iter().position(|byte| *byte == 0).unwrap_or(field.len());
    let (text, rest) = field.split_at(end);
    match std::str::from_utf8(text) {
        Ok(text) if rest.iter().all(|byte| *byte == 0) => Ok(text),
        _ => {
            let end = field.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
            let found = format!("`{}`", field[..end].escape_ascii());
            Err(malformed(offset, "name", &found, "UTF-8, then zeros"))
        }
    }
}

/// A size: octal digits, or in base 256 where the first bit is set.
fn number(field: &[u8]) -> Option<u64> {
    if field[0] & 0x80 == 0 {
        return octal(field);
    }
    let (front, last) = field.split_last_chunk()?;
    let is_small = front[0] == 0x80 && front[1..].iter().all(|byte| *byte == 0);
    is_small.then(|| u64::from_be_bytes(*last))
}

/// Octal digits, with spaces before and spaces or NULs behind them.
fn octal(field: &[u8]) -> Option<u64> {
    let start = field.iter().position(|byte| *byte != b' ')?;
    let digits = field[start..].iter().take_while(|byte| (b'0'..=b'7').contains(*byte)).count();
    let (digits, rest) = field[start..].split_at(digits);
    if digits.is_empty() || !rest.iter().all(|byte| matches!(byte, b' ' | 0)) {
        return None;
    }
    Some(digits.iter().fold(0, |value, digit| value << 3 | u64::from(digit - b'0')))
}

/// The header of a regular file of root's, from 1970, that everyone may read.
///
/// # Panics
///
/// If the name is longer than 100 bytes.
pub(crate) fn encode(name: &str, size_bytes: u64) -> [u8; BLOCK as usize] {
    let mut block = [0; BLOCK as usize];
    block[..name.len()].copy_from_slice(name.as_bytes());
    assert!(name.len() <= NAME.len(), "the name fits its field");
    block[MODE].copy_from_slice(b"0000644\0");
    block[UID].copy_from_slice(b"0000000\0");
    block[GID].copy_from_slice(b"0000000\0");
    block[MTIME].copy_from_slice(b"00000000000\0");
    if size_bytes < OCTAL_END {
        block[SIZE].copy_from_slice(format!("{size_bytes:011o}\0").as_bytes());
    } else {
        block[SIZE.start] = 0x80;
        block[SIZE.end - 8..SIZE.end].copy_from_slice(&size_bytes.to_be_bytes());
    }
    block[TYPE] = b'0';
    block[MAGIC].copy_from_slice(POSIX);
    let sum = sum(&block);
    block[CHECKSUM].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}
