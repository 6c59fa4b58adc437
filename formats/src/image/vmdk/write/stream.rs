//! streamOptimized: compressed grains, written front to back, as OVAs carry them.
//!
//! ```text
//! | header, no directory named | descriptor | grains ... grain table | grains ... grain table | ...
//!     | grain directory | footer: the header again, complete | end-of-stream marker |
//! grain:   | first sector on the disk: u64 | bytes: u32 | zlib stream | up to a sector
//! others:  | sectors that follow: u64 | 0: u32 | type: u32 | up to a sector | what it announces
//! ```
//!
//! Nothing is ever written behind what came last, so the output can be a pipe, or a member of an archive that
//! is hashed on its way.
//!
//! Source: "Virtual Disk Format 5.0", "Stream-Optimized Compressed Sparse Extents".

use std::io;

use super::super::super::Format;
use super::super::super::write::{
    Compressor, ImageWriteError, Job, Output, Progress, Recipe, WriteOptions, put,
};
use super::{
    DESCRIPTOR_SECTORS, ENTRIES_PER_TABLE, GRAIN_BYTES, GRAIN_SECTORS, Header, SECTOR, TABLE_SECTORS,
    VmdkAdapter, capacity_sectors, descriptor, little_endian, table_entry,
};
use crate::Disk;

/// VMware's products end at 62 TB. A grain directory, which is kept in memory, has 8 MiB then.
const LARGEST_DISK_BYTES: u64 = 64 << 40;

/// `gdOffset` of the header, where the footer knows better.
const DIRECTORY_AT_END: u64 = u64::MAX;
/// Newlines can be checked, grains are compressed, there are markers.
const FLAGS: u32 = 1 << 0 | 1 << 16 | 1 << 17;
const DEFLATE: u16 = 1;
const LEVEL: u32 = 6;

const GRAIN_MARKER_BYTES: usize = 12;
/// Readers have this much room for a grain, marker included: a sector more than its content. Deflate makes what it
/// cannot compress larger by a few bytes for each 16 KiB.
const LARGEST_STREAM_BYTES: usize = (GRAIN_BYTES + SECTOR) as usize - GRAIN_MARKER_BYTES;

/// What a marker announces.
#[derive(Debug, Clone, Copy)]
enum Announced {
    GrainTable = 1,
    GrainDirectory = 2,
    Footer = 3,
}

/// Writes `disk` to `out` as a streamOptimized VMDK, front to back, and gives back how many bytes that were.
///
/// # Errors
///
/// [`ImageWriteError`].
pub fn write_stream_optimized(
    disk: &dyn Disk,
    adapter: VmdkAdapter,
    out: &mut dyn io::Write,
    options: &WriteOptions,
    progress: &Progress<'_>,
) -> Result<u64, ImageWriteError> {
    let file_bytes = write_job(&Job { disk, options, progress }, adapter, out)?;
    progress(disk.size_bytes());
    Ok(file_bytes)
}

/// The same as an image file.
pub(in crate::image) fn write_stream(
    job: &Job<'_>,
    adapter: VmdkAdapter,
    out: &Output,
) -> Result<u64, ImageWriteError> {
    write_job(job, adapter, &mut out.stream())
}

