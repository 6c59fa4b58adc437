//! What a repository holds, counted: its distinct blobs and manifests, in bytes. And the way to the
//! books of [`crate::quota`] for whoever stores something.

use std::time::Instant;

use blob_store::StorageError;
use futures_util::TryStreamExt as _;

use super::{Repositories, RepositoryError, present};
use crate::layout;
use crate::name::RepositoryName;
use crate::quota::{Account, Charge, Content, NoRoom, Room, Trust};

impl Repositories {
    /// Room in a repository, for nothing yet; `None` where there is no quota.
    pub(crate) fn room(&self, repository: &RepositoryName) -> Option<Room> {
        self.quotas.account(repository).map(Room::new)
    }

    /// Makes room for `bytes` in all, if it is less.
    ///
    /// # Errors
    ///
    /// [`RepositoryError::Quota`]: there is none. The room is as it was.
    pub(crate) async fn grow(&self, room: &Room, bytes: u64) -> Result<(), RepositoryError> {
        // Counting again brings nothing better where others never cease to store.
        for trust in [Trust::Exact, Trust::Exact, Trust::Any] {
            let now = Instant::now();
            match room.grow(bytes, now, trust) {
                Ok(()) => return Ok(()),
                Err(NoRoom::Exceeded(error)) => return Err(error.into()),
                Err(NoRoom::CountFirst) => self.count(room.account(), now).await?,
            }
        }
        // Whoever failed to store something has closed the books that were just counted.
        Err(RepositoryError::Contended)
    }

    /// Refuses if nothing more may be stored.
    pub(crate) async fn check_not_full(&self, repository: &RepositoryName) -> Result<(), RepositoryError> {
        match self.room(repository) {
            None => Ok(()),
            Some(room) => self.grow(&room, 1).await,
        }
    }

    /// Size of a blob that costs nothing in this repository, since it is here already. Zero where there
    /// is no quota.
    pub(crate) async fn free_bytes(
        &self,
        repository: &RepositoryName,
        digest: &appliance::Digest,
    ) -> Result<u64, RepositoryError> {
        if self.quotas.account(repository).is_none() {
            return Ok(0);
        }
        Ok(self.stamps(repository, digest).await?.last().map_or(0, |stamp| stamp.size_bytes))
    }

    /// Finds out whether content of `bytes` costs anything, and makes room for it then. `None` where
    /// there is no quota, and so no room.
    pub(super) async fn admit(
        &self,
        content: Content,
        bytes: u64,
        room: Option<&Room>,
    ) -> Result<Option<Charge>, RepositoryError> {
        let Some(room) = room else { return Ok(None) };
        let (entrance, repository) = (room.account().enter(content), room.account().repository());
        let is_here = match &content {
            Content::Blob(digest) => !self.stamps(repository, digest).await?.is_empty(),
            Content::Manifest(digest) => self.newest_copy(repository, digest).await?.is_some(),
        };
        if !is_here {
            self.grow(room, bytes).await?;
        }
        Ok(Some(entrance.admitted(is_here)))
    }

    /// Tells the books that something was deleted.
    pub(crate) fn freed(&self, repository: &RepositoryName) {
        if let Some(account) = self.quotas.account(repository) {
            account.freed();
        }
    }

    /// Counts what a repository holds, unless somebody began to after `wanted` and is done.
    async fn count(&self, account: &Account, wanted: Instant) -> Result<(), RepositoryError> {
        let Some(_turn) = account.begin_count(wanted).await else { return Ok(()) };
        let time = Instant::now();
        let blobs = self.blob_bytes(account.repository()).await?;
        let manifests = self.manifest_bytes(account.repository()).await?;
        account.end_count(blobs.saturating_add(manifests), time);
        Ok(())
    }

    /// Bytes of all blobs that have a stamp in a repository.
    async fn blob_bytes(&self, repository: &RepositoryName) -> Result<u64, StorageError> {
        let mut keys = self.storage.keys_below(&layout::all_stamps(repository));
        let (mut bytes, mut last) = (0u64, None);
        while let Some(key) = keys.try_next().await? {
            let Some((digest, stamp)) = layout::stamp_of_key(&key) else { continue };
            // The stamps of a blob follow each other.
            if last.replace(digest) != Some(digest) {
                bytes = bytes.saturating_add(stamp.size_bytes);
            }
        }
        Ok(bytes)
    }

    /// Bytes of all manifests of a repository, each counted once.
    async fn manifest_bytes(&self, repository: &RepositoryName) -> Result<u64, StorageError> {
        let mut keys = self.storage.keys_below(&layout::all_manifests(repository));
        let (mut bytes, mut last) = (0u64, None);
        while let Some(key) = keys.try_next().await? {
            let Some((digest, _)) = layout::copy_of_key(&key) else { continue };
            if last.replace(digest) != Some(digest) {
                let size = present(self.storage.size_bytes(&key).await)?;
                bytes = bytes.saturating_add(size.unwrap_or(0));
            }
        }
        Ok(bytes)
    }
}
