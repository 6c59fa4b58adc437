//! A process is killed after each of its requests, and another one tidies up.

use std::sync::atomic::AtomicUsize;

use super::fake::{LastChange, Stopped};
use super::*;

/// Runs `work`, which is called `what`, on copies of `start`, stopped after 0, 1, 2 ... changes until it
/// is not stopped any more; `check` sees each bucket and whether the work was acknowledged.
async fn stop_everywhere<W, C>(what: &str, start: &FakeBucket, work: W, check: C)
where
    W: AsyncFn(S3Storage) -> Result<(), StorageError>,
    C: AsyncFn(Arc<FakeBucket>, bool, String),
{
    let mut stops = 0;
    for last in [LastChange::NotDone, LastChange::Done] {
        for changes in 1.. {
            let bucket = start.copy();
            let stopped =
                Stopped { bucket: Arc::clone(&bucket), changes_left: AtomicUsize::new(changes), last };
            let done = work(storage(Arc::new(stopped))).await;
            let context = format!("stopped in change {changes}, {last:?}: {done:?}");
            check(bucket, done.is_ok(), context.clone()).await;
            if done.is_ok() {
                assert!(changes > 1, "nothing was changed");
                break;
            }
            stops += 1;
            assert!(changes < 100, "{context}");
        }
    }
    figure(&format!("stops in {what} = {stops}, lost = 0, left behind = 0"));
}

#[tokio::test]
async fn a_finish_that_is_interrupted_is_done_or_undone() {
    let bucket = Arc::new(FakeBucket::default());
    session_with(Arc::clone(&bucket) as _, ID, &long(0)).await;
    let k = key("blobs/x");
    let work = async |storage: S3Storage| finish(&storage, ID, &k).await.map(drop);
    stop_everywhere("a finish", &bucket, work, async |bucket, acknowledged, context| {
        let before = content(&bucket, &k).await;
        assert!(!acknowledged || before.is_some(), "{context}");
        repair(&bucket).await;
        let after = content(&bucket, &k).await;
        assert!(before.is_none() || after.is_some(), "{context}");
        assert!(after.as_ref().is_none_or(|content| *content == long(0)), "{context}");
        check_tidy(&bucket, after.as_slice().iter().map(|_| &k).collect::<Vec<_>>().as_slice(), &context)
            .await;
    })
    .await;
}

#[tokio::test]
async fn a_finish_that_finds_other_content_leaves_it_alone() {
    let bucket = Arc::new(FakeBucket::default());
    session_with(Arc::clone(&bucket) as _, ID, &long(0)).await;
    let k = key("blobs/x");
    storage(Arc::clone(&bucket) as _).put_if_absent(&k, Bytes::from("other")).await.unwrap();
    let work = async |storage: S3Storage| {
        let put = finish(&storage, ID, &k).await?;
        assert_eq!(put, Put::Exists);
        Ok(())
    };
    stop_everywhere("a finish that comes too late", &bucket, work, async |bucket, acknowledged, context| {
        assert!(!acknowledged || segments_in(&bucket, ID) == 0, "{context}");
        // Also where the other content is deleted before anybody tidies up.
        let emptied = bucket.copy();
        storage(Arc::clone(&emptied) as _).delete(&k).await.unwrap();
        repair(&emptied).await;
        let found = content(&emptied, &k).await;
        assert!(found.is_none_or(|content| content == long(0)), "{context}");

        repair(&bucket).await;
        assert_eq!(content(&bucket, &k).await.unwrap(), "other", "{context}");
        check_tidy(&bucket, &[&k], &context).await;
    })
    .await;
}

