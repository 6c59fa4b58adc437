//! A [`Storage`] in a bucket of S3, or of a service that speaks as S3 does.
//!
//! ```text
//! <key>                               "hull content 1" LF, content          short content
//!                                     "hull segments 1 " size LF ...        a record: which segments hold it
//! .segments/<id>/<offset>.<attempt>   a segment: content from <offset> on
//! .sessions/<id>/<number>             the log of a session: what it holds, what becomes of it
//! .probe/<random>                     shows, when the storage is opened, that a put never overwrites
//! ```
//!
//! Replicas share a bucket and nothing else. No object is ever overwritten: all that orders writers is
//! that an object can be created once (`If-None-Match: *`), in [`log`].
//!
//! *Long content* is never copied or assembled. It is cut into segments of 4 to 32 MiB as it arrives,
//! several of which are put at the same time; when the session is finished, a record under the key names
//! them. So there is no largest object (S3: 5 TiB, and 5 GiB in one copy), no smallest or equal part, no
//! number of parts that content must not need (S3: 10,000), and nothing is read to be moved. Multipart
//! uploads would give the same parallel puts, but each one that a crash interrupts stays in the bucket,
//! costs money, is seen by no listing of objects, and can be continued only by who knows the numbers of
//! its parts. What remains of a session here is objects that [`Storage::sessions`] leads to. The price:
//! other programs do not find the content under the key.
//!
//! *Every object under a key begins with a line of ours*, so content from outside is never taken for a
//! record, and the bucket can be moved by tools that keep nothing but names and bytes.
//!
//! # What is found after a crash
//!
//! A session that was interrupted while it was finished or given up, or whose key was being deleted, is
//! still listed by [`Storage::sessions`]. [`Storage::abort`] then does the rest, by whatever process:
//! the owner of the storage calls it anyway for sessions that are old.
//!
//! | interrupted after                 | the key  | what `abort` does                               |
//! |-----------------------------------|----------|-------------------------------------------------|
//! | begin, append, sync               | absent   | decides to give up (see below)                  |
//! | finish: tail put as a segment     | absent   | decides to give up                              |
//! | finish: log says `finish`         | absent   | puts the record, removes the log                |
//! | finish: record put                | there    | removes the log                                 |
//! | finish: other content found there | foreign  | deletes the segments, removes the log           |
//! | finish: log removed in part       | there    | removes what is left of the log                 |
//! | short content put under the key   | there    | gives up: nothing refers to segments            |
//! | abort: log says `abort`           | absent   | deletes segments, log, segments put meanwhile   |
//! | abort: segments deleted           | absent   | the same                                        |
//! | delete: log says `delete`         | there    | deletes record, segments, record again, log     |
//! | delete: record deleted            | absent   | the same                                        |
//! | delete: segments deleted in part  | absent   | the same                                        |
//!
//! Why nobody deletes segments that a key refers to: they are deleted only where the log says `abort`, so
//! that it can never say `finish`; where it says `finish` and other content has the key, so that no
//! record can; and where it says `delete`, after the record. What a process does that stalled for a long
//! time in between is in [`settle`]: it looks once more after its last step, as does whoever it may have
//! missed. Only if such a process is then killed as well, before that look, can a record remain whose
//! segments are gone, or segments without a record.
//!
//! A key must not be deleted while it is put again: S3 has no delete under a condition. Content that
//! is deleted while it is read ends in an error.

mod bucket;
mod config;
mod log;
mod reader;
mod record;
mod segments;
mod session;
mod settle;

#[cfg(test)]
mod drills;

use std::fmt;
use std::io;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinError;

use self::bucket::{Bucket, Depth, Listed, PAGE, S3Bucket};
pub use self::config::{Addressing, OpenS3Error, PlainHttp, S3Config, S3Credentials};
use self::reader::S3Object;
use self::session::{S3Session, Sizes};
use crate::key::component_ok;
use crate::storage::{
    Entry, KeyStream, Object, Put, Session, SessionId, SessionInfo, Sharing, Storage, StorageError,
};
use crate::{Key, random};

/// Most bytes that all sessions together are sending at a time, in MiB.
const UNDER_WAY_MIB: usize = 64;
/// How many sessions are looked at at a time.
const LOOKS: usize = 16;

/// A [`Storage`] in a bucket. Clones are the same storage; so are others, in other processes too, that
/// were opened with the same bucket and prefix.
#[derive(Clone)]
pub struct S3Storage {
    shared: Arc<Shared>,
    /// For people: which bucket.
    name: Arc<str>,
}

/// What a storage and its sessions use together.
#[derive(Debug)]
struct Shared {
    bucket: Arc<dyn Bucket>,
    /// One permit per MiB that is being sent.
    under_way: Arc<Semaphore>,
    sizes: Sizes,
}

