//! qcow2 images that lie, beside a whole one.
//!
//! Source: QEMU, `docs/interop/qcow2.txt`.

use super::bytes::Bytes;
use super::{Hostile, Want, accepted, convert, refused};

/// A row: name, what is wrong, what hull must say, and what is done to the whole image.
type Row = (&'static str, &'static str, Want, fn(&mut Bytes));

const CLUSTER: usize = 65536;
const REFCOUNT_TABLE: usize = CLUSTER;
const L1: usize = 3 * CLUSTER;
const L2: usize = 4 * CLUSTER;
const DATA: usize = 5 * CLUSTER;
const END: usize = 6 * CLUSTER;
const COPIED: u64 = 1 << 63;
const COMPRESSED: u64 = 1 << 62;

pub(super) fn all() -> impl Iterator<Item = Hostile> {
    ROWS.iter().map(|(name, what, want, spoil)| {
        let mut image = whole();
        spoil(&mut image);
        convert(name, what, *want, vec![("disk.qcow2", image)])
    })
}

/// A disk of 1 MiB whose first cluster is stored; version 3, clusters of 64 KiB.
pub(super) fn whole() -> Bytes {
    let mut image = Bytes::zeros(END);
    image.put(0, b"QFI\xfb");
    image.be32(4, 3);
    image.be32(20, 16);
    image.be64(24, 1 << 20);
    image.be32(36, 1);
    image.be64(40, L1 as u64);
    image.be64(48, REFCOUNT_TABLE as u64);
    image.be32(56, 1);
    image.be32(96, 4);
    image.be32(100, 104);
    image.be64(REFCOUNT_TABLE, 2 * CLUSTER as u64);
    (0..6).for_each(|cluster| image.be16(2 * CLUSTER + 2 * cluster, 1));
    image.be64(L1, L2 as u64 | COPIED);
    image.be64(L2, DATA as u64 | COPIED);
    image.put(DATA, &[0x5a; CLUSTER]);
    image
}

/// A header extension right after the header.
fn extension(image: &mut Bytes, kind: u32, content: &[u8]) {
    image.be32(104, kind);
    image.be32(108, content.len() as u32);
    image.put(112, content);
}

pub(super) fn backing(image: &mut Bytes, name: &[u8]) {
    image.be64(8, 1024);
    image.be32(16, name.len() as u32);
    image.put(1024, name);
}

/// An entry for a compressed cluster in `sectors` sectors from `at` on.
fn compressed(at: usize, sectors: u64) -> u64 {
    COMPRESSED | (sectors - 1) << 54 | at as u64
}

