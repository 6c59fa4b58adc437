//! Manifests and tags over a real socket.

mod common;

use std::sync::Arc;

use appliance::Digest;
use blob_store::MemoryStorage;
use common::{INDEX, MANIFEST, Registry, descriptor, everything, manifest};
use registry::Limits;
use serde_json::json;

#[test]
fn a_manifest_is_returned_as_it_was_received() {
    let registry = Registry::in_memory();
    let mut client = registry.client();
    client.push_blob("team/web", b"{}");
    client.push_blob("team/web", b"layer");
    // White space and order that nobody would write again.
    let mut bytes = b" \n".to_vec();
    bytes.extend(manifest(b"{}", b"layer"));
    bytes.extend(b"\n\n");
    let digest = Digest::sha256(&bytes).to_string();
    let put = client.put_manifest("team/web", "1.4", MANIFEST, &bytes).expect(201);
    assert_eq!(put.header("docker-content-digest"), Some(digest.as_str()));
    assert_eq!(put.header("location"), Some(format!("/v2/team/web/manifests/{digest}").as_str()));
    for name in ["1.4", digest.as_str(), "1.4"] {
        let path = format!("/v2/team/web/manifests/{name}");
        let got = client.get(&path).expect(200);
        assert_eq!(got.body, bytes);
        assert_eq!(got.header("content-type"), Some(MANIFEST));
        assert_eq!(got.header("docker-content-digest"), Some(digest.as_str()));
        let head = client.send("HEAD", &path, &[], b"").expect(200);
        assert_eq!(head.header("content-length"), Some(bytes.len().to_string().as_str()));
        assert_eq!(head.header("docker-content-digest"), Some(digest.as_str()));
        let etag = got.header("etag").unwrap().to_owned();
        client.send("GET", &path, &[("if-none-match", &etag)], b"").expect(304);
    }
    // It is a manifest here, not a blob, and nothing at all elsewhere.
    client.get(&format!("/v2/team/web/blobs/{digest}")).expect_error(404, "BLOB_UNKNOWN");
    client.get(&format!("/v2/other/manifests/{digest}")).expect_error(404, "MANIFEST_UNKNOWN");
    client.get("/v2/team/web/manifests/1.5").expect_error(404, "MANIFEST_UNKNOWN");
}

#[test]
fn a_tag_moves_and_the_old_manifest_stays() {
    let registry = Registry::in_memory();
    let mut client = registry.client();
    let mut last = None;
    for layer in [b"one", b"two"] {
        client.push_blob("web", b"{}");
        client.push_blob("web", layer);
        let bytes = manifest(b"{}", layer);
        client.put_manifest("web", "latest", MANIFEST, &bytes).expect(201);
        assert_eq!(client.get("/v2/web/manifests/latest").body, bytes);
        if let Some(last) = last.replace(Digest::sha256(&bytes)) {
            client.get(&format!("/v2/web/manifests/{last}")).expect(200);
        }
    }
}

#[test]
fn a_manifest_needs_its_blobs_in_its_own_repository() {
    let storage = MemoryStorage::new();
    let registry = Registry::start(Arc::new(storage.clone()), Limits::default());
    let mut client = registry.client();
    client.push_blob("web", b"{}");
    client.push_blob("other", b"layer");
    let bytes = manifest(b"{}", b"layer");
    let before = everything(&storage);
    let refused =
        client.put_manifest("web", "1", MANIFEST, &bytes).expect_error(404, "MANIFEST_BLOB_UNKNOWN");
    let missing = &refused.json()["errors"][0]["detail"]["digests"];
    assert_eq!(*missing, json!([Digest::sha256(b"layer")]));
    assert_eq!(everything(&storage), before);
    client.get("/v2/web/manifests/1").expect(404);
    client.get("/v2/web/tags/list").expect(200);
}

#[test]
fn an_index_is_stored_also_where_its_manifests_are_elsewhere() {
    let registry = Registry::in_memory();
    let mut client = registry.client();
    let index = json!({
        "schemaVersion": 2,
        "mediaType": INDEX,
        "manifests": [descriptor(MANIFEST, b"somewhere else")],
    });
    let bytes = index.to_string().into_bytes();
    client.put_manifest("web", "1", INDEX, &bytes).expect(201);
    assert_eq!(client.get("/v2/web/manifests/1").expect(200).header("content-type"), Some(INDEX));
}

