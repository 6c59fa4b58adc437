//! The manifests of a repository.
//!
//! A manifest is stored in copies, one for each time that somebody put it after the last one had
//! become old. So whoever collects garbage, and takes away what is old and named by nothing, never
//! takes away what was put just now.

use std::collections::HashSet;
use std::sync::Arc;

use appliance::Digest;
use blob_store::{Put, read_whole};
use bytes::Bytes;

use super::{Author, Repositories, RepositoryError, ask_each, present};
use crate::cache::CacheKey;
use crate::clock::Time;
use crate::layout;
use crate::manifest::Manifest;
use crate::name::{ManifestName, RepositoryName, Tag};
use crate::quota::Content;

/// Largest copy that is read: a manifest and its media type.
const MAX_COPY: u64 = appliance::manifest::MAX_BYTES + 256;
/// How often a manifest is put anew that somebody else deletes at the same time.
const ATTEMPTS: usize = 8;

/// A manifest, as it was received.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct StoredManifest {
    pub(crate) digest: Digest,
    pub(crate) media_type: String,
    pub(crate) bytes: Bytes,
}

/// A manifest that is to be stored.
#[derive(Debug)]
pub(crate) struct PutManifest<'a> {
    pub(crate) repository: &'a RepositoryName,
    /// What was found in `bytes`.
    pub(crate) manifest: &'a Manifest,
    /// The digest of `bytes`.
    pub(crate) digest: Digest,
    pub(crate) bytes: Bytes,
    /// The names that it has from now on.
    pub(crate) tags: &'a [Tag],
    /// Who stores it.
    pub(crate) by: Author<'a>,
}

impl Repositories {
    /// Stores a manifest whose blobs are here, and lets its tags name it from now on.
    ///
    /// # Errors
    ///
    /// [`RepositoryError::MissingBlobs`] and what the rules forbid, before anything is stored; but where
    /// putting took as long as the grace period, blobs may turn out to be missing at the end.
    pub(crate) async fn put_manifest(&self, put: &PutManifest<'_>) -> Result<(), RepositoryError> {
        let PutManifest { repository, manifest, digest, bytes, tags, by } = put;
        let mut looked = self.clock.now();
        self.check_blobs(repository, manifest).await?;
        // Tags are checked once more when they are set.
        for tag in *tags {
            self.check_tag(repository, tag, Some(*digest), *by).await?;
        }
        let room = self.room(repository);
        let size_bytes = (manifest.media_type.len() + 1 + bytes.len()) as u64;
        let charge = self.admit(Content::Manifest(*digest), size_bytes, room.as_ref()).await?;
        for _ in 0..ATTEMPTS {
            self.renew_manifests(repository, &manifest.children).await?;
            self.put_referrer(repository, *digest, manifest, bytes.len() as u64).await?;
            self.put_copy(repository, manifest.media_type, *digest, bytes).await?;
            for tag in *tags {
                self.set_tag(repository, tag, Some(*digest), *by).await?;
            }
            // Somebody may have deleted the manifest before its tags were there, or its record. And where all
            // this took long, a collector may have found the blobs or the copy unused meanwhile.
            let newest = self.newest_copy(repository, digest).await?;
            if newest.is_some_and(|newest| self.is_fresh(newest))
                && self.has_referrer(repository, digest, manifest.subject.as_ref()).await?
                && self.is_fresh(looked)
            {
                if let Some((charge, room)) = charge.zip(room) {
                    charge.pay(size_bytes, &room);
                }
                return Ok(());
            }
            looked = self.clock.now();
            self.check_blobs(repository, manifest).await?;
        }
        Err(RepositoryError::Contended)
    }

    /// Sees to it that a manifest's blobs are here, and stay for a while.
    async fn check_blobs(
        &self,
        repository: &RepositoryName,
        manifest: &Manifest,
    ) -> Result<(), RepositoryError> {
        let missing = self.missing_blobs(repository, &manifest.blobs).await?;
        if missing.is_empty() { Ok(()) } else { Err(RepositoryError::MissingBlobs { missing }) }
    }

