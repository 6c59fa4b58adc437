//! Repositories on a storage in memory, with a clock that the tests set.

use std::sync::Arc;
use std::time::Duration;

use appliance::{Digest, media_type};
use blob_store::{Key, MemoryStorage, SessionId, Storage as _};
use bytes::Bytes;
use serde_json::{Map, json};

use super::*;
use crate::cache::CacheKey;
use crate::clock::TestClock;
use crate::layout::Generation;
use crate::manifest::Manifest;
use crate::name::{ManifestName, Tag};
use crate::rules::{Pattern, Rule};

/// The grace period, in seconds.
const GRACE: u64 = 1000;

const SOMEBODY: Author<'_> = Author { name: "somebody", authority: Authority::Ordinary };

struct World {
    repositories: Repositories,
    storage: MemoryStorage,
    clock: Arc<TestClock>,
    next_session: u8,
}

fn name(text: &str) -> RepositoryName {
    RepositoryName::parse(text).unwrap()
}

fn tag(text: &str) -> Tag {
    Tag::parse(text).unwrap()
}

impl World {
    fn new() -> Self {
        Self::with(Rules::default())
    }

    fn with(rules: Rules) -> Self {
        let (storage, clock) = (MemoryStorage::new(), Arc::new(TestClock::default()));
        clock.set(1_000_000);
        let same_clock = Arc::clone(&clock);
        let grace = Duration::from_secs(GRACE);
        let repositories = Repositories::new(Arc::new(storage.clone()), same_clock, grace, Arc::new(rules));
        Self { repositories, storage, clock, next_session: 0 }
    }

    /// Stores a blob and returns whether its content was new.
    async fn store(&mut self, repository: &str, content: &'static str) -> Stored {
        self.next_session += 1;
        let mut session = self.storage.begin(SessionId::new([self.next_session; 32])).await.unwrap();
        session.append(0, vec![Bytes::from(content)]).await.unwrap();
        let digest = Digest::sha256(content.as_bytes());
        self.repositories.store_blob(&name(repository), &digest, session, None).await.unwrap()
    }

    async fn relies_on(&self, repository: &str, content: &str) -> Option<u64> {
        let digest = Digest::sha256(content.as_bytes());
        self.repositories.rely_on_blob(&name(repository), &digest).await.unwrap()
    }

    async fn stamps(&self, repository: &str, content: &str) -> usize {
        let digest = Digest::sha256(content.as_bytes());
        self.repositories.stamps(&name(repository), &digest).await.unwrap().len()
    }

    async fn generations(&self, content: &str) -> (usize, usize) {
        let found = self.repositories.generations(&Digest::sha256(content.as_bytes())).await.unwrap();
        (found.open.len(), found.closed.len())
    }

    /// What a collector does to a generation that it believes to be garbage.
    async fn mark(&self, content: &str, mark: fn(&Digest, &Generation) -> Key) {
        let digest = Digest::sha256(content.as_bytes());
        let found = self.repositories.generations(&digest).await.unwrap();
        let generation = found.open.first().or(found.closing.first()).unwrap();
        self.storage.put_if_absent(&mark(&digest, generation), Bytes::new()).await.unwrap();
    }

    async fn push(&self, repository: &str, tags: &[&str], content: &'static str) -> Digest {
        let repository = &name(repository);
        let manifest = &image();
        let (bytes, tags) = (Bytes::from(content), &*tags.iter().map(|text| tag(text)).collect::<Vec<_>>());
        let digest = Digest::sha256(&bytes);
        let put = PutManifest { repository, manifest, digest, bytes, tags, by: SOMEBODY };
        self.repositories.put_manifest(&put).await.unwrap();
        digest
    }

    async fn pull(&self, repository: &str, wanted: ManifestName) -> Option<Bytes> {
        let wanted = CacheKey { repository: name(repository), name: wanted };
        self.repositories.manifest(&wanted).await.unwrap().map(|found| found.bytes.clone())
    }

    async fn pull_tag(&self, repository: &str, text: &str) -> Option<Bytes> {
        self.pull(repository, ManifestName::Tag(tag(text))).await
    }
}

fn image() -> Manifest {
    Manifest {
        media_type: media_type::MANIFEST,
        blobs: Vec::new(),
        children: Vec::new(),
        subject: None,
        artifact_type: None,
        annotations: Map::new(),
    }
}

