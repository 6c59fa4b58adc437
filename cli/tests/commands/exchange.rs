//! `push`, `pull`, `login`, `logout`, and skopeo between them.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::support::cable::Cable;
use crate::support::disks::noise;
use crate::support::registry::{Guard, Registry, WithUsers};
use crate::support::source::author;
use crate::support::{Done, Host, installed, wait};

/// A host that has `web:1`, for the registry at `address`, with 2 MiB that cannot be compressed.
fn host_with_appliance(address: &str) -> (Host, String) {
    let host = Host::new();
    author(&host, "a", &noise(1, 2 << 20));
    let reference = format!("{address}/team/web:1");
    host.ok(&format!("pack a -t {reference}"));
    (host, reference)
}

/// What `inspect` says of the appliance, without its name.
#[track_caller]
fn platforms(host: &Host, reference: &str) -> Value {
    host.json(&format!("inspect --json {reference}"))["platforms"].take()
}

#[test]
fn what_is_pushed_is_what_is_pulled_and_nothing_moves_twice() {
    let registry_host = Host::new();
    let registry = Registry::start(&registry_host);
    let cable = Cable::to(&registry.address);
    let (host, reference) = host_with_appliance(&cable.address);
    let pushed = host.run(&format!("push {reference}"));
    let again = host.run(&format!("push {reference}"));
    assert_eq!(pushed.ok(), again.ok());
    assert!(again.stderr.contains("Sent 0 blobs"), "{}", again.stderr);

    let other = Host::new();
    assert_eq!(other.ok(&format!("pull {reference}")), pushed.ok());
    assert_eq!(platforms(&other, &reference), platforms(&host, &reference));
    let carried = cable.carried();
    assert!(carried > 2 << 20, "the pull must have gone through the cable");
    let again = other.run(&format!("pull {reference}"));
    assert_eq!(again.ok(), pushed.ok());
    assert!(again.stderr.contains("is up to date"), "{}", again.stderr);
    assert!(cable.carried() - carried < 64 << 10, "a second pull moved {}", cable.carried() - carried);
}

#[test]
fn a_new_version_moves_only_what_is_new() {
    let registry_host = Host::new();
    let registry = Registry::start(&registry_host);
    let cable = Cable::to(&registry.address);
    let (host, first) = host_with_appliance(&cable.address);
    let second = first.replace("web:1", "web:2");
    host.ok(&format!("push {first}"));
    let other = Host::new();
    other.ok(&format!("pull {first}"));
    let mut disk = noise(1, 2 << 20);
    disk[1 << 20..][..32 << 10].copy_from_slice(&noise(2, 32 << 10)[..32 << 10]);
    fs::write(host.folder().join("a/disk.raw"), disk).unwrap();
    host.ok(&format!("pack a -t {second}"));
    let pushed = host.run(&format!("push {second}"));
    pushed.ok();
    assert!(pushed.stderr.contains("2.0 MiB were there"), "{}", pushed.stderr);
    let before = cable.carried();
    other.ok(&format!("pull {second}"));
    let moved = cable.carried() - before;
    assert!(moved < 512 << 10, "{moved} bytes moved for 32 KiB that changed");
    assert_eq!(platforms(&other, &second), platforms(&host, &second));
}

#[test]
fn an_appliance_travels_by_skopeo() {
    if !installed(&["skopeo"]) {
        return;
    }
    let registry_host = Host::new();
    let registry = Registry::start(&registry_host);
    let (host, reference) = host_with_appliance(&registry.address);
    host.ok(&format!("push {reference}"));
    let skopeo = |arguments: &str| {
        let mut command = Command::new("skopeo");
        host.clean(command.arg("--insecure-policy").args(arguments.split(' ')).current_dir(host.folder()));
        Done::of(&mut command).ok()
    };
    let elsewhere = format!("{}/elsewhere/app:2", registry.address);
    skopeo(&format!("copy --all --src-tls-verify=false docker://{reference} oci:layout:1"));
    skopeo(&format!("copy --all --dest-tls-verify=false oci:layout:1 docker://{elsewhere}"));
    // What `pack -o` wrote is as good.
    let archived = format!("{}/archived/app:3", registry.address);
    host.ok(&format!("pack a -t {archived} -o app.tar"));
    skopeo(&format!("copy --all --dest-tls-verify=false oci-archive:app.tar:3 docker://{archived}"));
    for reference_there in [elsewhere, archived] {
        let other = Host::new();
        other.ok(&format!("pull {reference_there}"));
        assert_eq!(platforms(&other, &reference_there), platforms(&host, &reference));
        assert!(other.damaged().is_empty());
    }
}

