//! VHD images that lie, beside whole ones.
//!
//! Source: Microsoft, "Virtual Hard Disk Image Format Specification", 1.0.

use super::bytes::Bytes;
use super::{Hostile, Want, accepted, convert, refused};

/// `spoil` is done before the checksums are set, so that the field itself is what is wrong.
type Row = (&'static str, &'static str, Want, fn(&mut Bytes));

const HEADER: usize = 512;
const BAT: usize = HEADER + 1024;
const DATA: usize = BAT + 512;
const BLOCK: usize = 2 << 20;
const FOOTER: usize = DATA + 512 + BLOCK;

pub(super) fn all() -> impl Iterator<Item = Hostile> {
    let spoilt = |rows: &'static [Row], seal: fn(&mut Bytes)| {
        rows.iter().map(move |(name, what, want, spoil)| {
            let mut image = whole();
            spoil(&mut image);
            seal(&mut image);
            convert(name, what, *want, vec![("disk.vhd", image)])
        })
    };
    let fixed = FIXED.iter().map(|(name, what, want, spoil)| {
        let mut image = whole_fixed();
        spoil(&mut image);
        convert(name, what, *want, vec![("disk.vhd", image)])
    });
    spoilt(ROWS, seal).chain(spoilt(DAMAGED, |_| ())).chain(fixed)
}

/// The footer of a disk of `size` bytes.
fn footer(size: u64, kind: u32, header: u64) -> Bytes {
    let mut footer = Bytes::zeros(512);
    footer.put(0, b"conectix");
    footer.be32(8, 2);
    footer.be32(12, 0x0001_0000);
    footer.be64(16, header);
    footer.put(28, b"win ");
    footer.be32(32, 0x000a_0000);
    footer.put(36, b"Wi2k");
    footer.be64(40, size);
    footer.be64(48, size);
    footer.be16(56, 246);
    footer.put(58, &[4, 17]);
    footer.be32(60, kind);
    footer.put(68, &[0x33; 16]);
    checksum(&mut footer, 0, 512, 64);
    footer
}

/// A disk of 8 MiB whose first block is stored; dynamic.
fn whole() -> Bytes {
    let mut image = Bytes::zeros(FOOTER);
    image.put(0, footer(8 << 20, 3, HEADER as u64).content());
    image.put(HEADER, b"cxsparse");
    image.be64(HEADER + 8, u64::MAX);
    image.be64(HEADER + 16, BAT as u64);
    image.be32(HEADER + 24, 0x0001_0000);
    image.be32(HEADER + 28, 4);
    image.be32(HEADER + 32, BLOCK as u32);
    image.put(BAT, &[0xff; 512]);
    image.be32(BAT, (DATA / 512) as u32);
    image.put(DATA, &[0xff; 512]);
    image.put(DATA + 512, &[0x5a; BLOCK]);
    checksum(&mut image, HEADER, 1024, 36);
    let footer = footer(8 << 20, 3, HEADER as u64);
    image.put(FOOTER, footer.content());
    image
}

fn whole_fixed() -> Bytes {
    let mut image = Bytes::new(vec![0x5a; 1 << 20]);
    image.put(1 << 20, footer(1 << 20, 2, u64::MAX).content());
    image
}

/// One's complement of the sum of all bytes but the checksum's own.
fn checksum(image: &mut Bytes, start: usize, len: usize, at: usize) {
    image.be32(start + at, 0);
    let sum = image.get(start, len).iter().fold(0_u32, |sum, byte| sum.wrapping_add((*byte).into()));
    image.be32(start + at, !sum);
}

/// Sets the checksums of the header and both footers, the second one being the first one again.
fn seal(image: &mut Bytes) {
    checksum(image, HEADER, 1024, 36);
    checksum(image, 0, 512, 64);
    let footer = image.get(0, 512).to_vec();
    image.put(FOOTER, &footer);
}