#[tokio::test]
async fn content_is_stored_once_and_read_where_it_was_put() {
    let mut world = World::new();
    assert_eq!(world.store("a", "x").await, Stored::FromSession);
    assert_eq!(world.store("b", "x").await, Stored::WasHere);
    assert_eq!(world.generations("x").await, (1, 0));
    assert_eq!(world.relies_on("a", "x").await, Some(1));
    assert_eq!(world.relies_on("c", "x").await, None);
    let digest = Digest::sha256(b"x");
    assert!(world.repositories.open_blob(&name("b"), &digest).await.unwrap().is_some());
    assert!(world.repositories.open_blob(&name("c"), &digest).await.unwrap().is_none());
    assert_eq!(world.repositories.missing_blobs(&name("c"), &[digest]).await.unwrap(), [digest]);
    assert!(world.repositories.mount_blob(&name("b"), &name("c"), &digest).await.unwrap());
    assert!(!world.repositories.mount_blob(&name("d"), &name("e"), &digest).await.unwrap());
    assert_eq!(world.relies_on("c", "x").await, Some(1));
    assert!(world.repositories.delete_blob(&name("c"), &digest, SOMEBODY).await.unwrap());
    assert!(!world.repositories.delete_blob(&name("c"), &digest, SOMEBODY).await.unwrap());
    assert_eq!((world.relies_on("c", "x").await, world.relies_on("a", "x").await), (None, Some(1)));
}

#[tokio::test]
async fn whoever_relies_on_an_old_stamp_renews_it() {
    let mut world = World::new();
    world.store("a", "x").await;
    world.clock.set(1_000_000 + GRACE / 2);
    world.relies_on("a", "x").await;
    assert_eq!(world.stamps("a", "x").await, 1);
    world.clock.set(1_000_001 + GRACE / 2);
    world.relies_on("a", "x").await;
    world.relies_on("a", "x").await;
    assert_eq!(world.stamps("a", "x").await, 2);
}

#[tokio::test]
async fn who_has_a_stamp_keeps_a_generation_that_is_being_closed() {
    let mut world = World::new();
    world.store("a", "x").await;
    world.mark("x", layout::closing).await;
    let digest = Digest::sha256(b"x");
    assert!(!world.repositories.mount_blob(&name("a"), &name("b"), &digest).await.unwrap());
    assert_eq!(world.relies_on("a", "x").await, Some(1));
    world.clock.set(1_000_000 + GRACE);
    assert_eq!(world.relies_on("a", "x").await, Some(1));
    assert_eq!(world.stamps("a", "x").await, 2);
    // Content that arrives now is a generation of its own.
    assert_eq!(world.store("b", "x").await, Stored::FromSession);
    assert_eq!(world.generations("x").await, (1, 0));
    assert_eq!(world.relies_on("a", "x").await, Some(1));
}

#[tokio::test]
async fn nobody_relies_on_a_closed_generation() {
    let mut world = World::new();
    world.store("a", "x").await;
    world.mark("x", layout::closing).await;
    world.mark("x", layout::closed).await;
    let digest = Digest::sha256(b"x");
    // A stamp says no more than that somebody put it, however lately.
    assert_eq!(world.relies_on("a", "x").await, None);
    assert_eq!(world.repositories.missing_blobs(&name("a"), &[digest]).await.unwrap(), [digest]);
    assert!(!world.repositories.mount_blob(&name("a"), &name("b"), &digest).await.unwrap());
    assert!(world.repositories.open_blob(&name("a"), &digest).await.unwrap().is_some());
    // Content that arrives again is a generation of its own, and the old stamp leads there too.
    assert_eq!(world.store("b", "x").await, Stored::FromSession);
    assert_eq!(world.generations("x").await, (1, 1));
    assert_eq!(world.relies_on("a", "x").await, Some(1));
}

#[tokio::test]
async fn a_tag_names_what_it_was_set_to_last() {
    let world = World::new();
    for content in ["one", "two", "two", "one"] {
        world.push("r", &["latest"], content).await;
        assert_eq!(world.pull_tag("r", "latest").await.unwrap(), content);
    }
    let history = world.repositories.history(&name("r"), &tag("latest"), None, 10).await.unwrap();
    assert_eq!(history.len(), 3); // naming the same again is no change
    assert!(history.iter().all(|placed| placed.entry.by == "somebody"));
    assert!(world.repositories.delete_tag(&name("r"), &tag("latest"), SOMEBODY).await.unwrap());
    assert!(!world.repositories.delete_tag(&name("r"), &tag("latest"), SOMEBODY).await.unwrap());
    assert_eq!(world.pull_tag("r", "latest").await, None);
    let two = ManifestName::Digest(Digest::sha256(b"two"));
    assert_eq!(world.pull("r", two).await.unwrap(), "two");
}

