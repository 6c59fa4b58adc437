//! Clients and collectors in many orders of their steps, all in one thread: a step is one call to the
//! storage, and who takes the next one is drawn. Some clients are killed on their way. Whatever was
//! acknowledged stays, and nothing else does.
//!
//! This tries the argument of [`crate::layout`], which no test with threads comes near: its moments are
//! too short.

mod stepwise;

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use appliance::{Digest, media_type};
use blob_store::{Key, MemoryStorage, SessionId, Storage as _};
use bytes::Bytes;
use futures_util::TryStreamExt;
use serde_json::json;

use self::stepwise::{Stepwise, finish, take_step};
use super::{Collector, Mode};
use crate::clock::{Clock as _, TestClock};
use crate::layout;
use crate::manifest::Manifest;
use crate::name::{RepositoryName, Tag};
use crate::repository::{Author, Authority, PutManifest, Repositories, RepositoryError};
use crate::rules::{Pattern, Rule, Rules};

const GRACE: u64 = 1000;
const START: u64 = 1_000_000;
/// The blob that everything is about.
const CONTENT: &str = "x";
const SOMEBODY: Author<'_> = Author { name: "somebody", authority: Authority::Ordinary };

/// How a client comes to believe that the blob is there, before it puts an image that names it.
#[derive(Debug, Clone, Copy)]
enum Way {
    /// Whoever puts an index asks for no blobs.
    Assumed,
    Asked,
    Mounted,
    Pushed,
}

/// The ways that clients take, the one that needs more than a blob first.
const WAYS: [Way; 6] = [Way::Assumed, Way::Asked, Way::Asked, Way::Asked, Way::Mounted, Way::Pushed];

/// What a client puts: a manifest that names the blob, which is another one for each number; or an index
/// that names the first of those.
#[derive(Debug, Clone)]
struct Image {
    repository: RepositoryName,
    number: u64,
    is_index: bool,
    is_tagged: bool,
}

/// What became of a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// It was told that the blob is not there.
    Declined,
    /// The blob was there when it asked, and its manifest was refused all the same.
    Refused,
    /// Its image was put.
    Acknowledged,
}

/// Somebody at work, who is killed after so many steps.
struct Actor<'a> {
    work: Pin<Box<dyn Future<Output = Option<Outcome>> + 'a>>,
    steps_to_live: u64,
    /// What it puts, if it is a client.
    image: Option<Image>,
}

/// Repositories whose blob is old, and two servers for whoever is at work on them.
struct World {
    storage: MemoryStorage,
    clock: Arc<TestClock>,
    servers: [Arc<Repositories>; 2],
    sessions: AtomicU64,
}

impl World {
    fn new(rules: Rules) -> Self {
        let (storage, clock, rules) = (MemoryStorage::new(), Arc::new(TestClock::default()), Arc::new(rules));
        clock.set(START);
        let servers = [(); 2].map(|()| {
            let (storage, clock) = (Arc::new(Stepwise(storage.clone())), Arc::clone(&clock));
            let grace = Duration::from_secs(GRACE);
            Arc::new(Repositories::new(storage, clock, grace, Arc::clone(&rules)))
        });
        Self { storage, clock, servers, sessions: AtomicU64::new(0) }
    }

    async fn collect(&self, server: usize) {
        let (server, clock) = (Arc::clone(&self.servers[server]), Arc::clone(&self.clock));
        let collector = Collector::new(server, clock, Duration::from_secs(GRACE));
        collector.run(Mode::Collect).await.unwrap();
    }

    async fn store(&self, server: usize, repository: &RepositoryName) {
        let number = Digest::sha256(&self.sessions.fetch_add(1, Ordering::Relaxed).to_le_bytes());
        let id = SessionId::new(*number.as_bytes().first_chunk().unwrap());
        let mut session = self.servers[server].storage().begin(id).await.unwrap();
        session.append(0, vec![Bytes::from(CONTENT)]).await.unwrap();
        self.servers[server].store_blob(repository, &blob(), session, None).await.unwrap();
    }

    /// Puts an image. False if it is refused, since the blob is not there.
    async fn put(&self, server: usize, image: &Image) -> bool {
        let (repository, bytes) = (&image.repository, image.bytes());
        let (manifest, tags) =
            (&Manifest::check(&bytes, None).unwrap(), &[tag()][..usize::from(image.is_tagged)]);
        let put = PutManifest { repository, manifest, digest: image.digest(), bytes, tags, by: SOMEBODY };
        match self.servers[server].put_manifest(&put).await {
            Err(RepositoryError::MissingBlobs { .. }) => false,
            put => put.map(|()| true).unwrap(),
        }
    }

    /// A client of a server.
    async fn push(&self, server: usize, way: Way, image: &Image) -> Outcome {
        let repository = &image.repository;
        let repositories = &self.servers[server];
        let is_there = match way {
            Way::Assumed => true,
            Way::Asked => repositories.rely_on_blob(repository, &blob()).await.unwrap().is_some(),
            Way::Mounted => repositories.mount_blob(&name("r"), repository, &blob()).await.unwrap(),
            Way::Pushed => {
                self.store(server, repository).await;
                true
            }
        };
        match is_there {
            false => Outcome::Declined,
            true if self.put(server, image).await => Outcome::Acknowledged,
            true => Outcome::Refused,
        }
    }

