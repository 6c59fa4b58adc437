//! The collector on a storage in memory, with a clock that the tests set.

use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use appliance::{Digest, media_type};
use blob_store::{MemoryStorage, SessionId, Storage};
use bytes::Bytes;
use futures_util::TryStreamExt;
use serde_json::json;

use super::*;
use crate::clock::TestClock;
use crate::layout;
use crate::manifest::Manifest;
use crate::name::{RepositoryName, Tag};
use crate::repository::{Author, Authority, PutManifest, Repositories};
use crate::rules::{Pattern, Rule, Rules};

const GRACE: u64 = 1000;
/// What is not asked for until then is garbage.
const OLD: u64 = GRACE + GRACE / 2;
const START: u64 = 1_000_000;

const SOMEBODY: Author<'_> = Author { name: "somebody", authority: Authority::Ordinary };

struct World {
    storage: MemoryStorage,
    clock: Arc<TestClock>,
    repositories: Arc<Repositories>,
    collector: Collector,
    sessions: u64,
}

fn name(text: &str) -> RepositoryName {
    RepositoryName::parse(text).unwrap()
}

fn digest(content: &str) -> Digest {
    Digest::sha256(content.as_bytes())
}

impl World {
    fn new() -> Self {
        Self::with(Rules::default())
    }

    fn with(rules: Rules) -> Self {
        let rules = Arc::new(rules);
        let (storage, clock) = (MemoryStorage::new(), Arc::new(TestClock::default()));
        clock.set(START);
        let (same_storage, grace) = (Arc::new(storage.clone()), Duration::from_secs(GRACE));
        let repositories = Arc::new(Repositories::new(same_storage, Arc::clone(&clock) as _, grace, rules));
        let collector = Collector::new(Arc::clone(&repositories), Arc::clone(&clock) as _, grace);
        Self { storage, clock, repositories, collector, sessions: 0 }
    }

    async fn store(&mut self, repository: &str, content: &str) {
        self.sessions += 1;
        let id =
            SessionId::new(*Digest::sha256(&self.sessions.to_le_bytes()).as_bytes().first_chunk().unwrap());
        let mut session = self.storage.begin(id).await.unwrap();
        session.append(0, vec![Bytes::copy_from_slice(content.as_bytes())]).await.unwrap();
        self.repositories.store_blob(&name(repository), &digest(content), session, None).await.unwrap();
    }

    /// Puts an image of these blobs, the first of which is its config.
    async fn put(&self, repository: &str, tag: Option<&str>, blobs: &[&str]) -> Digest {
        let descriptor = |content: &str| json!({ "mediaType": "application/x", "digest": digest(content), "size": content.len() });
        let layers: Vec<_> = blobs[1..].iter().map(|content| descriptor(content)).collect();
        let document = json!({
            "schemaVersion": 2,
            "mediaType": media_type::MANIFEST,
            "config": descriptor(blobs[0]),
            "layers": layers,
        });
        let bytes = Bytes::from(document.to_string());
        let manifest = &Manifest::check(&bytes, None).unwrap();
        assert_eq!(self.repositories.missing_blobs(&name(repository), &manifest.blobs).await.unwrap(), []);
        let digest = Digest::sha256(&bytes);
        let tags: Vec<Tag> = tag.map(|text| Tag::parse(text).unwrap()).into_iter().collect();
        let repository = &name(repository);
        let put = PutManifest { repository, manifest, digest, bytes, tags: &tags, by: SOMEBODY };
        self.repositories.put_manifest(&put).await.unwrap();
        digest
    }

    async fn collect(&self) -> Collected {
        let planned = self.collector.run(Mode::DryRun).await.unwrap();
        let collected = self.collector.run(Mode::Collect).await.unwrap();
        assert_eq!(planned, collected, "a dry run foretells what happens");
        collected
    }

    /// Lets `seconds` pass.
    fn wait(&self, seconds: u64) {
        use crate::clock::Clock as _;
        self.clock.set(self.clock.now().as_secs() + seconds);
    }