#[tokio::test]
async fn writers_of_one_tag_all_succeed_in_some_order() {
    let world = World::new();
    let contents = ["a", "b", "c", "d", "e", "f", "g", "h"];
    futures_util::future::join_all(contents.map(|content| world.push("r", &["latest"], content))).await;
    let history = world.repositories.history(&name("r"), &tag("latest"), None, 100).await.unwrap();
    assert_eq!(history.len(), contents.len());
    let newest = history[0].entry.digest;
    assert_eq!(world.pull_tag("r", "latest").await.map(|bytes| Digest::sha256(&bytes)), newest);
}

#[tokio::test]
async fn a_manifest_goes_with_all_its_tags() {
    let world = World::new();
    let one = world.push("r", &["1", "1.0", "latest"], "one").await;
    world.push("r", &["2", "latest"], "two").await;
    assert!(world.repositories.delete_manifest(&name("r"), one, SOMEBODY).await.unwrap());
    assert!(!world.repositories.delete_manifest(&name("r"), one, SOMEBODY).await.unwrap());
    assert_eq!(world.pull("r", ManifestName::Digest(one)).await, None);
    let tags = world.repositories.tags(&name("r"), None, 10).await.unwrap();
    assert_eq!(tags.iter().map(|live| live.tag.as_str()).collect::<Vec<_>>(), ["2", "latest"]);
    world.push("r", &["1"], "one").await;
    assert_eq!(world.pull_tag("r", "1").await.unwrap(), "one");
}

#[tokio::test]
async fn a_manifest_that_is_put_again_when_it_is_old_has_a_young_copy() {
    let world = World::new();
    let digest = world.push("r", &[], "one").await;
    world.push("r", &[], "one").await;
    assert_eq!(world.repositories.copies(&name("r"), &digest).await.unwrap().len(), 1);
    world.clock.set(1_000_001 + GRACE / 2);
    world.push("r", &[], "one").await;
    assert_eq!(world.repositories.copies(&name("r"), &digest).await.unwrap().len(), 2);
}

#[tokio::test]
async fn a_manifest_has_one_media_type() {
    let world = World::new();
    let digest = world.push("r", &[], "x").await;
    let repository = &name("r");
    let manifest = &Manifest { media_type: media_type::INDEX, ..image() };
    let put = PutManifest { repository, manifest, digest, bytes: "x".into(), tags: &[], by: SOMEBODY };
    let refused = world.repositories.put_manifest(&put).await;
    assert!(matches!(refused, Err(RepositoryError::OtherMediaType { .. })), "{refused:?}");
}

#[tokio::test]
async fn referrers_come_in_pages_and_go_with_their_manifest() {
    let world = World::new();
    let (repository, subject) = (&name("r"), Digest::sha256(b"subject"));
    let mut digests = Vec::new();
    for (content, kind) in [("a", "x/sbom"), ("b", "x/sig"), ("c", "x/sbom"), ("d", "x/sbom")] {
        let annotations = json!({ "of": content }).as_object().unwrap().clone();
        let (subject, artifact_type) = (Some(subject), Some(kind.to_owned()));
        let manifest = &Manifest { subject, artifact_type, annotations, ..image() };
        let digest = Digest::sha256(content.as_bytes());
        let put =
            PutManifest { repository, manifest, digest, bytes: content.into(), tags: &[], by: SOMEBODY };
        world.repositories.put_manifest(&put).await.unwrap();
        digests.push(digest);
    }
    let list = async |kind, max_bytes| {
        let (mut found, mut after) = (Vec::new(), None);
        loop {
            let page = world.repositories.referrers(repository, &subject, kind, after.as_ref(), max_bytes);
            let page = page.await.unwrap();
            found.extend(page.referrers.into_iter().map(|referrer| referrer.digest));
            match page.next {
                Some(next) => after = Some(next),
                None => break,
            }
        }
        found.sort_unstable();
        found
    };
    let sorted = |mut digests: Vec<Digest>| {
        digests.sort_unstable();
        digests
    };
    assert_eq!(list(None, 1 << 20).await, sorted(digests.clone()));
    assert_eq!(list(None, 1).await, sorted(digests.clone()));
    assert_eq!(list(Some("x/sig"), 1).await, [digests[1]]);
    assert_eq!(list(Some("x/none"), 1).await, []);
}

