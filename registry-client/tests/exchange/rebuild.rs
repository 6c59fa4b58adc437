//! Pulling a version that shares chunks, but no packs, with one that is here.

use std::fs;
use std::sync::LazyLock;

use appliance::manifest::DiskLayer;
use appliance::{Blob, Digest};
use formats::cut::CutRule;
use formats::packed::{DEFAULT_LEVEL, Frame, FrameEncoder, IndexWriter};
use formats::{Disk, ReadError, Run, RunKind};
use packer::PackOptions;
use packer::disks::write_disks;
use registry_client::{PullError, Pulled};

use crate::fake::{Act, Fake};
use crate::sample::{Folder, Notes, PLATFORM, Sample, blob, chain, client, folder, noise};

const BLOCK: usize = 4096;
const FRAME: usize = 1 << 20;

/// A disk in memory.
#[derive(Debug)]
struct Memory(Vec<u8>);

impl Disk for Memory {
    fn size_bytes(&self) -> u64 {
        self.0.len() as u64
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), ReadError> {
        buf.copy_from_slice(&self.0[offset as usize..][..buf.len()]);
        Ok(())
    }

    fn runs(&self, _: u64, len: u64) -> Result<Vec<Run>, ReadError> {
        Ok(vec![Run { len, kind: RunKind::Data }])
    }
}

/// 12 MiB that compress to somewhat more than half.
fn content() -> Vec<u8> {
    let mut content = noise(12 * FRAME);
    for block in content.chunks_mut(BLOCK / 2).step_by(2) {
        let words = [b"one ", b"two ", b"four", b"many"];
        block.as_chunks_mut::<4>().0.iter_mut().for_each(|word| *word = *words[usize::from(word[0] % 4)]);
    }
    content
}

/// The same, with one block each at 5 MiB and 9 MiB written.
fn changed() -> Vec<u8> {
    let mut content = content();
    content[5 * FRAME..][..BLOCK].copy_from_slice(&noise(BLOCK));
    content[9 * FRAME..][..BLOCK].copy_from_slice(&noise(BLOCK + 1)[..BLOCK]);
    content
}

/// An appliance with a disk of this content, packed without a base.
fn packed(content: Vec<u8>, level: i32) -> Sample {
    let folder = folder();
    let options = PackOptions { level, ..PackOptions::default() };
    let disk = Memory(content);
    let packed = write_disks(&[("root", &disk)], None, &folder.store, &options, &()).unwrap();
    let read = |blob: &Blob| folder.store.read(&blob.digest, u64::MAX).unwrap();
    let layer: DiskLayer = packed.disks[0].clone();
    Sample::with_disk(read(&layer.index), layer, packed.packs.iter().map(read).collect())
}

/// What is here, where a test asks for nothing else.
static OLD: LazyLock<Sample> = LazyLock::new(|| packed(content(), DEFAULT_LEVEL));
/// What is pulled then.
static NEW: LazyLock<Sample> = LazyLock::new(|| packed(changed(), DEFAULT_LEVEL));

/// A registry with `new` as `web:2`, and a store that has pulled `old` as `web:1`.
async fn upgrade(old: &Sample, new: &Sample) -> (Fake, Folder) {
    let (fake, folder) = (Fake::start().await, folder());
    old.put_in(&fake, "web", "1");
    new.put_in(&fake, "web", "2");
    client().pull(&fake.reference("web:1"), &folder.store, PLATFORM, &Notes::default()).await.unwrap();
    fake.take_seen();
    (fake, folder)
}

async fn pull_new(fake: &Fake, folder: &Folder, notes: &Notes) -> Result<Pulled, PullError> {
    client().pull(&fake.reference("web:2"), &folder.store, PLATFORM, notes).await
}

/// The pack of a sample that has one.
fn pack(sample: &Sample) -> Blob {
    assert_eq!(sample.blobs.len(), 4);
    blob(sample.pack(0))
}

/// The ranges of the blob that were asked for since the last time; `None` for all of it.
fn asked(fake: &Fake, digest: Digest) -> Vec<Option<(u64, u64)>> {
    let seen = fake.take_seen().into_iter().filter(|seen| seen.path.contains(&digest.to_string()));
    let range = |seen: crate::fake::Seen| {
        let range = seen.headers.get("range")?.to_str().unwrap().strip_prefix("bytes=").unwrap().to_owned();
        let (first, last) = range.split_once('-').unwrap();
        Some((first.parse().unwrap(), last.parse().unwrap()))
    };
    seen.map(range).collect()
}

