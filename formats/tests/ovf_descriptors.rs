//! What is understood of real descriptors, and that what is written says the same.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use formats::ovf::{Controller, Descriptor, Drive, Medium, Nic, VirtualSystem, parse, write};

/// A descriptor in a few lines, for a person to compare with the file.
fn understood(descriptor: &Descriptor) -> String {
    let mut text = String::new();
    if let Some(configuration) = &descriptor.configuration {
        let all: Vec<_> = descriptor.options.iter().map(|option| option.id.as_str()).collect();
        _ = writeln!(text, "  configuration {configuration} of {}", all.join(" "));
    }
    for disk in &descriptor.disks {
        let file = disk.file.as_ref().and_then(|file| descriptor.file(file));
        let holder = file.map_or("zeros".to_owned(), |file| format!("{:?} {:?}", file.href, file.size_bytes));
        _ = writeln!(text, "  disk {} {} bytes: {holder}", disk.id, disk.capacity_bytes);
    }
    for network in &descriptor.networks {
        _ = writeln!(text, "  network {}", network.name);
    }
    if let Some(collection) = &descriptor.collection {
        _ = writeln!(text, "  collection {}", collection.id);
    }
    descriptor.systems.iter().for_each(|system| understood_system(&mut text, system));
    for (place, section) in descriptor.foreign_sections() {
        let prefixes: Vec<_> = section.namespaces.iter().map(|known| known.prefix.as_str()).collect();
        _ = writeln!(text, "  kept {place:?} {} {} bytes {prefixes:?}", section.name, section.xml.len());
    }
    descriptor.warnings.iter().for_each(|warning| _ = writeln!(text, "  warning: {warning}"));
    text
}

fn understood_system(text: &mut String, system: &VirtualSystem) {
    let hardware = &system.hardware;
    _ = writeln!(text, "  machine {} {:?}", system.id, system.name.as_deref().unwrap_or(""));
    if let Some(start) = &system.start {
        _ = writeln!(text, "    starts {} {}s {}", start.order, start.delay_s, start.waits_for_guest);
    }
    if let Some(os) = &system.operating_system {
        _ = writeln!(text, "    os {} {:?} {:?} {:?}", os.id, os.version, os.vmware_type, os.description);
    }
    for product in &system.products {
        let keys: Vec<_> = product.properties.iter().map(|property| product.full_key(property)).collect();
        _ = writeln!(text, "    product {:?} {}", product.name.as_deref().unwrap_or(""), keys.join(" "));
    }
    let eulas: Vec<_> = system.eulas.iter().map(String::len).collect();
    if !eulas.is_empty() || system.annotation.is_some() {
        _ = writeln!(
            text,
            "    eulas {eulas:?} annotation {:?}",
            system.annotation.as_ref().map(String::len)
        );
    }
    _ = writeln!(
        text,
        "    {} vcpus {:?} per socket {:?} memory {:?} firmware {:?} secure boot {:?} settings {} others {}",
        hardware.kinds.join("+"),
        hardware.vcpus,
        hardware.cores_per_socket,
        hardware.memory_bytes,
        hardware.firmware,
        hardware.secure_boot,
        hardware.settings.len(),
        hardware.others.len(),
    );
    for Controller { instance, kind, address } in &hardware.controllers {
        _ = writeln!(text, "    controller {instance} {kind:?} {address:?}");
    }
    for Drive { instance, kind, medium, controller, address, .. } in &hardware.drives {
        let medium = medium.as_ref().map_or("nothing".to_owned(), |medium| match medium {
            Medium::Disk(id) | Medium::File(id) => id.clone(),
            Medium::Blank { capacity_bytes } => format!("{capacity_bytes} bytes"),
        });
        _ = writeln!(text, "    drive {instance} {kind:?}: {medium} on {controller:?} {address:?}");
    }
    for Nic { instance, kind, network, mac, connected, .. } in &hardware.nics {
        _ = writeln!(text, "    nic {instance} {kind:?} {network:?} {mac:02x?} {connected}");
    }
}

