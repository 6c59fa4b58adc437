//! VMDK images that lie, beside whole ones.
//!
//! Source: VMware, "Virtual Disk Format 5.0".

use super::bytes::Bytes;
use super::{Hostile, Want, accepted, convert, refused};

type Row = (&'static str, &'static str, Want, fn(&mut Bytes));
type TextRow = (&'static str, &'static str, Want, &'static [u8]);

const SECTOR: usize = 512;
const DESCRIPTOR: usize = SECTOR;
const DESCRIPTOR_SECTORS: usize = 20;
const DIRECTORY: usize = 21 * SECTOR;
const TABLE: usize = 22 * SECTOR;
const GRAINS: usize = 128 * SECTOR;
const GRAIN: usize = 128 * SECTOR;
const END: usize = GRAINS + GRAIN;

pub(super) fn all() -> impl Iterator<Item = Hostile> {
    let spoilt = |rows: &'static [Row], whole: fn() -> Bytes| {
        rows.iter().map(move |(name, what, want, spoil)| {
            let mut image = whole();
            spoil(&mut image);
            convert(name, what, *want, vec![("disk.vmdk", image)])
        })
    };
    let descriptors = DESCRIPTORS.iter().map(|(name, what, want, text)| {
        let parts = vec![("disk.vmdk", Bytes::new(*text)), ("part.vmdk", Bytes::zeros(1 << 20))];
        convert(name, what, *want, parts).with_parts()
    });
    spoilt(ROWS, sparse).chain(spoilt(STREAM, stream)).chain(descriptors)
}

fn text(kind: &str, more: &str) -> String {
    format!(
        "# Disk DescriptorFile\nversion=1\nCID=12345678\nparentCID=ffffffff\ncreateType=\"{kind}\"\n{more}\n\
         RW 2048 SPARSE \"disk.vmdk\"\n\nddb.adapterType = \"ide\"\n"
    )
}

fn header(version: u32, flags: u32) -> Bytes {
    let mut image = Bytes::zeros(GRAINS);
    image.put(0, b"KDMV");
    image.le32(4, version);
    image.le32(8, flags);
    image.le64(12, 2048);
    image.le64(20, 128);
    image.le64(28, (DESCRIPTOR / SECTOR) as u64);
    image.le64(36, DESCRIPTOR_SECTORS as u64);
    image.le32(44, 512);
    image.le64(56, (DIRECTORY / SECTOR) as u64);
    image.le64(64, (GRAINS / SECTOR) as u64);
    image.put(73, b"\n \r\n");
    image.le32(DIRECTORY, (TABLE / SECTOR) as u32);
    image.le32(TABLE, (GRAINS / SECTOR) as u32);
    image
}

/// monolithicSparse: a disk of 1 MiB whose first grain is stored.
fn sparse() -> Bytes {
    let mut image = header(1, 1);
    image.put(DESCRIPTOR, text("monolithicSparse", "").as_bytes());
    image.put(GRAINS, &[0x5a; GRAIN]);
    image
}

/// streamOptimized: the same disk.
pub(super) fn stream() -> Bytes {
    let mut image = header(3, 0x30001);
    image.put(DESCRIPTOR, text("streamOptimized", "").as_bytes());
    image.le16(77, 1);
    grain(&mut image, &super::zlib(0x5a, GRAIN));
    image
}

fn grain(image: &mut Bytes, compressed: &[u8]) {
    image.cut(GRAINS);
    image.le64(GRAINS, 0);
    image.le32(GRAINS + 8, compressed.len() as u32);
    image.put(GRAINS + 12, compressed);
    let end = image.content().len().next_multiple_of(SECTOR);
    image.put(end - 1, &[0]);
}

/// Other lines in the embedded descriptor.
fn describe(image: &mut Bytes, more: &str) {
    image.put(DESCRIPTOR, &[0; DESCRIPTOR_SECTORS * SECTOR]);
    image.put(DESCRIPTOR, text("monolithicSparse", more).as_bytes());
}

