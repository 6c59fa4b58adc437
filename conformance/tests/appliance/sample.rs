//! An appliance made by hand around the golden disk index, to be damaged at any stage and sealed again.
//!
//! The stages follow one another as the digests do: packs, pages, root, config and policy, manifest, image
//! index, `index.json`, files, archive. What is edited at a stage has right digests in every later one, so
//! that exactly the edited thing is wrong.

use std::path::Path;

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

/// Where the golden root ends; its two pages follow. See the example in `docs/formats/disk-index.md`.
const ROOT_BYTES: usize = 0xb0;
const SECOND_PAGE: usize = 0x11c;
/// Where the golden root has its pack, and its pages.
pub(crate) const PACK_ENTRY: usize = 0x20;
pub(crate) const PAGE_ENTRIES: [usize; 2] = [0x48, 0x7c];

/// The appliance; each field is what a stage starts from, each `edit_` is done at the end of its stage.
pub(crate) struct Sample {
    pub(crate) pack: Vec<u8>,
    pub(crate) pages: [Vec<u8>; 2],
    pub(crate) root: Vec<u8>,
    pub(crate) config: Vec<u8>,
    pub(crate) policy: Vec<u8>,
    pub(crate) edit_root: Edit,
    pub(crate) edit_disk_index: Edit,
    pub(crate) edit_annotations: fn(&mut Value),
    pub(crate) edit_manifest: fn(&mut Value),
    pub(crate) edit_index: fn(&mut Value),
    pub(crate) edit_top: fn(&mut Value),
    pub(crate) edit_files: fn(&mut Vec<File>),
    pub(crate) edit_archive: fn(&mut Vec<u8>),
}

/// An edit that may know more than its stage does.
pub(crate) type Edit = Box<dyn Fn(&mut Vec<u8>)>;

/// A file of the archive.
#[derive(Clone)]
pub(crate) struct File {
    pub(crate) name: String,
    pub(crate) bytes: Vec<u8>,
}

/// Positions in the list of files.
pub(crate) const OCI_LAYOUT: usize = 0;
pub(crate) const TOP: usize = 1;
pub(crate) const MANIFEST: usize = 3;
pub(crate) const CONFIG: usize = 4;
pub(crate) const POLICY: usize = 5;
pub(crate) const DISK_INDEX: usize = 6;
pub(crate) const PACK: usize = 7;

impl Sample {
    pub(crate) fn new() -> Self {
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../formats/tests/golden");
        let index = std::fs::read(golden.join("disk-index-v1.bin")).unwrap();
        let config = json!({ "formatVersion": 1, "name": "x", "version": "1", "machines": [{
            "name": "x", "arch": "amd64", "disks": [{ "name": "root", "sizeBytes": 0x2000_73e8, "mode": "overlay" }],
        }]});
        let mut root = index[..ROOT_BYTES].to_vec();
        root[10] = 1; // the example says rule 2, but was not cut by it
        Self {
            pack: std::fs::read(golden.join("disk-pack-v1.bin")).unwrap(),
            pages: [index[ROOT_BYTES..SECOND_PAGE].to_vec(), index[SECOND_PAGE..].to_vec()],
            root,
            config: serde_json::to_vec(&config).unwrap(),
            policy: serde_json::to_vec(&json!({ "machines": { "x": {} }, "policyVersion": 1 })).unwrap(),
            edit_root: Box::new(|_| ()),
            edit_disk_index: Box::new(|_| ()),
            edit_annotations: |_| (),
            edit_manifest: |_| (),
            edit_index: |_| (),
            edit_top: |_| (),
            edit_files: |_| (),
            edit_archive: |_| (),
        }
    }

    /// The archive's bytes.
    pub(crate) fn to_archive(&self) -> Vec<u8> {
        let mut archive = tar::Builder::new(Vec::new());
        for file in self.to_files() {
            let mut header = tar::Header::new_ustar();
            header.set_size(file.bytes.len() as u64);
            header.set_mode(0o644);
            archive.append_data(&mut header, &file.name, &file.bytes[..]).unwrap();
        }
        let mut bytes = archive.into_inner().unwrap();
        (self.edit_archive)(&mut bytes);
        bytes
    }

