//! Which addresses a rule's peers mean, tested one by one against the policy as written.

use std::net::IpAddr;

use appliance::policy::{IngressRule, Peer};
use ipnet::IpNet;

use crate::gate::Client;

/// True if `rule` lets `client` in, as far as addresses go; ports, rates and limits are not looked at.
pub fn admits(rule: &IngressRule, client: Client) -> bool {
    rule.from.iter().any(|peer| match peer {
        Peer::Host => client.is_host(),
        _ => holds(peer, client.address()),
    })
}

/// True if there is anybody whom `peer` means.
pub fn admits_anybody(peer: &Peer) -> bool {
    match peer {
        Peer::Host => true,
        Peer::Fqdn(_) | Peer::Machine(_) => false,
        // If anything is left over, its lowest address is the network's own or follows right after an exception.
        Peer::Net { cidr, except } => std::iter::once(Some(cidr.network()))
            .chain(except.iter().map(|except| next(except.broadcast())))
            .flatten()
            .any(|address| holds(peer, address)),
    }
}

/// True if `peer` means `address`. Names and machines mean no address yet, and the host none of its own.
pub(super) fn holds(peer: &Peer, address: IpAddr) -> bool {
    match peer {
        Peer::Net { cidr, except } => {
            in_net(address, *cidr) && !except.iter().any(|except| in_net(address, *except))
        }
        Peer::Host | Peer::Fqdn(_) | Peer::Machine(_) => false,
    }
}

/// True if the first `prefix_len` bits of both are the same.
pub(super) fn in_net(address: IpAddr, net: IpNet) -> bool {
    let length = u32::from(net.prefix_len());
    match (address, net) {
        (IpAddr::V4(address), IpNet::V4(net)) => {
            (address.to_bits() ^ net.addr().to_bits()).leading_zeros() >= length
        }
        (IpAddr::V6(address), IpNet::V6(net)) => {
            (address.to_bits() ^ net.addr().to_bits()).leading_zeros() >= length
        }
        _ => false,
    }
}

fn next(address: IpAddr) -> Option<IpAddr> {
    match address {
        IpAddr::V4(address) => address.to_bits().checked_add(1).map(|bits| IpAddr::V4(bits.into())),
        IpAddr::V6(address) => address.to_bits().checked_add(1).map(|bits| IpAddr::V6(bits.into())),
    }
}
