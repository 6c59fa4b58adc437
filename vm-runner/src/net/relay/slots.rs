//! Numbered places for things that epoll reports by number.
//!
//! One batch of events may still name a thing that an earlier event of the same batch ended, so a
//! place that became empty is not given away before [`Slots::recycle`].

/// Places for values, numbered from 0.
#[derive(Debug)]
pub(super) struct Slots<T> {
    places: Vec<Option<T>>,
    free: Vec<usize>,
    emptied: Vec<usize>,
}

impl<T> Slots<T> {
    pub(super) const fn new() -> Self {
        Self { places: Vec::new(), free: Vec::new(), emptied: Vec::new() }
    }

    /// How many values there are.
    pub(super) fn len(&self) -> usize {
        self.places.len() - self.free.len() - self.emptied.len()
    }

    pub(super) fn insert(&mut self, value: T) -> usize {
        match self.free.pop() {
            Some(slot) => {
                self.places[slot] = Some(value);
                slot
            }
            None => {
                self.places.push(Some(value));
                self.places.len() - 1
            }
        }
    }

    pub(super) fn get_mut(&mut self, slot: usize) -> Option<&mut T> {
        self.places.get_mut(slot)?.as_mut()
    }

    pub(super) fn remove(&mut self, slot: usize) -> Option<T> {
        let value = self.places.get_mut(slot)?.take()?;
        self.emptied.push(slot);
        Some(value)
    }

    /// Takes out every value that `is_over`, and hands it to `each`.
    pub(super) fn remove_all(&mut self, mut is_over: impl FnMut(&T) -> bool, mut each: impl FnMut(T)) {
        for slot in 0..self.places.len() {
            if self.places[slot].as_ref().is_some_and(&mut is_over) {
                self.remove(slot).into_iter().for_each(&mut each);
            }
        }
    }

    /// Makes emptied places available; to be called between batches of events.
    pub(super) fn recycle(&mut self) {
        self.free.append(&mut self.emptied);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_not_reused_within_a_batch() {
        let mut slots = Slots::new();
        assert_eq!((slots.insert('a'), slots.insert('b')), (0, 1));
        assert_eq!(slots.remove(0), Some('a'));
        assert_eq!((slots.remove(0), slots.len()), (None, 1));
        assert_eq!(slots.insert('c'), 2);
        slots.recycle();
        assert_eq!(slots.insert('d'), 0);
        slots.remove_all(|value| *value != 'c', drop);
        assert_eq!(slots.len(), 1);
        assert_eq!(slots.get_mut(2), Some(&mut 'c'));
    }
}
