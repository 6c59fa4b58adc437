//! Raw disks, and what is no disk image at all.

use super::bytes::Bytes;
use super::{Hostile, Want, accepted, convert, refused};

type Row = (&'static str, &'static str, Want, fn() -> Bytes);

pub(super) fn all() -> impl Iterator<Item = Hostile> {
    let files =
        ROWS.iter().map(|(name, what, want, make)| convert(name, what, *want, vec![("disk.img", make())]));
    let named_raw = convert(
        "raw-with-magic",
        "a raw disk that begins like a qcow2 image with a backing file, and is named raw",
        accepted(),
        vec![("disk.img", super::qcow2::whole())],
    );
    files.chain([named_raw.with(&["--format", "raw"])])
}

fn start(magic: &[u8]) -> Bytes {
    let mut file = Bytes::new(magic);
    file.extend(1 << 20);
    file
}

const ROWS: &[Row] = &[
    (
        "raw-over-limit",
        "a raw disk of 2 TiB, all a hole",
        refused("raw: the disk has 2199023255552 bytes"),
        || {
            let mut file = Bytes::default();
            file.extend(2 << 40);
            file
        },
    ),
    ("raw-empty", "an empty file: a disk of 0 bytes", accepted(), Bytes::default),
    ("other-tar", "a tar archive", refused("this is a tar archive"), || {
        let mut file = Bytes::zeros(1024);
        file.put(257, b"ustar\x0000");
        file
    }),
    ("other-gzip", "a file compressed with gzip", refused("this is a file compressed with gzip"), || {
        start(b"\x1f\x8b\x08")
    }),
    ("other-xz", "a file compressed with xz", refused("this is a file compressed with xz"), || {
        start(b"\xfd7zXZ\0")
    }),
    ("other-zstd", "a file compressed with zstd", refused("this is a file compressed with zstd"), || {
        start(b"\x28\xb5\x2f\xfd")
    }),
    ("other-bzip2", "a file compressed with bzip2", refused("this is a file compressed with bzip2"), || {
        start(b"BZh9")
    }),
    ("other-zip", "a zip archive", refused("this is a zip archive"), || start(b"PK\x03\x04")),
    ("other-qed", "a QED image", refused("this is a QED image"), || start(b"QED\0")),
    ("other-parallels", "a Parallels image", refused("this is a Parallels image"), || {
        start(b"WithoutFreeSpace")
    }),
    (
        "other-cowd",
        "an image of the old ESX kind",
        refused("this is a VMDK extent of the old ESX kind"),
        || start(b"COWD"),
    ),
];
