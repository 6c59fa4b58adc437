//! One operation's conversation with one registry: URLs, login, redirects, repetition.
//!
//! Credentials belong to an origin: scheme, host and port. They go with a request to the registry's own
//! origin and with no other, and once a redirect has led away they do not come back. From https nobody
//! leads us to http, and from elsewhere nobody leads us to this machine. Which token services see them is
//! in `token_service`.
//!
//! Source: OCI distribution-spec 1.1, "Endpoints"; RFC 9110, sections 11.6 and 15.4.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use appliance::{Digest, Reference, Version};
use bytes::Bytes;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, LOCATION};
use reqwest::{Body, Method, Response, StatusCode, Url};
use tokio::sync::Mutex;

use crate::challenge::{self, Challenge, Token, TokenRequest};
use crate::client::is_loopback;
use crate::credentials::{Credential, CredentialSource};
use crate::progress::Event;
use crate::request::{origin, printable};
use crate::retry::Failures;
use crate::token_service::TokenService;
use crate::{Client, Progress, RequestError};

/// The most redirects that one request follows.
const MAX_REDIRECTS: usize = 5;
/// The most that a token service's answer may hold.
const MAX_TOKEN_ANSWER: u64 = 1 << 20;
/// A token is renewed so much before it ends.
const TOKEN_MARGIN: Duration = Duration::from_secs(5);

/// What an operation wants to do with a repository; the scope of its token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    Pull,
    PullPush,
}

/// One operation's conversation with one registry.
#[derive(Debug)]
pub(crate) struct Session<'a> {
    pub(crate) client: &'a Client,
    /// As the user writes it: `HOST[:PORT]`.
    pub(crate) registry: String,
    /// None where only the registry itself is asked.
    repository: Option<(String, Access)>,
    /// Another repository that is read from, if there is one.
    source: Option<String>,
    base: Url,
    credentials: Arc<dyn CredentialSource>,
    ticket: Mutex<Ticket>,
    /// Whether the registry has ever answered anything.
    answered: AtomicBool,
}

/// What the registry wants to see with each request, as far as it has told.
#[derive(Debug, Clone, Default)]
struct Ticket {
    /// Counts renewals, so that of several requests that are refused together one renews.
    serial: u64,
    header: Option<HeaderValue>,
    ends: Option<Instant>,
    /// Whose login it is; none for a token that anybody gets.
    user: Option<String>,
}

/// An answer to a request that went with `ticket`; another request may have renewed it since.
#[derive(Debug)]
pub(crate) struct Unjudged {
    response: Response,
    ticket: Ticket,
}

/// A request whose body, if any, is small enough to be sent again.
#[derive(Debug, Clone)]
pub(crate) struct Call<'a> {
    pub(crate) method: Method,
    pub(crate) url: Url,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    /// What it is about, for messages.
    pub(crate) what: &'a str,
    /// The statuses that are success.
    pub(crate) wanted: &'a [StatusCode],
}

impl<'a> Call<'a> {
    pub(crate) fn new(method: Method, url: Url, what: &'a str, wanted: &'a [StatusCode]) -> Self {
        Self { method, url, headers: HeaderMap::new(), body: Bytes::new(), what, wanted }
    }

    pub(crate) fn header(mut self, name: HeaderName, value: &str) -> Self {
        let value = HeaderValue::from_str(value).expect("our own headers are ASCII");
        self.headers.append(name, value);
        self
    }

    pub(crate) fn body(self, body: Bytes) -> Self {
        Self { body, ..self }
    }
}

impl<'a> Session<'a> {
    /// A conversation about `reference`'s repository at `registry`. Nothing is sent yet.
    pub(crate) fn new(
        client: &'a Client,
        registry: &str,
        repository: &Reference,
        access: Access,
    ) -> Result<Self, RequestError> {
        let mut session = Self::with_registry(client, registry, client.options.credentials.clone())?;
        session.repository = Some((repository.name().to_owned(), access));
        Ok(session)
    }

    /// The same with the right to read `source`, another repository of the registry.
    pub(crate) fn reading_too(self, source: &str) -> Self {
        Self { source: Some(source.to_owned()), ..self }
    }

    /// A conversation with a registry as such.
    pub(crate) fn with_registry(
        client: &'a Client,
        registry: &str,
        credentials: Arc<dyn CredentialSource>,
    ) -> Result<Self, RequestError> {
        Ok(Self {
            client,
            registry: registry.to_owned(),
            repository: None,
            source: None,
            base: client.base_url(registry)?,
            credentials,
            ticket: Mutex::default(),
            answered: AtomicBool::new(false),
        })
    }

    pub(crate) fn idle_timeout(&self) -> Duration {
        self.client.options.idle_timeout
    }

