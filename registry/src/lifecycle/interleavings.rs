//! Clients and collectors in many orders of their steps, all in one thread: a step is one call to the
//! storage, and who takes the next one is drawn. Some clients are killed on their way. Whatever was
//! acknowledged stays, and nothing else does.
//!
//! This tries the argument of [`crate::layout`], which no test with threads comes near: its moments are
//! too short.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use appliance::{Digest, media_type};
use async_trait::async_trait;
use blob_store::{
    Entry, Key, KeyStream, MemoryStorage, Object, Put, Session, SessionId, SessionInfo, Sharing, Storage,
    StorageError,
};
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use serde_json::json;

use super::{Collector, Mode};
use crate::clock::TestClock;
use crate::layout;
use crate::manifest::Manifest;
use crate::name::RepositoryName;
use crate::repository::{Author, Authority, PutManifest, Repositories, RepositoryError};
use crate::rules::Rules;

const GRACE: u64 = 1000;
const START: u64 = 1_000_000;
/// The blob that everything is about.
const CONTENT: &str = "x";

/// A storage that waits for its turn before each call, and before each key that it lists.
#[derive(Debug)]
struct Stepwise(MemoryStorage);

/// Lets somebody else go on.
async fn step() {
    let mut has_waited = false;
    poll_fn(|context| {
        if std::mem::replace(&mut has_waited, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

#[async_trait]
impl Storage for Stepwise {
    fn sharing(&self) -> Sharing {
        self.0.sharing()
    }

    async fn put_if_absent(&self, key: &Key, content: Bytes) -> Result<Put, StorageError> {
        step().await;
        self.0.put_if_absent(key, content).await
    }

    async fn size_bytes(&self, key: &Key) -> Result<u64, StorageError> {
        step().await;
        self.0.size_bytes(key).await
    }

    async fn open(&self, key: &Key) -> Result<Box<dyn Object>, StorageError> {
        step().await;
        self.0.open(key).await
    }

    async fn list(
        &self,
        folder: &Key,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Entry>, StorageError> {
        step().await;
        self.0.list(folder, after, limit).await
    }

    fn keys_below(&self, folder: &Key) -> KeyStream<'_> {
        let next = move |(folder, last): (Key, Option<Key>)| async move {
            step().await;
            let mut keys = self.0.keys_below(&folder);
            while let Some(key) = keys.try_next().await? {
                if Some(&key) > last.as_ref() {
                    return Ok(Some((key.clone(), (folder, Some(key)))));
                }
            }
            Ok(None)
        };
        stream::try_unfold((folder.clone(), None), next).boxed()
    }

    async fn delete(&self, key: &Key) -> Result<(), StorageError> {
        step().await;
        self.0.delete(key).await
    }

    async fn begin(&self, id: SessionId) -> Result<Box<dyn Session>, StorageError> {
        self.0.begin(id).await
    }

    async fn resume(&self, id: SessionId) -> Result<Box<dyn Session>, StorageError> {
        self.0.resume(id).await
    }

    async fn abort(&self, id: SessionId) -> Result<(), StorageError> {
        self.0.abort(id).await
    }

    async fn sessions(&self) -> Result<Vec<SessionInfo>, StorageError> {
        self.0.sessions().await
    }
}

/// How a client comes to believe that the blob is there, before it puts a manifest that names it.
#[derive(Debug, Clone, Copy)]
enum Way {
    Asked,
    Mounted,
    Pushed,
}

/// What became of a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// It was told that the blob is not there.
    Declined,
    /// The blob was there when it asked, and its manifest was refused all the same.
    Refused,
    /// Its manifest was put.
    Acknowledged,
}

/// Repositories whose blob is old, and whoever is at work on them.
struct World {
    storage: MemoryStorage,
    clock: Arc<TestClock>,
    repositories: Arc<Repositories>,
    collector: Arc<Collector>,
    sessions: AtomicU64,
}

impl World {
    fn new() -> Self {
        let (storage, clock) = (MemoryStorage::new(), Arc::new(TestClock::default()));
        clock.set(START);
        let (stepwise, grace) = (Arc::new(Stepwise(storage.clone())), Duration::from_secs(GRACE));
        let same_clock = Arc::clone(&clock) as _;
        let repositories =
            Arc::new(Repositories::new(stepwise, same_clock, grace, Arc::new(Rules::default())));
        let collector = Arc::new(Collector::new(Arc::clone(&repositories), Arc::clone(&clock) as _, grace));
        Self { storage, clock, repositories, collector, sessions: AtomicU64::new(0) }
    }

    async fn store(&self, repository: &RepositoryName) {
        let id = Digest::sha256(&self.sessions.fetch_add(1, Ordering::Relaxed).to_le_bytes());
        let mut session =
            self.storage.begin(SessionId::new(*id.as_bytes().first_chunk().unwrap())).await.unwrap();
        session.append(0, vec![Bytes::from(CONTENT)]).await.unwrap();
        self.repositories.store_blob(repository, &blob(), session, None).await.unwrap();
    }

    /// Puts a manifest that names the blob. False if it is refused, since the blob is not there.
    async fn put(&self, repository: &RepositoryName, number: u64) -> bool {
        let descriptor = json!({ "mediaType": "application/x", "digest": blob(), "size": CONTENT.len() });
        let document = json!({
            "schemaVersion": 2,
            "mediaType": media_type::MANIFEST,
            "config": descriptor,
            "layers": [],
            "annotations": { "number": number.to_string() },
        });
        let bytes = Bytes::from(document.to_string());
        let manifest = &Manifest::check(&bytes, None).unwrap();
        if !self.repositories.missing_blobs(repository, &manifest.blobs).await.unwrap().is_empty() {
            return false;
        }
        let (digest, by) =
            (Digest::sha256(&bytes), Author { name: "somebody", authority: Authority::Ordinary });
        let put = PutManifest { repository, manifest, digest, bytes, tags: &[], by };
        self.repositories.put_manifest(&put).await.unwrap();
        true
    }

    /// A client in a repository.
    async fn push(&self, way: Way, repository: &RepositoryName, number: u64) -> Outcome {
        let is_there = match way {
            Way::Asked => self.repositories.rely_on_blob(repository, &blob()).await.unwrap().is_some(),
            Way::Mounted => self.repositories.mount_blob(&name("r"), repository, &blob()).await.unwrap(),
            Way::Pushed => {
                self.store(repository).await;
                true
            }
        };
        match is_there {
            false => Outcome::Declined,
            true if self.put(repository, number).await => Outcome::Acknowledged,
            true => Outcome::Refused,
        }
    }

    /// Lets time pass until everything is old.
    fn wait(&self) {
        use crate::clock::Clock as _;
        self.clock.set(self.clock.now().as_secs() + 2 * GRACE);
    }

    fn collect(&self) {
        let collected: Result<_, RepositoryError> = finish(self.collector.run(Mode::Collect));
        collected.unwrap();
    }

    fn can_read(&self, repository: &RepositoryName) -> bool {
        finish(self.repositories.open_blob(repository, &blob())).unwrap().is_some()
    }

    fn keys(&self, folder: &Key) -> Vec<Key> {
        finish(self.storage.keys_below(folder).try_collect()).unwrap()
    }
}

fn name(text: &str) -> RepositoryName {
    RepositoryName::parse(text).unwrap()
}

fn blob() -> Digest {
    Digest::sha256(CONTENT.as_bytes())
}

/// Takes all steps of `work`, one after the other.
fn finish<T>(work: impl Future<Output = T>) -> T {
    let mut work = std::pin::pin!(work);
    loop {
        if let Some(done) = take_step(work.as_mut()) {
            return done;
        }
    }
}

/// Takes one step. What `work` came to, if that was the last one.
fn take_step<T>(work: Pin<&mut (impl Future<Output = T> + ?Sized)>) -> Option<T> {
    match work.poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(done) => Some(done),
        Poll::Pending => None,
    }
}

/// Numbers that look random; the same for the same seed.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % end
    }
}

