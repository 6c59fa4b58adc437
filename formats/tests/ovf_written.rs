//! Descriptors that are written: the exact text, what is refused, and that reading gives the same back.

use formats::ovf::{
    Collection, Compression, Controller, ControllerKind, Descriptor, Drive, DriveKind, FORMAT_VMDK_STREAM,
    FileReference, Firmware, ForeignSection, Hardware, Medium, NamespaceBinding, Network, Nic, NicKind,
    OperatingSystem, OtherDevice, Product, Property, ResourceAllocation, Setting, SettingKind, Start,
    VirtualDisk, VirtualSystem, parse, write,
};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

fn policy() -> ForeignSection {
    ForeignSection {
        namespace: "https://hullvm.dev/ovf/1".to_owned(),
        name: "PolicySection".to_owned(),
        xml: "<hull:PolicySection ovf:required=\"false\"><Info>Policy</Info>{\"a\":\"&lt;&amp;&gt;\"}</hull:PolicySection>"
            .to_owned(),
        namespaces: vec![
            binding("", "http://schemas.dmtf.org/ovf/envelope/1"),
            binding("hull", "https://hullvm.dev/ovf/1"),
            binding("ovf", "http://schemas.dmtf.org/ovf/envelope/1"),
        ],
    }
}

fn binding(prefix: &str, uri: &str) -> NamespaceBinding {
    NamespaceBinding { prefix: prefix.to_owned(), uri: uri.to_owned() }
}

/// One machine with one of everything.
fn machine() -> Descriptor {
    let hardware = Hardware {
        kinds: vec!["vmx-13".to_owned()],
        transports: vec!["iso".to_owned()],
        vcpus: Some(2),
        cores_per_socket: Some(2),
        memory_bytes: Some(1 << 30),
        firmware: Some(Firmware::Efi),
        secure_boot: Some(true),
        controllers: vec![Controller {
            instance: "3".to_owned(),
            kind: ControllerKind::LsiLogic,
            address: Some(0),
        }],
        drives: vec![Drive {
            instance: "4".to_owned(),
            kind: DriveKind::Disk,
            name: Some("root".to_owned()),
            medium: Some(Medium::Disk("disk1".to_owned())),
            controller: Some("3".to_owned()),
            address: Some(0),
        }],
        nics: vec![Nic {
            instance: "5".to_owned(),
            kind: Some(NicKind::E1000),
            name: Some("eth0".to_owned()),
            network: Some("lan".to_owned()),
            mac: Some([0x52, 0x54, 0, 0, 0, 1]),
            address: Some(7),
            connected: true,
        }],
        settings: vec![Setting {
            kind: SettingKind::ExtraConfig,
            key: "nvram".to_owned(),
            value: "a\"b".to_owned(),
        }],
        ..Hardware::default()
    };
    let system = VirtualSystem {
        id: "web".to_owned(),
        name: Some("web & db".to_owned()),
        hardware,
        foreign: vec![policy()],
        ..VirtualSystem::default()
    };
    Descriptor {
        files: vec![FileReference {
            id: "file1".to_owned(),
            href: "web-root.vmdk".to_owned(),
            size_bytes: Some(65536),
            ..FileReference::default()
        }],
        disks: vec![VirtualDisk {
            id: "disk1".to_owned(),
            capacity_bytes: 10 << 30,
            file: Some("file1".to_owned()),
            format: Some(FORMAT_VMDK_STREAM.to_owned()),
            ..VirtualDisk::default()
        }],
        networks: vec![Network { name: "lan".to_owned(), description: None }],
        systems: vec![system],
        ..Descriptor::default()
    }
}

/// `ovf_written.ovf` is what VMware and VirtualBox get; a change of it is a change for them.
#[test]
fn the_text_of_a_descriptor_is_as_its_readers_want_it() {
    assert_eq!(write(&machine()).unwrap(), include_str!("ovf_written.ovf"));
}

