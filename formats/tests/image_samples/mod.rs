//! Small disk images built by hand, byte by byte, so that a test can break any field it names.

#![allow(dead_code, reason = "no test file uses all samples")]

pub(crate) mod vdi;
pub(crate) mod vhd;
pub(crate) mod vhdx;
pub(crate) mod vmdk_streams;

use std::fs::File;
use std::io::Write;

use flate2::Compression;
use flate2::write::{DeflateEncoder, ZlibEncoder};

/// A file without a name that holds `bytes`.
pub(crate) fn file_of(bytes: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file
}

/// Content that is not zero, differs from cluster to cluster and compresses.
pub(crate) fn content(seed: u8, len: usize) -> Vec<u8> {
    (0..len).map(|at| seed ^ (at / 7) as u8 | 1).collect()
}

/// Writes `bytes` into the image at byte `at`.
pub(crate) fn put(image: &mut [u8], at: usize, bytes: &[u8]) {
    image[at..at + bytes.len()].copy_from_slice(bytes);
}

/// A version 3 qcow2 image with clusters of 512 bytes and the disk it stands for.
///
/// ```text
/// file     0 header    512 L1    1024 refcount table    1536 L2
///       2048 guest cluster 0    2560 guest cluster 3    3072 guest cluster 4, compressed    3584 end
/// guest cluster 1 absent, 2 reads as zeros, 5 to 127 absent, 64 to 127 without an L2 table
/// ```
pub(crate) fn qcow2() -> (Vec<u8>, Vec<u8>) {
    let mut image = vec![0; 3584];
    put(&mut image, 0, b"QFI\xfb");
    put(&mut image, 4, &3u32.to_be_bytes());
    put(&mut image, 20, &9u32.to_be_bytes());
    put(&mut image, 24, &65536u64.to_be_bytes());
    put(&mut image, 36, &2u32.to_be_bytes()); // l1_size
    put(&mut image, 40, &512u64.to_be_bytes());
    put(&mut image, 48, &1024u64.to_be_bytes());
    put(&mut image, 56, &1u32.to_be_bytes());
    put(&mut image, 96, &4u32.to_be_bytes());
    put(&mut image, 100, &112u32.to_be_bytes());
    put(&mut image, 512, &(1536u64 | 1 << 63).to_be_bytes());
    put(&mut image, 1536, &(2048u64 | 1 << 63).to_be_bytes());
    put(&mut image, 1536 + 2 * 8, &1u64.to_be_bytes());
    put(&mut image, 1536 + 3 * 8, &(2560u64 | 1 << 63).to_be_bytes());
    put(&mut image, 1536 + 4 * 8, &(3072u64 | 1 << 62).to_be_bytes());
    put(&mut image, 2048, &content(1, 512));
    put(&mut image, 2560, &content(2, 512));
    let mut deflate = DeflateEncoder::new(Vec::new(), Compression::default());
    deflate.write_all(&content(3, 512)).unwrap();
    put(&mut image, 3072, &deflate.finish().unwrap());

    let mut disk = vec![0; 65536];
    put(&mut disk, 0, &content(1, 512));
    put(&mut disk, 3 * 512, &content(2, 512));
    put(&mut disk, 4 * 512, &content(3, 512));
    (image, disk)
}

/// A version 3 qcow2 image with extended L2 entries, clusters of 16 KiB, and its disk.
///
/// ```text
/// file     0 header   16384 L1   32768 refcount table   49152 L2   65536 guest cluster 0   81920 end
/// subclusters 0 and 3 of guest cluster 0 are allocated, 1 reads as zeros, the others are absent
/// ```
pub(crate) fn qcow2_extended() -> (Vec<u8>, Vec<u8>) {
    let mut image = vec![0; 81920];
    put(&mut image, 0, b"QFI\xfb");
    put(&mut image, 4, &3u32.to_be_bytes());
    put(&mut image, 20, &14u32.to_be_bytes());
    put(&mut image, 24, &40960u64.to_be_bytes());
    put(&mut image, 36, &1u32.to_be_bytes());
    put(&mut image, 40, &16384u64.to_be_bytes());
    put(&mut image, 48, &32768u64.to_be_bytes());
    put(&mut image, 56, &1u32.to_be_bytes());
    put(&mut image, 72, &(1u64 << 4).to_be_bytes());
    put(&mut image, 96, &4u32.to_be_bytes());
    put(&mut image, 100, &112u32.to_be_bytes());
    put(&mut image, 16384, &(49152u64 | 1 << 63).to_be_bytes());
    put(&mut image, 49152, &(65536u64 | 1 << 63).to_be_bytes());
    put(&mut image, 49152 + 8, &(0b1001u64 | 0b10 << 32).to_be_bytes());
    put(&mut image, 65536, &content(1, 16384));

    let mut disk = vec![0; 40960];
    put(&mut disk, 0, &image[65536..66048]);
    put(&mut disk, 1536, &image[67072..67584]);
    (image, disk)
}

/// The same image, as a difference to a backing file that it calls `base` and, where `format` is given, says to
/// be of that format.
pub(crate) fn over_backing_file(mut qcow2: Vec<u8>, format: Option<&str>) -> Vec<u8> {
    if let Some(format) = format {
        put(&mut qcow2, 112, &0xe279_2acau32.to_be_bytes());
        put(&mut qcow2, 116, &(format.len() as u32).to_be_bytes());
        put(&mut qcow2, 120, format.as_bytes());
    }
    put(&mut qcow2, 8, &500u64.to_be_bytes());
    put(&mut qcow2, 16, &4u32.to_be_bytes());
    put(&mut qcow2, 500, b"base");
    qcow2
}

