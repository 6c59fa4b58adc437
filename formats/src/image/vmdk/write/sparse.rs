//! monolithicSparse: grains as they are, and both grain directories in front of them.
//!
//! ```text
//! | header | descriptor | redundant directory and its tables | directory and its tables | grains ...
//! ```
//!
//! All tables have their place in the file from the start, as readers expect; those of which no grain is stored
//! are holes.
//!
//! Source: "Virtual Disk Format 5.0", "Hosted Sparse Extents".

use super::super::super::write::{ImageWriteError, Job, Output};
use super::{
    DESCRIPTOR_SECTORS, ENTRIES_PER_TABLE, GRAIN_BYTES, GRAIN_SECTORS, Header, SECTOR, TABLE_SECTORS,
    VmdkAdapter, capacity_sectors, descriptor, little_endian, table_entry,
};

/// VMware's limit: fewer than 2^32 sectors.
const LARGEST_DISK_BYTES: u64 = (2 << 40) - GRAIN_BYTES;

/// Newlines can be checked, the redundant directory is there.
const FLAGS: u32 = 1 << 0 | 1 << 1;

/// Writes the disk as a monolithicSparse image; gives back the file's length.
pub(in crate::image) fn write_sparse(
    job: &Job<'_>,
    adapter: VmdkAdapter,
    out: &Output,
) -> Result<u64, ImageWriteError> {
    let capacity_sectors = capacity_sectors(job.disk.size_bytes(), LARGEST_DISK_BYTES)?;
    let layout = Layout::of(capacity_sectors);
    let mut grains = Grains {
        out,
        layout: &layout,
        next: layout.overhead * SECTOR,
        table: [0; ENTRIES_PER_TABLE as usize],
        table_number: None,
    };
    job.each_unit(GRAIN_BYTES, |number, grain| grains.store(number, grain))?;
    grains.close_table()?;
    let file_bytes = grains.next;

    for directory in layout.directories() {
        let tables = layout.first_table(directory);
        let sectors = (0..layout.tables).map(|number| (tables + number * TABLE_SECTORS) as u32);
        out.write_at(directory * SECTOR, &little_endian(&sectors.collect::<Vec<_>>()), "a grain directory")?;
    }
    let header = Header {
        version: 1,
        flags: FLAGS,
        capacity_sectors,
        redundant_directory: layout.directories()[0],
        directory: layout.directories()[1],
        overhead: layout.overhead,
        compression: 0,
    };
    let descriptor = descriptor("monolithicSparse", capacity_sectors, adapter, &job.options.identity);
    out.write_at(SECTOR, &descriptor, "the descriptor")?;
    out.write_at(0, &header.to_bytes(), "the header")?;
    out.extend_to(file_bytes)?;
    Ok(file_bytes)
}

/// Where what lies, in sectors.
#[derive(Debug)]
struct Layout {
    tables: u64,
    directory_sectors: u64,
    overhead: u64,
}

impl Layout {
    fn of(capacity_sectors: u64) -> Self {
        let tables = capacity_sectors.div_ceil(GRAIN_SECTORS * ENTRIES_PER_TABLE);
        let directory_sectors = (tables * 4).div_ceil(SECTOR);
        let both = 2 * (directory_sectors + tables * TABLE_SECTORS);
        let overhead = (1 + DESCRIPTOR_SECTORS + both).next_multiple_of(GRAIN_SECTORS);
        Layout { tables, directory_sectors, overhead }
    }

    /// The redundant directory, then the other; each is followed by its tables.
    fn directories(&self) -> [u64; 2] {
        let first = 1 + DESCRIPTOR_SECTORS;
        [first, first + self.directory_sectors + self.tables * TABLE_SECTORS]
    }

    fn first_table(&self, directory: u64) -> u64 {
        directory + self.directory_sectors
    }
}

/// The grains that have been stored, and the table that names the last of them.
struct Grains<'a> {
    out: &'a Output,
    layout: &'a Layout,
    /// Where the next grain goes, in bytes.
    next: u64,
    table: [u32; ENTRIES_PER_TABLE as usize],
    table_number: Option<u64>,
}

impl Grains<'_> {
    fn store(&mut self, number: u64, grain: &[u8]) -> Result<(), ImageWriteError> {
        let table = number / ENTRIES_PER_TABLE;
        if self.table_number != Some(table) {
            self.close_table()?;
            self.table_number = Some(table);
        }
        self.table[(number % ENTRIES_PER_TABLE) as usize] = table_entry(self.next)?;
        self.out.write_at(self.next, grain, "a grain")?;
        self.next += GRAIN_BYTES;
        Ok(())
    }

    fn close_table(&mut self) -> Result<(), ImageWriteError> {
        let Some(number) = self.table_number.take() else { return Ok(()) };
        let bytes = little_endian(&self.table);
        self.table.fill(0);
        for directory in self.layout.directories() {
            let sector = self.layout.first_table(directory) + number * TABLE_SECTORS;
            self.out.write_at(sector * SECTOR, &bytes, "a grain table")?;
        }
        Ok(())
    }
}
