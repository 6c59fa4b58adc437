//! An appliance as OCI manifests: the index that a tag names, and the artifact manifest behind it.
//!
//! ```text
//! index --> B  artifact manifest --> config, policy, one disk index per disk, packs
//! ```
//!
//! Reading is tolerant where registries and tools rewrite (the index) and strict where trust hangs
//! on it (the artifact manifest, whose digest is what gets signed). Whoever stores a manifest keeps
//! the bytes it received; nothing here re-serialises what it has read.
//!
//! Source: OCI image-spec 1.1, "Image Index" and "Image Manifest", section "Guidelines for Artifact
//! Usage".

use oci_spec::image::{Descriptor, ImageIndex, ImageManifest, MediaType};
use serde_json::json;

use crate::{Blob, Digest, canonical, media_type};

/// The largest manifest or index that hull reads: what the distribution specification asks
/// registries to accept.
pub const MAX_BYTES: u64 = 4 << 20;

/// The manifest of an appliance for one platform.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApplianceManifest {
    /// The [`ApplianceConfig`](crate::ApplianceConfig).
    pub config: Blob,
    /// The [`Policy`](crate::Policy).
    pub policy: Blob,
    /// One per disk, in the config's order.
    pub disks: Vec<DiskLayer>,
    /// Boot packs first, then the others.
    pub packs: Vec<Blob>,
    /// The OVF descriptor that it came from.
    pub ovf: Option<Blob>,
    /// UEFI variables.
    pub nvram: Option<Blob>,
}

/// A disk's index, as a layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskLayer {
    /// The disk's name in the config.
    pub name: String,
    /// The whole index: root and pages.
    pub index: Blob,
    /// The root alone: the first `size_bytes` of the index.
    pub root: Blob,
}

/// The index that a tag names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApplianceIndex {
    /// One per platform, in order.
    pub appliances: Vec<PlatformManifest>,
}

/// One platform's manifest, as an entry of the index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlatformManifest {
    /// Such as `linux/amd64`.
    pub platform: String,
    /// The [`ApplianceManifest`].
    pub manifest: Blob,
}

/// Why a manifest or an index is not an appliance's.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ManifestError {
    /// Not JSON, or not of the specification's shape.
    #[error("the manifest is not as the OCI image specification says")]
    Malformed(#[source] serde_json::Error),
    /// A manifest of something else: a container image, a chart, another artifact.
    #[error(
        "this is not an appliance: its artifact type is `{found}`, an appliance's is `{}`",
        media_type::APPLIANCE
    )]
    NotAnAppliance {
        /// The artifact type or config media type found, control characters escaped.
        found: String,
    },
    /// An index that lists no appliance.
    #[error("the index lists no appliance, only container images or other artifacts")]
    NoAppliance,
    /// An index without an entry for this platform.
    #[error("the appliance is not there for {wanted}; it is for {found}")]
    NoPlatform {
        /// What was asked for.
        wanted: String,
        /// What the index has.
        found: String,
    },
    /// A descriptor that cannot be right.
    #[error("layer {position} of the manifest, `{media_type}`: {problem}")]
    BadLayer {
        /// Counted from 0; the config counts as layer 0 too.
        position: usize,
        /// Its media type, control characters escaped.
        media_type: String,
        /// What is wrong with it.
        problem: &'static str,
    },
}

impl ApplianceManifest {
    /// Reads an appliance's manifest.
    ///
    /// # Errors
    ///
    /// [`ManifestError`] where the bytes are no manifest, not an appliance's, or lack a part.
    pub fn parse(bytes: &[u8]) -> Result<Self, ManifestError> {
        let manifest: ImageManifest = serde_json::from_slice(bytes).map_err(ManifestError::Malformed)?;
        check_kind(&manifest)?;
        let mut found = Self {
            config: blob(manifest.config(), 0)?,
            policy: Blob { digest: Digest::sha256(b""), size_bytes: 0 },
            disks: Vec::new(),
            packs: Vec::new(),
            ovf: None,
            nvram: None,
        };
        for (position, layer) in manifest.layers().iter().enumerate() {
            let kind = layer.media_type().to_string();
            match (position, kind.as_str()) {
                (0, media_type::POLICY) => found.policy = blob(layer, 0)?,
                (0, _) => return Err(bad(layer, 0, "the first layer of an appliance is its policy")),
                (_, media_type::DISK_INDEX) => found.disks.push(disk_layer(layer, position)?),
                (_, media_type::DISK_PACK) => found.packs.push(blob(layer, position)?),
                (_, media_type::OVF) => found.ovf = Some(blob(layer, position)?),
                (_, media_type::NVRAM) => found.nvram = Some(blob(layer, position)?),
                _ => return Err(bad(layer, position, "format version 1 has no such layer")),
            }
        }
        if manifest.layers().is_empty() {
            return Err(bad(manifest.config(), 0, "the manifest has no policy layer"));
        }
        Ok(found)
    }

