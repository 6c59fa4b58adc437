//! A registry that is good as far as it goes, behind a proxy that falsifies its answers: the checks about just that fail.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::thread;

use conformance::Outcome;
use conformance::registry::{Findings, Options, User};

use crate::servers::Server;
use crate::{findings, only, outcome};

/// An answer on its way through the proxy.
struct Passing {
    /// Of the request.
    method: String,
    status: String,
    headers: Vec<String>,
    body: Vec<u8>,
}

impl Passing {
    fn is(&self, status: &str) -> bool {
        self.status.starts_with(&format!("HTTP/1.1 {status} "))
    }

    fn set_status(&mut self, status: &str) {
        self.status = format!("HTTP/1.1 {status} Falsified");
    }

    fn has(&self, name: &str) -> bool {
        self.headers.iter().any(|line| line.to_ascii_lowercase().starts_with(&format!("{name}: ")))
    }

    fn drop_header(&mut self, name: &str) {
        self.headers.retain(|line| !line.to_ascii_lowercase().starts_with(&format!("{name}: ")));
    }

    fn set_header(&mut self, name: &str, value: &str) {
        self.drop_header(name);
        self.headers.push(format!("{name}: {value}"));
    }
}

/// What comes before the answer where a client waits for it. No answer is shorter.
const GO_ON: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// Passes everything on to `upstream`, and what comes back through `falsify`. It ends with the test's process.
fn proxy(upstream: String, falsify: fn(&mut Passing)) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            let upstream = TcpStream::connect(&upstream).unwrap();
            // A connection that breaks is the suite's to notice.
            thread::spawn(move || pass(client, upstream, falsify));
        }
    });
    format!("http://{address}")
}

fn pass(mut client: TcpStream, mut upstream: TcpStream, falsify: fn(&mut Passing)) -> std::io::Result<()> {
    let mut first = [0; 8];
    client.peek(&mut first)?;
    let method = String::from_utf8_lossy(&first).split(' ').next().unwrap_or_default().to_owned();
    let (mut from, mut to) = (client.try_clone()?, upstream.try_clone()?);
    thread::spawn(move || {
        let _ = std::io::copy(&mut from, &mut to);
        to.shutdown(Shutdown::Write)
    });
    let mut answer = vec![0; GO_ON.len()];
    upstream.read_exact(&mut answer)?;
    if answer == GO_ON {
        client.write_all(GO_ON)?;
        answer.clear();
    }
    // An upstream that has not read all it was sent ends its answer with a reset.
    let _ = upstream.read_to_end(&mut answer);
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n").unwrap_or(answer.len());
    let head = String::from_utf8_lossy(&answer[..end]).into_owned();
    let mut lines = head.split("\r\n").map(str::to_owned);
    let status = lines.next().unwrap_or_default();
    let body = answer.get(end + 4..).unwrap_or_default().to_vec();
    let mut passing = Passing { method, status, headers: lines.collect(), body };
    falsify(&mut passing);
    let head = format!("{}\r\n{}\r\n\r\n", passing.status, passing.headers.join("\r\n"));
    client.write_all(head.as_bytes())?;
    client.write_all(&passing.body)?;
    client.shutdown(Shutdown::Both)
}

/// With answers falsified so, these checks of the section fail, and these others still pass.
#[track_caller]
fn check(section: &str, falsify: fn(&mut Passing), fail: &[&str], pass: &[&str]) {
    let Some(server) = Server::docker_registry("") else { return };
    let url = proxy(server.address.clone(), falsify);
    compare(&findings(&only(url, &[section, "conduct"])), fail, pass);
}

/// As [`check`], of signing in to a registry that gives tokens.
#[track_caller]
fn check_signing_in(falsify: fn(&mut Passing), fail: &[&str], pass: &[&str]) {
    let user = User { name: "alice".to_owned(), password: "correct horse".to_owned() };
    let Some(server) = Server::hull(Some(&user)) else { return };
    let url = proxy(server.address.clone(), falsify);
    compare(&findings(&Options { user: Some(user), ..only(url, &["signing-in"]) }), fail, pass);
}

#[track_caller]
fn compare(found: &Findings, fail: &[&str], pass: &[&str]) {
    for (wanted, checks) in [(Outcome::Fail, fail), (Outcome::Pass, pass)] {
        for check in checks {
            assert_eq!(outcome(found, check), wanted, "{check}");
        }
    }
}

#[test]
fn nothing_falsified_passes() {
    let all = ["blob", "blob-head", "blob-empty", "blob-large", "blob-unknown", "blob-digest-header"];
    check("pulling-blobs", |_| {}, &[], &all);
}

#[test]
fn another_digest_is_noticed() {
    let falsify = |answer: &mut Passing| {
        if answer.method != "PUT" && answer.has("docker-content-digest") {
            let digest = "sha256:2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae";
            answer.set_header("docker-content-digest", digest);
        }
    };
    check(
        "pulling-blobs",
        falsify,
        &["blob-digest-header", "blob-head"],
        &["blob", "blob-length", "blob-empty"],
    );
    let fail = ["manifest-digest-header", "manifest-head-by-tag", "manifest-head-by-digest"];
    check("pulling-manifests", falsify, &fail, &["manifest-by-tag", "manifest-type"]);
}

