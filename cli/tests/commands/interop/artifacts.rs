//! What curl alone does to a registry: uploads of every kind, ranges, artifacts and what refers to them,
//! sha512.

use std::fs;

use appliance::{Digest, media_type};
use serde_json::{Value, json};

use super::Served;
use super::machine::Machine;
use crate::support::disks::noise;

const EMPTY: &str = "application/vnd.oci.empty.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// curl, in one repository.
#[derive(Debug)]
struct Curl<'a> {
    machine: &'a Machine,
    repository: String,
}

impl Curl<'_> {
    fn to<'a>(machine: &'a Machine, served: &Served, repository: &str) -> Curl<'a> {
        Curl { machine, repository: format!("http://{}/v2/{repository}", served.address()) }
    }

    /// Uploads `content` with `options`, and returns its descriptor. `digest` is of `content`.
    #[track_caller]
    fn upload(&self, options: &str, media_type: &str, digest: &str, content: &[u8]) -> Value {
        fs::write(self.machine.folder().join("blob"), content).unwrap();
        let opened = format!("curl -sSf -X POST -w %header{{location}} {}/blobs/uploads/", self.repository);
        let place = self.machine.ok(&opened);
        // A path, as ours answers, or a whole URL.
        let host = self.repository.split_once("/v2/").unwrap().0;
        let place = if place.starts_with('/') { format!("{host}{place}") } else { place };
        let as_bytes = "-H content-type:application/octet-stream";
        self.machine.ok(&format!("curl -sSf {as_bytes} {options} -T blob {place}?digest={digest}"));
        json!({ "mediaType": media_type, "digest": digest, "size": content.len() })
    }

    /// Uploads `content` as any client does.
    #[track_caller]
    fn blob(&self, media_type: &str, content: &[u8]) -> Value {
        self.upload("", media_type, &Digest::sha256(content).to_string(), content)
    }

    /// Puts a manifest, by its digest where no tag is given; returns its descriptor, and the answer's
    /// `OCI-Subject`.
    #[track_caller]
    fn manifest(&self, tag: Option<&str>, manifest: &Value) -> (Value, String) {
        let bytes = manifest.to_string();
        fs::write(self.machine.folder().join("manifest"), &bytes).unwrap();
        let digest = Digest::sha256(bytes.as_bytes()).to_string();
        let name = tag.unwrap_or(&digest);
        let as_manifest = format!("-H content-type:{}", media_type::MANIFEST);
        let put = format!("curl -sSf {as_manifest} -w %header{{oci-subject}} -T manifest");
        let subject = self.machine.ok(&format!("{put} {}/manifests/{name}", self.repository));
        (json!({ "mediaType": media_type::MANIFEST, "digest": digest, "size": bytes.len() }), subject)
    }

    /// The digests that `referrers` lists.
    #[track_caller]
    fn referrers(&self, subject: &Value, query: &str) -> Vec<String> {
        let digest = subject["digest"].as_str().unwrap();
        let index = self.machine.json(&format!("curl -sSf {}/referrers/{digest}{query}", self.repository));
        assert_eq!(index["mediaType"], media_type::INDEX);
        let manifests = index["manifests"].as_array().unwrap().iter();
        manifests.map(|manifest| manifest["digest"].as_str().unwrap().to_owned()).collect()
    }
}

/// An artifact of one blob.
fn artifact(kind: &str, empty: &Value, blob: &Value, subject: Option<&Value>) -> Value {
    let mut manifest = json!({
        "schemaVersion": 2, "mediaType": media_type::MANIFEST,
        "artifactType": kind, "config": empty, "layers": [blob],
    });
    if let Some(subject) = subject {
        manifest["subject"] = subject.clone();
    }
    manifest
}