    /// The bytes of a new manifest: canonical JSON, so that equal appliances have equal digests.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut layers = vec![descriptor(media_type::POLICY, self.policy)];
        layers.extend(self.disks.iter().map(|disk| {
            let mut layer = descriptor(media_type::DISK_INDEX, disk.index);
            layer["annotations"] = json!({
                (media_type::ANNOTATION_DISK): disk.name,
                (media_type::ANNOTATION_ROOT_DIGEST): disk.root.digest,
                (media_type::ANNOTATION_ROOT_SIZE): disk.root.size_bytes.to_string(),
            });
            layer
        }));
        layers.extend(self.packs.iter().map(|pack| descriptor(media_type::DISK_PACK, *pack)));
        layers.extend(self.ovf.map(|ovf| descriptor(media_type::OVF, ovf)));
        layers.extend(self.nvram.map(|nvram| descriptor(media_type::NVRAM, nvram)));
        canonical::to_vec(&json!({
            "schemaVersion": 2,
            "mediaType": media_type::MANIFEST,
            "artifactType": media_type::APPLIANCE,
            "config": descriptor(media_type::CONFIG, self.config),
            "layers": layers,
        }))
    }

    /// Everything that the manifest names, in its order: what a copy of the appliance needs.
    pub fn blobs(&self) -> Vec<Blob> {
        let disks = self.disks.iter().map(|disk| disk.index);
        let mut blobs: Vec<Blob> = [self.config, self.policy].into_iter().chain(disks).collect();
        blobs.extend(&self.packs);
        blobs.extend(self.ovf);
        blobs.extend(self.nvram);
        blobs
    }
}

impl ApplianceIndex {
    /// Reads the index that a tag names. Entries that are no appliances are skipped.
    ///
    /// # Errors
    ///
    /// [`ManifestError::Malformed`] or [`ManifestError::NoAppliance`].
    pub fn parse(bytes: &[u8]) -> Result<Self, ManifestError> {
        let index: ImageIndex = serde_json::from_slice(bytes).map_err(ManifestError::Malformed)?;
        let mut appliances = Vec::new();
        for entry in index.manifests() {
            let annotations = entry.annotations().as_ref();
            let Some(platform) = annotations.and_then(|all| all.get(media_type::ANNOTATION_PLATFORM)) else {
                continue;
            };
            appliances.push(PlatformManifest { platform: platform.clone(), manifest: blob(entry, 0)? });
        }
        if appliances.is_empty() { Err(ManifestError::NoAppliance) } else { Ok(Self { appliances }) }
    }

    /// The bytes of a new index.
    pub fn to_bytes(&self) -> Vec<u8> {
        let manifests = self.appliances.iter().map(|entry| {
            let mut json = descriptor(media_type::MANIFEST, entry.manifest);
            json["artifactType"] = json!(media_type::APPLIANCE);
            json["platform"] = json!({ "architecture": "unknown", "os": "unknown" });
            json["annotations"] = json!({ (media_type::ANNOTATION_PLATFORM): entry.platform });
            json
        });
        let manifests: Vec<_> = manifests.collect();
        canonical::to_vec(&json!({
            "schemaVersion": 2,
            "mediaType": media_type::INDEX,
            "manifests": manifests,
        }))
    }

    /// The manifest for `platform`, such as `linux/amd64`.
    ///
    /// # Errors
    ///
    /// [`ManifestError::NoPlatform`] where the index has none.
    pub fn select(&self, platform: &str) -> Result<Blob, ManifestError> {
        self.appliances
            .iter()
            .find(|entry| entry.platform == platform)
            .map(|entry| entry.manifest)
            .ok_or_else(|| {
                let found: Vec<_> =
                    self.appliances.iter().map(|entry| entry.platform.escape_debug().to_string()).collect();
                ManifestError::NoPlatform { wanted: platform.to_owned(), found: found.join(", ") }
            })
    }
}

fn check_kind(manifest: &ImageManifest) -> Result<(), ManifestError> {
    let found = match manifest.artifact_type() {
        Some(kind) => kind.to_string(),
        None => manifest.config().media_type().to_string(),
    };
    if found != media_type::APPLIANCE {
        return Err(ManifestError::NotAnAppliance { found: found.escape_debug().to_string() });
    }
    if manifest.config().media_type() != &MediaType::from(media_type::CONFIG) {
        return Err(bad(manifest.config(), 0, "an appliance's config is of another type"));
    }
    Ok(())
}

