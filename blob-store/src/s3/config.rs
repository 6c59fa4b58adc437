//! How a bucket is reached, and by whom.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use object_store::aws::{AmazonS3, AmazonS3Builder};
use object_store::client::{HttpClient, HttpConnector};
use object_store::{BackoffConfig, ClientOptions, RetryConfig};
use reqwest::redirect::Policy;
use rustls::crypto::ring;
use rustls::{ClientConfig, RootCertStore};

use crate::Key;
use crate::storage::StorageError;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the service may be silent. Long enough to send it the largest segment over a slow line.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(60);

/// A bucket, and how to reach it.
#[derive(Debug, Clone)]
pub struct S3Config {
    /// Its name.
    pub bucket: String,
    /// The folder of the bucket to use; nothing else may use it. `None`: all of the bucket.
    pub prefix: Option<Key>,
    /// The service's region, such as `eu-central-1`. What services without regions expect is
    /// `us-east-1`.
    pub region: String,
    /// The service's URL, without the bucket. `None`: Amazon's, in the region.
    pub endpoint: Option<String>,
    /// Who asks. `None`: whatever role Amazon gave to the machine.
    pub credentials: Option<S3Credentials>,
    /// Where requests name the bucket.
    pub addressing: Addressing,
    /// Whether the endpoint may be one that is not encrypted.
    pub plain_http: PlainHttp,
    /// How long requests are tried again that the service throttles or fails.
    pub patience: Duration,
}

/// Where requests name the bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Addressing {
    /// In the path: `https://endpoint/bucket/key`. What most services other than Amazon's expect.
    Path,
    /// In the host's name: `https://bucket.endpoint/key`.
    VirtualHost,
}

/// What to do about an endpoint whose URL begins with `http:`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PlainHttp {
    /// It is an error.
    Refused,
    /// Content and signatures may be read and changed on the way.
    Allowed,
}

/// An access key. Never printed.
#[derive(Clone)]
pub struct S3Credentials {
    /// The access key's id.
    pub access_key: String,
    /// Its secret.
    pub secret_key: String,
    /// The token that goes with a key that expires.
    pub session_token: Option<String>,
}

impl fmt::Debug for S3Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("S3Credentials(***)")
    }
}

/// Why a bucket cannot be used as a storage.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenS3Error {
    /// The endpoint is not a URL of the kind that is expected.
    #[error("`{endpoint}` is not an endpoint; expected `https://` and a host")]
    Endpoint {
        /// What was given.
        endpoint: String,
    },
    /// The endpoint is not encrypted, and nobody allowed that.
    #[error("`{endpoint}` is not encrypted; plain HTTP has to be allowed explicitly")]
    PlainHttp {
        /// What was given.
        endpoint: String,
    },
    /// This machine trusts nobody.
    #[error("no certificates of authorities were found on this machine, so the service cannot be verified")]
    NoCertificates,
    /// The parts of the configuration do not go together.
    #[error("the configuration of the bucket is not usable: {reason}")]
    Config {
        /// What is wrong.
        reason: String,
    },
    /// The service overwrites an object although it was told to put it only if absent.
    #[error(
        "the service at {endpoint} overwrites objects that exist: it ignores `If-None-Match: *`, \
         without which several writers would destroy each other's data"
    )]
    Overwrites {
        /// Which service.
        endpoint: String,
    },
    /// The service could not be asked, or said no.
    #[error("the bucket `{bucket}` cannot be used")]
    Storage {
        /// Which bucket.
        bucket: String,
        /// What was tried.
        #[source]
        source: StorageError,
    },
}

impl S3Config {
    /// What the names in the bucket begin with.
    pub(super) fn name_prefix(&self) -> String {
        self.prefix.as_ref().map(|prefix| format!("{prefix}/")).unwrap_or_default()
    }

    /// What must never be printed.
    pub(super) fn secrets(&self) -> Vec<String> {
        let Some(S3Credentials { access_key, secret_key, session_token }) = self.credentials.clone() else {
            return Vec::new();
        };
        [access_key, secret_key].into_iter().chain(session_token).collect()
    }

    /// How errors name the service.
    pub(super) fn service(&self) -> String {
        match &self.endpoint {
            Some(endpoint) => format!("`{}`", shown(endpoint)),
            None => format!("Amazon's region `{}`", self.region.escape_debug()),
        }
    }

    /// A client for the bucket. Nothing is asked of the service yet.
    pub(super) fn client(&self) -> Result<AmazonS3, OpenS3Error> {
        let retry = RetryConfig {
            backoff: BackoffConfig { max_backoff: Duration::from_secs(5), ..BackoffConfig::default() },
            max_retries: 100,
            retry_timeout: self.patience,
        };
        let mut builder = AmazonS3Builder::new()
            .with_bucket_name(&self.bucket)
            .with_region(&self.region)
            .with_virtual_hosted_style_request(self.addressing == Addressing::VirtualHost)
            .with_allow_http(self.plain_http == PlainHttp::Allowed)
            .with_retry(retry)
            .with_http_connector(Connector { http: self.http_client()? });
        if let Some(endpoint) = &self.endpoint {
            builder = builder.with_endpoint(self.checked_endpoint(endpoint)?);
        }
        if let Some(S3Credentials { access_key, secret_key, session_token }) = &self.credentials {
            builder = builder.with_access_key_id(access_key).with_secret_access_key(secret_key);
            builder = session_token.iter().fold(builder, AmazonS3Builder::with_token);
        }
        builder.build().map_err(|error| OpenS3Error::Config { reason: error.to_string() })
    }

