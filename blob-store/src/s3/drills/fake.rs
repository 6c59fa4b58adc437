//! A bucket in memory, and the ways to come between its requests.

use std::collections::BTreeMap;
use std::io;
use std::ops::{Bound, Range};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::SystemTime;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use super::super::bucket::{Bucket, Depth, Listed, Page, Read};
use crate::storage::{Put, StorageError};

/// Objects, and no way to change one.
#[derive(Debug, Default)]
pub(super) struct FakeBucket {
    objects: Mutex<BTreeMap<String, Bytes>>,
}

impl FakeBucket {
    fn objects(&self) -> MutexGuard<'_, BTreeMap<String, Bytes>> {
        self.objects.lock().unwrap()
    }

    pub(super) fn names(&self) -> Vec<String> {
        self.objects().keys().cloned().collect()
    }

    /// A bucket with the same objects, that changes without this one.
    pub(super) fn copy(&self) -> Arc<Self> {
        Arc::new(Self { objects: Mutex::new(self.objects().clone()) })
    }
}

#[async_trait]
impl Bucket for FakeBucket {
    async fn create(&self, name: &str, content: Vec<Bytes>) -> Result<Put, StorageError> {
        let mut objects = self.objects();
        if objects.contains_key(name) {
            return Ok(Put::Exists);
        }
        let whole = if content.len() == 1 { content[0].clone() } else { content.concat().into() };
        objects.insert(name.to_owned(), whole);
        Ok(Put::Created)
    }

    async fn read(&self, name: &str, range: Range<u64>) -> Result<Option<Read>, StorageError> {
        Ok(self.objects().get(name).map(|object| {
            let end = object.len().min(range.end as usize);
            Read { bytes: object.slice(range.start as usize..end), object_bytes: object.len() as u64 }
        }))
    }

    async fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
        depth: Depth,
    ) -> Result<Page, StorageError> {
        let mut page = Page { entries: Vec::new(), is_last: true };
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        for name in self.objects().range::<str, _>((from, Bound::Unbounded)).map(|(name, _)| name) {
            let Some(rest) = name.strip_prefix(prefix) else { continue };
            let listed = match rest.split_once('/') {
                Some((folder, _)) if depth == Depth::Folder => {
                    Listed::Folder { name: format!("{prefix}{folder}/") }
                }
                _ => Listed::Object { name: name.clone(), modified: SystemTime::UNIX_EPOCH },
            };
            if page.entries.last() != Some(&listed) {
                if page.entries.len() == limit.min(3) {
                    page.is_last = false; // as small as a page can be, so that all is paged
                    break;
                }
                page.entries.push(listed);
            }
        }
        Ok(page)
    }

    async fn delete(&self, names: Vec<String>) -> Result<(), StorageError> {
        names.iter().for_each(|name| drop(self.objects().remove(name)));
        Ok(())
    }
}

/// A bucket whose user is killed after so many changes: further requests do nothing and fail.
#[derive(Debug)]
pub(super) struct Stopped {
    pub(super) bucket: Arc<FakeBucket>,
    pub(super) changes_left: AtomicUsize,
    pub(super) last: LastChange,
}

/// What becomes of the request in which the user is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LastChange {
    NotDone,
    /// It is done, and nobody hears of it.
    Done,
}

impl Stopped {
    fn is_stopped(&self) -> bool {
        self.changes_left.load(Ordering::Relaxed) == 0
    }

    /// Counts a change. True if it is to be done.
    fn may_change(&self) -> Result<(), StorageError> {
        let left = self.changes_left.load(Ordering::Relaxed);
        self.changes_left.store(left.saturating_sub(1), Ordering::Relaxed);
        if left == 0 { Err(stopped()) } else { Ok(()) }
    }
}

fn stopped() -> StorageError {
    StorageError::Io { action: "reach", name: "bucket".to_owned(), source: io::Error::other("stopped") }
}

#[async_trait]
impl Bucket for Stopped {
    async fn create(&self, name: &str, content: Vec<Bytes>) -> Result<Put, StorageError> {
        self.may_change()?;
        if self.is_stopped() && self.last == LastChange::NotDone {
            return Err(stopped());
        }
        let put = self.bucket.create(name, content).await?;
        if self.is_stopped() { Err(stopped()) } else { Ok(put) }
    }

    async fn read(&self, name: &str, range: Range<u64>) -> Result<Option<Read>, StorageError> {
        if self.is_stopped() { Err(stopped()) } else { self.bucket.read(name, range).await }
    }

    async fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
        depth: Depth,
    ) -> Result<Page, StorageError> {
        if self.is_stopped() { Err(stopped()) } else { self.bucket.list(prefix, after, limit, depth).await }
    }

    /// One after the other, in an order that is not that of the names: S3 promises none.
    async fn delete(&self, names: Vec<String>) -> Result<(), StorageError> {
        for name in names.into_iter().rev() {
            self.may_change()?;
            if !(self.is_stopped() && self.last == LastChange::NotDone) {
                self.bucket.delete(vec![name]).await?;
            }
        }
        if self.is_stopped() { Err(stopped()) } else { Ok(()) }
    }
}

/// A bucket whose user does a request only when it is told to.
#[derive(Debug)]
pub(super) struct Told {
    pub(super) bucket: Arc<FakeBucket>,
    /// Where the user says that it waits, and how it is told to go on.
    pub(super) waits: mpsc::UnboundedSender<oneshot::Sender<()>>,
}

impl Told {
    async fn turn(&self) {
        let (tell, told) = oneshot::channel();
        self.waits.send(tell).expect("the one who tells is there");
        told.await.expect("the one who tells is there");
    }
}

#[async_trait]
impl Bucket for Told {
    async fn create(&self, name: &str, content: Vec<Bytes>) -> Result<Put, StorageError> {
        self.turn().await;
        self.bucket.create(name, content).await
    }

    async fn read(&self, name: &str, range: Range<u64>) -> Result<Option<Read>, StorageError> {
        self.turn().await;
        self.bucket.read(name, range).await
    }

    async fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
        depth: Depth,
    ) -> Result<Page, StorageError> {
        self.turn().await;
        self.bucket.list(prefix, after, limit, depth).await
    }

    async fn delete(&self, names: Vec<String>) -> Result<(), StorageError> {
        for name in names.into_iter().rev() {
            self.turn().await;
            self.bucket.delete(vec![name]).await?;
        }
        Ok(())
    }
}
