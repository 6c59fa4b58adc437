//! `registry serve` as those who run it meet it: its settings, its log, how it stops, and its unit.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::support::registry::Guard;
use crate::support::{Done, Host, installed, is_root, wait};

/// `hull registry serve`, with what it says in a file.
#[derive(Debug)]
struct Server {
    process: Guard,
    address: String,
    operations: String,
    log: std::path::PathBuf,
}

impl Server {
    /// Serves with `settings` as its registry.toml, a folder of its own, and free ports.
    fn start(host: &Host, settings: &str, flags: &[&str]) -> Self {
        Self::start_by(host, host.hull([""; 0]), settings, flags)
    }

    /// As [`Server::start`], where `command` is what starts `hull`.
    fn start_by(host: &Host, mut command: Command, settings: &str, flags: &[&str]) -> Self {
        let (config, log) = (host.folder().join("registry.toml"), host.folder().join("log"));
        fs::write(&config, format!("listen = '127.0.0.1:0'\ndata = 'data'\n{settings}")).unwrap();
        command.args(["registry", "serve", "--config"]).arg(config).args(["--operations", "127.0.0.1:0"]);
        command.args(flags).stdout(Stdio::piped()).stderr(fs::File::create(&log).unwrap());
        let mut process = Guard(command.spawn().unwrap());
        let mut lines = BufReader::new(process.0.stdout.take().unwrap()).lines();
        let mut next = || match lines.next() {
            Some(line) => line.unwrap(),
            None => panic!("the server did not start: {}", fs::read_to_string(&log).unwrap()),
        };
        let (address, operations) = (next(), next());
        Self { process, address, operations, log }
    }

    /// Sends a request, and returns the whole answer.
    fn ask(&self, request: &str) -> String {
        ask(&self.address, request)
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.process.0), signal).unwrap();
    }

    fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    /// Waits until `text` is in the log `times` times.
    fn wait_for_log(&self, text: &str, times: usize) {
        wait::until(text, || (self.log().matches(text).count() >= times).then_some(()));
    }

    fn wait_for_end(&mut self) -> ExitStatus {
        wait::until("the server has ended", || self.process.0.try_wait().unwrap())
    }

    /// Asks it to end, and returns its log.
    fn stop(mut self) -> String {
        self.signal(Signal::TERM);
        assert!(self.wait_for_end().success(), "{}", self.log());
        self.log()
    }
}

/// Sends `request` to `address`, and returns all that comes back.
fn ask(address: &str, request: &str) -> String {
    let mut answer = String::new();
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let _ = stream.read_to_string(&mut answer);
    answer
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
}

/// The value of a header in an answer.
fn header(answer: &str, name: &str) -> String {
    let found = answer.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
    found.unwrap_or_else(|| panic!("no {name} in {answer}")).to_owned()
}

#[test]
fn settings_that_cannot_be_are_said_with_their_place() {
    let host = Host::new();
    let check = |text: &str, words: &[&str]| {
        fs::write(host.folder().join("registry.toml"), text).unwrap();
        host.run("registry serve --config registry.toml").fails(2, words);
    };
    check("lisen = '127.0.0.1:0'", &["line 1, column 1: unknown key `lisen`; did you mean `listen`?"]);
    check("listen = ", &["`registry.toml` cannot be used: line 1, column 10"]);
    check("listen = '0.0.0.0:0'", &["0.0.0.0:0 can be reached from other machines", "--tls-certificate"]);
    host.run("registry serve --config absent.toml").fails(2, &["cannot read `absent.toml`"]);
    host.run("registry serve --tls-key x").fails(2, &["--tls-certificate"]);
    host.run("registry serve --tls-key x --tls-certificate y").fails(1, &["cannot read `y`"]);
}

