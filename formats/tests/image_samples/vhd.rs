//! VHD images built by hand.

use super::{content, put};

/// Where in a [`dynamic`] image the parts lie.
const HEADER: usize = 512;
const TABLE: usize = 1536;
const FOOTER: usize = 15872;
const BLOCK_BYTES: usize = 4096;

/// A dynamic image with blocks of 4 KiB, and its disk.
///
/// ```text
/// file     0 footer's copy   512 header   1536 block allocation table   2048 block 2   6656 block 0
///      11264 block 4   15872 footer   16384 end
/// blocks 1 and 3 are absent; of block 2 only the sectors 0 and 3 are there; the disk ends in block 4
/// ```
pub(crate) fn dynamic() -> (Vec<u8>, Vec<u8>) {
    let mut image = vec![0; FOOTER + 512];
    put(&mut image, 0, &footer(3, 17408));
    put(&mut image, FOOTER, &footer(3, 17408));
    put(&mut image, HEADER, b"cxsparse");
    put(&mut image, HEADER + 8, &[0xff; 8]);
    put(&mut image, HEADER + 16, &(TABLE as u64).to_be_bytes());
    put(&mut image, HEADER + 24, &0x10000u32.to_be_bytes());
    put(&mut image, HEADER + 28, &5u32.to_be_bytes());
    put(&mut image, HEADER + 32, &(BLOCK_BYTES as u32).to_be_bytes());
    put(&mut image, TABLE, &[0xff; 512]);
    for (index, offset, bitmap) in [(0, 6656, 0xff), (2, 2048, 0b1001_0000), (4, 11264, 0xff)] {
        put(&mut image, TABLE + index * 4, &(offset as u32 / 512).to_be_bytes());
        put(&mut image, offset, &[bitmap]);
        put(&mut image, offset + 512, &content(1 + index as u8, BLOCK_BYTES));
    }
    sum(&mut image);

    let mut disk = vec![0; 17408];
    put(&mut disk, 0, &content(1, BLOCK_BYTES));
    put(&mut disk, 2 * BLOCK_BYTES, &content(3, BLOCK_BYTES)[..512]);
    put(&mut disk, 2 * BLOCK_BYTES + 1536, &content(3, BLOCK_BYTES)[1536..2048]);
    put(&mut disk, 4 * BLOCK_BYTES, &content(5, BLOCK_BYTES)[..1024]);
    (image, disk)
}

/// The [`dynamic`] image as a difference to the one with the unique id `parent`, and what it makes of
/// that one's disk.
pub(crate) fn differencing(parent: [u8; 16], parent_disk: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let (mut image, mut disk) = dynamic();
    for footer in [0, FOOTER] {
        put(&mut image, footer + 63, &[4]);
        put(&mut image, footer + 68, &[0xdd; 16]);
    }
    put(&mut image, HEADER + 40, &parent);
    let name: Vec<u8> = "parent\u{1b}[2J.vhd".encode_utf16().flat_map(u16::to_be_bytes).collect();
    put(&mut image, HEADER + 64, &name);
    sum(&mut image);

    let of_block_2 = 2 * BLOCK_BYTES;
    let absent =
        [BLOCK_BYTES..of_block_2, of_block_2 + 512..of_block_2 + 1536, of_block_2 + 2048..4 * BLOCK_BYTES];
    for range in absent {
        let end = range.end.min(parent_disk.len());
        if range.start < end {
            put(&mut disk, range.start, &parent_disk[range.start..end]);
        }
    }
    (image, disk)
}

/// The unique id of [`dynamic`] and [`fixed`] images.
pub(crate) const UNIQUE_ID: [u8; 16] = [0xab; 16];

/// A fixed image, and its disk.
pub(crate) fn fixed() -> (Vec<u8>, Vec<u8>) {
    let disk = content(9, 2048);
    let mut image = [&disk[..], &footer(2, 2048)].concat();
    sum(&mut image);
    (image, disk)
}

fn footer(disk_type: u32, size: u64) -> [u8; 512] {
    let mut footer = [0; 512];
    put(&mut footer, 0, b"conectix");
    put(&mut footer, 8, &2u32.to_be_bytes());
    put(&mut footer, 12, &0x10000u32.to_be_bytes());
    put(&mut footer, 16, &if disk_type == 2 { u64::MAX } else { HEADER as u64 }.to_be_bytes());
    put(&mut footer, 28, b"win ");
    put(&mut footer, 40, &size.to_be_bytes());
    put(&mut footer, 48, &size.to_be_bytes());
    put(&mut footer, 56, &[0, 1, 4, 17 - 10]); // cylinders, heads, sectors: 28 sectors
    put(&mut footer, 60, &disk_type.to_be_bytes());
    put(&mut footer, 68, &UNIQUE_ID);
    footer
}

/// Puts the checksums right, of the header and of the footers where they are.
pub(crate) fn sum(image: &mut [u8]) {
    let sum_at = |image: &mut [u8], at: usize, len: usize, field: usize| {
        let Some(bytes) = image.get_mut(at..at + len) else { return };
        bytes[field..field + 4].fill(0);
        let sum = !bytes.iter().map(|&byte| u32::from(byte)).sum::<u32>();
        put(bytes, field, &sum.to_be_bytes());
    };
    let last = image.len().saturating_sub(512);
    if image[last..].starts_with(b"conectix") {
        sum_at(image, last, 512, 64);
    }
    if image.starts_with(b"conectix") {
        sum_at(image, 0, 512, 64);
        sum_at(image, HEADER, 1024, 36);
    }
}
