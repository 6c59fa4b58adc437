//! What somebody else's software makes: copies of an appliance, and things that are no appliance.

use std::path::Path;
use std::process::Command;

use conformance::{Outcome, Report, Rule, appliance};
use serde_json::json;

use crate::sample::{File, Sample, blob_file, descriptor, image_index};

/// True if `program` can be started; otherwise says that the test is skipped.
pub(crate) fn installed(program: &str) -> bool {
    let found = Command::new(program).arg("--version").output().is_ok();
    if !found {
        eprintln!("skipped: no `{program}` here");
    }
    found
}

/// Copies an image with everything that its index lists.
pub(crate) fn skopeo_copy(from: &str, to: &str) {
    let output =
        Command::new("skopeo").args(["--insecure-policy", "copy", "--all", from, to]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

pub(crate) fn outcome(report: &Report, rule: Rule) -> Outcome {
    report.rows().into_iter().find(|row| row.rule == rule).unwrap().outcome
}

/// An ordinary container image in a layout folder; its index is named by `index.json` where `nested`.
fn container_image(folder: &Path, nested: bool) {
    let layer = descriptor_and_file("application/vnd.oci.image.layer.v1.tar", &[0; 1024]);
    let config = json!({ "architecture": "amd64", "os": "linux", "rootfs": { "type": "layers", "diff_ids": [layer.0["digest"]] } });
    let config =
        descriptor_and_file("application/vnd.oci.image.config.v1+json", config.to_string().as_bytes());
    let manifest_type = "application/vnd.oci.image.manifest.v1+json";
    let manifest =
        json!({ "schemaVersion": 2, "mediaType": manifest_type, "config": config.0, "layers": [layer.0] });
    let mut manifest = descriptor_and_file(manifest_type, manifest.to_string().as_bytes());
    manifest.0["platform"] = json!({ "architecture": "amd64", "os": "linux" });
    let mut files = vec![layer.1, config.1, manifest.1];
    let mut top = image_index(manifest.0);
    if nested {
        let (index, file) =
            descriptor_and_file("application/vnd.oci.image.index.v1+json", top.to_string().as_bytes());
        files.push(file);
        top = image_index(index);
    }
    files.push(File { name: "oci-layout".into(), bytes: br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec() });
    files.push(File { name: "index.json".into(), bytes: top.to_string().into_bytes() });
    std::fs::create_dir_all(folder.join("blobs/sha256")).unwrap();
    for file in files {
        std::fs::write(folder.join(file.name), file.bytes).unwrap();
    }
}

fn descriptor_and_file(media_type: &str, bytes: &[u8]) -> (serde_json::Value, File) {
    (descriptor(media_type, bytes), blob_file(bytes))
}

#[test]
fn a_container_image_is_a_sound_layout_without_an_appliance() {
    let folder = tempfile::tempdir().unwrap();
    let plain = folder.path().join("plain");
    container_image(&plain, false);
    let report = appliance::check(&plain, &[]).unwrap();
    assert_eq!(outcome(&report, Rule::BlobDigests), Outcome::Pass);
    assert_eq!(outcome(&report, Rule::LayoutIndex), Outcome::Fail);

    let nested = folder.path().join("nested");
    container_image(&nested, true);
    let report = appliance::check(&nested, &[]).unwrap();
    assert_eq!(outcome(&report, Rule::LayoutIndex), Outcome::Pass);
    assert_eq!(outcome(&report, Rule::IndexEntries), Outcome::Fail);
    assert_eq!(outcome(&report, Rule::ContainerDisk), Outcome::Fail, "its layer is not compressed by zstd");
}

#[test]
fn a_container_image_that_skopeo_wrote_is_no_appliance() {
    if !installed("skopeo") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (image, archive) = (folder.path().join("image"), folder.path().join("image.tar"));
    container_image(&image, false);
    skopeo_copy(&format!("oci:{}", image.display()), &format!("oci-archive:{}", archive.display()));
    let report = appliance::check(&archive, &[]).unwrap();
    assert_eq!(outcome(&report, Rule::BlobDigests), Outcome::Pass);
    assert_eq!(outcome(&report, Rule::LayoutIndex), Outcome::Fail);
}

#[test]
fn an_appliance_that_skopeo_copied_still_passes() {
    if !installed("skopeo") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let [first, second, third] = ["a.tar", "b.tar", "c"].map(|name| folder.path().join(name));
    std::fs::write(&first, Sample::new().to_archive()).unwrap();
    skopeo_copy(&format!("oci-archive:{}", first.display()), &format!("oci-archive:{}", second.display()));
    skopeo_copy(&format!("oci-archive:{}", second.display()), &format!("oci:{}:x", third.display()));
    for copy in [second, third] {
        let report = appliance::check(&copy, &[]).unwrap();
        assert!(!report.failed(), "{}", report.to_table());
        assert_eq!(outcome(&report, Rule::IndexArtifactType), Outcome::Skip, "skopeo drops it");
    }
}

#[test]
fn what_is_no_archive_gives_a_report() {
    let folder = tempfile::tempdir().unwrap();
    let report = appliance::check(folder.path(), &[]).unwrap();
    assert_eq!(outcome(&report, Rule::ArchiveFiles), Outcome::Fail);
    let path = folder.path().join("file");
    for content in [&b""[..], b"\x1f\x8b\x08\0", &[0; 4096], &[0xff; 4096], b"PK\x03\x04"] {
        std::fs::write(&path, content).unwrap();
        assert!(appliance::check(&path, &[]).unwrap().failed());
    }
}
