//! VMDK images in one sparse file, written as streamOptimized or monolithicSparse.
//!
//! Both begin with a header and a descriptor, a text that names the kind, the disk's size and the controller it
//! would hang on. There is no parent and one extent, the file itself; the name that the descriptor
//! gives it is not looked at by any reader.
//!
//! Source: "Virtual Disk Format 5.0", "The Descriptor File" and "Hosted Sparse Extents"; the descriptor's keys are
//! those that VMware's open-vmdk writes, so that its tools take the image.

mod sparse;
mod stream;

pub(in crate::image) use sparse::write_sparse;
pub(in crate::image) use stream::write_stream;
pub use stream::write_stream_optimized;

use super::super::Format;
use super::super::write::{ImageWriteError, put};
use super::{MAGIC, SECTOR};

/// The disk controller that a VMDK's descriptor names. Guests may not boot from another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum VmdkAdapter {
    /// IDE; VMware's tools say so for SATA too.
    Ide,
    /// SCSI, BusLogic.
    BusLogic,
    /// SCSI, LSI Logic, parallel or SAS.
    #[default]
    LsiLogic,
}

/// The size that all known tools use.
const GRAIN_SECTORS: u64 = 128;
const GRAIN_BYTES: u64 = GRAIN_SECTORS * SECTOR;
const ENTRIES_PER_TABLE: u64 = 512;
const TABLE_SECTORS: u64 = ENTRIES_PER_TABLE * 4 / SECTOR;

const DESCRIPTOR_SECTOR: u64 = 1;
const DESCRIPTOR_SECTORS: u64 = 20;

/// The fields in which headers differ.
#[derive(Debug, Clone, Copy)]
struct Header {
    version: u32,
    flags: u32,
    capacity_sectors: u64,
    /// Where the grain directories lie, in sectors.
    redundant_directory: u64,
    directory: u64,
    /// The sectors in front of the first grain.
    overhead: u64,
    compression: u16,
}

impl Header {
    fn to_bytes(self) -> [u8; SECTOR as usize] {
        let mut bytes = [0; SECTOR as usize];
        put(&mut bytes, 0, MAGIC);
        put(&mut bytes, 4, &self.version.to_le_bytes());
        put(&mut bytes, 8, &self.flags.to_le_bytes());
        put(&mut bytes, 12, &self.capacity_sectors.to_le_bytes());
        put(&mut bytes, 20, &GRAIN_SECTORS.to_le_bytes());
        put(&mut bytes, 28, &DESCRIPTOR_SECTOR.to_le_bytes());
        put(&mut bytes, 36, &DESCRIPTOR_SECTORS.to_le_bytes());
        put(&mut bytes, 44, &(ENTRIES_PER_TABLE as u32).to_le_bytes());
        put(&mut bytes, 48, &self.redundant_directory.to_le_bytes());
        put(&mut bytes, 56, &self.directory.to_le_bytes());
        put(&mut bytes, 64, &self.overhead.to_le_bytes());
        put(&mut bytes, 73, b"\n \r\n");
        put(&mut bytes, 77, &self.compression.to_le_bytes());
        bytes
    }
}

/// The descriptor, filled up with zeros to the sectors that it has.
fn descriptor(
    create_type: &str,
    capacity_sectors: u64,
    adapter: VmdkAdapter,
    identity: &[u8; 16],
) -> Vec<u8> {
    let (name, heads, most_cylinders) = match adapter {
        VmdkAdapter::Ide => ("ide", 16, 16_383),
        VmdkAdapter::BusLogic => ("buslogic", 255, 65_535),
        VmdkAdapter::LsiLogic => ("lsilogic", 255, 65_535),
    };
    let cylinders = capacity_sectors.div_ceil(heads * 63).min(most_cylinders);
    let long_content_id = long_content_id(identity);
    let content_id = &long_content_id[24..];
    let text = format!(
        "# Disk DescriptorFile\n\
         version=1\n\
         encoding=\"UTF-8\"\n\
         CID={content_id}\n\
         parentCID=ffffffff\n\
         createType=\"{create_type}\"\n\
         \n\
         # Extent description\n\
         RW {capacity_sectors} SPARSE \"disk.vmdk\"\n\
         \n\
         # The Disk Data Base\n\
         #DDB\n\
         \n\
         ddb.longContentID = \"{long_content_id}\"\n\
         ddb.virtualHWVersion = \"4\"\n\
         ddb.geometry.cylinders = \"{cylinders}\"\n\
         ddb.geometry.heads = \"{heads}\"\n\
         ddb.geometry.sectors = \"63\"\n\
         ddb.adapterType = \"{name}\"\n"
    );
    let mut bytes = text.into_bytes();
    bytes.resize((DESCRIPTOR_SECTORS * SECTOR) as usize, 0);
    bytes
}

/// The identity as 32 hex digits, of which the last eight are the content identifier. Two of its values mean
/// something else: no parent, and one that is not known.
fn long_content_id(identity: &[u8; 16]) -> String {
    let number = u128::from_be_bytes(*identity);
    let reserved = number as u32 >= 0xffff_fffe;
    format!("{:032x}", if reserved { number - 2 } else { number })
}

/// The disk's size in sectors, where an image of at most `most` bytes may hold it.
fn capacity_sectors(size_bytes: u64, most: u64) -> Result<u64, ImageWriteError> {
    let format = Format::Vmdk;
    if size_bytes > most {
        return Err(ImageWriteError::TooLarge { format, size_bytes, most });
    }
    if size_bytes == 0 {
        return Err(ImageWriteError::NoBytes { format });
    }
    Ok(size_bytes.div_ceil(SECTOR))
}

/// The sector at byte `offset`, as tables name it.
fn table_entry(offset: u64) -> Result<u32, ImageWriteError> {
    let most = u64::from(u32::MAX) * SECTOR;
    u32::try_from(offset / SECTOR).map_err(|_| ImageWriteError::FileTooLarge { format: Format::Vmdk, most })
}

fn little_endian(table: &[u32]) -> Vec<u8> {
    table.iter().flat_map(|entry| entry.to_le_bytes()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_content_identifier_is_no_reserved_one() {
        let of = |number: u128| long_content_id(&number.to_be_bytes());
        assert_eq!(of(0x1234), "00000000000000000000000000001234");
        assert_eq!(of(u128::MAX), "fffffffffffffffffffffffffffffffd");
        assert_eq!(of(u128::MAX - 1), "fffffffffffffffffffffffffffffffc");
        assert_eq!(of(u128::MAX - 2), "fffffffffffffffffffffffffffffffd");
    }
}
