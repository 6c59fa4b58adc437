//! Hosts that lack something, have it already, or have no room: programs, rights, names, ports, disk.

use std::ffi::OsStr;
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::disks::{boot, noise, patch};
use crate::support::small_disk::SmallDisk;
use crate::support::source::author;
use crate::support::{Done, Host, files, installed, is_root};

/// What `run` needs, so that a test about one thing does not stumble over another.
const PROGRAMS: [&str; 3] = ["qemu-system-x86_64", "nft", "ip"];

fn host_with_appliance() -> Host {
    let host = Host::new();
    author(&host, "a", &boot());
    host.ok("pack a -t web:1");
    host
}

/// A folder to be the search path, with `programs` in it and nothing else.
fn search_path(host: &Host, programs: &[&str]) -> PathBuf {
    let folder = host.folder().join("bin");
    fs::create_dir(&folder).unwrap();
    let places = ["/usr/bin", "/bin", "/usr/sbin", "/sbin"].map(Path::new);
    for program in programs {
        let found = places.iter().map(|place| place.join(program)).find(|path| path.exists()).unwrap();
        symlink(fs::canonicalize(found).unwrap(), folder.join(program)).unwrap();
    }
    folder
}

/// Runs `hull` after the shell commands `before`, in a mount namespace of its own.
fn run_after(host: &Host, before: &str, path: &OsStr, line: &str) -> Done {
    let script = format!("{before} && PATH=$0 && exec \"$@\"");
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-c", &script]).arg(path);
    command.arg(env!("CARGO_BIN_EXE_hull")).args(line.split(' '));
    host.clean(&mut command);
    Done::of(&mut command)
}

/// Nothing of a VM is there, and none of its name.
#[track_caller]
fn nothing_runs(host: &Host) {
    assert_eq!(host.ok("ps --all --json"), "[]");
    assert_eq!(files(&host.home().join("vms")), [""; 0].map(PathBuf::from));
    assert_eq!(files(&host.home().join("store/pins")), [""; 0].map(PathBuf::from));
}

#[test]
fn programs_that_are_missing_are_named_with_their_package() {
    if !is_root() || !installed(&PROGRAMS) || !installed(&["unshare"]) {
        return;
    }
    let host = host_with_appliance();
    let path = search_path(&host, &["qemu-system-x86_64", "ip"]);
    let none = host.folder().join("none");
    let without_qemu = Done::of(host.hull(["run", "-d", "web:1"]).env("PATH", &none));
    without_qemu.fails(125, &["`qemu-system-x86_64` is not installed", "package qemu-system-x86"]);
    nothing_runs(&host);
    let hidden = "mount -t tmpfs none /usr/sbin && mount -t tmpfs none /sbin";
    run_after(&host, hidden, path.as_ref(), "run -d web:1")
        .fails(125, &["`nft` is not installed", "package `nftables`"]);
    fs::remove_file(path.join("ip")).unwrap();
    run_after(&host, hidden, path.as_ref(), "run -d web:1")
        .fails(125, &["`ip` is not installed", "package `iproute2`"]);
    nothing_runs(&host);
}

#[test]
fn kvm_that_is_asked_for_must_be_there() {
    if !is_root() || !installed(&PROGRAMS) || !installed(&["unshare"]) {
        return;
    }
    let host = host_with_appliance();
    let hidden = "mount --rbind /dev/shm /dev/kvm 2>/dev/null || mount --bind /dev/null /dev/kvm || test ! -e /dev/kvm";
    run_after(&host, hidden, "/usr/bin:/usr/sbin".as_ref(), "run -d --accel kvm web:1")
        .fails(125, &["/dev/kvm", "--accel auto"]);
    nothing_runs(&host);
}

#[test]
fn a_user_without_rights_is_told_who_may() {
    if !is_root() || !installed(&PROGRAMS) || !installed(&["setpriv"]) {
        return;
    }
    const NOBODY: u32 = 65534;
    let host = host_with_appliance();
    fs::set_permissions(host.folder(), fs::Permissions::from_mode(0o755)).unwrap();
    let user = host.folder().join("user");
    fs::create_dir(&user).unwrap();
    chown(&user, Some(NOBODY), Some(NOBODY)).unwrap();
    let as_nobody = |line: &str| {
        let mut command = Command::new("setpriv");
        let id = NOBODY.to_string();
        command.args(["--reuid", &id, "--regid", &id, "--clear-groups", env!("CARGO_BIN_EXE_hull")]);
        host.clean(command.args(line.split(' ')).current_dir(host.folder()));
        Done::of(command.env("HULL_HOME", user.join("home")).env("XDG_RUNTIME_DIR", &user))
    };
    if as_nobody("--version").code != Some(0) {
        return eprintln!("skipped: hull is in a folder that not everybody may enter");
    }
    as_nobody("pack a -t web:1").ok();
    as_nobody("run -d web:1").fails(125, &["needs root", "user 65534", "sudo"]);
    assert_eq!(as_nobody("ps --all --json").ok(), "[]");
    as_nobody("run -d --name Web! web:1").fails(2, &["Web!"]);
    let mut foreign = host.hull(["images"]);
    foreign.env("HULL_HOME", "/proc/none");
    Done::of(&mut foreign).fails(1, &["/proc/none", "HULL_HOME"]);
}

