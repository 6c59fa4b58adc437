//! The listener: who may connect, for how long, and how the server stops.
//!
//! Time limits are about standing still, never about how long something takes in all: a head must
//! arrive within a time, a body and an answer must move. hyper's limit on heads also covers
//! connections that send nothing, and those that wait between requests.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use blob_store::{Put, Storage, StorageError, read_whole};
use bytes::Bytes;
use http::header::{self, HeaderName, HeaderValue};
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};

use crate::access::right::{Action, Actions, Grant, Prefix};
use crate::access::{Access, RecordsError};
use crate::clock::Clock;
use crate::connection::{Connection, Transport};
use crate::control::{Control, Keeper};
use crate::event::{Event, Observer};
use crate::exchange::{Exchange, RequestIds, Watch, WatchedBody};
use crate::http::Service;
use crate::http::body::{Pace, ResponseBody};
use crate::http::gate::Gate;
use crate::http::operations::Probes;
use crate::layout;
use crate::lifecycle::Caretaker;
use crate::log::LogError;
use crate::metrics::{Counted, Metrics};
use crate::operations::Operations;
use crate::peers::{Peers, TooMany};
use crate::public_url::PublicUrl;
use crate::random;
use crate::repository::Repositories;
use crate::rules::Rules;
use crate::tls::Tls;
use crate::uploads::{UploadLimits, Uploads};
use crate::workers::{Load, Workers};

/// How a registry is served.
#[derive(Debug, Clone)]
pub struct ServerConfig {
    /// Where to listen; port 0 takes any that is free.
    pub listen: SocketAddr,
    /// Who may be able to connect.
    pub exposure: Exposure,
    /// What clients speak TLS with; without, they speak plain HTTP.
    pub tls: Option<Tls>,
    /// Where those who run the server may ask how it is; there is neither TLS nor users there.
    pub operations: Option<SocketAddr>,
    /// What clients may use.
    pub limits: Limits,
    /// What the operator rules for repositories.
    pub rules: Rules,
    /// When what nothing refers to is deleted.
    pub garbage: Garbage,
    /// Where clients reach the server, if a proxy stands before it. Otherwise each client is told to
    /// get its tokens where it says that it has reached the server.
    pub public_url: Option<PublicUrl>,
    /// Repositories that everybody may pull from, once there are users. Without any user, everybody may
    /// do everything.
    pub anonymous_pull: Vec<Prefix>,
    /// The folder in which those who run the server reach it: see [`crate::Operator`]. It is made at the
    /// start and removed at the end. `None` where they can use the storage beside the server.
    pub control: Option<PathBuf>,
    /// Tells what holds how long.
    pub clock: Arc<dyn Clock>,
    /// Who is told what went wrong.
    pub observer: Arc<dyn Observer>,
}

/// Who may be able to connect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exposure {
    /// Processes of this machine; others by TLS, and as long as there is no user they may do nothing.
    /// Another address than a loopback one needs TLS.
    LoopbackOrTls,
    /// Whoever reaches the address, also without TLS. As long as there is no user they may read and
    /// replace everything, and so may everybody between them and the server.
    AnyoneWithoutTls,
}

/// When what nothing refers to is deleted.
#[derive(Debug, Clone, Copy)]
pub struct Garbage {
    /// Nothing that was pushed, mounted or asked for within this time is deleted: time to push what
    /// refers to it.
    pub grace: Duration,
    /// How often the server looks; `None` if only when it is told to.
    pub interval: Option<Duration>,
}

impl Default for Garbage {
    fn default() -> Self {
        let day = Duration::from_secs(24 * 60 * 60);
        Self { grace: day, interval: Some(day / 4) }
    }
}