#[test]
fn another_content_is_noticed() {
    let falsify = |answer: &mut Passing| {
        if answer.method == "GET" && (answer.is("200") || answer.is("206")) {
            answer.body.iter_mut().take(1).for_each(|byte| *byte ^= 1);
        }
    };
    check("pulling-blobs", falsify, &["blob", "blob-large", "blob-modified"], &["blob-head", "blob-empty"]);
    check(
        "ranges",
        falsify,
        &["range-first-to-last", "range-suffix", "range-joins"],
        &["range-is-advertised"],
    );
    check("pushing-manifests", falsify, &["push-manifest-by-tag", "push-manifest-byte-for-byte"], &[]);
}

#[test]
fn content_that_ends_too_early_is_noticed() {
    let falsify = |answer: &mut Passing| {
        // All but the answer to `GET /v2/`, without which nothing would be tried.
        if answer.is("200") && answer.body.len() > 2 {
            answer.body.pop();
        }
    };
    check("pulling-blobs", falsify, &["blob", "blob-large"], &["blob-head", "blob-unknown", "blob-empty"]);
}

#[test]
fn what_is_not_there_and_yet_found_is_noticed() {
    let falsify = |answer: &mut Passing| {
        if answer.is("404") {
            answer.set_status("200");
        }
    };
    let fail = ["blob-unknown", "blob-unknown-repository", "blob-of-another-repository", "blob-head-unknown"];
    check("pulling-blobs", falsify, &fail, &["blob", "blob-head"]);
    check("deletion", falsify, &["delete-blob", "delete-blob-unknown", "delete-manifest"], &[]);
    check("names", falsify, &["name-upper-case", "tag-malformed", "digest-malformed-blob"], &["name-nested"]);
}

#[test]
fn a_body_after_a_head_is_noticed() {
    let falsify = |answer: &mut Passing| {
        if answer.method == "HEAD" {
            answer.body = b"x".to_vec();
        }
    };
    check("pulling-blobs", falsify, &["blob-head", "blob-head-unknown"], &["blob"]);
}

#[test]
fn missing_and_wrong_headers_are_noticed() {
    let no_location = |answer: &mut Passing| answer.drop_header("location");
    let fail = ["upload-begins", "post-put", "upload-location-is-whole"];
    check("pushing-blobs", no_location, &fail, &["put-long-names"]);
    check("pushing-manifests", no_location, &["push-manifest-location"], &[]);

    let range = |answer: &mut Passing| {
        if answer.has("range") {
            answer.set_header("range", "0-7");
        }
    };
    let fail = ["chunk-range-header", "chunks-status", "chunk-stream"];
    check("chunks", range, &fail, &["chunk-one", "chunks-in-order"]);

    let content_range = |answer: &mut Passing| {
        if answer.has("content-range") {
            answer.set_header("content-range", "bytes 1-2/3");
        }
    };
    check("ranges", content_range, &["range-first-to-last", "range-from"], &["range-is-advertised"]);

    let warning = |answer: &mut Passing| answer.set_header("warning", "199 cache \"stale\"");
    check("support", warning, &["conduct-warnings"], &["base-is-answered"]);
}

#[test]
fn other_statuses_and_codes_are_noticed() {
    let not_created = |answer: &mut Passing| {
        if answer.is("201") {
            answer.set_status("200");
        }
    };
    check("mounts", not_created, &["mount", "mount-location", "mount-unknown-blob"], &[]);

    let accepted = |answer: &mut Passing| {
        if answer.is("400") {
            answer.set_status("500");
        }
    };
    let fail = ["put-wrong-digest", "put-malformed-digest", "conduct-no-server-error"];
    check("pushing-blobs", accepted, &fail, &["post-put"]);

    let code = |answer: &mut Passing| {
        let text = String::from_utf8_lossy(&answer.body).replace("BLOB_UNKNOWN", "Blob-unknown");
        answer.body = text.into_bytes();
    };
    check("errors", code, &["error-blob-unknown", "conduct-error-format"], &["error-manifest-unknown"]);
}

#[test]
fn tags_out_of_order_or_missing_are_noticed() {
    let falsify = |answer: &mut Passing| {
        let text = String::from_utf8_lossy(&answer.body).replace("[\"", "[\"zz\",\"");
        if answer.body != text.as_bytes() {
            answer.set_header("content-length", &text.len().to_string());
            answer.body = text.into_bytes();
        }
    };
    check(
        "tags",
        falsify,
        &["tags-list", "tags-order", "tags-once-each", "tags-n-of-all"],
        &["tags-unknown-repository"],
    );
}

#[test]
fn who_gets_in_with_a_token_for_something_else_is_noticed() {
    let let_in = |answer: &mut Passing| {
        let is_refused = answer.headers.iter().any(|line| line.contains(",error=\""));
        if answer.method == "POST" && is_refused {
            answer.set_status("202");
        }
    };
    let fail = ["token-of-another-repository", "token-of-another-action", "token-forged"];
    check_signing_in(let_in, &fail, &["signing-in", "signing-in-challenge", "token-is-given"]);
}

#[test]
fn tokens_that_are_not_given_or_not_asked_for_rightly_are_noticed() {
    let no_token = |answer: &mut Passing| {
        let text = String::from_utf8_lossy(&answer.body).replace("token\":", "taken\":");
        answer.body = text.into_bytes();
    };
    check_signing_in(no_token, &["token-is-given"], &["signing-in-challenge"]);

    let pull_only = |answer: &mut Passing| {
        for line in &mut answer.headers {
            *line = line.replace(":pull,push\"", ":pull\"");
        }
    };
    check_signing_in(pull_only, &["token-scope-is-asked-for"], &["token-is-given"]);

    let no_realm = |answer: &mut Passing| answer.drop_header("www-authenticate");
    check_signing_in(no_realm, &["signing-in-challenge", "signing-in-scheme"], &[]);
}
