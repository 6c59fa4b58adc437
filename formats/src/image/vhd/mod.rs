//! VHD images, which QEMU calls `vpc`: fixed, dynamic and differencing.
//!
//! Read: the footer and its copy, the dynamic disk header, the block allocation table, sector bitmaps. A
//! differencing image needs the image that it differs from, by its unique id; the paths in it are never opened.
//! Saved state, timestamps and original size are left alone.
//!
//! ```text
//! fixed     | the disk | footer |
//! dynamic   | footer's copy | header | block allocation table | sector bitmap, block | ... | footer |
//! ```
//!
//! Stricter than QEMU 7.2: the footer at the end of the file decides, so that a guest which writes a footer to the
//! first sector of a fixed disk changes nothing; a differencing image is not read without its parent; all checksums
//! must be right, and blocks must not overlap.
//!
//! Source: Microsoft, "Virtual Hard Disk Image Format Specification" 1.0 (2006).

mod blocks;
mod fields;
mod footer;
mod header;
mod write;

pub(super) use write::{write_dynamic, write_fixed};

use super::chain::{Identity, Opened, Surroundings};
use super::mapped::MappedDisk;
use super::raw::RawDisk;
use super::source::Source;
use super::{Format, Limits, Refusal};
use blocks::Blocks;
use footer::{Footer, Kind, OLD_FOOTER_BYTES};
use header::Header;

const FORMAT: Format = Format::Vhd;

pub(super) const COOKIE: &[u8] = b"conectix";

const SECTOR: u64 = 512;

/// Whether a file of `size_bytes`, whose last 512 are `last`, ends with a footer.
pub(super) fn ends_with_footer(last: &[u8], size_bytes: u64) -> bool {
    last.starts_with(COOKIE)
        || (size_bytes % SECTOR == OLD_FOOTER_BYTES && last.get(1..).is_some_and(|l| l.starts_with(COOKIE)))
}

pub(super) fn open(file: Source, around: &mut Surroundings<'_>) -> Result<Opened, Refusal> {
    let footer = Footer::load(&file, around.limits)?;
    let identity = Some(Identity::Vhd(footer.unique_id));
    if footer.kind == Kind::Fixed {
        let disk = file.window(0..footer.size_bytes).expect("a fixed image's disk lies in the file");
        return Ok(Opened { identity, ..Opened::new(RawDisk::open(disk, around.limits)?) });
    }
    let header = Header::load(&file, &footer)?;
    let parent = match footer.kind {
        Kind::Differencing => Some(header.parent_disk(&footer, around.parent.take())?),
        Kind::Fixed | Kind::Dynamic => None,
    };
    let blocks = Blocks::load(&file, &footer, &header, around.memory)?;
    Ok(Opened { identity, ..Opened::new(MappedDisk::new(file, blocks, parent)) })
}

/// A differencing image differs from a VHD. Its parent needs no other look then: the magic that a guest wrote to
/// the first sector of a fixed one says nothing.
pub(super) fn declared_parent(file: &Source, limits: Limits) -> Result<Option<Format>, Refusal> {
    let footer = Footer::load(file, limits)?;
    Ok((footer.kind == Kind::Differencing).then_some(Format::Vhd))
}