#[test]
fn what_is_secret_in_a_request_is_not_in_the_log() {
    const SECRETS: [&str; 5] = ["c2VjcmV0", "tokensecret", "querysecret", "cookiesecret", "00c0ffee"];
    let host = Host::new();
    for flags in [["--log-format", "json"], ["--log-format=text", "--verbose"]] {
        let server = Server::start(&host, "", &flags);
        let headers = "host: x\r\nconnection: close\r\ncookie: cookiesecret\r\nuser-agent: test/1\r\n";
        let basic = format!("{headers}authorization: Basic c2VjcmV0\r\n");
        let bearer = format!("{headers}authorization: Bearer tokensecret\r\n");
        server.ask(&format!("GET /v2/?account=querysecret HTTP/1.1\r\n{basic}\r\n"));
        server.ask(&format!("GET /v2/web/tags/list?n=querysecret HTTP/1.1\r\n{bearer}\r\n"));
        server.ask(&format!("GET /token?password=querysecret HTTP/1.1\r\n{basic}\r\n"));
        server.ask(&format!("BREW /v2/web/blobs/uploads/00c0ffee HTTP/1.1\r\n{basic}\r\n"));
        let post = format!("POST /v2/web/blobs/uploads/ HTTP/1.1\r\n{basic}content-length: 0\r\n\r\n");
        let upload = header(&server.ask(&post), "location");
        let put =
            format!("PUT {upload}?digest=sha256:querysecret HTTP/1.1\r\n{basic}content-length: 0\r\n\r\n");
        assert!(server.ask(&put).starts_with("HTTP/1.1 400 "));
        assert!(server.ask(&get(&upload)).starts_with("HTTP/1.1 204 "));
        let id = upload.rsplit('/').next().unwrap();
        let metrics = ask(&server.operations, &get("/metrics"));
        let log = server.stop();
        assert!(log.contains("/v2/web/blobs/uploads/..."), "{log}");
        for secret in SECRETS.into_iter().chain([id]) {
            assert!(!log.contains(secret), "{secret} in {log}");
            assert!(!metrics.contains(secret), "{secret} in {metrics}");
        }
    }
}

#[test]
fn json_has_an_object_for_each_request_and_no_control_characters() {
    let host = Host::new();
    let server = Server::start(&host, "[log]\nformat = 'json'", &[]);
    let answer = server.ask(&get("/v2/web%1b%5b2J%c2%9b1m/tags/list"));
    let id = header(&answer, "x-request-id");
    server.ask("GET /v2/ HTTP/1.1\r\nhost: x\r\nuser-agent: \x7f\r\nconnection: close\r\n\r\n");
    let log = server.stop();
    assert!(!log.contains(|c: char| c.is_control() && c != '\n'), "{log:?}");
    let lines: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let request = lines.iter().find(|line| line["request"] == *id).unwrap_or_else(|| panic!("{log}"));
    for (key, want) in [
        ("event", "request"),
        ("level", "info"),
        ("method", "GET"),
        ("path", "/v2/web\\u{1b}[2J\\u{9b}1m/tags/list"),
        ("route", "other"),
    ] {
        assert_eq!(request[key], want, "{request}");
    }
    assert_eq!((&request["status"], &request["complete"]), (&Value::from(400), &Value::from(true)));
    assert!(lines.iter().all(|line| line["time"].is_string() && line["message"].is_string()), "{log}");
}

#[test]
fn text_says_what_matters_and_each_request_when_asked() {
    let host = Host::new();
    let quiet = Server::start(&host, "", &[]);
    quiet.ask(&get("/v2/"));
    let address = quiet.address.clone();
    let log = quiet.stop();
    assert!(
        log.contains(&format!("Serving {}/data at http://{address}\n", host.folder().display())),
        "{log}"
    );
    assert!(log.ends_with("Stopping; requests under way are answered first.\n"), "{log}");
    assert!(!log.contains("GET"), "{log}");
    let talking = Server::start(&host, "", &["--verbose"]);
    talking.ask(&get("/v2/"));
    let log = talking.stop();
    assert!(log.contains("127.0.0.1 (anonymous) GET /v2/: 200, 2 B in "), "{log}");
}

