//! Manifests that were read lately, by the name they were asked for.
//!
//! Manifests are small, asked for by every client on every start, and named by tags that seldom
//! move. What is remembered is right because only this process changes the storage (the cache is off
//! otherwise) and because whoever changes a name forgets it here afterwards: a reader that was under
//! way meanwhile finds that its ticket is too old, and does not remember what it read.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};

use blob_store::Sharing;

use crate::name::{ManifestName, RepositoryName};
use crate::repository::StoredManifest;

/// Most that is remembered, in bytes of manifests and of what goes with them.
const BUDGET: usize = 8 << 20;
/// What one entry costs beside the manifest itself: names, table, counters.
const ENTRY: usize = 1 << 10;

/// A manifest as a request names it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct CacheKey {
    pub(crate) repository: RepositoryName,
    pub(crate) name: ManifestName,
}

/// When a reader began to read. See [`ManifestCache::insert`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ticket(u64);

#[derive(Debug)]
pub(crate) struct ManifestCache {
    is_on: bool,
    state: Mutex<State>,
}

/// Two generations: what is found in the old one moves to the young one; when the young one has
/// used half of the budget, it becomes the old one, and the old one is dropped.
#[derive(Debug, Default)]
struct State {
    young: HashMap<CacheKey, Arc<StoredManifest>>,
    old: HashMap<CacheKey, Arc<StoredManifest>>,
    young_cost: usize,
    changes: u64,
}

impl ManifestCache {
    pub(crate) fn new(sharing: Sharing) -> Self {
        Self { is_on: sharing == Sharing::Exclusive, state: Mutex::default() }
    }

    /// The manifest, if it is remembered; else a ticket for whoever goes and reads it.
    pub(crate) fn get(&self, key: &CacheKey) -> Result<Arc<StoredManifest>, Ticket> {
        let mut state = self.state();
        if let Some(found) = state.young.get(key) {
            return Ok(Arc::clone(found));
        }
        match state.old.remove(key) {
            Some(found) => {
                state.insert(key.clone(), Arc::clone(&found));
                Ok(found)
            }
            None => Err(Ticket(state.changes)),
        }
    }

    /// Remembers what was read, unless some name was changed since the reader took its ticket.
    pub(crate) fn insert(&self, ticket: Ticket, key: CacheKey, manifest: Arc<StoredManifest>) {
        let mut state = self.state();
        if self.is_on && ticket.0 == state.changes {
            state.insert(key, manifest);
        }
    }

    /// Forgets a name. To be called after the change is in the storage and before it is acknowledged.
    pub(crate) fn forget(&self, key: &CacheKey) {
        let mut state = self.state();
        state.changes += 1;
        state.young.remove(key);
        state.old.remove(key);
    }

    /// Forgets everything, as [`ManifestCache::forget`].
    pub(crate) fn forget_all(&self) {
        let mut state = self.state();
        *state = State { changes: state.changes + 1, ..State::default() };
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nobody panics while holding the cache")
    }
}

impl State {
    fn insert(&mut self, key: CacheKey, manifest: Arc<StoredManifest>) {
        self.young_cost += ENTRY + manifest.bytes.len();
        self.young.insert(key, manifest);
        if self.young_cost > BUDGET / 2 {
            self.old = std::mem::take(&mut self.young);
            self.young_cost = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use appliance::Digest;
    use bytes::Bytes;

    use super::*;
    use crate::name::Tag;

    fn key(tag: &str) -> CacheKey {
        CacheKey {
            repository: RepositoryName::parse("r").unwrap(),
            name: ManifestName::Tag(Tag::parse(tag).unwrap()),
        }
    }

    fn manifest(size: usize) -> Arc<StoredManifest> {
        let digest = Digest::sha256(&size.to_le_bytes());
        Arc::new(StoredManifest { digest, media_type: "x".to_owned(), bytes: Bytes::from(vec![0; size]) })
    }

    fn cache() -> ManifestCache {
        ManifestCache::new(Sharing::Exclusive)
    }

    #[test]
    fn what_was_inserted_is_found() {
        let cache = cache();
        let ticket = cache.get(&key("a")).unwrap_err();
        cache.insert(ticket, key("a"), manifest(1));
        assert_eq!(cache.get(&key("a")).unwrap(), manifest(1));
        assert!(cache.get(&key("b")).is_err());
    }

    #[test]
    fn a_reader_that_a_change_overtook_is_not_believed() {
        let cache = cache();
        let ticket = cache.get(&key("a")).unwrap_err();
        cache.forget(&key("a"));
        cache.insert(ticket, key("a"), manifest(1));
        assert!(cache.get(&key("a")).is_err());
    }

    #[test]
    fn the_budget_holds_and_what_is_used_stays() {
        let cache = cache();
        let insert = |tag: &str, size| {
            let ticket = cache.get(&key(tag)).unwrap_err();
            cache.insert(ticket, key(tag), manifest(size));
        };
        insert("used", 1);
        for number in 0..100 {
            insert(&format!("x{number}"), 1 << 20);
            assert!(cache.get(&key("used")).is_ok());
        }
        let state = cache.state();
        let held: usize = state.young.values().chain(state.old.values()).map(|found| found.bytes.len()).sum();
        assert!(held <= BUDGET, "{held}");
    }

    #[test]
    fn nothing_is_remembered_of_a_storage_with_other_writers() {
        let cache = ManifestCache::new(Sharing::Shared);
        let ticket = cache.get(&key("a")).unwrap_err();
        cache.insert(ticket, key("a"), manifest(1));
        assert!(cache.get(&key("a")).is_err());
    }
}
