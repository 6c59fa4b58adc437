//! The server is killed after its N-th change to the disk, for every N, while a client does everything
//! that changes something.
//!
//! Then a new server must hold what was acknowledged, and the client must get through by doing the
//! same again from the start, as clients do. Where exactly the storage is killed, and what a power cut
//! would leave, is drilled in `blob-store/tests/drills`.
//!
//! The same while garbage is collected, and also before each change. Then all that a manifest needs must be
//! there, and the next collection must leave what one that nobody disturbed leaves.

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, BufRead, BufReader};
use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use appliance::Digest;
use blob_store::{Faults, FolderStorage, Step};
use common::{Client, MANIFEST, Registry, Reply, SetClock, config, descriptor, manifest, noise};
use registry::{Collected, Garbage, Limits, Mode, Pattern, Rule, Rules, Server, ServerConfig};
use serde_json::json;
use tempfile::TempDir;

const FOLDER: &str = "HULL_TEST_KILL_FOLDER";
/// The number of the change at which the server is killed.
const KILL: &str = "HULL_TEST_KILL_AT";
/// Set where it is killed before the change.
const BEFORE: &str = "HULL_TEST_KILL_BEFORE";

/// Held by each test: a process that is being started holds, for a moment, the lock of every storage
/// that is open in this one.
static TURN: Mutex<()> = Mutex::new(());

/// Kills the process at a change.
#[derive(Debug)]
struct KillAt {
    at: usize,
    moment: Moment,
    count: AtomicUsize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Moment {
    Before,
    After,
}

impl KillAt {
    /// As the environment says.
    fn from_environment() -> Arc<Self> {
        let at = std::env::var(KILL).unwrap().parse().unwrap();
        let moment = if std::env::var_os(BEFORE).is_some() { Moment::Before } else { Moment::After };
        Arc::new(Self { at, moment, count: AtomicUsize::new(0) })
    }

    fn pass(&self, moment: Moment) {
        if self.moment == moment && self.count.fetch_add(1, Ordering::SeqCst) + 1 == self.at {
            let me = rustix::process::getpid();
            rustix::process::kill_process(me, rustix::process::Signal::KILL).unwrap();
            unreachable!("nobody survives SIGKILL");
        }
    }
}

impl Faults for KillAt {
    fn before(&self, _: Step<'_>) -> io::Result<()> {
        self.pass(Moment::Before);
        Ok(())
    }

    fn after(&self, _: Step<'_>) {
        self.pass(Moment::After);
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

/// Not a test of its own: the server's process. Serves until it is killed.
#[test]
fn serve_the_folder_that_the_environment_names() {
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    runtime().block_on(async {
        let storage = FolderStorage::open_with_faults(folder, KillAt::from_environment()).unwrap();
        let config = config("127.0.0.1:0", Limits::default(), Arc::new(()));
        let server = Server::bind(config, Arc::new(storage)).await.unwrap();
        println!("\nlistening on {}", server.local_addr());
        server.run(std::future::pending()).await;
    });
}

struct Process(Child);

impl Process {
    /// Starts a server, and says where it listens unless it was killed before.
    fn start(folder: &Path, at: usize) -> (Self, Option<SocketAddr>) {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "serve_the_folder_that_the_environment_names", "--nocapture"])
            .env(FOLDER, folder)
            .env(KILL, at.to_string())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let addr =
            lines.map(Result::unwrap).find_map(|line| line.strip_prefix("listening on ")?.parse().ok());
        (Self(child), addr)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.0.kill().unwrap(); // SIGKILL
        self.0.wait().unwrap();
    }
}

/// What the registry holds under a path, as far as the client was told.
#[derive(Debug, Default)]
struct Known {
    /// For each path what a GET may find; `None` is 404.
    paths: BTreeMap<String, Vec<Option<Vec<u8>>>>,
    /// An upload of which bytes were acknowledged, but not that it is closed, and the blob that it becomes.
    open: Option<(String, String)>,
}

impl Known {
    /// `path` is about to become `content`.
    fn begin(&mut self, path: &str, content: Option<&[u8]>) {
        let states = self.paths.entry(path.to_owned()).or_insert_with(|| vec![None]);
        states.push(content.map(<[u8]>::to_vec));
    }

