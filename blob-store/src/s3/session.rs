//! Sessions of the S3 backend: content is cut into segments, which are put while more of it arrives.
//!
//! ```text
//! append --> buffer --cut--> part --put--> segment --named by--> log entry
//!            < 1 segment     <= 16 MiB or one                     on sync, and each 64 MiB
//! ```
//!
//! A part leaves memory when it is stored. Parts are put at the same time and become segments of the
//! session in order. Small segments that syncs leave behind are joined with what follows: each is
//! larger than all behind it together, so there are few, and a byte is written again at most as often
//! as a segment doubles from its size.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::{JoinError, JoinSet};

use super::bucket::Bucket;
use super::log::{self, Appended, Newest, Place};
use super::reader::{stream_segment, stream_segments};
use super::record::{CONTENT, LogEntry, Record};
use super::segments::{Segment, Segments};
use super::{Shared, interrupted, segment_name, settle};
use crate::Key;
use crate::storage::{ContentStream, Put, Session, SessionId, StorageError};

/// How content is cut, in bytes. Other values are for tests only: nothing stored depends on them.
#[derive(Debug)]
pub(super) struct Sizes {
    /// A segment of content that is not large.
    pub(super) segment: u64,
    /// The largest segments.
    pub(super) largest_segment: u64,
    /// Content up to here lies under its key itself.
    pub(super) inline: u64,
    /// The most of a session that is being put at a time, if more than one part is.
    pub(super) under_way: u64,
    /// After how much the log names what is stored, so that a crash loses no more.
    pub(super) commit: u64,
}

impl Sizes {
    pub(super) const USUAL: Self = Self {
        segment: 4 << 20,
        largest_segment: 32 << 20,
        inline: 1 << 20,
        under_way: 16 << 20,
        commit: 64 << 20,
    };

    /// How long the segment at `offset` becomes: not much less than a thousandth of what lies before.
    fn segment_at(&self, offset: u64) -> u64 {
        let grown = (offset / 1024).checked_ilog2().map_or(0, |log| 1 << log);
        grown.clamp(self.segment, self.largest_segment)
    }
}

/// Pieces of a stream from memory.
const PIECE: usize = 1 << 20;

/// An open session.
#[derive(Debug)]
pub(super) struct S3Session {
    shared: Arc<Shared>,
    id: SessionId,
    /// The entry of the log that was the newest when this holder last looked.
    place: Place,
    /// What that entry names, in bytes.
    committed_bytes: u64,
    /// What is stored, from the beginning on without a gap.
    segments: Segments,
    /// What comes behind, by its offset, and is stored, being stored, or waits for that.
    parts: BTreeMap<u64, Part>,
    puts: JoinSet<EndedPut>,
    /// What comes last and is not yet enough for a part.
    buffer: BytesMut,
    /// All of that together.
    size_bytes: u64,
    /// Segments that newer ones replace, not needed once the log says so.
    replaced: Vec<String>,
}

/// The offset of a part whose put ended, and how.
type EndedPut = (u64, Result<(), StorageError>);

/// Content that becomes one segment.
#[derive(Debug)]
struct Part {
    bytes: u64,
    is_under_way: bool,
    place: Arc<Mutex<PartPlace>>,
}

/// Where a part is.
#[derive(Debug, Clone)]
enum PartPlace {
    Memory(Bytes),
    Stored { attempt: u32 },
}

impl Part {
    fn place(&self) -> MutexGuard<'_, PartPlace> {
        lock(&self.place)
    }
}

fn lock(place: &Mutex<PartPlace>) -> MutexGuard<'_, PartPlace> {
    place.lock().expect("nobody panics while holding the place")
}

impl S3Session {
    pub(super) async fn begin(shared: Arc<Shared>, id: SessionId) -> Result<Self, StorageError> {
        let entry = Bytes::from(LogEntry::Open(Segments::default()).to_text());
        let name = log::name(id, Place::FIRST);
        if shared.bucket.create(&name, vec![entry]).await? == Put::Exists {
            let source = std::io::Error::from(std::io::ErrorKind::AlreadyExists);
            return Err(StorageError::Io { action: "create", name, source });
        }
        Ok(Self::new(shared, id, Place::FIRST, Segments::default()))
    }

    pub(super) async fn resume(shared: Arc<Shared>, id: SessionId) -> Result<Self, StorageError> {
        match log::newest(&*shared.bucket, id).await? {
            Newest::Entry(place, LogEntry::Open(segments)) => Ok(Self::new(shared, id, place, segments)),
            _ => Err(StorageError::NoSession { id }),
        }
    }

