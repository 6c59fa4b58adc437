//! Packed disks, through the public interface: what was written reads back, and what nobody would
//! write is refused.

use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use appliance::manifest::DiskLayer;
use appliance::{Blob, Digest};
use formats::cut::CutRule;
use formats::packed::{
    BLOCK_BYTES, DEFAULT_CACHE_BYTES, Frame, FrameDecoder, FrameEncoder, IndexError, IndexWriter, PackedDisk,
    Page, Root,
};
use formats::{Disk, ReadError, RunKind};
use proptest::prelude::*;

const BLOCK: usize = BLOCK_BYTES as usize;
const MIB: u64 = 1 << 20;

/// Blobs by digest, and how often each was read.
#[derive(Debug, Default)]
struct Blobs {
    content: HashMap<Digest, Vec<u8>>,
    reads: AtomicUsize,
}

impl Blobs {
    fn put(&mut self, bytes: Vec<u8>) -> Blob {
        let blob = Blob { digest: Digest::sha256(&bytes), size_bytes: bytes.len() as u64 };
        self.content.insert(blob.digest, bytes);
        blob
    }

    fn read(&self, blob: &Digest, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        let bytes = self.content.get(blob).ok_or(io::ErrorKind::NotFound)?;
        let from = bytes.get(offset as usize..).ok_or(io::ErrorKind::UnexpectedEof)?;
        buf.copy_from_slice(from.get(..buf.len()).ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

/// A disk in packed form, and the means to damage it.
#[derive(Debug)]
struct Packed {
    blobs: Blobs,
    layer: DiskLayer,
}

/// Packs `disk`, which starts at `lead_blocks` zero blocks: chunks of at most `chunk_blocks`, frames of
/// `frame_chunks` chunks, one pack.
fn pack(disk: &[u8], lead_blocks: u64, chunk_blocks: usize, frame_chunks: usize) -> Packed {
    let size_bytes = lead_blocks * BLOCK_BYTES + disk.len() as u64;
    let mut padded = disk.to_vec();
    padded.resize(disk.len().next_multiple_of(BLOCK), 0);
    let chunks = chunks_of(&padded, lead_blocks as usize, chunk_blocks);

    let mut encoder = FrameEncoder::new(3);
    let (mut pack, mut compressed) = (Vec::new(), Vec::new());
    let mut places = Vec::new();
    for group in chunks.iter().filter(|chunk| !is_zero(chunk)).collect::<Vec<_>>().chunks(frame_chunks) {
        let content: Vec<u8> = group.iter().flat_map(|chunk| chunk.iter().copied()).collect();
        encoder.encode(&content, &mut compressed);
        let blocks = (content.len() / BLOCK) as u16;
        let frame = Frame { pack: 0, offset: pack.len() as u64, len: compressed.len() as u32, blocks };
        let mut first = 0;
        for chunk in group {
            places.push((frame, first));
            first += (chunk.len() / BLOCK) as u16;
        }
        pack.extend(&compressed);
    }

    let mut blobs = Blobs::default();
    let packs = if pack.is_empty() { Vec::new() } else { vec![blobs.put(pack)] };
    let mut writer = IndexWriter::new(size_bytes, CutRule { id: 2, version: 1 }, packs);
    writer.zero(lead_blocks);
    let mut places = places.into_iter();
    for chunk in &chunks {
        let blocks = (chunk.len() / BLOCK) as u8;
        match is_zero(chunk) {
            true => writer.zero(blocks.into()),
            false => {
                let (frame, first) = places.next().unwrap();
                writer.chunk(blocks, sha256(chunk), frame, first);
            }
        }
    }
    let index = writer.finish();
    let layer = DiskLayer { name: "root".into(), root: index.root, index: blobs.put(index.bytes) };
    Packed { blobs, layer }
}

/// Runs of at most `chunk_blocks` blocks, none of them zero, and single zero blocks. None crosses into
/// the next page; the disk starts at block `start`.
fn chunks_of(disk: &[u8], start: usize, chunk_blocks: usize) -> Vec<&[u8]> {
    let mut chunks = Vec::new();
    let (mut rest, mut at) = (disk, start);
    while !rest.is_empty() {
        let most = chunk_blocks.min(65_536 - at % 65_536);
        let data = rest.chunks(BLOCK).take(most).take_while(|block| !is_zero(block)).count().max(1);
        let (chunk, after) = rest.split_at(data * BLOCK);
        chunks.push(chunk);
        (rest, at) = (after, at + data);
    }
    chunks
}

fn is_zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte == 0)
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    Digest::sha256(bytes).as_bytes().try_into().unwrap()
}

impl Packed {
    fn open(&self) -> Result<PackedDisk<impl formats::packed::RangeSource>, ReadError> {
        let read = |blob: &Digest, offset: u64, buf: &mut [u8]| self.blobs.read(blob, offset, buf);
        PackedDisk::open(&self.layer, read, DEFAULT_CACHE_BYTES)
    }

