//! Reading a file as a stream of pieces.
//!
//! What the kernel has in memory is copied at once, on the thread that asks; only what must come
//! from the disk is waited for on a thread that may block. From the first such piece on, the kernel
//! is asked ahead of the reader, so that the disk works while the client is sent what it gave before.
//! Buffers are used again, since the kernel would otherwise clear a fresh page for each 4 KiB that
//! are sent.

use std::fs::File;
use std::io;
use std::num::NonZeroU64;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use rustix::fs::Advice;
use rustix::io::ReadWriteFlags;

use super::blocking;
use crate::storage::{ContentStream, StorageError};

/// Bytes in one piece: small enough to be still in the processor's cache when it is sent.
const PIECE: usize = 256 << 10;
/// From the disk, the kernel is asked for so many bytes at once, while as many are still to be sent.
const WINDOW: u64 = 8 << 20;
/// Buffers kept for the next reader: 4 MiB.
const MAX_IDLE_BUFFERS: usize = 16;

/// Buffers of [`PIECE`] bytes that wait for their next use.
#[derive(Debug, Default)]
pub(super) struct BufferPool {
    idle: Mutex<Vec<Vec<u8>>>,
}

impl BufferPool {
    fn take(self: &Arc<Self>) -> Buffer {
        let idle = self.idle.lock().expect("nobody panics while holding the buffers").pop();
        Buffer { bytes: idle.unwrap_or_else(|| vec![0; PIECE]), len: 0, pool: Arc::clone(self) }
    }
}

/// A buffer that goes back to its pool when the last piece made of it is dropped.
struct Buffer {
    bytes: Vec<u8>,
    /// How much of it has been filled.
    len: usize,
    pool: Arc<BufferPool>,
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let mut idle = self.pool.idle.lock().expect("nobody panics while holding the buffers");
        if idle.len() < MAX_IDLE_BUFFERS {
            idle.push(std::mem::take(&mut self.bytes));
        }
    }
}

/// The bytes of `range`, which was found to lie in the file called `name`.
pub(super) fn stream(
    file: Arc<File>,
    name: String,
    range: Range<u64>,
    buffers: Arc<BufferPool>,
) -> ContentStream {
    let reading = Reading { file, fetched: range.start, range };
    stream::try_unfold(reading, move |mut reading| {
        let buffer = buffers.take();
        let name = name.clone();
        async move {
            if reading.range.is_empty() {
                return Ok(None);
            }
            let piece = reading.next_piece(buffer).await;
            let piece = piece.map_err(|source| StorageError::Io { action: "read", name, source })?;
            Ok(Some((piece, reading)))
        }
    })
    .boxed()
}

/// A file on its way out.
struct Reading {
    file: Arc<File>,
    /// What is still to be read.
    range: Range<u64>,
    /// Up to where the kernel was asked to fetch; where the stream begins, as long as all was in memory.
    fetched: u64,
}

impl Reading {
    async fn next_piece(&mut self, mut buffer: Buffer) -> io::Result<Bytes> {
        let start = self.range.start;
        let want = usize::try_from(self.range.end - start).unwrap_or(PIECE).min(PIECE);
        buffer.len = read_cached(&self.file, start, &mut buffer.bytes[..want]);
        self.range.start += want as u64;
        if buffer.len == want {
            if self.fetched > start {
                self.fetch_ahead();
            }
            return Ok(Bytes::from_owner(buffer));
        }
        self.fetched = self.fetched.max(self.range.start);
        self.fetch_ahead();
        let file = Arc::clone(&self.file);
        let read = move || {
            let missing = start + buffer.len as u64;
            let read = file.read_exact_at(&mut buffer.bytes[buffer.len..want], missing);
            buffer.len = want;
            Ok(read.map(|()| Bytes::from_owner(buffer)))
        };
        blocking(read).await.map_err(io::Error::other)?
    }

    /// Asks the kernel for the next part of the file once the reader comes close to it, and does not
    /// wait: what was asked for before is sent meanwhile.
    fn fetch_ahead(&mut self) {
        let end = (self.range.start + 2 * WINDOW).min(self.range.end);
        if self.fetched >= end || self.fetched > self.range.start + WINDOW {
            return;
        }
        let (file, from) = (Arc::clone(&self.file), self.fetched);
        self.fetched = end;
        let ask = move || {
            // Only advice: reading works without it.
            let _ = rustix::fs::fadvise(&file, from, NonZeroU64::new(end - from), Advice::WillNeed);
        };
        drop(tokio::task::spawn_blocking(ask));
    }
}

/// Fills as much of `buffer` as the kernel has in memory; 0 where it has nothing or cannot say.
fn read_cached(file: &File, offset: u64, buffer: &mut [u8]) -> usize {
    let mut slices = [io::IoSliceMut::new(buffer)];
    rustix::io::preadv2(file, &mut slices, offset, ReadWriteFlags::NOWAIT).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use futures_util::TryStreamExt as _;

    use super::*;

    /// Reads `range` of a file of which the kernel keeps only what lies before `cached`.
    async fn check(range: Range<u64>, cached: u64) {
        let content: Vec<u8> = (0..3 * WINDOW + 12_345).map(|place| (place / 1021) as u8).collect();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&content).unwrap();
        file.sync_data().unwrap();
        rustix::fs::fadvise(&file, cached, None, Advice::DontNeed).unwrap();
        let end = range.end.min(content.len() as u64);
        let stream = stream(Arc::new(file), "file".to_owned(), range.start..end, Arc::default());
        let found: Vec<Bytes> = stream.try_collect().await.unwrap();
        assert!(found.concat() == content[range.start as usize..end as usize], "{range:?}, {cached}");
    }

    #[tokio::test]
    async fn a_file_reads_the_same_from_the_disk_and_from_memory() {
        check(0..u64::MAX, 4 * WINDOW).await;
        check(0..u64::MAX, 0).await;
        check(0..u64::MAX, 2 * WINDOW).await;
        check(WINDOW + 5..2 * WINDOW + 6, 0).await;
        check(PIECE as u64 - 1..PIECE as u64 + 1, 0).await;
        check(7..7, 0).await;
    }
}