const ROWS: &[Row] = &[
    ("qcow2-whole", "nothing is wrong: the image that the others were made of", accepted(), |_| ()),
    ("qcow2-cut-magic", "four bytes, the magic", refused("header is cut off after 4 bytes"), |i| i.cut(4)),
    ("qcow2-cut-header", "ends in the header", refused("header is cut off after 60 bytes"), |i| i.cut(60)),
    ("qcow2-cut-l2", "ends before its L2 table", refused("L1 entry is 0x8000000000040000"), |i| i.cut(L2)),
    (
        "qcow2-cut-data",
        "ends before its data",
        refused("host cluster offset is 0x50000, 65536 bytes of it in use"),
        |i| i.cut(DATA),
    ),
    ("qcow2-version-1", "version 1", refused("version is 1: only versions 2 and 3 are read"), |i| {
        i.be32(4, 1)
    }),
    ("qcow2-version-4", "version 4", refused("version is 4: only versions 2 and 3 are read"), |i| {
        i.be32(4, 4)
    }),
    (
        "qcow2-size-2-63",
        "a disk of 2^63 bytes",
        refused("qcow2: the disk has 9223372036854775808 bytes"),
        |i| i.be64(24, 1 << 63),
    ),
    ("qcow2-size-no-sector", "a disk of 1000 bytes", refused("size is 1000"), |i| i.be64(24, 1000)),
    (
        "qcow2-size-over-limit",
        "a disk over the limit, all absent",
        refused("qcow2: the disk has 2199023255552 bytes"),
        |i| {
            i.be64(24, 1 << 41);
            i.be32(36, 4096);
        },
    ),
    ("qcow2-cluster-bits-8", "clusters of 256 bytes", refused("cluster_bits is 8"), |i| i.be32(20, 8)),
    ("qcow2-cluster-bits-63", "clusters of 2^63 bytes", refused("cluster_bits is 63"), |i| i.be32(20, 63)),
    ("qcow2-l1-size", "an L1 table of 2^32 - 1 entries", refused("l1_size is 4294967295"), |i| {
        i.be32(36, u32::MAX)
    }),
    ("qcow2-l1-short", "an L1 table too short for the disk", refused("l1_size is 0"), |i| i.be32(36, 0)),
    ("qcow2-l1-outside", "an L1 table outside the file", refused("l1_table_offset is 1099511627776"), |i| {
        i.be64(40, 1 << 40)
    }),
    ("qcow2-l1-unaligned", "an L1 table within a cluster", refused("l1_table_offset is 196616"), |i| {
        i.be64(40, L1 as u64 + 8)
    }),
    ("qcow2-l1-on-header", "an L1 table over the header", refused("l1_table_offset is 0"), |i| i.be64(40, 0)),
    ("qcow2-l2-outside", "an L2 table outside the file", refused("L1 entry is 0x8000010000000000"), |i| {
        i.be64(L1, 1 << 40 | COPIED)
    }),
    ("qcow2-l2-unaligned", "an L2 table within a cluster", refused("L1 entry is 0x8000000000040200"), |i| {
        i.be64(L1, (L2 as u64 + 512) | COPIED)
    }),
    ("qcow2-l2-is-l1", "the L1 table as L2 table: a loop", refused("L1 entry is 0x8000000000030000"), |i| {
        i.be64(L1, L1 as u64 | COPIED)
    }),
    (
        "qcow2-data-outside",
        "a data cluster outside the file",
        refused("host cluster offset is 0x4000000000000, 65536 bytes of it in use"),
        |i| i.be64(L2, 1 << 50 | COPIED),
    ),
    (
        "qcow2-data-unaligned",
        "a data cluster within a cluster",
        refused("host cluster offset is 0x50200"),
        |i| i.be64(L2, (DATA as u64 + 512) | COPIED),
    ),
    ("qcow2-data-nowhere", "an L2 entry with a flag and no place, which is absent", accepted(), |i| {
        i.be64(L2, COPIED)
    }),
    ("qcow2-data-is-l1", "the L1 table as data", refused("host cluster offset is 0x30000"), |i| {
        i.be64(L2, L1 as u64 | COPIED)
    }),
    ("qcow2-data-is-l2", "its own L2 table as data", refused("host cluster offset is 0x40000"), |i| {
        i.be64(L2, L2 as u64 | COPIED)
    }),
    (
        "qcow2-data-is-refcounts",
        "the refcount table as data",
        refused("host cluster offset is 0x10000"),
        |i| i.be64(L2, REFCOUNT_TABLE as u64 | COPIED),
    ),
    ("qcow2-data-twice", "one data cluster for all of a disk of 256 MiB", accepted(), |i| {
        i.be64(24, 256 << 20);
        (0..4096).for_each(|entry| i.be64(L2 + 8 * entry, DATA as u64));
    }),
    ("qcow2-reserved-bits", "reserved bits in an L2 entry", refused("L2 entry is 0x8000000000050004"), |i| {
        i.be64(L2, DATA as u64 | COPIED | 2 << 1)
    }),
    (
        "qcow2-compressed-outside",
        "a compressed cluster outside the file",
        refused("compressed cluster offset is 0x10000000000"),
        |i| i.be64(L2, compressed(1 << 40, 4)),
    ),
    (
        "qcow2-compressed-garbage",
        "a compressed cluster of noise",
        refused("compressed cluster is not decodable"),
        |i| {
            i.put(DATA, &[0xff; 4096]);
            i.be64(L2, compressed(DATA, 8));
        },
    ),
    (
        "qcow2-compressed-short",
        "a compressed cluster that ends early",
        refused("compressed cluster is 4096 bytes"),
        |i| {
            i.put(DATA, &super::deflate(1, 4096));
            i.be64(L2, compressed(DATA, 1));
        },
    ),
    ("qcow2-compressed-bomb", "a compressed cluster of 64 MiB", accepted(), |i| {
        i.put(DATA, &super::deflate(1, 64 << 20));
        i.be64(L2, compressed(DATA, 128));
    }),
    (
        "qcow2-zstd-window",
        "a zstd cluster that asks for a window of 2 GiB",
        refused("compressed cluster is not decodable"),
        |i| {
            i.be64(72, 1 << 3);
            i.be32(100, 112);
            i.put(104, &[1]);
            // Frame header: no single segment, window descriptor for 2^31; then an empty last block.
            i.put(DATA, b"\x28\xb5\x2f\xfd\x00\xa8\x01\x00\x00");
            i.be64(L2, compressed(DATA, 1));
        },
    ),
    (
        "qcow2-compression-type",
        "compression of type 255",
        refused("compression_type is 255: only zlib and zstd are read"),
        |i| {
            i.be64(72, 1 << 3);
            i.be32(100, 112);
            i.put(104, &[255]);
        },
    ),
    (
        "qcow2-incompatible",
        "an incompatible feature that nobody knows",
        refused("incompatible_features is 0x8000000000000000"),
        |i| i.be64(72, 1 << 63),
    ),
    ("qcow2-corrupt-bit", "marked as corrupt", refused("the image is marked corrupt"), |i| i.be64(72, 2)),
    (
        "qcow2-aes",
        "encrypted with AES",
        refused("crypt_method is 1 (AES): encrypted images are not read: have it"),
        |i| i.be32(32, 1),
    ),
    (
        "qcow2-luks",
        "encrypted with LUKS",
        refused("crypt_method is 2 (LUKS): encrypted images are not read: have it"),
        |i| i.be32(32, 2),
    ),
    (
        "qcow2-backing-file",
        "a backing file, /etc/passwd",
        refused("backing_file_offset is 1024 (`/etc/passwd`): it is a"),
        |i| backing(i, b"/etc/passwd"),
    ),
    ("qcow2-backing-json", "a backing file in QEMU's json: language", refused("`json:{"), |i| {
        backing(i, br#"json:{"driver":"file","filename":"/etc/shadow"}"#)
    }),
    (
        "qcow2-backing-nbd",
        "a backing file in the network",
        refused("backing_file_offset is 1024 (`nbd://192.0.2.1/x`): it is a"),
        |i| backing(i, b"nbd://192.0.2.1/x"),
    ),
    (
        "qcow2-backing-control",
        "a backing file with a name that clears the screen",
        refused(r"\x1b[2J\x07\n"),
        |i| backing(i, b"\x1b[2J\x07\n"),
    ),
    (
        "qcow2-backing-itself",
        "itself as backing file",
        refused("backing_file_offset is 1024 (`disk.qcow2`): it is a difference"),
        |i| backing(i, b"disk.qcow2"),
    ),
    (
        "qcow2-backing-length",
        "a backing file's name of 4 GiB",
        refused("backing_file_size is 4294967295"),
        |i| {
            i.be64(8, 1024);
            i.be32(16, u32::MAX);
        },
    ),
    (
        "qcow2-data-file",
        "an external data file, /etc/passwd",
        refused("images whose data lies in another file are not read"),
        |i| {
            i.be64(72, 4);
            extension(i, 0x4441_5441, b"/etc/passwd\0\0\0\0\0");
        },
    ),
    (
        "qcow2-extended-l2-small",
        "extended L2 entries with clusters of 64 KiB that claim to be of 512",
        refused("cluster_bits is 9"),
        |i| {
            i.be64(72, 1 << 4);
            i.be32(20, 9);
        },
    ),
    (
        "qcow2-extension-length",
        "a header extension of 4 GiB",
        refused("header extension length is 4294967295"),
        |i| i.put(104, b"\x01\x02\x03\x04\xff\xff\xff\xff"),
    ),
    ("qcow2-header-length", "a header of 4 GiB", refused("header_length is 4294967295"), |i| {
        i.be32(100, u32::MAX)
    }),
    ("qcow2-header-short", "a header of version 3 with 72 bytes", refused("header_length is 72"), |i| {
        i.be32(100, 72)
    }),
    ("qcow2-refcount-order", "refcounts of 2^64 bits", refused("refcount_order is 64"), |i| i.be32(96, 64)),
    (
        "qcow2-refcount-outside",
        "a refcount table outside the file",
        refused("refcount_table_offset is 1099511627776"),
        |i| i.be64(48, 1 << 40),
    ),
    (
        "qcow2-snapshots",
        "2^32 - 1 internal snapshots outside the file",
        refused("nb_snapshots is 4294967295"),
        |i| {
            i.be32(60, u32::MAX);
            i.be64(64, 1 << 50);
        },
    ),
];