    /// `/v2/` itself.
    pub(crate) fn root_url(&self) -> Url {
        self.url("v2/")
    }

    pub(crate) fn manifest_url(&self, version: &Version) -> Url {
        self.repository_url(&format!("manifests/{version}"))
    }

    pub(crate) fn blob_url(&self, digest: &Digest) -> Url {
        self.repository_url(&format!("blobs/{digest}"))
    }

    pub(crate) fn uploads_url(&self) -> Url {
        self.repository_url("blobs/uploads/")
    }

    pub(crate) fn tags_url(&self) -> Url {
        self.repository_url("tags/list")
    }

    pub(crate) fn history_url(&self, tag: &str) -> Url {
        self.repository_url(&format!("_hull/tags/{tag}/history"))
    }

    fn repository_url(&self, rest: &str) -> Url {
        let name = self.repository.as_ref().map_or("", |(name, _)| name.as_str());
        self.url(&format!("v2/{name}/{rest}"))
    }

    /// Names, tags and digests are checked against grammars that need no escaping in a URL.
    fn url(&self, path: &str) -> Url {
        let mut url = self.base.clone();
        url.set_path(path);
        url
    }

    /// Sends `call` until it succeeds, is refused, or has failed too often.
    pub(crate) async fn send(
        &self,
        call: &Call<'_>,
        progress: &dyn Progress,
    ) -> Result<Response, RequestError> {
        let mut failures = self.failures();
        loop {
            match self.send_once(call).await {
                Err(error) => self.wait_or_give_up(&mut failures, error, 0, progress).await?,
                answer => return answer,
            }
        }
    }

    /// Sends `call` and reads the answer's body, until it succeeds, is refused, or has failed too often.
    pub(crate) async fn read(
        &self,
        call: &Call<'_>,
        limit: u64,
        progress: &dyn Progress,
    ) -> Result<(HeaderMap, Bytes), RequestError> {
        let mut failures = self.failures();
        loop {
            let answer = async {
                let response = self.send_once(call).await?;
                let headers = response.headers().clone();
                Ok((headers, self.body(response, call.what, limit).await?))
            };
            match answer.await {
                Err(error) => self.wait_or_give_up(&mut failures, error, 0, progress).await?,
                answer => return answer,
            }
        }
    }

    pub(crate) fn failures(&self) -> Failures {
        Failures::new(self.client.options.retry)
    }

    /// After a failure of a piece of work of which `done` bytes are done: waits until it is time for the
    /// next attempt, or returns the error if there should be none.
    pub(crate) async fn wait_or_give_up(
        &self,
        failures: &mut Failures,
        error: RequestError,
        done: u64,
        progress: &dyn Progress,
    ) -> Result<(), RequestError> {
        let Some(delay) = failures.next_delay(&error, done, self.answered.load(Ordering::Relaxed)) else {
            return Err(error);
        };
        progress.report(Event::Waiting { reason: &error, delay });
        tokio::time::sleep(delay).await;
        Ok(())
    }

    /// Sends `call` once: logs in where that is asked for, follows redirects of `GET` and `HEAD`.
    pub(crate) async fn send_once(&self, call: &Call<'_>) -> Result<Response, RequestError> {
        let (mut url, mut at_home, mut renewed, mut redirects) =
            (call.url.clone(), self.is_home(&call.url), false, 0);
        loop {
            let ticket = self.ticket().await;
            let header = ticket.header.as_ref().filter(|_| at_home);
            let response = self.exchange(call, &url, header).await?;
            let status = response.status();
            if status == StatusCode::UNAUTHORIZED && at_home && !renewed {
                renewed = true;
                if self.renew(ticket.serial, response.headers()).await? {
                    continue;
                }
            }
            if call.wanted.contains(&status) {
                return Ok(response);
            }
            let reads = matches!(call.method, Method::GET | Method::HEAD);
            if status.is_redirection() && reads && response.headers().contains_key(LOCATION) {
                redirects += 1;
                if redirects > MAX_REDIRECTS {
                    let found = format!("more than {MAX_REDIRECTS} redirects");
                    return Err(RequestError::protocol(call.what, found, "an answer"));
                }
                url = self.location(&response, call.what)?;
                at_home &= self.is_home(&url);
                continue;
            }
            let user = ticket.user.filter(|_| at_home);
            return Err(RequestError::from_answer(response, call.what, &self.registry, user.as_deref()).await);
        }
    }

