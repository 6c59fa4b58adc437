//! Pulling, from registries that work and from registries that do not.

use std::process::Command;
use std::time::Duration;

use appliance::{Digest, media_type};
use blob_store::LocalStore;
use registry_client::{ClientOptions, PullError, RequestError, Silent};
use serde_json::json;

use crate::fake::{Act, Fake};
use crate::sample::{Folder, Notes, PLATFORM, Sample, blob, chain, client, client_with, folder, noise};

/// A registry with `sample` as `web:1`.
async fn registry_with(sample: &Sample) -> Fake {
    let fake = Fake::start().await;
    sample.put_in(&fake, "web", "1");
    fake
}

async fn pull_web(fake: &Fake, folder: &Folder, notes: &Notes) -> Result<registry_client::Pulled, PullError> {
    client().pull(&fake.reference("web:1"), &folder.store, PLATFORM, notes).await
}

#[tokio::test]
async fn an_appliance_arrives_whole_and_a_second_pull_moves_nothing() {
    let sample = Sample::new(&[300_000, 200_000, 0]);
    let (fake, folder, notes) = (registry_with(&sample).await, folder(), Notes::default());
    let pulled = pull_web(&fake, &folder, &notes).await.unwrap();
    assert_eq!((pulled.fetched_blobs, pulled.fetched_bytes), (6, sample.bytes()));
    assert_eq!(pulled.manifest, Digest::sha256(&sample.manifest));
    let told = notes.told();
    assert_eq!((told.moved, told.finished), (sample.bytes(), 6));
    assert_eq!(told.plan.map(|plan| (plan.blobs, plan.bytes)), Some((6, sample.bytes())));
    sample.check_in_store(&folder.store, &fake.reference("web:1").to_string());

    fake.take_seen();
    let pulled = pull_web(&fake, &folder, &Notes::default()).await.unwrap();
    assert_eq!((pulled.fetched_blobs, pulled.fetched_bytes, pulled.present_blobs), (0, 0, 6));
    assert_eq!(fake.take_requests(), ["GET /v2/web/manifests/1"]);
}

#[tokio::test]
async fn of_a_new_version_only_the_new_packs_move() {
    let (old, new) = (Sample::new(&[300_000, 200_000]), Sample::new(&[300_000, 200_000, 50_000]));
    let (fake, folder) = (registry_with(&old).await, folder());
    pull_web(&fake, &folder, &Notes::default()).await.unwrap();
    new.put_in(&fake, "web", "1");
    fake.take_seen();
    let pulled = pull_web(&fake, &folder, &Notes::default()).await.unwrap();
    assert_eq!((pulled.fetched_blobs, pulled.fetched_bytes), (1, 50_000));
    assert_eq!(fake.take_requests().len(), 3, "index, manifest, one pack");
    new.check_in_store(&folder.store, &fake.reference("web:1").to_string());
}

#[tokio::test]
async fn a_pull_by_digest_names_index_or_manifest_and_is_wrapped_if_need_be() {
    let sample = Sample::new(&[1000]);
    let fake = registry_with(&sample).await;
    for root in [&sample.index, &sample.manifest] {
        let folder = folder();
        let reference = fake.reference("web").with_digest(Digest::sha256(root));
        let pulled = client().pull(&reference, &folder.store, PLATFORM, &Silent).await.unwrap();
        assert_eq!(pulled.manifest, Digest::sha256(&sample.manifest));
        let index = folder.store.read(&pulled.index, 1 << 20).unwrap();
        assert_eq!(appliance::manifest::ApplianceIndex::parse(&index).unwrap().appliances.len(), 1);
        let names: Vec<_> =
            folder.store.references().unwrap().into_iter().map(|tagged| tagged.reference).collect();
        assert_eq!(names, std::slice::from_ref(&reference));
        fake.take_seen();
        client().pull(&reference, &folder.store, PLATFORM, &Silent).await.unwrap();
        assert_eq!(fake.take_requests(), [""; 0], "a digest that is here needs no registry");
    }
}

