//! The registry against a plain map: random sequences of everything that clients do, each answer held
//! against what the map says.
//!
//! Garbage is collected in between, after a time so long that nothing is spared for its youth; so the
//! map knows exactly what must be gone and what must be there. Each sequence is made from a number,
//! which a failure names. Most are played on a storage in memory, some on a folder that is opened anew at
//! each restart.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use appliance::Digest;
use blob_store::{FolderStorage, MemoryStorage, Storage};
use common::{Client, INDEX, MANIFEST, Random, Registry, SetClock, descriptor, figure, repetitions};
use registry::Limits;
use serde_json::{Value, json};
use tempfile::TempDir;

const OPERATIONS: usize = 100;
const REPOSITORIES: [&str; 3] = ["a", "team/b", "team/b/c"];
const CONTENTS: [&[u8]; 5] = [b"{}", b"", b"one", b"two", b"three"];
const TAGS: [&str; 3] = ["1", "1.0", "latest"];
/// Far longer than what is kept for its youth.
const LONG: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// One sequence of so many is played on a folder.
const ON_FOLDER: u64 = 10;

/// Where a registry keeps what it has, from one start to the next.
enum Place {
    Memory(MemoryStorage),
    Folder(TempDir),
}

impl Place {
    fn of(seed: u64) -> Self {
        match seed % ON_FOLDER {
            0 => Self::Folder(common::scratch()),
            _ => Self::Memory(MemoryStorage::new()),
        }
    }

    /// Opens the storage, which nobody else has open.
    fn open(&self) -> Arc<dyn Storage> {
        match self {
            Self::Memory(storage) => Arc::new(storage.clone()),
            Self::Folder(folder) => Arc::new(FolderStorage::open(folder.path()).unwrap()),
        }
    }
}

/// A manifest as the map has it.
#[derive(Clone)]
struct Pushed {
    bytes: Vec<u8>,
    media_type: &'static str,
    blobs: BTreeSet<Digest>,
    subject: Option<Digest>,
}

/// What should be in a repository.
#[derive(Default)]
struct Repository {
    blobs: BTreeSet<Digest>,
    manifests: BTreeMap<Digest, Pushed>,
    tags: BTreeMap<&'static str, Digest>,
    history: BTreeMap<&'static str, Vec<Option<Digest>>>,
    /// Uploads by their paths, with what has arrived.
    uploads: BTreeMap<String, Vec<u8>>,
    /// Whether it was ever pushed to, so that it is known.
    exists: bool,
}

struct World {
    random: Random,
    clock: Arc<SetClock>,
    place: Place,
    registry: Option<Registry>,
    client: Client,
    expected: BTreeMap<&'static str, Repository>,
    /// What was done, for whoever reads a failure.
    done: Vec<String>,
}

impl World {
    fn new(seed: u64) -> Self {
        let clock = Arc::new(SetClock::at(1_000_000_000));
        let place = Place::of(seed);
        let registry = start(&place, &clock);
        let client = registry.client();
        let expected = REPOSITORIES.map(|name| (name, Repository::default())).into();
        let random = Random::new(seed);
        Self { random, clock, place, registry: Some(registry), client, expected, done: Vec::new() }
    }

    fn step(&mut self) {
        let name = *self.random.one_of(&REPOSITORIES);
        match self.random.below(20) {
            0..=3 => self.push_blob(name),
            4 => self.mount(name),
            5 => self.read_blob(name),
            6 => self.delete_blob(name),
            7..=10 => self.put_manifest(name),
            11 => self.read_manifest(name),
            12 => self.delete_tag(name),
            13 => self.delete_manifest(name),
            14 => self.begin_upload(name),
            15 => self.append(name),
            16 => self.end_upload(name),
            17 => self.list(name),
            18 => self.restart(),
            _ => self.collect(),
        }
    }

    fn at(&mut self, name: &str) -> &mut Repository {
        self.expected.get_mut(name).expect("all repositories are there")
    }

    #[track_caller]
    fn send(&mut self, method: &str, path: &str, body: &[u8], want: u16) -> common::Reply {
        self.send_as(method, path, "application/octet-stream", body, want)
    }

    #[track_caller]
    fn send_as(&mut self, method: &str, path: &str, kind: &str, body: &[u8], want: u16) -> common::Reply {
        self.done.push(format!("{method} {path} ({} bytes): {want}", body.len()));
        self.client.send(method, path, &[("content-type", kind)], body).expect(want)
    }