/// `ovf_descriptors.txt` holds, for each file and configuration, what is understood of it or why it is refused.
#[test]
fn every_descriptor_is_understood_as_its_writer_meant_it() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let mut names: Vec<_> = ["fixtures/ovf", "ovf_samples"]
        .iter()
        .flat_map(|part| fs::read_dir(folder.join(part)).unwrap())
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "ovf"))
        .collect();
    names.sort();
    assert_eq!(names.len(), 24);
    let mut found = String::new();
    for path in names {
        let bytes = fs::read(&path).unwrap();
        let name = path.file_name().unwrap().to_str().unwrap();
        let first = parse(&bytes, None);
        let options = first.as_ref().map_or(&[][..], |descriptor| descriptor.options.as_slice());
        let chosen = first.as_ref().ok().and_then(|descriptor| descriptor.configuration.as_deref());
        let others = options.iter().map(|option| option.id.as_str()).filter(|id| Some(*id) != chosen);
        for configuration in [None].into_iter().chain(others.map(Some)) {
            _ = writeln!(found, "{name} {}", configuration.unwrap_or_default());
            match parse(&bytes, configuration) {
                Ok(descriptor) => found += &understood(&descriptor),
                Err(error) => _ = writeln!(found, "  refused: {error}"),
            }
        }
    }
    let wanted = include_str!("ovf_descriptors.txt");
    if found != wanted {
        let actual = std::env::temp_dir().join("ovf_descriptors.txt");
        fs::write(&actual, &found).unwrap();
        panic!("understood otherwise: compare with {}", actual.display());
    }
}

/// What must be the same in a descriptor that was written and read again: all but the ids of items.
#[test]
fn what_is_written_of_a_real_descriptor_says_the_same() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    for part in ["fixtures/ovf", "ovf_samples"] {
        for entry in fs::read_dir(folder.join(part)).unwrap() {
            let path = entry.unwrap().path();
            let Ok(descriptor) = parse(&fs::read(&path).unwrap(), None) else { continue };
            if descriptor.systems.is_empty() {
                continue;
            }
            let written = write(&descriptor).unwrap();
            let again = parse(written.as_bytes(), None).unwrap();
            assert_eq!(write(&again).unwrap(), written, "{}", path.display());
            for (_, section) in
                descriptor.foreign_sections().filter(|(_, section)| !section.namespace.is_empty())
            {
                assert!(written.contains(&section.xml), "{} in {}", section.name, path.display());
            }
            assert_eq!(comparable(again), comparable(descriptor), "{}", path.display());
        }
    }
}

/// A descriptor with its items numbered anew, without what is never written.
fn comparable(mut descriptor: Descriptor) -> Descriptor {
    descriptor.warnings.clear();
    descriptor.options.clear();
    descriptor.configuration = None;
    // What a section relies on may have moved into its text.
    for section in descriptor
        .foreign
        .iter_mut()
        .chain(descriptor.systems.iter_mut().flat_map(|system| &mut system.foreign))
    {
        (section.xml, section.namespaces) = Default::default();
    }
    for hardware in descriptor.systems.iter_mut().map(|system| &mut system.hardware) {
        for (number, controller) in hardware.controllers.iter_mut().enumerate() {
            let old = std::mem::replace(&mut controller.instance, format!("c{number}"));
            let drives = hardware.drives.iter_mut();
            drives.filter(|drive| drive.controller.as_ref() == Some(&old)).for_each(|drive| {
                drive.controller = Some(controller.instance.clone());
            });
        }
        hardware.drives.iter_mut().for_each(|drive| drive.instance.clear());
        hardware.nics.iter_mut().for_each(|nic| nic.instance.clear());
        for other in &mut hardware.others {
            other.instance.clear();
            other.name.get_or_insert("Device".to_owned());
        }
    }
    descriptor
}

#[test]
fn a_configuration_that_is_not_there_is_refused_with_those_that_are() {
    let refused = |name: &str, configuration| {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/ovf").join(name);
        parse(&fs::read(path).unwrap(), Some(configuration)).unwrap_err().to_string()
    };
    let found = refused("deployment-configs.ovf", "huge\u{7}");
    let wanted =
        "OVF: the descriptor has no configuration `huge\\u{7}`; wanted `small` or `medium` or `large`";
    assert_eq!(found, wanted);
    let found = refused("ttylinux.ovf", "small");
    assert_eq!(found, "OVF: the descriptor has no configuration `small`; wanted none, for it offers none");
}
