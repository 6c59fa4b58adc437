//! VHD images, written fixed or dynamic.
//!
//! The size is exact for all that go by the current size: Hyper-V, VirtualBox, Xen and, by the creator that is given
//! here, QEMU. The geometry is the largest of the specification's that is no larger than the disk, so that Virtual PC,
//! and whatever else goes by it, misses up to a cylinder at the end. Azure wants whole MiB on top, which is
//! the business of whoever makes the disk.
//!
//! ```text
//! dynamic:  0 footer's copy   512 header   1536 block allocation table   | bitmap | block of 2 MiB | ... | footer |
//! ```
//!
//! Source: VHD specification 1.0; "CHS Calculation" in its appendix.

use super::super::write::{ImageWriteError, Job, Output, put};
use super::super::{Format, raw};
use super::blocks::{NO_BLOCK, bitmap_bytes};
use super::fields::checksum;
use super::footer::{
    CHECKSUM, CREATOR, CURRENT_SIZE, DATA_OFFSET, DISK_TYPE, DYNAMIC, FEATURES, FIXED, FOOTER_BYTES,
    GEOMETRY, LARGEST_DISK_BYTES, LARGEST_GEOMETRY, ORIGINAL_SIZE, UNIQUE_ID, VERSION, VERSION_1,
};
use super::header::{
    BLOCK_SIZE, HEADER_BYTES, HEADER_CHECKSUM, HEADER_COOKIE, HEADER_VERSION, HEADER_VERSION_1,
    TABLE_ENTRIES, TABLE_OFFSET,
};
use super::{COOKIE, SECTOR};

const BLOCK_BYTES: u64 = 2 << 20;
const HEADER_START: u64 = FOOTER_BYTES as u64;
const TABLE_START: u64 = HEADER_START + HEADER_BYTES as u64;
/// A data offset that leads nowhere.
const NOWHERE: u64 = u64::MAX;

/// Always set, whatever it once meant.
const RESERVED_FEATURE: u32 = 0b10;
/// QEMU's for images of an exact size. It takes most other creators for Virtual PC, and cuts the disk short.
const EXACT_SIZE: &[u8; 4] = b"qem2";
const CREATOR_VERSION: usize = 32;
const CREATOR_OS: usize = 36;

/// Writes the disk's bytes with a footer behind them.
pub(in crate::image) fn write_fixed(job: &Job<'_>, out: &Output) -> Result<u64, ImageWriteError> {
    let size_bytes = size_of(job)?;
    raw::write(job, out)?;
    out.write_at(size_bytes, &footer(job, FIXED, size_bytes), "the footer")?;
    Ok(size_bytes + FOOTER_BYTES as u64)
}

/// Writes the blocks that are not all zeros, and the table that leads to them.
pub(in crate::image) fn write_dynamic(job: &Job<'_>, out: &Output) -> Result<u64, ImageWriteError> {
    let size_bytes = size_of(job)?;
    let blocks = size_bytes.div_ceil(BLOCK_BYTES);
    let table_bytes = (blocks * 4).next_multiple_of(SECTOR);
    let mut table = vec![0xff; table_bytes as usize];
    let mut end = TABLE_START + table_bytes;
    let bitmap = vec![0xff; bitmap_bytes(BLOCK_BYTES) as usize];
    job.each_unit(BLOCK_BYTES, |index, content| {
        let sector = (end / SECTOR) as u32;
        debug_assert_ne!(sector, NO_BLOCK);
        put(&mut table, index as usize * 4, &sector.to_be_bytes());
        out.write_at(end, &bitmap, "a sector bitmap")?;
        end += bitmap.len() as u64;
        out.write_at(end, content, "a block")?;
        end += BLOCK_BYTES;
        Ok(())
    })?;
    let footer = footer(job, DYNAMIC, size_bytes);
    out.write_at(0, &footer, "the footer's copy")?;
    out.write_at(HEADER_START, &header(blocks as u32), "the dynamic disk header")?;
    out.write_at(TABLE_START, &table, "the block allocation table")?;
    out.write_at(end, &footer, "the footer")?;
    Ok(end + FOOTER_BYTES as u64)
}

/// The disk's size in whole sectors.
fn size_of(job: &Job<'_>) -> Result<u64, ImageWriteError> {
    let size_bytes = job.disk.size_bytes();
    if size_bytes > LARGEST_DISK_BYTES {
        return Err(ImageWriteError::TooLarge { format: Format::Vhd, size_bytes, most: LARGEST_DISK_BYTES });
    }
    Ok(size_bytes.next_multiple_of(SECTOR))
}