/// `new` is pulled where `old` is, in so many requests for its pack; at most so many percent of it move.
async fn check_moves_little(old: &Sample, new: &Sample, requests: usize, percent: u64) {
    let ((fake, folder), notes) = (upgrade(old, new).await, Notes::default());
    let pulled = pull_new(&fake, &folder, &notes).await.unwrap();
    new.check_in_store(&folder.store, &fake.reference("web:2").to_string());
    let (pack, index) = (pack(new), new.blobs[2].len() as u64);
    let ranges = asked(&fake, pack.digest);
    let ranged: u64 = ranges.iter().map(|range| range.map_or(pack.size_bytes, |(a, b)| b + 1 - a)).sum();
    assert_eq!(ranges.len(), requests, "{ranges:?}");
    assert!(ranged * 100 <= pack.size_bytes * percent, "{ranged} of {} bytes", pack.size_bytes);
    assert_eq!((pulled.fetched_blobs, pulled.fetched_bytes), (2, index + ranged));
    assert_eq!(pulled.rebuilt_bytes, pack.size_bytes - ranged);
    let told = notes.told();
    assert_eq!((told.moved, told.rebuilt), (pulled.fetched_bytes, pulled.rebuilt_bytes));
    assert_eq!(told.plan.unwrap().bytes, told.moved + told.rebuilt);
    assert_eq!(told.resumed_at, [0; 0]);
}

#[tokio::test]
async fn only_frames_with_new_chunks_move() {
    check_moves_little(&OLD, &NEW, 2, 20).await;
    let mut moved = content();
    moved.rotate_left(3 * FRAME);
    check_moves_little(&OLD, &packed(moved, DEFAULT_LEVEL), 1, 20).await;
    let part = content()[2 * FRAME..9 * FRAME].to_vec();
    check_moves_little(&OLD, &packed(part, DEFAULT_LEVEL), 2, 35).await;
}

#[test]
fn the_packer_writes_what_can_be_rebuilt() {
    assert_eq!(PackOptions::default().level, DEFAULT_LEVEL);
}

/// Although things go wrong as `spoil` lets them, the new version arrives, after requests for these parts of
/// its pack, in tenths of it; `None` for all of it.
async fn check_arrives(
    new: &Sample,
    spoil: impl FnOnce(&Fake, &Folder, &Sample),
    want: &[Option<(u64, u64)>],
) -> Pulled {
    let (fake, folder) = upgrade(&OLD, new).await;
    spoil(&fake, &folder, &OLD);
    let pulled = pull_new(&fake, &folder, &Notes::default()).await.unwrap();
    new.check_in_store(&folder.store, &fake.reference("web:2").to_string());
    let pack = pack(new);
    let tenths = |at: u64| (at * 10 + pack.size_bytes / 2) / pack.size_bytes;
    let asked: Vec<_> = asked(&fake, pack.digest)
        .into_iter()
        .map(|range| range.map(|(first, last)| (tenths(first), tenths(last))))
        .collect();
    assert_eq!(asked, want);
    pulled
}

#[tokio::test]
async fn a_registry_without_ranges_sends_the_pack_once() {
    let size = pack(&NEW).size_bytes;
    let digest = pack(&NEW).digest;
    let ignore = |fake: &Fake, _: &Folder, _: &Sample| {
        fake.break_next(usize::MAX, "GET", digest, Act::IgnoreRange);
    };
    let pulled = check_arrives(&NEW, ignore, &[Some((4, 5))]).await;
    assert_eq!((pulled.fetched_bytes, pulled.rebuilt_bytes), (NEW.blobs[2].len() as u64 + size, 0));
    for status in [400, 416] {
        let refuse = |fake: &Fake, _: &Folder, _: &Sample| {
            fake.break_next(1, "GET", digest, Act::Status(status, None));
        };
        let pulled = check_arrives(&NEW, refuse, &[Some((4, 5)), None]).await;
        assert_eq!((pulled.fetched_bytes, pulled.rebuilt_bytes), (NEW.blobs[2].len() as u64 + size, 0));
    }
}

#[tokio::test]
async fn a_range_that_is_not_what_was_promised_makes_the_pack_come_whole() {
    let digest = pack(&NEW).digest;
    let corrupt = |fake: &Fake, _: &Folder, _: &Sample| fake.break_next(1, "GET", digest, Act::Corrupt);
    let pulled = check_arrives(&NEW, corrupt, &[Some((4, 5)), Some((7, 8)), None]).await;
    assert_eq!(pulled.rebuilt_bytes, 0);
}

