//! `pull`: an appliance, from a registry into the local store.
//!
//! ```text
//! tag --> index, raw --> manifest for the platform --> config, policy --> disk indexes, packs --> local tag
//! ```
//!
//! The small parts come first and are read, so that something that is no appliance, or is for another
//! platform, is refused before its gigabytes move. Blobs that are here are not asked for; a version that
//! was packed against one that is here differs from it in few packs. Where appliances are here, the disk
//! indexes come before the packs and tell which frames of these can be rebuilt from local chunks. The local
//! tag comes last: a reference never names something incomplete.
//!
//! Trust hangs on digests alone. What the registry says about types, sizes and names is checked against
//! them or not used.
//!
//! Source: OCI distribution-spec 1.1, "Pull"; image-spec 1.1, "Descriptors".

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;

use appliance::manifest::{ApplianceIndex, ApplianceManifest, MAX_BYTES, ManifestError, PlatformManifest};
use appliance::{ApplianceConfig, Blob, Digest, Policy, Reference, Version, media_type};
use blob_store::{LocalStore, LocalStoreError};
use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use reqwest::header::ACCEPT;
use reqwest::{Method, StatusCode};
use tokio::sync::Semaphore;

use crate::document::{Document, DocumentError, Kind};
use crate::fetch::{Fetcher, Moved};
use crate::on_thread::on_thread;
use crate::progress::{Event, Plan};
use crate::recipe::{Recipes, local_appliances, recipes};
use crate::resolve::claimed_digest;
use crate::session::{Access, Call, Session};
use crate::{Client, Progress, RequestError};

/// Blobs that wait for the disk, per blob that uses the network.
const FLUSHING_PER_FETCH: usize = 2;

/// A finished pull.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pulled {
    /// The index that the reference names locally from now on.
    pub index: Digest,
    /// The manifest of the platform that was asked for.
    pub manifest: Digest,
    /// Blobs that were missing, and were fetched, rebuilt, or both.
    pub fetched_blobs: usize,
    /// Bytes of blobs that were fetched.
    pub fetched_bytes: u64,
    /// Bytes of blobs that were missing but need not be fetched, because chunks that were here gave them.
    pub rebuilt_bytes: u64,
    /// Blobs that were here already.
    pub present_blobs: usize,
    /// Their bytes.
    pub present_bytes: u64,
}

/// Why a pull did not finish. The store is sound: the reference names what it named before, and what has
/// arrived stays for the next attempt.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PullError {
    /// The reference has no host.
    #[error("`{reference}` names no registry; expected HOST/NAME, such as localhost:5000/{reference}")]
    NoRegistry {
        /// The reference.
        reference: Reference,
    },
    /// The registry failed or refused.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// The registry failed in the middle of a blob, and did not come back.
    #[error("{have} of {wanted} bytes of blob {blob} have arrived; they are kept for the next attempt")]
    Interrupted {
        /// The blob.
        blob: Digest,
        /// Bytes that are here.
        have: u64,
        /// Its size.
        wanted: u64,
        /// What failed last.
        #[source]
        source: RequestError,
    },
    /// The content is not what its digest promises.
    #[error("the registry sent {what} with digest {found} and {found_bytes} bytes; {wanted} was promised")]
    WrongDigest {
        /// What was fetched.
        what: String,
        /// The digest of what arrived.
        found: Digest,
        /// Its size in bytes.
        found_bytes: u64,
        /// The digest that was promised.
        wanted: Digest,
    },
    /// The size is not the one in the descriptor.
    #[error("blob {blob} has {found} bytes; its descriptor says {wanted}")]
    WrongSize {
        /// The blob.
        blob: Digest,
        /// Its size, as announced by the registry or found in the store.
        found: u64,
        /// The size in the descriptor.
        wanted: u64,
    },
    /// The body goes on after the size in the descriptor.
    #[error("the registry sends more than the {wanted} bytes that blob {blob} has")]
    TooLong {
        /// The blob.
        blob: Digest,
        /// The size in the descriptor.
        wanted: u64,
    },
    /// A config or policy that nobody would write by hand.
    #[error(
        "blob {blob} is read whole but has {found} bytes, by its descriptor; at most {limit} are accepted"
    )]
    TooLarge {
        /// The blob.
        blob: Digest,
        /// The size in the descriptor.
        found: u64,
        /// The largest size that is accepted.
        limit: u64,
    },
    /// What the reference names is neither an index nor a manifest.
    #[error("what {reference} names cannot be used")]
    Document {
        /// The reference.
        reference: Reference,
        /// The reason.
        #[source]
        source: DocumentError,
    },
    /// What the reference names is no appliance, or none for this platform.
    #[error("{reference} cannot be used")]
    Manifest {
        /// The reference.
        reference: Reference,
        /// The reason.
        #[source]
        source: ManifestError,
    },
    /// The config cannot be used.
    #[error("the config of {reference} cannot be used")]
    Config {
        /// The reference.
        reference: Reference,
        /// The reason.
        #[source]
        source: appliance::ConfigError,
    },
    /// The policy cannot be used.
    #[error("the policy of {reference} cannot be used")]
    Policy {
        /// The reference.
        reference: Reference,
        /// The reason.
        #[source]
        source: appliance::policy::PolicyError,
    },
    /// There is no space left.
    #[error("no space left for `{}`; what has arrived is kept for the next attempt", path.display())]
    DiskFull {
        /// The file that could not grow.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// The local store failed.
    #[error(transparent)]
    Store(LocalStoreError),
}

