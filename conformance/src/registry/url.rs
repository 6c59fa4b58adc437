//! Where a request goes, and what of it stands in the request line.
//!
//! A path is kept as it was written: nothing is decoded, normalised or repaired, because the suite sends paths that
//! no library would let through.
//!
//! Source: RFC 3986, sections 3 and 5.2, as far as `http` and `https` need them.

use std::fmt;

/// A server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Address {
    pub(crate) secure: bool,
    /// A name or an address; an IPv6 address without its brackets.
    pub(crate) host: String,
    pub(crate) port: u16,
}

/// A server, and a path with its query on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) address: Address,
    /// As in the request line; begins with `/`.
    pub(crate) path: String,
}

/// Why a text is not the URL of a registry.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{}` is not a URL; expected `http://HOST[:PORT]` or `https://HOST[:PORT]`", text.escape_debug())]
pub struct UrlError {
    text: String,
}

impl Target {
    /// Reads an absolute URL. A fragment, a user and a password are not understood.
    pub(crate) fn parse(text: &str) -> Result<Self, UrlError> {
        Self::read(text).ok_or_else(|| UrlError { text: text.to_owned() })
    }

    fn read(text: &str) -> Option<Self> {
        let (secure, rest) = match text.split_once("://")? {
            (scheme, rest) if scheme.eq_ignore_ascii_case("http") => (false, rest),
            (scheme, rest) if scheme.eq_ignore_ascii_case("https") => (true, rest),
            _ => return None,
        };
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        Some(Self { address: Address::read(secure, authority)?, path: sendable(path)? })
    }

    /// Resolves what a `Location` or `Link` says, seen from here: absolute, with or without a host, or relative.
    pub(crate) fn join(&self, reference: &str) -> Option<Self> {
        if reference.contains("://") && !reference.starts_with(['/', '?']) {
            return Self::read(reference);
        }
        if let Some(rest) = reference.strip_prefix("//") {
            let scheme = if self.address.secure { "https" } else { "http" };
            return Self::read(&format!("{scheme}://{rest}"));
        }
        let own = self.path.split('?').next().unwrap_or("/");
        let path = match reference.chars().next()? {
            '/' => reference.to_owned(),
            '?' => format!("{own}{reference}"),
            _ => format!("{}{reference}", &own[..=own.rfind('/')?]),
        };
        Some(Self { address: self.address.clone(), path: sendable(path)? })
    }

    /// The same place with another path.
    pub(crate) fn at(&self, path: impl Into<String>) -> Self {
        Self { address: self.address.clone(), path: path.into() }
    }

    /// With one more parameter, whose value is encoded here.
    pub(crate) fn with(&self, name: &str, value: &str) -> Self {
        let joint = if self.path.contains('?') { '&' } else { '?' };
        self.at(format!("{}{joint}{name}={}", self.path, encoded(value)))
    }
}

impl Address {
    fn read(secure: bool, authority: &str) -> Option<Self> {
        let default = if secure { 443 } else { 80 };
        let (host, port) = match authority.strip_prefix('[') {
            Some(rest) => rest.split_once(']').map(|(host, rest)| (host, rest.strip_prefix(':')))?,
            None => authority.split_once(':').map_or((authority, None), |(host, port)| (host, Some(port))),
        };
        let port = port.map_or(Some(default), |port| port.parse().ok())?;
        let plain = |c: char| c.is_ascii_alphanumeric() || "-._:".contains(c);
        (!host.is_empty() && host.chars().all(plain)).then(|| Self { secure, host: host.to_owned(), port })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

/// The path, unless a server could smuggle a second request into it.
fn sendable(path: String) -> Option<String> {
    path.bytes().all(|byte| byte.is_ascii_graphic()).then_some(path)
}

/// The text as the value of a parameter. Source: RFC 3986, section 2.3.
pub(crate) fn encoded(text: &str) -> String {
    let one = |byte: u8| match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(byte).to_string(),
        byte => format!("%{byte:02X}"),
    };
    text.bytes().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn joined(reference: &str, want: Option<&str>) {
        let base = Target::parse("http://one.example:5000/v2/a/blobs/uploads/?x=1").unwrap();
        let found = base.join(reference).map(|target| format!("{}{}", target.address, target.path));
        assert_eq!(found.as_deref(), want, "{reference}");
    }

    #[test]
    fn locations_are_resolved_as_browsers_do() {
        joined("/v2/u?s=2", Some("one.example:5000/v2/u?s=2"));
        joined("id", Some("one.example:5000/v2/a/blobs/uploads/id"));
        joined("?y=3", Some("one.example:5000/v2/a/blobs/uploads/?y=3"));
        joined("https://two.example/u", Some("two.example:443/u"));
        joined("//two.example/u", Some("two.example:80/u"));
        joined("/v2/?next=http://two.example/", Some("one.example:5000/v2/?next=http://two.example/"));
        joined("", None);
        joined("/a b", None);
        joined("/a\r\nX: y", None);
        joined("ftp://two.example/u", None);
    }

    #[test]
    fn a_url_is_read_with_its_port() {
        let address = |text| Target::parse(text).map(|target| target.address.to_string());
        assert_eq!(address("http://127.0.0.1:5000").unwrap(), "127.0.0.1:5000");
        assert_eq!(address("https://registry.example/").unwrap(), "registry.example:443");
        assert_eq!(address("http://[::1]:81").unwrap(), "[::1]:81");
        for text in ["", "registry.example", "ftp://x", "http://", "http://a b", "http://x:y", "http://u:p@x"]
        {
            assert!(address(text).is_err(), "{text}");
        }
    }

    #[test]
    fn parameters_are_added_behind_those_there_are() {
        let target = Target::parse("http://x/u").unwrap().with("digest", "sha256:a+b").with("n", "1");
        assert_eq!(target.path, "/u?digest=sha256%3Aa%2Bb&n=1");
    }
}