    fn index(&self) -> &[u8] {
        &self.blobs.content[&self.layer.index.digest]
    }

    fn root(&self) -> &[u8] {
        &self.index()[..self.layer.root.size_bytes as usize]
    }

    fn page(&self, number: usize) -> &[u8] {
        let entry = Root::parse(self.root()).unwrap().pages[number];
        &self.index()[entry.offset as usize..][..entry.len as usize]
    }
}

/// `blocks` blocks of content that repeats nowhere, with a zero block after every seventh.
fn some_content(blocks: usize) -> Vec<u8> {
    let mut state = 1_u64;
    let mut bytes = vec![0; blocks * BLOCK];
    for (number, block) in bytes.chunks_mut(BLOCK).enumerate() {
        if number % 8 == 7 {
            continue;
        }
        for byte in block {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            *byte = (state >> 61) as u8 + 1;
        }
    }
    bytes
}

/// The disk reads back whole and in pieces, and its runs cover it.
#[track_caller]
fn check_reads_back(disk: &[u8], packed: &Packed) {
    let opened = packed.open().unwrap();
    assert_eq!(opened.size_bytes(), disk.len() as u64);
    let mut found = vec![0xee; disk.len()];
    opened.read_at(0, &mut found).unwrap();
    assert!(found == disk, "read in one piece");
    let mut at = 0;
    while at < disk.len() {
        for run in opened.runs(at as u64, (disk.len() - at) as u64).unwrap() {
            let end = at + run.len as usize;
            assert!(run.kind == RunKind::Data || is_zero(&disk[at..end]), "zeros at {at} are zeros");
            at = end;
        }
    }
    assert_eq!(at, disk.len());
}

#[test]
fn a_disk_reads_back_as_it_was() {
    for (blocks, chunk_blocks, frame_chunks) in
        [(1, 64, 1), (100, 1, 1), (300, 64, 4), (300, 3, 85), (64, 5, 2)]
    {
        let disk = some_content(blocks);
        check_reads_back(&disk, &pack(&disk, 0, chunk_blocks, frame_chunks));
    }
}

#[test]
fn an_empty_disk_has_a_root_and_nothing_else() {
    let disk = vec![0; 1 << 20];
    let packed = pack(&disk, 0, 64, 4);
    assert_eq!(packed.layer.root, packed.layer.index);
    check_reads_back(&disk, &packed);
}

#[test]
fn a_disk_may_end_in_the_middle_of_a_block() {
    let disk = &some_content(9)[..8 * BLOCK + 100];
    let packed = pack(disk, 0, 64, 4);
    check_reads_back(disk, &packed);
    let error = packed.open().unwrap().read_at(disk.len() as u64 - 1, &mut [0; 2]).unwrap_err();
    assert!(matches!(error, ReadError::OutOfRange { .. }), "{error}");
}

#[test]
fn pages_of_zeros_cost_nothing_and_later_pages_are_found() {
    let disk = some_content(20);
    let lead = 3 * 65_536 - 4;
    let packed = pack(&disk, lead, 4, 2);
    let opened = packed.open().unwrap();
    assert_eq!(opened.root().pages.len(), 2);
    let mut found = vec![0xee; disk.len() + BLOCK];
    opened.read_at((lead - 1) * BLOCK_BYTES, &mut found).unwrap();
    assert!(is_zero(&found[..BLOCK]) && found[BLOCK..] == disk);
    let runs = opened.runs(0, opened.size_bytes()).unwrap();
    assert_eq!((runs[0].kind, runs[0].len), (RunKind::Zero, lead * BLOCK_BYTES));
    let reads = packed.blobs.reads.load(Ordering::Relaxed);
    opened.read_at(0, &mut vec![1; MIB as usize]).unwrap();
    assert_eq!(packed.blobs.reads.load(Ordering::Relaxed), reads);
}

#[test]
fn a_frame_is_fetched_once_however_many_threads_want_it() {
    // Together they read less than all of it.
    let disk = some_content(200);
    let packed = pack(&disk, 0, 8, 300);
    let opened = packed.open().unwrap();
    opened.page(&opened.root().pages[0]).unwrap();
    let before = packed.blobs.reads.load(Ordering::Relaxed);
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let (opened, disk) = (&opened, &disk);
            scope.spawn(move || {
                let mut found = vec![0; 10 * BLOCK];
                opened.read_at(thread * 40_960, &mut found).unwrap();
                assert!(found == disk[thread as usize * 40_960..][..found.len()]);
            });
        }
    });
    assert_eq!(packed.blobs.reads.load(Ordering::Relaxed) - before, 1);
}

