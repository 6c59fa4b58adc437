//! The garbage collector. It runs while clients push, pull, mount and delete, on any number of servers
//! at once, and nobody waits for it.
//!
//! ```text
//! 1. sweep    each repository: old stamps of blobs that no manifest names, old copies of manifests
//! 2. mark     each generation that is old and has no stamp, as closing
//! 3. look     at all stamps again
//! 4. close    each generation that has none; of the others, marks that are old go
//! 5. look     at all stamps again
//! 6. delete   each closed generation that has none
//! ```
//!
//! Why that takes nothing from anybody is said in [`crate::layout`]: a generation is closed before the
//! last look, and whoever relies on one looks afterwards whether it is. A crash at any point leaves
//! marks, which the next cycle finds again.
//!
//! On a full disk steps 2 and 4 come only so far. What they closed is deleted, which makes space, and
//! then it goes on.
//!
//! Time decides only what is old. It is read once, before anything is listed; what clients renew while
//! a cycle runs is younger than that.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use appliance::Digest;
use blob_store::{Storage, StorageError, read_whole};
use futures_util::{StreamExt, TryStreamExt, stream};
use serde::{Deserialize, Serialize};

use crate::clock::{Clock, Time};
use crate::layout::{self, ContentEntry, Generation};
use crate::repository::{Repositories, RepositoryError};

/// Whether a cycle deletes what it finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mode {
    /// Garbage is deleted.
    Collect,
    /// Nothing is changed; garbage is counted.
    DryRun,
}

/// What a cycle found and deleted, or would have deleted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Collected {
    /// Repositories that were looked at.
    pub repositories: u64,
    /// Blobs that were taken out of a repository.
    pub unlinked_blobs: u64,
    /// Manifests that were deleted by a rule.
    pub deleted_manifests: u64,
    /// Tags that were deleted by a rule.
    pub deleted_tags: u64,
    /// Generations of blobs that were closed, to be deleted once nobody relies on them.
    pub closed_generations: u64,
    /// Generations of blobs whose content was deleted.
    pub deleted_generations: u64,
    /// Bytes that this freed.
    pub freed_bytes: u64,
    /// The tags and manifests that were deleted by a rule.
    pub retired: Vec<Retired>,
    /// Damaged records, as sentences for people. Of their repositories nothing more was taken.
    #[serde(default)]
    pub damaged: Vec<String>,
}

/// Something that the rules let go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retired {
    /// `repository:tag` or `repository@digest`.
    pub name: String,
    /// Which rules let it go, as a sentence for people.
    pub reason: String,
}

/// Collects the garbage of one storage.
#[derive(Debug)]
pub(crate) struct Collector {
    pub(super) repositories: Arc<Repositories>,
    clock: Arc<dyn Clock>,
    /// What is younger than this is nobody's garbage. Whoever finds something that is younger than half of
    /// `grace` relies on it as it is, for as long as a `grace` more.
    pub(super) old_after: Duration,
}

/// One cycle under way.
#[derive(Debug)]
pub(super) struct Cycle<'a> {
    pub(super) collector: &'a Collector,
    pub(super) mode: Mode,
    /// When the cycle began.
    pub(super) now: Time,
    pub(super) collected: Collected,
    /// The generations that stamps rely on.
    pub(super) relied_on: ReliedOn,
    /// There was no space to write down all that is to be.
    pub(super) lacks_space: bool,
}

/// A generation that is to go, and what lies of it in the storage.
#[derive(Debug)]
struct Leaving {
    digest: Digest,
    generation: Generation,
    has_content: bool,
    is_closing: bool,
    is_closed: bool,
}

/// A set of generations, 16 bytes each. Two that fall together are both kept.
#[derive(Debug, Default)]
pub(super) struct ReliedOn(HashSet<[u8; 16]>);

/// Contents that are deleted at a time.
const PARALLEL_DELETIONS: usize = 4;

impl Collector {
    /// A collector that takes nothing from whoever relied on it less than `grace` ago by `clock`.
    pub(crate) fn new(repositories: Arc<Repositories>, clock: Arc<dyn Clock>, grace: Duration) -> Self {
        Self { repositories, clock, old_after: grace + grace / 2 }
    }

    /// Runs one cycle.
    pub(crate) async fn run(&self, mode: Mode) -> Result<Collected, RepositoryError> {
        let (collected, relied_on) = (Collected::default(), ReliedOn::default());
        let now = self.clock.now();
        let mut cycle = Cycle { collector: self, mode, now, collected, relied_on, lacks_space: false };
        let mut last = None;
        loop {
            let names = self.repositories.names(last.as_ref(), 100).await?;
            for name in &names {
                cycle.sweep(name).await?;
            }
            match names.last() {
                Some(name) => last = Some(name.clone()),
                None => break,
            }
        }
        cycle.collect().await?;
        Ok(cycle.collected)
    }

