//! Random policies, and for each the packets at the edges of everything that it names: the kernel lets through what
//! the oracle lets through, and counts what it drops under the oracle's reason.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use appliance::policy::{
    Dns, DnsMode, EgressRule, Firewall, FlowLimits, Icmp, IngressRule, LogPolicy, Mode, Peer, PortRange,
    Proto,
};
use firewall::oracle::{self, Grounds, History, Origin, Packet, Payload, TcpFlags, Verdict};
use firewall::{Denial, Environment, Resolver, compile};
use ipnet::{IpNet, Ipv4Net};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

use crate::lab::Lab;
use crate::wire::Wire;

const POLICIES: usize = 24;
const GUEST: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 15);
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);
const MARKER_PORT: u16 = 9;
/// Addresses that are special whatever a policy says.
const LANDMARKS: [[u8; 4]; 16] = [
    [0, 0, 0, 1],
    [10, 0, 2, 1],
    [10, 0, 2, 2],
    [10, 0, 2, 3],
    [10, 0, 2, 4],
    [10, 0, 2, 255],
    [127, 0, 0, 1],
    [169, 253, 255, 255],
    [169, 254, 169, 254],
    [192, 168, 1, 10],
    [192, 168, 1, 11],
    [223, 255, 255, 255],
    [224, 0, 0, 1],
    [239, 255, 255, 255],
    [240, 0, 0, 0],
    [255, 255, 255, 255],
];

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

fn environments() -> impl Strategy<Value = Environment> {
    let mode = prop_oneof![3 => Just(Mode::Enforce), 1 => Just(Mode::Audit)];
    let resolver = prop::sample::select(vec![Resolver::Absent, Resolver::Forwards, Resolver::Filters]);
    (mode, resolver, prop::collection::vec(1..100u16, 0..2)).prop_map(|(mode, resolver, health_ports)| {
        Environment {
            mode,
            resolver,
            host_addresses: vec![IpAddr::from([192, 168, 1, 10])],
            health_ports,
            ..Environment::default()
        }
    })
}

fn policies() -> impl Strategy<Value = Firewall> {
    let dns = prop::sample::select(vec![DnsMode::None, DnsMode::Proxy, DnsMode::Open]);
    let rule = || (protos(), prop::collection::vec(ports(), 1..3), prop::collection::vec(peers(), 0..4));
    let rules = || prop::collection::vec(rule(), 0..5);
    (rules(), rules(), any::<bool>(), any::<bool>(), dns).prop_map(
        |(ingress, egress, ping_in, ping_out, mode)| {
            let mut policy = Firewall {
                icmp: Icmp { ping_in, ping_out },
                dns: Dns { mode, names: Vec::new() },
                limits: FlowLimits { flows: 1 << 20, new_flows_per_second: 1 << 30, egress_mbit: None },
                ..Firewall::default()
            };
            let all = vec![PortRange::new(MARKER_PORT, MARKER_PORT).unwrap()];
            let any = Peer::Net { cidr: IpNet::from(IpAddr::from([203, 0, 113, 250])), except: Vec::new() };
            let with_marker = |mut rules: Vec<_>| {
                rules.push((Proto::Udp, all.clone(), vec![any.clone()]));
                rules.into_iter().enumerate()
            };
            policy.ingress = with_marker(ingress)
                .map(|(n, (proto, ports, from))| ingress_rule(n, proto, ports, from))
                .collect();
            policy.egress =
                with_marker(egress).map(|(n, (proto, ports, to))| egress_rule(n, proto, ports, to)).collect();
            policy
        },
    )
}

fn ingress_rule(n: usize, proto: Proto, ports: Vec<PortRange>, from: Vec<Peer>) -> IngressRule {
    let (publish, rate, max_connections, log) = (None, None, None, LogPolicy::None);
    IngressRule { name: format!("rule-{n}"), proto, ports, from, publish, rate, max_connections, log }
}

fn egress_rule(n: usize, proto: Proto, ports: Vec<PortRange>, to: Vec<Peer>) -> EgressRule {
    EgressRule { name: format!("rule-{n}"), proto, ports, to, rate: None, log: LogPolicy::None }
}

fn protos() -> impl Strategy<Value = Proto> {
    prop::sample::select(vec![Proto::Tcp, Proto::Udp])
}

fn ports() -> impl Strategy<Value = PortRange> {
    let edge = || prop::sample::select(vec![1, 2, 22, 53, 67, 80, 443, 444, 8000, 8010, 65_534, 65_535u16]);
    (edge(), edge()).prop_map(|(a, b)| PortRange::new(a.min(b), a.max(b)).unwrap())
}

fn peers() -> impl Strategy<Value = Peer> {
    let base =
        prop_oneof![any::<u32>(), prop::sample::select(LANDMARKS.to_vec()).prop_map(u32::from_be_bytes)];
    let net = (base, 0..=32u8, prop::collection::vec((any::<u32>(), 0..=32u8), 0..3)).prop_map(
        |(base, length, holes)| {
            let cidr = Ipv4Net::new_assert(base.into(), length).trunc();
            let hole = |(bits, more): (u32, u8)| {
                let inside = cidr.network().to_bits() | (bits & cidr.hostmask().to_bits());
                IpNet::V4(Ipv4Net::new_assert(inside.into(), (length + more).min(32)).trunc())
            };
            Peer::net(cidr.into(), holes.into_iter().map(hole).collect()).unwrap()
        },
    );
    prop_oneof![
        6 => net,
        2 => Just(Peer::Host),
        1 => Just(Peer::Fqdn("example.org".parse().unwrap())),
        1 => Just(Peer::Machine("db".to_owned())),
        1 => Just(Peer::net("2001:db8::/32".parse().unwrap(), Vec::new()).unwrap()),
    ]
}

/// The addresses on both sides of every border that the policy draws.
fn edge_addresses(policy: &Firewall) -> Vec<Ipv4Addr> {
    let mut found: Vec<Ipv4Addr> = LANDMARKS.map(Ipv4Addr::from).to_vec();
    for peer in policy.egress.iter().flat_map(|rule| &rule.to) {
        let Peer::Net { cidr, except } = peer else { continue };
        for net in std::iter::once(cidr).chain(except) {
            let IpNet::V4(net) = net else { continue };
            let (first, last) = (net.network().to_bits(), net.broadcast().to_bits());
            found.extend(
                [first.saturating_sub(1), first, last, last.saturating_add(1)].map(Ipv4Addr::from_bits),
            );
        }
    }
    found.sort();
    found.dedup();
    found
}

fn edge_ports<'a>(ranges: impl Iterator<Item = &'a PortRange>) -> Vec<u16> {
    let mut found = vec![53, MARKER_PORT];
    for range in ranges {
        found.extend([
            range.first().saturating_sub(1),
            range.first(),
            range.last(),
            range.last().saturating_add(1),
        ]);
    }
    found.sort_unstable();
    found.dedup();
    found
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
    for spoofed in [GATEWAY, Ipv4Addr::new(10, 0, 2, 16), Ipv4Addr::new(203, 0, 113, 250)] {
        let payload = Payload::Udp { source_port: 1, destination_port: MARKER_PORT };
        packets.push(packet(Origin::Guest, spoofed, Ipv4Addr::new(203, 0, 113, 250), payload));
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
        Origin::Guest => packet(origin, GUEST, Ipv4Addr::new(203, 0, 113, 250), payload),
        Origin::Namespace | Origin::Uplink => packet(origin, GATEWAY, GUEST, payload),
    }
}
