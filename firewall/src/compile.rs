//! From a policy as written to one that says the same and leaves nothing to decide.
//!
//! Peers become disjoint address ranges with exceptions subtracted, ports become ranges, rules stand in one order
//! whatever order they were written in, and what cannot be granted is closed and put on a list. Nothing comes out
//! wider than it was written.
//!
//! Source: the policy schema (`appliance::policy`); special-purpose addresses: RFC 6890.

use std::net::{IpAddr, Ipv4Addr};

use appliance::policy::{
    DnsMode, EgressRule, Firewall, FlowLimits, Icmp, IngressRule, LogPolicy, Mode, Peer, PolicyError,
    PortRange, Proto, Rate,
};
use ipnet::IpNet;

use crate::environment::{Environment, FlowLog, Network, Resolver};
use crate::intervals::{AddressSet, IntervalSet};
use crate::notice::Notice;
use crate::vocabulary::{Denial, Direction};

/// Rules of one direction.
const MAX_RULES: usize = 1024;
/// Ranges of addresses and ports in a whole policy.
const MAX_RANGES: usize = 32_768;

/// Why a policy cannot be enforced.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CompileError {
    /// Not a policy that could have been read from an appliance.
    #[error("the policy's rules are not well-formed")]
    Malformed(#[source] PolicyError),
    /// A limit that lets nothing pass, which the kernel would read as "some default".
    #[error("{place} is 0; expected at least 1")]
    ZeroLimit {
        /// Where it stands.
        place: String,
    },
    /// More rules than the kernel is asked to walk for each new flow.
    #[error("{count} {direction} rules; at most {MAX_RULES} are enforced")]
    TooManyRules {
        /// The direction.
        direction: Direction,
        /// How many there are.
        count: usize,
    },
    /// More ranges than the kernel is asked to hold.
    #[error("the rules come to {count} ranges of addresses and ports; at most {MAX_RANGES} are enforced")]
    TooManyRanges {
        /// How many there are.
        count: usize,
    },
}

/// A policy as the enforcers need it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compiled {
    pub(crate) mode: Mode,
    pub(crate) network: Network,
    pub(crate) ingress: Vec<Allow>,
    pub(crate) egress: Vec<Allow>,
    /// Destinations that no rule opens, disjoint, each with the reason that is counted.
    pub(crate) forbidden: Vec<(Denial, IntervalSet<u32>)>,
    pub(crate) names_resolved: bool,
    pub(crate) icmp: Icmp,
    pub(crate) limits: FlowLimits,
    pub(crate) health_ports: IntervalSet<u16>,
    pub(crate) flow_log: FlowLog,
    pub(crate) notices: Vec<Notice>,
}

impl Compiled {
    /// Whether what is not allowed is dropped, as the host decided.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// The rules of one direction that let somebody pass. Those without a rate come first, then by name, so that a
    /// packet takes a token only where no unlimited rule lets it pass.
    pub fn allows(&self, direction: Direction) -> &[Allow] {
        match direction {
            Direction::Ingress => &self.ingress,
            Direction::Egress => &self.egress,
        }
    }

    /// What the policy asks and does not get, sorted, each once.
    pub fn notices(&self) -> &[Notice] {
        &self.notices
    }
}

/// One reason to let a new connection pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Allow {
    /// The rule's name.
    pub name: String,
    /// The transport protocol.
    pub proto: Proto,
    /// Destination ports; not empty.
    pub ports: IntervalSet<u16>,
    /// The other side's addresses.
    pub peers: AddressSet,
    /// True if the host itself is meant too. One of `peers` and this is not empty.
    pub host: bool,
    /// How fast new connections may come.
    pub rate: Option<Rate>,
    /// Connections at one time; ingress only.
    pub max_connections: Option<u32>,
    /// What of it is logged; nothing for ingress rules, and where the host offers no log.
    pub log: LogPolicy,
}

