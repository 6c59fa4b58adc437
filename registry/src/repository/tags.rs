//! Tags: names of manifests that may move. Each keeps the history of what it named.

use appliance::Digest;
use serde::{Deserialize, Serialize};

use super::{Repositories, RepositoryError, ask_each};
use crate::cache::CacheKey;
use crate::clock::Time;
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

/// A tag that names something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LiveTag {
    pub(crate) tag: Tag,
    pub(crate) digest: Digest,
    /// Since when it names that.
    pub(crate) since: Time,
}

/// Who changes something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Author<'a> {
    /// As the history of tags has it.
    pub(crate) name: &'a str,
    pub(crate) authority: Authority,
}

/// Whether somebody may change what the rules protect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Authority {
    /// No: an immutable tag stays what it is.
    Ordinary,
    /// Yes.
    Admin,
}

/// Entries of a tag's history that show what it named last: the newest may be a deletion.
const LOOKED_BACK: usize = 2;
/// Tags that are looked at together while tags are listed.
const LOOKED_AT: usize = 64;

impl Repositories {
    /// Lets a tag name a manifest from now on, or nothing. Naming the same again is no change.
    pub(super) async fn set_tag(
        &self,
        repository: &RepositoryName,
        tag: &Tag,
        digest: Option<Digest>,
        by: Author<'_>,
    ) -> Result<(), RepositoryError> {
        self.change_tag(repository, tag, digest, by, |_| true).await
    }

    /// Deletes a tag, unless it was set anew since it was read.
    pub(crate) async fn unset_tag(
        &self,
        repository: &RepositoryName,
        live: &LiveTag,
        by: Author<'_>,
    ) -> Result<(), RepositoryError> {
        let is_same = |newest: &Placed<TagEntry>| {
            newest.entry.digest == Some(live.digest) && newest.entry.time == live.since.as_secs()
        };
        self.change_tag(repository, &live.tag, None, by, is_same).await
    }

    /// Changes a tag that was never set, or whose newest entry is `wanted`.
    ///
    /// This and whether an immutable tag may move is decided on what the tag's history says when the
    /// entry is written, so of several who set it to different manifests only one can.
    async fn change_tag(
        &self,
        repository: &RepositoryName,
        tag: &Tag,
        digest: Option<Digest>,
        by: Author<'_>,
        wanted: impl Fn(&Placed<TagEntry>) -> bool,
    ) -> Result<(), RepositoryError> {
        let entry = TagEntry { digest, time: self.clock.now().as_secs(), by: by.name.to_owned() };
        let decide = |latest: &[Placed<TagEntry>]| {
            let newest = latest.first();
            if newest.and_then(|newest| newest.entry.digest) == digest || !newest.is_none_or(&wanted) {
                return Ok(None);
            }
            self.check_immutable(repository, tag, latest, digest, by)?;
            Ok::<_, RepositoryError>(Some(entry.clone()))
        };
        self.tag_log(repository, tag).append_after(LOOKED_BACK, decide).await?;
        let (repository, name) = (repository.clone(), ManifestName::Tag(tag.clone()));
        self.cache.forget(&CacheKey { repository, name });
        Ok(())
    }

    /// Refuses what [`Self::set_tag`] would refuse now.
    pub(super) async fn check_tag(
        &self,
        repository: &RepositoryName,
        tag: &Tag,
        digest: Option<Digest>,
        by: Author<'_>,
    ) -> Result<(), RepositoryError> {
        if !self.rules.is_immutable(repository.as_str(), tag.as_str()) {
            return Ok(());
        }
        let newest = self.tag_log(repository, tag).entries(None, LOOKED_BACK).await?;
        self.check_immutable(repository, tag, &newest, digest, by)
    }

    /// Refuses to let an immutable tag name `digest`, after these entries of its history.
    fn check_immutable(
        &self,
        repository: &RepositoryName,
        tag: &Tag,
        newest: &[Placed<TagEntry>],
        digest: Option<Digest>,
        by: Author<'_>,
    ) -> Result<(), RepositoryError> {
        // Two deletions never follow each other.
        let named = newest.iter().find_map(|placed| placed.entry.digest);
        let Some(named) = named.filter(|named| Some(*named) != digest) else { return Ok(()) };
        match self.rules.immutable(repository.as_str(), tag.as_str()) {
            Some(rule) if by.authority == Authority::Ordinary => {
                let (tag, pattern) = (tag.as_str().to_owned(), rule.tags.to_string());
                Err(RepositoryError::Immutable { tag, named, pattern })
            }
            _ => Ok(()),
        }
    }

    /// Deletes a tag. What it named stays. False if there is no such tag.
    pub(crate) async fn delete_tag(
        &self,
        repository: &RepositoryName,
        tag: &Tag,
        by: Author<'_>,
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
        Ok(self.live_tag(repository, tag.clone()).await?.map(|live| live.digest))
    }

    async fn live_tag(
        &self,
        repository: &RepositoryName,
        tag: Tag,
    ) -> Result<Option<LiveTag>, RepositoryError> {
        let Some(newest) = self.tag_log(repository, &tag).newest().await? else { return Ok(None) };
        let since = Time::from_secs(newest.entry.time);
        Ok(newest.entry.digest.map(|digest| LiveTag { tag, digest, since }))
    }

    /// At most `limit` tags of a repository, in ascending order, after `after`.
    pub(crate) async fn tags(
        &self,
        repository: &RepositoryName,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<LiveTag>, RepositoryError> {
        let mut after = after.map(layout::tag_folder);
        let mut tags = Vec::new();
        while tags.len() < limit {
            let found = self.storage.list(&layout::tags(repository), after.as_deref(), LOOKED_AT).await?;
            let looked_at = found.iter().filter_map(|folder| layout::tag_of_folder(folder.name())).collect();
            tags.extend(ask_each(looked_at, |tag| self.live_tag(repository, tag)).await?);
            match found.last() {
                Some(last) if found.len() == LOOKED_AT => after = Some(last.name().to_owned()),
                _ => break,
            }
        }
        tags.truncate(limit);
        Ok(tags)
    }

    /// All tags of a repository, in ascending order.
    pub(crate) async fn all_tags(
        &self,
        repository: &RepositoryName,
    ) -> Result<Vec<LiveTag>, RepositoryError> {
        self.tags(repository, None, usize::MAX).await
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
        let log = Log::new(&*self.storage, layout::tag(repository, tag));
        log.with_tombstones(|entry: &TagEntry| entry.digest.is_none())
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
