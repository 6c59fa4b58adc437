//! Disks packed into a store and read back from it.

use std::io;
use std::path::PathBuf;
use std::sync::Mutex;

use appliance::manifest::{ApplianceManifest, DiskLayer};
use appliance::{Blob, Digest};
use blob_store::LocalStore;
use formats::packed::{Chunk, DEFAULT_CACHE_BYTES, Frame, IndexWriter, PackedDisk};
use formats::{Disk, ReadError, Run, RunKind};
use packer::disks::{Base, PackOptions, PackedDisks, Progress, Statistics, WriteError, write_disks};
use proptest::prelude::*;

const BLOCK: usize = 4096;
const MIB: usize = 1 << 20;

/// A disk in memory. Says of each megabyte of zeros that nothing is stored there.
#[derive(Debug, Clone, PartialEq)]
struct Memory {
    content: Vec<u8>,
    /// Reads past this offset fail.
    readable: u64,
}

impl Memory {
    fn new(content: Vec<u8>) -> Self {
        Self { content, readable: u64::MAX }
    }
}

impl Disk for Memory {
    fn size_bytes(&self) -> u64 {
        self.content.len() as u64
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), ReadError> {
        let (len, size_bytes) = (buf.len() as u64, self.size_bytes());
        let end = offset as usize + buf.len();
        if offset + len > size_bytes {
            return Err(ReadError::OutOfRange { offset, len, size_bytes });
        }
        if offset + len > self.readable {
            return Err(ReadError::Io { what: "the sample".into(), source: io::ErrorKind::TimedOut.into() });
        }
        buf.copy_from_slice(&self.content[offset as usize..end]);
        Ok(())
    }

    fn runs(&self, offset: u64, len: u64) -> Result<Vec<Run>, ReadError> {
        // A grid that no block and no window agrees with.
        let content = &self.content[offset as usize..(offset + len) as usize];
        Ok(content
            .chunks(MIB - 1000)
            .map(|piece| Run {
                len: piece.len() as u64,
                kind: if piece.iter().all(|byte| *byte == 0) { RunKind::Zero } else { RunKind::Data },
            })
            .collect())
    }
}

fn store() -> (tempfile::TempDir, LocalStore) {
    let folder = tempfile::tempdir().unwrap();
    let store = LocalStore::open(folder.path()).unwrap();
    (folder, store)
}

/// `blocks` blocks that are like no others of another `seed`.
fn some_content(seed: u64, blocks: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(2) + 1;
    let mut content = vec![0; blocks * BLOCK];
    for byte in &mut content {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        *byte = (state >> 60) as u8;
    }
    content
}

fn options(threads: usize) -> PackOptions {
    PackOptions { threads, pack_bytes: 1 << 20, ..PackOptions::default() }
}

#[track_caller]
fn pack(disks: &[&Memory], base: Option<&PackedDisks>, store: &LocalStore, threads: usize) -> PackedDisks {
    let names: Vec<String> = (0..disks.len()).map(|number| format!("disk{number}")).collect();
    let disks: Vec<(&str, &dyn Disk)> =
        names.iter().zip(disks).map(|(name, disk)| (name.as_str(), *disk as &dyn Disk)).collect();
    let base = base.map(|base| Base::read(&manifest(base), store).unwrap());
    write_disks(&disks, base.as_ref(), store, &options(threads), &()).unwrap()
}

fn manifest(packed: &PackedDisks) -> ApplianceManifest {
    let nothing = Blob { digest: Digest::sha256(b""), size_bytes: 0 };
    ApplianceManifest {
        config: nothing,
        policy: nothing,
        disks: packed.disks.clone(),
        packs: packed.packs.clone(),
        ovf: None,
        nvram: None,
    }
}

#[track_caller]
fn check_reads_back(disk: &Memory, layer: &DiskLayer, store: &LocalStore) {
    let read = |blob: &Digest, offset: u64, buf: &mut [u8]| {
        store.blob(blob).map_err(io::Error::other)?.read_at(offset, buf)
    };
    let packed = PackedDisk::open(layer, read, DEFAULT_CACHE_BYTES).unwrap();
    assert_eq!(packed.size_bytes(), disk.size_bytes());
    let mut found = vec![0xee; disk.content.len()];
    packed.read_at(0, &mut found).unwrap();
    assert!(found == disk.content);
}

