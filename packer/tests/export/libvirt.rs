//! libvirt: the documents hold against libvirt's schemas, the nwfilter against packets.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::process::Command;

use ipnet::Ipv4Net;
use packer::export::{Limits, Plan, libvirt};

use super::packets::{self, Packet, Way};
use super::{Author, DEMANDING, PLAIN, check_losses, document, documents, is_installed, schemas, written};

fn plan(hull_toml: &str, limits: Limits) -> Plan {
    let subject = Author::of(hull_toml);
    libvirt(&subject.subject(limits), Path::new("/srv/it's <vm>"), formats::image::Target::Raw).unwrap()
}

/// A rule of a filter: its attributes, and its protocol's with the protocol's name.
#[derive(Debug)]
struct Rule {
    rule: Tag,
    what: Tag,
}

#[derive(Debug)]
struct Tag {
    name: String,
    attributes: Vec<(String, String)>,
}

impl Tag {
    /// An element that stands alone on a line.
    fn of(line: &str) -> Option<Self> {
        let inner = line.trim().strip_prefix('<')?.trim_end_matches(['>', '/']);
        let (name, rest) = inner.split_once(' ').unwrap_or((inner, ""));
        let attributes = rest.split("\" ").filter_map(|pair| pair.split_once("=\""));
        let attributes =
            attributes.map(|(key, value)| (key.to_owned(), value.trim_end_matches('"').to_owned()));
        Some(Self { name: name.to_owned(), attributes: attributes.collect() })
    }

    fn get(&self, key: &str) -> Option<&str> {
        self.attributes.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
    }
}

fn rules(filter: &str) -> Vec<Rule> {
    let tags: Vec<Tag> = filter.lines().filter_map(Tag::of).collect();
    let mut rules = Vec::new();
    let mut tags = tags.into_iter();
    while let Some(tag) = tags.next() {
        if tag.name == "rule" {
            rules.push(Rule { rule: tag, what: tags.next().unwrap() });
        }
    }
    rules.sort_by_key(|rule| rule.rule.get("priority").unwrap().parse::<i32>().unwrap());
    rules
}

impl Rule {
    fn is_meant(&self, packet: &Packet) -> bool {
        let IpAddr::V4(peer) = packet.peer else { return false };
        let way = match packet.way {
            Way::In => "in",
            Way::Out => "out",
        };
        let (address, mask) = match packet.way {
            Way::In => ("srcipaddr", "srcipmask"),
            Way::Out => ("dstipaddr", "dstipmask"),
        };
        let what = &self.what;
        let net = what.get(address).map(|address| {
            let mask = what.get(mask).map_or(32, |mask| mask.parse().unwrap());
            Ipv4Net::new(address.parse::<Ipv4Addr>().unwrap(), mask).unwrap()
        });
        let port = |key: &str| what.get(key).map(|port| port.parse::<u16>().unwrap());
        let first = port("dstportstart");
        let last = port("dstportend").or(first);
        [way, "inout"].contains(&self.rule.get("direction").unwrap())
            && [packet.proto, "all"].contains(&what.name.as_str())
            && what.get("state").is_none_or(|state| state.contains("NEW"))
            && net.is_none_or(|net| net.contains(&peer))
            && first.is_none_or(|first| packet.port >= first)
            && last.is_none_or(|last| packet.port <= last)
            // A connection's own port is none of 67 and 68 in these tests.
            && what.get("srcportstart").is_none()
    }
}

fn passes(rules: &[Rule], packet: &Packet) -> bool {
    // clean-traffic lets nothing but IPv4 pass.
    packet.peer.is_ipv4()
        && rules
            .iter()
            .find(|rule| rule.is_meant(packet))
            .is_some_and(|rule| rule.rule.get("action") == Some("accept"))
}