#[test]
fn what_is_no_manifest_is_refused_and_nothing_of_it_is_stored() {
    let storage = MemoryStorage::new();
    let registry = Registry::start(Arc::new(storage.clone()), Limits::default());
    let mut client = registry.client();
    client.push_blob("web", b"{}");
    let before = everything(&storage);
    let good = manifest(b"{}", b"{}");
    let text = String::from_utf8(good.clone()).unwrap();
    let deep = format!("{{\"schemaVersion\":2,\"x\":{}1{}}}", "[".repeat(100), "]".repeat(100));
    let twice = text.replacen("{", "{\"schemaVersion\":2,", 1);
    let both = text.replacen("{", "{\"manifests\":[],", 1);
    let elsewhere = Digest::sha256(b"something else").to_string();
    for (name, kind, bytes, code) in [
        ("1", MANIFEST, "", "MANIFEST_INVALID"),
        ("1", MANIFEST, "{}", "MANIFEST_INVALID"),
        ("1", MANIFEST, "not json", "MANIFEST_INVALID"),
        ("1", MANIFEST, &deep, "MANIFEST_INVALID"),
        ("1", MANIFEST, &twice, "MANIFEST_INVALID"),
        ("1", MANIFEST, &both, "MANIFEST_INVALID"),
        ("1", INDEX, &text, "MANIFEST_INVALID"),
        ("1", "application/json", &text, "MANIFEST_INVALID"),
        (&elsewhere, MANIFEST, &text, "DIGEST_INVALID"),
    ] {
        client.put_manifest("web", name, kind, bytes.as_bytes()).expect_error(400, code);
    }
    client.put_manifest("web", "1", MANIFEST, &vec![b' '; (4 << 20) + 1]).expect_error(413, "SIZE_INVALID");
    assert_eq!(everything(&storage), before);
    client.get("/v2/web/manifests/1").expect(404);
    client.put_manifest("web", "1", MANIFEST, &good).expect(201);
    assert_ne!(everything(&storage), before);
}

#[test]
fn tags_are_listed_in_order_and_in_pages() {
    let registry = Registry::in_memory();
    let mut client = registry.client();
    client.get("/v2/web/tags/list").expect_error(404, "NAME_UNKNOWN");
    client.push_blob("web", b"{}");
    assert_eq!(client.get("/v2/web/tags/list").expect(200).json(), json!({ "name": "web", "tags": [] }));
    let bytes = manifest(b"{}", b"{}");
    for tag in ["b", "1.0", "a", "1.0-rc", "1.0.1"] {
        client.put_manifest("web", tag, MANIFEST, &bytes).expect(201);
    }
    let all = ["1.0", "1.0-rc", "1.0.1", "a", "b"];
    assert_eq!(client.get("/v2/web/tags/list").expect(200).json()["tags"], json!(all));

    let mut path = "/v2/web/tags/list?n=2".to_owned();
    let mut pages = Vec::new();
    loop {
        let page = client.get(&path).expect(200);
        pages.push(page.json()["tags"].clone());
        let Some(link) = page.header("link") else { break };
        let (next, relation) = link.strip_prefix('<').unwrap().split_once('>').unwrap();
        assert_eq!(relation, "; rel=\"next\"");
        next.clone_into(&mut path);
    }
    assert_eq!(pages, [json!(["1.0", "1.0-rc"]), json!(["1.0.1", "a"]), json!(["b"])]);

    for (query, want) in [
        ("n=0", json!([])),
        ("n=1000000000", json!(all)),
        ("n=99999999999999999999999999", json!(all)),
        ("last=a", json!(["b"])),
        ("last=1.0.0&n=1", json!(["1.0.1"])),
        ("last=zzz", json!([])),
        ("last=../../x", json!(all)),
    ] {
        assert_eq!(
            client.get(&format!("/v2/web/tags/list?{query}")).expect(200).json()["tags"],
            want,
            "{query}"
        );
    }
    for query in ["n=-1", "n=x", "n="] {
        client.get(&format!("/v2/web/tags/list?{query}")).expect_error(400, "UNSUPPORTED");
    }
}

