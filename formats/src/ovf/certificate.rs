//! The certificate beside a manifest: who says to have signed it.
//!
//! Only told, never believed: the signature is not verified, and neither is who issued the certificate.
//!
//! Source: DSP0243 1.1.0, 5.1; RFC 7468 (PEM), RFC 5280 (X.509), RFC 4514 (names as text).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest as _, Sha256};
use x509_cert::der::Decode as _;

/// The longest file with a certificate.
pub(super) const MOST_BYTES: u64 = 256 << 10;

const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
const END: &str = "-----END CERTIFICATE-----";

/// A package's certificate. Its signature of the manifest has not been verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// The name of its file.
    pub file: String,
    /// Whom it names, as RFC 4514 text with control characters escaped; `None` if it cannot be read.
    pub subject: Option<String>,
    /// The SHA-256 of the certificate (of its DER form); `None` if the file has none in PEM.
    pub sha256: Option<[u8; 32]>,
}

impl Certificate {
    /// Reads the first certificate of a `.cert` file.
    pub(super) fn read(file: &str, bytes: &[u8]) -> Self {
        let der = der(bytes);
        let subject = der.as_deref().and_then(|der| x509_cert::Certificate::from_der(der).ok());
        let subject = subject.map(|certificate| {
            let text = certificate.tbs_certificate().subject().to_string();
            text.chars()
                .flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] })
                .collect()
        });
        Certificate { file: file.to_owned(), subject, sha256: der.map(|der| Sha256::digest(der).into()) }
    }
}

/// The bytes of the first PEM certificate.
fn der(bytes: &[u8]) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(bytes).ok()?;
    let (_, after) = text.split_once(BEGIN)?;
    let (base64, _) = after.split_once(END)?;
    let base64: String = base64.chars().filter(|c| !c.is_ascii_whitespace()).collect();
    STANDARD.decode(base64).ok()
}