#[test]
fn names_and_ports_that_are_taken_stay_with_who_has_them() {
    let Some(host) = Host::for_vms() else { return };
    author(&host, "a", &boot());
    host.ok("pack a -t web:1");
    let listener = host.world().inside(None, || TcpListener::bind("127.0.0.1:0").unwrap());
    let taken = listener.local_addr().unwrap();
    let publish = format!("run -d -p {}:80 web:1", taken.port());
    host.run(&publish).fails(125, &["`http`", &taken.to_string(), "already in use", "--publish"]);
    nothing_runs(&host);
    host.run("run -d -p 192.0.2.77:8080:80 web:1")
        .fails(125, &["`http`", "192.0.2.77", "no address of this host"]);
    nothing_runs(&host);
    assert_eq!(host.ok("run -d --name mine web:1"), "mine");
    host.run("run -d --name mine web:1").fails(1, &["a VM `mine` already", "hull rm mine"]);
    host.run("start mine").fails(1, &["`mine` is running", "hull stop mine"]);
    host.run("rm mine").fails(1, &["`mine` is running", "hull stop mine"]);
    assert_eq!(host.vm("mine")["state"]["status"], "running");
    host.ok("rm --force mine");
    for command in ["console mine", "stats mine", "stop mine"] {
        host.run(command).fails(4, &["no VM `mine`"]);
    }
    nothing_runs(&host);
}

#[test]
fn a_full_disk_ends_a_pack_and_loses_nothing() {
    let host = Host::new();
    if !is_root() {
        return;
    }
    let Some(disk) = SmallDisk::mount(host.home(), "6m") else { return };
    let folder = author(&host, "a", &noise(1, 1 << 20));
    host.ok("pack a -t web:1");
    let before = host.references();
    fs::write(folder.join("disk.raw"), noise(2, 12 << 20)).unwrap();
    host.run("pack a -t web:1").fails(1, &["No space left", "HULL_HOME"]);
    host.run("pack a -t web:2").fails(1, &["No space left", "HULL_HOME"]);
    assert_eq!(host.references(), before);
    assert_eq!((host.half_written().len(), host.damaged().len()), (0, 0));
    host.ok("inspect web:1");
    disk.resize("64m");
    host.ok("pack a -t web:2");
    assert_eq!(host.references().len(), 2);
}

#[test]
fn a_home_that_cannot_be_is_said() {
    let host = Host::new();
    fs::write(host.home(), "a file").unwrap();
    for line in ["images", "ps", "pack a -t web:1"] {
        host.run(line).fails(1, &["Not a directory", "HULL_HOME"]);
    }
}

#[test]
fn damage_in_the_store_is_found_when_it_is_read() {
    let host = host_with_appliance();
    let platform = host.json("inspect web:1 --json")["platforms"][0].take();
    let path = |digest: &serde_json::Value| {
        host.home().join("store/blobs/sha256").join(&digest.as_str().unwrap()["sha256:".len()..])
    };
    let pack = path(&platform["packs"][0]["digest"]);
    patch(&pack, 20, b"damaged");
    assert_eq!(host.damaged(), [pack.as_path()]);
    host.ok("pack a -t web:1 -o web.tar");
    assert!(host.damaged().is_empty(), "packing again makes it whole");
    fs::remove_file(&pack).unwrap();
    host.run("run -d web:1").fails(125, &["not in the local store", "hull rmi"]);
    let config = path(&platform["configBlob"]["digest"]);
    fs::set_permissions(&config, fs::Permissions::from_mode(0o644)).unwrap();
    patch(&config, 2, b"\x1b[2J");
    host.run("inspect web:1").fails(1, &["promised", "hull rmi"]);
    host.run("run -d web:1").fails(1, &["promised", "hull rmi"]);
    host.ok("rmi web:1");
    host.ok("pack a -t web:1");
    host.ok("inspect web:1");
}