/// Compiles a machine's rules for a host.
///
/// # Errors
///
/// [`CompileError::Malformed`] for values that [`Firewall::check`] refuses, [`CompileError::ZeroLimit`],
/// [`CompileError::TooManyRules`] and [`CompileError::TooManyRanges`] for what no enforcer could hold.
pub fn compile(policy: &Firewall, environment: &Environment) -> Result<Compiled, CompileError> {
    policy.check().map_err(CompileError::Malformed)?;
    check_bounds(policy)?;
    let mut notices = policy_notices(policy, environment);
    let ingress: Vec<RuleParts<'_>> = policy.ingress.iter().map(RuleParts::from).collect();
    let egress: Vec<RuleParts<'_>> = policy.egress.iter().map(RuleParts::from).collect();
    let allows = [ingress, egress].map(|rules| {
        let mut allows: Vec<Allow> =
            rules.iter().filter_map(|rule| compile_rule(rule, environment.flow_log, &mut notices)).collect();
        allows.sort_by(|a, b| (a.rate.is_some(), &a.name).cmp(&(b.rate.is_some(), &b.name)));
        allows
    });
    let count = allows.iter().flatten().map(|a| a.ports.ranges().len() + a.peers.range_count()).sum();
    if count > MAX_RANGES {
        return Err(CompileError::TooManyRanges { count });
    }
    notices.sort();
    notices.dedup();
    let [ingress, egress] = allows;
    Ok(Compiled {
        mode: environment.mode,
        network: environment.network,
        ingress,
        egress,
        forbidden: forbidden(environment),
        names_resolved: policy.dns.mode != DnsMode::None
            && resolver_serves(environment.resolver, policy.dns.mode),
        icmp: policy.icmp,
        limits: policy.limits,
        health_ports: environment.health_ports.iter().map(|port| (*port, *port)).collect(),
        flow_log: environment.flow_log,
        notices,
    })
}

/// What rules of both directions have in common.
struct RuleParts<'a> {
    direction: Direction,
    name: &'a str,
    proto: Proto,
    ports: &'a [PortRange],
    peers: &'a [Peer],
    rate: Option<Rate>,
    max_connections: Option<u32>,
    log: LogPolicy,
}

impl<'a> From<&'a IngressRule> for RuleParts<'a> {
    fn from(rule: &'a IngressRule) -> Self {
        Self {
            direction: Direction::Ingress,
            name: &rule.name,
            proto: rule.proto,
            ports: &rule.ports,
            peers: &rule.from,
            rate: rule.rate,
            max_connections: rule.max_connections,
            log: rule.log,
        }
    }
}

impl<'a> From<&'a EgressRule> for RuleParts<'a> {
    fn from(rule: &'a EgressRule) -> Self {
        Self {
            direction: Direction::Egress,
            name: &rule.name,
            proto: rule.proto,
            ports: &rule.ports,
            peers: &rule.to,
            rate: rule.rate,
            max_connections: None,
            log: rule.log,
        }
    }
}

/// The rule as ranges, or nothing where it lets nobody pass.
fn compile_rule(rule: &RuleParts<'_>, flow_log: FlowLog, notices: &mut Vec<Notice>) -> Option<Allow> {
    let (direction, owned_name) = (rule.direction, || rule.name.to_owned());
    let mut nets = Vec::new();
    let mut host = false;
    for peer in rule.peers {
        match peer {
            Peer::Net { cidr, except } => {
                nets.push(AddressSet::of_nets([cidr]).without(&AddressSet::of_nets(except)));
            }
            Peer::Host => host = true,
            Peer::Fqdn(name) => {
                notices.push(Notice::NameNotResolved {
                    direction,
                    rule: owned_name(),
                    name: name.to_string(),
                });
            }
            Peer::Machine(machine) => {
                notices.push(Notice::MachineNotReachable {
                    direction,
                    rule: owned_name(),
                    machine: machine.clone(),
                });
            }
        }
    }
    let mut peers: AddressSet = nets.into_iter().collect();
    if direction == Direction::Egress && !peers.v6.is_empty() {
        notices.push(Notice::NoIpv6 { rule: owned_name() });
        peers.v6 = IntervalSet::default();
    }
    // Whom the relay lets in or turns away never shows in the kernel's log.
    let has_log = direction == Direction::Egress && flow_log != FlowLog::Absent;
    if rule.log != LogPolicy::None && !has_log {
        notices.push(Notice::NotLogged { direction, rule: owned_name() });
    }
    let ports: IntervalSet<u16> = rule.ports.iter().map(|range| (range.first(), range.last())).collect();
    if ports.is_empty() || (peers.is_empty() && !host) {
        return None;
    }
    Some(Allow {
        name: owned_name(),
        proto: rule.proto,
        ports,
        peers,
        host,
        rate: rule.rate,
        max_connections: rule.max_connections,
        log: if has_log { rule.log } else { LogPolicy::None },
    })
}

fn check_bounds(policy: &Firewall) -> Result<(), CompileError> {
    for (direction, count) in
        [(Direction::Ingress, policy.ingress.len()), (Direction::Egress, policy.egress.len())]
    {
        if count > MAX_RULES {
            return Err(CompileError::TooManyRules { direction, count });
        }
    }
    let zero = |place: String| Err(CompileError::ZeroLimit { place });
    let rates = policy.ingress.iter().map(|rule| (Direction::Ingress, &rule.name, rule.rate));
    let rates = rates.chain(policy.egress.iter().map(|rule| (Direction::Egress, &rule.name, rule.rate)));
    for (direction, name, rate) in rates {
        match rate {
            Some(Rate { new_per_second: 0, .. }) => {
                return zero(format!("the rate of {direction} rule `{name}`"));
            }
            Some(Rate { burst: 0, .. }) => return zero(format!("the burst of {direction} rule `{name}`")),
            _ => {}
        }
    }
    match policy.limits {
        FlowLimits { flows: 0, .. } => zero("the limit on flows".to_owned()),
        FlowLimits { new_flows_per_second: 0, .. } => zero("the limit on new flows per second".to_owned()),
        FlowLimits { egress_mbit: Some(0), .. } => zero("the limit on egress bandwidth".to_owned()),
        _ => Ok(()),
    }
}