    /// It was acknowledged.
    fn end(&mut self, path: &str) {
        let states = self.paths.get_mut(path).unwrap();
        states.drain(..states.len() - 1);
    }

    fn check(&self, client: &mut Client) {
        for (path, states) in &self.paths {
            let got = client.get(path);
            let found = match got.status {
                200 => Some(got.body),
                404 => None,
                _ => panic!("{path}: {got:?}"),
            };
            assert!(states.contains(&found), "{path} is {:?} long", found.map(|found| found.len()));
        }
        if let Some((upload, blob)) = &self.open {
            let is_there = client.get(upload).status == 204 || client.get(blob).status == 200;
            assert!(is_there, "neither {upload} nor {blob} is there");
        }
    }
}

/// A manifest whose subject is another.
fn signature(config: &[u8], subject: &[u8]) -> Vec<u8> {
    let document = json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "artifactType": "application/vnd.example.signature",
        "config": descriptor("application/vnd.oci.empty.v1+json", config),
        "layers": [],
        "subject": descriptor(MANIFEST, subject),
    });
    document.to_string().into_bytes()
}

/// A folder in memory where there is one.
fn scratch() -> TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

/// A client that tells what it does.
struct Pusher<'a> {
    client: Client,
    known: &'a mut Known,
}

impl Pusher<'_> {
    /// Sends a request. An error is that the server is gone; a failing request fails the test.
    fn send(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
        wanted: &[u16],
    ) -> io::Result<Reply> {
        let reply = self.client.try_send(method, path, headers, body)?;
        assert!(wanted.contains(&reply.status), "{method} {path}: {reply:?}");
        Ok(reply)
    }

    fn begin_upload(&mut self, query: &str) -> io::Result<String> {
        let post = self.send("POST", &format!("/v2/web/blobs/uploads/{query}"), &[], b"", &[202])?;
        Ok(post.header("location").unwrap().to_owned())
    }

    /// `POST`, then each of `chunks` by `PATCH`, then the closing `PUT`.
    fn push_blob(&mut self, content: &[u8], chunks: usize) -> io::Result<String> {
        let digest = Digest::sha256(content);
        let path = format!("/v2/web/blobs/{digest}");
        self.known.begin(&path, Some(content));
        let upload = self.begin_upload("")?;
        let mut rest = content;
        for _ in 0..chunks {
            let (chunk, later) = rest.split_at(content.len() / (chunks + 1));
            self.send("PATCH", &upload, &[], chunk, &[202])?;
            self.known.open = Some((upload.clone(), path.clone()));
            rest = later;
        }
        self.send("PUT", &format!("{upload}?digest={digest}"), &[], rest, &[201])?;
        self.known.open = None;
        self.known.end(&path);
        Ok(path)
    }

    fn mount(&mut self, content: &[u8]) -> io::Result<()> {
        let digest = Digest::sha256(content);
        let path = format!("/v2/other/blobs/{digest}");
        self.known.begin(&path, Some(content));
        let post = format!("/v2/other/blobs/uploads/?mount={digest}&from=web");
        self.send("POST", &post, &[], b"", &[201])?;
        self.known.end(&path);
        Ok(())
    }

    fn put_manifest(&mut self, tag: &str, bytes: &[u8]) -> io::Result<String> {
        let by_tag = format!("/v2/web/manifests/{tag}");
        let by_digest = format!("/v2/web/manifests/{}", Digest::sha256(bytes));
        self.known.begin(&by_tag, Some(bytes));
        self.known.begin(&by_digest, Some(bytes));
        self.send("PUT", &by_tag, &[("content-type", MANIFEST)], bytes, &[201])?;
        self.known.end(&by_tag);
        self.known.end(&by_digest);
        Ok(by_digest)
    }

    /// Deletes; `paths` are gone with it.
    fn delete(&mut self, path: &str, also: &[&str]) -> io::Result<()> {
        let all = || [path].into_iter().chain(also.iter().copied());
        all().for_each(|path| self.known.begin(path, None));
        // What was deleted before the server was killed is gone already.
        self.send("DELETE", path, &[], b"", &[202, 404])?;
        all().for_each(|path| self.known.end(path));
        Ok(())
    }

    /// Everything that changes something.
    fn do_everything(&mut self) -> io::Result<()> {
        let (layer, empty) = (noise(1, 300_000), b"{}");
        self.push_blob(empty, 0)?;
        self.push_blob(&layer, 2)?;
        let spare = self.push_blob(b"nobody refers to this", 1)?;
        self.mount(&layer)?;
        let cancelled = self.begin_upload("")?;
        self.send("PATCH", &cancelled, &[], b"never mind", &[202])?;
        self.send("DELETE", &cancelled, &[], b"", &[204])?;
        let first = manifest(empty, empty);
        let second = manifest(empty, &layer);
        self.put_manifest("v1", &first)?;
        self.put_manifest("v2", &second)?;
        self.put_manifest("v1", &second)?; // moves
        let signature = self.put_manifest("signature", &signature(empty, &second))?;
        let referrers = format!("/v2/web/referrers/{}", Digest::sha256(&second));
        let listed = self.send("GET", &referrers, &[], b"", &[200])?;
        assert_eq!(listed.json()["manifests"].as_array().unwrap().len(), 1);
        self.delete("/v2/web/manifests/v2", &[])?;
        self.delete(&signature, &["/v2/web/manifests/signature"])?;
        self.delete(&spare, &[])
    }
}

