//! Pushing, to registries that work and to registries that do not.

use appliance::manifest::{ApplianceIndex, PlatformManifest};
use appliance::{Digest, media_type};
use registry_client::{PushError, Pushed, RequestError, Silent};

use crate::fake::{Act, Fake};
use crate::sample::{Folder, Notes, PLATFORM, Sample, blob, chain, client, folder};

/// The client's chunk size.
const CHUNK: usize = 16 << 20;

/// A registry without anything, and a store with `sample` as its `web:1`.
async fn store_with(sample: &Sample) -> (Fake, Folder) {
    let (fake, folder) = (Fake::start().await, folder());
    sample.put_in_store(&folder.store, &fake.reference("web:1").to_string());
    (fake, folder)
}

async fn push_web(fake: &Fake, folder: &Folder, notes: &Notes) -> Result<Pushed, PushError> {
    client().push(&fake.reference("web:1"), &folder.store, notes).await
}

/// So that it is the pack's upload that goes wrong.
fn add_all_but_pack(fake: &Fake, sample: &Sample) {
    for blob in &sample.blobs[..3] {
        fake.add_blob(blob.clone());
    }
}

#[track_caller]
fn check_in_registry(fake: &Fake, sample: &Sample) {
    for blob in &sample.blobs {
        assert!(fake.has_blob(&Digest::sha256(blob)));
    }
    assert!(fake.manifest(&format!("web/{}", Digest::sha256(&sample.manifest))).unwrap() == sample.manifest);
    assert!(fake.manifest("web/1").unwrap() == sample.index);
}

#[tokio::test]
async fn an_appliance_gets_there_whole_and_its_tag_comes_last() {
    let sample = Sample::new(&[300_000, 2_000_000, CHUNK + 1_000_000]);
    let (fake, here) = store_with(&sample).await;
    let notes = Notes::default();
    let pushed = push_web(&fake, &here, &notes).await.unwrap();
    assert_eq!((pushed.uploaded_blobs, pushed.uploaded_bytes), (6, sample.bytes()));
    assert_eq!((notes.told().moved, notes.told().finished), (sample.bytes(), 6));
    check_in_registry(&fake, &sample);
    let requests = fake.take_requests();
    let manifest = format!("PUT /v2/web/manifests/{}", Digest::sha256(&sample.manifest));
    assert_eq!(requests[requests.len() - 2..], [manifest, "PUT /v2/web/manifests/1".to_owned()]);

    let elsewhere = folder();
    client().pull(&fake.reference("web:1"), &elsewhere.store, PLATFORM, &Silent).await.unwrap();
    sample.check_in_store(&elsewhere.store, &fake.reference("web:1").to_string());
}

#[tokio::test]
async fn what_the_registry_has_is_not_sent_again() {
    let (old, new) = (Sample::new(&[300_000]), Sample::new(&[300_000, 50_000]));
    let (fake, folder) = store_with(&old).await;
    push_web(&fake, &folder, &Notes::default()).await.unwrap();
    new.put_in_store(&folder.store, &fake.reference("web:1").to_string());
    let pushed = push_web(&fake, &folder, &Notes::default()).await.unwrap();
    assert_eq!((pushed.uploaded_blobs, pushed.uploaded_bytes, pushed.present_blobs), (1, 50_000, 4));
    check_in_registry(&fake, &new);
    fake.take_seen();
    let pushed = push_web(&fake, &folder, &Notes::default()).await.unwrap();
    assert_eq!(pushed.uploaded_blobs, 0);
    assert!(fake.take_requests().iter().all(|request| !request.contains("/uploads/")));
}

