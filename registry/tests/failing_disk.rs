//! What happens when the disk is full, and when it fails. A file of its own: it starts `mount`, and a process
//! that is being started holds, for a moment, the lock of every storage that other tests have open.

mod common;

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use appliance::Digest;
use blob_store::{Faults, FolderStorage, Step};
use common::{Client, MANIFEST, Registry, Reply, SetClock, figure, manifest, noise};
use registry::{Collected, Damaged, Garbage, Limits, Mode};
use tempfile::TempDir;

/// Held by each test, for the reason that the header says.
static TURN: Mutex<()> = Mutex::new(());

const STARTED: u64 = 2_000_000_000;
const EARLIER: u64 = STARTED - 1000;
/// So long that whoever relies on what is there has to say so again, and nothing is garbage yet.
const LONG: Duration = Duration::from_secs(20 * 60 * 60);

/// A status and a code.
type Refusal = (u16, &'static str);

const FULL: Refusal = (507, "NO_SPACE");
const READ_ONLY: Refusal = (503, "READ_ONLY");
const FAILED: Refusal = (500, "UNKNOWN");

/// What clients were answered while the disk did not do its work.
#[derive(Debug, Default)]
struct Tally {
    refused_pushes: usize,
    reads: usize,
    deletions: usize,
    refused_deletions: usize,
}

impl Tally {
    #[track_caller]
    fn refused_push(&mut self, reply: Reply, why: &[Refusal]) -> Reply {
        self.refused_pushes += 1;
        refused(reply, why)
    }

    #[track_caller]
    fn refused_deletion(&mut self, reply: Reply, why: &[Refusal]) -> Reply {
        self.refused_deletions += 1;
        refused(reply, why)
    }

    #[track_caller]
    fn read(&mut self, reply: Reply) -> Vec<u8> {
        self.reads += 1;
        reply.expect(200).body
    }

    #[track_caller]
    fn deleted(&mut self, reply: Reply) {
        self.deletions += 1;
        reply.expect(202);
    }

    fn say(&self, of: &str) {
        let Self { refused_pushes, reads, deletions, refused_deletions } = self;
        figure(&format!(
            "{of}: pushes refused with a reason = {refused_pushes}, reads that went on = {reads}, deletions that went \
             on = {deletions}, deletions refused with a reason = {refused_deletions}, lost = 0"
        ));
    }
}

/// One of the answers `why` was given.
#[track_caller]
fn refused(reply: Reply, why: &[Refusal]) -> Reply {
    let expected = why.iter().copied().find(|(status, _)| *status == reply.status);
    let (status, code) = expected.unwrap_or(why[0]);
    reply.expect_error(status, code)
}

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

/// Takes away what [`mount`] made.
fn unmount(folder: &TempDir) {
    assert!(Command::new("umount").arg(folder.path()).status().unwrap().success());
}

/// A registry with a port for operations.
fn serve(storage: Arc<FolderStorage>, clock: &Arc<SetClock>) -> Registry {
    Registry::configured(storage, Limits::default(), |config| {
        config.operations = Some("127.0.0.1:0".parse().unwrap());
        config.clock = Arc::clone(clock) as _;
    })
}

fn readiness(registry: &Registry) -> Reply {
    Client::new(registry.operations_addr.unwrap()).get("/readyz")
}

#[test]
fn a_full_disk_is_said_and_everything_else_goes_on() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(folder) = mount("size=24m") else { return };
    let storage = Arc::new(FolderStorage::open(folder.path()).unwrap());
    let clock = Arc::new(SetClock::at(EARLIER));
    let registry = serve(storage, &clock);
    let mut tally = Tally::default();
    let is_ready = || readiness(&registry);
    is_ready().expect(200);
    let mut client = registry.client();
    let small = client.push_blob("web", b"small");
    let large = noise(8, 32 << 20);
    let digest = Digest::sha256(&large);
    let post = format!("/v2/web/blobs/uploads/?digest={digest}");
    tally.refused_push(client.send("POST", &post, &[], &large), &[FULL]);
    client.get(&format!("/v2/web/blobs/{digest}")).expect(404);
    assert_eq!(tally.read(client.get(&format!("/v2/web/blobs/{small}"))), b"small");
    // What had arrived was given up, so there is space again.
    is_ready().expect(200);
    let medium = noise(9, 10 << 20);
    let digest = client.push_blob("web", &medium);
    assert!(client.get(&format!("/v2/web/blobs/{digest}")).expect(200).body == medium);
    // A little is left, and new pushes had better go elsewhere.
    assert_eq!(is_ready().expect(503).body, b"no space is left in the storage\n");

    // Another program takes what is left. Reading and deleting go on, also for who asks whether something
    // is there that nobody has relied on for long.
    let bytes = manifest(b"small", b"small");
    let by_digest = format!("/v2/web/manifests/{}", Digest::sha256(&bytes));
    client.put_manifest("web", "latest", MANIFEST, &bytes).expect(201);
    let other = folder.path().join("other");
    let mut file = File::create(&other).unwrap();
    for size in [64 << 10, 512, 1] {
        while file.write_all(&vec![7; size]).is_ok() {}
    }
    let post = format!("/v2/web/blobs/uploads/?digest={}", Digest::sha256(b"new"));
    clock.pass(LONG);
    tally.refused_push(client.send("POST", &post, &[], b"new"), &[FULL]);
    assert!(tally.read(client.get(&format!("/v2/web/blobs/{digest}"))) == medium);
    tally.deleted(client.send("DELETE", "/v2/web/manifests/latest", &[], b""));
    tally.read(client.send("HEAD", &format!("/v2/web/blobs/{digest}"), &[], b""));
    client.get("/v2/web/manifests/latest").expect(404);
    assert_eq!(tally.read(client.get(&by_digest)), bytes);
    tally.deleted(client.send("DELETE", &by_digest, &[], b""));
    client.get(&by_digest).expect(404);
    tally.refused_push(client.send("POST", &post, &[], b"new"), &[FULL]);
    drop(file);
    fs::remove_file(other).unwrap();
    client.send("POST", &post, &[], b"new").expect(201);
    tally.say("a full disk");
    drop(registry);
    unmount(&folder);
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
        unmount(&folder);
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
    assert_eq!((found.len(), found[0].digest, found[0].stays.is_some()), (1, digest, true));
    // Nobody may rely on it any more, and nothing else has changed.
    assert!(fs::read(&content).unwrap() == damaged);
    assert!(content.with_file_name(format!("{}.closed", content.file_name().unwrap().display())).exists());
    assert_eq!(fs::read_dir(disk.folder.path().join(".sessions")).unwrap().count(), 0);
    disk.make_space();
    let found = disk.scrub();
    assert_eq!((found.len(), found[0].stays.is_some()), (1, false));
    assert!(!content.exists());
    let quarantine = disk.folder.path().join(format!("quarantine/sha256/{}", digest.hex()));
    assert!(fs::read(quarantine.join(content.file_name().unwrap())).unwrap() == damaged);
    assert_eq!(disk.scrub(), []);
    client.push_blob("web", &noise(1, 200_000));
    assert!(client.get(&format!("/v2/web/blobs/{digest}")).expect(200).body == noise(1, 200_000));
    disk.unmount();
}

