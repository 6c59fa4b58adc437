//! What was acknowledged survives SIGKILL at any moment, and nothing half-done becomes visible.
//!
//! The server runs in a process of its own: this test binary, started again, told by an environment
//! variable to serve. Clients push and delete, and garbage is collected without a pause, until it is
//! killed in the middle of all that; then a new process serves the same folder and is asked for what
//! there should be.
//!
//! - Manifests that were acknowledged are there with all that they need, however old they are.
//! - A blob that no manifest names is promised for the grace period, and not asked for later.
//! - An upload is there with all bytes that were acknowledged, and goes on; or the request that closes it
//!   was sent, and the blob is there whole.

mod common;

use std::collections::{HashMap, HashSet};
use std::io::{BufRead as _, BufReader, Read as _};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use appliance::Digest;
use blob_store::FolderStorage;
use common::{Client, MANIFEST, Random, config, descriptor, figure, noise, repetitions};
use registry::{Event, Garbage, Limits, Observer, Server};
use serde_json::json;

const FOLDER: &str = "HULL_TEST_SERVE_FOLDER";
/// Short, so that there is garbage, and long enough for a client that pushes a manifest after its blobs.
const GRACE: Duration = Duration::from_secs(4);
/// Manifests that are asked for after each round. All are after the last one.
const SAMPLE: usize = 40;
const CLIENTS: u64 = 3;

/// Not a test of its own: the server's process. Serves until it is killed.
#[test]
fn serve_the_folder_that_the_environment_names() {
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let storage = Arc::new(FolderStorage::open(folder).unwrap());
        let mut config = config("127.0.0.1:0", Limits::default(), Arc::new(Reporter));
        config.garbage = Garbage { grace: GRACE, interval: Some(Duration::from_millis(50)) };
        let server = Server::bind(config, storage).await.unwrap();
        println!("\nlistening on {}", server.local_addr());
        server.run(std::future::pending()).await;
    });
}

/// Tells the parent what becomes of garbage, and what must not happen.
#[derive(Debug)]
struct Reporter;

#[expect(clippy::print_stdout, reason = "the parent reads it")]
impl Observer for Reporter {
    fn observe(&self, event: &Event<'_>) {
        match event {
            Event::GarbageCollected { collected } => {
                println!("collected {} {}", collected.deleted_generations, collected.freed_bytes);
            }
            Event::RequestFailed { .. } | Event::CollectionFailed { .. } | Event::ExpiryFailed { .. } => {
                println!("failed {event:?}");
            }
            _ => {}
        }
    }
}

/// What servers have deleted until they were killed, as far as they could say so.
#[derive(Default)]
struct Collections {
    cycles: u64,
    blobs: u64,
    bytes: u64,
}

impl Collections {
    /// Takes note of a line that a server has printed.
    fn note(&mut self, line: &str) {
        assert!(!line.starts_with("failed "), "{line}");
        let numbers = line.strip_prefix("collected ").and_then(|numbers| numbers.split_once(' '));
        let Some((blobs, bytes)) = numbers else { return };
        self.cycles += 1;
        self.blobs += blobs.parse::<u64>().unwrap();
        self.bytes += bytes.parse::<u64>().unwrap();
    }
}

struct Process {
    child: Child,
    said: BufReader<ChildStdout>,
    addr: SocketAddr,
}