#[test]
fn documents_hold_against_libvirts_schemas() {
    let Some(folder) = schemas("libvirt") else { return };
    if !is_installed("xmllint") {
        return;
    }
    let many_disks: String =
        (0..40).map(|n| format!("[[volume]]\nname = \"v{n}\"\nsize = \"1MiB\"\n")).collect();
    let ide = "[machine]\ndevices = \"compat\"".to_owned();
    let compat = PLAIN
        .replace("[machine]", &ide)
        .replace("source = \"root.raw\"", "source = \"root.raw\"\nbus = \"ide\"");
    let arm = PLAIN.replace("cpu = \"x86-64-v2\"", "arch = \"arm64\"");
    for hull_toml in [PLAIN, DEMANDING, &compat, &arm, &format!("{many_disks}{PLAIN}")] {
        let plan = plan(hull_toml, Limits::Dropped);
        let (_folder, paths) = written(&documents(&plan, "xml"));
        for path in paths {
            let kind = path.file_name().unwrap().to_str().unwrap().split('-').next().unwrap().to_owned();
            let schema = folder.join(format!("{kind}.rng"));
            let mut command = Command::new("xmllint");
            let output =
                command.args(["--noout", "--nonet", "--relaxng"]).arg(schema).arg(&path).output().unwrap();
            let text = std::fs::read_to_string(&path).unwrap();
            assert!(output.status.success(), "{}\n{text}", String::from_utf8_lossy(&output.stderr));
        }
    }
}

#[test]
fn what_passes_is_what_hull_lets_pass() {
    let plan = plan(PLAIN, Limits::Respected);
    check_losses(&plan.report, &[]);
    let rules = rules(document(&plan, "nwfilter-shop.xml"));
    for (packet, want) in packets::plain() {
        assert_eq!(passes(&rules, &packet), want, "{packet:?}");
    }
    let network = document(&plan, "network-shop.xml");
    let gateway = network.split("address=\"").nth(1).unwrap().split('"').next().unwrap();
    let neighbour = gateway.replace(".2", ".77");
    for (way, proto, peer, port, want) in [
        (Way::Out, "udp", gateway, 53, true),
        (Way::Out, "tcp", gateway, 53, true),
        (Way::Out, "tcp", gateway, 443, false),
        (Way::Out, "tcp", neighbour.as_str(), 443, false),
        (Way::In, "tcp", gateway, 80, true),
        (Way::In, "tcp", gateway, 22, false),
    ] {
        assert_eq!(
            passes(&rules, &Packet::new(way, proto, peer, port)),
            want,
            "{way:?} {proto} {peer} {port}"
        );
    }
}

#[test]
fn what_cannot_be_expressed_is_left_out_and_said() {
    let plan = plan(DEMANDING, Limits::Respected);
    check_losses(
        &plan.report,
        &[
            "- policy.placement wider",
            "- policy.trust wider",
            "no disk.1e3.bus other",
            "no firewall.dns narrower",
            "no firewall.egress.names.to narrower",
            "no firewall.egress.rated.rate narrower",
            "no firewall.ingress.published.from narrower",
            "no firewall.ingress.published.log other",
            "no firewall.ingress.published.publish narrower",
            "no firewall.ingress.rated.max-connections narrower",
            "no firewall.ingress.rated.rate narrower",
            "no firewall.limits.flows wider",
            "no policy.health other",
            "no policy.lifecycle.max-restarts other",
            "no policy.lifecycle.rollback other",
            "no start-order other",
            "null policy.health other",
        ],
    );
    let filter = rules(document(&plan, "nwfilter-no.xml"));
    for (packet, want) in [
        (Packet::new(Way::In, "tcp", "203.0.113.9", 80), true),
        (Packet::new(Way::In, "tcp", "203.0.113.9", 81), false),
        (Packet::new(Way::Out, "tcp", "169.254.169.254", 443), false),
        (Packet::new(Way::Out, "udp", "192.0.2.1", 53), false),
    ] {
        assert_eq!(passes(&filter, &packet), want, "{packet:?}");
    }
    let closed = rules(document(&plan, "nwfilter-null.xml"));
    for (packet, _) in packets::plain() {
        assert!(!passes(&closed, &packet), "{packet:?}");
    }
}