    fn push_blob(&mut self, name: &'static str) {
        let content = *self.random.one_of(&CONTENTS);
        let digest = Digest::sha256(content);
        if self.random.below(8) == 0 {
            let other = Digest::sha256(b"something else");
            let path = format!("/v2/{name}/blobs/uploads/?digest={other}");
            self.send("POST", &path, content, 400);
            return;
        }
        self.send("POST", &format!("/v2/{name}/blobs/uploads/?digest={digest}"), content, 201);
        self.at(name).blobs.insert(digest);
        self.at(name).exists = true;
    }

    fn mount(&mut self, name: &'static str) {
        let digest = Digest::sha256(self.random.one_of::<&[u8]>(&CONTENTS));
        let from = *self.random.one_of(&REPOSITORIES);
        let is_there = self.at(from).blobs.contains(&digest);
        let path = format!("/v2/{name}/blobs/uploads/?mount={digest}&from={from}");
        let reply = self.send("POST", &path, b"", if is_there { 201 } else { 202 });
        match is_there {
            true => drop(self.at(name).blobs.insert(digest)),
            false => {
                let location = reply.header("location").unwrap().to_owned();
                self.send("DELETE", &location, b"", 204);
                return;
            }
        }
        self.at(name).exists = true;
    }

    fn read_blob(&mut self, name: &'static str) {
        for content in CONTENTS {
            let digest = Digest::sha256(content);
            let want = if self.at(name).blobs.contains(&digest) { 200 } else { 404 };
            let path = format!("/v2/{name}/blobs/{digest}");
            let got = self.send("GET", &path, b"", want);
            assert!(want == 404 || got.body == content, "{digest} has other content");
            let head = self.send("HEAD", &path, b"", want);
            assert!(want == 404 || head.header("content-length") == Some(&*content.len().to_string()));
        }
    }

    fn delete_blob(&mut self, name: &'static str) {
        let digest = Digest::sha256(self.random.one_of::<&[u8]>(&CONTENTS));
        let want = if self.at(name).blobs.remove(&digest) { 202 } else { 404 };
        self.send("DELETE", &format!("/v2/{name}/blobs/{digest}"), b"", want);
    }

    fn put_manifest(&mut self, name: &'static str) {
        let pushed = self.some_manifest(name);
        let digest = Digest::sha256(&pushed.bytes);
        let tags: Vec<&str> = TAGS.into_iter().filter(|_| self.random.below(3) == 0).collect();
        let path = match tags[..] {
            [tag] if self.random.below(2) == 0 => format!("/v2/{name}/manifests/{tag}"),
            _ => {
                let tags: String = tags.iter().map(|tag| format!("tag={tag}&")).collect();
                format!("/v2/{name}/manifests/{digest}?{tags}")
            }
        };
        let is_whole = pushed.blobs.is_subset(&self.at(name).blobs);
        let want = if is_whole { 201 } else { 404 };
        let reply = self.send_as("PUT", &path, pushed.media_type, &pushed.bytes, want);
        if !is_whole {
            assert_eq!(reply.code(), "MANIFEST_BLOB_UNKNOWN");
            return;
        }
        assert_eq!(reply.header("oci-subject").is_some(), pushed.subject.is_some());
        let repository = self.at(name);
        repository.exists = true;
        repository.manifests.insert(digest, pushed);
        for tag in tags {
            repository.name(tag, Some(digest));
        }
    }

    /// An image, an index of manifests that may be here, or either with a subject.
    fn some_manifest(&mut self, name: &str) -> Pushed {
        let known: Vec<Digest> = self.at(name).manifests.keys().copied().collect();
        let subject = (self.random.below(3) == 0 && !known.is_empty()).then(|| *self.random.one_of(&known));
        let (mut document, blobs, media_type) = if self.random.below(4) == 0 {
            let children: Vec<Value> = known.iter().take(self.random.below(3)).map(entry).collect();
            (json!({ "manifests": children }), BTreeSet::new(), INDEX)
        } else {
            let layers: Vec<&[u8]> = CONTENTS.into_iter().filter(|_| self.random.below(3) == 0).collect();
            let config = *self.random.one_of(&CONTENTS);
            let blobs = layers.iter().chain([&config]).map(|content| Digest::sha256(content)).collect();
            let layers: Vec<Value> = layers.iter().map(|content| descriptor("x/layer", content)).collect();
            (json!({ "config": descriptor("x/config", config), "layers": layers }), blobs, MANIFEST)
        };
        document["schemaVersion"] = json!(2);
        document["mediaType"] = json!(media_type);
        if let Some(subject) = &subject {
            document["subject"] = entry(subject);
        }
        Pushed { bytes: document.to_string().into_bytes(), media_type, blobs, subject }
    }