    async fn can_read(&self, repository: &str, content: &str) -> bool {
        self.repositories.open_blob(&name(repository), &digest(content)).await.unwrap().is_some()
    }

    async fn contents(&self) -> usize {
        self.storage.keys_below(&layout::all_contents()).try_collect::<Vec<_>>().await.unwrap().len()
    }
}

#[tokio::test]
async fn what_a_manifest_needs_stays_and_the_rest_goes_when_it_is_old() {
    let mut world = World::new();
    for content in ["config", "layer", "orphan"] {
        world.store("r", content).await;
    }
    world.put("r", Some("1"), &["config", "layer"]).await;
    assert_eq!(world.collect().await, Collected { repositories: 1, ..Collected::default() });
    world.wait(OLD + 1);
    let collected = world.collect().await;
    assert_eq!((collected.unlinked_blobs, collected.deleted_generations, collected.freed_bytes), (1, 1, 6));
    assert!(world.can_read("r", "config").await && world.can_read("r", "layer").await);
    assert!(!world.can_read("r", "orphan").await);
    assert_eq!(world.contents().await, 2);
}

#[tokio::test]
async fn blobs_go_with_the_last_manifest_that_needs_them() {
    let mut world = World::new();
    for content in ["config", "one", "two"] {
        world.store("r", content).await;
    }
    let one = world.put("r", Some("1"), &["config", "one"]).await;
    world.put("r", None, &["config", "two"]).await;
    world.repositories.delete_manifest(&name("r"), one, SOMEBODY).await.unwrap();
    world.wait(OLD + 1);
    assert_eq!(world.collect().await.freed_bytes, 3);
    assert!(world.can_read("r", "two").await && world.can_read("r", "config").await);
    assert!(!world.can_read("r", "one").await);
}

#[tokio::test]
async fn content_that_another_repository_needs_stays() {
    let mut world = World::new();
    world.store("a", "shared").await;
    world.store("b", "shared").await;
    world.put("b", None, &["shared"]).await;
    world.wait(OLD + 1);
    let collected = world.collect().await;
    assert_eq!((collected.unlinked_blobs, collected.deleted_generations), (1, 0));
    assert!(!world.can_read("a", "shared").await && world.can_read("b", "shared").await);
}

#[tokio::test]
async fn who_asks_for_a_blob_keeps_it_long_enough_to_use_it() {
    let mut world = World::new();
    world.store("r", "x").await;
    world.wait(GRACE);
    assert!(world.repositories.rely_on_blob(&name("r"), &digest("x")).await.unwrap().is_some());
    world.wait(GRACE);
    world.collect().await;
    world.put("r", Some("1"), &["x"]).await;
    world.wait(3 * GRACE);
    world.collect().await;
    assert!(world.can_read("r", "x").await);
}

#[tokio::test]
async fn only_the_newest_of_many_stamps_and_copies_stays() {
    let mut world = World::new();
    world.store("r", "x").await;
    let mut manifest = None;
    for _ in 0..5 {
        manifest = Some(world.put("r", Some("1"), &["x"]).await);
        world.wait(GRACE);
    }
    let count = async || {
        let stamps = world.repositories.stamps(&name("r"), &digest("x")).await.unwrap().len();
        (stamps, world.repositories.copies(&name("r"), &manifest.unwrap()).await.unwrap().len())
    };
    assert_eq!(count().await, (5, 5));
    world.wait(GRACE);
    world.collect().await;
    assert_eq!(count().await, (1, 1));
    world.wait(GRACE);
    world.collect().await;
    assert_eq!(count().await, (1, 1));
}

#[tokio::test]
async fn a_newer_stamp_that_a_crash_left_behind_replaces_nothing() {
    let mut world = World::new();
    world.store("r", "x").await;
    world.put("r", Some("1"), &["x"]).await;
    let generation = layout::Generation::new(crate::clock::Time::from_secs(1), 7);
    let time = crate::clock::Time::from_secs(START + 10);
    let left = layout::Stamp { time, size_bytes: 1, generation };
    world.storage.put_if_absent(&layout::stamp(&name("r"), &digest("x"), &left), Bytes::new()).await.unwrap();
    world.wait(3 * GRACE);
    world.collect().await;
    assert!(world.can_read("r", "x").await);
}

