//! Blobs over a real socket: pushed in every way that the specification knows, and read.

mod common;

use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;

use appliance::{Algorithm, Digest, Hasher};
use blob_store::FolderStorage;
use common::{Client, Registry, noise, read_reply};
use registry::Limits;
use testkit::wait;

fn blob_path(repository: &str, digest: &Digest) -> String {
    format!("/v2/{repository}/blobs/{digest}")
}

/// The blob is in the repository, with this content.
#[track_caller]
fn check_stored(client: &mut Client, repository: &str, digest: &Digest, content: &[u8]) {
    let path = blob_path(repository, digest);
    let head = client.send("HEAD", &path, &[], b"").expect(200);
    assert_eq!(head.header("content-length"), Some(content.len().to_string().as_str()));
    assert_eq!(head.header("docker-content-digest"), Some(digest.to_string().as_str()));
    let got = client.get(&path).expect(200);
    assert!(got.body == content, "{} bytes", got.body.len());
    assert_eq!(got.header("content-type"), Some("application/octet-stream"));
}

#[test]
fn a_blob_is_pushed_with_post_and_put() {
    let registry = Registry::in_memory();
    let mut client = registry.client();
    for content in [b"".to_vec(), b"x".to_vec(), noise(1, 3 << 20)] {
        let digest = client.push_blob("team/web", &content);
        check_stored(&mut client, "team/web", &digest, &content);
        // Again is no mistake.
        client.push_blob("team/web", &content);
    }
}

#[test]
fn a_blob_is_pushed_with_one_post() {
    let registry = Registry::in_memory();
    let mut client = registry.client();
    let content = noise(2, 70_000);
    let digest = Digest::sha256(&content);
    let post = client.send("POST", &format!("/v2/web/blobs/uploads/?digest={digest}"), &[], &content);
    let post = post.expect(201);
    assert_eq!(post.header("location"), Some(blob_path("web", &digest).as_str()));
    check_stored(&mut client, "web", &digest, &content);
}

#[test]
fn a_blob_may_be_named_by_sha512() {
    let registry = Registry::in_memory();
    let mut client = registry.client();
    let content = noise(3, 2_000_000);
    let mut hasher = Hasher::new(Algorithm::Sha512);
    hasher.update(&content);
    let digest = hasher.finish();
    let post = |algorithm| format!("/v2/a/blobs/uploads/?digest-algorithm={algorithm}");
    client.send("POST", &post("sha512"), &[], b"").expect(202);
    client.send("POST", &post("md5"), &[], b"").expect_error(400, "DIGEST_INVALID");
    // In one body, and in chunks that were hashed with sha256 while nobody knew better.
    let upload = client.begin_upload("a");
    client.send("PUT", &format!("{upload}?digest={digest}"), &[], &content).expect(201);
    check_stored(&mut client, "a", &digest, &content);
    let upload = client.begin_upload("b");
    client.send("PATCH", &upload, &[], &content[..1_500_000]).expect(202);
    client.send("PUT", &format!("{upload}?digest={digest}"), &[], &content[1_500_000..]).expect(201);
    check_stored(&mut client, "b", &digest, &content);
}

#[test]
fn chunks_follow_each_other_or_are_told_where_to_go_on() {
    let registry = Registry::in_memory();
    let mut client = registry.client();
    let content = noise(4, 100_000);
    let digest = Digest::sha256(&content);
    let upload = client.begin_upload("web");
    let mut patch =
        |range: &str, body: &[u8]| client.send("PATCH", &upload, &[("content-range", range)], body);

    let first = patch("0-39999", &content[..40_000]).expect(202);
    assert_eq!((first.header("range"), first.header("location")), (Some("0-39999"), Some(upload.as_str())));
    for (range, body) in [("50000-59999", &content[50_000..60_000]), ("0-39999", &content[..40_000])] {
        let refused = patch(range, body).expect_error(416, "BLOB_UPLOAD_INVALID");
        assert_eq!(refused.header("range"), Some("0-39999"));
        assert_eq!(refused.header("location"), Some(upload.as_str()));
    }
    patch("40000-49998", &content[40_000..50_000]).expect_error(400, "SIZE_INVALID");
    patch("40000-", &content[40_000..50_000]).expect_error(400, "BLOB_UPLOAD_INVALID");
    patch("40000-69999", &content[40_000..70_000]).expect(202);

    let status = client.get(&upload).expect(204);
    assert_eq!(status.header("range"), Some("0-69999"));
    let put = format!("{upload}?digest={digest}");
    client.send("PUT", &put, &[("content-range", "60000-99999")], &content[60_000..]).expect(416);
    client.send("PUT", &put, &[("content-range", "70000-99999")], &content[70_000..]).expect(201);
    check_stored(&mut client, "web", &digest, &content);
    client.get(&upload).expect_error(404, "BLOB_UPLOAD_UNKNOWN");
}

