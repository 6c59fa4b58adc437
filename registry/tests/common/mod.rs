//! A registry on a loopback port, and a small HTTP/1.1 client that sends exactly what a test says.

#![allow(dead_code, reason = "each test binary uses a part of it")]

pub(crate) mod pusher;
pub(crate) mod world;

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use appliance::Digest;
use blob_store::{Key, MemoryStorage, SessionInfo, Storage};
use futures_util::TryStreamExt as _;
use registry::{
    Access, Caretaker, Clock, Collected, Event, Exposure, Garbage, Limits, Mode, Observer, Rules, Server,
    ServerConfig, SystemClock, Time,
};
use serde_json::{Value, json};
use tempfile::TempDir;
use testkit::wait::LIMIT;
use tokio::sync::oneshot;

pub(crate) const MANIFEST: &str = appliance::media_type::MANIFEST;
pub(crate) const INDEX: &str = appliance::media_type::INDEX;

/// A server in a thread of this process. Dropped, it drains and ends.
pub(crate) struct Registry {
    pub(crate) addr: SocketAddr,
    pub(crate) operations_addr: Option<SocketAddr>,
    /// The server's accounts.
    pub(crate) access: Access,
    /// Who collects the server's garbage.
    pub(crate) caretaker: Arc<Caretaker>,
    /// What the server reported of itself, as text: neither requests that were answered nor who did what.
    pub(crate) events: mpsc::Receiver<String>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Reporter(mpsc::Sender<String>);

impl Observer for Reporter {
    fn observe(&self, event: &Event<'_>) {
        if matches!(event, Event::RequestAnswered { .. } | Event::Audit(_)) {
            return;
        }
        let _ = self.0.send(format!("{event:?}"));
    }
}

impl Registry {
    pub(crate) fn in_memory() -> Self {
        Self::start(Arc::new(MemoryStorage::new()), Limits::default())
    }

    pub(crate) fn start(storage: Arc<dyn Storage>, limits: Limits) -> Self {
        Self::configured(storage, limits, |_| {})
    }

    /// Starts with what `configure` changes in the configuration.
    pub(crate) fn configured(
        storage: Arc<dyn Storage>,
        limits: Limits,
        configure: impl FnOnce(&mut ServerConfig),
    ) -> Self {
        let (reports, events) = mpsc::channel();
        let mut config = config("127.0.0.1:0", limits, Arc::new(Reporter(reports)));
        configure(&mut config);
        let (stop, stopped) = oneshot::channel();
        let (ready, is_ready) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
            runtime.block_on(async {
                let server = Server::bind(config, storage).await.unwrap();
                let (access, caretaker) = (server.access().clone(), server.caretaker());
                let addrs = (server.local_addr(), server.operations_addr());
                ready.send((addrs, access, caretaker)).unwrap();
                server
                    .run(async {
                        let _ = stopped.await;
                    })
                    .await;
            });
        });
        let ((addr, operations_addr), access, caretaker) = is_ready.recv().expect("the server starts");
        Self { addr, operations_addr, access, caretaker, events, stop: Some(stop), thread: Some(thread) }
    }

    pub(crate) fn client(&self) -> Client {
        Client::new(self.addr)
    }

    /// Runs a cycle of garbage collection.
    pub(crate) fn collect(&self) -> Collected {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(self.caretaker.collect(Mode::Collect)).unwrap()
    }

    /// Asks the server to stop, without waiting for it.
    pub(crate) fn begin_stop(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.begin_stop();
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            if !std::thread::panicking() {
                ended.unwrap();
            }
        }
    }
}

/// Clients that do nothing for a while, as those of a test on a busy machine, are cut off only where
/// `limits` say so.
pub(crate) fn config(listen: &str, limits: Limits, observer: Arc<dyn Observer>) -> ServerConfig {
    let listen = listen.parse().unwrap();
    let is_asked_for = limits.head_timeout != Limits::default().head_timeout;
    let limits = Limits { head_timeout: if is_asked_for { limits.head_timeout } else { LIMIT }, ..limits };
    let exposure = Exposure::LoopbackOrTls;
    ServerConfig {
        listen,
        exposure,
        tls: None,
        operations: None,
        limits,
        rules: Rules::default(),
        garbage: Garbage::default(),
        public_url: None,
        anonymous_pull: Vec::new(),
        control: None,
        clock: Arc::new(SystemClock),
        observer,
    }
}