#[test]
fn a_tag_is_deleted_and_its_manifest_stays() {
    let registry = Registry::in_memory();
    let mut client = registry.client();
    client.push_blob("web", b"{}");
    let bytes = manifest(b"{}", b"{}");
    let digest = Digest::sha256(&bytes);
    client.put_manifest("web", "1", MANIFEST, &bytes).expect(201);
    client.put_manifest("web", "2", MANIFEST, &bytes).expect(201);
    client.send("DELETE", "/v2/web/manifests/1", &[], b"").expect(202);
    client.send("DELETE", "/v2/web/manifests/1", &[], b"").expect_error(404, "MANIFEST_UNKNOWN");
    client.get("/v2/web/manifests/1").expect_error(404, "MANIFEST_UNKNOWN");
    assert_eq!(client.get("/v2/web/tags/list").json()["tags"], json!(["2"]));
    let path = format!("/v2/web/manifests/{digest}");
    client.get(&path).expect(200);
    client.send("DELETE", &path, &[], b"").expect(202);
    client.send("DELETE", &path, &[], b"").expect_error(404, "MANIFEST_UNKNOWN");
    for name in ["2", &digest.to_string()] {
        client.get(&format!("/v2/web/manifests/{name}")).expect_error(404, "MANIFEST_UNKNOWN");
    }
    assert_eq!(client.get("/v2/web/tags/list").json()["tags"], json!([]));
}

#[test]
fn one_request_sets_several_tags() {
    let registry = Registry::in_memory();
    let mut client = registry.client();
    client.push_blob("web", b"{}");
    let bytes = manifest(b"{}", b"{}");
    let digest = Digest::sha256(&bytes);
    let put = client.put_manifest("web", &format!("{digest}?tag=1.2.3&tag=1.2&tag=latest"), MANIFEST, &bytes);
    assert_eq!(put.expect(201).header("oci-tag"), Some("1.2.3, 1.2, latest"));
    for tag in ["1.2.3", "1.2", "latest"] {
        assert_eq!(client.get(&format!("/v2/web/manifests/{tag}")).expect(200).body, bytes);
    }
    let refused = client.put_manifest("web", &format!("{digest}?tag=ok&tag=-"), MANIFEST, &bytes);
    refused.expect_error(400, "MANIFEST_INVALID");
    let many = "&tag=x".repeat(101);
    let refused = client.put_manifest("web", &format!("{digest}?tag=ok{many}"), MANIFEST, &bytes);
    refused.expect_error(414, "UNSUPPORTED");
    client.get("/v2/web/manifests/ok").expect(404);
}

#[test]
fn referrers_of_a_manifest_are_found_also_before_it_is_there() {
    let registry = Registry::in_memory();
    let mut client = registry.client();
    client.push_blob("web", b"{}");
    let subject = manifest(b"{}", b"{}");
    let subject_digest = Digest::sha256(&subject);
    let path = format!("/v2/web/referrers/{subject_digest}");
    let empty = client.get(&path).expect(200);
    assert_eq!(empty.header("content-type"), Some(INDEX));
    assert_eq!(empty.json()["manifests"], json!([]));
    let mut artifacts = Vec::new();
    for kind in ["example/sbom", "example/signature"] {
        let artifact = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "artifactType": kind,
            "config": descriptor("application/vnd.oci.empty.v1+json", b"{}"),
            "layers": [],
            "subject": descriptor(MANIFEST, &subject),
            "annotations": { "made-by": "a test" },
        });
        let bytes = artifact.to_string().into_bytes();
        let digest = Digest::sha256(&bytes);
        let put = client.put_manifest("web", &digest.to_string(), MANIFEST, &bytes).expect(201);
        assert_eq!(put.header("oci-subject"), Some(subject_digest.to_string().as_str()));
        artifacts.push(json!({
            "mediaType": MANIFEST, "digest": digest, "size": bytes.len(),
            "artifactType": kind, "annotations": { "made-by": "a test" },
        }));
    }
    client.put_manifest("web", "1", MANIFEST, &subject).expect(201);
    let all = client.get(&path).expect(200);
    assert_eq!(all.header("oci-filters-applied"), None);
    let mut found = all.json()["manifests"].as_array().unwrap().clone();
    found.sort_by_key(|artifact| artifact["artifactType"].to_string());
    assert_eq!(found, artifacts);
    let some = client.get(&format!("{path}?artifactType=example/signature")).expect(200);
    assert_eq!(some.header("oci-filters-applied"), Some("artifactType"));
    assert_eq!(some.json()["manifests"], json!([artifacts[1]]));
    let digest = artifacts[1]["digest"].as_str().unwrap();
    client.send("DELETE", &format!("/v2/web/manifests/{digest}"), &[], b"").expect(202);
    assert_eq!(client.get(&path).json()["manifests"], json!([artifacts[0]]));
    client.get("/v2/web/referrers/sha256:0").expect_error(400, "DIGEST_INVALID");
    assert_eq!(client.get(&path.replace("web", "none")).expect(200).json()["manifests"], json!([]));
}

