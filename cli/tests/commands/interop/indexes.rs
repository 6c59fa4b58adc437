//! Indexes: several platforms, with all of their images or without; Docker's media types; zstd layers.

use serde_json::Value;

use super::Served;
use super::images::{files, write_context};
use super::machine::Machine;

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";

/// A registry with the index `team/app:1` for amd64 and arm64, and the machine that pushed it.
fn with_index() -> Option<(Machine, Served)> {
    let machine = Machine::with(&["podman", "buildah", "skopeo"])?;
    let served = Served::start();
    machine.allow_plain_http(served.address());
    write_context(&machine, 1);
    machine.ok("podman manifest create several");
    for architecture in ["amd64", "arm64"] {
        // A layer that was built for another architecture would be taken for the same image.
        let options = format!("--no-cache --arch {architecture} --manifest several");
        machine.ok(&format!("buildah build -q --layers {options} context"));
    }
    let to = format!("docker://{}/team/app:1", served.address());
    machine.ok(&format!("podman manifest push -q --all several {to}"));
    Some((machine, served))
}

/// What a reference names, as it is stored.
#[track_caller]
fn raw(machine: &Machine, reference: &str) -> Value {
    machine.json(&format!("skopeo inspect --raw docker://{reference}"))
}

#[track_caller]
fn digests(index: &Value) -> Vec<&str> {
    let manifests = index["manifests"].as_array().unwrap();
    manifests.iter().map(|manifest| manifest["digest"].as_str().unwrap()).collect()
}

#[test]
fn an_index_is_pulled_by_platform_and_copied_whole_or_sparse() {
    let Some((machine, served)) = with_index() else { return };
    let address = served.address();
    let from = format!("{address}/team/app:1");
    let index = raw(&machine, &from);
    assert_eq!(index["mediaType"], INDEX);
    assert_eq!(digests(&index).len(), 2);

    let copy = |how: &str, to: &str| format!("skopeo copy -q {how} docker://{from} docker://{address}/{to}");
    machine.ok(&copy("--all --preserve-digests", "whole/app:1"));
    assert_eq!(raw(&machine, &format!("{address}/whole/app:1")), index);
    // Half of it is there first, as when the other platforms are pushed by somebody else, or never.
    machine.ok(&copy("--override-arch arm64 --preserve-digests", "sparse/app:arm64"));
    machine.ok(&copy("--multi-arch index-only --preserve-digests", "sparse/app:1"));
    assert_eq!(raw(&machine, &format!("{address}/sparse/app:1")), index);

    let Some(other) = Machine::with(&["podman"]) else { return };
    other.allow_plain_http(address);
    for reference in ["whole/app:1", "sparse/app:1"] {
        let id = other.ok(&format!("podman pull -q --arch arm64 {address}/{reference}"));
        assert_eq!(other.ok(&format!("podman image inspect --format {{{{.Architecture}}}} {id}")), "arm64");
        assert!(other.files_of_image(&id) == files(1), "{reference}");
        other.ok("podman rmi --all --force");
    }
    other.fails(&format!("podman pull -q --arch amd64 {address}/sparse/app:1"), "manifest unknown");
}

#[test]
fn docker_manifests_and_lists_are_kept_as_they_are() {
    let Some((machine, served)) = with_index() else { return };
    let address = served.address();
    let (from, list) = (format!("{address}/team/app:1"), format!("{address}/docker/app:1"));
    machine.ok(&format!("skopeo copy -q --all --format v2s2 docker://{from} docker://{list}"));
    let stored = raw(&machine, &list);
    assert_eq!(stored["mediaType"], DOCKER_LIST);
    for digest in digests(&stored) {
        let manifest = raw(&machine, &format!("{address}/docker/app@{digest}"));
        assert_eq!(manifest["mediaType"], DOCKER_MANIFEST);
        assert_eq!(manifest["layers"].as_array().unwrap().len(), 3);
    }
    let id = machine.ok(&format!("podman pull -q --arch arm64 {list}"));
    assert!(machine.files_of_image(&id) == files(1));
    machine.ok(&format!(
        "skopeo copy -q --all --preserve-digests docker://{list} docker://{address}/docker/copy:1"
    ));
    assert_eq!(raw(&machine, &format!("{address}/docker/copy:1")), stored);
    // The first format's digest is not that of its bytes.
    let first = format!("--format v2s1 containers-storage:{id} docker://{address}/docker/first:1");
    machine.fails(&format!("skopeo copy -q {first}"), "manifest invalid");
}

#[test]
fn layers_compressed_with_zstd_are_pushed_and_pulled() {
    let (Some(machine), Some(other)) = (Machine::with(&["buildah", "skopeo"]), Machine::with(&["podman"]))
    else {
        return;
    };
    let served = Served::start();
    let reference = format!("{}/team/app:zstd", served.address());
    machine.allow_plain_http(served.address());
    other.allow_plain_http(served.address());
    write_context(&machine, 1);
    machine.ok("buildah build -q --layers -t localhost/built context");
    machine.ok(&format!("buildah push -q --compression-format zstd localhost/built docker://{reference}"));
    let manifest = raw(&machine, &reference);
    for layer in manifest["layers"].as_array().unwrap() {
        assert_eq!(layer["mediaType"], "application/vnd.oci.image.layer.v1.tar+zstd");
    }
    let id = other.ok(&format!("podman pull -q {reference}"));
    assert!(other.files_of_image(&id) == files(1));
}
