//! A machine's firewall as a NetworkPolicy.
//!
//! A NetworkPolicy allows only, as hull's rules do: it selects the machine for both directions, which denies everything,
//! and lists what passes. Two traps are kept shut. A rule without peers means everybody there and nobody here,
//! so it is left out. And a range means all of its addresses there, so those that no machine of hull's ever reaches are
//! excepted from each.
//!
//! Source: Kubernetes' API, `networking.k8s.io/v1` NetworkPolicy; "Network Policies" in its documentation.

use appliance::Machine;
use appliance::policy::{DnsMode, MachinePolicy, Peer, Proto};
use serde_json::{Value, json};

use super::super::Subject;
use super::super::addresses::{Block, never_reached};
use super::super::loss::{Effect, LossReport};
use super::super::rules::{self, Direction, Rule};
use super::{labels, object_name};

/// The NetworkPolicy for `machine`.
pub(super) fn of(
    subject: &Subject<'_>,
    machine: &Machine,
    policy: &MachinePolicy,
    report: &mut LossReport,
) -> Value {
    let firewall = &policy.firewall;
    let (mut ingress, mut egress) = (Vec::new(), Vec::new());
    for rule in rules::expressible(firewall, &machine.name, subject.limits, report) {
        let peers: Vec<Value> =
            rule.peers.iter().filter_map(|peer| peer_of(subject, machine, &rule, peer, report)).collect();
        if peers.is_empty() {
            continue;
        }
        match rule.direction {
            Direction::Ingress => ingress.push(json!({ "from": peers, "ports": ports(&rule) })),
            Direction::Egress => egress.push(json!({ "to": peers, "ports": ports(&rule) })),
        }
    }
    match firewall.dns.mode {
        DnsMode::None => {}
        DnsMode::Open => egress.push(cluster_dns()),
        DnsMode::Proxy => {
            let becomes = "no name can be asked for, since names cannot be told apart";
            report.lose(Some(&machine.name), "firewall.dns", Effect::Narrower, becomes);
        }
    }
    for (pings, key) in [(firewall.icmp.ping_in, "ping-in"), (firewall.icmp.ping_out, "ping-out")] {
        if pings {
            let key = format!("firewall.icmp.{key}");
            report.lose(Some(&machine.name), key, Effect::Narrower, "no rule can name pings");
        }
    }
    rules::report_flow_limits(firewall.limits, &machine.name, report);
    if firewall.limits.egress_mbit.is_some() {
        let key = "firewall.limits.egress-mbit";
        report.lose(Some(&machine.name), key, Effect::Wider, "it sends as fast as it can");
    }
    json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": { "name": object_name(subject, &machine.name), "labels": labels(subject, &machine.name) },
        "spec": {
            "podSelector": { "matchLabels": labels(subject, &machine.name) },
            "policyTypes": ["Ingress", "Egress"],
            "ingress": ingress,
            "egress": egress,
        },
    })
}

/// The peer in Kubernetes' words; `None` where it has none, or where nobody is meant.
fn peer_of(
    subject: &Subject<'_>,
    machine: &Machine,
    rule: &Rule<'_>,
    peer: &Peer,
    report: &mut LossReport,
) -> Option<Value> {
    let mut lost = |why: &str| {
        let becomes = format!("`{peer}` is left out: {why}");
        report.lose(Some(&machine.name), rule.peers_key(), Effect::Narrower, becomes);
        None
    };
    match peer {
        Peer::Fqdn(_) => lost("a NetworkPolicy knows no names"),
        Peer::Host => lost("a NetworkPolicy cannot name the node"),
        Peer::Machine(name) if !subject.has_machine(name) => lost("that machine is not exported"),
        Peer::Machine(name) => Some(json!({ "podSelector": { "matchLabels": labels(subject, name) } })),
        Peer::Net { cidr: ipnet::IpNet::V6(net), .. } if net.addr().to_ipv4_mapped().is_some() => {
            lost("clusters take it for an IPv4 range")
        }
        Peer::Net { cidr, except } => {
            let never = never_reached().filter(|_| rule.direction == Direction::Egress);
            let block = Block::new(*cidr, except.iter().copied().chain(never))?;
            let mut ip_block = json!({ "cidr": block.net });
            if !block.except.is_empty() {
                ip_block["except"] = json!(block.except);
            }
            Some(json!({ "ipBlock": ip_block }))
        }
    }
}

fn ports(rule: &Rule<'_>) -> Vec<Value> {
    let port = |range: &appliance::policy::PortRange| {
        let mut port = json!({ "protocol": protocol(rule.proto), "port": range.first() });
        if range.last() > range.first() {
            port["endPort"] = range.last().into();
        }
        port
    };
    rule.ports.iter().map(port).collect()
}

const fn protocol(proto: Proto) -> &'static str {
    match proto {
        Proto::Tcp => "TCP",
        Proto::Udp => "UDP",
    }
}

/// The cluster's resolver, by the labels that every distribution gives it.
fn cluster_dns() -> Value {
    json!({
        "to": [{
            "namespaceSelector": { "matchLabels": { "kubernetes.io/metadata.name": "kube-system" } },
            "podSelector": { "matchLabels": { "k8s-app": "kube-dns" } },
        }],
        "ports": [{ "protocol": "UDP", "port": 53 }, { "protocol": "TCP", "port": 53 }],
    })
}
