//! Structures that carry a signature and a CRC-32C of themselves, and their little-endian fields.
//!
//! Source: \[MS-VHDX\] 2.2.2, 2.2.3.1 and 2.3.1.1: the checksum is taken with its own field as zero.

use super::super::Refusal;
use super::super::source::Source;
use super::guid::Guid;

/// Where the checksum stands in all of them.
pub(super) const CHECKSUM: usize = 4;

/// The bytes of a structure, and where in the file they lie. All fields asked for must lie in it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fields<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) offset: u64,
}

impl Fields<'_> {
    pub(super) fn u16(&self, at: usize) -> u16 {
        u16::from_le_bytes(self.array(at))
    }

    pub(super) fn u32(&self, at: usize) -> u32 {
        u32::from_le_bytes(self.array(at))
    }

    pub(super) fn u64(&self, at: usize) -> u64 {
        u64::from_le_bytes(self.array(at))
    }

    pub(super) fn guid(&self, at: usize) -> Guid {
        Guid(self.array(at))
    }

    /// Where the field lies in the file.
    pub(super) fn at(&self, field: usize) -> u64 {
        self.offset + field as u64
    }

    fn array<const N: usize>(&self, at: usize) -> [u8; N] {
        *self.bytes[at..].first_chunk().expect("the caller loaded the whole structure")
    }
}

/// The `len` bytes at `offset` of the file, if they are what their signature and checksum say; else what is
/// wrong with them. The file must hold them.
pub(super) fn load(
    file: &Source,
    offset: u64,
    len: usize,
    signature: &[u8; 4],
) -> Result<Result<Vec<u8>, String>, Refusal> {
    let mut bytes = vec![0; len];
    file.read(offset, &mut bytes)?;
    if !bytes.starts_with(signature) {
        return Ok(Err(format!("`{}`", bytes[..4].escape_ascii())));
    }
    let fields = Fields { bytes: &bytes, offset };
    let (stored, computed) = (fields.u32(CHECKSUM), checksum(&bytes));
    if stored != computed {
        return Ok(Err(format!("damaged: its checksum is {computed:#010x}, and stored is {stored:#010x}")));
    }
    Ok(Ok(bytes))
}

/// The checksum of a structure, or of the first part of one.
pub(super) fn checksum(bytes: &[u8]) -> u32 {
    let crc = crc32c::crc32c(&bytes[..CHECKSUM]);
    let crc = crc32c::crc32c_append(crc, &[0; 4]);
    crc32c::crc32c_append(crc, &bytes[CHECKSUM + 4..])
}
