//! The one client that all checks share: credentials, redirects, and a watch on the registry's conduct.
//!
//! It never sends the user's password to another server than the registry and the token service that it names.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustls::ClientConfig;

use super::answer::{Answer, Problem};
use super::conduct::Conduct;
use super::content::MANIFESTS;
use super::credentials::{Challenge, Keys, User, token};
use super::http::{self, Body, ExchangeError, Request};
use super::url::Target;

/// How many redirects are followed.
const MAX_REDIRECTS: usize = 5;

#[derive(Debug)]
pub(crate) struct Client {
    /// The registry; its path is `/`, or what stands in front of `/v2/`.
    base: Target,
    limit: Duration,
    user: Option<User>,
    keys: Keys,
    tls: Arc<ClientConfig>,
    pub(crate) conduct: Conduct,
    /// Set when the registry no longer answers at all.
    given_up: AtomicBool,
}

/// Whose name a request is made in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Identity {
    /// The user's, in whatever way the registry asks for.
    Own,
    /// Nobody's.
    Nobody,
    /// This value of `Authorization`, and no other.
    Exactly(String),
}

/// A request in the making.
#[derive(Debug)]
#[must_use]
pub(crate) struct Ask<'a> {
    client: &'a Client,
    target: Target,
    request: Request,
    identity: Identity,
}

impl Client {
    pub(crate) fn new(base: Target, limit: Duration, user: Option<User>) -> Self {
        Self {
            base,
            limit,
            user,
            keys: Keys::default(),
            tls: http::tls(),
            conduct: Conduct::default(),
            given_up: AtomicBool::new(false),
        }
    }

    pub(crate) fn user(&self) -> Option<&User> {
        self.user.as_ref()
    }

    /// A request for a path of the registry, such as `/v2/`.
    pub(crate) fn ask(&self, method: &str, path: &str) -> Ask<'_> {
        let target = self.base.at(format!("{}{path}", self.base.path.trim_end_matches('/')));
        self.ask_at(method, target)
    }

    /// A request for where the registry pointed to.
    pub(crate) fn ask_at(&self, method: &str, target: Target) -> Ask<'_> {
        // Methods with a body say how long it is, even where it is empty.
        let body = match method {
            "POST" | "PUT" | "PATCH" => Body::Whole(Vec::new()),
            _ => Body::None,
        };
        let request = Request { method: method.into(), path: String::new(), headers: Vec::new(), body };
        Ask { client: self, target, request, identity: Identity::Own }
    }

    /// True unless the registry stopped answering; asks it.
    pub(crate) fn is_alive(&self) -> bool {
        let alive = !matches!(self.ask("GET", "/v2/").send(), Err(Problem::Silent(_)));
        self.given_up.fetch_or(!alive, Ordering::Relaxed);
        alive
    }

    pub(crate) fn has_given_up(&self) -> bool {
        self.given_up.load(Ordering::Relaxed)
    }

    /// What opens the door behind this challenge; nothing if nobody does.
    fn authorization(&self, challenge: &Challenge, at: &Target) -> Result<Option<String>, ExchangeError> {
        let Challenge::Bearer { .. } = challenge else { return Ok(self.user.as_ref().map(User::basic)) };
        let Some(target) = challenge.token_request(at, None) else { return Ok(None) };
        let headers = self.user.iter().map(|user| ("Authorization".to_owned(), user.basic())).collect();
        let request = Request { method: "GET".into(), path: target.path, headers, body: Body::None };
        let received = http::exchange(&target.address, &self.tls, &request, self.limit)?;
        Ok(token(&received.body).map(|token| format!("Bearer {token}")))
    }
}