impl PullError {
    /// The request that failed, where that is the reason.
    pub fn request(&self) -> Option<&RequestError> {
        match self {
            Self::Request(error) | Self::Interrupted { source: error, .. } => Some(error),
            _ => None,
        }
    }
}

impl From<LocalStoreError> for PullError {
    fn from(error: LocalStoreError) -> Self {
        match error {
            LocalStoreError::Io { path, source, .. }
                if matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) =>
            {
                Self::DiskFull { path, source }
            }
            error => Self::Store(error),
        }
    }
}

impl Client {
    /// Copies the appliance that `reference` names, for `platform` (such as `linux/amd64`), into `store`,
    /// where the same reference names it afterwards.
    ///
    /// # Errors
    ///
    /// [`PullError`]. The same pull may be tried again; it goes on where this one stopped.
    pub async fn pull(
        &self,
        reference: &Reference,
        store: &LocalStore,
        platform: &str,
        progress: &dyn Progress,
    ) -> Result<Pulled, PullError> {
        let registry =
            reference.host().ok_or_else(|| PullError::NoRegistry { reference: reference.clone() })?;
        let session = Session::new(self, registry, reference, Access::Pull)?;
        let pull = Pull { session: &session, reference, store, progress };
        pull.run(platform).await
    }
}

#[derive(Clone, Copy)]
struct Pull<'a> {
    session: &'a Session<'a>,
    reference: &'a Reference,
    store: &'a LocalStore,
    progress: &'a dyn Progress,
}

/// What the reference names, and the manifest that was chosen from it.
struct Chosen {
    index: Bytes,
    manifest: Bytes,
    manifest_digest: Digest,
    parsed: ApplianceManifest,
}

