//! What those who run a registry do to it, beside its server and without one.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use appliance::Digest;
use serde_json::{Value, json};

use crate::support::registry::Registry;
use crate::support::{Done, Host, installed, is_root, wait};

/// Whether a server has the folder while something is done to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum While {
    Served,
    Stopped,
}

/// The folder that [`Registry::start`] serves.
const DATA: &str = "registry";

/// Does `work` with a registry that is served, and with one that is not.
fn in_both_ways(work: impl Fn(&Host, While)) {
    for way in [While::Served, While::Stopped] {
        let host = Host::new();
        let server = Registry::start(&host);
        if way == While::Stopped {
            server.kill();
            work(&host, way);
        } else {
            work(&host, way);
            server.kill();
        }
    }
}

/// `hull registry LINE --data registry`, with `stdin`.
fn registry(host: &Host, line: &str, stdin: &str) -> Done {
    let mut command = host.hull(["registry"]);
    command.args(line.split_ascii_whitespace()).args(["--data", DATA]);
    let input = host.folder().join("stdin");
    fs::write(&input, stdin).unwrap();
    Done::of(command.stdin(fs::File::open(input).unwrap()))
}

/// Sends a request, and returns the status and the body.
fn send(address: &str, head: &str, body: &[u8]) -> (u16, Vec<u8>) {
    let mut stream = TcpStream::connect(address).unwrap();
    let (line, headers) = head.split_once('\n').unwrap_or((head, ""));
    let headers = headers.lines().fold(String::new(), |all, header| all + header + "\r\n");
    let length = body.len();
    let head = format!(
        "{line} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {length}\r\n{headers}\r\n"
    );
    stream.write_all(head.as_bytes()).unwrap();
    // A server that refuses may not read it.
    let _ = stream.write_all(body);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    let end = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n").expect("an answer has a head");
    let status = std::str::from_utf8(&answer[9..12]).unwrap().parse().unwrap();
    (status, answer[end + 4..].to_vec())
}

/// The status with which `/v2/` answers somebody.
fn log_in(address: &str, user: &str, password: &str) -> u16 {
    let credentials = base64(format!("{user}:{password}").as_bytes());
    send(address, &format!("GET /v2/\nauthorization: Basic {credentials}"), b"").0
}

/// Base64, RFC 4648.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for three in bytes.chunks(3) {
        let bits =
            three.iter().fold(0, |bits, byte| bits << 8 | usize::from(*byte)) << (8 * (3 - three.len()));
        for place in 0..4 {
            let digit = DIGITS[bits >> (18 - 6 * place) & 63] as char;
            text.push(if place > three.len() { '=' } else { digit });
        }
    }
    text
}

/// Pushes a manifest with one blob that holds `content`, as `repository:tag`. Returns the blob's digest.
fn push(address: &str, repository: &str, tag: &str, content: &[u8]) -> Digest {
    let blob = Digest::sha256(content);
    let head = format!("POST /v2/{repository}/blobs/uploads/?digest={blob}");
    assert_eq!(send(address, &head, content).0, 201);
    let descriptor =
        json!({ "mediaType": "application/octet-stream", "digest": blob, "size": content.len() });
    let media_type = "application/vnd.oci.image.manifest.v1+json";
    let manifest =
        json!({ "schemaVersion": 2, "mediaType": media_type, "config": descriptor, "layers": [descriptor] });
    let head = format!("PUT /v2/{repository}/manifests/{tag}\ncontent-type: {media_type}");
    assert_eq!(send(address, &head, manifest.to_string().as_bytes()).0, 201);
    blob
}

/// All that the tags of a registry lead to: each as its name, the manifest, and the blob.
fn everything(address: &str) -> Vec<(String, Vec<u8>, Vec<u8>)> {
    let get = |path: &str| match send(address, &format!("GET /v2/{path}"), b"") {
        (200, body) => body,
        (status, _) => panic!("{path}: {status}"),
    };
    let list = |path: &str, key: &str| {
        let body: Value = serde_json::from_slice(&get(path)).unwrap();
        let items = body[key].as_array().unwrap();
        items.iter().map(|item| item.as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let mut found = Vec::new();
    for name in list("_catalog", "repositories") {
        for tag in list(&format!("{name}/tags/list"), "tags") {
            let manifest = get(&format!("{name}/manifests/{tag}"));
            let document: Value = serde_json::from_slice(&manifest).unwrap();
            let blob = document["config"]["digest"].as_str().unwrap();
            let content = get(&format!("{name}/blobs/{blob}"));
            assert_eq!(Digest::sha256(&content).to_string(), blob);
            found.push((format!("{name}:{tag}"), manifest, content));
        }
    }
    found
}

/// The files in `folder` and below it.
fn files_below(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files_below(&path) } else { vec![path] }).collect()
}

