//! What footer and dynamic disk header have in common: a cookie, big-endian fields, and a checksum over all.
//!
//! Source: VHD specification 1.0, "Hard Disk Footer Format", "Dynamic Disk Header Format".

use super::super::Refusal;
use super::super::source::Source;
use super::FORMAT;

/// A structure of `N` bytes and where in the file it lies.
#[derive(Debug)]
pub(super) struct Fields<const N: usize> {
    pub(super) bytes: [u8; N],
    pub(super) offset: u64,
}

impl<const N: usize> Fields<N> {
    /// Reads what lies at `offset`, up to the end of the file; bytes past it are taken for zeros.
    pub(super) fn load(file: &Source, offset: u64) -> Result<Self, Refusal> {
        let mut bytes = [0; N];
        let here = file.size_bytes().saturating_sub(offset).min(N as u64) as usize;
        file.read(offset, &mut bytes[..here])?;
        Ok(Fields { bytes, offset })
    }

    /// Where in the file the field lies.
    pub(super) fn at(&self, field: usize) -> u64 {
        self.offset + field as u64
    }

    pub(super) fn u16(&self, field: usize) -> u16 {
        u16::from_be_bytes(self.array(field))
    }

    pub(super) fn u32(&self, field: usize) -> u32 {
        u32::from_be_bytes(self.array(field))
    }

    pub(super) fn u64(&self, field: usize) -> u64 {
        u64::from_be_bytes(self.array(field))
    }

    pub(super) fn array<const M: usize>(&self, field: usize) -> [u8; M] {
        *self.bytes[field..].first_chunk().expect("all fields lie well inside the structure")
    }

    pub(super) fn check_cookie(&self, cookie: &[u8], name: &'static str) -> Result<(), Refusal> {
        if self.bytes.starts_with(cookie) {
            return Ok(());
        }
        let found = format!("`{}`", self.bytes[..cookie.len()].escape_ascii());
        Err(FORMAT.malformed(self.offset, name, found, format!("`{}`", cookie.escape_ascii())))
    }

    /// `field` is where the checksum stands.
    pub(super) fn check_sum(&self, field: usize, name: &'static str) -> Result<(), Refusal> {
        let found = self.u32(field);
        let wanted = checksum(&self.bytes, field);
        if found == wanted {
            return Ok(());
        }
        Err(FORMAT.malformed(self.at(field), name, format!("{found:#010x}"), format!("{wanted:#010x}")))
    }
}

/// The one's complement of the sum of all bytes but the four at `field`.
pub(super) fn checksum(bytes: &[u8], field: usize) -> u32 {
    let sum = |bytes: &[u8]| bytes.iter().map(|&byte| u32::from(byte)).sum::<u32>();
    !(sum(&bytes[..field]) + sum(&bytes[field + 4..]))
}
