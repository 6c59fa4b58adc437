//! What happens when the disk is full. A file of its own: it starts `mount`, and a process that is being
//! started holds, for a moment, the lock of every storage that other tests have open.

use blob_store::{FolderStorage, Key, SessionId, Storage, StorageError, read_whole};
use bytes::Bytes;

const ID: SessionId = SessionId::new([9; 32]);

fn key(text: &str) -> Key {
    Key::new(text).unwrap()
}

#[tokio::test]
async fn a_full_disk_is_said_and_leaves_the_storage_usable() {
    let folder = tempfile::tempdir().unwrap();
    let mounted = std::process::Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=1m", "tmpfs"])
        .arg(folder.path())
        .status();
    if !mounted.is_ok_and(|status| status.success()) {
        eprintln!("skipped: cannot mount a tmpfs here");
        return;
    }
    let storage = FolderStorage::open(folder.path()).unwrap();
    let large = Bytes::from(vec![1; 2 << 20]);
    let put = storage.put_if_absent(&key("large"), large.clone()).await;
    assert!(matches!(put, Err(StorageError::Full)), "{put:?}");
    let mut session = storage.begin(ID).await.unwrap();
    session.append(0, vec![Bytes::from("abc")]).await.unwrap();
    let appended = session.append(3, vec![large]).await;
    assert!(matches!(appended, Err(StorageError::Full)), "{appended:?}");
    // The session ends where it ended before, and what fits is still accepted.
    session.append(3, vec![Bytes::from("def")]).await.unwrap();
    session.finish(&key("small")).await.unwrap();
    assert_eq!(read_whole(&storage, &key("small"), 9).await.unwrap(), "abcdef");
    assert!(storage.put_if_absent(&key("more"), Bytes::from("x")).await.is_ok());
    drop(storage);
    assert!(std::process::Command::new("umount").arg(folder.path()).status().unwrap().success());
}
