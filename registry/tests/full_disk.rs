//! What happens when the disk is full. A file of its own: it starts `mount`, and a process that is being
//! started holds, for a moment, the lock of every storage that other tests have open.

mod common;

use std::fs::{self, File};
use std::io::Write as _;
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use appliance::Digest;
use blob_store::FolderStorage;
use common::{Client, MANIFEST, Registry, SetClock, manifest, noise};
use registry::{Collected, Damaged, Garbage, Limits, Mode};
use tempfile::TempDir;

/// Held by each test, for the reason that the header says.
static TURN: Mutex<()> = Mutex::new(());

/// A small file system in memory.
#[expect(clippy::print_stderr, reason = "who reads the test's output should know")]
fn mount(options: &str) -> Option<TempDir> {
    let folder = tempfile::tempdir().unwrap();
    let arguments = ["-t", "tmpfs", "-o", options, "tmpfs"];
    let mounted = Command::new("mount").args(arguments).arg(folder.path()).status();
    if !mounted.is_ok_and(|status| status.success()) {
        eprintln!("skipped: cannot mount a tmpfs here");
        return None;
    }
    Some(folder)
}

#[test]
fn a_full_disk_is_said_and_everything_else_goes_on() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(folder) = mount("size=24m") else { return };
    let storage = Arc::new(FolderStorage::open(folder.path()).unwrap());
    let registry = Registry::configured(storage, Limits::default(), |config| {
        config.operations = Some("127.0.0.1:0".parse().unwrap());
    });
    let is_ready = || Client::new(registry.operations_addr.unwrap()).get("/readyz");
    is_ready().expect(200);
    let mut client = registry.client();
    let small = client.push_blob("web", b"small");
    let large = noise(8, 32 << 20);
    let digest = Digest::sha256(&large);
    let post = format!("/v2/web/blobs/uploads/?digest={digest}");
    client.send("POST", &post, &[], &large).expect_error(507, "NO_SPACE");
    client.get(&format!("/v2/web/blobs/{digest}")).expect(404);
    assert_eq!(client.get(&format!("/v2/web/blobs/{small}")).expect(200).body, b"small");
    // What had arrived was given up, so there is space again.
    is_ready().expect(200);
    let medium = noise(9, 10 << 20);
    let digest = client.push_blob("web", &medium);
    assert!(client.get(&format!("/v2/web/blobs/{digest}")).expect(200).body == medium);
    // A little is left, and new pushes had better go elsewhere.
    assert_eq!(is_ready().expect(503).body, b"no space is left in the storage\n");

    // Another program takes what is left. Reading and deleting go on.
    let bytes = manifest(b"small", b"small");
    let by_digest = format!("/v2/web/manifests/{}", Digest::sha256(&bytes));
    client.put_manifest("web", "latest", MANIFEST, &bytes).expect(201);
    let other = folder.path().join("other");
    let mut file = File::create(&other).unwrap();
    for size in [64 << 10, 512, 1] {
        while file.write_all(&vec![7; size]).is_ok() {}
    }
    let post = format!("/v2/web/blobs/uploads/?digest={}", Digest::sha256(b"new"));
    client.send("POST", &post, &[], b"new").expect_error(507, "NO_SPACE");
    assert!(client.get(&format!("/v2/web/blobs/{digest}")).expect(200).body == medium);
    client.send("DELETE", "/v2/web/manifests/latest", &[], b"").expect(202);
    client.get("/v2/web/manifests/latest").expect(404);
    assert_eq!(client.get(&by_digest).expect(200).body, bytes);
    client.send("DELETE", &by_digest, &[], b"").expect(202);
    client.get(&by_digest).expect(404);
    client.send("POST", &post, &[], b"new").expect_error(507, "NO_SPACE");
    drop(file);
    fs::remove_file(other).unwrap();
    client.send("POST", &post, &[], b"new").expect(201);
    drop(registry);
    assert!(Command::new("umount").arg(folder.path()).status().unwrap().success());
}

/// A server on a small disk, whose garbage is old whenever somebody looks for it: it was put while the
/// clock stood earlier than when the server started.
struct SmallDisk {
    registry: Registry,
    storage: Arc<FolderStorage>,
    clock: Arc<SetClock>,
    runtime: tokio::runtime::Runtime,
    folder: TempDir,
}

const STARTED: u64 = 2_000_000_000;
const EARLIER: u64 = STARTED - 1000;

