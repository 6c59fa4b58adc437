//! The listener: who may connect, for how long, and how the server stops.
//!
//! Time limits are about standing still, never about how long something takes in all: a head must
//! arrive within a time, a body and an answer must move. hyper's limit on heads also covers
//! connections that send nothing, and those that wait between requests.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use blob_store::{Put, Storage, StorageError, read_whole};
use bytes::Bytes;
use http::Method;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use crate::connection::Connection;
use crate::http::Service;
use crate::http::body::Pace;
use crate::layout;
use crate::repository::Repositories;
use crate::uploads::{UploadLimits, Uploads};

/// How a registry is served.
#[derive(Debug, Clone)]
pub struct ServerConfig {
    /// Where to listen; port 0 takes any that is free.
    pub listen: SocketAddr,
    /// Who may be able to connect.
    pub exposure: Exposure,
    /// What clients may use.
    pub limits: Limits,
    /// Who is told what went wrong.
    pub observer: Arc<dyn Observer>,
}

/// Who may be able to connect to a server that knows no users and speaks no TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exposure {
    /// Processes of this machine. Another address than a loopback one is refused.
    LoopbackOnly,
    /// Whoever reaches the address: they may read and replace everything, and so may everybody
    /// between them and the server.
    AnyoneWithoutTls,
}

/// What clients may use. [`Limits::default`] suits a team's server.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Connections at a time; further ones wait to be accepted.
    pub connections: usize,
    /// Within this time a request's head must have arrived, on a new connection and after the
    /// answer to the request before.
    pub head_timeout: Duration,
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

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 16 << 10,
            head_timeout: Duration::from_secs(30),
            body_window: Duration::from_secs(60),
            body_floor_bytes: 60 << 10,
            blob_bytes: 1 << 40,
            open_uploads: 4096,
            upload_expiry: Duration::from_secs(24 * 60 * 60),
            drain: Duration::from_secs(30),
        }
    }
}

/// Is told what an operator should know. Called from many threads, and must not block.
pub trait Observer: fmt::Debug + Send + Sync {
    /// Something happened.
    fn observe(&self, event: &Event<'_>);
}

/// Nobody is told anything.
impl Observer for () {
    fn observe(&self, _: &Event<'_>) {}
}

/// What an operator should know.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// A request was answered with a 5xx status.
    RequestFailed {
        /// The request's method.
        method: &'a Method,
        /// The request's path, percent-encoded as it came.
        path: &'a str,
        /// Why.
        error: &'a (dyn std::error::Error + 'static),
    },
    /// A connection could not be accepted; often too many files are open.
    AcceptFailed {
        /// Why.
        error: &'a io::Error,
    },
    /// Abandoned uploads were forgotten.
    UploadsExpired {
        /// How many.
        count: usize,
    },
    /// Abandoned uploads could not be looked for.
    ExpiryFailed {
        /// Why.
        error: &'a (dyn std::error::Error + 'static),
    },
}

/// Why a server could not be started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// The address is open to other machines, and nobody said that this is meant.
    #[error(
        "{listen} can be reached from other machines, and without users and TLS everybody there could \
         replace everything; a loopback address such as 127.0.0.1 is wanted"
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
    /// The storage belongs to another version of this server, or to something else.
    #[error("the storage has the layout `{found}`; this version reads layout 1")]
    OtherLayout {
        /// What was found, control characters escaped.
        found: String,
    },
    /// The storage failed.
    #[error("the storage cannot be used")]
    Storage(#[from] StorageError),
}

/// A registry that listens. Connections wait until [`Server::run`].
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    local_addr: SocketAddr,
    service: Arc<Service>,
    limits: Limits,
}

/// How often abandoned uploads are looked for, at most and at least.
const EXPIRY_PERIOD: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60 * 60));
/// How long to wait after a connection could not be accepted: time for others to end.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

