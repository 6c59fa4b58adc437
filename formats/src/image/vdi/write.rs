//! VDI images, written dynamic, in blocks of 1 MiB, which are all that QEMU reads.
//!
//! ```text
//! 0 header   512 block map   | at whole MiB: the blocks that are not all zeros, in their order on the disk |
//! ```

use super::super::Format;
use super::super::write::{ImageWriteError, Job, Output, put};
use super::blocks::FREE;
use super::header::{
    BLOCK_SIZE, BLOCKS, BLOCKS_ALLOCATED, CREATION_UUID, DATA_OFFSET, DISK_SIZE, DYNAMIC, HEADER_SIZE,
    IMAGE_TYPE, MAP_OFFSET, MODIFICATION_UUID, MOST_BLOCKS, SECTOR_SIZE, SIGNATURE, VERSION, VERSION_1_1,
};
use super::{MAGIC, SECTOR};

const BLOCK_BYTES: u64 = 1 << 20;
const MAP_START: u64 = 512;
/// For people who look into the file.
const TEXT: &[u8] = b"<<< hull disk image >>>\n";
/// With the logical geometry, of which only the size of a sector is said.
const HEADER_SIZE_WITH_GEOMETRY: u32 = 400;
const LOGICAL_SECTOR_SIZE: usize = 468;

pub(in crate::image) fn write(job: &Job<'_>, out: &Output) -> Result<u64, ImageWriteError> {
    let size_bytes = job.disk.size_bytes();
    let most = MOST_BLOCKS * BLOCK_BYTES;
    if size_bytes > most {
        return Err(ImageWriteError::TooLarge { format: Format::Vdi, size_bytes, most });
    }
    let size_bytes = size_bytes.next_multiple_of(SECTOR);
    let blocks = size_bytes.div_ceil(BLOCK_BYTES);
    let data_start = (MAP_START + blocks * 4).next_multiple_of(BLOCK_BYTES);
    let mut map = FREE.to_le_bytes().repeat(blocks as usize);
    let mut allocated = 0u32;
    job.each_unit(BLOCK_BYTES, |index, content| {
        put(&mut map, index as usize * 4, &allocated.to_le_bytes());
        let offset = data_start + u64::from(allocated) * BLOCK_BYTES;
        allocated += 1;
        out.write_at(offset, content, "a block")
    })?;
    let mut header = [0; MAP_START as usize];
    put(&mut header, 0, TEXT);
    put(&mut header, SIGNATURE, MAGIC);
    for (at, field) in [
        (VERSION, VERSION_1_1),
        (HEADER_SIZE, HEADER_SIZE_WITH_GEOMETRY),
        (IMAGE_TYPE, DYNAMIC),
        (MAP_OFFSET, MAP_START as u32),
        (DATA_OFFSET, data_start as u32),
        (SECTOR_SIZE, SECTOR as u32),
        (BLOCK_SIZE, BLOCK_BYTES as u32),
        (BLOCKS, blocks as u32),
        (BLOCKS_ALLOCATED, allocated),
        (LOGICAL_SECTOR_SIZE, SECTOR as u32),
    ] {
        put(&mut header, at, &field.to_le_bytes());
    }
    put(&mut header, DISK_SIZE, &size_bytes.to_le_bytes());
    let identity = job.options.identity;
    put(&mut header, CREATION_UUID, &uuid(identity));
    put(&mut header, MODIFICATION_UUID, &uuid(identity.map(|byte| !byte)));
    out.write_at(0, &header, "the header")?;
    out.write_at(MAP_START, &map, "the block map")?;
    let file_bytes = data_start + u64::from(allocated) * BLOCK_BYTES;
    out.extend_to(file_bytes)?;
    Ok(file_bytes)
}

/// A UUID of the version for private rules, which is never all zeros; VirtualBox refuses those.
///
/// Source: RFC 9562, section 5.8, in VirtualBox's byte order.
fn uuid(mut bytes: [u8; 16]) -> [u8; 16] {
    bytes[7] = bytes[7] & 0x0f | 0x80;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    bytes
}
