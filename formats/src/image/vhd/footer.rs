//! The hard disk footer: which of its two copies counts, and how large it says that the disk is.
//!
//! The one at the end of the file counts. Images that grow repeat it at byte 0; the two must agree, and the one
//! at byte 0 stands in where there is none at the end, as after a crash of what wrote the image.
//!
//! # How large the disk is
//!
//! The footer says so twice: in bytes, and as cylinders, heads and sectors, which is less where it is not
//! the same. Virtual PC shows its guests the second, Hyper-V and all others the first. So the creator decides
//! ([`goes_by_current_size`]), except that the largest geometry there is always means the first. This is QEMU's rule.
//!
//! Source: VHD specification 1.0, "Hard Disk Footer Format"; for the size, `block/vpc.c` of QEMU.

use super::super::source::Source;
use super::super::{Format, Limits, Refusal};
use super::fields::Fields;
use super::{COOKIE, FORMAT, SECTOR};

pub(super) const FOOTER_BYTES: usize = 512;
/// Virtual PC wrote footers without the last byte, a zero, before its version of 2004.
pub(super) const OLD_FOOTER_BYTES: u64 = 511;

pub(super) const FEATURES: usize = 8;
pub(super) const VERSION: usize = 12;
pub(super) const DATA_OFFSET: usize = 16;
pub(super) const CREATOR: usize = 28;
pub(super) const ORIGINAL_SIZE: usize = 40;
pub(super) const CURRENT_SIZE: usize = 48;
pub(super) const GEOMETRY: usize = 56;
pub(super) const DISK_TYPE: usize = 60;
pub(super) const CHECKSUM: usize = 64;
pub(super) const UNIQUE_ID: usize = 68;

/// "Temporary" and the bit that is always set.
const KNOWN_FEATURES: u32 = 0b11;
pub(super) const VERSION_1: u32 = 0x0001_0000;

pub(super) const FIXED: u32 = 2;
pub(super) const DYNAMIC: u32 = 3;
const DIFFERENCING: u32 = 4;

/// Hyper-V's limit, and QEMU's: 2040 GiB.
pub(super) const LARGEST_DISK_BYTES: u64 = 0xff00_0000 * SECTOR;
/// Cylinders, heads and sectors; 127 GiB.
pub(super) const LARGEST_GEOMETRY: (u16, u8, u8) = (65535, 16, 255);

/// What a checked footer says.
#[derive(Debug)]
pub(super) struct Footer {
    pub(super) kind: Kind,
    /// A multiple of 512.
    pub(super) size_bytes: u64,
    pub(super) unique_id: [u8; 16],
    /// Where the dynamic disk header is said to lie. Not checked.
    pub(super) header_offset: u64,
    /// Where the footer lies.
    pub(super) offset: u64,
    /// Where the rest of the file ends.
    pub(super) data_end: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// The disk's bytes lie in front of the footer.
    Fixed,
    Dynamic,
    Differencing,
}

impl Footer {
    /// A fixed image's disk lies in the file.
    pub(super) fn load(file: &Source, limits: Limits) -> Result<Self, Refusal> {
        let at_end = find_at_end(file)?;
        let Some(fields) = at_end else {
            return load_copy_alone(file, limits);
        };
        let footer = check(&fields, fields.offset, limits)?;
        if footer.kind != Kind::Fixed {
            let copy = Fields::load(file, 0)?;
            check_copy(&fields, &copy)?;
        } else if footer.size_bytes > footer.data_end {
            let (field, name) = size_field(&fields);
            let found = format!("{} bytes", footer.size_bytes);
            let wanted = format!("at most the {} bytes in front of the footer", footer.data_end);
            return Err(FORMAT.malformed(fields.at(field), name, found, wanted));
        }
        Ok(footer)
    }
}

/// The footer at the end of the file, if there is one.
fn find_at_end(file: &Source) -> Result<Option<Fields<FOOTER_BYTES>>, Refusal> {
    let size_bytes = file.size_bytes();
    let mut places = vec![size_bytes.checked_sub(FOOTER_BYTES as u64)];
    if size_bytes % SECTOR == OLD_FOOTER_BYTES {
        places.push(Some(size_bytes - OLD_FOOTER_BYTES));
    }
    for offset in places.into_iter().flatten() {
        let fields = Fields::load(file, offset)?;
        if fields.bytes.starts_with(COOKIE) {
            return Ok(Some(fields));
        }
    }
    Ok(None)
}

/// The footer at the start of a file that has none at its end.
fn load_copy_alone(file: &Source, limits: Limits) -> Result<Footer, Refusal> {
    let size_bytes = file.size_bytes();
    if size_bytes < FOOTER_BYTES as u64 {
        let found = format!("cut off after {size_bytes} bytes");
        return Err(FORMAT.malformed(0, "footer", found, format!("{FOOTER_BYTES} bytes")));
    }
    let fields = Fields::load(file, 0)?;
    fields.check_cookie(COOKIE, "cookie, as at the end of the file,")?;
    let footer = check(&fields, size_bytes, limits)?;
    if footer.kind == Kind::Fixed {
        let wanted = "3 or 4, for a fixed disk's footer is at the end of the file";
        return Err(FORMAT.malformed(fields.at(DISK_TYPE), "disk type", FIXED, wanted));
    }
    Ok(footer)
}

