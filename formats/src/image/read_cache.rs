//! What reading images keeps in memory beyond the tables that were read when they were opened: pieces of larger
//! tables, decompressed units of which only a part was asked for, and idle decompressors.
//!
//! It is bounded, however many images share it. That a chain of hundreds can be read at one place without
//! loading the same things over and over, tables are kept in pages of [`PAGE_BYTES`].

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::decompress::Workbenches;
use super::source::Source;
use crate::ReadError;
use crate::cache::Cache;

/// Room for several of the largest units, which have 2 MiB, so that threads that read at different places do not
/// drop each other's.
const CACHE_BYTES: usize = 12 << 20;
/// About what the cache itself needs for each thing in it.
const ENTRY_BYTES: usize = 256;

/// Tables of which only a part is kept are read in pages of this size. The smallest tables are smaller.
pub(super) const PAGE_BYTES: u64 = 4096;

/// Memory for reading images, for all that one after the other or at once are read with it: about 20 MiB at most,
/// and as much as each of the reading threads needs for what it is decompressing, 6 MiB at most.
///
/// A clone is the same memory. It is freed with the last disk that uses it.
#[derive(Debug, Clone, Default)]
pub struct ReadCache {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    /// By section, and key in it. One shard, for a unit may be a good part of all that there is room for.
    values: Cache<(u64, u64), Box<[u8]>>,
    workbenches: Arc<Workbenches>,
    sections: AtomicU64,
}

impl Default for Shared {
    fn default() -> Self {
        Shared {
            values: Cache::new(CACHE_BYTES, 1),
            workbenches: Arc::default(),
            sections: AtomicU64::new(0),
        }
    }
}

impl ReadCache {
    /// An empty one, which takes no memory yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// A part of it with keys of its own.
    pub(super) fn section(&self) -> Section {
        let number = self.shared.sections.fetch_add(1, Ordering::Relaxed);
        Section { cache: self.clone(), number }
    }

    pub(super) fn workbenches(&self) -> Arc<Workbenches> {
        Arc::clone(&self.shared.workbenches)
    }
}

/// What one image keeps of one kind.
#[derive(Debug)]
pub(super) struct Section {
    cache: ReadCache,
    number: u64,
}

impl Section {
    /// The value of `key`, which has `len` bytes: zeros that `fill` has been over, unless it is still here.
    pub(super) fn get(
        &self,
        key: u64,
        len: u64,
        fill: impl FnOnce(&mut [u8]) -> Result<(), ReadError>,
    ) -> Result<Arc<Box<[u8]>>, ReadError> {
        let len = len as usize;
        self.cache.shared.values.get((self.number, key), len + ENTRY_BYTES, || {
            let mut value = vec![0; len].into_boxed_slice();
            fill(&mut value)?;
            Ok(value)
        })
    }

