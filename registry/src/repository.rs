//! Repositories: which blobs, manifests and tags exist where. The keys are [`crate::layout`]'s.
//!
//! Everything here returns after what it did is durable, and nothing depends on two operations
//! happening together: content is put before the link that leads to it, and the link before the tag.

use std::sync::Arc;
use std::time::SystemTime;

use appliance::Digest;
use blob_store::{Entry, Key, Object, Put, Storage, StorageError, read_whole};
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use serde::{Deserialize, Serialize};

use crate::cache::{CacheKey, ManifestCache};
use crate::layout;
use crate::manifest::Manifest;
use crate::name::{ManifestName, RepositoryName, Tag};

/// Largest record that is read: far more than a tag's entry or a manifest's link takes.
const MAX_RECORD: u64 = 64 << 10;
/// How many keys are looked up at a time for one request.
const PARALLEL_LOOKUPS: usize = 8;

/// All repositories of a storage.
#[derive(Debug)]
pub(crate) struct Repositories {
    storage: Arc<dyn Storage>,
    cache: ManifestCache,
}

/// A manifest, as it was received.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct StoredManifest {
    pub(crate) digest: Digest,
    pub(crate) media_type: String,
    pub(crate) bytes: Bytes,
}

/// What a manifest link holds.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ManifestLink {
    media_type: String,
}

/// An entry of a tag's history.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct TagEntry {
    /// What the tag names from here on.
    digest: Digest,
    /// When it was set, in seconds since 1970.
    time: u64,
}

