//! Blobs and manifests to push: each run's are new, so that leftovers of another one never help or hurt.
//!
//! Source: OCI image-spec 1.1, "Image Manifest", "Image Index", "Descriptors".

use std::hash::{BuildHasher as _, RandomState};

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256, Sha512};

pub(crate) const IMAGE: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub(crate) const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
pub(crate) const EMPTY: &str = "application/vnd.oci.empty.v1+json";
pub(crate) const BYTES: &str = "application/octet-stream";
/// What a client says that takes every kind of manifest.
pub(crate) const MANIFESTS: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
     application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json, */*";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Algorithm {
    Sha256,
    Sha512,
}

impl Algorithm {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
        }
    }

    pub(crate) fn digest(self, bytes: &[u8]) -> String {
        let hex = match self {
            Self::Sha256 => hex::encode(Sha256::digest(bytes)),
            Self::Sha512 => hex::encode(Sha512::digest(bytes)),
        };
        format!("{}:{hex}", self.name())
    }
}

/// Bytes and their digest.
#[derive(Debug, Clone)]
pub(crate) struct Blob {
    pub(crate) bytes: Vec<u8>,
    pub(crate) digest: String,
}

impl Blob {
    pub(crate) fn of(bytes: impl Into<Vec<u8>>) -> Self {
        Self::by(Algorithm::Sha256, bytes)
    }

    pub(crate) fn by(algorithm: Algorithm, bytes: impl Into<Vec<u8>>) -> Self {
        let bytes = bytes.into();
        Self { digest: algorithm.digest(&bytes), bytes }
    }

    /// Bytes that nobody has.
    pub(crate) fn random(len: usize) -> Self {
        Self::of(noise(len))
    }

    pub(crate) fn descriptor(&self, media_type: &str) -> Value {
        json!({ "mediaType": media_type, "digest": self.digest, "size": self.bytes.len() })
    }
}

/// A manifest's bytes, its type and its digest.
#[derive(Debug, Clone)]
pub(crate) struct Manifest {
    pub(crate) bytes: Vec<u8>,
    pub(crate) media_type: String,
    pub(crate) digest: String,
}

impl Manifest {
    pub(crate) fn of(value: &Value) -> Self {
        Self::by(Algorithm::Sha256, value)
    }

    pub(crate) fn by(algorithm: Algorithm, value: &Value) -> Self {
        let media_type = value["mediaType"].as_str().unwrap_or(IMAGE);
        Self::raw(algorithm, media_type, serde_json::to_vec(value).expect("a value can be written"))
    }

    /// Bytes that are sent as a manifest, whatever they are.
    pub(crate) fn raw(algorithm: Algorithm, media_type: &str, bytes: impl Into<Vec<u8>>) -> Self {
        let bytes = bytes.into();
        Self { digest: algorithm.digest(&bytes), media_type: media_type.to_owned(), bytes }
    }

    pub(crate) fn descriptor(&self) -> Value {
        json!({ "mediaType": self.media_type, "digest": self.digest, "size": self.bytes.len() })
    }
}

/// An image manifest of these parts. An annotation makes it a new one.
pub(crate) fn image(config: &Value, layers: &[Value]) -> Value {
    json!({
        "schemaVersion": 2, "mediaType": IMAGE, "config": config, "layers": layers,
        "annotations": { "org.example.unique": word() },
    })
}

/// An index of these manifests. An annotation makes it a new one.
pub(crate) fn index(manifests: &[Value]) -> Value {
    json!({
        "schemaVersion": 2, "mediaType": INDEX, "manifests": manifests,
        "annotations": { "org.example.unique": word() },
    })
}

/// Eight bytes that this run has not seen: the standard library's hash keys are random, and differ with each use.
fn number() -> u64 {
    RandomState::new().hash_one(0)
}

/// A new word of 12 letters and digits, fit for a name or a tag.
pub(crate) fn word() -> String {
    let mut number = number();
    let letter = |_| {
        let at = number % 36;
        number /= 36;
        char::from_digit(at as u32, 36).expect("it is below 36")
    };
    (0..12).map(letter).collect()
}

fn noise(len: usize) -> Vec<u8> {
    let mut state = number() | 1;
    let next = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    (0..len.div_ceil(8)).flat_map(next).take(len).collect()
}
