//! What must hold for every policy: rules only add up, their order means nothing, and the compiler says what the
//! oracle says.

#[path = "kernel/policies.rs"]
mod policies;

use std::net::{IpAddr, Ipv4Addr};

use appliance::policy::{EgressRule, Firewall, IngressRule, LogPolicy, Proto};
use firewall::oracle::{self, History, Origin, Packet, Payload, TcpFlags};
use firewall::{Allow, Client, Compiled, Direction, Environment, Gate, compile};
use policies::{edge_addresses, edge_ports, environments, policies};
use proptest::prelude::*;
use serde_json::json;

const GATEWAY: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 2, 2));
/// An address of the host that no policy here is about.
const REACHED: IpAddr = IpAddr::V4(Ipv4Addr::new(1, 0, 0, 1));

fn payload(proto: Proto, destination_port: u16) -> Payload {
    let source_port = 40_000;
    match proto {
        Proto::Tcp => Payload::Tcp { source_port, destination_port, flags: TcpFlags::SYN },
        Proto::Udp => Payload::Udp { source_port, destination_port },
    }
}

/// Every edge address with every edge port and protocol, as the machine would send it.
fn sent_by_guest(policy: &Firewall) -> Vec<(Packet, Proto, u16)> {
    let ports = edge_ports(policy.egress.iter().flat_map(|rule| &rule.ports));
    let mut packets = Vec::new();
    for destination in edge_addresses(policy) {
        for port in &ports {
            for proto in [Proto::Tcp, Proto::Udp] {
                let (source, payload) = (Ipv4Addr::new(10, 0, 2, 15).into(), payload(proto, *port));
                let destination = destination.into();
                packets.push((
                    Packet { origin: Origin::Guest, source, destination, fragment: false, payload },
                    proto,
                    *port,
                ));
            }
        }
    }
    packets
}

fn passes(policy: &Firewall, environment: &Environment, packet: &Packet) -> bool {
    oracle::decide(policy, environment, &mut History::default(), packet).passes()
}

/// True if a compiled rule for `port` is one that `means`.
fn allowed(
    compiled: &Compiled,
    direction: Direction,
    proto: Proto,
    port: u16,
    means: impl Fn(&Allow) -> bool,
) -> bool {
    let mut rules = compiled.allows(direction).iter();
    rules.any(|allow| allow.proto == proto && allow.ports.contains(port) && means(allow))
}

/// A policy whose rules mean everybody, so that what it drops no rule could open.
fn open_to_all() -> Firewall {
    let rule = |proto| json!({ "name": proto, "proto": proto, "ports": ["1-65535"], "to": ["0.0.0.0/0"] });
    serde_json::from_value(json!({ "egress": [rule("tcp"), rule("udp")] })).unwrap()
}

fn as_egress(rule: &IngressRule) -> EgressRule {
    let IngressRule { name, proto, ports, from, .. } = rule.clone();
    EgressRule { name, proto, ports, to: from, rate: None, log: LogPolicy::None }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn compiled_egress_is_what_the_oracle_says(policy in policies()) {
        let environment = Environment::default();
        let compiled = compile(&policy, &environment).unwrap();
        for (packet, proto, port) in sent_by_guest(&policy) {
            let peer = packet.destination;
            let wanted = if peer == GATEWAY {
                allowed(&compiled, Direction::Egress, proto, port, |allow| allow.host)
            } else {
                passes(&open_to_all(), &environment, &packet)
                    && allowed(&compiled, Direction::Egress, proto, port, |allow| allow.peers.contains(peer))
            };
            prop_assert_eq!(passes(&policy, &environment, &packet), wanted, "{:?}", packet);
        }
    }

    #[test]
    fn compiled_ingress_is_what_the_gate_does(policy in policies()) {
        let environment = Environment::default();
        let compiled = compile(&policy, &environment).unwrap();
        let mut gate = Gate::new(&policy, &environment);
        // `edge_addresses` looks at egress rules.
        let turned = Firewall { egress: policy.ingress.iter().map(as_egress).collect(), ..policy.clone() };
        for address in edge_addresses(&turned).into_iter().map(IpAddr::from).chain(["2001:db8::1".parse().unwrap()]) {
            for port in edge_ports(policy.ingress.iter().flat_map(|rule| &rule.ports)) {
                for proto in [Proto::Tcp, Proto::Udp] {
                    let client = Client::new(address, REACHED);
                    let admitted = gate.admit(proto, port, client, std::time::Duration::ZERO).is_ok();
                    let means = |allow: &Allow| allow.peers.contains(address) || (allow.host && client.is_host());
                    prop_assert_eq!(admitted, allowed(&compiled, Direction::Ingress, proto, port, means));
                }
            }
        }
    }

    #[test]
    fn the_order_of_rules_means_nothing(policy in policies(), environment in environments()) {
        let mut turned = policy.clone();
        turned.ingress.reverse();
        turned.egress.rotate_left(1);
        prop_assert_eq!(compile(&policy, &environment).unwrap(), compile(&turned, &environment).unwrap());
    }

    #[test]
    fn another_rule_never_closes_anything(policy in policies(), environment in environments()) {
        let mut fewer = policy.clone();
        let taken = fewer.egress.remove(0);
        for (packet, ..) in sent_by_guest(&policy) {
            prop_assert!(!passes(&fewer, &environment, &packet) || passes(&policy, &environment, &packet), "{:?} closed {:?}", taken, packet);
        }
    }
}
