//! The garbage collector. It runs while clients push, pull, mount and delete, on any number of servers
//! at once, and nobody waits for it.
//!
//! ```text
//! 1. sweep    each repository: old stamps of blobs that no manifest names, old copies of manifests
//! 2. close    each generation that is old and has no stamp
//! 3. look     at all stamps again
//! 4. delete   each closed generation that has none
//! ```
//!
//! Why that takes nothing from anybody is said in [`crate::layout`]: a generation is closed before the
//! second look, and whoever stamps one looks afterwards whether it is open. A crash at any point leaves
//! closed generations, which the next cycle looks at again.
//!
//! On a full disk the second step comes only so far. What it closed is deleted, which makes space, and
//! then it goes on.
//!
//! Time decides only what is old. It is read once, before anything is listed; what clients renew while
//! a cycle runs is younger than that.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use appliance::Digest;
use blob_store::{Storage, StorageError};
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
    /// What is younger than this is nobody's garbage.
    pub(super) grace: Duration,
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
    /// There was no space to write down all that the rules let go.
    pub(super) lacks_space: bool,
}

/// Closed generations, and whether there was space to close all that are to be.
#[derive(Debug)]
struct Closed {
    generations: Vec<(Digest, Generation)>,
    is_all: bool,
}

/// A set of generations, 16 bytes each. Two that fall together are both kept.
#[derive(Debug, Default)]
pub(super) struct ReliedOn(HashSet<[u8; 16]>);

/// Contents that are deleted at a time.
const PARALLEL_DELETIONS: usize = 4;

impl Collector {
    /// A collector that takes nothing from whoever relied on it less than `grace` ago by `clock`.
    pub(crate) fn new(repositories: Arc<Repositories>, clock: Arc<dyn Clock>, grace: Duration) -> Self {
        Self { repositories, clock, grace }
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
        self.now.since(time) > self.collector.grace
    }

    /// Closes and deletes. Where there is no space to close more, as long as what is deleted makes some.
    async fn collect(&mut self) -> Result<(), RepositoryError> {
        loop {
            let closed = self.close().await?;
            let deleted = self.delete_unused(closed.generations).await?;
            if deleted == 0 && (self.lacks_space || !closed.is_all) {
                return Err(StorageError::Full.into());
            }
            if closed.is_all {
                return Ok(());
            }
        }
    }

    /// Closes the old generations that have no stamp. Returns all closed ones.
    async fn close(&mut self) -> Result<Closed, RepositoryError> {
        let storage = self.collector.storage();
        let mut keys = storage.keys_below(&layout::all_contents());
        let (mut unused, mut closed) = (Vec::new(), Vec::new());
        while let Some(key) = keys.try_next().await? {
            match layout::content_of_key(&key) {
                Some((digest, ContentEntry::Content(generation)))
                    if self.is_old(generation.time()) && !self.relied_on.contains(&digest, &generation) =>
                {
                    unused.push((digest, generation));
                }
                Some((digest, ContentEntry::Closed(generation))) => {
                    // Its content, if it is still there, came just before.
                    closed.push((digest, generation));
                    unused.pop_if(|last| closed.last() == Some(last));
                }
                _ => {}
            }
        }
        let mut is_all = true;
        if self.mode == Mode::Collect {
            for (place, (digest, generation)) in unused.iter().enumerate() {
                match storage.put_tombstone(&layout::closed(digest, generation), Default::default()).await {
                    Err(StorageError::Full) => {
                        unused.truncate(place);
                        is_all = false;
                        break;
                    }
                    put => drop(put?),
                }
            }
        }
        self.collected.closed_generations += unused.len() as u64;
        closed.append(&mut unused);
        Ok(Closed { generations: closed, is_all })
    }

    /// Deletes those of the closed generations that have no stamp now, and says how many those were.
    async fn delete_unused(
        &mut self,
        mut closed: Vec<(Digest, Generation)>,
    ) -> Result<usize, RepositoryError> {
        if closed.is_empty() {
            return Ok(0);
        }
        let relied_on = match self.mode {
            Mode::Collect => self.all_stamps().await?,
            Mode::DryRun => std::mem::take(&mut self.relied_on),
        };
        closed.retain(|(digest, generation)| !relied_on.contains(digest, generation));
        let count = closed.len();
        let (storage, mode) = (self.collector.storage(), self.mode);
        let deletions = stream::iter(closed).map(|(digest, generation)| async move {
            let content = layout::content(&digest, &generation);
            let size = match storage.size_bytes(&content).await {
                Err(StorageError::Missing { .. }) => None,
                size => Some(size?),
            };
            if mode == Mode::Collect {
                storage.delete(&content).await?;
                // The mark goes last: until then nobody stamps what is gone.
                storage.delete(&layout::closed(&digest, &generation)).await?;
            }
            Ok::<_, RepositoryError>(size)
        });
        let mut deletions = deletions.buffer_unordered(PARALLEL_DELETIONS);
        while let Some(size) = deletions.try_next().await? {
            self.collected.deleted_generations += u64::from(size.is_some());
            self.collected.freed_bytes += size.unwrap_or(0);
        }
        Ok(count)
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

impl ReliedOn {
    pub(super) fn insert(&mut self, digest: &Digest, generation: &Generation) {
        self.0.insert(Self::entry(digest, generation));
    }

    fn contains(&self, digest: &Digest, generation: &Generation) -> bool {
        self.0.contains(&Self::entry(digest, generation))
    }

    /// Half of it from the digest, half from what is random in the generation's name.
    fn entry(digest: &Digest, generation: &Generation) -> [u8; 16] {
        let mut entry = [0; 16];
        entry[..8].copy_from_slice(&digest.as_bytes()[..8]);
        entry[8..].copy_from_slice(&generation.random().to_le_bytes());
        entry
    }
}
