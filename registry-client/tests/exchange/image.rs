//! Container images fetched to be looked into, from registries that work and from registries that do not.

use std::fs::read_dir;
use std::io::{Read as _, Seek as _};

use appliance::{Digest, media_type};
use registry_client::{ClientOptions, FetchImageError, FetchedImage, RequestError, Silent};
use serde_json::{Value, json};

use crate::fake::{Act, Fake};
use crate::sample::{Notes, chain, client, client_with, noise};

const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";
const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
const MOST_BYTES: u64 = 1 << 20;

fn descriptor(media_type: &str, bytes: &[u8]) -> Value {
    json!({ "mediaType": media_type, "digest": Digest::sha256(bytes), "size": bytes.len() })
}

/// A manifest of an image with these layers, whose blobs `fake` has.
fn manifest(fake: &Fake, kinds: [&str; 3], architecture: &str, layers: &[&[u8]]) -> Value {
    let [kind, config_kind, layer_kind] = kinds;
    let config = json!({ "architecture": architecture, "os": "linux" }).to_string();
    fake.add_blob(config.clone());
    for layer in layers {
        fake.add_blob(layer.to_vec());
    }
    let layers: Vec<_> = layers.iter().map(|layer| descriptor(layer_kind, layer)).collect();
    json!({
        "schemaVersion": 2, "mediaType": kind,
        "config": descriptor(config_kind, config.as_bytes()), "layers": layers,
    })
}

const OCI: [&str; 3] = [media_type::MANIFEST, OCI_CONFIG, OCI_LAYER];
const DOCKER: [&str; 3] = [DOCKER_MANIFEST, DOCKER_CONFIG, DOCKER_LAYER];

fn put(fake: &Fake, tag: Option<&str>, document: &Value) -> (Vec<u8>, Digest) {
    let bytes = document.to_string().into_bytes();
    let digest = fake.add_manifest("vm", tag, document["mediaType"].as_str().unwrap_or_default(), &bytes);
    (bytes, digest)
}

/// An index of images for these platforms.
fn put_index(fake: &Fake, kind: &str, entries: &[(&Value, Option<(&str, &str)>)]) {
    let entries = entries.iter().map(|(manifest, platform)| {
        let (bytes, _) = put(fake, None, manifest);
        let mut entry = descriptor(manifest["mediaType"].as_str().unwrap(), &bytes);
        if let Some((os, architecture)) = platform {
            entry["platform"] = json!({ "os": os, "architecture": architecture });
        }
        entry
    });
    let index = json!({ "schemaVersion": 2, "mediaType": kind, "manifests": entries.collect::<Vec<_>>() });
    put(fake, Some("1"), &index);
}

/// Fetches `vm:1` for amd64. Nothing has a name in the folder, however it ends.
async fn fetch(fake: &Fake, notes: &Notes) -> Result<FetchedImage, FetchImageError> {
    let folder = tempfile::tempdir().unwrap();
    let bounds = (folder.path(), MOST_BYTES);
    let fetched = client().fetch_image(&fake.reference("vm:1"), "amd64", bounds, notes).await;
    assert_eq!(read_dir(folder.path()).unwrap().count(), 0);
    fetched
}

fn contents(fetched: FetchedImage) -> Vec<Vec<u8>> {
    let read = |mut file: std::fs::File| {
        let mut content = Vec::new();
        file.rewind().unwrap();
        file.read_to_end(&mut content).unwrap();
        content
    };
    fetched.layers.into_iter().map(read).collect()
}

/// `vm:1` is fetched, with these layers.
async fn check_fetched(fake: &Fake, layers: &[&[u8]]) {
    let notes = Notes::default();
    let fetched = fetch(fake, &notes).await.unwrap();
    let config: Value = serde_json::from_slice(&fetched.config).unwrap();
    assert_eq!(config["architecture"], "amd64");
    let bytes = layers.iter().map(|layer| layer.len() as u64).sum();
    let told = notes.told();
    assert_eq!(told.plan.map(|plan| (plan.blobs, plan.bytes)), Some((layers.len(), bytes)));
    assert_eq!((told.finished, told.moved), (layers.len(), bytes));
    assert_eq!(contents(fetched), layers);
}

/// `vm:1` is refused with these words.
async fn check_refused(fake: &Fake, words: &[&str]) -> FetchImageError {
    let error = fetch(fake, &Notes::default()).await.unwrap_err();
    let said = chain(&error);
    for word in words {
        assert!(said.contains(word), "`{word}` is missing: {said}");
    }
    error
}

