//! The blobs of a repository.

use appliance::Digest;
use blob_store::{Object, Session, StorageError};

use super::{Author, Repositories, RepositoryError, ask_each, present};
use crate::layout::{self, Generation, Stamp};
use crate::name::RepositoryName;
use crate::quota::{Content, Room};

/// What became of content that was to be stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stored {
    /// From the session, which is gone.
    FromSession,
    /// It was here before. The session is still there, and of no use.
    WasHere,
}

/// Most repositories that are asked for a blob when a client does not know who has it.
const ASKED_FOR_MOUNT: usize = 1000;

impl Repositories {
    /// A blob's content, if it may be read in this repository.
    pub(crate) async fn open_blob(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
    ) -> Result<Option<Box<dyn Object>>, RepositoryError> {
        let stamps = self.stamps(repository, digest).await?;
        if stamps.is_empty() {
            return Ok(None);
        }
        let stamped: Vec<Generation> = stamps.into_iter().map(|stamp| stamp.generation).collect();
        if let Some(object) = self.open_any(digest, &stamped).await? {
            return Ok(Some(object));
        }
        // Damaged content is taken away from under its stamps. Somebody may have pushed it again, which is
        // read here even where it cannot be written down that it is needed.
        let relied_on = self.rely_on_any(repository, digest).await;
        match self.open_any(digest, &self.generations(digest).await?.open).await? {
            None => Ok(relied_on.map(|_| None)?),
            found => Ok(found),
        }
    }

    /// Size of a blob in bytes, if it may be read in this repository. Whoever is told so relies on it
    /// for a while, so it stays.
    pub(crate) async fn rely_on_blob(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
    ) -> Result<Option<u64>, RepositoryError> {
        let stamps = self.stamps(repository, digest).await?;
        if stamps.is_empty() {
            return Ok(None);
        }
        if let Some(size_bytes) = self.rely_on_stamped(repository, digest, &stamps).await? {
            return Ok(Some(size_bytes));
        }
        // Nobody may rely on what the stamps name; perhaps on what others have stored since.
        Ok(self.rely_on_any(repository, digest).await?)
    }

    /// Those of `blobs` that cannot be read in this repository. The others stay for a while.
    pub(crate) async fn missing_blobs(
        &self,
        repository: &RepositoryName,
        blobs: &[Digest],
    ) -> Result<Vec<Digest>, RepositoryError> {
        let missing = ask_each(blobs.to_vec(), async |digest| {
            let size = self.rely_on_blob(repository, &digest).await?;
            Ok(size.is_none().then_some(digest))
        });
        missing.await
    }

    /// Lets what `session` holds, whose digest is `digest`, be read in a repository. `room` is what was
    /// set aside for it, where there is a quota.
    pub(crate) async fn store_blob(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        session: Box<dyn Session>,
        room: Option<&Room>,
    ) -> Result<Stored, RepositoryError> {
        let size_bytes = session.size_bytes();
        let charge = self.admit(Content::Blob(*digest), size_bytes, room).await?;
        let stored = match self.rely_on_any(repository, digest).await? {
            Some(_) => Stored::WasHere,
            None => {
                self.store(repository, digest, session).await?;
                Stored::FromSession
            }
        };
        if let Some((charge, room)) = charge.zip(room) {
            charge.pay(size_bytes, room);
        }
        Ok(stored)
    }

    /// Lets a blob of `from` be read in `to` as well. False if it cannot be read in `from`.
    pub(crate) async fn mount_blob(
        &self,
        from: &RepositoryName,
        to: &RepositoryName,
        digest: &Digest,
    ) -> Result<bool, RepositoryError> {
        let Some(stamp) = self.stamps(from, digest).await?.pop() else { return Ok(false) };
        let room = self.room(to);
        let charge = self.admit(Content::Blob(*digest), stamp.size_bytes, room.as_ref()).await?;
        let is_mounted = self.rely_on_any(to, digest).await?.is_some();
        // Where it is not, a stamp may be there all the same, and the repository is counted anew.
        if let Some((charge, room)) = charge.zip(room)
            && is_mounted
        {
            charge.pay(stamp.size_bytes, &room);
        }
        Ok(is_mounted)
    }

    /// A repository that has a blob and that `may_read` allows, where one is found soon.
    pub(crate) async fn who_has(
        &self,
        digest: &Digest,
        may_read: impl Fn(&RepositoryName) -> bool,
    ) -> Result<Option<RepositoryName>, RepositoryError> {
        if self.generations(digest).await?.open.is_empty() {
            return Ok(None);
        }
        let mut names = self.names(None, ASKED_FOR_MOUNT).await?;
        names.retain(may_read);
        for some in names.chunks(super::PARALLEL_LOOKUPS) {
            let have = ask_each(some.to_vec(), async |name| {
                let has = !self.stamps(&name, digest).await?.is_empty();
                Ok(has.then_some(name))
            });
            if let Some(name) = have.await?.into_iter().next() {
                return Ok(Some(name));
            }
        }
        Ok(None)
    }

    /// Takes a blob out of a repository. False if it was not in it.
    pub(crate) async fn delete_blob(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        by: Author<'_>,
    ) -> Result<bool, RepositoryError> {
        self.check_deletable(repository, digest, by).await?;
        let stamps = self.stamps(repository, digest).await?;
        for stamp in &stamps {
            self.storage.delete(&layout::stamp(repository, digest, stamp)).await?;
        }
        self.freed(repository);
        Ok(!stamps.is_empty())
    }

    /// True if a blob can be read in this repository. Nothing is renewed.
    pub(crate) async fn has_readable(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
    ) -> Result<bool, RepositoryError> {
        let stamps = self.stamps(repository, digest).await?;
        for stamp in stamps.iter().rev() {
            let key = layout::content(digest, &stamp.generation);
            if present(self.storage.size_bytes(&key).await)?.is_some() {
                return Ok(true);
            }
        }
        Ok(!stamps.is_empty() && !self.generations(digest).await?.open.is_empty())
    }

    /// The content of the last of these generations that is here. All are the same bytes.
    async fn open_any(
        &self,
        digest: &Digest,
        generations: &[Generation],
    ) -> Result<Option<Box<dyn Object>>, RepositoryError> {
        for generation in generations.iter().rev() {
            let key = layout::content(digest, generation);
            if let Some(object) = present(self.storage.open(&key).await)? {
                return Ok(Some(object));
            }
        }
        Ok(None)
    }

    /// The stamps of a blob in a repository, oldest first.
    pub(crate) async fn stamps(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
    ) -> Result<Vec<Stamp>, StorageError> {
        let names = self.keys_in(&layout::stamps(repository, digest)).await?;
        Ok(names.iter().filter_map(|name| Stamp::parse(name)).collect())
    }
}