fn check(fields: &Fields<FOOTER_BYTES>, data_end: u64, limits: Limits) -> Result<Footer, Refusal> {
    fields.check_sum(CHECKSUM, "checksum")?;
    let features = fields.u32(FEATURES);
    if features & !KNOWN_FEATURES != 0 {
        let refused = "it has bits that are not known here";
        return Err(FORMAT.unsupported(fields.at(FEATURES), "features", format!("{features:#x}"), refused));
    }
    let version = fields.u32(VERSION);
    if version != VERSION_1 {
        let refused = "only version 1.0, which is 0x10000, is read";
        return Err(FORMAT.unsupported(
            fields.at(VERSION),
            "file format version",
            format!("{version:#x}"),
            refused,
        ));
    }
    let kind = match fields.u32(DISK_TYPE) {
        FIXED => Kind::Fixed,
        DYNAMIC => Kind::Dynamic,
        DIFFERENCING => Kind::Differencing,
        other => {
            let wanted = "2 (fixed), 3 (dynamic) or 4 (differencing)";
            return Err(FORMAT.malformed(fields.at(DISK_TYPE), "disk type", other, wanted));
        }
    };
    Ok(Footer {
        kind,
        size_bytes: check_size(fields, limits)?,
        unique_id: fields.array(UNIQUE_ID),
        header_offset: fields.u64(DATA_OFFSET),
        offset: fields.offset,
        data_end,
    })
}

fn check_size(fields: &Fields<FOOTER_BYTES>, limits: Limits) -> Result<u64, Refusal> {
    let (field, name) = size_field(fields);
    let size_bytes = match field {
        CURRENT_SIZE => fields.u64(CURRENT_SIZE) / SECTOR * SECTOR,
        _ => geometry_sectors(geometry(fields)) * SECTOR,
    };
    let max_size_bytes = limits.max_size_bytes;
    if size_bytes > max_size_bytes {
        return Err(Refusal::TooLarge { format: Format::Vhd, size_bytes, max_size_bytes });
    }
    if size_bytes > LARGEST_DISK_BYTES {
        let found = format!("{size_bytes} bytes");
        let wanted = format!("at most {LARGEST_DISK_BYTES} bytes, which are 2040 GiB");
        return Err(FORMAT.malformed(fields.at(field), name, found, wanted));
    }
    Ok(size_bytes)
}

/// The field that the disk's size is taken from, and its name.
fn size_field(fields: &Fields<FOOTER_BYTES>) -> (usize, &'static str) {
    if goes_by_current_size(fields.array(CREATOR)) || geometry(fields) == LARGEST_GEOMETRY {
        (CURRENT_SIZE, "current size")
    } else {
        (GEOMETRY, "disk geometry")
    }
}

/// Whether the program shows its guests all of the current size.
///
/// QEMU's table as of 7.2, and two more: Azure's own mark, which QEMU added later, and VirtualBox's, which QEMU
/// takes for Virtual PC's although VirtualBox goes by the current size and so QEMU cuts its disks short.
fn goes_by_current_size(creator: [u8; 4]) -> bool {
    matches!(
        &creator,
        b"win " // Hyper-V
            | b"qem2" // QEMU, told to keep the size
            | b"d2v " // Disk2vhd
            | b"tap\0" // XenServer
            | b"CTXS" // XenConverter
            | b"wa\0\0" // Azure
            | b"vbox" // VirtualBox
    )
}

fn geometry(fields: &Fields<FOOTER_BYTES>) -> (u16, u8, u8) {
    (fields.u16(GEOMETRY), fields.bytes[GEOMETRY + 2], fields.bytes[GEOMETRY + 3])
}

fn geometry_sectors((cylinders, heads, sectors): (u16, u8, u8)) -> u64 {
    u64::from(cylinders) * u64::from(heads) * u64::from(sectors)
}

/// What decides how the image reads must be the same in both footers.
fn check_copy(footer: &Fields<FOOTER_BYTES>, copy: &Fields<FOOTER_BYTES>) -> Result<(), Refusal> {
    const SAME: [(usize, usize, &str); 6] = [
        (DATA_OFFSET, 8, "data offset in the footer's copy"),
        (CREATOR, 4, "creator application in the footer's copy"),
        (CURRENT_SIZE, 8, "current size in the footer's copy"),
        (GEOMETRY, 4, "disk geometry in the footer's copy"),
        (DISK_TYPE, 4, "disk type in the footer's copy"),
        (UNIQUE_ID, 16, "unique id in the footer's copy"),
    ];
    copy.check_cookie(COOKIE, "cookie of the footer's copy")?;
    copy.check_sum(CHECKSUM, "checksum of the footer's copy")?;
    for (at, len, field) in SAME {
        let (want, found) = (&footer.bytes[at..at + len], &copy.bytes[at..at + len]);
        if found != want {
            let wanted = format!("0x{}, as at the end of the file", hex(want));
            return Err(FORMAT.malformed(copy.at(at), field, format!("0x{}", hex(found)), wanted));
        }
    }
    Ok(())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