#[test]
fn a_manifest_may_be_named_by_sha512() {
    let registry = Registry::in_memory();
    let mut client = registry.client();
    client.push_blob("web", b"{}");
    let bytes = manifest(b"{}", b"{}");
    let mut hasher = appliance::Hasher::new(appliance::Algorithm::Sha512);
    hasher.update(&bytes);
    let digest = hasher.finish();
    let put = client.put_manifest("web", &format!("{digest}?tag=1"), MANIFEST, &bytes).expect(201);
    assert_eq!(put.header("docker-content-digest"), Some(digest.to_string().as_str()));
    assert_eq!(client.get("/v2/web/manifests/1").header("docker-content-digest"), Some(&*digest.to_string()));
}

#[test]
fn a_tag_tells_its_history() {
    let registry = Registry::in_memory();
    let mut client = registry.client();
    client.get("/v2/team/web/_hull/tags/1/history").expect_error(404, "MANIFEST_UNKNOWN");
    client.push_blob("team/web", b"{}");
    client.push_blob("team/web", b"x");
    let versions = [manifest(b"{}", b"{}"), manifest(b"{}", b"x")];
    for bytes in &versions {
        client.put_manifest("team/web", "1", MANIFEST, bytes).expect(201);
    }
    client.send("DELETE", "/v2/team/web/manifests/1", &[], b"").expect(202);
    let history = client.get("/v2/team/web/_hull/tags/1/history").expect(200).json()["history"].clone();
    let digests: Vec<_> = history.as_array().unwrap().iter().map(|entry| entry["digest"].clone()).collect();
    assert_eq!(
        digests,
        [json!(null), json!(Digest::sha256(&versions[1])), json!(Digest::sha256(&versions[0]))]
    );
    let page = client.get("/v2/team/web/_hull/tags/1/history?n=1").expect(200);
    let next = page.header("link").unwrap().split(['<', '>']).nth(1).unwrap().to_owned();
    assert_eq!(client.get(&next).expect(200).json()["history"], json!([history[1]]));
}

#[test]
fn repositories_are_listed_in_pages() {
    let registry = Registry::in_memory();
    let mut client = registry.client();
    for name in ["a", "team/b", "team/c"] {
        client.push_blob(name, b"{}");
    }
    assert_eq!(
        client.get("/v2/_catalog").expect(200).json(),
        json!({ "repositories": ["a", "team/b", "team/c"] })
    );
    let page = client.get("/v2/_catalog?n=2").expect(200);
    assert_eq!(page.json(), json!({ "repositories": ["a", "team/b"] }));
    let next = page.header("link").unwrap().split(['<', '>']).nth(1).unwrap().to_owned();
    assert_eq!(client.get(&next).expect(200).json(), json!({ "repositories": ["team/c"] }));
    let none = client.get("/v2/_catalog?n=0").expect(200);
    assert_eq!((none.json(), none.header("link")), (json!({ "repositories": [] }), None));
}
