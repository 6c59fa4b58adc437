//! What authors write and mistype: an example as it is read, and rows of one mistake each with the line,
//! the column and the words that answer it. Never opens a file.
//!
//! Source: `docs/hull-toml.md`.

use super::*;

/// The example of the design, whole.
pub(super) const EXAMPLE: &str = r#"
[appliance]
name = "web"
version = "1.4.0"
title = "Shop front end"

[machine]
arch = "amd64"
vcpus = 2
memory = "1GiB"
firmware = "bios"
cpu = "x86-64-v2"
console = "serial"

[[disk]]
name = "root"
source = "web.vmdk"
mode = "overlay"

[[volume]]
name = "data"
size = "10GiB"

[[nic]]
name = "eth0"

[policy.resources]
disk = { iops = 2000, mbps = 100 }
[policy.health]
check = { http = "http://:80/healthz" }
interval = "10s"
start-period = "120s"
retries = 3
[policy.lifecycle]
restart = "on-failure"
max-restarts = 5
rollback = "on-unhealthy"
expires = 2027-06-30
[policy.trust]
signatures = { require = 1, keys = ["ed25519:abc"] }
[policy.placement]
hosts = ["*.prod.example.org"]

[firewall]
dns = { mode = "proxy", names = ["ntp.example.org"] }
[[firewall.ingress]]
name = "http"
proto = "tcp"
ports = [80, "8000-8010"]
from = ["0.0.0.0/0", "::/0"]
publish = { host-port = 8080, bind = "127.0.0.1" }
rate = { new-per-second = 50, burst = 100, per = "source" }
[[firewall.egress]]
name = "packages"
proto = "tcp"
ports = [443]
to = ["fqdn:packages.example.org", { cidr = "10.0.0.0/8", except = ["10.1.0.0/16"] }]
"#;

const TWO_MACHINES: &str = r#"
[appliance]
name = "shop"
version = "2"

[machines.front]
memory = "512MiB"
[[machines.front.disk]]
name = "front-root"
source = "disks/front.qcow2"
[[machines.front.nic]]
name = "eth0"
[machines.front.policy.lifecycle]
expires = 2030-01-01

[machines.back]
memory = "1GiB"
[[machines.back.nic]]
name = "eth0"
network = "inside"
[machines.back.policy.lifecycle]
expires = 2029-01-01
[[machines.back.firewall.ingress]]
name = "db"
proto = "tcp"
ports = [5432]
from = ["peer:front"]
"#;

const CONFIG: &str = concat!(
    r#"{"formatVersion":1,"machines":[{"arch":"amd64","console":"serial","cpu":"x86-64-v2","#,
    r#""devices":"virtio","disks":[{"mode":"overlay","name":"root","sizeBytes":0}],"firmware":"bios","#,
    r#""memoryBytes":1073741824,"name":"web","nics":[{"name":"eth0"}],"vcpus":2,"#,
    r#""volumes":[{"name":"data","sizeBytes":10737418240}]}],"name":"web","title":"Shop front end","#,
    r#""version":"1.4.0"}"#,
);

const POLICY: &str = concat!(
    r#"{"expires":"2027-06-30","machines":{"web":{"firewall":{"dns":{"mode":"proxy","#,
    r#""names":["ntp.example.org"]},"egress":[{"log":"none","name":"packages","ports":[443],"#,
    r#""proto":"tcp","to":["fqdn:packages.example.org",{"cidr":"10.0.0.0/8","#,
    r#""except":["10.1.0.0/16"]}]}],"icmp":{"pingIn":false,"pingOut":false},"#,
    r#""ingress":[{"from":["0.0.0.0/0","::/0"],"log":"none","name":"http","#,
    r#""ports":[80,"8000-8010"],"proto":"tcp","publish":{"bind":"127.0.0.1","hostPort":8080},"#,
    r#""rate":{"burst":100,"newPerSecond":50,"per":"source"}}],"#,
    r#""limits":{"flows":16384,"newFlowsPerSecond":500},"mode":"enforce","onNarrow":"cut"},"#,
    r#""health":{"check":{"http":{"path":"/healthz","port":80}},"intervalMs":10000,"retries":3,"#,
    r#""startPeriodMs":120000},"lifecycle":{"maxRestarts":5,"restart":"on-failure","#,
    r#""rollback":"on-unhealthy"},"resources":{"disk":{"iops":2000,"mbps":100}}}},"#,
    r#""placement":{"hosts":["*.prod.example.org"]},"policyVersion":1,"#,
    r#""trust":{"keys":["ed25519:abc"],"require":1}}"#,
);

