//! `hull nbd --image`: image files, served to programs that would not be safe with them.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

use crate::support::disks::{convert, noise};
use crate::support::registry::Guard;
use crate::support::{Done, Host, installed};

/// Serves an image as `arguments` say, and compares it with `disk.raw`.
#[track_caller]
fn check_equals_raw(host: &Host, arguments: &str) {
    let mut serve = host.hull(format!("nbd --socket disk.socket {arguments}").split(' '));
    let mut serve = Guard(serve.stdout(Stdio::piped()).spawn().unwrap());
    let mut address = String::new();
    BufReader::new(serve.0.stdout.take().unwrap()).read_line(&mut address).unwrap();
    assert_eq!(address, "nbd+unix:///disk?socket=disk.socket\n");
    let mut compare = Command::new("qemu-img");
    host.clean(compare.args(["compare", "-f", "raw", "-F", "raw", "disk.raw", address.trim_end()]));
    Done::of(compare.current_dir(host.folder())).ok();
    drop(serve);
    fs::remove_file(host.folder().join("disk.socket")).unwrap();
}

#[test]
fn an_image_file_is_served_as_the_disk_that_it_holds() {
    if !installed(&["qemu-img"]) {
        return;
    }
    let host = Host::new();
    let raw = host.folder().join("disk.raw");
    fs::write(&raw, noise(7, 1 << 20)).unwrap();
    convert(&raw, "-O qcow2 -c", "disk.qcow2");
    check_equals_raw(&host, "--image disk.qcow2");
    check_equals_raw(&host, "--image disk.raw --format raw");
}

#[test]
fn an_image_or_an_appliance_is_served_and_never_both() {
    let host = Host::new();
    fs::write(host.folder().join("disk.raw"), noise(7, 1 << 20)).unwrap();
    for (arguments, code, words) in [
        ("", 2, ["REFERENCE", "--help"].as_slice()),
        ("web:1 --image disk.raw", 2, &["cannot be used with"]),
        ("web:1 --max-size 1", 2, &["cannot be used with"]),
        ("--image disk.raw --disk root", 2, &["cannot be used with"]),
        ("--image disk.raw --format qcow2", 1, &["qcow2", "at byte 0"]),
        ("--image disk.raw --max-size 0", 1, &["the limit is 0", "--max-size"]),
        ("--image disk.raw --backing disk.raw", 1, &["no difference"]),
        ("--image disk.raw --parts nowhere", 4, &["nowhere"]),
        ("--image nowhere", 4, &["nowhere"]),
        ("--image .", 1, &["a folder"]),
    ] {
        host.run(&format!("nbd --socket disk.socket {arguments}")).fails(code, words);
    }
}
