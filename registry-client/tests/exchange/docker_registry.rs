//! The same with somebody else's registry: Debian's `docker-registry`.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use appliance::{Digest, Reference};
use registry_client::{HistoryError, RequestError, Silent};

use crate::sample::{Notes, PLATFORM, Sample, chain, client, folder};

/// A registry, as long as this lives.
struct DockerRegistry {
    child: Child,
    host: String,
}

impl Drop for DockerRegistry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl DockerRegistry {
    async fn start(folder: &Path) -> Option<Self> {
        // It cannot say which port it chose, so one is chosen for it.
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let host = format!("127.0.0.1:{port}");
        let config = folder.join("config.yml");
        let text = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: \"{host}\"}}\n",
            folder.join("data").display(),
        );
        std::fs::write(&config, text).unwrap();
        let mut command = Command::new("docker-registry");
        command.arg("serve").arg(&config).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut registry = match command.spawn() {
            Ok(child) => Self { child, host },
            Err(error) => {
                eprintln!("skipped: cannot run docker-registry: {error}");
                return None;
            }
        };
        while tokio::net::TcpStream::connect(&registry.host).await.is_err() {
            assert_eq!(registry.child.try_wait().unwrap(), None, "docker-registry has ended");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Some(registry)
    }

    fn reference(&self, rest: &str) -> Reference {
        format!("{}/{rest}", self.host).parse().unwrap()
    }
}

#[tokio::test]
async fn an_appliance_survives_a_foreign_registry() {
    let here = folder();
    let Some(registry) = DockerRegistry::start(here.path.path()).await else { return };
    let old = Sample::new(&[3_000_000, (16 << 20) + 12_345]);
    let new = Sample::new(&[3_000_000, (16 << 20) + 12_345, 70_000]);
    let (one, two) = (registry.reference("team/web:1"), registry.reference("team/web:2"));
    old.put_in_store(&here.store, &one.to_string());
    new.put_in_store(&here.store, &two.to_string());

    let pushed = client().push(&one, &here.store, &Silent).await.unwrap();
    assert_eq!((pushed.uploaded_blobs, pushed.digest), (5, Digest::sha256(&old.index)));
    let pushed = client().push(&two, &here.store, &Silent).await.unwrap();
    assert_eq!((pushed.uploaded_blobs, pushed.uploaded_bytes), (1, 70_000));
    let mut tags = client().tags(&one).await.unwrap();
    tags.sort();
    assert_eq!(tags, ["1", "2"]);
    assert_eq!(client().resolve(&two).await.unwrap().digest, Digest::sha256(&new.index));

    let there = folder();
    client().pull(&one, &there.store, PLATFORM, &Silent).await.unwrap();
    old.check_in_store(&there.store, &one.to_string());
    // A pull that was broken off goes on with a range request.
    let pack = new.pack(2);
    let mut partial = there.store.partial(crate::sample::blob(pack)).unwrap();
    partial.append(&pack[..30_000]).unwrap();
    drop(partial);
    let notes = Notes::default();
    let pulled = client().pull(&two, &there.store, PLATFORM, &notes).await.unwrap();
    assert_eq!((pulled.fetched_blobs, pulled.fetched_bytes), (1, 40_000));
    assert_eq!((notes.told().started_at, notes.told().resumed_at), (vec![30_000], vec![]));
    new.check_in_store(&there.store, &two.to_string());
}

#[tokio::test]
async fn a_foreign_registry_mounts_what_another_repository_has() {
    let here = folder();
    let Some(registry) = DockerRegistry::start(here.path.path()).await else { return };
    let (old, new) = (Sample::new(&[300_000]), Sample::new(&[300_000, 70_000]));
    let (one, two, never) =
        (registry.reference("team/web:1"), registry.reference("other:1"), registry.reference("a:1"));
    old.put_in_store(&here.store, &one.to_string());
    new.put_in_store(&here.store, &two.to_string());
    client().push(&one, &here.store, &Silent).await.unwrap();
    let pushed = client().push(&two, &here.store, &Silent).await.unwrap();
    assert_eq!((pushed.uploaded_blobs, pushed.uploaded_bytes, pushed.present_blobs), (1, 70_000, 4));
    // The store's first guess is `a`, which the registry has never heard of.
    new.put_in_store(&here.store, &never.to_string());
    let third = registry.reference("b:1");
    new.put_in_store(&here.store, &third.to_string());
    let pushed = client().push(&third, &here.store, &Silent).await.unwrap();
    assert_eq!(pushed.uploaded_blobs, 5);
    let there = folder();
    client().pull(&two, &there.store, PLATFORM, &Silent).await.unwrap();
    new.check_in_store(&there.store, &two.to_string());
}

#[tokio::test]
async fn a_foreign_registry_keeps_no_history() {
    let here = folder();
    let Some(registry) = DockerRegistry::start(here.path.path()).await else { return };
    let (tag, nothing) = (registry.reference("team/web:1"), registry.reference("team/web:2"));
    Sample::new(&[1000]).put_in_store(&here.store, &tag.to_string());
    client().push(&tag, &here.store, &Silent).await.unwrap();
    let error = client().history(&tag).await.unwrap_err();
    assert!(matches!(error, HistoryError::NotKept { .. }), "{error}");
    assert_eq!(chain(&error), format!("the registry keeps no history of `{tag}`; only hull's own does"));
    let error = client().history(&nothing).await.unwrap_err();
    assert!(matches!(error, HistoryError::Request(RequestError::NotFound { .. })), "{error}");
}