#[test]
fn users_come_change_and_go() {
    in_both_ways(|host, way| {
        let run = |line: &str, stdin: &str| registry(host, line, stdin);
        run("user add alice --grant *:pull --password-stdin", "correct horse\n").ok();
        run("user add alice --grant *:pull --password-stdin", "correct horse\n")
            .fails(1, &["there is an account `alice` already"]);
        run("user add bob --grant *:pull --password-stdin", "short\n").fails(2, &["at least 8 characters"]);
        run("user add b:b --grant *:pull", "").fails(2, &["cannot be the name of an account"]);
        run("user add bob --grant team", "").fails(2, &["expected `PREFIX:ACTIONS`"]);
        let made_up = run("user add bob --grant team:push --grant team:pull", "");
        assert_eq!(made_up.ok().len(), 24, "{}", made_up.stderr);
        run("user grant bob team/web:admin", "").ok();
        run("user grant carol *:pull", "").fails(4, &["there is no account `carol`"]);
        let users: Value = serde_json::from_str(&run("user list --json", "").ok()).unwrap();
        let want = json!([
            { "name": "alice", "grants": ["*:pull"] },
            { "name": "bob", "grants": ["team/web:admin"] },
        ]);
        assert_eq!(users, want, "{way:?}");
        let new = run("user passwd alice", "").ok();
        assert_ne!(new, run("user passwd bob", "").ok());
        run("user rm bob", "").ok();
        let list = run("user list", "").ok();
        assert!(list.contains("alice") && !list.contains("bob"), "{list}");

        // 12 rounds would take a second; 4 are enough to see that it is taken over.
        let htpasswd = "dora:$2b$04$YlWwkcqNFMeH9Mo5ijp/8eHyPTfJkfgpFiSoXogNVcqwxb5XPhHHm\n";
        fs::write(host.folder().join("htpasswd"), htpasswd).unwrap();
        let imported = run("user import-htpasswd htpasswd --grant *:pull", "");
        assert!(imported.stderr.contains("Added 1 user.") && imported.code == Some(0), "{}", imported.stderr);
        let again = run("user import-htpasswd htpasswd --grant *:pull", "");
        assert!(again.stderr.contains("dora was here before"), "{}", again.stderr);
        fs::write(host.folder().join("htpasswd"), "eve:$apr1$x$y\n").unwrap();
        run("user import-htpasswd htpasswd --grant *:pull", "").fails(2, &["line 1", "`htpasswd -B`"]);
        run("user import-htpasswd absent --grant *:pull", "").fails(2, &["cannot read `absent`"]);
    });
}

#[test]
fn what_is_changed_beside_a_server_is_true_at_once() {
    let host = Host::new();
    let server = Registry::start(&host);
    assert_eq!(send(&server.address, "GET /v2/", b"").0, 200);
    registry(&host, "user add alice --grant *:admin --password-stdin", "correct horse").ok();
    assert_eq!(send(&server.address, "GET /v2/", b"").0, 401);
    assert_eq!(log_in(&server.address, "alice", "correct horse"), 200);
    let new = registry(&host, "user passwd alice", "").ok();
    assert_eq!(log_in(&server.address, "alice", "correct horse"), 401);
    assert_eq!(log_in(&server.address, "alice", &new), 200);
    let token = registry(&host, "token create ci --grant team:pull,push --expires never", "").ok();
    assert_eq!(log_in(&server.address, "ci", &token), 200);
    registry(&host, "token revoke ci", "").ok();
    assert_eq!(log_in(&server.address, "ci", &token), 401);
    registry(&host, "user rm alice", "").ok();
    assert_eq!(log_in(&server.address, "alice", &new), 401);
}

