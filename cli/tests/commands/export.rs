//! `hull export`: what is lost is said first, and what is written is the disk that was packed.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::support::disks::noise;
use crate::support::source::{author, edit};
use crate::support::{Done, Host, installed};

/// A second disk, and a rule that no other platform can express whole.
fn demanding(host: &Host) {
    let folder = author(host, "a", &noise(3, 3 << 20));
    fs::write(folder.join("second.raw"), noise(4, 1 << 20)).unwrap();
    let second = "[[disk]]\nname = \"second\"\nsource = \"second.raw\"\n\n[[nic]]";
    edit(&folder, "[[nic]]", second);
    edit(&folder, "from = [\"0.0.0.0/0\"]", "from = [\"0.0.0.0/0\"]\nrate = { new-per-second = 50 }");
    host.ok("pack a -t web:1");
}

fn plain(host: &Host) {
    author(host, "a", &noise(3, 3 << 20));
    host.ok("pack a -t web:1");
}

/// What is in the host's folder besides what the test put there.
fn outputs(host: &Host) -> Vec<String> {
    let entries = fs::read_dir(host.folder()).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.filter(|name| !["a", "hull", ".config"].contains(&name.as_str())).collect();
    names.sort();
    names
}

#[track_caller]
fn check_same_disk(host: &Host, format: &str, image: &str) {
    let mut compare = Command::new("qemu-img");
    host.clean(compare.args(["compare", "-f", "raw", "-F", format, "a/disk.raw", image]));
    Done::of(compare.current_dir(host.folder())).ok();
}

#[test]
fn disks_come_out_as_they_went_in() {
    if !installed(&["qemu-img"]) {
        return;
    }
    let host = Host::new();
    plain(&host);
    for (arguments, qemu, file) in [
        ("--to raw", "raw", "d.raw"),
        ("--to qcow2", "qcow2", "none.qcow2"),
        ("--to qcow2 --compression zstd", "qcow2", "zstd.qcow2"),
        ("--to qcow2 --compression zlib", "qcow2", "zlib.qcow2"),
        ("--to vmdk", "vmdk", "stream.vmdk"),
        ("--to vmdk --subformat sparse", "vmdk", "sparse.vmdk"),
        ("--to vhd", "vpc", "dynamic.vhd"),
        ("--to vhd --subformat fixed", "vpc", "fixed.vhd"),
        ("--to vhdx", "vhdx", "d.vhdx"),
        ("--to vdi", "vdi", "d.vdi"),
    ] {
        let output = host.ok(&format!("export web:1 {arguments} --lossy -o {file}"));
        assert_eq!(output, file);
        check_same_disk(&host, qemu, file);
        let once = fs::read(host.folder().join(file)).unwrap();
        host.ok(&format!("export web:1 {arguments} --lossy -o {file} --threads 1"));
        assert!(once == fs::read(host.folder().join(file)).unwrap(), "{file} is another one the second time");
    }
}

#[test]
fn a_disk_alone_has_no_firewall_and_nothing_is_written_before_somebody_agrees() {
    let host = Host::new();
    plain(&host);
    for to in ["raw", "qcow2", "vmdk", "vhd", "vhdx", "vdi", "containerdisk"] {
        let done = host.run(&format!("export web:1 --to {to} -o out"));
        done.fails(3, &["firewall", "wider", "nothing was written", "--lossy"]);
        assert_eq!(done.stdout, "");
    }
    assert_eq!(outputs(&host), [""; 0]);
}

#[test]
fn what_is_lost_is_told_to_people_and_to_programs() {
    let host = Host::new();
    demanding(&host);
    let done = host.run("export web:1 --to kubevirt -o out");
    done.fails(
        3,
        &["1 thing of web:1 cannot be expressed as kubevirt", "firewall.ingress.http.rate", "narrower"],
    );
    let done = host.run("export web:1 --to kubevirt -o out --json");
    let report: Value = serde_json::from_str(&done.stdout).unwrap();
    assert_eq!((done.code, &report["written"]), (Some(3), &Value::Bool(false)));
    assert_eq!(report["losses"][0]["key"], "firewall.ingress.http.rate");
    assert_eq!(report["losses"][0]["effect"], "narrower");
    assert!(!report["notices"].as_array().unwrap().is_empty());
    assert_eq!(outputs(&host), [""; 0]);

    let policy = |folder: &str| {
        fs::read_to_string(host.folder().join(folder).join("network-policy-drill.yaml")).unwrap()
    };
    host.ok("export web:1 --to kubevirt -o narrower --lossy");
    assert!(policy("narrower").contains("ingress: []"));
    let report = host.json("export web:1 --to kubevirt -o wider --lossy=wider --json");
    assert_eq!((&report["losses"][0]["effect"], &report["written"]), (&"wider".into(), &true.into()));
    assert!(policy("wider").contains("port: 80"));
}

