//! A value that changes, in a storage where nothing does: a log of what it was, newest first.
//!
//! Each change is an entry of its own, a key that only one of several writers can put. The others see
//! that it exists, look again, and decide anew. So every writer decided on what was true when its
//! entry was written, and no two servers need to agree on anything else.
//!
//! What an entry means is its caller's business; where it lies is [`crate::layout`]'s. The newest entry
//! is never deleted, since the places of those that follow are counted from it.

use blob_store::{Entry, Key, Put, Storage, StorageError, read_whole};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::layout;

/// Largest entry that is read: far more than any of ours takes.
const MAX_ENTRY: u64 = 64 << 10;

/// The log in one folder, whose entries are `T` as JSON.
#[derive(Debug)]
pub(crate) struct Log<'a, T> {
    storage: &'a dyn Storage,
    folder: Key,
    /// Which entries say that something is no more: a full disk takes these too.
    is_tombstone: fn(&T) -> bool,
}

/// An entry and its place: 0 for the first that was ever written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Placed<T> {
    pub(crate) place: u64,
    pub(crate) entry: T,
}

/// Why a log could not be read or appended to.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LogError {
    /// An entry that this server wrote does not read back.
    #[error("the record `{key}` in the storage is damaged")]
    Damaged {
        key: Key,
        #[source]
        reason: serde_json::Error,
    },
    #[error(transparent)]
    Storage(#[from] StorageError),
}

impl<'a, T: Serialize + DeserializeOwned> Log<'a, T> {
    pub(crate) const fn new(storage: &'a dyn Storage, folder: Key) -> Self {
        Self { storage, folder, is_tombstone: |_| false }
    }

    /// Entries of which `is_tombstone` is true may use the storage's reserve.
    pub(crate) fn with_tombstones(self, is_tombstone: fn(&T) -> bool) -> Self {
        Self { is_tombstone, ..self }
    }

    /// What is true now; `None` where nothing was ever written.
    pub(crate) async fn newest(&self) -> Result<Option<Placed<T>>, LogError> {
        Ok(self.entries(None, 1).await?.pop())
    }

    /// The place of what is true now.
    pub(crate) async fn newest_place(&self) -> Result<Option<u64>, LogError> {
        let found = self.storage.list(&self.folder, None, 1).await?;
        Ok(found.first().and_then(|entry| layout::place_of_entry(entry.name())))
    }

    /// At most `limit` entries, newest first, from the one before the place `before`.
    pub(crate) async fn entries(
        &self,
        before: Option<u64>,
        limit: usize,
    ) -> Result<Vec<Placed<T>>, LogError> {
        let after = before.map(layout::log_entry_name);
        let found = self.storage.list(&self.folder, after.as_deref(), limit).await?;
        let mut entries = Vec::with_capacity(found.len());
        for name in &found {
            let Entry::Key(name) = name else { continue };
            let Some(place) = layout::place_of_entry(name) else { continue };
            entries.push(Placed { place, entry: self.read(place).await? });
        }
        Ok(entries)
    }

    /// Appends what `decide` makes of the newest entry, and returns it once it survives a power cut.
    /// `None`, and nothing is written, where `decide` wants no change.
    ///
    /// `decide` is asked again when somebody else was faster.
    ///
    /// # Errors
    ///
    /// What `decide` refuses with, and [`LogError`]. Nothing is written then, or it was not certain to
    /// survive.
    pub(crate) async fn append_if<E: From<LogError>>(
        &self,
        mut decide: impl FnMut(Option<&Placed<T>>) -> Result<Option<T>, E>,
    ) -> Result<Option<Placed<T>>, E> {
        self.append_after(1, |newest| decide(newest.first())).await
    }

