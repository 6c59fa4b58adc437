//! VHDX images that lie, beside a whole one.
//!
//! Source: Microsoft, MS-VHDX, "Virtual Hard Disk v2 (VHDX) File Format", 7.0.

use super::bytes::Bytes;
use super::{Hostile, Want, accepted, convert, refused};

type Row = (&'static str, &'static str, Want, fn(&mut Bytes));

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;
const HEADERS: [usize; 2] = [64 * KIB, 128 * KIB];
const REGIONS: [usize; 2] = [192 * KIB, 256 * KIB];
const LOG: usize = MIB;
const METADATA: usize = 2 * MIB;
const BAT: usize = 3 * MIB;
const DATA: usize = 4 * MIB;
const END: usize = 5 * MIB;
/// Where the items of the metadata lie in their region.
const ITEMS: usize = 64 * KIB;

const REGION_BAT: &str = "2DC27766F62342009D64115E9BFD4A08";
const REGION_METADATA: &str = "8B7CA20647904B9AB8FE575F050F886E";
const FILE_PARAMETERS: &str = "CAA16737FA364D43B3B633F0AA44E76B";
const DISK_SIZE: &str = "2FA54224CD1B4876B2115DBED83BF4B8";
const DISK_ID: &str = "BECA12ABB2E6452393EFC309E000C746";
const LOGICAL_SECTOR: &str = "8141BF1DA96F4709BA47F233A8FAAB5F";
const PHYSICAL_SECTOR: &str = "CDA348C7445D44719CC9E9885251C556";
const UNKNOWN: &str = "00112233445566778899AABBCCDDEEFF";

pub(super) fn all() -> impl Iterator<Item = Hostile> {
    ROWS.iter().map(|(name, what, want, spoil)| {
        let mut image = whole();
        spoil(&mut image);
        convert(name, what, *want, vec![("disk.vhdx", image)])
    })
}

/// A disk of 4 MiB whose first block of 1 MiB is stored; dynamic.
fn whole() -> Bytes {
    let mut image = Bytes::zeros(END);
    image.put(0, b"vhdxfile");
    for (number, at) in HEADERS.into_iter().enumerate() {
        image.put(at, b"head");
        image.le64(at + 8, 1 + number as u64);
        image.put(at + 16, &[0x55; 32]);
        image.le16(at + 66, 1);
        image.le32(at + 68, MIB as u32);
        image.le64(at + 72, LOG as u64);
    }
    for at in REGIONS {
        image.put(at, b"regi");
        image.le32(at + 8, 2);
        region(&mut image, at + 16, REGION_BAT, BAT);
        region(&mut image, at + 48, REGION_METADATA, METADATA);
    }
    image.put(METADATA, b"metadata");
    image.le16(METADATA + 10, 5);
    let items = [
        (FILE_PARAMETERS, 8, 4),
        (DISK_SIZE, 8, 6),
        (DISK_ID, 16, 6),
        (LOGICAL_SECTOR, 4, 6),
        (PHYSICAL_SECTOR, 4, 6),
    ];
    for (number, (id, len, flags)) in items.into_iter().enumerate() {
        item(&mut image, number, id, len, flags);
    }
    image.le32(value(0), MIB as u32);
    image.le64(value(1), 4 * MIB as u64);
    image.put(value(2), &[0x66; 16]);
    image.le32(value(3), 512);
    image.le32(value(4), 4096);
    image.le64(BAT, DATA as u64 | 6);
    image.put(DATA, &[0x5a; MIB]);
    seal(&mut image);
    image
}

fn region(image: &mut Bytes, at: usize, id: &str, offset: usize) {
    image.put(at, &guid(id));
    image.le64(at + 16, offset as u64);
    image.le32(at + 24, MIB as u32);
    image.le32(at + 28, 1);
}

fn item(image: &mut Bytes, number: usize, id: &str, len: u32, flags: u32) {
    let at = METADATA + 32 + 32 * number;
    image.put(at, &guid(id));
    image.le32(at + 16, (value(number) - METADATA) as u32);
    image.le32(at + 20, len);
    image.le32(at + 24, flags);
}

/// Where the value of an item lies.
fn value(number: usize) -> usize {
    METADATA + ITEMS + 64 * number
}