#[test]
fn a_domain_is_the_machine() {
    let plan = plan(DEMANDING, Limits::Respected);
    let domain = document(&plan, "domain-no.xml");
    for line in [
        "<source file=\"/srv/it&apos;s &lt;vm&gt;/0755.qcow2\"/>",
        "<controller type=\"scsi\" index=\"0\" model=\"vmpvscsi\"/>",
        "<target dev=\"sda\" bus=\"scsi\"/>",
        "<target dev=\"sdb\" bus=\"sata\"/>",
        "<feature enabled=\"yes\" name=\"secure-boot\"/>",
        "<outbound average=\"500\"/>",
        "<total_bytes_sec>100000000</total_bytes_sec>",
        "<source network=\"hull-on-back\"/>",
        "<on_poweroff>restart</on_poweroff>",
        "<readonly/>",
        "<transient/>",
    ] {
        assert!(domain.contains(line), "{line} is missing\n{domain}");
    }
}

#[test]
fn scsi_disks_are_spread_over_as_many_controllers_as_they_need() {
    for (bus, model, disks, controllers, last) in [
        ("lsi-sas", "lsisas1068", 1, 1, (0, 0)),
        ("lsi-sas", "lsisas1068", 7, 1, (0, 6)),
        ("lsi-sas", "lsisas1068", 8, 2, (1, 0)),
        ("pvscsi", "vmpvscsi", 15, 1, (0, 14)),
        ("pvscsi", "vmpvscsi", 16, 2, (1, 0)),
    ] {
        let text = PLAIN.replace("vcpus = 2", "vcpus = 2\ndevices = \"compat\"");
        let source = "source = \"root.raw\"\n";
        let on_bus = format!("{source}bus = \"{bus}\"\n");
        let more: String = (1..disks).map(|n| format!("\n[[disk]]\nname = \"more-{n}\"\n{on_bus}")).collect();
        let text = text.replace(source, &format!("{on_bus}{more}"));
        let plan = plan(&text, Limits::Respected);
        let domain = document(&plan, "domain-shop.xml");
        let count = |words: &str| domain.matches(words).count();
        assert_eq!(count("<controller type=\"scsi\""), controllers, "{bus}, {disks}: {domain}");
        assert_eq!(count(&format!("model=\"{model}\"")), controllers, "{bus}, {disks}: {domain}");
        assert_eq!(count("<address type=\"drive\""), disks, "{bus}, {disks}: {domain}");
        let (controller, target) = last;
        let last = format!("controller=\"{controller}\" bus=\"0\" target=\"{target}\" unit=\"0\"");
        assert_eq!(count(&last), 1, "{bus}, {disks}: {domain}");
    }
}

#[test]
fn a_disk_that_libvirt_could_only_write_to_is_said_to_be_so() {
    let disk = "source = \"root.raw\"\n";
    let text = PLAIN.replace(disk, &format!("{disk}mode = \"read-only\"\n"));
    let plan = plan(&text, Limits::Respected);
    check_losses(&plan.report, &[]);
    assert!(document(&plan, "domain-shop.xml").contains("<readonly/>"));
    let plan = self::plan(&text.replace("vcpus = 2", "devices = \"compat\""), Limits::Respected);
    check_losses(&plan.report, &["shop disk.root.mode other"]);
    assert!(!document(&plan, "domain-shop.xml").contains("<readonly/>"));
}

#[test]
fn a_folder_that_no_document_can_name_is_refused() {
    let author = Author::of(PLAIN);
    for folder in ["relative", "/a\nb"] {
        libvirt(&author.subject(Limits::Respected), Path::new(folder), formats::image::Target::Raw)
            .unwrap_err();
    }
}