    fn new(shared: Arc<Shared>, id: SessionId, place: Place, segments: Segments) -> Self {
        let size_bytes = segments.size_bytes();
        Self {
            shared,
            id,
            place,
            committed_bytes: size_bytes,
            segments,
            parts: BTreeMap::new(),
            puts: JoinSet::new(),
            buffer: BytesMut::new(),
            size_bytes,
            replaced: Vec::new(),
        }
    }

    fn bucket(&self) -> &dyn Bucket {
        &*self.shared.bucket
    }

    /// Copies `piece` to the buffer, and cuts parts off where they are full.
    fn accept(&mut self, mut piece: &[u8]) {
        while !piece.is_empty() {
            let start = self.size_bytes - self.buffer.len() as u64;
            let full =
                usize::try_from(self.shared.sizes.segment_at(start)).expect("a segment fits the memory");
            let (taken, rest) = piece.split_at(piece.len().min(full - self.buffer.len()));
            self.buffer.extend_from_slice(taken);
            self.size_bytes += taken.len() as u64;
            piece = rest;
            if self.buffer.len() == full {
                self.cut();
            }
        }
    }

    /// Makes the buffer a part.
    fn cut(&mut self) {
        if !self.buffer.is_empty() {
            let content = std::mem::take(&mut self.buffer).freeze();
            let offset = self.size_bytes - content.len() as u64;
            self.add_part(offset, content);
        }
    }

    fn add_part(&mut self, offset: u64, content: Bytes) {
        let bytes = content.len() as u64;
        let place = Arc::new(Mutex::new(PartPlace::Memory(content)));
        self.parts.insert(offset, Part { bytes, is_under_way: false, place });
    }

    /// The first part that nobody puts yet, if the session may put one more.
    fn next_to_put(&self) -> Option<u64> {
        let under_way: u64 =
            self.parts.values().filter(|part| part.is_under_way).map(|part| part.bytes).sum();
        let (offset, part) = self.parts.iter().find(|(_, part)| !part.is_under_way)?;
        (under_way == 0 || under_way + part.bytes <= self.shared.sizes.under_way).then_some(*offset)
    }

    /// Begins to put what may be put without waiting for anything.
    fn put_what_can_be(&mut self) {
        while let Some(offset) = self.next_to_put() {
            let Some(permit) = self.shared.try_permit(self.parts[&offset].bytes) else { return };
            self.put(offset, permit);
        }
    }

    fn put(&mut self, offset: u64, permit: OwnedSemaphorePermit) {
        let part = self.parts.get_mut(&offset).expect("the part waits to be put");
        part.is_under_way = true;
        let (bucket, id, place) = (Arc::clone(&self.shared.bucket), self.id, Arc::clone(&part.place));
        self.puts.spawn(async move {
            let stored = put_segment(&*bucket, id, offset, &place).await;
            drop(permit);
            (offset, stored)
        });
    }

    /// Puts parts until no more is left to do than `until` says. After an error nothing is lost, and
    /// another call tries again.
    async fn make_room(&mut self, until: Until) -> Result<(), StorageError> {
        loop {
            while let Some(done) = self.puts.try_join_next() {
                self.note(done)?;
            }
            if let Some(offset) = self.next_to_put() {
                let permit = self.shared.permit(self.parts[&offset].bytes).await;
                self.put(offset, permit);
                continue;
            }
            let is_enough = match until {
                Until::AllUnderWay => self.parts.values().all(|part| part.is_under_way),
                Until::AllStored => self.parts.is_empty(),
            };
            if is_enough {
                return Ok(());
            }
            let done = self.puts.join_next().await.expect("a part that is not stored is being put");
            self.note(done)?;
        }
    }

    /// Takes note of a put that ended.
    fn note(&mut self, ended: Result<EndedPut, JoinError>) -> Result<(), StorageError> {
        let (offset, stored) = ended.or_else(interrupted)?;
        if let Err(error) = stored {
            if let Some(part) = self.parts.get_mut(&offset) {
                part.is_under_way = false;
            }
            return Err(error);
        }
        while let Some(first) = self.parts.first_entry() {
            let PartPlace::Stored { attempt } = *first.get().place() else { break };
            let bytes = first.get().bytes;
            first.remove();
            self.segments.push(bytes, attempt).expect("the size of the session is a u64");
        }
        Ok(())
    }

