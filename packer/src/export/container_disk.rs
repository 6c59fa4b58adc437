//! A containerDisk as an OCI archive: an ordinary container image whose one layer holds the disk.
//!
//! ```text
//! oci-layout   blobs/sha256/LAYER   CONFIG   MANIFEST   index.json
//!                           `- gzip of a tar: disk/ and disk/disk.img, of user and group 107
//! ```
//!
//! The disk's image is compressed already, so the layer's gzip stores without compressing. Every container tool
//! reads gzip; not all of them read zstd.
//!
//! Source: OCI image-spec 1.1; KubeVirt's user guide, "containerDisk": the file is `/disk/*`, readable by user 107.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read as _, Seek as _, SeekFrom, Write};

use appliance::{Algorithm, Arch, Blob, Digest, Hasher, canonical, media_type};
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};

use crate::archive::{add, header};

/// KubeVirt's QEMU runs as this user and group.
const QEMU: u64 = 107;
const BUFFER_BYTES: usize = 1 << 20;

/// Writes the archive to `out`, which is empty, with the disk whose image is all of `image`.
pub(super) fn write(mut image: &File, arch: Arch, tag: &str, out: &File) -> io::Result<()> {
    image.seek(SeekFrom::Start(0))?;
    let mut tar = tar::Builder::new(BufWriter::with_capacity(BUFFER_BYTES, out));
    add(&mut tar, "oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    let layer = append_layer(&mut tar, image, out)?;
    let mut blob = |value: &Value| {
        let bytes = canonical::to_vec(value);
        let blob = Blob { digest: Digest::sha256(&bytes), size_bytes: bytes.len() as u64 };
        add(&mut tar, &blob_name(&blob.digest), &bytes).map(|()| blob)
    };
    let config = blob(&json!({
        "architecture": arch.as_str(),
        "os": "linux",
        "config": {},
        "rootfs": { "type": "layers", "diff_ids": [layer.content] },
    }))?;
    let manifest = blob(&json!({
        "schemaVersion": 2,
        "mediaType": media_type::MANIFEST,
        "config": descriptor("application/vnd.oci.image.config.v1+json", config),
        "layers": [descriptor("application/vnd.oci.image.layer.v1.tar+gzip", layer.blob)],
    }))?;
    let mut entry = descriptor(media_type::MANIFEST, manifest);
    entry["platform"] = json!({ "architecture": arch.as_str(), "os": "linux" });
    entry["annotations"] = json!({ "org.opencontainers.image.ref.name": tag });
    let index = json!({ "schemaVersion": 2, "mediaType": media_type::INDEX, "manifests": [entry] });
    add(&mut tar, "index.json", &canonical::to_vec(&index))?;
    tar.into_inner()?.into_inner().map_err(io::IntoInnerError::into_error)?;
    Ok(())
}

fn blob_name(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm().as_str(), digest.hex())
}

fn descriptor(media_type: &str, blob: Blob) -> Value {
    json!({ "mediaType": media_type, "digest": blob.digest, "size": blob.size_bytes })
}

struct Layer {
    blob: Blob,
    /// The digest of the tar in it.
    content: Digest,
}

/// Appends the layer to the archive that `tar` writes to `out`. Its name and length are known when it has been
/// written, so its header is written last.
fn append_layer(tar: &mut tar::Builder<BufWriter<&File>>, image: &File, mut out: &File) -> io::Result<Layer> {
    tar.get_mut().flush()?;
    let header_at = out.stream_position()?;
    out.write_all(&[0; 512])?;
    let outer = Hashing::new(BufWriter::with_capacity(BUFFER_BYTES, out));
    let inner = Hashing::new(GzEncoder::new(outer, Compression::none()));
    let mut layer = tar::Builder::new(inner);
    let size_bytes = image.metadata()?.len();
    layer.append(&entry_header("disk/", tar::EntryType::Directory, 0o555, 0)?, io::empty())?;
    let file = entry_header("disk/disk.img", tar::EntryType::Regular, 0o444, size_bytes)?;
    layer.append(&file, BufReader::with_capacity(BUFFER_BYTES, image).take(size_bytes))?;
    let inner = layer.into_inner()?;
    let content = inner.hasher.finish();
    let mut outer = inner.out.finish()?;
    let size_bytes = outer.bytes;
    let digest = outer.hasher.finish();
    outer.out.write_all(&[0; 512][..(size_bytes.next_multiple_of(512) - size_bytes) as usize])?;
    outer.out.flush()?;
    drop(outer.out);
    let blob = Blob { digest, size_bytes };
    let end = out.stream_position()?;
    out.seek(SeekFrom::Start(header_at))?;
    out.write_all(header(&blob_name(&digest), size_bytes)?.as_bytes())?;
    out.seek(SeekFrom::Start(end))?;
    Ok(Layer { blob, content })
}

fn entry_header(name: &str, kind: tar::EntryType, mode: u32, size_bytes: u64) -> io::Result<tar::Header> {
    // GNU's header has room for files of 8 GiB and more.
    let mut header = tar::Header::new_gnu();
    header.set_path(name)?;
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(QEMU);
    header.set_gid(QEMU);
    header.set_mtime(0);
    header.set_size(size_bytes);
    header.set_cksum();
    Ok(header)
}

/// Hashes and counts what passes through.
struct Hashing<W> {
    out: W,
    hasher: Hasher,
    bytes: u64,
}

impl<W> Hashing<W> {
    fn new(out: W) -> Self {
        Self { out, hasher: Hasher::new(Algorithm::Sha256), bytes: 0 }
    }
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let written = self.out.write(buf)?;
        self.hasher.update(&buf[..written]);
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