#[tokio::test]
async fn short_content_is_there_whole_or_not_at_all() {
    let k = key("blobs/x");
    for (what, synced) in [("short content", false), ("short content that was synced", true)] {
        let work = async |storage: S3Storage| {
            let mut session = storage.begin(ID).await?;
            session.append(0, vec![Bytes::from("abc")]).await?;
            if synced {
                session.sync().await?;
            }
            session.finish(&k).await.map(drop)
        };
        stop_everywhere(what, &FakeBucket::default(), work, async |bucket, acknowledged, context| {
            repair(&bucket).await;
            let found = content(&bucket, &k).await;
            assert!(!acknowledged || found.is_some(), "{context}");
            assert!(found.as_ref().is_none_or(|content| content == "abc"), "{context}");
            check_tidy(&bucket, found.as_slice().iter().map(|_| &k).collect::<Vec<_>>().as_slice(), &context)
                .await;
        })
        .await;
    }
}

#[tokio::test]
async fn an_abort_that_is_interrupted_is_completed_by_the_next() {
    let bucket = Arc::new(FakeBucket::default());
    session_with(Arc::clone(&bucket) as _, ID, &long(0)).await;
    let work = async |storage: S3Storage| storage.abort(ID).await;
    stop_everywhere("an abort", &bucket, work, async |bucket, acknowledged, context| {
        if !acknowledged {
            repair(&bucket).await;
        }
        check_tidy(&bucket, &[], &context).await;
    })
    .await;
}

#[tokio::test]
async fn a_deletion_that_is_interrupted_leaves_the_key_whole_or_is_completed() {
    let bucket = Arc::new(FakeBucket::default());
    session_with(Arc::clone(&bucket) as _, ID, &long(0)).await;
    let k = key("blobs/x");
    finish(&storage(Arc::clone(&bucket) as _), ID, &k).await.unwrap();
    check_tidy(&bucket, &[&k], "finished").await;
    let work = async |storage: S3Storage| storage.delete(&k).await;
    stop_everywhere("a deletion", &bucket, work, async |bucket, acknowledged, context| {
        let found = content(&bucket, &k).await;
        assert!(!acknowledged || found.is_none(), "{context}");
        let is_noted = !storage(Arc::clone(&bucket) as _).sessions().await.unwrap().is_empty();
        assert!(found.is_some() || is_noted || acknowledged || bucket.names().is_empty(), "{context}");
        repair(&bucket).await;
        let keys: &[&Key] = if is_noted || found.is_none() { &[] } else { &[&k] };
        check_tidy(&bucket, keys, &context).await;
    })
    .await;
}

#[tokio::test]
async fn what_was_synced_is_never_lost() {
    // Sizes that leave small segments, join them, and fill large ones.
    let sizes = [1000, 1000, 500, 3 << 10, 2 << 10, 10, 5 << 10, 1];
    let whole: Bytes = long(7).iter().chain(long(9).iter()).copied().collect();
    let synced = AtomicUsize::new(0);
    let work = async |storage: S3Storage| {
        synced.store(0, std::sync::atomic::Ordering::Relaxed);
        drop(storage.begin(ID).await?);
        let mut end = 0;
        for size in sizes {
            let mut session = storage.resume(ID).await?;
            session.append(end as u64, vec![whole.slice(end..end + size)]).await?;
            session.sync().await?;
            end += size;
            synced.store(end, std::sync::atomic::Ordering::Relaxed);
        }
        Ok(())
    };
    stop_everywhere("eight appends", &FakeBucket::default(), work, async |bucket, _, context| {
        let end = synced.load(std::sync::atomic::Ordering::Relaxed);
        let found = session_content(&bucket, ID).await;
        assert!(end == 0 || found.is_some(), "{context}");
        if let Some(found) = found {
            assert!(found.len() >= end && found == whole[..found.len()], "{context}: {}", found.len());
            let mut session = storage(Arc::clone(&bucket) as _).resume(ID).await.unwrap();
            session.append(found.len() as u64, vec![whole.slice(found.len()..)]).await.unwrap();
            session.finish(&key("k")).await.unwrap();
            assert!(content(&bucket, &key("k")).await.unwrap() == whole, "{context}");
            storage(Arc::clone(&bucket) as _).delete(&key("k")).await.unwrap();
        }
        repair(&bucket).await;
        check_tidy(&bucket, &[], &context).await;
    })
    .await;
}