#[test]
fn a_server_that_stops_lets_an_upload_end_and_a_second_signal_does_not() {
    let host = Host::new();
    let socket = UnixDatagram::bind(host.folder().join("notify")).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let told = || {
        let mut state = [0; 64];
        let length = socket.recv(&mut state).unwrap();
        String::from_utf8(state[..length].to_vec()).unwrap()
    };
    for is_patient in [true, false] {
        let mut command = host.hull([""; 0]);
        command.env("NOTIFY_SOCKET", host.folder().join("notify"));
        let mut server = Server::start_by(&host, command, "[limits]\ndrain = '1h'", &[]);
        assert_eq!(told(), "READY=1");
        let post = server.ask("POST /v2/web/blobs/uploads/ HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        let upload = header(&post, "location");
        let mut slow = TcpStream::connect(&server.address).unwrap();
        let head = format!(
            "PATCH {upload} HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\nexpect: 100-continue\r\n\r\n"
        );
        slow.write_all(head.as_bytes()).unwrap();
        let mut proceed = [0; 25];
        slow.read_exact(&mut proceed).unwrap();
        assert_eq!(&proceed, b"HTTP/1.1 100 Continue\r\n\r\n");
        server.signal(Signal::TERM);
        assert_eq!(told(), "STOPPING=1");
        wait::until("the server is not ready", || {
            ask(&server.operations, &get("/readyz")).starts_with("HTTP/1.1 503 ").then_some(())
        });
        if is_patient {
            slow.write_all(b"0123456789").unwrap();
            let mut answer = String::new();
            slow.read_to_string(&mut answer).unwrap();
            assert!(answer.starts_with("HTTP/1.1 202 "), "{answer}");
            assert!(server.wait_for_end().success());
        } else {
            server.signal(Signal::TERM);
            assert_eq!(server.wait_for_end().code(), Some(1));
            assert!(server.log().ends_with("requests under way are cut off.\n"), "{}", server.log());
        }
    }
}

#[test]
fn a_certificate_is_read_again_and_a_bad_one_is_not_used() {
    if !installed(&["curl"]) {
        return;
    }
    let host = Host::new();
    let write = |name: &str, text: &str| fs::write(host.folder().join(name), text).unwrap();
    let issue = |trusted: &str| {
        let issued = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        write(trusted, &issued.cert.pem());
        (issued.cert.pem(), issued.signing_key.serialize_pem())
    };
    let ((old, old_key), (new, new_key)) = (issue("old.pem"), issue("new.pem"));
    write("tls.crt", &old);
    write("tls.key", &old_key);
    let server = Server::start(&host, "tls = { certificate = 'tls.crt', key = 'tls.key' }", &[]);
    let port = server.address.rsplit(':').next().unwrap();
    let works_with = |trusted: &str| {
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--show-error", "--fail", "--noproxy", "*", "--cacert", trusted]);
        curl.arg(format!("https://localhost:{port}/v2/")).current_dir(host.folder());
        Done::of(&mut curl).code == Some(0)
    };
    assert!(works_with("old.pem") && !works_with("new.pem"));
    write("tls.crt", &new);
    server.signal(Signal::HUP);
    server.wait_for_log("the certificate before stays in use", 1);
    assert!(works_with("old.pem"));
    write("tls.key", &new_key);
    server.signal(Signal::HUP);
    server.wait_for_log("The certificate was read again.", 1);
    assert!(works_with("new.pem") && !works_with("old.pem"));
    let log = server.stop();
    assert!(log.contains("the key does not serve for the first certificate"), "{log}");
    assert!(log.contains("at https://127.0.0.1:"), "{log}");
}

#[test]
fn few_files_and_many_clients_make_it_slow_and_not_more() {
    let host = Host::new();
    let hull = host.hull([""; 0]);
    let mut command = Command::new("sh");
    command
        .args(["-c", "ulimit -n 64; exec \"$0\" \"$@\""])
        .arg(hull.get_program())
        .current_dir(host.folder());
    host.clean(&mut command);
    let server = Server::start_by(&host, command, "[limits]\nhead-timeout = '200ms'", &[]);
    let began = Instant::now();
    let silent: Vec<_> = (0..200).map(|_| TcpStream::connect(&server.address).unwrap()).collect();
    wait::until("an honest client is served", || {
        server.try_ask(&get("/v2/")).filter(|answer| answer.starts_with("HTTP/1.1 200 "))
    });
    for mut stream in silent {
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        assert!(!answer.starts_with(b"HTTP/1.1 2"));
    }
    // Busy waiting would have used all the time that a processor had.
    let used = processor_seconds(&server.process.0.id().to_string());
    let had = began.elapsed().as_secs_f64();
    assert!(used < had / 2.0, "{used} of {had} s");
    let log = server.stop();
    assert!(log.contains("32 connections at a time: 64 files may be open\n"), "{log}");
}

/// Processor time that a process has used. Source: proc(5), `utime` and `stime` in hundredths of a second.
fn processor_seconds(pid: &str) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let (_, fields) = stat.rsplit_once(") ").unwrap();
    let ticks: u32 = fields.split(' ').skip(11).take(2).map(|ticks| ticks.parse::<u32>().unwrap()).sum();
    f64::from(ticks) / 100.0
}

impl Server {
    /// As [`Server::ask`], where the server may cut the client off.
    fn try_ask(&self, request: &str) -> Option<String> {
        let mut stream = TcpStream::connect(&self.address).ok()?;
        stream.write_all(request.as_bytes()).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        Some(answer)
    }
}

#[test]
fn the_unit_is_right_and_lets_the_server_do_little() {
    if !installed(&["systemd-analyze"]) {
        return;
    }
    let host = Host::new();
    let packaged = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/hull-registry.service");
    let unit = fs::read_to_string(packaged).unwrap();
    assert!(
        unit.contains("\nExecStart=/usr/local/bin/hull registry serve --config /etc/hull/registry.toml\n")
    );
    let copy = host.folder().join("hull-registry.service");
    fs::write(&copy, unit.replace("/usr/local/bin/hull", env!("CARGO_BIN_EXE_hull"))).unwrap();
    let analyze = |arguments: &[&str]| {
        let mut command = Command::new("systemd-analyze");
        let done = Done::of(command.arg("--no-pager").args(arguments).arg(&copy));
        (done.code, format!("{}{}", done.stdout, done.stderr))
    };
    let (code, said) = analyze(&["verify", "--recursive-errors=no"]);
    // What it says about other units of this machine is not ours.
    let ours: Vec<_> = said.lines().filter(|line| line.contains("hull-registry")).collect();
    assert!(code == Some(0) && ours.is_empty(), "{said}");
    // Ten times the exposure level, of which 100 is the worst.
    let (code, said) = analyze(&["security", "--offline=yes", "--threshold=15"]);
    assert_eq!(code, Some(0), "{said}");
}