/// A clock that stands still until a test moves it.
#[derive(Debug)]
pub(crate) struct SetClock(AtomicU64);

impl SetClock {
    /// A clock that stands at so many seconds since 1970.
    pub(crate) fn at(seconds: u64) -> Self {
        Self(AtomicU64::new(seconds))
    }

    pub(crate) fn set(&self, seconds: u64) {
        self.0.store(seconds, Ordering::SeqCst);
    }

    pub(crate) fn pass(&self, time: Duration) {
        self.0.fetch_add(time.as_secs(), Ordering::SeqCst);
    }
}

impl Clock for SetClock {
    fn now(&self) -> Time {
        Time::from_secs(self.0.load(Ordering::SeqCst))
    }
}

/// One connection, made anew when the server has closed it.
pub(crate) struct Client {
    addr: SocketAddr,
    connection: Option<BufReader<TcpStream>>,
}

#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    headers: HashMap<String, String>,
    pub(crate) body: Vec<u8>,
}

impl Client {
    pub(crate) fn new(addr: SocketAddr) -> Self {
        Self { addr, connection: None }
    }

    pub(crate) fn get(&mut self, path: &str) -> Reply {
        self.send("GET", path, &[], b"")
    }

    /// Sends a request with a `Content-Length` and reads the answer.
    pub(crate) fn send(&mut self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Reply {
        self.try_send(method, path, headers, body).unwrap()
    }

    /// As [`Client::send`], where the server may go away at any time.
    pub(crate) fn try_send(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> std::io::Result<Reply> {
        let length = body.len().to_string();
        let mut all = vec![("content-length", length.as_str())];
        all.extend_from_slice(headers);
        let mut connection = self.begin(method, path, &all)?;
        connection.get_mut().write_all(body)?;
        let reply = read_reply(&mut connection, method)?;
        if reply.header("connection") != Some("close") {
            self.connection = Some(connection);
        }
        Ok(reply)
    }

    /// Sends a request's head only. The caller writes the body to the connection, or does not.
    pub(crate) fn begin(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
    ) -> std::io::Result<BufReader<TcpStream>> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => BufReader::new(connect(self.addr)?),
        };
        let mut head = format!("{method} {path} HTTP/1.1\r\nhost: {}\r\n", self.addr);
        for (name, value) in headers {
            head += &format!("{name}: {value}\r\n");
        }
        connection.get_mut().write_all((head + "\r\n").as_bytes())?;
        Ok(connection)
    }

    /// Sends the head of a request, and returns when the server asks for the body: it has begun with the
    /// request, and whatever it hears from then on comes later.
    pub(crate) fn begin_body(&mut self, method: &str, path: &str, bytes: usize) -> BufReader<TcpStream> {
        let headers = [("content-length", &*bytes.to_string()), ("expect", "100-continue")];
        let mut connection = self.begin(method, path, &headers).unwrap();
        let mut proceed = [0; 25];
        connection.read_exact(&mut proceed).unwrap();
        assert_eq!(proceed.escape_ascii().to_string(), r"HTTP/1.1 100 Continue\r\n\r\n");
        connection
    }

    /// Pushes a blob: `POST`, `PUT`.
    pub(crate) fn push_blob(&mut self, repository: &str, content: &[u8]) -> Digest {
        let digest = Digest::sha256(content);
        let upload = self.begin_upload(repository);
        let put = self.send("PUT", &format!("{upload}?digest={digest}"), &[], content);
        assert_eq!(put.status, 201, "{put:?}");
        digest
    }

    /// Opens an upload and returns its path.
    pub(crate) fn begin_upload(&mut self, repository: &str) -> String {
        let post = self.send("POST", &format!("/v2/{repository}/blobs/uploads/"), &[], b"");
        assert_eq!(post.status, 202, "{post:?}");
        post.header("location").unwrap().to_owned()
    }

    pub(crate) fn put_manifest(
        &mut self,
        repository: &str,
        name: &str,
        media_type: &str,
        bytes: &[u8],
    ) -> Reply {
        let path = format!("/v2/{repository}/manifests/{name}");
        self.send("PUT", &path, &[("content-type", media_type)], bytes)
    }
}

