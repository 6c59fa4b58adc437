//! What the folder backend promises beyond the contract: one user at a time, and a clean start
//! after a crash at any point.

use std::fs;
use std::path::{Path, PathBuf};

use blob_store::{Entry, FolderStorage, Key, Put, SessionId, Storage, StorageError, read_whole};
use bytes::Bytes;
use futures_util::TryStreamExt as _;

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
    let folder = tempfile::tempdir().unwrap();
    let storage = FolderStorage::open(folder.path()).unwrap();
    storage.put_if_absent(&key("k"), Bytes::from(vec![1; 1000])).await.unwrap();
    let object = storage.open(&key("k")).await.unwrap();
    fs::OpenOptions::new().write(true).open(folder.path().join("k")).unwrap().set_len(10).unwrap();
    let read: Result<Vec<Bytes>, StorageError> = object.stream(0..1000).try_collect().await;
    assert_eq!(read.unwrap_err().to_string(), "cannot read `k`");
}

/// All folders below `folder` that hold nothing.
fn empty_folders(folder: &Path) -> Vec<PathBuf> {
    let folders = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let folders: Vec<PathBuf> = folders.filter(|path| path.is_dir()).collect();
    let is_empty = |path: &PathBuf| fs::read_dir(path).unwrap().next().is_none();
    let (mut found, others): (Vec<_>, Vec<_>) = folders.into_iter().partition(is_empty);
    found.extend(others.iter().flat_map(|path| empty_folders(path)));
    found
}

#[tokio::test]
async fn with_its_last_key_a_folder_goes_too() {
    let folder = tempfile::tempdir().unwrap();
    let at = |path: &str| folder.path().join(path);
    let storage = FolderStorage::open(folder.path()).unwrap();
    for name in ["a/b/c/1", "a/b/c/2", "a/b/d/1", "top"] {
        storage.put_if_absent(&key(name), Bytes::from("x")).await.unwrap();
    }
    for (deleted, is_left, is_gone) in [
        ("a/b/c/1", "a/b/c", "a/b/c/1"),
        ("a/b/c/2", "a/b", "a/b/c"),
        ("a/b/x/1", "a/b", "a/b/x"), // was never there
        ("a/b/d/1", "a", "a/b"),     // what lies directly in the storage stays
        ("top", ".new", "top"),
    ] {
        storage.delete(&key(deleted)).await.unwrap();
        assert!(at(is_left).exists() && !at(is_gone).exists(), "{deleted}");
    }
    // What somebody else put there keeps its folder.
    storage.put_if_absent(&key("a/b/1"), Bytes::from("x")).await.unwrap();
    fs::write(at("a/b/.swp"), "").unwrap();
    storage.delete(&key("a/b/1")).await.unwrap();
    assert!(at("a/b/.swp").exists());
}

#[test]
fn folders_come_and_go_under_many_hands() {
    const THREADS: u64 = 8;
    const ROUNDS: u64 = 150;
    let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let storage = FolderStorage::open(folder.path()).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(4).build().unwrap();
    let work = |thread: u64| {
        let storage = storage.clone();
        async move {
            for round in 0..ROUNDS {
                // All of them are in the same few folders, and each has keys of its own.
                let (outer, inner) = ((round + thread) % 2, round % 3);
                let own = key(&format!("k/{outer}/{inner}/{thread}"));
                let content = Bytes::from(format!("{thread} {round}"));
                if round % 4 == 0 {
                    let mut session = storage.begin(SessionId::new([thread as u8; 32])).await.unwrap();
                    session.append(0, vec![content.clone()]).await.unwrap();
                    assert_eq!(session.finish(&own).await.unwrap(), Put::Created);
                } else {
                    assert_eq!(storage.put_if_absent(&own, content.clone()).await.unwrap(), Put::Created);
                }
                assert_eq!(read_whole(&storage, &own, 99).await.unwrap(), content);
                let listed = storage.list(&key(&format!("k/{outer}/{inner}")), None, 99).await.unwrap();
                assert!(listed.contains(&Entry::Key(thread.to_string())), "{listed:?}");
                let walked: Vec<Key> = storage.keys_below(&key("k")).try_collect().await.unwrap();
                assert!(walked.contains(&own), "{own} is not among {walked:?}");
                // And one that they all put and delete.
                let shared = key(&format!("k/shared/{inner}/x"));
                storage.put_if_absent(&shared, Bytes::from("x")).await.unwrap();
                storage.delete(&shared).await.unwrap();
                if round + 3 < ROUNDS {
                    storage.delete(&own).await.unwrap();
                }
            }
        }
    };
    let threads: Vec<_> = (0..THREADS).map(|thread| runtime.spawn(work(thread))).collect();
    threads.into_iter().for_each(|thread| runtime.block_on(thread).unwrap());
    let left: Vec<Key> = runtime.block_on(storage.keys_below(&key("k")).try_collect()).unwrap();
    assert_eq!(left.len() as u64, 3 * THREADS);
    left.iter().for_each(|left| runtime.block_on(storage.delete(left)).unwrap());
    let kept = ["k", ".new", ".sessions"].map(|name| folder.path().join(name));
    let found = empty_folders(folder.path());
    assert!(found.len() == 3 && kept.iter().all(|kept| found.contains(kept)), "{found:?}");
}