/// Somebody at work, who is killed after so many steps.
struct Actor<'a> {
    work: Pin<Box<dyn Future<Output = Option<Outcome>> + 'a>>,
    steps_to_live: u64,
    repository: Option<RepositoryName>,
}

/// One run, whose every choice follows from `seed`. Returns what became of each client that lived.
fn run(seed: u64) -> Vec<Outcome> {
    let mut random = Random(seed);
    let world = &World::new();
    let r = name("r");
    finish(world.store(&r));
    let mut acknowledged = Vec::new();
    if random.below(4) == 0 {
        assert!(finish(world.put(&r, 0)));
        acknowledged.push(r.clone());
    }
    world.wait();
    // What a collector left that was killed.
    let generation = finish(world.repositories.generations(&blob())).unwrap().open.remove(0);
    if random.below(4) == 0 {
        finish(world.storage.put_if_absent(&layout::closing(&blob(), &generation), Bytes::new())).unwrap();
    }
    if random.below(8) == 0 {
        finish(world.storage.put_if_absent(&layout::closed(&blob(), &generation), Bytes::new())).unwrap();
    }

    let mut actors: Vec<Actor<'_>> = Vec::new();
    let collectors = 1 + random.below(2);
    for _ in 0..collectors {
        let work = async {
            world.collector.run(Mode::Collect).await.unwrap();
            None
        };
        actors.push(Actor { work: Box::pin(work), steps_to_live: u64::MAX, repository: None });
    }
    for number in 1..=1 + random.below(3) {
        let way = [Way::Asked, Way::Asked, Way::Mounted, Way::Pushed][random.below(4) as usize];
        let repository = match (way, random.below(3)) {
            (Way::Asked, _) | (_, 0) => r.clone(),
            (_, other) => name(["a", "s"][other as usize - 1]),
        };
        let steps_to_live = if random.below(2) == 0 { random.below(14) } else { u64::MAX };
        let of = repository.clone();
        let work = Box::pin(async move { Some(world.push(way, &of, number).await) });
        actors.push(Actor { work, steps_to_live, repository: Some(repository) });
    }
    let mut outcomes = Vec::new();
    while !actors.is_empty() {
        // Few changes of turn find more than many: each must come at the right moment.
        let turn = random.below(actors.len() as u64) as usize;
        let actor = &mut actors[turn];
        for _ in 0..=random.below(12) {
            let Some(left) = actor.steps_to_live.checked_sub(1) else {
                actors.swap_remove(turn);
                break;
            };
            actor.steps_to_live = left;
            if let Some(outcome) = take_step(actor.work.as_mut()) {
                let repository = actors.swap_remove(turn).repository;
                outcomes.extend(outcome);
                acknowledged.extend(repository.filter(|_| outcome == Some(Outcome::Acknowledged)));
                break;
            }
        }
    }

    // A second collector may close what the first has just reprieved. That is a pity, and no loss.
    let is_refused = outcomes.contains(&Outcome::Refused);
    assert!(!is_refused || collectors > 1, "a client was told of what it could not use, with seed {seed}");
    let check = |when: &str| {
        for repository in &acknowledged {
            assert!(world.can_read(repository), "{when}, {repository} has lost its blob, with seed {seed}");
        }
    };
    check("at once");
    for _ in 0..3 {
        world.wait();
        world.collect();
        check("later");
    }
    // A client that was killed may have put its manifest.
    let left = world.keys(&layout::all_contents());
    let is_named = world.keys(&layout::repositories()).iter().any(|key| layout::copy_of_key(key).is_some());
    assert!(is_named || left.is_empty(), "{left:?} is left, with seed {seed}");
    outcomes
}

#[test]
fn what_was_acknowledged_stays_whoever_is_killed_and_when() {
    let runs = std::env::var("HULL_INTERLEAVINGS").map_or(20_000, |text| text.parse().expect("a number"));
    let mut counts = [0u64; 3];
    for seed in 0..runs {
        for outcome in run(seed) {
            counts[outcome as usize] += 1;
        }
    }
    let [declined, _, acknowledged] = counts;
    println!(
        "figure: orders of steps = {runs}, images acknowledged = {acknowledged}, lost = 0, clients told to send the blob = {declined}"
    );
    assert!(acknowledged > 0 && declined > 0);
}
