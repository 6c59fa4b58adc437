//! VDI images built by hand.

use super::{content, put};

const BLOCK_BYTES: usize = 128 << 10;

/// The UUID of a [`dynamic`] image.
pub(crate) const UUID: [u8; 16] = [0xab; 16];

/// A dynamic image with blocks of 128 KiB, and its disk.
///
/// ```text
/// file     0 header   512 block map   1024 block 2   5120 end
/// block 0 is free, 1 zero; the disk ends in block 2, after 4 KiB
/// ```
pub(crate) fn dynamic() -> (Vec<u8>, Vec<u8>) {
    let disk_bytes = 2 * BLOCK_BYTES + 4096;
    let mut image = vec![0; 5120];
    put(&mut image, 0, b"<<< a disk >>>\n");
    put(&mut image, 64, b"\x7f\x10\xda\xbe");
    put(&mut image, 68, &0x0001_0001u32.to_le_bytes());
    put(&mut image, 72, &384u32.to_le_bytes());
    put(&mut image, 76, &1u32.to_le_bytes());
    put(&mut image, 340, &512u32.to_le_bytes());
    put(&mut image, 344, &1024u32.to_le_bytes());
    put(&mut image, 360, &512u32.to_le_bytes());
    put(&mut image, 368, &(disk_bytes as u64).to_le_bytes());
    put(&mut image, 376, &(BLOCK_BYTES as u32).to_le_bytes());
    put(&mut image, 384, &3u32.to_le_bytes());
    put(&mut image, 388, &1u32.to_le_bytes());
    put(&mut image, 392, &UUID);
    put(&mut image, 408, &[0xcd; 16]);
    put(&mut image, 512, &[u32::MAX, u32::MAX - 1, 0].map(u32::to_le_bytes).concat());
    put(&mut image, 1024, &content(1, 4096));

    let mut disk = vec![0; disk_bytes];
    put(&mut disk, 2 * BLOCK_BYTES, &content(1, 4096));
    (image, disk)
}

/// The [`dynamic`] image as a difference to the one with the UUID `parent`, and what it makes of that one's disk.
pub(crate) fn differencing(parent: [u8; 16], parent_disk: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let (mut image, mut disk) = dynamic();
    put(&mut image, 76, &4u32.to_le_bytes());
    put(&mut image, 392, &[0xdd; 16]);
    put(&mut image, 424, &parent);
    put(&mut image, 440, &[0x11; 16]); // some earlier modification
    let inherited = parent_disk.len().min(BLOCK_BYTES);
    put(&mut disk, 0, &parent_disk[..inherited]);
    (image, disk)
}