#[test]
fn what_is_pushed_again_elsewhere_after_damage_is_read_on_a_full_disk() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(disk) = SmallDisk::open("size=24m,nr_inodes=1000") else { return };
    let mut client = disk.registry.client();
    let content = noise(1, 200_000);
    let digest = client.push_blob("web", &content);
    let folder = disk.folder.path().join(format!("blobs/sha256/{}/{}", &digest.hex()[..2], digest.hex()));
    let damaged = fs::read_dir(&folder).unwrap().next().unwrap().unwrap().path();
    fs::write(&damaged, noise(2, 200_000)).unwrap();
    assert_eq!(disk.scrub().len(), 1);
    let path = |repository: &str| format!("/v2/{repository}/blobs/{digest}");
    client.get(&path("web")).expect_error(404, "BLOB_UNKNOWN");
    client.push_blob("other", &content);
    disk.fill();
    assert!(client.get(&path("web")).expect(200).body == content);
    client.send("HEAD", &path("web"), &[], b"").expect(200);
    client.get(&path("third")).expect_error(404, "BLOB_UNKNOWN");
    disk.make_space();
    // Now it is written down that it is needed in both, and one may let it go.
    client.get(&path("web")).expect(200);
    client.send("DELETE", &path("other"), &[], b"").expect(202);
    assert!(client.get(&path("web")).expect(200).body == content);
    client.get(&path("other")).expect_error(404, "BLOB_UNKNOWN");
    disk.unmount();
}

/// A disk that fails as it is told.
#[derive(Debug, Default)]
struct BadDisk(Mutex<Option<Fault>>);

#[derive(Debug)]
struct Fault {
    what: What,
    /// So many changes of that kind still succeed.
    spared: usize,
}

