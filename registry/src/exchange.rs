//! One request, from its head to the last byte of its answer: what logs and metrics tell of it.
//!
//! The handlers note what they learn. When the answer's body is gone, sent or not, the observer is
//! told, once for each request. What a secret could hide in is not told: no query, no header but
//! `User-Agent`, and of an upload's path only the part before its name.

use std::borrow::Cow;
use std::fmt;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use http::{HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use hyper::body::{Body, Frame, SizeHint};
use percent_encoding::percent_decode_str;

use crate::event::{Event, Observer};
use crate::name::RepositoryName;
use crate::route::Route;
use crate::workers::Burden;

/// Characters of a path or of a `User-Agent` that are told.
const MAX_TOLD: usize = 512;

/// A request and what became of it.
pub struct Exchange {
    id: String,
    peer: SocketAddr,
    begun: Instant,
    method: Method,
    uri: Uri,
    user_agent: Option<HeaderValue>,
    route: OnceLock<(&'static str, Option<RepositoryName>)>,
    principal: OnceLock<String>,
    /// 0 until it is answered.
    status: AtomicU16,
    received_bytes: AtomicU64,
    sent_bytes: AtomicU64,
    is_sent: AtomicBool,
}

impl Exchange {
    pub(crate) fn begin<B>(id: String, peer: SocketAddr, request: &Request<B>) -> Self {
        Self {
            id,
            peer,
            begun: Instant::now(),
            method: request.method().clone(),
            uri: request.uri().clone(),
            user_agent: request.headers().get(header::USER_AGENT).cloned(),
            route: OnceLock::new(),
            principal: OnceLock::new(),
            status: AtomicU16::new(0),
            received_bytes: AtomicU64::new(0),
            sent_bytes: AtomicU64::new(0),
            is_sent: AtomicBool::new(false),
        }
    }

    /// A name for the request, 16 hex digits, which the client gets as `x-request-id`.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Where the connection comes from. Behind a proxy, that is the proxy.
    pub fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// The request's method.
    pub fn method(&self) -> &Method {
        &self.method
    }

    /// The form of the path, such as `/v2/<name>/blobs/<digest>`: one of a few, whatever clients send.
    /// Paths that mean nothing are `other`.
    pub fn route(&self) -> &'static str {
        self.route.get().map_or("other", |(template, _)| template)
    }

    /// The repository, if the path names one.
    pub fn repository(&self) -> Option<&str> {
        self.route.get()?.1.as_ref().map(RepositoryName::as_str)
    }

    /// The path, decoded and of at most 512 characters, without the query and without the name of an
    /// upload. It may hold control characters.
    pub fn path(&self) -> String {
        let decoded = percent_decode_str(self.uri.path()).decode_utf8_lossy();
        let told: Cow<'_, str> = match decoded.rfind("/uploads/") {
            Some(at) => format!("{}/uploads/...", &decoded[..at]).into(),
            None => decoded,
        };
        told.chars().take(MAX_TOLD).collect()
    }

    /// Who asked, once that is known.
    pub fn principal(&self) -> Option<&str> {
        self.principal.get().map(String::as_str)
    }

    /// The `User-Agent`, of at most 512 characters, if it is text.
    pub fn user_agent(&self) -> Option<&str> {
        let text = self.user_agent.as_ref()?.to_str().ok()?;
        Some(&text[..text.len().min(MAX_TOLD)]) // visible ASCII, so any place is between characters
    }

    /// The status of the answer; `None` if the client went away before there was one.
    pub fn status(&self) -> Option<u16> {
        Some(self.status.load(Ordering::Relaxed)).filter(|status| *status > 0)
    }

    /// Bytes of the request's body that have arrived.
    pub fn received_bytes(&self) -> u64 {
        self.received_bytes.load(Ordering::Relaxed)
    }

    /// Bytes of the answer's body that were handed to the connection.
    pub fn sent_bytes(&self) -> u64 {
        self.sent_bytes.load(Ordering::Relaxed)
    }

    /// True if all of the answer was handed to the connection.
    pub fn is_sent(&self) -> bool {
        self.is_sent.load(Ordering::Relaxed)
    }

    /// True if the answer says that the repository has a blob that it may not have had before.
    pub(crate) fn has_pushed_blob(&self) -> bool {
        let is_upload = self.route().starts_with("/v2/<name>/blobs/uploads/");
        is_upload && self.status() == Some(StatusCode::CREATED.as_u16())
    }

    /// How long it has taken so far.
    pub fn duration(&self) -> Duration {
        self.begun.elapsed()
    }

    /// Notes what the path means.
    pub(crate) fn routed(&self, route: &Route) {
        // Set once, by the one handler of the request.
        let _ = self.route.set((route.template(), route.repository().cloned()));
    }

    /// Notes who asks.
    pub(crate) fn asked_by(&self, principal: String) {
        // Set once, by the gate.
        let _ = self.principal.set(principal);
    }

    /// Notes bytes of the request's body.
    pub(crate) fn received(&self, bytes: usize) {
        self.received_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

/// What is told, and nothing of the query or of the headers.
impl fmt::Debug for Exchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exchange")
            .field("id", &self.id)
            .field("method", &self.method)
            .field("path", &self.path())
            .field("status", &self.status())
            .finish_non_exhaustive()
    }
}

