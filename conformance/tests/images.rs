//! The suite for disk images: hull's programs, and somebody else's, which prove the suite.
//!
//! Skipped where QEMU's programs are missing, or `hull` has not been built: building it is not this test's business.

#![expect(clippy::print_stderr, reason = "a test that cannot run here says why it is skipped")]

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::process::Command;
use std::thread::available_parallelism;

use conformance::images::{Case, Kind, Options, Subject, Summary, run};

/// Runs `count` images; what differs is in the test's output, with its recipe.
fn images(subject: Subject, count: u64) -> Summary {
    let scratch = tempfile::tempdir().unwrap();
    let options = Options {
        subject,
        numbers: 0..count,
        seed: 20_231_122,
        only: Vec::new(),
        jobs: available_parallelism().unwrap_or(NonZeroUsize::MIN),
        scratch: scratch.path().to_owned(),
    };
    run(&options, &print).unwrap()
}

fn print(case: &Case) {
    if !case.differences.is_empty() {
        eprintln!("image {}, {}: {:#?}\n{}\n", case.number, case.kind.name(), case.differences, case.recipe);
    }
}

/// The program that `cargo build --bin hull` made beside this test.
fn hull() -> Option<PathBuf> {
    let own = std::env::current_exe().unwrap();
    let found = own.ancestors().skip(1).take(3).map(|folder| folder.join("hull")).find(|hull| hull.is_file());
    if found.is_none() {
        eprintln!("skipped: no `hull` beside this test; `cargo build --bin hull` makes it");
    }
    found
}

fn has_qemu() -> bool {
    let missing = |tool: &&&str| Command::new(tool).arg("--version").output().is_err();
    match ["qemu-img", "qemu-io", "qemu-nbd"].iter().find(missing) {
        Some(tool) => {
            eprintln!("skipped: no `{tool}` here");
            false
        }
        None => true,
    }
}

#[test]
fn hull_reads_and_writes_disk_images_as_qemu_does() {
    let Some(hull) = hull().filter(|_| has_qemu()) else { return };
    let summary = images(Subject::Hull(hull), 300);
    assert_eq!((summary.total().images, summary.total().differences), (300, 0), "{}", summary.to_table());
}

#[test]
fn somebody_elses_reader_and_writer_pass() {
    if !has_qemu() {
        return;
    }
    let total = images(Subject::Qemu, 40).total();
    assert_eq!((total.images, total.differences), (40, 0));
    assert!(total.comparisons > 40 * 100);
}

#[test]
fn a_program_that_serves_nothing_is_a_difference_of_each_image() {
    if !has_qemu() {
        return;
    }
    let total = images(Subject::Hull("/bin/false".into()), 5).total();
    assert_eq!((total.images, total.differences), (5, 10), "neither read nor written");
}

#[test]
fn every_kind_has_a_name_of_its_own() {
    let names: std::collections::BTreeSet<_> = Kind::ALL.iter().map(|kind| kind.name()).collect();
    assert_eq!(names.len(), Kind::ALL.len());
}