impl Shared {
    fn new(bucket: Arc<dyn Bucket>, sizes: Sizes) -> Self {
        Self { bucket, under_way: Arc::new(Semaphore::new(UNDER_WAY_MIB)), sizes }
    }

    /// Waits until `bytes` may be sent.
    async fn permit(&self, bytes: u64) -> OwnedSemaphorePermit {
        let permit = Arc::clone(&self.under_way).acquire_many_owned(mib(bytes)).await;
        permit.expect("the semaphore is never closed")
    }

    fn try_permit(&self, bytes: u64) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.under_way).try_acquire_many_owned(mib(bytes)).ok()
    }
}

/// Begun MiB, at most what may be sent at a time.
fn mib(bytes: u64) -> u32 {
    u32::try_from(bytes.div_ceil(1 << 20)).unwrap_or(u32::MAX).min(UNDER_WAY_MIB as u32)
}

impl S3Storage {
    /// Opens the storage, after having made sure that the bucket can be written and listed, and that
    /// the service does not overwrite what is to be put only if absent.
    ///
    /// # Errors
    ///
    /// [`OpenS3Error`]. Nothing is left in the bucket then, unless the process is killed meanwhile.
    pub async fn open(config: S3Config) -> Result<Self, OpenS3Error> {
        let bucket = S3Bucket::new(config.client()?, config.name_prefix(), config.secrets());
        let name = match &config.prefix {
            Some(prefix) => format!("{}/{prefix}", config.bucket.escape_debug()),
            None => config.bucket.escape_debug().to_string(),
        };
        let failed = |source| OpenS3Error::Storage { bucket: name.clone(), source };
        if !probe(&bucket).await.map_err(failed)? {
            return Err(OpenS3Error::Overwrites { endpoint: config.service() });
        }
        Ok(Self { shared: Arc::new(Shared::new(Arc::new(bucket), Sizes::USUAL)), name: name.into() })
    }

    fn bucket(&self) -> &dyn Bucket {
        &*self.shared.bucket
    }
}

impl fmt::Debug for S3Storage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("S3Storage").field(&self.name).finish()
    }
}

/// Whether a second put of one name is refused and leaves the first content as it was.
async fn probe(bucket: &dyn Bucket) -> Result<bool, StorageError> {
    const CONTENT: [&[u8]; 2] = [b"first", b"second"];
    let failed = |source| StorageError::Io { action: "draw", name: "random bytes".to_owned(), source };
    let name = format!(".probe/{}", hex::encode(random::bytes::<16>().map_err(failed)?));
    let put = async |content| bucket.create(&name, vec![Bytes::from_static(content)]).await;
    let honoured = async {
        let puts = (put(CONTENT[0]).await?, put(CONTENT[1]).await?);
        let left = bucket.read(&name, 0..64).await?;
        bucket.list(".probe/", None, 1, Depth::All).await?;
        Ok(puts == (Put::Created, Put::Exists) && left.is_some_and(|left| left.bytes == CONTENT[0]))
    };
    let honoured = honoured.await;
    let deleted = bucket.delete(vec![name.clone()]).await;
    // What came first says more.
    if honoured? { deleted.map(|()| true) } else { Ok(false) }
}

#[async_trait]
impl Storage for S3Storage {
    fn sharing(&self) -> Sharing {
        Sharing::Shared
    }

    async fn put_if_absent(&self, key: &Key, content: Bytes) -> Result<Put, StorageError> {
        let content = vec![Bytes::from_static(record::CONTENT), content];
        self.bucket().create(key.as_str(), content).await
    }

    async fn size_bytes(&self, key: &Key) -> Result<u64, StorageError> {
        let found = reader::size_bytes(self.bucket(), key).await?;
        found.ok_or_else(|| StorageError::Missing { key: key.clone() })
    }

    async fn open(&self, key: &Key) -> Result<Box<dyn Object>, StorageError> {
        let found = reader::find(self.bucket(), key).await?;
        let found = found.ok_or_else(|| StorageError::Missing { key: key.clone() })?;
        Ok(Box::new(S3Object { bucket: Arc::clone(&self.shared.bucket), key: key.clone(), found }))
    }

    async fn list(
        &self,
        folder: &Key,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Entry>, StorageError> {
        list(self.bucket(), &format!("{folder}/"), after, limit).await
    }

    fn keys_below(&self, folder: &Key) -> KeyStream<'_> {
        let prefix = format!("{folder}/");
        stream::try_unfold(Some(None), move |from: Option<Option<String>>| {
            let prefix = prefix.clone();
            async move {
                let Some(after) = from else { return Ok(None) };
                let page = self.bucket().list(&prefix, after.as_deref(), PAGE, Depth::All).await?;
                let next = page.entries.last().filter(|_| !page.is_last).map(|last| Some(behind(last)));
                // A name that is no key was put here by somebody else and means nothing.
                let keys = page.entries.iter().filter_map(|entry| Key::new(entry.name()).ok().map(Ok));
                Ok(Some((stream::iter(keys.collect::<Vec<_>>()), next)))
            }
        })
        .try_flatten()
        .boxed()
    }

