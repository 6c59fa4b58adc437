//! The token service that a registry names, and whether it may see the registry's login.
//!
//! The address is text from the registry, and docker's protocol sends a password to whatever host stands
//! there. Here a login goes to the registry's own host and to its site only, and to hosts that the person
//! has listed. The site is what the owner of the registry's name owns as well, as far as names tell:
//!
//! ```text
//! registry.gitlab.com    gitlab.com, and all below gitlab.com and below registry.gitlab.com
//! registry-1.docker.io   auth.docker.io likewise
//! quay.io                below quay.io; anybody can have a name in `io`
//! shop.co.uk             below shop.co.uk; anybody can have a name in `co.uk`
//! ```
//!
//! No list of public suffixes is kept. Names below a domain that is rented out name by name, such as
//! `github.io`, count as one site.
//!
//! Whoever has no login asks any service: there is nothing to lose.
//!
//! Source: docker's "Token Authentication Specification", which is silent on this; CVE-2020-15157.

use reqwest::Url;

use crate::RequestError;
use crate::client::{authority, is_loopback};
use crate::request::{origin, printable};

/// Under a country's domain, a name of at most so many letters is as good as a public suffix: `co.uk`,
/// `com.au`, `ne.jp`.
const LONGEST_SHARED_NAME: usize = 3;

/// A place where a registry says that tokens are to be had.
#[derive(Debug)]
pub(crate) struct TokenService {
    url: Url,
    /// Who says so, for messages.
    registry: String,
    may_see_logins: bool,
}

impl TokenService {
    /// The service at `realm`, as the registry at `base` names it. `listed` may see logins: `HOST[:PORT]`.
    ///
    /// # Errors
    ///
    /// [`RequestError::BadRedirect`] where nobody should go there.
    pub(crate) fn new(base: &Url, realm: &str, listed: &[String]) -> Result<Self, RequestError> {
        let refuse =
            |to: &str, problem| RequestError::BadRedirect { from: origin(base), to: printable(to), problem };
        let mut url = Url::parse(realm).map_err(|_| refuse(realm, "that is not a URL"))?;
        url.set_fragment(None);
        if url.scheme() != "https" && url.origin() != base.origin() {
            return Err(refuse(realm, "a token service elsewhere must speak https"));
        }
        if is_loopback(&url) && !is_loopback(base) {
            return Err(refuse(realm, "a registry elsewhere does not lead to this machine"));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(refuse(&origin(&url), "its address must not hold a login"));
        }
        let is_listed = listed.iter().any(|host| host.eq_ignore_ascii_case(&authority(&url)));
        let may_see_logins = is_listed || is_same_site(base, &url);
        Ok(Self { url, registry: authority(base), may_see_logins })
    }

    /// Its address.
    pub(crate) const fn url(&self) -> &Url {
        &self.url
    }

    /// Its address, for who sends a login there.
    ///
    /// # Errors
    ///
    /// [`RequestError::ForeignTokenService`] where none may go there.
    pub(crate) fn url_for_login(&self) -> Result<&Url, RequestError> {
        if self.may_see_logins {
            return Ok(&self.url);
        }
        let (registry, service) = (self.registry.clone(), authority(&self.url));
        Err(RequestError::ForeignTokenService { registry, service })
    }
}

/// True if both have one owner, as far as names tell.
fn is_same_site(registry: &Url, service: &Url) -> bool {
    let (Some(registry_host), Some(service_host)) = (registry.host_str(), service.host_str()) else {
        return false;
    };
    if registry_host == service_host {
        return true;
    }
    let (Some(registry), Some(service)) = (registry.domain(), service.domain()) else { return false };
    let (registry, service) = (registry.trim_end_matches('.'), service.trim_end_matches('.'));
    let is_in = |domain: &str| {
        service.strip_suffix(domain).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    };
    let parent = registry.split_once('.').map_or("", |(_, parent)| parent);
    (is_owned(registry) && is_in(registry)) || (is_owned(parent) && is_in(parent))
}