/// Where in a [`vmdk`] the parts lie, in sectors.
const DESCRIPTOR: usize = 1;
const DIRECTORY: usize = 3;
const TABLE: usize = 4;
const GRAINS: usize = 8;
/// The least there is: 8 sectors.
const GRAIN_BYTES: usize = 4096;

pub(crate) const DESCRIPTOR_TEXT: &str = "# Disk DescriptorFile\nversion=1\nCID=12345678\nparentCID=ffffffff\n\
    createType=\"streamOptimized\"\n\nRW 40 SPARSE \"disk.vmdk\"\n\nddb.adapterType = \"ide\"\n";

/// A streamOptimized VMDK with grains of 4 KiB, its directory in front, and its disk.
///
/// ```text
/// sector 0 header   1 descriptor   3 grain directory   4 grain table   8 grain 0   9 grain 2   10 end
/// grains 1, 3 and 4 are absent
/// ```
pub(crate) fn vmdk() -> (Vec<u8>, Vec<u8>) {
    vmdk_with(DESCRIPTOR_TEXT)
}

/// As [`vmdk`], with another descriptor.
pub(crate) fn vmdk_with(descriptor: &str) -> (Vec<u8>, Vec<u8>) {
    let mut image = vec![0; 10 * 512];
    put(&mut image, 0, b"KDMV");
    put(&mut image, 4, &3u32.to_le_bytes());
    put(&mut image, 8, &0x30001u32.to_le_bytes());
    put(&mut image, 12, &40u64.to_le_bytes());
    put(&mut image, 20, &8u64.to_le_bytes());
    put(&mut image, 28, &(DESCRIPTOR as u64).to_le_bytes());
    put(&mut image, 36, &2u64.to_le_bytes());
    put(&mut image, 44, &512u32.to_le_bytes());
    put(&mut image, 56, &(DIRECTORY as u64).to_le_bytes());
    put(&mut image, 64, &(GRAINS as u64).to_le_bytes());
    put(&mut image, 73, b"\n \r\n");
    put(&mut image, 77, &1u16.to_le_bytes());
    put(&mut image, DESCRIPTOR * 512, descriptor.as_bytes());
    put(&mut image, DIRECTORY * 512, &(TABLE as u32).to_le_bytes());
    put(&mut image, TABLE * 512, &(GRAINS as u32).to_le_bytes());
    put(&mut image, TABLE * 512 + 8, &(GRAINS as u32 + 1).to_le_bytes());
    put_grain(&mut image, GRAINS, 0, &content(1, GRAIN_BYTES));
    put_grain(&mut image, GRAINS + 1, 16, &content(2, GRAIN_BYTES));

    let mut disk = vec![0; 40 * 512];
    put(&mut disk, 0, &content(1, GRAIN_BYTES));
    put(&mut disk, 2 * GRAIN_BYTES, &content(2, GRAIN_BYTES));
    (image, disk)
}

/// Puts a grain of `content` at `sector` of the file whose marker says `disk_sector`.
pub(crate) fn put_grain(image: &mut [u8], sector: usize, disk_sector: u64, content: &[u8]) {
    let mut zlib = ZlibEncoder::new(Vec::new(), Compression::default());
    zlib.write_all(content).unwrap();
    let stream = zlib.finish().unwrap();
    put(image, sector * 512, &disk_sector.to_le_bytes());
    put(image, sector * 512 + 8, &(stream.len() as u32).to_le_bytes());
    put(image, sector * 512 + 12, &stream);
}

/// The same image as a writer leaves it that cannot go back: the directory's place is in a footer.
pub(crate) fn with_footer(mut image: Vec<u8>) -> Vec<u8> {
    image.resize(image.len().next_multiple_of(512), 0);
    let footer = image[..512].to_vec();
    put(&mut image, 56, &u64::MAX.to_le_bytes());
    let mut marker = [0; 512];
    put(&mut marker, 0, &1u64.to_le_bytes());
    put(&mut marker, 12, &3u32.to_le_bytes());
    [image, marker.to_vec(), footer, vec![0; 512]].concat()
}

/// A sparse extent as disks in several files have them, without a descriptor: grains of 4 KiB, `sectors` of them
/// in use, and what it shows where `stored` grains have content of their own.
///
/// ```text
/// sector 0 header   1 grain directory   2 grain table   6 the stored grains
/// ```
pub(crate) fn vmdk_extent(sectors: u64, stored: &[u32], seed: u8) -> (Vec<u8>, Vec<u8>) {
    let mut image = vec![0; 6 * 512 + stored.len() * GRAIN_BYTES];
    put(&mut image, 0, b"KDMV");
    put(&mut image, 4, &1u32.to_le_bytes());
    put(&mut image, 8, &3u32.to_le_bytes());
    put(&mut image, 12, &sectors.to_le_bytes());
    put(&mut image, 20, &8u64.to_le_bytes());
    put(&mut image, 44, &512u32.to_le_bytes());
    put(&mut image, 56, &1u64.to_le_bytes());
    put(&mut image, 64, &6u64.to_le_bytes());
    put(&mut image, 73, b"\n \r\n");
    put(&mut image, 512, &2u32.to_le_bytes());
    let mut disk = vec![0; sectors.next_multiple_of(8) as usize * 512];
    for (index, &grain) in stored.iter().enumerate() {
        let sector = 6 + index * GRAIN_BYTES / 512;
        put(&mut image, 1024 + grain as usize * 4, &(sector as u32).to_le_bytes());
        let content = content(seed + index as u8, GRAIN_BYTES);
        put(&mut image, sector * 512, &content);
        put(&mut disk, grain as usize * GRAIN_BYTES, &content);
    }
    disk.truncate(sectors as usize * 512);
    (image, disk)
}
