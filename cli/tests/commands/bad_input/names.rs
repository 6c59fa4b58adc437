//! References and VMs that are not what they should be, or are not there.

use crate::support::disks::boot;
use crate::support::source::author;
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