/// Whoever has read all of a frame, a guest or a copy, keeps it; what it has read in part it may go on with.
#[test]
fn a_frame_is_kept_until_all_of_it_was_read() {
    let disk = some_content(7);
    let packed = pack(&disk, 0, 4, 2);
    let opened = packed.open().unwrap();
    let fetches = |from: usize, to: usize| {
        let before = packed.blobs.reads.load(Ordering::Relaxed);
        let mut found = vec![0; (to - from) * BLOCK];
        opened.read_at((from * BLOCK) as u64, &mut found).unwrap();
        assert!(found == disk[from * BLOCK..to * BLOCK]);
        packed.blobs.reads.load(Ordering::Relaxed) - before
    };
    assert_eq!(fetches(0, 3), 2, "a page and a frame");
    assert_eq!(fetches(3, 7), 0);
    assert_eq!(fetches(0, 7), 1);
}

#[test]
fn a_cache_that_holds_nothing_only_costs_time() {
    let disk = some_content(64);
    let packed = pack(&disk, 0, 4, 2);
    let read = |blob: &Digest, offset: u64, buf: &mut [u8]| packed.blobs.read(blob, offset, buf);
    let opened = PackedDisk::open(&packed.layer, read, 0).unwrap();
    for _ in 0..2 {
        let mut found = vec![0; disk.len()];
        opened.read_at(0, &mut found).unwrap();
        assert!(found == disk);
    }
}

#[test]
fn a_source_that_fails_fails_the_read_and_not_the_disk() {
    let disk = some_content(8);
    let packed = pack(&disk, 0, 4, 2);
    let failures = Mutex::new(1);
    let pack_digest = Root::parse(packed.root()).unwrap().packs[0].digest;
    let read = |blob: &Digest, offset: u64, buf: &mut [u8]| {
        let mut left = failures.lock().unwrap();
        if *blob == pack_digest && *left > 0 {
            *left -= 1;
            return Err(io::ErrorKind::TimedOut.into());
        }
        packed.blobs.read(blob, offset, buf)
    };
    let opened = PackedDisk::open(&packed.layer, read, DEFAULT_CACHE_BYTES).unwrap();
    let mut found = vec![0; disk.len()];
    let error = opened.read_at(0, &mut found).unwrap_err();
    assert!(matches!(&error, ReadError::Io { source, .. } if source.kind() == io::ErrorKind::TimedOut));
    opened.read_at(0, &mut found).unwrap();
    assert!(found == disk);
}