/// A pack of 300 000 bytes arrives although the first requests for it go wrong like this.
async fn check_recovers(acts: &[Act], want_resumed: &[u64], want_ranges: &[&str]) {
    let sample = Sample::new(&[300_000]);
    let (fake, folder, notes) = (registry_with(&sample).await, folder(), Notes::default());
    let pack = Digest::sha256(sample.pack(0));
    for act in acts {
        fake.break_next(1, "GET", pack, act.clone());
    }
    pull_web(&fake, &folder, &notes).await.unwrap();
    sample.check_in_store(&folder.store, &fake.reference("web:1").to_string());
    assert_eq!(notes.told().resumed_at, want_resumed);
    let seen = fake.take_seen().into_iter().filter(|seen| seen.path.contains(&pack.to_string()));
    let ranges = seen.filter_map(|seen| Some(seen.headers.get("range")?.to_str().unwrap().to_owned()));
    assert_eq!(ranges.collect::<Vec<_>>(), want_ranges);
}

#[tokio::test]
async fn a_blob_goes_on_where_the_connection_broke() {
    check_recovers(&[Act::Cut(0)], &[], &[]).await;
    check_recovers(&[Act::Cut(100_000)], &[], &["bytes=100000-299999"]).await;
    let twice = ["bytes=100000-299999", "bytes=150000-299999"];
    check_recovers(&[Act::Cut(100_000), Act::Cut(50_000)], &[], &twice).await;
    check_recovers(&[Act::Truncate(299_999)], &[], &["bytes=299999-299999"]).await;
}

#[tokio::test]
async fn a_registry_that_cannot_go_on_in_the_middle_starts_anew() {
    let range = ["bytes=100000-299999"];
    check_recovers(&[Act::Cut(100_000), Act::IgnoreRange], &[0], &range).await;
    check_recovers(&[Act::Cut(100_000), Act::Status(416, None)], &[0], &range).await;
}

#[tokio::test]
async fn overload_is_waited_out() {
    check_recovers(&[Act::Status(503, None), Act::Status(500, None)], &[], &[]).await;
    check_recovers(&[Act::Status(429, Some(("retry-after", "0".to_owned())))], &[], &[]).await;
}

#[tokio::test]
async fn a_registry_that_vanishes_leaves_what_has_arrived_for_the_next_pull() {
    let sample = Sample::new(&[300_000]);
    let (fake, folder) = (registry_with(&sample).await, folder());
    // The disk index is here already: of several blobs on their way, any could be the first to fail.
    folder.store.put(&sample.blobs[2]).unwrap();
    fake.break_next(1, "GET", Digest::sha256(sample.pack(0)), Act::Vanish(100_000));
    let error = pull_web(&fake, &folder, &Notes::default()).await.unwrap_err();
    assert!(error.request().is_some_and(RequestError::is_unreachable), "{}", chain(&error));
    assert!(
        matches!(error, PullError::Interrupted { have: 100_000, wanted: 300_000, .. }),
        "{}",
        chain(&error)
    );
    assert_eq!(folder.store.references().unwrap(), []);

    let (fake, notes) = (registry_with(&sample).await, Notes::default());
    let pulled = pull_web(&fake, &folder, &notes).await.unwrap();
    assert_eq!(notes.told().started_at, [100_000]);
    assert_eq!(
        (pulled.fetched_blobs, pulled.fetched_bytes),
        (1, 200_000),
        "config, policy and index are here"
    );
    sample.check_in_store(&folder.store, &fake.reference("web:1").to_string());
}

#[tokio::test]
async fn what_an_earlier_pull_left_is_not_believed() {
    let sample = Sample::new(&[300_000]);
    let (fake, folder, notes) = (registry_with(&sample).await, folder(), Notes::default());
    let mut damaged = folder.store.partial(blob(sample.pack(0))).unwrap();
    damaged.append(&noise(100_000)).unwrap();
    drop(damaged);
    pull_web(&fake, &folder, &notes).await.unwrap();
    assert_eq!((notes.told().started_at, notes.told().resumed_at), (vec![100_000], vec![0]));
    sample.check_in_store(&folder.store, &fake.reference("web:1").to_string());
}

