//! What the rules for repositories forbid, as clients see it.

mod common;

use std::sync::{Arc, Barrier};

use appliance::Digest;
use blob_store::MemoryStorage;
use common::{Client, MANIFEST, Registry, Reply, manifest};
use registry::{Limits, Pattern, Rule, Rules};

fn ruled(rules: Vec<Rule>) -> Registry {
    let storage = Arc::new(MemoryStorage::new());
    Registry::configured(storage, Limits::default(), |config| config.rules = Rules(rules))
}

fn immutable(repositories: &str, tags: &str) -> Rule {
    Rule { immutable_tags: vec![Pattern::new(tags)], ..Rule::new(Pattern::new(repositories)) }
}

/// Pushes an image whose only layer is `layer`, and returns the answer to its manifest.
fn push(client: &mut Client, repository: &str, name: &str, layer: &[u8]) -> Reply {
    client.push_blob(repository, b"{}");
    client.push_blob(repository, layer);
    client.put_manifest(repository, name, MANIFEST, &manifest(b"{}", layer))
}

#[track_caller]
fn assert_denied(reply: &Reply, message: &str) {
    assert_eq!((reply.status, reply.code().as_str()), (403, "DENIED"), "{reply:?}");
    assert_eq!(reply.json()["errors"][0]["message"], message);
}

#[test]
fn an_immutable_tag_is_neither_moved_nor_deleted() {
    let registry = ruled(vec![immutable("team/*", "v*")]);
    let client = &mut registry.client();
    assert_eq!(push(client, "team/web", "v1", b"one").status, 201);
    assert_eq!(push(client, "team/web", "v1", b"one").status, 201);
    let one = Digest::sha256(&manifest(b"{}", b"one"));
    let refusal = format!("the tag `v1` is immutable here (rule `v*`): it names {one}");
    assert_denied(&push(client, "team/web", "v1", b"two"), &refusal);
    let path = "/v2/team/web/manifests";
    assert_denied(&client.send("DELETE", &format!("{path}/v1"), &[], b""), &refusal);
    assert_denied(&client.send("DELETE", &format!("{path}/{one}"), &[], b""), &refusal);
    let layer = Digest::sha256(b"one");
    let layer = client.send("DELETE", &format!("/v2/team/web/blobs/{layer}"), &[], b"");
    assert_denied(&layer, &refusal);
    let pulled = client.get(&format!("{path}/v1"));
    assert_eq!(pulled.header("docker-content-digest"), Some(one.to_string().as_str()));
    // Nothing is stored of what was refused, other tags move, and so does this one elsewhere.
    let two = Digest::sha256(&manifest(b"{}", b"two"));
    assert_eq!(client.get(&format!("{path}/{two}")).status, 404);
    for (repository, tag) in [("team/web", "latest"), ("other", "v1")] {
        assert_eq!(push(client, repository, tag, b"one").status, 201);
        assert_eq!(push(client, repository, tag, b"two").status, 201);
        let path = format!("/v2/{repository}/manifests/{tag}");
        assert_eq!(client.send("DELETE", &path, &[], b"").status, 202);
    }
}

#[test]
fn of_several_tags_in_one_request_none_is_set_if_one_is_immutable() {
    let registry = ruled(vec![immutable("*", "v*")]);
    let client = &mut registry.client();
    assert_eq!(push(client, "web", "v1", b"one").status, 201);
    let two = Digest::sha256(&manifest(b"{}", b"two"));
    let name = format!("{two}?tag=latest&tag=v2&tag=v1");
    assert_eq!(push(client, "web", &name, b"two").code(), "DENIED");
    assert_eq!(client.get("/v2/web/tags/list").json()["tags"], serde_json::json!(["v1"]));
    assert_eq!(push(client, "web", &format!("{two}?tag=latest&tag=v2"), b"two").status, 201);
}

#[test]
fn of_sixteen_who_set_an_immutable_tag_at_once_one_wins() {
    let registry = ruled(vec![immutable("*", "v*")]);
    let layers: Vec<Vec<u8>> = (0..16).map(|number| vec![number; 8]).collect();
    let (start, addr) = (Barrier::new(layers.len()), registry.addr);
    let race = |layer: &[u8]| {
        let client = &mut Client::new(addr);
        client.push_blob("web", b"{}");
        client.push_blob("web", layer);
        start.wait();
        client.put_manifest("web", "v1", MANIFEST, &manifest(b"{}", layer))
    };
    let replies: Vec<Reply> = std::thread::scope(|scope| {
        let racers: Vec<_> = layers.iter().map(|layer| scope.spawn(|| race(layer))).collect();
        racers.into_iter().map(|racer| racer.join().unwrap()).collect()
    });
    let won: Vec<&Reply> = replies.iter().filter(|reply| reply.status == 201).collect();
    assert_eq!(won.len(), 1, "{replies:?}");
    assert!(replies.iter().all(|reply| reply.status == 201 || reply.code() == "DENIED"), "{replies:?}");
    let digest = won[0].header("docker-content-digest").unwrap();
    let client = &mut registry.client();
    assert_eq!(client.get("/v2/web/manifests/v1").header("docker-content-digest"), Some(digest));
    let history = client.get("/v2/web/_hull/tags/v1/history").json();
    assert_eq!(history["history"].as_array().unwrap().len(), 1);
}