/// A GUID from its digits: the first three fields are little-endian.
fn guid(digits: &str) -> [u8; 16] {
    let value = u128::from_str_radix(digits, 16).expect("32 hex digits");
    let mut guid = value.to_be_bytes();
    guid[..4].reverse();
    guid[4..6].reverse();
    guid[6..8].reverse();
    guid
}

/// Sets the checksums of the headers and region tables.
fn seal(image: &mut Bytes) {
    for (at, len) in
        [(HEADERS, 4 * KIB), (REGIONS, 64 * KIB)].into_iter().flat_map(|(all, len)| all.map(|at| (at, len)))
    {
        image.le32(at + 4, 0);
        let sum = crc32c(image.get(at, len));
        image.le32(at + 4, sum);
    }
}

/// Castagnoli's, bit by bit.
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0x82f6_3b78 & (crc & 1).wrapping_neg()))
    })
}

/// The same change in both headers, sealed.
fn headers(image: &mut Bytes, change: fn(&mut Bytes, usize)) {
    HEADERS.into_iter().for_each(|at| change(image, at));
    seal(image);
}

/// The same change in both region tables, sealed.
fn regions(image: &mut Bytes, change: fn(&mut Bytes, usize)) {
    REGIONS.into_iter().for_each(|at| change(image, at));
    seal(image);
}