    /// One request and its answer, whatever it is. Goes with `authorization` exactly.
    async fn exchange(
        &self,
        call: &Call<'_>,
        url: &Url,
        authorization: Option<&HeaderValue>,
    ) -> Result<Response, RequestError> {
        let mut request = reqwest::Request::new(call.method.clone(), url.clone());
        *request.headers_mut() = call.headers.clone();
        if let Some(authorization) = authorization {
            request.headers_mut().insert(AUTHORIZATION, authorization.clone());
        }
        if !call.body.is_empty() || matches!(call.method, Method::POST | Method::PUT) {
            *request.body_mut() = Some(Body::from(call.body.clone()));
        }
        let sent = self.client.http(url).await?.execute(request);
        let answer = tokio::time::timeout(self.idle_timeout(), sent).await;
        self.answer(url, answer.map_err(|_| RequestError::stalled(url, self.idle_timeout()))?)
    }

    /// A request whose body streams, sent once, with the login that earlier requests have brought. Its
    /// answer is not judged; see [`Session::judge`].
    pub(crate) async fn stream(
        &self,
        url: &Url,
        method: Method,
        headers: HeaderMap,
        body: Body,
    ) -> Result<Unjudged, RequestError> {
        let mut request = reqwest::Request::new(method, url.clone());
        *request.headers_mut() = headers;
        *request.body_mut() = Some(body);
        let mut ticket = self.ticket().await;
        if let Some(header) = ticket.header.take().filter(|_| self.is_home(url)) {
            request.headers_mut().insert(AUTHORIZATION, header);
        }
        let answer = self.client.http(url).await?.execute(request).await;
        Ok(Unjudged { response: self.answer(url, answer)?, ticket })
    }

    /// Accepts an answer with a status that is `wanted`; others are errors. One that asks for a login has
    /// the ticket renewed, so that another attempt may succeed: `Ok(None)`.
    pub(crate) async fn judge(
        &self,
        answer: Unjudged,
        what: &str,
        wanted: &[StatusCode],
    ) -> Result<Option<Response>, RequestError> {
        let Unjudged { response, ticket } = answer;
        if wanted.contains(&response.status()) {
            return Ok(Some(response));
        }
        let at_home = self.is_home(response.url());
        if response.status() == StatusCode::UNAUTHORIZED
            && at_home
            && self.renew(ticket.serial, response.headers()).await?
        {
            return Ok(None);
        }
        let user = ticket.user.filter(|_| at_home);
        Err(RequestError::from_answer(response, what, &self.registry, user.as_deref()).await)
    }

    fn answer(&self, url: &Url, answer: reqwest::Result<Response>) -> Result<Response, RequestError> {
        let response = answer.map_err(|error| RequestError::unreachable(url, error))?;
        self.answered.store(true, Ordering::Relaxed);
        Ok(response)
    }

    /// The whole body of an answer, of at most `limit` bytes.
    pub(crate) async fn body(
        &self,
        mut response: Response,
        what: &str,
        limit: u64,
    ) -> Result<Bytes, RequestError> {
        let mut body = Vec::new();
        while let Some(piece) = self.piece(&mut response).await? {
            if (body.len() + piece.len()) as u64 > limit {
                let found = format!("more than {limit} bytes");
                return Err(RequestError::protocol(what, found, format!("at most {limit} bytes")));
            }
            body.extend_from_slice(&piece);
        }
        Ok(body.into())
    }

    /// The next piece of an answer's body; `None` at its end.
    pub(crate) async fn piece(&self, response: &mut Response) -> Result<Option<Bytes>, RequestError> {
        let url = response.url().clone();
        match tokio::time::timeout(self.idle_timeout(), response.chunk()).await {
            Ok(piece) => piece.map_err(|error| RequestError::cut(&url, error)),
            Err(_) => Err(RequestError::stalled(&url, self.idle_timeout())),
        }
    }

    fn is_home(&self, url: &Url) -> bool {
        url.origin() == self.base.origin()
    }

    /// Where an answer's `Location` points to, if we may go there.
    pub(crate) fn location(&self, response: &Response, what: &str) -> Result<Url, RequestError> {
        let from = response.url();
        let Some(value) = response.headers().get(LOCATION) else {
            return Err(RequestError::protocol(what, "no `Location`", "a `Location`"));
        };
        let text = String::from_utf8_lossy(value.as_bytes());
        let refuse = |to: String, problem| RequestError::BadRedirect { from: origin(from), to, problem };
        let mut url = from.join(&text).map_err(|_| refuse(printable(&text), "that is not a URL"))?;
        url.set_fragment(None);
        let to = format!("{}{}", origin(&url), printable(url.path()));
        match forbidden(&self.base, from, &url) {
            Some(problem) => Err(refuse(to, problem)),
            None => Ok(url),
        }
    }

    async fn ticket(&self) -> Ticket {
        let mut ticket = self.ticket.lock().await;
        if ticket.ends.is_some_and(|ends| Instant::now() >= ends) {
            // The registry will say again what it wants.
            (ticket.header, ticket.ends) = (None, None);
        }
        ticket.clone()
    }

