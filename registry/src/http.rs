//! The distribution protocol: from a request to an answer.
//!
//! Handlers are thin. They read the request into typed values, ask [`crate::repository`] or
//! [`crate::uploads`], and write down what came of it. Nothing here follows a URL that it was given.
//!
//! Source: OCI distribution-spec 1.1.

mod blobs;
pub(crate) mod body;
pub(crate) mod control;
mod error;
pub(crate) mod gate;
mod listings;
mod manifests;
pub(crate) mod operations;
mod referrers;
mod token;
mod upload_requests;

use std::sync::Arc;

use appliance::Digest;
use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;

use self::body::{Pace, RequestBody, ResponseBody};
use self::error::ApiError;
use self::gate::{Asked, Change, Gate};
use crate::access::gate::Caller;
use crate::access::right::Action;
use crate::event::{Event, Observer};
use crate::exchange::Exchange;
use crate::name::RepositoryName;
use crate::repository::{Author, Authority, Repositories};
use crate::route::Route;
use crate::uploads::Uploads;

const DOCKER_CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");
const DOCKER_UPLOAD_UUID: HeaderName = HeaderName::from_static("docker-upload-uuid");
const DOCKER_API_VERSION: HeaderName = HeaderName::from_static("docker-distribution-api-version");

type Answer = Result<Response<ResponseBody>, ApiError>;

/// Answers requests.
#[derive(Debug)]
pub(crate) struct Service {
    pub(crate) repositories: Arc<Repositories>,
    pub(crate) uploads: Arc<Uploads>,
    pub(crate) gate: Gate,
    pub(crate) pace: Pace,
    /// The longest path with its query.
    pub(crate) uri_bytes: usize,
    pub(crate) observer: Arc<dyn Observer>,
}

/// A request whose path was understood, by somebody who may do that.
struct Call {
    caller: Caller,
    method: Method,
    headers: HeaderMap,
    query: Query,
    body: RequestBody,
}

impl Service {
    pub(crate) async fn answer(
        &self,
        request: Request<Incoming>,
        exchange: &Arc<Exchange>,
    ) -> Response<ResponseBody> {
        self.route(request, exchange).await.unwrap_or_else(|error| {
            if error.status().is_server_error() {
                self.observer.observe(&Event::RequestFailed { request: exchange, error: &error });
            }
            error.into_response(exchange.method())
        })
    }

    async fn route(&self, request: Request<Incoming>, exchange: &Arc<Exchange>) -> Answer {
        let (head, body) = request.into_parts();
        let length = head.uri.path_and_query().map_or(0, |text| text.as_str().len());
        if length > self.uri_bytes {
            return Err(ApiError::LongUri { limit: self.uri_bytes });
        }
        let route = Route::parse(head.uri.path())?;
        exchange.routed(&route);
        let method = head.method;
        if !route.methods().contains(&method) {
            return Err(ApiError::Method { allowed: route.methods() });
        }
        let query = Query::parse(head.uri.query());
        // Also of those who may not, since they may be sending already.
        let body = RequestBody::new(body, self.pace, Arc::clone(exchange));
        let asked = Asked { route: &route, method: &method, query: &query };
        let caller = self.gate.admit(asked, &head.headers, exchange).await?;
        let change = Change::new(asked, &caller, exchange);
        let call = Call { caller, method, headers: head.headers, query, body };
        let answer = self.dispatch(route, call, exchange).await;
        if let Some(change) = change {
            change.answered(&answer, &self.gate.access);
        }
        answer
    }

    async fn dispatch(&self, route: Route, call: Call, exchange: &Exchange) -> Answer {
        match route {
            Route::Base => Ok(base()),
            Route::Manifest(repository, name) if call.method == Method::PUT => {
                self.put_manifest(repository, name, call).await
            }
            Route::Manifest(repository, name) if call.method == Method::DELETE => {
                self.delete_manifest(&repository, &name, &call).await
            }
            Route::Manifest(repository, name) => self.get_manifest(repository, name, &call).await,
            Route::Blob(repository, digest) if call.method == Method::DELETE => {
                self.delete_blob(&repository, digest, &call).await
            }
            Route::Blob(repository, digest) => self.get_blob(&repository, digest, &call, exchange).await,
            Route::Uploads(repository) => self.post_upload(repository, call).await,
            Route::Upload(repository, upload) => match call.method {
                Method::GET => self.upload_status(&repository, upload, &call).await,
                Method::PATCH => self.patch_upload(repository, upload, call).await,
                Method::PUT => self.put_upload(repository, upload, call).await,
                _ => self.cancel_upload(&repository, upload, &call).await,
            },
            Route::Tags(repository) => self.list_tags(&repository, &call).await,
            Route::Referrers(repository, subject) => self.list_referrers(&repository, &subject, &call).await,
            Route::Catalog => self.list_repositories(&call).await,
            Route::History(repository, tag) => self.list_history(&repository, &tag, &call).await,
            Route::Token => self.token(call, exchange.peer().ip()).await,
        }
    }
}

/// "Is this a registry?" Source: "Determining Support" (end-1).
fn base() -> Response<ResponseBody> {
    let headers = [(DOCKER_API_VERSION, HeaderValue::from_static("registry/2.0"))];
    json(headers, &serde_json::json!({}))
}

impl Call {
    /// A header's text. One with bytes that no text has counts as absent.
    fn header(&self, name: &HeaderName) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// Who asks, as whoever keeps the rules of a repository wants to know it.
    fn author(&self, repository: &RepositoryName) -> Author<'_> {
        let authority = match self.caller.may(Action::Admin, repository) {
            true => Authority::Admin,
            false => Authority::Ordinary,
        };
        Author { name: self.caller.name(), authority }
    }

    /// True if the client has the content already: `If-None-Match`, RFC 9110, section 13.1.2.
    fn knows(&self, digest: &Digest) -> bool {
        let etag = etag(digest);
        self.header(&header::IF_NONE_MATCH).is_some_and(|known| {
            known
                .split(',')
                .map(|tag| tag.trim().trim_start_matches("W/"))
                .any(|tag| tag == etag || tag == "*")
        })
    }
}

/// The parameters behind the `?`.
#[derive(Debug)]
struct Query(Vec<(String, String)>);

impl Query {
    fn parse(text: Option<&str>) -> Self {
        Self(form_urlencoded::parse(text.unwrap_or_default().as_bytes()).into_owned().collect())
    }

    /// All values of a parameter, in order.
    fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        self.0.iter().filter(move |(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// The value of a parameter; of several, the first.
    fn get(&self, name: &str) -> Option<&str> {
        self.all(name).next()
    }
}

fn etag(digest: &Digest) -> String {
    format!("\"{digest}\"")
}

fn text_value(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).expect("names, digests and numbers are visible ASCII")
}

fn respond(
    status: StatusCode,
    headers: impl IntoIterator<Item = (HeaderName, HeaderValue)>,
    body: ResponseBody,
) -> Response<ResponseBody> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().extend(headers);
    response
}

fn empty(
    status: StatusCode,
    headers: impl IntoIterator<Item = (HeaderName, HeaderValue)>,
) -> Response<ResponseBody> {
    respond(status, headers, ResponseBody::whole(Bytes::new()))
}

fn json(
    headers: impl IntoIterator<Item = (HeaderName, HeaderValue)>,
    value: &serde_json::Value,
) -> Response<ResponseBody> {
    let mut response = respond(StatusCode::OK, headers, ResponseBody::whole(value.to_string().into()));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
