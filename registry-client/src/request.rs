//! Why a request to a registry did not give what it should: what every operation's error is made of.
//!
//! Text that came from a registry is escaped and cut short before it lands in a message; URLs appear
//! without their query, which may hold somebody's token.
//!
//! Source: OCI distribution-spec 1.1, "Error Codes"; RFC 9110, section 15.

use std::time::Duration;

use reqwest::header::{HeaderMap, RETRY_AFTER};
use reqwest::{Response, StatusCode, Url};
use serde::Deserialize;

use crate::client::ClientError;
use crate::credentials::CredentialError;

/// The most of an error's body that is read.
const MAX_ERROR_BODY: usize = 64 << 10;
/// How long a registry may take to explain itself.
const EXPLANATION_TIMEOUT: Duration = Duration::from_secs(5);
/// The most of a registry's message that is shown, in characters.
const MAX_MESSAGE: usize = 200;

/// Why a request to a registry did not give what it should.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// No connection: the name does not resolve, nobody listens, TLS fails, or it broke before an answer.
    #[error("cannot reach the registry at {origin}")]
    Unreachable {
        /// Scheme, host and port.
        origin: String,
        /// The reason.
        #[source]
        source: reqwest::Error,
    },
    /// The connection is there, but nothing moves on it.
    #[error("nothing moved between here and the registry at {origin} for {seconds} s")]
    Stalled {
        /// Scheme, host and port.
        origin: String,
        /// How long that was borne.
        seconds: u64,
    },
    /// The connection broke in the middle of an answer.
    #[error("the connection to the registry at {origin} broke in the middle of an answer")]
    Cut {
        /// Scheme, host and port.
        origin: String,
        /// The reason.
        #[source]
        source: reqwest::Error,
    },
    /// The answer ended in good order, but too early.
    #[error("the registry ended {what} after {found} of {wanted} bytes")]
    Short {
        /// What was fetched.
        what: String,
        /// Bytes that arrived.
        found: u64,
        /// Bytes that should have.
        wanted: u64,
    },
    /// The registry has forgotten an upload, or how far it had come.
    #[error("the registry lost its place in {what} at byte {offset}")]
    UploadLost {
        /// What was sent.
        what: String,
        /// How far it had come.
        offset: u64,
    },
    /// The registry is overloaded or broken, and stayed so over all attempts.
    #[error("the registry at {origin} answers {status}")]
    Busy {
        /// Scheme, host and port.
        origin: String,
        /// The HTTP status: 408, 429 or 5xx.
        status: u16,
        /// When the registry wants to be asked again.
        retry_after: Option<Duration>,
    },
    /// The registry wants to know who asks, and there are no credentials for it.
    #[error("the registry {registry} asks for a login, or has no such repository")]
    LoginNeeded {
        /// `HOST[:PORT]`.
        registry: String,
    },
    /// The registry does not accept the credentials.
    #[error("the registry {registry} does not accept the login of {user}")]
    LoginRefused {
        /// `HOST[:PORT]`.
        registry: String,
        /// Whose login it was, control characters escaped.
        user: String,
    },
    /// The login is right but does not allow this.
    #[error("the registry {registry} does not allow access to {what}: {message}")]
    Denied {
        /// `HOST[:PORT]`.
        registry: String,
        /// What was asked for.
        what: String,
        /// What the registry says, escaped and cut short.
        message: String,
    },
    /// The registry does not have it.
    #[error("the registry has no {what}")]
    NotFound {
        /// What was asked for.
        what: String,
    },
    /// The registry refuses for a reason of its own.
    #[error("the registry answers {status} for {what}: {message}")]
    Refused {
        /// What was asked for.
        what: String,
        /// The HTTP status.
        status: u16,
        /// What the registry says, escaped and cut short.
        message: String,
    },
    /// The registry does not keep to the protocol.
    #[error("the registry's answer for {what} breaks the protocol: found {found}, expected {wanted}")]
    Protocol {
        /// What was asked for.
        what: String,
        /// What was found, control characters escaped.
        found: String,
        /// What the specification says.
        wanted: String,
    },
    /// The registry sends us somewhere we do not go.
    #[error("the registry sends us from {from} to {to}: {problem}")]
    BadRedirect {
        /// Origin of the answer.
        from: String,
        /// Where it points to, without query, control characters escaped.
        to: String,
        /// Why we do not go.
        problem: &'static str,
    },
    /// The registry sends its clients to somebody else with their logins.
    #[error(
        "the registry {registry} would have us send the login to {service}, which is neither its own host nor of its site"
    )]
    ForeignTokenService {
        /// `HOST[:PORT]` of the registry.
        registry: String,
        /// `HOST[:PORT]` of the token service.
        service: String,
    },
    /// The registry would have to be spoken to without TLS.
    #[error("{host} is not this machine, so it is spoken to in https only; found http")]
    PlainHttp {
        /// The host.
        host: String,
    },
    /// The credentials cannot be looked up.
    #[error("cannot look up the login for {registry}")]
    Credentials {
        /// `HOST[:PORT]`.
        registry: String,
        /// The reason.
        #[source]
        source: CredentialError,
    },
    /// This machine cannot speak TLS.
    #[error(transparent)]
    Client(#[from] ClientError),
}

impl RequestError {
    /// True where another attempt may succeed: the network or the registry failed, nobody refused.
    pub fn is_temporary(&self) -> bool {
        matches!(
            self,
            Self::Unreachable { .. }
                | Self::Stalled { .. }
                | Self::Cut { .. }
                | Self::Short { .. }
                | Self::UploadLost { .. }
                | Self::Busy { .. }
        )
    }