    /// Lets time pass until everything is old.
    fn wait(&self) {
        self.clock.set(self.clock.now().as_secs() + 2 * GRACE);
    }

    fn keys(&self, folder: &Key) -> Vec<Key> {
        finish(self.storage.keys_below(folder).try_collect()).unwrap()
    }

    /// Whether an image can be read with its blob, as the storage has them. What an index names may be gone,
    /// whole.
    fn has(&self, image: &Image) -> bool {
        let repository = &image.repository;
        let has_manifest = |image: &Image| {
            let read = finish(self.servers[0].read_manifest(repository, image.digest())).unwrap();
            read.is_some()
        };
        let needs_blob = !image.is_index || has_manifest(&Image::first_of(repository.clone()));
        let has_blob = || finish(self.servers[0].open_blob(repository, &blob())).unwrap().is_some();
        has_manifest(image) && (!needs_blob || has_blob())
    }

    /// What the tag names in a repository.
    fn tagged(&self, repository: &RepositoryName) -> Option<Digest> {
        let mut tags = finish(self.servers[0].all_tags(repository)).unwrap();
        tags.pop().map(|live| live.digest)
    }
}

impl Image {
    fn bytes(&self) -> Bytes {
        let blob = json!({ "mediaType": "application/x", "digest": blob(), "size": CONTENT.len() });
        let (kind, parts) = match self.is_index {
            false => (media_type::MANIFEST, json!({ "config": blob, "layers": [] })),
            true => (media_type::INDEX, json!({ "manifests": [self.child()] })),
        };
        let mut document = json!({
            "schemaVersion": 2, "mediaType": kind, "annotations": { "number": self.number.to_string() },
        });
        document.as_object_mut().unwrap().extend(parts.as_object().unwrap().clone());
        document.to_string().into()
    }

    /// The image that every index names.
    fn first_of(repository: RepositoryName) -> Self {
        Self { repository, number: 0, is_index: false, is_tagged: false }
    }

    fn child(&self) -> serde_json::Value {
        let child = Self::first_of(self.repository.clone());
        json!({ "mediaType": media_type::MANIFEST, "digest": child.digest(), "size": child.bytes().len() })
    }

    fn digest(&self) -> Digest {
        Digest::sha256(&self.bytes())
    }
}

fn name(text: &str) -> RepositoryName {
    RepositoryName::parse(text).unwrap()
}

fn tag() -> Tag {
    Tag::parse("latest").unwrap()
}

fn blob() -> Digest {
    Digest::sha256(CONTENT.as_bytes())
}

/// Manifests without a tag go when they are old.
fn retention() -> Rules {
    let untagged_after = Some(Duration::from_secs(GRACE));
    Rules(vec![Rule { untagged_after, ..Rule::new(Pattern::new("*")) }])
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

    fn one_of<T>(&mut self, choices: impl IntoIterator<Item = T, IntoIter: ExactSizeIterator>) -> T {
        let mut choices = choices.into_iter();
        let place = self.below(choices.len() as u64);
        choices.nth(place as usize).expect("the place is below their number")
    }

    fn is_one_in(&mut self, chances: u64) -> bool {
        self.below(chances) == 0
    }
}