    pub(super) fn storage(&self) -> &dyn Storage {
        self.repositories.storage()
    }
}

impl Cycle<'_> {
    /// True for what nobody can be relying on any more without having renewed it.
    pub(super) fn is_old(&self, time: Time) -> bool {
        self.now.since(time) > self.collector.old_after
    }

    /// Closes and deletes. Where there is no space to close more, as long as what is deleted makes some.
    async fn collect(&mut self) -> Result<(), RepositoryError> {
        loop {
            let mut leaving = self.leaving().await?;
            let is_all = match self.mode {
                Mode::Collect => {
                    let is_all_marked = self.mark(&mut leaving).await?;
                    self.close_unused(&mut leaving).await? && is_all_marked
                }
                Mode::DryRun => {
                    leaving.retain(|leaving| !self.relied_on.has(leaving));
                    self.count_closed(leaving.iter().filter(|leaving| leaving.is_to_be_closed()).count());
                    true
                }
            };
            let count = leaving.len();
            self.delete_all(leaving).await?;
            if count == 0 && (self.lacks_space || !is_all) {
                return Err(StorageError::Full.into());
            }
            if is_all {
                return Ok(());
            }
        }
    }

    /// The old generations that had no stamp when the repositories were swept, and all that are marked.
    async fn leaving(&self) -> Result<Vec<Leaving>, RepositoryError> {
        let mut keys = self.collector.storage().keys_below(&layout::all_contents());
        let mut found: Vec<Leaving> = Vec::new();
        let stays = |last: &mut Leaving| {
            let is_unused = self.is_old(last.generation.time()) && !self.relied_on.has(last);
            !(is_unused || last.is_closing || last.is_closed)
        };
        while let Some(key) = keys.try_next().await? {
            let Some((digest, entry)) = layout::content_of_key(&key) else { continue };
            // What belongs to a generation follows each other.
            let last = found.last().map(|last| (&last.digest, &last.generation));
            if last != Some((&digest, entry.generation())) {
                found.pop_if(stays);
                found.push(Leaving::nothing_of(digest, entry.generation().clone()));
            }
            let last = found.last_mut().expect("it was pushed if there was none");
            match entry {
                ContentEntry::Content(_) => last.has_content = true,
                ContentEntry::Closed(_) => last.is_closed = true,
                ContentEntry::Closing(_) => last.is_closing = true,
            }
        }
        found.pop_if(stays);
        Ok(found)
    }

    /// Marks as closing what is not marked. False if there was no space for all; the others are dropped.
    async fn mark(&self, leaving: &mut Vec<Leaving>) -> Result<bool, RepositoryError> {
        let mut has_space = true;
        for leaving in leaving.iter_mut().filter(|leaving| !leaving.is_marked()) {
            let mark = layout::closing(&leaving.digest, &leaving.generation);
            let time = self.collector.clock.now().as_secs().to_string();
            match self.collector.storage().put_tombstone(&mark, time.into()).await {
                Err(StorageError::Full) => {
                    has_space = false;
                    break;
                }
                put => _ = put?,
            }
            leaving.is_closing = true;
        }
        leaving.retain(Leaving::is_marked);
        Ok(has_space)
    }

    /// Closes those that have no stamp, and leaves in `leaving` those that have none after that. False if
    /// there was no space to close all.
    async fn close_unused(&mut self, leaving: &mut Vec<Leaving>) -> Result<bool, RepositoryError> {
        if leaving.is_empty() {
            return Ok(true);
        }
        let relied_on = self.all_stamps().await?;
        for reprieved in leaving.extract_if(.., |leaving| relied_on.has(leaving)) {
            // By a young mark, another collector may have found no stamp, and be about to close.
            if reprieved.is_closing && self.is_old(self.marked(&reprieved).await?) {
                self.unmark(&reprieved).await?;
            }
        }
        let open: VecDeque<Leaving> = leaving.extract_if(.., |leaving| leaving.is_to_be_closed()).collect();
        let count = open.len();
        let mut closed = self.close(open).await?;
        let is_all = closed.len() == count;
        self.count_closed(closed.len());
        leaving.append(&mut closed);
        if count > 0 {
            let relied_on = self.all_stamps().await?;
            leaving.retain(|leaving| !relied_on.has(leaving));
        }
        Ok(is_all)
    }

    /// Closes generations, the first so many that there is space for, and returns those.
    async fn close(&self, mut open: VecDeque<Leaving>) -> Result<Vec<Leaving>, RepositoryError> {
        let mut closed = Vec::new();
        while let Some(mut next) = open.pop_front() {
            let mark = layout::closed(&next.digest, &next.generation);
            match self.collector.storage().put_tombstone(&mark, Default::default()).await {
                Err(StorageError::Full) => {
                    // The mark of the last makes space for that of the first.
                    open.push_front(next);
                    let last = open.pop_back().expect("one was just pushed");
                    self.unmark(&last).await?;
                }
                put => {
                    put?;
                    next.is_closed = true;
                    closed.push(next);
                }
            }
        }
        Ok(closed)
    }

    /// Since when a generation is closing.
    async fn marked(&self, leaving: &Leaving) -> Result<Time, RepositoryError> {
        let mark = layout::closing(&leaving.digest, &leaving.generation);
        match read_whole(self.collector.storage(), &mark, 20).await {
            Err(StorageError::Missing { .. }) => Ok(self.now), // it is gone already
            time => {
                let time = str::from_utf8(&time?).ok().and_then(|time| time.parse().ok());
                Ok(Time::from_secs(time.unwrap_or(0)))
            }
        }
    }

    /// Lets a generation be relied on as before, unless it is closed.
    async fn unmark(&self, leaving: &Leaving) -> Result<(), RepositoryError> {
        if leaving.is_closing && !leaving.is_closed {
            self.collector.storage().delete(&layout::closing(&leaving.digest, &leaving.generation)).await?;
        }
        Ok(())
    }

    fn count_closed(&mut self, count: usize) {
        self.collected.closed_generations += count as u64;
    }

    /// Deletes generations: their content, and then the marks.
    async fn delete_all(&mut self, leaving: Vec<Leaving>) -> Result<(), RepositoryError> {
        let (storage, mode) = (self.collector.storage(), self.mode);
        let deletions = stream::iter(leaving).map(|leaving| async move {
            let Leaving { digest, generation, .. } = &leaving;
            let content = layout::content(digest, generation);
            let size = match storage.size_bytes(&content).await {
                Err(StorageError::Missing { .. }) => None,
                size => Some(size?),
            };
            if mode == Mode::Collect {
                storage.delete(&content).await?;
                // The marks go last: until then nobody relies on what is gone.
                if leaving.is_closing {
                    storage.delete(&layout::closing(digest, generation)).await?;
                }
                if leaving.is_closed {
                    storage.delete(&layout::closed(digest, generation)).await?;
                }
            }
            Ok::<_, RepositoryError>(size)
        });
        let mut deletions = deletions.buffer_unordered(PARALLEL_DELETIONS);
        while let Some(size) = deletions.try_next().await? {
            self.collected.deleted_generations += u64::from(size.is_some());
            self.collected.freed_bytes += size.unwrap_or(0);
        }
        Ok(())
    }

    /// The generations that stamps rely on now.
    async fn all_stamps(&self) -> Result<ReliedOn, StorageError> {
        let mut relied_on = ReliedOn::default();
        let mut keys = self.collector.storage().keys_below(&layout::repositories());
        while let Some(key) = keys.try_next().await? {
            if let Some((digest, stamp)) = layout::stamp_of_key(&key) {
                relied_on.insert(&digest, &stamp.generation);
            }
        }
        Ok(relied_on)
    }
}

impl Leaving {
    fn nothing_of(digest: Digest, generation: Generation) -> Self {
        Self { digest, generation, has_content: false, is_closing: false, is_closed: false }
    }

    fn is_marked(&self) -> bool {
        self.is_closing || self.is_closed
    }

    /// False for what is closed, and for marks that a crash left without their content, which never comes
    /// back.
    fn is_to_be_closed(&self) -> bool {
        self.has_content && !self.is_closed
    }
}

impl ReliedOn {
    pub(super) fn insert(&mut self, digest: &Digest, generation: &Generation) {
        self.0.insert(Self::entry(digest, generation));
    }

    fn has(&self, leaving: &Leaving) -> bool {
        self.0.contains(&Self::entry(&leaving.digest, &leaving.generation))
    }

    /// Half of it from the digest, half from what is random in the generation's name.
    fn entry(digest: &Digest, generation: &Generation) -> [u8; 16] {
        let mut entry = [0; 16];
        entry[..8].copy_from_slice(&digest.as_bytes()[..8]);
        entry[8..].copy_from_slice(&generation.random().to_le_bytes());
        entry
    }
}
