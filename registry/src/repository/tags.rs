//! Tags: names of manifests that may move. Each keeps the history of what it named.

use appliance::Digest;
use serde::{Deserialize, Serialize};

use super::{Repositories, RepositoryError, ask_each};
use crate::cache::CacheKey;
use crate::layout;
use crate::log::{Log, LogError, Placed};
use crate::name::{ManifestName, RepositoryName, Tag};

/// What a tag named from some time on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TagEntry {
    /// The manifest; `None` where the tag was deleted.
    pub(crate) digest: Option<Digest>,
    /// When it was set, in seconds since 1970.
    pub(crate) time: u64,
    /// Who set it.
    pub(crate) by: String,
}

/// Tags that are looked at together while tags are listed.
const LOOKED_AT: usize = 64;

impl Repositories {
    /// Lets a tag name a manifest from now on. Naming the same again is no change.
    pub(super) async fn set_tag(
        &self,
        repository: &RepositoryName,
        tag: &Tag,
        digest: Option<Digest>,
        by: &str,
    ) -> Result<(), RepositoryError> {
        let entry = TagEntry { digest, time: self.clock.now().as_secs(), by: by.to_owned() };
        let change = |newest: Option<&Placed<TagEntry>>| {
            let named = newest.and_then(|newest| newest.entry.digest);
            Ok::<_, LogError>((named != digest).then(|| entry.clone()))
        };
        self.tag_log(repository, tag).append_if(change).await?;
        let (repository, name) = (repository.clone(), ManifestName::Tag(tag.clone()));
        self.cache.forget(&CacheKey { repository, name });
        Ok(())
    }

    /// Deletes a tag. What it named stays. False if there is no such tag.
    pub(crate) async fn delete_tag(
        &self,
        repository: &RepositoryName,
        tag: &Tag,
        by: &str,
    ) -> Result<bool, RepositoryError> {
        let is_there = self.tagged(repository, tag).await?.is_some();
        self.set_tag(repository, tag, None, by).await?;
        Ok(is_there)
    }

    /// What a tag names, if there is such a tag.
    pub(super) async fn tagged(
        &self,
        repository: &RepositoryName,
        tag: &Tag,
    ) -> Result<Option<Digest>, RepositoryError> {
        let newest = self.tag_log(repository, tag).newest().await?;
        Ok(newest.and_then(|newest| newest.entry.digest))
    }

    /// At most `limit` tags of a repository, in ascending order, after `after`, with what they name.
    pub(crate) async fn tags(
        &self,
        repository: &RepositoryName,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<(Tag, Digest)>, RepositoryError> {
        let mut after = after.map(layout::tag_folder);
        let mut tags = Vec::new();
        while tags.len() < limit {
            let found = self.storage.list(&layout::tags(repository), after.as_deref(), LOOKED_AT).await?;
            let looked_at = found.iter().filter_map(|folder| layout::tag_of_folder(folder.name())).collect();
            let named = ask_each(looked_at, async |tag| {
                let digest = self.tagged(repository, &tag).await?;
                Ok(digest.map(|digest| (tag, digest)))
            });
            tags.extend(named.await?.into_iter().flatten());
            match found.last() {
                Some(last) if found.len() == LOOKED_AT => after = Some(last.name().to_owned()),
                _ => break,
            }
        }
        tags.truncate(limit);
        Ok(tags)
    }

    /// At most `limit` entries of a tag's history, newest first, from the one before the place
    /// `before`.
    pub(crate) async fn history(
        &self,
        repository: &RepositoryName,
        tag: &Tag,
        before: Option<u64>,
        limit: usize,
    ) -> Result<Vec<Placed<TagEntry>>, RepositoryError> {
        Ok(self.tag_log(repository, tag).entries(before, limit).await?)
    }

    fn tag_log(&self, repository: &RepositoryName, tag: &Tag) -> Log<'_, TagEntry> {
        Log::new(&*self.storage, layout::tag(repository, tag))
    }
}

impl From<LogError> for RepositoryError {
    fn from(error: LogError) -> Self {
        match error {
            LogError::Damaged { key, .. } => Self::Damaged { key, problem: "it is not an entry of a log" },
            LogError::Storage(error) => Self::Storage(error),
        }
    }
}
