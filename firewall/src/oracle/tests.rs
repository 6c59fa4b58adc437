//! The oracle's answers, one packet or one short history at a time.

use serde_json::json;

use super::*;

const GUEST: [u8; 4] = [10, 0, 2, 15];
const GATEWAY: [u8; 4] = [10, 0, 2, 2];

/// One policy for every test that has no own.
fn policy() -> Firewall {
    serde_json::from_value(json!({
        "icmp": { "pingIn": false, "pingOut": true },
        "dns": { "mode": "open" },
        "ingress": [{ "name": "http", "proto": "tcp", "ports": [80], "from": ["192.0.2.0/24"] },
                    { "name": "nobody", "proto": "tcp", "ports": [81], "from": ["fqdn:a.org", { "cidr": "10.0.0.0/8", "except": ["10.0.0.0/9", "10.128.0.0/9"] }] }],
        "egress": [{ "name": "all", "proto": "tcp", "ports": [443], "to": ["0.0.0.0/0"] },
                   { "name": "proxy", "proto": "tcp", "ports": [3128], "to": ["host"] },
                   { "name": "part", "proto": "udp", "ports": ["100-200"], "to": [{ "cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"] }] }],
    }))
    .unwrap()
}

fn tcp(flags: TcpFlags, source_port: u16, destination_port: u16) -> Payload {
    Payload::Tcp { source_port, destination_port, flags }
}

fn syn(port: u16) -> Payload {
    tcp(TcpFlags::SYN, 40_000, port)
}

fn udp(port: u16) -> Payload {
    Payload::Udp { source_port: 40_000, destination_port: port }
}

fn packet(origin: Origin, source: [u8; 4], destination: [u8; 4], payload: Payload) -> Packet {
    Packet { origin, source: source.into(), destination: destination.into(), fragment: false, payload }
}

fn out(destination: [u8; 4], payload: Payload) -> Packet {
    packet(Origin::Guest, GUEST, destination, payload)
}

fn rule(direction: Direction, name: &str) -> Verdict {
    Verdict::Allow(Grounds::Rule { direction, name: name.to_owned() })
}

#[track_caller]
fn check(packet: Packet, want: Verdict) {
    let environment = Environment {
        host_addresses: vec![IpAddr::from([192, 168, 1, 10])],
        resolver: Resolver::Forwards,
        health_ports: vec![8080],
        ..Environment::default()
    };
    assert_eq!(decide(&policy(), &environment, &mut History::default(), &packet), want, "{packet:?}");
}

#[test]
fn egress_rules_open_what_they_name_and_nothing_else() {
    let part = rule(Direction::Egress, "part");
    let denied = Verdict::Drop(Denial::NoEgressRule);
    check(out([93, 184, 216, 34], syn(443)), rule(Direction::Egress, "all"));
    check(out([93, 184, 216, 34], syn(444)), denied.clone());
    check(out([93, 184, 216, 34], udp(443)), denied.clone());
    check(out([10, 0, 255, 255], udp(100)), part.clone());
    check(out([10, 1, 0, 0], udp(100)), denied.clone());
    check(out([10, 1, 255, 255], udp(200)), denied.clone());
    check(out([10, 2, 0, 0], udp(200)), part);
    check(out([10, 2, 0, 0], udp(201)), denied.clone());
    check(out([11, 0, 0, 0], udp(100)), denied);
    check(out([8, 8, 8, 8], Payload::EchoRequest { id: 1 }), Verdict::Allow(Grounds::Ping));
}

#[test]
fn no_rule_opens_what_is_forbidden_to_all() {
    for (destination, denial) in [
        ([169, 254, 169, 254], Denial::LinkLocal),
        ([224, 0, 0, 251], Denial::Multicast),
        ([255, 255, 255, 255], Denial::Multicast),
        ([10, 0, 2, 255], Denial::Multicast),
        ([10, 0, 2, 4], Denial::OwnSubnet),
        ([127, 0, 0, 1], Denial::HostService),
        ([0, 0, 0, 0], Denial::HostService),
        ([192, 168, 1, 10], Denial::HostService),
        (GATEWAY, Denial::HostService),
        ([10, 0, 2, 3], Denial::HostService),
    ] {
        check(out(destination, syn(443)), Verdict::Drop(denial));
    }
}

#[test]
fn the_host_is_reached_only_where_a_rule_says_host() {
    check(out(GATEWAY, syn(3128)), rule(Direction::Egress, "proxy"));
    check(out([192, 168, 1, 10], syn(3128)), Verdict::Drop(Denial::HostService));
    check(out([10, 0, 2, 3], udp(53)), Verdict::Allow(Grounds::Dns));
    check(out(GATEWAY, udp(53)), Verdict::Drop(Denial::HostService));
    check(out(GATEWAY, Payload::EchoRequest { id: 1 }), Verdict::Allow(Grounds::Ping));
}

#[test]
fn the_relay_and_health_checks_reach_the_ports_that_are_open_to_somebody() {
    let relay = |payload| packet(Origin::Namespace, GATEWAY, GUEST, payload);
    check(relay(syn(80)), rule(Direction::Ingress, "http"));
    check(relay(syn(81)), Verdict::Drop(Denial::NoIngressRule));
    check(relay(syn(8080)), Verdict::Allow(Grounds::Health));
    check(relay(udp(8080)), Verdict::Drop(Denial::NoIngressRule));
    check(relay(Payload::EchoRequest { id: 1 }), Verdict::Drop(Denial::NoIngressRule));
    check(packet(Origin::Namespace, [10, 0, 2, 3], GUEST, syn(80)), Verdict::Drop(Denial::NoIngressRule));
    check(packet(Origin::Uplink, [192, 0, 2, 1], GUEST, syn(80)), Verdict::Drop(Denial::Unsolicited));
}