/// One run, whose every choice follows from `seed`, but for the names of generations. Returns what became
/// of each client that lived.
fn run(seed: u64) -> Vec<Outcome> {
    let mut random = Random(seed);
    // Most of the moments that matter are found where nothing else is going on.
    let is_plain = !random.is_one_in(3);
    let has_retention = !is_plain && random.is_one_in(2);
    let world = &World::new(if has_retention { retention() } else { Rules::default() });
    let old = Image { is_tagged: random.is_one_in(2), ..Image::first_of(name("r")) };
    finish(world.store(0, &old.repository));
    let is_old_there = !is_plain && random.is_one_in(2) && finish(world.put(0, &old));
    world.wait();
    if !is_plain {
        leave_marks(world, &mut random);
    }
    let collectors = if is_plain { 1 } else { random.one_of([1, 2]) };
    let mut actors: Vec<Actor<'_>> = (0..collectors).map(|_| collector(world, &mut random)).collect();
    let clients = if is_plain { random.one_of([1, 2]) } else { random.one_of([1, 2, 3]) };
    let ways = if is_plain { &WAYS[1..] } else { &WAYS };
    actors.extend((1..=clients).map(|number| client(world, ways, number, &mut random)));
    let began = world.clock.now();
    let (outcomes, mut acknowledged) = work(world, actors, &mut random);

    // Beside others, a client may have taken a stamp that came too late for one that did not, or one collector
    // an old mark by which another is at work. The client is refused then, and nothing is lost.
    let may_be_refused = (clients, collectors) != (1, 1) || world.clock.now() != began;
    assert!(may_be_refused || !outcomes.contains(&Outcome::Refused), "with seed {seed}");
    for image in &acknowledged {
        assert!(world.has(image), "{image:?} is lost, with seed {seed}");
        let is_tagged = world.tagged(&image.repository).is_some();
        assert!(is_tagged || !image.is_tagged, "the tag of {image:?} is lost, with seed {seed}");
    }
    acknowledged.extend(is_old_there.then_some(old));
    for cycle in 0..4 {
        if cycle > 0 {
            world.wait();
            finish(world.collect(0));
        }
        for image in &acknowledged {
            let stays = !has_retention || world.tagged(&image.repository) == Some(image.digest());
            assert!(!stays || world.has(image), "{image:?} is lost in cycle {cycle}, with seed {seed}");
        }
    }
    for repository in ["r", "a", "s"].map(name) {
        let Some(tagged) = world.tagged(&repository) else { continue };
        let leads_to = finish(world.servers[0].read_manifest(&repository, tagged)).unwrap();
        assert!(leads_to.is_some(), "the tag in {repository} leads to nothing, with seed {seed}");
    }
    let closing = finish(world.servers[0].generations(&blob())).unwrap().closing;
    assert!(closing.is_empty(), "{closing:?} is still being closed, with seed {seed}");
    let left = world.keys(&layout::all_contents());
    // A client that was killed may have put its manifest.
    let is_named = world.keys(&layout::repositories()).iter().any(|key| layout::copy_of_key(key).is_some());
    assert!(is_named || left.is_empty(), "{left:?} is left, with seed {seed}");
    outcomes
}

/// Lets all work until they are done or killed. Returns what became of the clients that lived, and what
/// was acknowledged to them.
fn work(world: &World, mut actors: Vec<Actor<'_>>, random: &mut Random) -> (Vec<Outcome>, Vec<Image>) {
    let (mut outcomes, mut acknowledged) = (Vec::new(), Vec::new());
    while !actors.is_empty() {
        if random.is_one_in(200) {
            world.clock.set(world.clock.now().as_secs() + random.below(GRACE));
        }
        // Few changes of turn find more than many: each must come at the right moment.
        let is_collectors = random.is_one_in(2);
        let of_kind: Vec<usize> =
            (0..actors.len()).filter(|turn| actors[*turn].image.is_none() == is_collectors).collect();
        if of_kind.is_empty() {
            continue;
        }
        let turn = random.one_of(of_kind);
        let actor = &mut actors[turn];
        let steps = if actor.image.is_none() { random.below(16) } else { random.below(8) };
        for _ in 0..=steps {
            let Some(left) = actor.steps_to_live.checked_sub(1) else {
                actors.swap_remove(turn);
                break;
            };
            actor.steps_to_live = left;
            if let Some(outcome) = take_step(actor.work.as_mut()) {
                let image = actors.swap_remove(turn).image;
                outcomes.extend(outcome);
                acknowledged.extend(image.filter(|_| outcome == Some(Outcome::Acknowledged)));
                break;
            }
        }
    }
    (outcomes, acknowledged)
}

/// Leaves what a collector may leave that was killed, just now or long ago.
fn leave_marks(world: &World, random: &mut Random) {
    let generation = finish(world.servers[0].generations(&blob())).unwrap().open.remove(0);
    let (closing, closed) = (layout::closing(&blob(), &generation), layout::closed(&blob(), &generation));
    let time = random.one_of([START, world.clock.now().as_secs()]).to_string();
    for (mark, content, chances) in [(closing, time, 4), (closed, String::new(), 8)] {
        if random.is_one_in(chances) {
            finish(world.storage.put_if_absent(&mark, content.into())).unwrap();
        }
    }
}

fn collector<'a>(world: &'a World, random: &mut Random) -> Actor<'a> {
    let server = random.one_of([0, 1]);
    let work = async move {
        world.collect(server).await;
        None
    };
    let steps_to_live = if random.is_one_in(4) { random.below(40) } else { u64::MAX };
    Actor { work: Box::pin(work), steps_to_live, image: None }
}

fn client<'a>(world: &'a World, ways: &[Way], number: u64, random: &mut Random) -> Actor<'a> {
    let server = random.one_of([0, 1]);
    let way = *random.one_of(ways);
    let repository = match way {
        Way::Assumed | Way::Asked => "r",
        Way::Mounted | Way::Pushed => random.one_of(["r", "a", "s"]),
    };
    // Often what is there already.
    let number = random.one_of([0, number]);
    let (is_index, is_tagged) = (matches!(way, Way::Assumed), random.is_one_in(2));
    let image = Image { repository: name(repository), number, is_index, is_tagged };
    let few = random.one_of([6, 20]);
    let steps_to_live = if random.is_one_in(2) { random.below(few) } else { u64::MAX };
    let put = image.clone();
    let work = Box::pin(async move { Some(world.push(server, way, &put).await) });
    Actor { work, steps_to_live, image: Some(image) }
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
