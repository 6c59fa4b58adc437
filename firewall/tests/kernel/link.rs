//! Below IP: the machine speaks for nobody but itself.

use std::net::UdpSocket;
use std::time::{Duration, Instant};

use firewall::{Denial, nft::Counters};
use serde_json::json;

use crate::lab::{GUEST_MAC, Lab, Place};
use crate::loading::compiled;

/// The guest does `misdeed` and then sends a datagram to `target`; `denial` is what is counted.
#[track_caller]
fn check(misdeed: &[&str], target: &str, denial: Denial) {
    let Some(lab) = Lab::new() else { return };
    lab.enforce(&compiled(
        json!({ "egress": [{ "name": "a", "proto": "udp", "ports": [9], "to": ["0.0.0.0/0"] }] }),
    ));
    for step in misdeed {
        match step.split_once('=') {
            Some((path, value)) => lab.write_sysctl(Place::Guest, path, value),
            None => lab.ip(Place::Guest, step),
        }
    }
    let any = if target.contains('[') { "[::]:0" } else { "0.0.0.0:0" };
    let deadline = Instant::now() + Duration::from_secs(60);
    let counters: Counters = loop {
        lab.inside(Place::Guest, || UdpSocket::bind(any).unwrap().send_to(b"!", target).unwrap());
        let counters = lab.counters();
        if counters.denied[&denial].packets >= 1 {
            break counters;
        }
        assert!(Instant::now() < deadline, "{counters:?}");
    };
    assert!(counters.rules.values().all(|count| count.packets == 0), "{counters:?}");
}

#[test]
fn a_foreign_mac_address_is_dropped() {
    check(&["link set eth0 address 52:54:00:aa:bb:cc"], "203.0.113.1:9", Denial::Spoofed);
}

#[test]
fn arp_for_a_foreign_address_is_dropped() {
    let steps =
        ["address flush dev eth0", "address add 10.0.2.99/24 dev eth0", "route add default via 10.0.2.2"];
    check(&steps, "203.0.113.1:9", Denial::Arp);
}

#[test]
fn ipv6_is_dropped() {
    let neighbour = format!("neigh add fd00::2 lladdr {GUEST_MAC} dev eth0");
    let steps = ["net/ipv6/conf/eth0/disable_ipv6=0", "address add fd00::1/64 dev eth0 nodad", &neighbour];
    check(&steps, "[fd00::2]:9", Denial::Ipv6);
}