    /// As [`Log::append_if`], where `decide` sees up to `looked_at` entries, newest first.
    pub(crate) async fn append_after<E: From<LogError>>(
        &self,
        looked_at: usize,
        mut decide: impl FnMut(&[Placed<T>]) -> Result<Option<T>, E>,
    ) -> Result<Option<Placed<T>>, E> {
        loop {
            let newest = self.entries(None, looked_at).await?;
            let Some(entry) = decide(&newest)? else { return Ok(None) };
            let place = newest.first().map_or(0, |newest| newest.place + 1);
            let content = serde_json::to_vec(&entry).expect("our records serialise as JSON");
            let key = layout::log_entry(&self.folder, place);
            let put = match (self.is_tombstone)(&entry) {
                true => self.storage.put_tombstone(&key, content.into()).await,
                false => self.storage.put_if_absent(&key, content.into()).await,
            };
            if put.map_err(LogError::from)? == Put::Created {
                return Ok(Some(Placed { place, entry }));
            }
        }
    }

    async fn read(&self, place: u64) -> Result<T, LogError> {
        let key = layout::log_entry(&self.folder, place);
        let bytes = read_whole(self.storage, &key, MAX_ENTRY).await?;
        serde_json::from_slice(&bytes).map_err(|reason| LogError::Damaged { key, reason })
    }
}

#[cfg(test)]
mod tests {
    use blob_store::MemoryStorage;

    use super::*;

    fn log(storage: &MemoryStorage) -> Log<'_, String> {
        Log::new(storage, Key::new("folder").unwrap())
    }

    async fn append(log: &Log<'_, String>, text: &str) -> Option<u64> {
        let appended = log.append_if(|newest| {
            let is_new = newest.is_none_or(|newest| newest.entry != text);
            Ok::<_, LogError>(is_new.then(|| text.to_owned()))
        });
        appended.await.unwrap().map(|placed| placed.place)
    }

    #[tokio::test]
    async fn the_newest_entry_is_what_is_true() {
        let storage = MemoryStorage::new();
        let log = log(&storage);
        assert_eq!(log.newest().await.unwrap(), None);
        assert_eq!(append(&log, "one").await, Some(0));
        assert_eq!(append(&log, "two").await, Some(1));
        assert_eq!(append(&log, "two").await, None);
        assert_eq!(log.newest().await.unwrap(), Some(Placed { place: 1, entry: "two".to_owned() }));
    }

    #[tokio::test]
    async fn entries_are_read_in_pages_from_the_newest() {
        let storage = MemoryStorage::new();
        let log = log(&storage);
        for number in 0..5 {
            append(&log, &number.to_string()).await;
        }
        let page = async |before, limit| {
            let entries = log.entries(before, limit).await.unwrap();
            entries.into_iter().map(|placed| placed.entry).collect::<Vec<_>>()
        };
        assert_eq!(page(None, 2).await, ["4", "3"]);
        assert_eq!(page(Some(3), 2).await, ["2", "1"]);
        assert_eq!(page(Some(1), 9).await, ["0"]);
        assert_eq!(page(Some(0), 9).await, [""; 0]);
    }

    #[tokio::test]
    async fn writers_at_the_same_time_decide_one_after_the_other() {
        let storage = MemoryStorage::new();
        let count = async |_| {
            let log: Log<'_, u64> = Log::new(&storage, Key::new("count").unwrap());
            let next = |newest: Option<&Placed<u64>>| {
                Ok::<_, LogError>(Some(newest.map_or(1, |newest| newest.entry + 1)))
            };
            log.append_if(next).await.unwrap().unwrap().entry
        };
        let mut counted = futures_util::future::join_all((0..16).map(count)).await;
        counted.sort_unstable();
        assert!(counted.into_iter().eq(1..=16));
    }

    #[tokio::test]
    async fn a_refusal_writes_nothing() {
        #[derive(Debug, thiserror::Error)]
        enum Refusal {
            #[error("no")]
            No,
            #[error(transparent)]
            Log(#[from] LogError),
        }
        let storage = MemoryStorage::new();
        let log = log(&storage);
        let refused = log.append_if(|_| Err(Refusal::No)).await;
        assert!(matches!(refused, Err(Refusal::No)), "{refused:?}");
        assert_eq!(log.newest().await.unwrap(), None);
    }

    #[tokio::test]
    async fn an_entry_that_does_not_read_back_is_an_error() {
        let storage = MemoryStorage::new();
        let log = log(&storage);
        storage.put_if_absent(&layout::log_entry(&log.folder, 0), "{".into()).await.unwrap();
        assert!(matches!(log.newest().await, Err(LogError::Damaged { .. })));
    }
}
