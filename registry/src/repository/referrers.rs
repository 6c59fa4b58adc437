//! Which manifests have which subject.
//!
//! The record of a referrer is put before its manifest and deleted after it, so a record may be
//! there alone for a while. Whoever lists leaves such records out.
//!
//! Source: OCI distribution-spec 1.1, "Listing Referrers".

use appliance::Digest;
use blob_store::Key;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{Repositories, RepositoryError, ask_each, present};
use crate::layout;
use crate::manifest::Manifest;
use crate::name::RepositoryName;
use crate::on_thread::on_thread;

/// Largest record that is read: annotations may fill a manifest.
const MAX_RECORD: u64 = appliance::manifest::MAX_BYTES + (64 << 10);
/// Records that are read before a page of referrers is full.
const PAGE: usize = 64;

/// The descriptor of a manifest that has a subject.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Referrer {
    pub(crate) media_type: String,
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) artifact_type: Option<String>,
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub(crate) annotations: Map<String, Value>,
}

/// Some of the referrers of a subject.
#[derive(Debug)]
pub(crate) struct ReferrersPage {
    pub(crate) referrers: Vec<Referrer>,
    /// Where the next page starts: after this manifest. `None` if this page is the last.
    pub(crate) next: Option<Digest>,
}

impl Repositories {
    /// Some of the manifests whose subject is `subject`, after `after`, of this type if one is given,
    /// of at most `max_bytes` of descriptors unless a single one is larger.
    pub(crate) async fn referrers(
        &self,
        repository: &RepositoryName,
        subject: &Digest,
        artifact_type: Option<&str>,
        after: Option<&Digest>,
        max_bytes: usize,
    ) -> Result<ReferrersPage, RepositoryError> {
        let folder = layout::referrers(repository, subject);
        let mut after = after.map(layout::referrer_name);
        let mut page = ReferrersPage { referrers: Vec::new(), next: None };
        let mut bytes = 0;
        loop {
            let names = self.storage.list(&folder, after.as_deref(), PAGE).await?;
            let is_last = names.len() < PAGE;
            after = names.last().map(|name| name.name().to_owned());
            let digests = names.iter().filter_map(|name| layout::manifest_of_referrer(name.name())).collect();
            let found = ask_each(digests, |digest| self.referrer(repository, subject, digest)).await?;
            for (referrer, size) in found {
                if artifact_type.is_some_and(|wanted| referrer.artifact_type.as_deref() != Some(wanted)) {
                    continue;
                }
                if bytes + size > max_bytes
                    && let Some(last) = page.referrers.last()
                {
                    page.next = Some(last.digest);
                    return Ok(page);
                }
                bytes += size;
                page.referrers.push(referrer);
            }
            if is_last {
                return Ok(page);
            }
        }
    }

    /// The record of a referrer, with its size in bytes, if its manifest is here.
    async fn referrer(
        &self,
        repository: &RepositoryName,
        subject: &Digest,
        digest: Digest,
    ) -> Result<Option<(Referrer, usize)>, RepositoryError> {
        if self.newest_copy(repository, &digest).await?.is_none() {
            return Ok(None);
        }
        let key = layout::referrer(repository, subject, &digest);
        let read = blob_store::read_whole(&*self.storage, &key, MAX_RECORD).await;
        let Some(bytes) = present(read)? else { return Ok(None) };
        let size = bytes.len();
        match on_thread(size, move || serde_json::from_slice(&bytes)).await {
            Ok(referrer) => Ok(Some((referrer, size))),
            Err(_) => Err(RepositoryError::Damaged { key, problem: "it is not a descriptor" }),
        }
    }

    /// Records that a manifest has a subject, if it has one.
    pub(super) async fn put_referrer(
        &self,
        repository: &RepositoryName,
        digest: Digest,
        manifest: &Manifest,
        size: u64,
    ) -> Result<(), RepositoryError> {
        let Some(subject) = &manifest.subject else { return Ok(()) };
        let referrer = Referrer {
            media_type: manifest.media_type.to_owned(),
            digest,
            size,
            artifact_type: manifest.artifact_type.clone(),
            annotations: manifest.annotations.clone(),
        };
        let record: Bytes = serde_json::to_vec(&referrer).expect("a descriptor serialises as JSON").into();
        self.storage.put_if_absent(&layout::referrer(repository, subject, &digest), record).await?;
        Ok(())
    }

    /// True if a manifest's subject, if it has one, is recorded.
    pub(super) async fn has_referrer(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        subject: Option<&Digest>,
    ) -> Result<bool, RepositoryError> {
        let Some(subject) = subject else { return Ok(true) };
        let key = layout::referrer(repository, subject, digest);
        Ok(present(self.storage.size_bytes(&key).await)?.is_some())
    }

    /// Deletes a record whose manifest seems not to be here, and puts it back if it is after all.
    pub(crate) async fn forget_referrer(
        &self,
        repository: &RepositoryName,
        record: &Key,
        digest: Digest,
    ) -> Result<(), RepositoryError> {
        self.storage.delete(record).await?;
        self.renew_referrer(repository, digest).await
    }

    /// Puts the record of a referrer, if its manifest is here.
    pub(crate) async fn renew_referrer(
        &self,
        repository: &RepositoryName,
        digest: Digest,
    ) -> Result<(), RepositoryError> {
        let Some(stored) = self.read_manifest(repository, digest).await? else { return Ok(()) };
        match Manifest::check(&stored.bytes, Some(&stored.media_type)) {
            Ok(manifest) => self.put_referrer(repository, digest, &manifest, stored.bytes.len() as u64).await,
            Err(_) => Ok(()),
        }
    }

    /// Forgets that a manifest that is gone had a subject, if it had one.
    pub(super) async fn delete_referrer(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        subject: Option<&Digest>,
    ) -> Result<(), RepositoryError> {
        let Some(subject) = subject else { return Ok(()) };
        Ok(self.storage.delete(&layout::referrer(repository, subject, digest)).await?)
    }
}
