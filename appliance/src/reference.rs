//! How an appliance is named: `HOST[:PORT]/NAME[:TAG|@DIGEST]`.
//!
//! The grammar is the distribution specification's, with one difference from docker: there is no
//! default registry. A reference without a host is a name in the local store and nowhere else.
//!
//! Source: OCI distribution-spec 1.1, "Pulling manifests" (the grammar of `<name>` and
//! `<reference>`); what counts as a host is docker's rule: the first component holds a `.` or a
//! `:`, or is `localhost`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::{Digest, DigestError};

/// The longest `HOST/NAME` that registries accept.
const MAX_NAME: usize = 255;
/// The longest tag that the specification allows.
const MAX_TAG: usize = 128;

/// The name of an appliance, in a registry or only here.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reference {
    // Invariant: each field matches its grammar; `parse` and the `with_` functions check it.
    host: Option<String>,
    name: String,
    version: Version,
}

/// What follows the name: a tag, which may move, or a digest, which never does.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Version {
    /// A tag; `latest` where none was written.
    Tag(String),
    /// The digest of a manifest or an index.
    Digest(Digest),
}

/// Why a string names no appliance.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReferenceError {
    /// The name is empty or has a component that the grammar does not allow.
    #[error(
        "`{name}` is not a name; expected lower-case letters, digits and single `.`, `_`, `-` between \
         them, in parts separated by `/`, at most 255 characters"
    )]
    BadName {
        /// What was found, control characters escaped.
        name: String,
    },
    /// The host has characters that no host has, or an impossible port.
    #[error(
        "`{host}` is not a host; expected a host name or address and maybe `:` and a port from 1 to 65535"
    )]
    BadHost {
        /// What was found, control characters escaped.
        host: String,
    },
    /// The tag is empty, too long, or has other characters than the grammar allows.
    #[error(
        "`{tag}` is not a tag; expected up to 128 letters, digits, `_`, `.` and `-`, not starting with `.` or `-`"
    )]
    BadTag {
        /// What was found, control characters escaped.
        tag: String,
    },
    /// What follows `@` is not a digest.
    #[error("the part after `@` is not a digest")]
    BadDigest(#[source] DigestError),
}

impl Reference {
    /// The registry, as `HOST[:PORT]`; `None` for a name that exists only locally.
    pub fn host(&self) -> Option<&str> {
        self.host.as_deref()
    }

    /// The repository's name, without host, tag and digest.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The tag or digest.
    pub fn version(&self) -> &Version {
        &self.version
    }

    /// The tag, if that is what the reference ends in.
    pub fn tag(&self) -> Option<&str> {
        match &self.version {
            Version::Tag(tag) => Some(tag),
            Version::Digest(_) => None,
        }
    }

    /// `HOST/NAME` or `NAME`: what all versions of one appliance share.
    pub fn repository(&self) -> String {
        match &self.host {
            Some(host) => format!("{host}/{}", self.name),
            None => self.name.clone(),
        }
    }

    /// The same repository at another digest.
    #[must_use]
    pub fn with_digest(&self, digest: Digest) -> Self {
        Self { version: Version::Digest(digest), ..self.clone() }
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest.parse().map_err(ReferenceError::BadDigest)?)),
            None => (text, None),
        };
        let (host, rest) = match rest.split_once('/') {
            Some((first, rest)) if first.contains(['.', ':']) || first == "localhost" => (Some(first), rest),
            _ => (None, rest),
        };
        let (name, tag) = match rest.split_once(':') {
            Some((name, tag)) => (name, Some(tag)),
            None => (rest, None),
        };
        check_host(host)?;
        check_name(name)?;
        tag.map_or(Ok(()), check_tag)?;
        // A digest says exactly what is meant, so a tag before it is for people only, as in docker.
        let version = match digest {
            Some(digest) => Version::Digest(digest),
            None => Version::Tag(tag.unwrap_or("latest").to_owned()),
        };
        Ok(Self { host: host.map(str::to_owned), name: name.to_owned(), version })
    }
}

fn check_host(host: Option<&str>) -> Result<(), ReferenceError> {
    let Some(host) = host else { return Ok(()) };
    let bad = || ReferenceError::BadHost { host: host.escape_debug().to_string() };
    let (address, port) = match host.rsplit_once(':') {
        Some((address, port)) if !port.ends_with(']') => (address, Some(port)),
        _ => (host, None),
    };
    let label_ok = |label: &str| {
        !label.is_empty() && label.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_'))
    };
    let name_ok = |name: &str| name.split('.').all(label_ok);
    let v6_ok = |name: &str| {
        name.strip_prefix('[')
            .and_then(|name| name.strip_suffix(']'))
            .is_some_and(|name| name.parse::<std::net::Ipv6Addr>().is_ok())
    };
    let port_ok = port.is_none_or(|port| {
        port.bytes().all(|c| c.is_ascii_digit()) && port.parse::<u16>().is_ok_and(|port| port > 0)
    });
    if (name_ok(address) || v6_ok(address)) && port_ok { Ok(()) } else { Err(bad()) }
}

