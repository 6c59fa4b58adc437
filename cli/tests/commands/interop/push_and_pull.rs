//! An image of several layers: pushed, pushed again, mounted into another repository, pulled elsewhere.

use std::fs;

use super::Served;
use super::images::{LAYER_BYTES, NO_LAYER_BYTES, files, write_context};
use super::machine::{Machine, tree};

/// What one program is asked to do, on a machine whose storage podman, buildah and skopeo share.
#[derive(Debug, Clone, Copy)]
enum Client {
    Podman,
    Buildah,
    Skopeo,
}

use Client::{Buildah, Podman, Skopeo};

impl Client {
    fn push(self, image: &str, reference: &str) -> String {
        match self {
            Podman => format!("podman push -q {image} docker://{reference}"),
            Buildah => format!("buildah push -q {image} docker://{reference}"),
            Skopeo => format!("skopeo copy -q containers-storage:{image} docker://{reference}"),
        }
    }

    /// To pull what can be pulled by a tag or by a digest, and to call it `localhost/pulled`.
    fn pull(self, reference: &str) -> [String; 2] {
        let tag = format!("podman tag {reference} localhost/pulled");
        match self {
            Podman => [format!("podman pull -q {reference}"), tag],
            Buildah => [format!("buildah pull -q {reference}"), tag],
            Skopeo => [
                format!("skopeo copy -q docker://{reference} containers-storage:localhost/pulled"),
                "true".into(),
            ],
        }
    }
}

/// `builder` builds an image, `pusher` pushes it, `puller` pulls it into an empty storage.
#[track_caller]
fn check(builder: &str, pusher: Client, puller: Client) {
    const PROGRAMS: &[&str] = &["podman", "buildah", "skopeo"];
    let (Some(here), Some(there)) = (Machine::with(PROGRAMS), Machine::with(PROGRAMS)) else { return };
    let served = Served::start();
    let address = served.address();
    here.allow_plain_http(address);
    there.allow_plain_http(address);
    write_context(&here, 1);
    here.ok(&format!("{builder} build -q --layers -t localhost/built context"));

    let push = |reference: &str| {
        let line = pusher.push("localhost/built", &format!("{address}/{reference}"));
        served.sent_by(|| here.ok(&line)).1
    };
    let sent = push("team/app:1");
    assert!(sent > 2 * LAYER_BYTES as u64, "two layers cannot fit into {sent} bytes");
    for (reference, why) in [
        ("team/app:1", "it is there"),
        ("team/app:2", "only the tag is new"),
        ("other/app:1", "the layers can be mounted"),
    ] {
        let sent = push(reference);
        assert!(sent < NO_LAYER_BYTES, "{sent} bytes were sent for {reference}, though {why}");
    }
    let tags = here.json(&format!("skopeo list-tags docker://{address}/team/app"));
    assert_eq!(tags["Tags"], serde_json::json!(["1", "2"]));

    let image = here.json(&format!("skopeo inspect docker://{address}/team/app:1"));
    assert_eq!(image["Labels"]["dev.hullvm.test"], "layers");
    let digest = image["Digest"].as_str().unwrap();
    for reference in [format!("{address}/team/app:1"), format!("{address}/other/app@{digest}")] {
        for line in puller.pull(&reference) {
            there.ok(&line);
        }
        assert!(there.files_of_image("localhost/pulled") == files(1), "{reference} has other files");
        there.ok("podman rmi --all --force");
    }
}

#[test]
fn what_podman_pushes_buildah_pulls() {
    check("podman", Podman, Buildah);
}

#[test]
fn what_buildah_pushes_skopeo_copies() {
    check("buildah", Buildah, Skopeo);
}

#[test]
fn what_skopeo_copies_podman_pulls() {
    check("buildah", Skopeo, Podman);
}

