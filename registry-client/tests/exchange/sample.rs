//! Small appliances to move, and what every test needs to move them.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use appliance::manifest::{ApplianceIndex, ApplianceManifest, DiskLayer, PlatformManifest};
use appliance::{Blob, Digest, media_type};
use blob_store::LocalStore;
use registry_client::{Client, ClientOptions, Event, Plan, Progress, RetryPolicy};
use serde_json::json;

use crate::fake::Fake;

pub(crate) const PLATFORM: &str = "linux/amd64";

/// An appliance as bytes, beside any store.
#[derive(Debug, Clone)]
pub(crate) struct Sample {
    pub(crate) index: Vec<u8>,
    pub(crate) manifest: Vec<u8>,
    /// Config, policy, disk index, packs.
    pub(crate) blobs: Vec<Vec<u8>>,
}

impl Sample {
    /// An appliance with packs of these sizes. The same size is the same pack.
    pub(crate) fn new(pack_sizes: &[usize]) -> Self {
        Self::with_packs(pack_sizes.iter().map(|size| noise(*size)).collect())
    }

    pub(crate) fn with_packs(packs: Vec<Vec<u8>>) -> Self {
        let disk_index = noise(5000);
        let layer = DiskLayer {
            name: "root".to_owned(),
            index: blob(&disk_index),
            root: Blob { digest: Digest::sha256(&disk_index[..1000]), size_bytes: 1000 },
        };
        Self::with_disk(disk_index, layer, packs)
    }

    pub(crate) fn with_disk(disk_index: Vec<u8>, layer: DiskLayer, packs: Vec<Vec<u8>>) -> Self {
        let (config, policy) = (config(), policy());
        let manifest = ApplianceManifest {
            config: blob(&config),
            policy: blob(&policy),
            disks: vec![layer],
            packs: packs.iter().map(|pack| blob(pack)).collect(),
            ovf: None,
            nvram: None,
        };
        let mut blobs = vec![config, policy, disk_index];
        blobs.extend(packs);
        Self::of_manifest(manifest.to_bytes(), blobs)
    }

    pub(crate) fn of_manifest(manifest: Vec<u8>, blobs: Vec<Vec<u8>>) -> Self {
        let entry = PlatformManifest { platform: PLATFORM.to_owned(), manifest: blob(&manifest) };
        let index = ApplianceIndex { appliances: vec![entry] }.to_bytes();
        Self { index, manifest, blobs }
    }

    pub(crate) fn pack(&self, number: usize) -> &[u8] {
        &self.blobs[3 + number]
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.blobs.iter().map(|blob| blob.len() as u64).sum()
    }

    pub(crate) fn put_in(&self, fake: &Fake, name: &str, tag: &str) {
        for blob in &self.blobs {
            fake.add_blob(blob.clone());
        }
        fake.add_manifest(name, None, media_type::MANIFEST, &self.manifest);
        fake.add_manifest(name, Some(tag), media_type::INDEX, &self.index);
    }

    pub(crate) fn put_in_store(&self, store: &LocalStore, reference: &str) {
        for blob in self.blobs.iter().chain([&self.manifest, &self.index]) {
            store.put(blob).unwrap();
        }
        store.tag(&reference.parse().unwrap(), &Digest::sha256(&self.index)).unwrap();
    }

    /// Everything is in `store`, byte for byte, and `reference` names it.
    #[track_caller]
    pub(crate) fn check_in_store(&self, store: &LocalStore, reference: &str) {
        assert_eq!(store.resolve(&reference.parse().unwrap()).unwrap(), Digest::sha256(&self.index));
        for bytes in self.blobs.iter().chain([&self.manifest, &self.index]) {
            let found = store.read(&Digest::sha256(bytes), u64::MAX).unwrap();
            assert!(found == *bytes, "a blob of {} bytes differs", bytes.len());
        }
    }
}

fn config() -> Vec<u8> {
    let config = json!({
        "formatVersion": 1, "name": "web", "version": "1.0.0",
        "machines": [{
            "name": "web", "arch": "amd64", "vcpus": 1, "memoryBytes": 1 << 28, "firmware": "bios",
            "console": "serial", "devices": "virtio", "nics": [], "volumes": [],
            "disks": [{ "name": "root", "sizeBytes": 1 << 20, "mode": "overlay" }],
        }],
    });
    serde_json::to_vec(&config).unwrap()
}

fn policy() -> Vec<u8> {
    serde_json::to_vec(&json!({ "policyVersion": 1, "machines": {} })).unwrap()
}

pub(crate) fn blob(bytes: &[u8]) -> Blob {
    Blob { digest: Digest::sha256(bytes), size_bytes: bytes.len() as u64 }
}

/// Bytes that do not repeat, the same for the same size.
pub(crate) fn noise(size: usize) -> Vec<u8> {
    let mut state = size as u64 | 1 << 40;
    let words = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    words.flatten().take(size).collect()
}

/// A store in a folder that goes with it.
#[derive(Debug)]
pub(crate) struct Folder {
    pub(crate) store: LocalStore,
    pub(crate) path: tempfile::TempDir,
}

pub(crate) fn folder() -> Folder {
    let path = tempfile::tempdir().unwrap();
    Folder { store: LocalStore::open(path.path().join("store")).unwrap(), path }
}

/// A client that does not wait long for anything.
pub(crate) fn client() -> Client {
    client_with(ClientOptions::default())
}

pub(crate) fn client_with(options: ClientOptions) -> Client {
    let (first_delay, longest_delay) = (Duration::from_millis(1), Duration::from_millis(2));
    let retry = RetryPolicy { attempts: 4, first_delay, longest_delay };
    Client::new(ClientOptions { retry, ..options }).unwrap()
}

/// Keeps what it is told.
#[derive(Debug, Clone, Default)]
pub(crate) struct Notes(Arc<Mutex<Told>>);

#[derive(Debug, Clone, Default)]
pub(crate) struct Told {
    pub(crate) plan: Option<Plan>,
    /// Bytes at which blobs started, where that was not their beginning.
    pub(crate) started_at: Vec<u64>,
    /// Bytes at which blobs went on after a failure.
    pub(crate) resumed_at: Vec<u64>,
    pub(crate) moved: u64,
    pub(crate) rebuilt: u64,
    pub(crate) finished: usize,
    pub(crate) failures: Vec<String>,
}

impl Notes {
    pub(crate) fn told(&self) -> Told {
        self.0.lock().unwrap().clone()
    }
}

impl Progress for Notes {
    fn report(&self, event: Event<'_>) {
        let mut told = self.0.lock().unwrap();
        match event {
            Event::Planned(plan) => assert!(told.plan.replace(plan).is_none(), "planned twice"),
            Event::Started { at_bytes, .. } if at_bytes > 0 => told.started_at.push(at_bytes),
            Event::Resumed { at_bytes, .. } => told.resumed_at.push(at_bytes),
            Event::Moved { bytes, .. } => told.moved += bytes,
            Event::Rebuilt { bytes, .. } => told.rebuilt += bytes,
            Event::Finished { .. } => told.finished += 1,
            Event::Waiting { reason, .. } => told.failures.push(reason.to_string()),
            _ => {}
        }
    }
}

/// An error and its reasons, as a person would read them.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let rest = error.source().map(|source| format!(": {}", chain(source)));
    format!("{error}{}", rest.unwrap_or_default())
}