impl Server {
    /// Checks the storage and begins to listen.
    ///
    /// # Errors
    ///
    /// [`ServeError`]; nothing listens then.
    pub async fn bind(config: ServerConfig, storage: Arc<dyn Storage>) -> Result<Self, ServeError> {
        let ServerConfig { listen, exposure, limits, observer } = config;
        if exposure == Exposure::LoopbackOnly && !listen.ip().is_loopback() {
            return Err(ServeError::NotLoopback { listen });
        }
        check_layout(&*storage).await?;
        let failed = |source| ServeError::Listen { listen, source };
        let listener = TcpListener::bind(listen).await.map_err(failed)?;
        let local_addr = listener.local_addr().map_err(failed)?;
        let repositories = Arc::new(Repositories::new(Arc::clone(&storage)));
        let upload_limits = UploadLimits {
            blob_bytes: limits.blob_bytes,
            open_uploads: limits.open_uploads,
            expiry: limits.upload_expiry,
        };
        let uploads = Arc::new(Uploads::new(storage, Arc::clone(&repositories), upload_limits));
        let pace = Pace { window: limits.body_window, floor_bytes: limits.body_floor_bytes };
        let service = Arc::new(Service { repositories, uploads, pace, observer });
        Ok(Self { listener, local_addr, service, limits })
    }

    /// The address that the server listens on.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Serves until `shutdown` is done. Then nothing new is accepted, requests under way have
    /// [`Limits::drain`] to end, and what is left is cut off; cut-off uploads can be resumed.
    pub async fn run(self, shutdown: impl Future<Output = ()>) {
        let graceful = GracefulShutdown::new();
        let expiry = tokio::spawn(expire_uploads(Arc::clone(&self.service), self.limits.upload_expiry));
        let connections = Arc::new(Semaphore::new(self.limits.connections));
        tokio::select! {
            () = shutdown => {}
            () = self.accept(&graceful, &connections) => {}
        }
        drop(self.listener);
        expiry.abort();
        // Whether all ended in time or some are cut off: there is nothing left to do for them.
        let _ = tokio::time::timeout(self.limits.drain, graceful.shutdown()).await;
    }

    /// Accepts connections for ever.
    async fn accept(&self, graceful: &GracefulShutdown, connections: &Arc<Semaphore>) {
        loop {
            let permit = Arc::clone(connections).acquire_owned().await;
            let permit = permit.expect("the semaphore is never closed");
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    let connection = graceful.watch(self.connection(stream));
                    tokio::spawn(async move {
                        // How a connection ends is its client's business.
                        let _ = connection.await;
                        drop(permit);
                    });
                }
                Err(error) => {
                    self.service.observer.observe(&Event::AcceptFailed { error: &error });
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn connection(
        &self,
        stream: TcpStream,
    ) -> impl hyper_util::server::graceful::GracefulConnection<Error = hyper::Error> + Send + use<> {
        // Answers are written whole; waiting for more to send would only delay them.
        let _ = stream.set_nodelay(true);
        let service = Arc::clone(&self.service);
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.limits.head_timeout)
            .serve_connection(
                TokioIo::new(Connection::new(stream, self.limits.body_window)),
                service_fn(move |request| Arc::clone(&service).answer(request)),
            )
    }
}

/// Makes sure that the storage is laid out as this server expects; a new one is.
async fn check_layout(storage: &dyn Storage) -> Result<(), ServeError> {
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

/// Forgets abandoned uploads, at once and then from time to time.
async fn expire_uploads(service: Arc<Service>, expiry: Duration) {
    let period = (expiry / 4).clamp(EXPIRY_PERIOD.0, EXPIRY_PERIOD.1);
    let mut ticks = tokio::time::interval(period);
    loop {
        ticks.tick().await;
        match service.uploads.expire(SystemTime::now()).await {
            Ok(0) => {}
            Ok(count) => service.observer.observe(&Event::UploadsExpired { count }),
            Err(error) => service.observer.observe(&Event::ExpiryFailed { error: &error }),
        }
    }
}
