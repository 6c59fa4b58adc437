//! The server is killed after its N-th change to the disk, for every N, while a client does everything
//! that changes something.
//!
//! Then a new server must hold what was acknowledged, and the client must get through by doing the
//! same again from the start, as clients do. Where exactly the storage is killed, and what a power cut
//! would leave, is drilled in `blob-store/tests/drills`.

mod common;

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use appliance::Digest;
use blob_store::{Faults, FolderStorage, Step};
use common::{Client, MANIFEST, Reply, config, descriptor, manifest, noise};
use registry::{Limits, Server};
use serde_json::json;

const FOLDER: &str = "HULL_TEST_KILL_FOLDER";
/// The number of the change after which the server is killed.
const KILL: &str = "HULL_TEST_KILL_AT";

/// Kills the process after a number of changes.
#[derive(Debug)]
struct KillAt {
    at: usize,
    done: AtomicUsize,
}

impl Faults for KillAt {
    fn before(&self, _: Step<'_>) -> io::Result<()> {
        Ok(())
    }

    fn after(&self, _: Step<'_>) {
        if self.done.fetch_add(1, Ordering::SeqCst) + 1 == self.at {
            let me = rustix::process::getpid();
            rustix::process::kill_process(me, rustix::process::Signal::KILL).unwrap();
            unreachable!("nobody survives SIGKILL");
        }
    }
}

/// Not a test of its own: the server's process. Serves until it is killed.
#[test]
fn serve_the_folder_that_the_environment_names() {
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    let at = std::env::var(KILL).unwrap().parse().unwrap();
    let faults = Arc::new(KillAt { at, done: AtomicUsize::new(0) });
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let storage = Arc::new(FolderStorage::open_with_faults(folder, faults).unwrap());
        let config = config("127.0.0.1:0", Limits::default(), Arc::new(()));
        let server = Server::bind(config, storage).await.unwrap();
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
    }
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
            rest = later;
        }
        self.send("PUT", &format!("{upload}?digest={digest}"), &[], rest, &[201])?;
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
        let signature = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "artifactType": "application/vnd.example.signature",
            "config": descriptor("application/vnd.oci.empty.v1+json", empty),
            "layers": [],
            "subject": descriptor(MANIFEST, &second),
        });
        let signature = self.put_manifest("signature", signature.to_string().as_bytes())?;
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
    let memory = Path::new("/dev/shm");
    let mut kills = 0;
    for at in 1.. {
        let folder = tempfile::tempdir_in(memory).or_else(|_| tempfile::tempdir()).unwrap();
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
