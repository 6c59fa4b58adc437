//! What those who run the server see of it: probes, counters, requests, and how it stops.

mod common;

use std::collections::HashSet;
use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use appliance::Digest;
use blob_store::{MemoryStorage, Storage};
use common::{Client, Registry, Reply, connect, figure, read_reply};
use registry::{Event, Limits, Observer, ServerConfig};
use testkit::wait::{LIMIT, until};

/// A registry with a port for operations.
fn start(storage: Arc<dyn Storage>, configure: impl FnOnce(&mut ServerConfig)) -> Registry {
    Registry::configured(storage, Limits::default(), |config| {
        config.operations = Some("127.0.0.1:0".parse().unwrap());
        configure(config);
    })
}

fn ask(registry: &Registry, path: &str) -> Reply {
    Client::new(registry.operations_addr.unwrap()).send("GET", path, &[], b"")
}

/// Waits until `path` is answered with `status`, and returns the answer's text.
fn wait_for(registry: &Registry, path: &str, status: u16) -> String {
    let reply =
        until("it is answered so", || Some(ask(registry, path)).filter(|reply| reply.status == status));
    String::from_utf8(reply.body).unwrap()
}

/// Waits until a counter is `value`.
#[track_caller]
fn wait_for_count(registry: &Registry, series: &str, value: f64) {
    until(series, || (count(registry, series) == value).then_some(()));
}

/// The value of a counter.
#[track_caller]
fn count(registry: &Registry, series: &str) -> f64 {
    let text = String::from_utf8(ask(registry, "/metrics").expect(200).body).unwrap();
    let found = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    found.map_or(0.0, |value| value.parse().unwrap())
}

#[test]
fn probes_and_counters_have_a_port_of_their_own() {
    let registry = start(Arc::new(MemoryStorage::new()), |_| {});
    assert_eq!(ask(&registry, "/livez").expect(200).body, b"ok\n");
    assert_eq!(ask(&registry, "/readyz").expect(200).body, b"ok\n");
    ask(&registry, "/v2/").expect(404);
    ask(&registry, "/").expect(404);
    let mut client = Client::new(registry.operations_addr.unwrap());
    assert_eq!(client.send("POST", "/livez", &[], b"").expect(405).header("allow"), Some("GET, HEAD"));
    registry.client().get("/livez").expect_error(404, "UNSUPPORTED");
    registry.client().get("/metrics").expect_error(404, "UNSUPPORTED");
    let metrics = ask(&registry, "/metrics").expect(200);
    let media_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    assert_eq!(metrics.header("content-type"), Some(media_type));
}

#[test]
fn what_clients_do_is_counted() {
    let registry = start(Arc::new(MemoryStorage::new()), |_| {});
    let mut client = registry.client();
    client.push_blob("web", b"0123456789");
    client.begin_upload("web");
    let blob = format!("/v2/web/blobs/{}", Digest::sha256(b"0123456789"));
    client.get(&blob).expect(200);
    client.get("/v2/web/manifests/secret-name").expect(404);
    client.send("BREW", "/pot", &[], b"").expect(404);
    let of = |method: &str, route: &str, status: u16| {
        let labels = format!("method=\"{method}\",route=\"{route}\",status=\"{status}\"");
        format!("hull_registry_requests_total{{{labels}}}")
    };
    // The last answer may arrive before it is counted.
    wait_for_count(&registry, &of("other", "other", 404), 1.0);
    for (series, want) in [
        (of("GET", "/v2/<name>/blobs/<digest>", 200), 1.0),
        (of("GET", "/v2/<name>/manifests/<reference>", 404), 1.0),
        (of("POST", "/v2/<name>/blobs/uploads/", 202), 2.0),
        (of("PUT", "/v2/<name>/blobs/uploads/<id>", 201), 1.0),
        ("hull_registry_blobs_pushed_total".to_owned(), 1.0),
        ("hull_registry_received_bytes_total".to_owned(), 10.0),
        ("hull_registry_uploads_open".to_owned(), 1.0),
        ("hull_registry_connections".to_owned(), 1.0),
        ("hull_registry_storage_errors_total".to_owned(), 0.0),
    ] {
        assert_eq!(count(&registry, &series), want, "{series}");
    }
    assert!(count(&registry, "hull_registry_sent_bytes_total") > 10.0);
    let text = String::from_utf8(ask(&registry, "/metrics").body).unwrap();
    assert!(!text.contains("web") && !text.contains("secret-name"), "{text}");
    drop(client);
    wait_for_count(&registry, "hull_registry_connections", 0.0);
}