    /// Gets what an answer asks for, unless ticket `seen` has been renewed meanwhile. False where there is
    /// nothing to be had: no challenge that we know, or no login for it.
    async fn renew(&self, seen: u64, headers: &HeaderMap) -> Result<bool, RequestError> {
        let mut ticket = self.ticket.lock().await;
        if ticket.serial != seen {
            return Ok(true);
        }
        let Some(challenge) = Challenge::from_headers(headers) else { return Ok(false) };
        let credential = self.credential().await?;
        let (header, ends) = match &challenge {
            Challenge::Basic => (credential.as_ref().and_then(challenge::basic), None),
            Challenge::Bearer { realm, service } => {
                let token = self.token(realm, service.as_deref(), credential.as_ref()).await?;
                let ends = Instant::now() + token.life - TOKEN_MARGIN;
                (Some(token.header), Some(ends))
            }
        };
        if header.is_none() {
            return Ok(false);
        }
        let user = credential.map(|credential| credential.user().to_owned());
        *ticket = Ticket { serial: seen + 1, header, ends, user };
        Ok(true)
    }

    async fn credential(&self) -> Result<Option<Credential>, RequestError> {
        let (source, registry) = (self.credentials.clone(), self.registry.clone());
        let repository = self.repository.as_ref().map(|(name, _)| name.clone());
        let found = tokio::task::spawn_blocking(move || source.find(&registry, repository.as_deref())).await;
        found
            .expect("looking up a login does not panic")
            .map_err(|source| RequestError::Credentials { registry: self.registry.clone(), source })
    }

    async fn token(
        &self,
        realm: &str,
        service: Option<&str>,
        credential: Option<&Credential>,
    ) -> Result<Token, RequestError> {
        let place = TokenService::new(&self.base, realm, &self.client.options.token_services)?;
        let request = TokenRequest::new(&place, service, &self.scopes(), credential)?;
        let what = "a token";
        let call = match request.form {
            Some(form) => Call::new(Method::POST, request.url, what, &[StatusCode::OK])
                .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
                .body(Bytes::copy_from_slice(form.reveal().as_bytes())),
            None => Call::new(Method::GET, request.url, what, &[StatusCode::OK]),
        };
        let response = self.exchange(&call, &call.url, request.authorization.as_ref()).await?;
        if response.status() != StatusCode::OK {
            let user = credential.map(Credential::user);
            return Err(RequestError::from_answer(response, what, &self.registry, user).await);
        }
        Token::parse(&self.body(response, what, MAX_TOKEN_ANSWER).await?)
    }

    /// What a token is for.
    fn scopes(&self) -> Vec<String> {
        let target = self.repository.as_ref().map(|(name, access)| match access {
            Access::Pull => format!("repository:{name}:pull"),
            Access::PullPush => format!("repository:{name}:pull,push"),
        });
        let source = self.source.as_ref().map(|name| format!("repository:{name}:pull"));
        target.into_iter().chain(source).collect()
    }
}

/// Why an answer from `from`, in a conversation with the registry at `base`, may not lead to `to`.
fn forbidden(base: &Url, from: &Url, to: &Url) -> Option<&'static str> {
    if !matches!(to.scheme(), "http" | "https") {
        Some("only http and https are followed")
    } else if to.scheme() == "http" && (from.scheme() == "https" || base.scheme() == "https") {
        Some("http does not follow https")
    } else if is_loopback(to) && !is_loopback(base) {
        Some("a registry elsewhere does not lead to this machine")
    } else if !to.username().is_empty() || to.password().is_some() {
        Some("an address must not hold a login")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(base: &str, to: &str, want: Option<&str>) {
        let (base, to) = (Url::parse(base).unwrap(), Url::parse(to).unwrap());
        assert_eq!(forbidden(&base, &base, &to), want);
    }

    #[test]
    fn answers_lead_neither_to_http_nor_to_this_machine_nor_with_a_login() {
        check("https://r.example", "https://s3.example/x", None);
        check("http://127.0.0.1:5000", "http://127.0.0.1:9000/x", None);
        check("http://127.0.0.1:5000", "https://s3.example/x", None);
        check("https://r.example", "http://r.example/x", Some("http does not follow https"));
        check("https://r.example", "file:///etc/passwd", Some("only http and https are followed"));
        let inside = Some("a registry elsewhere does not lead to this machine");
        check("https://r.example", "https://127.0.0.1/x", inside);
        check("https://r.example", "https://[::1]/x", inside);
        check("http://10.0.0.1", "http://localhost:2375/x", inside);
        check("https://r.example", "https://u:p@r.example/x", Some("an address must not hold a login"));
    }
}
