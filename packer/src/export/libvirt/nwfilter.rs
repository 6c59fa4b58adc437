//! A machine's firewall as an nwfilter.
//!
//! ```text
//! priority  -500..  clean-traffic: the machine's own MAC and IP address, ARP, nothing but IPv4
//!            100    to the host: an address by DHCP, names, what rules name the host for; ICMP errors
//!            200    new flows to where no machine gets, dropped
//!            500    what the rules allow; answers pass, since the filter keeps state
//!           1000    everything, dropped
//! ```
//!
//! An exception of one rule must not take away what another one allows, so exceptions are subtracted from their range
//! and never written as drops.
//!
//! Source: libvirt's documentation, "Network Filters".

use std::net::Ipv4Addr;

use appliance::Machine;
use appliance::policy::{DnsMode, MachinePolicy, Peer, PortRange, Proto};
use ipnet::{IpNet, Ipv4Net};

use super::super::Subject;
use super::super::addresses::{Block, never_reached};
use super::super::loss::{Effect, LossReport};
use super::super::rules::{self, Direction, Rule};
use super::Network;
use super::xml::{Element, element};

const BEFORE_DROPS: i32 = 100;
const DROPS: i32 = 200;
const RULES: i32 = 500;
const REST: i32 = 1000;

/// What libvirt calls the filter of `machine`.
pub(super) fn name(network: &Network<'_>, machine: &str) -> String {
    format!("hull-{}-{machine}", network.appliance)
}

/// The filter for `machine`.
pub(super) fn of(
    subject: &Subject<'_>,
    machine: &Machine,
    policy: &MachinePolicy,
    network: &Network<'_>,
    report: &mut LossReport,
) -> Element {
    let firewall = &policy.firewall;
    let mut rules = to_host(policy, network);
    rules.extend(drops(network));
    for rule in rules::expressible(firewall, &machine.name, subject.limits, report) {
        for peer in rule.peers {
            rules.extend(allow(&rule, peer, machine, network, report));
        }
    }
    if firewall.icmp.ping_in {
        rules.extend(ping(Way::In, RULES, None));
    }
    if firewall.icmp.ping_out {
        rules.extend(ping(Way::Out, BEFORE_DROPS, Some(network.gateway())));
        rules.extend(ping(Way::Out, RULES, None));
    }
    if firewall.dns.mode == DnsMode::Proxy {
        let becomes = "no name can be asked for, since names cannot be told apart";
        report.lose(Some(&machine.name), "firewall.dns", Effect::Narrower, becomes);
    }
    rules::report_flow_limits(firewall.limits, &machine.name, report);
    for protocol in ["all", "all-ipv6"] {
        rules.push(
            element("rule")
                .with("action", "drop")
                .with("direction", "inout")
                .with("priority", REST)
                .child(element(protocol)),
        );
    }
    element("filter")
        .with("name", name(network, &machine.name))
        .with("chain", "root")
        .child(element("filterref").with("filter", "clean-traffic"))
        .children(rules)
}

/// Which way packets go, as the machine sees it.
#[derive(Debug, Clone, Copy)]
enum Way {
    In,
    Out,
}

impl Way {
    const fn as_str(self) -> &'static str {
        match self {
            Self::In => "in",
            Self::Out => "out",
        }
    }

    const fn back(self) -> Self {
        match self {
            Self::In => Self::Out,
            Self::Out => Self::In,
        }
    }
}

fn accept(way: Way, priority: i32, what: Element) -> Element {
    element("rule")
        .with("action", "accept")
        .with("direction", way.as_str())
        .with("priority", priority)
        .child(what)
}

/// What every machine needs of the host's end of the network, and the names that it may ask for.
fn to_host(policy: &MachinePolicy, network: &Network<'_>) -> Vec<Element> {
    let gateway = network.gateway();
    let dhcp = || element("udp");
    let mut rules = Vec::new();
    for server in [Ipv4Addr::BROADCAST, gateway] {
        let asks = dhcp().with("dstipaddr", server).with("srcportstart", 68).with("dstportstart", 67);
        rules.push(accept(Way::Out, BEFORE_DROPS, asks));
    }
    let answers = dhcp().with("srcipaddr", gateway).with("srcportstart", 67).with("dstportstart", 68);
    rules.push(accept(Way::In, BEFORE_DROPS, answers));
    for way in [Way::In, Way::Out] {
        rules.push(accept(way, BEFORE_DROPS, element("icmp").with("state", "RELATED")));
    }
    if policy.firewall.dns.mode == DnsMode::Open {
        for protocol in ["udp", "tcp"] {
            let asks = element(protocol).with("dstipaddr", gateway).with("dstportstart", 53);
            rules.push(accept(Way::Out, BEFORE_DROPS, asks));
        }
    }
    rules
}