    /// Stores everything, joined with small segments before it.
    async fn store_all(&mut self) -> Result<(), StorageError> {
        self.make_room(Until::AllStored).await?;
        let mut bytes = self.buffer.len() as u64;
        let segment = self.shared.sizes.segment;
        let mut joined = self.segments.clone();
        let mut small: Vec<Segment> = Vec::new();
        while let Some(last) = joined.last().filter(|last| last.bytes <= bytes && bytes < segment) {
            bytes += last.bytes;
            small.push(last);
            joined.pop();
        }
        if !small.is_empty() {
            let range = joined.size_bytes()..self.segments.size_bytes();
            let stored =
                stream_segments(Arc::clone(&self.shared.bucket), self.id, self.segments.clone(), range);
            let mut content: Vec<Bytes> = stored.try_collect().await?;
            content.push(std::mem::take(&mut self.buffer).freeze());
            self.replaced.extend(small.iter().map(|old| segment_name(self.id, old.offset, old.attempt)));
            self.size_bytes = joined.size_bytes();
            self.segments = joined;
            content.iter().for_each(|piece| self.accept(piece));
        }
        self.cut();
        self.make_room(Until::AllStored).await
    }

    /// Has the log name what is stored without a gap.
    async fn commit(&mut self) -> Result<(), StorageError> {
        let place = self.place.next();
        let entry = LogEntry::Open(self.segments.clone());
        match log::append(self.bucket(), self.id, place, &entry).await? {
            Appended::Done => {
                self.place = place;
                self.committed_bytes = self.segments.size_bytes();
                Ok(())
            }
            Appended::Beaten | Appended::Gone => Err(self.why_not_ours().await?),
        }
    }

    /// What became of the session in somebody else's hands.
    async fn why_not_ours(&self) -> Result<StorageError, StorageError> {
        Ok(match log::newest(self.bucket(), self.id).await? {
            Newest::Entry(_, LogEntry::Open(segments)) => {
                StorageError::WrongOffset { found: segments.size_bytes(), wanted: self.committed_bytes }
            }
            _ => StorageError::NoSession { id: self.id },
        })
    }

    /// Deletes segments that nothing refers to any more. What remains goes with the session or its key.
    async fn delete_replaced(&mut self) {
        let _ = self.shared.bucket.delete(std::mem::take(&mut self.replaced)).await;
    }

    /// Puts short content under its key itself. The session is then given up.
    async fn finish_inline(&self, key: &Key) -> Result<Put, StorageError> {
        let mut content = vec![Bytes::from_static(CONTENT)];
        content.extend(self.stream().try_collect::<Vec<Bytes>>().await?);
        let put = self.bucket().create(key.as_str(), content).await?;
        if self.place == Place::FIRST && self.segments.size_bytes() == 0 && self.parts.is_empty() {
            // Nothing to give up but the log, and who is too late for that finds it gone.
            self.bucket().delete(vec![log::name(self.id, Place::FIRST)]).await?;
        } else {
            settle::abort(self.bucket(), self.id).await?;
        }
        Ok(put)
    }
}

/// What to wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Until {
    AllUnderWay,
    AllStored,
}

#[async_trait]
impl Session for S3Session {
    fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    async fn append(&mut self, offset: u64, pieces: Vec<Bytes>) -> Result<(), StorageError> {
        if offset != self.size_bytes {
            return Err(StorageError::WrongOffset { found: self.size_bytes, wanted: offset });
        }
        // All that can fail comes first.
        self.make_room(Until::AllUnderWay).await?;
        if self.segments.size_bytes() >= self.committed_bytes + self.shared.sizes.commit {
            self.commit().await?;
            self.delete_replaced().await;
        }
        pieces.iter().for_each(|piece| self.accept(piece));
        self.put_what_can_be();
        Ok(())
    }

    async fn sync(&mut self) -> Result<(), StorageError> {
        if self.size_bytes == self.committed_bytes && self.replaced.is_empty() {
            return Ok(());
        }
        self.store_all().await?;
        self.commit().await?;
        self.delete_replaced().await;
        Ok(())
    }

    fn revision(&self) -> u64 {
        self.place.number()
    }