fn write_job(job: &Job<'_>, adapter: VmdkAdapter, out: &mut dyn io::Write) -> Result<u64, ImageWriteError> {
    let capacity_sectors = capacity_sectors(job.disk.size_bytes(), LARGEST_DISK_BYTES)?;
    let header = Header {
        version: 3,
        flags: FLAGS,
        capacity_sectors,
        redundant_directory: 0,
        directory: DIRECTORY_AT_END,
        overhead: (1 + DESCRIPTOR_SECTORS).next_multiple_of(GRAIN_SECTORS),
        compression: DEFLATE,
    };
    let tables = capacity_sectors.div_ceil(GRAIN_SECTORS * ENTRIES_PER_TABLE);
    let mut stream = Stream {
        out,
        at: 0,
        directory: vec![0; tables as usize],
        table: [0; ENTRIES_PER_TABLE as usize],
        table_number: None,
        piece: Vec::new(),
    };
    let mut front = header.to_bytes().to_vec();
    front.extend(descriptor("streamOptimized", capacity_sectors, adapter, &job.options.identity));
    front.resize((header.overhead * SECTOR) as usize, 0);
    stream.append(&front, "the header")?;
    let packer = || {
        let mut compressor = Compressor::new(Recipe::Zlib { level: LEVEL });
        move |grain: &[u8], packed: &mut Vec<u8>| compressor.pack(grain, LARGEST_STREAM_BYTES, packed)
    };
    job.each_packed_unit(GRAIN_BYTES, packer, |number, packing, bytes| {
        assert!(packing.is_packed(), "deflate never needs much more than what it cannot compress");
        stream.grain(number, bytes)
    })?;
    stream.finish(header)
}

/// The image while it is written.
struct Stream<'a> {
    out: &'a mut dyn io::Write,
    /// How many bytes have been written. A multiple of a sector.
    at: u64,
    /// Sectors of the grain tables, 0 where there is none.
    directory: Vec<u32>,
    /// Sectors of the grains of the table at hand, and its number.
    table: [u32; ENTRIES_PER_TABLE as usize],
    table_number: Option<u64>,
    /// What is written next.
    piece: Vec<u8>,
}

impl Stream<'_> {
    fn grain(&mut self, number: u64, stream: &[u8]) -> Result<(), ImageWriteError> {
        let table = number / ENTRIES_PER_TABLE;
        if self.table_number != Some(table) {
            self.close_table()?;
            self.table_number = Some(table);
        }
        self.table[(number % ENTRIES_PER_TABLE) as usize] = table_entry(self.at)?;
        let mut piece = std::mem::take(&mut self.piece);
        piece.clear();
        piece.extend((number * GRAIN_SECTORS).to_le_bytes());
        piece.extend((stream.len() as u32).to_le_bytes());
        piece.extend(stream);
        piece.resize(piece.len().next_multiple_of(SECTOR as usize), 0);
        self.append(&piece, "a grain")?;
        self.piece = piece;
        Ok(())
    }

    fn close_table(&mut self) -> Result<(), ImageWriteError> {
        let Some(number) = self.table_number.take() else { return Ok(()) };
        self.directory[number as usize] = table_entry(self.at + SECTOR)?;
        let table = little_endian(&self.table);
        self.table.fill(0);
        self.announce(Announced::GrainTable, TABLE_SECTORS)?;
        self.append(&table, "a grain table")
    }

    fn finish(mut self, header: Header) -> Result<u64, ImageWriteError> {
        self.close_table()?;
        let mut directory = little_endian(&self.directory);
        directory.resize(directory.len().next_multiple_of(SECTOR as usize), 0);
        self.announce(Announced::GrainDirectory, directory.len() as u64 / SECTOR)?;
        let footer = Header { directory: u64::from(table_entry(self.at)?), ..header };
        self.append(&directory, "the grain directory")?;
        self.announce(Announced::Footer, 1)?;
        self.append(&footer.to_bytes(), "the footer")?;
        self.append(&[0; SECTOR as usize], "the end-of-stream marker")?;
        Ok(self.at)
    }

    fn announce(&mut self, what: Announced, sectors: u64) -> Result<(), ImageWriteError> {
        let mut marker = [0; SECTOR as usize];
        put(&mut marker, 0, &sectors.to_le_bytes());
        put(&mut marker, 12, &(what as u32).to_le_bytes());
        self.append(&marker, "a marker")
    }

    fn append(&mut self, bytes: &[u8], what: &'static str) -> Result<(), ImageWriteError> {
        let failed = |source| ImageWriteError::Write { format: Format::Vmdk, what, offset: self.at, source };
        self.out.write_all(bytes).map_err(failed)?;
        self.at += bytes.len() as u64;
        Ok(())
    }
}