#[test]
fn a_body_of_unknown_length_goes_at_the_end() {
    let registry = Registry::in_memory();
    let mut client = registry.client();
    let upload = client.begin_upload("web");
    let mut connection = client.begin("PATCH", &upload, &[("transfer-encoding", "chunked")]).unwrap();
    connection.get_mut().write_all(b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n").unwrap();
    let reply = read_reply(&mut connection, "PATCH").unwrap().expect(202);
    assert_eq!(reply.header("range"), Some("0-4"));
    let digest = Digest::sha256(b"abcde");
    client.send("PUT", &format!("{upload}?digest={digest}"), &[], b"").expect(201);
    check_stored(&mut client, "web", &digest, b"abcde");
}

#[test]
fn an_upload_goes_on_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let start = || Registry::start(Arc::new(FolderStorage::open(folder.path()).unwrap()), Limits::default());
    let content = noise(5, 3_000_000);
    let digest = Digest::sha256(&content);
    let registry = start();
    let upload = registry.client().begin_upload("web");
    registry.client().send("PATCH", &upload, &[], &content[..1_000_000]).expect(202);
    drop(registry);

    let registry = start();
    let mut client = registry.client();
    assert_eq!(client.get(&upload).expect(204).header("range"), Some("0-999999"));
    client.send("PATCH", &upload, &[("content-range", "1000000-1999999")], &content[1_000_000..2_000_000]);
    drop(registry);

    let registry = start();
    let mut client = registry.client();
    client.send("PUT", &format!("{upload}?digest={digest}"), &[], &content[2_000_000..]).expect(201);
    check_stored(&mut client, "web", &digest, &content);
}

#[test]
fn what_arrived_before_the_connection_broke_is_kept() {
    let registry = Registry::in_memory();
    let mut client = registry.client();
    let content = noise(6, 500_000);
    let digest = Digest::sha256(&content);
    let upload = client.begin_upload("web");
    let put = format!("{upload}?digest={digest}");
    let mut connection = client.begin_body("PUT", &put, 500_000);
    connection.get_mut().write_all(&content[..300_000]).unwrap();
    drop(connection);
    // The client goes on where it is told to, until the server has all that the broken request brought.
    loop {
        let range = client.get(&upload).expect(204).header("range").unwrap().to_owned();
        let next = match range.strip_prefix("0-").unwrap().parse::<usize>().unwrap() {
            0 => 0, // nothing and one byte look the same
            last => last + 1,
        };
        assert!(next <= 300_000);
        let content_range = format!("{next}-499999");
        let reply = client.send("PUT", &put, &[("content-range", &content_range)], &content[next..]);
        if reply.status == 201 {
            break;
        }
        reply.expect_error(416, "BLOB_UPLOAD_INVALID");
    }
    check_stored(&mut client, "web", &digest, &content);
}

#[test]
fn a_newer_request_takes_over_from_one_that_hangs() {
    let registry = Registry::in_memory();
    let mut client = registry.client();
    let upload = client.begin_upload("web");
    let mut hanging = client.begin_body("PATCH", &upload, 10);
    let digest = Digest::sha256(b"whole");
    registry.client().send("PUT", &format!("{upload}?digest={digest}"), &[], b"whole").expect(201);
    read_reply(&mut hanging, "PATCH").unwrap().expect_error(409, "BLOB_UPLOAD_INVALID");
    check_stored(&mut client, "web", &digest, b"whole");
}

