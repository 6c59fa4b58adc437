//! Random policies, and the places where they could be wrong: the addresses and ports at every border they draw.

use std::net::{IpAddr, Ipv4Addr};

use appliance::policy::{
    Dns, DnsMode, EgressRule, Firewall, FlowLimits, Icmp, IngressRule, LogPolicy, Mode, Peer, PortRange,
    Proto,
};
use firewall::{Environment, Resolver};
use ipnet::{IpNet, Ipv4Net};
use proptest::prelude::*;

/// A UDP port that every policy opens both ways, outwards to [`MARKER_ADDRESS`].
pub(crate) const MARKER_PORT: u16 = 9;
/// See [`MARKER_PORT`].
pub(crate) const MARKER_ADDRESS: [u8; 4] = [203, 0, 113, 250];

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

pub(crate) fn environments() -> impl Strategy<Value = Environment> {
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

pub(crate) fn policies() -> impl Strategy<Value = Firewall> {
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
            let any = Peer::Net { cidr: IpNet::from(IpAddr::from(MARKER_ADDRESS)), except: Vec::new() };
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
pub(crate) fn edge_addresses(policy: &Firewall) -> Vec<Ipv4Addr> {
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

pub(crate) fn edge_ports<'a>(ranges: impl Iterator<Item = &'a PortRange>) -> Vec<u16> {
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
