//! Where content changes hands: from a session to a key, and from either to nobody.
//!
//! Each function here may be stopped after any request, and may be done again by anybody: the header of
//! [`super`] says what is found then. Nothing here trusts what it read a moment ago, if what it deletes
//! could be referred to meanwhile.

use bytes::Bytes;

use super::bucket::{Bucket, names_below};
use super::log::{self, Appended, Newest, Place};
use super::reader::{self, Found};
use super::record::{LogEntry, Record};
use super::{is_first_segment, segment_folder, segment_name};
use crate::Key;
use crate::storage::{Put, SessionId, StorageError};

/// What became of a key that a session is to become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Published {
    /// It is there and refers to the session's segments.
    Ours,
    /// Other content is there.
    Foreign,
    /// It was there and was deleted, with the segments.
    Gone,
}

/// Lets the session's log say `Finish`, puts the key, and removes the log. `place` is behind the entry
/// that the caller knows to be the newest.
///
/// `None` where the session is not the caller's any more.
pub(super) async fn finish(
    bucket: &dyn Bucket,
    place: Place,
    record: &Record,
    key: &Key,
) -> Result<Option<Put>, StorageError> {
    let entry = LogEntry::Finish(key.clone(), record.segments.clone());
    if log::append(bucket, record.id, place, &entry).await? != Appended::Done {
        return Ok(None);
    }
    Ok(match finish_decided(bucket, place, record, key).await? {
        Published::Ours => Some(Put::Created),
        Published::Foreign => Some(Put::Exists),
        Published::Gone => None,
    })
}

/// What is left to do once the log says `Finish` at `place`.
async fn finish_decided(
    bucket: &dyn Bucket,
    place: Place,
    record: &Record,
    key: &Key,
) -> Result<Published, StorageError> {
    let published = publish(bucket, record, key).await?;
    if published == Published::Foreign {
        // Only this key could have come to refer to the segments.
        delete_segments(bucket, record.id).await?;
    }
    log::remove(bucket, record.id, place).await?;
    Ok(published)
}

async fn publish(bucket: &dyn Bucket, record: &Record, key: &Key) -> Result<Published, StorageError> {
    while bucket.create(key.as_str(), vec![Bytes::from(record.to_text())]).await? == Put::Exists {
        match reader::find(bucket, key).await? {
            Some(Found::Record(found)) if found.id == record.id => return Ok(Published::Ours),
            Some(_) => return Ok(Published::Foreign),
            // Deleted since; perhaps it was ours, put by somebody else. The next round finds out.
            None => {}
        }
    }
    // Somebody may have finished this session for us and deleted the key since. Whoever deletes looks
    // for the key once more after the segments are gone, so one of us two sees the other.
    let first = record.segments.first().expect("content without segments lies under its key itself");
    if bucket.read(&segment_name(record.id, 0, first.attempt), 0..1).await?.is_none() {
        bucket.delete(vec![key.to_string()]).await?;
        return Ok(Published::Gone);
    }
    Ok(Published::Ours)
}

/// Brings a session to its end: gives it up, or, if something else was decided and not done, does that.
pub(super) async fn abort(bucket: &dyn Bucket, id: SessionId) -> Result<(), StorageError> {
    loop {
        match log::newest(bucket, id).await? {
            Newest::Nothing => return Ok(()),
            Newest::Remains(place) => return log::remove(bucket, id, place).await,
            Newest::Entry(place, LogEntry::Open(_)) => {
                // Whatever came of it, the next look finds what was decided.
                log::append(bucket, id, place.next(), &LogEntry::Abort).await?;
            }
            Newest::Entry(place, LogEntry::Abort) => {
                delete_segments(bucket, id).await?;
                log::remove(bucket, id, place).await?;
                // A segment that was under way meanwhile: who puts one later sees that the log is gone.
                return delete_segments(bucket, id).await;
            }
            Newest::Entry(place, LogEntry::Finish(key, segments)) => {
                finish_decided(bucket, place, &Record { id, segments }, &key).await?;
                return Ok(());
            }
            Newest::Entry(_, LogEntry::Delete(key)) => return delete_decided(bucket, id, &key).await,
        }
    }
}

/// Deletes a key and, if it has them, its segments.
pub(super) async fn delete(bucket: &dyn Bucket, key: &Key) -> Result<(), StorageError> {
    match reader::find(bucket, key).await? {
        None => Ok(()),
        Some(Found::Content { .. }) => bucket.delete(vec![key.to_string()]).await,
        Some(Found::Record(Record { id, .. })) => {
            let entry = Bytes::from(LogEntry::Delete(key.clone()).to_text());
            match bucket.create(&log::name(id, Place::LAST), vec![entry]).await {
                // A bucket that may not grow must be emptied all the same.
                Err(StorageError::Full) => {}
                // Where the entry is there already, somebody deletes the key just now, or was stopped.
                put => drop(put?),
            }
            delete_decided(bucket, id, key).await
        }
    }
}

/// What is left to do once the log says `Delete`.
async fn delete_decided(bucket: &dyn Bucket, id: SessionId, key: &Key) -> Result<(), StorageError> {
    delete_record(bucket, id, key).await?;
    delete_segments(bucket, id).await?;
    // Who stalled while finishing the session may have put the key again: see `publish`.
    delete_record(bucket, id, key).await?;
    log::remove(bucket, id, Place::LAST).await
}

async fn delete_record(bucket: &dyn Bucket, id: SessionId, key: &Key) -> Result<(), StorageError> {
    match reader::find(bucket, key).await? {
        Some(Found::Record(record)) if record.id == id => bucket.delete(vec![key.to_string()]).await,
        _ => Ok(()),
    }
}

/// Deletes all segments of a session, those included that nothing refers to. What lies at the beginning
/// of the content goes first, so that it is there only as long as all of the content is.
async fn delete_segments(bucket: &dyn Bucket, id: SessionId) -> Result<(), StorageError> {
    let names = names_below(bucket, &segment_folder(id)).await?;
    let (first, others) = names.into_iter().partition(|name| is_first_segment(name));
    bucket.delete(first).await?;
    bucket.delete(others).await
}