impl Process {
    fn start(folder: &Path) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "serve_the_folder_that_the_environment_names", "--nocapture"])
            .env(FOLDER, folder)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = BufReader::new(child.stdout.take().unwrap());
        let addr = said
            .by_ref()
            .lines()
            .map(Result::unwrap)
            .find_map(|line| line.strip_prefix("listening on ")?.parse().ok())
            .expect("the server says where it listens");
        Self { child, said, addr }
    }

    /// Kills it, and hears what it has said.
    fn kill(mut self, collections: &mut Collections) {
        self.child.kill().unwrap(); // SIGKILL
        let mut line = String::new();
        // The last line may be cut off.
        while self.said.read_line(&mut line).unwrap() > 0 && line.ends_with('\n') {
            collections.note(line.trim_end());
            line.clear();
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

/// What the server has acknowledged, and what it may or may not have done.
#[derive(Default)]
struct Known {
    /// Manifests that must be here, with their one layer.
    manifests: HashMap<Digest, (Vec<u8>, Vec<u8>)>,
    /// Manifests that must not be here any more.
    deleted: HashSet<Digest>,
    /// Blobs that may be here, whole.
    tried: HashMap<Digest, Vec<u8>>,
    tags: HashMap<String, TagState>,
    /// Of each client, the blob that was acknowledged last, and when it was asked for.
    promised: HashMap<String, (Vec<u8>, Instant)>,
    uploads: Vec<OpenUpload>,
    /// Uploads that went on after a kill.
    resumed: u64,
    /// Uploads that were closed, although nobody heard of it.
    closed: u64,
}

/// An upload of which bytes were acknowledged, but not that it is closed.
struct OpenUpload {
    path: String,
    content: Vec<u8>,
    /// At least 2: of fewer, a client cannot know where to go on, since none and one look the same.
    acknowledged: usize,
    since: Instant,
}

/// What a tag names.
#[derive(Default)]
struct TagState {
    acknowledged: Option<Digest>,
    /// Asked for since, and not acknowledged.
    tried: Vec<Option<Digest>>,
}

impl TagState {
    const fn certain(digest: Option<Digest>) -> Self {
        Self { acknowledged: digest, tried: Vec::new() }
    }
}

/// A client that goes on until the server is gone.
struct Pusher<'a> {
    client: Client,
    tag: String,
    known: &'a Mutex<Known>,
    acknowledged: &'a AtomicUsize,
}

impl Pusher<'_> {
    fn run(&mut self, number: u64) {
        for step in 0.. {
            let seed = number << 32 | step;
            let layer = noise(seed, [300_000, 5_000, 60_000, 1, 0][(step % 5) as usize]);
            let Some(pushed) = self.push(&layer, seed) else { return };
            if step % 3 == 2 && self.delete(pushed, step % 2 == 0).is_none() {
                return;
            }
        }
    }

    /// Pushes a layer, which others may push too, and a manifest that nobody else does. `None` if the
    /// server went away meanwhile.
    fn push(&mut self, layer: &[u8], seed: u64) -> Option<Digest> {
        let began = Instant::now();
        self.push_blob(layer, seed)?;
        self.known().promised.insert(self.tag.clone(), (layer.to_vec(), began));
        self.acknowledged.fetch_add(1, Ordering::SeqCst);
        let image = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": descriptor("x/config", layer),
            "layers": [descriptor("x/layer", layer)],
            "annotations": { "number": seed.to_string() },
        });
        let bytes = image.to_string().into_bytes();
        let digest = Digest::sha256(&bytes);
        self.note(|tag| tag.tried.push(Some(digest)));
        let path = format!("/v2/web/manifests/{}", self.tag);
        let put = self.client.try_send("PUT", &path, &[("content-type", MANIFEST)], &bytes).ok()?;
        // Where this took longer than the promise, the layer may be gone by now.
        if put.status != 201 && began.elapsed() > GRACE {
            return self.push(layer, seed);
        }
        put.expect(201);
        self.note(|tag| *tag = TagState::certain(Some(digest)));
        self.known().manifests.insert(digest, (bytes, layer.to_vec()));
        self.acknowledged.fetch_add(1, Ordering::SeqCst);
        Some(digest)
    }

    fn push_blob(&mut self, content: &[u8], seed: u64) -> Option<()> {
        let digest = Digest::sha256(content);
        self.known().tried.insert(digest, content.to_vec());
        let post = self.client.try_send("POST", "/v2/web/blobs/uploads/", &[], b"").ok()?;
        let upload = post.expect(202).header("location").unwrap().to_owned();
        let mut rest = content;
        if seed % 2 == 1 {
            let (first, second) = content.split_at(content.len() / 2);
            self.client.try_send("PATCH", &upload, &[], first).ok()?.expect(202);
            if first.len() > 1 {
                let (path, content) = (upload.clone(), content.to_vec());
                let open = OpenUpload { path, content, acknowledged: first.len(), since: Instant::now() };
                self.known().uploads.push(open);
            }
            rest = second;
        }
        let put = format!("{upload}?digest={digest}");
        self.client.try_send("PUT", &put, &[], rest).ok()?.expect(201);
        self.known().uploads.retain(|open| open.path != upload);
        Some(())
    }

    /// Deletes the manifest that the tag names, or only the tag.
    fn delete(&mut self, digest: Digest, with_manifest: bool) -> Option<()> {
        self.note(|tag| tag.tried.push(None));
        let name = if with_manifest { digest.to_string() } else { self.tag.clone() };
        if with_manifest {
            self.known().manifests.remove(&digest);
        }
        let path = format!("/v2/web/manifests/{name}");
        self.client.try_send("DELETE", &path, &[], b"").ok()?.expect(202);
        self.note(|tag| *tag = TagState::certain(None));
        if with_manifest {
            self.known().deleted.insert(digest);
        }
        self.acknowledged.fetch_add(1, Ordering::SeqCst);
        Some(())
    }

    fn known(&self) -> std::sync::MutexGuard<'_, Known> {
        self.known.lock().unwrap()
    }

    /// Notes what the tag may name from now on.
    fn note(&self, change: impl FnOnce(&mut TagState)) {
        change(self.known().tags.entry(self.tag.clone()).or_default());
    }
}

