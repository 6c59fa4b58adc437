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
                None => {}
            }
        }
        Ok(found)
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

    /// Stamps a generation, then looks. False if nobody may rely on it any more.
    pub(super) async fn rely_on(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        size_bytes: u64,
        generation: Generation,
    ) -> Result<bool, StorageError> {
        let stamp = Stamp { time: self.clock.now(), size_bytes, generation };
        let key = layout::stamp(repository, digest, &stamp);
        self.storage.put_if_absent(&key, Default::default()).await?;
        if self.generations(digest).await?.open.contains(&stamp.generation) {
            return Ok(true);
        }
        self.storage.delete(&key).await?;
        Ok(false)
    }

    /// Makes a session's content a new generation of `digest`, which it must have, and stamps it for
    /// `repository`.
    pub(super) async fn store(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        session: Box<dyn Session>,
    ) -> Result<(), RepositoryError> {
        let size_bytes = session.size_bytes();
        let generation = Generation::new(self.clock.now(), u64::from_le_bytes(crate::random::bytes()));
        session.finish(&layout::content(digest, &generation)).await?;
        match self.rely_on(repository, digest, size_bytes, generation).await? {
            true => Ok(()),
            // A collector leaves what is younger than the grace period alone.
            false => Err(RepositoryError::Contended),
        }
    }
}
