//! Loading: closed before, replaced in one step, read back, and unchanged after an error.

use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use appliance::policy::Firewall;
use firewall::nft::{self, VerifyError};
use firewall::{Compiled, Environment, FlowLog, Resolver, compile};
use serde_json::json;

use crate::lab::{Lab, OUTSIDE, Place};

/// A policy compiled for the default environment.
pub(crate) fn compiled(policy: serde_json::Value) -> Compiled {
    let policy: Firewall = serde_json::from_value(policy).unwrap();
    compile(&policy, &Environment::default()).unwrap()
}

#[test]
fn nothing_passes_until_the_policy_is_loaded() {
    let Some(lab) = Lab::new() else { return };
    let listener = lab.inside(Place::Outside, || TcpListener::bind("0.0.0.0:443").unwrap());
    let address = SocketAddr::new(IpAddr::from(OUTSIDE), 443);
    let connect = |patience| lab.inside(Place::Guest, || TcpStream::connect_timeout(&address, patience));
    assert!(connect(Duration::from_millis(300)).is_err());
    lab.enforce(&compiled(
        json!({ "egress": [{ "name": "a", "proto": "tcp", "ports": [443], "to": ["0.0.0.0/0"] }] }),
    ));
    assert!(connect(Duration::from_secs(60)).is_ok());
    drop(listener);
}

#[test]
fn a_text_with_an_error_leaves_what_was_loaded() {
    let Some(lab) = Lab::new() else { return };
    let policy = compiled(json!({}));
    lab.enforce(&policy);
    let broken = nft::deny_all() + "table inet hull { chain fwd { } }\n";
    assert!(!lab.try_load(&broken).status.success());
    nft::verify(&policy, &lab.interfaces(), &lab.nft(&nft::LIST_RULESET)).unwrap();
}

/// After `change`, reading back a loaded policy says `want`.
#[track_caller]
fn check_tampering(lab: &Lab, change: &str, want: &str) {
    let policy = compiled(
        json!({ "ingress": [{ "name": "a", "proto": "tcp", "ports": [80], "from": ["10.0.0.0/8"] }] }),
    );
    lab.enforce(&policy);
    lab.load(change);
    let error: VerifyError =
        nft::verify(&policy, &lab.interfaces(), &lab.nft(&nft::LIST_RULESET)).unwrap_err();
    assert_eq!(error.to_string(), want);
}

#[test]
fn reading_back_finds_every_kind_of_change() {
    let Some(lab) = Lab::new() else { return };
    check_tampering(&lab, "delete table netdev hull", "table netdev hull is not loaded");
    check_tampering(
        &lab,
        "flush chain inet hull via_forward",
        "chain inet via_forward: found 0 rules, wanted 4 rules",
    );
    check_tampering(
        &lab,
        "add chain inet hull to_host { policy accept; }",
        "chain inet to_host: found filter input - 0 accept, wanted filter input - 0 drop",
    );
    check_tampering(
        &lab,
        "insert rule inet hull to_guest accept",
        "chain inet to_guest: found 8 rules, wanted 7 rules",
    );
    check_tampering(
        &lab,
        "flush chain inet hull track_related; add rule inet hull track_related accept; \
         add rule inet hull track_related drop",
        "chain inet track_related, rule 2: found counter -, drop, wanted counter drop_invalid, drop",
    );
    check_tampering(
        &lab,
        "add chain inet hull other_chain",
        "chain inet other_chain is loaded in the machine's network namespace and is not hull's",
    );
    check_tampering(
        &lab,
        "add table ip nat",
        "table ip nat is loaded in the machine's network namespace and is not hull's",
    );
    let cut =
        nft::verify(&compiled(json!({})), &lab.interfaces(), "{\"nftables\": [{\"chain\": 7}]}").unwrap_err();
    assert!(matches!(cut, VerifyError::Listing(_)), "{cut}");
}

#[test]
fn the_largest_values_of_a_policy_load() {
    let Some(lab) = Lab::new() else { return };
    let most = u32::MAX;
    let long = "a".repeat(63);
    let rate = json!({ "newPerSecond": most, "burst": most, "per": "source" });
    let slow = json!({ "newPerSecond": 1, "burst": most });
    let many: Vec<String> =
        (0..8192u32).map(|n| format!("{}/32", std::net::Ipv4Addr::from_bits(n * 1024))).collect();
    let policy = json!({
        "icmp": { "pingIn": true, "pingOut": true },
        "dns": { "mode": "proxy", "names": ["example.org"] },
        "limits": { "flows": most, "newFlowsPerSecond": most, "egressMbit": most },
        "ingress": [{ "name": long, "proto": "udp", "ports": ["1-65535"], "from": ["::/0"], "rate": rate, "log": "new" }],
        "egress": [
            { "name": long, "proto": "udp", "ports": ["1-65535"], "to": ["0.0.0.0/0", "host"], "rate": rate, "log": "denied" },
            { "name": "b", "proto": "tcp", "ports": [1, 3, 5, 65535], "to": many, "rate": slow, "log": "new" },
            { "name": "c", "proto": "tcp", "ports": [65535], "to": ["255.255.255.255", "0.0.0.0/1", "128.0.0.0/2"] },
        ],
    });
    let policy: Firewall = serde_json::from_value(policy).unwrap();
    let environment = Environment {
        resolver: Resolver::Filters,
        flow_log: FlowLog::Group(u16::MAX),
        health_ports: vec![1, 65_535],
        ..Environment::default()
    };
    lab.enforce(&compile(&policy, &environment).unwrap());
    assert_eq!(lab.counters().rules.len(), 4);
}