#[test]
fn what_cannot_be_written_is_refused() {
    let check = |change: fn(&mut Descriptor), want: &str| {
        let mut descriptor = machine();
        change(&mut descriptor);
        assert_eq!(write(&descriptor).unwrap_err().to_string(), want);
    };
    check(
        |d| d.systems[0].name = Some("a\u{1b}[2J".to_owned()),
        r"OVF: Name has the character \u{1b}, which XML 1.0 cannot carry",
    );
    check(
        |d| d.files.push(d.files[0].clone()),
        "OVF: two files have the id `file1`; wanted ids of their own",
    );
    check(
        |d| d.disks.push(d.disks[0].clone()),
        "OVF: two disks have the id `disk1`; wanted ids of their own",
    );
    check(
        |d| d.disks[0].file = Some("x".to_owned()),
        "OVF: the file of a disk names `x`, which is not in the descriptor",
    );
    check(
        |d| d.disks[0].parent = Some("x".to_owned()),
        "OVF: the parent of a disk names `x`, which is not in the descriptor",
    );
    check(|d| d.disks.clear(), "OVF: the disk of a drive names `disk1`, which is not in the descriptor");
    check(|d| d.networks.clear(), "OVF: the network of a NIC names `lan`, which is not in the descriptor");
    check(
        |d| d.systems[0].hardware.controllers.clear(),
        "OVF: the controller of a drive names `3`, which is not in the descriptor",
    );
    check(
        |d| d.systems.clear(),
        "OVF: the descriptor has 0 machines and no collection around them; wanted one machine, or a collection",
    );
}

#[test]
fn a_foreign_section_that_is_not_one_element_is_refused() {
    let check = |xml: &str, want: &str| {
        let mut descriptor = machine();
        descriptor.foreign = vec![ForeignSection { name: "S".to_owned(), xml: xml.to_owned(), ..policy() }];
        let error = write(&descriptor).unwrap_err().to_string();
        assert!(error.contains(want), "{error}");
    };
    check("", "it is not one element");
    check("text", "it is not one element");
    check("<a/><b/>", "it is not one element");
    check("<a/> and more", "it is not one element");
    check("</Envelope><Envelope>", "one element around all others");
    check("<a>", "complete tags that close each other");
    check("<x:a/>", "a prefix that is declared");
    check("<a b=\"&c;\"/>", "a reference to a character");
    check("<!DOCTYPE a><a/>", "document type declaration");
}

/// Two sections that mean different things by one prefix, and names that were in no namespace.
#[test]
fn foreign_sections_keep_the_meaning_of_their_prefixes() {
    let section = |uri: &str| ForeignSection {
        namespace: uri.to_owned(),
        name: "S".to_owned(),
        xml: "<x:S ovf:required=\"false\" x:a=\"1\"><b/></x:S>".to_owned(),
        namespaces: vec![
            binding("", ""),
            binding("ovf", "http://schemas.dmtf.org/ovf/envelope/2"),
            binding("x", uri),
        ],
    };
    let mut descriptor = machine();
    descriptor.foreign = vec![section("urn:one"), section("urn:two")];
    let written = write(&descriptor).unwrap();
    let again = parse(written.as_bytes(), None).unwrap();
    let namespaces: Vec<_> = again.foreign.iter().map(|section| section.namespace.as_str()).collect();
    assert_eq!(namespaces, ["urn:one", "urn:two"]);
    assert!(again.foreign[0].xml.starts_with("<x:S xmlns=\"\" ovf:required"));
    assert!(again.foreign[1].xml.starts_with("<x:S xmlns=\"\" xmlns:x=\"urn:two\" ovf:required"));
}

/// Text that XML reads back as it was: no white space around it, no carriage returns.
fn text() -> impl Strategy<Value = String> {
    "[a-zA-Z0-9<>&\"'\\]äß🦀][a-zA-Z0-9 <>&\"'\\]\n\täß🦀.:/]{0,12}[a-zA-Z0-9<>&\"'\\]äß🦀]"
}

/// Text that may be anything that XML can carry.
fn value() -> impl Strategy<Value = String> {
    "[a-zA-Z0-9 <>&\"'\\]\r\n\täß🦀.:/$]{0,12}"
}

fn product() -> impl Strategy<Value = Product> {
    let property = (
        ("[a-z]{1,6}", "[a-z]{1,6}", option::of(value()), any::<bool>(), any::<bool>()),
        (option::of(value()), option::of(text()), option::of(text()), option::of(text())),
    );
    let property = property.prop_map(
        |((key, kind, value, user_configurable, password), (qualifiers, label, description, category))| {
            let texts = (qualifiers, label, description, category);
            let (qualifiers, label, description, category) = texts;
            Property {
                key,
                kind,
                value,
                user_configurable,
                password,
                qualifiers,
                label,
                description,
                category,
            }
        },
    );
    let head = (option::of(text()), option::of(text()), option::of(text()), option::of(text()));
    let urls =
        (option::of(text()), option::of(text()), option::of(text()), option::of(text()), option::of(text()));
    (head, urls, vec(property, 0..4)).prop_map(|(head, urls, properties)| {
        let (class, instance, name, vendor) = head;
        let (version, full_version, product_url, vendor_url, app_url) = urls;
        Product {
            class,
            instance,
            name,
            vendor,
            version,
            full_version,
            product_url,
            vendor_url,
            app_url,
            properties,
        }
    })
}

