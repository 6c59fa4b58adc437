//! `import` of OVF packages of every shape: several machines, packed and cut files, configurations, other people's
//! descriptors.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};

use formats::ovf::{Descriptor, VirtualDisk};

use crate::import::{check_both_ways, check_refused, config, disks, gzip, manifest};
use crate::support::disks::{convert, noise};
use crate::support::package::{Member, file, ova, tar};
use crate::support::registry::Guard;
use crate::support::wait::until;
use crate::support::{Host, files, installed};

const HEAD: &str = r#"<?xml version="1.0" encoding="UTF-8"?>
<Envelope xmlns="http://schemas.dmtf.org/ovf/envelope/1" xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1"
  xmlns:rasd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData"
  xmlns:vmw="http://www.vmware.com/schema/ovf">"#;

/// A descriptor of these `File` and `Disk` elements, whose attributes are given, and what else is in the envelope.
fn envelope(files: &[&str], disks: &[&str], rest: &str) -> String {
    let elements = |name: &str, all: &[&str]| {
        all.iter().map(|attributes| format!("<{name} {attributes}/>")).collect::<String>()
    };
    let (files, disks) = (elements("File", files), elements("Disk", disks));
    format!(
        "{HEAD}<References>{files}</References><DiskSection><Info/>{disks}</DiskSection>{rest}</Envelope>"
    )
}

/// A machine with these disks on SCSI and a card on each of these networks. `more` goes to its hardware.
fn system(id: &str, disks: &[&str], networks: &[&str], more: &str) -> String {
    let mut items = String::from(
        "<Item><rasd:InstanceID>1</rasd:InstanceID><rasd:ResourceType>3</rasd:ResourceType>\
         <rasd:VirtualQuantity>1</rasd:VirtualQuantity></Item>\
         <Item><rasd:AllocationUnits>byte * 2^20</rasd:AllocationUnits><rasd:InstanceID>2</rasd:InstanceID>\
         <rasd:ResourceType>4</rasd:ResourceType><rasd:VirtualQuantity>512</rasd:VirtualQuantity></Item>\
         <Item><rasd:Address>0</rasd:Address><rasd:InstanceID>3</rasd:InstanceID>\
         <rasd:ResourceSubType>lsilogic</rasd:ResourceSubType><rasd:ResourceType>6</rasd:ResourceType></Item>",
    );
    for (n, disk) in disks.iter().enumerate() {
        _ = write!(
            items,
            "<Item><rasd:AddressOnParent>{n}</rasd:AddressOnParent><rasd:HostResource>ovf:/disk/{disk}</rasd:HostResource>\
             <rasd:InstanceID>1{n}</rasd:InstanceID><rasd:Parent>3</rasd:Parent><rasd:ResourceType>17</rasd:ResourceType></Item>"
        );
    }
    for (n, network) in networks.iter().enumerate() {
        _ = write!(
            items,
            "<Item><rasd:AddressOnParent>{n}</rasd:AddressOnParent><rasd:Connection>{network}</rasd:Connection>\
             <rasd:InstanceID>2{n}</rasd:InstanceID><rasd:ResourceSubType>E1000</rasd:ResourceSubType>\
             <rasd:ResourceType>10</rasd:ResourceType></Item>"
        );
    }
    format!(
        "<VirtualSystem ovf:id=\"{id}\"><Info/><VirtualHardwareSection><Info/>{items}{more}\
         </VirtualHardwareSection></VirtualSystem>"
    )
}

const ONE_DISK: &str = r#"ovf:diskId="root" ovf:fileRef="f" ovf:capacity="8388608""#;

/// A descriptor of one machine with one disk, whose file has these attributes besides.
fn one_disk(attributes: &str) -> String {
    let file = format!("ovf:id=\"f\" ovf:href=\"disk.vmdk\" {attributes}");
    envelope(&[&file], &[ONE_DISK], &system("web", &["root"], &[], ""))
}

/// A host with `disk.raw`, and what that is as a VMDK for transport; `raw:1` is the disk itself, imported.
fn host_with_disk() -> Option<(Host, Vec<u8>)> {
    if !installed(&["qemu-img", "gzip"]) {
        return None;
    }
    let host = Host::new();
    let raw = host.folder().join("disk.raw");
    fs::write(&raw, noise(1, 1 << 20)).unwrap();
    let image = fs::read(convert(&raw, "-O vmdk -o subformat=streamOptimized", "image")).unwrap();
    host.ok("import disk.raw -t raw:1 --name web");
    Some((host, image))
}

