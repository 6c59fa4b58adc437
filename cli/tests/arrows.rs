//! The crates depend on one another as ARCHITECTURE.md draws it, and in no other way.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// Crates that would let a crate do what it must never do, whatever it calls them for.
const NEVER: [(&str, &[&str]); 8] = [
    ("appliance", &["hyper", "reqwest", "rustix", "tokio"]),
    ("blob-store", &["flate2", "hyper", "oci-spec", "serde_json", "tar", "zstd"]),
    ("firewall", &["hyper", "reqwest", "rustix", "tokio"]),
    ("formats", &["hyper", "reqwest", "tokio"]),
    ("packer", &["hyper", "reqwest", "tokio"]),
    ("registry", &["flate2", "reqwest", "tar", "zstd"]),
    ("testkit", &["hyper", "reqwest", "tokio"]),
    ("vm-runner", &["hyper", "reqwest", "tokio"]),
];

/// The crates that do not even use `appliance`: one judges it, the other is used by its tests.
const ALONE: [&str; 2] = ["conformance", "testkit"];

type Arrows = BTreeMap<String, BTreeSet<String>>;

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// What each crate of the workspace depends on: normally, and for its tests and build scripts too.
fn dependencies() -> (Arrows, Arrows) {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline", "--manifest-path"])
        .arg(workspace().join("Cargo.toml"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let name = |value: &Value| value["name"].as_str().unwrap().to_owned();
    let is_normal = |dependency: &&Value| dependency["kind"].is_null();
    let (mut normal, mut all) = (Arrows::new(), Arrows::new());
    for package in metadata["packages"].as_array().unwrap() {
        let dependencies = package["dependencies"].as_array().unwrap();
        normal.insert(name(package), dependencies.iter().filter(is_normal).map(name).collect());
        all.insert(name(package), dependencies.iter().map(name).collect());
    }
    (normal, all)
}

/// The arrows of the first drawing under "Code map": `packer -> formats, blob-store`, several on a line.
fn drawn() -> Arrows {
    let text = fs::read_to_string(workspace().join("ARCHITECTURE.md")).unwrap();
    let (_, code_map) = text.split_once("\n## Code map\n").unwrap();
    let lines = code_map.lines().skip_while(|line| !line.starts_with("    "));
    lines
        .take_while(|line| line.starts_with("    "))
        .flat_map(|line| line.split("  "))
        .filter(|part| !part.trim().is_empty())
        .map(|part| {
            let (from, to) = part.split_once(" -> ").unwrap_or_else(|| panic!("no arrow in `{part}`"));
            (from.trim().to_owned(), to.split(',').map(|name| name.trim().to_owned()).collect())
        })
        .collect()
}

#[test]
fn crates_depend_on_each_other_as_drawn() {
    let (normal, _) = dependencies();
    let is_drawn = |name: &&String| normal.contains_key(*name) && *name != "appliance";
    let found: Arrows = normal
        .iter()
        .map(|(name, others)| (name.clone(), others.iter().filter(is_drawn).cloned().collect()))
        .filter(|(_, others): &(String, BTreeSet<String>)| !others.is_empty())
        .collect();
    assert_eq!(found, drawn());
    assert!(normal["appliance"].is_disjoint(&normal.keys().cloned().collect()));
}

#[test]
fn who_judges_and_who_helps_use_no_crate_of_ours() {
    let (normal, all) = dependencies();
    let ours: BTreeSet<String> = normal.keys().cloned().collect();
    for name in ALONE {
        assert_eq!(all[name].intersection(&ours).collect::<Vec<_>>(), [""; 0], "`{name}`");
    }
}

#[test]
fn crates_cannot_do_what_they_must_never_do() {
    let (normal, _) = dependencies();
    for (name, never) in NEVER {
        let wrong: Vec<_> = normal[name].iter().filter(|other| never.contains(&other.as_str())).collect();
        assert!(wrong.is_empty(), "`{name}` depends on {wrong:?}");
    }
    for (name, others) in &normal {
        assert!(name == "cli" || !others.contains("anyhow"), "only cli may use anyhow, and `{name}` does");
    }
}

#[test]
fn every_crate_is_described_and_in_a_folder_of_its_name() {
    let text = fs::read_to_string(workspace().join("ARCHITECTURE.md")).unwrap();
    for name in dependencies().0.keys() {
        assert!(text.contains(&format!("**{name}** — ")), "ARCHITECTURE.md does not describe `{name}`");
        let manifest = workspace().join(name).join("Cargo.toml");
        assert!(manifest.is_file(), "no {}", manifest.display());
    }
}
