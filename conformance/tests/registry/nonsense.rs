//! Servers that are no registries: each check must notice, and none may wait for ever.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use conformance::Outcome;
use conformance::registry::{Findings, SuiteError, run};

use crate::{findings, only, options};

/// A server that does this with each connection. It ends with the test's process.
fn serve(answer: fn(TcpStream)) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for socket in listener.incoming().map_while(Result::ok) {
            thread::spawn(move || answer(socket));
        }
    });
    format!("http://{address}")
}

/// Reads the head of a request and says this.
fn say(mut socket: TcpStream, answer: &str) {
    let mut head = [0; 4096];
    // Clients may have gone.
    let _ = socket.read(&mut head).and_then(|_| socket.write_all(answer.as_bytes()));
}

fn names(findings: &Findings, outcome: Outcome) -> Vec<&'static str> {
    findings.all.iter().filter(|finding| finding.outcome == outcome).map(|finding| finding.check).collect()
}

/// What does not even need a registry: there is nothing wrong with an answer of 200 to it.
fn assert_few_pass(findings: &Findings, most: usize) {
    let passed = names(findings, Outcome::Pass);
    assert!(passed.len() <= most, "{passed:#?}");
    assert!(findings.count(Outcome::Fail) > 250, "{}", findings.summary());
}

#[test]
fn yes_to_everything_is_not_a_registry() {
    let url = serve(|socket| {
        let digest = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        say(
            socket,
            &format!(
                "HTTP/1.1 200 OK\r\nDocker-Content-Digest: {digest}\r\nLocation: /v2/x\r\nContent-Length: 2\r\n\r\n{{}}"
            ),
        );
    });
    assert_few_pass(&findings(&options(url)), 12);
}

#[test]
fn no_to_everything_is_not_a_registry() {
    let url = serve(|socket| say(socket, "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"));
    let found = findings(&options(url));
    assert!(found.count(Outcome::Fail) > 200, "{}", found.summary());
    assert!(names(&found, Outcome::Fail).contains(&"base-is-answered"));
}

#[test]
fn a_failing_server_fails_by_its_answers_of_500() {
    let url = serve(|socket| say(socket, "HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n"));
    let found = findings(&options(url));
    assert_few_pass(&found, 6);
    assert!(names(&found, Outcome::Fail).contains(&"conduct-no-server-error"));
}

#[test]
fn a_server_that_hangs_fails_and_is_not_waited_for_again_and_again() {
    let url = serve(|socket| {
        let _open = socket;
        thread::park();
    });
    let mut options = options(url);
    options.limit = Duration::from_millis(200);
    let found = findings(&options);
    assert_eq!(found.count(Outcome::Fail), found.all.len());
    let silent = found.all.iter().filter(|finding| finding.remark.contains("no whole answer within")).count();
    assert!(silent > 0 && silent < 20, "{silent} checks waited");
}

#[test]
fn a_server_that_drips_fails_at_the_limit() {
    let url = serve(|mut socket| {
        let mut head = [0; 4096];
        let _ = socket.read(&mut head).and_then(|_| socket.write_all(b"HTTP/1.1 200 OK\r\n\r\n"));
        while socket.write_all(b"x").is_ok() {
            thread::sleep(Duration::from_millis(20));
        }
    });
    let mut options = only(url, &["support", "pulling-blobs"]);
    options.limit = Duration::from_millis(300);
    let found = findings(&options);
    assert_eq!(found.count(Outcome::Fail), found.all.len());
}

#[test]
fn a_server_that_redirects_in_a_circle_fails() {
    let url = serve(|socket| {
        say(socket, "HTTP/1.1 307 Again\r\nLocation: /v2/\r\nContent-Length: 0\r\n\r\n");
    });
    let error = run(&options(url), &mut |_| {}).unwrap_err();
    assert!(error.to_string().contains("more than 5 redirects"), "{error}");
}

#[test]
fn what_is_no_server_cannot_be_judged() {
    let babble = serve(|socket| say(socket, "220 smtp.example ready\r\n\r\n"));
    let closed = "http://127.0.0.1:1".to_owned(); // no port that anybody is given
    for url in [babble, closed] {
        let error = run(&options(url), &mut |_| {}).unwrap_err();
        assert!(matches!(error, SuiteError::NoRegistry { .. }), "{error}");
    }
    let error = run(&options("registry.example".to_owned()), &mut |_| {}).unwrap_err();
    assert!(matches!(error, SuiteError::Url(_)), "{error}");
}