/// The disk of `at-once:1` is that of `raw:1`.
#[track_caller]
fn check_content(host: &Host) {
    assert_eq!(disks(host, "at-once:1")[0]["chunks"], disks(host, "raw:1")[0]["chunks"]);
    let raw = |reference: &str, name: &str| {
        host.ok(&format!("export {reference} --to raw --lossy=wider -o {name}"));
        fs::read(host.folder().join(name)).unwrap()
    };
    assert!(raw("at-once:1", "a.raw") == raw("raw:1", "b.raw"), "the disk is another one");
}

/// `members` are imported as an OVA and as a folder, and come to the same disk as `raw:1`. Returns what was said.
#[track_caller]
fn check_package(host: &Host, members: &[Member]) -> String {
    let folder = host.folder().join("package");
    fs::create_dir(&folder).unwrap();
    for member in members {
        fs::write(folder.join(&member.name), &member.content).unwrap();
    }
    check_both_ways(host, "package");
    check_content(host);
    fs::remove_dir_all(folder).unwrap();
    fs::remove_dir_all(host.folder().join("folder")).unwrap();
    fs::write(host.folder().join("web.ova"), ova(members)).unwrap();
    let said = check_both_ways(host, "web.ova");
    check_content(host);
    fs::remove_dir_all(host.folder().join("folder")).unwrap();
    said
}