#[test]
fn a_machine_speaks_for_itself_in_whole_ipv4_packets() {
    check(packet(Origin::Guest, [10, 0, 2, 16], [8, 8, 8, 8], syn(443)), Verdict::Drop(Denial::Spoofed));
    check(
        packet(Origin::Guest, [0; 4], [255; 4], Payload::Udp { source_port: 68, destination_port: 67 }),
        Verdict::Allow(Grounds::Dhcp),
    );
    check(
        packet(Origin::Guest, [0; 4], [255; 4], Payload::Udp { source_port: 68, destination_port: 68 }),
        Verdict::Drop(Denial::Spoofed),
    );
    check(Packet { fragment: true, ..out([8, 8, 8, 8], syn(443)) }, Verdict::Drop(Denial::Fragment));
    check(out([8, 8, 8, 8], Payload::Other { protocol: 132 }), Verdict::Drop(Denial::Protocol));
    let v6 = Packet {
        source: "fe80::1".parse().unwrap(),
        destination: "ff02::2".parse().unwrap(),
        ..out(GATEWAY, syn(1))
    };
    check(v6, Verdict::Drop(Denial::Ipv6));
}

/// Decides packets in order, under one history.
#[track_caller]
fn check_history(policy: &Firewall, steps: &[(Packet, Verdict)]) {
    let mut history = History::default();
    for (n, (packet, want)) in steps.iter().enumerate() {
        assert_eq!(
            &decide(policy, &Environment::default(), &mut history, packet),
            want,
            "step {n}: {packet:?}"
        );
    }
}

#[test]
fn a_connection_is_established_once_it_is_answered() {
    const SERVER: [u8; 4] = [8, 8, 8, 8];
    const ACK: TcpFlags = TcpFlags { syn: false, ack: true, fin: false, rst: false };
    let all = rule(Direction::Egress, "all");
    let back = |flags| packet(Origin::Uplink, SERVER, GUEST, tcp(flags, 443, 40_000));
    let invalid = Verdict::Drop(Denial::Invalid);
    check_history(
        &policy(),
        &[
            (back(TcpFlags::SYN_ACK), invalid.clone()),
            (out(SERVER, tcp(ACK, 40_000, 443)), invalid.clone()),
            (out(SERVER, syn(443)), all.clone()),
            (out(SERVER, syn(443)), all),
            (out(SERVER, tcp(ACK, 40_000, 443)), invalid.clone()),
            (back(ACK), invalid),
            (back(TcpFlags::SYN_ACK), Verdict::Allow(Grounds::Established)),
            (out(SERVER, tcp(ACK, 40_000, 443)), Verdict::Allow(Grounds::Established)),
        ],
    );
}

#[test]
fn errors_pass_only_about_known_flows() {
    let sent = out([10, 9, 9, 9], udp(150));
    let about = sent.flow_key().unwrap();
    let error = |about| packet(Origin::Uplink, [10, 9, 9, 1], GUEST, Payload::IcmpError { about });
    check_history(
        &policy(),
        &[
            (error(about), Verdict::Drop(Denial::Invalid)),
            (sent, rule(Direction::Egress, "part")),
            (error(about), Verdict::Allow(Grounds::Related)),
            (error(FlowKey { source: (GUEST.into(), 1), ..about }), Verdict::Drop(Denial::Invalid)),
        ],
    );
}

#[test]
fn flows_and_rates_are_bounded_and_time_gives_tokens_back() {
    let policy: Firewall = serde_json::from_value(json!({
        "limits": { "flows": 3, "newFlowsPerSecond": 100 },
        "egress": [{ "name": "a", "proto": "udp", "ports": [53], "to": ["0.0.0.0/0"], "rate": { "newPerSecond": 1, "burst": 2 } },
                   { "name": "b", "proto": "udp", "ports": [53], "to": ["9.0.0.0/8"] }],
    }))
    .unwrap();
    let mut history = History::default();
    let mut step = |address, port, seconds, want: Verdict| {
        history.advance_to(std::time::Duration::from_secs(seconds));
        let packet = out(address, Payload::Udp { source_port: port, destination_port: 53 });
        assert_eq!(
            decide(&policy, &Environment::default(), &mut history, &packet),
            want,
            "{address:?} {port} {seconds}"
        );
    };
    let (a, b) = (rule(Direction::Egress, "a"), rule(Direction::Egress, "b"));
    step([8; 4], 1, 0, a.clone());
    step([8; 4], 2, 0, a.clone());
    step([8; 4], 3, 0, Verdict::Drop(Denial::RuleRate));
    step([9; 4], 4, 0, b);
    step([9; 4], 5, 0, Verdict::Drop(Denial::Flows));
    step([8; 4], 1, 1, a);
}

#[test]
fn an_auditing_host_lets_pass_what_rules_deny_but_not_what_is_forbidden() {
    let environment = Environment { mode: Mode::Audit, ..Environment::default() };
    let decide = |packet| decide(&Firewall::default(), &environment, &mut History::default(), &packet);
    let audited = |denial| Verdict::Allow(Grounds::Audit(denial));
    assert_eq!(decide(out([8; 4], syn(1))), audited(Denial::NoEgressRule));
    assert_eq!(decide(packet(Origin::Namespace, GATEWAY, GUEST, syn(1))), audited(Denial::NoIngressRule));
    assert_eq!(decide(out(GATEWAY, syn(1))), Verdict::Drop(Denial::HostService));
    assert_eq!(decide(out([169, 254, 169, 254], syn(1))), Verdict::Drop(Denial::LinkLocal));
}
