//! What was read and decompressed lately, for several threads, in bounded memory.
//!
//! The locks of the shards are held for a look-up only. Whoever finds a value missing makes it while
//! holding that value's own lock, so others who want the same one wait for it, and nobody else does.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Values by key; the least recently used go first.
#[derive(Debug)]
pub(crate) struct Cache<K, V> {
    shards: Box<[Mutex<Shard<K, V>>]>,
    hasher: RandomState,
    shard_bytes: usize,
}

#[derive(Debug)]
struct Shard<K, V> {
    slots: HashMap<K, Slot<V>>,
    /// Keys by when they were last used.
    order: BTreeMap<u64, K>,
    clock: u64,
    bytes: usize,
}

#[derive(Debug)]
struct Slot<V> {
    /// `None` while it is being made, or if that failed.
    value: Arc<Mutex<Option<Arc<V>>>>,
    used: u64,
    bytes: usize,
}

impl<K: Copy + Eq + Hash, V> Cache<K, V> {
    /// A cache of about `bytes` bytes of values, in so many shards, of which each has its share. The one in use
    /// stays, however large it is.
    pub(crate) fn new(bytes: usize, shards: usize) -> Self {
        Self {
            shards: (0..shards).map(|_| Mutex::new(Shard::new())).collect(),
            hasher: RandomState::new(),
            shard_bytes: bytes / shards,
        }
    }

    /// The value of `key`, which takes `bytes`; made by `make` if it is not here.
    pub(crate) fn get<E>(
        &self,
        key: K,
        bytes: usize,
        make: impl FnOnce() -> Result<V, E>,
    ) -> Result<Arc<V>, E> {
        let value = lock(self.shard(&key)).slot(key, bytes, self.shard_bytes);
        let mut value = lock(&value);
        if let Some(made) = &*value {
            return Ok(Arc::clone(made));
        }
        let made = Arc::new(make()?);
        *value = Some(Arc::clone(&made));
        Ok(made)
    }

    /// Keeps the value of `key` no longer than those who use it do.
    pub(crate) fn forget(&self, key: &K) {
        lock(self.shard(key)).remove(key);
    }

    /// What its values take.
    #[cfg(test)]
    pub(crate) fn bytes(&self) -> usize {
        self.shards.iter().map(|shard| lock(shard).bytes).sum()
    }

    fn shard(&self, key: &K) -> &Mutex<Shard<K, V>> {
        &self.shards[self.hasher.hash_one(key) as usize % self.shards.len()]
    }
}

impl<K: Copy + Eq + Hash, V> Shard<K, V> {
    fn new() -> Self {
        Self { slots: HashMap::new(), order: BTreeMap::new(), clock: 0, bytes: 0 }
    }

    fn slot(&mut self, key: K, bytes: usize, limit: usize) -> Arc<Mutex<Option<Arc<V>>>> {
        self.clock += 1;
        let clock = self.clock;
        self.order.insert(clock, key);
        if let Some(slot) = self.slots.get_mut(&key) {
            self.order.remove(&slot.used);
            slot.used = clock;
            return Arc::clone(&slot.value);
        }
        let value = Arc::new(Mutex::new(None));
        self.slots.insert(key, Slot { value: Arc::clone(&value), used: clock, bytes });
        self.bytes += bytes;
        while self.bytes > limit && self.slots.len() > 1 {
            let (_, oldest) = self.order.first_key_value().expect("each slot has its place in the order");
            let oldest = *oldest;
            self.remove(&oldest);
        }
        value
    }

    fn remove(&mut self, key: &K) {
        if let Some(slot) = self.slots.remove(key) {
            self.order.remove(&slot.used);
            self.bytes -= slot.bytes;
        }
    }
}

/// What a lock guards here is whole even if a thread ended while it held the lock.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
