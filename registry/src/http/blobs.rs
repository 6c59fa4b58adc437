//! Reading and deleting blobs.
//!
//! Source: OCI distribution-spec 1.1, "Pulling blobs" (end-2), "Deleting Blobs" (end-10); RFC 9110,
//! sections 13 and 14.

use appliance::Digest;
use blob_store::ContentStream;
use http::header::{self, HeaderValue};
use http::{Method, StatusCode};

use super::body::ResponseBody;
use super::{Answer, ApiError, Call, DOCKER_CONTENT_DIGEST, Service, empty, etag, respond, text_value};
use crate::event::Event;
use crate::exchange::Exchange;
use crate::name::RepositoryName;
use crate::range::Wanted;
use crate::repository::RepositoryError;

impl Service {
    pub(super) async fn get_blob(
        &self,
        repository: &RepositoryName,
        digest: Digest,
        call: &Call,
        exchange: &Exchange,
    ) -> Answer {
        let unknown = ApiError::BlobUnknown { digest };
        let mut headers = vec![
            (DOCKER_CONTENT_DIGEST, text_value(&digest.to_string())),
            (header::ETAG, text_value(&etag(&digest))),
            (header::ACCEPT_RANGES, HeaderValue::from_static("bytes")),
            (header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream")),
        ];
        if call.method == Method::HEAD {
            let size = self.told_size(repository, &digest, exchange).await?.ok_or(unknown)?;
            headers.push((header::CONTENT_LENGTH, size.into()));
            return Ok(respond(StatusCode::OK, headers, ResponseBody::Stream(nothing())));
        }
        let object = self.repositories.open_blob(repository, &digest).await?.ok_or(unknown)?;
        if call.knows(&digest) {
            return Ok(empty(StatusCode::NOT_MODIFIED, headers));
        }
        let size = object.size_bytes();
        let (status, range) = match wanted(call, &digest, size) {
            Wanted::Whole => (StatusCode::OK, 0..size),
            Wanted::Unsatisfiable => return Err(ApiError::Range { size }),
            Wanted::Part(range) => {
                let text = format!("bytes {}-{}/{size}", range.start, range.end - 1);
                headers.push((header::CONTENT_RANGE, text_value(&text)));
                (StatusCode::PARTIAL_CONTENT, range)
            }
        };
        headers.push((header::CONTENT_LENGTH, (range.end - range.start).into()));
        Ok(respond(status, headers, ResponseBody::Stream(object.stream(range))))
    }

    /// Size of a blob in bytes, for a client that relies on it from now on.
    ///
    /// A storage that takes no writes cannot note that. The client is told what is there all the same, and
    /// the operator what failed: whoever pushes a manifest that names the blob has it noted then, or is
    /// refused.
    async fn told_size(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        exchange: &Exchange,
    ) -> Result<Option<u64>, RepositoryError> {
        let failed = match self.repositories.rely_on_blob(repository, digest).await {
            Err(error @ RepositoryError::Storage(_)) => error,
            relied => return relied,
        };
        let object = self.repositories.open_blob(repository, digest).await?;
        self.observer.observe(&Event::RequestFailed { request: exchange, error: &failed });
        Ok(object.map(|object| object.size_bytes()))
    }

    pub(super) async fn delete_blob(
        &self,
        repository: &RepositoryName,
        digest: Digest,
        call: &Call,
    ) -> Answer {
        match self.repositories.delete_blob(repository, &digest, call.author(repository)).await? {
            true => Ok(empty(StatusCode::ACCEPTED, [])),
            false => Err(ApiError::BlobUnknown { digest }),
        }
    }
}

/// The range that is asked for. `If-Range` with anything but this content's tag asks for the whole.
fn wanted(call: &Call, digest: &Digest, size: u64) -> Wanted {
    match call.header(&header::IF_RANGE) {
        Some(tag) if tag != etag(digest) => Wanted::Whole,
        _ => Wanted::parse(call.header(&header::RANGE), size),
    }
}

/// No content, of a length that a header tells.
fn nothing() -> ContentStream {
    Box::pin(futures_util::stream::empty())
}