#[test]
fn tokens_come_and_go() {
    in_both_ways(|host, _| {
        let run = |line: &str| registry(host, line, "");
        let token = run("token create ci --grant team:pull,push --expires 90d").ok();
        assert!(token.starts_with("hull_") && token.len() == 85, "{token}");
        run("token create ci --grant team:pull --expires never").fails(1, &["`ci` already"]);
        run("token create cd --grant team:pull --expires soon").fails(2, &["`90d`, or `never`"]);
        run("token create cd --grant team:pull").fails(2, &["--expires"]);
        let tokens: Value = serde_json::from_str(&run("token list --json").ok()).unwrap();
        assert_eq!(tokens[0]["name"], "ci");
        assert_eq!(tokens[0]["grants"], json!(["team:pull,push"]));
        let seconds = |key: &str| tokens[0][key].as_u64().unwrap();
        assert_eq!(seconds("expires") - seconds("created"), 90 * 86_400);
        assert!(!run("token list").ok().contains(&token));
        run("token revoke ci").ok();
        run("token revoke ci").fails(4, &["no account `ci`"]);
        assert_eq!(run("token list --json").ok(), "[]");
    });
}

#[test]
fn garbage_goes_and_a_dry_run_only_says_so() {
    for way in [While::Served, While::Stopped] {
        let host = Host::new();
        let settings = "data = 'registry'\n[gc]\ngrace = '1ms'\n\
                        [[rules]]\nrepositories = 'team/*'\ntags = ['pr-*']\nkeep-newest = 0\n";
        fs::write(host.folder().join("registry.toml"), settings).unwrap();
        let server = Registry::start_with(&host, &["--config", "registry.toml"]);
        let content = [7; 3000];
        let head = format!("POST /v2/team/web/blobs/uploads/?digest={}", Digest::sha256(&content));
        assert_eq!(send(&server.address, &head, &content).0, 201);
        push(&server.address, "team/web", "kept", b"kept");
        push(&server.address, "team/web", "pr-1", b"kept");
        let blobs = || files_below(&host.folder().join("registry/blobs")).len();
        let server = if way == While::Served {
            Some(server)
        } else {
            drop(server);
            None
        };
        wait::until("the blob is garbage", || {
            let said = host.ok("registry gc --dry-run --config registry.toml");
            assert!(said.starts_with("Nothing was changed."), "{said}");
            assert!(said.contains("\nteam/web:pr-1: the rule for `team/*` keeps "), "{said}");
            said.contains("freed 2.9 KiB in 1 blob").then_some(())
        });
        assert_eq!(blobs(), 2, "{way:?}");
        let said = host.ok("registry gc --config registry.toml");
        assert!(said.contains("Garbage collection freed 2.9 KiB in 1 blob"), "{said}");
        assert!(said.contains("\nteam/web:pr-1: "), "{said}");
        assert_eq!(blobs(), 1, "{way:?}");
        drop(server);
    }
    Host::new().run("registry gc --data absent").fails(4, &["there is no registry in `absent`"]);
}

