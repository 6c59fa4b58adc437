//! OVAs: what is written is read again as the same machines with the same policy, and what an OVF said besides is
//! still there.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use appliance::{ApplianceConfig, Digest, Policy};
use formats::Disk;
use formats::image::{ImageRequest, Limits as ImageLimits, Source, open};
use packer::Progress;
use packer::export::{Effect, ExportOptions, Limits, Plan, Subject, ova};
use packer::hull_toml::HullToml;
use packer::import::{ImageOptions, Import, ImportRequest, Origin, Wishes, import};

use super::{Author, PLAIN, check_losses};

const DISK_BYTES: u64 = 1 << 20;

/// An OVF as VMware writes it, with what hull has no words for.
const FOREIGN: &str = r#"<?xml version="1.0" encoding="UTF-8"?>
<Envelope xmlns="http://schemas.dmtf.org/ovf/envelope/1" xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1"
 xmlns:rasd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData"
 xmlns:vssd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_VirtualSystemSettingData"
 xmlns:vmw="http://www.vmware.com/schema/ovf" xmlns:acme="urn:acme" xmlns:vbox="http://www.virtualbox.org/ovf/machine">
<References><File ovf:href="a.raw" ovf:id="f1"/><File ovf:href="b.raw" ovf:id="f2"/></References>
<DiskSection><Info/><Disk ovf:capacity="1048576" ovf:diskId="vmdisk1" ovf:fileRef="f1"/>
<Disk ovf:capacity="1048576" ovf:diskId="vmdisk2" ovf:fileRef="f2"/><Disk ovf:capacity="2097152" ovf:diskId="scratch"/></DiskSection>
<NetworkSection><Info/><Network ovf:name="lan"><Description>The office</Description></Network></NetworkSection>
<acme:Everywhere ovf:required="false"><Info/><acme:a  b='c'/></acme:Everywhere>
<VirtualSystem ovf:id="shop"><Info/><Name>The shop</Name>
<acme:Here ovf:required="false"><Info/>text &amp; more</acme:Here>
<vbox:Machine ovf:required="false" version="1.15" uuid="{5e3a}"><Info/></vbox:Machine>
<AnnotationSection><Info/><Annotation>Handle with care</Annotation></AnnotationSection>
<OperatingSystemSection ovf:id="96" vmw:osType="debian12_64Guest"><Info/><Description>Debian</Description></OperatingSystemSection>
<ProductSection><Info/><Product>Shop</Product><Version>3</Version><Property ovf:key="color" ovf:type="string" ovf:value="red"/></ProductSection>
<EulaSection><Info/><License>Be kind</License></EulaSection>
<VirtualHardwareSection><Info/><System><vssd:ElementName>x</vssd:ElementName><vssd:InstanceID>0</vssd:InstanceID>
<vssd:VirtualSystemType>vmx-19</vssd:VirtualSystemType></System>
<Item><rasd:ElementName>cpu</rasd:ElementName><rasd:InstanceID>1</rasd:InstanceID><rasd:ResourceType>3</rasd:ResourceType><rasd:VirtualQuantity>4</rasd:VirtualQuantity></Item>
<Item><rasd:AllocationUnits>byte * 2^20</rasd:AllocationUnits><rasd:ElementName>mem</rasd:ElementName><rasd:InstanceID>2</rasd:InstanceID><rasd:ResourceType>4</rasd:ResourceType><rasd:VirtualQuantity>2048</rasd:VirtualQuantity></Item>
<Item><rasd:Address>0</rasd:Address><rasd:ElementName>scsi</rasd:ElementName><rasd:InstanceID>3</rasd:InstanceID><rasd:ResourceSubType>VirtualSCSI</rasd:ResourceSubType><rasd:ResourceType>6</rasd:ResourceType></Item>
<Item><rasd:Address>0</rasd:Address><rasd:ElementName>ide</rasd:ElementName><rasd:InstanceID>4</rasd:InstanceID><rasd:ResourceType>5</rasd:ResourceType></Item>
<Item><rasd:AddressOnParent>1</rasd:AddressOnParent><rasd:ElementName>d2</rasd:ElementName><rasd:HostResource>ovf:/disk/vmdisk2</rasd:HostResource><rasd:InstanceID>6</rasd:InstanceID><rasd:Parent>3</rasd:Parent><rasd:ResourceType>17</rasd:ResourceType></Item>
<Item><rasd:AddressOnParent>0</rasd:AddressOnParent><rasd:ElementName>d1</rasd:ElementName><rasd:HostResource>ovf:/disk/vmdisk1</rasd:HostResource><rasd:InstanceID>5</rasd:InstanceID><rasd:Parent>3</rasd:Parent><rasd:ResourceType>17</rasd:ResourceType></Item>
<Item><rasd:AddressOnParent>2</rasd:AddressOnParent><rasd:ElementName>d3</rasd:ElementName><rasd:HostResource>ovf:/disk/scratch</rasd:HostResource><rasd:InstanceID>7</rasd:InstanceID><rasd:Parent>3</rasd:Parent><rasd:ResourceType>17</rasd:ResourceType></Item>
<Item ovf:required="false"><rasd:AddressOnParent>0</rasd:AddressOnParent><rasd:ElementName>cd</rasd:ElementName><rasd:InstanceID>8</rasd:InstanceID><rasd:Parent>4</rasd:Parent><rasd:ResourceType>15</rasd:ResourceType></Item>
<Item><rasd:AddressOnParent>7</rasd:AddressOnParent><rasd:Connection>lan</rasd:Connection><rasd:ElementName>nic</rasd:ElementName><rasd:InstanceID>9</rasd:InstanceID><rasd:ResourceSubType>VmxNet3</rasd:ResourceSubType><rasd:ResourceType>10</rasd:ResourceType></Item>
<vmw:Config ovf:required="false" vmw:key="firmware" vmw:value="efi"/>
<vmw:Config ovf:required="false" vmw:key="cpuHotAddEnabled" vmw:value="true"/>
</VirtualHardwareSection></VirtualSystem></Envelope>"#;

