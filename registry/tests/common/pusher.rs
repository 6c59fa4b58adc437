//! A client that pushes, pulls and deletes as clients do, at random, beside others and beside garbage
//! collection.
//!
//! What is promised: a client that is told that something is here may rely on it for the grace period.
//! So nothing that a client does within that time may fail, and whatever a manifest that was
//! acknowledged needs is there.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use appliance::Digest;
use serde_json::json;

use super::{Client, MANIFEST, Random, Reply, descriptor, noise};

/// Layers that all clients choose from, so that what one deletes another needs.
const SHARED_LAYERS: usize = 500;

/// What happened.
#[derive(Default)]
pub(crate) struct Counts {
    pub(crate) operations: AtomicU64,
    /// Pushes that took longer than the promise holds; they may fail.
    pub(crate) too_slow: AtomicU64,
}

pub(crate) struct Pusher<'a> {
    /// One for each server, any of which is asked.
    clients: Vec<Client>,
    repository: String,
    random: Random,
    grace: Duration,
    counts: &'a Counts,
    /// What this client has pushed and not deleted: each tag's layers.
    images: BTreeMap<String, Vec<Vec<u8>>>,
    pushed: u64,
}

impl<'a> Pusher<'a> {
    /// The client with this number, whose repository is its own.
    pub(crate) fn new(number: u64, clients: Vec<Client>, grace: Duration, counts: &'a Counts) -> Self {
        let repository = format!("team/r{}", number / 2);
        // A name next to another one.
        let repository = if number.is_multiple_of(2) { repository } else { format!("{repository}-b") };
        let (random, images, pushed) = (Random::new(number + 1), BTreeMap::new(), (number + 1) << 32);
        Self { clients, repository, random, grace, counts, images, pushed }
    }

    /// Does one thing.
    pub(crate) fn step(&mut self) {
        match self.random.below(10) {
            0..=4 => self.push(),
            5..=7 => self.pull(),
            _ => self.delete(),
        }
    }

    fn ask(&mut self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Reply {
        self.counts.operations.fetch_add(1, Ordering::SeqCst);
        let server = self.random.below(self.clients.len());
        self.clients[server].send(method, path, headers, body)
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
        if put.status != 201 && began.elapsed() > self.grace {
            self.counts.too_slow.fetch_add(1, Ordering::SeqCst);
            return;
        }
        put.expect(201);
        self.images.insert(tag, layers);
    }

    /// Everything that a tag leads to is there and is what it should be.
    pub(crate) fn pull(&mut self) {
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
