//! The backend stopped after each request, two users of a bucket in every order of their requests, and
//! content in very many segments. The bucket is one in memory that does what S3 promises.

mod crashes;
mod fake;
mod large;
mod orders;

use std::sync::Arc;

use bytes::Bytes;
use futures_util::TryStreamExt as _;

use self::fake::FakeBucket;
use super::bucket::Bucket;
use super::session::Sizes;
use super::{S3Storage, Shared, segment_folder};
use crate::Key;
use crate::storage::{Put, SessionId, Storage, StorageError, read_whole};

const ID: SessionId = SessionId::new([1; 32]);
/// Everything small, so that much can be tried.
const SIZES: Sizes = Sizes {
    segment: 4 << 10,
    largest_segment: 32 << 10,
    inline: 1 << 10,
    under_way: 16 << 10,
    commit: 64 << 10,
};
const OTHER: SessionId = SessionId::new([2; 32]);

fn key(text: &str) -> Key {
    Key::new(text).unwrap()
}

/// Two segments and a bit, different for each `seed`.
fn long(seed: u8) -> Bytes {
    (0..2 * SIZES.segment + 1000).map(|n| (n >> 8) as u8 ^ n as u8 ^ seed).collect()
}

fn storage(bucket: Arc<dyn Bucket>) -> S3Storage {
    S3Storage { shared: Arc::new(Shared::new(bucket, SIZES)), name: "drill".into() }
}

/// Says a figure that a report may quote.
fn figure(text: &str) {
    println!("figure: {text}");
}

/// Appends `content` to a new session and syncs it.
async fn session_with(bucket: Arc<dyn Bucket>, id: SessionId, content: &Bytes) {
    let mut session = storage(bucket).begin(id).await.unwrap();
    session.append(0, vec![content.clone()]).await.unwrap();
    session.sync().await.unwrap();
}

/// Finishes the session as it was synced.
async fn finish(storage: &S3Storage, id: SessionId, key: &Key) -> Result<Put, StorageError> {
    storage.resume(id).await?.finish(key).await
}

/// A key's content; `None` if the key is not there. Content that cannot be read is a failure.
async fn content(bucket: &Arc<FakeBucket>, key: &Key) -> Option<Bytes> {
    let storage = storage(Arc::clone(bucket) as _);
    match read_whole(&storage, key, u64::MAX).await {
        Err(StorageError::Missing { .. }) => None,
        read => Some(read.unwrap()),
    }
}

/// Does what the owner of a storage does about old sessions.
async fn repair(bucket: &Arc<FakeBucket>) {
    let storage = storage(Arc::clone(bucket) as _);
    for session in storage.sessions().await.unwrap() {
        storage.abort(session.id).await.unwrap();
    }
    assert_eq!(storage.sessions().await.unwrap(), []);
}

/// Nothing is in the bucket but `keys`, whole, and what they need.
async fn check_tidy(bucket: &Arc<FakeBucket>, keys: &[&Key], context: &str) {
    let mut wanted: Vec<String> = Vec::new();
    for key in keys {
        assert!(content(bucket, key).await.is_some(), "{key}, {context}");
        wanted.push(key.to_string());
        if let Some(super::reader::Found::Record(record)) = super::reader::find(&**bucket, key).await.unwrap()
        {
            let size = record.segments.size_bytes();
            let reads = record.segments.reads(0..size, u64::MAX);
            wanted.extend(reads.map(|(s, _)| super::segment_name(record.id, s.offset, s.attempt)));
        }
    }
    wanted.sort();
    assert_eq!(bucket.names(), wanted, "{context}");
}

/// The content of an open session; `None` where it is not open any more.
async fn session_content(bucket: &Arc<FakeBucket>, id: SessionId) -> Option<Vec<u8>> {
    let session = storage(Arc::clone(bucket) as _).resume(id).await.ok()?;
    let pieces: Vec<Bytes> = session.stream().try_collect().await.unwrap();
    Some(pieces.concat())
}

fn segments_in(bucket: &FakeBucket, id: SessionId) -> usize {
    bucket.names().iter().filter(|name| name.starts_with(&segment_folder(id))).count()
}
