//! The first packets of connections, and whether hull lets them pass: the table that every target is held against.

use std::net::IpAddr;

/// Which way a connection is opened, as the machine sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    In,
    Out,
}

/// The first packet of a connection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Packet {
    pub(crate) way: Way,
    pub(crate) proto: &'static str,
    /// The other side.
    pub(crate) peer: IpAddr,
    /// Where it goes to.
    pub(crate) port: u16,
}

impl Packet {
    pub(crate) fn new(way: Way, proto: &'static str, peer: &str, port: u16) -> Self {
        Self { way, proto, peer: peer.parse().unwrap(), port }
    }
}

/// What passes and what does not, with [`super::PLAIN`].
pub(crate) fn plain() -> Vec<(Packet, bool)> {
    use Way::{In, Out};
    [
        (In, "tcp", "203.0.113.9", 80, true),
        (In, "tcp", "203.0.113.9", 8000, true),
        (In, "tcp", "203.0.113.9", 8010, true),
        (In, "tcp", "203.0.113.9", 8011, false),
        (In, "tcp", "203.0.113.9", 7999, false),
        (In, "tcp", "203.0.113.9", 79, false),
        (In, "udp", "203.0.113.9", 80, false),
        (In, "tcp", "198.51.100.1", 80, false),
        (In, "tcp", "198.51.101.0", 80, true),
        (In, "tcp", "2001:db8::1", 80, false),
        (In, "tcp", "203.0.113.9", 22, false),
        (In, "tcp", "203.0.113.9", 443, false),
        (Out, "tcp", "203.0.113.9", 443, true),
        (Out, "tcp", "203.0.113.9", 80, false),
        (Out, "udp", "203.0.113.9", 443, false),
        (Out, "tcp", "2001:db8::1", 443, false),
        (Out, "udp", "10.0.255.255", 5000, true),
        (Out, "udp", "10.1.0.0", 5000, false),
        (Out, "udp", "10.1.1.255", 5005, false),
        (Out, "udp", "10.1.2.3", 5010, true),
        (Out, "udp", "10.1.3.0", 5010, false),
        (Out, "udp", "10.2.0.0", 5010, true),
        (Out, "udp", "10.2.0.0", 5011, false),
        (Out, "udp", "11.0.0.0", 5000, false),
        // What no machine reaches, though `packages` says everywhere.
        (Out, "tcp", "169.254.169.254", 443, false),
        (Out, "tcp", "127.0.0.1", 443, false),
        (Out, "tcp", "0.0.0.1", 443, false),
        (Out, "tcp", "224.0.0.251", 443, false),
        (Out, "tcp", "255.255.255.255", 443, false),
        // Names are asked of the resolver, and of nobody else.
        (Out, "udp", "8.8.8.8", 53, false),
        (Out, "tcp", "8.8.8.8", 53, false),
    ]
    .map(|(way, proto, peer, port, passes)| (Packet::new(way, proto, peer, port), passes))
    .to_vec()
}
