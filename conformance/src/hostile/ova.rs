//! OVAs that lie, beside a whole one: archive, manifest and descriptor.
//!
//! Source: DSP0243 1.1.0, "Open Virtualization Format Specification".

use sha2::{Digest as _, Sha256};

use super::archive::{Tar, header};
use super::bytes::Bytes;
use super::{Hostile, Want, accepted, import, refused, vmdk};

type Row = (&'static str, &'static str, Want, fn() -> Vec<u8>);

const DISK: &str = "disk.vmdk";
const DESCRIPTOR: &str = "machine.ovf";
const FILE: &str = r#"<File ovf:id="file" ovf:href="disk.vmdk"/>"#;
const CAPACITY: &str = r#"ovf:capacity="1048576""#;

pub(super) fn all() -> impl Iterator<Item = Hostile> {
    let archive = |name, what, want, bytes| import(name, what, want, vec![("machine.ova", bytes)]);
    let rows =
        ROWS.iter().map(move |(name, what, want, make)| archive(name, what, *want, Bytes::new(make())));
    let says = refused("OVF: `machine.ovf` has 20971520 bytes");
    rows.chain([archive(
        "ova-long",
        "a descriptor of 20 MiB",
        says,
        super::archive::with_hole(DESCRIPTOR, 20 << 20),
    )])
}

/// A machine with one disk of 1 MiB.
fn descriptor() -> String {
    let item = |number: u32, kind: u32, more: &str| {
        format!(
            "<Item><rasd:ElementName>{number}</rasd:ElementName><rasd:InstanceID>{number}</rasd:InstanceID>\
             <rasd:ResourceType>{kind}</rasd:ResourceType>{more}</Item>"
        )
    };
    let items = [
        item(1, 3, "<rasd:VirtualQuantity>1</rasd:VirtualQuantity>"),
        item(
            2,
            4,
            "<rasd:AllocationUnits>byte * 2^20</rasd:AllocationUnits><rasd:VirtualQuantity>256</rasd:VirtualQuantity>",
        ),
        item(3, 20, "<rasd:Address>0</rasd:Address><rasd:ResourceSubType>AHCI</rasd:ResourceSubType>"),
        item(
            4,
            17,
            "<rasd:AddressOnParent>0</rasd:AddressOnParent><rasd:HostResource>ovf:/disk/disk</rasd:HostResource><rasd:Parent>3</rasd:Parent>",
        ),
    ];
    format!(
        r#"<?xml version="1.0" encoding="UTF-8"?>
<Envelope xmlns="http://schemas.dmtf.org/ovf/envelope/1" xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1"
 xmlns:rasd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData">
<References>{FILE}</References>
<DiskSection><Info>Disks</Info><Disk ovf:diskId="disk" ovf:fileRef="file" {CAPACITY}
 ovf:format="http://www.vmware.com/interfaces/specifications/vmdk.html#streamOptimized"/></DiskSection>
<VirtualSystem ovf:id="machine"><Info>A machine</Info>
<VirtualHardwareSection><Info>Hardware</Info>{}</VirtualHardwareSection>
</VirtualSystem>
</Envelope>
"#,
        items.concat()
    )
}

fn disk() -> Vec<u8> {
    vmdk::stream().content().to_vec()
}

fn with_descriptor(descriptor: &str) -> Vec<u8> {
    Tar::default().file(DESCRIPTOR, descriptor.as_bytes()).file(DISK, &disk()).end()
}

/// The descriptor with one text in place of another, which it has.
fn replaced(old: &str, new: &str) -> Vec<u8> {
    let whole = descriptor();
    assert!(whole.contains(old), "the descriptor has no {old}");
    with_descriptor(&whole.replacen(old, new, 1))
}

/// The archive with this in place of the disk.
fn with_member(add: impl FnOnce(Tar) -> Tar) -> Vec<u8> {
    add(Tar::default().file(DESCRIPTOR, descriptor().as_bytes())).end()
}

fn with_manifest(lines: &[(&str, &[u8])]) -> Vec<u8> {
    let line = |(name, content): &(&str, &[u8])| {
        format!("SHA256({name})= {}\n", hex::encode(Sha256::digest(content)))
    };
    let manifest: String = lines.iter().map(line).collect();
    Tar::default()
        .file(DESCRIPTOR, descriptor().as_bytes())
        .file("machine.mf", manifest.as_bytes())
        .file(DISK, &disk())
        .end()
}