/// The example with the first `from` replaced by `to` is refused, and this is said.
#[track_caller]
fn check_error(from: &str, to: &str, want: &str) {
    assert!(EXAMPLE.contains(from), "the example has no `{from}`");
    let error = HullToml::parse(&EXAMPLE.replacen(from, to, 1)).unwrap_err();
    assert_eq!(error.to_string(), want);
}

#[test]
fn the_example_of_the_design_is_read_whole() {
    let read = HullToml::parse(EXAMPLE).unwrap();
    let json = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    assert_eq!(json(read.config.to_bytes()), CONFIG);
    assert_eq!(json(read.policy.to_bytes()), POLICY);
    let image = NamedFile { path: "web.vmdk".into(), line: 17, column: 10 };
    let alone = DiskSource { disk: "root".into(), image, backing: Vec::new(), parts: None, format: None };
    assert_eq!(read.sources, [alone]);
}

#[test]
fn a_disk_may_be_of_several_files() {
    let more = concat!(
        "source = \"day-2\"\nbacking = [\"day-1\", \"./base.img\"]\n",
        "parts = \"pieces\"\nformat = \"raw\""
    );
    let text =
        EXAMPLE.replace("source = \"web.vmdk\"", more).replace("[machine]", "ovf = \"web.ovf\"\n[machine]");
    let read = HullToml::parse(&text).unwrap();
    let named = |path: &str, line, column| NamedFile { path: path.into(), line, column };
    assert_eq!(read.ovf, Some(named("web.ovf", 7, 7)));
    let want = DiskSource {
        disk: "root".to_owned(),
        image: named("day-2", 18, 10),
        backing: vec![named("day-1", 19, 12), named("./base.img", 19, 21)],
        parts: Some(named("pieces", 20, 9)),
        format: Some(Format::Raw),
    };
    assert_eq!(read.sources, [want]);
    check_error(
        "mode = \"overlay\"",
        "backing = [\"../base\"]",
        "line 18, column 12: `disk.backing` is `../base`; expected a path inside the folder of hull.toml, \
         without `..`",
    );
    let formats: Vec<_> = Format::ALL.iter().map(|format| format!("\"{format}\"")).collect();
    let want = format!("line 18, column 10: `disk.format` is `qed`; expected {}", formats.join(" or "));
    check_error("mode = \"overlay\"", "format = \"qed\"", &want);
}

#[test]
fn several_machines_have_their_own_tables() {
    let read = HullToml::parse(TWO_MACHINES).unwrap();
    let names: Vec<_> = read.config.machines.iter().map(|machine| machine.name.as_str()).collect();
    assert_eq!(names, ["back", "front"]);
    assert_eq!(read.policy.expires.as_deref(), Some("2029-01-01"));
    assert_eq!(read.policy.machine("front").firewall, appliance::policy::Firewall::default());
    assert_eq!(read.policy.machine("back").firewall.ingress.len(), 1);
}

#[test]
fn the_least_that_can_be_written_denies_everything() {
    let text = "[appliance]\nname = \"x\"\nversion = \"1\"\n[machine]\nmemory = \"64MiB\"\n";
    let read = HullToml::parse(text).unwrap();
    assert_eq!(read.policy.machine("x"), MachinePolicy::default());
    assert_eq!(read.config.machines[0].vcpus, 1);
}

#[test]
fn unknown_keys_name_the_nearest_known_one() {
    check_error("vcpus = 2", "vcpu = 2", "line 9, column 1: unknown key `vcpu`; did you mean `vcpus`?");
    check_error(
        "ports = [80",
        "prots = [80",
        "line 49, column 1: unknown key `prots`; did you mean `ports`?",
    );
    check_error("memory = \"1GiB\"", "", "line 7, column 1: `memory` is missing from `[machine]`");
    check_error(
        "host-port = 8080",
        "hostport = 8080, host-port = 1",
        "line 51, column 13: unknown key `hostport`; did you mean `host-port`?",
    );
    check_error(
        "[[nic]]",
        "[zebra]",
        "line 24, column 2: unknown key `zebra`; known here: appliance, disk, firewall, machine, machines, nic, policy, volume",
    );
}