/// With requests for the pack always going wrong like this, the pull fails with `want`, after so many of them.
async fn check_fails(act: Act, want_requests: usize, want: &str) {
    let sample = Sample::new(&[300_000]);
    let (fake, folder) = (registry_with(&sample).await, folder());
    let pack = Digest::sha256(sample.pack(0));
    fake.break_next(usize::MAX, "GET", pack, act);
    let error = pull_web(&fake, &folder, &Notes::default()).await.unwrap_err();
    let text = chain(&error).replace(&pack.to_string(), "PACK").replace(&fake.host(), "HOST");
    assert_eq!(text, want);
    let requests = fake.take_requests();
    let requests = requests.iter().filter(|request| request.contains(&pack.to_string()));
    assert_eq!(requests.count(), want_requests);
    assert_eq!(folder.store.references().unwrap(), [], "nothing incomplete gets a name");
    assert!(!folder.store.contains(&pack));
    // With the registry whole again, the same pull succeeds.
    let fake = registry_with(&sample).await;
    pull_web(&fake, &folder, &Notes::default()).await.unwrap();
    sample.check_in_store(&folder.store, &fake.reference("web:1").to_string());
}

#[tokio::test]
async fn what_is_wrong_is_refused_at_once() {
    let corrupt = Digest::sha256(&noise(300_000).iter().map(|byte| !byte).collect::<Vec<_>>());
    check_fails(
        Act::Corrupt,
        1,
        &format!("the registry sent blob PACK with digest {corrupt} and 300000 bytes; PACK was promised"),
    )
    .await;
    check_fails(Act::Endless, 1, "the registry sends more than the 300000 bytes that blob PACK has").await;
    check_fails(Act::Longer(1), 1, "blob PACK has 300001 bytes; its descriptor says 300000").await;
    check_fails(Act::Status(404, None), 1, "the registry has no blob PACK").await;
    check_fails(Act::Status(400, None), 1, "the registry answers 400 for blob PACK: no explanation").await;
    check_fails(
        Act::Status(403, None),
        1,
        "the registry HOST does not allow access to blob PACK: no explanation",
    )
    .await;
}

#[tokio::test]
async fn what_may_pass_is_tried_again_and_given_up_in_the_end() {
    let arrived = |bytes: u64| {
        format!("{bytes} of 300000 bytes of blob PACK have arrived; they are kept for the next attempt")
    };
    check_fails(
        Act::Status(503, None),
        4,
        &format!("{}: the registry at http://HOST answers 503", arrived(0)),
    )
    .await;
    let short = "the registry ended blob PACK after 1000 of 300000 bytes";
    check_fails(Act::Truncate(0), 4, &format!("{}: {}", arrived(0), short.replace("1000", "0"))).await;
}

#[tokio::test]
async fn a_registry_that_says_nothing_is_not_waited_for_forever() {
    let sample = Sample::new(&[1000]);
    let (fake, folder) = (registry_with(&sample).await, folder());
    fake.break_next(usize::MAX, "GET", Digest::sha256(sample.pack(0)), Act::Silence);
    let client =
        client_with(ClientOptions { idle_timeout: Duration::from_millis(20), ..ClientOptions::default() });
    let error = client.pull(&fake.reference("web:1"), &folder.store, PLATFORM, &Silent).await.unwrap_err();
    assert!(matches!(error.request(), Some(RequestError::Stalled { .. })), "{}", chain(&error));
}

#[tokio::test]
async fn a_registry_that_is_not_there_is_unreachable() {
    let fake = Fake::start().await;
    let (reference, folder) = (fake.reference("web:1"), folder());
    drop(fake);
    let error = loop {
        // The listener ends with its task, which ends soon.
        let error = client().pull(&reference, &folder.store, PLATFORM, &Silent).await.unwrap_err();
        match error.request() {
            Some(RequestError::Unreachable { .. }) => break error,
            _ => tokio::task::yield_now().await,
        }
    };
    let want = format!("cannot reach the registry at http://{}: ", reference.host().unwrap());
    assert!(chain(&error).starts_with(&want), "{}", chain(&error));
    let local = client().pull(&"web:1".parse().unwrap(), &folder.store, PLATFORM, &Silent).await.unwrap_err();
    assert_eq!(
        local.to_string(),
        "`web:1` names no registry; expected HOST/NAME, such as localhost:5000/web:1"
    );
}

