//! A small registry on loopback that breaks as it is told to, and remembers what it was asked.

use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use appliance::{Digest, Reference};
use futures_util::{StreamExt as _, stream};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::header::{
    AUTHORIZATION, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderMap, HeaderValue, RANGE,
};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::sync::Notify;

type Body = UnsyncBoxBody<Bytes, io::Error>;

/// `Authorization` of `me` with the password `pw`.
pub(crate) const BASIC_ME: &str = "Basic bWU6cHc=";
/// Bodies go out in pieces of this size.
const PIECE: usize = 16 << 10;

/// What goes wrong.
#[derive(Debug, Clone)]
pub(crate) enum Act {
    /// Answers this status, and this header.
    Status(u16, Option<(&'static str, String)>),
    /// Sends so many bytes of the right answer's body, then breaks the connection.
    Cut(usize),
    /// Sends so many bytes, then ends the body in good order, without having announced its length.
    Truncate(usize),
    /// Sends other bytes of the same length.
    Corrupt,
    /// Sends bytes without end and without announcing a length.
    Endless,
    /// Sends the whole blob, whatever range was asked for.
    IgnoreRange,
    /// Announces a length that is so much more.
    Longer(usize),
    /// Sends nothing at all, ever.
    Silence,
    /// Takes so many bytes of an upload's chunk, then breaks the connection; keeps what came.
    CutUpload(usize),
    /// Breaks the connection after the request took effect.
    CutAfter,
    /// Forgets the upload and says so.
    ForgetUpload,
    /// Sends so many bytes, then breaks this and every later connection.
    Vanish(usize),
    /// Answers an upload's opening with this place.
    UploadAt(String),
}

/// Breaks requests of `method` whose path holds `path`, the next `times` of them.
#[derive(Debug, Clone)]
struct Fault {
    method: &'static str,
    path: String,
    times: usize,
    act: Act,
}

/// A request as it arrived.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) headers: HeaderMap,
}

/// Who may use the registry.
#[derive(Debug, Clone)]
pub(crate) enum Guard {
    /// `me` with the password `pw`.
    Basic,
    /// Whoever has a token that the registry was told of; `me` gets the first of them at `realm`.
    Bearer { realm: String },
}

/// A request without its body.
struct Ask {
    method: String,
    path: String,
    query: String,
    headers: HeaderMap,
}

#[derive(Debug, Default)]
struct State {
    blobs: HashMap<String, Bytes>,
    /// By `NAME/REFERENCE`.
    manifests: BTreeMap<String, (String, Bytes)>,
    uploads: HashMap<String, Vec<u8>>,
    next_upload: usize,
    faults: Vec<Fault>,
    seen: Vec<Seen>,
    guard: Option<Guard>,
    tokens: Vec<String>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    vanished: AtomicBool,
    gone: Notify,
}

/// The registry. It ends when it is dropped.
#[derive(Debug)]
pub(crate) struct Fake {
    shared: Arc<Shared>,
    address: SocketAddr,
    server: tokio::task::JoinHandle<()>,
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Fake {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared::default());
        let server = tokio::spawn(accept(listener, shared.clone()));
        Self { shared, address, server }
    }