#[test]
fn a_folder_has_the_documents_and_the_disks() {
    if !installed(&["qemu-img", "skopeo"]) {
        return;
    }
    let host = Host::new();
    plain(&host);
    host.ok("export web:1 --to libvirt -o lv");
    let path = host.folder().join("lv").display().to_string();
    let domain = fs::read_to_string(host.folder().join("lv/domain-drill.xml")).unwrap();
    assert!(domain.contains(&format!("<source file=\"{path}/root.qcow2\"/>")), "{domain}");
    check_same_disk(&host, "qcow2", "lv/root.qcow2");

    host.ok("export web:1 --to kubevirt -o k8s --image registry.example/shop:7");
    let vm = fs::read_to_string(host.folder().join("k8s/vm-drill.yaml")).unwrap();
    assert!(vm.contains("image: \"registry.example/shop:7\""), "{vm}");
    check_container_disk(&host, "k8s/containerdisk-root.tar");
    let nowhere = host.run("export web:1 --to kubevirt -o nowhere");
    nowhere.ok();
    for words in ["oci-archive:nowhere/containerdisk-root.tar docker://web-root:1\n", "names no registry"] {
        assert!(nowhere.stderr.contains(words), "{}", nowhere.stderr);
    }
}

/// The archive is a container image for skopeo, and holds the disk where KubeVirt looks for it.
#[track_caller]
fn check_container_disk(host: &Host, archive: &str) {
    let shell = |script: &str| {
        let mut command = Command::new("sh");
        host.clean(command.args(["-euc", script]));
        Done::of(command.current_dir(host.folder())).ok()
    };
    shell(&format!("skopeo copy -q oci-archive:{archive}:1 dir:copied"));
    let layer = shell("ls -S copied/* | head -1");
    let listing = shell(&format!("tar tvf {layer}"));
    assert!(
        listing.lines().any(|line| line.starts_with("dr-xr-xr-x 107/107") && line.ends_with(" disk/")),
        "{listing}"
    );
    assert!(
        listing
            .lines()
            .any(|line| line.starts_with("-r--r--r-- 107/107") && line.ends_with(" disk/disk.img")),
        "{listing}"
    );
    shell(&format!("tar xOf {layer} disk/disk.img > disk.img"));
    check_same_disk(host, "qcow2", "disk.img");
}

#[test]
fn a_container_disk_is_a_container_image() {
    if !installed(&["qemu-img", "skopeo"]) {
        return;
    }
    let host = Host::new();
    plain(&host);
    host.ok("export web:1 --to containerdisk -o disk.tar --lossy");
    check_container_disk(&host, "disk.tar");
}

#[test]
fn an_ova_carries_the_policy_to_the_next_hull() {
    let host = Host::new();
    demanding(&host);
    let publish = "ports = [80]\npublish = { host-port = 8080, bind = \"127.0.0.1\" }";
    edit(&host.folder().join("a"), "ports = [80]", publish);
    host.ok("pack a -t web:1");
    let done = host.run("export web:1 --to ova -o web.ova");
    assert_eq!(done.ok(), "web.ova");
    assert!(done.stderr.contains("enforce none of it"), "{}", done.stderr);
    let said = host.run("import web.ova -t back:1");
    said.ok();
    let lines = said.stderr.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "));
    let firewall: Vec<_> = lines.skip_while(|line| !line.starts_with("FIREWALL")).take(4).collect();
    assert_eq!(
        firewall,
        [
            "FIREWALL: as the OVF brings it. What passes to and from drill:",
            "DIRECTION RULE PORTS PEERS PUBLISHED AT",
            "in http tcp 80 0.0.0.0/0 127.0.0.1:8080",
            "out out tcp 443 198.51.100.0/24",
        ]
    );
    let policy = |name: &str| host.json(&format!("inspect {name} --json"))["platforms"][0]["policy"].clone();
    assert_eq!(policy("back:1"), policy("web:1"));
    host.run("export back:1 --to ova -o web.ova --disk root").fails(2, &["--disk"]);
    host.ok("export back:1 --to ova -o again.ova");
    let disk = |ova: &str, reference: &str| {
        host.ok(&format!("import {ova} -t {reference}"));
        host.json(&format!("inspect {reference} --json"))["platforms"][0]["disks"].clone()
    };
    assert_eq!(disk("web.ova", "one:1"), disk("again.ova", "two:1"));
}

