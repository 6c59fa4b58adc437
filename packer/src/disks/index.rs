//! The indexes of disks whose chunks all lie in packs.

use appliance::Blob;
use appliance::manifest::DiskLayer;
use blob_store::LocalStore;
use formats::Disk;
use formats::packed::{EncodedIndex, IndexWriter, MAX_PACKS};

use super::catalog::Catalog;
use super::pipeline::{DiskRun, DiskRuns, Written};
use super::{PackedDisks, WriteError};

/// Writes an index for each of the disks.
pub(super) fn write(
    disks: &[(&str, &dyn Disk)],
    written: Written,
    store: &LocalStore,
) -> Result<PackedDisks, WriteError> {
    let catalog = &written.catalog;
    let mut layers = Vec::with_capacity(disks.len());
    let mut used_by_any = vec![false; catalog.packs.len()];
    for ((name, disk), runs) in disks.iter().zip(&written.disks) {
        let used = used_packs(catalog, runs);
        let found = used.iter().filter(|used| **used).count();
        if found > MAX_PACKS {
            return Err(WriteError::TooManyPacks { disk: (*name).to_owned(), found });
        }
        let index = encode(catalog, disk.size_bytes(), runs, &used);
        let blob = store.put(&index.bytes)?;
        layers.push(DiskLayer { name: (*name).to_owned(), index: blob, root: index.root });
        used_by_any.iter_mut().zip(used).for_each(|(any, used)| *any |= used);
    }
    Ok(PackedDisks {
        disks: layers,
        packs: select(&catalog.packs, &used_by_any),
        statistics: written.statistics,
    })
}

/// Which of the catalog's packs a disk's chunks lie in.
fn used_packs(catalog: &Catalog, disk: &DiskRuns) -> Vec<bool> {
    let mut used = vec![false; catalog.packs.len()];
    for run in &disk.runs {
        if let DiskRun::Chunk(id) = run {
            used[catalog.pack_of(*id) as usize] = true;
        }
    }
    used
}

fn select(packs: &[Blob], used: &[bool]) -> Vec<Blob> {
    packs.iter().zip(used).filter(|(_, used)| **used).map(|(pack, _)| *pack).collect()
}

fn encode(catalog: &Catalog, size_bytes: u64, disk: &DiskRuns, used: &[bool]) -> EncodedIndex {
    // The disk's own numbers for the packs that it uses.
    let numbers: Vec<u16> = used
        .iter()
        .scan(0, |next, used| {
            let number = *next;
            *next += u16::from(*used);
            Some(number)
        })
        .collect();
    let mut index = IndexWriter::new(size_bytes, disk.cut_rule, select(&catalog.packs, used));
    for run in &disk.runs {
        match run {
            DiskRun::Zeros { blocks } => index.zero(u64::from(*blocks)),
            DiskRun::Chunk(id) => {
                let chunk = catalog.chunk(*id);
                let frame = catalog.frame(chunk.frame);
                let number = numbers[frame.pack as usize];
                index.chunk(chunk.blocks, chunk.sha256, frame.in_pack(number), chunk.first.into());
            }
        }
    }
    index.finish()
}
