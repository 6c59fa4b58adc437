//! VDI images that lie, beside a whole one.
//!
//! Source: VirtualBox, `src/VBox/Storage/VDICore.h`.

use super::bytes::Bytes;
use super::{Hostile, Want, accepted, convert, refused};

type Row = (&'static str, &'static str, Want, fn(&mut Bytes));

const BLOCK: usize = 1 << 20;
const MAP: usize = 512;
const DATA: usize = 4096;

pub(super) fn all() -> impl Iterator<Item = Hostile> {
    ROWS.iter().map(|(name, what, want, spoil)| {
        let mut image = whole();
        spoil(&mut image);
        convert(name, what, *want, vec![("disk.vdi", image)])
    })
}

/// A disk of 4 MiB whose first block is stored; version 1.1, dynamic.
fn whole() -> Bytes {
    let mut image = Bytes::zeros(DATA + BLOCK);
    image.put(0, b"<<< Oracle VM VirtualBox Disk Image >>>\n");
    image.le32(64, 0xbeda_107f);
    image.le32(68, 0x0001_0001);
    image.le32(72, 400);
    image.le32(76, 1);
    image.le32(340, MAP as u32);
    image.le32(344, DATA as u32);
    image.le32(360, 512);
    image.le64(368, 4 << 20);
    image.le32(376, BLOCK as u32);
    image.le32(384, 4);
    image.le32(388, 1);
    image.put(392, &[0x11; 16]);
    image.le32(MAP, 0);
    (1..4).for_each(|block| image.le32(MAP + 4 * block, u32::MAX));
    image.put(DATA, &[0x5a; BLOCK]);
    image
}

const ROWS: &[Row] = &[
    ("vdi-whole", "nothing is wrong: the image that the others were made of", accepted(), |_| ()),
    ("vdi-cut-header", "ends in the header", refused("header is cut off after 380 bytes"), |i| i.cut(380)),
    ("vdi-cut-map", "ends before its map", refused("offBlocks is 512"), |i| i.cut(512)),
    ("vdi-cut-data", "ends before its data", refused("block map entry is 0"), |i| i.cut(DATA)),
    ("vdi-version", "version 9", refused("version is 9.0: only version 1.1 is read"), |i| {
        i.le32(68, 9 << 16)
    }),
    ("vdi-type", "a type that nobody knows", refused("u32Type is 77"), |i| i.le32(76, 77)),
    (
        "vdi-difference",
        "a difference without its parent",
        refused("u32Type is 4 (differencing): it is a difference"),
        |i| {
            i.le32(76, 4);
            i.put(424, &[0x22; 16]);
        },
    ),
    ("vdi-size-2-63", "a disk of 2^63 bytes", refused("vdi: the disk has 9223372036854775808 bytes"), |i| {
        i.le64(368, 1 << 63)
    }),
    ("vdi-block-0", "blocks of 0 bytes", refused("cbBlock is 0"), |i| i.le32(376, 0)),
    ("vdi-block-odd", "blocks of 12345 bytes", refused("cbBlock is 12345"), |i| i.le32(376, 12345)),
    (
        "vdi-blocks",
        "2^32 - 1 blocks",
        refused("cBlocks is 4294967295: images of more than 4194304 blocks are not read"),
        |i| i.le32(384, u32::MAX),
    ),
    ("vdi-blocks-few", "fewer blocks than the disk has", refused("cBlocks is 3"), |i| i.le32(384, 3)),
    ("vdi-map-outside", "a map outside the file", refused("offBlocks is 4294966784"), |i| {
        i.le32(340, u32::MAX - 511)
    }),
    ("vdi-map-on-header", "a map over the header", refused("offBlocks is 0"), |i| i.le32(340, 0)),
    ("vdi-data-on-map", "data over the map", refused("offData is 512"), |i| i.le32(344, 512)),
    ("vdi-data-outside", "a block outside the file", refused("block map entry is 77"), |i| i.le32(MAP, 77)),
    (
        "vdi-data-huge",
        "a block whose place does not fit 64 bits",
        refused("block map entry is 4294967293"),
        |i| i.le32(MAP, u32::MAX - 2),
    ),
    ("vdi-data-twice", "one block for two places", refused("block map entry is 0"), |i| {
        i.le32(MAP + 4, 0);
        i.le32(388, 2);
    }),
];
