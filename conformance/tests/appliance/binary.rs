//! The `hull-conformance` program: exit codes, the table and JSON.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

use crate::sample::Sample;

fn run(arguments: &[&str], archive: &Path) -> Output {
    let program = env!("CARGO_BIN_EXE_hull-conformance");
    Command::new(program).arg("appliance").arg(archive).args(arguments).output().unwrap()
}

#[test]
fn a_sound_appliance_exits_with_0_and_has_a_row_for_every_rule() {
    let folder = tempfile::tempdir().unwrap();
    let archive = folder.path().join("a.tar");
    std::fs::write(&archive, Sample::new().to_archive()).unwrap();
    let output = run(&[], &archive);
    assert_eq!(output.status.code(), Some(0));
    let table = String::from_utf8(output.stdout).unwrap();
    assert_eq!(table.lines().count(), conformance::Rule::ALL.len() + 1);
    assert!(table.ends_with(" 0 failed, 5 skipped\n"), "{table}");
}

#[test]
fn a_damaged_appliance_exits_with_1_and_says_why_to_machines_too() {
    let folder = tempfile::tempdir().unwrap();
    let archive = folder.path().join("a.tar");
    let mut sample = Sample::new();
    sample.pages[1].push(0);
    std::fs::write(&archive, sample.to_archive()).unwrap();
    let output = run(&["--json"], &archive);
    assert_eq!(output.status.code(), Some(1));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["failed"], 1);
    let failed = report["checks"].as_array().unwrap().iter().find(|row| row["result"] == "FAIL").unwrap();
    assert_eq!(failed["check"], "page-end");
    assert_eq!(failed["section"], "disk-index, Page");
    assert_eq!(failed["reasons"][0], "disk `root`, page 1 goes on for 1 bytes after its last run");
}

#[test]
fn what_cannot_be_judged_exits_with_2() {
    let output = run(&[], Path::new("no such file"));
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).starts_with("error: `no such file` cannot be read: "));
    assert_eq!(run(&[], Path::new("/dev/null")).status.code(), Some(2));
    assert_eq!(run(&["--disk", "root"], Path::new("x")).status.code(), Some(2));
}
