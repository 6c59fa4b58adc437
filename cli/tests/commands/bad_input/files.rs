//! Disks and `hull.toml` files that cannot be packed.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use crate::support::disks::{boot, convert, create, cut, noise, patch};
use crate::support::source::{author, edit};
use crate::support::{Host, installed};

/// A good folder in which `spoil` breaks one thing is refused with `code` and `words`, and the store is
/// as it was.
#[track_caller]
fn check(spoil: impl FnOnce(&Path), code: i32, words: &[&str]) {
    let host = Host::new();
    let folder = author(&host, "a", &noise(1, 1 << 20));
    host.ok("pack a -t web:1");
    let before = host.references();
    spoil(&folder);
    host.run("pack a -t web:1").fails(code, words);
    assert_eq!(host.references(), before);
    assert!(host.half_written().is_empty());
    host.ok("inspect web:1");
}

/// As [`check`], with the disk as an image that `options` make, and `spoil` breaking that.
#[track_caller]
fn check_image(options: &str, spoil: impl FnOnce(&Path), words: &[&str]) {
    let convert_and_spoil = |folder: &Path| {
        let image = convert(&folder.join("disk.raw"), options, "image");
        edit(folder, "disk.raw", "image");
        spoil(&image);
    };
    check(convert_and_spoil, 1, words);
}

/// As [`check`], with `from` in hull.toml replaced by `to`.
#[track_caller]
fn check_toml(from: &str, to: &str, words: &[&str]) {
    check(|folder| edit(folder, from, to), 2, words);
}

#[test]
fn images_that_are_damaged_or_hostile_are_refused() {
    if !installed(&["qemu-img"]) {
        return;
    }
    let qcow2 = "-O qcow2";
    let stream = "-O vmdk -o subformat=streamOptimized";
    check_image(qcow2, |image| cut(image, 70), &["`root`", "a/image", "qcow2", "byte"]);
    check_image(qcow2, |image| cut(image, 500_000), &["root", "qcow2", "byte"]);
    check_image(qcow2, |image| patch(image, 7, &[9]), &["qcow2", "byte 4", "version", "9"]);
    check_image(qcow2, |image| patch(image, 20, &[0, 0, 0, 40]), &["qcow2", "byte 20", "cluster"]);
    check_image(
        qcow2,
        |image| patch(image, 24, &[0xff; 8]),
        &["qcow2", "18446744073709551615", "--max-size"],
    );
    check_image(qcow2, |image| patch(image, 32, &[0, 0, 0, 1]), &["qcow2", "byte 32", "encr"]);
    check_image(qcow2, |image| patch(image, 40, &[0xff; 8]), &["qcow2", "byte 40"]);
    check_image(qcow2, |image| patch(image, 79, &[0x80]), &["qcow2", "byte 72", "incompatible"]);
    check_image(stream, |image| cut(image, 400), &["vmdk"]);
    check_image(stream, |image| cut(image, 300_000), &["vmdk"]);
    check_image(stream, |image| patch(image, 4, &[77]), &["vmdk", "byte 4", "version"]);
    check_image(
        stream,
        |image| patch(image, 12, &[0xff; 8]),
        &["vmdk", "18446744073709551615", "--max-size"],
    );
    check_image("-O vdi", |image| cut(image, 300), &["vdi", "byte"]);
    check_image("-O vhdx", |image| cut(image, 300_000), &["vhdx", "cut off", "1048576"]);
    check_image("-O qcow2", |image| fs::write(image, b"\x1f\x8b\x08 gzip").unwrap(), &["gzip", "unpack"]);
}

#[test]
fn an_image_cannot_lead_to_other_files() {
    if !installed(&["qemu-img"]) {
        return;
    }
    let backed = |folder: &Path| {
        create(folder, "-q -f qcow2 -b /etc/hostname -F raw -u backed.qcow2 8M");
        edit(folder, "disk.raw", "backed.qcow2");
    };
    check(backed, 1, &["`root`", "backing", "/etc/hostname", "not handed over", "`backing = [\"FILE\"]`"]);
    let external = |folder: &Path| {
        create(folder, "-q -f qcow2 -o data_file=elsewhere.raw external.qcow2 8M");
        edit(folder, "disk.raw", "external.qcow2");
    };
    check(external, 1, &["`root`", "data lies in another file"]);
    let flat = |folder: &Path| {
        create(folder, "-q -f vmdk -o subformat=monolithicFlat flat.vmdk 8M");
        edit(folder, "disk.raw", "flat.vmdk");
    };
    check(flat, 1, &["vmdk", "other files"]);
}

