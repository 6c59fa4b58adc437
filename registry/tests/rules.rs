//! What the rules for repositories forbid, as clients see it.

mod common;

use std::io::Write as _;
use std::sync::{Arc, Barrier};

use appliance::Digest;
use blob_store::MemoryStorage;
use common::{Client, MANIFEST, Registry, Reply, manifest, noise, read_reply};
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

/// A registry whose repositories hold 1000 bytes.
fn limited() -> Registry {
    ruled(vec![Rule { quota_bytes: Some(1000), ..Rule::new(Pattern::new("*")) }])
}

/// Pushes a blob as `POST`, `PUT`.
fn push_blob(client: &mut Client, repository: &str, content: &[u8]) -> Reply {
    let upload = client.begin_upload(repository);
    client.send("PUT", &format!("{upload}?digest={}", Digest::sha256(content)), &[], content)
}

fn refusal(used: u64, uploading: u64, wanted: u64) -> String {
    format!(
        "the repository's quota of 1000 bytes is exceeded: it holds {used}, {uploading} are being uploaded, \
         and {wanted} more are wanted"
    )
}

#[test]
fn a_repository_holds_no_more_than_its_quota() {
    let registry = limited();
    let client = &mut registry.client();
    client.push_blob("web", &noise(1, 600));
    let reply = push_blob(client, "web", &noise(2, 401));
    assert_denied(&reply, &refusal(600, 0, 401));
    let detail = serde_json::json!({ "limit": 1000, "used": 600, "uploading": 0, "wanted": 401 });
    assert_eq!(reply.json()["errors"][0]["detail"], detail);
    client.push_blob("web", &noise(3, 400));
    // A full repository takes no uploads, no mounts and no manifests; others do.
    assert_denied(&client.send("POST", "/v2/web/blobs/uploads/", &[], b""), &refusal(1000, 0, 1));
    let digest = client.push_blob("other", &noise(4, 10));
    let mount = format!("/v2/web/blobs/uploads/?mount={digest}&from=other");
    assert_denied(&client.send("POST", &mount, &[], b""), &refusal(1000, 0, 10));
    let image = manifest(&noise(1, 600), &noise(3, 400));
    assert_eq!(client.put_manifest("web", "latest", MANIFEST, &image).code(), "DENIED");
    // What is there can be mounted and read, and deleting makes room.
    let here = Digest::sha256(&noise(3, 400));
    let mount = format!("/v2/web/blobs/uploads/?mount={here}&from=web");
    assert_eq!(client.send("POST", &mount, &[], b"").status, 201);
    assert_eq!(client.get(&format!("/v2/web/blobs/{here}")).status, 200);
    assert_eq!(client.send("DELETE", &format!("/v2/web/blobs/{here}"), &[], b"").status, 202);
    assert_eq!(push_blob(client, "web", &noise(2, 350)).status, 201);
}

#[test]
fn what_is_there_can_be_pushed_again_into_an_almost_full_repository() {
    let registry = limited();
    let client = &mut registry.client();
    client.push_blob("web", &noise(1, 900));
    client.push_blob("web", &noise(1, 900));
    let digest = Digest::sha256(&noise(1, 900));
    let path = format!("/v2/web/blobs/uploads/?digest={digest}");
    assert_eq!(client.send("POST", &path, &[], &noise(1, 900)).status, 201);
    client.push_blob("web", &noise(2, 100));
}

#[test]
fn an_upload_that_would_not_fit_is_refused_before_it_is_sent() {
    let registry = limited();
    let client = &mut registry.client();
    let upload = client.begin_upload("web");
    let digest = Digest::sha256(b"");
    for (method, path) in [
        ("PATCH", upload.clone()),
        ("PUT", format!("{upload}?digest={digest}")),
        ("POST", format!("/v2/web/blobs/uploads/?digest={digest}")),
    ] {
        let mut connection = client.begin(method, &path, &[("content-length", "10000000000")]).unwrap();
        assert_denied(&read_reply(&mut connection, method).unwrap(), &refusal(0, 0, 10_000_000_000));
    }
}

#[test]
fn an_upload_of_unknown_length_is_cut_off_at_the_quota() {
    let quota_bytes = Some(3 << 20);
    let registry = ruled(vec![Rule { quota_bytes, ..Rule::new(Pattern::new("*")) }]);
    let client = &mut registry.client();
    let upload = client.begin_upload("web");
    let mut connection = client.begin("PATCH", &upload, &[("transfer-encoding", "chunked")]).unwrap();
    let piece = noise(1, 1 << 20);
    for _ in 0..4 {
        write!(connection.get_mut(), "{:x}\r\n", piece.len()).unwrap();
        connection.get_mut().write_all(&piece).unwrap();
        connection.get_mut().write_all(b"\r\n").unwrap();
    }
    connection.get_mut().write_all(b"0\r\n\r\n").unwrap();
    let reply = read_reply(&mut connection, "PATCH").unwrap();
    assert_eq!((reply.status, reply.code().as_str()), (403, "DENIED"), "{reply:?}");
}

#[test]
fn uploads_under_way_count_until_they_are_given_up() {
    let registry = limited();
    let client = &mut registry.client();
    let upload = client.begin_upload("web");
    assert_eq!(client.send("PATCH", &upload, &[], &noise(1, 600)).status, 202);
    assert_denied(&push_blob(client, "web", &noise(2, 500)), &refusal(0, 600, 500));
    assert_denied(&client.send("PATCH", &upload, &[], &noise(3, 401)), &refusal(0, 600, 401));
    assert_eq!(client.send("PATCH", &upload, &[], &noise(3, 400)).status, 202);
    assert_eq!(client.send("DELETE", &upload, &[], b"").status, 204);
    assert_eq!(push_blob(client, "web", &noise(2, 500)).status, 201);
}

#[test]
fn thirty_two_who_push_at_once_stay_within_the_quota() {
    let registry = limited();
    registry.client().push_blob("web", &noise(99, 100));
    let (start, addr) = (Barrier::new(32), registry.addr);
    let race = &|number: u64| {
        let client = &mut Client::new(addr);
        let upload = client.begin_upload("web");
        let content = noise(number, 100);
        let path = format!("{upload}?digest={}", Digest::sha256(&content));
        start.wait();
        client.send("PUT", &path, &[], &content)
    };
    let replies: Vec<Reply> = std::thread::scope(|scope| {
        let racers: Vec<_> = (0..32).map(|number| scope.spawn(move || race(number))).collect();
        racers.into_iter().map(|racer| racer.join().unwrap()).collect()
    });
    let stored = replies.iter().filter(|reply| reply.status == 201).count();
    let denied = replies.iter().filter(|reply| reply.code() == "DENIED").count();
    assert_eq!((stored, denied), (9, 23), "{replies:?}");
}