#[test]
fn a_scrub_finds_what_is_damaged_and_takes_it_away() {
    for way in [While::Served, While::Stopped] {
        let host = Host::new();
        let server = Registry::start(&host);
        let blob = push(&server.address, "team/web", "1", &[1; 5000]);
        let run = |line: &str| registry(&host, line, "");
        let damaged = files_below(&host.folder().join("registry/blobs")).pop().unwrap();
        let server = if way == While::Served {
            Some(server)
        } else {
            drop(server);
            None
        };
        assert_eq!(run("scrub --rate 1000").ok(), "");
        fs::set_permissions(&damaged, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(&damaged, [2; 5000]).unwrap();
        let found = run("scrub --dry-run");
        found.fails(1, &["1 object damaged"]);
        assert!(found.stdout.contains(&blob.to_string()), "{}", found.stdout);
        assert!(damaged.exists());
        run("scrub").fails(1, &["1 object damaged, now in the quarantine", "push what is listed again"]);
        assert!(!damaged.exists());
        assert_eq!(files_below(&host.folder().join("registry/quarantine")).len(), 1);
        assert_eq!(run("scrub").ok(), "", "{way:?}");
        if let Some(server) = server {
            push(&server.address, "team/web", "1", &[1; 5000]);
            assert_eq!(everything(&server.address).len(), 1);
        }
    }
}

#[test]
fn the_socket_is_the_servers_users_alone_and_a_stale_one_does_no_harm() {
    let host = Host::new();
    let (folder, socket) =
        (host.folder().join("registry/.control"), host.folder().join("registry/.control/socket"));
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let server = Registry::start(&host);
    assert_eq!((mode(&folder), mode(&socket)), (0o700, 0o600));
    server.kill();
    assert!(socket.exists());
    // Nobody listens, and nobody holds the folder.
    registry(&host, "user list", "").ok();
    let server = Registry::start(&host);
    registry(&host, "user list", "").ok();
    if is_root() && installed(&["curl", "setpriv"]) {
        let ask = |user: &str| {
            let mut curl = Command::new("setpriv");
            curl.args([
                "--reuid",
                user,
                "--regid",
                user,
                "--clear-groups",
                "curl",
                "--silent",
                "--unix-socket",
            ]);
            curl.arg("socket").args(["--data", "\"users\"", "http://registry/"]).current_dir(&folder);
            Done::of(&mut curl)
        };
        assert_eq!(ask("0").stdout, "{\"Ok\":{\"users\":[]}}");
        // Even where the rights were given away, who asks is looked at.
        for (path, mode) in
            [(host.folder(), 0o755), (&host.folder().join(DATA), 0o755), (&folder, 0o755), (&socket, 0o666)]
        {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        }
        let refused = ask("65534");
        assert!(refused.code != Some(0) && refused.stdout.is_empty(), "{refused:?}");
    }
    // Somebody has the folder, and no socket leads to them.
    fs::remove_file(&socket).unwrap();
    registry(&host, "user list", "").fails(5, &["is in use", "no server listens", "try again"]);
    server.kill();
}

#[test]
fn two_who_change_accounts_at_once_both_succeed() {
    in_both_ways(|host, way| {
        let start = |name: &str| {
            let mut command =
                host.hull(["registry", "user", "add", name, "--grant", "*:pull", "--data", DATA]);
            command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
        };
        let ends = |names: [&str; 3]| {
            let children = names.map(start);
            children.map(|mut child| child.wait().unwrap().code().unwrap())
        };
        assert_eq!(ends(["a", "b", "c"]), [0, 0, 0], "{way:?}");
        let mut same = ends(["d", "d", "d"]);
        same.sort_unstable();
        assert_eq!(same, [0, 1, 1], "{way:?}");
        let users: Value = serde_json::from_str(&registry(host, "user list --json", "").ok()).unwrap();
        assert_eq!(users.as_array().unwrap().len(), 4);
    });
}

#[test]
fn a_server_without_users_says_so_and_how_to_add_one() {
    let host = Host::new();
    let log = || fs::read_to_string(host.folder().join("log")).unwrap();
    let serve = || {
        let mut command = host.hull(["registry", "serve", "--listen", "127.0.0.1:0", "--data", DATA]);
        command.stderr(fs::File::create(host.folder().join("log")).unwrap()).stdout(Stdio::null());
        crate::support::registry::Guard(command.spawn().unwrap())
    };
    let server = serve();
    wait::until("it says so", || log().contains("hull registry user add NAME").then_some(()));
    assert!(log().contains("everybody on this machine may push"), "{}", log());
    drop(server);
    registry(&host, "user add alice --grant *:admin", "").ok();
    let server = serve();
    wait::until("it serves", || log().contains("Serving ").then_some(()));
    drop(server);
    assert!(!log().contains("no users"), "{}", log());
}

#[test]
fn a_backup_of_a_registry_in_use_serves_every_tag() {
    let host = Host::new();
    let server = Registry::start(&host);
    let backup = || registry(&host, "backup --to copy", "");
    for number in 0..5_u8 {
        push(&server.address, "team/web", &format!("v{number}"), &[number; 100]);
    }
    push(&server.address, "other", "long", &vec![9; 3 << 20]);
    push(&server.address, "team/web", "moving", b"content");
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for number in 0.. {
                push(&server.address, "team/web", "moving", format!("content {number}").as_bytes());
                push(
                    &server.address,
                    &format!("new/r{}", number % 7),
                    &format!("t{number}"),
                    &[number as u8; 50],
                );
                if is_over.load(Ordering::SeqCst) {
                    break;
                }
            }
        });
        let done = backup();
        is_over.store(true, Ordering::SeqCst);
        done.ok();
    });
    registry(&host, "restore --from copy", "").fails(1, &["in use"]);
    host.ok("registry restore --from copy --data once");
    let once = serve_folder(&host, "once");
    assert!(everything(&once.1).iter().any(|(name, ..)| name == "team/web:moving"));
    drop(once);

    let again = backup();
    again.ok();
    let third = backup();
    assert!(third.stderr.contains("in 0 keys"), "{}", third.stderr);
    host.ok("registry restore --from copy --data twice");
    host.run("registry restore --from copy --data twice").fails(2, &["there is a registry already"]);
    let (_guard, twice) = serve_folder(&host, "twice");
    assert_eq!(everything(&twice), everything(&server.address));
}

