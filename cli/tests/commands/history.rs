//! `history`: what a tag has named, from our registry, and from one that keeps none.

use serde_json::Value;

use crate::support::Host;
use crate::support::disks::noise;
use crate::support::registry::Registry;
use crate::support::source::{author, edit};

#[test]
fn a_tags_history_is_told_newest_first() {
    let host = Host::new();
    let registry = Registry::start(&host);
    let folder = author(&host, "a", &noise(1, 64 << 10));
    let reference = format!("{}/team/web:1", registry.address);
    let push = || {
        host.ok(&format!("pack a -t {reference}"));
        host.ok(&format!("push {reference}")).trim().to_owned()
    };
    let first = push();
    edit(&folder, "version = \"1.0\"", "version = \"1.1\"");
    let second = push();
    assert_ne!(first, second);
    let history = host.json(&format!("history --json {reference}"));
    assert_eq!(history["reference"], Value::from(reference.clone()));
    let digests: Vec<&Value> =
        history["history"].as_array().unwrap().iter().map(|entry| &entry["digest"]).collect();
    assert_eq!(digests, [&Value::from(second.clone()), &Value::from(first.clone())]);
    let table = host.ok(&format!("history {reference}"));
    let lines: Vec<&str> = table.lines().collect();
    assert!(
        lines[0].starts_with("WHEN") && lines[1].ends_with(&second) && lines[2].ends_with(&first),
        "{table}"
    );
    assert!(lines[1].contains("anonymous"), "{table}");
}

#[test]
fn what_has_no_history_is_said() {
    let host = Host::new();
    let registry = Registry::start(&host);
    host.run("history web:1").fails(2, &["names no registry", "hint: name the registry"]);
    let digest = "0".repeat(64);
    let address = &registry.address;
    host.run(&format!("history {address}/web@sha256:{digest}")).fails(2, &["only tags have a history"]);
    host.run(&format!("history {address}/web:1")).fails(4, &["has no history of", "hint:"]);
    drop(registry);
    host.run("history 127.0.0.1:1/web:1").fails(5, &["cannot reach the registry"]);
}