/// What clients may use. [`Limits::default`] suits a team's server.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Connections at a time; further ones wait to be accepted.
    pub connections: usize,
    /// Connections at a time from one address, or one /64 network of IPv6; further ones are closed.
    /// Unless this is said, 1024 where other machines can connect, and any number where they cannot: a
    /// proxy on this machine speaks for many.
    pub connections_per_address: Option<usize>,
    /// Within this time TLS must have come about.
    pub handshake_timeout: Duration,
    /// Within this time a request's head must have arrived, on a new connection and after the
    /// answer to the request before.
    pub head_timeout: Duration,
    /// Size of a request's head in bytes.
    pub head_bytes: usize,
    /// Headers of a request.
    pub headers: usize,
    /// Size of a request's path and query in bytes.
    pub uri_bytes: usize,
    /// The window in which a body must move, and the longest that an answer may stand still.
    pub body_window: Duration,
    /// Bytes of a body that must arrive in each window.
    pub body_floor_bytes: u64,
    /// Size of the largest blob in bytes.
    pub blob_bytes: u64,
    /// Uploads that may be open at a time.
    pub open_uploads: usize,
    /// An upload that nobody has appended to for this long is forgotten.
    pub upload_expiry: Duration,
    /// How long requests under way may take when the server stops.
    pub drain: Duration,
}

impl From<LogError> for ServeError {
    fn from(error: LogError) -> Self {
        Self::Accounts(error.into())
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 16 << 10,
            connections_per_address: None,
            handshake_timeout: Duration::from_secs(10),
            head_timeout: Duration::from_secs(30),
            head_bytes: 32 << 10,
            headers: 64,
            uri_bytes: 8 << 10,
            body_window: Duration::from_secs(60),
            body_floor_bytes: 60 << 10,
            blob_bytes: 1 << 40,
            open_uploads: 4096,
            upload_expiry: Duration::from_secs(24 * 60 * 60),
            drain: Duration::from_secs(30),
        }
    }
}

/// Why a server could not be started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// The address is open to other machines, and nobody said that this is meant.
    #[error(
        "{listen} can be reached from other machines; TLS is wanted, or a loopback address such as 127.0.0.1"
    )]
    NotLoopback {
        /// The address.
        listen: SocketAddr,
    },
    /// The address cannot be listened on.
    #[error("cannot listen on {listen}")]
    Listen {
        /// The address.
        listen: SocketAddr,
        /// The reason.
        #[source]
        source: io::Error,
    },
    /// The threads that serve connections cannot be had.
    #[error("cannot start a thread for each processor")]
    Threads {
        /// The reason.
        #[source]
        source: io::Error,
    },
    /// Those who run the server could not reach it.
    #[error("cannot offer the control socket in `{}`", folder.display())]
    Control {
        /// Where it was to be.
        folder: PathBuf,
        /// The reason.
        #[source]
        source: io::Error,
    },
    /// The storage belongs to another version of this server, or to something else.
    #[error("the storage has the layout `{found}`; this version reads layout 2")]
    OtherLayout {
        /// What was found, control characters escaped.
        found: String,
    },
    /// The storage failed.
    #[error("the storage cannot be used")]
    Storage(#[from] StorageError),
    /// The storage failed, or the record of an account in it is damaged.
    #[error("the accounts cannot be read")]
    Accounts(#[source] RecordsError),
}

/// A registry that listens. Connections wait until [`Server::run`], and are then served by threads of the
/// server's own, one for each processor.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    local_addr: SocketAddr,
    operations: Option<Operations>,
    control: Option<Control>,
    has_users: bool,
    workers: Workers,
    front: Arc<Front>,
    caretaker: Arc<Caretaker>,
    garbage: Garbage,
    is_draining: watch::Sender<bool>,
}

/// What each connection needs.
#[derive(Debug)]
struct Front {
    service: Arc<Service>,
    tls: Option<Tls>,
    limits: Limits,
    metrics: Arc<Metrics>,
    ids: RequestIds,
    is_draining: watch::Receiver<bool>,
}

