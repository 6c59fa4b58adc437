//! The crates depend on one another as ARCHITECTURE.md draws it, and in no other way.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use serde_json::Value;

/// Each crate, and the crates of the workspace that it may depend on. `appliance` is everybody's.
const ARROWS: [(&str, &[&str]); 11] = [
    ("appliance", &[]),
    ("formats", &[]),
    ("blob-store", &[]),
    ("firewall", &[]),
    ("packer", &["blob-store", "formats"]),
    ("registry", &["blob-store", "firewall"]),
    ("registry-client", &["blob-store", "formats"]),
    ("vm-runner", &["blob-store", "firewall", "formats"]),
    ("cli", &["blob-store", "packer", "registry", "registry-client", "vm-runner"]),
    ("conformance", &[]),
    ("testkit", &[]),
];

/// Crates that would let a crate do what it must never do, whatever it calls them for.
const NEVER: [(&str, &[&str]); 5] = [
    ("appliance", &["tokio", "rustix", "reqwest"]),
    ("firewall", &["tokio", "rustix", "reqwest"]),
    ("formats", &["tokio", "reqwest", "hyper", "axum"]),
    ("vm-runner", &["reqwest", "hyper", "axum", "tokio"]),
    ("packer", &["reqwest", "hyper", "axum", "tokio"]),
];

/// The normal dependencies of each crate of the workspace.
fn dependencies() -> BTreeMap<String, BTreeSet<String>> {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("../Cargo.toml");
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline", "--manifest-path"])
        .arg(manifest)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let normal = |dependency: &&Value| dependency["kind"].is_null();
    let name = |value: &Value| value["name"].as_str().unwrap().to_owned();
    let packages = metadata["packages"].as_array().unwrap().iter();
    packages
        .map(|package| {
            let dependencies = package["dependencies"].as_array().unwrap();
            (name(package), dependencies.iter().filter(normal).map(name).collect())
        })
        .collect()
}

#[test]
fn crates_depend_on_each_other_as_drawn() {
    let found = dependencies();
    let drawn: BTreeSet<&str> = ARROWS.iter().map(|(name, _)| *name).collect();
    assert_eq!(found.keys().map(String::as_str).collect::<BTreeSet<_>>(), drawn);
    for (name, allowed) in ARROWS {
        for other in found[name].iter().filter(|other| drawn.contains(other.as_str())) {
            assert!(
                other == "appliance" || allowed.contains(&other.as_str()),
                "`{name}` depends on `{other}`, which the picture does not have"
            );
        }
    }
}

#[test]
fn crates_cannot_do_what_they_must_never_do() {
    let found = dependencies();
    for (name, never) in NEVER {
        let wrong: Vec<_> = found[name].iter().filter(|other| never.contains(&other.as_str())).collect();
        assert!(wrong.is_empty(), "`{name}` depends on {wrong:?}");
    }
    for (name, all) in &found {
        assert!(name == "cli" || !all.contains("anyhow"), "only cli may use anyhow, and `{name}` does");
    }
}

#[test]
fn folders_are_called_as_their_crates() {
    for (name, _) in ARROWS {
        let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(name).join("Cargo.toml");
        assert!(manifest.is_file(), "no {}", manifest.display());
    }
}