/// With `root` as what the tag names, the pull fails with `want` before any blob is asked for.
async fn check_root(root: &[u8], platform: &str, want: &str) {
    let (fake, folder) = (Fake::start().await, folder());
    Sample::new(&[1000]).put_in(&fake, "web", "0");
    fake.add_manifest("web", Some("1"), media_type::INDEX, root);
    let reference = fake.reference("web:1");
    let error = client().pull(&reference, &folder.store, platform, &Silent).await.unwrap_err();
    let text = chain(&error).replace(&reference.to_string(), "REF");
    assert!(text.starts_with(want), "{text}");
    assert!(fake.take_requests().iter().all(|request| !request.contains("/blobs/")));
    assert_eq!(folder.store.references().unwrap(), []);
}

#[tokio::test]
async fn what_is_no_appliance_for_this_platform_is_refused_before_its_blobs_move() {
    let sample = Sample::new(&[1000]);
    let descriptor = json!({ "mediaType": "x/y", "digest": Digest::sha256(b"x"), "size": 1 });
    let image = json!({
        "schemaVersion": 2, "mediaType": media_type::MANIFEST, "config": descriptor, "layers": [descriptor],
    });
    let both = json!({ "schemaVersion": 2, "config": descriptor, "layers": [], "manifests": [] });
    let empty = json!({ "schemaVersion": 2, "manifests": [] });
    let bytes = |json| serde_json::to_vec(&json).unwrap();
    check_root(
        &sample.index,
        "linux/arm64",
        "REF cannot be used: the appliance is not there for linux/arm64; it is for linux/amd64",
    )
    .await;
    check_root(
        &bytes(image),
        PLATFORM,
        "REF cannot be used: this is not an appliance: its artifact type is `x/y`",
    )
    .await;
    check_root(&bytes(empty), PLATFORM, "REF cannot be used: the index lists no appliance").await;
    let cannot = "what REF names cannot be used: ";
    check_root(&bytes(both), PLATFORM, &format!("{cannot}it could be read as a manifest and as an index"))
        .await;
    check_root(b"<html>", PLATFORM, &format!("{cannot}it is not as the OCI image specification says")).await;
    let huge = vec![b' '; (4 << 20) + 1];
    check_root(
        &huge,
        PLATFORM,
        "the registry's answer for REF breaks the protocol: found more than 4194304 bytes",
    )
    .await;
}

#[tokio::test]
async fn a_manifest_for_another_platform_than_the_index_says_is_refused() {
    let sample = Sample::new(&[1000]);
    let fake = registry_with(&sample).await;
    let folder = folder();
    let reference = fake.reference("web").with_digest(Digest::sha256(&sample.manifest));
    let error = client().pull(&reference, &folder.store, "linux/arm64", &Silent).await.unwrap_err();
    let want = "cannot be used: the appliance is not there for linux/arm64; it is for linux/amd64";
    assert!(chain(&error).ends_with(want), "{}", chain(&error));
    assert!(!folder.store.contains(&Digest::sha256(sample.pack(0))), "no pack has moved");
}

#[tokio::test]
async fn a_manifest_that_is_not_what_the_index_promises_is_refused() {
    let sample = Sample::new(&[1000]);
    let (fake, folder) = (registry_with(&sample).await, folder());
    fake.break_next(1, "GET", Digest::sha256(&sample.manifest), Act::Corrupt);
    let error = pull_web(&fake, &folder, &Notes::default()).await.unwrap_err();
    assert!(matches!(error, PullError::WrongDigest { .. }), "{}", chain(&error));
    fake.break_next(1, "GET", "manifests/1", Act::Corrupt);
    let error = pull_web(&fake, &folder, &Notes::default()).await.unwrap_err();
    assert!(
        matches!(error, PullError::WrongDigest { .. }),
        "the header promises a digest: {}",
        chain(&error)
    );
}