#[test]
fn several_machines_keep_their_order_and_their_private_networks() {
    let Some((host, image)) = host_with_disk() else { return };
    let second = host.folder().join("second.raw");
    fs::write(&second, noise(2, 1 << 20)).unwrap();
    let second = fs::read(convert(&second, "-O vmdk -o subformat=streamOptimized", "image-2")).unwrap();
    let networks = "<NetworkSection><Info/><Network ovf:name=\"VM Network\"/><Network ovf:name=\"net-2\">\
                    <Description>The isolated one between the two</Description></Network></NetworkSection>";
    let startup = "<StartupSection><Info/><Item ovf:id=\"db\" ovf:order=\"1\" ovf:startDelay=\"30\"/>\
                   <Item ovf:id=\"web\" ovf:order=\"2\"/></StartupSection>";
    let collection = format!(
        "{networks}<VirtualSystemCollection ovf:id=\"shop\"><Info/><Name>Shop</Name>{startup}{}{}\
         </VirtualSystemCollection>",
        system("web", &["d1"], &["VM Network", "net-2"], ""),
        system("db", &["d2"], &["net-2"], ""),
    );
    let descriptor = envelope(
        &[r#"ovf:id="f1" ovf:href="web.vmdk""#, r#"ovf:id="f2" ovf:href="db.vmdk""#],
        &[
            r#"ovf:diskId="d1" ovf:fileRef="f1" ovf:capacity="8388608""#,
            r#"ovf:diskId="d2" ovf:fileRef="f2" ovf:capacity="8388608""#,
        ],
        &collection,
    );
    let members = [file("shop.ovf", descriptor), file("web.vmdk", image), file("db.vmdk", second)];
    fs::write(host.folder().join("shop.ova"), ova(&members)).unwrap();
    let said = check_both_ways(&host, "shop.ova");
    for words in [
        "Appliance shop 1.0",
        "network `VM Network` is the outside here",
        "network `net-2` is private between machines by its name or description, and is `net-2` here",
        "machine db: kept in the OVF, without effect here: wait before the next machine starts (1): `30 s`",
        "Nothing reaches db, web, and db, web reaches nothing.",
    ] {
        assert!(said.contains(words), "`{words}` is missing: {said}");
    }
    let first = config(&host, "at-once:1");
    assert_eq!(first["title"], "Shop");
    let shown = |n: usize| {
        let machine = &first["machines"][n];
        format!(
            "{} {} {} {}",
            machine["name"], machine["startOrder"], machine["disks"][0]["name"], machine["nics"]
        )
    };
    let db = r#""db" 1 "d2" [{"model":"e1000","name":"eth0","network":"net-2"}]"#;
    let web =
        r#""web" 2 "d1" [{"model":"e1000","name":"eth0"},{"model":"e1000","name":"eth1","network":"net-2"}]"#;
    assert_eq!((shown(0).as_str(), shown(1).as_str()), (db, web));

    // Out again and in again: the same machines, with the same disks.
    host.ok("export at-once:1 --to ova --lossy=wider -o again.ova");
    host.ok("import again.ova -t again:1");
    assert_eq!(config(&host, "again:1")["machines"], first["machines"]);
    assert_eq!(disks(&host, "again:1"), disks(&host, "at-once:1"));
}

/// `content`, cut into pieces of `bytes` that are called as the OVF specification says.
fn chunks(content: &[u8], bytes: usize) -> Vec<Member> {
    let pieces = content.chunks(bytes).enumerate();
    pieces.map(|(n, piece)| file(&format!("disk.vmdk.{n:09}"), piece)).collect()
}

#[test]
fn files_of_a_package_are_packed_or_cut_or_both() {
    let Some((host, image)) = host_with_disk() else { return };
    let packed = gzip(&host, &image);
    let gz = r#"ovf:compression="gzip""#;
    check_package(&host, &[file("web.ovf", one_disk(gz)), file("disk.vmdk", &*packed)]);
    for (content, more) in [(&image, ""), (&packed, gz)] {
        for size in [String::new(), format!("ovf:size=\"{}\"", content.len())] {
            let mut members =
                vec![file("web.ovf", one_disk(&format!("ovf:chunkSize=\"300000\" {size} {more}")))];
            members.extend(chunks(content, 300_000));
            assert!(members.len() > 3);
            let said = check_package(&host, &members);
            assert!(!said.contains("overrules"), "{said}");
        }
    }
    // A raw disk, too, is known by its content alone.
    let raw = gzip(&host, &noise(1, 1 << 20));
    check_package(&host, &[file("web.ovf", one_disk(gz)), file("disk.vmdk", raw)]);
}

#[test]
fn packed_or_cut_files_that_are_not_what_they_should_be_are_refused() {
    let Some((host, image)) = host_with_disk() else { return };
    let check = |attributes: &str, members: Vec<Member>, words: &[&str]| {
        let host = Host::new();
        let members: Vec<_> = [file("web.ovf", one_disk(attributes))].into_iter().chain(members).collect();
        let mut covered = members.clone();
        covered.insert(1, file("web.mf", manifest(&members)));
        fs::write(host.folder().join("web.ova"), tar(&covered)).unwrap();
        check_refused(&host, "web.ova", 1, words);
    };
    let gz = r#"ovf:compression="gzip""#;
    // The disk has 8 MiB: no image of it has 64.
    let bomb = gzip(&host, &vec![7; 64 << 20]);
    check(gz, vec![file("disk.vmdk", &*bomb)], &["disk.vmdk", "more than 25690112 bytes", "8388608"]);
    let name = "disk.vmdk";
    let cut_off = &gzip(&host, &image)[..100_000];
    check(gz, vec![file(name, cut_off)], &["disk.vmdk", "unpacked"]);
    check(gz, vec![file(name, &*image)], &["disk.vmdk", "unpacked"]);
    check("ovf:compression=\"bzip2\"", vec![file(name, &*image)], &["bzip2", "gzip"]);
    // Packed, and not said to be.
    check("", vec![file(name, gzip(&host, &image))], &["gzip"]);

    let size = format!("ovf:chunkSize=\"300000\" ovf:size=\"{}\"", image.len());
    let all = chunks(&image, 300_000);
    let last = all.len() - 1;
    check(&size, all[..last].to_vec(), &["no file", &all[last].name]);
    let more = [&all[..], &[file(&format!("disk.vmdk.{:09}", last + 1), "x")]].concat();
    check(&size, more, &["1 bytes; wanted 0", "ovf:size"]);
    let mut short = all.clone();
    short[last].content.pop();
    check(&size, short, &[&all[last].name, "ovf:size"]);
    let mut short = all.clone();
    short[0].content.pop();
    check(&size, short, &["disk.vmdk.000000000", "299999 bytes; wanted 300000"]);
    check("ovf:chunkSize=\"300000\"", [&all[..1], &all[2..]].concat(), &["no file", &all[1].name]);
}

#[test]
fn max_size_bounds_what_is_unpacked_whatever_the_ovf_says() {
    let Some((host, _)) = host_with_disk() else { return };
    let gz = r#"ovf:id="f" ovf:href="disk" ovf:compression="gzip""#;
    let disk =
        r#"ovf:diskId="root" ovf:fileRef="f" ovf:capacity="1" ovf:capacityAllocationUnits="byte * 2^40""#;
    let descriptor = envelope(&[gz], &[disk], &system("web", &["root"], &[], ""));
    fs::write(host.folder().join("raw"), "").unwrap();
    File::options().write(true).open(host.folder().join("raw")).unwrap().set_len((1 << 30) + 1).unwrap();
    let output = Command::new("gzip").arg("-1c").arg(host.folder().join("raw")).output().unwrap();
    let other = Host::new();
    let members = [file("web.ovf", descriptor), file("disk", output.stdout)];
    fs::write(other.folder().join("web.ova"), ova(&members)).unwrap();
    check_refused(&other, "web.ova --max-size 1", 1, &["more than 1073741824 bytes", "--max-size"]);
}

#[test]
fn sizes_that_contradict_the_files_are_told_and_the_files_count() {
    let Some((host, image)) = host_with_disk() else { return };
    let members = |attributes: &str| [file("web.ovf", one_disk(attributes)), file("disk.vmdk", &*image)];
    let right = format!("ovf:size=\"{}\"", image.len());
    let said = check_package(&host, &members(&right));
    assert!(!said.contains("overrules"), "{said}");
    let said = check_package(&host, &members("ovf:size=\"5\""));
    let words =
        format!("file `disk.vmdk` has {} bytes; the OVF says 5, which the file overrules", image.len());
    assert!(said.contains(&words), "{said}");

    for said_bytes in [4 << 20, 16 << 20] {
        let descriptor = one_disk("").replace("8388608", &said_bytes.to_string());
        let said = check_package(&host, &[file("web.ovf", descriptor), file("disk.vmdk", &*image)]);
        let words =
            format!("disk root has 8388608 bytes; the OVF says {said_bytes}, which the image overrules");
        assert!(said.contains(&words), "{said}");
    }
}

#[test]
fn firmware_variables_are_left_out_and_told() {
    let Some((host, image)) = host_with_disk() else { return };
    let secure = r#"<vmw:Config ovf:required="false" vmw:key="firmware" vmw:value="efi"/>
        <vmw:Config ovf:required="false" vmw:key="bootOptions.efiSecureBootEnabled" vmw:value="true"/>
        <vmw:ExtraConfig ovf:required="false" vmw:key="nvram" vmw:value="ovf:/file/f2"/>"#;
    let descriptor = envelope(
        &[r#"ovf:id="f" ovf:href="disk.vmdk""#, r#"ovf:id="f2" ovf:href="variables""#],
        &[ONE_DISK],
        &system("web", &["root"], &[], secure),
    );
    let members = [file("web.ovf", descriptor), file("disk.vmdk", image), file("variables", "MRVN")];
    let said = check_package(&host, &members);
    let words = "left out: firmware variables, `variables`; the machine starts with those that a new one has";
    assert!(said.contains(words), "{said}");
    assert!(!said.contains("nothing here uses") && !said.contains("ovf:/file"), "{said}");
    assert_eq!(config(&host, "at-once:1")["machines"][0]["firmware"], "uefi-secure");
}

#[test]
fn a_person_chooses_one_of_the_configurations() {
    let host = Host::new();
    fixture(&host, "deployment-configs.ovf", Some("small"));
    let shown = |arguments: &str| {
        let done = host.run(&format!("import package {arguments} -t a:1 --no-base"));
        done.ok();
        let config = config(&host, "a:1");
        (done.stderr, format!("{} {}", config["machines"][0]["memoryBytes"], config["machines"][0]["vcpus"]))
    };
    let (said, by_default) = shown("");
    assert!(said.contains("configuration `") && said.contains("the others are"), "{said}");
    let mut found = vec![by_default];
    let descriptor = fs::read(host.folder().join("package/a.ovf")).unwrap();
    for option in formats::ovf::parse(&descriptor, None).unwrap().options {
        let id = option.id;
        fixture(&host, "deployment-configs.ovf", Some(&id));
        let (said, config) = shown(&format!("--configuration {id}"));
        assert!(said.contains(&format!("configuration `{id}` was taken")), "{said}");
        found.push(config);
    }
    found.sort();
    found.dedup();
    assert!(found.len() > 1, "{found:?}");
    host.run("import package --configuration other -t b:1").fails(1, &["other", "small"]);
}

/// Somebody else's descriptor as `package/a.ovf`, with disks beside it that fit what it says for `configuration`.
fn fixture(host: &Host, name: &str, configuration: Option<&str>) {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../formats/tests/fixtures/ovf");
    let bytes = fs::read(fixtures.join(name)).unwrap();
    let folder = host.folder().join("package");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("a.ovf"), &bytes).unwrap();
    let Ok(Descriptor { files, disks, .. }) = formats::ovf::parse(&bytes, configuration) else { return };
    for reference in files {
        let of_file = |disk: &&VirtualDisk| disk.file.as_ref() == Some(&reference.id);
        let bytes = disks.iter().find(of_file).map(|disk| disk.capacity_bytes).or(reference.size_bytes);
        if reference.href.contains('/') {
            fs::create_dir_all(folder.join(&reference.href).parent().unwrap()).unwrap();
        }
        File::create(folder.join(reference.href)).and_then(|file| file.set_len(bytes.unwrap_or(0))).unwrap();
    }
}

/// `import_ovf.txt` holds what is said of each of other people's descriptors.
#[test]
fn other_peoples_descriptors_are_imported_or_refused_for_a_reason() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../formats/tests/fixtures/ovf");
    let names = files(&fixtures);
    let mut names: Vec<_> = names.iter().map(|path| path.file_name().unwrap().to_str().unwrap()).collect();
    names.retain(|name| name.ends_with(".ovf"));
    names.sort_unstable();
    assert_eq!(names.len(), 21);
    let mut found = String::new();
    for name in names {
        let host = Host::new();
        fixture(&host, name, None);
        let done = host.run("import package --init folder");
        _ = writeln!(found, "{name}: {}", done.code.unwrap());
        for line in done.stderr.lines() {
            _ = writeln!(found, "  {line}");
        }
        if done.code == Some(0) {
            host.ok("pack folder -t by-folder:1");
            host.ok("import package -t at-once:1");
            assert_eq!(config(&host, "by-folder:1"), config(&host, "at-once:1"), "{name}");
            assert_eq!(disks(&host, "by-folder:1"), disks(&host, "at-once:1"), "{name}");
        }
    }
    let wanted = include_str!("import_ovf.txt");
    if found != wanted {
        let actual = std::env::temp_dir().join("import_ovf.txt");
        fs::write(&actual, &found).unwrap();
        panic!("answered otherwise: compare with {}", actual.display());
    }
}

