//! Every target over its corpus: the files as they are, and many changes of each that are always the same ones.
//!
//! `HULL_FUZZ_CASES` makes the run longer: that many changes for each target, of another kind each.

use std::env;
use std::fs;
use std::path::Path;

use fuzz::TARGETS;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

/// Changes for each target in a default run.
const CASES: u32 = 400;

/// A change to a file; places and lengths are taken modulo what there is.
#[derive(Debug, Clone)]
enum Change {
    Bit { at: usize, bit: u8 },
    Byte { at: usize, value: u8 },
    Word { at: usize, value: u64, bytes: usize, big_endian: bool },
    Copy { from: usize, to: usize, len: usize },
    Cut { len: usize },
    Append { value: u8, len: usize },
}

fn change() -> impl Strategy<Value = Change> {
    // Fields are mostly aligned, and headers are small.
    let at = || prop_oneof![0..128_usize, 0..2048_usize, any::<usize>()].prop_map(|at| at & !1);
    let extreme = (0..64_u32, -1..=1_i64).prop_map(|(bit, more)| (1_u64 << bit).wrapping_add_signed(more));
    let value = prop_oneof![Just(0), Just(u64::MAX), extreme, any::<u64>(), 0..4096_u64];
    prop_oneof![
        2 => (any::<usize>(), 0..8_u8).prop_map(|(at, bit)| Change::Bit { at, bit }),
        1 => (at(), any::<u8>()).prop_map(|(at, value)| Change::Byte { at, value }),
        6 => (at(), value, prop_oneof![Just(2_usize), Just(4), Just(8)], any::<bool>())
            .prop_map(|(at, value, bytes, big_endian)| Change::Word { at, value, bytes, big_endian }),
        1 => (any::<usize>(), at(), 1..1024_usize).prop_map(|(from, to, len)| Change::Copy { from, to, len }),
        1 => any::<usize>().prop_map(|len| Change::Cut { len }),
        1 => (any::<u8>(), 1..1024_usize).prop_map(|(value, len)| Change::Append { value, len }),
    ]
}

fn apply(change: &Change, bytes: &mut Vec<u8>) {
    if bytes.is_empty() {
        return;
    }
    let len = bytes.len();
    match *change {
        Change::Bit { at, bit } => bytes[at % len] ^= 1 << bit,
        Change::Byte { at, value } => bytes[at % len] = value,
        Change::Word { at, value, bytes: width, big_endian } => {
            let word =
                if big_endian { (value << (64 - 8 * width)).to_be_bytes() } else { value.to_le_bytes() };
            let at = at % len;
            let width = width.min(len - at);
            bytes[at..at + width].copy_from_slice(&word[..width]);
        }
        Change::Copy { from, to, len: copied } => {
            let (from, to) = (from % len, to % len);
            let copied = copied.min(len - from).min(len - to);
            bytes.copy_within(from..from + copied, to);
        }
        Change::Cut { len: rest } => bytes.truncate(rest % len),
        Change::Append { value, len: more } => bytes.resize(len + more, value),
    }
}

/// The files of a target.
fn corpus(target: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
    let mut paths: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.into_iter().map(|path| fs::read(path).unwrap()).collect()
}

fn cases() -> u32 {
    env::var("HULL_FUZZ_CASES").map_or(CASES, |text| text.parse().expect("HULL_FUZZ_CASES is a number"))
}

#[track_caller]
fn check(target: &str) {
    let (_, function) = TARGETS.into_iter().find(|(name, _)| *name == target).unwrap();
    let files = corpus(target);
    assert!(!files.is_empty());
    // Each file as it is: the changes below may never come to one of them.
    files.iter().for_each(|bytes| function(bytes));
    let config = Config { cases: cases(), failure_persistence: None, ..Config::default() };
    let rng = proptest::test_runner::TestRng::deterministic_rng(config.rng_algorithm);
    let changes = (0..files.len(), prop::collection::vec(change(), 1..6));
    let result = TestRunner::new_with_rng(config, rng).run(&changes, |(file, changes)| {
        let mut bytes = files[file].clone();
        changes.iter().for_each(|change| apply(change, &mut bytes));
        function(&bytes);
        Ok(())
    });
    if let Err(error) = result {
        panic!("{error}");
    }
}

#[test]
fn no_target_is_without_a_corpus_nor_a_corpus_without_a_target() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
    let folders = entries.filter(|entry| entry.file_type().unwrap().is_dir());
    let mut found: Vec<_> = folders.map(|entry| entry.file_name().into_string().unwrap()).collect();
    found.sort();
    assert_eq!(found, TARGETS.map(|(name, _)| name));
}

macro_rules! each_target {
    ($($test:ident: $target:literal;)*) => {
        $(#[test] fn $test() { check($target); })*
        #[test]
        fn every_target_has_a_test() {
            assert_eq!([$($target),*], TARGETS.map(|(name, _)| name));
        }
    };
}

each_target! {
    any_disk_can_be_cut: "cut";
    any_file_can_be_looked_at: "detect";
    any_page_gets_an_answer: "index_page";
    any_root_gets_an_answer: "index_root";
    any_ova_gets_an_answer: "ova";
    any_ovf_gets_an_answer: "ovf";
    any_qcow2_gets_an_answer: "qcow2";
    any_raw_file_is_a_disk: "raw";
    any_tar_archive_gets_an_answer: "tar";
    any_vdi_gets_an_answer: "vdi";
    any_vhd_gets_an_answer: "vhd";
    any_vhdx_gets_an_answer: "vhdx";
    any_vmdk_gets_an_answer: "vmdk";
}