/// Whatever byte of whichever blob is changed, no wrong content is ever handed out.
#[test]
fn damage_anywhere_is_found_before_content_is_handed_out() {
    let disk = some_content(24);
    let whole = pack(&disk, 0, 4, 2);
    let digests: Vec<Digest> = whole.blobs.content.keys().copied().collect();
    for digest in digests {
        let len = whole.blobs.content[&digest].len();
        for at in (0..len).step_by(len / 150 + 1) {
            let mut damaged = pack(&disk, 0, 4, 2);
            damaged.blobs.content.get_mut(&digest).unwrap()[at] ^= 1 << (at % 8);
            let mut found = vec![0; disk.len()];
            if damaged.open().and_then(|opened| opened.read_at(0, &mut found)).is_ok() {
                assert!(found == disk, "byte {at} of {digest}");
            }
        }
    }
}

/// What the reader says when the content, its digest or the frame is not what the index promises.
#[test]
fn the_reader_says_what_it_found_and_what_was_promised() {
    let disk = some_content(4);
    let mut packed = pack(&disk, 0, 4, 2);
    let pack_digest = Root::parse(packed.root()).unwrap().packs[0].digest;
    let mut frame = Vec::new();
    FrameEncoder::new(3).encode(&vec![7; 4 * BLOCK], &mut frame);
    let old = packed.blobs.content[&pack_digest].len();
    // A skippable frame behind it keeps the length.
    frame.resize(old, 0);
    packed.blobs.content.insert(pack_digest, frame);
    let error = packed.open().unwrap().read_at(0, &mut [0; 1]).unwrap_err().to_string();
    assert!(error.contains("do not hold exactly one zstd frame"), "{error}");

    packed.layer.root.digest = Digest::sha256(b"another");
    let error = packed.open().unwrap_err().to_string();
    assert!(error.starts_with("the root of the index of disk root has digest sha256:"), "{error}");
}

/// `frame` is refused as content of `content_bytes`, and `want` is in the message.
#[track_caller]
fn check_frame_error(frame: &[u8], content_bytes: usize, want: &str) {
    let mut content = vec![1; 10];
    let error = FrameDecoder::default().decode(frame, content_bytes, &mut content).unwrap_err().to_string();
    assert!(error.contains(want), "{error}");
    assert!(content.is_empty() && content.capacity() <= content_bytes.max(10));
}

#[test]
fn a_frame_holds_exactly_what_was_promised() {
    let mut frame = Vec::new();
    FrameEncoder::new(3).encode(&vec![7; 2 * BLOCK], &mut frame);
    check_frame_error(&frame, BLOCK, "the frame says it holds 8192 bytes; the index promises 4096");
    check_frame_error(&frame[..frame.len() - 1], 2 * BLOCK, "do not hold exactly one zstd frame");
    check_frame_error(&[&frame[..], &[0]].concat(), 2 * BLOCK, "something follows the frame");
    check_frame_error(&[&frame[..], &frame[..]].concat(), 2 * BLOCK, "something follows the frame");
    check_frame_error(b"", 2 * BLOCK, "no frame starts here");
    check_frame_error(b"no frame at all", 2 * BLOCK, "no frame starts here");
    check_frame_error(&[0x50, 0x2a, 0x4d, 0x18, 0, 0, 0, 0], BLOCK, "says it holds 0 bytes");
}

/// The sample disk's root after `edit` is refused with `want`.
#[track_caller]
fn check_root(edit: impl FnOnce(&mut Vec<u8>), want: &str) {
    let mut bytes = pack(&some_content(20), 65_530, 4, 2).root().to_vec();
    edit(&mut bytes);
    let error = Root::parse(&bytes).unwrap_err().to_string();
    assert_eq!(error, want);
}

fn set<const N: usize>(at: usize, value: [u8; N]) -> impl FnOnce(&mut Vec<u8>) {
    move |bytes| bytes[at..at + N].copy_from_slice(&value)
}