#[test]
fn an_import_that_is_interrupted_leaves_nothing() {
    if !installed(&["gzip"]) {
        return;
    }
    let host = Host::new();
    // Gzip files end to end are one: so much that no machine has unpacked it before it is told to stop.
    let packed = gzip(&host, &vec![7; 64 << 20]).repeat(200);
    let gz = r#"ovf:id="f" ovf:href="disk" ovf:compression="gzip""#;
    let disk =
        r#"ovf:diskId="root" ovf:fileRef="f" ovf:capacity="1" ovf:capacityAllocationUnits="byte * 2^40""#;
    let descriptor = envelope(&[gz], &[disk], &system("web", &["root"], &[], ""));
    let members = [file("web.ovf", descriptor), file("disk", packed)];
    fs::write(host.folder().join("web.ova"), tar(&members)).unwrap();
    host.ok("images");
    for result in ["-t web:1", "--init web"] {
        let before = files(host.folder());
        let arguments = format!("import web.ova {result}");
        let mut hull = host.hull(arguments.split(' '));
        let mut child = Guard(hull.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
        let descriptors = format!("/proc/{}/fd", child.0.id());
        until("something has been unpacked", || {
            let targets = fs::read_dir(&descriptors).into_iter().flatten().flatten();
            let mut targets =
                targets.filter_map(|entry| Some((entry.path(), fs::read_link(entry.path()).ok()?)));
            let scratch = targets.find(|(_, target)| target.to_string_lossy().ends_with("(deleted)"))?;
            fs::metadata(scratch.0).ok().filter(|metadata| metadata.len() > 0).map(drop)
        });
        // Not SIGINT, which a shell has its background jobs ignore.
        let kill = Command::new("kill").args(["-TERM", &child.0.id().to_string()]).status().unwrap();
        assert!(kill.success());
        assert!(!child.0.wait().unwrap().success());
        assert_eq!(files(host.folder()), before);
        assert!(host.half_written().is_empty());
    }
}
