//! Pushing blobs: the requests. What they do is [`crate::uploads`]'.
//!
//! Source: OCI distribution-spec 1.1, "Pushing blobs" (end-4a, end-4b, end-4c, end-5, end-6, end-11, end-13),
//! "Cancelling" (the `DELETE` of the specification's development version).

use appliance::{Algorithm, Digest};
use http::StatusCode;
use http::header::{self, HeaderName, HeaderValue};

use super::{Answer, ApiError, Call, DOCKER_CONTENT_DIGEST, DOCKER_UPLOAD_UUID, Service, empty, text_value};
use crate::access::right::Action;
use crate::name::{RepositoryName, UploadId, parse_digest};
use crate::range::ByteRange;
use crate::upload::{ChunkHead, UploadError};
use crate::uploads::{Target, UploadsError};

impl Service {
    /// Opens an upload, or makes one unnecessary: by a mount, or with the content in the body.
    pub(super) async fn post_upload(&self, repository: RepositoryName, call: Call) -> Answer {
        if let Some(digest) = call.query.get("mount") {
            let digest = parse_digest(digest)?;
            if self.mount(&repository, &digest, &call).await? {
                return Ok(created(&repository, &digest));
            }
        } else if let Some(digest) = call.query.get("digest") {
            let digest = parse_digest(digest)?;
            let head = chunk_head(&call)?;
            let to = Target { repository: &repository, owner: call.caller.principal() };
            self.uploads.push(to, digest, head, call.body).await?;
            return Ok(created(&repository, &digest));
        }
        known_algorithm(call.query.get("digest-algorithm"))?;
        let to = Target { repository: &repository, owner: call.caller.principal() };
        let upload = self.uploads.begin(to).await?;
        Ok(empty(StatusCode::ACCEPTED, progress(&repository, upload, 0)))
    }

    /// Where an interrupted upload goes on.
    pub(super) async fn upload_status(
        &self,
        repository: &RepositoryName,
        upload: UploadId,
        call: &Call,
    ) -> Answer {
        let to = Target { repository, owner: call.caller.principal() };
        let received = self.uploads.received(to, upload).await?;
        Ok(empty(StatusCode::NO_CONTENT, progress(repository, upload, received)))
    }

    pub(super) async fn patch_upload(
        &self,
        repository: RepositoryName,
        upload: UploadId,
        call: Call,
    ) -> Answer {
        let head = chunk_head(&call)?;
        let to = Target { repository: &repository, owner: call.caller.principal() };
        let appended = self.uploads.append(to, upload, head, call.body).await;
        let received = appended.map_err(|error| located(error, &repository, upload))?;
        Ok(empty(StatusCode::ACCEPTED, progress(&repository, upload, received)))
    }

    pub(super) async fn put_upload(
        &self,
        repository: RepositoryName,
        upload: UploadId,
        call: Call,
    ) -> Answer {
        let digest = parse_digest(call.query.get("digest").ok_or(ApiError::NoDigest)?)?;
        let head = chunk_head(&call)?;
        let to = Target { repository: &repository, owner: call.caller.principal() };
        let finished = self.uploads.finish(to, upload, digest, head, call.body).await;
        finished.map_err(|error| located(error, &repository, upload))?;
        Ok(created(&repository, &digest))
    }

    pub(super) async fn cancel_upload(
        &self,
        repository: &RepositoryName,
        upload: UploadId,
        call: &Call,
    ) -> Answer {
        let to = Target { repository, owner: call.caller.principal() };
        self.uploads.cancel(to, upload).await?;
        Ok(empty(StatusCode::NO_CONTENT, []))
    }

    /// True if the blob is in `repository` now. A source that has no such blob, is no repository, or
    /// may not be read by whoever asks, is no error: the client uploads then. Without a source, any
    /// repository will do that they may read.
    async fn mount(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        call: &Call,
    ) -> Result<bool, ApiError> {
        let may_read = |from: &RepositoryName| call.caller.may(Action::Pull, from);
        let from = match call.query.get("from") {
            Some(from) => Some(RepositoryName::parse(from)?).filter(may_read),
            None => self.repositories.who_has(digest, may_read).await?,
        };
        let Some(from) = from else { return Ok(false) };
        Ok(self.repositories.mount_blob(&from, repository, digest).await?)
    }
}

/// Whether the upload can be closed with such a digest; which one it is then does not matter before the end (end-4c).
fn known_algorithm(name: Option<&str>) -> Result<(), ApiError> {
    let known = [Algorithm::Sha256, Algorithm::Sha512].map(Algorithm::as_str);
    match name {
        Some(name) if !known.contains(&name) => {
            Err(ApiError::Algorithm { found: name.escape_debug().to_string() })
        }
        _ => Ok(()),
    }
}

fn chunk_head(call: &Call) -> Result<ChunkHead, ApiError> {
    let range = call.header(&header::CONTENT_RANGE).map(ByteRange::parse_chunk).transpose()?;
    let length = call.header(&header::CONTENT_LENGTH).and_then(|text| text.parse().ok());
    Ok(ChunkHead { range, length })
}

fn created(repository: &RepositoryName, digest: &Digest) -> http::Response<super::ResponseBody> {
    let headers = [
        (header::LOCATION, text_value(&format!("/v2/{repository}/blobs/{digest}"))),
        (DOCKER_CONTENT_DIGEST, text_value(&digest.to_string())),
    ];
    empty(StatusCode::CREATED, headers)
}

fn progress(repository: &RepositoryName, upload: UploadId, received: u64) -> [(HeaderName, HeaderValue); 3] {
    [
        (header::LOCATION, text_value(&location(repository, upload))),
        (header::RANGE, text_value(&range(received))),
        (DOCKER_UPLOAD_UUID, text_value(&upload.to_string())),
    ]
}

fn location(repository: &RepositoryName, upload: UploadId) -> String {
    format!("/v2/{repository}/blobs/uploads/{upload}")
}

/// Both ends included, as everywhere in the specification; so nothing looks like one byte.
fn range(received: u64) -> String {
    format!("0-{}", received.saturating_sub(1))
}

/// Tells a client that lost count where to go on.
fn located(error: UploadsError, repository: &RepositoryName, upload: UploadId) -> ApiError {
    match error {
        UploadsError::Rule(error @ UploadError::OutOfOrder { want, .. }) => {
            ApiError::OutOfOrder { error, location: location(repository, upload), range: range(want) }
        }
        error => error.into(),
    }
}