#[test]
fn a_server_that_is_killed_at_any_step_keeps_what_it_acknowledged() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let mut kills = 0;
    for at in 1.. {
        let folder = scratch();
        let mut known = Known::default();
        let (process, addr) = Process::start(folder.path(), at);
        let done = addr.is_some_and(|addr| {
            Pusher { client: Client::new(addr), known: &mut known }.do_everything().is_ok()
        });
        drop(process);
        if done {
            break;
        }
        kills += 1;
        let (_process, addr) = Process::start(folder.path(), usize::MAX);
        let mut client = Client::new(addr.unwrap());
        known.check(&mut client);
        Pusher { client, known: &mut known }.do_everything().unwrap();
        known.check(&mut Client::new(addr.unwrap()));
    }
    println!("figure: kill points of the server = {kills}, lost = 0");
}

/// When the registry is filled, in seconds since 1970.
const FILLED: u64 = 2_000_000_000;
/// When garbage is collected: all that was not renewed is old.
const LATER: u64 = FILLED + 1000;
/// What manifests need, and a blob that goes with its manifest.
const NEEDED: [&[u8]; 2] = [b"{}", b"a layer"];
const OLD: &[u8] = b"a layer of an old image";

/// Tags whose names begin with `old` go, and then their manifests.
fn configure(config: &mut ServerConfig, clock: Arc<SetClock>) {
    let soon = Some(Duration::from_secs(10));
    let rule = Rule {
        tags: vec![Pattern::new("old*")],
        tags_older_than: soon,
        untagged_after: soon,
        ..Rule::new(Pattern::new("*"))
    };
    config.rules = Rules(vec![rule]);
    config.garbage = Garbage { grace: Duration::from_secs(100), interval: None };
    config.clock = clock;
}

fn open(folder: &Path, clock: Arc<SetClock>) -> Registry {
    let storage = Arc::new(FolderStorage::open(folder).unwrap());
    Registry::configured(storage, Limits::default(), |config| configure(config, clock))
}

/// A registry with garbage of each kind.
fn fill(folder: &Path) {
    let clock = Arc::new(SetClock::at(FILLED));
    let registry = open(folder, Arc::clone(&clock));
    let mut client = registry.client();
    for content in NEEDED.iter().chain([&OLD]) {
        client.push_blob("web", content);
    }
    client.push_blob("web", b"nobody refers to this");
    let deleted = client.push_blob("web", b"this was deleted");
    client.send("DELETE", &format!("/v2/web/blobs/{deleted}"), &[], b"").expect(202);
    let mount = format!("/v2/other/blobs/uploads/?mount={}&from=web", Digest::sha256(NEEDED[1]));
    client.send("POST", &mount, &[], b"").expect(201);
    let old = manifest(NEEDED[0], OLD);
    client.put_manifest("web", "old", MANIFEST, &old).expect(201);
    client.put_manifest("web", "old-signature", MANIFEST, &signature(NEEDED[0], &old)).expect(201);
    // What is pushed again later has two stamps and two copies.
    for time in [FILLED, FILLED + 90] {
        clock.set(time);
        client.put_manifest("web", "kept", MANIFEST, &manifest(NEEDED[0], NEEDED[1])).expect(201);
    }
}

