//! Registries that cannot be reached, vanish, lie, or have something else.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, Mutex};

use appliance::Digest;
use serde_json::{Value, json};

use crate::support::cable::Cable;
use crate::support::disks::{boot, noise, patch};
use crate::support::registry::Registry;
use crate::support::small_disk::SmallDisk;
use crate::support::source::author;
use crate::support::{Done, Host, installed, is_root};

/// A registry with the appliance `web:1`, whose disk holds `data_bytes`.
fn registry_with_appliance(author_host: &Host, data_bytes: usize) -> (Registry, String) {
    let registry = Registry::start(author_host);
    let reference = format!("{}/web:1", registry.address);
    author(author_host, "a", &noise(1, data_bytes));
    author_host.ok(&format!("pack a -t {reference}"));
    author_host.ok(&format!("push {reference}"));
    (registry, reference)
}

/// Where the registry of `host` keeps a blob.
fn stored(host: &Host, digest: &str) -> PathBuf {
    let hex = digest.strip_prefix("sha256:").unwrap();
    let generations = host.folder().join("registry/blobs/sha256").join(&hex[..2]).join(hex);
    let mut generations = fs::read_dir(generations).unwrap();
    generations.next().expect("the registry has one").unwrap().path()
}

fn pack_of(host: &Host, reference: &str) -> Value {
    host.json(&format!("inspect --json {reference}"))["platforms"][0]["packs"][0].take()
}

#[test]
fn a_registry_that_cannot_be_reached_is_named() {
    let host = Host::new();
    author(&host, "a", &boot());
    let nobody = "127.0.0.1:1"; // no port that anybody is given
    let reference = format!("{nobody}/web:1");
    host.ok(&format!("pack a -t {reference}"));
    let words = ["cannot reach the registry", nobody, "refused"];
    host.run(&format!("push {reference}")).fails(5, &words);
    let other = Host::new();
    other.run(&format!("pull {reference}")).fails(5, &words);
    other.run(&format!("run -d {reference}")).fails(5, &words);
    let mut login = other.hull(["login", "-u", "alice", "--password-stdin", nobody]);
    fs::write(other.folder().join("password"), "secret").unwrap();
    login.stdin(fs::File::open(other.folder().join("password")).unwrap());
    Done::of(&mut login).fails(5, &words);
    assert!(other.references().is_empty());
}

#[test]
fn what_a_registry_does_not_have_is_not_found() {
    let host = Host::new();
    let (registry, _) = registry_with_appliance(&host, 4096);
    let address = &registry.address;
    let other = Host::new();
    let digest = format!("sha256:{:064}", 0);
    for name in ["web:2", "none:1", &format!("web@{digest}")] {
        other.run(&format!("pull {address}/{name}")).fails(4, &["the registry has no", "check the name"]);
    }
    other.run(&format!("run -d {address}/web:2")).fails(4, &["the registry has no"]);
    other
        .run(&format!("pull {address}/web:1 --platform linux/arm64"))
        .fails(4, &["linux/arm64", "linux/amd64"]);
    host.run(&format!("push {address}/web:2")).fails(4, &["web:2", "hull images"]);
    assert!(other.references().is_empty());
}

#[test]
fn a_container_image_is_no_appliance() {
    if !installed(&["skopeo"]) {
        return;
    }
    let host = Host::new();
    let registry = Registry::start(&host);
    let layout = host.folder().join("image");
    let blobs = layout.join("blobs/sha256");
    fs::create_dir_all(&blobs).unwrap();
    let add = |media_type: &str, content: &[u8]| {
        let digest = Digest::sha256(content);
        fs::write(blobs.join(digest.hex()), content).unwrap();
        json!({ "mediaType": media_type, "digest": digest, "size": content.len() })
    };
    let config = json!({
        "architecture": "amd64", "os": "linux",
        "rootfs": { "type": "layers", "diff_ids": [Digest::sha256(b"")] },
    });
    let manifest = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": add("application/vnd.oci.image.config.v1+json", config.to_string().as_bytes()),
        "layers": [add("application/vnd.oci.image.layer.v1.tar+gzip", b"\x1f\x8b\x08 a layer")],
    });
    let manifest = add("application/vnd.oci.image.manifest.v1+json", manifest.to_string().as_bytes());
    fs::write(layout.join("index.json"), json!({ "schemaVersion": 2, "manifests": [manifest] }).to_string())
        .unwrap();
    fs::write(layout.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    let reference = format!("{}/image:1", registry.address);
    let mut skopeo = Command::new("skopeo");
    host.clean(skopeo.current_dir(host.folder()));
    skopeo.args(["--insecure-policy", "copy", "--dest-tls-verify=false", "oci:image"]);
    Done::of(skopeo.arg(format!("docker://{reference}"))).ok();
    let other = Host::new();
    other.run(&format!("pull {reference}")).fails(1, &[&reference, "not an appliance", "hull pack"]);
    other.run(&format!("run -d {reference}")).fails(1, &[&reference, "appliance"]);
    assert!(other.references().is_empty());
}

