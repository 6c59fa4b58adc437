//! What was acknowledged survives SIGKILL at any point, and nothing half-done becomes visible.
//!
//! The server runs in a process of its own: this test binary, started again, told by an environment
//! variable to serve. Clients push to it until it is killed in the middle of their requests; then a
//! new process serves the same folder and is asked for everything.

mod common;

use std::collections::HashMap;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use appliance::Digest;
use blob_store::FolderStorage;
use common::{Client, MANIFEST, config, manifest, noise};
use registry::{Limits, Server};

const FOLDER: &str = "HULL_TEST_SERVE_FOLDER";
const ROUNDS: u64 = 10;
const CLIENTS: u64 = 3;

/// Not a test of its own: the server's process. Serves until it is killed.
#[test]
fn serve_the_folder_that_the_environment_names() {
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let storage = Arc::new(FolderStorage::open(folder).unwrap());
        let server =
            Server::bind(config("127.0.0.1:0", Limits::default(), Arc::new(())), storage).await.unwrap();
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
    blobs: HashMap<Digest, Vec<u8>>,
    manifests: HashMap<Digest, Vec<u8>>,
    tags: HashMap<String, TagState>,
    tried: HashMap<Digest, Vec<u8>>,
    uploads: Vec<(String, Vec<u8>, usize)>,
}

#[derive(Default)]
struct TagState {
    acknowledged: Option<Digest>,
    /// Asked for since, and not acknowledged.
    tried: Vec<Digest>,
}

/// Pushes blobs and manifests until the server is gone.
fn push_until_killed(addr: SocketAddr, number: u64, known: &Mutex<Known>, acknowledged: &AtomicUsize) {
    let mut client = Client::new(addr);
    for step in 0.. {
        let layer = noise(number << 32 | step, [300_000, 5_000, 2_500_000, 1, 0][(step % 5) as usize]);
        let Some(digest) = push_blob(&mut client, &layer, step, known) else { return };
        known.lock().unwrap().blobs.insert(digest, layer.clone());
        acknowledged.fetch_add(1, Ordering::SeqCst);

        let tag = format!("t{}", number % CLIENTS);
        let bytes = manifest(&layer, &layer);
        let digest = Digest::sha256(&bytes);
        known.lock().unwrap().tags.entry(tag.clone()).or_default().tried.push(digest);
        let path = format!("/v2/web/manifests/{tag}");
        let put = client.try_send("PUT", &path, &[("content-type", MANIFEST)], &bytes);
        let Ok(reply) = put else { return };
        assert_eq!(reply.status, 201, "{reply:?}");
        let mut known = known.lock().unwrap();
        known.tags.insert(tag, TagState { acknowledged: Some(digest), tried: Vec::new() });
        known.manifests.insert(digest, bytes);
        acknowledged.fetch_add(1, Ordering::SeqCst);
    }
}

fn push_blob(client: &mut Client, content: &[u8], step: u64, known: &Mutex<Known>) -> Option<Digest> {
    let digest = Digest::sha256(content);
    known.lock().unwrap().tried.insert(digest, content.to_vec());
    let post = client.try_send("POST", "/v2/web/blobs/uploads/", &[], b"").ok()?;
    let upload = post.expect(202).header("location").unwrap().to_owned();
    let mut rest = content;
    if step % 2 == 1 {
        let (first, second) = content.split_at(content.len() / 2);
        client.try_send("PATCH", &upload, &[], first).ok()?.expect(202);
        known.lock().unwrap().uploads.push((upload.clone(), content.to_vec(), first.len()));
        rest = second;
    }
    let put = client.try_send("PUT", &format!("{upload}?digest={digest}"), &[], rest).ok()?;
    put.expect(201);
    Some(digest)
}

/// Everything acknowledged is there, and what was only tried is there whole or not at all.
fn check(addr: SocketAddr, known: &mut Known) {
    let mut client = Client::new(addr);
    for (digest, content) in &known.blobs {
        let got = client.get(&format!("/v2/web/blobs/{digest}")).expect(200);
        assert!(got.body == *content, "{digest} has other content");
    }
    for (digest, content) in &known.tried {
        let got = client.get(&format!("/v2/web/blobs/{digest}"));
        assert!(got.status == 404 || got.body == *content, "{digest} is visible in part");
    }
    for (digest, bytes) in &known.manifests {
        assert_eq!(client.get(&format!("/v2/web/manifests/{digest}")).expect(200).body, *bytes);
    }
    for (tag, state) in &known.tags {
        let got = client.get(&format!("/v2/web/manifests/{tag}"));
        let found = (got.status == 200).then(|| Digest::sha256(&got.body));
        let is_tried = found.is_some_and(|found| state.tried.contains(&found));
        assert!(found == state.acknowledged || is_tried, "{tag} names {found:?}");
    }
    for (upload, content, acknowledged) in known.uploads.drain(..) {
        let status = client.get(&upload);
        if status.status == 404 {
            continue; // finished
        }
        let range = status.expect(204).header("range").unwrap().to_owned();
        let received = match range.strip_prefix("0-").unwrap().parse::<usize>().unwrap() {
            0 => acknowledged, // nothing and one byte look the same
            last => last + 1,
        };
        assert!(received >= acknowledged, "{received} of {acknowledged} acknowledged bytes are left");
        let digest = Digest::sha256(&content);
        let put = format!("{upload}?digest={digest}");
        client.send("PUT", &put, &[], &content[received..]).expect(201);
        known.blobs.insert(digest, content);
    }
}

#[test]
fn what_was_acknowledged_survives_being_killed() {
    let folder = tempfile::tempdir().unwrap();
    let known = Mutex::new(Known::default());
    for round in 0..ROUNDS {
        let process = Process::start(folder.path());
        check(process.addr, &mut known.lock().unwrap());
        let acknowledged = AtomicUsize::new(0);
        // Killed as soon as this many requests were acknowledged: the others are anywhere then.
        let enough = (1 + round * 7 % 11) as usize;
        std::thread::scope(|scope| {
            for client in 0..CLIENTS {
                let (addr, known, acknowledged) = (process.addr, &known, &acknowledged);
                scope.spawn(move || push_until_killed(addr, round * CLIENTS + client, known, acknowledged));
            }
            while acknowledged.load(Ordering::SeqCst) < enough {
                std::thread::yield_now();
            }
            drop(process);
        });
    }
    let process = Process::start(folder.path());
    let mut known = known.into_inner().unwrap();
    check(process.addr, &mut known);
    assert!(known.blobs.len() > ROUNDS as usize);
}
