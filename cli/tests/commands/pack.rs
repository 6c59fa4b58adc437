//! `pack`, and what is then in the local store: `inspect`, `images`, `tag`, `rmi`.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use appliance::{Digest, media_type};
use serde_json::Value;

use crate::support::disks::{boot, convert, noise};
use crate::support::registry::Guard;
use crate::support::source::{author, edit};
use crate::support::{Done, Host, files, installed};

/// What `inspect` says of the appliance's one platform.
#[track_caller]
fn inspect(host: &Host, reference: &str) -> Value {
    host.json(&format!("inspect --json {reference}"))["platforms"][0].take()
}

fn packs(platform: &Value) -> BTreeSet<String> {
    let packs = platform["packs"].as_array().unwrap().iter();
    packs.map(|pack| pack["digest"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn raw_qcow2_and_vmdk_of_one_content_are_the_same_disk() {
    if !installed(&["qemu-img"]) {
        return;
    }
    let host = Host::new();
    let folder = author(&host, "a", &noise(1, 3 << 20));
    let raw = folder.join("disk.raw");
    convert(&raw, "-O qcow2", "plain.qcow2");
    convert(&raw, "-O qcow2 -c -o cluster_size=4k", "compressed.qcow2");
    convert(&raw, "-O vmdk -o subformat=streamOptimized", "stream.vmdk");
    convert(&raw, "-O vmdk -o subformat=monolithicSparse", "sparse.vmdk");
    host.ok("pack a -t from:raw");
    let want = inspect(&host, "from:raw");
    let mut source = "disk.raw";
    for other in ["plain.qcow2", "compressed.qcow2", "stream.vmdk", "sparse.vmdk"] {
        edit(&folder, source, other);
        source = other;
        let another = Host::new();
        let pack = another.hull(["pack", "-t", "from:other"]).arg(&folder).output().unwrap();
        assert!(pack.status.success(), "{other}: {}", String::from_utf8_lossy(&pack.stderr));
        let found = inspect(&another, "from:other");
        for part in ["disks", "packs", "manifest"] {
            assert_eq!(found[part], want[part], "{part} of {other}");
        }
    }
}

#[test]
fn packing_twice_gives_the_same_digests() {
    let host = Host::new();
    let folder = author(&host, "a", &noise(1, 1 << 20));
    let first = host.ok("pack a -t web:1");
    let stored = files(&host.home().join("store/blobs/sha256")).len();
    for again in
        ["pack a -t web:1", "pack a -t web:2", "pack a -t web:1 --no-base", "pack a/hull.toml -t x:1"]
    {
        assert_eq!(host.ok(again), first, "{again}");
    }
    assert_eq!(files(&host.home().join("store/blobs/sha256")).len(), stored);
    // An earlier version that differs takes part in what a version is; the same one, the same way.
    fs::write(folder.join("disk.raw"), noise(2, 1 << 20)).unwrap();
    let second = host.ok("pack a -t web:3");
    assert_eq!(host.ok("pack a -t web:3"), second);
    assert_eq!(host.ok("pack a -t web:4 --base web:1"), second);
    // Another host, another user, another folder.
    let another = Host::new();
    author(&another, "b", &noise(1, 1 << 20));
    assert_eq!(another.ok("pack b -t other:1"), first);
}

#[test]
fn a_base_lends_its_packs() {
    let host = Host::new();
    let folder = author(&host, "a", &noise(1, 4 << 20));
    host.ok("pack a -t web:1");
    let mut disk = noise(1, 4 << 20);
    disk[1 << 20..][..64 << 10].copy_from_slice(&noise(2, 64 << 10)[..64 << 10]);
    fs::write(folder.join("disk.raw"), disk).unwrap();
    for (line, reference) in
        [("pack a -t web:2", "web:2"), ("pack a -t named-otherwise:1 --base web:1", "named-otherwise:1")]
    {
        let done = host.run(line);
        done.ok();
        assert!(done.stderr.contains("were in the base already"), "{}", done.stderr);
        let (old, new) = (inspect(&host, "web:1"), inspect(&host, reference));
        assert!(packs(&old).is_subset(&packs(&new)), "{line}");
        let added: Vec<_> = packs(&new).difference(&packs(&old)).cloned().collect();
        assert_eq!(added.len(), 1, "{line}");
        let size = fs::metadata(blob_path(&host, &added[0])).unwrap().len();
        assert!(size < 1 << 20, "{line}: the new pack has {size} bytes");
        assert_eq!(new["config"]["parent"], old["manifest"]["digest"]);
    }
    // Without a base, everything anew.
    host.ok("pack a -t web:3 --no-base");
    assert!(packs(&inspect(&host, "web:1")).is_disjoint(&packs(&inspect(&host, "web:3"))));
}

fn blob_path(host: &Host, digest: &str) -> std::path::PathBuf {
    host.home().join("store/blobs/sha256").join(digest.strip_prefix("sha256:").unwrap())
}

/// Runs skopeo, which succeeds, and returns what it wrote to stdout.
#[track_caller]
fn skopeo(host: &Host, arguments: &[&str]) -> String {
    let mut command = Command::new("skopeo");
    host.clean(&mut command);
    Done::of(command.arg("--insecure-policy").args(arguments).current_dir(host.folder())).ok()
}

#[test]
fn skopeo_reads_the_archive_that_pack_writes() {
    if !installed(&["skopeo"]) {
        return;
    }
    let host = Host::new();
    author(&host, "a", &noise(1, 2 << 20));
    let digest = host.ok("pack a -t registry.example/team/web:1.4 -o web.tar");
    let archived = skopeo(&host, &["inspect", "--raw", "oci-archive:web.tar:1.4"]);
    assert_eq!(Digest::sha256(archived.as_bytes()).to_string(), digest);
    skopeo(&host, &["copy", "--all", "oci-archive:web.tar:1.4", "oci:layout:1.4"]);
    let platform = inspect(&host, "registry.example/team/web:1.4");
    let blobs = host.folder().join("layout/blobs/sha256");
    let copied = |digest: &str| blobs.join(digest.strip_prefix("sha256:").unwrap()).is_file();
    assert!(packs(&platform).iter().all(|pack| copied(pack)));
    assert!(copied(platform["manifest"]["digest"].as_str().unwrap()));
    // The same again is the same, byte for byte.
    let first = fs::read(host.folder().join("web.tar")).unwrap();
    host.ok("pack a -t registry.example/team/web:1.4 -o web.tar");
    assert_eq!(fs::read(host.folder().join("web.tar")).unwrap(), first);
}

#[test]
fn an_archive_that_cannot_be_written_changes_nothing() {
    let host = Host::new();
    author(&host, "a", &boot());
    fs::create_dir(host.folder().join("is-a-folder")).unwrap();
    let before: BTreeSet<_> = files(host.folder()).into_iter().collect();
    host.run("pack a -t web:1 -o nowhere/web.tar").fails(1, &["nowhere/web.tar", "No such file"]);
    host.run("pack a -t web:1 -o is-a-folder").fails(2, &["is-a-folder", "directory"]);
    let mut after: BTreeSet<_> = files(host.folder()).into_iter().collect();
    after.remove(host.home());
    assert_eq!(after, before);
    assert_eq!(host.references().len(), 0);
    assert_eq!(host.half_written(), [""; 0].map(Path::new));
}

#[test]
fn inspect_shows_machine_disks_firewall_and_digests() {
    let host = Host::new();
    author(&host, "a", &boot());
    host.ok("pack a -t drill:1");
    insta::assert_snapshot!(without_digests(&host.ok("inspect drill:1")), @r"
    Reference:    drill:1
    Digest:       (digest)
    Platform:     linux/amd64
    Manifest:     (digest)
    Appliance:    drill 1.0
    Title:        A sector that halts
    Packed:       998 B in 1 pack

    Machine drill
    Architecture: amd64
    Processors:   1
    Memory:       64 MiB
    Firmware:     BIOS
    Restart:      no
    NICs:         eth0

    Disks
    NAME  SIZE     MODE     INDEX
    root  8.0 MiB  overlay  (digest)

    Firewall
    DIRECTION  RULE  PORTS    PEERS            PUBLISHED AT
    in         http  tcp 80   0.0.0.0/0
    out        out   tcp 443  198.51.100.0/24
    everything else is dropped

    Packs
    DIGEST                                                                   SIZE
    (digest)  54 B
    ");
}

#[test]
fn inspect_says_the_same_in_json() {
    let host = Host::new();
    author(&host, "a", &boot());
    let digest = host.ok("pack a -t drill:1");
    let json = host.json("inspect drill:1 --json");
    assert_eq!(json["digest"], digest.as_str());
    assert_eq!(json["reference"], "drill:1");
    let platform = &json["platforms"][0];
    assert_eq!(platform["platform"], "linux/amd64");
    let firewall = &platform["policy"]["machines"]["drill"]["firewall"];
    let rule = r#"[{"log":"none","name":"out","ports":[443],"proto":"tcp","to":["198.51.100.0/24"]}]"#;
    assert_eq!(firewall["egress"].to_string(), rule);
    let machine = &platform["config"]["machines"][0];
    assert_eq!(machine["memoryBytes"], 64 << 20);
    assert_eq!(machine["disks"].to_string(), r#"[{"mode":"overlay","name":"root","sizeBytes":8388608}]"#);
    // The manifest is there under its digest, and is what it says it is.
    let manifest = fs::read(blob_path(&host, platform["manifest"]["digest"].as_str().unwrap())).unwrap();
    let manifest: Value = serde_json::from_slice(&manifest).unwrap();
    assert_eq!(manifest["artifactType"], media_type::APPLIANCE);
    let layers: Vec<_> =
        manifest["layers"].as_array().unwrap().iter().map(|l| l["mediaType"].as_str()).collect();
    let want = [media_type::POLICY, media_type::DISK_INDEX, media_type::DISK_PACK];
    assert_eq!(layers, want.map(Some));
}

/// `text` with every digest, whole or short, as `(digest)`.
fn without_digests(text: &str) -> String {
    let is_hex = |c: char| c.is_ascii_digit() || ('a'..='f').contains(&c);
    let word = |word: &str| {
        let hex = word.strip_prefix("sha256:").unwrap_or(word);
        if hex.len() >= 12 && hex.chars().all(is_hex) { "(digest)".to_owned() } else { word.to_owned() }
    };
    let line = |line: &str| line.split(' ').map(word).collect::<Vec<_>>().join(" ");
    text.lines().map(line).collect::<Vec<_>>().join("\n")
}

#[test]
fn what_an_author_wrote_cannot_drive_the_terminal() {
    let host = Host::new();
    let folder = author(&host, "a", &boot());
    edit(&folder, "title = \"", "title = \"\\u001b[2J\\u009b1m\\n");
    host.ok("pack a -t drill:1");
    let shown = host.ok("inspect drill:1");
    assert!(shown.contains(r"\u{1b}[2J\u{9b}1m\nA sector"), "{shown}");
}

#[test]
fn a_disk_is_served_to_other_programs_without_being_unpacked() {
    if !installed(&["qemu-img"]) {
        return;
    }
    let host = Host::new();
    let folder = author(&host, "a", &noise(1, 3 << 20));
    host.ok("pack a -t web:1");
    let mut serve = host.hull(["nbd", "web:1", "--socket", "disk.socket"]);
    let mut serve = Guard(serve.stdout(Stdio::piped()).spawn().unwrap());
    let mut address = String::new();
    BufReader::new(serve.0.stdout.take().unwrap()).read_line(&mut address).unwrap();
    assert_eq!(address, "nbd+unix:///root?socket=disk.socket\n");
    let mut compare = Command::new("qemu-img");
    host.clean(compare.args(["compare", "disk.raw", "nbd+unix:///root?socket=../disk.socket"]));
    Done::of(compare.current_dir(&folder)).ok();
    host.run("nbd web:1 --socket disk.socket").fails(1, &["disk.socket", "in use"]);
}

#[test]
fn what_no_name_leads_to_is_freed_and_the_rest_stays() {
    let host = Host::new();
    let folder = author(&host, "a", &noise(1, 1 << 20));
    let first = host.ok("pack a -t web:1");
    fs::write(folder.join("disk.raw"), noise(2, 1 << 20)).unwrap();
    host.ok("pack a -t web:2");
    host.ok("tag web:1 kept:1");
    assert_eq!(host.ok("rmi web:1"), "Untagged: web:1");
    assert!(host.references().contains(&("kept:1".to_owned(), first)));
    host.ok("inspect kept:1");
    let names: Vec<String> = host.references().into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["kept:1", "web:2"]);
    let freed = host.run("rmi kept:1 web:2");
    freed.ok();
    assert!(freed.stderr.contains("Freed 2."), "{}", freed.stderr);
    assert_eq!(files(&host.home().join("store/blobs/sha256")).len(), 0);
    assert!(host.references().is_empty());
}
