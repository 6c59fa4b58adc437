//! What those who run the server may ask: does it live, is it ready, what has it counted.
//!
//! | path | 200 | 503 |
//! | --- | --- | --- |
//! | `/livez` | always | |
//! | `/readyz` | new requests are welcome | the server is stopping, or the storage takes no writes |
//! | `/metrics` | counters, as Prometheus reads them | |
//!
//! Answers are a line of text. The paths are Kubernetes' conventions; `/metrics` is Prometheus'.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use blob_store::{Storage, StorageError};
use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use tokio::sync::watch;

use crate::metrics::{self, Metrics};
use crate::uploads::Uploads;

/// How long the storage may take to say that it is well.
const PATIENCE: Duration = Duration::from_secs(5);

/// Answers probes.
#[derive(Debug)]
pub(crate) struct Probes {
    pub(crate) storage: Arc<dyn Storage>,
    pub(crate) uploads: Arc<Uploads>,
    pub(crate) metrics: Arc<Metrics>,
    /// True once the server is stopping.
    pub(crate) is_draining: watch::Receiver<bool>,
}

/// Why new requests should go elsewhere.
#[derive(Debug, thiserror::Error)]
enum NotReady {
    #[error("the server is stopping")]
    Draining,
    #[error("the storage has not answered within {} seconds", PATIENCE.as_secs())]
    Silent,
    #[error(transparent)]
    Storage(#[from] StorageError),
}

impl Probes {
    pub(crate) async fn answer(
        self: Arc<Self>,
        request: Request<Incoming>,
    ) -> Result<Response<Full<Bytes>>, Infallible> {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n");
            response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
            return Ok(response);
        }
        Ok(match request.uri().path() {
            "/livez" => text(StatusCode::OK, "ok\n"),
            "/readyz" => match self.ready().await {
                Ok(()) => text(StatusCode::OK, "ok\n"),
                Err(reason) => text(StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")),
            },
            "/metrics" => {
                let mut response = text(StatusCode::OK, self.metrics.text(self.uploads.open_count()));
                let media_type = HeaderValue::from_static(metrics::MEDIA_TYPE);
                response.headers_mut().insert(header::CONTENT_TYPE, media_type);
                response
            }
            _ => text(StatusCode::NOT_FOUND, "here are /livez, /readyz and /metrics\n"),
        })
    }

    async fn ready(&self) -> Result<(), NotReady> {
        if *self.is_draining.borrow() {
            return Err(NotReady::Draining);
        }
        let checked = tokio::time::timeout(PATIENCE, self.storage.check_writable()).await;
        Ok(checked.map_err(|_| NotReady::Silent)??)
    }
}

fn text(status: StatusCode, text: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(text.into()));
    *response.status_mut() = status;
    let media_type = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, media_type);
    response
}