const ROWS: &[Row] = &[
    ("vmdk-whole", "nothing is wrong: the image that the others were made of", accepted(), |_| ()),
    ("vmdk-cut-header", "ends in the header", refused("header is cut off after 100 bytes"), |i| i.cut(100)),
    ("vmdk-cut-table", "ends before its grain table", refused("grain directory entry is sector 22"), |i| {
        i.cut(TABLE)
    }),
    ("vmdk-cut-grain", "ends in a grain", refused("grain table entry is sector 128"), |i| {
        i.cut(END - SECTOR)
    }),
    ("vmdk-version", "version 9", refused("version is 9: only versions 1 to 3 are read"), |i| i.le32(4, 9)),
    ("vmdk-newlines", "damaged by a transfer as text", refused("newline test is `\\n \\n\\n`"), |i| {
        i.put(73, b"\n \n\n")
    }),
    (
        "vmdk-capacity",
        "a disk of 2^63 sectors",
        refused("vmdk: the disk has 18446744073709551615 bytes"),
        |i| i.le64(12, 1 << 63),
    ),
    ("vmdk-grain-0", "grains of 0 sectors", refused("grainSize is 0"), |i| i.le64(20, 0)),
    ("vmdk-grain-odd", "grains of 77 sectors", refused("grainSize is 77"), |i| i.le64(20, 77)),
    ("vmdk-grain-huge", "grains of 2^40 sectors", refused("grainSize is 1099511627776"), |i| {
        i.le64(20, 1 << 40)
    }),
    ("vmdk-entries-0", "grain tables of 0 entries", refused("numGTEsPerGT is 0"), |i| i.le32(44, 0)),
    ("vmdk-entries-huge", "grain tables of 2^31 entries", refused("numGTEsPerGT is 2147483648"), |i| {
        i.le32(44, 1 << 31)
    }),
    (
        "vmdk-directory-outside",
        "a grain directory outside the file",
        refused("gdOffset is sector 1125899906842624"),
        |i| i.le64(56, 1 << 50),
    ),
    ("vmdk-directory-on-header", "a grain directory over the header", refused("gdOffset is 0"), |i| {
        i.le64(56, 0)
    }),
    (
        "vmdk-table-outside",
        "a grain table outside the file",
        refused("grain directory entry is sector 4294967295"),
        |i| i.le32(DIRECTORY, u32::MAX),
    ),
    (
        "vmdk-table-is-directory",
        "the grain directory as grain table: a loop",
        refused("grain directory entry is sector 21"),
        |i| i.le32(DIRECTORY, (DIRECTORY / SECTOR) as u32),
    ),
    (
        "vmdk-data-outside",
        "a grain outside the file",
        refused("grain table entry is sector 4294967295"),
        |i| i.le32(TABLE, u32::MAX),
    ),
    (
        "vmdk-data-is-table",
        "its own grain table as a grain",
        refused("grain table entry is sector 22"),
        |i| i.le32(TABLE, (TABLE / SECTOR) as u32),
    ),
    (
        "vmdk-compression",
        "compression of type 9",
        refused("flags is 0x10001: compressed grains without markers are not read"),
        |i| {
            i.le32(8, 0x10001);
            i.le16(77, 9);
        },
    ),
    ("vmdk-flags", "flags that nobody knows", refused("flags is 0x80000001"), |i| i.le32(8, 0x8000_0001)),
    (
        "vmdk-descriptor-outside",
        "an embedded descriptor outside the file",
        refused("descriptorOffset is sector 1125899906842624"),
        |i| i.le64(28, 1 << 50),
    ),
    (
        "vmdk-descriptor-huge",
        "an embedded descriptor of 2^40 sectors",
        refused("descriptorSize is 1099511627776"),
        |i| i.le64(36, 1 << 40),
    ),
    ("vmdk-parent-twice", "two parents", refused("parentCID is there twice"), |i| {
        describe(i, "parentCID=11111111")
    }),
    (
        "vmdk-parent",
        "a difference to /etc/shadow",
        refused("it is a difference to another image, which was not handed over"),
        |i| {
            let text = text("monolithicSparse", "parentFileNameHint=\"/etc/shadow\"");
            i.put(DESCRIPTOR, text.replace("parentCID=ffffffff", "parentCID=11111111").as_bytes());
        },
    ),
    (
        "vmdk-encrypted",
        "encrypted by VMware",
        refused("key is `encryption.keySafe`: encrypted disks are not read: have it"),
        |i| describe(i, "encryption.keySafe = \"vmware:key/list/x\"\nencryption.data = \"x\""),
    ),
    ("vmdk-dirty", "left in the middle of a write", accepted(), |i| i.put(72, &[1])),
];