#[test]
fn content_that_is_not_what_its_digest_says_is_not_stored() {
    let registry = Registry::in_memory();
    let mut client = registry.client();
    let promised = Digest::sha256(b"promised");
    let upload = client.begin_upload("web");
    let put = format!("{upload}?digest={promised}");
    let refused = client.send("PUT", &put, &[], b"found").expect_error(400, "DIGEST_INVALID");
    assert!(String::from_utf8_lossy(&refused.body).contains(&Digest::sha256(b"found").to_string()));
    client.get(&upload).expect(404);
    client.send("POST", &format!("/v2/web/blobs/uploads/?digest={promised}"), &[], b"found").expect(400);
    for digest in [promised, Digest::sha256(b"found")] {
        client.get(&blob_path("web", &digest)).expect_error(404, "BLOB_UNKNOWN");
    }
}

#[test]
fn an_upload_can_be_cancelled_and_is_known_in_its_repository_only() {
    let registry = Registry::in_memory();
    let mut client = registry.client();
    let upload = client.begin_upload("web");
    let elsewhere = upload.replace("/web/", "/other/");
    for method in ["GET", "PATCH", "DELETE"] {
        client.send(method, &elsewhere, &[], b"").expect_error(404, "BLOB_UPLOAD_UNKNOWN");
    }
    client.send("DELETE", &upload, &[], b"").expect(204);
    for method in ["GET", "PATCH", "DELETE"] {
        client.send(method, &upload, &[], b"").expect_error(404, "BLOB_UPLOAD_UNKNOWN");
    }
}

#[test]
fn a_blob_is_mounted_from_another_repository_or_uploaded() {
    let registry = Registry::in_memory();
    let mut client = registry.client();
    let digest = client.push_blob("a", b"shared");
    client.get(&blob_path("b", &digest)).expect_error(404, "BLOB_UNKNOWN");
    let mount = |digest: &Digest, from: &str| format!("/v2/b/blobs/uploads/?mount={digest}&from={from}");
    let mut post = |path: String| client.send("POST", &path, &[], b"");
    let other = Digest::sha256(b"nobody has this");
    assert!(
        post(mount(&other, "a")).expect(202).header("location").unwrap().contains("/v2/b/blobs/uploads/")
    );
    post(mount(&digest, "none")).expect(202);
    post(format!("/v2/b/blobs/uploads/?mount={other}")).expect(202);
    post(mount(&digest, "../a")).expect_error(400, "NAME_INVALID");
    post("/v2/b/blobs/uploads/?mount=x&from=a".to_owned()).expect_error(400, "DIGEST_INVALID");
    let mounted = post(mount(&digest, "a")).expect(201);
    assert_eq!(mounted.header("location"), Some(blob_path("b", &digest).as_str()));
    check_stored(&mut client, "b", &digest, b"shared");
    // Without a source, whoever has it will do.
    client.send("POST", &format!("/v2/c/blobs/uploads/?mount={digest}"), &[], b"").expect(201);
    check_stored(&mut client, "c", &digest, b"shared");
}

#[test]
fn a_blob_is_deleted_from_one_repository() {
    let registry = Registry::in_memory();
    let mut client = registry.client();
    let digest = client.push_blob("a", b"shared");
    client.push_blob("b", b"shared");
    client.send("DELETE", &blob_path("a", &digest), &[], b"").expect(202);
    client.send("DELETE", &blob_path("a", &digest), &[], b"").expect_error(404, "BLOB_UNKNOWN");
    client.get(&blob_path("a", &digest)).expect_error(404, "BLOB_UNKNOWN");
    check_stored(&mut client, "b", &digest, b"shared");
}