#[test]
fn impossible_values_say_what_could_be() {
    check_error(
        "[80,",
        "[0,",
        "line 49, column 10: `firewall.ingress.ports` is `0`; expected a number from 1 to 65535",
    );
    check_error(
        "[443]",
        "[70000]",
        "line 56, column 10: `firewall.egress.ports` is `70000`; expected a number from 1 to 65535",
    );
    check_error(
        "8000-8010",
        "8010-8000",
        "line 49, column 14: `8010-8000` is not a port or range of ports; expected 1 to 65535, such as 443 or \"8000-8010\"",
    );
    check_error(
        "host-port = 8080",
        "host-port = 65530",
        "line 51, column 25: rule `http` publishes 12 ports from 65530; the last one is past 65535",
    );
    check_error(
        "10.0.0.0/8",
        "10.0.0.1/8",
        "line 57, column 36: `10.0.0.1/8` has address bits after its prefix; did you mean `10.0.0.0/8`?",
    );
    check_error(
        "\"1GiB\"",
        "\"1G\"",
        "line 10, column 10: `machine.memory` is `1G`; expected a size such as \"512MiB\" or \"10GiB\", in whole sectors of 512 bytes",
    );
    check_error(
        "vcpus = 2",
        "vcpus = \"2\"",
        "line 9, column 9: `machine.vcpus` is string; expected a whole number",
    );
    check_error(
        "\"bios\"",
        "\"bois\"",
        "line 11, column 12: `machine.firmware` is `bois`; expected \"bios\" or \"uefi\" or \"uefi-secure\"",
    );
}

#[test]
fn sources_stay_in_their_folder() {
    let want = "expected a path inside the folder of hull.toml, without `..`";
    for path in ["../web.vmdk", "/etc/passwd", "a/../../b", ""] {
        let found = format!("line 17, column 10: `disk.source` is `{path}`; {want}");
        check_error("web.vmdk", path, &found);
    }
}

#[test]
fn what_is_not_toml_is_refused_where_it_goes_wrong() {
    check_error(
        "version = \"1.4.0\"",
        "version = ",
        "line 4, column 11: string values must be quoted, expected literal string",
    );
    check_error(
        "[machine]",
        "[machines]\n[machine]",
        "line 7, column 1: both `[machine]` and `[machines]`; use `[machine]` for one machine, `[machines.NAME]` for several",
    );
    check_error(
        "[[disk]]",
        "[machines.db]\nmemory = \"1GiB\"\n[[disk]]",
        "line 15, column 2: both `[machine]` and `[machines]`; use `[machine]` for one machine, `[machines.NAME]` for several",
    );
    check_error(
        "name = \"web\"",
        "name = \"web\\u001b\"",
        "line 3, column 8: `appliance.name` is `web\\u{1b}`; expected 1 to 63 lower-case letters, digits and `-`, starting with a letter or digit",
    );
}

/// What TWO_MACHINES says with `from` replaced by `to` is refused, and this is said.
#[track_caller]
fn check_two(from: &str, to: &str, want: &str) {
    assert!(TWO_MACHINES.contains(from), "the example has no `{from}`");
    let error = HullToml::parse(&TWO_MACHINES.replacen(from, to, 1)).unwrap_err();
    assert_eq!(error.to_string(), want);
}

#[test]
fn shared_names_are_refused_at_the_later_one() {
    check_error(
        "[[volume]]",
        "[[disk]]\nname = \"root\"\nsource = \"b\"\n[[volume]]",
        "line 21, column 8: two disks are named `root`",
    );
    check_error(
        "[[nic]]",
        "[[volume]]\nname = \"data\"\nsize = \"1MiB\"\n[[nic]]",
        "line 25, column 8: two volumes are named `data`",
    );
    check_error(
        "name = \"data\"",
        "name = \"root\"",
        "line 21, column 8: a disk and a volume are named `root`; the guest gets both as drives, told apart by name",
    );
    check_error(
        "name = \"eth0\"",
        "name = \"eth0\"\n[[nic]]\nname = \"eth0\"",
        "line 27, column 8: two NICs are named `eth0`",
    );
    check_error(
        "[[firewall.egress]]",
        "[[firewall.ingress]]\nname = \"http\"\nproto = \"tcp\"\nports = [1]\nfrom = []\n[[firewall.egress]]",
        "line 54, column 8: two ingress rules are named `http`",
    );
    check_error(
        "[[firewall.egress]]",
        "[[firewall.egress]]\nname = \"packages\"\nproto = \"tcp\"\nports = [1]\nto = []\n[[firewall.egress]]",
        "line 59, column 8: two egress rules are named `packages`",
    );
    check_two(
        "[machines.back]\n",
        "[machines.back]\ndisk = [{ name = \"front-root\", source = \"b\" }]\n",
        // `back` is read first.
        "line 9, column 8: two disks are named `front-root`",
    );
}

