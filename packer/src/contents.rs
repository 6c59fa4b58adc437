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

/// What `root`, the digest of an index or of an appliance's manifest, needs: itself, and every blob that it
/// leads to. For whoever decides what may be removed.
///
/// Only index and manifests are read, so that damage in a config or a policy hides nothing. A manifest
/// that is not here belongs to a platform that was not pulled.
///
/// # Errors
///
/// [`ContentsError::Store`] where the root is not here, or something that must be read is damaged;
/// [`ContentsError::Manifest`] where it is none of ours.
pub fn needed_by(store: &LocalStore, root: &Digest) -> Result<Vec<Digest>, ContentsError> {
    let bytes = store.read(root, MAX_BYTES)?;
    let mut needed = vec![*root];
    match ApplianceManifest::parse(&bytes) {
        // Not of a manifest's shape, so it is an index.
        Err(ManifestError::Malformed(_)) => {}
        manifest => {
            needed.extend(digests(&manifest.map_err(manifest_error(root))?));
            return Ok(needed);
        }
    }
    let index = ApplianceIndex::parse(&bytes).map_err(manifest_error(root))?;
    for entry in index.appliances {
        let digest = entry.manifest.digest;
        match store.read(&digest, MAX_BYTES) {
            Err(LocalStoreError::Missing { .. }) => continue,
            bytes => {
                let manifest = ApplianceManifest::parse(&bytes?).map_err(manifest_error(&digest))?;
                needed.push(digest);
                needed.extend(digests(&manifest));
            }
        }
    }
    Ok(needed)
}

fn digests(manifest: &ApplianceManifest) -> Vec<Digest> {
    manifest.blobs().iter().map(|blob| blob.digest).collect()
}

fn manifest_error(digest: &Digest) -> impl Fn(ManifestError) -> ContentsError + use<> {
    let digest = *digest;
    move |source| ContentsError::Manifest { digest, source }
}

#[cfg(test)]
mod tests {
    use appliance::manifest::PlatformManifest;

    use super::*;

    fn entry(platform: &str, manifest: Blob) -> PlatformManifest {
        PlatformManifest { platform: platform.to_owned(), manifest }
    }

    /// An appliance whose config, policy and pack are no more than bytes.
    fn stored(store: &LocalStore, pack: &[u8]) -> (Blob, Vec<Digest>) {
        let [config, policy, pack] =
            [b"no config".as_slice(), b"no policy", pack].map(|bytes| store.put(bytes).unwrap());
        let manifest = ApplianceManifest {
            config,
            policy,
            disks: Vec::new(),
            packs: vec![pack],
            ovf: None,
            nvram: None,
        };
        let manifest = store.put(&manifest.to_bytes()).unwrap();
        (manifest, [manifest, config, policy, pack].map(|blob| blob.digest).to_vec())
    }

    #[test]
    fn what_an_appliance_needs_is_told_by_its_index_and_manifests_alone() {
        let folder = tempfile::tempdir().unwrap();
        let store = LocalStore::open(folder.path().join("store")).unwrap();
        let (manifest, parts) = stored(&store, b"pack");
        assert_eq!(needed_by(&store, &manifest.digest).unwrap(), parts);

        let not_pulled = Blob { digest: Digest::sha256(b"arm"), size_bytes: 3 };
        let appliances = vec![entry("linux/arm64", not_pulled), entry("linux/amd64", manifest)];
        let index = store.put(&ApplianceIndex { appliances }.to_bytes()).unwrap().digest;
        assert_eq!(needed_by(&store, &index).unwrap(), [vec![index], parts].concat());
    }

    #[test]
    fn what_cannot_be_told_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let store = LocalStore::open(folder.path().join("store")).unwrap();
        let missing = Digest::sha256(b"missing");
        let error = needed_by(&store, &missing).unwrap_err();
        assert!(matches!(error, ContentsError::Store(LocalStoreError::Missing { .. })), "{error}");

        let other = store.put(b"a pack, say").unwrap();
        let (manifest, _) = stored(&store, b"pack");
        for (entries, damaged) in [(vec![other], None), (vec![manifest], Some(manifest))] {
            let appliances = entries.into_iter().map(|blob| entry("linux/amd64", blob)).collect();
            let index = store.put(&ApplianceIndex { appliances }.to_bytes()).unwrap().digest;
            if let Some(blob) = damaged {
                let path = store.blob_path(&blob.digest);
                std::fs::remove_file(&path).unwrap();
                std::fs::write(&path, b"{}").unwrap();
            }
            needed_by(&store, &index).unwrap_err();
        }
        needed_by(&store, &other.digest).unwrap_err();
    }
}