#[test]
fn any_part_of_a_blob_can_be_read() {
    let registry = Registry::in_memory();
    let mut client = registry.client();
    let content = noise(7, 1_000_000);
    let path = blob_path("web", &client.push_blob("web", &content));
    let mut get = |range: &str| client.send("GET", &path, &[("range", range)], b"");
    for (range, first, last) in [
        ("bytes=0-9", 0, 9),
        ("bytes=999999-", 999_999, 999_999),
        ("bytes=-1", 999_999, 999_999),
        ("bytes=300000-700000", 300_000, 700_000),
        ("bytes=500000-9999999999", 500_000, 999_999),
        ("bytes=-9999999999", 0, 999_999),
    ] {
        let part = get(range).expect(206);
        assert!(part.body == content[first..=last], "{range}");
        assert_eq!(part.header("content-range"), Some(format!("bytes {first}-{last}/1000000").as_str()));
    }
    for range in ["bytes=1000000-", "bytes=-0"] {
        let refused = get(range).expect_error(416, "SIZE_INVALID");
        assert_eq!(refused.header("content-range"), Some("bytes */1000000"));
    }
    for range in ["bytes=0-1,5-6", "bytes=9-0", "lines=1-2"] {
        let whole = get(range).expect(200);
        assert_eq!((whole.body.len(), whole.header("accept-ranges")), (1_000_000, Some("bytes")));
    }
}

#[test]
fn a_client_that_has_the_blob_is_told_so() {
    let registry = Registry::in_memory();
    let mut client = registry.client();
    let path = blob_path("web", &client.push_blob("web", b"content"));
    let etag = client.get(&path).header("etag").unwrap().to_owned();
    let mut get = |headers: &[(&str, &str)]| client.send("GET", &path, headers, b"");
    assert_eq!(get(&[("if-none-match", &etag)]).expect(304).body, b"");
    get(&[("if-none-match", "\"other\"")]).expect(200);
    get(&[("if-range", &etag), ("range", "bytes=0-1")]).expect(206);
    get(&[("if-range", "\"other\""), ("range", "bytes=0-1")]).expect(200);
}

#[test]
fn a_blob_is_as_large_as_the_limit_at_most() {
    let limits = Limits { blob_bytes: 1000, ..Limits::default() };
    let registry = Registry::start(Arc::new(blob_store::MemoryStorage::new()), limits);
    let mut client = registry.client();
    client.push_blob("web", &[1; 1000]);
    let digest = Digest::sha256(&[1; 1001]);
    let post = format!("/v2/web/blobs/uploads/?digest={digest}");
    client.send("POST", &post, &[], &[1; 1001]).expect_error(413, "SIZE_INVALID");
    let upload = client.begin_upload("web");
    client.send("PATCH", &upload, &[], &[1; 600]).expect(202);
    client.send("PATCH", &upload, &[], &[1; 600]).expect_error(413, "SIZE_INVALID");
    assert_eq!(client.get(&upload).header("range"), Some("0-599"));
}

#[test]
fn abandoned_uploads_are_forgotten_and_too_many_are_refused() {
    let limits = Limits { open_uploads: 2, upload_expiry: Duration::ZERO, ..Limits::default() };
    let registry = Registry::start(Arc::new(blob_store::MemoryStorage::new()), limits);
    let mut client = registry.client();
    let upload = client.begin_upload("web");
    wait::until("it is forgotten", || (client.get(&upload).status == 404).then_some(()));
    assert!(registry.events.recv_timeout(wait::LIMIT).unwrap().contains("UploadsExpired"));
    drop(registry);

    let limits = Limits { open_uploads: 2, ..Limits::default() };
    let registry = Registry::start(Arc::new(blob_store::MemoryStorage::new()), limits);
    let mut client = registry.client();
    let first = client.begin_upload("web");
    client.begin_upload("web");
    let refused = client.send("POST", "/v2/web/blobs/uploads/", &[], b"");
    assert!(refused.expect_error(429, "TOOMANYREQUESTS").header("retry-after").is_some());
    client.send("DELETE", &first, &[], b"").expect(204);
    client.begin_upload("web");
}
