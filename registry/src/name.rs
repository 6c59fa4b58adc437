//! The names in a request: repository, tag, reference and upload.
//!
//! Source: OCI distribution-spec 1.1, "Pulling manifests". The grammar itself is
//! [`appliance::Reference`]'s, so that what the client accepts and what the server accepts agree.

use std::fmt;

use appliance::{Digest, DigestError, Reference};
use serde::{Deserialize, Serialize};

use crate::clock::Time;

/// The name of a repository: `team/web`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub(crate) struct RepositoryName(String); // Invariant: matches the specification's grammar.

/// The name of a manifest that may move.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Tag(String); // Invariant: matches the specification's grammar.

/// How a request names a manifest.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum ManifestName {
    Tag(Tag),
    Digest(Digest),
}

/// An upload, as its client knows it: when it began, and 128 random bits; 48 hex digits in URLs. Who
/// changes any of them has another upload, one that is not there.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct UploadId([u8; 24]); // Seconds since 1970 in the first 8 bytes, big end first.

/// Why a part of a path names nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NameError {
    #[error(
        "`{text}` is not a repository name; expected lower-case letters, digits and single `.`, `_`, `-` \
         between them, in parts separated by `/`, at most 255 characters"
    )]
    Repository { text: String },
    #[error("`{text}` is not a tag; expected up to 128 letters, digits, `_`, `.` and `-`")]
    Tag { text: String },
    #[error("`{text}` is not a digest that this registry knows")]
    Digest {
        text: String,
        #[source]
        reason: DigestError,
    },
}

impl RepositoryName {
    pub(crate) fn parse(text: &str) -> Result<Self, NameError> {
        // A host in front keeps the parser from taking the name's first part for one.
        let parsed: Option<Reference> = format!("host.invalid/{text}").parse().ok();
        match parsed.is_some_and(|reference| reference.name() == text) {
            true => Ok(Self(text.to_owned())),
            false => Err(NameError::Repository { text: escaped(text) }),
        }
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl Tag {
    pub(crate) fn parse(text: &str) -> Result<Self, NameError> {
        let parsed: Option<Reference> = format!("host.invalid/name:{text}").parse().ok();
        match parsed.is_some_and(|reference| reference.tag() == Some(text)) {
            true => Ok(Self(text.to_owned())),
            false => Err(NameError::Tag { text: escaped(text) }),
        }
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl ManifestName {
    /// What holds a `:` is a digest: no tag does.
    pub(crate) fn parse(text: &str) -> Result<Self, NameError> {
        match text.contains(':') {
            true => parse_digest(text).map(Self::Digest),
            false => Tag::parse(text).map(Self::Tag),
        }
    }
}

pub(crate) fn parse_digest(text: &str) -> Result<Digest, NameError> {
    text.parse().map_err(|reason| NameError::Digest { text: escaped(text), reason })
}

impl UploadId {
    pub(crate) fn new(begun: Time, random: [u8; 16]) -> Self {
        let mut bytes = [0; 24];
        bytes[..8].copy_from_slice(&begun.as_secs().to_be_bytes());
        bytes[8..].copy_from_slice(&random);
        Self(bytes)
    }

    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut bytes = [0; 24];
        hex::decode_to_slice(text, &mut bytes).ok()?;
        Some(Self(bytes))
    }

    /// When it began, if there is such an upload.
    pub(crate) fn begun(&self) -> Time {
        let (begun, _) = self.0.split_first_chunk().expect("24 bytes begin with 8");
        Time::from_secs(u64::from_be_bytes(*begun))
    }
}

impl From<RepositoryName> for String {
    fn from(name: RepositoryName) -> Self {
        name.0
    }
}

impl TryFrom<String> for RepositoryName {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, NameError> {
        Self::parse(&text)
    }
}

impl fmt::Display for RepositoryName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for UploadId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

/// Whoever knows an upload's id can write to it, so it does not appear where values are dumped.
impl fmt::Debug for UploadId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("UploadId(..)")
    }
}

fn escaped(text: &str) -> String {
    text.escape_debug().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repository_names_follow_the_specification() {
        let check = |text: &str, ok: bool| assert_eq!(RepositoryName::parse(text).is_ok(), ok, "{text}");
        check("web", true);
        check("team/web", true);
        check("localhost/web", true);
        check("r.example/web", true);
        check("a/b/c--d__e.f", true);
        check(&"a".repeat(255), true);
        check("", false);
        check("Web", false);
        check("a//b", false);
        check("../etc", false);
        check("a/..", false);
        check("_catalog", false);
        check("a:latest", false);
        check("a@sha256:00", false);
        check("127.0.0.1:5000/web", false);
        check(&"a".repeat(256), false);
        check("a\0", false);
    }

    #[test]
    fn tags_follow_the_specification() {
        let check = |text: &str, ok: bool| assert_eq!(Tag::parse(text).is_ok(), ok, "{text}");
        check("latest", true);
        check("1.4.0-rc_1", true);
        check("_x", true);
        check(&"a".repeat(128), true);
        check("", false);
        check(".hidden", false);
        check("-x", false);
        check("a/b", false);
        check("a@b", false);
        check(&"a".repeat(129), false);
    }

    #[test]
    fn what_is_printed_is_escaped() {
        let error = Tag::parse("\x1b[2J").unwrap_err().to_string();
        assert!(error.starts_with("`\\u{1b}[2J` is not a tag"), "{error}");
    }
}