fn controller_kind() -> impl Strategy<Value = ControllerKind> {
    select(vec![
        ControllerKind::Ide,
        ControllerKind::Scsi,
        ControllerKind::LsiLogic,
        ControllerKind::LsiLogicSas,
        ControllerKind::BusLogic,
        ControllerKind::PvScsi,
        ControllerKind::VirtioScsi,
        ControllerKind::VirtioBlock,
        ControllerKind::Ahci,
        ControllerKind::Nvme,
    ])
}

fn nic_kind() -> impl Strategy<Value = NicKind> {
    select(vec![
        NicKind::PcNet,
        NicKind::E1000,
        NicKind::E1000e,
        NicKind::Rtl8139,
        NicKind::VmxNet,
        NicKind::VmxNet3,
        NicKind::Virtio,
    ])
}

/// Hardware whose drives name disk `d0` or file `f0` and whose NICs network `n0`; items are numbered later.
fn hardware() -> impl Strategy<Value = Hardware> {
    let controller = (controller_kind(), option::of(0..8u32));
    let medium = prop_oneof![
        Just(Some(Medium::Disk("d0".to_owned()))),
        Just(Some(Medium::File("f0".to_owned()))),
        (1..u64::MAX).prop_map(|capacity_bytes| Some(Medium::Blank { capacity_bytes })),
        Just(None),
    ];
    let kind = select(vec![DriveKind::Disk, DriveKind::CdRom, DriveKind::Floppy]);
    let drive = (kind, text(), medium, option::of(any::<prop::sample::Index>()), option::of(0..16u32));
    let nic = (
        option::of(nic_kind()),
        text(),
        any::<bool>(),
        option::of(any::<[u8; 6]>()),
        option::of(0..16u32),
        any::<bool>(),
    );
    let setting = (select(vec![SettingKind::Config, SettingKind::ExtraConfig]), "[a-z.]{1,12}", value());
    let sizes =
        (option::of(1..64u32), option::of(1..u64::MAX), option::of(any::<bool>()), option::of(any::<bool>()));
    let parts = (vec(controller, 0..4), vec(drive, 0..5), vec(nic, 0..4), vec(setting, 0..3), 0..3usize);
    (sizes, vec("[a-z]{1,6}-[0-9]{1,2}", 0..3), parts).prop_map(|(sizes, kinds, parts)| {
        let (vcpus, memory_bytes, is_efi, secure_boot) = sizes;
        let (controllers, drives, nics, settings, others) = parts;
        let mut hardware = Hardware {
            kinds,
            vcpus,
            cores_per_socket: vcpus,
            memory_bytes,
            firmware: is_efi.map(|is_efi| if is_efi { Firmware::Efi } else { Firmware::Bios }),
            secure_boot,
            ..Hardware::default()
        };
        let first = 1 + usize::from(vcpus.is_some()) + usize::from(memory_bytes.is_some());
        let mut instances = (first..).map(|instance| instance.to_string());
        let mut next = || instances.next().unwrap();
        for (kind, address) in controllers {
            hardware.controllers.push(Controller { instance: next(), kind, address });
        }
        for (kind, name, medium, controller, address) in drives {
            let medium = match (kind, medium) {
                (DriveKind::Disk, None) => Some(Medium::Blank { capacity_bytes: 1 }),
                (DriveKind::CdRom | DriveKind::Floppy, Some(Medium::Blank { .. })) => None,
                (_, medium) => medium,
            };
            let controllers = &hardware.controllers;
            let controller = controller.filter(|_| !controllers.is_empty());
            let controller = controller.map(|at| at.get(controllers).instance.clone());
            hardware.drives.push(Drive {
                instance: next(),
                kind,
                name: Some(name),
                medium,
                controller,
                address,
            });
        }
        for (kind, name, has_network, mac, address, connected) in nics {
            let network = has_network.then(|| "n0".to_owned());
            hardware.nics.push(Nic {
                instance: next(),
                kind,
                name: Some(name),
                network,
                mac,
                address,
                connected,
            });
        }
        for resource_type in [21, 23, 24].into_iter().take(others) {
            let name = Some("other".to_owned());
            hardware.others.push(OtherDevice { instance: next(), resource_type, sub_type: None, name });
        }
        let is_own = |key: &String| key == "firmware";
        let settings = settings.into_iter().filter(|(_, key, _)| !is_own(key));
        hardware.settings = settings.map(|(kind, key, value)| Setting { kind, key, value }).collect();
        hardware
    })
}