#[test]
fn a_root_that_cannot_be_right_is_refused() {
    check_root(set(0, *b"QFI\xfb"), r"a disk index starts with `hulldisk`; this starts with `QFI\xfbdisk`");
    check_root(set(8, [2, 0]), "the disk index has format version 2; this hull reads version 1");
    check_root(set(14, [1]), "at byte 14 of the root, reserved is 1; it is 0 in version 1");
    check_root(set(16, [0; 8]), "at byte 16 of the root, size is 0; a disk has 1 byte to 64 TiB");
    check_root(
        set(16, (64_u64 << 40 | 1).to_le_bytes()),
        "at byte 16 of the root, size is 70368744177665; a disk has 1 byte to 64 TiB",
    );
    check_root(
        set(24, 16_385_u32.to_le_bytes()),
        "at byte 24 of the root, pack count is 16385; a disk uses at most 16384 packs",
    );
    check_root(set(28, [3]), "at byte 28 of the root, page count is 3; the disk has fewer pages of 256 MiB");
    check_root(set(24, [0]), "at byte 28 of the root, page count is 2; pages and packs need one another");
    check_root(set(28, [0]), "at byte 28 of the root, page count is 0; pages and packs need one another");
    check_root(set(24, [2]), "the root has 176 bytes; its counts say otherwise");
    check_root(|bytes| bytes.truncate(175), "the root has 175 bytes; its counts say otherwise");
    check_root(|bytes| bytes.push(0), "the root has 177 bytes; its counts say otherwise");
    check_root(|bytes| bytes.truncate(31), "the root has 31 bytes; it ends in the middle of an entry");
    check_root(
        |bytes| bytes.resize(14_286_881, 0),
        "the root has 14286881 bytes; no disk needs more than 14286880",
    );
    check_root(set(64, [0; 8]), "at byte 64 of the root, pack size is 0; a pack has 1 byte to 64 MiB");
    check_root(
        set(64, (64 * MIB + 1).to_le_bytes()),
        "at byte 64 of the root, pack size is 67108865; a pack has 1 byte to 64 MiB",
    );
    check_root(
        |bytes| {
            bytes[24] = 2;
            let pack = bytes[32..72].to_vec();
            bytes.splice(72..72, pack);
        },
        "at byte 72 of the root, pack digest is 1; the same pack is listed twice",
    );
    check_root(set(72, [1]), "at byte 72 of the root, first block is 1; it is a multiple of 65536");
    check_root(set(124, [0; 8]), "at byte 124 of the root, first block is 0; pages are in ascending order");
    check_root(
        set(124, 131_072_u64.to_le_bytes()),
        "at byte 124 of the root, first block is 131072; the disk ends before it",
    );
    check_root(
        set(80, 177_u64.to_le_bytes()),
        "at byte 80 of the root, page offset is 177; pages lie end to end behind the root",
    );
    check_root(
        set(88, [63, 0, 0, 0]),
        "at byte 88 of the root, page length is 63; a page has 64 to 3670024 bytes",
    );
    check_root(
        set(88, 3_670_025_u32.to_le_bytes()),
        "at byte 88 of the root, page length is 3670025; a page has 64 to 3670024 bytes",
    );
    check_root(
        set(88, [65, 0, 0, 0]),
        "at byte 132 of the root, page offset is 284; pages lie end to end behind the root",
    );
}

/// The sample page after `edit` is refused with `want`. It has 2 frames of 7 and 6 blocks, and the
/// runs 4 blocks, 3 blocks, 1 zero, 4 blocks, 2 blocks.
#[track_caller]
fn check_page(edit: impl FnOnce(&mut Vec<u8>), want: &str) {
    let packed = pack(&some_content(14), 0, 4, 2);
    let root = Root::parse(packed.root()).unwrap();
    let mut bytes = packed.page(0).to_vec();
    Page::parse(&bytes, 14, &root.packs).unwrap();
    edit(&mut bytes);
    let error = Page::parse(&bytes, 14, &root.packs).unwrap_err().to_string();
    assert_eq!(error, want);
}