#[tokio::test]
async fn descriptors_that_lie_about_sizes_are_refused() {
    let sample = Sample::new(&[1000]);
    let lie = |digest: Digest, size: u64| {
        let mut json: serde_json::Value = serde_json::from_slice(&sample.manifest).unwrap();
        let mut layers = json["layers"].as_array().unwrap().clone();
        layers.push(json["config"].clone());
        let layer = layers.iter_mut().find(|layer| layer["digest"] == json!(digest)).unwrap();
        layer["size"] = json!(size);
        json["config"] = layers.pop().unwrap();
        json["layers"] = layers.into();
        Sample::of_manifest(serde_json::to_vec(&json).unwrap(), sample.blobs.clone())
    };
    let pack = Digest::sha256(sample.pack(0));
    let config = Digest::sha256(&sample.blobs[0]);
    let rows = [
        (pack, 1001, "its descriptor says 1001"),
        (pack, 999, "its descriptor says 999"),
        (config, 1 << 40, "at most 4194304 are accepted"),
    ];
    for (digest, size, want) in rows {
        let (fake, folder) = (registry_with(&lie(digest, size)).await, folder());
        let error = pull_web(&fake, &folder, &Notes::default()).await.unwrap_err();
        assert!(error.to_string().ends_with(want), "{}", chain(&error));
    }
    let (fake, folder) = (registry_with(&lie(pack, 999)).await, folder());
    folder.store.put(sample.pack(0)).unwrap();
    let error = pull_web(&fake, &folder, &Notes::default()).await.unwrap_err();
    assert!(error.to_string().ends_with("its descriptor says 999"), "{}", chain(&error));
}

#[test]
fn pulls_and_pushes_may_run_on_any_thread() {
    fn check<T: Send>(_: T) {}
    let (client, folder, reference) = (client(), folder(), "localhost:1/web".parse().unwrap());
    check(client.pull(&reference, &folder.store, PLATFORM, &Silent));
    check(client.push(&reference, &folder.store, &Silent));
}

/// A small file system of its own, as long as this lives.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount(bytes: usize) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let size = format!("size={bytes}");
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(folder.path()).output();
        mounted.is_ok_and(|output| output.status.success()).then(|| Self(folder))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

#[tokio::test]
async fn a_full_disk_is_named_and_the_pull_goes_on_when_there_is_space() {
    let Some(small) = SmallDisk::mount(200_000) else {
        eprintln!("skipped: mounting a small file system needs root");
        return;
    };
    let sample = Sample::new(&[300_000]);
    let fake = registry_with(&sample).await;
    let store = LocalStore::open(small.0.path().join("store")).unwrap();
    let error = client().pull(&fake.reference("web:1"), &store, PLATFORM, &Silent).await.unwrap_err();
    assert!(matches!(error, PullError::DiskFull { .. }), "{}", chain(&error));
    assert_eq!(store.references().unwrap(), []);
    let status = Command::new("mount").args(["-o", "remount,size=2m"]).arg(small.0.path()).status();
    assert!(status.unwrap().success());
    client().pull(&fake.reference("web:1"), &store, PLATFORM, &Silent).await.unwrap();
    sample.check_in_store(&store, &fake.reference("web:1").to_string());
}

#[tokio::test]
async fn tags_are_listed_page_by_page_and_a_tag_is_resolved_without_fetching() {
    let sample = Sample::new(&[10]);
    let fake = Fake::start().await;
    for tag in ["1", "2", "3", "4", "5"] {
        sample.put_in(&fake, "team/web", tag);
    }
    let reference = fake.reference("team/web:3");
    assert_eq!(client().tags(&reference).await.unwrap(), ["1", "2", "3", "4", "5"]);
    let resolved = client().resolve(&reference).await.unwrap();
    assert_eq!(
        (resolved.digest, resolved.media_type.as_str()),
        (Digest::sha256(&sample.index), media_type::INDEX)
    );
    let error = client().resolve(&fake.reference("team/web:9")).await.unwrap_err();
    assert!(matches!(error, RequestError::NotFound { .. }), "{error}");
}

#[tokio::test]
async fn two_pulls_of_the_same_share_the_work() {
    let sample = Sample::new(&[300_000, 200_000]);
    let (fake, folder) = (registry_with(&sample).await, folder());
    let (first, second) = (Notes::default(), Notes::default());
    let (one, two) = tokio::join!(pull_web(&fake, &folder, &first), pull_web(&fake, &folder, &second));
    assert_eq!(one.unwrap().fetched_bytes + two.unwrap().fetched_bytes, sample.bytes());
    sample.check_in_store(&folder.store, &fake.reference("web:1").to_string());
}
