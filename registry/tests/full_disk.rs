//! What happens when the disk is full. A file of its own: it starts `mount`, and a process that is being
//! started holds, for a moment, the lock of every storage that other tests have open.

mod common;

use std::io::Write as _;
use std::sync::Arc;

use appliance::Digest;
use blob_store::FolderStorage;
use common::{Client, MANIFEST, Registry, manifest, noise};
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

    // Another program takes what is left. Reading and deleting go on.
    let bytes = manifest(b"small", b"small");
    let by_digest = format!("/v2/web/manifests/{}", Digest::sha256(&bytes));
    client.put_manifest("web", "latest", MANIFEST, &bytes).expect(201);
    let other = folder.path().join("other");
    let mut file = std::fs::File::create(&other).unwrap();
    for size in [64 << 10, 512, 1] {
        while file.write_all(&vec![7; size]).is_ok() {}
    }
    let post = format!("/v2/web/blobs/uploads/?digest={}", Digest::sha256(b"new"));
    client.send("POST", &post, &[], b"new").expect_error(507, "NO_SPACE");
    assert!(client.get(&format!("/v2/web/blobs/{digest}")).expect(200).body == medium);
    client.send("DELETE", "/v2/web/manifests/latest", &[], b"").expect(202);
    client.get("/v2/web/manifests/latest").expect(404);
    assert_eq!(client.get(&by_digest).expect(200).body, bytes);
    client.send("DELETE", &by_digest, &[], b"").expect(202);
    client.get(&by_digest).expect(404);
    client.send("POST", &post, &[], b"new").expect_error(507, "NO_SPACE");
    drop(file);
    std::fs::remove_file(other).unwrap();
    client.send("POST", &post, &[], b"new").expect(201);
    drop(registry);
    assert!(std::process::Command::new("umount").arg(folder.path()).status().unwrap().success());
}
