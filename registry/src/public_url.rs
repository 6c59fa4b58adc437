//! Where clients reach the server.

use std::fmt;
use std::str::FromStr;

use http::Uri;
use http::uri::Authority;

/// `https://registry.example.org` or `http://127.0.0.1:5000`: a scheme and a host, nothing else.
#[derive(Clone, PartialEq, Eq)]
pub struct PublicUrl {
    pub(crate) scheme: &'static str,
    pub(crate) authority: Authority, // Invariant: `is_plain`.
}

/// Why a text is no public URL.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not where a registry can be reached; expected `https://HOST[:PORT]`")]
pub struct PublicUrlError {
    text: String,
}

impl PublicUrl {
    /// True for a host and perhaps a port: no user, and nothing that a quoted text could not hold.
    pub(crate) fn is_plain(authority: &Authority) -> bool {
        let may_occur =
            |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'-' | b'_' | b':' | b'[' | b']');
        !authority.host().is_empty() && authority.as_str().bytes().all(may_occur)
    }
}

impl FromStr for PublicUrl {
    type Err = PublicUrlError;

    fn from_str(text: &str) -> Result<Self, PublicUrlError> {
        let url = || {
            let parts = text.strip_suffix('/').unwrap_or(text).parse::<Uri>().ok()?.into_parts();
            let scheme = match parts.scheme?.as_str() {
                "https" => "https",
                "http" => "http",
                _ => return None,
            };
            let is_root = parts.path_and_query.is_none_or(|rest| rest == "/");
            parts
                .authority
                .filter(|authority| is_root && Self::is_plain(authority))
                .map(|authority| Self { scheme, authority })
        };
        url().ok_or_else(|| PublicUrlError { text: text.escape_debug().to_string() })
    }
}

impl fmt::Debug for PublicUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicUrl({self})")
    }
}

impl fmt::Display for PublicUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme, self.authority)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_public_url_is_a_scheme_and_a_host() {
        let check = |text: &str, want: Option<&str>| {
            let url = text.parse::<PublicUrl>().ok().map(|url| url.to_string());
            assert_eq!(url.as_deref(), want, "{text}");
        };
        check("https://registry.example.org", Some("https://registry.example.org"));
        check("https://registry.example.org/", Some("https://registry.example.org"));
        check("http://127.0.0.1:5000", Some("http://127.0.0.1:5000"));
        check("https://[2001:db8::1]:443", Some("https://[2001:db8::1]:443"));
        check("https://r.example/sub", None);
        check("https://r.example?x", None);
        check("https://me@r.example", None);
        check("ftp://r.example", None);
        check("r.example", None);
        check("https://", None);
        check("https://a\"b", None);
        check("", None);
    }
}