    /// The manifest of this name, if there is one.
    pub(crate) async fn manifest(
        &self,
        wanted: &CacheKey,
    ) -> Result<Option<Arc<StoredManifest>>, RepositoryError> {
        let ticket = match self.cache.get(wanted) {
            Ok(found) => return Ok(Some(found)),
            Err(ticket) => ticket,
        };
        let digest = match &wanted.name {
            ManifestName::Digest(digest) => Some(*digest),
            ManifestName::Tag(tag) => self.tagged(&wanted.repository, tag).await?,
        };
        let Some(digest) = digest else { return Ok(None) };
        let Some(manifest) = self.read_manifest(&wanted.repository, digest).await? else { return Ok(None) };
        let manifest = Arc::new(manifest);
        self.cache.insert(ticket, wanted.clone(), Arc::clone(&manifest));
        Ok(Some(manifest))
    }

    /// Deletes a manifest and the tags that name it. False if there is none.
    pub(crate) async fn delete_manifest(
        &self,
        repository: &RepositoryName,
        digest: Digest,
        by: Author<'_>,
    ) -> Result<bool, RepositoryError> {
        let Some(stored) = self.read_manifest(repository, digest).await? else { return Ok(false) };
        self.check_deletable(repository, &digest, by).await?;
        let manifest = Manifest::check(&stored.bytes, Some(&stored.media_type)).ok();
        self.untag(repository, digest, by).await?;
        let copies = self.copies(repository, &digest).await?;
        self.delete_copies(repository, digest, &copies).await?;
        if let Some(manifest) = manifest {
            self.delete_referrer(repository, &digest, manifest.subject.as_ref()).await?;
            // Whoever put the manifest again meanwhile may have put its record before that.
            if self.newest_copy(repository, &digest).await?.is_some() {
                self.put_referrer(repository, digest, &manifest, stored.bytes.len() as u64).await?;
                return Ok(true);
            }
        }
        // A tag that was set meanwhile has lost its manifest. An immutable one gets it back: whoever set it
        // puts the manifest once more.
        match self.untag(repository, digest, by).await {
            Ok(()) | Err(RepositoryError::Immutable { .. }) => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// When the newest copy of a manifest was put, if it is in this repository.
    pub(super) async fn newest_copy(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
    ) -> Result<Option<Time>, RepositoryError> {
        Ok(self.copies(repository, digest).await?.pop())
    }

    /// When the copies of a manifest were put, oldest first.
    pub(crate) async fn copies(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
    ) -> Result<Vec<Time>, RepositoryError> {
        let names = self.keys_in(&layout::manifest_copies(repository, digest)).await?;
        Ok(names.iter().filter_map(|name| layout::time_of_copy(name)).collect())
    }

    /// Reads a manifest from the storage.
    pub(crate) async fn read_manifest(
        &self,
        repository: &RepositoryName,
        digest: Digest,
    ) -> Result<Option<StoredManifest>, RepositoryError> {
        let mut passed = Vec::new();
        loop {
            let copies = self.copies(repository, &digest).await?;
            for copy in copies.iter().rev() {
                let key = layout::manifest_copy(repository, &digest, *copy);
                let Some(copy) = present(read_whole(&*self.storage, &key, MAX_COPY).await)? else { continue };
                let Some((media_type, bytes)) = split_copy(&copy) else {
                    return Err(RepositoryError::Damaged {
                        key,
                        problem: "it does not begin with a media type",
                    });
                };
                return Ok(Some(StoredManifest { digest, media_type, bytes }));
            }
            // An old copy may be deleted after it was listed, since a newer one is there.
            if copies == passed {
                return Ok(None);
            }
            passed = copies;
        }
    }

    /// Puts a copy of a manifest, unless there is one that is young enough.
    async fn put_copy(
        &self,
        repository: &RepositoryName,
        media_type: &'static str,
        digest: Digest,
        bytes: &Bytes,
    ) -> Result<(), RepositoryError> {
        if let Some(stored) = self.read_manifest(repository, digest).await?
            && stored.media_type != media_type
        {
            let stored = stored.media_type;
            return Err(RepositoryError::OtherMediaType { digest, stored, sent: media_type });
        }
        let newest = self.newest_copy(repository, &digest).await?;
        if newest.is_some_and(|newest| self.is_fresh(newest)) {
            return Ok(());
        }
        let key = layout::manifest_copy(repository, &digest, self.clock.now());
        let copy = [media_type.as_bytes(), b"\n", bytes].concat();
        if self.storage.put_if_absent(&key, copy.into()).await? == Put::Created {
            self.forget(repository, digest);
        }
        Ok(())
    }

    /// Puts new copies of those manifests whose copies are old, and of what they name, after their blobs
    /// were renewed; each after those that it names. One that is not here, or not whole, stays so.
    async fn renew_manifests(
        &self,
        repository: &RepositoryName,
        digests: &[Digest],
    ) -> Result<(), RepositoryError> {
        enum Step {
            Enter(Digest),
            Leave(Digest),
        }
        let (mut steps, mut entered) = (Vec::new(), HashSet::new());
        steps.extend(self.stale(repository, digests).await?.into_iter().map(Step::Enter));
        while let Some(step) = steps.pop() {
            match step {
                Step::Enter(digest) if entered.insert(digest) => {
                    let Some((manifest, _)) = self.read_whole_manifest(repository, digest).await? else {
                        continue;
                    };
                    if self.missing_blobs(repository, &manifest.blobs).await?.is_empty() {
                        steps.push(Step::Leave(digest));
                        let children = self.stale(repository, &manifest.children).await?;
                        steps.extend(children.into_iter().map(Step::Enter));
                    }
                }
                Step::Enter(_) => {}
                Step::Leave(digest) => {
                    if let Some((manifest, bytes)) = self.read_whole_manifest(repository, digest).await? {
                        self.put_copy(repository, manifest.media_type, digest, &bytes).await?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Those of some manifests whose copies are all old.
    async fn stale(
        &self,
        repository: &RepositoryName,
        digests: &[Digest],
    ) -> Result<Vec<Digest>, RepositoryError> {
        let stale = ask_each(digests.to_vec(), async |digest| {
            let newest = self.newest_copy(repository, &digest).await?;
            Ok(newest.is_some_and(|newest| !self.is_fresh(newest)).then_some(digest))
        });
        stale.await
    }

    /// A manifest and its bytes, if it is here and not damaged.
    async fn read_whole_manifest(
        &self,
        repository: &RepositoryName,
        digest: Digest,
    ) -> Result<Option<(Manifest, Bytes)>, RepositoryError> {
        match self.read_manifest(repository, digest).await {
            Err(RepositoryError::Damaged { .. }) => Ok(None),
            stored => Ok(stored?.and_then(|stored| {
                let manifest = Manifest::check(&stored.bytes, Some(&stored.media_type)).ok()?;
                Some((manifest, stored.bytes))
            })),
        }
    }

    /// Deletes the tags that name a manifest.
    async fn untag(
        &self,
        repository: &RepositoryName,
        digest: Digest,
        by: Author<'_>,
    ) -> Result<(), RepositoryError> {
        for live in self.all_tags(repository).await?.iter().filter(|live| live.digest == digest) {
            self.unset_tag(repository, live, by).await?;
        }
        Ok(())
    }

    /// Deletes these copies of a manifest.
    pub(crate) async fn delete_copies(
        &self,
        repository: &RepositoryName,
        digest: Digest,
        copies: &[Time],
    ) -> Result<(), RepositoryError> {
        for copy in copies {
            self.storage.delete(&layout::manifest_copy(repository, &digest, *copy)).await?;
        }
        self.forget(repository, digest);
        self.freed(repository);
        Ok(())
    }

    /// Has a manifest that was taken away by its key read anew, under all its names.
    pub(crate) fn forget_cached(&self) {
        self.cache.forget_all();
    }

    fn forget(&self, repository: &RepositoryName, digest: Digest) {
        let (repository, name) = (repository.clone(), ManifestName::Digest(digest));
        self.cache.forget(&CacheKey { repository, name });
    }
}

/// Takes a copy apart: media type, line feed, bytes.
pub(crate) fn split_copy(copy: &Bytes) -> Option<(String, Bytes)> {
    let end = copy.iter().take(256).position(|byte| *byte == b'\n')?;
    let media_type = std::str::from_utf8(&copy[..end]).ok()?;
    Some((media_type.to_owned(), copy.slice(end + 1..)))
}
