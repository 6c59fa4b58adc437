//! Where a stretch of the disk lies: the block map, which is read and checked once, as far as the disk needs it.
//!
//! Source: `VDICore.h` of VirtualBox, `VDIIMAGEBLOCKPOINTER`; `VDI.cpp` for what entries mean.

use std::convert::Infallible;

use super::super::Refusal;
use super::super::chain::Memory;
use super::super::mapped::{Extent, Map, Place};
use super::super::source::Source;
use super::FORMAT;
use super::header::Header;
use crate::ReadError;

/// An entry for a block that was never written: inherited in a differencing image, else zero.
pub(super) const FREE: u32 = u32::MAX;
/// An entry for a block of zeros.
const ZERO: u32 = u32::MAX - 1;

const MAP_PIECE_BYTES: u64 = 64 << 10;

/// A disk in blocks that are stored in the order in which they were first written.
#[derive(Debug)]
pub(super) struct Blocks {
    size_bytes: u64,
    block_bytes: u64,
    data_offset: u64,
    /// For each block of the disk, its number in the file, [`FREE`] or [`ZERO`]. What the disk needs of a block
    /// lies in the file, and no two blocks have the same number.
    map: Vec<u32>,
}

impl Blocks {
    pub(super) fn load(file: &Source, header: &Header, memory: &Memory) -> Result<Self, Refusal> {
        memory.take_tables(header.map.end - header.map.start)?;
        let count = (header.map.end - header.map.start) / 4;
        let mut blocks = Blocks {
            size_bytes: header.size_bytes,
            block_bytes: header.block_bytes,
            data_offset: header.data_offset,
            map: Vec::with_capacity(count as usize),
        };
        let mut used = vec![false; header.blocks as usize];
        let mut piece = vec![0; MAP_PIECE_BYTES.min(count * 4) as usize];
        while (blocks.map.len() as u64) < count {
            let at = header.map.start + blocks.map.len() as u64 * 4;
            let piece_bytes = MAP_PIECE_BYTES.min(header.map.end - at) as usize;
            let piece = &mut piece[..piece_bytes];
            file.read(at, piece)?;
            for entry in piece.as_chunks().0 {
                let entry = u32::from_le_bytes(*entry);
                blocks.check_entry(entry, file, header, &mut used)?;
                blocks.map.push(entry);
            }
        }
        Ok(blocks)
    }

    /// Checks the entry that is to be added to the map. `used` are the numbers of those before it.
    fn check_entry(
        &self,
        entry: u32,
        file: &Source,
        header: &Header,
        used: &mut [bool],
    ) -> Result<(), Refusal> {
        if entry == FREE || entry == ZERO {
            return Ok(());
        }
        let index = self.map.len() as u64;
        let refuse = |wanted: String| {
            Err(FORMAT.malformed(header.map.start + index * 4, "block map entry", entry, wanted))
        };
        let Some(used) = used.get_mut(entry as usize) else {
            return refuse(format!("a number below {}, as many blocks as the image has", header.blocks));
        };
        if std::mem::replace(used, true) {
            return refuse("a block that no other entry names".to_owned());
        }
        let needed = self.block_bytes.min(self.size_bytes - index * self.block_bytes);
        if !file.holds(self.place_of(entry), needed) {
            let size_bytes = file.size_bytes();
            return refuse(format!("a block that lies in the file, which has {size_bytes} bytes"));
        }
        Ok(())
    }

    fn place_of(&self, entry: u32) -> u64 {
        self.data_offset + u64::from(entry) * self.block_bytes
    }

    /// The extent from `offset` to the end of its block.
    fn block(&self, offset: u64) -> Extent<Infallible> {
        let within = offset % self.block_bytes;
        let place = match self.map[(offset / self.block_bytes) as usize] {
            FREE => Place::Inherited,
            ZERO => Place::Zero,
            entry => Place::Stored { offset: self.place_of(entry) + within },
        };
        Extent { len: self.block_bytes - within, place }
    }
}

impl Map for Blocks {
    type Packed = Infallible;

    fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    fn extent(&self, _file: &Source, offset: u64, most: u64) -> Result<Extent<Infallible>, ReadError> {
        let mut extent = self.block(offset);
        while extent.len < most {
            let next = self.block(offset + extent.len);
            if !extent.continues_in(&next) {
                break;
            }
            extent.len += next.len;
        }
        extent.len = extent.len.min(most);
        Ok(extent)
    }

    fn read_packed(&self, _: &Source, unit: Infallible, _: u64, _: &mut [u8]) -> Result<(), ReadError> {
        match unit {}
    }
}