const STREAM: &[Row] = &[
    ("vmdk-stream-whole", "nothing is wrong: the stream that the others were made of", accepted(), |_| ()),
    (
        "vmdk-stream-footer",
        "says that a footer has its directory, and has none",
        refused("magic is `\\x00\\x00\\x00\\x00`"),
        |i| i.le64(56, u64::MAX),
    ),
    ("vmdk-stream-length", "a grain of 4 GiB", refused("size in the grain marker is 4294967295"), |i| {
        i.le32(GRAINS + 8, u32::MAX)
    }),
    (
        "vmdk-stream-place",
        "a grain that says it belongs elsewhere",
        refused("lba of the grain marker is 1099511627776"),
        |i| i.le64(GRAINS, 1 << 40),
    ),
    ("vmdk-stream-garbage", "a grain of noise", refused("compressed grain is not decodable"), |i| {
        i.put(GRAINS + 12, &[0xff; 60])
    }),
    (
        "vmdk-stream-short",
        "a grain that decompresses to less than one",
        refused("compressed grain is 65535 bytes"),
        |i| grain(i, &super::zlib(1, GRAIN - 1)),
    ),
    (
        "vmdk-stream-bomb",
        "a grain that decompresses to 64 MiB",
        refused("compressed grain is without an end"),
        |i| grain(i, &super::zlib(1, 64 << 20)),
    ),
    (
        "vmdk-stream-checksum",
        "a grain with a wrong checksum",
        refused("compressed grain is not decodable"),
        |i| {
            let mut compressed = super::zlib(0x5a, GRAIN);
            let last = compressed.len() - 1;
            compressed[last] ^= 1;
            grain(i, &compressed);
        },
    ),
];

/// Descriptors alone, with a folder of parts that has `part.vmdk`, 1 MiB of zeros.
const DESCRIPTORS: &[TextRow] = &[
    ("vmdk-flat-whole", "nothing is wrong: a flat image and its part", accepted(),
     b"# Disk DescriptorFile\nversion=1\nCID=12345678\nparentCID=ffffffff\ncreateType=\"monolithicFlat\"\nRW 2048 FLAT \"part.vmdk\" 0\n"),
    ("vmdk-flat-absolute", "a flat image whose part is /etc/passwd", refused("names with folders in them are not followed"),
     b"# Disk DescriptorFile\nversion=1\nCID=12345678\nparentCID=ffffffff\ncreateType=\"monolithicFlat\"\nRW 4 FLAT \"/etc/passwd\" 0\n"),
    ("vmdk-flat-dots", "a flat image whose part is outside the folder", refused("names with folders in them are not followed"),
     b"# Disk DescriptorFile\nversion=1\nCID=12345678\nparentCID=ffffffff\ncreateType=\"monolithicFlat\"\nRW 4 FLAT \"../../../etc/passwd\" 0\n"),
    ("vmdk-flat-itself", "a flat image that is its own part", refused("wanted sectors that lie in the file, which has 119 bytes"),
     b"# Disk DescriptorFile\nversion=1\nCID=12345678\nparentCID=ffffffff\ncreateType=\"monolithicFlat\"\nRW 2048 FLAT \"disk.vmdk\" 0\n"),
    ("vmdk-flat-long", "a flat image longer than its part", refused("wanted sectors that lie in the file, which has 1048576 bytes"),
     b"# Disk DescriptorFile\nversion=1\nCID=12345678\nparentCID=ffffffff\ncreateType=\"monolithicFlat\"\nRW 2049 FLAT \"part.vmdk\" 0\n"),
    ("vmdk-flat-offset", "a flat image at an offset of 2^63 sectors", refused("wanted sectors that lie in the file, which has 1048576 bytes"),
     b"# Disk DescriptorFile\nversion=1\nCID=12345678\nparentCID=ffffffff\ncreateType=\"monolithicFlat\"\nRW 2048 FLAT \"part.vmdk\" 9223372036854775808\n"),
    ("vmdk-flat-sum", "parts that together have 2^64 sectors", refused("size of all extents is 2^64 sectors or more"),
     b"# Disk DescriptorFile\nversion=1\nCID=12345678\nparentCID=ffffffff\ncreateType=\"monolithicFlat\"\nRW 18446744073709551615 ZERO\nRW 2 ZERO\n"),
    ("vmdk-flat-control", "a part whose name clears the screen", refused(r"\u{1b}[2J"),
     b"# Disk DescriptorFile\nversion=1\nCID=12345678\nparentCID=ffffffff\ncreateType=\"monolithicFlat\"\nRW 2048 FLAT \"\x1b[2J.vmdk\" 0\n"),
    ("vmdk-device", "a physical drive of the host", refused("createType is `fullDevice`"),
     b"# Disk DescriptorFile\nversion=1\nCID=12345678\nparentCID=ffffffff\ncreateType=\"fullDevice\"\nRW 2048 FLAT \"/dev/sda\" 0\n"),
    ("vmdk-descriptor-empty", "a descriptor without an extent", refused("extent description is missing"),
     b"# Disk DescriptorFile\nversion=1\nCID=12345678\nparentCID=ffffffff\ncreateType=\"monolithicFlat\"\n"),
];
