//! Clients push, pull, mount and delete while garbage is collected without a pause, with a grace period
//! so short that there is always garbage.
//!
//! What is promised: a client that is told that something is here may rely on it for half of the grace
//! period. So nothing that a client does within that time may fail, and whatever a manifest that was
//! acknowledged needs is there.

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use appliance::Digest;
use blob_store::FolderStorage;
use common::{Client, MANIFEST, Random, Registry, descriptor, figure, noise, repetitions};
use registry::{Garbage, Limits};
use serde_json::json;

const CLIENTS: u64 = 4;
const GRACE: Duration = Duration::from_secs(4);
/// Layers that all clients choose from, so that what one deletes another needs.
const SHARED_LAYERS: usize = 500;

/// What happened.
#[derive(Default)]
struct Counts {
    operations: AtomicU64,
    /// Pushes that took longer than the promise holds; they may fail.
    too_slow: AtomicU64,
}

struct Pusher<'a> {
    client: Client,
    repository: String,
    random: Random,
    counts: &'a Counts,
    /// What this client has pushed and not deleted: each tag's layers.
    images: BTreeMap<String, Vec<Vec<u8>>>,
    pushed: u64,
}

impl Pusher<'_> {
    fn step(&mut self) {
        match self.random.below(10) {
            0..=4 => self.push(),
            5..=7 => self.pull(),
            _ => self.delete(),
        }
    }

    fn ask(&mut self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> common::Reply {
        self.counts.operations.fetch_add(1, Ordering::SeqCst);
        self.client.send(method, path, headers, body)
    }

    /// As clients do it: what is here is not sent again.
    fn push(&mut self) {
        let began = Instant::now();
        self.pushed += 1;
        // One that others push too, which may be garbage at any moment, and some of its own.
        let shared = self.random.below(SHARED_LAYERS) as u64;
        let own = (0..self.random.below(3) as u64).map(|number| self.pushed << 8 | number);
        let layers: Vec<Vec<u8>> = own.chain([shared]).map(|seed| noise(seed, 2_000)).collect();
        for layer in &layers {
            let digest = Digest::sha256(layer);
            let path = format!("/v2/{}/blobs/{digest}", self.repository);
            if self.ask("HEAD", &path, &[], b"").status == 200 {
                continue;
            }
            let uploads = format!("/v2/{}/blobs/uploads/", self.repository);
            if self.random.below(2) == 0
                && self.ask("POST", &format!("{uploads}?mount={digest}"), &[], b"").status == 201
            {
                continue;
            }
            self.ask("POST", &format!("{uploads}?digest={digest}"), &[], layer).expect(201);
        }
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": descriptor("x/config", &layers[0]),
            "layers": layers[1..].iter().map(|layer| descriptor("x/layer", layer)).collect::<Vec<_>>(),
            "annotations": { "number": self.pushed.to_string() },
        });
        let tag = format!("t{}", self.random.below(8));
        let path = format!("/v2/{}/manifests/{tag}", self.repository);
        let put = self.ask("PUT", &path, &[("content-type", MANIFEST)], manifest.to_string().as_bytes());
        if put.status != 201 && began.elapsed() > GRACE / 2 {
            self.counts.too_slow.fetch_add(1, Ordering::SeqCst);
            return;
        }
        put.expect(201);
        self.images.insert(tag, layers);
    }

    /// Everything that a tag leads to is there and is what it should be.
    fn pull(&mut self) {
        let Some(tag) = self.some_tag() else { return };
        self.ask("GET", &format!("/v2/{}/manifests/{tag}", self.repository), &[], b"").expect(200);
        for layer in self.images[&tag].clone() {
            let path = format!("/v2/{}/blobs/{}", self.repository, Digest::sha256(&layer));
            assert!(self.ask("GET", &path, &[], b"").expect(200).body == layer);
        }
    }

    fn delete(&mut self) {
        let Some(tag) = self.some_tag() else { return };
        let path = format!("/v2/{}/manifests/{tag}", self.repository);
        let digest = Digest::sha256(&self.ask("GET", &path, &[], b"").expect(200).body);
        self.images.remove(&tag);
        if self.random.below(2) == 0 {
            self.ask("DELETE", &path, &[], b"").expect(202);
        } else {
            let path = format!("/v2/{}/manifests/{digest}", self.repository);
            self.ask("DELETE", &path, &[], b"").expect(202);
        }
    }

    fn some_tag(&mut self) -> Option<String> {
        let tags: Vec<&String> = self.images.keys().collect();
        (!tags.is_empty()).then(|| (*self.random.one_of(&tags)).clone())
    }
}

#[test]
fn garbage_collection_disturbs_nobody() {
    let wanted = repetitions("HULL_SOAK_OPERATIONS", 2_000);
    let wanted_cycles = repetitions("HULL_SOAK_CYCLES", 10);
    let folder = tempfile::tempdir().unwrap();
    let storage = Arc::new(FolderStorage::open(folder.path()).unwrap());
    let garbage = Garbage { grace: GRACE, interval: None };
    let registry = Registry::configured(storage, Limits::default(), |config| config.garbage = garbage);
    let counts = Counts::default();
    let is_over = AtomicBool::new(false);
    let (mut cycles, mut freed, mut blobs) = (0, 0, 0);
    std::thread::scope(|scope| {
        let pushers: Vec<_> = (0..CLIENTS)
            .map(|number| {
                let (counts, is_over, client) = (&counts, &is_over, registry.client());
                scope.spawn(move || {
                    let repository = format!("team/r{}", number / 2);
                    // Two clients of one repository have tags of their own.
                    let repository = if number % 2 == 0 { repository } else { format!("{repository}-b") };
                    let (random, images) = (Random::new(number + 1), BTreeMap::new());
                    let mut pusher =
                        Pusher { client, repository, random, counts, images, pushed: (number + 1) << 32 };
                    while !is_over.load(Ordering::SeqCst) {
                        pusher.step();
                    }
                    for _ in 0..20 {
                        pusher.pull();
                    }
                })
            })
            .collect();
        // Until enough was done, and garbage had the time to become some.
        while pushers.iter().all(|pusher| !pusher.is_finished())
            && (counts.operations.load(Ordering::SeqCst) < wanted || cycles < wanted_cycles || blobs == 0)
        {
            let collected = registry.collect();
            cycles += 1;
            freed += collected.freed_bytes;
            blobs += collected.deleted_generations;
        }
        is_over.store(true, Ordering::SeqCst);
    });
    let (operations, too_slow) = (counts.operations.into_inner(), counts.too_slow.into_inner());
    figure(&format!(
        "soak operations = {operations}, cycles = {cycles}, blobs deleted = {blobs}, bytes freed = {freed}, \
         failures = 0, pushes slower than the promise = {too_slow}"
    ));
    assert!(blobs > 0, "there was no garbage");
}