fn policy_notices(policy: &Firewall, environment: &Environment) -> Vec<Notice> {
    let mut notices = Vec::new();
    if policy.mode == Mode::Audit && environment.mode == Mode::Enforce {
        notices.push(Notice::AuditNotGranted);
    }
    if !resolver_serves(environment.resolver, policy.dns.mode) {
        let proxy = policy.dns.mode == DnsMode::Proxy;
        notices.push(if proxy { Notice::NoFilteringResolver } else { Notice::NoResolver });
    }
    notices
}

fn resolver_serves(resolver: Resolver, mode: DnsMode) -> bool {
    match mode {
        DnsMode::None => true,
        DnsMode::Open => resolver != Resolver::Absent,
        DnsMode::Proxy => resolver == Resolver::Filters,
    }
}

/// What no egress rule opens, whatever it says: each address under the first reason that holds.
fn forbidden(environment: &Environment) -> Vec<(Denial, IntervalSet<u32>)> {
    const LINK_LOCAL: [([u8; 4], u8); 1] = [([169, 254, 0, 0], 16)];
    const MULTICAST: [([u8; 4], u8); 2] = [([224, 0, 0, 0], 4), ([255, 255, 255, 255], 32)];
    const HOST: [([u8; 4], u8); 2] = [([0, 0, 0, 0], 8), ([127, 0, 0, 0], 8)];
    let set = |nets: &[([u8; 4], u8)]| {
        let nets: Vec<IpNet> =
            nets.iter().map(|(octets, len)| IpNet::new_assert(IpAddr::from(*octets), *len)).collect();
        AddressSet::of_nets(&nets).v4
    };
    let Network { subnet, gateway, resolver, .. } = environment.network;
    let one = |address: Ipv4Addr| (address.to_bits(), address.to_bits());
    let broadcast = [one(subnet.broadcast())].into_iter().collect();
    let host_addresses: IntervalSet<u32> = environment
        .host_addresses
        .iter()
        .filter_map(|address| match address.to_canonical() {
            IpAddr::V4(address) => Some(one(address)),
            IpAddr::V6(_) => None,
        })
        .collect();
    let ours: IntervalSet<u32> = [one(gateway), one(resolver)].into_iter().collect();
    let mut taken = ours;
    [
        (Denial::LinkLocal, set(&LINK_LOCAL)),
        (Denial::Multicast, set(&MULTICAST).union(&broadcast)),
        (Denial::OwnSubnet, AddressSet::of_nets([&IpNet::V4(subnet)]).v4),
        (Denial::HostService, set(&HOST).union(&host_addresses)),
    ]
    .map(|(reason, addresses)| {
        let left = addresses.without(&taken);
        taken = taken.union(&addresses);
        (reason, left)
    })
    .to_vec()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn compiled(policy: serde_json::Value) -> Result<Compiled, CompileError> {
        compile(&serde_json::from_value(policy).unwrap(), &Environment::default())
    }

    fn egress(to: serde_json::Value) -> serde_json::Value {
        json!({ "egress": [{ "name": "a", "proto": "tcp", "ports": [443], "to": to }] })
    }

    /// The IPv4 ranges of an egress rule to `to`; none where it is closed.
    #[track_caller]
    fn check(to: serde_json::Value, want: &[(&str, &str)]) {
        let compiled = compiled(egress(to)).unwrap();
        let ranges = compiled.egress.iter().flat_map(|allow| allow.peers.v4.ranges());
        let found =
            ranges.map(|(first, last)| [first, last].map(|bits| Ipv4Addr::from_bits(*bits).to_string()));
        let want = want.iter().map(|(first, last)| [first, last].map(|text| (*text).to_owned()));
        assert_eq!(found.collect::<Vec<_>>(), want.collect::<Vec<_>>());
    }

    #[test]
    fn peers_become_ranges_that_do_not_overlap() {
        check(json!(["10.0.0.0/8", "10.1.0.0/16"]), &[("10.0.0.0", "10.255.255.255")]);
        check(json!(["10.0.0.0/9", "10.128.0.0/9"]), &[("10.0.0.0", "10.255.255.255")]);
        check(json!(["0.0.0.0/0"]), &[("0.0.0.0", "255.255.255.255")]);
        check(json!([]), &[]);
    }

    #[test]
    fn exceptions_hold_for_their_own_peer() {
        let ten = json!({ "cidr": "10.0.0.0/8", "except": ["10.0.0.0/16", "10.255.0.0/16"] });
        check(json!([ten]), &[("10.1.0.0", "10.254.255.255")]);
        check(json!([ten, "10.0.7.0/24"]), &[("10.0.7.0", "10.0.7.255"), ("10.1.0.0", "10.254.255.255")]);
        check(json!([{ "cidr": "10.0.0.0/8", "except": ["10.0.0.0/9", "10.128.0.0/9"] }]), &[]);
    }

    #[test]
    fn what_cannot_be_granted_is_closed_and_said() {
        let policy = json!({
            "mode": "audit",
            "dns": { "mode": "proxy" },
            "ingress": [{ "name": "in", "proto": "tcp", "ports": [1], "from": ["peer:db"], "log": "new" }],
            "egress": [{ "name": "out", "proto": "tcp", "ports": [1], "to": ["fqdn:a.org", "fqdn:a.org", "2001:db8::/32"] }],
        });
        let compiled = compiled(policy).unwrap();
        assert!(compiled.ingress.is_empty() && compiled.egress.is_empty());
        assert_eq!((compiled.mode, compiled.names_resolved), (Mode::Enforce, false));
        let notices: Vec<String> = compiled.notices().iter().map(ToString::to_string).collect();
        insta::assert_snapshot!(notices.join("\n"), @r#"
    the image asks for audit mode, which only the host can set; its rules are enforced
    egress rule `out`: `fqdn:a.org` stays closed; this version resolves no names for rules
    ingress rule `in`: `peer:db` stays closed; this version has no networks between machines
    egress rule `out`: its IPv6 addresses stay closed; machines have IPv4 only in this version
    ingress rule `in` asks for a log, which this host does not offer
    this host offers no resolver that checks names; the machine cannot look up the names of its policy
    "#);
    }

    #[test]
    fn a_resolver_serves_only_the_modes_that_it_does_not_widen() {
        for (resolver, mode, want) in [
            (Resolver::Absent, "open", false),
            (Resolver::Forwards, "open", true),
            (Resolver::Forwards, "proxy", false),
            (Resolver::Filters, "proxy", true),
            (Resolver::Filters, "open", true),
            (Resolver::Filters, "none", false),
        ] {
            let policy: Firewall = serde_json::from_value(json!({ "dns": { "mode": mode } })).unwrap();
            let compiled = compile(&policy, &Environment { resolver, ..Environment::default() }).unwrap();
            assert_eq!(compiled.names_resolved, want, "{resolver:?} {mode}");
            assert_eq!(compiled.notices().is_empty(), want || mode == "none", "{resolver:?} {mode}");
        }
    }

    #[test]
    fn what_no_enforcer_could_hold_is_an_error() {
        let rule = |name: &str| json!({ "name": name, "proto": "tcp", "ports": [1], "to": [] });
        let limits = |flows: u32, new: u32, mbit: u32| json!({ "limits": { "flows": flows, "newFlowsPerSecond": new, "egressMbit": mbit } });
        let rate = |new: u32, burst: u32| {
            let rate = json!({ "newPerSecond": new, "burst": burst });
            json!({ "ingress": [{ "name": "a", "proto": "tcp", "ports": [1], "from": [], "rate": rate }] })
        };
        let nets = |count: u32| egress((0..count).map(|n| Ipv4Addr::from_bits(n * 2).to_string()).collect());
        for (policy, want) in [
            (json!({ "egress": [rule("a"), rule("a")] }), "the policy's rules are not well-formed"),
            (json!({ "egress": [rule("a\" accept")] }), "the policy's rules are not well-formed"),
            (limits(0, 1, 1), "the limit on flows is 0; expected at least 1"),
            (limits(1, 0, 1), "the limit on new flows per second is 0; expected at least 1"),
            (limits(1, 1, 0), "the limit on egress bandwidth is 0; expected at least 1"),
            (rate(0, 1), "the rate of ingress rule `a` is 0; expected at least 1"),
            (rate(1, 0), "the burst of ingress rule `a` is 0; expected at least 1"),
            (
                nets(40_000),
                "the rules come to 40001 ranges of addresses and ports; at most 32768 are enforced",
            ),
            (
                json!({ "egress": (0..1025).map(|n| rule(&format!("r{n}"))).collect::<Vec<_>>() }),
                "1025 egress rules; at most 1024 are enforced",
            ),
        ] {
            assert_eq!(compiled(policy).unwrap_err().to_string(), want);
        }
    }
}