/// True unless anybody could have a name in this domain.
fn is_owned(domain: &str) -> bool {
    match domain.split('.').collect::<Vec<_>>()[..] {
        [] | [_] => false,
        [name, country] => country.len() > 2 || name.len() > LONGEST_SHARED_NAME,
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a login that is sent to `realm` meets; `Ok` with the service's address if it may go.
    #[track_caller]
    fn check(base: &str, realm: &str, listed: &[&str], want: Result<(), &str>) {
        let base = Url::parse(base).unwrap();
        let listed: Vec<String> = listed.iter().map(|host| (*host).to_owned()).collect();
        let service = TokenService::new(&base, realm, &listed);
        let got = service.and_then(|service| service.url_for_login().cloned());
        match (got, want) {
            (Ok(url), Ok(())) => assert_eq!(url.as_str(), realm),
            (Err(error), Err(want)) => assert!(error.to_string().ends_with(want), "{error}"),
            (got, want) => panic!("{realm}: {got:?}, not {want:?}"),
        }
    }

    #[test]
    fn tokens_are_had_in_https_or_at_the_registry_itself() {
        check("http://127.0.0.1:5000", "http://127.0.0.1:5000/t", &[], Ok(()));
        let elsewhere = Err("a token service elsewhere must speak https");
        check("http://127.0.0.1:5000", "http://127.0.0.1:5001/t", &["127.0.0.1:5001"], elsewhere);
        check("https://r.example", "http://r.example/t", &["r.example"], elsewhere);
        check("https://r.example", "ftp://r.example/t", &[], elsewhere);
        check("https://r.example", "/token", &[], Err("that is not a URL"));
        check("https://r.example", "https://u:p@r.example/", &[], Err("its address must not hold a login"));
        let inside = Err("a registry elsewhere does not lead to this machine");
        check("https://r.example", "https://127.0.0.1/t", &["127.0.0.1"], inside);
    }

    #[test]
    fn logins_go_to_the_registrys_own_host_and_site() {
        let rows = [
            ("ghcr.io", "ghcr.io"),
            ("r.example:5000", "r.example:5001"),
            ("registry-1.docker.io", "auth.docker.io"),
            ("registry.gitlab.com", "gitlab.com"),
            ("registry.digitalocean.com", "api.digitalocean.com"),
            ("registry.cn-hangzhou.aliyuncs.com", "dockerauth.cn-hangzhou.aliyuncs.com"),
            ("registry.shop.co.uk", "login.shop.co.uk"),
            ("quay.io", "auth.quay.io"),
            ("quay.io", "quay.io."),
            ("10.0.0.1", "10.0.0.1:8443"),
            ("registry", "registry:8443"),
        ];
        for (registry, service) in rows {
            check(&format!("https://{registry}"), &format!("https://{service}/token"), &[], Ok(()));
        }
    }

    #[test]
    fn logins_go_to_nobody_else_unless_listed() {
        let rows = [
            ("r.example", "t.example"),
            ("quay.io", "evil.io"),
            ("quay.io.", "evil.io."),
            ("quay.io", "evilquay.io"),
            ("registry.gitlab.com", "evilgitlab.com"),
            ("registry.gitlab.com", "gitlab.com.evil.example"),
            ("registry.gitlab.com", "com"),
            ("shop.co.uk", "evil.co.uk"),
            ("shop.com.au", "com.au"),
            ("a.b.registry.example.com", "login.example.com"),
            ("10.0.0.1", "20.0.0.1"),
            ("registry", "evil.registry"),
            ("registry", "evil"),
        ];
        for (registry, service) in rows {
            let base = format!("https://{registry}");
            let want = format!("send the login to {service}, which is neither its own host nor of its site");
            check(&base, &format!("https://{service}/token"), &["other.example"], Err(&want));
            check(&base, &format!("https://{service}/token"), &[service], Ok(()));
            check(&base, &format!("https://{service}:444/token"), &[&format!("{service}:444")], Ok(()));
        }
    }

    #[test]
    fn without_a_login_any_service_in_https_is_asked() {
        let base = Url::parse("https://r.example").unwrap();
        let service = TokenService::new(&base, "https://t.example/x#y", &[]).unwrap();
        assert_eq!(service.url().as_str(), "https://t.example/x");
    }
}