#[tokio::test]
async fn a_generation_that_was_closed_too_late_stays_until_its_stamps_are_gone() {
    let mut world = World::new();
    world.store("r", "x").await;
    world.put("r", Some("1"), &["x"]).await;
    let generation = world.repositories.generations(&digest("x")).await.unwrap().open.remove(0);
    world.storage.put_if_absent(&layout::closed(&digest("x"), &generation), Bytes::new()).await.unwrap();
    world.wait(3 * GRACE);
    assert_eq!(world.collect().await.deleted_generations, 0);
    assert!(world.can_read("r", "x").await);
    // Content that arrives now is another generation; the manifest can be read by either.
    world.store("s", "x").await;
    assert!(world.repositories.rely_on_blob(&name("r"), &digest("x")).await.unwrap().is_some());
    world.repositories.delete_blob(&name("r"), &digest("x"), SOMEBODY).await.unwrap();
    assert_eq!(world.collect().await.deleted_generations, 1);
    assert!(world.can_read("s", "x").await);
}

#[tokio::test]
async fn what_a_crash_left_is_cleared_away() {
    let mut world = World::new();
    world.store("r", "x").await;
    let generation = layout::Generation::new(crate::clock::Time::from_secs(1), 7);
    // Content without a stamp, and a mark whose content is gone already.
    let content = layout::content(&digest("lost"), &generation);
    world.storage.put_if_absent(&content, Bytes::from("lost")).await.unwrap();
    let mark = layout::closed(&digest("gone"), &generation);
    world.storage.put_if_absent(&mark, Bytes::new()).await.unwrap();
    let collected = world.collect().await;
    assert_eq!((collected.deleted_generations, collected.freed_bytes), (1, 4));
    assert_eq!(world.contents().await, 1);
}

#[tokio::test]
async fn long_histories_lose_their_oldest_entries() {
    let mut world = World::new();
    world.store("r", "x").await;
    world.store("r", "y").await;
    for turn in 0..1100 {
        world.put("r", Some("latest"), &[["x", "y"][turn % 2]]).await;
    }
    let tag = Tag::parse("latest").unwrap();
    world.collect().await;
    let history = world.repositories.history(&name("r"), &tag, None, 2000).await.unwrap();
    assert_eq!((history.len(), history[0].place), (1000, 1099));
    world.put("r", Some("latest"), &["x"]).await;
    assert_eq!(world.repositories.history(&name("r"), &tag, None, 1).await.unwrap()[0].place, 1100);
}

#[tokio::test]
async fn a_scrub_takes_away_what_is_damaged_and_the_next_push_heals_it() {
    let mut world = World::new();
    for content in ["config", "layer"] {
        world.store("r", content).await;
    }
    world.store("s", "layer").await;
    let manifest = world.put("r", Some("1"), &["config", "layer"]).await;
    let rot = async |key: blob_store::Key| {
        world.storage.delete(&key).await.unwrap();
        world.storage.put_if_absent(&key, Bytes::from("rotten")).await.unwrap();
    };
    let generation = world.repositories.generations(&digest("layer")).await.unwrap().open.remove(0);
    rot(layout::content(&digest("layer"), &generation)).await;
    let copy = world.repositories.copies(&name("r"), &manifest).await.unwrap().remove(0);
    rot(layout::manifest_copy(&name("r"), &manifest, copy)).await;

    let repositories = Arc::clone(&world.repositories);
    let scrub = async |mode| Scrubber::new(&repositories, mode, None).run().await.unwrap();
    let found = scrub(Mode::DryRun).await;
    assert_eq!((found.objects, found.bytes), (3, 18));
    let damaged: Vec<Digest> = found.damaged.iter().map(|damaged| damaged.digest).collect();
    assert_eq!(damaged, [digest("layer"), manifest]);
    assert_eq!(scrub(Mode::Collect).await, found);
    assert_eq!(scrub(Mode::Collect).await.damaged, []);
    let kept = layout::quarantine(&digest("layer"), &generation.to_string());
    assert_eq!(blob_store::read_whole(&world.storage, &kept, 100).await.unwrap(), "rotten");

    assert!(!world.can_read("r", "layer").await && !world.can_read("s", "layer").await);
    assert_eq!(world.repositories.rely_on_blob(&name("r"), &digest("layer")).await.unwrap(), None);
    // Whoever had the blob has it again once anybody pushes it.
    world.store("s", "layer").await;
    assert!(world.can_read("r", "layer").await && world.can_read("s", "layer").await);
    assert_eq!(world.put("r", Some("1"), &["config", "layer"]).await, manifest);
    assert_eq!(scrub(Mode::Collect).await.damaged, []);
}

