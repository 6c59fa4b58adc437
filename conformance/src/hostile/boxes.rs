//! Vagrant boxes and KubeVirt's containerDisks that lie, beside whole ones.
//!
//! Source: Vagrant's documentation, "Box File Format"; KubeVirt's, "containerDisk"; OCI image-spec 1.1.

use std::io::{self, Read as _, Write as _};

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::archive::Tar;
use super::bytes::Bytes;
use super::{Hostile, Want, accepted, import, qcow2, refused};

type Row = (&'static str, &'static str, Want, fn() -> Vec<u8>);

const MIB: u64 = 1 << 20;

pub(super) fn all() -> impl Iterator<Item = Hostile> {
    let rows =
        BOXES.iter().map(|row| (row, "machine.box")).chain(CONTAINERS.iter().map(|row| (row, "image.tar")));
    let rows = rows
        .map(|((name, what, want, make), file)| import(name, what, *want, vec![(file, Bytes::new(make()))]));
    let long = vec![("machine.box", super::archive::with_hole("metadata.json", 20 << 20))];
    rows.chain([import(
        "box-metadata-long",
        "metadata of 20 MiB",
        refused("`metadata.json` has 20971520 bytes"),
        long,
    )])
}

fn metadata() -> Value {
    json!({ "provider": "libvirt", "format": "qcow2", "virtual_size": 1 })
}

/// A box for libvirt, not compressed.
fn whole(metadata: &[u8], image: &Bytes) -> Vec<u8> {
    Tar::default().file("metadata.json", metadata).file("box.img", image.content()).end()
}

fn with_metadata(metadata: &Value) -> Vec<u8> {
    whole(metadata.to_string().as_bytes(), &qcow2::whole())
}

fn gzip(content: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    let written = encoder.write_all(content).and_then(|()| encoder.finish());
    written.expect("a vector takes everything")
}

/// The start of an archive and then gigabytes of zeros: the same compressed piece again and again.
fn gzip_bomb() -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    let zeros = io::copy(&mut io::repeat(0).take(16 * MIB), &mut encoder);
    let piece = zeros.and_then(|_| encoder.finish()).expect("a vector takes everything");
    [gzip(&bomb_start()), piece.repeat(256)].concat()
}

fn zstd_bomb() -> Vec<u8> {
    let mut encoder = zstd::Encoder::new(Vec::new(), 1).expect("level 1 is one");
    let zeros = io::copy(&mut io::repeat(0).take(16 * MIB), &mut encoder);
    let piece = zeros.and_then(|_| encoder.finish()).expect("a vector takes everything");
    let start = zstd::encode_all(&bomb_start()[..], 1).expect("a vector takes everything");
    [start, piece.repeat(256)].concat()
}

/// A box whose image is said to have 4 GiB.
fn bomb_start() -> Vec<u8> {
    let metadata = metadata().to_string();
    let archive = Tar::default().file("metadata.json", metadata.as_bytes());
    let mut bytes = archive.file_of_size("box.img", *b"40000000000\0", b"").end();
    bytes.truncate(bytes.len() - 1024);
    bytes
}

const BOXES: &[Row] = &[
    ("box-whole", "nothing is wrong: the box that the others were made of", accepted(), || {
        gzip(&with_metadata(&metadata()))
    }),
    (
        "box-gzip-bomb",
        "4 GiB of zeros in 4 MiB of gzip",
        refused("`machine.box` unpacks to more than 1073741824 bytes"),
        gzip_bomb,
    ),
    ("box-zstd-bomb", "4 GiB of zeros in zstd", refused("this is a file compressed with zstd"), zstd_bomb),
    (
        "box-gzip-garbage",
        "noise after the head of gzip",
        refused("gzip: `machine.box` cannot be unpacked"),
        || [&b"\x1f\x8b\x08\0\0\0\0\0\0\xff"[..], &[0xff; 4096]].concat(),
    ),
    (
        "box-gzip-cut",
        "a compressed box that ends too early",
        refused("gzip: `machine.box` cannot be unpacked"),
        || {
            let mut compressed = gzip(&with_metadata(&metadata()));
            compressed.truncate(compressed.len() / 2);
            compressed
        },
    ),
    (
        "box-metadata-deep",
        "metadata 100,000 deep",
        refused("metadata.json is not the JSON that is expected there"),
        || whole("[".repeat(100_000).as_bytes(), &qcow2::whole()),
    ),
    (
        "box-provider",
        "a provider that nobody knows",
        refused("the box is for the provider `\\u{1b}[2J`"),
        || with_metadata(&json!({ "provider": "\u{1b}[2J" })),
    ),
    ("box-format", "a format that is no format", refused("the box says that its image is `luks`"), || {
        with_metadata(&json!({ "provider": "libvirt", "format": "luks" }))
    }),
    ("box-no-image", "no image", refused("the file `box.img` is named and is not there"), || {
        Tar::default().file("metadata.json", metadata().to_string().as_bytes()).end()
    }),
    (
        "box-path",
        "a disk that is to be /etc/passwd",
        refused("the file `/etc/passwd` is named and is not there"),
        || with_metadata(&json!({ "provider": "libvirt", "disks": [{ "path": "/etc/passwd" }] })),
    ),
    (
        "box-dots",
        "a disk that is to be above the box",
        refused("the file `../box.img` is named and is not there"),
        || with_metadata(&json!({ "provider": "libvirt", "disks": [{ "path": "../box.img" }] })),
    ),
    ("box-disks", "1000 disks", refused("the box has 1000 disks; at most 64 are read"), || {
        with_metadata(&json!({ "provider": "libvirt", "disks": vec![json!({ "path": "box.img" }); 1000] }))
    }),
    (
        "box-backing",
        "an image with a backing file",
        refused(
            "backing_file_offset is 1024 (`/etc/passwd`): it is a difference to another image, which was not",
        ),
        || {
            let mut image = qcow2::whole();
            qcow2::backing(&mut image, b"/etc/passwd");
            whole(metadata().to_string().as_bytes(), &image)
        },
    ),
    ("box-symlink", "a link as image", refused("box.img is a symbolic link"), || {
        Tar::default()
            .file("metadata.json", metadata().to_string().as_bytes())
            .link(b'2', "box.img", "/etc/passwd")
            .end()
    }),
];