/// All that is needed can be read, and is what was pushed.
fn check_needed(client: &mut Client) {
    let kept = manifest(NEEDED[0], NEEDED[1]);
    let by_digest = format!("/v2/web/manifests/{}", Digest::sha256(&kept));
    for path in ["/v2/web/manifests/kept", &by_digest] {
        assert_eq!(client.get(path).expect(200).body, kept);
    }
    for content in NEEDED {
        let path = format!("/v2/web/blobs/{}", Digest::sha256(content));
        assert_eq!(client.get(&path).expect(200).body, content);
    }
}

/// What lies in the folder at last: all files but the reserve, and what the last collection did.
type End = (BTreeMap<String, Vec<u8>>, Collected);

/// Collects until nothing is left to do.
fn finish(folder: &Path) -> End {
    let registry = open(folder, Arc::new(SetClock::at(LATER)));
    let mut client = registry.client();
    check_needed(&mut client);
    registry.collect();
    let last = registry.collect();
    check_needed(&mut client);
    let mut files = BTreeMap::new();
    read_files(folder, folder, &mut files);
    // Whoever pushes what was deleted, or was being deleted, gets it back.
    client.push_blob("web", OLD);
    assert_eq!(client.get(&format!("/v2/web/blobs/{}", Digest::sha256(OLD))).expect(200).body, OLD);
    (files, last)
}

fn read_files(root: &Path, folder: &Path, files: &mut BTreeMap<String, Vec<u8>>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if !path.is_dir() {
            let name = path.strip_prefix(root).unwrap().to_str().unwrap();
            files.insert(name.to_owned(), fs::read(&path).unwrap());
        } else if !path.ends_with(".reserve") {
            read_files(root, &path, files);
        }
    }
}

fn copy(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap() {
        let (path, to) = {
            let entry = entry.unwrap();
            (entry.path(), to.join(entry.file_name()))
        };
        if path.is_dir() {
            fs::create_dir(&to).unwrap();
            copy(&path, &to);
        } else {
            fs::copy(&path, &to).unwrap();
        }
    }
}

/// Not a test of its own: the process that collects until it is killed.
#[test]
fn collect_in_the_folder_that_the_environment_names() {
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    runtime().block_on(async {
        let storage = FolderStorage::open_with_faults(folder, KillAt::from_environment()).unwrap();
        let mut config = config("127.0.0.1:0", Limits::default(), Arc::new(()));
        configure(&mut config, Arc::new(SetClock::at(LATER)));
        let server = Server::bind(config, Arc::new(storage)).await.unwrap();
        server.caretaker().collect(Mode::Collect).await.unwrap();
    });
}

/// Collects in a process of its own. False if that was killed.
fn collect(folder: &Path, at: usize, moment: Moment) -> bool {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "collect_in_the_folder_that_the_environment_names", "--nocapture"]);
    command.env(FOLDER, folder).env(KILL, at.to_string());
    if moment == Moment::Before {
        command.env(BEFORE, "");
    }
    let output = command.output().unwrap();
    assert!(output.status.success() || output.status.signal() == Some(9), "{output:?}");
    output.status.success()
}

#[test]
fn garbage_collection_that_is_killed_at_any_step_takes_nothing_and_leaves_nothing() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let filled = scratch();
    fill(filled.path());
    let copied = || {
        let folder = scratch();
        copy(filled.path(), folder.path());
        folder
    };
    let undisturbed = finish(copied().path());
    let digest = |content: &[u8]| Digest::sha256(content).hex();
    let is_left = |content| undisturbed.0.keys().any(|name| name.contains(&digest(content)));
    assert!(is_left(NEEDED[1]) && !is_left(OLD) && !is_left(b"nobody refers to this"), "{undisturbed:?}");
    let mut kills = 0;
    for moment in [Moment::Before, Moment::After] {
        for at in 1.. {
            let folder = copied();
            let is_done = collect(folder.path(), at, moment);
            assert!(finish(folder.path()) == undisturbed, "killed {moment:?} step {at}");
            if is_done {
                break;
            }
            kills += 1;
        }
    }
    println!("figure: kill points of garbage collection = {kills}, lost = 0");
}
