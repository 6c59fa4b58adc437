//! The content of blobs, in generations that repositories' stamps rely on.
//!
//! This is the left column of "stamp, then look" in [`crate::layout`]; the collector has the right
//! one. Nothing here deletes content.

use appliance::Digest;
use blob_store::{Session, StorageError};

use super::{Repositories, RepositoryError, present};
use crate::layout::{self, ContentEntry, Generation, Stamp};
use crate::name::RepositoryName;

/// The generations of a blob's content that are here, oldest first.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Generations {
    pub(crate) open: Vec<Generation>,
    /// Those that whoever has a stamp already may rely on.
    pub(crate) closing: Vec<Generation>,
    /// Those that nobody may rely on; the content of some may be gone.
    pub(crate) closed: Vec<Generation>,
}

impl Repositories {
    pub(crate) async fn generations(&self, digest: &Digest) -> Result<Generations, StorageError> {
        let names = self.keys_in(&layout::contents(digest)).await?;
        let mut found = Generations::default();
        for name in &names {
            match ContentEntry::parse(name) {
                Some(ContentEntry::Content(generation)) => found.open.push(generation),
                // Its content, if it is still there, came just before.
                Some(ContentEntry::Closed(generation)) => {
                    found.open.pop_if(|open| *open == generation);
                    found.closed.push(generation);
                }
                Some(ContentEntry::Closing(generation)) => {
                    found.closing.extend(found.open.pop_if(|open| *open == generation));
                }
                None => {}
            }
        }
        Ok(found)
    }

    /// Relies on one of the generations that `repository` has a stamp of. Returns the blob's size in
    /// bytes, or `None` if there is none that can be relied on.
    pub(super) async fn rely_on_stamped(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        stamps: &[Stamp],
    ) -> Result<Option<u64>, StorageError> {
        let mut found = self.generations(digest).await?;
        for stamp in stamps.iter().rev() {
            if !found.is_kept(&stamp.generation) {
                continue;
            }
            if !self.is_fresh(stamp.time) {
                let Stamp { size_bytes, generation, .. } = stamp.clone();
                if self.rely_on(repository, digest, size_bytes, generation).await? {
                    return Ok(Some(size_bytes));
                }
                // A collector that took the old stamp away may have looked before the new one was there.
                if !self.stamps(repository, digest).await?.contains(stamp) {
                    continue;
                }
                found = self.generations(digest).await?;
            }
            if found.is_kept(&stamp.generation) {
                return Ok(Some(stamp.size_bytes));
            }
        }
        Ok(None)
    }

    /// Stamps any open generation of a blob for `repository`. Returns the blob's size in bytes, or
    /// `None` if there is no generation that can be relied on.
    pub(super) async fn rely_on_any(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
    ) -> Result<Option<u64>, StorageError> {
        for generation in self.generations(digest).await?.open {
            let key = layout::content(digest, &generation);
            let Some(size_bytes) = present(self.storage.size_bytes(&key).await)? else { continue };
            if self.rely_on(repository, digest, size_bytes, generation).await? {
                return Ok(Some(size_bytes));
            }
        }
        Ok(None)
    }

    /// Stamps a generation, then looks. False if nobody may begin to rely on it.
    async fn rely_on(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        size_bytes: u64,
        generation: Generation,
    ) -> Result<bool, StorageError> {
        let stamp = self.stamp(repository, digest, size_bytes, generation).await?;
        Ok(self.generations(digest).await?.open.contains(&stamp.generation))
    }

    async fn stamp(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        size_bytes: u64,
        generation: Generation,
    ) -> Result<Stamp, StorageError> {
        let stamp = Stamp { time: self.clock.now(), size_bytes, generation };
        self.storage.put_if_absent(&layout::stamp(repository, digest, &stamp), Default::default()).await?;
        Ok(stamp)
    }

    /// Makes a session's content a new generation of `digest`, which it must have, stamped for
    /// `repository`.
    ///
    /// The stamp comes first, so that there is no moment at which the session is over and the blob cannot
    /// be read: a client whose server is killed goes on with the upload or has the blob.
    pub(super) async fn store(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        session: Box<dyn Session>,
    ) -> Result<(), RepositoryError> {
        let size_bytes = session.size_bytes();
        let generation = Generation::new(self.clock.now(), u64::from_le_bytes(crate::random::bytes()));
        let stamp = self.stamp(repository, digest, size_bytes, generation.clone()).await?;
        // Where this fails, the stamp leads to nothing, and goes when it is old: content may be here after
        // all, and somebody else may rely on it.
        session.finish(&layout::content(digest, &generation)).await?;
        let is_reliable = match self.is_fresh(stamp.time) {
            true => self.generations(digest).await?.open.contains(&generation),
            // Finishing took so long that the stamp may be gone.
            false => self.rely_on(repository, digest, size_bytes, generation).await?,
        };
        match is_reliable {
            true => Ok(()),
            // A collector leaves alone what is as young as this.
            false => Err(RepositoryError::Contended),
        }
    }
}

impl Generations {
    /// True for a generation that whoever has a stamp of it may rely on.
    pub(crate) fn is_kept(&self, generation: &Generation) -> bool {
        self.open.contains(generation) || self.closing.contains(generation)
    }
}
