//! Reading a file as a stream of pieces.
//!
//! What the kernel has in memory is copied at once, on the thread that asks. From the first piece on
//! that must come from the disk, all are read on threads that may block. The kernel reads ahead by
//! itself, further once it was told that all will be read in order, so the disk works while the client
//! is sent what it gave before. Asked by name for what comes next (`WILLNEED`), it would fetch it in
//! single pages, from which each later read copies a tenth more slowly.
//!
//! Buffers are used again, since the kernel would otherwise clear a fresh page for each 4 KiB that
//! are sent.

use std::fs::File;
use std::io;
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
    let reading = Reading { file, range, is_from_disk: false };
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
    /// Some of it was not in memory.
    is_from_disk: bool,
}

impl Reading {
    async fn next_piece(&mut self, mut buffer: Buffer) -> io::Result<Bytes> {
        let start = self.range.start;
        let want = usize::try_from(self.range.end - start).unwrap_or(PIECE).min(PIECE);
        self.range.start += want as u64;
        if !self.is_from_disk {
            buffer.len = read_cached(&self.file, start, &mut buffer.bytes[..want]);
            if buffer.len == want {
                return Ok(Bytes::from_owner(buffer));
            }
            self.is_from_disk = true;
            if !self.range.is_empty() {
                // Only advice: reading works without it.
                let _ = rustix::fs::fadvise(&self.file, 0, None, Advice::Sequential);
            }
        }
        let file = Arc::clone(&self.file);
        let read = move || {
            let missing = start + buffer.len as u64;
            let read = file.read_exact_at(&mut buffer.bytes[buffer.len..want], missing);
            buffer.len = want;
            Ok(read.map(|()| Bytes::from_owner(buffer)))
        };
        blocking(read).await.map_err(io::Error::other)?
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

    const MIB: u64 = 1 << 20;

    /// Reads `range` of a file of which the kernel keeps only what lies before `cached`.
    async fn check(range: Range<u64>, cached: u64) {
        let content: Vec<u8> = (0..3 * MIB + 12_345).map(|place| (place / 1021) as u8).collect();
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
        check(0..u64::MAX, 4 * MIB).await;
        check(0..u64::MAX, 0).await;
        check(0..u64::MAX, 2 * MIB).await;
        check(MIB + 5..2 * MIB + 6, 0).await;
        check(PIECE as u64 - 1..PIECE as u64 + 1, 0).await;
        check(7..7, 0).await;
    }
}