/// What a disk says EIO to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    /// To one write.
    Write,
    /// To every write from then on.
    Writes,
    /// To one fsync.
    Sync,
    /// To everything from then on. Where that was an fsync, too, the storage is read-only.
    Everything,
}

impl What {
    /// Why changes are refused once the disk has failed.
    const fn refusals(self) -> &'static [Refusal] {
        match self {
            Self::Write => &[],
            Self::Writes => &[FAILED],
            Self::Sync => &[READ_ONLY],
            Self::Everything => &[FAILED, READ_ONLY],
        }
    }

    /// Whether nothing at all is changed then, in a storage that is open.
    const fn ends_all_changes(self) -> bool {
        matches!(self, Self::Sync | Self::Everything)
    }

    /// How many of [`Image::deletions`] are refused then. What has no tag can be deleted without a write.
    const fn refused_deletions(self) -> usize {
        match self {
            Self::Write => 0,
            Self::Writes => 2,
            Self::Sync | Self::Everything => 4,
        }
    }
}

/// "Input/output error", as Linux numbers it.
const EIO: i32 = 5;

impl Faults for BadDisk {
    fn before(&self, step: Step<'_>) -> io::Result<()> {
        let mut fault = self.0.lock().unwrap();
        let fails = |fault: &&mut Fault| match fault.what {
            What::Write | What::Writes => matches!(step, Step::Write { .. }),
            What::Sync => matches!(step, Step::SyncData { .. } | Step::SyncFolder { .. }),
            What::Everything => true,
        };
        let Some(Fault { what, spared }) = fault.as_mut().filter(fails) else { return Ok(()) };
        if *spared > 0 {
            *spared -= 1;
            return Ok(());
        }
        if matches!(what, What::Write | What::Sync) {
            *fault = None;
        }
        Err(io::Error::from_raw_os_error(EIO))
    }

    fn after(&self, _: Step<'_>) {}
}

/// An image of one layer, under a tag of the same name.
struct Image {
    name: &'static str,
    layer: Vec<u8>,
    manifest: Vec<u8>,
}

impl Image {
    fn new(name: &'static str) -> Self {
        let layer = name.repeat(1000).into_bytes();
        Self { name, manifest: manifest(name.as_bytes(), &layer), layer }
    }

    fn blobs(&self) -> [&[u8]; 2] {
        [self.name.as_bytes(), &self.layer]
    }

    fn tag(&self) -> String {
        format!("/v2/web/manifests/{}", self.name)
    }

    fn by_digest(&self) -> String {
        format!("/v2/web/manifests/{}", Digest::sha256(&self.manifest))
    }

    /// Pushes the image in all ways that there are. Returns the answer that was no success, if one was.
    fn push(&self, client: &mut Client) -> Result<(), Reply> {
        let [config, layer] = self.blobs();
        let mut send = |method: &str, path: &str, kind: &str, body: &[u8]| {
            let reply = client.send(method, path, &[("content-type", kind)], body);
            if matches!(reply.status, 201 | 202) { Ok(reply) } else { Err(reply) }
        };
        let post = format!("/v2/web/blobs/uploads/?digest={}", Digest::sha256(config));
        send("POST", &post, "", config)?;
        let upload = send("POST", "/v2/web/blobs/uploads/", "", b"")?.header("location").unwrap().to_owned();
        let (first, second) = layer.split_at(1000);
        send("PATCH", &upload, "", first)?;
        send("PUT", &format!("{upload}?digest={}", Digest::sha256(layer)), "", second)?;
        send("PUT", &self.tag(), MANIFEST, &self.manifest)?;
        Ok(())
    }

    /// Reads all of the image, in all ways that there are.
    fn read(&self, client: &mut Client, tally: &mut Tally) {
        for content in self.blobs() {
            let path = format!("/v2/web/blobs/{}", Digest::sha256(content));
            assert!(tally.read(client.get(&path)) == content, "{path}");
            tally.read(client.send("HEAD", &path, &[], b""));
        }
        for path in [self.tag(), self.by_digest()] {
            assert!(tally.read(client.get(&path)) == self.manifest, "{path}");
            tally.read(client.send("HEAD", &path, &[], b""));
        }
        tally.read(client.get("/v2/web/tags/list"));
    }

