//! VHDX images, as Hyper-V and QEMU write them: fixed, dynamic and differencing.
//!
//! Read: the current of the two headers, the region table, the metadata, all states of blocks, sectors of 512
//! and 4096 bytes, sector bitmaps of differences whose parent the caller hands over. A log that was left behind
//! is replayed in memory; the file that is read is never written. Refused: regions and metadata that are needed and not
//! known, tables and blocks outside the file or over one another, logs without a valid sequence of entries.
//! Blocks may share bytes of the file. Paths in a parent locator are never opened. Written: dynamic images.
//!
//! ```text
//! header -> log (replayed) -> regions -> metadata -> block allocation table (cached) -> block
//! ```
//!
//! Source: \[MS-VHDX\], Virtual Hard Disk v2 (VHDX) File Format; where it is silent, what QEMU 7.2 reads.

mod bat;
mod guid;
mod header;
mod log;
mod metadata;
mod parent;
mod regions;
mod sealed;
mod shadow;
mod write;

pub(super) use write::write;

use super::chain::{Identity, Opened, Surroundings};
use super::mapped::MappedDisk;
use super::source::Source;
use super::{Format, Refusal};
use bat::Bat;
use header::Header;
use metadata::Metadata;
use regions::Regions;

const FORMAT: Format = Format::Vhdx;

pub(super) const MAGIC: &[u8] = b"vhdxfile";

const MIB: u64 = 1 << 20;

pub(super) fn open(file: Source, around: &mut Surroundings<'_>) -> Result<Opened, Refusal> {
    let header = Header::load(&file)?;
    let file = log::replay(file, &header.log, around.memory)?;
    let regions = Regions::load(&file, &header.log.range)?;
    let metadata = Metadata::load(&file, &regions.metadata, around.limits)?;
    let parent = match &metadata.parent {
        Some(item) => {
            parent::check(&file, item, around.parent.as_ref())?;
            around.parent.take().map(|parent| parent.disk)
        }
        None => None,
    };
    let bat = Bat::new(metadata, regions, &around.memory.cache)?;
    let identity = Some(Identity::Vhdx(header.data_write.0));
    Ok(Opened { identity, ..Opened::new(MappedDisk::new(file, bat, parent)) })
}