#[tokio::test]
async fn an_image_is_fetched_whether_oci_or_docker_made_it() {
    let (first, second) = (noise(100_000), noise(50_000));
    let layers: [&[u8]; 3] = [&first, &second, &[]];
    for (kinds, list) in [(OCI, media_type::INDEX), (DOCKER, DOCKER_LIST)] {
        let fake = Fake::start().await;
        let wanted = manifest(&fake, kinds, "amd64", &layers);
        put(&fake, Some("1"), &wanted);
        check_fetched(&fake, &layers).await;
        let accepted = fake.take_seen();
        let accepted = accepted[0].headers.get_all("accept").iter().map(|kind| kind.to_str().unwrap());
        assert_eq!(
            accepted.collect::<Vec<_>>(),
            [media_type::INDEX, media_type::MANIFEST, DOCKER_LIST, DOCKER_MANIFEST]
        );

        let other = manifest(&fake, kinds, "arm64", &[b"other"]);
        let of_windows = manifest(&fake, kinds, "amd64", &[b"windows"]);
        let (amd64, arm64, windows) = (("linux", "amd64"), ("linux", "arm64"), ("windows", "amd64"));
        let entries = [(&other, Some(arm64)), (&of_windows, Some(windows)), (&wanted, Some(amd64))];
        put_index(&fake, list, &entries);
        check_fetched(&fake, &layers).await;
        // The only one is taken, whatever it is for.
        put_index(&fake, list, &[(&wanted, None)]);
        check_fetched(&fake, &layers).await;
        put_index(&fake, list, &[(&wanted, Some(arm64))]);
        check_fetched(&fake, &layers).await;

        put_index(&fake, list, &[(&other, Some(arm64)), (&of_windows, Some(windows))]);
        let error = check_refused(&fake, &["vm:1", "no image for linux/amd64"]).await;
        assert!(matches!(error, FetchImageError::NoPlatform { .. }));
        put_index(&fake, list, &[]);
        check_refused(&fake, &["no image for linux/amd64"]).await;
    }
}

#[tokio::test]
async fn content_that_is_not_what_was_promised_is_refused() {
    let layer = noise(100_000);
    let spoiled = async |spoil: &dyn Fn(&Fake, &mut Value), words: &[&str]| {
        let fake = Fake::start().await;
        let mut document = manifest(&fake, OCI, "amd64", &[&layer]);
        spoil(&fake, &mut document);
        put(&fake, Some("1"), &document);
        check_refused(&fake, words).await
    };
    let digest = Digest::sha256(&layer);
    let corrupt = |fake: &Fake, _: &mut Value| fake.break_next(1, "GET", digest, Act::Corrupt);
    let error = spoiled(&corrupt, &["sent blob", "digest"]).await;
    assert!(matches!(error, FetchImageError::WrongDigest { wanted, .. } if wanted == digest));
    let config = |document: &Value| document["config"]["digest"].as_str().unwrap().to_owned();
    let corrupt_config = |fake: &Fake, document: &mut Value| {
        fake.break_next(1, "GET", config(document), Act::Corrupt);
    };
    let error = spoiled(&corrupt_config, &["digest", "was promised"]).await;
    assert!(matches!(error, FetchImageError::WrongDigest { .. }));
    let sized = |size: u64| move |_: &Fake, document: &mut Value| document["layers"][0]["size"] = size.into();
    spoiled(&sized(99_999), &["100000 bytes", "99999"]).await;
    spoiled(&sized(100_001), &["100000 bytes", "100001"]).await;
    let endless = |fake: &Fake, _: &mut Value| fake.break_next(1, "GET", digest, Act::Endless);
    spoiled(&endless, &["more than 100000 bytes"]).await;
    let longer = |fake: &Fake, _: &mut Value| fake.break_next(1, "GET", digest, Act::Longer(1));
    spoiled(&longer, &["100001 bytes", "100000"]).await;
    let endless_config = |fake: &Fake, document: &mut Value| {
        fake.break_next(1, "GET", config(document), Act::Endless);
    };
    spoiled(&endless_config, &["more than 4194304 bytes"]).await;
    spoiled(&|_, document| document["layers"][0]["digest"] = "sha256:../x".into(), &["no usable digest"])
        .await;
    spoiled(&|_, document| document["layers"][0]["size"] = (-1).into(), &["vm:1", "OCI image"]).await;
    spoiled(&|_, document| drop(document["layers"].take()), &["no container image"]).await;
    spoiled(&|_, document| *document = json!([]), &["OCI image"]).await;
}

#[tokio::test]
async fn a_manifest_that_an_index_leads_to_has_the_digest_that_is_said_there() {
    let fake = Fake::start().await;
    let document = manifest(&fake, OCI, "amd64", &[b"layer"]);
    let (_, digest) = put(&fake, None, &document);
    put_index(&fake, media_type::INDEX, &[(&document, None)]);
    fake.break_next(1, "GET", digest, Act::Corrupt);
    let error = check_refused(&fake, &["digest", "was promised"]).await;
    assert!(matches!(error, FetchImageError::WrongDigest { .. }));
}

