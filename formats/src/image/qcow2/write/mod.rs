//! qcow2 images of version 3, written front to back: plain, or with deflate or zstd clusters.
//!
//! ```text
//! | header | refcount table | refcount block | L1 | data clusters ... L2 | data clusters ... L2 | ...
//! ```
//!
//! An L2 table follows the clusters that it describes. Compressed clusters lie end to end, across the borders
//! of host clusters where they can; one that would not become smaller is stored as it is. L1 and refcount table
//! are as large as the disk may need, and written last. There are no leaks and no holes but in that table.
//!
//! Source: `docs/interop/qcow2.txt` of QEMU 7.2; what it leaves open is done as QEMU does it.

mod clusters;

use super::super::Format;
use super::super::write::{Compression, Compressor, ImageWriteError, Job, Output, Packing, Recipe, put};
use super::MAGIC;
use clusters::{Clusters, blocks_for};

/// QEMU's default, and what every reader is tried with.
const CLUSTER_BITS: u32 = 16;
const CLUSTER_BYTES: u64 = 1 << CLUSTER_BITS;
const ENTRIES_PER_TABLE: u64 = CLUSTER_BYTES / 8;
/// Half of what QEMU's limit for L1 tables allows, so that the refcount table stays below its limit too.
const LARGEST_DISK_BYTES: u64 = 1 << 50;

/// The cluster is used once, by the active layer.
const COPIED: u64 = 1 << 63;
const COMPRESSED: u64 = 1 << 62;
const SECTOR: u64 = 512;
/// Where in a compressed cluster's descriptor the number of further sectors starts.
const MORE_SECTORS_SHIFT: u32 = 62 - (CLUSTER_BITS - 8);

const FEATURE_COMPRESSION_TYPE: u64 = 1 << 3;
const HEADER_BYTES: usize = 112;
const REFCOUNT_ORDER: u32 = 4;

/// QEMU decompresses with a window of this size, in bits; the specification names none.
const DEFLATE_WINDOW_BITS: u8 = 12;
const DEFLATE_LEVEL: u32 = 6;
/// On a real disk of 2 GiB, files are 1 % smaller than those of QEMU, which uses level 3, and written in a third
/// of the time.
const ZSTD_LEVEL: i32 = 4;

/// Writes the disk as a qcow2 image; gives back the file's length.
pub(in crate::image) fn write(
    job: &Job<'_>,
    compression: Compression,
    out: &Output,
) -> Result<u64, ImageWriteError> {
    let layout = Layout::of(job.disk.size_bytes())?;
    let mut image = ImageFile {
        clusters: Clusters::new(out, layout.front_clusters(), layout.refcount_block()),
        out,
        l1: vec![0; layout.l1_entries as usize],
        l2: vec![0; ENTRIES_PER_TABLE as usize],
        l2_number: None,
    };
    let recipe = match compression {
        Compression::None => None,
        Compression::Zlib => Some(Recipe::Deflate { level: DEFLATE_LEVEL, window_bits: DEFLATE_WINDOW_BITS }),
        Compression::Zstd => Some(Recipe::Zstd { level: ZSTD_LEVEL }),
    };
    match recipe {
        None => job.each_unit(CLUSTER_BYTES, |number, cluster| image.store(number, cluster))?,
        Some(recipe) => {
            let packer = || {
                let mut compressor = Compressor::new(recipe);
                move |cluster: &[u8], packed: &mut Vec<u8>| {
                    compressor.pack(cluster, cluster.len() - 1, packed)
                }
            };
            job.each_packed_unit(CLUSTER_BYTES, packer, |number, packing, bytes| match packing {
                Packing::Packed => image.store_packed(number, bytes),
                Packing::Stored => image.store(number, bytes),
            })?;
        }
    }
    image.finish(&layout, compression)
}

/// What lies at the file's start, in clusters.
#[derive(Debug)]
struct Layout {
    size_bytes: u64,
    l1_entries: u64,
    refcount_table_clusters: u64,
}

impl Layout {
    fn of(size_bytes: u64) -> Result<Self, ImageWriteError> {
        if size_bytes > LARGEST_DISK_BYTES {
            let (format, most) = (Format::Qcow2, LARGEST_DISK_BYTES);
            return Err(ImageWriteError::TooLarge { format, size_bytes, most });
        }
        let clusters = size_bytes.div_ceil(CLUSTER_BYTES);
        let l1_entries = clusters.div_ceil(ENTRIES_PER_TABLE);
        // Each of the disk's clusters takes one of the file at most. An L1 table is no larger than the L2
        // tables that it names, and refcounts are a small part of what they count.
        let file_clusters = clusters + 2 * l1_entries + 3;
        let refcount_table_bytes = 8 * blocks_for(file_clusters + file_clusters / 1024 + 1);
        Ok(Layout {
            size_bytes: size_bytes.next_multiple_of(SECTOR),
            l1_entries,
            refcount_table_clusters: refcount_table_bytes.div_ceil(CLUSTER_BYTES),
        })
    }