/// An OCI image layout with one image of one layer; `edit` may change the manifest.
fn layout(layer: &[u8], edit: fn(&mut Value)) -> Vec<u8> {
    let config = json!({ "architecture": "amd64", "os": "linux" }).to_string().into_bytes();
    let descriptor =
        |kind: &str, bytes: &[u8]| json!({ "mediaType": kind, "digest": digest(bytes), "size": bytes.len() });
    let mut manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": descriptor("application/vnd.oci.image.config.v1+json", &config),
        "layers": [descriptor("application/vnd.oci.image.layer.v1.tar", layer)],
    });
    edit(&mut manifest);
    let manifest = manifest.to_string().into_bytes();
    let entry = descriptor("application/vnd.oci.image.manifest.v1+json", &manifest);
    let index = json!({ "schemaVersion": 2, "manifests": [entry] }).to_string();
    let archive = Tar::default()
        .file("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)
        .file("index.json", index.as_bytes());
    let blobs = [&config[..], layer, &manifest];
    blobs.iter().fold(archive, |archive, blob| archive.file(&blob_name(blob), blob)).end()
}

fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

fn blob_name(bytes: &[u8]) -> String {
    format!("blobs/sha256/{}", hex::encode(Sha256::digest(bytes)))
}

fn disk_layer() -> Tar {
    Tar::default().file("disk/disk.img", qcow2::whole().content())
}

const CONTAINERS: &[Row] = &[
    (
        "container-whole",
        "nothing is wrong: the containerDisk that the others were made of",
        accepted(),
        || layout(&disk_layer().end(), |_| ()),
    ),
    (
        "container-two-disks",
        "two files in the folder of the disk",
        refused("the container image has several files in `disk/`, `disk/disk.img`, `disk/other.img`"),
        || layout(&disk_layer().file("disk/other.img", b"other").end(), |_| ()),
    ),
    (
        "container-no-disk",
        "no disk",
        refused("the container image has no disk: no file in `disk/`, and not one alone at its root"),
        || layout(&Tar::default().file("etc/passwd", b"x").end(), |_| ()),
    ),
    ("container-digest", "a layer of another digest", refused("the file `blobs/sha256/0000"), || {
        layout(&disk_layer().end(), |m| {
            m["layers"][0]["digest"] = format!("sha256:{}", "0".repeat(64)).into()
        })
    }),
    (
        "container-digest-path",
        "a layer whose digest is a path",
        refused("`sha256:../../../etc/passwd` is no digest: digest value has 19 characters; sha256 needs"),
        || layout(&disk_layer().end(), |m| m["layers"][0]["digest"] = "sha256:../../../etc/passwd".into()),
    ),
    (
        "container-size",
        "a layer of another size",
        refused("which is not what the image's documents promise"),
        || layout(&disk_layer().end(), |m| m["layers"][0]["size"] = 5.into()),
    ),
    ("container-layers", "1000 layers", refused("the container image has 1000 layers"), || {
        layout(&disk_layer().end(), |m| m["layers"] = vec![m["layers"][0].clone(); 1000].into())
    }),
    ("container-symlink", "a link as disk", refused("disk/disk.img is a symbolic link"), || {
        layout(&Tar::default().link(b'2', "disk/disk.img", "/etc/passwd").end(), |_| ())
    }),
    ("container-dots", "a disk above the image", refused("name is `disk/../../disk.img`"), || {
        layout(&Tar::default().file("disk/../../disk.img", b"x").end(), |_| ())
    }),
    (
        "container-vmdk",
        "a disk that is neither raw nor qcow2",
        refused("the container image's disk `disk/disk.img` is vmdk"),
        || layout(&Tar::default().file("disk/disk.img", super::vmdk::stream().content()).end(), |_| ()),
    ),
    (
        "container-backing",
        "a disk with a backing file",
        refused(
            "backing_file_offset is 1024 (`/etc/passwd`): it is a difference to another image, which was not",
        ),
        || {
            let mut image = qcow2::whole();
            qcow2::backing(&mut image, b"/etc/passwd");
            layout(&Tar::default().file("disk/disk.img", image.content()).end(), |_| ())
        },
    ),
    (
        "container-zstd-bomb",
        "4 GiB of zeros as a layer, in zstd",
        refused("`layer 1` unpacks to more than"),
        || {
            layout(&zstd_bomb(), |m| {
                m["layers"][0]["mediaType"] = "application/vnd.oci.image.layer.v1.tar+zstd".into()
            })
        },
    ),
    (
        "container-bomb",
        "4 GiB of zeros as a layer",
        refused("`layer 1` unpacks to more than 1073741824 bytes"),
        || {
            layout(&gzip_bomb(), |m| {
                m["layers"][0]["mediaType"] = "application/vnd.oci.image.layer.v1.tar+gzip".into()
            })
        },
    ),
];