#[test]
fn curl_pushes_artifacts_and_finds_what_refers_to_them() {
    let Some(machine) = Machine::with(&["curl", "skopeo"]) else { return };
    let served = Served::start();
    let address = served.address();
    machine.allow_plain_http(address);
    let curl = Curl::to(&machine, &served, "team/app");
    let (empty, blob) = (curl.blob(EMPTY, b"{}"), curl.blob("text/plain", b"what is signed"));
    let (subject, _) = curl.manifest(Some("1"), &artifact("text/plain", &empty, &blob, None));
    assert!(curl.referrers(&subject, "").is_empty());

    let refer = |kind: &str, text: &[u8]| {
        let blob = curl.blob(kind, text);
        let (referrer, answered) = curl.manifest(None, &artifact(kind, &empty, &blob, Some(&subject)));
        assert_eq!(answered, subject["digest"].as_str().unwrap());
        referrer["digest"].as_str().unwrap().to_owned()
    };
    let signature = refer("application/vnd.example.signature", b"a signature");
    let bill = refer("application/vnd.example.sbom", b"all that is in it");
    let mut all = [signature.clone(), bill.clone()];
    let mut found = curl.referrers(&subject, "");
    all.sort();
    found.sort();
    assert_eq!(found, all);
    let filter = "?artifactType=application/vnd.example.sbom";
    assert_eq!(curl.referrers(&subject, filter), [bill]);

    // skopeo takes a referrer along as what it is, and it refers there too.
    let to = format!("docker://{address}/copy/app@{signature}");
    machine.ok(&format!("skopeo copy -q --preserve-digests docker://{address}/team/app@{signature} {to}"));
    assert_eq!(Curl::to(&machine, &served, "copy/app").referrers(&subject, ""), [signature]);
}

#[test]
fn curl_uploads_in_its_several_ways_and_takes_up_a_download_where_it_ended() {
    let Some(machine) = Machine::with(&["curl"]) else { return };
    let served = Served::start();
    let curl = Curl::to(&machine, &served, "team/app");
    // More than a MiB, for which curl waits to be told to go on.
    let content = &noise(1, 2 << 20)[..2 << 20];
    let ways = ["", "-H transfer-encoding:chunked", "--http1.0", "-H expect:", "--limit-rate 40M"];
    let mut blobs = Vec::new();
    for (index, way) in ways.into_iter().enumerate() {
        let content = &content[..content.len() - index];
        let blob = curl.upload(way, LAYER, &Digest::sha256(content).to_string(), content);
        blobs.push((format!("{}/blobs/{}", curl.repository, blob["digest"].as_str().unwrap()), content));
    }
    for (url, content) in &blobs {
        let part = machine.folder().join("part");
        fs::write(&part, &content[..1 << 20]).unwrap();
        let (_, carried) = served.carried_by(|| machine.ok(&format!("curl -sSf -C - -o part {url}")));
        assert!(fs::read(&part).unwrap() == *content, "{url}");
        assert!(carried < 3 << 19, "{carried} bytes came for the second half");
    }
    let (url, content) = &blobs[0];
    for (range, want) in [("100-199", 100..200), ("-7", content.len() - 7..content.len())] {
        machine.ok(&format!("curl -sSf -r {range} -o part {url}"));
        assert!(fs::read(machine.folder().join("part")).unwrap() == content[want], "{range}");
    }
}

#[test]
fn podman_pulls_layers_whose_digests_are_sha512() {
    let Some(machine) = Machine::with(&["curl", "podman"]) else { return };
    let served = Served::start();
    machine.allow_plain_http(served.address());
    fs::create_dir(machine.folder().join("layer")).unwrap();
    fs::write(machine.folder().join("layer/file"), "behind a long digest").unwrap();
    machine.ok("tar -C layer -cf layer.tar file");
    let tar = fs::read(machine.folder().join("layer.tar")).unwrap();

    let curl = Curl::to(&machine, &served, "team/long");
    let sum = machine.ok("sha512sum layer.tar");
    let layer = curl.upload("", LAYER, &format!("sha512:{}", sum.split(' ').next().unwrap()), &tar);
    let config = json!({
        "architecture": "amd64", "os": "linux",
        "rootfs": { "type": "layers", "diff_ids": [Digest::sha256(&tar)] },
    });
    let config = curl.blob(CONFIG, config.to_string().as_bytes());
    let manifest = json!({
        "schemaVersion": 2, "mediaType": media_type::MANIFEST, "config": config, "layers": [layer],
    });
    curl.manifest(Some("1"), &manifest);
    let id = machine.ok(&format!("podman pull -q --arch amd64 {}/team/long:1", served.address()));
    assert_eq!(machine.files_of_image(&id)["/file"], b"behind a long digest");
}