/// Serves with the packaged settings, on all addresses of a network of its own.
fn serve_as_packaged(host: &Host) -> Guard {
    let packaged = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/registry.toml");
    let settings = fs::read_to_string(packaged).unwrap();
    let folder = host.folder().to_str().unwrap();
    let settings = settings.replace("/run/credentials/hull-registry.service", folder);
    let settings = settings.replace("/var/lib/hull-registry", &format!("{folder}/data"));
    assert!(settings.contains("listen = \"0.0.0.0:5000\""), "{settings}");
    fs::write(host.folder().join("registry.toml"), settings).unwrap();
    let mut command = Command::new("unshare");
    command.args(["--net", "sh", "-c", "ip link set lo up && exec \"$@\"", "sh", env!("CARGO_BIN_EXE_hull")]);
    command.args(["registry", "serve", "--config", "registry.toml"]).current_dir(folder);
    host.clean(&mut command);
    command.stdout(Stdio::piped()).stderr(fs::File::create(host.folder().join("log")).unwrap());
    let mut server = Guard(command.spawn().unwrap());
    let mut address = String::new();
    BufReader::new(server.0.stdout.as_mut().unwrap()).read_line(&mut address).unwrap();
    assert_eq!(address, "0.0.0.0:5000\n", "{}", fs::read_to_string(host.folder().join("log")).unwrap());
    server
}

#[test]
fn the_packaged_settings_let_nobody_in_until_the_first_user_is_made_and_then_tell_who_did_what() {
    if !is_root() || !installed(&["unshare", "nsenter", "ip", "curl"]) {
        return;
    }
    let host = Host::new();
    let issued = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    fs::write(host.folder().join("tls.crt"), issued.cert.pem()).unwrap();
    fs::write(host.folder().join("tls.key"), issued.signing_key.serialize_pem()).unwrap();
    let server = serve_as_packaged(&host);
    let status = |method: &str, user: &str, path: &str| {
        let mut curl = Command::new("nsenter");
        curl.args(["--target", &server.0.id().to_string(), "--net", "curl", "--silent", "--show-error"]);
        curl.args(["--cacert", "tls.crt", "--output", "answer", "--write-out", "%{http_code}"]);
        curl.args(["--request", method, &format!("https://localhost:5000{path}")]);
        if !user.is_empty() {
            curl.args(["--user", user]);
        }
        host.clean(&mut curl);
        Done::of(curl.current_dir(host.folder())).ok()
    };
    let empty = format!("/v2/team/web/blobs/uploads/?digest={}", appliance::Digest::sha256(b""));
    assert_eq!(status("GET", "", "/v2/"), "401");
    assert_eq!(status("POST", "", &empty), "401");
    assert_eq!(status("POST", "alice:guessed", &empty), "401");
    let log = || fs::read_to_string(host.folder().join("log")).unwrap();
    wait::until("it says so", || log().contains("nobody may do anything").then_some(()));
    // As docs/registry.md says; it makes up a password.
    let password = host.ok("registry user add alice --grant *:admin --config registry.toml");
    let alice = format!("alice:{password}");
    assert_eq!(status("POST", "", &empty), "401");
    assert_eq!(status("POST", &alice, &empty), "201");
    assert_eq!(status("DELETE", &alice, "/v2/team/web/manifests/absent"), "404");
    host.ok("registry user add bob --grant other:pull --config registry.toml");
    wait::until("the last line is in the log", || log().contains("\"bob\"").then_some(()));
    drop(server);
    let audits: Vec<String> = log()
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .filter(|line| line["event"] == "audit")
        .map(|line| {
            let told = ["principal", "action", "repository", "object", "outcome"];
            told.map(|key| line[key].as_str().unwrap_or("-").to_owned()).join(" ")
        })
        .collect();
    let want = [
        "user:alice log-in - - denied",
        "operator add-user - alice done",
        "user:alice push-blob team/web - done",
        "user:alice delete team/web absent failed",
        "operator add-user - bob done",
    ];
    assert_eq!(audits, want);
    assert!(!log().contains(&password), "a password is in the log");
}
