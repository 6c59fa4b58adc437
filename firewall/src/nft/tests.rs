//! The text for whole policies, and what the reader makes of nft's answers.

use appliance::policy::Firewall;
use serde_json::json;

use super::*;
use crate::{Denial, Direction, Environment, FlowLog, Resolver, compile};

fn interfaces() -> Interfaces {
    Interfaces {
        tap: "vm0".parse().unwrap(),
        uplink: "up0".parse().unwrap(),
        guest_mac: "52:54:00:12:34:56".parse().unwrap(),
    }
}

fn text_of(policy: serde_json::Value, environment: &Environment) -> String {
    let policy: Firewall = serde_json::from_value(policy).unwrap();
    ruleset(&compile(&policy, environment).unwrap(), &interfaces())
}

#[test]
fn deny_all_has_no_rule_and_no_way_through() {
    insta::assert_snapshot!(deny_all(), @r#"
    add table inet hull
    delete table inet hull
    table inet hull {
      chain to_host {
        type filter hook input priority 0; policy drop;
        ct state invalid drop
      }
      chain via_forward {
        type filter hook forward priority 0; policy drop;
      }
      chain to_guest {
        type filter hook output priority 0; policy drop;
      }
    }
    "#);
}

#[test]
fn a_policy_without_rules_opens_nothing() {
    insta::assert_snapshot!(text_of(json!({}), &Environment::default()), @r#"
    add table inet hull
    delete table inet hull
    table inet hull {
      counter drop_flows { }
      counter drop_fragment { }
      counter drop_host_service { }
      counter drop_invalid { }
      counter drop_ipv6 { }
      counter drop_link_local { }
      counter drop_multicast { }
      counter drop_new_flows { }
      counter drop_no_egress_rule { }
      counter drop_no_ingress_rule { }
      counter drop_own_subnet { }
      counter drop_protocol { }
      counter drop_spoofed { }
      counter drop_unsolicited { }
      chain pre_fragment {
        type filter hook prerouting priority -450; policy accept;
        ip frag-off & 0x3fff != 0 counter name "drop_fragment" drop
        exthdr frag exists counter name "drop_fragment" drop
      }
      chain pre_source {
        type filter hook prerouting priority -310; policy accept;
        iifname != "vm0" return
        udp sport 68 udp dport 67 ip saddr { 0.0.0.0, 10.0.2.15 } ip daddr { 10.0.2.2, 255.255.255.255 } accept
        ip saddr != 10.0.2.15 counter name "drop_spoofed" drop
        ip daddr { 169.254.0.0-169.254.255.255 } counter name "drop_link_local" drop
        ip daddr { 10.0.2.255, 224.0.0.0-239.255.255.255, 255.255.255.255 } counter name "drop_multicast" drop
        ip daddr { 10.0.2.0-10.0.2.1, 10.0.2.4-10.0.2.254 } counter name "drop_own_subnet" drop
        ip daddr { 0.0.0.0-0.255.255.255, 127.0.0.0-127.255.255.255 } counter name "drop_host_service" drop
        meta l4proto != { icmp, tcp, udp } counter name "drop_protocol" drop
      }
      chain track {
        ct state established accept
        ct state related goto track_related
        ct state != new counter name "drop_invalid" drop
        tcp flags & (fin | syn | rst | ack) != syn counter name "drop_invalid" drop
      }
      chain track_related {
        icmp type { destination-unreachable, time-exceeded, parameter-problem } accept
        counter name "drop_invalid" drop
      }
      chain open_flow {
        ct count over 16384 counter name "drop_flows" drop
        limit rate over 500/second burst 500 packets counter name "drop_new_flows" drop
        accept
      }
      chain to_host {
        type filter hook input priority 0; policy drop;
        iifname "lo" accept
        iifname "vm0" udp sport 68 udp dport 67 ip saddr { 0.0.0.0, 10.0.2.15 } ip daddr { 10.0.2.2, 255.255.255.255 } accept
        jump track
        iifname != "vm0" counter name "drop_unsolicited" drop
        counter name "drop_host_service" drop
      }
      chain via_forward {
        type filter hook forward priority 0; policy drop;
        jump track
        iifname != "vm0" counter name "drop_unsolicited" drop
        oifname != "up0" counter name "drop_own_subnet" drop
        counter name "drop_no_egress_rule" drop
      }
      chain to_guest {
        type filter hook output priority 0; policy drop;
        oifname != "vm0" accept
        meta nfproto ipv6 counter name "drop_ipv6" drop
        udp sport 67 udp dport 68 ip saddr 10.0.2.2 ip daddr { 10.0.2.15, 255.255.255.255 } accept
        jump track
        meta l4proto != { icmp, tcp, udp } counter name "drop_protocol" drop
        counter name "drop_no_ingress_rule" drop
      }
      chain source_nat {
        type nat hook postrouting priority 100; policy accept;
        oifname "up0" ip saddr 10.0.2.15 masquerade
      }
    }
    add table netdev hull
    delete table netdev hull
    table netdev hull {
      counter drop_arp { }
      counter drop_ether_type { }
      counter drop_ipv6 { }
      counter drop_spoofed { }
      chain pin_arp {
        arp operation { request, reply } arp saddr ether 52:54:00:12:34:56 arp saddr ip { 0.0.0.0, 10.0.2.15 } accept
        counter name "drop_arp" drop
      }
      chain inlet_pin {
        type filter hook ingress device "vm0" priority -500; policy drop;
        ether saddr != 52:54:00:12:34:56 counter name "drop_spoofed" drop
        ether type ip accept
        ether type arp goto pin_arp
        ether type ip6 counter name "drop_ipv6" drop
        counter name "drop_ether_type" drop
      }
    }
    "#);
}

#[test]
fn a_web_server_is_written_out_like_this() {
    let environment = Environment {
        host_addresses: vec!["192.168.1.10".parse().unwrap(), "2001:db8::1".parse().unwrap()],
        resolver: Resolver::Forwards,
        flow_log: FlowLog::Group(1),
        health_ports: vec![80],
        ..Environment::default()
    };
    let policy = json!({
        "icmp": { "pingIn": true, "pingOut": true },
        "dns": { "mode": "open" },
        "limits": { "flows": 100, "newFlowsPerSecond": 20, "egressMbit": 200 },
        "ingress": [
            { "name": "fwd", "proto": "tcp", "ports": [80, "8000-8010", 8011], "from": ["0.0.0.0/0", "::/0"] },
            { "name": "nobody", "proto": "tcp", "ports": [22], "from": [] },
        ],
        "egress": [
            { "name": "packages", "proto": "tcp", "ports": [443], "log": "denied",
              "to": ["fqdn:packages.example.org", { "cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"] }],
              "rate": { "newPerSecond": 50, "burst": 100, "per": "source" } },
            { "name": "a-log", "proto": "udp", "ports": [514], "to": ["0.0.0.0/0", "host"], "log": "new" },
        ],
    });
    insta::assert_snapshot!(text_of(policy, &environment), @r#"
    add table inet hull
    delete table inet hull
    table inet hull {
      counter drop_bandwidth { }
      counter drop_flows { }
      counter drop_fragment { }
      counter drop_host_service { }
      counter drop_invalid { }
      counter drop_ipv6 { }
      counter drop_link_local { }
      counter drop_multicast { }
      counter drop_new_flows { }
      counter drop_no_egress_rule { }
      counter drop_no_ingress_rule { }
      counter drop_own_subnet { }
      counter drop_protocol { }
      counter drop_spoofed { }
      counter drop_unsolicited { }
      counter in_fwd { }
      counter out_a_log { }
      counter out_packages { }
      counter over_out_packages { }
      chain pre_fragment {
        type filter hook prerouting priority -450; policy accept;
        ip frag-off & 0x3fff != 0 counter name "drop_fragment" drop
        exthdr frag exists counter name "drop_fragment" drop
      }
      chain pre_source {
        type filter hook prerouting priority -310; policy accept;
        iifname != "vm0" return
        udp sport 68 udp dport 67 ip saddr { 0.0.0.0, 10.0.2.15 } ip daddr { 10.0.2.2, 255.255.255.255 } accept
        ip saddr != 10.0.2.15 counter name "drop_spoofed" drop
        ip daddr { 169.254.0.0-169.254.255.255 } counter name "drop_link_local" drop
        ip daddr { 10.0.2.255, 224.0.0.0-239.255.255.255, 255.255.255.255 } counter name "drop_multicast" drop
        ip daddr { 10.0.2.0-10.0.2.1, 10.0.2.4-10.0.2.254 } counter name "drop_own_subnet" drop
        ip daddr { 0.0.0.0-0.255.255.255, 127.0.0.0-127.255.255.255, 192.168.1.10 } counter name "drop_host_service" drop
        meta l4proto != { icmp, tcp, udp } counter name "drop_protocol" drop
        limit rate over 25000000 bytes/second burst 2500000 bytes counter name "drop_bandwidth" drop
      }
      chain track {
        ct state established accept
        ct state related goto track_related
        ct state != new counter name "drop_invalid" drop
        tcp flags & (fin | syn | rst | ack) != syn counter name "drop_invalid" drop
      }
      chain track_related {
        icmp type { destination-unreachable, time-exceeded, parameter-problem } accept
        counter name "drop_invalid" drop
      }
      chain open_flow {
        ct count over 100 counter name "drop_flows" drop
        limit rate over 20/second burst 20 packets counter name "drop_new_flows" drop
        accept
      }
      chain rule_out_a_log {
        limit rate 5/second burst 10 packets log prefix "hull egress a-log new" group 1
        counter name "out_a_log" goto open_flow
      }
      chain over_out_packages {
        limit rate 5/second burst 10 packets log prefix "hull egress packages denied" group 1
      }
      chain rule_out_packages {
        limit rate over 50/second burst 100 packets counter name "over_out_packages" goto over_out_packages
        counter name "out_packages" goto open_flow
      }
      chain to_host {
        type filter hook input priority 0; policy drop;
        iifname "lo" accept
        iifname "vm0" udp sport 68 udp dport 67 ip saddr { 0.0.0.0, 10.0.2.15 } ip daddr { 10.0.2.2, 255.255.255.255 } accept
        jump track
        iifname != "vm0" counter name "drop_unsolicited" drop
        ip daddr 10.0.2.3 udp dport 53 goto open_flow
        ip daddr 10.0.2.3 tcp dport 53 goto open_flow
        ip daddr 10.0.2.2 icmp type echo-request goto open_flow
        ip daddr 10.0.2.2 udp dport { 514 } jump rule_out_a_log
        counter name "drop_host_service" drop
      }
      chain via_forward {
        type filter hook forward priority 0; policy drop;
        jump track
        iifname != "vm0" counter name "drop_unsolicited" drop
        oifname != "up0" counter name "drop_own_subnet" drop
        icmp type echo-request goto open_flow
        meta nfproto ipv4 udp dport { 514 } jump rule_out_a_log
        ip daddr { 10.0.0.0-10.0.255.255, 10.2.0.0-10.255.255.255 } tcp dport { 443 } jump rule_out_packages
        counter name "drop_no_egress_rule" drop
      }
      chain to_guest {
        type filter hook output priority 0; policy drop;
        oifname != "vm0" accept
        meta nfproto ipv6 counter name "drop_ipv6" drop
        udp sport 67 udp dport 68 ip saddr 10.0.2.2 ip daddr { 10.0.2.15, 255.255.255.255 } accept
        jump track
        meta l4proto != { icmp, tcp, udp } counter name "drop_protocol" drop
        ip saddr 10.0.2.2 ip daddr 10.0.2.15 icmp type echo-request goto open_flow
        ip saddr 10.0.2.2 ip daddr 10.0.2.15 tcp dport { 80, 8000-8011 } counter name "in_fwd" goto open_flow
        ip saddr 10.0.2.2 ip daddr 10.0.2.15 tcp dport { 80 } goto open_flow
        counter name "drop_no_ingress_rule" drop
      }
      chain source_nat {
        type nat hook postrouting priority 100; policy accept;
        oifname "up0" ip saddr 10.0.2.15 masquerade
      }
    }
    add table netdev hull
    delete table netdev hull
    table netdev hull {
      counter drop_arp { }
      counter drop_ether_type { }
      counter drop_ipv6 { }
      counter drop_spoofed { }
      chain pin_arp {
        arp operation { request, reply } arp saddr ether 52:54:00:12:34:56 arp saddr ip { 0.0.0.0, 10.0.2.15 } accept
        counter name "drop_arp" drop
      }
      chain inlet_pin {
        type filter hook ingress device "vm0" priority -500; policy drop;
        ether saddr != 52:54:00:12:34:56 counter name "drop_spoofed" drop
        ether type ip accept
        ether type arp goto pin_arp
        ether type ip6 counter name "drop_ipv6" drop
        counter name "drop_ether_type" drop
      }
    }
    "#);
}

#[test]
fn counters_are_read_back_under_the_names_that_people_know() {
    let counter = |family: &str, table: &str, name: &str, packets: u64| json!({ "counter": { "family": family, "table": table, "name": name, "handle": 1, "packets": packets, "bytes": 10 } });
    let answer = json!({ "nftables": [
        { "metainfo": { "version": "1.0.6" } },
        counter("inet", "hull", "in_a_b", 1),
        counter("inet", "hull", "out_a_b", 2),
        counter("inet", "hull", "over_out_a_b", 3),
        counter("inet", "hull", "drop_spoofed", 4),
        counter("netdev", "hull", "drop_spoofed", 5),
        counter("inet", "other", "drop_spoofed", 6),
        counter("inet", "hull", "something_else", 7),
    ] });
    let counters = parse_counters(&answer.to_string()).unwrap();
    let (name, count) = ("a-b".to_owned(), |packets, bytes| Count { packets, bytes });
    assert_eq!(counters.rules[&(Direction::Ingress, name.clone())], count(1, 10));
    assert_eq!(counters.rules[&(Direction::Egress, name.clone())], count(2, 10));
    assert_eq!(counters.over_rate[&name], count(3, 10));
    assert_eq!(counters.denied[&Denial::Spoofed], count(9, 20));
    assert_eq!((counters.rules.len(), counters.over_rate.len(), counters.denied.len()), (2, 1, 1));
}

#[test]
fn an_answer_that_is_not_nfts_is_an_error() {
    for answer in ["", "{}", "[]", "{\"nftables\": 1}", "{\"nftables\": [{\"counter\": {}}]}"] {
        assert!(parse_counters(answer).is_err(), "{answer}");
    }
}