    /// The `len` bytes at `offset` of `file`. A section is for one file, and each offset for one length.
    pub(super) fn read(&self, file: &Source, offset: u64, len: u64) -> Result<Arc<Box<[u8]>>, ReadError> {
        self.get(offset, len, |value| Ok(file.read(offset, value)?))
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Read as _;
    use std::os::unix::fs::FileExt;

    use flate2::Compression;
    use flate2::read::DeflateEncoder;

    use super::super::{Format, ImageRequest, Layer, Limits, open};
    use super::*;
    use crate::Disk;

    const MIB: u64 = 1 << 20;
    const CLUSTER_BYTES: u64 = 2 * MIB;
    const CHAIN: u64 = 256;

    impl ReadCache {
        /// What it keeps now.
        fn held_bytes(&self) -> usize {
            self.shared.values.bytes() + self.shared.workbenches.bytes()
        }
    }

    /// A qcow2 image whose clusters are as large as they may be, and of which only the one with this number is
    /// there, compressed.
    fn image(number: u64) -> File {
        let image = tempfile::tempfile().unwrap();
        let put = |at: u64, bytes: &[u8]| image.write_all_at(bytes, at).unwrap();
        put(0, b"QFI\xfb\0\0\0\x02");
        if number + 1 < CHAIN {
            put(8, &72u64.to_be_bytes());
            put(16, &4u32.to_be_bytes());
            put(72, b"base");
        }
        put(20, &21u32.to_be_bytes());
        put(24, &(CHAIN * CLUSTER_BYTES).to_be_bytes());
        put(36, &1u32.to_be_bytes());
        put(40, &CLUSTER_BYTES.to_be_bytes());
        put(48, &(2 * CLUSTER_BYTES).to_be_bytes());
        put(56, &1u32.to_be_bytes());
        put(CLUSTER_BYTES, &(3 * CLUSTER_BYTES).to_be_bytes());
        let content = vec![number as u8; CLUSTER_BYTES as usize];
        let mut packed = Vec::new();
        DeflateEncoder::new(&content[..], Compression::fast()).read_to_end(&mut packed).unwrap();
        // The most sectors that can be said to belong to it.
        let sectors = CLUSTER_BYTES * 2 / 512;
        let entry = 1 << 62 | (sectors - 1) << (62 - 13) | (4 * CLUSTER_BYTES);
        put(3 * CLUSTER_BYTES + number * 8, &entry.to_be_bytes());
        put(4 * CLUSTER_BYTES, &packed);
        image.set_len(4 * CLUSTER_BYTES + sectors * 512).unwrap();
        image
    }

    fn chain(cache: &ReadCache) -> Box<dyn Disk> {
        let layer = |number| {
            let source = Source::new(image(number)).unwrap();
            Layer { source, name: "image", format: Some(Format::Qcow2) }
        };
        let limits = Limits { max_size_bytes: 1 << 40 };
        let backing = (1..CHAIN).map(layer).collect();
        let cache = cache.clone();
        open(ImageRequest { layer: layer(0), backing, parts: None, limits, cache }).unwrap().disk
    }

    #[test]
    fn the_longest_chain_of_the_largest_units_is_read_in_bounded_memory() {
        let cache = ReadCache::new();
        let disk = chain(&cache);
        assert_eq!(cache.held_bytes(), 0, "nothing was read yet");
        for number in 0..CHAIN {
            let mut found = [0; 512];
            disk.read_at(number * CLUSTER_BYTES + MIB, &mut found).unwrap();
            assert_eq!(found, [number as u8; 512]);
        }
        let held = cache.held_bytes() as u64;
        assert!((CLUSTER_BYTES..17 * MIB).contains(&held), "{held} bytes are kept");
    }

    #[test]
    fn disks_that_share_a_cache_need_no_more_than_one_of_them() {
        let cache = ReadCache::new();
        let disks = [(); 2].map(|()| chain(&cache));
        let mut most = 0;
        for disk in &disks {
            for number in 0..CHAIN / 8 {
                disk.read_at(number * CLUSTER_BYTES, &mut [0]).unwrap();
            }
            most = most.max(cache.held_bytes() as u64);
        }
        assert!(most < 17 * MIB, "{most} bytes are kept");
    }

    #[test]
    fn places_that_are_read_in_turn_are_read_once() {
        const THREADS: u64 = 3;
        // What a thread needs to read on where it is: a unit, and a page of each image above the one that has it.
        let cache = ReadCache::new();
        let units = cache.section();
        let pages: Vec<_> = (0..CHAIN).map(|_| cache.section()).collect();
        let mut filled = 0;
        let mut fill = |_: &mut [u8]| {
            filled += 1;
            Ok(())
        };
        for _ in 0..3 {
            for place in 0..THREADS {
                for section in &pages {
                    section.get(place * PAGE_BYTES, PAGE_BYTES, &mut fill).unwrap();
                }
                units.get(place, CLUSTER_BYTES, &mut fill).unwrap();
            }
        }
        assert_eq!(filled, THREADS * (CHAIN + 1));
    }
}
