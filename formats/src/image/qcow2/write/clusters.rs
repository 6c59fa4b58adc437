//! The clusters of a qcow2 file that grows: which are taken, and how often each is used.
//!
//! Refcounts are 16 bits wide. A refcount block lies among the clusters that it counts, as the first of them but
//! for the first block, which comes behind the refcount table. So a block is complete, and
//! written, when the file grows past what it counts, and one block is in memory at a time.

use super::super::super::write::{ImageWriteError, Output};
use super::CLUSTER_BYTES;

/// The clusters that one refcount block counts.
const PER_BLOCK: u64 = CLUSTER_BYTES / 2;

#[derive(Debug)]
pub(super) struct Clusters<'a> {
    out: &'a Output,
    /// The first cluster behind all that are taken.
    next: u64,
    /// Where each refcount block lies. The last is the one in `counts`.
    block_offsets: Vec<u64>,
    counts: Vec<u16>,
    /// Where the next compressed bytes go, in a cluster that the last block counts; at the start of a cluster
    /// where there is no room.
    packed_end: u64,
}

/// How many refcount blocks count so many clusters.
pub(super) fn blocks_for(clusters: u64) -> u64 {
    clusters.div_ceil(PER_BLOCK)
}

impl<'a> Clusters<'a> {
    /// A file whose first `front` clusters are in use, `first_block` of them by the first refcount block.
    pub(super) fn new(out: &'a Output, front: u64, first_block: u64) -> Self {
        assert!(front < PER_BLOCK, "one refcount block counts the file's front");
        let mut counts = vec![0; PER_BLOCK as usize];
        counts[..front as usize].fill(1);
        let block_offsets = vec![first_block * CLUSTER_BYTES];
        Clusters { out, next: front, block_offsets, counts, packed_end: 0 }
    }

    /// Takes one cluster; gives back its offset in the file.
    pub(super) fn take(&mut self) -> Result<u64, ImageWriteError> {
        if self.next.is_multiple_of(PER_BLOCK) {
            self.write_block()?;
            self.counts.fill(0);
            self.packed_end = 0;
            let offset = self.take_next();
            self.block_offsets.push(offset);
        }
        Ok(self.take_next())
    }

    /// Takes `len` bytes, less than a cluster, behind the last that were taken so; gives back their offset.
    pub(super) fn take_bytes(&mut self, len: u64) -> Result<u64, ImageWriteError> {
        let cluster_end = self.packed_end.next_multiple_of(CLUSTER_BYTES);
        let shared = if self.packed_end + len <= cluster_end {
            true
        } else {
            let is_last = cluster_end == self.next * CLUSTER_BYTES && !self.next.is_multiple_of(PER_BLOCK);
            let goes_on = is_last && self.packed_end < cluster_end;
            let fresh = self.take()?;
            if !goes_on {
                self.packed_end = fresh;
            }
            goes_on
        };
        if shared {
            self.count(self.packed_end / CLUSTER_BYTES);
        }
        let offset = self.packed_end;
        self.packed_end += len;
        Ok(offset)
    }

    /// Writes the last refcount block; gives back the file's length and the refcount table.
    pub(super) fn finish(self) -> Result<(u64, Vec<u64>), ImageWriteError> {
        self.write_block()?;
        Ok((self.next * CLUSTER_BYTES, self.block_offsets))
    }

    fn take_next(&mut self) -> u64 {
        let cluster = self.next;
        self.next += 1;
        self.count(cluster);
        cluster * CLUSTER_BYTES
    }

    /// Counts one more use of a cluster that the last block counts.
    fn count(&mut self, cluster: u64) {
        self.counts[(cluster % PER_BLOCK) as usize] += 1;
    }

    fn write_block(&self) -> Result<(), ImageWriteError> {
        let offset = *self.block_offsets.last().expect("there is one from the start");
        let bytes: Vec<u8> = self.counts.iter().flat_map(|count| count.to_be_bytes()).collect();
        self.out.write_at(offset, &bytes, "a refcount block")
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::unix::fs::FileExt;

    use super::*;
    use crate::image::Format;

    /// What `take` leads to in a file whose first four clusters are in use: its length in clusters, the refcount
    /// table, and the file.
    fn file_of(take: impl FnOnce(&mut Clusters<'_>)) -> (u64, Vec<u64>, File) {
        let file = tempfile::tempfile().unwrap();
        let out = Output::new(file.try_clone().unwrap(), Format::Qcow2).unwrap();
        let mut clusters = Clusters::new(&out, 4, 2);
        take(&mut clusters);
        let (file_bytes, table) = clusters.finish().unwrap();
        (file_bytes / CLUSTER_BYTES, table, file)
    }

    fn count(table: &[u64], file: &File, cluster: u64) -> u16 {
        let mut count = [0; 2];
        let offset = table[(cluster / PER_BLOCK) as usize] + cluster % PER_BLOCK * 2;
        file.read_exact_at(&mut count, offset).unwrap();
        u16::from_be_bytes(count)
    }

    #[test]
    fn compressed_bytes_lie_end_to_end_and_each_use_of_a_cluster_counts() {
        let (len, table, file) = file_of(|clusters| {
            assert_eq!(clusters.take_bytes(CLUSTER_BYTES - 100).unwrap(), 4 * CLUSTER_BYTES);
            // Over the border into the next cluster, and to its end.
            assert_eq!(clusters.take_bytes(150).unwrap(), 5 * CLUSTER_BYTES - 100);
            assert_eq!(clusters.take_bytes(CLUSTER_BYTES - 50).unwrap(), 5 * CLUSTER_BYTES + 50);
            assert_eq!(clusters.take_bytes(1).unwrap(), 6 * CLUSTER_BYTES);
            assert_eq!(clusters.take().unwrap(), 7 * CLUSTER_BYTES);
            // Still fits where the compressed bytes end, and then the next cluster is taken.
            assert_eq!(clusters.take_bytes(99).unwrap(), 6 * CLUSTER_BYTES + 1);
            assert_eq!(clusters.take_bytes(CLUSTER_BYTES - 1).unwrap(), 8 * CLUSTER_BYTES);
        });
        assert_eq!((len, &*table), (9, [2 * CLUSTER_BYTES].as_slice()));
        let counts: Vec<_> = (0..10).map(|cluster| count(&table, &file, cluster)).collect();
        assert_eq!(counts, [1, 1, 1, 1, 2, 2, 2, 1, 1, 0]);
    }

    #[test]
    fn a_refcount_block_begins_what_it_counts() {
        let (len, table, file) = file_of(|clusters| {
            for _ in 4..PER_BLOCK - 1 {
                clusters.take().unwrap();
            }
            assert_eq!(clusters.take_bytes(10).unwrap(), (PER_BLOCK - 1) * CLUSTER_BYTES);
            // Compressed bytes do not go on over a border where a block lies.
            let next = (PER_BLOCK + 1) * CLUSTER_BYTES;
            assert_eq!(clusters.take_bytes(CLUSTER_BYTES - 1).unwrap(), next);
            assert_eq!(clusters.take_bytes(2).unwrap(), next + CLUSTER_BYTES - 1);
        });
        assert_eq!((len, &*table), (PER_BLOCK + 3, [2, PER_BLOCK].map(|at| at * CLUSTER_BYTES).as_slice()));
        let clusters = [PER_BLOCK - 2, PER_BLOCK - 1, PER_BLOCK, PER_BLOCK + 1, PER_BLOCK + 2, PER_BLOCK + 3];
        assert_eq!(clusters.map(|cluster| count(&table, &file, cluster)), [1, 1, 1, 2, 1, 0]);
    }
}
