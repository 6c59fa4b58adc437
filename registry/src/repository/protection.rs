//! What may not be deleted, because an immutable tag leads to it: the manifest that the tag names, the
//! manifests that an index names, and their blobs.
//!
//! Nothing that is pushed is looked at here. A delete is rare, so it walks.

use std::collections::HashSet;

use appliance::Digest;

use super::{Author, Authority, Repositories, RepositoryError};
use crate::manifest::Manifest;
use crate::name::{RepositoryName, Tag};

impl Repositories {
    /// Refuses to delete a manifest or a blob that an immutable tag leads to.
    pub(super) async fn check_deletable(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        by: Author<'_>,
    ) -> Result<(), RepositoryError> {
        if by.authority == Authority::Admin || !self.rules.has_immutable_tags(repository.as_str()) {
            return Ok(());
        }
        let mut seen = HashSet::new();
        for live in self.all_tags(repository).await? {
            self.check_below(repository, &live.tag, live.digest, digest, &mut seen).await?;
        }
        Ok(())
    }

    /// Refuses if `tag` is immutable and what it names leads to `digest`. What was `seen` does not.
    async fn check_below(
        &self,
        repository: &RepositoryName,
        tag: &Tag,
        named: Digest,
        digest: &Digest,
        seen: &mut HashSet<Digest>,
    ) -> Result<(), RepositoryError> {
        let Some(rule) = self.rules.immutable(repository.as_str(), tag.as_str()) else { return Ok(()) };
        let mut ahead = vec![named];
        while let Some(manifest) = ahead.pop() {
            let leads_there = manifest == *digest || {
                if !seen.insert(manifest) {
                    continue;
                }
                let Some(stored) = self.read_manifest(repository, manifest).await? else { continue };
                let Ok(found) = Manifest::check(&stored.bytes, Some(&stored.media_type)) else { continue };
                ahead.extend(&found.children);
                found.blobs.contains(digest)
            };
            if leads_there {
                let (tag, pattern) = (tag.as_str().to_owned(), rule.tags.to_string());
                return Err(RepositoryError::Immutable { tag, named, pattern });
            }
        }
        Ok(())
    }
}
