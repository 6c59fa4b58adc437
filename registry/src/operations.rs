//! The listener for those who run the server: probes and counters, on an address of their own.
//!
//! It has neither TLS nor users, and tells nothing that names content or people. It answers for as
//! long as the server lives, also while that drains.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use crate::connection::{Connection, Transport};
use crate::http::operations::Probes;

/// Connections at a time. A probe and a scraper need one each.
const CONNECTIONS: usize = 64;
/// How long a client may take over a request's head, and over reading its answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long to wait after a connection could not be accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Listens. Connections wait until [`Operations::run`].
#[derive(Debug)]
pub(crate) struct Operations {
    listener: TcpListener,
    local_addr: SocketAddr,
    probes: Arc<Probes>,
}

impl Operations {
    pub(crate) async fn bind(listen: SocketAddr, probes: Probes) -> io::Result<Self> {
        let listener = TcpListener::bind(listen).await?;
        let local_addr = listener.local_addr()?;
        Ok(Self { listener, local_addr, probes: Arc::new(probes) })
    }

    pub(crate) fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Answers for ever.
    pub(crate) async fn run(self) {
        let connections = Arc::new(Semaphore::new(CONNECTIONS));
        loop {
            let permit = Arc::clone(&connections).acquire_owned().await;
            let permit = permit.expect("the semaphore is never closed");
            let Ok((stream, _)) = self.listener.accept().await else {
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            };
            let probes = Arc::clone(&self.probes);
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(PATIENCE)
                .max_buf_size(8 << 10)
                .serve_connection(
                    TokioIo::new(Connection::new(Transport::Plain(stream), PATIENCE)),
                    service_fn(move |request| Arc::clone(&probes).answer(request)),
                );
            tokio::spawn(async move {
                // How a connection ends is its client's business.
                let _ = connection.await;
                drop(permit);
            });
        }
    }
}