#[test]
fn numbers_and_counts_are_refused_where_they_stand() {
    check_error(
        "\"1GiB\"",
        "\"512KiB\"",
        "line 10, column 10: the memory in bytes is 524288; a machine has 1 MiB to 16 TiB",
    );
    check_error(
        "\"10GiB\"",
        "\"2000TiB\"",
        "line 22, column 8: the volume's size in bytes is 2199023255552000; disks and volumes have 512 bytes to 1 PiB, in whole sectors of 512",
    );
    let nics: String = (0..64).map(|n| format!("[[nic]]\nname = \"n{n}\"\n")).collect();
    check_error(
        "[policy.resources]",
        &format!("{nics}[policy.resources]"),
        "line 153, column 1: the number of NICs is 65; there are at most 64",
    );
    let text = |count: usize| {
        let machines = (0..count).map(|n| format!("[machines.m{n:02}]\nmemory = \"1MiB\"\n"));
        format!("[appliance]\nname = \"x\"\nversion = \"1\"\n[machines]\n{}", machines.collect::<String>())
    };
    let want = "line 4, column 1: the number of machines is 0; an appliance has at least one";
    assert_eq!(HullToml::parse(&text(0)).unwrap_err().to_string(), want);
    let want = "line 133, column 1: the number of machines is 65; there are at most 64";
    assert_eq!(HullToml::parse(&text(65)).unwrap_err().to_string(), want);
}

#[test]
fn machines_are_of_one_architecture() {
    check_error(
        "x86-64-v2",
        "armv8.2",
        "line 12, column 7: `armv8.2` is no CPU level of amd64; it has x86-64-v1, x86-64-v2, x86-64-v3, x86-64-v4",
    );
    check_error(
        "\"amd64\"",
        "\"arm64\"",
        "line 12, column 7: `x86-64-v2` is no CPU level of arm64; it has armv8.0, armv8.2, armv9.0",
    );
    check_two(
        "memory = \"512MiB\"",
        "memory = \"512MiB\"\narch = \"arm64\"",
        "line 8, column 8: machine `front` is of arm64 and the first one of amd64; an appliance has one architecture",
    );
    check_two(
        "memory = \"1GiB\"",
        "memory = \"1GiB\"\narch = \"arm64\"",
        // Nothing says so of `front`, so its table is shown.
        "line 6, column 1: machine `front` is of amd64 and the first one of arm64; an appliance has one architecture",
    );
    check_two(
        "memory = \"1GiB\"",
        "memory = \"1GiB\"\narch = \"arm64\"\nfirmware = \"bios\"",
        "line 19, column 12: arm64 machines have no PC BIOS; they start with UEFI",
    );
}

#[test]
fn arm_machines_start_with_uefi_unless_told_otherwise() {
    let arm = EXAMPLE.replace("amd64", "arm64").replace("firmware = \"bios\"\ncpu = \"x86-64-v2\"\n", "");
    assert_eq!(HullToml::parse(&arm).unwrap().config.machines[0].firmware, Firmware::Uefi);
}

#[test]
fn policies_that_no_host_can_keep_are_refused_where_they_stand() {
    check_error(
        "[443]",
        "[]",
        "line 56, column 9: egress rule `packages` names no port; expected at least one",
    );
    let second = "[[firewall.ingress]]\nname = \"b\"\nproto = \"tcp\"\nports = [1]\nfrom = []\n\
                  publish = { bind = \"0.0.0.0\", host-port = 8081 }\n[[firewall.egress]]";
    check_error(
        "[[firewall.egress]]",
        second,
        "line 58, column 43: rules `http` and `b` both publish tcp port 8081, at 127.0.0.1 and 0.0.0.0",
    );
    check_error(
        "mode = \"proxy\"",
        "mode = \"open\"",
        "line 45, column 32: dns names are listed with mode `open`; only mode `proxy` lets some names pass and not others",
    );
    check_error(
        "require = 1",
        "require = 2",
        "line 40, column 26: 2 signatures are required and 1 different keys listed; no appliance could have them",
    );
    check_error(
        "[\"0.0.0.0/0\", \"::/0\"]",
        "[\"0.0.0.0/0\", \"peer:db\"]",
        "line 50, column 22: `peer:db` is no machine of the appliance; it has web",
    );
    check_two(
        "[\"peer:front\"]",
        "[\"peer:fron\"]",
        "line 27, column 9: `peer:fron` is no machine of the appliance; it has back, front",
    );
}

#[test]
fn a_machine_without_a_nic_is_not_reached_over_the_network() {
    let nic = "[[nic]]\nname = \"eth0\"\n";
    check_error(
        nic,
        "",
        "line 49, column 11: rule `http` publishes a port of machine `web`, which has no NIC",
    );
    let without_nic = EXAMPLE.replace(nic, "").replace("publish = ", "# publish = ");
    let error = HullToml::parse(&without_nic).unwrap_err().to_string();
    let want = "line 28, column 9: machine `web` has no NIC, so this check could never pass; use `ready`";
    assert_eq!(error, want);
    let ready = without_nic.replace("{ http = \"http://:80/healthz\" }", "\"ready\"");
    HullToml::parse(&ready).unwrap();
}