#[tokio::test]
async fn tags_and_repositories_are_listed_in_pages() {
    let world = World::new();
    for text in ["b", "a", "a-1", "a.1", "c"] {
        world.push("r", &[text], "x").await;
    }
    world.repositories.delete_tag(&name("r"), &tag("a.1"), SOMEBODY).await.unwrap();
    let page = async |after, limit| {
        let tags = world.repositories.tags(&name("r"), after, limit).await.unwrap();
        tags.into_iter().map(|live| live.tag.as_str().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(page(None, 10).await, ["a", "a-1", "b", "c"]);
    assert_eq!(page(Some("a"), 2).await, ["a-1", "b"]);
    assert_eq!(page(Some("aa"), 10).await, ["b", "c"]);
    assert_eq!(page(Some("c"), 10).await, [""; 0]);

    world.push("team/web", &["1"], "x").await;
    assert!(world.repositories.exists(&name("team/web")).await.unwrap());
    assert!(!world.repositories.exists(&name("team")).await.unwrap());
    assert_eq!(world.repositories.names(None, 10).await.unwrap(), [name("r"), name("team/web")]);
    assert_eq!(world.repositories.names(Some(&name("r")), 10).await.unwrap(), [name("team/web")]);
}

/// Tags that begin with `v` are immutable.
fn frozen() -> World {
    let immutable_tags = vec![Pattern::new("v*")];
    World::with(Rules(vec![Rule { immutable_tags, ..Rule::new(Pattern::new("r")) }]))
}

const ADMIN: Author<'_> = Author { name: "boss", authority: Authority::Admin };

impl World {
    /// Lets a tag name a digest, and says whether that was allowed.
    async fn set(&self, text: &str, content: Option<&str>, by: Author<'_>) -> bool {
        let digest = content.map(|content| Digest::sha256(content.as_bytes()));
        match self.repositories.set_tag(&name("r"), &tag(text), digest, by).await {
            Ok(()) => true,
            Err(RepositoryError::Immutable { .. }) => false,
            Err(error) => panic!("{error}"),
        }
    }
}

#[tokio::test]
async fn an_immutable_tag_stays_what_it_is() {
    let world = frozen();
    assert!(world.set("v1", Some("one"), SOMEBODY).await);
    assert!(world.set("v1", Some("one"), SOMEBODY).await);
    assert!(!world.set("v1", Some("two"), SOMEBODY).await);
    assert!(!world.set("v1", None, SOMEBODY).await);
    assert!(world.set("v2", None, SOMEBODY).await); // there is none
    assert!(world.set("latest", Some("one"), SOMEBODY).await);
    assert!(world.set("latest", Some("two"), SOMEBODY).await);
    assert!(world.set("latest", None, SOMEBODY).await);
}

#[tokio::test]
async fn what_an_admin_makes_of_an_immutable_tag_it_stays() {
    let world = frozen();
    assert!(world.set("v1", Some("one"), SOMEBODY).await);
    assert!(world.set("v1", Some("two"), ADMIN).await);
    assert!(!world.set("v1", Some("one"), SOMEBODY).await);
    assert!(world.set("v1", None, ADMIN).await);
    assert!(!world.set("v1", Some("one"), SOMEBODY).await); // it named another
    assert!(world.set("v1", Some("two"), SOMEBODY).await);
}

#[tokio::test]
async fn of_those_who_set_an_immutable_tag_at_the_same_time_one_wins() {
    let world = frozen();
    let contents: Vec<String> = (0..16).map(|number| number.to_string()).collect();
    let set = contents.iter().map(|content| world.set("v1", Some(content), SOMEBODY));
    let won = futures_util::future::join_all(set).await;
    assert_eq!(won.iter().filter(|won| **won).count(), 1);
    let history = world.repositories.history(&name("r"), &tag("v1"), None, 100).await.unwrap();
    let winner = &contents[won.iter().position(|won| *won).unwrap()];
    assert_eq!(history[0].entry.digest, Some(Digest::sha256(winner.as_bytes())));
    assert_eq!(history.len(), 1);
}

#[tokio::test]
async fn of_several_tags_none_is_set_if_one_is_refused() {
    let world = frozen();
    world.push("r", &["v1"], "one").await;
    let (repository, manifest, digest) = (&name("r"), &image(), Digest::sha256(b"two"));
    let tags = &[tag("latest"), tag("v1")];
    let put = PutManifest { repository, manifest, digest, bytes: "two".into(), tags, by: SOMEBODY };
    let refused = world.repositories.put_manifest(&put).await;
    assert_eq!(
        refused.unwrap_err().to_string(),
        format!("the tag `v1` is immutable here (rule `v*`): it names {}", Digest::sha256(b"one"))
    );
    assert_eq!(world.pull_tag("r", "latest").await, None);
    assert_eq!(world.pull("r", ManifestName::Digest(digest)).await, None);
}

#[tokio::test]
async fn what_an_immutable_tag_leads_to_is_not_deleted() {
    let mut world = frozen();
    for content in ["layer", "other"] {
        world.store("r", content).await;
    }
    let layer = Digest::sha256(b"layer");
    let descriptor = |digest, size| json!({ "mediaType": "x/y", "digest": digest, "size": size });
    let child = json!({ "schemaVersion": 2, "mediaType": media_type::MANIFEST, "config": descriptor(layer, 5),
        "layers": [] });
    let child: &str = child.to_string().leak();
    let digest = world.push("r", &[], child).await;
    let index = json!({ "schemaVersion": 2, "mediaType": media_type::INDEX,
        "manifests": [{ "mediaType": media_type::MANIFEST, "digest": digest, "size": child.len() }] });
    let index = Bytes::from(index.to_string());
    let manifest = &Manifest { media_type: media_type::INDEX, ..image() };
    let (repository, top, tags) = (&name("r"), Digest::sha256(&index), &[tag("v1"), tag("x")]);
    let put = PutManifest { repository, manifest, digest: top, bytes: index, tags, by: SOMEBODY };
    world.repositories.put_manifest(&put).await.unwrap();

    let repositories = &world.repositories;
    for protected in [top, digest] {
        let refused = repositories.delete_manifest(repository, protected, SOMEBODY).await;
        assert!(matches!(refused, Err(RepositoryError::Immutable { .. })), "{refused:?}");
    }
    let refused = repositories.delete_blob(repository, &layer, SOMEBODY).await;
    assert!(matches!(refused, Err(RepositoryError::Immutable { .. })), "{refused:?}");
    assert_eq!(repositories.tags(repository, None, 10).await.unwrap().len(), 2);
    assert!(repositories.delete_blob(repository, &Digest::sha256(b"other"), SOMEBODY).await.unwrap());
    assert!(repositories.delete_blob(repository, &layer, ADMIN).await.unwrap());
    assert!(repositories.delete_manifest(repository, top, ADMIN).await.unwrap());
    assert!(repositories.delete_manifest(repository, digest, SOMEBODY).await.unwrap());
    assert_eq!(repositories.tags(repository, None, 10).await.unwrap(), []);
}

#[tokio::test]
async fn a_tag_that_moved_on_is_not_deleted_with_what_it_named() {
    let world = World::new();
    world.push("r", &["latest"], "one").await;
    let read = world.repositories.all_tags(&name("r")).await.unwrap().remove(0);
    world.clock.set(1_000_001);
    world.push("r", &["latest"], "two").await;
    world.repositories.unset_tag(&name("r"), &read, SOMEBODY).await.unwrap();
    assert_eq!(world.pull_tag("r", "latest").await.unwrap(), "two");
    // Nor one that names it again, since later.
    world.push("r", &["latest"], "one").await;
    world.repositories.unset_tag(&name("r"), &read, SOMEBODY).await.unwrap();
    assert_eq!(world.pull_tag("r", "latest").await.unwrap(), "one");
}

/// Repositories that begin with `q` hold 100 bytes.
fn limited() -> World {
    World::with(Rules(vec![Rule { quota_bytes: Some(100), ..Rule::new(Pattern::new("q*")) }]))
}

impl World {
    /// Bytes that are still free in a repository, as whoever stores something finds out.
    async fn left(&self, repository: &str) -> u64 {
        let room = self.repositories.room(&name(repository)).unwrap();
        match self.repositories.grow(&room, 1000).await {
            Err(RepositoryError::Quota(exceeded)) => 100 - exceeded.used_bytes - exceeded.reserved_bytes,
            other => panic!("{other:?}"),
        }
    }

    async fn store_within(&mut self, repository: &str, content: &'static str) -> Result<Stored, String> {
        self.next_session += 1;
        let mut session = self.storage.begin(SessionId::new([self.next_session; 32])).await.unwrap();
        session.append(0, vec![Bytes::from(content)]).await.unwrap();
        let digest = Digest::sha256(content.as_bytes());
        let repository = &name(repository);
        let room = self.repositories.room(repository);
        let stored = self.repositories.store_blob(repository, &digest, session, room.as_ref());
        stored.await.map_err(|error| error.to_string())
    }
}

const FIFTY: &str = "01234567890123456789012345678901234567890123456789";
const FORTY: &str = "abcdefghijabcdefghijabcdefghijabcdefghij";

#[tokio::test]
async fn what_is_stored_once_counts_once() {
    let mut world = limited();
    assert_eq!(world.left("q").await, 100);
    world.store_within("q", FORTY).await.unwrap();
    assert_eq!(world.store_within("q", FORTY).await, Ok(Stored::WasHere));
    assert_eq!(world.left("q").await, 60);
    // A manifest counts as it is stored, with its media type and a line feed.
    world.push("q", &["latest"], "manifest").await;
    world.push("q", &["1"], "manifest").await;
    assert_eq!(world.left("q").await, 9);
    // Books that are opened later find the same.
    let counted = Repositories { storage: Arc::new(world.storage.clone()), ..limited().repositories };
    let room = counted.room(&name("q")).unwrap();
    let refused = counted.grow(&room, 1000).await;
    assert!(
        matches!(&refused, Err(RepositoryError::Quota(exceeded)) if exceeded.used_bytes == 91),
        "{refused:?}"
    );
}

#[tokio::test]
async fn nothing_is_stored_or_mounted_past_the_quota() {
    let mut world = limited();
    world.store_within("q", FIFTY).await.unwrap();
    world.store_within("q", FORTY).await.unwrap();
    let refused = world.store_within("q", "elevenbytes").await.unwrap_err();
    assert_eq!(
        refused,
        "the repository's quota of 100 bytes is exceeded: it holds 90, 0 are being uploaded, and 11 more are \
         wanted"
    );
    assert_eq!(world.stamps("q", "elevenbytes").await, 0);
    world.store("elsewhere", "elevenbytes").await;
    let (from, to, digest) = (name("elsewhere"), name("q"), Digest::sha256(b"elevenbytes"));
    let refused = world.repositories.mount_blob(&from, &to, &digest).await;
    assert!(matches!(refused, Err(RepositoryError::Quota(_))), "{refused:?}");
    assert!(
        world.repositories.mount_blob(&to, &name("q2"), &Digest::sha256(FORTY.as_bytes())).await.unwrap()
    );
    assert!(
        world.repositories.mount_blob(&to, &name("q2"), &Digest::sha256(FORTY.as_bytes())).await.unwrap()
    );
    assert_eq!((world.left("q").await, world.left("q2").await), (10, 60));
    let (repository, manifest, tags) = (&to, &image(), &[tag("x")]);
    let put = PutManifest { repository, manifest, digest, bytes: "elevenbytes".into(), tags, by: SOMEBODY };
    let refused = world.repositories.put_manifest(&put).await;
    assert!(matches!(refused, Err(RepositoryError::Quota(_))), "{refused:?}");
    assert_eq!(world.pull_tag("q", "x").await, None);
}

#[tokio::test]
async fn what_is_deleted_leaves_room() {
    let mut world = limited();
    world.store_within("q", FIFTY).await.unwrap();
    world.store_within("q", FORTY).await.unwrap();
    assert_eq!(world.left("q").await, 10);
    let fifty = Digest::sha256(FIFTY.as_bytes());
    assert!(world.repositories.delete_blob(&name("q"), &fifty, SOMEBODY).await.unwrap());
    world.store_within("q", FIFTY).await.unwrap();
    assert_eq!(world.left("q").await, 10);
    assert!(world.repositories.delete_blob(&name("q"), &fifty, SOMEBODY).await.unwrap());
    let digest = world.push("q", &[], "manifest").await;
    assert_eq!(world.left("q").await, 9);
    assert!(world.repositories.delete_manifest(&name("q"), digest, SOMEBODY).await.unwrap());
    assert_eq!(world.left("q").await, 60);
}