#[test]
fn a_server_that_stops_says_so_and_finishes_an_upload_under_way() {
    let limits = Limits { drain: Duration::from_secs(3600), ..Limits::default() };
    let mut registry = start(Arc::new(MemoryStorage::new()), |config| config.limits = limits);
    let mut client = registry.client();
    let upload = client.begin_upload("web");
    let mut idle = registry.client();
    idle.get("/v2/").expect(200);
    let path = format!("{upload}?digest={}", Digest::sha256(b"0123456789"));
    let mut connection = client.begin_body("PUT", &path, 10);
    connection.get_mut().write_all(b"01234").unwrap();
    let received = "hull_registry_requests_total";
    assert_eq!(count(&registry, received), 0.0); // the request is not over
    registry.begin_stop();
    assert_eq!(wait_for(&registry, "/readyz", 503), "the server is stopping\n");
    ask(&registry, "/livez").expect(200);
    until("nobody listens", || connect(registry.addr).err());
    // A connection that waits for its next request is closed, once its thread has heard of it.
    until("it is closed", || idle.try_send("GET", "/v2/", &[], b"").err());
    connection.get_mut().write_all(b"56789").unwrap();
    read_reply(&mut connection, "PUT").unwrap().expect(201);
    let operations = registry.operations_addr.unwrap();
    drop(registry);
    assert!(connect(operations).is_err());
}

/// What a test wants to know of a request.
#[derive(Debug, Default)]
struct Seen(Mutex<Vec<String>>, Mutex<HashSet<String>>);

impl Observer for Seen {
    fn observe(&self, event: &Event<'_>) {
        let Event::RequestAnswered { request } = event else { return };
        let line = format!(
            "{} {} {} {:?} {:?} in {} out {} {}",
            request.method(),
            request.route(),
            request.path(),
            request.repository(),
            request.status(),
            request.received_bytes(),
            request.sent_bytes(),
            if request.is_sent() { "sent" } else { "cut off" },
        );
        self.0.lock().unwrap().push(line);
        assert_eq!(request.user_agent(), Some("test/1"));
        assert!(request.peer().ip().is_loopback());
        assert!(self.1.lock().unwrap().insert(request.id().to_owned()), "a name comes twice");
    }
}

#[test]
fn each_request_is_observed_once_with_what_became_of_it() {
    let seen = Arc::new(Seen::default());
    let observer: Arc<dyn Observer> = Arc::clone(&seen) as _;
    let registry = Registry::configured(Arc::new(MemoryStorage::new()), Limits::default(), |config| {
        config.observer = observer;
    });
    let agent = ("user-agent", "test/1");
    let mut client = registry.client();
    let post = client.send("POST", "/v2/web/blobs/uploads/?x=secret", &[agent], b"").expect(202);
    let upload = post.header("location").unwrap().to_owned();
    let put = format!("{upload}?digest={}", Digest::sha256(b"0123456789"));
    let put = client.send("PUT", &put, &[agent], b"0123456789").expect(201);
    assert!(seen.1.lock().unwrap().contains(post.header("x-request-id").unwrap()));
    assert_ne!(post.header("x-request-id"), put.header("x-request-id"));
    assert_eq!(put.header("strict-transport-security"), None);
    let blob = format!("/v2/web/blobs/{}", Digest::sha256(b"0123456789"));
    client.send("GET", &blob, &[agent], b"").expect(200);
    client.send("HEAD", &blob, &[agent], b"").expect(200);
    client.send("GET", "/else?where", &[agent, ("authorization", "Basic secret")], b"").expect(404);
    // One whose client goes away before there is an answer.
    let mut gone = client.begin("PATCH", &upload, &[agent, ("content-length", "9")]).unwrap();
    gone.get_mut().write_all(b"123").unwrap();
    drop(gone);
    until("all are observed", || (seen.0.lock().unwrap().len() == 6).then_some(()));
    drop(registry);
    let mut lines = std::mem::take(&mut *seen.0.lock().unwrap());
    let unanswered = lines.pop().unwrap();
    assert!(unanswered.starts_with("PATCH /v2/<name>/blobs/uploads/<id> "), "{unanswered}");
    let lines = lines.join("\n");
    let digest = Digest::sha256(b"0123456789");
    assert_eq!(
        lines.replace(&digest.to_string(), "DIGEST"),
        "POST /v2/<name>/blobs/uploads/ /v2/web/blobs/uploads/... Some(\"web\") Some(202) in 0 out 0 sent\n\
         PUT /v2/<name>/blobs/uploads/<id> /v2/web/blobs/uploads/... Some(\"web\") Some(201) in 10 out 0 sent\n\
         GET /v2/<name>/blobs/<digest> /v2/web/blobs/DIGEST Some(\"web\") Some(200) in 0 out 10 sent\n\
         HEAD /v2/<name>/blobs/<digest> /v2/web/blobs/DIGEST Some(\"web\") Some(200) in 0 out 0 sent\n\
         GET other /else None Some(404) in 0 out 78 sent"
    );
}