    fn to_files(&self) -> Vec<File> {
        let index = self.to_disk_index();
        let root_bytes = self.edited_root().len();
        let mut disk = descriptor("application/vnd.hullvm.disk.index.v1", &index);
        disk["annotations"] = json!({
            "dev.hullvm.disk": "root",
            "dev.hullvm.disk.root.digest": digest(&index[..root_bytes.min(index.len())]),
            "dev.hullvm.disk.root.size": root_bytes.to_string(),
        });
        (self.edit_annotations)(&mut disk["annotations"]);
        let mut manifest = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "artifactType": "application/vnd.hullvm.appliance.v1+json",
            "config": descriptor("application/vnd.hullvm.appliance.config.v1+json", &self.config),
            "layers": [
                descriptor("application/vnd.hullvm.appliance.policy.v1+json", &self.policy),
                disk,
                descriptor("application/vnd.hullvm.disk.pack.v1", &self.pack),
            ],
        });
        (self.edit_manifest)(&mut manifest);
        let manifest = serde_json::to_vec(&manifest).unwrap();
        let mut entry = descriptor("application/vnd.oci.image.manifest.v1+json", &manifest);
        entry["artifactType"] = json!("application/vnd.hullvm.appliance.v1+json");
        entry["platform"] = json!({ "architecture": "unknown", "os": "unknown" });
        entry["annotations"] = json!({ "dev.hullvm.platform": "linux/amd64" });
        let mut image_index = image_index(entry);
        (self.edit_index)(&mut image_index);
        let image_index_bytes = serde_json::to_vec(&image_index).unwrap();
        let mut top =
            self::image_index(descriptor("application/vnd.oci.image.index.v1+json", &image_index_bytes));
        (self.edit_top)(&mut top);
        let mut files = vec![
            File { name: "oci-layout".into(), bytes: br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec() },
            File { name: "index.json".into(), bytes: serde_json::to_vec(&top).unwrap() },
        ];
        let blobs = [&image_index_bytes, &manifest, &self.config, &self.policy, &index, &self.pack];
        files.extend(blobs.map(|bytes| blob_file(bytes)));
        (self.edit_files)(&mut files);
        files
    }

    fn to_disk_index(&self) -> Vec<u8> {
        let mut index = self.edited_root();
        index.extend(self.pages.concat());
        (self.edit_disk_index)(&mut index);
        index
    }

    /// The root with the pack and the pages as they are.
    fn edited_root(&self) -> Vec<u8> {
        let mut root = self.root.clone();
        patch(&mut root, PACK_ENTRY, &Sha256::digest(&self.pack));
        patch(&mut root, PACK_ENTRY + 32, &(self.pack.len() as u64).to_le_bytes());
        let mut offset = ROOT_BYTES;
        for (page, entry) in self.pages.iter().zip(PAGE_ENTRIES) {
            patch(&mut root, entry + 8, &(offset as u64).to_le_bytes());
            patch(&mut root, entry + 16, &(page.len() as u32).to_le_bytes());
            patch(&mut root, entry + 20, &Sha256::digest(page));
            offset += page.len();
        }
        (self.edit_root)(&mut root);
        root
    }
}

/// Overwrites the bytes at `at`.
pub(crate) fn patch(bytes: &mut [u8], at: usize, with: &[u8]) {
    bytes[at..][..with.len()].copy_from_slice(with);
}

pub(crate) fn descriptor(media_type: &str, bytes: &[u8]) -> Value {
    json!({ "mediaType": media_type, "digest": digest(bytes), "size": bytes.len() })
}

pub(crate) fn image_index(entry: Value) -> Value {
    json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [entry],
    })
}

pub(crate) fn blob_file(bytes: &[u8]) -> File {
    let name = format!("blobs/sha256/{}", hex::encode(Sha256::digest(bytes)));
    File { name, bytes: bytes.to_vec() }
}

fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}
