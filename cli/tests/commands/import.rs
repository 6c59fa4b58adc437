//! `import`: what other platforms made, packed at once or written down as a folder to go on from.

use std::fs;
use std::path::Path;
use std::process::Command;

use appliance::Digest;
use serde_json::{Value, json};

use crate::support::disks::{boot, convert, create, cut, noise};
use crate::support::package::{Member, file, link, members, ova, tar};
use crate::support::registry::Registry;
use crate::support::{Done, Host, files, installed};

/// The config of the appliance `reference`, without what hangs on its name and history.
#[track_caller]
pub(crate) fn config(host: &Host, reference: &str) -> Value {
    let mut config = host.json(&format!("inspect --json {reference}"))["platforms"][0]["config"].take();
    config.as_object_mut().unwrap().remove("parent");
    config
}

/// The digests of the disk indexes of the appliance `reference`.
#[track_caller]
pub(crate) fn disks(host: &Host, reference: &str) -> Value {
    host.json(&format!("inspect --json {reference}"))["platforms"][0]["disks"].take()
}

/// `file` is imported at once and by way of a folder, and comes to the same. Returns what was said.
#[track_caller]
pub(crate) fn check_both_ways(host: &Host, file: &str) -> String {
    let done = host.run(&format!("import {file} -t at-once:1"));
    done.ok();
    assert!(done.stderr.contains("FIREWALL: deny all"), "{}", done.stderr);
    assert_eq!(host.ok(&format!("import {file} --init folder")), "folder");
    host.ok("pack folder -t by-folder:1 --no-base");
    assert_eq!(config(host, "by-folder:1"), config(host, "at-once:1"), "{file}");
    assert_eq!(disks(host, "by-folder:1"), disks(host, "at-once:1"), "{file}");
    let policy =
        |reference| host.json(&format!("inspect --json {reference}"))["platforms"][0]["policy"].take();
    assert_eq!(policy("by-folder:1"), policy("at-once:1"), "{file}");
    done.stderr
}

/// `arguments` are refused with `code` and `words`, and nothing is left behind.
#[track_caller]
pub(crate) fn check_refused(host: &Host, arguments: &str, code: i32, words: &[&str]) {
    let before = files(host.folder());
    host.run(&format!("import {arguments} -t bad:1")).fails(code, words);
    host.run(&format!("import {arguments} --init bad")).fails(code, words);
    let mut after = files(host.folder());
    after.retain(|path| path != host.home());
    assert_eq!(after.iter().filter(|path| !before.contains(path)).count(), 0, "{after:?}");
    assert!(host.references().is_empty());
    assert!(host.half_written().is_empty());
}

