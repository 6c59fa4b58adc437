//! OVF packages that describe more than there is memory or time for.

use std::error::Error;
use std::fs::{self, File};
use std::iter::successors;
use std::os::unix::fs::FileExt;
use std::path::Path;

use packer::import::{ImageOptions, ImportRequest, Origin, Wishes, import};

/// A package of one machine with these items, and the file `disk` as the only disk. Says why it is refused.
fn refused(items: &str, disk: impl FnOnce(&File)) -> String {
    let folder = tempfile::tempdir().unwrap();
    disk(&File::create(folder.path().join("disk")).unwrap());
    let descriptor = format!(
        "<Envelope><References><File ovf:id=\"f\" ovf:href=\"disk\"/></References>\
        <DiskSection><Disk ovf:diskId=\"d\" ovf:capacity=\"512\" ovf:fileRef=\"f\"/></DiskSection>\
        <VirtualSystem ovf:id=\"m\"><VirtualHardwareSection>{items}</VirtualHardwareSection></VirtualSystem></Envelope>"
    );
    let path = folder.path().join("m.ovf");
    fs::write(&path, descriptor).unwrap();
    let error = import(&request(&path, folder.path())).unwrap_err();
    let chain = successors(Some(&error as &dyn Error), |error| (*error).source());
    chain.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

fn request<'a>(path: &'a Path, scratch: &'a Path) -> ImportRequest<'a> {
    ImportRequest {
        origin: Origin::Path(path),
        image: ImageOptions::default(),
        wishes: Wishes::default(),
        configuration: None,
        max_disk_bytes: 1 << 40,
        scratch,
        progress: &(),
    }
}

fn item(instance: u32, resource_type: u32, content: &str) -> String {
    format!(
        "<Item><rasd:InstanceID>{instance}</rasd:InstanceID>\
        <rasd:ResourceType>{resource_type}</rasd:ResourceType>{content}</Item>"
    )
}

fn drives(count: u32) -> String {
    (1..=count).map(|n| item(n, 17, "<rasd:HostResource>ovf:/disk/d</rasd:HostResource>")).collect()
}

#[test]
fn a_machine_has_as_many_disks_as_an_appliance_may_have() {
    let zeros = |disk: &File| disk.set_len(512).unwrap();
    assert_eq!(refused(&drives(65), zeros), "there are 65 disks in a machine; at most 64 are read");
}

#[test]
fn the_tables_of_all_disks_together_are_bounded() {
    // A disk of 128 GiB in clusters of 512 bytes, of which none is there: an L1 table of 32 MiB.
    let qcow2 = |disk: &File| {
        disk.set_len(4096 + (32 << 20)).unwrap();
        let put = |at, bytes: &[u8]| disk.write_all_at(bytes, at).unwrap();
        put(0, b"QFI\xfb\0\0\0\x03");
        put(20, &9u32.to_be_bytes());
        put(24, &(1u64 << 37).to_be_bytes());
        put(36, &(1u32 << 22).to_be_bytes());
        put(40, &4096u64.to_be_bytes());
        put(48, &1024u64.to_be_bytes());
        put(56, &1u32.to_be_bytes());
        put(96, &4u32.to_be_bytes());
        put(100, &112u32.to_be_bytes());
    };
    assert_eq!(
        refused(&drives(3), qcow2),
        "there are 100663296 bytes of tables in disk images; at most 67108864 are read"
    );
}

#[test]
fn memory_that_no_machine_has_is_refused_and_not_rounded_up_to_nothing() {
    let memory = "<rasd:AllocationUnits>byte</rasd:AllocationUnits>\
        <rasd:VirtualQuantity>18446744073709551615</rasd:VirtualQuantity>";
    let found = refused(&item(1, 4, memory), |_| ());
    assert!(found.contains("18446744073709551615"), "{found}");
}
