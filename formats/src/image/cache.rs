//! A small cache of tables and decompressed units, bounded in bytes and shared by all reading threads.
//!
//! Each key has one slot, so neighbours never push each other out, which is what sequential reads need.
//! Loading happens outside the lock: two threads that miss at once both load, and neither waits.

use std::sync::{Arc, Mutex, PoisonError};

#[derive(Debug)]
pub(super) struct SlotCache<T: ?Sized> {
    /// Never empty. The key `k` can only be in slot `k % slots.len()`.
    slots: Box<[Slot<T>]>,
}

type Slot<T> = Mutex<Option<(u64, Arc<T>)>>;

/// Above this many slots, the slots themselves would cost more than they save.
const MOST_SLOTS: u64 = 4096;

impl<T: ?Sized> SlotCache<T> {
    /// A cache of values of `value_bytes` each that holds `budget_bytes` of them, but at least two, and
    /// no more than there are keys.
    pub(super) fn new(budget_bytes: u64, value_bytes: u64, keys: u64) -> Self {
        let affordable = (budget_bytes / value_bytes.max(1)).clamp(2, MOST_SLOTS);
        let count = affordable.min(keys.max(1));
        SlotCache { slots: (0..count).map(|_| Mutex::new(None)).collect() }
    }

    /// The value of `key`, from the cache or else from `load`.
    pub(super) fn get_or_load<E>(
        &self,
        key: u64,
        load: impl FnOnce() -> Result<Arc<T>, E>,
    ) -> Result<Arc<T>, E> {
        let slot = &self.slots[(key % self.slots.len() as u64) as usize];
        if let Some((held, value)) = &*slot.lock().unwrap_or_else(PoisonError::into_inner)
            && *held == key
        {
            return Ok(Arc::clone(value));
        }
        let value = load()?;
        *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some((key, Arc::clone(&value)));
        Ok(value)
    }
}