fn system() -> impl Strategy<Value = VirtualSystem> {
    let os = (any::<u16>(), option::of(text()), option::of(text()), option::of(text()));
    let os = os.prop_map(|(id, version, description, vmware_type)| OperatingSystem {
        id,
        version,
        description,
        vmware_type,
    });
    let start = (any::<u16>(), any::<u32>(), any::<bool>());
    let start = start.prop_map(|(order, delay_s, waits_for_guest)| Start { order, delay_s, waits_for_guest });
    let texts = (option::of(text()), option::of(text()), vec(text(), 0..3));
    (texts, option::of(os), option::of(start), vec(product(), 0..3), hardware(), any::<bool>()).prop_map(
        |((name, annotation, eulas), operating_system, start, products, hardware, has_policy)| {
            VirtualSystem {
                id: String::new(),
                name,
                annotation,
                operating_system,
                products,
                eulas,
                hardware,
                start,
                foreign: has_policy.then(policy).into_iter().collect(),
            }
        },
    )
}

fn descriptor() -> impl Strategy<Value = Descriptor> {
    let file = (value(), option::of(any::<u64>()), any::<bool>(), option::of(1..u64::MAX));
    let disk = (any::<u64>(), any::<bool>(), option::of(text()), option::of(any::<u64>()));
    let allocation = (any::<u16>(), option::of(text()), option::of(any::<u64>()), option::of(any::<u64>()));
    let collection = (option::of(text()), option::of(text()), vec(product(), 0..2), vec(allocation, 0..3));
    let parts = (vec(file, 1..3), vec(disk, 1..4), vec(option::of(text()), 1..3));
    (parts, vec(system(), 1..4), option::of(collection)).prop_map(
        |((files, disks, networks), systems, collection)| {
            let is_alone = systems.len() == 1 && collection.is_none();
            let collection = collection.unwrap_or_default();
            let collection = (!is_alone).then(|| whole(collection));
            let files =
                files.into_iter().enumerate().map(|(number, (href, size_bytes, is_packed, chunk_bytes))| {
                    let compression = if is_packed { Compression::Gzip } else { Compression::Identity };
                    // An empty name is refused by the reader.
                    let href = format!("h{}", href.trim());
                    FileReference { id: format!("f{number}"), href, size_bytes, compression, chunk_bytes }
                });
            let disks = disks.into_iter().enumerate().map(
                |(number, (capacity_bytes, has_file, format, populated))| {
                    let parent = number.checked_sub(1).map(|parent| format!("d{parent}"));
                    let file = has_file.then(|| "f0".to_owned());
                    VirtualDisk {
                        id: format!("d{number}"),
                        capacity_bytes,
                        file,
                        parent,
                        format,
                        populated_bytes: populated,
                    }
                },
            );
            let networks = networks.into_iter().enumerate();
            let networks =
                networks.map(|(number, description)| Network { name: format!("n{number}"), description });
            let systems = systems.into_iter().enumerate().map(|(number, system)| VirtualSystem {
                id: format!("vm {number}"),
                start: system.start.clone().filter(|_| !is_alone),
                ..system
            });
            Descriptor {
                files: files.collect(),
                disks: disks.collect(),
                networks: networks.collect(),
                collection,
                systems: systems.collect(),
                foreign: vec![policy()],
                ..Descriptor::default()
            }
        },
    )
}

type CollectionParts =
    (Option<String>, Option<String>, Vec<Product>, Vec<(u16, Option<String>, Option<u64>, Option<u64>)>);

fn whole((name, annotation, products, allocations): CollectionParts) -> Collection {
    let allocations = allocations.into_iter().map(|(resource_type, units, reservation, limit)| {
        ResourceAllocation { resource_type, units, reservation, limit, weight: reservation }
    });
    let allocations = allocations.collect();
    Collection { id: "all".to_owned(), name, annotation, products, allocations, ..Collection::default() }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn what_is_written_is_read_back(descriptor in descriptor()) {
        let written = write(&descriptor).unwrap();
        let mut again = parse(written.as_bytes(), None).unwrap();
        again.warnings.clear();
        prop_assert_eq!(again, descriptor, "{}", written);
    }
}
