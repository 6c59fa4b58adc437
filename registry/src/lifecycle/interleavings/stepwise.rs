//! A storage in memory, work on which is done in steps, when somebody says so.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use async_trait::async_trait;
use blob_store::{
    ContentStream, Entry, Key, KeyStream, MemoryStorage, Object, Put, Session, SessionId, SessionInfo,
    Sharing, Storage, StorageError,
};
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};

/// A storage that waits for its turn before each call, and before each key that it lists.
#[derive(Debug)]
pub(super) struct Stepwise(pub(super) MemoryStorage);

/// Lets somebody else go on.
async fn step() {
    let mut has_waited = false;
    poll_fn(|context| {
        if std::mem::replace(&mut has_waited, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

#[async_trait]
impl Storage for Stepwise {
    fn sharing(&self) -> Sharing {
        self.0.sharing()
    }

    async fn put_if_absent(&self, key: &Key, content: Bytes) -> Result<Put, StorageError> {
        step().await;
        self.0.put_if_absent(key, content).await
    }

    async fn size_bytes(&self, key: &Key) -> Result<u64, StorageError> {
        step().await;
        self.0.size_bytes(key).await
    }

    async fn open(&self, key: &Key) -> Result<Box<dyn Object>, StorageError> {
        step().await;
        self.0.open(key).await
    }

    async fn list(
        &self,
        folder: &Key,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Entry>, StorageError> {
        step().await;
        self.0.list(folder, after, limit).await
    }

    fn keys_below(&self, folder: &Key) -> KeyStream<'_> {
        let next = move |(folder, last): (Key, Option<Key>)| async move {
            step().await;
            let mut keys = self.0.keys_below(&folder);
            while let Some(key) = keys.try_next().await? {
                if Some(&key) > last.as_ref() {
                    return Ok(Some((key.clone(), (folder, Some(key)))));
                }
            }
            Ok(None)
        };
        stream::try_unfold((folder.clone(), None), next).boxed()
    }

    async fn delete(&self, key: &Key) -> Result<(), StorageError> {
        step().await;
        self.0.delete(key).await
    }

    async fn begin(&self, id: SessionId) -> Result<Box<dyn Session>, StorageError> {
        Ok(Box::new(StepwiseSession(self.0.begin(id).await?)))
    }

    async fn resume(&self, id: SessionId) -> Result<Box<dyn Session>, StorageError> {
        self.0.resume(id).await
    }

    async fn abort(&self, id: SessionId) -> Result<(), StorageError> {
        self.0.abort(id).await
    }

    async fn sessions(&self) -> Result<Vec<SessionInfo>, StorageError> {
        self.0.sessions().await
    }
}

/// A session that waits for its turn before it ends.
#[derive(Debug)]
struct StepwiseSession(Box<dyn Session>);

#[async_trait]
impl Session for StepwiseSession {
    fn size_bytes(&self) -> u64 {
        self.0.size_bytes()
    }

    async fn append(&mut self, offset: u64, pieces: Vec<Bytes>) -> Result<(), StorageError> {
        self.0.append(offset, pieces).await
    }

    async fn sync(&mut self) -> Result<(), StorageError> {
        self.0.sync().await
    }

    fn stream(&self) -> ContentStream {
        self.0.stream()
    }

    async fn finish(self: Box<Self>, key: &Key) -> Result<Put, StorageError> {
        step().await;
        self.0.finish(key).await
    }
}

/// Takes all steps of `work`, one after the other.
pub(super) fn finish<T>(work: impl Future<Output = T>) -> T {
    let mut work = std::pin::pin!(work);
    loop {
        if let Some(done) = take_step(work.as_mut()) {
            return done;
        }
    }
}

/// Takes one step. What `work` came to, if that was the last one.
pub(super) fn take_step<T>(work: Pin<&mut (impl Future<Output = T> + ?Sized)>) -> Option<T> {
    match work.poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(done) => Some(done),
        Poll::Pending => None,
    }
}
