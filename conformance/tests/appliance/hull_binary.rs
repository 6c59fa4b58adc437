//! What the `hull` binary packs, judged and held against the disks that it was made of.
//!
//! Skipped where `hull` has not been built: building it is not this test's business.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use conformance::{Outcome, RawDisk, Report, Rule, appliance};

use crate::others_software::{installed, outcome, skopeo_copy};

/// A folder with two disks, packed by `hull` into its own store.
struct Packed {
    hull: PathBuf,
    folder: tempfile::TempDir,
}

impl Packed {
    /// Makes the disks and `hull.toml`; `None`, with the reason printed, where something is missing.
    fn new() -> Option<Self> {
        let own = std::env::current_exe().unwrap();
        let Some(hull) =
            own.ancestors().skip(1).take(3).map(|dir| dir.join("hull")).find(|hull| hull.is_file())
        else {
            eprintln!("skipped: no `hull` beside this test; `cargo build --bin hull` makes it");
            return None;
        };
        if Command::new("mke2fs").arg("-V").output().is_err() {
            eprintln!("skipped: no `mke2fs` here");
            return None;
        }
        let packed = Self { hull, folder: tempfile::tempdir().unwrap() };
        let source = packed.path("source");
        fs::create_dir_all(source.join("files")).unwrap();
        fs::write(source.join("hull.toml"), HULL_TOML).unwrap();
        fs::write(source.join("data.raw"), scattered_disk()).unwrap();
        fs::write(source.join("files/one"), noise(1, 700_000)).unwrap();
        fs::write(source.join("files/two"), "a line of text\n".repeat(20_000)).unwrap();
        let root = source.join("root.raw");
        fs::File::create(&root).unwrap().set_len(24 << 20).unwrap();
        let made = Command::new("mke2fs")
            .args(["-q", "-t", "ext4", "-d"])
            .arg(source.join("files"))
            .arg(&root)
            .output();
        assert!(made.unwrap().status.success());
        Some(packed)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn pack(&self, tag: &str, archive: &str) -> PathBuf {
        let archive = self.path(archive);
        let output = Command::new(&self.hull)
            .arg("pack")
            .arg(self.path("source"))
            .args(["-t", tag, "-o"])
            .arg(&archive)
            .env("HULL_HOME", self.path("home"))
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        archive
    }

    /// Judges `archive` together with both disks.
    fn check(&self, archive: &Path) -> Report {
        let disk = |name: &str| RawDisk { name: name.into(), path: self.path(&format!("source/{name}.raw")) };
        appliance::check(archive, &[disk("root"), disk("data")]).unwrap()
    }
}

const HULL_TOML: &str = r#"
[appliance]
name = "x"
version = "1"
[machine]
memory = "128MiB"
[[disk]]
name = "root"
source = "root.raw"
[[disk]]
name = "data"
source = "data.raw"
[[nic]]
name = "eth0"
[firewall]
[[firewall.egress]]
name = "web"
proto = "tcp"
ports = [443]
to = ["0.0.0.0/0"]
"#;

/// Noise, repeated noise, text and zeros; more than a page long, and not a whole number of blocks.
fn scattered_disk() -> Vec<u8> {
    let mut disk = vec![0; (258 << 20) + 2 * 4096 + 512];
    disk[..900_000].copy_from_slice(&noise(2, 900_000));
    disk[5 << 20..][..900_000].copy_from_slice(&noise(2, 900_000)); // the same again
    disk[255 << 20..][..3 << 20].copy_from_slice(&noise(3, 3 << 20)); // over the end of the first page
    let tail = disk.len() - 5000;
    disk[tail..].fill(b'x');
    disk
}

/// Bytes that do not compress: xorshift from `seed`.
fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    (0..length.div_ceil(8)).flat_map(|_| next()).take(length).collect()
}

/// Every rule passed but those that only a container disk or an import meets.
#[track_caller]
fn assert_whole(report: &Report, also_skipped: &[Rule]) {
    for row in report.rows() {
        let skipped =
            [Rule::ContainerDisk, Rule::OvfLayer].contains(&row.rule) || also_skipped.contains(&row.rule);
        let want = if skipped { Outcome::Skip } else { Outcome::Pass };
        assert_eq!(row.outcome, want, "{}\n{}", row.rule.name(), report.to_table());
    }
}

#[test]
fn what_hull_packs_passes_and_is_its_disks() {
    let Some(packed) = Packed::new() else { return };
    let first = packed.pack("x:1", "first.tar");
    assert_whole(&packed.check(&first), &[]);

    // A second version refers to the first one's pack.
    let change = noise(4, 300_000);
    let data = packed.path("source/data.raw");
    let mut disk = fs::OpenOptions::new().write(true).open(&data).unwrap();
    disk.write_all(&change).unwrap();
    let second = packed.pack("x:2", "second.tar");
    let report = packed.check(&second);
    assert_whole(&report, &[]);
    let packs = report.rows().into_iter().find(|row| row.rule == Rule::PackSize).unwrap().checked;
    assert_eq!(packs, 2, "the first version's pack and a new one");

    // The first version is no longer the disk.
    let report = packed.check(&first);
    assert_eq!(outcome(&report, Rule::RawContent), Outcome::Fail);
    assert_eq!(report.rows().iter().filter(|row| row.outcome == Outcome::Fail).count(), 1);

    // Nor is the second one, where it has zeros.
    let mut bytes = fs::read(&data).unwrap();
    bytes[100 << 20] = 1;
    fs::write(&data, &bytes).unwrap();
    assert_eq!(outcome(&packed.check(&second), Rule::RawContent), Outcome::Fail);
    bytes.truncate(bytes.len() - 512);
    fs::write(&data, &bytes).unwrap();
    assert_eq!(outcome(&packed.check(&second), Rule::RawSize), Outcome::Fail);
    fs::remove_file(&data).unwrap();
    assert_eq!(outcome(&packed.check(&second), Rule::RawSize), Outcome::Fail);
}

#[test]
fn what_hull_packs_passes_after_skopeo_copied_it() {
    let Some(packed) = Packed::new().filter(|_| installed("skopeo")) else { return };
    let (first, copy) = (packed.pack("x:1", "first.tar"), packed.path("copy.tar"));
    skopeo_copy(&format!("oci-archive:{}", first.display()), &format!("oci-archive:{}", copy.display()));
    assert_whole(&packed.check(&copy), &[Rule::IndexArtifactType]);
}

#[test]
fn packs_are_what_the_zstd_program_reads() {
    let Some(packed) = Packed::new().filter(|_| installed("zstd")) else { return };
    let archive = packed.pack("x:1", "first.tar");
    let mut packs = 0;
    for entry in tar::Archive::new(fs::File::open(archive).unwrap()).entries().unwrap() {
        let blob = packed.path("blob");
        let mut entry = entry.unwrap();
        entry.unpack(&blob).unwrap();
        if fs::read(&blob).unwrap().starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
            let output = Command::new("zstd").args(["-d", "-c"]).arg(&blob).output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            assert!(!output.stdout.is_empty() && output.stdout.len().is_multiple_of(4096));
            packs += 1;
        }
    }
    assert!(packs > 0);
}