#[test]
fn what_is_no_place_for_a_backup_is_said() {
    let host = Host::new();
    let server = Registry::start(&host);
    push(&server.address, "web", "1", b"content");
    fs::create_dir(host.folder().join("full")).unwrap();
    fs::write(host.folder().join("full/file"), "").unwrap();
    registry(&host, "backup --to full", "").fails(2, &["holds something else"]);
    registry(&host, "backup --to registry", "").fails(2, &["into its own folder"]);
    registry(&host, "backup", "").fails(2, &["--to"]);
    host.run("registry backup --data absent --to copy").fails(4, &["there is no registry in `absent`"]);
    host.run("registry restore --from absent --data new").fails(4, &["there is no registry in `absent`"]);
    registry(&host, "backup --to copy", "").ok();
    // A backup that was interrupted has tags, and not all that they need.
    fs::remove_dir_all(host.folder().join("copy/blobs")).unwrap();
    host.run("registry restore --from copy --data new").fails(1, &["1 tag does not lead to all", "web:1"]);
    host.ok("registry restore --from copy --data new --incomplete");
    // Nothing was lost where it came from, so the next backup mends the copy.
    registry(&host, "backup --to copy", "").ok();
    host.ok("registry restore --from copy --data whole");
    let (_guard, whole) = serve_folder(&host, "whole");
    assert_eq!(everything(&whole), everything(&server.address));
}

#[test]
fn a_registry_moves_from_a_folder_to_a_bucket_and_back() {
    let s3 = match testkit::S3Server::start() {
        Ok(s3) => s3,
        Err(error) => return eprintln!("skipped: {error}"),
    };
    s3.create_bucket("registry");
    let host = Host::new();
    let server = Registry::start(&host);
    for number in 0..3_u8 {
        push(&server.address, "team/web", &format!("v{number}"), &[number; 100]);
    }
    push(&server.address, "other", "long", &vec![9; 6 << 20]);
    let want = everything(&server.address);
    registry(&host, "backup --to copy", "").ok();
    let bucket = format!(
        "[storage.s3]\nbucket = 'registry'\nprefix = 'a/b'\nendpoint = '{}'\npath-style = true\nplain-http = true\n\
         access-key-file = 'key'\nsecret-key-file = 'key'\n",
        s3.endpoint()
    );
    fs::write(host.folder().join("bucket.toml"), bucket).unwrap();
    fs::write(host.folder().join("key"), "testing").unwrap();
    host.ok("registry restore --from copy --config bucket.toml");
    host.ok("registry user add alice --grant *:admin --config bucket.toml");
    assert!(host.ok("registry user list --config bucket.toml").contains("alice"));
    host.ok("registry user rm alice --config bucket.toml");
    host.ok("registry gc --config bucket.toml");
    host.ok("registry scrub --config bucket.toml");
    host.ok("registry backup --to back --config bucket.toml");
    // Users were there, so strangers stay out; a copy without them is compared.
    fs::remove_dir_all(host.folder().join("back/access")).unwrap();
    host.ok("registry restore --from back --data new");
    let (_guard, new) = serve_folder(&host, "new");
    assert_eq!(everything(&new), want);
}

/// Serves the folder `data` of `host`.
fn serve_folder(host: &Host, data: &str) -> (crate::support::registry::Guard, String) {
    use std::io::BufRead as _;
    let mut command = host.hull(["registry", "serve", "--listen", "127.0.0.1:0", "--data", data]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut address = String::new();
    std::io::BufReader::new(child.stdout.take().unwrap()).read_line(&mut address).unwrap();
    (crate::support::registry::Guard(child), address.trim_end().to_owned())
}
