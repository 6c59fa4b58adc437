//! `hull convert`: image files made from image files.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::Path;
use std::process::Command;

use crate::support::disks::{convert, create, cut, noise};
use crate::support::small_disk::SmallDisk;
use crate::support::{Done, Host, files, installed};

/// A host with `disk.raw`, 8 MiB of which one is data, and the same as `disk.qcow2`.
fn host() -> Option<Host> {
    if !installed(&["qemu-img"]) {
        return None;
    }
    let host = Host::new();
    let raw = host.folder().join("disk.raw");
    fs::write(&raw, noise(3, 1 << 20)).unwrap();
    convert(&raw, "-O qcow2 -c", "disk.qcow2");
    Some(host)
}

/// Runs `qemu-img` in the host's folder, which succeeds.
#[track_caller]
fn qemu_img(host: &Host, line: &str) -> String {
    Done::of(Command::new("qemu-img").args(line.split(' ')).current_dir(host.folder())).ok()
}

#[test]
fn every_format_holds_the_disk_that_was_converted() {
    let Some(host) = host() else { return };
    for (to, format) in [
        ("raw", "raw"),
        ("qcow2", "qcow2"),
        ("qcow2 --compression zlib", "qcow2"),
        ("qcow2 --compression zstd", "qcow2"),
        ("vmdk", "vmdk"),
        ("vmdk --subformat sparse", "vmdk"),
        ("vhd", "vpc"),
        ("vhd --subformat fixed", "vpc"),
        ("vhdx", "vhdx"),
        ("vdi", "vdi"),
    ] {
        host.run(&format!("convert disk.qcow2 --to {to} -o new --threads 2")).ok();
        qemu_img(&host, &format!("compare -f raw -F {format} disk.raw new"));
    }
    let raw = fs::metadata(host.folder().join("disk.raw")).unwrap();
    host.ok("convert disk.qcow2 --to raw -o new.raw");
    let new = fs::metadata(host.folder().join("new.raw")).unwrap();
    assert_eq!(new.len(), raw.len());
    assert!(new.blocks() * 512 < 2 << 20, "what is zero takes no space");
}

#[test]
fn what_an_image_holds_besides_the_disk_is_said_to_be_left_out() {
    let Some(host) = host() else { return };
    qemu_img(&host, "snapshot -c before disk.qcow2");
    let done = host.run("convert disk.qcow2 --to raw -o new");
    assert_eq!(done.ok(), "");
    assert!(done.stderr.contains("Left out: 1 internal snapshot.\n"), "{}", done.stderr);
    assert!(done.stderr.contains("Wrote new (8.0 MiB) from a disk of 8.0 MiB in "), "{}", done.stderr);
}

#[test]
fn a_new_image_replaces_a_file_even_its_own_source() {
    let Some(host) = host() else { return };
    fs::copy(host.folder().join("disk.qcow2"), host.folder().join("image")).unwrap();
    symlink("image", host.folder().join("link")).unwrap();
    host.ok("convert image --to vmdk -o link");
    assert!(host.folder().join("link").is_symlink());
    qemu_img(&host, "compare -f raw -F vmdk disk.raw image");
}

/// Copies a qcow2 image; in the copy the disk's first cluster lies behind the file's end.
fn damage(image: &Path, damaged: &Path) {
    let mut bytes = fs::read(image).unwrap();
    let field = |at: usize| u64::from_be_bytes(bytes[at..at + 8].try_into().unwrap());
    let l1_table = field(40) as usize;
    let l2_table = (field(l1_table) & 0x00ff_ffff_ffff_fe00) as usize;
    bytes[l2_table..l2_table + 8].copy_from_slice(&(1_u64 << 63 | 1 << 40).to_be_bytes());
    fs::write(damaged, bytes).unwrap();
}

#[test]
fn what_cannot_be_converted_leaves_what_was_there() {
    let Some(host) = host() else { return };
    let at = |name: &str| host.folder().join(name);
    fs::create_dir(at("folder")).unwrap();
    fs::write(at("old"), "old").unwrap();
    fs::write(at("empty"), "").unwrap();
    create(host.folder(), "-f qcow2 -b disk.raw -F raw over.qcow2");
    fs::copy(at("disk.qcow2"), at("short.qcow2")).unwrap();
    cut(&at("short.qcow2"), 600_000);
    damage(&at("disk.qcow2"), &at("damaged.qcow2"));
    let before = files(host.folder()).len();
    for (arguments, code, words) in [
        ("disk.qcow2 -o old", 2, ["--to"].as_slice()),
        ("disk.qcow2 --to raw", 2, &["--output"]),
        ("disk.qcow2 --to qed -o old", 2, &["qed", "qcow2"]),
        ("disk.qcow2 --to raw --compression zlib -o old", 2, &["compression", "--to qcow2"]),
        ("disk.qcow2 --to raw --threads 0 -o old", 2, &["threads"]),
        ("disk.qcow2 --to raw -o folder", 2, &["`folder` is a directory", "--output"]),
        ("disk.qcow2 --to raw -o /dev/null", 2, &["a device"]),
        ("disk.qcow2 --to raw -o nowhere/new", 1, &["nowhere/new", "No such file"]),
        ("nowhere --to raw -o old", 4, &["nowhere"]),
        ("disk.qcow2 --to raw --format vmdk -o old", 1, &["vmdk", "magic"]),
        ("disk.qcow2 --to raw --max-size 0 -o old", 1, &["the limit is 0", "--max-size"]),
        ("disk.qcow2 --to raw --backing disk.raw -o old", 1, &["no difference"]),
        ("over.qcow2 --to raw -o old", 1, &["over.qcow2", "backing"]),
        ("short.qcow2 --to raw -o old", 1, &["short.qcow2", "qcow2", "byte"]),
        ("empty --to vmdk -o old", 1, &["`old`", "vmdk", "no bytes"]),
        ("damaged.qcow2 --to raw -o old", 1, &["`damaged.qcow2`", "cannot read the disk", "disk-images.md"]),
    ] {
        host.run(&format!("convert {arguments}")).fails(code, words);
    }
    assert_eq!(fs::read(at("old")).unwrap(), b"old");
    assert_eq!(files(host.folder()).len(), before);
}

#[test]
fn a_full_disk_is_named_and_nothing_is_left_on_it() {
    let Some(host) = host() else { return };
    let full = host.folder().join("full");
    let Some(_small) = SmallDisk::mount(&full, "256k") else { return };
    for to in ["raw", "qcow2", "qcow2 --compression zstd", "vmdk", "vmdk --subformat sparse"] {
        let words = ["full/new", "at byte", "No space left", "has room"];
        host.run(&format!("convert disk.qcow2 --to {to} -o full/new")).fails(1, &words);
        assert!(files(&full).is_empty());
    }
}
