//! Memory in which the pieces that a client sends become long enough to be worth storing.
//!
//! A *large* batch begins on a page boundary, in memory and (but for the first after an odd chunk) in
//! the blob, so that a storage can hand it to the disk as it is. There are only so many large ones for
//! all uploads together. Nobody waits for one: while all are in use, by clients that are slow or
//! because the disk is, batches are *small*, which takes more work per byte and a bounded amount of
//! memory per connection.

use std::sync::{Arc, Mutex, MutexGuard};

use bytes::{Buf as _, Bytes};

/// Bytes in a large batch.
const LARGE: usize = 2 << 20;
/// Bytes in a small batch.
const SMALL: usize = 64 << 10;
/// Large batches of a server: 128 MiB, two for each of 32 clients.
const MAX_LARGE: usize = 64;
/// Large batches that are kept for the next client: 8 MiB.
const MAX_IDLE: usize = 4;
/// What large batches begin at a multiple of.
const PAGE: usize = 4 << 10;

/// The large batches of a server.
#[derive(Debug, Default)]
pub(crate) struct Batches {
    shelf: Mutex<Shelf>,
}

#[derive(Debug, Default)]
struct Shelf {
    idle: Vec<Memory>,
    lent: usize,
}

impl Batches {
    /// An empty batch for what belongs at `offset` of a blob. `expected` is how much is still to come,
    /// where that is known.
    pub(crate) fn begin(self: &Arc<Self>, offset: u64, expected: Option<u64>) -> Batch {
        let expected = expected.map_or(usize::MAX, |bytes| usize::try_from(bytes).unwrap_or(usize::MAX));
        if expected > SMALL
            && let Some(memory) = self.lend()
        {
            // The batch after this one begins on a page boundary of the blob.
            let room = LARGE - (offset % PAGE as u64) as usize;
            return Batch { memory, room, lender: Some(Arc::clone(self)) };
        }
        let room = expected.clamp(1, SMALL);
        Batch { memory: Memory { bytes: Vec::with_capacity(room), start: 0 }, room, lender: None }
    }

    fn lend(&self) -> Option<Memory> {
        let mut shelf = self.shelf();
        if shelf.lent == MAX_LARGE {
            return None;
        }
        shelf.lent += 1;
        Some(shelf.idle.pop().unwrap_or_else(Memory::large))
    }

    fn take_back(&self, mut memory: Memory) {
        memory.bytes.truncate(memory.start);
        let mut shelf = self.shelf();
        shelf.lent -= 1;
        if shelf.idle.len() < MAX_IDLE {
            shelf.idle.push(memory);
        }
    }

    fn shelf(&self) -> MutexGuard<'_, Shelf> {
        self.shelf.lock().expect("nobody panics while holding the shelf")
    }
}

/// Bytes that follow each other in a blob.
#[derive(Debug)]
pub(crate) struct Batch {
    memory: Memory,
    /// How many more bytes it takes.
    room: usize,
    /// Whose memory it is, if it is large.
    lender: Option<Arc<Batches>>,
}

impl Batch {
    /// Moves as much of `piece` into the batch as it takes.
    pub(crate) fn fill_from(&mut self, piece: &mut Bytes) {
        let taken = piece.len().min(self.room);
        self.memory.bytes.extend_from_slice(&piece[..taken]);
        self.room -= taken;
        piece.advance(taken);
    }

    pub(crate) fn is_full(&self) -> bool {
        self.room == 0
    }

    /// The batch's content. Its memory goes back when the last part of it is dropped.
    pub(crate) fn into_bytes(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for Batch {
    fn as_ref(&self) -> &[u8] {
        &self.memory.bytes[self.memory.start..]
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        if let Some(lender) = self.lender.take() {
            lender.take_back(std::mem::take(&mut self.memory));
        }
    }
}

/// A vector that never grows beyond what it was made for, so that its bytes stay where they are.
#[derive(Debug, Default)]
struct Memory {
    bytes: Vec<u8>,
    /// What lies before the first page boundary means nothing.
    start: usize,
}

impl Memory {
    fn large() -> Self {
        let mut bytes: Vec<u8> = Vec::with_capacity(LARGE + PAGE);
        let start = bytes.as_ptr().align_offset(PAGE);
        bytes.resize(start, 0);
        Self { bytes, start }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fills a batch at `offset`, of which `expected` bytes are to come, from an endless piece.
    fn filled(batches: &Arc<Batches>, offset: u64, expected: Option<u64>) -> Bytes {
        let mut batch = batches.begin(offset, expected);
        let mut piece = Bytes::from(vec![7; LARGE + 1]);
        batch.fill_from(&mut piece);
        assert!(batch.is_full());
        let content = batch.into_bytes();
        assert_eq!(content.len() + piece.len(), LARGE + 1);
        assert!(content.iter().all(|byte| *byte == 7));
        content
    }

    #[test]
    fn a_batch_is_as_large_as_what_is_to_come_makes_useful() {
        let check = |offset, expected, want: usize| {
            assert_eq!(filled(&Arc::default(), offset, expected).len(), want);
        };
        check(0, None, LARGE);
        check(0, Some(u64::MAX), LARGE);
        check(0, Some(SMALL as u64 + 1), LARGE);
        check(0, Some(SMALL as u64), SMALL);
        check(0, Some(2), 2);
        check(LARGE as u64, None, LARGE);
        check(1, None, LARGE - 1);
        check(PAGE as u64 - 1, None, LARGE - PAGE + 1);
    }

    #[test]
    fn a_large_batch_begins_on_a_page_boundary_also_when_its_memory_is_used_again() {
        let batches = Arc::default();
        for _ in 0..2 {
            let some: Vec<Bytes> = (0..MAX_IDLE + 1).map(|_| filled(&batches, 0, None)).collect();
            assert!(some.iter().all(|content| content.as_ptr().align_offset(PAGE) == 0));
        }
    }

    #[test]
    fn while_all_large_batches_are_in_use_batches_are_small() {
        let batches = Arc::default();
        let mut lent: Vec<Bytes> = (0..MAX_LARGE).map(|_| filled(&batches, 0, None)).collect();
        assert_eq!(filled(&batches, 0, None).len(), SMALL);
        lent.truncate(1);
        assert_eq!(filled(&batches, 0, None).len(), LARGE);
        assert_eq!(batches.shelf().idle.len(), MAX_IDLE);
    }
}
