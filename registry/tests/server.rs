//! The server itself: what it refuses to do, whom it cuts off, and how it stops.

mod common;

use std::io::{self, BufRead as _, Read, Write};
use std::sync::Arc;
use std::time::Duration;

use appliance::Digest;
use blob_store::{Key, MemoryStorage, Storage as _};
use bytes::Bytes;
use common::{Registry, config, connect, everything, noise, read_reply};
use registry::{Exposure, Limits, ServeError, Server};
use testkit::wait::until;

#[tokio::test]
async fn an_address_that_others_can_reach_is_refused_unless_that_is_meant() {
    for listen in ["0.0.0.0:0", "[::]:0", "192.0.2.1:5000"] {
        let config = config(listen, Limits::default(), Arc::new(()));
        let bound = Server::bind(config, Arc::new(MemoryStorage::new())).await;
        assert!(matches!(bound, Err(ServeError::NotLoopback { .. })), "{bound:?}");
    }
    let mut config = config("0.0.0.0:0", Limits::default(), Arc::new(()));
    config.exposure = Exposure::AnyoneWithoutTls;
    assert_ne!(Server::bind(config, Arc::new(MemoryStorage::new())).await.unwrap().local_addr().port(), 0);
}

#[tokio::test]
async fn a_storage_of_another_layout_is_left_alone() {
    let storage = MemoryStorage::new();
    storage.put_if_absent(&Key::new("layout").unwrap(), Bytes::from("3\n")).await.unwrap();
    let config = config("127.0.0.1:0", Limits::default(), Arc::new(()));
    let error = Server::bind(config, Arc::new(storage)).await.unwrap_err();
    assert_eq!(error.to_string(), "the storage has the layout `3`; this version reads layout 2");
}

#[test]
fn the_base_says_that_this_is_a_registry() {
    let registry = Registry::in_memory();
    let reply = registry.client().get("/v2/").expect(200);
    assert_eq!(reply.body, b"{}");
    assert_eq!(reply.header("docker-distribution-api-version"), Some("registry/2.0"));
}

#[test]
fn bad_requests_get_the_right_error_and_never_500_and_nothing_is_stored() {
    let storage = MemoryStorage::new();
    let registry = Registry::start(Arc::new(storage.clone()), Limits::default());
    let mut client = registry.client();
    let empty = Digest::sha256(b"");
    let upload = client.begin_upload("web");
    let blob = |digest: &str| format!("/v2/web/blobs/{digest}");
    let put = |query: &str| format!("{upload}?{query}");
    let before = everything(&storage);
    for (method, path, status, code) in [
        ("GET", "/".to_owned(), 404, "UNSUPPORTED"),
        ("GET", "/v2/Web/tags/list".to_owned(), 400, "NAME_INVALID"),
        ("GET", "/v2/../../../etc/passwd/tags/list".to_owned(), 400, "NAME_INVALID"),
        ("GET", "/v2/%2e%2e%2f/manifests/x".to_owned(), 400, "NAME_INVALID"),
        ("GET", format!("/v2/{}/tags/list", "a".repeat(256)), 400, "NAME_INVALID"),
        ("GET", "/v2/web/manifests/.x".to_owned(), 400, "MANIFEST_INVALID"),
        ("GET", "/v2/web/manifests/sha256:zz".to_owned(), 400, "DIGEST_INVALID"),
        ("GET", blob("sha256:0"), 400, "DIGEST_INVALID"),
        ("GET", blob("md5:d41d8cd98f00b204e9800998ecf8427e"), 400, "DIGEST_INVALID"),
        ("GET", blob("sha256:../../../etc/passwd"), 404, "UNSUPPORTED"),
        ("GET", blob(&empty.to_string()), 404, "BLOB_UNKNOWN"),
        ("GET", "/v2/web/blobs/uploads/".to_owned(), 405, "UNSUPPORTED"),
        ("GET", "/v2/web/blobs/uploads/1".to_owned(), 404, "BLOB_UPLOAD_UNKNOWN"),
        ("PATCH", format!("/v2/web/blobs/uploads/{}", "0".repeat(32)), 404, "BLOB_UPLOAD_UNKNOWN"),
        ("PUT", upload.clone(), 400, "DIGEST_INVALID"),
        ("PUT", put("digest="), 400, "DIGEST_INVALID"),
        ("PUT", put("digest=sha256:00"), 400, "DIGEST_INVALID"),
        ("POST", "/v2/web/blobs/uploads/?digest=x".to_owned(), 400, "DIGEST_INVALID"),
        ("DELETE", blob(&empty.to_string()), 404, "BLOB_UNKNOWN"),
        ("DELETE", "/v2/web/manifests/x".to_owned(), 404, "MANIFEST_UNKNOWN"),
        ("DELETE", "/v2/web/tags/list".to_owned(), 405, "UNSUPPORTED"),
        ("POST", "/v2/".to_owned(), 405, "UNSUPPORTED"),
        ("BREW", "/v2/web/tags/list".to_owned(), 405, "UNSUPPORTED"),
    ] {
        let reply = client.send(method, &path, &[], b"");
        assert_eq!((reply.status, reply.code().as_str()), (status, code), "{method} {path}");
        assert_eq!(reply.header("allow").is_some(), status == 405, "{method} {path}");
    }
    assert_eq!(everything(&storage), before);
    assert_eq!(before.1.len(), 1, "the upload is open, as it was");
    client.get(&upload).expect(204);
    assert!(registry.events.try_recv().is_err(), "a client's mistake is no failure of the server");
}