    fn read_manifest(&mut self, name: &'static str) {
        for tag in TAGS {
            let found = self.at(name).tags.get(tag).copied();
            let want = if found.is_some() { 200 } else { 404 };
            let got = self.send("GET", &format!("/v2/{name}/manifests/{tag}"), b"", want);
            assert!(found.is_none_or(|digest| Digest::sha256(&got.body) == digest), "{tag}");
        }
        let manifests = self.at(name).manifests.clone();
        for (digest, pushed) in manifests {
            let got = self.send("GET", &format!("/v2/{name}/manifests/{digest}"), b"", 200);
            assert_eq!(got.body, pushed.bytes);
            assert_eq!(got.header("content-type"), Some(pushed.media_type));
        }
    }

    fn delete_tag(&mut self, name: &'static str) {
        let tag = *self.random.one_of(&TAGS);
        let want = if self.at(name).tags.contains_key(tag) { 202 } else { 404 };
        self.send("DELETE", &format!("/v2/{name}/manifests/{tag}"), b"", want);
        self.at(name).name(tag, None);
    }

    fn delete_manifest(&mut self, name: &'static str) {
        let known: Vec<Digest> = self.at(name).manifests.keys().copied().collect();
        let digest = match known.is_empty() {
            true => Digest::sha256(b"nothing"),
            false => *self.random.one_of(&known),
        };
        let want = if known.is_empty() { 404 } else { 202 };
        self.send("DELETE", &format!("/v2/{name}/manifests/{digest}"), b"", want);
        let repository = self.at(name);
        repository.manifests.remove(&digest);
        for tag in
            TAGS.into_iter().filter(|tag| repository.tags.get(tag) == Some(&digest)).collect::<Vec<_>>()
        {
            repository.name(tag, None);
        }
    }

    fn begin_upload(&mut self, name: &'static str) {
        let reply = self.send("POST", &format!("/v2/{name}/blobs/uploads/"), b"", 202);
        let location = reply.header("location").unwrap().to_owned();
        self.at(name).uploads.insert(location, Vec::new());
    }

    fn append(&mut self, name: &'static str) {
        let Some((path, arrived)) = self.at(name).uploads.pop_first() else { return };
        let content = *self.random.one_of(&CONTENTS);
        let first = arrived.len() + self.random.below(2);
        let range = format!("{first}-{}", (first + content.len()).saturating_sub(1).max(first));
        let is_next = first == arrived.len() && !content.is_empty();
        self.done.push(format!("PATCH {path} {range}"));
        let headers = [("content-range", range.as_str())];
        let reply = self.client.send("PATCH", &path, &headers, content);
        let mut arrived = arrived;
        if is_next {
            reply.expect(202);
            arrived.extend_from_slice(content);
        } else {
            assert!(reply.status == 416 || content.is_empty() && reply.status == 400, "{reply:?}");
        }
        let status = self.send("GET", &path, b"", 204);
        let want = format!("0-{}", arrived.len().saturating_sub(1));
        assert_eq!(status.header("range"), Some(want.as_str()));
        self.at(name).uploads.insert(path, arrived);
    }

    fn end_upload(&mut self, name: &'static str) {
        let Some((path, arrived)) = self.at(name).uploads.pop_last() else { return };
        if self.random.below(3) == 0 {
            self.send("DELETE", &path, b"", 204);
        } else {
            let digest = Digest::sha256(&arrived);
            self.send("PUT", &format!("{path}?digest={digest}"), b"", 201);
            let got = self.send("GET", &format!("/v2/{name}/blobs/{digest}"), b"", 200);
            assert!(got.body == arrived);
            self.at(name).exists = true;
            self.at(name).blobs.insert(digest);
        }
        self.send("GET", &path, b"", 404);
    }

