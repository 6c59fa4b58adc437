//! Digests and descriptors, as the OCI image specification writes them.
//!
//! Source: image-spec 1.1, "OCI Content Descriptors".

use std::collections::BTreeMap;
use std::fmt;

use serde_json::Value;
use sha2::{Digest as _, Sha256, Sha512};

/// The digest of a blob: sha256 or sha512, in lower-case hex.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Digest {
    algorithm: Algorithm,
    hex: String, // Invariant: as long as the algorithm's digests, 0-9a-f only.
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Algorithm {
    Sha256,
    Sha512,
}

/// A blob as another document names it.
#[derive(Debug, Clone)]
pub(crate) struct Descriptor {
    pub(crate) media_type: String,
    pub(crate) digest: Digest,
    pub(crate) size_bytes: u64,
    pub(crate) artifact_type: Option<String>,
    /// As `OS/ARCHITECTURE`.
    pub(crate) platform: Option<String>,
    pub(crate) annotations: BTreeMap<String, String>,
}

impl Digest {
    /// Reads `ALGORITHM:HEX`; `None` for anything but sha256 and sha512.
    pub fn parse(text: &str) -> Option<Self> {
        let (algorithm, hex) = text.split_once(':')?;
        Self::from_parts(algorithm, hex)
    }

    /// The digest whose blob is `blobs/ALGORITHM/HEX`.
    pub(crate) fn from_parts(algorithm: &str, hex: &str) -> Option<Self> {
        let (algorithm, digits) = match algorithm {
            "sha256" => (Algorithm::Sha256, 64),
            "sha512" => (Algorithm::Sha512, 128),
            _ => return None,
        };
        let right = hex.len() == digits && hex.bytes().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f'));
        right.then(|| Self { algorithm, hex: hex.to_owned() })
    }

    /// The digest with these 32 bytes, as a disk index has it.
    pub(crate) fn from_sha256(bytes: &[u8; 32]) -> Self {
        Self { algorithm: Algorithm::Sha256, hex: hex::encode(bytes) }
    }

    /// The digest, by the same algorithm, of what `pieces` puts together.
    pub(crate) fn of_same_kind(&self) -> Hasher {
        match self.algorithm {
            Algorithm::Sha256 => Hasher::Sha256(Sha256::new()),
            Algorithm::Sha512 => Hasher::Sha512(Sha512::new()),
        }
    }

    /// True if `bytes` have this digest.
    pub(crate) fn is_of(&self, bytes: &[u8]) -> bool {
        let mut hasher = self.of_same_kind();
        hasher.update(bytes);
        hasher.finish() == *self
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let algorithm = match self.algorithm {
            Algorithm::Sha256 => "sha256",
            Algorithm::Sha512 => "sha512",
        };
        write!(f, "{algorithm}:{}", self.hex)
    }
}

/// Hashes a blob piece by piece.
#[derive(Debug)]
pub(crate) enum Hasher {
    Sha256(Sha256),
    Sha512(Sha512),
}

impl Hasher {
    pub(crate) fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(hasher) => hasher.update(bytes),
            Self::Sha512(hasher) => hasher.update(bytes),
        }
    }

    pub(crate) fn finish(self) -> Digest {
        match self {
            Self::Sha256(hasher) => {
                Digest { algorithm: Algorithm::Sha256, hex: hex::encode(hasher.finalize()) }
            }
            Self::Sha512(hasher) => {
                Digest { algorithm: Algorithm::Sha512, hex: hex::encode(hasher.finalize()) }
            }
        }
    }
}

impl Descriptor {
    /// Reads a descriptor, or says what it lacks.
    pub(crate) fn parse(json: &Value) -> Result<Self, String> {
        let text = |key: &str| json[key].as_str().map(str::to_owned);
        let digest = text("digest").ok_or("no `digest`")?;
        let platform = &json["platform"];
        let annotations = match &json["annotations"] {
            Value::Null => BTreeMap::new(),
            Value::Object(fields) => fields
                .iter()
                .map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())))
                .collect::<Option<_>>()
                .ok_or("an annotation that is no text")?,
            _ => return Err("`annotations` that are no object".to_owned()),
        };
        Ok(Self {
            media_type: text("mediaType").ok_or("no `mediaType`")?,
            digest: Digest::parse(&digest)
                .ok_or_else(|| format!("the digest `{digest}`, which is no sha256 or sha512"))?,
            size_bytes: json["size"].as_u64().ok_or("no `size` that is a whole number")?,
            artifact_type: text("artifactType"),
            platform: platform["os"]
                .as_str()
                .zip(platform["architecture"].as_str())
                .map(|(os, architecture)| format!("{os}/{architecture}")),
            annotations,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_lower_case_digests_of_the_right_length_are_digests() {
        let sha256 = "ab".repeat(32);
        assert_eq!(
            Digest::parse(&format!("sha256:{sha256}")).unwrap().to_string(),
            format!("sha256:{sha256}")
        );
        assert!(Digest::parse(&format!("sha512:{}", "0".repeat(128))).is_some());
        let wrong = ["sha256:", "sha256", "md5:00", "sha256:../../etc/passwd", &sha256];
        for text in wrong.into_iter().chain([&*format!("sha256:{}", sha256.to_uppercase())]) {
            assert_eq!(Digest::parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_digest_is_of_its_bytes_only() {
        let empty = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert!(Digest::parse(empty).unwrap().is_of(b""));
        assert!(!Digest::parse(empty).unwrap().is_of(b"x"));
    }
}