#[test]
fn an_address_gets_no_more_connections_than_its_share() {
    let limits = Limits { connections_per_address: Some(2), ..Limits::default() };
    let registry = Registry::configured(Arc::new(MemoryStorage::new()), limits, |_| {});
    let [mut first, mut second] = [registry.client(), registry.client()];
    first.get("/v2/").expect(200);
    second.get("/v2/").expect(200);
    assert!(registry.client().try_send("GET", "/v2/", &[], b"").is_err());
    let event = registry.events.recv_timeout(Duration::from_secs(20)).unwrap();
    assert!(event.starts_with("ConnectionRefused { peer: 127.0.0.1, limit: 2, is_news: true"), "{event}");
    first.get("/v2/").expect(200);
    drop(second);
    until("there is room again", || registry.client().try_send("GET", "/v2/", &[], b"").ok());
}

#[test]
fn heads_are_as_large_as_the_limits_at_most() {
    let registry = Registry::in_memory();
    let long = |bytes: usize| "x".repeat(bytes);
    let check = |path: &str, headers: &[(&str, &str)], want: u16| {
        let reply = registry.client().send("GET", path, headers, b"");
        assert_eq!(reply.status, want, "{} bytes, {} headers", path.len(), headers.len());
    };
    check(&format!("/v2/?{}", long(8000)), &[], 200);
    check(&format!("/v2/?{}", long(8 << 10)), &[], 414);
    check(&format!("/{}", long(30 << 10)), &[], 414);
    check("/v2/", &[("x", &long(30 << 10))], 200);
    check("/v2/", &[("x", &long(33 << 10))], 431);
    check("/v2/", &vec![("x", "y"); 60], 200);
    check("/v2/", &vec![("x", "y"); 70], 431);
    // A head that never ends is answered as soon as it is too large.
    let mut endless = connect(registry.addr).unwrap();
    let _ = endless.write_all(format!("GET /v2/ HTTP/1.1\r\nx: {}", long(40 << 10)).as_bytes());
    let mut answer = Vec::new();
    let _ = endless.read_to_end(&mut answer);
    assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 431 "), "{}", answer.escape_ascii());
}

#[test]
fn hundreds_of_slow_and_silent_clients_are_cut_off_while_others_are_served() {
    const EACH: usize = 200;
    let limits = Limits { head_timeout: Duration::from_secs(1), ..Limits::default() };
    let registry = start(Arc::new(MemoryStorage::new()), |config| config.limits = limits);
    let open = || connect(registry.addr).unwrap();
    let silent: Vec<_> = (0..EACH).map(|_| open()).collect();
    let mut dribbling: Vec<_> = (0..EACH).map(|_| open()).collect();
    let mut served = 0;
    let mut head = b"GET /v2/ HTTP/1.1\r\nhost: ".iter().chain(std::iter::repeat(&b'a'));
    let began = Instant::now();
    while !dribbling.is_empty() || served == 0 {
        assert!(began.elapsed() < LIMIT, "{} are not cut off, {served} served", dribbling.len());
        let byte = [*head.next().unwrap()];
        dribbling.retain_mut(|stream| stream.write_all(&byte).is_ok());
        // On a busy machine an honest client may be too slow for this limit now and then.
        served += usize::from(registry.client().try_send("GET", "/v2/", &[], b"").is_ok());
    }
    for mut stream in silent {
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        assert!(!answer.starts_with(b"HTTP/1.1 2"), "{}", answer.escape_ascii());
    }
    wait_for_count(&registry, "hull_registry_connections", 0.0);
    let cut_off = 2 * EACH;
    figure(&format!("slow and silent clients cut off = {cut_off}, requests served meanwhile = {served}"));
}

#[test]
fn the_operations_port_cannot_be_one_that_is_taken() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address: SocketAddr = taken.local_addr().unwrap();
    let mut config = common::config("127.0.0.1:0", Limits::default(), Arc::new(()));
    config.operations = Some(address);
    let bound = runtime.block_on(registry::Server::bind(config, Arc::new(MemoryStorage::new())));
    assert_eq!(bound.unwrap_err().to_string(), format!("cannot listen on {address}"));
}