#[test]
fn what_is_not_http_is_answered_or_cut_off() {
    let registry = Registry::in_memory();
    for bytes in ["\0\0\0\0\r\n\r\n", "GET /v2/ HTTP/9.9\r\n\r\n", "\r\n\r\n\r\nx\r\n\r\n"] {
        let mut connection = connect(registry.addr).unwrap();
        connection.write_all(bytes.as_bytes()).unwrap();
        let mut answer = Vec::new();
        // A reset is as good as an end.
        let _ = connection.read_to_end(&mut answer);
        assert!(!answer.starts_with(b"HTTP/1.1 2") && !answer.starts_with(b"HTTP/1.1 5"), "{bytes:?}");
    }
    registry.client().get("/v2/").expect(200);
}

#[test]
fn silent_and_slow_clients_are_cut_off_and_others_are_served() {
    let storage = MemoryStorage::new();
    let patient = Registry::start(Arc::new(storage.clone()), Limits::default());
    let short = Duration::from_millis(100);
    let limits = Limits { head_timeout: short, body_window: short, ..Limits::default() };
    let strict = Registry::start(Arc::new(storage), limits);
    let upload = patient.client().begin_upload("web");

    let mut silent = connect(strict.addr).unwrap();
    let mut dribbling = connect(strict.addr).unwrap();
    dribbling.write_all(b"GET /v2/ HT").unwrap();
    // On a busy machine an honest client may be too slow for these limits now and then.
    until("one is served", || strict.client().try_send("GET", "/v2/", &[], b"").ok());
    let cut_off = || {
        let mut slow = strict.client().begin("PATCH", &upload, &[("content-length", "10")])?;
        slow.get_mut().write_all(b"x")?;
        read_reply(&mut slow, "PATCH")
    };
    until("one is told why", || cut_off().ok()).expect_error(408, "SIZE_INVALID");
    for connection in [&mut silent, &mut dribbling] {
        let mut answer = Vec::new();
        // A reset is as good as an end.
        let _ = connection.read_to_end(&mut answer);
        assert!(!answer.starts_with(b"HTTP/1.1 200"));
    }
}

#[test]
fn a_client_that_does_not_read_its_answer_is_cut_off() {
    let storage = MemoryStorage::new();
    let patient = Registry::start(Arc::new(storage.clone()), Limits::default());
    // More than the kernel's buffers take.
    let content = noise(1, 32 << 20);
    let digest = patient.client().push_blob("web", &content);

    let limits = Limits { body_window: Duration::from_millis(100), ..Limits::default() };
    let strict = Registry::start(Arc::new(storage), limits);
    let mut connection = strict.client().begin("GET", &format!("/v2/web/blobs/{digest}"), &[]).unwrap();
    // The server does not stop before it has given this connection up, or thirty seconds are over.
    drop(strict);
    let mut answer = Vec::new();
    let _ = connection.read_to_end(&mut answer);
    assert!(answer.len() < content.len());
}

