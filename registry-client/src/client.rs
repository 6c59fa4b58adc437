//! The client: what all operations share, and which hosts it speaks to without TLS.
//!
//! Plain HTTP is spoken to this machine itself (`localhost`, 127.0.0.0/8, `::1`) and to hosts that the
//! caller lists; every other host is spoken to in HTTPS, whatever anybody's answer says. No redirect is
//! followed without a decision of ours, so both inner clients have redirects switched off.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use reqwest::Url;
use reqwest::redirect::Policy;
use rustls::crypto::ring;
use rustls::{ClientConfig, RootCertStore};
use tokio::sync::OnceCell;

use crate::RequestError;
use crate::credentials::{CredentialSource, NoCredentials};
use crate::retry::RetryPolicy;

/// How long a connection may take to come about.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Docker Hub's registry is not at the name that references give it.
const DOCKER_HUB: (&str, &str) = ("docker.io", "registry-1.docker.io");

/// What a client needs to know before its first request.
#[derive(Debug, Clone)]
pub struct ClientOptions {
    /// Where logins are looked up.
    pub credentials: Arc<dyn CredentialSource>,
    /// Blobs that move at the same time; 0 counts as 1.
    pub concurrency: usize,
    /// Hosts besides this machine that are spoken to without TLS, as `HOST[:PORT]`.
    pub insecure_hosts: Vec<String>,
    /// Token services that may see the login of any registry that names them, as `HOST[:PORT]`; those at
    /// a registry's own host or of its site may without.
    pub token_services: Vec<String>,
    /// How failed requests are repeated.
    pub retry: RetryPolicy,
    /// How long a request may stand still, in either direction. There is no limit on its whole duration.
    pub idle_timeout: Duration,
}

impl Default for ClientOptions {
    fn default() -> Self {
        Self {
            credentials: Arc::new(NoCredentials),
            concurrency: 3,
            insecure_hosts: Vec::new(),
            token_services: Vec::new(),
            retry: RetryPolicy::default(),
            idle_timeout: Duration::from_secs(60),
        }
    }
}

/// Speaks to registries. Cheap to clone; clones share their connections.
#[derive(Debug, Clone)]
pub struct Client {
    pub(crate) options: Arc<ClientOptions>,
    plain: reqwest::Client,
    /// Made when first needed: the system's CA certificates take a while to load, and a machine that
    /// only speaks to itself may have none.
    secure: Arc<OnceCell<reqwest::Client>>,
}

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// The HTTP client cannot be made.
    #[error("cannot set up the HTTP client")]
    Http(#[source] reqwest::Error),
    /// TLS cannot be set up.
    #[error("cannot set up TLS")]
    Tls(#[source] rustls::Error),
    /// Nobody's certificate could be checked.
    #[error(
        "this machine has no CA certificates, so no registry can be trusted; the package `ca-certificates` has them"
    )]
    NoCertificates,
}

impl Client {
    /// A client that has not connected to anything yet.
    ///
    /// # Errors
    ///
    /// [`ClientError`].
    pub fn new(options: ClientOptions) -> Result<Self, ClientError> {
        // Trusts nobody: this client speaks plain HTTP only, and never through a proxy.
        let plain =
            http_client(tls(RootCertStore::empty())?).no_proxy().build().map_err(ClientError::Http)?;
        Ok(Self { options: Arc::new(options), plain, secure: Arc::default() })
    }

    pub(crate) fn concurrency(&self) -> usize {
        self.options.concurrency.max(1)
    }

    /// The root of a registry's API host, such as `https://registry.example/`.
    pub(crate) fn base_url(&self, registry: &str) -> Result<Url, RequestError> {
        let host = if registry == DOCKER_HUB.0 { DOCKER_HUB.1 } else { registry };
        let parse = |scheme: &str| {
            let what = format!("registry `{}`", registry.escape_debug());
            Url::parse(&format!("{scheme}://{host}/"))
                .map_err(|error| RequestError::protocol(&what, error.to_string(), "a host and maybe a port"))
        };
        let plain = parse("http")?;
        if self.may_be_plain(&plain) { Ok(plain) } else { parse("https") }
    }

