//! The manifest of a package: a digest for each of its files.
//!
//! ```text
//! SHA256(disk.vmdk)= 9f86d0...
//! ```
//!
//! Spaces around the parentheses and the equals sign are tolerated, and so are CRLF line ends.
//!
//! Source: DSP0243 1.1.0, 5.1 and 2.1.1, 6.1 (SHA1, SHA256); SHA512 as vSphere writes it.

use sha2::Digest as _;

use super::PackageError;
use super::error::quoted;

/// The longest manifest.
pub(super) const MOST_BYTES: u64 = 1 << 20;

/// The digests of a package's files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// In the order of the manifest, each file once.
    pub entries: Vec<ManifestEntry>,
}

/// A file and its digest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManifestEntry {
    /// The file's name, without a `./` before it.
    pub name: String,
    /// Its digest.
    pub digest: ManifestDigest,
}

/// A digest by one of the algorithms that manifests use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ManifestDigest {
    /// SHA-1, which no longer keeps anybody from making another file of the same digest.
    Sha1([u8; 20]),
    /// SHA-256.
    Sha256([u8; 32]),
    /// SHA-512.
    Sha512([u8; 64]),
}

impl Manifest {
    /// Reads a manifest.
    ///
    /// # Errors
    ///
    /// [`PackageError::Manifest`], naming the line.
    pub fn parse(bytes: &[u8]) -> Result<Self, PackageError> {
        let refuse = |line: usize, found: String, wanted| PackageError::Manifest { line, found, wanted };
        let mut manifest = Manifest { entries: Vec::new() };
        let mut names = std::collections::HashSet::new();
        let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
        for (line, bytes) in (1..).zip(bytes.split(|byte| *byte == b'\n')) {
            let Ok(text) = std::str::from_utf8(bytes) else {
                return Err(refuse(
                    line,
                    format!("`{}`", bytes[..bytes.len().min(64)].escape_ascii()),
                    "UTF-8",
                ));
            };
            let text = text.trim();
            if text.is_empty() {
                continue;
            }
            let Some(entry) = entry(text) else {
                let wanted = "`SHA256(NAME)= DIGEST`, or SHA1 or SHA512";
                return Err(refuse(line, quoted(text), wanted));
            };
            if !names.insert(entry.name.clone()) {
                return Err(refuse(line, format!("{} again", quoted(&entry.name)), "each file once"));
            }
            manifest.entries.push(entry);
        }
        Ok(manifest)
    }

    /// The digest of the file of this name.
    pub fn digest(&self, name: &str) -> Option<ManifestDigest> {
        self.entries.iter().find(|entry| entry.name == name).map(|entry| entry.digest)
    }
}

/// Reads `SHA256(name)= digest`.
fn entry(line: &str) -> Option<ManifestEntry> {
    let (front, digest) = line.rsplit_once('=')?;
    let (algorithm, name) = front.trim_end().strip_suffix(')')?.split_once('(')?;
    let digest = digest.trim();
    let digest = match algorithm.trim().to_ascii_uppercase().as_str() {
        "SHA1" => ManifestDigest::Sha1(from_hex(digest)?),
        "SHA256" => ManifestDigest::Sha256(from_hex(digest)?),
        "SHA512" => ManifestDigest::Sha512(from_hex(digest)?),
        _ => return None,
    };
    let name = name.strip_prefix("./").unwrap_or(name);
    (!name.is_empty()).then(|| ManifestEntry { name: name.to_owned(), digest })
}

fn from_hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    if text.len() != 2 * N {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
        let digit = |at: usize| char::from(pair[at]).to_digit(16);
        *byte = (digit(0)? << 4 | digit(1)?) as u8;
    }
    Some(bytes)
}

/// A digest that is being made.
#[derive(Debug, Clone)]
pub(super) enum Hasher {
    Sha1(sha1::Sha1),
    Sha256(sha2::Sha256),
    Sha512(sha2::Sha512),
}

impl Hasher {
    /// One of the same algorithm as `digest`.
    pub(super) fn like(digest: &ManifestDigest) -> Self {
        match digest {
            ManifestDigest::Sha1(_) => Hasher::Sha1(sha1::Sha1::new()),
            ManifestDigest::Sha256(_) => Hasher::Sha256(sha2::Sha256::new()),
            ManifestDigest::Sha512(_) => Hasher::Sha512(sha2::Sha512::new()),
        }
    }

    pub(super) fn update(&mut self, bytes: &[u8]) {
        match self {
            Hasher::Sha1(hasher) => hasher.update(bytes),
            Hasher::Sha256(hasher) => hasher.update(bytes),
            Hasher::Sha512(hasher) => hasher.update(bytes),
        }
    }

    pub(super) fn finish(self) -> ManifestDigest {
        match self {
            Hasher::Sha1(hasher) => ManifestDigest::Sha1(hasher.finalize().into()),
            Hasher::Sha256(hasher) => ManifestDigest::Sha256(hasher.finalize().into()),
            Hasher::Sha512(hasher) => ManifestDigest::Sha512(hasher.finalize().into()),
        }
    }
}

impl std::fmt::Display for ManifestDigest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let bytes: &[u8] = match self {
            ManifestDigest::Sha1(bytes) => bytes,
            ManifestDigest::Sha256(bytes) => bytes,
            ManifestDigest::Sha512(bytes) => bytes,
        };
        bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}
