//! Connections to the guest for hull itself: health checks.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use super::namespace::Namespace;

/// Connects to the guest from inside its namespace. Clones reach the same guest; each may be used by
/// another thread, and none keeps the network alive beyond [`Network`](super::Network).
#[derive(Debug, Clone)]
pub struct GuestConnector {
    pub(super) namespace: Namespace,
    pub(super) guest: Ipv4Addr,
}

impl GuestConnector {
    /// Connects to a TCP port of the guest. The policy's rules apply: a port that no ingress rule and
    /// no health check names does not answer.
    ///
    /// # Errors
    ///
    /// As [`TcpStream::connect_timeout`]; any error once the network is gone.
    pub fn connect_tcp(&self, port: u16, timeout: Duration) -> io::Result<TcpStream> {
        let address = SocketAddr::from((self.guest, port));
        self.namespace.enter(|| TcpStream::connect_timeout(&address, timeout))?
    }
}