const ROWS: &[Row] = &[
    ("vhd-whole", "nothing is wrong: the image that the others were made of", accepted(), |_| ()),
    ("vhd-type", "a type that nobody knows", refused("disk type is 99"), |i| i.be32(60, 99)),
    (
        "vhd-version",
        "version 9 of the footer",
        refused("file format version is 0x90000: only version 1.0"),
        |i| i.be32(12, 0x0009_0000),
    ),
    (
        "vhd-header-version",
        "version 9 of the header",
        refused("header version is 0x90000: only version 1.0, which is 0x10000, is read"),
        |i| i.be32(HEADER + 24, 0x0009_0000),
    ),
    ("vhd-header-outside", "a header outside the file", refused("data offset is 1152921504606846976"), |i| {
        i.be64(16, 1 << 60)
    }),
    ("vhd-header-is-footer", "its own footer as header: a loop", refused("data offset is 0"), |i| {
        i.be64(16, 0)
    }),
    ("vhd-size-2-63", "a disk of 2^63 bytes", refused("vhd: the disk has 9223372036854775808 bytes"), |i| {
        i.be64(48, 1 << 63)
    }),
    ("vhd-bat-outside", "a BAT outside the file", refused("table offset is 1152921504606846976"), |i| {
        i.be64(HEADER + 16, 1 << 60)
    }),
    ("vhd-bat-on-header", "a BAT over the header", refused("table offset is 512"), |i| {
        i.be64(HEADER + 16, 512)
    }),
    ("vhd-entries", "a BAT of 2^32 - 1 entries, of which the disk needs four", accepted(), |i| {
        i.be32(HEADER + 28, u32::MAX)
    }),
    ("vhd-entries-few", "a BAT too short for the disk", refused("max table entries is 3"), |i| {
        i.be32(HEADER + 28, 3)
    }),
    ("vhd-block-0", "blocks of 0 bytes", refused("block size is 0"), |i| i.be32(HEADER + 32, 0)),
    ("vhd-block-odd", "blocks of 12345 bytes", refused("block size is 12345"), |i| {
        i.be32(HEADER + 32, 12345)
    }),
    ("vhd-block-huge", "blocks of 2 GiB", refused("block size is 2147483648"), |i| {
        i.be32(HEADER + 32, 1 << 31)
    }),
    (
        "vhd-data-outside",
        "a block outside the file",
        refused("block allocation table entry is sector 2147483647"),
        |i| i.be32(BAT, 0x7fff_ffff),
    ),
    ("vhd-data-on-bat", "a block over the BAT", refused("block allocation table entry is sector 3"), |i| {
        i.be32(BAT, (BAT / 512) as u32)
    }),
    (
        "vhd-data-twice",
        "one block for two places",
        refused("block allocation table entry is sector 4"),
        |i| i.be32(BAT + 4, (DATA / 512) as u32),
    ),
    (
        "vhd-difference",
        "a difference without its parent",
        refused("disk type is 4 (differencing, from `C:\\\\secret.vhd`): it is a difference"),
        |i| {
            i.be32(60, 4);
            i.put(HEADER + 40, &[0x44; 16]);
            let name: Vec<u8> = "C:\\secret.vhd".encode_utf16().flat_map(u16::to_be_bytes).collect();
            i.put(HEADER + 64, &name);
        },
    ),
];

/// Without new checksums.
const DAMAGED: &[Row] = &[
    (
        "vhd-footer-damaged",
        "a footer and its copy with wrong checksums",
        refused("checksum is 0xfffff48a"),
        |i| {
            i.be64(40, 77);
            i.be64(FOOTER + 40, 77);
        },
    ),
    (
        "vhd-header-damaged",
        "a header with a wrong checksum",
        refused("checksum of the dynamic disk header is 0xfffff473"),
        |i| i.be32(HEADER + 40, 77),
    ),
    ("vhd-cut-header", "ends in the header", refused("data offset is 512"), |i| i.cut(HEADER + 100)),
    ("vhd-cut-bat", "ends before the BAT", refused("table offset is 1536"), |i| i.cut(BAT)),
    ("vhd-cut-data", "ends before the data", refused("block allocation table entry is sector 4"), |i| {
        i.cut(DATA)
    }),
];

const FIXED: &[Row] = &[
    (
        "vhd-fixed-short",
        "fixed, and shorter than its footer says",
        refused("current size is 1048576 bytes"),
        |i| {
            let mut short = Bytes::zeros(4096);
            short.put(4096, i.get(1 << 20, 512));
            *i = short;
        },
    ),
    (
        "vhd-fixed-size",
        "fixed, with a size of 2^64 - 512",
        refused("vhd: the disk has 18446744073709551104 bytes"),
        |i| {
            i.put(1 << 20, footer(u64::MAX - 511, 2, u64::MAX).content());
        },
    ),
];
