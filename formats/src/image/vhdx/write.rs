//! Dynamic VHDX images, written block by block.
//!
//! Blocks have 1 MiB, as Microsoft advises for Linux guests, so that few bytes are stored for nothing; on
//! disks of more than 1 TiB they are larger, so that the table of blocks keeps to 8 MiB and a sector bitmap each.
//! Within a block, what is zero stays a hole of the file. The log is empty.
//!
//! ```text
//! MiB 0 headers, region tables   1 log   2 metadata   3 block allocation table   blocks ...
//! ```
//!
//! Source: \[MS-VHDX\]; as for the state of absent blocks, QEMU: zero, where the specification's "not present"
//! would leave it open what they read as.

use sha2::{Digest as _, Sha256};

use super::super::write::{ImageWriteError, Job, Output, put};
use super::super::{Format, raw};
use super::bat::{ENTRY_BYTES, FULLY_PRESENT, ZERO};
use super::guid::Guid;
use super::metadata::{self, LARGEST_DISK, Metadata};
use super::sealed::{CHECKSUM, checksum};
use super::{MIB, header, regions};

const LOG: u64 = header::SECTION_BYTES;
const LOG_BYTES: u64 = MIB;
const METADATA: u64 = LOG + LOG_BYTES;
const METADATA_BYTES: u64 = MIB;
const BAT: u64 = METADATA + METADATA_BYTES;

/// The most blocks that a disk is cut into.
const MOST_BLOCKS: u64 = 1 << 20;
const SECTOR: u64 = 512;
/// What most devices have; a hint for the guest.
const PHYSICAL_SECTOR: u32 = 4096;

/// UTF-16 in the file.
const CREATOR: &str = "hull";

/// Writes the disk as a dynamic VHDX image; gives back the file's length.
pub(in crate::image) fn write(job: &Job<'_>, out: &Output) -> Result<u64, ImageWriteError> {
    let size_bytes = job.disk.size_bytes();
    if size_bytes > LARGEST_DISK {
        return Err(ImageWriteError::TooLarge { format: Format::Vhdx, size_bytes, most: LARGEST_DISK });
    }
    let size_bytes = size_bytes.next_multiple_of(SECTOR);
    let block_bytes = size_bytes.div_ceil(MOST_BLOCKS).max(MIB).next_power_of_two();
    let disk = Metadata { size_bytes, block_bytes, sector_bytes: SECTOR, parent: None };
    let bat_bytes = (disk.bat_entries() * ENTRY_BYTES).next_multiple_of(MIB).max(MIB);

    let mut blocks = Blocks::new(out, &disk, BAT + bat_bytes);
    job.each_window(
        raw::BLOCK_BYTES as u64,
        || raw::find_data,
        |window| {
            window.made.iter().try_for_each(|data| {
                blocks.store(window.offset + data.start as u64, &window.content[data.clone()])
            })
        },
    )?;
    let Blocks { bat, end, .. } = blocks;
    out.extend_to(end)?;

    let bat: Vec<u8> = bat.into_iter().flat_map(u64::to_le_bytes).collect();
    out.write_at(BAT, &bat, "the block allocation table")?;
    write_metadata(out, &disk, job.options.identity)?;
    let table = region_table(bat_bytes as u32);
    for offset in regions::OFFSETS {
        out.write_at(offset, &table, "a region table")?;
    }
    for (offset, number) in header::OFFSETS.into_iter().zip([1, 2]) {
        out.write_at(offset, &header(number, job.options.identity), "a header")?;
    }
    let creator: Vec<u8> = CREATOR.encode_utf16().flat_map(u16::to_le_bytes).collect();
    out.write_at(0, &[super::MAGIC, &creator].concat(), "the file type identifier")?;
    Ok(end)
}

/// The blocks that have been stored, and the table that names them.
struct Blocks<'a> {
    out: &'a Output,
    disk: &'a Metadata,
    bat: Vec<u64>,
    /// Where the next block goes.
    end: u64,
}

impl<'a> Blocks<'a> {
    /// All blocks of the disk as zeros.
    fn new(out: &'a Output, disk: &'a Metadata, first: u64) -> Self {
        // Entries of sector bitmaps stay 0, which is not present.
        let mut bat = vec![0; disk.bat_entries() as usize];
        for number in 0..disk.blocks() {
            bat[disk.entry_of_block(number) as usize] = ZERO;
        }
        Blocks { out, disk, bat, end: first }
    }

    /// Stores content from `offset` of the disk on.
    fn store(&mut self, offset: u64, content: &[u8]) -> Result<(), ImageWriteError> {
        let (mut at, mut rest) = (offset, content);
        while !rest.is_empty() {
            let within = at % self.disk.block_bytes;
            let here = (self.disk.block_bytes - within).min(rest.len() as u64);
            let (now, later) = rest.split_at(here as usize);
            let host = self.block(at / self.disk.block_bytes);
            self.out.write_at(host + within, now, "a block")?;
            (at, rest) = (at + here, later);
        }
        Ok(())
    }

