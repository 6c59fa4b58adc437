//! References and VMs that are not what they should be, or are not there.

use std::fs;

use crate::support::disks::boot;
use crate::support::source::{author, edit};
use crate::support::{Done, Host};

/// `line` fails with `code` and `words`, on a host with the appliance `web:1` and no VM.
#[track_caller]
fn check(host: &Host, line: &str, code: i32, words: &[&str]) {
    host.run(line).fails(code, words);
}

#[test]
fn references_are_refused_or_not_found() {
    let host = Host::new();
    author(&host, "a", &boot());
    host.ok("pack a -t web:1");
    let before = host.references();
    check(&host, "inspect Web:1", 2, &["`Web", "lower"]);
    check(&host, "inspect web:", 2, &["web:"]);
    check(&host, "inspect web@sha256:12", 2, &["not a digest"]);
    check(&host, "pack a -t web@sha256:0000", 2, &["not a digest"]);
    let digest = format!("web@sha256:{:064}", 0);
    check(&host, &format!("pack a -t {digest}"), 2, &["only a tag"]);
    check(&host, &format!("tag web:1 {digest}"), 2, &["only a tag"]);
    check(&host, &format!("inspect {digest}"), 4, &["no appliance", "hull images"]);
    check(&host, "inspect web:2", 4, &["`web:2`", "hull images"]);
    check(&host, "tag web:2 web:3", 4, &["`web:2`", "hull images"]);
    check(&host, "rmi web:2", 4, &["`web:2`", "hull images"]);
    check(&host, "pack a -t web:3 --base web:2", 4, &["`web:2`", "hull images"]);
    check(&host, "run web:2", 4, &["`web:2`", "hull images"]);
    check(&host, "push web:1", 2, &["`web:1`", "names no registry", "hull tag"]);
    check(&host, "pull web:1", 2, &["`web:1`", "names no registry", "localhost:5000/web:1"]);
    check(&host, "nbd web:1 --disk none --socket s", 4, &["`none`", "root", "hull inspect"]);
    assert_eq!(host.references(), before);
}

#[test]
fn vms_are_refused_or_not_found() {
    let host = Host::new();
    author(&host, "a", &boot());
    host.ok("pack a -t web:1");
    for command in ["start", "stop", "kill", "rm", "logs", "console", "stats"] {
        check(&host, &format!("{command} none"), 4, &["no VM `none`", "hull ps"]);
    }
    check(&host, "rm ../../etc", 4, &["no VM `../../etc`"]);
    check(&host, "logs \u{1b}[2J", 4, &["no VM `\\u{1b}[2J`"]);
    check(&host, "run -d --name Web! web:1", 2, &["`Web!`", "lower-case"]);
    check(&host, "run -d --machine other web:1", 4, &["no machine `other`", "drill", "--machine"]);
    check(&host, "run -d -p 22:22 web:1", 3, &["port 22", "80"]);
    check(&host, "run -d -p 80 web:1", 2, &["`80`", "8080:80"]);
    check(&host, "run -d -p 0:80 web:1", 2, &["`0:80`", "8080:80"]);
    check(&host, "run -d --rm web:1", 2, &["--rm", "--detach"]);
    assert_eq!(host.json("ps --all --json").as_array().unwrap().len(), 0);
}

/// The appliance of `source` with `more` at the end of its hull.toml does not run here.
#[track_caller]
fn check_admission(more: &str, code: i32, words: &[&str]) {
    let host = Host::new();
    let folder = author(&host, "a", &boot());
    let hull_toml = folder.join("hull.toml");
    let text = fs::read_to_string(&hull_toml).unwrap();
    fs::write(hull_toml, format!("{text}\n{more}\n")).unwrap();
    host.ok("pack a -t web:1");
    check(&host, "run -d web:1", code, words);
    assert_eq!(host.ok("ps --all --json"), "[]");
}

#[test]
fn what_the_policy_forbids_does_not_run() {
    check_admission("[policy.lifecycle]\nexpires = 2020-01-01", 3, &["expired on 2020-01-01", "hull.toml"]);
    check_admission(
        "[policy.placement]\nhosts = [\"elsewhere.example\"]",
        3,
        &["elsewhere.example", "this host"],
    );
    let trust = "[policy.trust]\nsignatures = { require = 1, keys = [\"ed25519:abc\"] }";
    check_admission(trust, 3, &["1 of its keys", "cannot verify"]);
}

#[test]
fn what_an_appliance_has_not_got_is_said() {
    let host = Host::new();
    let folder = author(&host, "a", &boot());
    edit(&folder, "[machine]", "[machine]\narch = \"arm64\"\nfirmware = \"uefi\"");
    host.ok("pack a -t foreign:1");
    check(&host, "run -d foreign:1", 4, &["linux/amd64", "linux/arm64", "--platform"]);
    let machines = "[appliance]\nname = \"two\"\nversion = \"1\"\n[machines.db]\nmemory = \"64MiB\"\n\
                    [machines.web]\nmemory = \"64MiB\"\n";
    fs::write(folder.join("hull.toml"), machines).unwrap();
    host.ok("pack a -t two:1");
    check(&host, "run -d two:1", 2, &["several machines", "db, web", "--machine"]);
    check(&host, "run -d --machine dbb two:1", 4, &["no machine `dbb`", "db, web"]);
}

#[test]
fn the_command_line_is_refused() {
    let host = Host::new();
    check(&host, "packk", 2, &["packk", "pack"]);
    check(&host, "pack", 2, &["<SOURCE>", "--tag"]);
    check(&host, "registry serve --listen 0.0.0.0:0", 2, &["0.0.0.0", "loopback", "--without-tls-and-users"]);
    check(&host, "registry serve --listen here", 2, &["here", "--listen"]);
    let relative = Done::of(host.hull(["images"]).env("HULL_HOME", "relative"));
    relative.fails(2, &["HULL_HOME", "`relative`", "absolute"]);
    let homeless = Done::of(host.hull(["images"]).env_remove("HULL_HOME").env_remove("HOME"));
    homeless.fails(2, &["HULL_HOME"]);
}
