//! The suite of hostile files, on hull. Skipped where `hull` has not been built: building it is not this test's business.

use std::time::Duration;

use conformance::hostile;

/// A build without optimisation, beside other tests, may take more than the bounds of the table.
const GENEROUS_CPU: Duration = Duration::from_secs(10);
const GENEROUS_BYTES: u64 = 128 << 20;

#[test]
fn every_hostile_file_is_answered_rightly() {
    let own = std::env::current_exe().unwrap();
    let mut beside = own.ancestors().skip(1).take(3).map(|folder| folder.join("hull"));
    let Some(hull) = beside.find(|hull| hull.is_file()) else {
        eprintln!("skipped: no `hull` beside this test; `cargo build --bin hull` makes it");
        return;
    };
    let scratch = tempfile::tempdir().unwrap();
    let answers = hostile::run(&hull, scratch.path(), &mut |_| ()).unwrap();
    assert!(answers.len() >= 60);
    for answer in &answers {
        assert_eq!(answer.wrong, [""; 0], "{}: {}", answer.name, answer.said);
        assert!(answer.cpu < GENEROUS_CPU, "{}: {:?}", answer.name, answer.cpu);
        assert!(answer.peak_bytes < GENEROUS_BYTES, "{}: {} bytes", answer.name, answer.peak_bytes);
    }
}
