//! Content in more segments than S3 takes parts of one upload, which are 10,000.

use super::*;

/// So small that content of half a megabyte has as many segments as otherwise 250 GiB have.
const TINY: Sizes = Sizes { segment: 16, largest_segment: 64, inline: 8, under_way: 256, commit: 4 << 10 };
/// 2048 segments of 16 bytes, 1024 of 32, 8000 of 64, and one more.
const SIZE: usize = 2048 * 16 + 1024 * 32 + 8000 * 64 + 7;

#[tokio::test]
async fn content_in_more_than_ten_thousand_segments_is_kept_and_read_and_deleted() {
    let bucket = Arc::new(FakeBucket::default());
    let shared = Arc::new(Shared::new(Arc::clone(&bucket) as _, TINY));
    let storage = S3Storage { shared, name: "large".into() };
    let whole: Bytes = (0..SIZE).map(|n| (n >> 16) as u8 ^ (n >> 8) as u8 ^ n as u8).collect();
    drop(storage.begin(ID).await.unwrap());
    // Interrupted once, somewhere in the middle.
    for part in [0..300_000, 300_000..SIZE] {
        let mut session = storage.resume(ID).await.unwrap();
        for start in part.clone().step_by(5000) {
            let piece = whole.slice(start..part.end.min(start + 5000));
            session.append(start as u64, vec![piece]).await.unwrap();
        }
        session.sync().await.unwrap();
    }
    let k = key("k");
    finish(&storage, ID, &k).await.unwrap();

    let segments = segments_in(&bucket, ID);
    assert!(segments > 10_000, "{segments}");
    let record = bucket.read("k", 0..u64::MAX).await.unwrap().unwrap().object_bytes;
    assert!(record < 200, "{record}");
    let mut borders = vec![0, 16, 2048 * 16, 2048 * 16 + 1024 * 32, 300_000, SIZE];
    borders.extend((1000..SIZE).step_by(9973));
    for at in borders {
        for range in [at.saturating_sub(1)..SIZE.min(at + 1), at.saturating_sub(200)..SIZE.min(at + 100)] {
            let object = storage.open(&k).await.unwrap();
            let pieces: Vec<Bytes> =
                object.stream(range.start as u64..range.end as u64).try_collect().await.unwrap();
            assert!(pieces.concat() == whole[range.clone()], "{range:?}");
        }
    }
    assert!(content(&bucket, &k).await.unwrap() == whole);
    storage.delete(&k).await.unwrap();
    check_tidy(&bucket, &[], "deleted").await;
    figure(&format!("segments of one content = {segments}, bytes of its record = {record}"));
}