#[test]
fn several_disks_make_a_folder_and_one_can_be_chosen() {
    let host = Host::new();
    demanding(&host);
    host.ok("export web:1 --to raw -o disks --lossy");
    host.ok("export web:1 --to raw -o second.raw --disk second --lossy");
    let read = |path: &str| fs::read(host.folder().join(path)).unwrap();
    assert!(read("disks/root.raw") == read("a/disk.raw"));
    assert!(read("disks/second.raw") == read("a/second.raw") && read("second.raw") == read("a/second.raw"));
}

#[test]
fn what_cannot_be_exported_is_said_and_leaves_nothing() {
    let host = Host::new();
    demanding(&host);
    fs::create_dir(host.folder().join("full")).unwrap();
    fs::write(host.folder().join("full/file"), "").unwrap();
    let before = outputs(&host);
    for (arguments, code, words) in [
        ("nowhere:1 --to raw -o out", 4, ["nowhere:1"].as_slice()),
        ("web:1 --to floppy -o out", 2, &["floppy", "possible values"]),
        ("web:1 --to raw -o out --disk third --lossy", 4, &["third", "root, second"]),
        ("web:1 --to raw -o out --machine third --lossy", 4, &["third", "drill"]),
        ("web:1 --to raw -o out --compression zlib --lossy", 2, &["--compression", "--to qcow2"]),
        ("web:1 --to vhd -o out --subformat stream --lossy", 2, &["--subformat", "vmdk"]),
        ("web:1 --to raw -o out --image a:1 --lossy", 2, &["--image", "kubevirt"]),
        ("web:1 --to libvirt -o out --disk root --lossy", 2, &["--disk"]),
        ("web:1 --to kubevirt -o out --image a:1 --lossy", 2, &["a:1", "DISK=REF"]),
        ("web:1 --to kubevirt -o out --image third=a:1 --lossy", 2, &["third"]),
        ("web:1 --to kubevirt -o out --image root=A --lossy", 2, &["`A`"]),
        ("web:1 --to raw -o full --lossy", 2, &["full", "empty folder"]),
        ("web:1 --to raw -o full --disk root --lossy", 2, &["a directory"]),
        ("web:1 --to libvirt -o full --lossy", 2, &["full"]),
        ("web:1 --to raw -o no/out --disk root --lossy", 1, &["no/out"]),
        ("web:1 --to libvirt -o no/out --lossy", 1, &["no/out"]),
        ("web:1 --to raw -o out --platform linux/arm64", 4, &["linux/arm64"]),
    ] {
        host.run(&format!("export {arguments}")).fails(code, words);
    }
    // A damaged pack shows when it is read.
    let pack =
        host.json("inspect web:1 --json")["platforms"][0]["packs"][0]["digest"].as_str().unwrap().to_owned();
    damage(&host.home().join("store/blobs").join(pack.replace(':', "/")));
    host.run("export web:1 --to raw -o out --disk root --lossy").fails(1, &["cannot read the disk"]);
    host.run("export web:1 --to libvirt -o out --lossy").fails(1, &["cannot read the disk"]);
    assert_eq!(outputs(&host), before);
}

/// Changes a byte in the middle of a file that nobody may write to.
fn damage(path: &Path) {
    let mut content = fs::read(path).unwrap();
    let middle = content.len() / 2;
    content[middle] ^= 0xff;
    fs::remove_file(path).unwrap();
    fs::write(path, content).unwrap();
}