/// Checks a repository name against the specification's grammar.
///
/// # Errors
///
/// [`ReferenceError::BadName`] where it does not match.
fn check_name(name: &str) -> Result<(), ReferenceError> {
    if !name.is_empty() && name.len() <= MAX_NAME && name.split('/').all(component_ok) {
        Ok(())
    } else {
        Err(ReferenceError::BadName { name: name.escape_debug().to_string() })
    }
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`
fn component_ok(component: &str) -> bool {
    let alphanumeric = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
    let bytes = component.as_bytes();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else { return false };
    if !alphanumeric(*first) || !alphanumeric(*last) {
        return false;
    }
    bytes.split(|c| alphanumeric(*c)).all(|separator| {
        matches!(separator, b"" | b"." | b"_" | b"__") || separator.iter().all(|c| *c == b'-')
    })
}

fn check_tag(tag: &str) -> Result<(), ReferenceError> {
    let word = |c: u8| c.is_ascii_alphanumeric() || c == b'_';
    let ok = tag.len() <= MAX_TAG
        && tag.bytes().next().is_some_and(word)
        && tag.bytes().all(|c| word(c) || matches!(c, b'.' | b'-'));
    if ok { Ok(()) } else { Err(ReferenceError::BadTag { tag: tag.escape_debug().to_string() }) }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.version {
            Version::Tag(tag) => write!(f, "{}:{tag}", self.repository()),
            Version::Digest(digest) => write!(f, "{}@{digest}", self.repository()),
        }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tag(tag) => f.write_str(tag),
            Self::Digest(digest) => digest.fmt(f),
        }
    }
}

impl Serialize for Reference {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Reference {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `text` parses to this host, name and version, and `full` is how it prints.
    #[track_caller]
    fn check(text: &str, host: Option<&str>, name: &str, version: &str, full: &str) {
        let reference: Reference = text.parse().unwrap();
        assert_eq!((reference.host(), reference.name()), (host, name));
        assert_eq!(reference.version().to_string(), version);
        assert_eq!(reference.to_string(), full);
        assert_eq!(full.parse(), Ok(reference));
    }

    #[track_caller]
    fn check_error(text: &str, want_start: &str) {
        let error = text.parse::<Reference>().unwrap_err().to_string();
        assert!(error.starts_with(want_start), "{error}");
    }

    #[test]
    fn host_name_and_version_are_told_apart() {
        check("web", None, "web", "latest", "web:latest");
        check("team/web:1.4", None, "team/web", "1.4", "team/web:1.4");
        check("localhost/web", Some("localhost"), "web", "latest", "localhost/web:latest");
        check("127.0.0.1:5000/a/b:v1", Some("127.0.0.1:5000"), "a/b", "v1", "127.0.0.1:5000/a/b:v1");
        check("[::1]:5000/web", Some("[::1]:5000"), "web", "latest", "[::1]:5000/web:latest");
        let digest = Digest::sha256(b"").to_string();
        check(
            &format!("r.example/web:1@{digest}"),
            Some("r.example"),
            "web",
            &digest,
            &format!("r.example/web@{digest}"),
        );
        check("a/b--c__d", None, "a/b--c__d", "latest", "a/b--c__d:latest");
    }

    #[test]
    fn what_is_no_reference_is_refused() {
        check_error("", "`` is not a name");
        check_error("Web", "`Web` is not a name");
        check_error("a//b", "`a//b` is not a name");
        check_error("../etc", "`..` is not a host");
        check_error("a/../etc", "`a/../etc` is not a name");
        check_error("a..b", "`a..b` is not a name");
        check_error("web:", "`` is not a tag");
        check_error("web:-x", "`-x` is not a tag");
        check_error("web:a/b", "`web:a` is not a host");
        check_error("r.example:0/web", "`r.example:0` is not a host");
        check_error("r.example:65536/web", "`r.example:65536` is not a host");
        check_error("user@r.example/web", "the part after `@` is not a digest");
        check_error("web@sha256:00", "the part after `@` is not a digest");
        check_error("we\x1bb", "`we\\u{1b}b` is not a name");
    }
}