    async fn delete(&self, key: &Key) -> Result<(), StorageError> {
        settle::delete(self.bucket(), key).await
    }

    async fn begin(&self, id: SessionId) -> Result<Box<dyn Session>, StorageError> {
        Ok(Box::new(S3Session::begin(Arc::clone(&self.shared), id).await?))
    }

    async fn resume(&self, id: SessionId) -> Result<Box<dyn Session>, StorageError> {
        Ok(Box::new(S3Session::resume(Arc::clone(&self.shared), id).await?))
    }

    async fn abort(&self, id: SessionId) -> Result<(), StorageError> {
        settle::abort(self.bucket(), id).await
    }

    async fn sessions(&self) -> Result<Vec<SessionInfo>, StorageError> {
        let mut ids: Vec<SessionId> = Vec::new();
        let mut after: Option<String> = None;
        loop {
            let page = self.bucket().list(log::LOGS, after.as_deref(), PAGE, Depth::Folder).await?;
            let folders = page.entries.iter().filter_map(|entry| entry.name().strip_prefix(log::LOGS));
            ids.extend(folders.filter_map(|name| SessionId::parse(name.trim_end_matches('/'))));
            match page.entries.last() {
                Some(last) if !page.is_last => after = Some(behind(last)),
                _ => break,
            }
        }
        let info = async |id| {
            let modified = log::modified(self.bucket(), id).await?;
            Ok(modified.map(|modified| SessionInfo { id, modified }))
        };
        let infos = stream::iter(ids.into_iter().map(info)).buffer_unordered(LOOKS);
        infos.try_filter_map(async |info| Ok(info)).try_collect().await
    }
}

/// What lies directly below `prefix`. See [`Storage::list`].
async fn list(
    bucket: &dyn Bucket,
    prefix: &str,
    after: Option<&str>,
    limit: usize,
) -> Result<Vec<Entry>, StorageError> {
    let mut entries = Vec::new();
    let mut from = after.map(|after| format!("{prefix}{after}"));
    while entries.len() < limit {
        // One more: a folder that was listed last before may be listed again.
        let page = bucket
            .list(prefix, from.as_deref(), (limit - entries.len()).saturating_add(1), Depth::Folder)
            .await?;
        from = page.entries.last().map(behind);
        let found = page.entries.into_iter().filter_map(|listed| match listed {
            Listed::Object { name, .. } => Some(Entry::Key(name.strip_prefix(prefix)?.to_owned())),
            Listed::Folder { name } => {
                let name = name.strip_prefix(prefix)?.strip_suffix('/')?;
                let is_behind = after.is_none_or(|after| format!("{name}/") > format!("{after}/"));
                is_behind.then(|| Entry::Folder(name.to_owned()))
            }
        });
        // A name that is no part of a key was put here by somebody else and means nothing.
        entries.extend(found.filter(|entry| component_ok(entry.name())).take(limit - entries.len()));
        if page.is_last || from.is_none() {
            break;
        }
    }
    Ok(entries)
}

/// Where a listing goes on: of a folder, behind all that can lie in it.
fn behind(listed: &Listed) -> String {
    match listed {
        Listed::Object { name, .. } => name.clone(),
        Listed::Folder { name } => format!("{name}~"),
    }
}

/// Folder of a session's segments, which a key refers to once the session is finished.
fn segment_folder(id: SessionId) -> String {
    format!(".segments/{id}/")
}

/// The object of a segment that begins at `offset` of the content.
fn segment_name(id: SessionId, offset: u64, attempt: u32) -> String {
    format!("{}{offset:020}.{attempt}", segment_folder(id))
}

fn is_first_segment(name: &str) -> bool {
    name.rsplit('/').next().is_some_and(|name| name.starts_with(&format!("{:020}.", 0)))
}

/// An object that does not hold what was put there.
fn damaged(name: &str, error: impl std::error::Error + Send + Sync + 'static) -> StorageError {
    let source = io::Error::new(io::ErrorKind::InvalidData, error);
    StorageError::Io { action: "read", name: name.to_owned(), source }
}

/// A task of ours that did not end by itself.
fn interrupted<T>(error: JoinError) -> Result<T, StorageError> {
    match error.try_into_panic() {
        Ok(panic) => std::panic::resume_unwind(panic),
        Err(_) => {
            let source = io::Error::new(io::ErrorKind::Interrupted, "the runtime is shutting down");
            Err(StorageError::Io { action: "work on", name: "storage".to_owned(), source })
        }
    }
}