/// What was acknowledged is there, for at most `sample` manifests, and what was only tried is there whole
/// or not at all.
fn check(addr: SocketAddr, known: &mut Known, sample: usize) {
    let mut client = Client::new(addr);
    // First what is promised for a while only.
    for open in std::mem::take(&mut known.uploads) {
        let is_open = resume(&mut client, &open);
        *(if is_open { &mut known.resumed } else { &mut known.closed }) += 1;
    }
    for (_, (layer, since)) in known.promised.drain() {
        check_blob(&mut client, &layer, MustBeThere::Promised(since));
    }
    for layer in known.tried.values().take(sample) {
        check_blob(&mut client, layer, MustBeThere::Never);
    }
    for (_, layer) in known.manifests.values().take(sample) {
        check_blob(&mut client, layer, MustBeThere::Always);
    }
    for (digest, (bytes, _)) in known.manifests.iter().take(sample) {
        assert_eq!(client.get(&format!("/v2/web/manifests/{digest}")).expect(200).body, *bytes);
    }
    for digest in known.deleted.iter().take(sample) {
        client.get(&format!("/v2/web/manifests/{digest}")).expect(404);
    }
    for (tag, state) in &mut known.tags {
        let got = client.get(&format!("/v2/web/manifests/{tag}"));
        let found = (got.status == 200).then(|| Digest::sha256(&got.body));
        assert!(found == state.acknowledged || state.tried.contains(&found), "{tag} names {found:?}");
        *state = TagState::certain(found);
    }
}

#[derive(Debug, Clone, Copy)]
enum MustBeThere {
    Always,
    /// For the grace period from then on.
    Promised(Instant),
    Never,
}

/// A blob is there whole, or it is not there and need not be.
fn check_blob(client: &mut Client, content: &[u8], must_be_there: MustBeThere) {
    let digest = Digest::sha256(content);
    let got = client.get(&format!("/v2/web/blobs/{digest}"));
    let may_be_gone = match must_be_there {
        MustBeThere::Always => false,
        MustBeThere::Promised(since) => since.elapsed() > GRACE,
        MustBeThere::Never => true,
    };
    assert!(got.status == 200 || got.status == 404 && may_be_gone, "{digest} is lost: {got:?}");
    assert!(got.status == 404 || got.body == content, "{digest} has other content");
}

/// Goes on with an upload where its bytes end. False if there is nothing to do, since it was closed.
fn resume(client: &mut Client, open: &OpenUpload) -> bool {
    let OpenUpload { path, content, acknowledged, since } = open;
    let status = client.get(path);
    if status.status == 404 {
        check_blob(client, content, MustBeThere::Promised(*since));
        return false;
    }
    let range = status.expect(204).header("range").unwrap().to_owned();
    let received = range.strip_prefix("0-").unwrap().parse::<usize>().unwrap() + 1;
    assert!(received >= *acknowledged, "{received} of {acknowledged} acknowledged bytes are left");
    let put = format!("{path}?digest={}", Digest::sha256(content));
    client.send("PUT", &put, &[], &content[received..]).expect(201);
    check_blob(client, content, MustBeThere::Promised(Instant::now()));
    true
}

#[test]
fn what_was_acknowledged_survives_being_killed() {
    let rounds = repetitions("HULL_KILL_ROUNDS", 10);
    let folder = tempfile::tempdir().unwrap();
    let known = Mutex::new(Known::default());
    let mut random = Random::new(1);
    let mut requests = 0;
    let mut collections = Collections::default();
    for round in 0..rounds {
        let process = Process::start(folder.path());
        check(process.addr, &mut known.lock().unwrap(), SAMPLE);
        let acknowledged = AtomicUsize::new(0);
        // Killed as soon as this many requests were acknowledged: the others are anywhere then.
        let enough = 1 + random.below(30);
        std::thread::scope(|scope| {
            let mut pushers = Vec::new();
            for number in 0..CLIENTS {
                let (client, tag) = (Client::new(process.addr), format!("t{number}"));
                let (known, acknowledged) = (&known, &acknowledged);
                let mut pusher = Pusher { client, tag, known, acknowledged };
                pushers.push(scope.spawn(move || pusher.run(round * CLIENTS + number)));
            }
            while acknowledged.load(Ordering::SeqCst) < enough
                && pushers.iter().all(|pusher| !pusher.is_finished())
            {
                std::thread::yield_now();
            }
            process.kill(&mut collections);
        });
        requests += acknowledged.into_inner();
    }
    let process = Process::start(folder.path());
    let mut known = known.into_inner().unwrap();
    check(process.addr, &mut known, usize::MAX);
    assert!(!known.manifests.is_empty());
    process.kill(&mut collections);
    let Known { resumed, closed, .. } = known;
    let Collections { cycles, blobs, bytes } = collections;
    figure(&format!(
        "random kills = {rounds}, acknowledged changes = {requests}, lost = 0, uploads resumed = {resumed}, \
         found finished = {closed}"
    ));
    figure(&format!(
        "collections between the kills = {cycles}, blobs deleted = {blobs}, bytes freed = {bytes}"
    ));
    // In a few rounds nothing need become garbage, and no upload need be under way.
    if rounds >= 100 {
        assert!(blobs > 0, "there was no garbage");
        assert!(resumed > 0, "no upload was under way");
    }
}