#[test]
fn a_push_to_another_repository_of_the_registry_sends_no_blob() {
    let registry_host = Host::new();
    let registry = Registry::start(&registry_host);
    let (host, reference) = host_with_appliance(&registry.address);
    let digest = host.ok(&format!("push {reference}"));
    let check = |host: &Host, name: &str| {
        let pushed = host.run(&format!("push {}/{name}", registry.address));
        assert_eq!(pushed.ok(), digest);
        assert!(pushed.stderr.contains("Sent 0 blobs, 0 B"), "{}", pushed.stderr);
    };
    host.ok(&format!("tag {reference} {}/other/web:1", registry.address));
    check(&host, "other/web:1");
    // Here nobody knows where else it is; the registry does.
    let elsewhere = Host::new();
    elsewhere.ok(&format!("pull {reference}"));
    elsewhere.ok(&format!("tag {reference} {}/third:1", registry.address));
    elsewhere.ok(&format!("rmi {reference}"));
    check(&elsewhere, "third:1");
    elsewhere.ok(&format!("pull {}/other/web:1", registry.address));
    assert!(elsewhere.damaged().is_empty());
}

/// Signs `host` in as alice with `password`.
fn login(host: &Host, registry: &str, password: &str) -> Done {
    let file = host.folder().join("password");
    fs::write(&file, password).unwrap();
    let mut command = host.hull(["login", "--username", "alice", "--password-stdin", registry]);
    Done::of(command.stdin(Stdio::from(fs::File::open(file).unwrap())))
}

#[test]
fn a_registry_with_users_lets_in_who_signs_in() {
    if !installed(&["docker-registry"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let registry = WithUsers::start(folder.path());
    let address = &registry.address;
    let (host, reference) = host_with_appliance(address);
    host.run(&format!("push {reference}")).fails(3, &[address, "login", "hull login"]);
    login(&host, address, "wrong horse\n").fails(3, &[address, "alice", "password"]);
    assert!(!host.folder().join(".docker/config.json").exists());
    host.run(&format!("login {address} -u alice")).fails(2, &["--password-stdin"]);

    login(&host, address, "correct horse\n").ok();
    let kept = fs::read_to_string(host.folder().join(".docker/config.json")).unwrap();
    assert!(kept.contains(address) && !kept.contains("correct horse"), "{kept}");
    let digest = host.ok(&format!("push {reference}"));
    let other = Host::new();
    other.run(&format!("pull {reference}")).fails(3, &[address, "hull login"]);
    login(&other, address, "correct horse").ok();
    assert_eq!(other.ok(&format!("pull {reference}")), digest);

    let logout = other.run(&format!("logout {address}"));
    logout.ok();
    assert!(logout.stderr.contains("forgotten"), "{}", logout.stderr);
    other.run(&format!("pull {reference}")).fails(3, &[address, "hull login"]);
    let logout = other.run(&format!("logout {address}"));
    logout.ok();
    assert!(logout.stderr.contains("no login"), "{}", logout.stderr);
    assert_eq!(other.references(), BTreeSet::from([(reference, digest)]));
}

#[test]
fn a_login_goes_to_a_token_service_elsewhere_only_if_that_is_listed() {
    if !Path::new("/etc/ssl/certs/ca-certificates.crt").exists() {
        eprintln!("skipped: nobody's certificate can be checked here");
        return;
    }
    let (registry, elsewhere) =
        (TcpListener::bind("127.0.0.1:0").unwrap(), TcpListener::bind("127.0.0.1:0").unwrap());
    let address = registry.local_addr().unwrap().to_string();
    let service = format!("localhost:{}", elsewhere.local_addr().unwrap().port());
    let answer = format!(
        "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Bearer realm=\"https://{service}/token\"\r\n\
         Content-Length: 0\r\nConnection: close\r\n\r\n"
    );
    let sending_away = std::thread::spawn(move || {
        for _ in 0..2 {
            let (mut stream, _) = registry.accept().unwrap();
            let lines = BufReader::new(stream.try_clone().unwrap()).lines();
            assert!(lines.map(Result::unwrap).any(|line| line.is_empty()));
            stream.write_all(answer.as_bytes()).unwrap();
        }
    });
    let host = Host::new();
    login(&host, &address, "correct horse").fails(3, &[&service, "hint: ", "HULL_TOKEN_SERVICES"]);
    elsewhere.set_nonblocking(true).unwrap();
    assert!(elsewhere.accept().is_err());

    let password = fs::File::open(host.folder().join("password")).unwrap();
    let mut command = host.hull(["login", "--username", "alice", "--password-stdin", &address]);
    let listed = format!("t.example, {service}");
    let child = command.env("HULL_TOKEN_SERVICES", listed).stdin(password).stderr(Stdio::null()).spawn();
    let trusting = Guard(child.unwrap());
    wait::until("the token service is asked", || elsewhere.accept().ok());
    drop(trusting);
    sending_away.join().unwrap();
    assert!(!host.folder().join(".docker/config.json").exists());
}