    /// What deletes the image: its tag, its manifest, its blobs.
    fn deletions(&self) -> [String; 4] {
        let [config, layer] =
            self.blobs().map(|content| format!("/v2/web/blobs/{}", Digest::sha256(content)));
        [self.tag(), self.by_digest(), config, layer]
    }
}

/// A disk on which something fails while an image is pushed: the change of this kind after `spared` others.
/// False if the push has no such change.
fn drill(what: What, spared: usize, tally: &mut Tally) -> bool {
    let folder = common::scratch();
    let [old, new] = ["old", "new"].map(Image::new);
    let clock = Arc::new(SetClock::at(EARLIER));
    let disk = Arc::new(BadDisk::default());
    let open = |faults| Arc::new(FolderStorage::open_with_faults(folder.path(), faults).unwrap());
    let registry = serve(open(Arc::clone(&disk) as _), &clock);
    let mut client = registry.client();
    old.push(&mut client).unwrap();
    let upload = client.begin_upload("web");
    clock.pass(LONG);

    *disk.0.lock().unwrap() = Some(Fault { what, spared });
    let Err(refused) = new.push(&mut client) else { return false };
    let refused = tally.refused_push(refused, &[FAILED]);
    let message = &refused.json()["errors"][0]["message"];
    assert_eq!(
        message,
        "the registry's storage failed, and this push is not stored; its operator finds the reason in its log"
    );
    let told: Vec<String> = registry.events.try_iter().collect();
    let is_told =
        |event: &String| event.starts_with("RequestFailed") && event.contains(&format!("code: {EIO}"));
    assert!(told.len() == 1 && told.iter().all(is_told), "{told:?}");
    old.read(&mut client, tally);
    client.get(&new.tag()).expect(404);
    if what.ends_all_changes() {
        try_to_push(&mut client, &old, &upload, what.refusals(), tally);
    }
    for (number, path) in old.deletions().iter().enumerate() {
        let reply = client.send("DELETE", path, &[], b"");
        match number < what.refused_deletions() {
            true => drop(tally.refused_deletion(reply, what.refusals())),
            false => tally.deleted(reply),
        }
    }
    match what {
        What::Write => new.push(&mut client).unwrap(),
        What::Sync => {
            let reason = readiness(&registry).expect(503).body;
            assert!(reason.starts_with(b"the storage is read-only"));
        }
        What::Writes | What::Everything => {}
    }
    if what.ends_all_changes() {
        old.read(&mut client, tally);
    }
    drop(registry);
    check_opened_again(&serve(open(Arc::new(())), &clock), &old, &new, what);
    true
}

/// Pushes, but for those that were tried already, are refused.
fn try_to_push(client: &mut Client, image: &Image, upload: &str, why: &[Refusal], tally: &mut Tally) {
    let [config, _] = image.blobs().map(Digest::sha256);
    let kind = [("content-type", MANIFEST)];
    for (method, path, body) in [
        ("POST", "/v2/web/blobs/uploads/".to_owned(), &b""[..]),
        ("POST", format!("/v2/other/blobs/uploads/?mount={config}&from=web"), b""),
        ("PATCH", upload.to_owned(), b"more"),
        ("PUT", "/v2/web/manifests/another".to_owned(), &image.manifest),
    ] {
        tally.refused_push(client.send(method, &path, &kind, body), why);
    }
}

/// All that was acknowledged is there and what was deleted is not, on a disk that is well again.
fn check_opened_again(registry: &Registry, old: &Image, new: &Image, what: What) {
    let mut client = registry.client();
    readiness(registry).expect(200);
    for (number, path) in old.deletions().iter().enumerate() {
        client.get(path).expect(if number < what.refused_deletions() { 200 } else { 404 });
    }
    if what.ends_all_changes() {
        old.read(&mut client, &mut Tally::default());
    }
    // What was refused may be there, but then it is whole.
    let found = client.get(&new.tag());
    assert!(found.status == 404 || found.expect(200).body == new.manifest);
    new.push(&mut client).unwrap();
    new.read(&mut client, &mut Tally::default());
    for path in new.deletions() {
        client.send("DELETE", &path, &[], b"").expect(202);
    }
}

#[test]
fn a_disk_that_fails_is_said_and_reading_goes_on() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    for (what, name) in [
        (What::Write, "one write fails"),
        (What::Writes, "every write fails from one on"),
        (What::Sync, "one fsync fails"),
        (What::Everything, "everything fails from one change on"),
    ] {
        let mut tally = Tally::default();
        let failed = (0..).take_while(|spared| drill(what, *spared, &mut tally)).count();
        assert!(failed > 0);
        tally.say(&format!("{name}, each of {failed} in turn"));
    }
}