impl Ask<'_> {
    pub(crate) fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.request.headers.push((name.to_owned(), value.into()));
        self
    }

    pub(crate) fn body(mut self, body: Body) -> Self {
        self.request.body = body;
        self
    }

    pub(crate) fn bytes(self, bytes: &[u8]) -> Self {
        self.body(Body::Whole(bytes.to_vec()))
    }

    pub(crate) fn identity(mut self, identity: Identity) -> Self {
        self.identity = identity;
        self
    }

    /// Sends it, signs in where asked to, and follows redirects.
    pub(crate) fn send(self) -> Result<Answer, Problem> {
        let name = self.name();
        let problem = |error: ExchangeError| {
            let causes =
                std::iter::successors(Some(&error as &dyn std::error::Error), |error| error.source());
            let text = format!("{name}: {}", causes.map(ToString::to_string).collect::<Vec<_>>().join(": "));
            match error {
                ExchangeError::Silent { .. } => Problem::Silent(text),
                _ => Problem::Wrong(text),
            }
        };
        let Self { client, mut target, mut request, identity } = self;
        for _ in 0..=MAX_REDIRECTS {
            request.path.clone_from(&target.path);
            let received = client.exchange_as(&identity, &target, &request).map_err(problem)?;
            let answer = Answer { request: name.clone(), target: target.clone(), received };
            client.conduct.watch(&answer);
            let redirects = match answer.status() {
                301..=303 => matches!(request.method.as_str(), "GET" | "HEAD"),
                status => matches!(status, 307 | 308),
            };
            match answer.header("location").and_then(|location| target.join(location)) {
                Some(next) if redirects => target = next,
                _ => return Ok(answer),
            }
        }
        Err(Problem::Wrong(format!("{name}: more than {MAX_REDIRECTS} redirects")))
    }

    /// Method and path, and the headers that make it what it is.
    fn name(&self) -> String {
        let Request { method, headers, body, .. } = &self.request;
        let mut name = format!("{method} {}", shortened(&self.target.path));
        let telling = ["range", "content-range", "if-none-match", "if-range", "accept"];
        let is_telling = |(field, value): &&(String, String)| {
            telling.contains(&&*field.to_ascii_lowercase()) && value != MANIFESTS
        };
        for (field, value) in headers.iter().filter(is_telling) {
            name += &format!(", {field}: {}", shortened(value));
        }
        match body {
            Body::Whole(bytes) | Body::AfterContinue(bytes) | Body::Pieces(bytes) if !bytes.is_empty() => {
                name + &format!(", {} bytes", bytes.len())
            }
            Body::Short { announced, bytes } => name + &format!(", {} of {announced} bytes", bytes.len()),
            _ => name,
        }
    }
}

impl Client {
    fn exchange_as(
        &self,
        identity: &Identity,
        target: &Target,
        request: &Request,
    ) -> Result<http::Received, ExchangeError> {
        let exchange = |authorization: Option<String>| {
            let mut request = request.clone();
            request.headers.extend(authorization.map(|value| ("Authorization".to_owned(), value)));
            http::exchange(&target.address, &self.tls, &request, self.limit)
        };
        match identity {
            Identity::Nobody => return exchange(None),
            // Another server is a stranger.
            Identity::Own if target.address != self.base.address => return exchange(None),
            Identity::Exactly(value) => return exchange(Some(value.clone())),
            Identity::Own => {}
        }
        let (method, path) = (&request.method, &target.path);
        let received = exchange(self.keys.get(method, path))?;
        let challenge = http::header(&received.headers, "www-authenticate").and_then(Challenge::read);
        let (401, Some(challenge)) = (received.status, challenge) else { return Ok(received) };
        let Some(authorization) = self.authorization(&challenge, target)? else { return Ok(received) };
        self.keys.put(method, path, authorization.clone());
        exchange(Some(authorization))
    }
}

/// A path that fits into a line: the middle of what is very long is left out.
fn shortened(text: &str) -> String {
    let text = text.escape_debug().to_string();
    let count = text.chars().count();
    if count <= 260 {
        return text;
    }
    let (head, tail): (String, String) =
        (text.chars().take(120).collect(), text.chars().skip(count - 60).collect());
    format!("{head}[...]{tail}")
}