    /// The endpoint as the client wants it: with the bucket in the host's name, if that is its place.
    fn checked_endpoint(&self, endpoint: &str) -> Result<String, OpenS3Error> {
        let shown = || shown(endpoint);
        let (scheme, host) = match endpoint.trim_end_matches('/').split_once("://") {
            Some((scheme @ ("http" | "https"), host)) if !host.is_empty() => (scheme, host),
            _ => return Err(OpenS3Error::Endpoint { endpoint: shown() }),
        };
        if host.contains(['@', '?', '#']) {
            return Err(OpenS3Error::Endpoint { endpoint: shown() });
        }
        if scheme == "http" && self.plain_http == PlainHttp::Refused {
            return Err(OpenS3Error::PlainHttp { endpoint: shown() });
        }
        Ok(match self.addressing {
            Addressing::Path => format!("{scheme}://{host}"),
            Addressing::VirtualHost => format!("{scheme}://{}.{host}", self.bucket),
        })
    }

    /// Names its cryptography itself, so that nothing depends on what the process has installed, and
    /// heeds no proxy of the environment.
    fn http_client(&self) -> Result<reqwest::Client, OpenS3Error> {
        let mut roots = RootCertStore::empty();
        let is_plain = self.endpoint.as_ref().is_some_and(|endpoint| endpoint.starts_with("http:"));
        if !is_plain {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            if roots.is_empty() {
                return Err(OpenS3Error::NoCertificates);
            }
        }
        let unusable = |reason: String| OpenS3Error::Config { reason };
        let tls = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| unusable(error.to_string()))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .http1_only()
            .no_proxy()
            // A machine's role is asked for at an address of the machine itself, which is never encrypted.
            .https_only(self.plain_http == PlainHttp::Refused && self.credentials.is_some())
            .redirect(Policy::none())
            .connect_timeout(CONNECT_TIMEOUT)
            .read_timeout(SILENCE_TIMEOUT)
            .user_agent(concat!("hull/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| unusable(error.to_string()))
    }
}

/// An endpoint as it may be printed: a password that somebody put in front of the host is not.
fn shown(endpoint: &str) -> String {
    let shown = match (endpoint.split_once("://"), endpoint.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, host))) => format!("{scheme}://***@{host}"),
        (None, Some((_, host))) => format!("***@{host}"),
        _ => endpoint.to_owned(),
    };
    shown.escape_debug().to_string()
}

/// Hands out one HTTP client, whatever the options say.
#[derive(Debug)]
struct Connector {
    http: reqwest::Client,
}

impl HttpConnector for Connector {
    fn connect(&self, _options: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(self.http.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::super::bucket::S3Bucket;
    use super::*;

    fn config(endpoint: &str, addressing: Addressing, plain_http: PlainHttp) -> S3Config {
        S3Config {
            bucket: "images".to_owned(),
            prefix: None,
            region: "us-east-1".to_owned(),
            endpoint: Some(endpoint.to_owned()),
            credentials: Some(S3Credentials {
                access_key: "AKIA-visible".to_owned(),
                secret_key: "very-secret".to_owned(),
                session_token: Some("token-secret".to_owned()),
            }),
            addressing,
            plain_http,
            patience: Duration::ZERO,
        }
    }

    #[test]
    fn endpoints_are_checked_and_carry_the_bucket_where_it_belongs() {
        let check = |endpoint: &str, addressing, plain, want: Result<&str, &str>| {
            let found = config(endpoint, addressing, plain).checked_endpoint(endpoint);
            assert_eq!(
                found.map_err(|error| error.to_string()),
                want.map(str::to_owned).map_err(str::to_owned)
            );
        };
        use Addressing::{Path, VirtualHost};
        use PlainHttp::{Allowed, Refused};
        check("https://s3.example", Path, Refused, Ok("https://s3.example"));
        check("https://s3.example:9000/", VirtualHost, Refused, Ok("https://images.s3.example:9000"));
        check("http://127.0.0.1:5", Path, Allowed, Ok("http://127.0.0.1:5"));
        let refused = "`http://s3.example` is not encrypted; plain HTTP has to be allowed explicitly";
        check("http://s3.example", Path, Refused, Err(refused));
        let unusable = |shown: &str| format!("`{shown}` is not an endpoint; expected `https://` and a host");
        check("s3.example", Path, Allowed, Err(&unusable("s3.example")));
        check("ftp://s3.example", Path, Allowed, Err(&unusable("ftp://s3.example")));
        check("https://", Path, Allowed, Err(&unusable("https://")));
        check("https://me:pw@s3.example", Path, Allowed, Err(&unusable("https://***@s3.example")));
    }

    #[test]
    fn credentials_are_never_printed() {
        let config = config("https://s3.example", Addressing::Path, PlainHttp::Refused);
        let client = config.client().unwrap();
        let bucket = S3Bucket::new(client, config.name_prefix(), config.secrets());
        let printed = format!("{config:?} {config:#?} {bucket:?} {bucket:#?}");
        for secret in ["AKIA-visible", "very-secret", "token-secret"] {
            assert!(!printed.contains(secret), "{printed}");
        }
    }
}
