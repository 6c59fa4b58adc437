//! A session's log: what it holds and what becomes of it, decided one entry at a time.
//!
//! ```text
//! .sessions/<id>/<u64::MAX - n, 20 digits>        entry n; the newest is listed first
//! .sessions/<id>/00000000000000000000             the last entry there can be: the key is being deleted
//! ```
//!
//! Entry `n + 1` can be created once. Whoever creates it decided on what entry `n` says, and everybody
//! else finds out. So two holders of a session cannot both append, and finishing and aborting exclude
//! each other, whatever stops or stalls in between.
//!
//! A log is removed once nothing of it matters any more: the entry that decided is deleted last. Who
//! stalled for so long that it puts its entry only then finds that the entry before it is gone,
//! and takes its own away. Should it be killed just then, a log without a beginning remains, and says
//! nothing but that it must be removed.

use std::time::SystemTime;

use bytes::Bytes;

use super::bucket::{Bucket, Depth, Listed, WHOLE, names_below};
use super::damaged;
use super::record::LogEntry;
use crate::storage::{Put, SessionId, StorageError};

/// Folder of the logs.
pub(super) const LOGS: &str = ".sessions/";

/// An entry's place in its log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place(u64);

impl Place {
    pub(super) const FIRST: Self = Self(0);
    /// Of the entry that says that the key is being deleted.
    pub(super) const LAST: Self = Self(u64::MAX);

    pub(super) fn next(self) -> Self {
        Self(self.0 + 1)
    }

    /// How many entries come before it. Who creates the entry at a place is the only one who does.
    pub(super) fn number(self) -> u64 {
        self.0
    }

    fn previous(self) -> Option<Self> {
        self.0.checked_sub(1).map(Self)
    }
}

/// How far a log has come.
#[derive(Debug)]
pub(super) enum Newest {
    /// There is none: nothing is known of the session, or all is done.
    Nothing,
    /// It is being removed, or somebody came too late. Nothing but entries up to this one is left to do.
    Remains(Place),
    /// This is what was decided last.
    Entry(Place, LogEntry),
}

/// What became of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Appended {
    /// It is in the log.
    Done,
    /// Another entry has its place.
    Beaten,
    /// The log is gone.
    Gone,
}

pub(super) fn folder(id: SessionId) -> String {
    format!("{LOGS}{id}/")
}

pub(super) fn name(id: SessionId, place: Place) -> String {
    format!("{LOGS}{id}/{:020}", u64::MAX - place.0)
}

fn place(name: &str) -> Option<Place> {
    let digits = name.rsplit('/').next().filter(|digits| digits.len() == 20)?;
    digits.parse().ok().map(|number: u64| Place(u64::MAX - number))
}

/// The newest entry.
pub(super) async fn newest(bucket: &dyn Bucket, id: SessionId) -> Result<Newest, StorageError> {
    loop {
        let page = bucket.list(&folder(id), None, 2, Depth::All).await?;
        let places: Vec<Place> = page.entries.iter().filter_map(|entry| place(entry.name())).collect();
        let Some(&newest) = places.first() else { return Ok(Newest::Nothing) };
        let has_beginning =
            newest == Place::FIRST || newest == Place::LAST || places.get(1).copied() == newest.previous();
        if !has_beginning {
            return Ok(Newest::Remains(newest));
        }
        // One that is gone again was removed with its log; the next look finds what is left.
        if let Some(entry) = read(bucket, id, newest).await? {
            return Ok(Newest::Entry(newest, entry));
        }
    }
}

async fn read(bucket: &dyn Bucket, id: SessionId, place: Place) -> Result<Option<LogEntry>, StorageError> {
    let name = name(id, place);
    let read = bucket.read(&name, 0..WHOLE).await?;
    read.map(|read| LogEntry::parse(&read.bytes).map_err(|error| damaged(&name, error))).transpose()
}

/// Puts an entry behind all others, if its place is still free. `place` is not the first.
pub(super) async fn append(
    bucket: &dyn Bucket,
    id: SessionId,
    place: Place,
    entry: &LogEntry,
) -> Result<Appended, StorageError> {
    if bucket.create(&name(id, place), vec![Bytes::from(entry.to_text())]).await? == Put::Exists {
        // A request may have been done although its answer was lost, and then refused when repeated.
        match read(bucket, id, place).await? {
            Some(found) if found == *entry => {}
            _ => return Ok(Appended::Beaten),
        }
    }
    let before = place.previous().expect("the first entry is put by whoever begins the session");
    if bucket.read(&name(id, before), 0..1).await?.is_some() {
        return Ok(Appended::Done);
    }
    // Not just this entry: earlier ones may be left, and must not look like the newest.
    remove(bucket, id, place).await?;
    Ok(Appended::Gone)
}

/// Removes the entries up to the one at `last`, that one at the end.
pub(super) async fn remove(bucket: &dyn Bucket, id: SessionId, last: Place) -> Result<(), StorageError> {
    let names = names_below(bucket, &folder(id)).await?;
    let earlier = names.into_iter().filter(|name| place(name).is_some_and(|place| place < last)).collect();
    bucket.delete(earlier).await?;
    bucket.delete(vec![name(id, last)]).await
}

/// When the newest entry was put; `None` if there is none any more.
pub(super) async fn modified(bucket: &dyn Bucket, id: SessionId) -> Result<Option<SystemTime>, StorageError> {
    let page = bucket.list(&folder(id), None, 1, Depth::All).await?;
    Ok(page.entries.into_iter().find_map(|entry| match entry {
        Listed::Object { modified, .. } => Some(modified),
        Listed::Folder { .. } => None,
    }))
}
