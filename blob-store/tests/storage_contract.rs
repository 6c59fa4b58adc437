//! What every storage promises: one list of checks, run on each backend.

mod s3;

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use blob_store::{
    Entry, FolderStorage, Key, MemoryStorage, Put, S3Storage, SessionId, Storage, StorageError, read_whole,
};
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};

/// Runs one check on an empty storage of each kind.
#[expect(clippy::print_stderr, reason = "a failed check should say on which backend")]
fn on_each_backend<F: Future<Output = ()>>(check: impl Fn(Arc<dyn Storage>) -> F) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mut backends: Vec<Arc<dyn Storage>> =
        vec![Arc::new(MemoryStorage::new()), Arc::new(FolderStorage::open(folder.path()).unwrap())];
    match s3::server() {
        Ok(server) => {
            backends.push(Arc::new(runtime.block_on(S3Storage::open(s3::empty_bucket(server))).unwrap()))
        }
        Err(reason) => eprintln!("skipped: {reason}"),
    }
    for storage in backends {
        eprintln!("on {storage:?}");
        runtime.block_on(check(storage));
    }
}

fn key(text: &str) -> Key {
    Key::new(text).unwrap()
}

async fn put(storage: &dyn Storage, name: &str, content: &'static str) -> Put {
    storage.put_if_absent(&key(name), Bytes::from_static(content.as_bytes())).await.unwrap()
}

async fn content(storage: &dyn Storage, name: &str) -> Option<Vec<u8>> {
    match read_whole(storage, &key(name), u64::MAX).await {
        Ok(content) => Some(content.into()),
        Err(StorageError::Missing { .. }) => None,
        Err(error) => panic!("{error}"),
    }
}

/// `size` bytes that do not repeat within a piece.
fn noise(size: usize) -> Bytes {
    let mut state = 1_u32;
    let next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    std::iter::repeat_with(next).take(size).collect()
}

const ID: SessionId = SessionId::new([7; 32]);

#[test]
fn a_key_is_put_once_and_never_changes() {
    on_each_backend(async |storage| {
        assert_eq!(content(&*storage, "a/b").await, None);
        assert_eq!(put(&*storage, "a/b", "first").await, Put::Created);
        assert_eq!(put(&*storage, "a/b", "second").await, Put::Exists);
        assert_eq!(content(&*storage, "a/b").await.unwrap(), b"first");
        assert_eq!(storage.size_bytes(&key("a/b")).await.unwrap(), 5);
        assert_eq!(put(&*storage, "empty", "").await, Put::Created);
        let tombstone = async |name| storage.put_tombstone(&key(name), Bytes::from("gone")).await.unwrap();
        assert_eq!(tombstone("a/b.closed").await, Put::Created);
        assert_eq!(tombstone("a/b.closed").await, Put::Exists);
        assert_eq!(content(&*storage, "a/b.closed").await.unwrap(), b"gone");
        assert_eq!(content(&*storage, "empty").await.unwrap(), b"");
    });
}

#[test]
fn a_folder_of_keys_is_no_key() {
    on_each_backend(async |storage| {
        put(&*storage, "a/b/c", "").await;
        assert_eq!(content(&*storage, "a/b").await, None);
        assert_eq!(content(&*storage, "a/b/c/d").await, None);
        assert!(matches!(storage.size_bytes(&key("a")).await, Err(StorageError::Missing { .. })));
    });
}

#[test]
fn all_keys_below_a_folder_are_found_in_order() {
    on_each_backend(async |storage| {
        let mut names =
            ["a/b-b", "a/b-c", "a/b/x", "a/b/y/z", "a-b/c", "a/c", "b/d"].map(str::to_owned).to_vec();
        names.extend((0..1500).map(|number| format!("a/many/{number}")));
        let puts = stream::iter(&names).map(|name| put(&*storage, name, ""));
        puts.buffer_unordered(32).for_each(async |put| assert_eq!(put, Put::Created)).await;
        names.retain(|name| name.starts_with("a/"));
        names.sort();
        let found: Vec<Key> = storage.keys_below(&key("a")).try_collect().await.unwrap();
        assert_eq!(found.iter().map(Key::as_str).collect::<Vec<_>>(), names);
        let below: Vec<Key> = storage.keys_below(&key("a/b/y")).try_collect().await.unwrap();
        assert_eq!(below, [key("a/b/y/z")]);
        let below_a_key: Vec<Key> = storage.keys_below(&key("a/c")).try_collect().await.unwrap();
        assert_eq!(below_a_key, []);
        let none: Vec<Key> = storage.keys_below(&key("none")).try_collect().await.unwrap();
        assert_eq!(none, []);
    });
}

