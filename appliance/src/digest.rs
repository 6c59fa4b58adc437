//! Content digests, as in OCI: `sha256:` and 64 hex digits, or `sha512:` and 128.
//!
//! Source: OCI image-spec 1.1, "Descriptor", section "Digests".

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use sha2::Digest as _;

/// The digest algorithms that hull computes and checks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Algorithm {
    /// SHA-256: what hull writes.
    Sha256,
    /// SHA-512: read and stored, never chosen.
    Sha512,
}

impl Algorithm {
    /// The name in front of the colon.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
        }
    }
}

/// The name of some content: an algorithm and its value. Cheap to copy and to compare.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Digest {
    /// A SHA-256 value.
    Sha256([u8; 32]),
    /// A SHA-512 value.
    Sha512([u8; 64]),
}

/// A piece of content that somebody holds: its digest and its size in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Blob {
    /// Digest of the whole content.
    pub digest: Digest,
    /// Size of the whole content in bytes.
    pub size_bytes: u64,
}

/// Why a string is not a usable digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DigestError {
    /// There is no colon.
    #[error("digest `{text}` has no algorithm; expected `sha256:` and 64 hex digits")]
    NoAlgorithm {
        /// What was found, control characters escaped.
        text: String,
    },
    /// The algorithm is none of ours.
    #[error("digest algorithm `{algorithm}` is not supported; use `sha256`")]
    UnsupportedAlgorithm {
        /// What stood in front of the colon, control characters escaped.
        algorithm: String,
    },
    /// The value has the wrong length or characters outside 0-9a-f.
    #[error("digest value has {len} characters; {algorithm} needs {want} from 0-9a-f")]
    BadValue {
        /// The algorithm named.
        algorithm: &'static str,
        /// Characters found.
        len: usize,
        /// Characters that the algorithm needs.
        want: usize,
    },
}

impl Digest {
    /// The SHA-256 digest of `content`.
    pub fn sha256(content: &[u8]) -> Self {
        Self::Sha256(sha2::Sha256::digest(content).into())
    }

    /// The algorithm of this digest.
    pub const fn algorithm(&self) -> Algorithm {
        match self {
            Self::Sha256(_) => Algorithm::Sha256,
            Self::Sha512(_) => Algorithm::Sha512,
        }
    }

    /// The value's bytes: 32 or 64 of them.
    pub fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Sha256(value) => value,
            Self::Sha512(value) => value,
        }
    }

    /// The value in lower-case hex, without the algorithm.
    pub fn hex(&self) -> String {
        use fmt::Write as _;
        self.as_bytes().iter().fold(String::new(), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
    }

    /// The first 12 hex digits, for tables that people read.
    pub fn short(&self) -> String {
        self.hex()[..12].to_owned()
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.algorithm().as_str(), self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        let (algorithm, value) = text
            .split_once(':')
            .ok_or_else(|| DigestError::NoAlgorithm { text: text.escape_debug().to_string() })?;
        match algorithm {
            "sha256" => decode_hex(value, "sha256").map(Self::Sha256),
            "sha512" => decode_hex(value, "sha512").map(Self::Sha512),
            _ => Err(DigestError::UnsupportedAlgorithm { algorithm: algorithm.escape_debug().to_string() }),
        }
    }
}

fn decode_hex<const N: usize>(value: &str, algorithm: &'static str) -> Result<[u8; N], DigestError> {
    let bad = || DigestError::BadValue { algorithm, len: value.chars().count(), want: 2 * N };
    let nibble = |c: u8| match c {
        b'0'..=b'9' => Ok(c - b'0'),
        b'a'..=b'f' => Ok(c - b'a' + 10),
        _ => Err(bad()),
    };
    let digits = value.as_bytes();
    if digits.len() != 2 * N {
        return Err(bad());
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = nibble(pair[0])? << 4 | nibble(pair[1])?;
    }
    Ok(bytes)
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// Computes a [`Digest`] from content that arrives in pieces.
#[derive(Clone)]
pub struct Hasher(State);

#[derive(Clone)]
enum State {
    Sha256(sha2::Sha256),
    Sha512(sha2::Sha512),
}

impl Hasher {
    /// A hasher that has seen nothing yet.
    pub fn new(algorithm: Algorithm) -> Self {
        Self(match algorithm {
            Algorithm::Sha256 => State::Sha256(sha2::Sha256::new()),
            Algorithm::Sha512 => State::Sha512(sha2::Sha512::new()),
        })
    }

    /// Takes the next piece of the content.
    pub fn update(&mut self, piece: &[u8]) {
        match &mut self.0 {
            State::Sha256(state) => state.update(piece),
            State::Sha512(state) => state.update(piece),
        }
    }

    /// The digest of everything seen.
    pub fn finish(self) -> Digest {
        match self.0 {
            State::Sha256(state) => Digest::Sha256(state.finalize().into()),
            State::Sha512(state) => Digest::Sha512(state.finalize().into()),
        }
    }
}

impl Default for Hasher {
    fn default() -> Self {
        Self::new(Algorithm::Sha256)
    }
}

impl fmt::Debug for Hasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hasher(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// SHA-256 of no bytes at all, FIPS 180-4.
    const EMPTY: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[track_caller]
    fn check_error(text: &str, want: &str) {
        assert_eq!(text.parse::<Digest>().unwrap_err().to_string(), want);
    }

    #[test]
    fn a_digest_reads_back_as_it_prints() {
        assert_eq!(Digest::sha256(b"").to_string(), EMPTY);
        assert_eq!(EMPTY.parse(), Ok(Digest::sha256(b"")));
        let mut hasher = Hasher::new(Algorithm::Sha512);
        hasher.update(b"ab");
        hasher.update(b"c");
        let sha512 = hasher.finish();
        assert_eq!(sha512.to_string().parse(), Ok(sha512));
        assert!(sha512.hex().starts_with("ddaf35a193617aba"));
    }

    #[test]
    fn a_bad_digest_is_refused_with_what_was_wanted() {
        check_error("", "digest `` has no algorithm; expected `sha256:` and 64 hex digits");
        check_error("md5:00", "digest algorithm `md5` is not supported; use `sha256`");
        check_error("sha256:00", "digest value has 2 characters; sha256 needs 64 from 0-9a-f");
        check_error(
            &EMPTY.to_uppercase().replace("SHA256", "sha256"),
            "digest value has 64 characters; sha256 needs 64 from 0-9a-f",
        );
        check_error("\x1b[2J:00", "digest algorithm `\\u{1b}[2J` is not supported; use `sha256`");
    }
}