#[derive(Debug)]
struct Silent;

impl Progress for Silent {
    fn packed(&self, _: &str, _: u64, _: u64) {}
}

/// Disks of which each holds another byte all over.
fn disks(config: &ApplianceConfig) -> (tempfile::TempDir, BTreeMap<String, Box<dyn Disk>>) {
    let folder = tempfile::tempdir().unwrap();
    let mut disks = BTreeMap::new();
    for (disk, byte) in config.machines.iter().flat_map(|machine| &machine.disks).zip(1..) {
        let path = folder.path().join(&disk.name);
        fs::write(&path, vec![byte; disk.size_bytes as usize]).unwrap();
        let limits = ImageLimits { max_size_bytes: DISK_BYTES };
        let source = Source::new(fs::File::open(path).unwrap()).unwrap();
        let image = open(ImageRequest::new(source, &disk.name, limits)).unwrap();
        disks.insert(disk.name.clone(), image.disk);
    }
    (folder, disks)
}

fn write(plan: &Plan, config: &ApplianceConfig) -> (tempfile::TempDir, PathBuf) {
    let (_folder, disks) = disks(config);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out.ova");
    let options = ExportOptions::new(Digest::sha256(b"manifest"));
    let bytes = plan.write(&path, &disks, &options, &Silent).unwrap();
    assert_eq!(bytes, fs::metadata(&path).unwrap().len());
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    (folder, path)
}

#[track_caller]
fn imported(path: &Path) -> Import {
    let request = ImportRequest {
        origin: Origin::Path(path),
        image: ImageOptions::default(),
        wishes: Wishes::default(),
        configuration: None,
        max_disk_bytes: DISK_BYTES,
        scratch: path.parent().unwrap(),
        progress: &Silent,
    };
    import(&request).unwrap()
}

/// Exports, imports, and holds machines, policy and disks against what they were.
#[track_caller]
fn check_round_trip(config: &ApplianceConfig, policy: &Policy, ovf: Option<&[u8]>) -> String {
    let subject = Subject::new(config, policy, None, Limits::Respected).unwrap();
    let plan = ova(&subject, ovf).unwrap();
    let (_folder, path) = write(&plan, config);
    let again = imported(&path);
    assert_eq!(again.appliance.config(), config);
    assert_eq!(again.appliance.policy(), policy);
    let (_folder, disks) = disks(config);
    for (name, disk) in again.appliance.disks() {
        let read = |disk: &dyn Disk| {
            let mut content = vec![0; DISK_BYTES as usize];
            disk.read_at(0, &mut content).unwrap();
            content
        };
        assert!(read(disk) == read(&*disks[name]), "{name}");
    }
    let once = fs::read(&path).unwrap();
    let (_folder, path) = write(&plan, config);
    assert!(once == fs::read(path).unwrap(), "the second OVA is another one");
    String::from_utf8(again.appliance.ovf().unwrap().to_vec()).unwrap()
}