    /// The cluster that holds the first refcount block; the refcount table lies between header and it.
    fn refcount_block(&self) -> u64 {
        1 + self.refcount_table_clusters
    }

    fn l1_offset(&self) -> u64 {
        (self.refcount_block() + 1) * CLUSTER_BYTES
    }

    fn front_clusters(&self) -> u64 {
        self.refcount_block() + 1 + (8 * self.l1_entries).div_ceil(CLUSTER_BYTES)
    }

    /// All fields that are not put are 0, and so are the header extensions that follow: there are none.
    fn header(&self, compression: Compression) -> [u8; HEADER_BYTES] {
        let (features, compression_type) = match compression {
            Compression::None | Compression::Zlib => (0, 0),
            Compression::Zstd => (FEATURE_COMPRESSION_TYPE, 1),
        };
        let mut header = [0; HEADER_BYTES];
        put(&mut header, 0, MAGIC);
        put(&mut header, 4, &3u32.to_be_bytes()); // version
        put(&mut header, 20, &CLUSTER_BITS.to_be_bytes());
        put(&mut header, 24, &self.size_bytes.to_be_bytes());
        put(&mut header, 36, &(self.l1_entries as u32).to_be_bytes());
        put(&mut header, 40, &self.l1_offset().to_be_bytes());
        put(&mut header, 48, &CLUSTER_BYTES.to_be_bytes()); // refcount_table_offset
        put(&mut header, 56, &(self.refcount_table_clusters as u32).to_be_bytes());
        put(&mut header, 72, &features.to_be_bytes()); // incompatible_features
        put(&mut header, 96, &REFCOUNT_ORDER.to_be_bytes());
        put(&mut header, 100, &(HEADER_BYTES as u32).to_be_bytes());
        put(&mut header, 104, &[compression_type]);
        header
    }
}

/// The image while it is written.
#[derive(Debug)]
struct ImageFile<'a> {
    out: &'a Output,
    clusters: Clusters<'a>,
    l1: Vec<u64>,
    /// The L2 table whose clusters are being stored, and its number.
    l2: Vec<u64>,
    l2_number: Option<u64>,
}

impl ImageFile<'_> {
    fn store(&mut self, number: u64, cluster: &[u8]) -> Result<(), ImageWriteError> {
        self.open_table(number)?;
        let offset = self.clusters.take()?;
        self.out.write_at(offset, cluster, "a cluster")?;
        self.enter(number, offset | COPIED);
        Ok(())
    }

    fn store_packed(&mut self, number: u64, packed: &[u8]) -> Result<(), ImageWriteError> {
        self.open_table(number)?;
        let len = packed.len() as u64;
        let offset = self.clusters.take_bytes(len)?;
        self.out.write_at(offset, packed, "a compressed cluster")?;
        let more_sectors = (offset + len - 1) / SECTOR - offset / SECTOR;
        self.enter(number, COMPRESSED | more_sectors << MORE_SECTORS_SHIFT | offset);
        Ok(())
    }

    fn enter(&mut self, number: u64, entry: u64) {
        self.l2[(number % ENTRIES_PER_TABLE) as usize] = entry;
    }

    /// Sees to it that the L2 table at hand is the one for cluster `number` of the disk.
    fn open_table(&mut self, number: u64) -> Result<(), ImageWriteError> {
        let table = number / ENTRIES_PER_TABLE;
        if self.l2_number != Some(table) {
            self.close_table()?;
            self.l2_number = Some(table);
        }
        Ok(())
    }

    fn close_table(&mut self) -> Result<(), ImageWriteError> {
        let Some(number) = self.l2_number.take() else { return Ok(()) };
        let offset = self.clusters.take()?;
        self.out.write_at(offset, &big_endian(&self.l2), "an L2 table")?;
        self.l1[number as usize] = offset | COPIED;
        self.l2.fill(0);
        Ok(())
    }

    /// Writes what is left, the header last, so that nothing unfinished reads as an image.
    fn finish(mut self, layout: &Layout, compression: Compression) -> Result<u64, ImageWriteError> {
        self.close_table()?;
        let (file_bytes, refcount_table) = self.clusters.finish()?;
        assert!(8 * refcount_table.len() as u64 <= layout.refcount_table_clusters * CLUSTER_BYTES);
        self.out.write_at(CLUSTER_BYTES, &big_endian(&refcount_table), "the refcount table")?;
        self.out.write_at(layout.l1_offset(), &big_endian(&self.l1), "the L1 table")?;
        self.out.write_at(0, &layout.header(compression), "the header")?;
        self.out.extend_to(file_bytes)?;
        Ok(file_bytes)
    }
}

fn big_endian(table: &[u64]) -> Vec<u8> {
    table.iter().flat_map(|entry| entry.to_be_bytes()).collect()
}