impl SmallDisk {
    fn open(options: &str) -> Option<Self> {
        let folder = mount(options)?;
        let storage = Arc::new(FolderStorage::open(folder.path()).unwrap());
        let clock = Arc::new(SetClock::at(STARTED));
        let registry = Registry::configured(Arc::clone(&storage) as _, Limits::default(), |config| {
            config.clock = Arc::clone(&clock) as _;
            config.garbage = Garbage { grace: Duration::from_secs(100), interval: None };
        });
        clock.set(EARLIER);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        Some(Self { registry, storage, clock, runtime, folder })
    }

    /// Another program takes all the space and all file numbers that are left.
    fn fill(&self) {
        let others = self.folder.path().join("others");
        fs::create_dir(&others).unwrap();
        let mut file = File::create(others.join("large")).unwrap();
        for size in [64 << 10, 512, 1] {
            while file.write_all(&vec![7; size]).is_ok() {}
        }
        (0..).take_while(|number| File::create(others.join(format!("{number}"))).is_ok()).count();
    }

    /// It goes away again.
    fn make_space(&self) {
        fs::remove_dir_all(self.folder.path().join("others")).unwrap();
    }

    fn collect(&self) -> Collected {
        self.clock.set(STARTED);
        let collected = self.registry.collect();
        self.clock.set(EARLIER);
        collected
    }

    fn scrub(&self) -> Vec<Damaged> {
        self.runtime.block_on(self.registry.caretaker.scrub(Mode::Collect, None)).unwrap().damaged
    }

    fn unmount(self) {
        let Self { registry, storage, folder, .. } = self;
        drop((registry, storage));
        assert!(Command::new("umount").arg(folder.path()).status().unwrap().success());
    }
}

#[test]
fn garbage_collection_makes_space_on_a_full_disk() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    const BLOBS: u64 = 60;
    let Some(disk) = SmallDisk::open("size=24m,nr_inodes=1000") else { return };
    let mut client = disk.registry.client();
    let blobs: Vec<Digest> = (0..BLOBS).map(|seed| client.push_blob("web", &noise(seed, 9000))).collect();
    let kept = client.push_blob("web", b"kept");
    client.put_manifest("web", "latest", MANIFEST, &manifest(b"kept", b"kept")).expect(201);
    for digest in &blobs {
        client.send("DELETE", &format!("/v2/web/blobs/{digest}"), &[], b"").expect(202);
    }
    disk.fill();
    let post = format!("/v2/web/blobs/uploads/?digest={}", Digest::sha256(b"new"));
    client.send("POST", &post, &[], b"new").expect_error(507, "NO_SPACE");
    // There are more marks to put than the reserve has room for.
    let collected = disk.collect();
    assert_eq!((collected.closed_generations, collected.deleted_generations), (BLOBS, BLOBS));
    assert_eq!(collected.freed_bytes, BLOBS * 9000);
    client.send("POST", &post, &[], b"new").expect(201);
    client.push_blob("web", &noise(100, 100_000));
    assert_eq!(client.get(&format!("/v2/web/blobs/{kept}")).expect(200).body, b"kept");
    disk.unmount();
}

#[test]
fn what_is_damaged_stays_where_it_is_until_there_is_space_for_it_elsewhere() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(disk) = SmallDisk::open("size=24m,nr_inodes=1000") else { return };
    let mut client = disk.registry.client();
    let digest = client.push_blob("web", &noise(1, 200_000));
    let folder = disk.folder.path().join(format!("blobs/sha256/{}/{}", &digest.hex()[..2], digest.hex()));
    let content = fs::read_dir(&folder).unwrap().next().unwrap().unwrap().path();
    let damaged = noise(2, 200_000);
    fs::write(&content, &damaged).unwrap();
    disk.fill();
    let found = disk.scrub();
    assert_eq!((found.len(), found[0].digest, found[0].lacks_space), (1, digest, true));
    // Nobody may rely on it any more, and nothing else has changed.
    assert!(fs::read(&content).unwrap() == damaged);
    assert!(content.with_file_name(format!("{}.closed", content.file_name().unwrap().display())).exists());
    assert_eq!(fs::read_dir(disk.folder.path().join(".sessions")).unwrap().count(), 0);
    disk.make_space();
    let found = disk.scrub();
    assert_eq!((found.len(), found[0].lacks_space), (1, false));
    assert!(!content.exists());
    let quarantine = disk.folder.path().join(format!("quarantine/sha256/{}", digest.hex()));
    assert!(fs::read(quarantine.join(content.file_name().unwrap())).unwrap() == damaged);
    assert_eq!(disk.scrub(), []);
    client.push_blob("web", &noise(1, 200_000));
    assert!(client.get(&format!("/v2/web/blobs/{digest}")).expect(200).body == noise(1, 200_000));
    disk.unmount();
}