const ROWS: &[Row] = &[
    ("ova-whole", "nothing is wrong: the archive that the others were made of", accepted(), || {
        with_descriptor(&descriptor())
    }),
    ("ova-manifest", "with a manifest of both files", accepted(), || {
        with_manifest(&[(DESCRIPTOR, descriptor().as_bytes()), (DISK, &disk())])
    }),
    (
        "ova-manifest-wrong",
        "a manifest with another digest of the disk",
        refused("OVF: the digest of `disk.vmdk` is 977c55a8"),
        || with_manifest(&[(DESCRIPTOR, descriptor().as_bytes()), (DISK, b"another")]),
    ),
    (
        "ova-manifest-uncovered",
        "a manifest that leaves out the disk",
        refused("the manifest has no digest of `disk.vmdk`"),
        || with_manifest(&[(DESCRIPTOR, descriptor().as_bytes())]),
    ),
    (
        "ova-manifest-twice",
        "a manifest with two digests of the disk",
        refused("line 3 of the manifest is `disk.vmdk` again"),
        || with_manifest(&[(DESCRIPTOR, descriptor().as_bytes()), (DISK, b"another"), (DISK, &disk())]),
    ),
    ("ova-manifest-garbage", "a manifest of noise", refused("OVF: line 1 of the manifest is"), || {
        Tar::default()
            .file(DESCRIPTOR, descriptor().as_bytes())
            .file("machine.mf", &[0xff; 4096])
            .file(DISK, &disk())
            .end()
    }),
    ("ova-duplicate", "two disks of one name", refused("disk.vmdk is there again"), || {
        with_member(|tar| tar.file(DISK, &disk()).file(DISK, b"another"))
    }),
    (
        "ova-symlink",
        "a symbolic link to /etc/passwd as disk",
        refused("disk.vmdk is a symbolic link"),
        || with_member(|tar| tar.link(b'2', DISK, "/etc/passwd")),
    ),
    ("ova-hardlink", "a hard link as disk", refused("disk.vmdk is a hard link"), || {
        with_member(|tar| tar.link(b'1', DISK, DESCRIPTOR))
    }),
    ("ova-device", "a character device as disk", refused("disk.vmdk is a device"), || {
        with_member(|tar| tar.link(b'3', DISK, ""))
    }),
    ("ova-fifo", "a pipe as disk", refused("disk.vmdk is a pipe"), || {
        with_member(|tar| tar.link(b'6', DISK, ""))
    }),
    ("ova-sparse", "a sparse member of GNU's as disk", refused("disk.vmdk is a sparse file"), || {
        with_member(|tar| tar.member(b'S', DISK.as_bytes(), &disk()))
    }),
    (
        "ova-pax-path",
        "an extended header that renames the disk to one above the archive",
        refused("extended name is `../../etc/passwd`"),
        || with_member(|tar| tar.pax("path", "../../etc/passwd").file(DISK, &disk())),
    ),
    (
        "ova-pax-size",
        "an extended header that gives the disk another size",
        refused("extended size is 512"),
        || with_member(|tar| tar.pax("size", "512").file(DISK, &disk())),
    ),
    (
        "ova-pax-sparse",
        "an extended header that makes the disk sparse",
        refused("extended record is `GNU.sparse.realsize`"),
        || with_member(|tar| tar.pax("GNU.sparse.realsize", "1099511627776").file(DISK, &disk())),
    ),
    (
        "ova-pax-link",
        "an extended header that makes a link of the disk",
        refused("extended record is `linkpath`"),
        || with_member(|tar| tar.pax("linkpath", "/etc/passwd").file(DISK, &disk())),
    ),
    ("ova-dots", "a disk above the archive", refused("name is `../disk.vmdk`"), || {
        with_member(|tar| tar.file("../disk.vmdk", &disk()))
    }),
    ("ova-absolute", "a disk with an absolute name", refused("name is `/etc/cron.d/disk.vmdk`"), || {
        with_member(|tar| tar.file("/etc/cron.d/disk.vmdk", &disk()))
    }),
    ("ova-control", "a member whose name clears the screen", refused("name is `\\u{1b}[2J`"), || {
        with_member(|tar| tar.file("\x1b[2J", &disk()))
    }),
    (
        "ova-size-huge",
        "a disk of 2^62 bytes",
        refused("size is 4611686018427387904 bytes, padded to blocks of 512"),
        || with_member(|tar| tar.file_of_size(DISK, [0x80, 0, 0, 0, 0x40, 0, 0, 0, 0, 0, 0, 0], &disk())),
    ),
    ("ova-size-negative", "a disk of -1 bytes", refused("size is `\\xff"), || {
        with_member(|tar| tar.file_of_size(DISK, [0xff; 12], &disk()))
    }),
    ("ova-size-text", "a disk whose size is no number", refused("size is `hundred meg\\x00`"), || {
        with_member(|tar| tar.file_of_size(DISK, *b"hundred meg\0", &disk()))
    }),
    ("ova-checksum", "a header with a wrong checksum", refused("checksum is 107550"), || {
        with_member(|tar| {
            let mut header = header(b'0', DISK.as_bytes(), b"", 0);
            header[148] ^= 1;
            tar.header(&header)
        })
    }),
    ("ova-cut", "ends in the disk", refused("size is 66048 bytes, padded to blocks of 512"), || {
        let mut archive = with_descriptor(&descriptor());
        archive.truncate(archive.len() - 4096);
        archive
    }),
    (
        "ova-after-the-end",
        "a member after the end",
        refused("end of the archive is followed by 0x6d"),
        || [with_descriptor(&descriptor()), Tar::default().file("more", b"x").end()].concat(),
    ),
    ("ova-many", "5000 members", refused("the archive has more than 4096 members"), || {
        with_member(|tar| {
            (0..5000).fold(tar, |tar, number| tar.file(&number.to_string(), b"")).file(DISK, &disk())
        })
    }),
    (
        "ova-two-descriptors",
        "two descriptors",
        refused("the package has `machine.ovf` and `other.ovf`"),
        || with_member(|tar| tar.file("other.ovf", descriptor().as_bytes()).file(DISK, &disk())),
    ),
    (
        "ova-no-descriptor",
        "no descriptor",
        refused("the archive `machine.ova` is no OVA, Vagrant box, container image or disk image"),
        || Tar::default().file("machine.mf", b"").end(),
    ),
    (
        "ova-href-dots",
        "a disk that is to be above the archive",
        refused("ovf:href of File is `../../../etc/passwd`"),
        || replaced("href=\"disk.vmdk\"", "href=\"../../../etc/passwd\""),
    ),
    (
        "ova-href-absolute",
        "a disk that is to be /etc/passwd",
        refused("ovf:href of File is `file:///etc/passwd`"),
        || replaced("href=\"disk.vmdk\"", "href=\"file:///etc/passwd\""),
    ),
    (
        "ova-href-network",
        "a disk that is to be in the network",
        refused("ovf:href of File is `http://192.0.2.1/disk.vmdk`"),
        || replaced("href=\"disk.vmdk\"", "href=\"http://192.0.2.1/disk.vmdk\""),
    ),
    (
        "ova-href-missing",
        "a disk that is not in the archive",
        refused("the package has no file `other.vmdk`, which the descriptor refers to"),
        || replaced("href=\"disk.vmdk\"", "href=\"other.vmdk\""),
    ),
    (
        "ova-chunks",
        "a disk in 2^60 parts",
        refused("the package has no file `disk.vmdk.000000000`, which the descriptor refers to"),
        || {
            replaced(
                "href=\"disk.vmdk\"",
                "href=\"disk.vmdk\" ovf:chunkSize=\"1\" ovf:size=\"1152921504606846976\"",
            )
        },
    ),
    (
        "ova-gzip-garbage",
        "a disk that is to be packed with gzip, and is not",
        refused("gzip: `disk.vmdk` cannot be unpacked"),
        || replaced("href=\"disk.vmdk\"", "href=\"disk.vmdk\" ovf:compression=\"gzip\""),
    ),
    ("ova-doctype", "a document type", refused("the document has a document type declaration (DTD)"), || {
        replaced("<Envelope", "<!DOCTYPE Envelope><Envelope")
    }),
    (
        "ova-laughs",
        "entities that grow to a billion",
        refused("the document has a document type declaration (DTD)"),
        || {
            let entities: String = (1..10)
                .map(|n| format!("<!ENTITY e{n} \"{}\">", format!("&e{};", n - 1).repeat(10)))
                .collect();
            let document = replaced_text(
                "<Envelope",
                &format!("<!DOCTYPE Envelope [<!ENTITY e0 \"ha\">{entities}]><Envelope"),
            );
            with_descriptor(&document.replacen("A machine", "&e9;", 1))
        },
    ),
    (
        "ova-entity",
        "an entity that is /etc/passwd",
        refused("the document has a document type declaration (DTD)"),
        || {
            let document = replaced_text(
                "<Envelope",
                "<!DOCTYPE Envelope [<!ENTITY x SYSTEM \"file:///etc/passwd\">]><Envelope",
            );
            with_descriptor(&document.replacen("A machine", "&x;", 1))
        },
    ),
    (
        "ova-deep",
        "elements 100,000 deep",
        refused("the document has more than 64 elements in each other"),
        || replaced("<Info>Disks</Info>", &format!("{}{}", "<x>".repeat(100_000), "</x>".repeat(100_000))),
    ),
    (
        "ova-attributes",
        "an element with 100,000 attributes",
        refused("the document has more than 64 attributes in one element"),
        || {
            let attributes: String = (0..100_000).map(|number| format!(" a{number}=\"\"")).collect();
            replaced("<DiskSection>", &format!("<DiskSection{attributes}>"))
        },
    ),
    (
        "ova-elements",
        "a million empty elements",
        refused("the document has more than 65536 elements and texts"),
        || replaced("<Info>Disks</Info>", &"<x/>".repeat(1_000_000)),
    ),
    ("ova-encoding", "a descriptor that is no text", refused("the document is no UTF-8: 0xff"), || {
        Tar::default().file(DESCRIPTOR, b"<Envelope>\xff\xfe\xfd</Envelope>").file(DISK, &disk()).end()
    }),
    (
        "ova-not-closed",
        "a descriptor that ends too early",
        refused("the end of the text is not well-formed XML"),
        || replaced("</Envelope>", ""),
    ),
    (
        "ova-other-root",
        "a descriptor of something else",
        refused("the document's element is `domain`"),
        || Tar::default().file(DESCRIPTOR, b"<domain type='kvm'/>").file(DISK, &disk()).end(),
    ),
    (
        "ova-no-machine",
        "a descriptor without a machine",
        refused("the OVF descriptor `machine.ovf` has no virtual machine in it"),
        || {
            let document = descriptor();
            let (start, _) = document.split_once("<VirtualSystem ").unwrap_or_default();
            with_descriptor(&format!("{start}</Envelope>"))
        },
    ),
    (
        "ova-required",
        "a section that must be understood and that nobody knows",
        refused("the descriptor requires `FirewallSection` of `urn:x` to be understood"),
        || {
            replaced(
                "<DiskSection>",
                "<x:FirewallSection xmlns:x=\"urn:x\" ovf:required=\"true\"><Info>x</Info></x:FirewallSection><DiskSection>",
            )
        },
    ),
    (
        "ova-capacity",
        "a capacity that is no number of bytes below 2^64",
        refused("ovf:capacity of Disk is 18446744073709551615 times 1152921504606846976 bytes"),
        || {
            replaced(
                CAPACITY,
                "ovf:capacity=\"18446744073709551615\" ovf:capacityAllocationUnits=\"byte * 2^60\"",
            )
        },
    ),
    (
        "ova-memory",
        "memory of more than 2^64 bytes",
        refused("VirtualQuantity is 256 times 9223372036854775808 bytes"),
        || replaced("byte * 2^20", "byte * 2^63"),
    ),
    ("ova-same-id", "two disks of one id", refused("ovf:diskId of Disk is `disk` again"), || {
        replaced("</DiskSection>", "<Disk ovf:diskId=\"disk\" ovf:capacity=\"1\"/></DiskSection>")
    }),
    ("ova-no-disk", "a drive whose disk is not there", refused("HostResource of `4` is `other`"), || {
        replaced("ovf:/disk/disk", "ovf:/disk/other")
    }),
    (
        "ova-cycle",
        "two disks, each a difference to the other",
        refused("ovf:parentRef of Disk is `disk`"),
        || {
            let document = replaced_text(CAPACITY, &format!("{CAPACITY} ovf:parentRef=\"other\""));
            let other = "<Disk ovf:diskId=\"other\" ovf:fileRef=\"file\" ovf:capacity=\"1048576\" ovf:parentRef=\"disk\"/></DiskSection>";
            with_descriptor(&document.replacen("</DiskSection>", other, 1))
        },
    ),
    (
        "ova-disk-lies",
        "a qcow2 image with a backing file as disk",
        refused(
            "backing_file_offset is 1024 (`/etc/passwd`): it is a difference to another image, which was not",
        ),
        || {
            let mut image = super::qcow2::whole();
            super::qcow2::backing(&mut image, b"/etc/passwd");
            with_member(|tar| tar.file(DISK, image.content()))
        },
    ),
];

fn replaced_text(old: &str, new: &str) -> String {
    descriptor().replacen(old, new, 1)
}
