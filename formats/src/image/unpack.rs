//! Compressed units, which qcow2 calls clusters and VMDK grains, unpacked as a whole whatever part is asked for.

use super::read_cache::{ReadCache, Section};
use crate::ReadError;

/// A part of the disk that is compressed as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Unit {
    /// Its number on the guest's disk, in units.
    pub(super) index: u64,
    /// Where in the file it lies.
    pub(super) offset: u64,
    /// The bytes of the file that may belong to it. They lie in the file.
    pub(super) len: u64,
}

/// The units of one image. Those of which only a part was asked for are kept for a while.
#[derive(Debug)]
pub(super) struct Units {
    unit_bytes: u64,
    unpacked: Section,
}

impl Units {
    /// Units of `unit_bytes` each. The disk's last unit may reach past its end.
    pub(super) fn new(unit_bytes: u64, cache: &ReadCache) -> Self {
        Units { unit_bytes, unpacked: cache.section() }
    }

    /// Fills `piece` with the unit's content from byte `within` on. `unpack` fills a whole unit; no byte of it that
    /// lies past the end of the disk is used.
    pub(super) fn read(
        &self,
        unit: Unit,
        within: u64,
        piece: &mut [u8],
        unpack: impl FnOnce(&mut [u8]) -> Result<(), ReadError>,
    ) -> Result<(), ReadError> {
        if piece.len() as u64 == self.unit_bytes {
            return unpack(piece);
        }
        let content = self.unpacked.get(unit.index, self.unit_bytes, unpack)?;
        let within = within as usize;
        piece.copy_from_slice(&content[within..within + piece.len()]);
        Ok(())
    }
}