/// So many pauses, a quarter of a window each, are longer than three windows.
const PAUSES: usize = 14;

/// Tries windows that are longer and longer: on a busy machine, a client that means well may stop for a
/// window now and then. A limit on the time in all would end each of the attempts.
fn succeeds(attempt: impl Fn(Duration) -> io::Result<bool>) -> bool {
    (0..6).any(|n| attempt(Duration::from_millis(200) * (1 << n)).unwrap_or(false))
}

#[test]
fn an_upload_that_is_slow_and_never_stops_may_take_as_long_as_it_likes() {
    let storage = MemoryStorage::new();
    let content = noise(1, PAUSES);
    let path = format!("/v2/web/blobs/uploads/?digest={}", Digest::sha256(&content));
    let attempt = |window| {
        let limits = Limits { body_window: window, body_floor_bytes: 1, ..Limits::default() };
        let strict = Registry::start(Arc::new(storage.clone()), limits);
        let length = [("content-length", &*content.len().to_string())];
        let mut connection = strict.client().begin("POST", &path, &length)?;
        for byte in &content {
            std::thread::sleep(window / 4);
            connection.get_mut().write_all(&[*byte])?;
        }
        Ok(read_reply(&mut connection, "POST")?.status == 201)
    };
    assert!(succeeds(attempt));
    let blob = format!("/v2/web/blobs/{}", Digest::sha256(&content));
    let registry = Registry::start(Arc::new(storage), Limits::default());
    assert_eq!(registry.client().get(&blob).expect(200).body, content);
}

#[test]
fn a_client_that_reads_slowly_and_never_stops_gets_all_of_a_large_blob() {
    let storage = MemoryStorage::new();
    let patient = Registry::start(Arc::new(storage.clone()), Limits::default());
    // Several times what the kernel's buffers take, so that the server waits for its client.
    let content = noise(1, 32 << 20);
    let path = format!("/v2/web/blobs/{}", patient.client().push_blob("web", &content));
    let attempt = |window| {
        let limits = Limits { body_window: window, ..Limits::default() };
        let strict = Registry::start(Arc::new(storage.clone()), limits);
        let mut connection = strict.client().begin("GET", &path, &[])?;
        let mut line = String::new();
        while line != "\r\n" {
            line.clear();
            connection.read_line(&mut line)?;
        }
        let mut got = vec![0; content.len()];
        for part in got.chunks_mut(content.len().div_ceil(2 * PAUSES)) {
            std::thread::sleep(window / 4);
            connection.read_exact(part)?;
        }
        Ok(got == content)
    };
    assert!(succeeds(attempt));
}

#[test]
fn connections_beyond_the_limit_wait_for_their_turn() {
    let limits = Limits { connections: 1, ..Limits::default() };
    let registry = Registry::start(Arc::new(MemoryStorage::new()), limits);
    let mut first = registry.client();
    first.get("/v2/").expect(200);
    let mut second = registry.client().begin("GET", "/v2/", &[]).unwrap();
    first.get("/v2/").expect(200);
    drop(first);
    read_reply(&mut second, "GET").unwrap().expect(200);
}

#[test]
fn a_request_under_way_is_finished_before_the_server_stops() {
    let mut registry = Registry::in_memory();
    let mut client = registry.client();
    let upload = client.begin_upload("web");
    let digest = Digest::sha256(b"0123456789");
    let path = format!("{upload}?digest={digest}");
    let mut connection = client.begin_body("PUT", &path, 10);
    registry.begin_stop();
    // The listener is closed before anything else happens.
    until("nobody listens", || connect(registry.addr).err());
    connection.get_mut().write_all(b"0123456789").unwrap();
    read_reply(&mut connection, "PUT").unwrap().expect(201);
    drop(registry);
}

#[test]
fn a_server_that_stops_lets_go_of_bodies_that_are_still_arriving() {
    let limits = Limits { drain: Duration::ZERO, ..Limits::default() };
    let registry = Registry::start(Arc::new(MemoryStorage::new()), limits);
    let mut client = registry.client();
    let upload = client.begin_upload("web");
    let mut connection = client.begin_body("PATCH", &upload, 10);
    drop(registry);
    let mut answer = Vec::new();
    let _ = connection.read_to_end(&mut answer);
    assert!(answer.is_empty(), "{answer:?}");
}