#[test]
fn disks_read_back_as_they_were() {
    let (_folder, store) = store();
    let holes = [some_content(1, 700), vec![0; 5 * MIB], some_content(2, 3), vec![0; 77]].concat();
    // The last chunk begins in one window and ends, with the disk, in the next.
    let across = [vec![0; 230 * BLOCK], some_content(5, 40)].concat();
    let disks = [
        Memory::new(holes),
        Memory::new(across),
        Memory::new(some_content(3, 1)[..1].to_vec()),
        Memory::new(vec![0; 3 * MIB]),
        Memory::new(some_content(4, 65)),
    ];
    let packed = pack(&disks.each_ref(), None, &store, 2);
    for (disk, layer) in disks.iter().zip(&packed.disks) {
        check_reads_back(disk, layer, &store);
    }
    let statistics = packed.statistics;
    assert_eq!(statistics.data_bytes as usize, (700 + 3 + 40 + 1 + 65) * BLOCK);
    assert_eq!(statistics.new_packs as usize, packed.packs.len());
    assert!(packed.packs.iter().all(|pack| pack.size_bytes <= 1 << 20), "{:?}", packed.packs);
    assert!(packed.packs.len() > 1);
}

#[test]
fn the_number_of_threads_changes_nothing() {
    let disk = Memory::new([some_content(1, 1500), vec![0; MIB], some_content(1, 900)].concat());
    let (_folder, first) = store();
    let want = pack(&[&disk], None, &first, 1);
    for threads in [2, 3, 16] {
        let (_folder, store) = store();
        assert_eq!(pack(&[&disk], None, &store, threads), want);
    }
    // And in a store that has it all already.
    assert_eq!(pack(&[&disk], None, &first, 4), want);
}

#[test]
fn content_that_repeats_is_stored_once() {
    let (_folder, store) = store();
    let one = some_content(1, 400);
    let disks = [Memory::new([&one[..], &[0; BLOCK], &one].concat()), Memory::new(one)];
    let packed = pack(&disks.each_ref(), None, &store, 2);
    let statistics = packed.statistics;
    assert_eq!(statistics.chunks % 3, 0);
    assert_eq!(statistics.repeated_chunks, statistics.chunks / 3 * 2);
    assert_eq!(statistics.repeated_bytes as usize, 2 * 400 * BLOCK);
    for (disk, layer) in disks.iter().zip(&packed.disks) {
        check_reads_back(disk, layer, &store);
    }
}

#[test]
fn against_a_base_only_what_changed_is_new() {
    let (_folder, store) = store();
    let old = Memory::new(some_content(1, 2000));
    let base = pack(&[&old], None, &store, 2);
    let mut new = old.clone();
    new.content[800 * BLOCK] ^= 1;
    new.content.extend([&[0; BLOCK][..], &some_content(2, 10)].concat());
    let packed = pack(&[&new], Some(&base), &store, 2);
    check_reads_back(&new, &packed.disks[0], &store);
    assert_eq!(packed.packs[..base.packs.len()], base.packs);
    assert_eq!(packed.packs.len(), base.packs.len() + 1);
    let statistics = packed.statistics;
    // At most the chunk that changed, one beside it, and what was appended.
    assert!(statistics.data_bytes - statistics.base_bytes <= 3 * 64 * BLOCK as u64, "{statistics:?}");
    assert_eq!(statistics.new_packs, 1);

    let again = pack(&[&old], Some(&base), &store, 2);
    assert_eq!((again.disks, again.packs, again.statistics.new_packs), (base.disks, base.packs, 0));
}

#[test]
fn a_base_pack_of_which_little_is_used_is_replaced() {
    let (_folder, store) = store();
    let old = Memory::new(some_content(1, 2000));
    let base = pack(&[&old], None, &store, 2);
    let number_of_packs = base.packs.len();
    assert!(number_of_packs >= 3);
    // Only the end of what the first pack has, and all of the others.
    let new = Memory::new(old.content[380 * BLOCK..].to_vec());
    let packed = pack(&[&new], Some(&base), &store, 2);
    check_reads_back(&new, &packed.disks[0], &store);
    assert!(!packed.packs.contains(&base.packs[0]), "the first pack is used too little");
    assert_eq!(packed.packs[..number_of_packs - 1], base.packs[1..]);
    assert_eq!(packed.statistics.new_packs, 1);
    assert!(packed.statistics.repacked_bytes > 0);

    // Of which more than half is used, it stays.
    let new = Memory::new(old.content[100 * BLOCK..].to_vec());
    let packed = pack(&[&new], Some(&base), &store, 2);
    assert_eq!(packed.packs[..number_of_packs], base.packs);
    assert_eq!(packed.statistics.repacked_bytes, 0);
}

