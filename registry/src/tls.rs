//! TLS: a certificate and its key, which may be replaced while the server runs.
//!
//! TLS 1.2 and 1.3, HTTP/1.1. A connection keeps what it began with; a new pair serves new ones. A
//! pair that cannot serve is refused, and the one before stays.
//!
//! Source: RFC 8446, RFC 5246, RFC 7301 (ALPN), RFC 7468 (PEM).

use std::fmt;
use std::sync::{Arc, RwLock};

use rustls::crypto::ring;
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio_rustls::TlsAcceptor;

/// What a server shows to clients that speak TLS to it. Clones share one pair.
#[derive(Clone)]
pub struct Tls {
    current: Arc<Current>,
    acceptor: TlsAcceptor,
}

/// The pair that new connections get.
#[derive(Debug)]
struct Current(RwLock<Arc<CertifiedKey>>);

/// Why a certificate and a key cannot serve.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// The text is not PEM.
    #[error("the {what} is not PEM")]
    NotPem {
        /// Which of the two.
        what: &'static str,
        /// What is wrong.
        #[source]
        source: pem::Error,
    },
    /// There is no certificate in the text.
    #[error("there is no certificate; expected `-----BEGIN CERTIFICATE-----`")]
    NoCertificate,
    /// There is no key in the text.
    #[error("there is no private key; expected `-----BEGIN PRIVATE KEY-----`, or one for RSA or EC")]
    NoKey,
    /// The key is of another kind, or not that of the first certificate.
    #[error("the key does not serve for the first certificate")]
    Unusable(#[source] rustls::Error),
}

impl Tls {
    /// Reads a chain of certificates, the server's own first, and its key; both are PEM.
    ///
    /// # Errors
    ///
    /// [`TlsError`].
    pub fn new(certificates: &[u8], key: &[u8]) -> Result<Self, TlsError> {
        let current = Arc::new(Current(RwLock::new(pair(certificates, key)?)));
        let provider = Arc::new(ring::default_provider());
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("ring has cipher suites for TLS 1.2 and 1.3")
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(&current) as Arc<dyn ResolvesServerCert>);
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self { current, acceptor: TlsAcceptor::from(Arc::new(config)) })
    }

    /// Replaces the pair, for the connections that are yet to come.
    ///
    /// # Errors
    ///
    /// [`TlsError`]; the pair before stays.
    pub fn reload(&self, certificates: &[u8], key: &[u8]) -> Result<(), TlsError> {
        let pair = pair(certificates, key)?;
        *self.current.0.write().expect("nobody panics while holding the pair") = pair;
        Ok(())
    }

    pub(crate) fn acceptor(&self) -> &TlsAcceptor {
        &self.acceptor
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tls(..)")
    }
}

impl ResolvesServerCert for Current {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0.read().expect("nobody panics while holding the pair")))
    }
}

fn pair(certificates: &[u8], key: &[u8]) -> Result<Arc<CertifiedKey>, TlsError> {
    let not_pem = |what| move |source| TlsError::NotPem { what, source };
    let chain = CertificateDer::pem_slice_iter(certificates).collect::<Result<Vec<_>, _>>();
    let chain = chain.map_err(not_pem("certificate"))?;
    if chain.is_empty() {
        return Err(TlsError::NoCertificate);
    }
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| match error {
        pem::Error::NoItemsFound => TlsError::NoKey,
        source => TlsError::NotPem { what: "key", source },
    })?;
    let pair = CertifiedKey::from_der(chain, key, &ring::default_provider());
    pair.map(Arc::new).map_err(TlsError::Unusable)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A certificate that is its own authority, and its key.
    fn issued() -> (String, String) {
        let issued = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        (issued.cert.pem(), issued.signing_key.serialize_pem())
    }

    #[track_caller]
    fn check(certificates: &str, key: &str, want: Result<(), &str>) {
        let read = Tls::new(certificates.as_bytes(), key.as_bytes()).map_err(|error| error.to_string());
        assert_eq!(read.as_ref().map(|_| ()).map_err(|text| &text[..text.len().min(24)]), want);
    }

    #[test]
    fn a_certificate_needs_its_key() {
        let ((certificate, key), (_, other)) = (issued(), issued());
        check(&certificate, &key, Ok(()));
        check(&format!("{certificate}{certificate}"), &key, Ok(()));
        // One file may hold both.
        check(&format!("{key}{certificate}"), &format!("{certificate}{key}"), Ok(()));
        check(&certificate, &other, Err("the key does not serve f"));
        check("", &key, Err("there is no certificate;"));
        check(&key, &key, Err("there is no certificate;"));
        check(&certificate, "", Err("there is no private key;"));
        check(&certificate, &certificate, Err("there is no private key;"));
        check(&certificate.replace("-----END", "-----DNE"), &key, Err("the certificate is not P"));
        check(&certificate[..certificate.len() / 2], &key, Err("the certificate is not P"));
    }

    #[test]
    fn a_bad_pair_does_not_replace_a_good_one() {
        let ((certificate, key), (other, other_key)) = (issued(), issued());
        let tls = Tls::new(certificate.as_bytes(), key.as_bytes()).unwrap();
        let shown = || tls.current.0.read().unwrap().cert[0].clone();
        let before = shown();
        assert!(tls.reload(other.as_bytes(), key.as_bytes()).is_err());
        assert_eq!(shown(), before);
        tls.reload(other.as_bytes(), other_key.as_bytes()).unwrap();
        assert_ne!(shown(), before);
    }
}