#[test]
fn of_many_writers_of_one_key_exactly_one_creates_it() {
    on_each_backend(async |storage| {
        for round in 0..20 {
            let name = key(&format!("race/{round}"));
            let writers = (0..8).map(|writer| {
                let (storage, name) = (Arc::clone(&storage), name.clone());
                tokio::spawn(async move {
                    let put = storage.put_if_absent(&name, Bytes::from(vec![writer; 3])).await.unwrap();
                    // Whoever was told that the key is there can read it.
                    assert_eq!(storage.size_bytes(&name).await.unwrap(), 3);
                    (writer, put)
                })
            });
            let mut winners = Vec::new();
            for writer in writers.collect::<Vec<_>>() {
                let (writer, put) = writer.await.unwrap();
                winners.extend((put == Put::Created).then_some(writer));
            }
            assert_eq!(winners.len(), 1);
            assert_eq!(content(&*storage, name.as_str()).await.unwrap(), [winners[0]; 3]);
        }
    });
}

#[test]
fn any_range_of_a_long_key_can_be_read() {
    on_each_backend(async |storage| {
        let long = noise(1_000_003);
        storage.put_if_absent(&key("long"), long.clone()).await.unwrap();
        let size = long.len() as u64;
        for range in [0..size, 0..0, size..size, 1..2, 262_143..262_145, 500_000..size] {
            let object = storage.open(&key("long")).await.unwrap();
            assert_eq!(object.size_bytes(), size);
            let pieces: Vec<Bytes> = object.stream(range.clone()).try_collect().await.unwrap();
            assert!(pieces.iter().all(|piece| !piece.is_empty() && piece.len() <= 1 << 20));
            assert!(pieces.concat() == long[range.start as usize..range.end as usize], "{range:?}");
        }
    });
}

#[test]
fn reading_whole_has_a_limit() {
    on_each_backend(async |storage| {
        put(&*storage, "a", "12345").await;
        assert_eq!(read_whole(&*storage, &key("a"), 5).await.unwrap(), "12345");
        let error = read_whole(&*storage, &key("a"), 4).await.unwrap_err();
        assert_eq!(error.to_string(), "`a` has 5 bytes; at most 4 are read here");
    });
}

#[test]
fn a_listing_is_sorted_and_goes_on_after_any_name() {
    on_each_backend(async |storage| {
        for name in ["t/b/2", "t/b/1", "t/a-b/1", "t/a/1", "t/c", "t/b.1/1", "u/x"] {
            put(&*storage, name, "").await;
        }
        // As whole keys compare: `a-b/` before `a/`, `b.1/` before `b/`.
        let folder = |name: &str| Entry::Folder(name.to_owned());
        let all = [folder("a-b"), folder("a"), folder("b.1"), folder("b"), Entry::Key("c".to_owned())];
        assert_eq!(storage.list(&key("t"), None, 10).await.unwrap(), all);
        assert_eq!(storage.list(&key("t"), None, 2).await.unwrap(), all[..2]);
        assert_eq!(storage.list(&key("t"), Some("a"), 2).await.unwrap(), all[2..4]);
        assert_eq!(storage.list(&key("t"), Some("a-c"), 1).await.unwrap(), all[1..2]); // not a name there
        assert_eq!(storage.list(&key("t"), Some("c"), 10).await.unwrap(), []);
        assert_eq!(storage.list(&key("t"), None, 0).await.unwrap(), []);
        assert_eq!(storage.list(&key("t/c"), None, 10).await.unwrap(), []);
        assert_eq!(storage.list(&key("none"), None, 10).await.unwrap(), []);
    });
}

#[test]
fn a_deleted_key_is_gone_and_can_be_put_again() {
    on_each_backend(async |storage| {
        put(&*storage, "a/b", "old").await;
        storage.delete(&key("a/b")).await.unwrap();
        assert_eq!(content(&*storage, "a/b").await, None);
        assert_eq!(storage.list(&key("a"), None, 1).await.unwrap(), []);
        storage.delete(&key("a/b")).await.unwrap();
        put(&*storage, "x/y/z", "").await;
        storage.delete(&key("x/y/z")).await.unwrap();
        assert_eq!(storage.list(&key("x"), None, 1).await.unwrap(), []); // `y` leads to nothing
        assert_eq!(put(&*storage, "a/b", "new").await, Put::Created);
        assert_eq!(content(&*storage, "a/b").await.unwrap(), b"new");
    });
}