#[tokio::test]
async fn what_cannot_be_read_once_is_not_damaged() {
    let mut world = World::new();
    world.store("r", "layer").await;
    world.put("r", Some("1"), &["layer"]).await;
    let repositories = Arc::clone(&world.repositories);
    let scrub = async || Scrubber::new(&repositories, Mode::Collect, None).run().await;
    // The second look finds it as it was.
    world.storage.fail_to_open([ErrorKind::InvalidData]);
    let found = scrub().await.unwrap();
    assert_eq!((found.damaged, found.objects), (vec![], 2));
    // A service that does not answer says nothing of what it keeps, nor while what is damaged is copied.
    let unreachable = ErrorKind::Other;
    let (wrong, refused) = (ErrorKind::InvalidData, ErrorKind::PermissionDenied);
    for faults in [&[unreachable][..], &[wrong, refused]] {
        world.storage.fail_to_open(faults.iter().copied());
        let found = scrub().await.unwrap();
        assert_eq!((found.damaged, found.failed.len(), found.objects), (vec![], 1, 1));
        assert!(world.can_read("r", "layer").await);
    }
    world.storage.fail_to_open([wrong, wrong, unreachable]);
    let found = scrub().await.unwrap();
    assert!(found.damaged.len() == 1 && found.damaged[0].stays.is_some() && found.failed.is_empty());
    assert!(world.can_read("r", "layer").await);
    // Where nothing can be read, it ends.
    for content in ["a", "b", "c", "d"] {
        world.store("r", content).await;
    }
    world.storage.fail_to_open([unreachable; 3]);
    let found = scrub().await.unwrap();
    assert_eq!((found.failed.len(), found.objects, found.is_incomplete), (3, 0, true));
    world.storage.fail_to_open([ErrorKind::InvalidData; 3]);
    let damaged = scrub().await.unwrap().damaged;
    assert_eq!(damaged.len(), 1);
    assert!(repositories.open_blob(&name("r"), &damaged[0].digest).await.unwrap().is_none());
}

#[tokio::test]
async fn a_damaged_manifest_keeps_garbage_of_others_from_nobody() {
    let mut world = World::new();
    for (repository, content) in [("a", "x"), ("a", "y"), ("b", "garbage")] {
        world.store(repository, content).await;
    }
    let damaged = layout::manifest_copy(&name("a"), &digest("?"), crate::clock::Time::from_secs(START));
    world.storage.put_if_absent(&damaged, Bytes::from("application/x\nno manifest")).await.unwrap();
    world.wait(OLD + 1);
    assert_eq!(world.collect().await.damaged.len(), 1);
    assert!(world.can_read("a", "x").await && world.can_read("a", "y").await);
    assert!(!world.can_read("b", "garbage").await);
    assert_eq!(world.contents().await, 2);
}

