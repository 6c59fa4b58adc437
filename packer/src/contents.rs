//! What a reference in the local store leads to, read and checked from the index downwards.

use appliance::manifest::{ApplianceIndex, ApplianceManifest, MAX_BYTES, ManifestError};
use appliance::policy::PolicyError;
use appliance::{ApplianceConfig, Blob, ConfigError, Digest, Policy};
use blob_store::{LocalStore, LocalStoreError};

/// The largest config or policy that is read.
const MAX_DOCUMENT_BYTES: u64 = 4 << 20;

/// An appliance in the local store: its documents, and the blobs that hold its disks.
#[derive(Debug, Clone)]
pub struct Contents {
    /// What the tag names, byte for byte.
    pub index_bytes: Vec<u8>,
    /// The index, read.
    pub index: ApplianceIndex,
    /// The appliance for each platform, in the index's order.
    pub platforms: Vec<Platform>,
}

/// An appliance for one platform.
#[derive(Debug, Clone)]
pub struct Platform {
    /// Such as `linux/amd64`.
    pub platform: String,
    /// Digest and size of the manifest: what trust hangs on.
    pub manifest_blob: Blob,
    /// The manifest, read.
    pub manifest: ApplianceManifest,
    /// The config, read and checked.
    pub config: ApplianceConfig,
    /// The policy, read and checked.
    pub policy: Policy,
}

/// Why an appliance in the local store cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ContentsError {
    /// A part is not there, or is damaged.
    #[error(transparent)]
    Store(#[from] LocalStoreError),
    /// A manifest is none of ours.
    #[error("{digest} is not a usable manifest")]
    Manifest {
        /// The manifest.
        digest: Digest,
        /// What is wrong with it.
        #[source]
        source: ManifestError,
    },
    /// The config cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The policy cannot be used.
    #[error(transparent)]
    Policy(#[from] PolicyError),
}

impl Contents {
    /// Reads the appliance whose index has `digest`.
    ///
    /// # Errors
    ///
    /// [`ContentsError`].
    pub fn read(store: &LocalStore, digest: &Digest) -> Result<Self, ContentsError> {
        let index_bytes = store.read(digest, MAX_BYTES)?;
        let index = ApplianceIndex::parse(&index_bytes).map_err(manifest_error(digest))?;
        let platforms = index
            .appliances
            .iter()
            // A pull for one platform leaves the others out.
            .filter(|entry| store.contains(&entry.manifest.digest))
            .map(|entry| Platform::open(store, &entry.manifest.digest))
            .collect::<Result<_, _>>()?;
        Ok(Self { index_bytes, index, platforms })
    }

    /// The appliance for `platform`, such as `linux/amd64`.
    ///
    /// # Errors
    ///
    /// [`ContentsError::Manifest`] where the index has none; [`ContentsError::Store`] where it has
    /// one that is not in the store.
    pub fn platform(&self, platform: &str) -> Result<&Platform, ContentsError> {
        let digest = Digest::sha256(&self.index_bytes);
        let wanted = self.index.select(platform).map_err(manifest_error(&digest))?;
        let missing = LocalStoreError::Missing { digest: wanted.digest };
        self.platforms.iter().find(|entry| entry.manifest_blob == wanted).ok_or(missing.into())
    }

    /// Every blob of the appliance, the index first, each once.
    pub fn blobs(&self) -> Vec<Blob> {
        let index =
            Blob { digest: Digest::sha256(&self.index_bytes), size_bytes: self.index_bytes.len() as u64 };
        let mut seen = std::collections::HashSet::new();
        let platforms = self.platforms.iter().flat_map(Platform::blobs);
        std::iter::once(index).chain(platforms).filter(|blob| seen.insert(blob.digest)).collect()
    }
}

impl Platform {
    /// Reads the appliance whose manifest has `digest`, whatever index led there.
    ///
    /// # Errors
    ///
    /// [`ContentsError`].
    pub fn open(store: &LocalStore, digest: &Digest) -> Result<Self, ContentsError> {
        let bytes = store.read(digest, MAX_BYTES)?;
        let manifest = ApplianceManifest::parse(&bytes).map_err(manifest_error(digest))?;
        let config = ApplianceConfig::parse(&store.read(&manifest.config.digest, MAX_DOCUMENT_BYTES)?)?;
        let policy = Policy::parse(&store.read(&manifest.policy.digest, MAX_DOCUMENT_BYTES)?)?;
        let manifest_blob = Blob { digest: *digest, size_bytes: bytes.len() as u64 };
        Ok(Self { platform: config.platform(), manifest_blob, manifest, config, policy })
    }

    /// Every blob of the appliance, the manifest first.
    pub fn blobs(&self) -> Vec<Blob> {
        std::iter::once(self.manifest_blob).chain(self.manifest.blobs()).collect()
    }
}

fn manifest_error(digest: &Digest) -> impl Fn(ManifestError) -> ContentsError + use<> {
    let digest = *digest;
    move |source| ContentsError::Manifest { digest, source }
}
