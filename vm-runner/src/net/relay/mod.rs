//! Published ports: the host listens, and each connection goes on to the guest from inside its namespace.
//!
//! The host's side and the guest's are two connections, so nothing on the host's network needs a
//! route or a NAT rule to the guest, and host firewalls see an ordinary listening program. Inside,
//! every relayed connection comes from the gateway, so the rule's sources and limits are asked of
//! the policy's [`Gate`] here.
//!
//! The ports are opened before anything else of a VM, so a port that is taken is an error before the
//! boot. From then on the kernel completes connections; once the relay runs it offers each to the
//! guest at once (the guest may speak first) and resets it if the guest refuses, or does not answer
//! for [`CONNECT_TIME`]: so a client that comes while the guest boots waits that long.

mod counters;
mod slots;
mod tcp;
#[cfg(test)]
mod tests;
mod udp;
mod worker;

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use appliance::policy::{Firewall, IngressRule, Proto};
use firewall::Gate;

use self::counters::Counters;
pub use self::counters::PublishedCounters;
use super::namespace::Namespace;

/// How long a guest may take to accept a connection.
const CONNECT_TIME: Duration = Duration::from_secs(10);

/// Why a rule's port cannot be published. Nothing has been changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PublishError {
    /// Another program, another VM or another rule has it.
    #[error("ingress rule `{rule}` publishes {proto} {address}, which is already in use on this host")]
    Taken {
        /// The rule's name.
        rule: String,
        /// `tcp` or `udp`.
        proto: &'static str,
        /// Where it was to listen.
        address: SocketAddr,
    },
    /// The host has no such address.
    #[error("ingress rule `{rule}` binds {address}, which is no address of this host")]
    NoSuchAddress {
        /// The rule's name.
        rule: String,
        /// What the rule says.
        address: IpAddr,
    },
    /// Anything else.
    #[error("ingress rule `{rule}` cannot publish {proto} {address}")]
    Failed {
        /// The rule's name.
        rule: String,
        /// `tcp` or `udp`.
        proto: &'static str,
        /// Where it was to listen.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// A port of the host that is open, and leads to one of the guest's.
#[derive(Debug)]
struct Port {
    socket: Listening,
    guest_port: u16,
    counters: Arc<Counters>,
}

#[derive(Debug)]
enum Listening {
    Tcp(TcpListener),
    Udp(UdpSocket),
}

/// The published ports of one VM, open on the host; not yet relayed.
#[derive(Debug)]
pub(super) struct Ports {
    ports: Vec<Port>,
    counted: Vec<(String, Arc<Counters>)>,
}

impl Ports {
    /// Opens every port that the rules publish. Call it in the host's namespace.
    pub(super) fn open(firewall: &Firewall) -> Result<Self, PublishError> {
        let mut opened = Self { ports: Vec::new(), counted: Vec::new() };
        for rule in &firewall.ingress {
            let Some(publish) = rule.publish else { continue };
            let counters = Arc::<Counters>::default();
            for (host_port, guest_port) in rule.published_ports() {
                let socket = listen(rule, SocketAddr::new(publish.bind, host_port))?;
                opened.ports.push(Port { socket, guest_port, counters: Arc::clone(&counters) });
            }
            opened.counted.push((rule.name.clone(), counters));
        }
        Ok(opened)
    }

    /// Starts to relay to `guest`, from inside `namespace`, until `stop` becomes readable.
    pub(super) fn relay(
        self,
        gate: Gate,
        namespace: &Namespace,
        guest: Ipv4Addr,
        stop: &OwnedFd,
    ) -> io::Result<Relay> {
        if self.ports.is_empty() {
            return Ok(Relay { thread: None, counted: self.counted });
        }
        let mut worker = worker::Worker::new(self.ports, gate, guest, stop)?;
        // An error here is epoll itself failing: then the thread ends and its ports close.
        let thread = namespace.spawn("hull-relay", move || drop(worker.run()))?;
        Ok(Relay { thread: Some(thread), counted: self.counted })
    }
}

/// A running relay.
#[derive(Debug)]
pub(super) struct Relay {
    thread: Option<JoinHandle<()>>,
    counted: Vec<(String, Arc<Counters>)>,
}

impl Relay {
    pub(super) fn counters(&self) -> Vec<PublishedCounters> {
        self.counted.iter().map(|(rule, counters)| counters.read(rule)).collect()
    }

    /// Waits for the thread to end, after `stop` has been raised.
    pub(super) fn join(&mut self) {
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

fn listen(rule: &IngressRule, address: SocketAddr) -> Result<Listening, PublishError> {
    let opened = match rule.proto {
        Proto::Tcp => TcpListener::bind(address)
            .and_then(|socket| socket.set_nonblocking(true).map(|()| Listening::Tcp(socket))),
        Proto::Udp => UdpSocket::bind(address)
            .and_then(|socket| socket.set_nonblocking(true).map(|()| Listening::Udp(socket))),
    };
    let (name, proto) = (|| rule.name.clone(), rule.proto.as_str());
    opened.map_err(|source| match source.kind() {
        io::ErrorKind::AddrInUse => PublishError::Taken { rule: name(), proto, address },
        io::ErrorKind::AddrNotAvailable => {
            PublishError::NoSuchAddress { rule: name(), address: address.ip() }
        }
        _ => PublishError::Failed { rule: name(), proto, address, source },
    })
}
