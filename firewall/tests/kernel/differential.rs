//! Random policies, and for each the packets at the edges of everything that it names: the kernel lets through what
//! the oracle lets through, and counts what it drops under the oracle's reason.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use appliance::policy::{Firewall, Peer};
use firewall::oracle::{self, Grounds, History, Origin, Packet, Payload, TcpFlags, Verdict};
use firewall::{Denial, compile};
use ipnet::IpNet;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

use crate::lab::Lab;
use crate::policies::{MARKER_ADDRESS, MARKER_PORT, edge_addresses, edge_ports, environments, policies};
use crate::wire::Wire;

const POLICIES: usize = 24;
const GUEST: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 15);
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);
#[test]
fn the_kernel_lets_pass_what_the_oracle_lets_pass() {
    let Some(lab) = Lab::new() else { return };
    let mut wire = Wire::new(&lab);
    let mut runner = TestRunner::deterministic();
    // Never the same port twice: the kernel remembers flows from one policy to the next.
    let mut sources = 1024..=u16::MAX;
    let (mut sent, mut passed) = (0, 0);
    for _ in 0..POLICIES {
        let (policy, environment) = (policies(), environments()).new_tree(&mut runner).unwrap().current();
        let compiled = compile(&policy, &environment).unwrap();
        lab.enforce(&compiled);
        let mut history = History::default();
        let mut wanted_denials: BTreeMap<Denial, u64> = BTreeMap::new();
        for origin in [Origin::Guest, Origin::Namespace] {
            let marker = marker(origin);
            let probes = match origin {
                Origin::Guest => from_guest(&policy, &mut sources),
                _ => to_guest(&policy, &mut sources),
            };
            for batch in probes.chunks(100) {
                let found = wire.send(batch, &marker);
                for (packet, found) in batch.iter().zip(found) {
                    let wanted = oracle::decide(&policy, &environment, &mut history, packet);
                    assert_eq!(
                        found,
                        wanted.passes(),
                        "{packet:?}\noracle: {wanted:?}\n{policy:#?}\n{environment:?}"
                    );
                    if let Verdict::Drop(denial) | Verdict::Allow(Grounds::Audit(denial)) = wanted {
                        *wanted_denials.entry(denial).or_default() += 1;
                    }
                    sent += 1;
                    passed += u32::from(found);
                }
            }
        }
        let counters = lab.counters();
        let counted =
            counters.denied.iter().map(|(denial, count)| (*denial, count.packets)).filter(|(_, n)| *n > 0);
        assert_eq!(counted.collect::<BTreeMap<_, _>>(), wanted_denials, "{policy:#?}\n{environment:?}");
    }
    eprintln!("{sent} packets under {POLICIES} policies, of which {passed} passed");
    assert!(
        sent > 3000 && passed > sent / 20,
        "the packets must tell policies apart: {sent} sent, {passed} passed"
    );
}

fn from_guest(policy: &Firewall, sources: &mut impl Iterator<Item = u16>) -> Vec<Packet> {
    let addresses = edge_addresses(policy);
    let ports = edge_ports(policy.egress.iter().flat_map(|rule| &rule.ports));
    let mut packets = Vec::new();
    for (n, address) in addresses.iter().enumerate() {
        // All pairs would be many; two ports for each address, each port in turn.
        for port in [ports[n % ports.len()], ports[(n * 7 + 3) % ports.len()]] {
            for payload in transports(sources.next().unwrap(), port) {
                packets.push(packet(Origin::Guest, GUEST, *address, payload));
            }
        }
        packets.push(packet(
            Origin::Guest,
            GUEST,
            *address,
            Payload::EchoRequest { id: sources.next().unwrap() },
        ));
    }
    let inside = policy.egress.iter().flat_map(|rule| &rule.to).find_map(|peer| match peer {
        Peer::Net { cidr: IpNet::V4(net), .. } => Some(net.network()),
        _ => None,
    });
    for address in [inside.unwrap_or(GATEWAY), GATEWAY, Ipv4Addr::new(10, 0, 2, 3)] {
        for port in &ports {
            packets.extend(
                transports(sources.next().unwrap(), *port).map(|p| packet(Origin::Guest, GUEST, address, p)),
            );
        }
        packets.extend(oddities(Origin::Guest, GUEST, address, ports[0], sources));
    }
    for spoofed in [GATEWAY, Ipv4Addr::new(10, 0, 2, 16), Ipv4Addr::from(MARKER_ADDRESS)] {
        let payload = Payload::Udp { source_port: 1, destination_port: MARKER_PORT };
        packets.push(packet(Origin::Guest, spoofed, Ipv4Addr::from(MARKER_ADDRESS), payload));
    }
    packets
}

fn to_guest(policy: &Firewall, sources: &mut impl Iterator<Item = u16>) -> Vec<Packet> {
    let mut ports = edge_ports(policy.ingress.iter().flat_map(|rule| &rule.ports));
    ports.extend(1..100);
    let mut packets = Vec::new();
    for port in ports {
        packets.extend(
            transports(sources.next().unwrap(), port).map(|p| packet(Origin::Namespace, GATEWAY, GUEST, p)),
        );
    }
    packets.extend(oddities(Origin::Namespace, GATEWAY, GUEST, 80, sources));
    let payload = Payload::Udp { source_port: 1, destination_port: MARKER_PORT };
    packets.push(packet(Origin::Namespace, Ipv4Addr::new(10, 0, 2, 3), GUEST, payload));
    packets
}

fn transports(source_port: u16, destination_port: u16) -> [Payload; 2] {
    let flags = TcpFlags::SYN;
    [Payload::Tcp { source_port, destination_port, flags }, Payload::Udp { source_port, destination_port }]
}

/// Every combination of TCP flags, and everything that is neither TCP nor UDP.
fn oddities(
    origin: Origin,
    from: Ipv4Addr,
    to: Ipv4Addr,
    port: u16,
    sources: &mut impl Iterator<Item = u16>,
) -> Vec<Packet> {
    let mut payloads = vec![Payload::OtherIcmp, Payload::Other { protocol: 47 }];
    for bits in 0..16u8 {
        let bit = |n: u8| bits >> n & 1 == 1;
        let flags = TcpFlags { syn: bit(0), ack: bit(1), fin: bit(2), rst: bit(3) };
        payloads.push(Payload::Tcp { source_port: sources.next().unwrap(), destination_port: port, flags });
    }
    let id = sources.next().unwrap();
    payloads.extend([Payload::EchoReply { id }, Payload::EchoRequest { id }, Payload::EchoRequest { id }]);
    let mut packets: Vec<Packet> =
        payloads.into_iter().map(|payload| packet(origin, from, to, payload)).collect();
    if origin == Origin::Guest {
        let whole = packet(origin, from, to, transports(sources.next().unwrap(), port)[0]);
        packets.push(Packet { fragment: true, ..whole });
    }
    packets
}

fn packet(origin: Origin, source: Ipv4Addr, destination: Ipv4Addr, payload: Payload) -> Packet {
    Packet { origin, source: source.into(), destination: destination.into(), fragment: false, payload }
}

/// A packet that every one of these policies lets pass.
fn marker(origin: Origin) -> Packet {
    let payload = Payload::Udp { source_port: 9, destination_port: MARKER_PORT };
    match origin {
        Origin::Guest => packet(origin, GUEST, Ipv4Addr::from(MARKER_ADDRESS), payload),
        Origin::Namespace | Origin::Uplink => packet(origin, GATEWAY, GUEST, payload),
    }
}
