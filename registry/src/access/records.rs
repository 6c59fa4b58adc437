//! The records of users, or of robots: a log for each account, so that removing one is an entry too.
//!
//! Whoever asks gets what is true now. Where this process alone uses the storage, what it read once
//! stays true until it changes it itself. Where others use it too, each question looks for the newest
//! entry's place, and reads only entries that it has not seen: an entry never changes.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};

use blob_store::{Key, Sharing, Storage};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::clock::Time;
use crate::log::{Log, LogError, Placed};

/// Accounts that are listed at a time.
const PAGE: usize = 1000;

/// An entry of an account's log.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Change<T> {
    /// When it was written.
    time: Time,
    /// What is true from then on; `None`: there is no such account.
    account: Option<T>,
}

/// The records of one kind of account.
#[derive(Debug)]
pub(crate) struct Records<T> {
    storage: Arc<dyn Storage>,
    /// Has a folder for each account.
    folder: Key,
    /// The newest entry of each account that was read. Accounts are few, and only those that exist,
    /// or did, are here.
    known: Mutex<HashMap<Key, Placed<Option<Arc<T>>>>>,
}

impl<T: Clone + Serialize + DeserializeOwned> Records<T> {
    pub(crate) fn new(storage: Arc<dyn Storage>, folder: Key) -> Self {
        Self { storage, folder, known: Mutex::default() }
    }

    /// The account in this folder, if there is one.
    pub(crate) async fn get(&self, folder: &Key) -> Result<Option<Arc<T>>, LogError> {
        let known = self.known().get(folder).cloned();
        if let Some(known) = known {
            let is_newest = self.storage.sharing() == Sharing::Exclusive
                || self.log(folder).newest_place().await? == Some(known.place);
            if is_newest {
                return Ok(known.entry);
            }
        }
        let Some(Placed { place, entry }) = self.log(folder).newest().await? else { return Ok(None) };
        let account = entry.account.map(Arc::new);
        self.learn(folder, Placed { place, entry: account.clone() });
        Ok(account)
    }

    /// Changes an account to what `decide` makes of it; `None` removes it.
    ///
    /// # Errors
    ///
    /// What `decide` refuses with, and [`LogError`].
    pub(crate) async fn change<E: From<LogError>>(
        &self,
        folder: &Key,
        time: Time,
        mut decide: impl FnMut(Option<&T>) -> Result<Option<T>, E>,
    ) -> Result<(), E> {
        let log = self.log(folder);
        let append = log.append_if(|newest| {
            let account = decide(newest.and_then(|newest| newest.entry.account.as_ref()))?;
            Ok::<_, E>(Some(Change { time, account }))
        });
        if let Some(Placed { place, entry }) = append.await? {
            self.learn(folder, Placed { place, entry: entry.account.map(Arc::new) });
        }
        Ok(())
    }

    /// All accounts, in the order of their folders.
    pub(crate) async fn all(&self) -> Result<Vec<Arc<T>>, LogError> {
        let mut accounts = Vec::new();
        let mut after = None;
        loop {
            let page = self.storage.list(&self.folder, after.as_deref(), PAGE).await?;
            for entry in &page {
                let folder = crate::layout::account(&self.folder, entry.name());
                accounts.extend(self.get(&folder).await?);
            }
            match page.last() {
                Some(last) if page.len() == PAGE => after = Some(last.name().to_owned()),
                _ => return Ok(accounts),
            }
        }
    }

    fn log(&self, folder: &Key) -> Log<'_, Change<T>> {
        Log::new(&*self.storage, folder.clone())
    }

    /// Remembers an entry, unless a newer one is remembered: somebody may have been slow.
    fn learn(&self, folder: &Key, newest: Placed<Option<Arc<T>>>) {
        let mut known = self.known();
        if known.get(folder).is_none_or(|known| known.place < newest.place) {
            known.insert(folder.clone(), newest);
        }
    }

    fn known(&self) -> MutexGuard<'_, HashMap<Key, Placed<Option<Arc<T>>>>> {
        self.known.lock().expect("nobody panics while holding the accounts")
    }
}