    /// Where the block lies in the file, at whose end it gets a place if it has none.
    fn block(&mut self, number: u64) -> u64 {
        let entry = &mut self.bat[self.disk.entry_of_block(number) as usize];
        if *entry == ZERO {
            *entry = self.end | FULLY_PRESENT;
            self.end += self.disk.block_bytes;
        }
        *entry - FULLY_PRESENT
    }
}

fn header(sequence_number: u64, identity: [u8; 16]) -> Vec<u8> {
    let mut header = vec![0; header::HEADER_BYTES];
    put(&mut header, 0, header::SIGNATURE);
    put(&mut header, header::SEQUENCE_NUMBER, &sequence_number.to_le_bytes());
    put(&mut header, header::FILE_WRITE_GUID, &derived(identity, "file write").0);
    put(&mut header, header::DATA_WRITE_GUID, &derived(identity, "data write").0);
    put(&mut header, header::VERSION, &1u16.to_le_bytes());
    put(&mut header, header::LOG_LENGTH, &(LOG_BYTES as u32).to_le_bytes());
    put(&mut header, header::LOG_OFFSET, &LOG.to_le_bytes());
    sealed(header)
}

fn region_table(bat_bytes: u32) -> Vec<u8> {
    let mut table = vec![0; regions::TABLE_BYTES];
    let known = [(regions::BAT, BAT, bat_bytes), (regions::METADATA, METADATA, METADATA_BYTES as u32)];
    put(&mut table, 0, regions::SIGNATURE);
    put(&mut table, regions::ENTRY_COUNT, &(known.len() as u32).to_le_bytes());
    let entries = table[regions::HEADER_BYTES..].chunks_exact_mut(regions::ENTRY_BYTES);
    for ((guid, offset, bytes), entry) in known.into_iter().zip(entries) {
        put(entry, 0, &guid.0);
        put(entry, regions::FILE_OFFSET, &offset.to_le_bytes());
        put(entry, regions::LENGTH, &bytes.to_le_bytes());
        put(entry, regions::REQUIRED, &1u32.to_le_bytes());
    }
    sealed(table)
}

fn write_metadata(out: &Output, disk: &Metadata, identity: [u8; 16]) -> Result<(), ImageWriteError> {
    use metadata::{IS_REQUIRED, IS_VIRTUAL_DISK};
    let of_disk = IS_REQUIRED | IS_VIRTUAL_DISK;
    let parameters = disk.block_bytes.to_le_bytes(); // Its upper half is the flags, none of them set.
    let items = [
        (metadata::FILE_PARAMETERS, IS_REQUIRED, parameters.to_vec()),
        (metadata::VIRTUAL_DISK_SIZE, of_disk, disk.size_bytes.to_le_bytes().to_vec()),
        (metadata::PAGE_83_DATA, of_disk, derived(identity, "page 83").0.to_vec()),
        (metadata::LOGICAL_SECTOR_SIZE, of_disk, (SECTOR as u32).to_le_bytes().to_vec()),
        (metadata::PHYSICAL_SECTOR_SIZE, of_disk, PHYSICAL_SECTOR.to_le_bytes().to_vec()),
    ];
    let mut table = vec![0; metadata::TABLE_BYTES];
    put(&mut table, 0, metadata::SIGNATURE);
    put(&mut table, metadata::ENTRY_COUNT, &(items.len() as u16).to_le_bytes());
    for (index, (guid, flags, content)) in items.into_iter().enumerate() {
        let offset = table.len() as u32;
        let entry = &mut table[metadata::HEADER_BYTES + index * metadata::ENTRY_BYTES..];
        put(entry, 0, &guid.0);
        put(entry, metadata::OFFSET, &offset.to_le_bytes());
        put(entry, metadata::LENGTH, &(content.len() as u32).to_le_bytes());
        put(entry, metadata::FLAGS, &flags.to_le_bytes());
        table.extend(content);
    }
    out.write_at(METADATA, &table, "the metadata")
}

/// The structure with its checksum.
fn sealed(mut structure: Vec<u8>) -> Vec<u8> {
    let crc = checksum(&structure);
    put(&mut structure, CHECKSUM, &crc.to_le_bytes());
    structure
}

/// A GUID that follows from the identity and what it is for: version 8 of RFC 9562.
fn derived(identity: [u8; 16], purpose: &str) -> Guid {
    let digest = Sha256::new().chain_update(identity).chain_update("vhdx ").chain_update(purpose).finalize();
    let mut guid: [u8; 16] = *digest.first_chunk().expect("a digest of sha256 has 32 bytes");
    // The version is in the third group, which is stored little-endian.
    guid[7] = guid[7] & 0x0f | 0x80;
    guid[8] = guid[8] & 0x3f | 0x80;
    Guid(guid)
}