#[test]
fn a_page_that_cannot_be_right_is_refused() {
    const RUNS: usize = 8 + 2 * 16;
    let frame = |number: usize| 8 + number * 16;
    check_page(set(0, [0]), "at byte 0 of the page, frame count is 0; a page has 1 frame to one per block");
    check_page(set(0, [15]), "at byte 0 of the page, frame count is 15; a page has 1 frame to one per block");
    check_page(set(4, [0]), "at byte 4 of the page, run count is 0; a page has 1 run to one per block");
    check_page(set(4, [15]), "at byte 4 of the page, run count is 15; a page has 1 run to one per block");
    check_page(|bytes| bytes.truncate(40), "the page has 40 bytes; its counts need more");
    check_page(|bytes| bytes.truncate(7), "the page has 7 bytes; it ends in the middle of an entry");
    check_page(|bytes| bytes.truncate(203), "the page has 203 bytes; it ends in the middle of an entry");
    check_page(|bytes| bytes.push(0), "the page has 205 bytes; it goes on after its last run");
    check_page(
        |bytes| bytes.resize(3_670_025, 0),
        "the page has 3670025 bytes; no page needs more than 3670024",
    );
    check_page(
        set(frame(0) + 14, [0, 0]),
        "at byte 22 of the page, frame blocks is 0; a frame holds 1 to 256 blocks",
    );
    check_page(
        set(frame(0) + 14, 257_u16.to_le_bytes()),
        "at byte 22 of the page, frame blocks is 257; a frame holds 1 to 256 blocks",
    );
    check_page(
        set(frame(0) + 12, [1]),
        "at byte 20 of the page, frame pack is 1; the root lists fewer packs",
    );
    check_page(
        set(frame(0) + 8, [0; 4]),
        "at byte 16 of the page, frame length is 0; so many blocks do not need so many bytes",
    );
    check_page(
        set(frame(0) + 8, 28_849_u32.to_le_bytes()),
        "at byte 16 of the page, frame length is 28849; so many blocks do not need so many bytes",
    );
    check_page(
        set(frame(1), [0xff; 8]),
        "at byte 24 of the page, frame offset is 18446744073709551615; the pack ends before the frame does",
    );
    check_page(
        set(frame(1), [0; 8]),
        "at byte 24 of the page, frame offset is 0; frames ascend by pack and offset and do not overlap",
    );
    check_page(
        set(frame(0) + 8, (second_frame_offset() as u32 + 1).to_le_bytes()),
        &format!(
            "at byte 24 of the page, frame offset is {}; frames ascend by pack and offset and do not overlap",
            second_frame_offset()
        ),
    );
    check_page(set(RUNS, [2]), "at byte 40 of the page, run kind is 2; a run is 0, zeros, or 1, a chunk");
    check_page(set(RUNS + 1, [0]), "at byte 41 of the page, chunk blocks is 0; a chunk has 1 to 64 blocks");
    check_page(set(RUNS + 1, [65]), "at byte 41 of the page, chunk blocks is 65; a chunk has 1 to 64 blocks");
    check_page(
        set(RUNS + 2, [4]),
        "at byte 42 of the page, chunk first block is 4; the frame's content ends before the chunk does",
    );
    check_page(set(RUNS + 4, [2]), "at byte 44 of the page, chunk frame is 2; the page lists fewer frames");
    check_page(set(RUNS + 81, [1]), "at byte 121 of the page, reserved is 1; it is 0 in a zero run");
    check_page(set(RUNS + 82, [7]), "at byte 120 of the page, run is 15; the page has fewer blocks");
    check_page(set(RUNS + 41, [2]), "at byte 204 of the page, run total is 13; the page has more blocks");
    check_page(
        |bytes| {
            bytes[4] = 6;
            bytes.splice(RUNS + 84..RUNS + 84, [0; 4]);
        },
        "at byte 124 of the page, run kind is 0; two zero runs are written as one",
    );
    check_page(
        |bytes| {
            for run in [RUNS, RUNS + 40] {
                bytes[run + 2] = 0;
                bytes[run + 4] = 1;
            }
        },
        "at byte 8 of the page, frame is 0; a frame that no chunk uses is not listed",
    );
}