/// Connections that an address may have where other machines can connect.
const CONNECTIONS_PER_ADDRESS: usize = 1024;
/// Bytes of a body that are read from a connection at a time, if that many have arrived, or gathered
/// to be written: many, since each time costs the same, but no more than a processor's cache holds
/// beside the rest.
const BODY_BYTES: usize = 768 << 10;
/// How long to wait after a connection could not be accepted: time for others to end.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Browsers that have come once by TLS come back by TLS only, for two years. Source: RFC 6797.
const ALWAYS_TLS: HeaderValue = HeaderValue::from_static("max-age=63072000");

impl Server {
    /// Checks the storage and begins to listen.
    ///
    /// # Errors
    ///
    /// [`ServeError`]; nothing listens then.
    pub async fn bind(config: ServerConfig, storage: Arc<dyn Storage>) -> Result<Self, ServeError> {
        let metrics = Arc::new(Metrics::new(SystemTime::now()));
        let observer = Arc::clone(&config.observer);
        let observer: Arc<dyn Observer> = Arc::new(Counted { metrics: Arc::clone(&metrics), observer });
        let gate = gate(&storage, &config, &observer);
        let has_users = !gate.access.is_open().await?;
        if config.exposure == Exposure::LoopbackOrTls
            && config.tls.is_none()
            && !config.listen.ip().is_loopback()
        {
            return Err(ServeError::NotLoopback { listen: config.listen });
        }
        check_layout(&*storage).await?;
        gate.access.prepare().await?;
        let service = Arc::new(service(Arc::clone(&storage), &config, gate, Arc::clone(&observer)));
        let ServerConfig { listen, tls, operations, limits, garbage, control, clock, .. } = config;
        let repositories = Arc::clone(&service.repositories);
        let caretaker = Arc::new(Caretaker::new(repositories, garbage.grace, clock, observer));
        let failed = |listen| move |source| ServeError::Listen { listen, source };
        let listener = TcpListener::bind(listen).await.map_err(failed(listen))?;
        let local_addr = listener.local_addr().map_err(failed(listen))?;
        let (stop, is_draining) = watch::channel(false);
        let operations = match operations {
            None => None,
            Some(listen) => {
                let uploads = Arc::clone(&service.uploads);
                let (metrics, is_draining) = (Arc::clone(&metrics), is_draining.clone());
                let probes = Probes { storage, uploads, metrics, is_draining };
                Some(Operations::bind(listen, probes).await.map_err(failed(listen))?)
            }
        };
        let control = match control {
            None => None,
            Some(folder) => {
                let (access, caretaker) = (service.gate.access.clone(), Arc::clone(&caretaker));
                let bound = Control::bind(folder.clone(), Keeper { access, caretaker });
                Some(bound.map_err(|source| ServeError::Control { folder, source })?)
            }
        };
        let workers = Workers::start().map_err(|source| ServeError::Threads { source })?;
        let ids = RequestIds::new(random::bytes());
        let front = Arc::new(Front { service, tls, limits, metrics, ids, is_draining });
        let is_draining = stop;
        Ok(Self {
            listener,
            local_addr,
            operations,
            control,
            has_users,
            workers,
            front,
            caretaker,
            garbage,
            is_draining,
        })
    }

    /// The accounts, to be changed while the server runs.
    pub fn access(&self) -> &Access {
        &self.front.service.gate.access
    }

    /// True if there was an account when the server began to listen. Where there was none, [`Exposure`]
    /// says what whoever connects may do.
    pub fn has_users(&self) -> bool {
        self.has_users
    }

    /// The address that the server listens on.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Who keeps the storage in order while this server runs.
    pub fn caretaker(&self) -> Arc<Caretaker> {
        Arc::clone(&self.caretaker)
    }

    /// The address where those who run the server may ask how it is.
    pub fn operations_addr(&self) -> Option<SocketAddr> {
        self.operations.as_ref().map(Operations::local_addr)
    }