#[tokio::test]
async fn an_image_with_too_much_in_it_is_refused_before_any_of_it_moves() {
    for (count, size, words) in [
        (129, 1, ["129 bytes in 129 layers", "in 128"]),
        (1, MOST_BYTES + 1, ["1048577 bytes in 1 layers", "1048576"]),
        (2, u64::MAX, ["18446744073709551615 bytes", "1048576"]),
    ] {
        let fake = Fake::start().await;
        let mut document = manifest(&fake, OCI, "amd64", &[b"x"]);
        document["layers"][0]["size"] = size.into();
        document["layers"] = vec![document["layers"][0].clone(); count].into();
        put(&fake, Some("1"), &document);
        let error = check_refused(&fake, &words).await;
        assert!(matches!(error, FetchImageError::TooLarge { .. }));
        assert_eq!(fake.take_requests(), ["GET /v2/vm/manifests/1"]);
    }
    let fake = Fake::start().await;
    let layers = vec![b"x".as_slice(); 128];
    put(&fake, Some("1"), &manifest(&fake, OCI, "amd64", &layers));
    check_fetched(&fake, &layers).await;
}

/// A layer of 300 000 bytes arrives although the first requests for it go wrong like this.
async fn check_recovers(acts: &[Act], want_resumed: &[u64], want_ranges: &[&str]) {
    let layer = noise(300_000);
    let (fake, notes) = (Fake::start().await, Notes::default());
    put(&fake, Some("1"), &manifest(&fake, OCI, "amd64", &[&layer]));
    let digest = Digest::sha256(&layer);
    acts.iter().for_each(|act| fake.break_next(1, "GET", digest, act.clone()));
    let fetched = fetch(&fake, &notes).await.unwrap();
    assert!(contents(fetched) == [layer]);
    assert_eq!(notes.told().resumed_at, want_resumed);
    let seen = fake.take_seen().into_iter().filter(|seen| seen.path.contains(&digest.to_string()));
    let ranges = seen.filter_map(|seen| Some(seen.headers.get("range")?.to_str().unwrap().to_owned()));
    assert_eq!(ranges.collect::<Vec<_>>(), want_ranges);
}

#[tokio::test]
async fn a_layer_goes_on_where_it_was_cut_or_starts_anew() {
    check_recovers(&[Act::Cut(0)], &[], &[]).await;
    check_recovers(&[Act::Cut(100_000)], &[], &["bytes=100000-299999"]).await;
    let twice = ["bytes=100000-299999", "bytes=150000-299999"];
    check_recovers(&[Act::Cut(100_000), Act::Cut(50_000)], &[], &twice).await;
    check_recovers(&[Act::Truncate(299_999)], &[], &["bytes=299999-299999"]).await;
    let range = ["bytes=100000-299999"];
    check_recovers(&[Act::Cut(100_000), Act::IgnoreRange], &[0], &range).await;
    check_recovers(&[Act::Cut(100_000), Act::Status(416, None)], &[0], &range).await;
    check_recovers(&[Act::Status(503, None)], &[], &[]).await;
    // Whoever goes on with other bytes is found out.
    let layer = noise(300_000);
    let fake = Fake::start().await;
    put(&fake, Some("1"), &manifest(&fake, OCI, "amd64", &[&layer]));
    fake.break_next(1, "GET", Digest::sha256(&layer), Act::Cut(100_000));
    fake.break_next(1, "GET", Digest::sha256(&layer), Act::Corrupt);
    let error = check_refused(&fake, &["digest"]).await;
    assert!(matches!(error, FetchImageError::WrongDigest { .. }));
}

#[tokio::test]
async fn a_registry_that_is_not_there_or_goes_away_is_named() {
    let layer = noise(300_000);
    let fake = Fake::start().await;
    put(&fake, Some("1"), &manifest(&fake, OCI, "amd64", &[&layer]));
    fake.break_next(1, "GET", Digest::sha256(&layer), Act::Vanish(100_000));
    let host = fake.host();
    let error = check_refused(&fake, &[&host]).await;
    assert!(matches!(error, FetchImageError::Request(error) if error.is_unreachable()));

    let fake = Fake::start().await;
    let missing = fetch(&fake, &Notes::default()).await.unwrap_err();
    assert!(matches!(missing, FetchImageError::Request(RequestError::NotFound { .. })));
    let folder = tempfile::tempdir().unwrap();
    let bounds = (folder.path(), MOST_BYTES);
    let client = client_with(ClientOptions::default());
    let nowhere = client.fetch_image(&"vm:1".parse().unwrap(), "amd64", bounds, &Silent).await.unwrap_err();
    assert!(matches!(nowhere, FetchImageError::NoRegistry { .. }));
}
