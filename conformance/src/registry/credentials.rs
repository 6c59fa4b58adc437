//! Signing in, as registries ask for it: `Basic`, and `Bearer` with a token service.
//!
//! The password goes to the registry itself and to the token service that it names, and nowhere else.
//!
//! Source: RFC 7617; the token flow as Docker's registry documents it ("Token Authentication Specification"); the
//! distribution specification leaves signing in open ("Determining Support").

use std::collections::BTreeMap;
use std::sync::Mutex;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::Value;

use super::url::{Target, encoded};

/// A user's name and password.
#[derive(Clone)]
pub struct User {
    /// The name.
    pub name: String,
    /// The password or token.
    pub password: String,
}

impl std::fmt::Debug for User {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("User").field("name", &self.name).finish_non_exhaustive()
    }
}

impl User {
    /// The value of `Authorization`.
    pub(crate) fn basic(&self) -> String {
        format!("Basic {}", BASE64_STANDARD.encode(format!("{}:{}", self.name, self.password)))
    }
}

/// How a registry wants to be asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Challenge {
    Basic,
    /// Where tokens are given, and what to ask for there.
    Bearer {
        realm: String,
        service: Option<String>,
        scope: Option<String>,
    },
}

impl Challenge {
    /// Reads `WWW-Authenticate`; of several challenges, the first that is understood.
    pub(crate) fn read(header: &str) -> Option<Self> {
        let challenges = http_auth::parse_challenges(header).ok()?;
        challenges.iter().find_map(|challenge| {
            let value = |name: &str| {
                let found = challenge.params.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
                found.map(|(_, value)| value.to_unescaped())
            };
            if challenge.scheme.eq_ignore_ascii_case("basic") {
                return Some(Self::Basic);
            }
            if !challenge.scheme.eq_ignore_ascii_case("bearer") {
                return None;
            }
            Some(Self::Bearer { realm: value("realm")?, service: value("service"), scope: value("scope") })
        })
    }

    /// The request for a token, for the scope of the challenge or for another one.
    pub(crate) fn token_request(&self, from: &Target, scope: Option<&str>) -> Option<Target> {
        let Self::Bearer { realm, service, scope: asked } = self else { return None };
        let mut target = from.join(realm)?;
        if let Some(service) = service {
            target = target.with("service", service);
        }
        // Several scopes stand in one challenge with spaces between them, and are asked for one by one.
        for scope in scope.or(asked.as_deref()).unwrap_or_default().split_whitespace() {
            target.path +=
                &format!("{}scope={}", if target.path.contains('?') { '&' } else { '?' }, encoded(scope));
        }
        Some(target)
    }
}

/// The token in the answer of a token service.
pub(crate) fn token(body: &[u8]) -> Option<String> {
    let answer: Value = serde_json::from_slice(body).ok()?;
    let token = answer.get("token").or_else(|| answer.get("access_token"))?.as_str()?;
    let sendable = !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic());
    sendable.then(|| token.to_owned())
}

/// What opened a door once is tried first the next time, by method and repository.
#[derive(Debug, Default)]
pub(crate) struct Keys(Mutex<BTreeMap<(bool, String), String>>);

impl Keys {
    pub(crate) fn get(&self, method: &str, path: &str) -> Option<String> {
        self.0.lock().expect("no thread panics with the keys").get(&Self::door(method, path)).cloned()
    }

    pub(crate) fn put(&self, method: &str, path: &str, authorization: String) {
        self.0
            .lock()
            .expect("no thread panics with the keys")
            .insert(Self::door(method, path), authorization);
    }

    /// Whether it reads, and the repository: everything before the endpoint's own words.
    fn door(method: &str, path: &str) -> (bool, String) {
        let words = ["/manifests/", "/blobs/", "/tags/", "/referrers/"];
        let end = words.iter().filter_map(|word| path.find(word)).min().unwrap_or(path.len());
        (matches!(method, "GET" | "HEAD"), path[..end].to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_asked_for_with_service_and_every_scope() {
        let header = r#"Bearer realm="https://auth.example/token?x=1",service="r.example",scope="repository:a/b:pull,push repository:c:pull""#;
        let challenge = Challenge::read(header).unwrap();
        let base = Target::parse("http://r.example").unwrap();
        let target = challenge.token_request(&base, None).unwrap();
        assert_eq!(target.address.to_string(), "auth.example:443");
        let want =
            "/token?x=1&service=r.example&scope=repository%3Aa%2Fb%3Apull%2Cpush&scope=repository%3Ac%3Apull";
        assert_eq!(target.path, want);
    }

    #[test]
    fn basic_is_read_and_other_schemes_are_not() {
        assert_eq!(Challenge::read(r#"Basic realm="x""#), Some(Challenge::Basic));
        assert_eq!(Challenge::read(r#"Negotiate, Basic realm="x""#), Some(Challenge::Basic));
        assert_eq!(Challenge::read("Negotiate"), None);
        assert_eq!(Challenge::read(""), None);
    }

    #[test]
    fn a_token_has_either_name() {
        assert_eq!(token(br#"{"token":"a"}"#).as_deref(), Some("a"));
        assert_eq!(token(br#"{"access_token":"b"}"#).as_deref(), Some("b"));
        assert_eq!(token(br#"{"token":"a\r\nX: y"}"#), None);
        assert_eq!(token(b"[]"), None);
    }
}