#[test]
fn a_disk_of_every_format_is_a_machine() {
    if !installed(&["qemu-img"]) {
        return;
    }
    let formats = [
        ("raw", "-O raw", "virtio"),
        ("qcow2", "-O qcow2", "virtio"),
        ("vmdk", "-O vmdk -o subformat=streamOptimized", "compat"),
        ("vdi", "-O vdi", "compat"),
        ("vpc", "-O vpc -o force_size=on", "compat"),
        ("vhdx", "-O vhdx", "compat"),
    ];
    for (name, options, devices) in formats {
        let host = Host::new();
        let raw = host.folder().join("disk");
        fs::write(&raw, noise(1, 1 << 20)).unwrap();
        convert(&raw, options, &format!("Web Server.{name}").replace(' ', "_"));
        let said = check_both_ways(&host, &format!("Web_Server.{name}"));
        assert!(said.contains("nothing says how much the guest needs"), "{said}");
        let config = config(&host, "at-once:1");
        assert_eq!((&config["name"], &config["version"]), (&"web-server".into(), &"1.0".into()));
        let machine = &config["machines"][0];
        assert_eq!(machine["devices"], devices, "{name}");
        assert_eq!(machine["disks"][0]["sizeBytes"], 8 << 20, "{name}");
        assert_eq!(machine["nics"].to_string(), r#"[{"name":"eth0"}]"#);
        // The folder has the image itself.
        let image =
            files(&host.folder().join("folder")).into_iter().find(|path| !path.ends_with("hull.toml"));
        let original = host.folder().join(format!("Web_Server.{name}"));
        assert_eq!(fs::read(image.unwrap()).unwrap(), fs::read(original).unwrap(), "{name}");
    }
}

#[test]
fn a_person_overrules_what_is_assumed() {
    let host = Host::new();
    fs::write(host.folder().join("a.raw"), boot()).unwrap();
    let wishes =
        "--name shop --version 2.1 --vcpus 4 --memory 3GiB --firmware uefi --devices compat --arch arm64";
    let done = host.run(&format!("import a.raw -t shop:2 --json {wishes}"));
    let result: Value = serde_json::from_str(&done.ok()).unwrap();
    assert_eq!(result["reference"], "shop:2");
    assert_eq!(result["kind"], "a raw disk image");
    assert_eq!(result["notices"].to_string(), "[]");
    assert_eq!(host.references().len(), 1);
    let config = &result["config"];
    assert_eq!((&config["name"], &config["version"]), (&"shop".into(), &"2.1".into()));
    let machine = &config["machines"][0];
    let found = ["name", "arch", "firmware", "devices"].map(|key| machine[key].as_str().unwrap());
    assert_eq!(found, ["shop", "arm64", "uefi", "compat"]);
    assert_eq!((machine["vcpus"].as_u64(), machine["memoryBytes"].as_u64()), (Some(4), Some(3 << 30)));
}

#[test]
fn images_of_several_files_are_handed_over_whole() {
    if !installed(&["qemu-img"]) {
        return;
    }
    let host = Host::new();
    let raw = host.folder().join("base.img");
    fs::write(&raw, noise(1, 1 << 20)).unwrap();
    create(host.folder(), "-q -f qcow2 -b base.img -F raw day-1 8M");
    create(host.folder(), "-q -f qcow2 -b day-1 -F qcow2 day-2 8M");
    host.run("import day-2 -t web:1").fails(1, &["day-2", "not handed over", "`--backing FILE`"]);
    host.run("convert day-2 --to raw -o a").fails(1, &["day-2", "not handed over", "`--backing FILE`"]);
    host.run("import base.img --backing base.img -t web:1").fails(1, &["base.img", "raw"]);
    check_both_ways(&host, "day-2 --backing day-1 --backing base.img");
    host.ok("import base.img -t alone:1 --name day-2");
    assert_eq!(disks(&host, "alone:1"), disks(&host, "at-once:1"));

    // By an author's own hull.toml too.
    let toml = "[appliance]\nname = \"day-2\"\nversion = \"1.0\"\n[machine]\nmemory = \"1GiB\"\n[[disk]]\nname = \"root\"\n\
                source = \"day-2\"\nbacking = [\"day-1\", \"base.img\"]\n";
    fs::write(host.folder().join("hull.toml"), toml).unwrap();
    host.ok("pack . -t of-author:1");
    assert_eq!(disks(&host, "of-author:1"), disks(&host, "at-once:1"));
    let forgotten = toml.replace("backing = [\"day-1\", \"base.img\"]\n", "");
    fs::write(host.folder().join("hull.toml"), &forgotten).unwrap();
    host.run("pack . -t web:1").fails(1, &["disk `root`", "not handed over", "`backing = [\"FILE\"]`"]);
    create(host.folder(), "-q -f vmdk -o subformat=monolithicFlat flat.vmdk 8M");
    host.run("import flat.vmdk -t web:1").fails(1, &["not handed over", "`--parts DIR`"]);
    let flat = forgotten.replace("source = \"day-2", "source = \"flat.vmdk");
    fs::write(host.folder().join("hull.toml"), flat).unwrap();
    host.run("pack . -t web:1").fails(1, &["not handed over", "`parts = \"DIR\"`"]);
}

/// The files `names` of the host's folder, as members in the folder `of` of an archive.
fn archived(host: &Host, of: &str, names: &[&str]) -> Vec<Member> {
    let member = |name: &&str| file(&format!("{of}{name}"), fs::read(host.folder().join(name)).unwrap());
    names.iter().map(member).collect()
}

#[test]
fn an_archive_has_a_disk_in_several_files() {
    if !installed(&["qemu-img", "gzip"]) {
        return;
    }
    let host = Host::new();
    let raw = host.folder().join("base.img");
    fs::write(&raw, noise(1, 1 << 20)).unwrap();
    create(host.folder(), "-q -f qcow2 -b base.img -F raw day-1 8M");
    create(host.folder(), "-q -f qcow2 -b day-1 -F qcow2 day-2 8M");
    for (name, subformat) in [
        ("flat.vmdk", "monolithicFlat"),
        ("split.vmdk", "twoGbMaxExtentSparse"),
        ("parts.vmdk", "twoGbMaxExtentFlat"),
    ] {
        convert(&raw, &format!("-O vmdk -o subformat={subformat}"), name);
    }
    convert(&raw, "-O vdi", "one.vdi");
    host.ok("import base.img -t want:1");
    for (names, kind) in [
        (&["flat-flat.vmdk", "flat.vmdk"][..], "an archive with a vmdk disk image"),
        (&["split.vmdk", "split-s001.vmdk"], "an archive with a vmdk disk image"),
        (&["parts-f001.vmdk", "parts.vmdk"], "an archive with a vmdk disk image"),
        (&["day-1", "base.img", "day-2"], "an archive with a qcow2 disk image"),
        (&["one.vdi"], "an archive with a vdi disk image"),
        (&["base.img"], "an archive with a raw disk image"),
    ] {
        for (of, is_packed) in [("", false), ("machine/disks/", true)] {
            let archive = tar(&archived(&host, of, names));
            let archive = if is_packed { gzip(&host, &archive) } else { archive };
            fs::write(host.folder().join("web"), archive).unwrap();
            let said = check_both_ways(&host, "web");
            assert!(said.contains(kind) && !said.contains("nothing here uses"), "{names:?}: {said}");
            assert_eq!(disks(&host, "at-once:1"), disks(&host, "want:1"), "{names:?}");
            fs::remove_dir_all(host.folder().join("folder")).unwrap();
        }
    }
    let more = [archived(&host, "", &["one.vdi"]), vec![file("README", "Read me.")]].concat();
    fs::write(host.folder().join("web"), tar(&more)).unwrap();
    let said = check_both_ways(&host, "web");
    assert!(said.contains("files that nothing here uses: `README`"), "{said}");
}

#[test]
fn an_archive_in_which_not_one_disk_is_meant_is_refused() {
    if !installed(&["qemu-img"]) {
        return;
    }
    let host = Host::new();
    let raw = host.folder().join("base.img");
    fs::write(&raw, noise(1, 1 << 20)).unwrap();
    for (name, backing) in
        [("day-1", "base.img -F raw"), ("day-2", "day-1 -F qcow2"), ("other", "day-1 -F qcow2")]
    {
        create(host.folder(), &format!("-q -f qcow2 -b {backing} {name} 8M"));
    }
    create(host.folder(), "-q -u -f qcow2 -b turn -F qcow2 round 8M");
    create(host.folder(), "-q -u -f qcow2 -b round -F qcow2 turn 8M");
    create(host.folder(), "-q -u -f qcow2 -b round -F qcow2 above 8M");
    create(host.folder(), "-q -u -f qcow2 -b ../base.img -F raw outside 8M");
    create(host.folder(), "-q -f vmdk -o subformat=monolithicFlat flat.vmdk 8M");
    create(host.folder(), "-q -f vmdk -o subformat=monolithicFlat second.vmdk 8M");
    create(host.folder(), "-q -f vdi one.vdi 8M");
    let unclear = ["not one disk image", "unpack it"];
    for (names, words) in [
        (&["base.img", "day-1", "day-2", "other"][..], &unclear[..]),
        (&["day-1", "one.vdi", "base.img"], &unclear),
        (&["round", "turn"], &unclear),
        (&["above", "round", "turn"], &["round", "turn"]),
        (&["flat.vmdk", "flat-flat.vmdk", "second.vmdk", "second-flat.vmdk"], &unclear),
        (&["flat.vmdk", "flat-flat.vmdk", "one.vdi"], &unclear),
        (&["flat.vmdk"], &["flat.vmdk", "flat-flat.vmdk"]),
        (&["day-2", "base.img"], &["day-2", "not handed over"]),
        (&["base.img", "flat-flat.vmdk"], &["disk image with its parts", "base.img"]),
    ] {
        fs::write(host.folder().join("web.tar"), tar(&archived(&host, "", names))).unwrap();
        check_refused(&host, "web.tar", 1, words);
    }
    // A name leads nowhere but to its neighbours.
    let members = [archived(&host, "disks/", &["outside"]), archived(&host, "", &["base.img"])].concat();
    fs::write(host.folder().join("web.tar"), tar(&members)).unwrap();
    check_refused(&host, "web.tar", 1, &["outside", "not handed over"]);
    fs::write(host.folder().join("web.tar"), tar(&archived(&host, "", &["base.img"]))).unwrap();
    check_refused(&host, "web.tar --backing base.img", 2, &["--backing", "archive with a raw disk image"]);
}

#[test]
fn an_appliance_in_an_archive_is_one_already() {
    let host = Host::new();
    fs::write(host.folder().join("a.raw"), boot()).unwrap();
    host.ok("import a.raw -t web:1 -o web.tar");
    for arguments in ["web.tar", "web.tar --arch arm64"] {
        let done = host.run(&format!("import {arguments} -t bad:1"));
        done.fails(1, &["this is an appliance already", "skopeo copy --all oci-archive:FILE", "hull pull"]);
    }
}

#[test]
fn a_raw_disk_that_looks_like_something_else_is_read_as_it_is_told() {
    let host = Host::new();
    let mut disk = noise(1, 1 << 20);
    disk[..4].copy_from_slice(b"QFI\xfb");
    fs::write(host.folder().join("disk"), &disk).unwrap();
    host.run("import disk -t web:1").fails(1, &["qcow2", "version"]);
    check_both_ways(&host, "disk --format raw");
    let toml = fs::read_to_string(host.folder().join("folder/hull.toml")).unwrap();
    assert!(toml.contains("format = \"raw\""), "{toml}");
}

#[test]
fn what_an_image_holds_besides_is_said() {
    if !installed(&["qemu-img"]) {
        return;
    }
    let host = Host::new();
    let raw = host.folder().join("disk");
    fs::write(&raw, noise(1, 1 << 20)).unwrap();
    let image = convert(&raw, "-O qcow2", "a.qcow2");
    let mut snapshot = Command::new("qemu-img");
    assert!(snapshot.args(["snapshot", "-c", "before"]).arg(&image).status().unwrap().success());
    let said = check_both_ways(&host, "a.qcow2");
    assert!(said.contains("left out of disk root: 1 internal snapshot"), "{said}");
    let packed = host.run("pack folder -t again:1");
    assert!(packed.stderr.contains("1 internal snapshot of disk root"), "{}", packed.stderr);
}

#[test]
fn files_that_are_nothing_to_import_leave_nothing_behind() {
    let host = Host::new();
    let at = |name: &str| host.folder().join(name);
    fs::write(at("small.qcow2"), b"QFI\xfb").unwrap();
    fs::File::create(at("large")).and_then(|file| file.set_len(2 << 30)).unwrap();
    fs::create_dir(at("empty")).unwrap();
    check_refused(&host, "missing", 4, &["missing", "No such file"]);
    check_refused(&host, "small.qcow2", 1, &["small.qcow2", "qcow2"]);
    check_refused(&host, "large --max-size 1", 1, &["2147483648", "--max-size"]);
    check_refused(&host, "large --backing missing", 4, &["missing"]);
    check_refused(&host, "large --parts missing", 4, &["missing"]);
    check_refused(&host, "large --name Web!", 2, &["Web!", "lower-case"]);
    check_refused(&host, "large --memory 12", 2, &["12", "2GiB"]);
    check_refused(&host, "large --format qed", 2, &["qed", "qcow2"]);
    check_refused(&host, "large --arch arm64 --firmware bios", 2, &["BIOS", "--firmware"]);
    host.run("import large").fails(2, &["--tag", "--init"]);
    host.run("import large -t a:1 --init b").fails(2, &["--tag", "--init"]);
    host.run("import large --init b --no-base").fails(2, &["--init", "--no-base"]);
}

#[test]
fn a_folder_is_written_whole_or_not_at_all() {
    let host = Host::new();
    let at = |name: &str| host.folder().join(name);
    fs::write(at("a.raw"), noise(1, 1 << 20)).unwrap();
    fs::create_dir(at("occupied")).unwrap();
    fs::write(at("occupied/mine"), "mine").unwrap();
    let occupied = ["is there already", "nothing in this one was touched"];
    host.run("import a.raw --init occupied").fails(2, &occupied);
    host.run("import a.raw --init a.raw").fails(2, &occupied);
    host.run("import a.raw --init nowhere/folder").fails(1, &["nowhere", "No such file"]);
    assert_eq!(files(&at("occupied")), [at("occupied/mine")]);
    fs::create_dir(at("empty")).unwrap();
    host.ok("import a.raw --init empty");
    assert!(at("empty/hull.toml").is_file());
    let mut names: Vec<_> = files(host.folder());
    names.sort();
    assert_eq!(names, ["a.raw", "empty", "hull", "occupied"].map(at));
    // Nothing of it is too large for the folder's owner to read or change.
    let mode =
        |path: &Path| std::os::unix::fs::PermissionsExt::mode(&fs::metadata(path).unwrap().permissions());
    assert_eq!(mode(&at("empty/root.img")) & 0o600, 0o600);
    cut(&at("empty/root.img"), 4096);
    host.ok("pack empty -t cut:1");
}

/// A host with an OVA of a machine's two disks, whose members are there for a test to change.
fn host_with_members(more: &str) -> Option<(Host, Vec<Member>)> {
    if !installed(&["qemu-img"]) {
        return None;
    }
    let host = Host::new();
    let stream = "-O vmdk -o subformat=streamOptimized";
    let image = |seed, name: &str| {
        let raw = host.folder().join("raw");
        fs::write(&raw, noise(seed, 1 << 20)).unwrap();
        convert(&raw, stream, name)
    };
    let members = members(more, &image(1, "first"), &image(2, "second"));
    Some((host, members))
}

#[test]
fn an_ova_is_the_machine_that_it_describes() {
    let Some((host, members)) = host_with_members("") else { return };
    fs::write(host.folder().join("download"), ova(&members)).unwrap();
    let said = check_both_ways(&host, "download");
    for words in [
        "is an OVA",
        "it has a licence",
        "`VM Network` is the outside here",
        "volume vmdisk3 was a disk that starts empty",
        "left out: `CD-ROM drive`",
        "properties that a deployer may set (1): `hostname=shop`",
        "`devices` is compat",
    ] {
        assert!(said.contains(words), "`{words}` is missing: {said}");
    }
    let config = config(&host, "at-once:1");
    let want = concat!(
        r#"{"formatVersion":1,"machines":[{"arch":"amd64","console":"serial","devices":"compat","#,
        r#""disks":[{"bus":"pvscsi","mode":"overlay","name":"vmdisk1","sizeBytes":8388608},"#,
        r#"{"bus":"pvscsi","mode":"overlay","name":"vmdisk2","sizeBytes":8388608}],"#,
        r#""firmware":"uefi-secure","memoryBytes":2147483648,"name":"web-shop","#,
        r#""nics":[{"model":"vmxnet3","name":"eth0"}],"vcpus":4,"#,
        r#""volumes":[{"name":"vmdisk3","sizeBytes":1073741824}]}],"name":"web-shop","#,
        r#""title":"Shop front end","version":"1.4"}"#,
    );
    assert_eq!(config.to_string(), want);
    // The descriptor and the disks, byte for byte, under names of our own.
    let folder = host.folder().join("folder");
    for (name, member) in [("source.ovf", 0), ("vmdisk1.vmdk", 1), ("vmdisk2.vmdk", 2)] {
        assert_eq!(fs::read(folder.join(name)).unwrap(), members[member].content, "{name}");
    }
    assert_eq!(fs::read_to_string(folder.join("EULA.txt")).unwrap(), "Be kind.");
    assert_eq!(files(&folder).len(), 5);
    let toml = fs::read_to_string(folder.join("hull.toml")).unwrap();
    assert!(toml.contains("# `system.vmdk`, on PvScsi controller 0, address 0\n[[disk]]"), "{toml}");
}

#[test]
fn an_ova_has_a_disk_in_several_files() {
    let Some((host, mut members)) = host_with_members("") else { return };
    convert(&host.folder().join("raw"), "-O vmdk -o subformat=monolithicFlat", "system.vmdk");
    members[1] = archived(&host, "", &["system.vmdk"]).remove(0);
    members.extend(archived(&host, "", &["system-flat.vmdk"]));
    members.push(file("notes.txt", "Nothing."));
    let more = "<File ovf:id=\"part\" ovf:href=\"system-flat.vmdk\"/><File ovf:id=\"notes\" ovf:href=\"notes.txt\"/>";
    let descriptor = String::from_utf8(members[0].content.clone()).unwrap();
    members[0].content = descriptor.replace("</References>", &format!("{more}</References>")).into();
    fs::write(host.folder().join("web.ova"), ova(&members)).unwrap();
    let said = check_both_ways(&host, "web.ova");
    assert!(said.contains("files that nothing here uses: `notes.txt`\n"), "{said}");
}

#[test]
fn an_ovf_lies_in_a_folder_or_is_named_itself() {
    let Some((host, members)) = host_with_members("") else { return };
    let folder = host.folder().join("package");
    fs::create_dir(&folder).unwrap();
    for member in &members {
        fs::write(folder.join(&member.name), &member.content).unwrap();
    }
    let said = check_both_ways(&host, "package");
    assert!(said.contains("there is no manifest"), "{said}");
    host.ok("import package/web.ovf -t named:1");
    assert_eq!(config(&host, "named:1"), config(&host, "at-once:1"));
    // A link in the folder leads nowhere else.
    fs::remove_file(folder.join("more.vmdk")).unwrap();
    fs::write(host.folder().join("outside"), &members[2].content).unwrap();
    std::os::unix::fs::symlink("../outside", folder.join("more.vmdk")).unwrap();
    host.run("import package -t out:1").fails(1, &["more.vmdk"]);
    fs::write(folder.join("second.ovf"), "<Envelope/>").unwrap();
    host.run("import package -t two:1").fails(1, &["second.ovf", "web.ovf", "name the one"]);
}

#[test]
fn an_ova_that_is_not_what_it_says_is_refused() {
    let Some((host, members)) = host_with_members("") else { return };
    let check = |spoil: &dyn Fn(&mut Vec<Member>), words: &[&str]| {
        let mut members = members.clone();
        members.insert(1, file("web.mf", manifest(&members)));
        spoil(&mut members);
        fs::write(host.folder().join("web.ova"), tar(&members)).unwrap();
        check_refused(&host, "web.ova", 1, words);
    };
    check(&|members| members[2].content[5000] ^= 1, &["system.vmdk", "digest", "manifest"]);
    check(&|members| members[0].content.push(b' '), &["web.ovf", "digest", "manifest"]);
    check(&|members| members[1].content.truncate(80), &["manifest"]);
    check(&|members| drop(members.remove(3)), &["no file `more.vmdk`"]);
    check(&|members| members.push(members[2].clone()), &["system.vmdk", "again"]);
    check(&|members| members.push(file("other.ovf", "<Envelope/>")), &["other.ovf"]);
    check(&|members| members.push(link("a", "/etc/passwd")), &["a is a symbolic link"]);
    check(&|members| members.push(file("../../a", "a")), &["../../a"]);
    check(&|members| members.push(file("/etc/a", "a")), &["/etc/a"]);
    check(&|members| members[0].content = b"<!DOCTYPE a [<!ENTITY b \"c\">]><a/>".to_vec(), &["web.ovf"]);
    host.run("import web.ova --backing web.ova -t bad:1").fails(1, &["web.ovf"]);
    fs::write(host.folder().join("web.ova"), ova(&members)).unwrap();
    check_refused(&host, "web.ova --backing web.ova", 2, &["--backing", "disk image"]);
    fs::write(host.folder().join("plain.img"), [0; 512]).unwrap();
    check_refused(&host, "plain.img --configuration big", 2, &["--configuration", "raw disk image"]);
    check_refused(&host, "web.ova --max-size 0", 1, &["--max-size"]);
    check_refused(&host, "web.ova --configuration small", 1, &["small", "none"]);
}

/// A manifest of `members`.
pub(crate) fn manifest(members: &[Member]) -> String {
    let digest = |member: &Member| Digest::sha256(&member.content).hex();
    members.iter().map(|member| format!("SHA256({})= {}\n", member.name, digest(member))).collect()
}

#[test]
fn a_policy_that_an_export_put_into_an_ovf_holds_again() {
    let policy = |machine: &str| {
        let rule = r#"{"name":"http","proto":"tcp","ports":[80],"from":["0.0.0.0/0"]}"#;
        let policy = format!(
            r#"{{"policyVersion":1,"machines":{{"{machine}":{{"firewall":{{"ingress":[{rule}]}}}}}}}}"#
        );
        format!(
            "<hull:PolicySection xmlns:hull=\"https://hullvm.dev/ovf/1\" ovf:required=\"false\">\
             <Info>hull</Info>{policy}</hull:PolicySection>"
        )
    };
    let Some((host, members)) = host_with_members(&policy("web-shop")) else { return };
    fs::write(host.folder().join("web.ova"), ova(&members)).unwrap();
    let done = host.run("import web.ova -t web:1");
    done.ok();
    assert!(done.stderr.contains("policy of hull's"), "{}", done.stderr);
    assert!(done.stderr.contains("FIREWALL: as the OVF brings it."), "{}", done.stderr);
    let policy_of = |reference: &str| {
        host.json(&format!("inspect --json {reference}"))["platforms"][0]["policy"]["machines"].take()
    };
    assert_eq!(policy_of("web:1")["web-shop"]["firewall"]["ingress"][0]["ports"].to_string(), "[80]");
    host.ok("import web.ova -t other:1 --name other");
    assert_eq!(policy_of("other:1")["other"]["firewall"]["ingress"][0]["name"], "http");
    host.ok("import web.ova --init folder");
    host.ok("pack folder -t by-folder:1");
    assert_eq!(policy_of("by-folder:1"), policy_of("web:1"));

    let Some((host, members)) = host_with_members(&policy("somebody-else")) else { return };
    fs::write(host.folder().join("web.ova"), ova(&members)).unwrap();
    check_refused(&host, "web.ova", 1, &["policy", "somebody-else"]);
    let Some((host, members)) = host_with_members(&policy("web-shop").repeat(2)) else { return };
    fs::write(host.folder().join("web.ova"), ova(&members)).unwrap();
    check_refused(&host, "web.ova", 1, &["two policies"]);
}

/// `content`, as gzip packs it.
pub(crate) fn gzip(host: &Host, content: &[u8]) -> Vec<u8> {
    let path = host.folder().join("unpacked");
    fs::write(&path, content).unwrap();
    let output = Command::new("gzip").arg("-c").arg(&path).output().unwrap();
    fs::remove_file(path).unwrap();
    output.stdout
}

#[test]
fn a_vagrant_box_is_a_machine() {
    if !installed(&["qemu-img", "gzip"]) {
        return;
    }
    let host = Host::new();
    let raw = host.folder().join("disk");
    fs::write(&raw, noise(1, 1 << 20)).unwrap();
    let image = fs::read(convert(&raw, "-O qcow2", "image")).unwrap();
    let one = r#"{"provider":"libvirt","format":"qcow2","virtual_size":1}"#;
    let several = r#"{"provider":"libvirt","architecture":"amd64","disks":[{"path":"box_0.img","format":"qcow2"},
                      {"path":"box_1.img","format":"qcow2","name":"data"}]}"#;
    let boxes = [
        (
            "one",
            vec![file("metadata.json", one), file("Vagrantfile", "exit 1"), file("box.img", &*image)],
            "root",
        ),
        (
            "several",
            vec![file("./metadata.json", several), file("box_0.img", &*image), file("box_1.img", &*image)],
            "root data",
        ),
    ];
    for (name, members, disks) in boxes {
        for packed in [tar(&members), gzip(&host, &tar(&members))] {
            let host = Host::new();
            fs::write(host.folder().join(name), packed).unwrap();
            let said = check_both_ways(&host, name);
            assert!(said.contains("is a Vagrant box") && said.contains("virtio devices"), "{said}");
            let found = config(&host, "at-once:1")["machines"][0]["disks"].take();
            let found: Vec<_> =
                found.as_array().unwrap().iter().map(|disk| disk["name"].as_str().unwrap()).collect();
            assert_eq!(found.join(" "), disks);
        }
    }
    let check = |metadata: &str, words: &[&str]| {
        let members = [file("metadata.json", metadata), file("box.img", "QFI")];
        fs::write(host.folder().join("bad.box"), tar(&members)).unwrap();
        check_refused(&host, "bad.box", 1, words);
    };
    check("{", &["metadata.json", "JSON"]);
    check(r#"{"provider":"vmware_desktop"}"#, &["vmware_desktop", "libvirt"]);
    check(r#"{"provider":"libvirt","format":"vmdk"}"#, &["vmdk", "qcow2"]);
    check(r#"{"provider":"libvirt","format":"qcow2"}"#, &["box.img", "qcow2"]);
    check(r#"{"provider":"libvirt","disks":[{"path":"/etc/passwd"}]}"#, &["/etc/passwd", "not there"]);
    fs::write(host.folder().join("cut.box"), &gzip(&host, &image)[..2000]).unwrap();
    check_refused(&host, "cut.box", 1, &["cut.box", "unpacked"]);
    fs::write(host.folder().join("bomb.box"), gzip(&host, &vec![0; 2 << 20])).unwrap();
    check_refused(&host, "bomb.box --max-size 0", 1, &["bomb.box", "--max-size"]);
}

#[test]
fn a_virtualbox_box_is_the_ovf_in_it() {
    let Some((host, mut members)) = host_with_members("") else { return };
    members[0].name = "box.ovf".to_owned();
    members.push(file("metadata.json", r#"{"provider":"virtualbox"}"#));
    fs::write(host.folder().join("a.box"), gzip(&host, &tar(&members))).unwrap();
    let said = check_both_ways(&host, "a.box");
    assert!(said.contains("is a Vagrant box"), "{said}");
    assert_eq!(config(&host, "at-once:1")["machines"][0]["firmware"], "uefi-secure");
}

/// An OCI image layout at `layout` with one image, whose layers are these.
fn image_layout(host: &Host, layers: &[Vec<u8>]) {
    let blobs = host.folder().join("layout/blobs/sha256");
    fs::create_dir_all(&blobs).unwrap();
    let add = |media_type: &str, content: &[u8]| {
        let digest = Digest::sha256(content);
        fs::write(blobs.join(digest.hex()), content).unwrap();
        json!({ "mediaType": media_type, "digest": digest, "size": content.len() })
    };
    let layer = |content: &Vec<u8>| {
        let kind = if content.starts_with(&[0x1f, 0x8b]) { "tar+gzip" } else { "tar" };
        add(&format!("application/vnd.oci.image.layer.v1.{kind}"), content)
    };
    let layers: Vec<_> = layers.iter().map(layer).collect();
    let diff_ids: Vec<_> = layers.iter().map(|layer| layer["digest"].clone()).collect();
    let config = json!({
        "architecture": "amd64", "os": "linux", "config": {}, "rootfs": { "type": "layers", "diff_ids": diff_ids },
    });
    let manifest = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": add("application/vnd.oci.image.config.v1+json", config.to_string().as_bytes()), "layers": layers,
    });
    let manifest = add("application/vnd.oci.image.manifest.v1+json", manifest.to_string().as_bytes());
    let index = json!({ "schemaVersion": 2, "manifests": [manifest] });
    let layout = host.folder().join("layout");
    fs::write(layout.join("index.json"), index.to_string()).unwrap();
    fs::write(layout.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
}

/// Copies `layout` to `to` with skopeo.
#[track_caller]
fn skopeo(host: &Host, to: &str) {
    let mut command = Command::new("skopeo");
    host.clean(command.current_dir(host.folder()));
    command.args(["--insecure-policy", "copy", "-q", "--dest-tls-verify=false", "oci:layout", to]);
    Done::of(&mut command).ok();
}

#[test]
fn a_container_disk_comes_from_a_registry_or_an_archive() {
    if !installed(&["qemu-img", "skopeo", "gzip"]) {
        return;
    }
    let host = Host::new();
    let registry = Registry::start(&host);
    let raw = host.folder().join("raw");
    fs::write(&raw, noise(1, 1 << 20)).unwrap();
    let image = fs::read(convert(&raw, "-O qcow2", "image")).unwrap();
    // The later layer wins, and takes away; what is elsewhere may be anything.
    let first =
        tar(&[file("disk/disk.img", "an older one"), file("disk/other.img", "x"), link("bin", "usr/bin")]);
    let second =
        [file("disk/disk.img", image), file("disk/.wh.other.img", ""), file("etc/other", "not looked at")];
    let links = [link("etc/mtab", "/proc/mounts"), link("usr/lib64", "lib")];
    image_layout(&host, &[first, tar(&[&second[..], &links].concat())]);
    skopeo(&host, &format!("docker://{}/vms/web:1", registry.address));
    skopeo(&host, "oci-archive:oci.tar");
    skopeo(&host, "docker-archive:docker.tar:web:1");
    host.ok("import raw --name web -t want:1");
    for origin in [format!("docker://{}/vms/web:1", registry.address), "oci.tar".into(), "docker.tar".into()]
    {
        let said = check_both_ways(&host, &format!("{origin} --name web"));
        assert!(said.contains("is a container image with a disk for KubeVirt"), "{said}");
        assert!(said.contains("virtio devices"), "{said}");
        assert_eq!(disks(&host, "at-once:1"), disks(&host, "want:1"), "{origin}");
        fs::remove_dir_all(host.folder().join("folder")).unwrap();
    }
    host.ok(&format!("import docker://{}/vms/web:1 -t named:1", registry.address));
    assert_eq!(config(&host, "named:1")["name"], "web");
}

#[test]
fn container_images_without_one_disk_are_refused() {
    if !installed(&["skopeo", "gzip"]) {
        return;
    }
    let check = |layer: Vec<u8>, words: &[&str]| {
        let host = Host::new();
        image_layout(&host, &[layer]);
        skopeo(&host, "oci-archive:image.tar");
        check_refused(&host, "image.tar", 1, words);
    };
    check(tar(&[file("etc/passwd", "x"), file("a", "x"), file("b", "x")]), &["no disk"]);
    check(tar(&[file("disk/a", "x"), file("disk/b", "x")]), &["several files", "disk/a"]);
    check(tar(&[file("disk/a", "KDMV")]), &["disk/a", "vmdk", "qcow2"]);
    check(tar(&[file("disk/../a", "x")]), &["disk/../a"]);
    check(tar(&[link("disk/a", "/etc/shadow")]), &["layer 1", "disk/a is a symbolic link"]);
    check(tar(&[link("disk", "/etc")]), &["layer 1", "disk is a symbolic link"]);
    check(b"no tar archive".to_vec(), &["layer 1"]);

    let host = Host::new();
    let layer = tar(&[file("disk/a", "x")]);
    image_layout(&host, std::slice::from_ref(&layer));
    let mut blobs = files(&host.folder().join("layout/blobs/sha256"));
    blobs.push(host.folder().join("layout/index.json"));
    let archived = |path: &std::path::PathBuf| {
        let mut content = fs::read(path).unwrap();
        if content == layer {
            content[512] ^= 1;
        }
        file(path.strip_prefix(host.folder().join("layout")).unwrap().to_str().unwrap(), content)
    };
    let members: Vec<_> = blobs.iter().map(archived).collect();
    fs::write(host.folder().join("image.tar"), tar(&members)).unwrap();
    check_refused(&host, "image.tar", 1, &["digest", "promise"]);
    check_refused(&host, "docker://127.0.0.1:1/web:1", 5, &["127.0.0.1:1"]);
    check_refused(&host, "docker://web:1", 2, &["web:1", "docker://HOST"]);
    check_refused(&host, "docker://", 2, &["docker://HOST"]);
}