/// A store with a base made of `old`, of whose first pack `damage` was done to the bytes.
fn damaged_base(
    old: &Memory,
    damage: impl Fn(&mut Vec<u8>),
) -> (tempfile::TempDir, LocalStore, PackedDisks, PathBuf) {
    let (folder, store) = store();
    let base = write_disks(&[("disk0", old)], None, &store, &large_packs(2), &()).unwrap();
    assert!(base.packs.len() > 1);
    let path = store.blob_path(&base.packs[0].digest);
    let mut bytes = std::fs::read(&path).unwrap();
    damage(&mut bytes);
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, bytes).unwrap();
    (folder, store, base, path)
}

/// Packs of several frames each.
fn large_packs(threads: usize) -> PackOptions {
    PackOptions { pack_bytes: 3 << 20, ..options(threads) }
}

/// Packs a new version against a base after `damage` to its first pack, and checks that nothing of the
/// result depends on that pack.
#[track_caller]
fn check_damaged_base_pack(damage: impl Fn(&mut Vec<u8>)) -> Statistics {
    let old = Memory::new(some_content(1, 2000));
    let (_folder, store, base, path) = damaged_base(&old, damage);
    let mut new = old;
    new.content[0] ^= 1;
    let known = Base::read(&manifest(&base), &store).unwrap();
    let pack =
        |threads| write_disks(&[("disk0", &new)], Some(&known), &store, &large_packs(threads), &()).unwrap();
    let packed = pack(2);
    assert_eq!(pack(3), packed);
    assert!(!packed.packs.contains(&base.packs[0]));
    assert_eq!(packed.packs[..base.packs.len() - 1], base.packs[1..]);
    std::fs::remove_file(&path).unwrap();
    check_reads_back(&new, &packed.disks[0], &store);
    packed.statistics
}

#[test]
fn nothing_is_taken_from_a_damaged_frame_and_its_pack_is_replaced() {
    let one_byte = check_damaged_base_pack(|bytes| bytes[1_000_000] ^= 1);
    assert_eq!(one_byte.damaged_base_frames, 1);
    assert!(one_byte.repacked_bytes > 0, "its other frames are whole");
    let all = check_damaged_base_pack(|bytes| bytes.iter_mut().step_by(50).for_each(|byte| *byte ^= 1));
    assert!(all.damaged_base_frames > 1);
    assert_eq!(all.repacked_bytes, 0);
    let half = check_damaged_base_pack(|bytes| bytes.truncate(bytes.len() / 2));
    assert!(half.damaged_base_frames > 1);
    let gone = check_damaged_base_pack(Vec::clear);
    assert_eq!(gone.damaged_base_frames, all.damaged_base_frames);
}

#[test]
fn a_pack_that_has_rotted_in_the_store_is_not_taken_for_the_same_pack_made_anew() {
    let old = Memory::new(some_content(1, 2000));
    let (_folder, store, base, _path) =
        damaged_base(&old, |bytes| bytes.iter_mut().step_by(50).for_each(|byte| *byte ^= 1));
    let known = Base::read(&manifest(&base), &store).unwrap();
    let packed = write_disks(&[("disk0", &old)], Some(&known), &store, &large_packs(2), &()).unwrap();
    check_reads_back(&old, &packed.disks[0], &store);
}

/// The base with an index that lies: each of its chunks, and its frame, changed by `change`.
fn forged(base: &PackedDisks, store: &LocalStore, change: impl Fn(&mut Chunk, &mut Frame)) -> PackedDisks {
    let read = |blob: &Digest, offset: u64, buf: &mut [u8]| {
        store.blob(blob).map_err(io::Error::other)?.read_at(offset, buf)
    };
    let disk = PackedDisk::open(&base.disks[0], read, 0).unwrap();
    let root = disk.root();
    let mut index = IndexWriter::new(root.size_bytes, root.cut_rule, root.packs.clone());
    for entry in &root.pages {
        for (honest, frame) in disk.page(entry).unwrap().chunks() {
            let (mut chunk, mut frame) = (*honest, *frame);
            change(&mut chunk, &mut frame);
            index.chunk(chunk.blocks, chunk.sha256, frame, chunk.first);
            if chunk.blocks < honest.blocks {
                index.zero(u64::from(honest.blocks - chunk.blocks));
            }
        }
    }
    let index = index.finish();
    let layer = DiskLayer { name: "disk0".into(), index: store.put(&index.bytes).unwrap(), root: index.root };
    PackedDisks { disks: vec![layer], ..base.clone() }
}

