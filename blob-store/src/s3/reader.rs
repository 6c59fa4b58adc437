//! Reading content: what lies under a key, and its bytes, some of them fetched ahead.

use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use tokio::task::JoinHandle;

use super::bucket::{Bucket, WHOLE};
use super::record::{CONTENT, FIRST_LINE, FirstLine, Record};
use super::segments::{Segment, Segments};
use super::{damaged, segment_name};
use crate::Key;
use crate::storage::{ContentStream, Object, SessionId, StorageError};

/// Bytes fetched at a time, which is also the largest piece of a stream.
const PIECE: u64 = 1 << 20;
/// Pieces under way at a time: as much as a reader holds in memory.
const AHEAD: usize = 4;
/// What opening a key fetches of it. Most keys are no longer and need no further request.
const START: u64 = 64 << 10;

/// What lies under a key.
#[derive(Debug)]
pub(super) enum Found {
    Content {
        size_bytes: u64,
        /// Its first bytes, perhaps all of them.
        start: Bytes,
    },
    Record(Record),
}

/// Looks what lies under `key`; `None` if nothing does.
pub(super) async fn find(bucket: &dyn Bucket, key: &Key) -> Result<Option<Found>, StorageError> {
    let Some(read) = bucket.read(key.as_str(), 0..START).await? else { return Ok(None) };
    let first_line = FirstLine::parse(&read.bytes).map_err(|error| damaged(key.as_str(), error))?;
    let bytes = match first_line {
        FirstLine::Content => {
            let size_bytes = read.object_bytes - CONTENT.len() as u64;
            return Ok(Some(Found::Content { size_bytes, start: read.bytes.slice(CONTENT.len()..) }));
        }
        FirstLine::Record { .. } if read.object_bytes == read.bytes.len() as u64 => read.bytes,
        FirstLine::Record { .. } => match bucket.read(key.as_str(), 0..WHOLE).await? {
            Some(read) => read.bytes,
            None => return Ok(None),
        },
    };
    let record = Record::parse(&bytes).map_err(|error| damaged(key.as_str(), error))?;
    Ok(Some(Found::Record(record)))
}

/// Size of the content under `key`; `None` if nothing lies there.
pub(super) async fn size_bytes(bucket: &dyn Bucket, key: &Key) -> Result<Option<u64>, StorageError> {
    let Some(read) = bucket.read(key.as_str(), 0..FIRST_LINE).await? else { return Ok(None) };
    match FirstLine::parse(&read.bytes).map_err(|error| damaged(key.as_str(), error))? {
        FirstLine::Content => Ok(Some(read.object_bytes - CONTENT.len() as u64)),
        FirstLine::Record { size_bytes } => Ok(Some(size_bytes)),
    }
}

/// A key's content, open for reading.
#[derive(Debug)]
pub(super) struct S3Object {
    pub(super) bucket: Arc<dyn Bucket>,
    pub(super) key: Key,
    pub(super) found: Found,
}

impl Object for S3Object {
    fn size_bytes(&self) -> u64 {
        match &self.found {
            Found::Content { size_bytes, .. } => *size_bytes,
            Found::Record(record) => record.segments.size_bytes(),
        }
    }

    fn stream(self: Box<Self>, range: Range<u64>) -> ContentStream {
        let size = self.size_bytes();
        assert!(range.start <= range.end && range.end <= size, "{range:?} of {size}");
        match self.found {
            Found::Content { start, .. } if range.end <= start.len() as u64 => {
                let at = |offset| usize::try_from(offset).expect("it lies in memory");
                let piece = start.slice(at(range.start)..at(range.end));
                stream::iter((!piece.is_empty()).then_some(Ok(piece))).boxed()
            }
            Found::Content { size_bytes, .. } => {
                let head = CONTENT.len() as u64;
                let (name, object_bytes) = (self.key.to_string(), size_bytes + head);
                let mut position = range.start;
                let reads = std::iter::from_fn(move || {
                    let read = position..range.end.min(position + PIECE);
                    position = read.end;
                    let bytes = read.start + head..read.end + head;
                    (!read.is_empty()).then(|| Fetch { name: name.clone(), bytes, object_bytes })
                });
                fetched(self.bucket, reads)
            }
            Found::Record(Record { id, segments }) => {
                fetched(self.bucket, segment_reads(id, segments, range))
            }
        }
    }
}

/// The bytes of `range` of content in segments.
pub(super) fn stream_segments(
    bucket: Arc<dyn Bucket>,
    id: SessionId,
    segments: Segments,
    range: Range<u64>,
) -> ContentStream {
    fetched(bucket, segment_reads(id, segments, range))
}

/// The bytes of one segment.
pub(super) fn stream_segment(bucket: Arc<dyn Bucket>, id: SessionId, segment: Segment) -> ContentStream {
    let Segment { offset, bytes, attempt } = segment;
    let name = segment_name(id, offset, attempt);
    let mut position = 0;
    let reads = std::iter::from_fn(move || {
        let read = position..bytes.min(position + PIECE);
        position = read.end;
        (!read.is_empty()).then(|| Fetch { name: name.clone(), bytes: read, object_bytes: bytes })
    });
    fetched(bucket, reads)
}

fn segment_reads(
    id: SessionId,
    segments: Segments,
    range: Range<u64>,
) -> impl Iterator<Item = Fetch> + Send + 'static {
    segments.reads(range, PIECE).map(move |(segment, bytes)| Fetch {
        name: segment_name(id, segment.offset, segment.attempt),
        bytes,
        object_bytes: segment.bytes,
    })
}

/// One request for a piece.
#[derive(Debug)]
struct Fetch {
    name: String,
    bytes: Range<u64>,
    /// The size that the object must have.
    object_bytes: u64,
}

impl Fetch {
    async fn run(self, bucket: Arc<dyn Bucket>) -> Result<Bytes, StorageError> {
        let Self { name, bytes, object_bytes } = self;
        let wanted = bytes.end - bytes.start;
        match bucket.read(&name, bytes).await? {
            Some(read) if read.object_bytes == object_bytes && read.bytes.len() as u64 == wanted => {
                Ok(read.bytes)
            }
            Some(read) => Err(damaged(&name, WrongSize { found: read.object_bytes, wanted: object_bytes })),
            None => {
                let source = std::io::Error::new(std::io::ErrorKind::NotFound, "it was deleted meanwhile");
                Err(StorageError::Io { action: "read", name, source })
            }
        }
    }
}

/// An object that is not as long as it was when it was put.
#[derive(Debug, thiserror::Error)]
#[error("the object has {found} bytes; it was put with {wanted}")]
struct WrongSize {
    found: u64,
    wanted: u64,
}

fn fetched(bucket: Arc<dyn Bucket>, fetches: impl Iterator<Item = Fetch> + Send + 'static) -> ContentStream {
    stream::iter(fetches).map(move |fetch| UnderWay::start(fetch, &bucket)).buffered(AHEAD).boxed()
}

/// A fetch that goes on while its reader does something else, and stops when the reader is gone.
/// A slow reader so holds pieces in memory, and no connection.
struct UnderWay(JoinHandle<Result<Bytes, StorageError>>);

impl UnderWay {
    fn start(fetch: Fetch, bucket: &Arc<dyn Bucket>) -> Self {
        Self(tokio::spawn(fetch.run(Arc::clone(bucket))))
    }
}

impl Future for UnderWay {
    type Output = Result<Bytes, StorageError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Poll::Ready(match ready!(Pin::new(&mut self.0).poll(context)) {
            Ok(result) => result,
            Err(error) => super::interrupted(error),
        })
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.abort();
    }
}