    fn stream(&self) -> ContentStream {
        let bucket = || Arc::clone(&self.shared.bucket);
        let size = self.segments.size_bytes();
        let mut all = vec![stream_segments(bucket(), self.id, self.segments.clone(), 0..size)];
        for (offset, part) in &self.parts {
            all.push(match part.place().clone() {
                PartPlace::Memory(content) => pieces(content),
                PartPlace::Stored { attempt } => {
                    let segment = Segment { offset: *offset, bytes: part.bytes, attempt };
                    stream_segment(bucket(), self.id, segment)
                }
            });
        }
        all.push(pieces(Bytes::copy_from_slice(&self.buffer)));
        stream::iter(all).flatten().boxed()
    }

    async fn finish(mut self: Box<Self>, key: &Key) -> Result<Put, StorageError> {
        if self.size_bytes <= self.shared.sizes.inline {
            return self.finish_inline(key).await;
        }
        self.store_all().await?;
        let record = Record { id: self.id, segments: self.segments.clone() };
        match settle::finish(self.bucket(), self.place.next(), &record, key).await? {
            Some(put) => {
                self.delete_replaced().await;
                Ok(put)
            }
            None => Err(self.why_not_ours().await?),
        }
    }
}

/// Puts a part under the first name that is free, and frees its memory.
async fn put_segment(
    bucket: &dyn Bucket,
    id: SessionId,
    offset: u64,
    place: &Mutex<PartPlace>,
) -> Result<(), StorageError> {
    let PartPlace::Memory(content) = lock(place).clone() else { return Ok(()) };
    let mut attempt = 0;
    while bucket.create(&segment_name(id, offset, attempt), vec![content.clone()]).await? == Put::Exists {
        attempt += 1;
    }
    // Whoever gives the session up removes the log, then looks for segments once more: so one of us
    // two sees the other, and no segment is left that nobody knows of.
    if bucket.read(&log::name(id, Place::FIRST), 0..1).await?.is_none() {
        bucket.delete(vec![segment_name(id, offset, attempt)]).await?;
        return Err(StorageError::NoSession { id });
    }
    *lock(place) = PartPlace::Stored { attempt };
    Ok(())
}

/// `content` in pieces, as streams give them.
fn pieces(mut content: Bytes) -> ContentStream {
    let pieces = std::iter::from_fn(move || {
        let piece = content.split_to(content.len().min(PIECE));
        (!piece.is_empty()).then_some(Ok(piece))
    });
    stream::iter(pieces).boxed()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;
    const GIB: u64 = 1 << 30;
    const TIB: u64 = 1 << 40;

    #[test]
    fn segments_grow_with_the_content() {
        for (offset, mib) in
            [(0, 4), (4 * GIB, 4), (8 * GIB, 8), (16 * GIB, 16), (32 * GIB, 32), (1 << 50, 32)]
        {
            assert_eq!(Sizes::USUAL.segment_at(offset), mib * MIB, "{offset}");
        }
    }

    /// Content of `size` bytes that arrives without a pause has so many segments, in a record of so many
    /// lines besides its two first and its last.
    #[track_caller]
    fn check_cut(size: u64, want: (u64, usize)) {
        let (mut segments, mut count) = (Segments::default(), 0);
        while segments.size_bytes() < size {
            let start = segments.size_bytes();
            let bytes = Sizes::USUAL.segment_at(start).min(size - start);
            assert!(bytes <= Sizes::USUAL.largest_segment, "{start}");
            segments.push(bytes, 0).unwrap();
            count += 1;
        }
        let record = Record { id: SessionId::new([0; 32]), segments }.to_text();
        assert_eq!((count, record.lines().count() - 3), want, "{size}");
        assert!(record.len() < 256, "{size}: {}", record.len());
    }

    #[test]
    fn content_of_any_size_has_a_record_of_a_few_lines() {
        check_cut(4 * MIB, (1, 1));
        check_cut(4 * MIB + 1, (2, 2));
        check_cut(5 * GIB, (1280, 1)); // the most that S3 copies in one request
        check_cut(5 * GIB + 1, (1281, 2));
        check_cut(8 * GIB, (2048, 1));
        check_cut(16 * GIB, (3072, 2));
        check_cut(32 * GIB, (4096, 3));
        check_cut(320 * GIB, (13_312, 4)); // more segments than S3 takes parts
        check_cut(TIB, (35_840, 4));
        check_cut(TIB + 1, (35_841, 5));
        check_cut(5 * TIB, (166_912, 4)); // the largest object of S3
        check_cut(16 * TIB, (527_360, 4));
    }
}
