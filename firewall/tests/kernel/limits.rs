//! Rates and bounds, by counting what passes of more than is allowed.

use appliance::policy::Firewall;
use firewall::oracle::{Origin, Packet, Payload};
use firewall::{Denial, Environment, compile};
use serde_json::json;

use crate::lab::Lab;
use crate::wire::Wire;

const SENT: u16 = 60;

fn datagram(source_port: u16, destination_port: u16) -> Packet {
    Packet {
        origin: Origin::Guest,
        source: [10, 0, 2, 15].into(),
        destination: [203, 0, 113, 1].into(),
        fragment: false,
        payload: Payload::Udp { source_port, destination_port },
    }
}

/// Of 60 datagrams to UDP port 53, each from another port unless `one_flow`, `want` pass; time may add some.
#[track_caller]
fn check(
    policy: serde_json::Value,
    one_flow: bool,
    want: std::ops::RangeInclusive<usize>,
    denial: Option<Denial>,
) {
    let Some(lab) = Lab::new() else { return };
    let mut wire = Wire::new(&lab);
    let policy: Firewall = serde_json::from_value(policy).unwrap();
    lab.enforce(&compile(&policy, &Environment::default()).unwrap());
    // The marker goes out as a DHCP request would: no limit applies to it.
    let marker = Packet {
        destination: [10, 0, 2, 2].into(),
        payload: Payload::Udp { source_port: 68, destination_port: 67 },
        ..datagram(0, 0)
    };
    let probes: Vec<Packet> =
        (0..SENT).map(|n| datagram(if one_flow { 2000 } else { 2000 + n }, 53)).collect();
    let passed = wire.send(&probes, &marker).into_iter().filter(|passed| *passed).count();
    assert!(want.contains(&passed), "{passed} passed");
    let counters = lab.counters();
    if let Some(denial) = denial {
        assert_eq!(counters.denied[&denial].packets, u64::from(SENT) - passed as u64);
    }
}

fn rule(name: &str, rate: serde_json::Value) -> serde_json::Value {
    json!({ "name": name, "proto": "udp", "ports": [53], "to": ["0.0.0.0/0"], "rate": rate })
}

#[test]
fn a_rule_opens_no_more_than_its_rate() {
    let rate = json!({ "newPerSecond": 1, "burst": 20, "per": "source" });
    check(json!({ "egress": [rule("a", rate)] }), false, 20..=24, Some(Denial::NoEgressRule));
}

#[test]
fn the_rates_of_two_rules_add_up() {
    let rate = json!({ "newPerSecond": 1, "burst": 20 });
    check(
        json!({ "egress": [rule("a", rate.clone()), rule("b", rate)] }),
        false,
        40..=46,
        Some(Denial::NoEgressRule),
    );
}

#[test]
fn a_rule_without_a_rate_makes_the_rate_of_another_moot() {
    let rate = json!({ "newPerSecond": 1, "burst": 1 });
    check(
        json!({ "egress": [rule("a", rate), rule("b", json!(null))] }),
        false,
        60..=60,
        Some(Denial::NoEgressRule),
    );
}

#[test]
fn the_machine_has_no_more_flows_than_it_may() {
    let limits = json!({ "flows": 15, "newFlowsPerSecond": 1000 });
    check(
        json!({ "limits": limits, "egress": [rule("a", json!(null))] }),
        false,
        15..=15,
        Some(Denial::Flows),
    );
    check(
        json!({ "limits": limits, "egress": [rule("a", json!(null))] }),
        true,
        60..=60,
        Some(Denial::Flows),
    );
}

#[test]
fn the_machine_opens_no_more_flows_in_a_second_than_it_may() {
    let limits = json!({ "flows": 1000, "newFlowsPerSecond": 5 });
    check(
        json!({ "limits": limits, "egress": [rule("a", json!(null))] }),
        false,
        5..=59,
        Some(Denial::NewFlows),
    );
}

#[test]
fn an_auditing_host_counts_what_limits_would_drop_and_lets_it_pass() {
    let Some(lab) = Lab::new() else { return };
    let policy: Firewall = serde_json::from_value(json!({
        "limits": { "flows": 5, "newFlowsPerSecond": 1000 }, "egress": [rule("a", json!(null))],
    }))
    .unwrap();
    let environment = Environment { mode: appliance::policy::Mode::Audit, ..Environment::default() };
    lab.enforce(&compile(&policy, &environment).unwrap());
    let probes: Vec<Packet> = (0..SENT).map(|n| datagram(2000 + n, 53)).collect();
    let passed = Wire::new(&lab).send(&probes, &datagram(1, 53));
    assert!(passed.iter().all(|passed| *passed));
    assert_eq!(lab.counters().denied[&Denial::Flows].packets, u64::from(SENT) + 1 - 5);
}