/// Where no machine gets, whatever its rules say. Only new flows: answers to the host pass.
fn drops(network: &Network<'_>) -> Vec<Element> {
    let never = never_reached().chain([IpNet::V4(network.subnet)]);
    let nets = never.filter_map(|net| match net {
        IpNet::V4(net) => Some(net),
        IpNet::V6(_) => None,
    });
    let drop = |net: Ipv4Net| {
        let what = element("all")
            .with("state", "NEW")
            .with("dstipaddr", net.addr())
            .with("dstipmask", net.prefix_len());
        element("rule").with("action", "drop").with("direction", "out").with("priority", DROPS).child(what)
    };
    nets.map(drop).collect()
}

/// The rule for one of its peers; nothing where libvirt has no word for it.
fn allow(
    rule: &Rule<'_>,
    peer: &Peer,
    machine: &Machine,
    network: &Network<'_>,
    report: &mut LossReport,
) -> Vec<Element> {
    let mut lost = |why: &str| {
        let becomes = format!("`{peer}` is left out: {why}");
        report.lose(Some(&machine.name), rule.peers_key(), Effect::Narrower, becomes);
        Vec::new()
    };
    match peer {
        Peer::Fqdn(_) => lost("a filter knows no names"),
        Peer::Machine(_) => lost("a filter cannot name a machine"),
        Peer::Host => for_nets(rule, BEFORE_DROPS, &[network.gateway().into()]),
        Peer::Net { cidr, except } => {
            // The host's end of this network is an address that nobody had in mind who wrote a smaller range.
            let subnet = IpNet::V4(network.subnet);
            let own = (cidr.prefix_len() > 0).then_some(subnet);
            let holes = except.iter().copied().chain(own.filter(|_| rule.direction == Direction::Ingress));
            let nets = Block::new(*cidr, holes).and_then(|block| block.ipv4_nets());
            for_nets(rule, RULES, &nets.unwrap_or_default())
        }
    }
}

fn for_nets(rule: &Rule<'_>, priority: i32, nets: &[Ipv4Net]) -> Vec<Element> {
    let each = |net: &Ipv4Net| {
        rule.ports.iter().map(|ports| for_ports(rule, priority, *net, *ports)).collect::<Vec<_>>()
    };
    nets.iter().flat_map(each).collect()
}

fn for_ports(rule: &Rule<'_>, priority: i32, net: Ipv4Net, ports: PortRange) -> Element {
    let what = element(match rule.proto {
        Proto::Tcp => "tcp",
        Proto::Udp => "udp",
    });
    let (way, address, mask) = match rule.direction {
        Direction::Ingress => (Way::In, "srcipaddr", "srcipmask"),
        Direction::Egress => (Way::Out, "dstipaddr", "dstipmask"),
    };
    let mut what = what.with("comment", rule.name);
    if net.prefix_len() > 0 {
        what = what.with(address, net.addr()).with(mask, net.prefix_len());
    }
    accept(way, priority, what.with("dstportstart", ports.first()).with("dstportend", ports.last()))
}

/// Echo requests one way, to `destination` or anybody, and the answers to them.
fn ping(way: Way, priority: i32, destination: Option<Ipv4Addr>) -> [Element; 2] {
    let at = |what: Element, attribute| match destination {
        Some(address) => what.with(attribute, address),
        None => what,
    };
    let request = at(element("icmp"), "dstipaddr").with("type", 8).with("code", 0);
    let answer =
        at(element("icmp").with("state", "ESTABLISHED"), "srcipaddr").with("type", 0).with("code", 0);
    [accept(way, priority, request), accept(way.back(), priority, answer)]
}
