//! Errors as clients see them: a status, one of the specification's codes, and a sentence.
//!
//! Source: OCI distribution-spec 1.1, "Error Codes". Codes for what the specification does not name
//! are `NO_SPACE`, `READ_ONLY` and `UNKNOWN`; all are answers to 5xx.

use appliance::Digest;
use blob_store::StorageError;
use http::header::{self, HeaderName, HeaderValue};
use http::{Method, Response, StatusCode};
use serde_json::json;

use super::body::{BodyError, ResponseBody};
use super::{respond, text_value};
use crate::access::login::LoginError;
use crate::log::LogError;
use crate::manifest::ManifestError;
use crate::name::NameError;
use crate::range::ChunkRangeError;
use crate::repository::RepositoryError;
use crate::route::RouteError;
use crate::upload::UploadError;
use crate::uploads::UploadsError;

/// Why a request was not done.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApiError {
    #[error(transparent)]
    Route(#[from] RouteError),
    #[error("the path and its parameters have more than {limit} bytes")]
    LongUri { limit: usize },
    #[error("a login is wanted, or another one")]
    Unauthorized { challenge: String },
    #[error("that is not allowed, or not to you")]
    Denied,
    #[error("expected `grant_type` `password` with `username` and `password`, or `refresh_token`")]
    BadGrant,
    #[error(transparent)]
    Login(#[from] LoginError),
    #[error("the method is not supported here")]
    Method { allowed: &'static [Method] },
    #[error("there is no blob {digest} in this repository")]
    BlobUnknown { digest: Digest },
    #[error("there is no such manifest in this repository")]
    ManifestUnknown,
    #[error("there is no such repository")]
    NameUnknown,
    #[error("the parameter `digest` is missing")]
    NoDigest,
    #[error("`{found}` is no digest algorithm of this registry; use `sha256` or `sha512`")]
    Algorithm { found: String },
    #[error("the content has digest {found}; the request says {wanted}")]
    ManifestDigest { wanted: Digest, found: Digest },
    #[error("at most {limit} tags are set at a time")]
    TooManyTags { limit: usize },
    #[error("`{value}` is not a number of entries")]
    BadCount { value: String },
    #[error("the blob has {size} bytes; the range lies outside")]
    Range { size: u64 },
    #[error(transparent)]
    ChunkRange(#[from] ChunkRangeError),
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    #[error(transparent)]
    Body(#[from] BodyError),
    #[error(transparent)]
    Upload(#[from] UploadsError),
    /// As [`ApiError::Upload`], with where the upload goes on.
    #[error("{error}")]
    OutOfOrder { error: UploadError, location: String, range: String },
    #[error(transparent)]
    Repository(#[from] RepositoryError),
}

impl From<NameError> for ApiError {
    fn from(error: NameError) -> Self {
        Self::Route(error.into())
    }
}

impl From<LogError> for ApiError {
    fn from(error: LogError) -> Self {
        Self::Login(error.into())
    }
}

impl ApiError {
    pub(crate) fn status(&self) -> StatusCode {
        self.status_and_code().0
    }

    /// The answer to a request of this method.
    pub(crate) fn into_response(self, method: &Method) -> Response<ResponseBody> {
        let (status, code) = self.status_and_code();
        let mut body = json!({ "errors": [{ "code": code, "message": self.message(status, method) }] });
        if let Some(detail) = self.detail() {
            body["errors"][0]["detail"] = detail;
        }
        let mut response = respond(status, self.headers(), ResponseBody::whole(body.to_string().into()));
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        response
    }

    fn status_and_code(&self) -> (StatusCode, &'static str) {
        match self {
            Self::Route(RouteError::Unknown) => (StatusCode::NOT_FOUND, "UNSUPPORTED"),
            Self::Route(RouteError::UploadId) | Self::Upload(UploadsError::Unknown) => {
                (StatusCode::NOT_FOUND, "BLOB_UPLOAD_UNKNOWN")
            }
            Self::Route(RouteError::Name(NameError::Repository { .. })) => {
                (StatusCode::BAD_REQUEST, "NAME_INVALID")
            }
            Self::Route(RouteError::Name(NameError::Tag { .. })) => {
                (StatusCode::BAD_REQUEST, "MANIFEST_INVALID")
            }
            Self::Route(RouteError::Name(NameError::Digest { .. }))
            | Self::NoDigest
            | Self::Algorithm { .. }
            | Self::ManifestDigest { .. }
            | Self::Upload(UploadsError::WrongDigest { .. }) => (StatusCode::BAD_REQUEST, "DIGEST_INVALID"),
            Self::LongUri { .. } => (StatusCode::URI_TOO_LONG, "UNSUPPORTED"),
            Self::Unauthorized { .. } => (StatusCode::UNAUTHORIZED, "UNAUTHORIZED"),
            Self::Denied => (StatusCode::FORBIDDEN, "DENIED"),
            Self::BadGrant => (StatusCode::BAD_REQUEST, "UNSUPPORTED"),
            Self::Login(LoginError::TooMany(_)) => (StatusCode::TOO_MANY_REQUESTS, "TOOMANYREQUESTS"),
            Self::Login(LoginError::Wrong | LoginError::BadToken) => {
                (StatusCode::UNAUTHORIZED, "UNAUTHORIZED")
            }
            Self::Login(LoginError::Records(LogError::Storage(error))) => of_storage(error),
            Self::Login(LoginError::Records(LogError::Damaged { .. })) => {
                (StatusCode::INTERNAL_SERVER_ERROR, "UNKNOWN")
            }
            Self::Method { .. } => (StatusCode::METHOD_NOT_ALLOWED, "UNSUPPORTED"),
            Self::BlobUnknown { .. } => (StatusCode::NOT_FOUND, "BLOB_UNKNOWN"),
            Self::ManifestUnknown => (StatusCode::NOT_FOUND, "MANIFEST_UNKNOWN"),
            Self::NameUnknown => (StatusCode::NOT_FOUND, "NAME_UNKNOWN"),
            Self::BadCount { .. } => (StatusCode::BAD_REQUEST, "UNSUPPORTED"),
            Self::TooManyTags { .. } => (StatusCode::URI_TOO_LONG, "UNSUPPORTED"),
            Self::Range { .. } => (StatusCode::RANGE_NOT_SATISFIABLE, "SIZE_INVALID"),
            Self::ChunkRange(_) => (StatusCode::BAD_REQUEST, "BLOB_UPLOAD_INVALID"),
            Self::OutOfOrder { .. } => (StatusCode::RANGE_NOT_SATISFIABLE, "BLOB_UPLOAD_INVALID"),
            Self::Repository(RepositoryError::MissingBlobs { .. }) => {
                (StatusCode::NOT_FOUND, "MANIFEST_BLOB_UNKNOWN")
            }
            Self::Manifest(_) | Self::Repository(RepositoryError::OtherMediaType { .. }) => {
                (StatusCode::BAD_REQUEST, "MANIFEST_INVALID")
            }
            Self::Repository(RepositoryError::Immutable { .. } | RepositoryError::Quota(_))
            | Self::Upload(UploadsError::Repository(RepositoryError::Quota(_))) => {
                (StatusCode::FORBIDDEN, "DENIED")
            }
            Self::Upload(UploadsError::Rule(error)) => of_rule(error),
            Self::Upload(UploadsError::TooMany) => (StatusCode::TOO_MANY_REQUESTS, "TOOMANYREQUESTS"),
            Self::Upload(UploadsError::Overtaken) => (StatusCode::CONFLICT, "BLOB_UPLOAD_INVALID"),
            Self::Body(error) | Self::Upload(UploadsError::Body(error)) => of_body(error),
            Self::Upload(UploadsError::Storage(error))
            | Self::Repository(RepositoryError::Storage(error)) => of_storage(error),
            Self::Repository(RepositoryError::Contended)
            | Self::Upload(UploadsError::Repository(RepositoryError::Contended)) => {
                (StatusCode::SERVICE_UNAVAILABLE, "UNKNOWN")
            }
            Self::Repository(RepositoryError::Damaged { .. }) | Self::Upload(UploadsError::Repository(_)) => {
                (StatusCode::INTERNAL_SERVER_ERROR, "UNKNOWN")
            }
        }
    }

    /// The error and what caused it. What goes wrong inside stays inside: of that, clients are told what
    /// became of their request.
    fn message(&self, status: StatusCode, method: &Method) -> String {
        if status == StatusCode::INTERNAL_SERVER_ERROR {
            let what = match *method {
                _ if !self.is_of_storage() => "the registry failed",
                Method::GET | Method::HEAD => "the registry's storage failed",
                Method::DELETE => "the registry's storage failed, and nothing is certain to be deleted",
                _ => "the registry's storage failed, and this push is not stored",
            };
            return format!("{what}; its operator finds the reason in its log");
        }
        let mut message = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            message = format!("{message}: {error}");
            cause = error.source();
        }
        message
    }

    /// True if what was asked for failed in the storage.
    fn is_of_storage(&self) -> bool {
        matches!(self, Self::Upload(UploadsError::Storage(_)) | Self::Repository(RepositoryError::Storage(_)))
    }

    fn detail(&self) -> Option<serde_json::Value> {
        match self {
            Self::Repository(RepositoryError::MissingBlobs { missing }) => {
                Some(json!({ "digests": missing }))
            }
            Self::BlobUnknown { digest } => Some(json!({ "digest": digest })),
            Self::Repository(RepositoryError::Quota(exceeded))
            | Self::Upload(UploadsError::Repository(RepositoryError::Quota(exceeded))) => Some(json!({
                "limit": exceeded.limit_bytes, "used": exceeded.used_bytes,
                "uploading": exceeded.reserved_bytes, "wanted": exceeded.wanted_bytes
            })),
            _ => None,
        }
    }

    fn headers(&self) -> Vec<(HeaderName, HeaderValue)> {
        match self {
            Self::Method { allowed } => {
                let names: Vec<&str> = allowed.iter().map(Method::as_str).collect();
                vec![(header::ALLOW, text_value(&names.join(", ")))]
            }
            Self::Unauthorized { challenge } => {
                vec![(header::WWW_AUTHENTICATE, text_value(challenge))]
            }
            Self::Login(LoginError::TooMany(too_many)) => {
                vec![(header::RETRY_AFTER, too_many.retry_after.as_secs().max(1).into())]
            }
            Self::Range { size } => vec![(header::CONTENT_RANGE, text_value(&format!("bytes */{size}")))],
            Self::OutOfOrder { location, range, .. } => {
                vec![(header::LOCATION, text_value(location)), (header::RANGE, text_value(range))]
            }
            Self::Upload(UploadsError::TooMany) => {
                vec![(header::RETRY_AFTER, HeaderValue::from_static("30"))]
            }
            _ => Vec::new(),
        }
    }
}

fn of_rule(error: &UploadError) -> (StatusCode, &'static str) {
    match error {
        UploadError::OutOfOrder { .. } => (StatusCode::RANGE_NOT_SATISFIABLE, "BLOB_UPLOAD_INVALID"),
        UploadError::LengthMismatch { .. } => (StatusCode::BAD_REQUEST, "SIZE_INVALID"),
        UploadError::TooLarge { .. } => (StatusCode::PAYLOAD_TOO_LARGE, "SIZE_INVALID"),
    }
}

fn of_body(error: &BodyError) -> (StatusCode, &'static str) {
    match error {
        BodyError::TooSlow { .. } => (StatusCode::REQUEST_TIMEOUT, "SIZE_INVALID"),
        BodyError::TooLarge { .. } => (StatusCode::PAYLOAD_TOO_LARGE, "SIZE_INVALID"),
        BodyError::Broken(_) => (StatusCode::BAD_REQUEST, "SIZE_INVALID"),
    }
}

fn of_storage(error: &StorageError) -> (StatusCode, &'static str) {
    match error {
        StorageError::Full => (StatusCode::INSUFFICIENT_STORAGE, "NO_SPACE"),
        StorageError::ReadOnly => (StatusCode::SERVICE_UNAVAILABLE, "READ_ONLY"),
        StorageError::NoSession { .. } => (StatusCode::NOT_FOUND, "BLOB_UPLOAD_UNKNOWN"),
        _ => (StatusCode::INTERNAL_SERVER_ERROR, "UNKNOWN"),
    }
}
