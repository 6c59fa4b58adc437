//! What happens when the disk is full. A file of its own: it starts `mount`, and a process that is being
//! started holds, for a moment, the lock of every storage that other tests have open.

mod common;

use std::sync::Arc;

use appliance::Digest;
use blob_store::FolderStorage;
use common::{Registry, noise};
use registry::Limits;

#[test]
fn a_full_disk_is_said_and_everything_else_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let mounted = std::process::Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=4m", "tmpfs"])
        .arg(folder.path())
        .status();
    if !mounted.is_ok_and(|status| status.success()) {
        eprintln!("skipped: cannot mount a tmpfs here");
        return;
    }
    let registry = Registry::start(Arc::new(FolderStorage::open(folder.path()).unwrap()), Limits::default());
    let mut client = registry.client();
    let small = client.push_blob("web", b"small");
    let large = noise(8, 8 << 20);
    let digest = Digest::sha256(&large);
    let post = format!("/v2/web/blobs/uploads/?digest={digest}");
    client.send("POST", &post, &[], &large).expect_error(507, "NO_SPACE");
    client.get(&format!("/v2/web/blobs/{digest}")).expect(404);
    assert_eq!(client.get(&format!("/v2/web/blobs/{small}")).expect(200).body, b"small");
    // What had arrived was given up, so there is space again.
    let medium = noise(9, 2 << 20);
    let digest = client.push_blob("web", &medium);
    assert!(client.get(&format!("/v2/web/blobs/{digest}")).expect(200).body == medium);
    drop(registry);
    assert!(std::process::Command::new("umount").arg(folder.path()).status().unwrap().success());
}