    /// True where the registry could not be reached, or stopped answering.
    pub fn is_unreachable(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Stalled { .. } | Self::Cut { .. } | Self::Busy { .. })
    }

    pub(crate) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Busy { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    pub(crate) fn unreachable(url: &Url, source: reqwest::Error) -> Self {
        Self::Unreachable { origin: origin(url), source: source.without_url() }
    }

    pub(crate) fn cut(url: &Url, source: reqwest::Error) -> Self {
        Self::Cut { origin: origin(url), source: source.without_url() }
    }

    pub(crate) fn stalled(url: &Url, idle: Duration) -> Self {
        Self::Stalled { origin: origin(url), seconds: idle.as_secs() }
    }

    pub(crate) fn protocol(what: &str, found: impl Into<String>, wanted: impl Into<String>) -> Self {
        let found: String = found.into();
        Self::Protocol { what: what.to_owned(), found: printable(&found), wanted: wanted.into() }
    }

    /// The error that an answer with a status other than success stands for. `user` is whose login
    /// went with the request to `registry`.
    pub(crate) async fn from_answer(
        response: Response,
        what: &str,
        registry: &str,
        user: Option<&str>,
    ) -> Self {
        let (status, origin) = (response.status(), origin(response.url()));
        let what = what.to_owned();
        if is_temporary_status(status) {
            return Self::Busy {
                origin,
                status: status.as_u16(),
                retry_after: asked_wait(response.headers()),
            };
        }
        let registry = registry.to_owned();
        match (status, user) {
            (StatusCode::NOT_FOUND, _) => Self::NotFound { what },
            (StatusCode::UNAUTHORIZED, None) => Self::LoginNeeded { registry },
            (StatusCode::UNAUTHORIZED, Some(user)) => Self::LoginRefused { registry, user: printable(user) },
            (StatusCode::FORBIDDEN, _) => Self::Denied { registry, what, message: message(response).await },
            _ => Self::Refused { what, status: status.as_u16(), message: message(response).await },
        }
    }
}

/// Scheme, host and port of a URL.
pub(crate) fn origin(url: &Url) -> String {
    url.origin().ascii_serialization()
}

/// `text` as it may appear in a message: escaped and cut short.
pub(crate) fn printable(text: &str) -> String {
    let mut short: String = text.chars().take(MAX_MESSAGE).flat_map(char::escape_debug).collect();
    if text.chars().nth(MAX_MESSAGE).is_some() {
        short.push_str("...");
    }
    short
}

fn is_temporary_status(status: StatusCode) -> bool {
    let never = [
        StatusCode::NOT_IMPLEMENTED,
        StatusCode::HTTP_VERSION_NOT_SUPPORTED,
        StatusCode::INSUFFICIENT_STORAGE,
    ];
    let sometimes = [StatusCode::REQUEST_TIMEOUT, StatusCode::TOO_MANY_REQUESTS];
    (status.is_server_error() && !never.contains(&status)) || sometimes.contains(&status)
}

/// `Retry-After` in seconds. A date would need a clock that agrees with the registry's; it counts as absent.
fn asked_wait(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds))
}

/// The body of an error, as the specification defines it.
#[derive(Deserialize)]
struct ErrorBody {
    errors: Vec<ErrorEntry>,
}

#[derive(Deserialize)]
struct ErrorEntry {
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: String,
}

/// What a refusal says. What cannot be read of an explanation is not worth an error of its own.
async fn message(mut response: Response) -> String {
    let mut body = Vec::new();
    let reading = async {
        while let Ok(Some(piece)) = response.chunk().await {
            body.extend_from_slice(&piece);
            if body.len() > MAX_ERROR_BODY {
                break;
            }
        }
    };
    let _ = tokio::time::timeout(EXPLANATION_TIMEOUT, reading).await;
    explanation(&body)
}

/// What an error's body says, for a person.
fn explanation(body: &[u8]) -> String {
    let parsed: Option<ErrorEntry> =
        serde_json::from_slice::<ErrorBody>(body).ok().and_then(|body| body.errors.into_iter().next());
    match parsed {
        Some(entry) if entry.message.is_empty() => printable(&entry.code),
        Some(entry) => printable(&format!("{}: {}", entry.code, entry.message)),
        None => "no explanation".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn explanations_are_read_from_error_bodies_and_made_printable() {
        let rows: &[(&[u8], &str)] = &[
            (br#"{"errors":[{"code":"DIGEST_INVALID","message":"no match"}]}"#, "DIGEST_INVALID: no match"),
            (br#"{"errors":[{"code":"DENIED"}]}"#, "DENIED"),
            (br#"{"errors":[{"code":"X","message":"\u001b[2J"}]}"#, "X: \\u{1b}[2J"),
            (br#"{"errors":[]}"#, "no explanation"),
            (b"<html>", "no explanation"),
        ];
        for (body, want) in rows {
            assert_eq!(explanation(body), *want);
        }
        assert_eq!(printable(&"a".repeat(300)).len(), MAX_MESSAGE + 3);
    }

    #[test]
    fn only_overload_and_breakage_are_worth_another_attempt() {
        for (status, want) in [(408, true), (429, true), (500, true), (503, true), (501, false), (404, false)]
        {
            assert_eq!(is_temporary_status(StatusCode::from_u16(status).unwrap()), want, "{status}");
        }
    }
}