/// Tells the observer of a request when it is over, however it ends.
#[derive(Debug)]
pub(crate) struct Watch {
    exchange: Arc<Exchange>,
    /// Counts as long as the request is under way.
    _burden: Burden,
    observer: Arc<dyn Observer>,
}

impl Watch {
    pub(crate) fn new(exchange: Arc<Exchange>, burden: Burden, observer: Arc<dyn Observer>) -> Self {
        Self { exchange, _burden: burden, observer }
    }

    /// The answer has begun; it is over when its body is.
    pub(crate) fn answered<B: Body>(self, response: Response<B>) -> Response<WatchedBody<B>> {
        self.exchange.status.store(response.status().as_u16(), Ordering::Relaxed);
        let has_no_body = self.exchange.method == Method::HEAD || response.body().is_end_stream();
        self.exchange.is_sent.store(has_no_body, Ordering::Relaxed);
        let length = response.headers().get(header::CONTENT_LENGTH);
        let length = length.and_then(|length| length.to_str().ok()?.parse().ok());
        response.map(|body| WatchedBody { body, length, watch: self })
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.observer.observe(&Event::RequestAnswered { request: &self.exchange });
    }
}

/// The body of an answer, watched.
#[derive(Debug)]
pub(crate) struct WatchedBody<B> {
    body: B,
    /// Bytes that were promised. Who has them does not ask whether there are more.
    length: Option<u64>,
    watch: Watch,
}

impl<B: Body<Data = bytes::Bytes> + Unpin> Body for WatchedBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        let exchange = &self.watch.exchange;
        if let Some(Ok(piece)) = &frame {
            let bytes = piece.data_ref().map_or(0, bytes::Bytes::len) as u64;
            exchange.sent_bytes.fetch_add(bytes, Ordering::Relaxed);
        }
        let has_all = self.length.is_some_and(|length| exchange.sent_bytes() >= length);
        if frame.is_none() || has_all || self.body.is_end_stream() {
            exchange.is_sent.store(true, Ordering::Relaxed);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Draws names for requests: different ones, and not in a visible order.
#[derive(Debug)]
pub(crate) struct RequestIds {
    first: u64,
    drawn: AtomicU64,
}

impl RequestIds {
    /// `seed` is drawn at random for each process.
    pub(crate) fn new(seed: [u8; 8]) -> Self {
        Self { first: u64::from_le_bytes(seed), drawn: AtomicU64::new(0) }
    }

    pub(crate) fn draw(&self) -> String {
        // Times an odd number: no two of the first 2^64 are the same.
        const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
        let n = self.drawn.fetch_add(1, Ordering::Relaxed);
        format!("{:016x}", self.first.wrapping_add(n.wrapping_mul(STEP)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exchange(uri: &str) -> Exchange {
        let request = Request::get(uri).header("user-agent", "docker/27").body(()).unwrap();
        Exchange::begin("0".repeat(16), "192.0.2.1:1000".parse().unwrap(), &request)
    }

    #[test]
    fn what_is_told_of_a_path_has_no_secret() {
        let check = |uri: &str, want: &str| assert_eq!(exchange(uri).path(), want, "{uri}");
        check("/v2/web/manifests/1.4?token=secret", "/v2/web/manifests/1.4");
        check("/v2/web/blobs/uploads/", "/v2/web/blobs/uploads/...");
        check("/v2/web/blobs/uploads/secret", "/v2/web/blobs/uploads/...");
        check("/v2/web/blobs%2fuploads%2Fsecret", "/v2/web/blobs/uploads/...");
        check("/v2/web/blobs/%75ploads/secret?x", "/v2/web/blobs/uploads/...");
        check("/v2/uploads/x/blobs/uploads/secret", "/v2/uploads/x/blobs/uploads/...");
        check("/%1b%5b2J", "/\u{1b}[2J");
        check(&format!("/{}", "a".repeat(2000)), &format!("/{}", "a".repeat(511)));
        let told = format!("{:?}", exchange("/v2/web/blobs/uploads/secret?digest=secret"));
        assert!(!told.contains("secret"), "{told}");
    }

    #[test]
    fn each_request_has_a_name_of_its_own() {
        let ids = RequestIds::new([7; 8]);
        let drawn: std::collections::HashSet<_> = (0..1000).map(|_| ids.draw()).collect();
        assert_eq!(drawn.len(), 1000);
        assert!(drawn.iter().all(|id| id.len() == 16));
    }
}
