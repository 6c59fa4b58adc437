//! Registries that keep their blobs elsewhere, and registries that only pretend to.

use std::sync::Arc;

use appliance::Digest;
use registry_client::credentials::Credential;
use registry_client::{ClientOptions, PullError, Silent};

use crate::fake::{Act, Fake, Guard};
use crate::sample::{PLATFORM, Sample, chain, client, client_with, folder};

/// A registry that sends whoever wants the sample's pack to `location`.
async fn redirecting(sample: &Sample, location: String) -> Fake {
    let fake = Fake::start().await;
    sample.put_in(&fake, "web", "1");
    let act = Act::Status(307, Some(("location", location)));
    fake.break_next(usize::MAX, "GET", Digest::sha256(sample.pack(0)), act);
    fake
}

#[tokio::test]
async fn a_blob_elsewhere_is_fetched_without_credentials_and_with_its_range() {
    let sample = Sample::new(&[300_000]);
    let elsewhere = Fake::start().await;
    let pack = elsewhere.add_blob(sample.pack(0).to_vec());
    elsewhere.break_next(1, "GET", pack, Act::Cut(100_000));
    let fake = redirecting(&sample, elsewhere.url(&format!("/v2/x/blobs/{pack}?signature=1"))).await;
    fake.guard(Guard::Basic);
    let credentials = Arc::new(Credential::password("me", "pw"));
    let client = client_with(ClientOptions { credentials, ..ClientOptions::default() });
    let folder = folder();
    client.pull(&fake.reference("web:1"), &folder.store, PLATFORM, &Silent).await.unwrap();
    sample.check_in_store(&folder.store, &fake.reference("web:1").to_string());

    let seen = elsewhere.take_seen();
    assert_eq!(seen.len(), 2);
    assert!(seen.iter().all(|seen| !seen.headers.contains_key("authorization")), "{seen:?}");
    assert_eq!(seen[1].headers["range"], "bytes=100000-299999");
}

#[tokio::test]
async fn a_guarded_place_elsewhere_does_not_get_the_password_by_asking_for_it() {
    let sample = Sample::new(&[1000]);
    let elsewhere = Fake::start().await;
    elsewhere.guard(Guard::Basic);
    let fake = redirecting(&sample, elsewhere.url("/v2/x/blobs/y")).await;
    let credentials = Arc::new(Credential::password("me", "pw"));
    let client = client_with(ClientOptions { credentials, ..ClientOptions::default() });
    client.pull(&fake.reference("web:1"), &folder().store, PLATFORM, &Silent).await.unwrap_err();
    let seen = elsewhere.take_seen();
    assert!(seen.iter().all(|seen| !seen.headers.contains_key("authorization")), "{seen:?}");
}

async fn check_refused(location: &str, want: &str) {
    let sample = Sample::new(&[1000]);
    let fake = redirecting(&sample, location.to_owned()).await;
    let error =
        client().pull(&fake.reference("web:1"), &folder().store, PLATFORM, &Silent).await.unwrap_err();
    assert!(matches!(error, PullError::Request(_)), "{error}");
    assert!(chain(&error).ends_with(want), "{}", chain(&error));
}

#[tokio::test]
async fn redirects_to_nowhere_are_not_followed() {
    check_refused("file:///etc/passwd", "to null/etc/passwd: only http and https are followed").await;
    check_refused("http://[", "to http://[: that is not a URL").await;
    check_refused("http://u:p@127.0.0.1:1/x", "to http://127.0.0.1:1/x: an address must not hold a login")
        .await;
    let elsewhere = "http://registry.example/x";
    check_refused(
        elsewhere,
        "registry.example is not this machine, so it is spoken to in https only; found http",
    )
    .await;
    check_refused("?again", "found more than 5 redirects, expected an answer").await;
}