    fn list(&mut self, name: &'static str) {
        let tags: Vec<&str> = self.at(name).tags.keys().copied().collect();
        // An empty repository may be forgotten or remembered.
        let path = format!("/v2/{name}/tags/list");
        let got = self.client.send("GET", &path, &[], b"");
        if got.status == 404 {
            assert!(self.at(name).manifests.is_empty() && self.at(name).blobs.is_empty() && tags.is_empty());
        } else {
            assert_eq!(got.expect(200).json()["tags"], json!(tags), "{name}");
        }
        for tag in TAGS {
            let history = self.at(name).history.get(tag).cloned().unwrap_or_default();
            let path = format!("/v2/{name}/_hull/tags/{tag}/history");
            let want = if history.is_empty() { 404 } else { 200 };
            let got = self.send("GET", &path, b"", want);
            if want == 200 {
                let told: Vec<Value> = got.json()["history"]
                    .as_array()
                    .unwrap()
                    .iter()
                    .map(|entry| entry["digest"].clone())
                    .collect();
                assert_eq!(json!(told), json!(history.iter().rev().collect::<Vec<_>>()), "{tag}");
            }
        }
        let subjects: BTreeSet<Digest> =
            self.at(name).manifests.values().filter_map(|pushed| pushed.subject).collect();
        for subject in subjects {
            let got = self.send("GET", &format!("/v2/{name}/referrers/{subject}"), b"", 200).json();
            let found: BTreeSet<&str> = got["manifests"]
                .as_array()
                .unwrap()
                .iter()
                .map(|entry| entry["digest"].as_str().unwrap())
                .collect();
            let about = |(digest, pushed): (&Digest, &Pushed)| {
                (pushed.subject == Some(subject)).then(|| digest.to_string())
            };
            let want: BTreeSet<String> = self.at(name).manifests.iter().filter_map(about).collect();
            assert_eq!(found, want.iter().map(String::as_str).collect(), "referrers of {subject}");
        }
    }

    fn restart(&mut self) {
        self.done.push("restart".to_owned());
        drop(self.registry.take());
        let registry = start(&self.place, &self.clock);
        self.client = registry.client();
        self.registry = Some(registry);
    }

    /// Collects garbage, when everything is old.
    fn collect(&mut self) {
        self.done.push("collect".to_owned());
        self.clock.pass(LONG);
        // The collector of a server does not believe a clock that jumps while it runs.
        self.restart();
        self.registry.as_ref().expect("it was just started").collect();
        for repository in self.expected.values_mut() {
            let needed: BTreeSet<Digest> =
                repository.manifests.values().flat_map(|pushed| pushed.blobs.iter().copied()).collect();
            repository.blobs.retain(|digest| needed.contains(digest));
        }
    }

    fn check_all(&mut self) {
        for name in REPOSITORIES {
            self.read_blob(name);
            self.read_manifest(name);
            self.list(name);
        }
    }
}

impl Repository {
    fn name(&mut self, tag: &'static str, digest: Option<Digest>) {
        let before = match digest {
            Some(digest) => self.tags.insert(tag, digest),
            None => self.tags.remove(tag),
        };
        if before != digest {
            self.history.entry(tag).or_default().push(digest);
        }
    }
}

fn start(place: &Place, clock: &Arc<SetClock>) -> Registry {
    let clock = Arc::clone(clock);
    Registry::configured(place.open(), Limits::default(), |config| config.clock = clock)
}

fn entry(digest: &Digest) -> Value {
    json!({ "mediaType": MANIFEST, "digest": digest, "size": 1 })
}

#[test]
fn the_registry_does_what_a_plain_map_would() {
    let sequences = repetitions("HULL_MODEL_SEQUENCES", 40);
    for seed in 0..sequences {
        let mut world = World::new(seed);
        let run = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for _ in 0..OPERATIONS {
                world.step();
            }
            world.check_all();
        }));
        if let Err(panic) = run {
            common::figure(&format!("sequence {seed} went wrong after:\n{}", world.done.join("\n")));
            std::panic::resume_unwind(panic);
        }
    }
    let on_folder = sequences.div_ceil(ON_FOLDER);
    figure(&format!(
        "model sequences = {sequences} of {OPERATIONS} operations, {on_folder} of them on a folder, divergences = 0"
    ));
}