impl Pull<'_> {
    async fn run(self, platform: &str) -> Result<Pulled, PullError> {
        let store = self.store.clone();
        let _hold = on_thread(move || store.hold()).await?;
        let chosen = self.choose(platform).await?;
        for blob in [chosen.parsed.config, chosen.parsed.policy] {
            let (found, limit) = (blob.size_bytes, MAX_BYTES);
            if found > limit {
                return Err(PullError::TooLarge { blob: blob.digest, found, limit });
            }
        }
        let blobs = self.distinct(&chosen.parsed.blobs())?;
        let missing = self.missing(&blobs)?;
        let plan = Plan::new(&blobs, &missing);
        self.progress.report(Event::Planned(plan));

        let (small, large): (Vec<Blob>, Vec<Blob>) = missing.iter().partition(|blob| {
            [chosen.parsed.config.digest, chosen.parsed.policy.digest].contains(&blob.digest)
        });
        let (manifest, index) = (chosen.manifest_digest, Digest::sha256(&chosen.index));
        let documents = self.fetch_all(&small, &Recipes::new()).await?;
        self.check_documents(&chosen.parsed, platform).await?;
        let keep = async {
            self.keep(manifest, chosen.manifest.clone()).await?;
            self.keep(index, chosen.index.clone()).await
        };
        // Nothing leads to any of it before the tag, so one need not wait for the other.
        let (content, ()) = tokio::try_join!(self.fetch_content(&chosen.parsed, large), keep)?;
        let moved = documents.add(content);
        let (store, reference) = (self.store.clone(), self.reference.clone());
        on_thread(move || store.tag(&reference, &index)).await?;
        Ok(Pulled {
            index,
            manifest,
            fetched_blobs: plan.blobs,
            fetched_bytes: moved.fetched,
            rebuilt_bytes: moved.rebuilt,
            present_blobs: plan.present_blobs,
            present_bytes: plan.present_bytes,
        })
    }

    /// Fetches index and manifest. A reference may name a manifest itself, say by digest or because some
    /// tool copied one platform only; then it gets an index of our own.
    async fn choose(self, platform: &str) -> Result<Chosen, PullError> {
        let root = self.root().await?;
        let unusable = |source| PullError::Manifest { reference: self.reference.clone(), source };
        let kind = Document::parse(&root)
            .map_err(|source| PullError::Document { reference: self.reference.clone(), source })?
            .kind;
        if kind == Kind::Manifest {
            let parsed = ApplianceManifest::parse(&root).map_err(unusable)?;
            let manifest = match self.reference.version() {
                Version::Digest(digest) => *digest,
                Version::Tag(_) => Digest::sha256(&root),
            };
            let entry = Blob { digest: manifest, size_bytes: root.len() as u64 };
            let appliances = vec![PlatformManifest { platform: platform.to_owned(), manifest: entry }];
            let index = ApplianceIndex { appliances }.to_bytes().into();
            return Ok(Chosen { index, manifest: root, manifest_digest: manifest, parsed });
        }
        let entry =
            ApplianceIndex::parse(&root).and_then(|index| index.select(platform)).map_err(unusable)?;
        let manifest = self.manifest(&Version::Digest(entry.digest)).await?;
        if manifest.len() as u64 != entry.size_bytes {
            let (found, wanted) = (manifest.len() as u64, entry.size_bytes);
            return Err(PullError::WrongSize { blob: entry.digest, found, wanted });
        }
        let parsed = ApplianceManifest::parse(&manifest).map_err(unusable)?;
        Ok(Chosen { index: root, manifest, manifest_digest: entry.digest, parsed })
    }

    async fn root(self) -> Result<Bytes, PullError> {
        self.manifest(self.reference.version()).await
    }

    /// The bytes of a manifest or an index: from the store where a digest says that they are the same.
    async fn manifest(self, version: &Version) -> Result<Bytes, PullError> {
        if let Version::Digest(digest) = *version
            && self.store.contains(&digest)
        {
            let store = self.store.clone();
            return Ok(on_thread(move || store.read(&digest, MAX_BYTES)).await?.into());
        }
        let what = match version {
            Version::Tag(_) => self.reference.to_string(),
            Version::Digest(digest) => self.reference.with_digest(*digest).to_string(),
        };
        let url = self.session.manifest_url(version);
        let call = Call::new(Method::GET, url, &what, &[StatusCode::OK])
            .header(ACCEPT, media_type::INDEX)
            .header(ACCEPT, media_type::MANIFEST);
        let (headers, body) = self.session.read(&call, MAX_BYTES, self.progress).await?;
        let promised = match version {
            Version::Digest(digest) => Some(*digest),
            Version::Tag(_) => claimed_digest(&headers),
        };
        if let Some(wanted) = promised {
            let found = hash(wanted, &body);
            if found != wanted {
                let found_bytes = body.len() as u64;
                return Err(PullError::WrongDigest { what, found, found_bytes, wanted });
            }
        }
        Ok(body)
    }

    /// Each blob once. Two descriptors that disagree about a blob's size cannot both be right.
    fn distinct(self, blobs: &[Blob]) -> Result<Vec<Blob>, PullError> {
        let mut sizes = BTreeMap::new();
        let mut distinct = Vec::new();
        for blob in blobs {
            match sizes.insert(blob.digest, blob.size_bytes) {
                None => distinct.push(*blob),
                Some(size) if size == blob.size_bytes => {}
                Some(found) => {
                    return Err(PullError::WrongSize { blob: blob.digest, found, wanted: blob.size_bytes });
                }
            }
        }
        Ok(distinct)
    }

    /// The blobs that are not here whole.
    fn missing(self, blobs: &[Blob]) -> Result<Vec<Blob>, PullError> {
        let mut missing = Vec::new();
        for blob in blobs {
            match self.store.blob(&blob.digest) {
                Ok(file) if file.size_bytes() == blob.size_bytes => {}
                Ok(file) => {
                    let (found, wanted) = (file.size_bytes(), blob.size_bytes);
                    return Err(PullError::WrongSize { blob: blob.digest, found, wanted });
                }
                Err(LocalStoreError::Missing { .. }) => missing.push(*blob),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(missing)
    }

    /// Fetches the `missing` disk indexes and packs, and what else there is. What is here already may hold
    /// chunks of them, which the disk indexes tell, so these come first then.
    async fn fetch_content(
        self,
        manifest: &ApplianceManifest,
        missing: Vec<Blob>,
    ) -> Result<Moved, PullError> {
        let store = self.store.clone();
        let local = match manifest.packs.iter().any(|pack| missing.contains(pack)) {
            true => on_thread(move || local_appliances(&store)).await,
            false => Vec::new(),
        };
        if local.is_empty() {
            return self.fetch_all(&missing, &Recipes::new()).await;
        }
        let is_index = |blob: &Blob| manifest.disks.iter().any(|disk| disk.index.digest == blob.digest);
        let (indexes, others): (Vec<Blob>, Vec<Blob>) = missing.into_iter().partition(is_index);
        let indexes = self.fetch_all(&indexes, &Recipes::new()).await?;
        let (store, manifest) = (self.store.clone(), manifest.clone());
        let (recipes, others) =
            on_thread(move || (recipes(&store, &manifest, &others, &local), others)).await;
        Ok(indexes.add(self.fetch_all(&others, &recipes).await?))
    }

    async fn fetch_all(self, blobs: &[Blob], recipes: &Recipes) -> Result<Moved, PullError> {
        let concurrency = self.session.client.concurrency();
        let network = Semaphore::new(concurrency);
        let Self { session, store, progress, .. } = self;
        let fetcher = Fetcher { session, store, network: &network, recipes, progress };
        stream::iter(blobs.iter().copied().map(|blob| fetcher.fetch(blob)))
            .buffer_unordered(concurrency * FLUSHING_PER_FETCH)
            .try_fold(Moved::default(), |sum, moved| async move { Ok(sum.add(moved)) })
            .await
    }

    /// Config and policy must be readable, and for the platform that was asked for.
    async fn check_documents(self, manifest: &ApplianceManifest, platform: &str) -> Result<(), PullError> {
        let (store, config, policy) = (self.store.clone(), manifest.config.digest, manifest.policy.digest);
        let read = move || Ok((store.read(&config, MAX_BYTES)?, store.read(&policy, MAX_BYTES)?));
        let (config, policy) =
            on_thread(read).await.map_err(|error: LocalStoreError| PullError::from(error))?;
        let reference = || self.reference.clone();
        let config = ApplianceConfig::parse(&config)
            .map_err(|source| PullError::Config { reference: reference(), source })?;
        Policy::parse(&policy).map_err(|source| PullError::Policy { reference: reference(), source })?;
        let found = config.platform();
        if found != platform {
            let source = ManifestError::NoPlatform { wanted: platform.to_owned(), found };
            return Err(PullError::Manifest { reference: reference(), source });
        }
        Ok(())
    }

    /// Keeps a manifest's bytes as they came.
    async fn keep(self, digest: Digest, bytes: Bytes) -> Result<(), PullError> {
        if self.store.contains(&digest) {
            return Ok(());
        }
        let store = self.store.clone();
        let write = move || {
            let mut partial = store.partial(Blob { digest, size_bytes: bytes.len() as u64 })?;
            partial.restart()?;
            partial.append(&bytes)?;
            partial.commit()
        };
        Ok(on_thread(write).await?)
    }
}

/// The digest of `bytes` by the algorithm of `like`.
fn hash(like: Digest, bytes: &[u8]) -> Digest {
    let mut hasher = appliance::Hasher::new(like.algorithm());
    hasher.update(bytes);
    hasher.finish()
}
