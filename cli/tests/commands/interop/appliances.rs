//! Appliances on their way: between our registries and another's, carried by `hull` or by skopeo.

use std::fs;

use serde_json::Value;

use super::images::NO_LAYER_BYTES;
use super::machine::Machine;
use crate::support::cable::Cable;
use crate::support::disks::noise;
use crate::support::registry::{Registry, WithUsers};
use crate::support::source::author;
use crate::support::{Done, Host, installed};

/// A registry of either kind.
#[derive(Debug)]
enum Peer {
    Ours { _registry: Registry, _host: Host },
    Debians { _registry: WithUsers, _folder: tempfile::TempDir },
}

impl Peer {
    fn ours() -> (Self, Cable) {
        let host = Host::new();
        let registry = Registry::start(&host);
        let cable = Cable::to(&registry.address);
        (Self::Ours { _registry: registry, _host: host }, cable)
    }

    /// Debian's. Its only user is alice.
    fn debians() -> Option<(Self, Cable)> {
        if !installed(&["docker-registry"]) {
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        let registry = WithUsers::start(folder.path());
        let cable = Cable::to(&registry.address);
        Some((Self::Debians { _registry: registry, _folder: folder }, cable))
    }

    /// Signs in where that is needed.
    #[track_caller]
    fn sign_in(&self, host: &Host, address: &str) {
        if let Self::Debians { .. } = self {
            let password = host.folder().join("password");
            fs::write(&password, "correct horse").unwrap();
            let mut login = host.hull(["login", "-u", "alice", "--password-stdin", address]);
            Done::of(login.stdin(fs::File::open(password).unwrap())).ok();
        }
    }
}

/// What trust hangs on: the digest of the appliance for one platform.
#[track_caller]
fn appliance_digest(host: &Host, reference: &str) -> Value {
    host.json(&format!("inspect --json {reference}"))["platforms"][0]["manifest"]["digest"].take()
}

/// `hull` pushes two versions to a registry, each of them twice, and pulls them elsewhere.
#[track_caller]
fn check(peer: &Peer, cable: &Cable) {
    let (author_host, other) = (Host::new(), Host::new());
    let address = &cable.address;
    peer.sign_in(&author_host, address);
    peer.sign_in(&other, address);
    let mut disk = noise(1, 1 << 20);
    let folder = author(&author_host, "a", &disk);
    let references = ["1", "2"].map(|tag| format!("{address}/team/web:{tag}"));
    let push = |reference: &str| {
        let before = cable.sent();
        author_host.ok(&format!("push {reference}"));
        cable.sent() - before
    };

    author_host.ok(&format!("pack a -t {}", references[0]));
    let (first, first_again) = (push(&references[0]), push(&references[0]));
    disk[..64 << 10].copy_from_slice(&noise(2, 64 << 10)[..64 << 10]);
    fs::write(folder.join("disk.raw"), &disk).unwrap();
    author_host.ok(&format!("pack a -t {}", references[1]));
    let (second, second_again) = (push(&references[1]), push(&references[1]));
    assert!(first > 1 << 20 && second < 512 << 10, "{first} bytes were sent, then {second}");
    for again in [first_again, second_again] {
        assert!(again < NO_LAYER_BYTES, "{again} bytes were sent again");
    }

    for reference in &references {
        other.ok(&format!("pull {reference}"));
        assert_eq!(appliance_digest(&other, reference), appliance_digest(&author_host, reference));
    }
    assert_eq!(other.references(), author_host.references());
    assert!(other.damaged().is_empty());
}

#[test]
fn hull_sends_our_registry_only_what_is_new() {
    let (peer, cable) = Peer::ours();
    check(&peer, &cable);
}

#[test]
fn hull_sends_debians_registry_only_what_is_new() {
    let Some((peer, cable)) = Peer::debians() else { return };
    check(&peer, &cable);
}

#[test]
fn an_appliance_goes_round_three_registries_by_skopeo_and_comes_back_the_same() {
    let Some(machine) = Machine::with(&["skopeo"]) else { return };
    let Some((debians, third)) = Peer::debians() else { return };
    let ((_first_peer, first), (_second_peer, second)) = (Peer::ours(), Peer::ours());
    let host = Host::new();
    author(&host, "a", &noise(1, 1 << 20));
    let reference = format!("{}/team/web:1", first.address);
    host.ok(&format!("pack a -t {reference}"));
    host.ok(&format!("push {reference}"));

    for cable in [&first, &second, &third] {
        machine.allow_plain_http(&cable.address);
    }
    let login = "skopeo login --username alice --password-stdin";
    let mut login = machine.command(&format!("{login} {}", third.address));
    let password = machine.folder().join("password");
    fs::write(&password, "correct horse").unwrap();
    Done::of(login.stdin(fs::File::open(password).unwrap())).ok();
    let back = format!("{}/team/back:1", first.address);
    let places = [
        reference.clone(),
        format!("{}/over/web:1", second.address),
        format!("{}/there/web:1", third.address),
        format!("{}/again/web:1", second.address),
        back.clone(),
    ];
    for way in places.windows(2) {
        machine.ok(&format!("skopeo copy -q --all docker://{} docker://{}", way[0], way[1]));
    }

    let other = Host::new();
    let there = format!("{}/there/web:1", third.address);
    debians.sign_in(&other, &third.address);
    for pulled in [&back, &there] {
        other.ok(&format!("pull {pulled}"));
        assert_eq!(appliance_digest(&other, pulled), appliance_digest(&host, &reference));
    }
    assert!(other.damaged().is_empty());
}