#[tokio::test]
async fn what_is_damaged_here_is_fetched() {
    let damage = |_: &Fake, folder: &Folder, old: &Sample| {
        let mut bytes = old.pack(0).to_vec();
        bytes[1000] ^= 1;
        overwrite(folder, pack(old).digest, &bytes);
    };
    let pulled = check_arrives(&NEW, damage, &[Some((0, 1)), Some((4, 5)), Some((7, 8))]).await;
    assert!(pulled.rebuilt_bytes > 0);
    let cut = |_: &Fake, folder: &Folder, old: &Sample| {
        overwrite(folder, pack(old).digest, &old.pack(0)[..5_000_000]);
    };
    check_arrives(&NEW, cut, &[None]).await;
    let unlist = |_: &Fake, folder: &Folder, old: &Sample| {
        overwrite(folder, Digest::sha256(&old.blobs[2]), &noise(old.blobs[2].len()));
    };
    check_arrives(&NEW, unlist, &[None]).await;
}

/// Damages a blob of the store.
fn overwrite(folder: &Folder, digest: Digest, bytes: &[u8]) {
    let path = folder.store.blob_path(&digest);
    fs::remove_file(&path).unwrap();
    fs::write(path, bytes).unwrap();
}

#[tokio::test]
async fn another_encoders_pack_is_fetched_whole() {
    for content in [content(), changed()] {
        let pulled = check_arrives(&packed(content, 1), |_, _, _| (), &[None]).await;
        assert_eq!(pulled.rebuilt_bytes, 0);
    }
}

#[tokio::test]
async fn a_rebuilt_pack_that_is_not_the_one_promised_is_fetched_whole() {
    let content = noise(16 * BLOCK);
    let mut right = Vec::new();
    FrameEncoder::new(DEFAULT_LEVEL).encode(&content, &mut right);
    // Of the right length; that it is no frame shows only when somebody reads it.
    let wrong: Vec<u8> = right.iter().map(|byte| !byte).collect();
    let [old, new] = [right, wrong].map(|pack| {
        let frame = Frame { pack: 0, offset: 0, len: pack.len() as u32, blocks: 16 };
        let mut writer = IndexWriter::new(content.len() as u64, CutRule::CONTENT, vec![blob(&pack)]);
        writer.chunk(16, blob(&content).digest.as_bytes().try_into().unwrap(), frame, 0);
        let encoded = writer.finish();
        let layer = DiskLayer { name: "root".to_owned(), index: blob(&encoded.bytes), root: encoded.root };
        Sample::with_disk(encoded.bytes, layer, vec![pack])
    });
    let ((fake, folder), notes) = (upgrade(&old, &new).await, Notes::default());
    let pulled = pull_new(&fake, &folder, &notes).await.unwrap();
    new.check_in_store(&folder.store, &fake.reference("web:2").to_string());
    assert_eq!(asked(&fake, pack(&new).digest), [None]);
    assert_eq!((pulled.rebuilt_bytes, notes.told().resumed_at), (0, vec![0]));
}

#[tokio::test]
async fn a_pull_that_was_cut_goes_on_in_the_middle_of_a_frame() {
    let (old, new) = (&*OLD, &*NEW);
    let pack = pack(new);
    let (fake, folder) = upgrade(old, new).await;
    fake.break_next(1, "GET", pack.digest, Act::Cut(100_000));
    pull_new(&fake, &folder, &Notes::default()).await.unwrap();
    new.check_in_store(&folder.store, &fake.reference("web:2").to_string());
    let ranges: Vec<_> = asked(&fake, pack.digest).into_iter().flatten().collect();
    assert_eq!((ranges.len(), ranges[1].0, ranges[1].1), (3, ranges[0].0 + 100_000, ranges[0].1));

    // In a fetched frame, after what the registry sent before it vanished; and in a rebuilt one.
    for in_frame in [ranges[0].0 + 100_000, 300_000] {
        let ((fake, folder), notes) = (upgrade(old, new).await, Notes::default());
        if in_frame < ranges[0].0 {
            let mut partial = folder.store.partial(pack).unwrap();
            partial.append(&new.pack(0)[..in_frame as usize]).unwrap();
        } else {
            fake.break_next(1, "GET", pack.digest, Act::Vanish(100_000));
            let error = pull_new(&fake, &folder, &Notes::default()).await.unwrap_err();
            let have = in_frame;
            assert!(
                matches!(error, PullError::Interrupted { have: found, .. } if found == have),
                "{}",
                chain(&error)
            );
        }
        let again = Fake::start().await;
        new.put_in(&again, "web", "2");
        let pulled = pull_new(&again, &folder, &notes).await.unwrap();
        new.check_in_store(&folder.store, &again.reference("web:2").to_string());
        assert_eq!(notes.told().started_at, [in_frame]);
        assert_eq!(notes.told().moved, pulled.fetched_bytes);
        assert!(pulled.fetched_bytes * 4 < pack.size_bytes && pulled.rebuilt_bytes > 0);
    }
}