/// A pack of this size gets there although uploads go wrong like this; says at which bytes it went on.
async fn check_recovers(size: usize, faults: &[(&'static str, Act)], want_resumed: &[u64]) {
    let sample = Sample::new(&[size]);
    let (fake, folder) = store_with(&sample).await;
    add_all_but_pack(&fake, &sample);
    for (method, act) in faults {
        fake.break_next(1, method, "/uploads/", act.clone());
    }
    let notes = Notes::default();
    push_web(&fake, &folder, &notes).await.unwrap();
    check_in_registry(&fake, &sample);
    assert_eq!(notes.told().resumed_at, want_resumed, "{:?}", notes.told().failures);
}

#[tokio::test]
async fn an_upload_goes_on_where_the_registry_says() {
    let large = CHUNK + 2_000_000;
    check_recovers(large, &[("PATCH", Act::CutUpload(5_000_000))], &[5_000_000]).await;
    check_recovers(large, &[("PATCH", Act::CutAfter)], &[CHUNK as u64]).await;
    check_recovers(large, &[("PATCH", Act::Status(503, None))], &[0]).await;
    check_recovers(large, &[("PATCH", Act::ForgetUpload)], &[0]).await;
    let cut_then_lost = [("PATCH", Act::CutUpload(5_000_000)), ("GET", Act::Status(404, None))];
    check_recovers(large, &cut_then_lost, &[0]).await;
    check_recovers(1000, &[("POST", Act::Status(500, None))], &[]).await;
    check_recovers(1000, &[("POST", Act::Status(400, None))], &[]).await; // a mount, for Quay
    check_recovers(1000, &[("PUT", Act::Status(429, None))], &[0]).await;
}

#[tokio::test]
async fn an_upload_that_was_finished_unheard_is_not_sent_again() {
    check_recovers(1000, &[("PUT", Act::CutAfter)], &[]).await;
    check_recovers(2_000_000, &[("PUT", Act::CutAfter)], &[]).await;
}

#[tokio::test]
async fn a_registry_that_refuses_or_fails_leaves_the_tag_as_it_was() {
    let rows = [
        ("POST", Act::Status(403, None), "does not allow access to the upload of blob PACK: no explanation"),
        (
            "PATCH",
            Act::Status(413, None),
            "the registry answers 413 for the upload of blob PACK: no explanation",
        ),
        ("PATCH", Act::Status(502, None), "the registry at http://HOST answers 502"),
        (
            "PUT",
            Act::Status(400, None),
            "the registry answers 400 for the upload of blob PACK: no explanation",
        ),
    ];
    for (method, act, want) in rows {
        let sample = Sample::new(&[2_000_000]);
        let (fake, folder) = store_with(&sample).await;
        add_all_but_pack(&fake, &sample);
        fake.break_next(usize::MAX, method, "/uploads/", act);
        let error = push_web(&fake, &folder, &Notes::default()).await.unwrap_err();
        let pack = Digest::sha256(sample.pack(0)).to_string();
        let text = chain(&error).replace(&pack, "PACK").replace(&fake.host(), "HOST");
        assert!(text.starts_with("blob PACK did not get there: ") && text.ends_with(want), "{text}");
        assert_eq!(fake.manifest("web/1"), None);
    }
}

#[tokio::test]
async fn an_upload_elsewhere_gets_no_credentials() {
    let sample = Sample::new(&[2_000_000]);
    let (fake, folder) = store_with(&sample).await;
    let elsewhere = Fake::start().await;
    fake.guard(crate::fake::Guard::Basic);
    fake.break_next(usize::MAX, "POST", "/uploads/", Act::UploadAt(elsewhere.url("/v2/x/blobs/uploads/1")));
    let client = crate::sample::client_with(registry_client::ClientOptions {
        credentials: std::sync::Arc::new(registry_client::credentials::Credential::password("me", "pw")),
        ..Default::default()
    });
    // The other place knows of no such upload; what matters is what it is told.
    client.push(&fake.reference("web:1"), &folder.store, &Silent).await.unwrap_err();
    let seen = elsewhere.take_seen();
    assert!(!seen.is_empty());
    assert!(seen.iter().all(|seen| !seen.headers.contains_key("authorization")), "{seen:?}");
}

#[tokio::test]
async fn only_what_is_complete_can_be_pushed() {
    let sample = Sample::new(&[1000]);
    let (fake, folder) = store_with(&sample).await;
    let reference = fake.reference("web:1");
    let other = b"another platform's manifest";
    let entries = [(PLATFORM, sample.manifest.as_slice()), ("linux/arm64", other)];
    let appliances = entries.map(|(platform, manifest)| PlatformManifest {
        platform: platform.to_owned(),
        manifest: blob(manifest),
    });
    let index = folder.store.put(&ApplianceIndex { appliances: appliances.into() }.to_bytes()).unwrap();
    folder.store.tag(&reference, &index.digest).unwrap();
    let error = push_web(&fake, &folder, &Notes::default()).await.unwrap_err();
    assert!(
        matches!(error, PushError::Incomplete { manifest, .. } if manifest == Digest::sha256(other)),
        "{error}"
    );

    fake.add_manifest("web", None, media_type::MANIFEST, other);
    push_web(&fake, &folder, &Notes::default()).await.unwrap();

    let unknown = client().push(&fake.reference("web:2"), &folder.store, &Silent).await.unwrap_err();
    assert!(matches!(unknown, PushError::Store(_)), "{unknown}");
    folder.store.tag(&reference, &Digest::sha256(sample.pack(0))).unwrap();
    let error = push_web(&fake, &folder, &Notes::default()).await.unwrap_err();
    assert!(matches!(error, PushError::Document { .. }), "{error}");
}

#[tokio::test]
async fn a_registry_that_rewrites_a_manifest_is_caught() {
    let sample = Sample::new(&[1000]);
    let (fake, folder) = store_with(&sample).await;
    let other = Digest::sha256(b"other").to_string();
    let act = Act::Status(201, Some(("docker-content-digest", other)));
    fake.break_next(1, "PUT", "/manifests/1", act);
    let error = push_web(&fake, &folder, &Notes::default()).await.unwrap_err();
    assert!(matches!(error.request(), Some(RequestError::Protocol { .. })), "{error}");
}