#[test]
fn content_that_is_not_what_its_digest_promises_is_refused() {
    let host = Host::new();
    let (_registry, reference) = registry_with_appliance(&host, 1 << 20);
    let other = Host::new();
    let pack = pack_of(&host, &reference);
    let pack = stored(&host, pack["digest"].as_str().unwrap());
    let sound = fs::read(&pack).unwrap();
    patch(&pack, 1000, b"not what was promised");
    other.run(&format!("pull {reference}")).fails(1, &["promised", "sha256:", "registry"]);
    assert!(other.references().is_empty());
    assert_eq!((other.half_written().len(), other.damaged().len()), (0, 0));
    fs::write(&pack, &sound[..1000]).unwrap();
    other.run(&format!("pull {reference}")).fails(1, &["bytes"]);
    assert!(other.references().is_empty());
    // A registry that is well again is believed again.
    fs::write(&pack, sound).unwrap();
    other.ok(&format!("pull {reference}"));
    assert_eq!(other.damaged(), [""; 0].map(PathBuf::from));
}

#[test]
fn a_pull_that_was_cut_goes_on_where_it_stopped() {
    const DATA: usize = 24 << 20;
    let host = Host::new();
    let (registry, reference) = registry_with_appliance(&host, DATA);
    let cable = Cable::to(&registry.address);
    let reference = reference.replace(&registry.address, &cable.address);
    let other = Host::new();
    let registry = Arc::new(Mutex::new(Some(registry)));
    let victim = registry.clone();
    cable.cut_after(DATA as u64 / 2, move || victim.lock().unwrap().take().unwrap().kill());
    other.run(&format!("pull {reference}")).fails(5, &["registry", "try again"]);
    assert!(other.references().is_empty());
    assert_eq!((other.half_written().len(), other.damaged().len()), (0, 0));

    let registry = Registry::start(&host);
    let before = cable.lead_to(&registry.address);
    other.ok(&format!("pull {reference}"));
    let after = cable.carried();
    let overhead = 64 << 10;
    assert!(before + after < DATA as u64 + 2 * overhead, "{before} and {after} bytes for {DATA}");
    assert!(after < DATA as u64 * 3 / 4, "{after} bytes were fetched after the cut");
    assert_eq!(other.damaged(), [""; 0].map(PathBuf::from));
    let digests = |host: &Host| host.references().into_iter().map(|(_, digest)| digest).collect::<Vec<_>>();
    assert_eq!(digests(&other), digests(&host));
}

#[test]
fn a_full_disk_ends_a_pull_and_loses_nothing() {
    if !is_root() {
        return;
    }
    const DATA: usize = 12 << 20;
    let host = Host::new();
    let (_registry, reference) = registry_with_appliance(&host, DATA);
    let other = Host::new();
    let Some(disk) = SmallDisk::mount(other.home(), "6m") else { return };
    author(&other, "a", &boot());
    other.ok("pack a -t web:1");
    let before = other.references();
    other.run(&format!("pull {reference}")).fails(1, &["o space left", "HULL_HOME"]);
    assert_eq!(other.references(), before);
    assert_eq!((other.half_written().len(), other.damaged().len()), (0, 0));
    other.ok("inspect web:1");
    disk.resize("64m");
    other.ok(&format!("pull {reference}"));
    assert_eq!((other.half_written().len(), other.damaged().len()), (0, 0));
}
