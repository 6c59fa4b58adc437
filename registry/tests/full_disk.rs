//! What happens when the disk is full. A file of its own: it starts `mount`, and a process that is being
//! started holds, for a moment, the lock of every storage that other tests have open.

mod common;

use std::sync::Arc;

use appliance::Digest;
use blob_store::FolderStorage;
use common::{Client, Registry, noise};
use registry::Limits;

#[test]
fn a_full_disk_is_said_and_everything_else_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let mounted = std::process::Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=24m", "tmpfs"])
        .arg(folder.path())
        .status();
    if !mounted.is_ok_and(|status| status.success()) {
        eprintln!("skipped: cannot mount a tmpfs here");
        return;
    }
    let storage = Arc::new(FolderStorage::open(folder.path()).unwrap());
    let registry = Registry::configured(storage, Limits::default(), |config| {
        config.operations = Some("127.0.0.1:0".parse().unwrap());
    });
    let is_ready = || Client::new(registry.operations_addr.unwrap()).get("/readyz");
    is_ready().expect(200);
    let mut client = registry.client();
    let small = client.push_blob("web", b"small");
    let large = noise(8, 32 << 20);
    let digest = Digest::sha256(&large);
    let post = format!("/v2/web/blobs/uploads/?digest={digest}");
    client.send("POST", &post, &[], &large).expect_error(507, "NO_SPACE");
    client.get(&format!("/v2/web/blobs/{digest}")).expect(404);
    assert_eq!(client.get(&format!("/v2/web/blobs/{small}")).expect(200).body, b"small");
    // What had arrived was given up, so there is space again.
    is_ready().expect(200);
    let medium = noise(9, 10 << 20);
    let digest = client.push_blob("web", &medium);
    assert!(client.get(&format!("/v2/web/blobs/{digest}")).expect(200).body == medium);
    // A little is left, and new pushes had better go elsewhere.
    assert_eq!(is_ready().expect(503).body, b"no space is left in the storage\n");
    drop(registry);
    assert!(std::process::Command::new("umount").arg(folder.path()).status().unwrap().success());
}
