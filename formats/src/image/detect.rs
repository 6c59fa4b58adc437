//! What kind of image a file is, by its magic.
//!
//! The rule, in order; the first that holds decides:
//! 1. A magic of a format that is read here: `QFI\xfb` (qcow2) or `KDMV` (VMDK) at byte 0.
//! 2. A magic of another image format, of a VMDK in several files, or of an archive or compressed
//!    file: refused, for it would otherwise be taken for a raw disk full of noise.
//! 3. Anything else is raw, the empty file too.
//!
//! A raw disk that starts with such a magic must be named raw by the caller. Of all magics only a VHD's
//! footer is looked for at the end of the file, since a fixed VHD has nothing else.

use std::fmt;

use super::{Refusal, Source, qcow2, vmdk};

/// A format of disk images that is read here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Format {
    /// The disk's bytes, one after the other.
    Raw,
    /// QEMU's copy-on-write format, version 2 or 3.
    Qcow2,
    /// VMware's, as a single sparse file: streamOptimized or monolithicSparse.
    Vmdk,
}

impl Format {
    /// Every one of them.
    pub const ALL: &[Format] = &[Format::Raw, Format::Qcow2, Format::Vmdk];

    /// The name that messages use, which is also QEMU's.
    pub const fn name(self) -> &'static str {
        match self {
            Format::Raw => "raw",
            Format::Qcow2 => "qcow2",
            Format::Vmdk => "vmdk",
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Says what kind of disk image a file is, from its first and last 512 bytes.
///
/// # Errors
///
/// - [`Refusal::OtherFormat`]: known, and not readable here.
/// - [`Refusal::Io`].
pub fn detect(source: &Source) -> Result<Format, Refusal> {
    let size_bytes = source.size_bytes();
    let mut first = [0; SECTOR];
    let first = &mut first[..size_bytes.min(SECTOR as u64) as usize];
    let mut last = [0; SECTOR];
    let last = &mut last[..first.len()];
    let failed = |source| Refusal::Io { what: "the file's first and last sector".to_owned(), source };
    source.read_exact_at(first, 0).map_err(failed)?;
    source.read_exact_at(last, size_bytes - last.len() as u64).map_err(failed)?;
    from_sectors(first, last)
}

const SECTOR: usize = 512;

fn from_sectors(first: &[u8], last: &[u8]) -> Result<Format, Refusal> {
    if first.starts_with(qcow2::MAGIC) {
        return Ok(Format::Qcow2);
    }
    if first.starts_with(vmdk::MAGIC) {
        return Ok(Format::Vmdk);
    }
    let known =
        |&&(at, magic, ..): &&(usize, &[u8], _, _)| first.get(at..).is_some_and(|b| b.starts_with(magic));
    if let Some(&(_, _, what, advice)) = OTHER_MAGICS.iter().find(known) {
        return Err(Refusal::OtherFormat { what, advice });
    }
    if last.starts_with(VHD_COOKIE) {
        return Err(Refusal::OtherFormat { what: "a fixed VHD image", advice: CONVERT });
    }
    Ok(Format::Raw)
}

const VHD_COOKIE: &[u8] = b"conectix";
const CONVERT: &str = "it cannot be read yet: convert it with `qemu-img convert -O qcow2`";
const UNPACK: &str = "unpack it and name the disk inside";

/// Byte offset, magic, what has it, what to do.
const OTHER_MAGICS: &[(usize, &[u8], &str, &str)] = &[
    (0, VHD_COOKIE, "a VHD image", CONVERT),
    (0, b"vhdxfile", "a VHDX image", CONVERT),
    (64, b"\x7f\x10\xda\xbe", "a VDI image", CONVERT),
    (0, b"QED\0", "a QED image", CONVERT),
    (0, b"WithoutFreeSpace", "a Parallels image", CONVERT),
    (0, b"WithouFreSpacExt", "a Parallels image", CONVERT),
    (0, b"COWD", "a VMDK extent of the old ESX kind", CONVERT),
    (0, b"# Disk DescriptorFile", "a VMDK descriptor whose data lies in other files", vmdk::MAKE_ONE_FILE),
    (257, b"ustar", "a tar archive, perhaps an OVA", UNPACK),
    (0, b"PK\x03\x04", "a zip archive", UNPACK),
    (0, b"\x1f\x8b\x08", "a file compressed with gzip", UNPACK),
    (0, b"\xfd7zXZ\0", "a file compressed with xz", UNPACK),
    (0, b"\x28\xb5\x2f\xfd", "a file compressed with zstd", UNPACK),
    (0, b"BZh", "a file compressed with bzip2", UNPACK),
];