    pub(crate) fn host(&self) -> String {
        self.address.to_string()
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// `NAME[:TAG|@DIGEST]` in this registry.
    pub(crate) fn reference(&self, rest: &str) -> Reference {
        format!("{}/{rest}", self.address).parse().unwrap()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap()
    }

    /// The next `times` requests of `method` whose path holds `path` go wrong.
    pub(crate) fn break_next(&self, times: usize, method: &'static str, path: impl ToString, act: Act) {
        self.state().faults.push(Fault { method, path: path.to_string(), times, act });
    }

    pub(crate) fn guard(&self, guard: Guard) {
        self.state().guard = Some(guard);
    }

    /// The tokens that are good from now on.
    pub(crate) fn set_tokens(&self, tokens: &[&str]) {
        self.state().tokens = tokens.iter().map(|token| (*token).to_owned()).collect();
    }

    pub(crate) fn add_blob(&self, bytes: impl Into<Bytes>) -> Digest {
        let bytes = bytes.into();
        let digest = Digest::sha256(&bytes);
        self.state().blobs.insert(digest.to_string(), bytes);
        digest
    }

    /// Keeps a manifest under its digest and, if it has one, its tag.
    pub(crate) fn add_manifest(
        &self,
        name: &str,
        tag: Option<&str>,
        media_type: &str,
        bytes: &[u8],
    ) -> Digest {
        let digest = Digest::sha256(bytes);
        let value = (media_type.to_owned(), Bytes::copy_from_slice(bytes));
        let mut state = self.state();
        for version in tag.map(str::to_owned).into_iter().chain([digest.to_string()]) {
            state.manifests.insert(format!("{name}/{version}"), value.clone());
        }
        digest
    }

    pub(crate) fn has_blob(&self, digest: &Digest) -> bool {
        self.state().blobs.contains_key(&digest.to_string())
    }

    pub(crate) fn manifest(&self, key: &str) -> Option<Bytes> {
        self.state().manifests.get(key).map(|(_, bytes)| bytes.clone())
    }

    /// What was asked so far; forgets it.
    pub(crate) fn take_seen(&self) -> Vec<Seen> {
        std::mem::take(&mut self.state().seen)
    }

    /// What was asked so far, as `METHOD PATH`; forgets it.
    pub(crate) fn take_requests(&self) -> Vec<String> {
        self.take_seen().iter().map(|seen| format!("{} {}", seen.method, seen.path)).collect()
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    loop {
        let (socket, _) = tokio::select! {
            accepted = listener.accept() => accepted.unwrap(),
            () = shared.gone.notified() => return,
        };
        let shared = shared.clone();
        tokio::spawn(async move {
            let service = service_fn(|request| answer(shared.clone(), request));
            let io = TokioIo::new(socket);
            // A broken connection is what many tests want.
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(io, service).await;
        });
    }
}

async fn answer(shared: Arc<Shared>, request: Request<Incoming>) -> Result<Response<Body>, io::Error> {
    let reset = || io::Error::from(io::ErrorKind::ConnectionReset);
    if shared.vanished.load(Ordering::SeqCst) {
        return Err(reset());
    }
    let (parts, body) = request.into_parts();
    let ask = Ask {
        method: parts.method.to_string(),
        path: parts.uri.path().to_owned(),
        query: parts.uri.query().unwrap_or_default().to_owned(),
        headers: parts.headers,
    };
    let (fault, refusal) = shared.state.lock().unwrap().admit(&ask);
    if matches!(fault, Some(Act::Silence)) {
        std::future::pending::<Infallible>().await;
    }
    let limit = if let Some(Act::CutUpload(limit)) = fault { limit } else { usize::MAX };
    let (sent, cut) = receive(body, limit).await;
    // A real server, too, reads what is being sent before it refuses it.
    if let Some(refusal) = refusal {
        return Ok(refusal.map(|body| whole(body, Ok(()))));
    }
    let done = shared.state.lock().unwrap().act(&ask, &sent, fault.as_ref());
    match fault {
        Some(Act::CutAfter) => Err(reset()),
        _ if cut => Err(reset()),
        Some(act) => Ok(spoil(done, act, &shared)),
        None => Ok(done.map(|body| whole(body, Ok(())))),
    }
}

/// At most `limit` bytes of a body, and whether that was not all.
async fn receive(mut body: Incoming, limit: usize) -> (Vec<u8>, bool) {
    let mut bytes = Vec::new();
    while let Some(Ok(frame)) = body.frame().await {
        bytes.extend_from_slice(&frame.into_data().unwrap_or_default());
        if bytes.len() > limit {
            bytes.truncate(limit);
            return (bytes, true);
        }
    }
    (bytes, false)
}

/// A body of these bytes that ends in good order, or not.
fn whole(bytes: Bytes, end: io::Result<()>) -> Body {
    let pieces: Vec<_> = bytes.chunks(PIECE).map(|piece| Ok(Frame::data(bytes.slice_ref(piece)))).collect();
    let end = stream::once(async move {
        // What was sent must be on its way before the connection breaks.
        tokio::task::yield_now().await;
        end
    });
    let end = end.filter_map(async |end: io::Result<()>| end.err().map(Err));
    StreamBody::new(stream::iter(pieces).chain(end)).boxed_unsync()
}

/// Spoils a right answer.
fn spoil(answer: Response<Bytes>, act: Act, shared: &Shared) -> Response<Body> {
    let (mut parts, body) = answer.into_parts();
    let reset = || Err(io::ErrorKind::ConnectionReset.into());
    let first = |bytes: usize| body.slice(..bytes.min(body.len()));
    let body = match act {
        Act::Cut(bytes) => whole(first(bytes), reset()),
        Act::Vanish(bytes) => {
            shared.vanished.store(true, Ordering::SeqCst);
            shared.gone.notify_one();
            whole(first(bytes), reset())
        }
        Act::Truncate(bytes) => {
            parts.headers.remove(CONTENT_LENGTH);
            whole(first(bytes), Ok(()))
        }
        Act::Corrupt => whole(body.iter().map(|byte| !byte).collect(), Ok(())),
        Act::Longer(by) => {
            parts.headers.insert(CONTENT_LENGTH, (body.len() + by).into());
            whole(body, reset())
        }
        Act::Endless => {
            parts.headers.remove(CONTENT_LENGTH);
            let piece = Bytes::from(vec![0; PIECE]);
            StreamBody::new(stream::repeat_with(move || Ok(Frame::data(piece.clone())))).boxed_unsync()
        }
        _ => whole(body, Ok(())),
    };
    Response::from_parts(parts, body)
}

fn status(status: u16) -> Response<Bytes> {
    let mut answer = Response::new(Bytes::new());
    *answer.status_mut() = StatusCode::from_u16(status).unwrap();
    answer
}

fn with(mut answer: Response<Bytes>, name: &'static str, value: impl AsRef<str>) -> Response<Bytes> {
    answer.headers_mut().insert(name, HeaderValue::from_str(value.as_ref()).unwrap());
    answer
}

fn content(bytes: Bytes) -> Response<Bytes> {
    let length = bytes.len().to_string();
    with(Response::new(bytes), "content-length", length)
}

impl State {
    /// Notes a request. Says what will go wrong with it, and the answer if it is refused.
    fn admit(&mut self, ask: &Ask) -> (Option<Act>, Option<Response<Bytes>>) {
        let (method, path) = (ask.method.clone(), ask.path.clone());
        self.seen.push(Seen { method, path, headers: ask.headers.clone() });
        if let Some(refusal) = self.refuse(ask) {
            return (None, Some(refusal));
        }
        let matching = |fault: &&mut Fault| {
            fault.times > 0 && fault.method == ask.method && ask.path.contains(&fault.path)
        };
        let Some(fault) = self.faults.iter_mut().find(matching) else { return (None, None) };
        fault.times -= 1;
        match &fault.act {
            Act::Status(code, header) => {
                let answer = status(*code);
                let answer = match header {
                    Some((name, value)) => with(answer, name, value),
                    None => answer,
                };
                (None, Some(answer))
            }
            act => (Some(act.clone()), None),
        }
    }

    fn refuse(&self, ask: &Ask) -> Option<Response<Bytes>> {
        if ask.path == "/token" {
            return None;
        }
        let sent = ask.headers.get(AUTHORIZATION).map(|value| value.to_str().unwrap().to_owned());
        let (good, challenge) = match self.guard.as_ref()? {
            Guard::Basic => (sent.as_deref() == Some(BASIC_ME), "Basic realm=\"fake\"".to_owned()),
            Guard::Bearer { realm } => {
                let is_good = |token: &String| sent == Some(format!("Bearer {token}"));
                let challenge = format!("Bearer realm=\"{realm}\",service=\"fake\"");
                (self.tokens.iter().any(is_good), challenge)
            }
        };
        (!good).then(|| with(status(401), "www-authenticate", challenge))
    }

    /// What a registry does.
    fn act(&mut self, ask: &Ask, sent: &[u8], fault: Option<&Act>) -> Response<Bytes> {
        let Some(rest) = ask.path.strip_prefix("/v2/") else { return self.token(ask) };
        if rest.is_empty() {
            return status(200);
        }
        if let Some((_, id)) = rest.split_once("/blobs/uploads/") {
            return self.upload(ask, id, sent, fault);
        }
        if let Some((_, digest)) = rest.split_once("/blobs/") {
            return self.blob(ask, digest, fault);
        }
        if let Some((name, version)) = rest.split_once("/manifests/") {
            return self.manifest(ask, &format!("{name}/{version}"), name, sent);
        }
        if let Some(name) = rest.strip_suffix("/tags/list") {
            return self.tags(ask, name);
        }
        status(404)
    }

    fn token(&self, ask: &Ask) -> Response<Bytes> {
        let token = match ask.headers.get(AUTHORIZATION).map(|value| value.to_str().unwrap()) {
            None => "anonymous",
            Some(BASIC_ME) => &self.tokens[0],
            Some(_) => return status(401),
        };
        content(format!("{{\"token\":\"{token}\"}}").into())
    }

    fn blob(&self, ask: &Ask, digest: &str, fault: Option<&Act>) -> Response<Bytes> {
        let Some(bytes) = self.blobs.get(digest).cloned() else { return status(404) };
        let range = ask.headers.get(RANGE).filter(|_| !matches!(fault, Some(Act::IgnoreRange)));
        let Some(range) = range else { return content(bytes) };
        let (first, last) = range.to_str().unwrap().strip_prefix("bytes=").unwrap().split_once('-').unwrap();
        let (first, last): (usize, usize) = (first.parse().unwrap(), last.parse().unwrap());
        let mut answer = content(bytes.slice(first..=last));
        *answer.status_mut() = StatusCode::PARTIAL_CONTENT;
        with(answer, "content-range", format!("bytes {first}-{last}/{}", bytes.len()))
    }

    fn manifest(&mut self, ask: &Ask, key: &str, name: &str, sent: &[u8]) -> Response<Bytes> {
        if ask.method == "PUT" {
            let media_type = ask.headers[CONTENT_TYPE].to_str().unwrap().to_owned();
            let (digest, bytes) = (Digest::sha256(sent), Bytes::copy_from_slice(sent));
            self.manifests.insert(key.to_owned(), (media_type.clone(), bytes.clone()));
            self.manifests.insert(format!("{name}/{digest}"), (media_type, bytes));
            return with(status(201), "docker-content-digest", digest.to_string());
        }
        let Some((media_type, bytes)) = self.manifests.get(key).cloned() else { return status(404) };
        let digest = Digest::sha256(&bytes).to_string();
        with(with(content(bytes), "content-type", media_type), "docker-content-digest", digest)
    }

    /// Two tags at a time.
    fn tags(&self, ask: &Ask, name: &str) -> Response<Bytes> {
        let last = ask.query.split('&').find_map(|pair| pair.strip_prefix("last="));
        let prefix = format!("{name}/");
        let tags = self.manifests.keys().filter_map(|key| key.strip_prefix(&prefix));
        let tags: Vec<&str> =
            tags.filter(|tag| !tag.contains(':') && last.is_none_or(|last| *tag > last)).collect();
        let page = &tags[..tags.len().min(2)];
        let answer = content(serde_json::json!({ "name": name, "tags": page }).to_string().into());
        match page.last().filter(|_| tags.len() > 2) {
            Some(last) => {
                with(answer, "link", format!("</v2/{name}/tags/list?n=2&last={last}>; rel=\"next\""))
            }
            None => answer,
        }
    }

    fn upload(&mut self, ask: &Ask, id: &str, sent: &[u8], fault: Option<&Act>) -> Response<Bytes> {
        let folder = ask.path.trim_end_matches(id);
        let at = |id: &str| format!("{folder}{id}?state=secret");
        if ask.method == "POST" {
            self.next_upload += 1;
            let id = self.next_upload.to_string();
            self.uploads.insert(id.clone(), Vec::new());
            let location = if let Some(Act::UploadAt(place)) = fault { place.clone() } else { at(&id) };
            return with(status(202), "location", location);
        }
        if matches!(fault, Some(Act::ForgetUpload)) {
            self.uploads.remove(id);
        }
        let Some(upload) = self.uploads.get_mut(id) else { return status(404) };
        if ask.method != "GET" {
            let start = ask
                .headers
                .get(CONTENT_RANGE)
                .map(|range| range.to_str().unwrap().split_once('-').unwrap().0.parse::<usize>().unwrap());
            if start.is_some_and(|start| start != upload.len()) {
                return status(416);
            }
            upload.extend_from_slice(sent);
        }
        let received = format!("0-{}", upload.len().max(1) - 1);
        match ask.method.as_str() {
            "GET" => with(with(status(204), "location", at(id)), "range", received),
            "PATCH" => with(with(status(202), "location", at(id)), "range", received),
            _ => {
                let bytes = Bytes::from(self.uploads.remove(id).unwrap());
                let digest = Digest::sha256(&bytes).to_string();
                let wanted = ask.query.split('&').find_map(|pair| pair.strip_prefix("digest="));
                if wanted.map(|wanted| wanted.replace("%3A", ":")) != Some(digest.clone()) {
                    return status(400);
                }
                self.blobs.insert(digest, bytes);
                status(201)
            }
        }
    }
}
