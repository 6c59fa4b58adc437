//! Interoperation: skopeo copies an appliance's shape into the registry and out again.

mod common;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use appliance::{Digest, media_type};
use blob_store::FolderStorage;
use common::{INDEX, MANIFEST, Registry, descriptor, noise};
use registry::Limits;
use serde_json::{Value, json};

/// An OCI image layout that is being written.
struct Layout<'a>(&'a Path);

impl Layout<'_> {
    fn add(&self, media_type: &str, content: &[u8]) -> Value {
        let folder = self.0.join("blobs/sha256");
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join(Digest::sha256(content).hex()), content).unwrap();
        descriptor(media_type, content)
    }

    fn add_json(&self, media_type: &str, document: &Value) -> Value {
        self.add(media_type, document.to_string().as_bytes())
    }
}

/// An index with a container image, and an appliance whose platform containers do not know.
fn write_appliance(folder: &Path) {
    let layout = Layout(folder);
    // What does not begin like a compressed layer would be compressed on the way.
    let gzip = [&[0x1f, 0x8b, 8][..], &noise(1, 1000)].concat();
    let image = layout.add_json(
        MANIFEST,
        &json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": layout.add_json(
                "application/vnd.oci.image.config.v1+json",
                &json!({
                    "architecture": "amd64",
                    "os": "linux",
                    "rootfs": { "type": "layers", "diff_ids": [Digest::sha256(b"the tar")] },
                }),
            ),
            "layers": [layout.add("application/vnd.oci.image.layer.v1.tar+gzip", &gzip)],
        }),
    );
    let artifact = layout.add_json(
        MANIFEST,
        &json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "artifactType": media_type::APPLIANCE,
            "config": layout.add(media_type::CONFIG, b"{\"machines\":[]}"),
            "layers": [
                layout.add(media_type::POLICY, b"{\"firewall\":{}}"),
                layout.add(media_type::DISK_INDEX, &noise(2, 70_000)),
                layout.add(media_type::DISK_PACK, &noise(3, 9 << 20)),
            ],
        }),
    );
    let mut entries = [image, artifact];
    entries[0]["platform"] = json!({ "architecture": "amd64", "os": "linux" });
    entries[1]["platform"] = json!({ "architecture": "unknown", "os": "unknown" });
    entries[1]["artifactType"] = json!(media_type::APPLIANCE);
    entries[1]["annotations"] = json!({ media_type::ANNOTATION_PLATFORM: "linux/amd64" });
    let mut index =
        layout.add_json(INDEX, &json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": entries }));
    index["annotations"] = json!({ "org.opencontainers.image.ref.name": "1.4" });
    fs::write(folder.join("index.json"), json!({ "schemaVersion": 2, "manifests": [index] }).to_string())
        .unwrap();
    fs::write(folder.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
}

fn skopeo(arguments: &[&str]) {
    let output = Command::new("skopeo").args(["--insecure-policy"]).args(arguments).output().unwrap();
    assert!(output.status.success(), "skopeo {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn blobs(folder: &Path) -> Vec<String> {
    let files = fs::read_dir(folder.join("blobs/sha256")).unwrap();
    let mut names: Vec<String> = files.map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn skopeo_copies_an_appliance_in_and_out() {
    if Command::new("skopeo").arg("--version").output().is_err() {
        eprintln!("skipped: skopeo is not installed");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    fs::create_dir(at("in")).unwrap();
    write_appliance(&at("in"));
    let registry = Registry::start(Arc::new(FolderStorage::open(at("data")).unwrap()), Limits::default());

    let there = format!("docker://{}/team/web:1.4", registry.addr);
    let mounted = format!("docker://{}/team/copy:1.4", registry.addr);
    let (from, to) = (format!("oci:{}:1.4", at("in").display()), format!("oci:{}:1.4", at("out").display()));
    skopeo(&["copy", "--all", "--dest-tls-verify=false", &from, &there]);
    skopeo(&["copy", "--all", "--src-tls-verify=false", "--dest-tls-verify=false", &there, &mounted]);
    skopeo(&["copy", "--all", "--src-tls-verify=false", &mounted, &to]);
    skopeo(&["inspect", "--raw", "--tls-verify=false", &there]);
    skopeo(&["list-tags", "--tls-verify=false", &format!("docker://{}/team/web", registry.addr)]);

    // skopeo writes the index anew; all that it leads to must be as it was.
    let (before, after) = (blobs(&at("in")), blobs(&at("out")));
    let kept = before.iter().filter(|name| after.contains(name)).count();
    assert!(kept >= before.len() - 1, "{before:?} became {after:?}");
    for name in before.iter().filter(|name| after.contains(name)) {
        let read = |folder: &str| fs::read(at(folder).join("blobs/sha256").join(name)).unwrap();
        assert!(read("in") == read("out"), "{name}");
    }
    assert!(registry.events.try_recv().is_err());
}