#[test]
fn a_session_becomes_a_key_when_it_is_finished() {
    on_each_backend(async |storage| {
        let long = noise(700_000);
        let mut session = storage.begin(ID).await.unwrap();
        session.append(0, vec![long.slice(..100), long.slice(100..300_000)]).await.unwrap();
        session.append(300_000, vec![]).await.unwrap();
        session.sync().await.unwrap();
        session.append(300_000, vec![long.slice(300_000..)]).await.unwrap();
        assert_eq!(session.size_bytes(), 700_000);
        let so_far: Vec<Bytes> = session.stream().try_collect().await.unwrap();
        assert!(so_far.concat() == long);
        assert_eq!(content(&*storage, "blobs/x").await, None);
        assert_eq!(session.finish(&key("blobs/x")).await.unwrap(), Put::Created);
        assert!(content(&*storage, "blobs/x").await.unwrap() == long);
        assert!(matches!(storage.resume(ID).await, Err(StorageError::NoSession { .. })));
        assert_eq!(storage.sessions().await.unwrap(), []);
    });
}

#[test]
fn long_pieces_may_begin_anywhere_in_memory_and_in_the_content() {
    on_each_backend(async |storage| {
        let long = noise(9 << 20);
        let page_start = long.as_ptr().align_offset(4096);
        let mut session = storage.begin(ID).await.unwrap();
        let mut want = Vec::new();
        // On page boundaries, with and without a rest; then after an odd piece; then back on them.
        for (start, bytes) in
            [(0, 2 << 20), (0, (1 << 20) + 7), (0, 2 << 20), (1, (1 << 20) - 7), (0, 1 << 20), (3, 5)]
        {
            let piece = long.slice(page_start + start..page_start + start + bytes);
            session.append(want.len() as u64, vec![piece.clone()]).await.unwrap();
            want.extend_from_slice(&piece);
        }
        // What was not made durable may be gone when the session is resumed.
        session.sync().await.unwrap();
        drop(session);
        let session = storage.resume(ID).await.unwrap();
        let stored: Vec<Bytes> = session.stream().try_collect().await.unwrap();
        assert!(stored.concat() == want);
        session.finish(&key("k")).await.unwrap();
        assert!(content(&*storage, "k").await.unwrap() == want);
    });
}

#[test]
fn a_session_is_gone_too_when_its_key_was_there_already() {
    on_each_backend(async |storage| {
        put(&*storage, "blobs/x", "same").await;
        let mut session = storage.begin(ID).await.unwrap();
        session.append(0, vec![Bytes::from("same")]).await.unwrap();
        assert_eq!(session.finish(&key("blobs/x")).await.unwrap(), Put::Exists);
        assert_eq!(storage.sessions().await.unwrap(), []);
        assert_eq!(content(&*storage, "blobs/x").await.unwrap(), b"same");
    });
}

#[test]
fn a_session_is_resumed_where_it_ends_and_nowhere_else() {
    on_each_backend(async |storage| {
        let mut session = storage.begin(ID).await.unwrap();
        session.append(0, vec![Bytes::from("abc")]).await.unwrap();
        session.sync().await.unwrap();
        drop(session);
        let mut session = storage.resume(ID).await.unwrap();
        assert_eq!(session.size_bytes(), 3);
        let error = session.append(2, vec![Bytes::from("x")]).await.unwrap_err();
        assert!(matches!(error, StorageError::WrongOffset { found: 3, wanted: 2 }), "{error}");
        session.append(3, vec![Bytes::from("def")]).await.unwrap();
        session.finish(&key("k")).await.unwrap();
        assert_eq!(content(&*storage, "k").await.unwrap(), b"abcdef");
    });
}

#[test]
fn an_aborted_session_leaves_nothing() {
    on_each_backend(async |storage| {
        let before = SystemTime::now() - Duration::from_secs(2); // file systems count coarsely
        drop(storage.begin(ID).await.unwrap());
        let sessions = storage.sessions().await.unwrap();
        assert_eq!(sessions.iter().map(|session| session.id).collect::<Vec<_>>(), [ID]);
        assert!(sessions[0].modified >= before);
        storage.abort(ID).await.unwrap();
        storage.abort(ID).await.unwrap();
        assert_eq!(storage.sessions().await.unwrap(), []);
        assert!(matches!(storage.resume(ID).await, Err(StorageError::NoSession { .. })));
    });
}
