//! Reading a file as a stream of pieces.
//!
//! What the kernel has in memory is copied at once, on the thread that asks; only what must come
//! from the disk is fetched on a thread that may block. Buffers are used again, since the kernel
//! would otherwise clear a fresh page for each 4 KiB that are sent.

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
/// Bytes that the kernel is asked to fetch ahead when it has to go to the disk.
const READ_AHEAD: u64 = 4 << 20;
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
    stream::try_unfold((file, range), move |(file, range)| {
        let buffer = buffers.take();
        let name = name.clone();
        async move {
            if range.is_empty() {
                return Ok(None);
            }
            let piece = read_piece(&file, range.clone(), buffer)
                .await
                .map_err(|source| StorageError::Io { action: "read", name, source })?;
            let rest = range.start + piece.len() as u64..range.end;
            Ok(Some((piece, (file, rest))))
        }
    })
    .boxed()
}

async fn read_piece(file: &Arc<File>, range: Range<u64>, mut buffer: Buffer) -> io::Result<Bytes> {
    let want = usize::try_from(range.end - range.start).unwrap_or(PIECE).min(PIECE);
    buffer.len = read_cached(file, range.start, &mut buffer.bytes[..want]);
    if buffer.len == want {
        return Ok(Bytes::from_owner(buffer));
    }
    let file = Arc::clone(file);
    let read = move || {
        let missing = range.start + buffer.len as u64;
        // Only advice: reading works without it.
        let _ = rustix::fs::fadvise(&file, missing, NonZeroU64::new(READ_AHEAD), Advice::WillNeed);
        let read = file.read_exact_at(&mut buffer.bytes[buffer.len..want], missing);
        buffer.len = want;
        Ok(read.map(|()| Bytes::from_owner(buffer)))
    };
    blocking(read).await.map_err(io::Error::other)?
}

/// Fills as much of `buffer` as the kernel has in memory; 0 where it has nothing or cannot say.
fn read_cached(file: &File, offset: u64, buffer: &mut [u8]) -> usize {
    let mut slices = [io::IoSliceMut::new(buffer)];
    rustix::io::preadv2(file, &mut slices, offset, ReadWriteFlags::NOWAIT).unwrap_or(0)
}