/// An author whose machines have what an OVF has words for.
fn compat(hull_toml: &str) -> Author {
    Author::of(&hull_toml.replace("cpu = \"x86-64-v2\"", "devices = \"compat\"").replace("10GiB", "1MiB"))
}

#[test]
fn machines_and_policy_come_back_from_an_ova() {
    let text = PLAIN
        .replace("source = \"root.raw\"", "source = \"root.raw\"\nbus = \"lsi-logic\"")
        .replace("name = \"eth0\"", "name = \"eth0\"\nmodel = \"e1000e\"");
    let author = compat(&text);
    check_round_trip(&author.config, &author.policy, None);
}

#[test]
fn several_machines_come_back_with_their_networks_and_their_order() {
    let machine = |name: &str, order: u32| {
        format!(
            "[machines.{name}]\nmemory = \"64MiB\"\nfirmware = \"uefi-secure\"\ndevices = \"compat\"\nstart-order = {order}\n\
             [[machines.{name}.disk]]\nname = \"{name}-root\"\nsource = \"a\"\nbus = \"nvme\"\n\
             [[machines.{name}.nic]]\nname = \"eth0\"\nmodel = \"vmxnet3\"\n\
             [[machines.{name}.nic]]\nname = \"inside\"\nnetwork = \"back\"\nmodel = \"e1000\"\n\
             [[machines.{name}.firewall.egress]]\nname = \"a\"\nproto = \"tcp\"\nports = [1]\nto = [\"peer:web\", \"10.0.0.0/8\"]\n"
        )
    };
    let text = format!(
        "[appliance]\nname = \"shop\"\nversion = \"<1&2>\"\n{}{}",
        machine("db", 1),
        machine("web", 2)
    );
    let author = Author::of(&text);
    check_round_trip(&author.config, &author.policy, None);
}

#[test]
fn of_several_configurations_the_default_is_said_to_be_taken() {
    let author = Author::of(PLAIN);
    for (ids, is_said) in [([].as_slice(), false), (&["small"], false), (&["small", "large"], true)] {
        let options = ids.iter().map(|id| {
            format!("<Configuration ovf:id=\"{id}\"><Label>{id}</Label><Description/></Configuration>")
        });
        let options: String = options.collect();
        let section = format!("<DeploymentOptionSection><Info/>{options}</DeploymentOptionSection>");
        let section = if ids.is_empty() { String::new() } else { section };
        let ovf = FOREIGN.replace("<acme:Everywhere", &format!("{section}<acme:Everywhere"));
        let plan = ova(&author.subject(Limits::Respected), Some(ovf.as_bytes())).unwrap();
        let said = plan.report.notices.iter().any(|notice| notice.becomes.contains("default configuration"));
        assert_eq!(said, is_said, "{ids:?}");
    }
}

#[test]
fn what_an_ovf_said_besides_is_still_there() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("shop.ovf"), FOREIGN).unwrap();
    for (name, byte) in [("a.raw", 1), ("b.raw", 2)] {
        fs::write(folder.path().join(name), vec![byte; DISK_BYTES as usize]).unwrap();
    }
    let first = imported(&folder.path().join("shop.ovf"));
    let author = HullToml::parse(PLAIN).unwrap();
    let config = first.appliance.config();
    let text = check_round_trip(config, &author.policy, first.appliance.ovf());
    for kept in [
        "<acme:Everywhere ovf:required=\"false\"><Info/><acme:a  b='c'/></acme:Everywhere>",
        "<acme:Here ovf:required=\"false\"><Info/>text &amp; more</acme:Here>",
        "Handle with care",
        "vmw:osType=\"debian12_64Guest\"",
        "<License>Be kind</License>",
        "ovf:key=\"color\"",
        "cpuHotAddEnabled",
        "vmx-19",
        "The office",
        "<Name>The shop</Name>",
    ] {
        assert!(text.contains(kept), "{kept} is missing\n{text}");
    }
    assert!(!text.contains("vbox:Machine "), "{text}");

    // Once more, from what came back.
    let again = check_round_trip(config, &author.policy, Some(text.as_bytes()));
    assert_eq!(again, text);
}

#[test]
fn the_policy_is_said_to_be_carried_and_not_enforced() {
    let author = Author::of(PLAIN);
    let plan = ova(&author.subject(Limits::Respected), None).unwrap();
    let policy = plan.report.notices.iter().find(|notice| notice.key == "policy").unwrap();
    assert_eq!(policy.effect, Effect::Wider);
    check_losses(&plan.report, &["shop cpu other"]);
}