impl Reply {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("the body is JSON")
    }

    /// The code of the error, if the answer is one.
    pub(crate) fn code(&self) -> String {
        let body: Value = serde_json::from_slice(&self.body).unwrap_or_default();
        body["errors"][0]["code"].as_str().unwrap_or_default().to_owned()
    }

    #[track_caller]
    pub(crate) fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{}: {self:?}", String::from_utf8_lossy(&self.body));
        self
    }

    #[track_caller]
    pub(crate) fn expect_error(self, status: u16, code: &str) -> Self {
        let reply = self.expect(status);
        assert_eq!(reply.code(), code, "{}", String::from_utf8_lossy(&reply.body));
        assert_eq!(reply.header("content-type"), Some("application/json"));
        reply
    }
}

pub(crate) fn connect(addr: SocketAddr) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect(addr)?;
    stream.set_nodelay(true)?;
    // A test that hangs says where.
    stream.set_read_timeout(Some(LIMIT))?;
    Ok(stream)
}

/// Reads one answer. Bodies of ours always have a length.
pub(crate) fn read_reply(connection: &mut BufReader<TcpStream>, method: &str) -> std::io::Result<Reply> {
    let gone = || std::io::Error::from(std::io::ErrorKind::UnexpectedEof);
    let mut line = String::new();
    connection.read_line(&mut line)?;
    let status = line.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or_else(gone)?;
    let mut headers = HashMap::new();
    loop {
        line.clear();
        connection.read_line(&mut line)?;
        match line.trim_end().split_once(": ") {
            Some((name, value)) => headers.insert(name.to_ascii_lowercase(), value.to_owned()),
            None if line == "\r\n" => break,
            None => return Err(gone()),
        };
    }
    let has_body = method != "HEAD" && status != 204 && status != 304;
    let length = headers.get("content-length").filter(|_| has_body);
    let mut body = vec![0; length.map_or(0, |length| length.parse().unwrap())];
    connection.read_exact(&mut body)?;
    Ok(Reply { status, headers, body })
}

/// The descriptor of a blob.
pub(crate) fn descriptor(media_type: &str, content: &[u8]) -> Value {
    json!({ "mediaType": media_type, "digest": Digest::sha256(content), "size": content.len() })
}

/// An image manifest with one layer.
pub(crate) fn manifest(config: &[u8], layer: &[u8]) -> Vec<u8> {
    let document = json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": descriptor("application/vnd.oci.empty.v1+json", config),
        "layers": [descriptor("application/octet-stream", layer)],
    });
    document.to_string().into_bytes()
}

/// A folder in memory where there is one, for what need not outlive a power cut.
pub(crate) fn scratch() -> TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

/// All that a storage of the registry's layout holds: its keys, and the sessions that are open.
pub(crate) fn everything(storage: &dyn Storage) -> (Vec<Key>, Vec<SessionInfo>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut keys = Vec::new();
        for folder in ["access", "blobs", "quarantine", "repositories"] {
            let folder = Key::new(folder).unwrap();
            keys.extend(storage.keys_below(&folder).try_collect::<Vec<Key>>().await.unwrap());
        }
        let mut sessions = storage.sessions().await.unwrap();
        sessions.sort_by_key(|session| session.id);
        (keys, sessions)
    })
}

/// How often a drill is repeated: as the environment says, or as often as a test run has time for.
pub(crate) fn repetitions(variable: &str, otherwise: u64) -> u64 {
    std::env::var(variable).map_or(otherwise, |text| text.parse().expect("a number"))
}

/// Says a figure that a report may quote.
#[expect(clippy::print_stdout, reason = "the reports are made of what the drills print")]
pub(crate) fn figure(text: &str) {
    println!("figure: {text}");
}

/// Numbers that look random; the same for the same seed.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// A number below `limit`.
    pub(crate) fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 33) as usize % limit
    }

    pub(crate) fn one_of<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len())]
    }
}

/// Bytes that do not repeat; the same for the same seed.
pub(crate) fn noise(seed: u64, size: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(size + 8);
    while bytes.len() < size {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(size);
    bytes
}