    /// The inner client for this URL's scheme.
    pub(crate) async fn http(&self, url: &Url) -> Result<&reqwest::Client, RequestError> {
        if url.scheme() == "https" {
            return Ok(self.secure.get_or_try_init(secure_client).await?);
        }
        if url.scheme() == "http" && self.may_be_plain(url) {
            return Ok(&self.plain);
        }
        Err(RequestError::PlainHttp { host: authority(url).escape_debug().to_string() })
    }

    fn may_be_plain(&self, url: &Url) -> bool {
        is_loopback(url) || self.options.insecure_hosts.iter().any(|host| *host == authority(url))
    }
}

async fn secure_client() -> Result<reqwest::Client, ClientError> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        return Err(ClientError::NoCertificates);
    }
    http_client(tls(roots)?).https_only(true).build().map_err(ClientError::Http)
}

fn http_client(tls: ClientConfig) -> reqwest::ClientBuilder {
    reqwest::Client::builder()
        .tls_backend_preconfigured(tls)
        // One connection per blob that moves; they share nothing, so none waits for another's window.
        .http1_only()
        .redirect(Policy::none())
        .connect_timeout(CONNECT_TIMEOUT)
        .user_agent(concat!("hull/", env!("CARGO_PKG_VERSION")))
}

/// Names its provider itself, so that nothing depends on what the process has installed.
fn tls(roots: RootCertStore) -> Result<ClientConfig, ClientError> {
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(ClientError::Tls)?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}

/// True where the URL's host can only be this machine.
pub(crate) fn is_loopback(url: &Url) -> bool {
    let Some(host) = url.host_str() else { return false };
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || bare.parse::<IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback())
}

/// `HOST[:PORT]` of a URL, the port only where it is not the scheme's own.
pub(crate) fn authority(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(registry: &str, insecure: &[&str], want: &str) {
        let insecure_hosts = insecure.iter().map(|host| (*host).to_owned()).collect();
        let client = Client::new(ClientOptions { insecure_hosts, ..ClientOptions::default() }).unwrap();
        assert_eq!(client.base_url(registry).unwrap().as_str(), want);
    }

    #[test]
    fn only_this_machine_and_listed_hosts_are_spoken_to_in_plain_http() {
        check("127.0.0.1:5000", &[], "http://127.0.0.1:5000/");
        check("127.9.9.9", &[], "http://127.9.9.9/");
        check("localhost:5000", &[], "http://localhost:5000/");
        check("[::1]:5000", &[], "http://[::1]:5000/");
        check("registry.example", &[], "https://registry.example/");
        check("10.0.0.1:5000", &[], "https://10.0.0.1:5000/");
        check("localhost.example", &[], "https://localhost.example/");
        check("127.0.0.1.example", &[], "https://127.0.0.1.example/");
        check("10.0.0.1:5000", &["10.0.0.1:5000"], "http://10.0.0.1:5000/");
        check("10.0.0.1:5001", &["10.0.0.1:5000"], "https://10.0.0.1:5001/");
        check("docker.io", &[], "https://registry-1.docker.io/");
    }

    #[tokio::test]
    async fn a_tls_client_needs_no_provider_from_the_process() {
        let client = Client::new(ClientOptions::default()).unwrap();
        match client.http(&Url::parse("https://registry.example/").unwrap()).await {
            Ok(_) | Err(RequestError::Client(ClientError::NoCertificates)) => {}
            Err(error) => panic!("{error}"),
        }
        let plain = client.http(&Url::parse("http://registry.example/").unwrap()).await;
        assert!(matches!(plain, Err(RequestError::PlainHttp { .. })), "{plain:?}");
    }
}