#[test]
fn sources_are_files_inside_the_folder() {
    check(
        |folder| edit(folder, "disk.raw", "none.raw"),
        2,
        &["line 11, column 10", "none.raw", "No such file"],
    );
    check(
        |folder| edit(folder, "disk.raw", "../disk.raw"),
        2,
        &["line 11", "../disk.raw", "inside the folder"],
    );
    check(
        |folder| edit(folder, "disk.raw", "/etc/passwd"),
        2,
        &["line 11", "/etc/passwd", "inside the folder"],
    );
    let leads_out = |folder: &Path| {
        fs::remove_file(folder.join("disk.raw")).unwrap();
        symlink("/etc/passwd", folder.join("disk.raw")).unwrap();
    };
    check(leads_out, 2, &["line 11", "disk.raw", "out of the folder"]);
    let folder_leads_out = |folder: &Path| {
        symlink("..", folder.join("up")).unwrap();
        edit(folder, "disk.raw", "up/disk.raw");
    };
    check(folder_leads_out, 2, &["line 11", "up/disk.raw", "out of the folder"]);
    let a_folder = |folder: &Path| {
        fs::create_dir(folder.join("disks")).unwrap();
        edit(folder, "disk.raw", "disks");
    };
    check(a_folder, 1, &["`root`", "folder", "regular file"]);
    let a_pipe = |folder: &Path| {
        fs::remove_file(folder.join("disk.raw")).unwrap();
        assert!(Command::new("mkfifo").arg(folder.join("disk.raw")).status().unwrap().success());
    };
    check(a_pipe, 1, &["`root`", "pipe", "regular file"]);
    check(|folder| edit(folder, "disk.raw", "\\u001b[2Jdisk.raw"), 2, &["line 11", "No such file"]);
}

#[test]
fn disks_have_a_largest_size() {
    let host = Host::new();
    let folder = author(&host, "a", &boot());
    cut(&folder.join("disk.raw"), 3 << 30);
    host.run("pack a -t web:1 --max-size 2").fails(1, &["3221225472", "2147483648", "--max-size"]);
    assert!(host.references().is_empty());
}

#[test]
fn hull_toml_is_refused_where_it_is_wrong() {
    check_toml("memory", "memroy", &["hull.toml", "line 7, column 1", "`memroy`", "`memory`"]);
    check_toml("[[nic]]", "[[network]]", &["line 13", "`network`"]);
    check_toml("[80]", "[0]", &["line 19, column 10", "`0`", "1 to 65535"]);
    check_toml("[80]", "[65536]", &["line 19", "`65536`", "1 to 65535"]);
    check_toml("[80]", "[80, \"90-85\"]", &["line 19", "90-85"]);
    check_toml("\"64MiB\"", "\"64 gigs\"", &["line 7", "64 gigs", "512MiB"]);
    check_toml("0.0.0.0/0", "300.0.0.0/0", &["line 20", "300.0.0.0/0"]);
    check_toml("\"tcp\"", "\"icmp\"", &["line 18", "icmp", "\"tcp\" or \"udp\""]);
    check_toml("name = \"drill\"", "name = \"Dr. ill\"", &["line 2", "Dr. ill", "lower-case"]);
    check_toml("version = \"1.0\"", "", &["`version` is missing", "[appliance]"]);
    check_toml("version = \"1.0\"", "version = 1.0.0", &["line 3"]);
}

#[test]
fn hull_toml_is_text_of_bearable_size() {
    let host = Host::new();
    host.run("pack nowhere -t web:1").fails(4, &["nowhere", "No such file", "hull.toml in DIR"]);
    check(|folder| fs::remove_file(folder.join("hull.toml")).unwrap(), 4, &["a/hull.toml", "No such file"]);
    check(|folder| fs::write(folder.join("hull.toml"), b"\xff\xfe").unwrap(), 2, &["a/hull.toml", "UTF-8"]);
    check(|folder| fs::write(folder.join("hull.toml"), [b'#'; (1 << 20) + 1]).unwrap(), 2, &["1 MiB"]);
    check(|folder| fs::write(folder.join("hull.toml"), "").unwrap(), 2, &["`appliance` is missing"]);
}