#[test]
fn a_base_whose_index_lies_is_not_believed() {
    let (_folder, store) = store();
    let old = Memory::new(some_content(1, 2000));
    let honest = pack(&[&old], None, &store, 2);
    let check = |lie: &str, change: &dyn Fn(&mut Chunk, &mut Frame)| {
        let base = forged(&honest, &store, |chunk, frame| change(chunk, frame));
        let packed = pack(&[&old], Some(&base), &store, 2);
        assert!(packed.statistics.damaged_base_frames > 0, "{lie}: {:?}", packed.statistics);
        assert_eq!(packed.statistics.base_chunks, 0, "{lie}");
        check_reads_back(&old, &packed.disks[0], &store);
    };
    // Below each frame's end, so that the page itself cannot be refused.
    check("fewer blocks", &|chunk, _| chunk.blocks = 1);
    check("the frame's first block", &|chunk, _| chunk.first = u16::from(chunk.first == 0));
    check("a frame of another size", &|_, frame| {
        frame.blocks += u16::from(frame.blocks < 256);
        frame.len -= 1;
    });
}

#[test]
fn base_packs_that_are_not_here_are_not_used() {
    let (folder, store) = store();
    let old = Memory::new(some_content(1, 2000));
    let base = pack(&[&old], None, &store, 2);
    std::fs::remove_file(folder.path().join("blobs/sha256").join(base.packs[1].digest.hex())).unwrap();
    let packed = pack(&[&old], Some(&base), &store, 2);
    check_reads_back(&old, &packed.disks[0], &store);
    assert_eq!(packed.packs[0], base.packs[0]);
    assert_eq!(packed.statistics.new_packs, 1);
}

#[test]
fn a_disk_that_cannot_be_read_leaves_no_pack_behind() {
    let (folder, store) = store();
    let disk = Memory { readable: 3 * MIB as u64, ..Memory::new(some_content(1, 1000)) };
    let options = PackOptions { pack_bytes: 64 << 20, ..options(2) };
    let error = write_disks(&[("root", &disk)], None, &store, &options, &()).unwrap_err();
    assert_eq!(error.to_string(), "cannot read disk root");
    assert_eq!(std::fs::read_dir(folder.path().join("blobs/sha256")).unwrap().count(), 0);
    assert_eq!(std::fs::read_dir(folder.path().join("tmp")).unwrap().count(), 0);
}

#[test]
fn a_store_that_cannot_be_written_says_so() {
    let (folder, store) = store();
    std::fs::remove_dir(folder.path().join("tmp")).unwrap();
    let disk = Memory::new(some_content(1, 3000));
    let error = write_disks(&[("root", &disk)], None, &store, &options(2), &()).unwrap_err();
    assert!(matches!(&error, WriteError::Store(_)), "{error:?}");
}

#[test]
fn a_disk_without_a_byte_is_refused() {
    let (_folder, store) = store();
    let disk = Memory::new(Vec::new());
    let error = write_disks(&[("root", &disk)], None, &store, &options(2), &()).unwrap_err();
    assert_eq!(error.to_string(), "disk root has 0 bytes; a disk has 1 byte to 64 TiB");
}

#[test]
fn progress_ends_with_the_whole_disk() {
    #[derive(Default, Debug)]
    struct Told(Mutex<Vec<(String, u64, u64)>>);
    impl Progress for Told {
        fn packed(&self, name: &str, done_bytes: u64, size_bytes: u64) {
            self.0.lock().unwrap().push((name.to_owned(), done_bytes, size_bytes));
        }
    }
    let (_folder, store) = store();
    let content = [some_content(1, 700), vec![0; 5 * MIB + 1]].concat();
    let size = content.len() as u64;
    let told = Told::default();
    write_disks(&[("root", &Memory::new(content))], None, &store, &options(2), &told).unwrap();
    let told = told.0.into_inner().unwrap();
    assert!(told.is_sorted());
    assert_eq!(told.last(), Some(&("root".to_owned(), size, size)));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_disk_reads_back_alone_and_against_any_base(
        old in proptest::collection::vec((0_u64..6, 1_usize..200), 1..12),
        new in proptest::collection::vec((0_u64..6, 1_usize..200), 1..12),
        cut in 0..BLOCK,
        threads in 1_usize..4,
    ) {
        let disk = |parts: &[(u64, usize)]| {
            let parts = parts.iter().map(|(seed, blocks)| match seed {
                0 => vec![0; blocks * BLOCK],
                seed => some_content(*seed, *blocks),
            });
            let mut content: Vec<u8> = parts.flatten().collect();
            content.truncate(content.len() - cut);
            Memory::new(content)
        };
        let (_folder, store) = store();
        let (old, new) = (disk(&old), disk(&new));
        let base = pack(&[&old], None, &store, threads);
        check_reads_back(&old, &base.disks[0], &store);
        let packed = pack(&[&new], Some(&base), &store, threads);
        check_reads_back(&new, &packed.disks[0], &store);
        let again = pack(&[&new], Some(&base), &store, 5 - threads);
        prop_assert_eq!(packed, again);
    }
}