/// Its timestamp is the first that there is, the start of the year 2000.
fn footer(job: &Job<'_>, disk_type: u32, size_bytes: u64) -> [u8; FOOTER_BYTES] {
    let data_offset = if disk_type == FIXED { NOWHERE } else { HEADER_START };
    let (cylinders, heads, sectors) = geometry(size_bytes / SECTOR);
    let [high, low] = cylinders.to_be_bytes();
    let mut footer = [0; FOOTER_BYTES];
    put(&mut footer, 0, COOKIE);
    put(&mut footer, FEATURES, &RESERVED_FEATURE.to_be_bytes());
    put(&mut footer, VERSION, &VERSION_1.to_be_bytes());
    put(&mut footer, DATA_OFFSET, &data_offset.to_be_bytes());
    put(&mut footer, CREATOR, EXACT_SIZE);
    put(&mut footer, CREATOR_VERSION, &VERSION_1.to_be_bytes());
    put(&mut footer, CREATOR_OS, b"Wi2k");
    put(&mut footer, ORIGINAL_SIZE, &size_bytes.to_be_bytes());
    put(&mut footer, CURRENT_SIZE, &size_bytes.to_be_bytes());
    put(&mut footer, GEOMETRY, &[high, low, heads, sectors]);
    put(&mut footer, DISK_TYPE, &disk_type.to_be_bytes());
    put(&mut footer, UNIQUE_ID, &job.options.identity);
    let sum = checksum(&footer, CHECKSUM);
    put(&mut footer, CHECKSUM, &sum.to_be_bytes());
    footer
}

fn header(blocks: u32) -> [u8; HEADER_BYTES] {
    let mut header = [0; HEADER_BYTES];
    put(&mut header, 0, HEADER_COOKIE);
    put(&mut header, 8, &NOWHERE.to_be_bytes());
    put(&mut header, TABLE_OFFSET, &TABLE_START.to_be_bytes());
    put(&mut header, HEADER_VERSION, &HEADER_VERSION_1.to_be_bytes());
    put(&mut header, TABLE_ENTRIES, &blocks.to_be_bytes());
    put(&mut header, BLOCK_SIZE, &(BLOCK_BYTES as u32).to_be_bytes());
    let sum = checksum(&header, HEADER_CHECKSUM);
    put(&mut header, HEADER_CHECKSUM, &sum.to_be_bytes());
    header
}

/// Cylinders, heads and sectors for a disk of `sectors`; together no more than those.
fn geometry(sectors: u64) -> (u16, u8, u8) {
    const MOST_CYLINDERS: u64 = 65535;
    let (_, most_heads, most_sectors_per_track) = LARGEST_GEOMETRY;
    let most_sectors_per_track = u64::from(most_sectors_per_track);
    let most_heads = u64::from(most_heads);
    let sectors = sectors.min(MOST_CYLINDERS * most_heads * most_sectors_per_track);
    let (heads, sectors_per_track) = if sectors >= MOST_CYLINDERS * most_heads * 63 {
        (most_heads, most_sectors_per_track)
    } else {
        small_geometry(sectors)
    };
    let cylinders = sectors / sectors_per_track / heads;
    (cylinders as u16, heads as u8, sectors_per_track as u8)
}

/// Heads and sectors per track that let a BIOS of old do with 1024 cylinders as long as that can be.
fn small_geometry(sectors: u64) -> (u64, u64) {
    let heads = (sectors / 17).div_ceil(1024).max(4);
    if heads <= 16 && sectors / 17 < heads * 1024 {
        (heads, 17)
    } else if sectors / 31 < 16 * 1024 {
        (16, 31)
    } else {
        (16, 63)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The sizes are those that QEMU gives disks where it may round them up, and the geometries its own.
    #[test]
    fn geometries_are_those_that_qemu_writes() {
        for (sectors, want) in [
            (0, (0, 4, 17)),
            (68, (1, 4, 17)),
            (8228, (121, 4, 17)),
            (69_700, (820, 5, 17)),
            (278_752, (562, 16, 31)),
            (508_032, (504, 16, 63)),
            (66_059_280, (16191, 16, 255)),
            (267_382_800, LARGEST_GEOMETRY),
            (0xff00_0000, LARGEST_GEOMETRY),
        ] {
            assert_eq!(geometry(sectors), want, "{sectors} sectors");
        }
    }

    #[test]
    fn a_geometry_misses_less_than_a_cylinder() {
        for sectors in (0..267_382_800).step_by(9973) {
            let (cylinders, heads, per_track) = geometry(sectors);
            let cylinder = u64::from(heads) * u64::from(per_track);
            let covered = u64::from(cylinders) * cylinder;
            assert!(covered <= sectors && sectors < covered + cylinder, "{sectors} sectors");
        }
    }
}
