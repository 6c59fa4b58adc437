//! What kind of image a file is, by its magic.
//!
//! The rule, in order; the first that holds decides:
//! 1. A magic of a format that is read here: `QFI\xfb` (qcow2), `KDMV` or the line `# Disk DescriptorFile` (VMDK), `conectix`
//!    (VHD) or `vhdxfile` (VHDX) at byte 0, `\x7f\x10\xda\xbe` (VDI) at byte 64.
//! 2. A magic of another image format, or of an archive or compressed file: refused, for it would otherwise be taken
//!    for a raw disk full of noise.
//! 3. `conectix` 512 bytes before the end of the file, or 511 where its length is one less than a multiple of 512:
//!    VHD. A fixed VHD has nothing else.
//! 4. Anything else is raw, the empty file too.
//!
//! A raw disk that has such a magic must be named raw by the caller, and so must one whose guest wrote a
//! VHD's footer to the last sector.

use std::fmt;

use super::{Refusal, Source, qcow2, vdi, vhd, vhdx, vmdk};

/// A format of disk images that is read here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Format {
    /// The disk's bytes, one after the other.
    Raw,
    /// QEMU's copy-on-write format, version 2 or 3.
    Qcow2,
    /// VMware's, in one sparse file or a descriptor file with others.
    Vmdk,
    /// Virtual PC's, also Hyper-V's and Azure's: fixed, dynamic or differencing. QEMU calls it `vpc`.
    Vhd,
    /// VirtualBox's: dynamic, fixed or differencing.
    Vdi,
    /// Hyper-V's newer one: fixed, dynamic or differencing.
    Vhdx,
}

impl Format {
    /// Every one of them.
    pub const ALL: &[Format] =
        &[Format::Raw, Format::Qcow2, Format::Vmdk, Format::Vhd, Format::Vdi, Format::Vhdx];

    /// The name that messages use, which is also QEMU's, but for VHD.
    pub const fn name(self) -> &'static str {
        match self {
            Format::Raw => "raw",
            Format::Qcow2 => "qcow2",
            Format::Vmdk => "vmdk",
            Format::Vhd => "vhd",
            Format::Vdi => "vdi",
            Format::Vhdx => "vhdx",
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
    from_sectors(first, last, size_bytes)
}

const SECTOR: usize = 512;

fn from_sectors(first: &[u8], last: &[u8], size_bytes: u64) -> Result<Format, Refusal> {
    if first.starts_with(qcow2::MAGIC) {
        return Ok(Format::Qcow2);
    }
    if first.starts_with(vmdk::MAGIC) || vmdk::is_descriptor_file(first) {
        return Ok(Format::Vmdk);
    }
    if first.starts_with(vhd::COOKIE) {
        return Ok(Format::Vhd);
    }
    if first.get(vdi::MAGIC_OFFSET..).is_some_and(|b| b.starts_with(vdi::MAGIC)) {
        return Ok(Format::Vdi);
    }
    if first.starts_with(vhdx::MAGIC) {
        return Ok(Format::Vhdx);
    }
    let known =
        |&&(at, magic, ..): &&(usize, &[u8], _, _)| first.get(at..).is_some_and(|b| b.starts_with(magic));
    if let Some(&(_, _, what, advice)) = OTHER_MAGICS.iter().find(known) {
        return Err(Refusal::OtherFormat { what, advice });
    }
    if vhd::ends_with_footer(last, size_bytes) {
        return Ok(Format::Vhd);
    }
    Ok(Format::Raw)
}

const CONVERT: &str = "it is not read: have it converted where it was made, with `qemu-img convert -O qcow2`";
const UNPACK: &str = "unpack it and name the disk inside";
const IMPORT: &str = "`hull import` takes an OVA, a Vagrant box or a containerDisk apart; unpack any other";
const DECRYPT: &str =
    "have it decrypted where it was made; name the format raw where the guest itself does that";

/// Byte offset, magic, what has it, what to do.
const OTHER_MAGICS: &[(usize, &[u8], &str, &str)] = &[
    (0, b"QED\0", "a QED image", CONVERT),
    (0, b"WithoutFreeSpace", "a Parallels image", CONVERT),
    (0, b"WithouFreSpacExt", "a Parallels image", CONVERT),
    (0, b"COWD", "a VMDK extent of the old ESX kind", CONVERT),
    (0, b"LUKS\xba\xbe", "an encrypted disk (LUKS)", DECRYPT),
    (257, b"ustar", "a tar archive", IMPORT),
    (0, b"PK\x03\x04", "a zip archive", UNPACK),
    (0, b"\x1f\x8b\x08", "a file compressed with gzip", UNPACK),
    (0, b"\xfd7zXZ\0", "a file compressed with xz", UNPACK),
    (0, b"\x28\xb5\x2f\xfd", "a file compressed with zstd", UNPACK),
    (0, b"BZh", "a file compressed with bzip2", UNPACK),
];
