//! Repositories: which blobs, manifests and tags exist where. The keys are [`crate::layout`]'s.
//!
//! Everything here returns after what it did is durable, and nothing depends on two operations
//! happening together. Content and a stamp that leads to it are put before the manifest, the manifest
//! before the tag; whoever relies on something that is there already stamps it and looks again, as
//! [`crate::layout`] says.

mod blobs;
mod contents;
mod manifests;
mod protection;
mod referrers;
mod tags;
#[cfg(test)]
mod tests;
mod usage;

use std::sync::Arc;
use std::time::Duration;

use appliance::Digest;
use blob_store::{Entry, Key, Storage, StorageError};
use futures_util::{StreamExt, TryStreamExt, stream};

use crate::cache::ManifestCache;
use crate::clock::Clock;
use crate::layout;
use crate::name::RepositoryName;
use crate::quota::{QuotaExceeded, Quotas};
use crate::rules::Rules;

pub(crate) use self::blobs::Stored;
pub(crate) use self::manifests::{PutManifest, StoredManifest, split_copy};
pub(crate) use self::tags::{Author, Authority, LiveTag};

/// How many keys are looked up at a time for one request.
const PARALLEL_LOOKUPS: usize = 8;
/// Entries of a folder that are listed at a time where all are wanted.
const PAGE: usize = 1000;

/// All repositories of a storage.
#[derive(Debug)]
pub(crate) struct Repositories {
    storage: Arc<dyn Storage>,
    clock: Arc<dyn Clock>,
    /// How long what somebody relied on stays, whatever else becomes of it.
    grace: Duration,
    quotas: Quotas,
    rules: Arc<Rules>,
    cache: ManifestCache,
}

/// Why a repository could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RepositoryError {
    /// A manifest names blobs that cannot be read here.
    #[error("the manifest refers to {} blobs that are not in this repository", missing.len())]
    MissingBlobs { missing: Vec<Digest> },
    /// The same bytes are here as a manifest of another type already.
    #[error("the manifest {digest} is stored as `{stored}` here; it cannot be `{sent}` too")]
    OtherMediaType { digest: Digest, stored: String, sent: &'static str },
    /// A rule forbids it.
    #[error("the tag `{tag}` is immutable here (rule `{pattern}`): it names {named}")]
    Immutable { tag: String, named: Digest, pattern: String },
    #[error(transparent)]
    Quota(#[from] QuotaExceeded),
    /// A record that this server wrote does not read back.
    #[error("the record `{key}` in the storage is damaged: {problem}")]
    Damaged { key: Key, problem: &'static str },
    /// What was just put was deleted at once, again and again.
    #[error("what was put is being deleted by somebody else")]
    Contended,
    #[error(transparent)]
    Storage(#[from] StorageError),
}

impl Repositories {
    pub(crate) fn new(
        storage: Arc<dyn Storage>,
        clock: Arc<dyn Clock>,
        grace: Duration,
        rules: Arc<Rules>,
    ) -> Self {
        let cache = ManifestCache::new(storage.sharing());
        let quotas = Quotas::new(Arc::clone(&rules), storage.sharing());
        Self { storage, clock, grace, quotas, rules, cache }
    }

    pub(crate) fn storage(&self) -> &dyn Storage {
        &*self.storage
    }

    pub(crate) fn rules(&self) -> &Rules {
        &self.rules
    }

    /// At most `limit` repositories after `after`, in the order of their folders.
    pub(crate) async fn names(
        &self,
        after: Option<&RepositoryName>,
        limit: usize,
    ) -> Result<Vec<RepositoryName>, RepositoryError> {
        let after = after.map(layout::repository_folder);
        let found = self.storage.list(&layout::repositories(), after.as_deref(), limit).await?;
        Ok(found.iter().filter_map(|folder| layout::repository_of_folder(folder.name())).collect())
    }

    /// True if there is anything in this repository.
    pub(crate) async fn exists(&self, repository: &RepositoryName) -> Result<bool, RepositoryError> {
        Ok(!self.storage.list(&layout::repository(repository), None, 1).await?.is_empty())
    }

    /// True for what happened so lately that it may be relied on without renewing it.
    fn is_fresh(&self, time: crate::clock::Time) -> bool {
        self.clock.now().since(time) <= self.grace / 2
    }

    /// The names of all keys directly in `folder`, in ascending order.
    async fn keys_in(&self, folder: &Key) -> Result<Vec<String>, StorageError> {
        let mut names: Vec<String> = Vec::new();
        loop {
            let page = self.storage.list(folder, names.last().map(String::as_str), PAGE).await?;
            let is_last = page.len() < PAGE;
            names.extend(page.into_iter().filter_map(|entry| match entry {
                Entry::Key(name) => Some(name),
                Entry::Folder(_) => None,
            }));
            if is_last {
                return Ok(names);
            }
        }
    }
}

/// Asks `question` about each of `items`, several at a time, and returns what was found, in order.
async fn ask_each<T, R, F>(items: Vec<T>, question: impl Fn(T) -> F) -> Result<Vec<R>, RepositoryError>
where
    F: Future<Output = Result<Option<R>, RepositoryError>>,
{
    let answers = stream::iter(items).map(question).buffered(PARALLEL_LOOKUPS);
    answers.filter_map(async |answer| answer.transpose()).try_collect().await
}

/// What is absent is no error here.
fn present<T>(result: Result<T, StorageError>) -> Result<Option<T>, StorageError> {
    match result {
        Ok(found) => Ok(Some(found)),
        Err(StorageError::Missing { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}