fn disk_layer(layer: &Descriptor, position: usize) -> Result<DiskLayer, ManifestError> {
    let annotation = |key: &str| layer.annotations().as_ref().and_then(|all| all.get(key));
    let name = annotation(media_type::ANNOTATION_DISK)
        .filter(|name| crate::config::is_label(name))
        .ok_or_else(|| bad(layer, position, "no usable disk name in `dev.hullvm.disk`"))?;
    let digest = annotation(media_type::ANNOTATION_ROOT_DIGEST)
        .and_then(|digest| digest.parse().ok())
        .ok_or_else(|| bad(layer, position, "no usable digest in `dev.hullvm.disk.root.digest`"))?;
    let index = blob(layer, position)?;
    let size_bytes = annotation(media_type::ANNOTATION_ROOT_SIZE)
        .and_then(|size| size.parse().ok())
        .filter(|size| *size <= index.size_bytes)
        .ok_or_else(|| bad(layer, position, "no usable size in `dev.hullvm.disk.root.size`"))?;
    Ok(DiskLayer { name: name.clone(), index, root: Blob { digest, size_bytes } })
}

fn blob(descriptor: &Descriptor, position: usize) -> Result<Blob, ManifestError> {
    let digest = descriptor
        .digest()
        .to_string()
        .parse()
        .map_err(|_| bad(descriptor, position, "its digest is neither sha256 nor sha512"))?;
    Ok(Blob { digest, size_bytes: descriptor.size() })
}

fn bad(descriptor: &Descriptor, position: usize, problem: &'static str) -> ManifestError {
    let media_type = descriptor.media_type().to_string().escape_debug().to_string();
    ManifestError::BadLayer { position, media_type, problem }
}

fn descriptor(media_type: &str, blob: Blob) -> serde_json::Value {
    json!({ "mediaType": media_type, "digest": blob.digest, "size": blob.size_bytes })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some(text: &str) -> Blob {
        Blob { digest: Digest::sha256(text.as_bytes()), size_bytes: text.len() as u64 }
    }

    fn sample() -> ApplianceManifest {
        ApplianceManifest {
            config: some("config"),
            policy: some("policy"),
            disks: vec![DiskLayer { name: "root".into(), index: some("index"), root: some("ind") }],
            packs: vec![some("pack 1"), some("pack 2")],
            ovf: None,
            nvram: Some(some("nvram")),
        }
    }

    /// The sample's JSON after `edit` is refused with `want`.
    #[track_caller]
    fn check_error(edit: impl FnOnce(&mut serde_json::Value), want: &str) {
        let mut json = serde_json::from_slice(&sample().to_bytes()).unwrap();
        edit(&mut json);
        let error = ApplianceManifest::parse(&serde_json::to_vec(&json).unwrap()).unwrap_err().to_string();
        assert!(error.contains(want), "{error}");
    }

    #[test]
    fn a_manifest_reads_back_as_it_was_written() {
        assert_eq!(ApplianceManifest::parse(&sample().to_bytes()).unwrap(), sample());
        assert_eq!(sample().blobs().len(), 6);
    }

    #[test]
    fn other_peoples_manifests_are_told_apart() {
        check_error(
            |json| json["artifactType"] = "application/x".into(),
            "its artifact type is `application/x`",
        );
        check_error(
            |json| {
                json.as_object_mut().unwrap().remove("artifactType");
                json["config"]["mediaType"] = "application/vnd.oci.image.config.v1+json".into();
            },
            "its artifact type is `application/vnd.oci.image.config.v1+json`",
        );
        check_error(|json| json["layers"] = json!([]), "no policy layer");
        check_error(|json| json["layers"][0]["mediaType"] = "text/plain".into(), "the first layer");
        check_error(|json| json["layers"][2]["mediaType"] = "text/plain".into(), "no such layer");
        check_error(|json| json["layers"][1]["annotations"] = json!({}), "no usable disk name");
        check_error(|json| json["layers"][2]["size"] = json!(-1), "not as the OCI image specification says");
    }

    #[test]
    fn an_index_survives_tools_that_drop_the_artifact_type() {
        let index = ApplianceIndex {
            appliances: vec![PlatformManifest { platform: "linux/amd64".into(), manifest: some("m") }],
        };
        let mut json: serde_json::Value = serde_json::from_slice(&index.to_bytes()).unwrap();
        json["manifests"][0].as_object_mut().unwrap().remove("artifactType");
        let read = ApplianceIndex::parse(&serde_json::to_vec(&json).unwrap()).unwrap();
        assert_eq!(read, index);
        assert_eq!(read.select("linux/amd64").unwrap(), some("m"));
        let error = read.select("linux/arm64").unwrap_err().to_string();
        assert_eq!(error, "the appliance is not there for linux/arm64; it is for linux/amd64");
    }
}