    /// Serves until `shutdown` is done. Then nothing new is accepted, requests under way have
    /// [`Limits::drain`] to end, and what is left is cut off; cut-off uploads can be resumed. Once this
    /// returns, nothing of the server uses the storage any more, unless a disk takes longer than 10 seconds.
    pub async fn run(self, shutdown: impl Future<Output = ()>) {
        let Self { listener, operations, control, workers, front, caretaker, garbage, is_draining, .. } =
            self;
        let graceful = GracefulShutdown::new();
        let (uploads, expiry) = (Arc::clone(&front.service.uploads), front.limits.upload_expiry);
        let care = tokio::spawn(async move {
            let collecting = caretaker.collect_each(garbage.interval);
            tokio::join!(caretaker.expire_uploads(&uploads, expiry), collecting);
        });
        let operations = operations.map(|operations| tokio::spawn(operations.run()));
        let control = control.map(|control| tokio::spawn(control.run()));
        tokio::select! {
            () = shutdown => {}
            () = accept(&listener, &workers, &front, &graceful) => {}
        }
        is_draining.send_replace(true);
        drop(listener);
        care.abort();
        // Whether all ended in time or some are cut off: there is nothing left to do for them.
        let _ = tokio::time::timeout(front.limits.drain, graceful.shutdown()).await;
        workers.stop().await;
        if let Some(operations) = operations {
            operations.abort();
        }
        if let Some(control) = control {
            control.abort();
            // The socket is gone when this is.
            let _ = control.await;
        }
    }
}

/// What lets requests through.
fn gate(storage: &Arc<dyn Storage>, config: &ServerConfig, observer: &Arc<dyn Observer>) -> Gate {
    let actions: Actions = [Action::Pull].into_iter().collect();
    let public = |prefix: &Prefix| Grant { prefix: prefix.clone(), actions };
    Gate {
        open_without_accounts: config.exposure == Exposure::AnyoneWithoutTls
            || config.listen.ip().is_loopback(),
        access: Access::new(Arc::clone(storage), Arc::clone(&config.clock), Arc::clone(observer)),
        everybodys: config.anonymous_pull.iter().map(public).collect(),
        public_url: config.public_url.clone(),
        scheme: if config.tls.is_some() { "https" } else { "http" },
    }
}

fn service(
    storage: Arc<dyn Storage>,
    config: &ServerConfig,
    gate: Gate,
    observer: Arc<dyn Observer>,
) -> Service {
    let ServerConfig { limits, rules, garbage, clock, .. } = config;
    let (clock, rules) = (Arc::clone(clock), Arc::new(rules.clone()));
    let repositories = Repositories::new(Arc::clone(&storage), Arc::clone(&clock), garbage.grace, rules);
    let repositories = Arc::new(repositories);
    let upload_limits = UploadLimits {
        blob_bytes: limits.blob_bytes,
        open_uploads: limits.open_uploads,
        expiry: limits.upload_expiry,
    };
    let uploads = Arc::new(Uploads::new(storage, Arc::clone(&repositories), clock, upload_limits));
    let pace = Pace { window: limits.body_window, floor_bytes: limits.body_floor_bytes };
    Service { repositories, uploads, gate, pace, uri_bytes: limits.uri_bytes, observer }
}

