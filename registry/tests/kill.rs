//! What was acknowledged survives SIGKILL at any moment, and nothing half-done becomes visible.
//!
//! The server runs in a process of its own: this test binary, started again, told by an environment
//! variable to serve. Clients push and delete, and garbage is collected without a pause, until it is
//! killed in the middle of all that; then a new process serves the same folder and is asked for what
//! there should be.

mod common;

use std::collections::{HashMap, HashSet};
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use appliance::Digest;
use blob_store::FolderStorage;
use common::{Client, MANIFEST, Random, config, figure, manifest, noise, repetitions};
use registry::{Garbage, Limits, Server};

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
        let mut config = config("127.0.0.1:0", Limits::default(), Arc::new(()));
        config.garbage = Garbage { grace: GRACE, interval: Some(Duration::from_millis(50)) };
        let server = Server::bind(config, storage).await.unwrap();
        println!("\nlistening on {}", server.local_addr());
        server.run(std::future::pending()).await;
    });
}

struct Process {
    child: Child,
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
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let addr = lines
            .map(Result::unwrap)
            .find_map(|line| line.strip_prefix("listening on ")?.parse().ok())
            .expect("the server says where it listens");
        Self { child, addr }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.child.kill().unwrap(); // SIGKILL
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
    uploads: Vec<(String, Vec<u8>, usize)>,
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
            let layer = noise(number << 32 | step, [300_000, 5_000, 60_000, 1, 0][(step % 5) as usize]);
            let Some(pushed) = self.push(&layer, step) else { return };
            if step % 3 == 2 && self.delete(pushed, step % 2 == 0).is_none() {
                return;
            }
        }
    }

    /// Pushes a layer and a manifest. `None` if the server went away meanwhile.
    fn push(&mut self, layer: &[u8], step: u64) -> Option<Digest> {
        self.push_blob(layer, step)?;
        self.acknowledged.fetch_add(1, Ordering::SeqCst);
        let bytes = manifest(layer, layer);
        let digest = Digest::sha256(&bytes);
        self.note(|tag| tag.tried.push(Some(digest)));
        let path = format!("/v2/web/manifests/{}", self.tag);
        let put = self.client.try_send("PUT", &path, &[("content-type", MANIFEST)], &bytes).ok()?;
        put.expect(201);
        self.note(|tag| *tag = TagState::certain(Some(digest)));
        self.known().manifests.insert(digest, (bytes, layer.to_vec()));
        self.acknowledged.fetch_add(1, Ordering::SeqCst);
        Some(digest)
    }

    fn push_blob(&mut self, content: &[u8], step: u64) -> Option<()> {
        let digest = Digest::sha256(content);
        self.known().tried.insert(digest, content.to_vec());
        let post = self.client.try_send("POST", "/v2/web/blobs/uploads/", &[], b"").ok()?;
        let upload = post.expect(202).header("location").unwrap().to_owned();
        let mut rest = content;
        if step % 2 == 1 {
            let (first, second) = content.split_at(content.len() / 2);
            self.client.try_send("PATCH", &upload, &[], first).ok()?.expect(202);
            self.known().uploads.push((upload.clone(), content.to_vec(), first.len()));
            rest = second;
        }
        let put = format!("{upload}?digest={digest}");
        self.client.try_send("PUT", &put, &[], rest).ok()?.expect(201);
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
    let mut check_blob = |layer: &[u8], must_be_there: bool| {
        let digest = Digest::sha256(layer);
        let got = client.get(&format!("/v2/web/blobs/{digest}"));
        assert!(got.status == 200 || got.status == 404 && !must_be_there, "{digest} is lost: {got:?}");
        assert!(got.status == 404 || got.body == layer, "{digest} has other content");
    };
    for layer in known.tried.values().take(sample) {
        check_blob(layer, false);
    }
    for (_, layer) in known.manifests.values().take(sample) {
        check_blob(layer, true);
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
    for (upload, content, acknowledged) in known.uploads.drain(..) {
        let status = client.get(&upload);
        if status.status == 404 {
            continue; // finished
        }
        let range = status.expect(204).header("range").unwrap().to_owned();
        let received = match range.strip_prefix("0-").unwrap().parse::<usize>().unwrap() {
            // Nothing and one byte look the same, so a client cannot know where to go on.
            0 => {
                assert!(acknowledged < 2, "{acknowledged} acknowledged bytes are lost");
                client.send("DELETE", &upload, &[], b"").expect(204);
                continue;
            }
            last => last + 1,
        };
        assert!(received >= acknowledged, "{received} of {acknowledged} acknowledged bytes are left");
        let put = format!("{upload}?digest={}", Digest::sha256(&content));
        client.send("PUT", &put, &[], &content[received..]).expect(201);
    }
}

#[test]
fn what_was_acknowledged_survives_being_killed() {
    let rounds = repetitions("HULL_KILL_ROUNDS", 10);
    let folder = tempfile::tempdir().unwrap();
    let known = Mutex::new(Known::default());
    let mut random = Random::new(1);
    let mut requests = 0;
    for round in 0..rounds {
        let process = Process::start(folder.path());
        check(process.addr, &mut known.lock().unwrap(), SAMPLE);
        let acknowledged = AtomicUsize::new(0);
        // Killed as soon as this many requests were acknowledged: the others are anywhere then.
        let enough = 1 + random.below(30);
        std::thread::scope(|scope| {
            for number in 0..CLIENTS {
                let (client, tag) = (Client::new(process.addr), format!("t{number}"));
                let (known, acknowledged) = (&known, &acknowledged);
                let mut pusher = Pusher { client, tag, known, acknowledged };
                scope.spawn(move || pusher.run(round * CLIENTS + number));
            }
            while acknowledged.load(Ordering::SeqCst) < enough {
                std::thread::yield_now();
            }
            drop(process);
        });
        requests += acknowledged.into_inner();
    }
    let process = Process::start(folder.path());
    let mut known = known.into_inner().unwrap();
    check(process.addr, &mut known, usize::MAX);
    assert!(!known.manifests.is_empty());
    figure(&format!("random kills = {rounds}, acknowledged changes = {requests}, lost = 0"));
}