fn second_frame_offset() -> u64 {
    let packed = pack(&some_content(14), 0, 4, 2);
    let root = Root::parse(packed.root()).unwrap();
    Page::parse(packed.page(0), 14, &root.packs).unwrap().frames()[1].offset
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_disk_reads_back_and_its_index_has_one_encoding(
        blocks in proptest::collection::vec(0_u8..4, 1..200),
        cut in 0..BLOCK,
        chunk_blocks in 1_usize..=64,
        frame_chunks in 1_usize..4,
    ) {
        let mut disk: Vec<u8> = blocks.iter().flat_map(|fill| [*fill; BLOCK]).collect();
        disk.truncate(disk.len() - cut);
        let packed = pack(&disk, 0, chunk_blocks, frame_chunks);
        check_reads_back(&disk, &packed);
        let root = Root::parse(packed.root()).unwrap();
        prop_assert_eq!(root.to_bytes(), packed.root());
        for (number, entry) in root.pages.iter().enumerate() {
            let page = Page::parse(packed.page(number), root.page_blocks(entry), &root.packs).unwrap();
            prop_assert_eq!(page.to_bytes(), packed.page(number));
        }
    }

    #[test]
    fn whatever_is_accepted_has_one_encoding(
        edits in proptest::collection::vec((0_usize..400, any::<u8>()), 1..6),
        cut in 0_usize..8,
    ) {
        let packed = pack(&some_content(20), 65_530, 4, 2);
        let edited = |bytes: &[u8]| {
            let mut bytes = bytes.to_vec();
            bytes.truncate(bytes.len() - cut.saturating_sub(4));
            for (at, value) in &edits {
                let at = at % bytes.len();
                bytes[at] = *value;
            }
            bytes
        };
        let bytes = edited(packed.root());
        if let Ok(root) = Root::parse(&bytes) {
            prop_assert_eq!(root.to_bytes(), bytes);
        }
        let packs = Root::parse(packed.root()).unwrap().packs;
        let bytes = edited(packed.page(1));
        if let Ok(page) = Page::parse(&bytes, 14, &packs) {
            prop_assert_eq!(page.to_bytes(), bytes);
        }
    }
}

/// Explained byte by byte in `docs/formats/disk-index.md`. What is read must never change. What is written
/// may, with another version of zstd: then the files of this one stay, beside the new ones.
#[test]
fn golden_files_of_version_1_are_written_and_read_as_ever() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    // Three pages of disk, the first of them zeros; three frames; the last block not whole.
    let content = &some_content(14)[..13 * BLOCK + 1000];
    let packed = pack(content, 2 * 65_536 - 6, 4, 2);
    let pack_digest = Root::parse(packed.root()).unwrap().packs[0].digest;
    for (name, bytes) in
        [("disk-index-v1.bin", packed.index()), ("disk-pack-v1.bin", &packed.blobs.content[&pack_digest])]
    {
        if std::env::var_os("WRITE_GOLDEN").is_some() {
            std::fs::write(folder.join(name), bytes).unwrap();
        }
        let golden = std::fs::read(folder.join(name)).unwrap();
        assert!(golden == bytes, "{name} is written as in version 1");
    }
    let mut blobs = Blobs::default();
    let index = blobs.put(std::fs::read(folder.join("disk-index-v1.bin")).unwrap());
    blobs.put(std::fs::read(folder.join("disk-pack-v1.bin")).unwrap());
    let golden = Packed { blobs, layer: DiskLayer { name: "root".into(), index, root: packed.layer.root } };
    let mut found = vec![0; content.len()];
    let opened = golden.open().unwrap();
    opened.read_at((2 * 65_536 - 6) * BLOCK_BYTES, &mut found).unwrap();
    assert!(found == content);
}

#[test]
fn disks_can_be_shared_between_threads_and_owned() {
    fn owned(_: impl Disk + 'static) {}
    let packed = Arc::new(pack(&some_content(8), 0, 4, 2));
    let source = Arc::clone(&packed);
    let read = move |blob: &Digest, offset: u64, buf: &mut [u8]| source.blobs.read(blob, offset, buf);
    owned(PackedDisk::open(&packed.layer, read, DEFAULT_CACHE_BYTES).unwrap());
    assert_eq!(IndexError::UnsupportedVersion { found: 2 }, Root::parse(b"hulldisk\x02\0").unwrap_err());
}
