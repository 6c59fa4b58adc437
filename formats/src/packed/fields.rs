//! Little-endian fields, taken one after the other from the bytes of a root or a page.

use super::IndexError;

/// What is left of a root or a page, and where in it that starts.
#[derive(Debug)]
pub(super) struct Fields<'a> {
    part: &'static str,
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Fields<'a> {
    pub(super) fn new(part: &'static str, bytes: &'a [u8]) -> Self {
        Self { part, bytes, at: 0 }
    }

    /// The next `N` bytes.
    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], IndexError> {
        let Some((head, _)) = self.bytes[self.at..].split_first_chunk() else {
            return Err(self.length("it ends in the middle of an entry"));
        };
        self.at += N;
        Ok(*head)
    }

    pub(super) fn u8(&mut self) -> Result<u8, IndexError> {
        Ok(u8::from_le_bytes(self.array()?))
    }

    pub(super) fn u16(&mut self) -> Result<u16, IndexError> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    pub(super) fn u32(&mut self) -> Result<u32, IndexError> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub(super) fn u64(&mut self) -> Result<u64, IndexError> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// Bytes not taken yet.
    pub(super) fn left(&self) -> usize {
        self.bytes.len() - self.at
    }

    /// Checks that the field just read, `width` bytes ago, has a value that is `good`.
    pub(super) fn check(
        &self,
        good: bool,
        field: (&'static str, usize),
        found: impl Into<u64>,
        wanted: &'static str,
    ) -> Result<(), IndexError> {
        if good { Ok(()) } else { Err(self.wrong(field, found, wanted)) }
    }

    /// The error that the field that started `width` bytes ago has a value that it may not have.
    pub(super) fn wrong(
        &self,
        (field, width): (&'static str, usize),
        found: impl Into<u64>,
        wanted: &'static str,
    ) -> IndexError {
        let at = (self.at - width) as u64;
        IndexError::Field { part: self.part, at, field, found: found.into(), wanted }
    }

    /// The error that the whole part has the wrong length.
    pub(super) fn length(&self, wanted: &'static str) -> IndexError {
        IndexError::Length { part: self.part, found: self.bytes.len() as u64, wanted }
    }
}