#[tokio::test]
async fn the_record_of_a_referrer_that_a_crash_took_comes_back() {
    let mut world = World::new();
    world.store("r", "x").await;
    let subject = world.put("r", Some("1"), &["x"]).await;
    let document = json!({
        "schemaVersion": 2, "mediaType": media_type::INDEX, "manifests": [],
        "subject": { "mediaType": media_type::MANIFEST, "digest": subject, "size": 1 },
    });
    let bytes = Bytes::from(document.to_string());
    let manifest = &Manifest::check(&bytes, None).unwrap();
    let (repository, digest) = (&name("r"), Digest::sha256(&bytes));
    let put = PutManifest { repository, manifest, digest, bytes, tags: &[], by: SOMEBODY };
    world.repositories.put_manifest(&put).await.unwrap();
    world.storage.delete(&layout::referrer(repository, &subject, &digest)).await.unwrap();
    let referrers = async || {
        let page = world.repositories.referrers(repository, &subject, None, None, 1 << 20).await.unwrap();
        page.referrers.len()
    };
    assert_eq!(referrers().await, 0);
    world.collect().await;
    assert_eq!(referrers().await, 1);
}

fn rules(change: impl FnOnce(&mut Rule)) -> Rules {
    let mut rule = Rule::new(Pattern::new("*"));
    change(&mut rule);
    Rules(vec![rule])
}

#[tokio::test]
async fn tags_and_manifests_go_when_the_rules_say_so() {
    let mut world = World::with(rules(|rule| {
        (rule.keep_newest, rule.untagged_after) = (Some(1), Some(Duration::from_secs(5 * GRACE)));
    }));
    let mut pushed = Vec::new();
    for content in ["a", "b", "c"] {
        world.store("r", content).await;
        pushed.push(world.put("r", Some(content), &[content]).await);
        world.wait(10);
    }
    let collected = world.collect().await;
    assert_eq!((collected.deleted_tags, collected.deleted_manifests), (2, 0));
    world.wait(5 * GRACE);
    let collected = world.collect().await;
    assert_eq!((collected.deleted_manifests, collected.deleted_generations), (2, 2));
    assert!(world.can_read("r", "c").await && !world.can_read("r", "a").await);
    let tags = world.repositories.all_tags(&name("r")).await.unwrap();
    assert_eq!(tags.iter().map(|live| live.digest).collect::<Vec<_>>(), [pushed[2]]);
    let history = world.repositories.history(&name("r"), &Tag::parse("a").unwrap(), None, 1).await.unwrap();
    assert_eq!((history[0].entry.digest, &*history[0].entry.by), (None, "retention"));
}

#[tokio::test]
async fn what_an_index_names_and_what_is_about_it_stays_with_it() {
    let mut world = World::with(rules(|rule| rule.untagged_after = Some(Duration::from_secs(GRACE))));
    world.store("r", "x").await;
    let child = world.put("r", None, &["x"]).await;
    let put = async |document: serde_json::Value, tag: Option<&str>| {
        let bytes = Bytes::from(document.to_string());
        let manifest = &Manifest::check(&bytes, None).unwrap();
        let tags: Vec<Tag> = tag.map(|text| Tag::parse(text).unwrap()).into_iter().collect();
        let (repository, digest) = (&name("r"), Digest::sha256(&bytes));
        let put = PutManifest { repository, manifest, digest, bytes, tags: &tags, by: SOMEBODY };
        world.repositories.put_manifest(&put).await.unwrap();
        digest
    };
    let entry = |digest| json!({ "mediaType": media_type::MANIFEST, "digest": digest, "size": 1 });
    let index = |child: Digest| json!({ "schemaVersion": 2, "mediaType": media_type::INDEX, "manifests": [entry(child)] });
    let top = put(index(child), Some("1")).await;
    let mut about = index(child);
    (about["manifests"], about["subject"]) = (json!([]), entry(top));
    let signature = put(about, None).await;
    let lone = put(index(Digest::sha256(b"elsewhere")), None).await;
    world.wait(3 * GRACE);
    assert_eq!(world.collect().await.deleted_manifests, 1);
    for (digest, stays) in [(top, true), (child, true), (signature, true), (lone, false)] {
        assert_eq!(world.repositories.copies(&name("r"), &digest).await.unwrap().len(), usize::from(stays));
    }
    world.repositories.delete_tag(&name("r"), &Tag::parse("1").unwrap(), SOMEBODY).await.unwrap();
    assert_eq!(world.collect().await.deleted_manifests, 3);
    assert!(!world.can_read("r", "x").await);
}
