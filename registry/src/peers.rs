//! How many connections each address has.
//!
//! One address alone must not be able to use up what all share. An IPv6 host has a /64 network at
//! least, so the network counts as one address (RFC 6177, section 2).

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard};

/// The connections of each address.
#[derive(Debug)]
pub(crate) struct Peers {
    limit: usize,
    open: Mutex<HashMap<IpAddr, Open>>,
}

/// The connections of one address.
#[derive(Debug, Default)]
struct Open {
    connections: usize,
    /// That there are too many has been said.
    is_told: bool,
}

/// One connection. Dropped, it counts no more.
#[derive(Debug)]
pub(crate) struct Peer {
    peers: Arc<Peers>,
    address: IpAddr,
}

/// The address has as many connections as it may have.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TooMany {
    pub(crate) address: IpAddr,
    /// It was not so before, or it was better in between.
    pub(crate) is_news: bool,
}

impl Peers {
    pub(crate) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { limit, open: Mutex::default() })
    }

    /// Counts a connection from `address`.
    pub(crate) fn enter(self: &Arc<Self>, address: IpAddr) -> Result<Peer, TooMany> {
        let address = counted_as(address);
        let mut open = self.open();
        let of_address = open.entry(address).or_default();
        if of_address.connections >= self.limit {
            let is_news = !std::mem::replace(&mut of_address.is_told, true);
            return Err(TooMany { address, is_news });
        }
        of_address.connections += 1;
        Ok(Peer { peers: Arc::clone(self), address })
    }

    fn open(&self) -> MutexGuard<'_, HashMap<IpAddr, Open>> {
        self.open.lock().expect("nobody panics while holding the peers")
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let mut open = self.peers.open();
        let Some(of_address) = open.get_mut(&self.address) else { return };
        of_address.connections -= 1;
        of_address.is_told &= of_address.connections > self.peers.limit / 2;
        if of_address.connections == 0 {
            open.remove(&self.address);
        }
    }
}

/// What counts as one address.
pub(crate) fn counted_as(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn an_address_has_its_share_and_no_more() {
        let peers = Peers::new(2);
        let first = peers.enter(address("192.0.2.1")).unwrap();
        let second = peers.enter(address("::ffff:192.0.2.1")).unwrap();
        let too_many = |is_news| TooMany { address: address("192.0.2.1"), is_news };
        assert_eq!(peers.enter(address("192.0.2.1")).unwrap_err(), too_many(true));
        assert_eq!(peers.enter(address("192.0.2.1")).unwrap_err(), too_many(false));
        peers.enter(address("192.0.2.2")).unwrap();
        drop(first);
        let third = peers.enter(address("192.0.2.1")).unwrap();
        assert_eq!(peers.enter(address("192.0.2.1")).unwrap_err(), too_many(true));
        drop((second, third));
        assert!(peers.open().is_empty());
    }

    #[test]
    fn a_network_of_ipv6_is_one_address() {
        let peers = Peers::new(1);
        let _first = peers.enter(address("2001:db8::1")).unwrap();
        assert!(peers.enter(address("2001:db8::ffff:2")).is_err());
        peers.enter(address("2001:db8:0:1::1")).unwrap();
    }
}