/// Accepts connections for ever.
async fn accept(listener: &TcpListener, workers: &Workers, front: &Arc<Front>, graceful: &GracefulShutdown) {
    let connections = Arc::new(Semaphore::new(front.limits.connections));
    let is_local = listener.local_addr().is_ok_and(|address| address.ip().is_loopback());
    let usual = if is_local { usize::MAX } else { CONNECTIONS_PER_ADDRESS };
    let limit = front.limits.connections_per_address.unwrap_or(usual);
    let peers = Peers::new(limit);
    let observer = &front.service.observer;
    loop {
        let permit = Arc::clone(&connections).acquire_owned().await;
        let permit = permit.expect("the semaphore is never closed");
        let (stream, from) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                observer.observe(&Event::AcceptFailed { error: &error });
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let peer = match peers.enter(from.ip()) {
            Ok(peer) => peer,
            Err(TooMany { address, is_news }) => {
                observer.observe(&Event::ConnectionRefused { peer: address, limit, is_news });
                continue;
            }
        };
        let (front, watcher) = (Arc::clone(front), graceful.watcher());
        let serve = move |stream, load| async move {
            front.serve(stream, from, load, watcher).await;
            drop((permit, peer));
        };
        if let Err(error) = workers.serve(stream, serve) {
            observer.observe(&Event::AcceptFailed { error: &error });
            tokio::time::sleep(ACCEPT_PAUSE).await;
        }
    }
}

impl Front {
    /// Serves one connection to its end. How it ends is its client's business.
    async fn serve(self: Arc<Self>, stream: TcpStream, peer: SocketAddr, load: Arc<Load>, watcher: Watcher) {
        let _open = self.metrics.connection();
        // Answers are written whole; waiting for more to send would only delay them.
        let _ = stream.set_nodelay(true);
        let Some(transport) = self.transport(stream, peer).await else { return };
        let limits = &self.limits;
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(limits.head_timeout)
            .max_header_size(limits.head_bytes)
            .max_headers(limits.headers)
            .max_buf_size(BODY_BYTES)
            .serve_connection(
                TokioIo::new(Connection::new(transport, limits.body_window)),
                service_fn(|request| self.answer(request, peer, &load)),
            );
        let _ = watcher.watch(connection).await;
    }

    /// What carries the requests; `None` if TLS does not come about, or the server stops first.
    async fn transport(&self, stream: TcpStream, peer: SocketAddr) -> Option<Transport> {
        let Some(tls) = &self.tls else { return Some(Transport::Plain(stream)) };
        let mut is_draining = self.is_draining.clone();
        let shaken = tokio::select! {
            shaken = tokio::time::timeout(self.limits.handshake_timeout, tls.acceptor().accept(stream)) => shaken,
            _ = is_draining.wait_for(|is_draining| *is_draining) => return None,
        };
        match shaken.unwrap_or_else(|late| Err(late.into())) {
            Ok(stream) => Some(Transport::Tls(Box::new(stream))),
            Err(error) => {
                self.service.observer.observe(&Event::HandshakeFailed { peer: peer.ip(), error: &error });
                None
            }
        }
    }

    async fn answer(
        &self,
        request: Request<Incoming>,
        peer: SocketAddr,
        load: &Arc<Load>,
    ) -> Result<Response<WatchedBody<ResponseBody>>, Infallible> {
        let exchange = Arc::new(Exchange::begin(self.ids.draw(), peer, &request));
        let watch = Watch::new(Arc::clone(&exchange), load.request(), Arc::clone(&self.service.observer));
        let mut response = self.service.answer(request, &exchange).await;
        let id = HeaderValue::from_str(exchange.id()).expect("hex digits are visible ASCII");
        response.headers_mut().insert(REQUEST_ID, id);
        if self.tls.is_some() {
            response.headers_mut().insert(header::STRICT_TRANSPORT_SECURITY, ALWAYS_TLS);
        }
        Ok(watch.answered(response))
    }
}

/// Makes sure that the storage is laid out as this server expects; a new one is.
pub(crate) async fn check_layout(storage: &dyn Storage) -> Result<(), ServeError> {
    let key = layout::layout();
    if storage.put_if_absent(&key, Bytes::from_static(layout::LAYOUT)).await? == Put::Exists {
        let found = read_whole(storage, &key, 64).await?;
        if found != layout::LAYOUT {
            let found = String::from_utf8_lossy(&found).trim_end().escape_debug().to_string();
            return Err(ServeError::OtherLayout { found });
        }
    }
    Ok(())
}
