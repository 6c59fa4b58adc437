//! Copies from one storage to another, of every kind.

mod s3;

use std::sync::Arc;

use blob_store::{
    Copied, CopyError, CopyReport, FolderStorage, Key, MemoryStorage, Put, S3Storage, SessionId, Storage,
    StorageError, copy, read_whole,
};
use bytes::Bytes;
use futures_util::TryStreamExt;

fn key(text: &str) -> Key {
    Key::new(text).unwrap()
}

fn long() -> Bytes {
    (0..9_000_000_u32).map(|n| (n >> 9) as u8 ^ n as u8).collect()
}

/// A storage with long, short and empty keys, which `keys` names.
async fn full() -> MemoryStorage {
    let storage = MemoryStorage::new();
    for (name, content) in
        [("b/long", long()), ("b/deep/er/short", Bytes::from("short")), ("a/empty", Bytes::new())]
    {
        storage.put_if_absent(&key(name), content).await.unwrap();
    }
    for n in 0..40 {
        storage.put_if_absent(&key(&format!("a/{n}")), Bytes::from(n.to_string())).await.unwrap();
    }
    storage.put_if_absent(&key("layout"), Bytes::from("2")).await.unwrap();
    storage.put_if_absent(&key("not/asked/for"), Bytes::from("x")).await.unwrap();
    storage
}

fn folders() -> [Key; 4] {
    [key("b"), key("a"), key("layout"), key("none")]
}

async fn keys(storage: &dyn Storage) -> Vec<Key> {
    let mut keys = Vec::new();
    for folder in folders() {
        keys.extend(storage.keys_below(&folder).try_collect::<Vec<_>>().await.unwrap());
    }
    keys
}

async fn check_same(from: &dyn Storage, to: &dyn Storage) {
    assert_eq!(keys(to).await, keys(from).await);
    for key in keys(from).await {
        let read = async |storage| read_whole(storage, &key, u64::MAX).await.unwrap();
        assert!(read(from).await == read(to).await, "{key}");
    }
    assert_eq!(read_whole(to, &key("layout"), 9).await.unwrap(), "2");
    assert!(matches!(to.size_bytes(&key("not/asked/for")).await, Err(StorageError::Missing { .. })));
    assert_eq!(to.sessions().await.unwrap(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_goes_from_any_storage_to_any_other_and_back() {
    let start = full().await;
    let root = tempfile::tempdir().unwrap();
    let mut chain: Vec<Arc<dyn Storage>> = vec![Arc::new(FolderStorage::open(root.path()).unwrap())];
    match s3::server() {
        Ok(server) => chain.push(Arc::new(S3Storage::open(s3::empty_bucket(server)).await.unwrap())),
        Err(reason) => eprintln!("skipped: {reason}"),
    }
    let root = tempfile::tempdir().unwrap();
    chain.push(Arc::new(FolderStorage::open(root.path()).unwrap()));
    chain.push(Arc::new(MemoryStorage::new()));

    let mut from: Arc<dyn Storage> = Arc::new(start.clone());
    for to in chain {
        let mut seen = Vec::new();
        let report =
            copy(&*from, &*to, &folders(), |key, copied| seen.push((key.clone(), copied))).await.unwrap();
        assert_eq!((report.copied_keys, report.present_keys, report.deleted_keys), (44, 0, 0));
        assert_eq!(report.copied_bytes, 9_000_000 + 5 + 10 + 60 + 1);
        let places = |name: &str| seen.iter().position(|(key, _)| key.as_str().starts_with(name)).unwrap();
        assert!(places("b/") < places("a/") && seen.last().unwrap().0 == key("layout"));
        check_same(&start, &*to).await;
        // Once more: nothing is left to do.
        let again =
            copy(&*from, &*to, &folders(), |_, copied| assert_eq!(copied, Copied::Before)).await.unwrap();
        assert_eq!(again, CopyReport { present_keys: 44, ..CopyReport::default() });
        from = to;
    }
}

#[tokio::test]
async fn a_copy_goes_on_where_it_was_interrupted() {
    let (from, to) = (full().await, MemoryStorage::new());
    to.put_if_absent(&key("a/7"), Bytes::from("7")).await.unwrap();
    let report = copy(&from, &to, &folders(), |_, _| {}).await.unwrap();
    assert_eq!((report.copied_keys, report.present_keys), (43, 1));
    check_same(&from, &to).await;
}

#[tokio::test]
async fn a_key_of_another_size_is_an_error() {
    let (from, to) = (full().await, MemoryStorage::new());
    to.put_if_absent(&key("a/7"), Bytes::from("77")).await.unwrap();
    let error = copy(&from, &to, &folders(), |_, _| {}).await.unwrap_err();
    assert!(matches!(error, CopyError::Differs { .. }));
    assert_eq!(error.to_string(), "`a/7` is there already with 2 bytes; the one to be copied has 1");
}

#[tokio::test]
async fn a_folder_in_use_can_be_read_and_not_written() {
    let root = tempfile::tempdir().unwrap();
    let in_use = FolderStorage::open(root.path()).unwrap();
    copy(&full().await, &in_use, &folders(), |_, _| {}).await.unwrap();
    let id = SessionId::new([3; 32]);
    drop(in_use.begin(id).await.unwrap());

    let reader = FolderStorage::open_for_reading(root.path()).unwrap();
    let backup = MemoryStorage::new();
    copy(&reader, &backup, &folders(), |_, _| {}).await.unwrap();
    check_same(&full().await, &backup).await;

    let read_only = |error: StorageError| assert!(matches!(error, StorageError::ReadOnly), "{error}");
    read_only(reader.check_writable().await.unwrap_err());
    read_only(reader.put_if_absent(&key("new"), Bytes::from("x")).await.unwrap_err());
    read_only(reader.delete(&key("layout")).await.unwrap_err());
    read_only(reader.begin(SessionId::new([4; 32])).await.unwrap_err());
    read_only(reader.abort(id).await.unwrap_err());
    let mut session = reader.resume(id).await.unwrap();
    read_only(session.append(0, vec![Bytes::from("x")]).await.unwrap_err());
    read_only(session.finish(&key("new")).await.unwrap_err());
    // Its user is not disturbed, and sees nothing of this.
    assert_eq!(in_use.sessions().await.unwrap().len(), 1);
    assert_eq!(in_use.put_if_absent(&key("new"), Bytes::from("x")).await.unwrap(), Put::Created);
    let nowhere = FolderStorage::open_for_reading(root.path().join("nowhere")).unwrap_err();
    assert!(nowhere.to_string().starts_with("cannot find the storage's folder"), "{nowhere}");
}