#[test]
fn an_image_of_umoci_travels_by_skopeo_and_unpacks_to_the_same_files() {
    let Some(machine) = Machine::with(&["umoci", "skopeo"]) else { return };
    let served = Served::start();
    let address = served.address();
    machine.allow_plain_http(address);
    write_context(&machine, 1);
    for line in [
        "umoci init --layout made",
        "umoci new --image made:1",
        "umoci insert --image made:1 context/one /data/one",
        "umoci insert --image made:1 context/old /data/old",
        "umoci config --image made:1 --architecture amd64 --config.label dev.hullvm.test=umoci",
        "umoci insert --image made:1 --tag 2 context/two /data/two",
        "umoci insert --image made:2 context/new /data/old",
        "umoci gc --layout made",
    ] {
        machine.ok(line);
    }
    let copy = |from: &str, to: &str| {
        let line = format!("skopeo copy -q {from} {to}");
        served.sent_by(|| machine.ok(&line)).1
    };
    let first = copy("oci:made:1", &format!("docker://{address}/umoci/app:1"));
    let second = copy("oci:made:2", &format!("docker://{address}/umoci/app:2"));
    for sent in [first, second] {
        assert!(
            (LAYER_BYTES as u64..2 * LAYER_BYTES as u64).contains(&sent),
            "{sent} bytes for one new layer"
        );
    }
    let again = copy("oci:made:2", &format!("docker://{address}/umoci/app:2"));
    assert!(again < NO_LAYER_BYTES, "{again} bytes were sent again");

    copy(&format!("docker://{address}/umoci/app:1"), "oci:back:1");
    copy(&format!("docker://{address}/umoci/app:2"), "oci:back:2");
    let blobs = |layout: &str| tree(&machine.folder().join(layout).join("blobs"));
    assert!(blobs("made") == blobs("back"), "some blob is not what it was");
    machine.ok("umoci unpack --image back:2 bundle");
    assert!(tree(&machine.folder().join("bundle/rootfs")) == files(1));
}

#[test]
fn what_skopeo_deletes_is_gone_and_nothing_else() {
    let Some(machine) = Machine::with(&["buildah", "skopeo", "podman", "curl"]) else { return };
    let served = Served::start();
    let address = served.address();
    machine.allow_plain_http(address);
    write_context(&machine, 1);
    machine.ok("buildah build -q --layers -t localhost/built context");
    machine.ok("buildah build -q --layers --label another=one -t localhost/another context");
    for (image, reference) in [
        ("built", "team/app:1"),
        ("built", "team/app:2"),
        ("another", "team/app:3"),
        ("built", "other/app:1"),
    ] {
        machine.ok(&format!("buildah push -q localhost/{image} docker://{address}/{reference}"));
    }
    let tags = || {
        let list = machine.json(&format!("skopeo list-tags docker://{address}/team/app"));
        list["Tags"]
            .as_array()
            .unwrap()
            .iter()
            .map(|tag| tag.as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    machine.ok(&format!("skopeo copy -q docker://{address}/other/app:1 docker://{address}/team/app:4"));
    assert_eq!(tags(), ["1", "2", "3", "4"]);
    machine.ok(&format!("curl -sSf -X DELETE http://{address}/v2/team/app/manifests/4"));
    assert_eq!(tags(), ["1", "2", "3"]);
    // skopeo deletes what the tag names, and so all of its tags.
    machine.ok(&format!("skopeo delete docker://{address}/team/app:1"));
    assert_eq!(tags(), ["3"]);
    for tag in ["1", "2"] {
        machine.fails(&format!("podman pull -q {address}/team/app:{tag}"), "manifest unknown");
    }
    machine.fails(&format!("skopeo delete docker://{address}/team/app:1"), "may not exist");
    machine.ok("podman rmi --all --force");
    for reference in ["team/app:3", "other/app:1"] {
        let id = machine.ok(&format!("podman pull -q {address}/{reference}"));
        assert!(machine.files_of_image(&id) == files(1), "{reference}");
    }
    machine.ok(&format!("skopeo copy -q docker://{address}/other/app:1 docker://{address}/team/app:1"));
    assert_eq!(tags(), ["1", "3"]);
    machine.ok(&format!("podman pull -q {address}/team/app:1"));
}

#[test]
fn podman_finds_repositories_and_tags() {
    let Some(machine) = Machine::with(&["buildah", "podman"]) else { return };
    let served = Served::start();
    let address = served.address();
    machine.allow_plain_http(address);
    fs::write(machine.folder().join("Containerfile"), "FROM scratch\nLABEL is=small\n").unwrap();
    machine.ok("buildah build -q -t localhost/built .");
    for reference in ["team/web:1", "team/web:2", "team/data:1", "other:1"] {
        machine.ok(&format!("buildah push -q localhost/built docker://{address}/{reference}"));
    }
    let words = |line: String| {
        let found = machine.ok(&line);
        found.split_ascii_whitespace().map(str::to_owned).collect::<Vec<_>>()
    };
    let found = words(format!("podman search --format {{{{.Name}}}} {address}/team"));
    assert_eq!(found, ["data", "web"].map(|name| format!("{address}/team/{name}")));
    let web = format!("{address}/team/web");
    let found = words(format!("podman search --list-tags {web}"));
    assert_eq!(found, ["NAME", "TAG", &web, "1", &web, "2"]);
}