const ROWS: &[Row] = &[
    ("vhdx-whole", "nothing is wrong: the image that the others were made of", accepted(), |_| ()),
    (
        "vhdx-cut-headers",
        "ends before its headers",
        refused("header section is cut off after 65536 bytes"),
        |i| i.cut(64 * KIB),
    ),
    (
        "vhdx-cut-regions",
        "ends before its region tables",
        refused("header section is cut off after 196608 bytes"),
        |i| i.cut(192 * KIB),
    ),
    ("vhdx-cut-metadata", "ends before its metadata", refused("FileOffset of a region is 3145728"), |i| {
        i.cut(METADATA)
    }),
    ("vhdx-cut-data", "ends before its data", refused("BAT entry is 0x400006"), |i| i.cut(DATA)),
    (
        "vhdx-headers-damaged",
        "both headers with wrong checksums",
        refused("header is damaged: its checksum is 0x14ceaa99, and stored is"),
        |i| {
            HEADERS.into_iter().for_each(|at| i.le32(at + 4, 77));
        },
    ),
    (
        "vhdx-regions-damaged",
        "both region tables with wrong checksums",
        refused("region table is damaged: its checksum is 0xc66b8cae, and stored is"),
        |i| {
            REGIONS.into_iter().for_each(|at| i.le32(at + 4, 77));
        },
    ),
    ("vhdx-version", "version 9", refused("Version is 9: only version 1 is read"), |i| {
        headers(i, |i, at| i.le16(at + 66, 9))
    }),
    (
        "vhdx-log-garbage",
        "a log that was in use, of noise",
        refused("log is without a valid sequence of entries"),
        |i| {
            i.put(LOG, &[0xa5; MIB]);
            headers(i, |i, at| i.put(at + 48, &[0x77; 16]));
        },
    ),
    (
        "vhdx-log-outside",
        "a log that was in use, outside the file",
        refused("LogOffset is 1125899906842624"),
        |i| {
            headers(i, |i, at| {
                i.put(at + 48, &[0x77; 16]);
                i.le64(at + 72, 1 << 50);
            })
        },
    ),
    ("vhdx-log-length", "a log that was in use, of 4 GiB", refused("LogOffset is 1048576"), |i| {
        headers(i, |i, at| {
            i.put(at + 48, &[0x77; 16]);
            i.le32(at + 68, 0xfff0_0000);
        })
    }),
    ("vhdx-regions-many", "2^32 - 1 regions", refused("EntryCount is 4294967295"), |i| {
        regions(i, |i, at| i.le32(at + 8, u32::MAX))
    }),
    (
        "vhdx-region-unknown",
        "a region that is required and that nobody knows",
        refused("region is {00112233-4455-6677-8899-aabbccddeeff}: the file needs a"),
        |i| {
            regions(i, |i, at| {
                i.le32(at + 8, 3);
                region(i, at + 80, UNKNOWN, DATA);
            })
        },
    ),
    (
        "vhdx-region-outside",
        "a BAT outside the file",
        refused("FileOffset of a region is 1125899906842624"),
        |i| regions(i, |i, at| i.le64(at + 32, 1 << 50)),
    ),
    (
        "vhdx-region-overlap",
        "BAT and metadata in one place",
        refused("FileOffset of a region is 2097152"),
        |i| regions(i, |i, at| i.le64(at + 32, METADATA as u64)),
    ),
    ("vhdx-region-on-header", "a BAT over the headers", refused("FileOffset of a region is 0"), |i| {
        regions(i, |i, at| i.le64(at + 32, 0))
    }),
    ("vhdx-no-metadata", "no metadata", refused("region table is incomplete"), |i| {
        regions(i, |i, at| i.le32(at + 8, 1))
    }),
    ("vhdx-items-many", "65535 items of metadata", refused("EntryCount of the metadata is 65535"), |i| {
        i.le16(METADATA + 10, u16::MAX)
    }),
    (
        "vhdx-item-unknown",
        "an item that is required and that nobody knows",
        refused("metadata item is {00112233-4455-6677-8899-aabbccddeeff}: the file"),
        |i| {
            i.le16(METADATA + 10, 6);
            item(i, 5, UNKNOWN, 8, 4);
        },
    ),
    (
        "vhdx-item-outside",
        "an item outside its region",
        refused("Offset of a metadata item is 4294967288"),
        |i| i.le32(METADATA + 32 + 16, u32::MAX - 7),
    ),
    (
        "vhdx-item-twice",
        "the size twice",
        refused("metadata item is {2fa54224-cd1b-4876-b211-5dbed83bf4b8}"),
        |i| {
            i.le16(METADATA + 10, 6);
            item(i, 5, DISK_SIZE, 8, 6);
            i.le64(value(5), 8 << 20);
        },
    ),
    ("vhdx-no-size", "no size", refused("metadata table is without VirtualDiskSize"), |i| {
        i.put(METADATA + 64, &[0; 32])
    }),
    (
        "vhdx-size-2-63",
        "a disk of 2^63 bytes",
        refused("vhdx: the disk has 9223372036854775808 bytes"),
        |i| i.le64(value(1), 1 << 63),
    ),
    ("vhdx-size-no-sector", "a disk of 1000 bytes", refused("VirtualDiskSize is 1000"), |i| {
        i.le64(value(1), 1000)
    }),
    ("vhdx-block-0", "blocks of 0 bytes", refused("BlockSize is 0"), |i| i.le32(value(0), 0)),
    ("vhdx-block-odd", "blocks of 3 MiB", refused("BlockSize is 3145728"), |i| i.le32(value(0), 3 << 20)),
    ("vhdx-sector", "sectors of 333 bytes", refused("LogicalSectorSize is 333"), |i| i.le32(value(3), 333)),
    (
        "vhdx-bat-short",
        "a BAT too short for a disk of 512 GiB",
        refused("length of the BAT region is 1048576"),
        |i| i.le64(value(1), 512 << 30),
    ),
    ("vhdx-data-outside", "a block outside the file", refused("BAT entry is 0x4000000000006"), |i| {
        i.le64(BAT, 1 << 50 | 6)
    }),
    ("vhdx-data-on-bat", "a block over the BAT", refused("BAT entry is 0x300006"), |i| {
        i.le64(BAT, BAT as u64 | 6)
    }),
    ("vhdx-data-twice", "one block for two places, read as both", accepted(), |i| {
        i.le64(BAT + 8, DATA as u64 | 6)
    }),
    ("vhdx-state", "a block in a state that nobody knows", refused("BAT entry is 0x400004, state 4"), |i| {
        i.le64(BAT, DATA as u64 | 4)
    }),
    (
        "vhdx-partly",
        "a block that is partly in a parent that it has not",
        refused("BAT entry is 0x400007, partially present"),
        |i| i.le64(BAT, DATA as u64 | 7),
    ),
    (
        "vhdx-difference",
        "a difference without its parent",
        refused("metadata table is without parent locator"),
        |i| i.le32(value(0) + 4, 2),
    ),
];