/// Why a repository could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RepositoryError {
    /// The same bytes are here as a manifest of another type already.
    #[error("the manifest {digest} is stored as `{stored}` here; it cannot be `{sent}` too")]
    OtherMediaType { digest: Digest, stored: String, sent: &'static str },
    /// A record that this server wrote does not read back.
    #[error("the record `{key}` in the storage is damaged")]
    Damaged {
        key: Key,
        #[source]
        reason: serde_json::Error,
    },
    #[error(transparent)]
    Storage(#[from] StorageError),
}

impl Repositories {
    pub(crate) fn new(storage: Arc<dyn Storage>) -> Self {
        let cache = ManifestCache::new(storage.sharing());
        Self { storage, cache }
    }

    /// Size of a blob in bytes, if it may be read in this repository.
    pub(crate) async fn blob_size(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
    ) -> Result<Option<u64>, RepositoryError> {
        if self.size(&layout::blob_link(repository, digest)).await?.is_none() {
            return Ok(None);
        }
        self.size(&layout::blob(digest)).await
    }

    /// A blob's content, if it may be read in this repository.
    pub(crate) async fn open_blob(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
    ) -> Result<Option<Box<dyn Object>>, RepositoryError> {
        if self.size(&layout::blob_link(repository, digest)).await?.is_none() {
            return Ok(None);
        }
        Ok(present(self.storage.open(&layout::blob(digest)).await)?)
    }

    /// Lets a blob be read in a repository. The blob must be there.
    pub(crate) async fn link_blob(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
    ) -> Result<(), RepositoryError> {
        self.storage.put_if_absent(&layout::blob_link(repository, digest), Bytes::new()).await?;
        Ok(())
    }

    /// Those of `blobs` that cannot be read in this repository.
    pub(crate) async fn missing_blobs(
        &self,
        repository: &RepositoryName,
        blobs: &[Digest],
    ) -> Result<Vec<Digest>, RepositoryError> {
        let lookups = stream::iter(blobs.to_vec()).map(|digest| async move {
            let size = self.blob_size(repository, &digest).await?;
            Ok::<_, RepositoryError>(size.is_none().then_some(digest))
        });
        let found: Vec<Option<Digest>> = lookups.buffered(PARALLEL_LOOKUPS).try_collect().await?;
        Ok(found.into_iter().flatten().collect())
    }

    /// Stores a manifest, and lets `tag` name it from now on.
    ///
    /// `digest` must be that of `bytes`.
    pub(crate) async fn put_manifest(
        &self,
        repository: &RepositoryName,
        tag: Option<&Tag>,
        digest: Digest,
        manifest: &Manifest,
        bytes: Bytes,
    ) -> Result<(), RepositoryError> {
        self.storage.put_if_absent(&layout::blob(&digest), bytes).await?;
        let link = ManifestLink { media_type: manifest.media_type.to_owned() };
        let key = layout::manifest_link(repository, &digest);
        if self.storage.put_if_absent(&key, record(&link)).await? == Put::Exists {
            let stored: ManifestLink = self.read_record(&key).await?;
            if stored != link {
                let (stored, sent) = (stored.media_type, manifest.media_type);
                return Err(RepositoryError::OtherMediaType { digest, stored, sent });
            }
        }
        match tag {
            Some(tag) => self.set_tag(repository, tag, digest).await,
            None => Ok(()),
        }
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
            ManifestName::Tag(tag) => {
                self.newest_entry(&wanted.repository, tag).await?.map(|(_, entry)| entry.digest)
            }
        };
        let Some(digest) = digest else { return Ok(None) };
        let key = layout::manifest_link(&wanted.repository, &digest);
        if self.size(&key).await?.is_none() {
            return Ok(None);
        }
        let link: ManifestLink = self.read_record(&key).await?;
        let limit = appliance::manifest::MAX_BYTES;
        let Some(bytes) = present(read_whole(&*self.storage, &layout::blob(&digest), limit).await)? else {
            return Ok(None);
        };
        let manifest = Arc::new(StoredManifest { digest, media_type: link.media_type, bytes });
        self.cache.insert(ticket, wanted.clone(), Arc::clone(&manifest));
        Ok(Some(manifest))
    }

    /// At most `limit` tags of a repository, in ascending order, after `after`. `None` if there is no
    /// such repository.
    pub(crate) async fn tags(
        &self,
        repository: &RepositoryName,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Option<Vec<String>>, RepositoryError> {
        let after = after.map(layout::tag_folder);
        let found = self.storage.list(&layout::tags(repository), after.as_deref(), limit).await?;
        if found.is_empty() && self.storage.list(&layout::repository(repository), None, 1).await?.is_empty() {
            return Ok(None);
        }
        Ok(Some(
            found.iter().filter_map(|tag| layout::tag_of_folder(tag.name())).map(str::to_owned).collect(),
        ))
    }

    async fn set_tag(
        &self,
        repository: &RepositoryName,
        tag: &Tag,
        digest: Digest,
    ) -> Result<(), RepositoryError> {
        let time = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        loop {
            let place = match self.newest_entry(repository, tag).await? {
                Some((_, entry)) if entry.digest == digest => break,
                Some((place, _)) => place + 1,
                None => 0,
            };
            let key = layout::tag_entry(repository, tag, place);
            // Where somebody else took the place, this tag moves after theirs.
            if self.storage.put_if_absent(&key, record(&TagEntry { digest, time })).await? == Put::Created {
                break;
            }
        }
        let (repository, name) = (repository.clone(), ManifestName::Tag(tag.clone()));
        self.cache.forget(&CacheKey { repository, name });
        Ok(())
    }

    async fn newest_entry(
        &self,
        repository: &RepositoryName,
        tag: &Tag,
    ) -> Result<Option<(u64, TagEntry)>, RepositoryError> {
        let found = self.storage.list(&layout::tag(repository, tag), None, 1).await?;
        let Some(Entry::Key(name)) = found.first() else { return Ok(None) };
        let Some(place) = layout::place_of_entry(name) else { return Ok(None) };
        let entry = self.read_record(&layout::tag_entry(repository, tag, place)).await?;
        Ok(Some((place, entry)))
    }

    async fn size(&self, key: &Key) -> Result<Option<u64>, RepositoryError> {
        Ok(present(self.storage.size_bytes(key).await)?)
    }

    async fn read_record<T: for<'de> Deserialize<'de>>(&self, key: &Key) -> Result<T, RepositoryError> {
        let bytes = read_whole(&*self.storage, key, MAX_RECORD).await?;
        let damaged = |reason| RepositoryError::Damaged { key: key.clone(), reason };
        serde_json::from_slice(&bytes).map_err(damaged)
    }
}

fn record<T: Serialize>(value: &T) -> Bytes {
    serde_json::to_vec(value).expect("our records serialise as JSON").into()
}

/// What is absent is no error here.
fn present<T>(result: Result<T, StorageError>) -> Result<Option<T>, StorageError> {
    match result {
        Ok(found) => Ok(Some(found)),
        Err(StorageError::Missing { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use appliance::media_type;
    use blob_store::MemoryStorage;

    use super::*;

    const IMAGE: Manifest = Manifest { media_type: media_type::MANIFEST, blobs: Vec::new() };

    fn repositories() -> (Repositories, RepositoryName, Tag) {
        let repositories = Repositories::new(Arc::new(MemoryStorage::new()));
        (repositories, RepositoryName::parse("r").unwrap(), Tag::parse("latest").unwrap())
    }

    async fn push(
        repositories: &Repositories,
        repository: &RepositoryName,
        tag: &Tag,
        content: &'static str,
    ) {
        let digest = Digest::sha256(content.as_bytes());
        let bytes = Bytes::from(content);
        repositories.put_manifest(repository, Some(tag), digest, &IMAGE, bytes).await.unwrap();
    }

    async fn pull(repositories: &Repositories, repository: &RepositoryName, tag: &Tag) -> Bytes {
        let (repository, name) = (repository.clone(), ManifestName::Tag(tag.clone()));
        repositories.manifest(&CacheKey { repository, name }).await.unwrap().unwrap().bytes.clone()
    }

    #[tokio::test]
    async fn a_tag_names_what_it_was_set_to_last() {
        let (repositories, r, latest) = repositories();
        for content in ["one", "two", "two", "one"] {
            push(&repositories, &r, &latest, content).await;
            assert_eq!(pull(&repositories, &r, &latest).await, content);
        }
        let history = repositories.storage.list(&layout::tag(&r, &latest), None, 10).await.unwrap();
        assert_eq!(history.len(), 3); // naming the same again is no change
    }

    #[tokio::test]
    async fn writers_of_one_tag_all_succeed_in_some_order() {
        let (repositories, r, latest) = repositories();
        let repositories = Arc::new(repositories);
        let contents = ["a", "b", "c", "d", "e", "f", "g", "h"];
        let writers = contents.map(|content| {
            let (repositories, r, latest) = (Arc::clone(&repositories), r.clone(), latest.clone());
            tokio::spawn(async move { push(&repositories, &r, &latest, content).await })
        });
        for writer in writers {
            writer.await.unwrap();
        }
        let history = repositories.storage.list(&layout::tag(&r, &latest), None, 100).await.unwrap();
        assert_eq!(history.len(), contents.len());
        let (place, newest) = repositories.newest_entry(&r, &latest).await.unwrap().unwrap();
        assert_eq!(place, 7);
        assert_eq!(Digest::sha256(&pull(&repositories, &r, &latest).await), newest.digest);
    }

    #[tokio::test]
    async fn a_manifest_has_one_media_type() {
        let (repositories, r, latest) = repositories();
        push(&repositories, &r, &latest, "x").await;
        let index = Manifest { media_type: media_type::INDEX, blobs: Vec::new() };
        let put = repositories.put_manifest(&r, None, Digest::sha256(b"x"), &index, Bytes::from("x")).await;
        assert!(matches!(put, Err(RepositoryError::OtherMediaType { .. })), "{put:?}");
    }

    #[tokio::test]
    async fn content_of_one_repository_is_not_in_another() {
        let (repositories, r, _) = repositories();
        let other = RepositoryName::parse("other").unwrap();
        let digest = Digest::sha256(b"x");
        repositories.storage.put_if_absent(&layout::blob(&digest), Bytes::from("x")).await.unwrap();
        repositories.link_blob(&r, &digest).await.unwrap();
        assert_eq!(repositories.blob_size(&r, &digest).await.unwrap(), Some(1));
        assert_eq!(repositories.blob_size(&other, &digest).await.unwrap(), None);
        assert!(repositories.open_blob(&other, &digest).await.unwrap().is_none());
        assert_eq!(repositories.missing_blobs(&other, &[digest]).await.unwrap(), [digest]);
        assert_eq!(repositories.missing_blobs(&r, &[digest]).await.unwrap(), []);
    }

    #[tokio::test]
    async fn tags_are_listed_in_pages() {
        let (repositories, r, _) = repositories();
        assert_eq!(repositories.tags(&r, None, 10).await.unwrap(), None);
        for tag in ["b", "a", "a-1", "a.1", "c"] {
            push(&repositories, &r, &Tag::parse(tag).unwrap(), "x").await;
        }
        let page = async |after, limit| repositories.tags(&r, after, limit).await.unwrap().unwrap();
        assert_eq!(page(None, 10).await, ["a", "a-1", "a.1", "b", "c"]);
        assert_eq!(page(Some("a"), 2).await, ["a-1", "a.1"]);
        assert_eq!(page(Some("aa"), 10).await, ["b", "c"]);
        assert_eq!(page(Some("c"), 10).await, [""; 0]);
    }
}
