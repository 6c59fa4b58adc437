//! What the folder backend promises beyond the contract: one user at a time, and a clean start
//! after a crash at any point.

use std::fs;
use std::path::Path;

use blob_store::{FolderStorage, Key, Put, SessionId, Storage, StorageError, read_whole};
use bytes::Bytes;

const ID: SessionId = SessionId::new([9; 32]);

fn key(text: &str) -> Key {
    Key::new(text).unwrap()
}

fn names(folder: &Path) -> Vec<String> {
    let names = fs::read_dir(folder).unwrap();
    names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn a_folder_has_one_user_at_a_time() {
    let folder = tempfile::tempdir().unwrap();
    let first = FolderStorage::open(folder.path()).unwrap();
    let error = FolderStorage::open(folder.path()).unwrap_err();
    assert_eq!(error.to_string(), format!("`{}` is in use by another process", folder.path().display()));
    drop(first);
    FolderStorage::open(folder.path()).unwrap();
}

#[tokio::test]
async fn a_session_outlives_the_process() {
    let folder = tempfile::tempdir().unwrap();
    let storage = FolderStorage::open(folder.path()).unwrap();
    let mut session = storage.begin(ID).await.unwrap();
    session.append(0, vec![Bytes::from("abc")]).await.unwrap();
    drop((session, storage));

    let storage = FolderStorage::open(folder.path()).unwrap();
    let session = storage.resume(ID).await.unwrap();
    assert_eq!(session.finish(&key("k")).await.unwrap(), Put::Created);
    assert_eq!(read_whole(&storage, &key("k"), 9).await.unwrap(), "abc");
}

#[tokio::test]
async fn a_start_clears_away_what_a_crash_left() {
    let folder = tempfile::tempdir().unwrap();
    let at = |path: &str| folder.path().join(path);
    drop(FolderStorage::open(folder.path()).unwrap());
    // A key whose content was being written, one that was linked, and a session that was finished.
    fs::write(at(".new/0"), "half").unwrap();
    fs::write(at(".new/1"), "whole").unwrap();
    fs::hard_link(at(".new/1"), at("linked")).unwrap();
    fs::write(at(&format!(".sessions/{ID}")), "whole").unwrap();
    fs::hard_link(at(&format!(".sessions/{ID}")), at("finished")).unwrap();
    // A key whose folder was made, and nothing in it.
    fs::create_dir_all(at("tags/empty")).unwrap();

    let storage = FolderStorage::open(folder.path()).unwrap();
    assert_eq!(names(&at(".new")), [""; 0]);
    assert_eq!(names(&at(".sessions")), [""; 0]);
    assert_eq!(read_whole(&storage, &key("linked"), 9).await.unwrap(), "whole");
    assert_eq!(read_whole(&storage, &key("finished"), 9).await.unwrap(), "whole");
    assert!(matches!(storage.resume(ID).await, Err(StorageError::NoSession { .. })));
    assert_eq!(storage.list(&key("tags"), None, 9).await.unwrap(), []);
}

#[tokio::test]
async fn foreign_files_in_the_folder_are_no_keys() {
    let folder = tempfile::tempdir().unwrap();
    let storage = FolderStorage::open(folder.path()).unwrap();
    storage.put_if_absent(&key("a/b"), Bytes::from("x")).await.unwrap();
    fs::write(folder.path().join("a/.swp"), "").unwrap();
    fs::write(folder.path().join("a/b c"), "").unwrap();
    assert_eq!(storage.list(&key("a"), None, 9).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_file_that_became_shorter_ends_in_an_error() {
    use futures_util::TryStreamExt;
    let folder = tempfile::tempdir().unwrap();
    let storage = FolderStorage::open(folder.path()).unwrap();
    storage.put_if_absent(&key("k"), Bytes::from(vec![1; 1000])).await.unwrap();
    let object = storage.open(&key("k")).await.unwrap();
    fs::OpenOptions::new().write(true).open(folder.path().join("k")).unwrap().set_len(10).unwrap();
    let read: Result<Vec<Bytes>, StorageError> = object.stream(0..1000).try_collect().await;
    assert_eq!(read.unwrap_err().to_string(), "cannot read `k`");
}
