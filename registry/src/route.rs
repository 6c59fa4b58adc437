//! What a path asks for.
//!
//! Repository names contain `/`, so paths are read from their right-hand end, where the fixed words
//! are:
//!
//! ```text
//! /v2/                                 Base
//! /v2/<name>/manifests/<reference>     Manifest
//! /v2/<name>/blobs/<digest>            Blob
//! /v2/<name>/blobs/uploads/            Uploads
//! /v2/<name>/blobs/uploads/<id>        Upload
//! /v2/<name>/tags/list                 Tags
//! /v2/<name>/referrers/<digest>        Referrers
//! /v2/_catalog                         Catalog (docker's)
//! /v2/<name>/_hull/tags/<tag>/history  History (ours)
//! /token                               Token (docker's)
//! ```
//!
//! Source: OCI distribution-spec 1.1, "Endpoints".

use appliance::Digest;
use http::Method;
use percent_encoding::percent_decode_str;

use crate::name::{ManifestName, NameError, RepositoryName, Tag, UploadId, parse_digest};

/// A path that means something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Route {
    Base,
    Manifest(RepositoryName, ManifestName),
    Blob(RepositoryName, Digest),
    Uploads(RepositoryName),
    Upload(RepositoryName, UploadId),
    Tags(RepositoryName),
    Referrers(RepositoryName, Digest),
    Catalog,
    History(RepositoryName, Tag),
    Token,
}

/// Why a path means nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RouteError {
    #[error("nothing is served at this path")]
    Unknown,
    #[error("there is no such upload in this repository")]
    UploadId,
    #[error(transparent)]
    Name(#[from] NameError),
}

impl Route {
    /// Reads a request's path, percent-encoded as it came.
    pub(crate) fn parse(path: &str) -> Result<Self, RouteError> {
        let path = percent_decode_str(path).decode_utf8().map_err(|_| RouteError::Unknown)?;
        if path == "/token" {
            return Ok(Self::Token);
        }
        let rest = path.strip_prefix("/v2").ok_or(RouteError::Unknown)?;
        if matches!(rest, "" | "/") {
            return Ok(Self::Base);
        }
        let rest = rest.strip_prefix('/').ok_or(RouteError::Unknown)?;
        if rest == "_catalog" {
            return Ok(Self::Catalog);
        }
        let (head, last) = rest.rsplit_once('/').ok_or(RouteError::Unknown)?;
        let (name, word) = head.rsplit_once('/').unwrap_or(("", head));
        if let (Some(name), "uploads") = (name.strip_suffix("/blobs"), word) {
            let name = RepositoryName::parse(name)?;
            return match last {
                "" => Ok(Self::Uploads(name)),
                id => Ok(Self::Upload(name, UploadId::parse(id).ok_or(RouteError::UploadId)?)),
            };
        }
        match (name, word, last) {
            (name, "blobs", "uploads") => Ok(Self::Uploads(RepositoryName::parse(name)?)),
            (name, "manifests", reference) => {
                Ok(Self::Manifest(RepositoryName::parse(name)?, ManifestName::parse(reference)?))
            }
            (name, "blobs", digest) => Ok(Self::Blob(RepositoryName::parse(name)?, parse_digest(digest)?)),
            (name, "tags", "list") => Ok(Self::Tags(RepositoryName::parse(name)?)),
            (name, "referrers", digest) => {
                Ok(Self::Referrers(RepositoryName::parse(name)?, parse_digest(digest)?))
            }
            (name, tag, "history") if name.ends_with("/_hull/tags") => {
                let name = RepositoryName::parse(name.trim_end_matches("/_hull/tags"))?;
                Ok(Self::History(name, Tag::parse(tag)?))
            }
            _ => Err(RouteError::Unknown),
        }
    }

    /// The form of the path, for logs and counters.
    pub(crate) fn template(&self) -> &'static str {
        match self {
            Self::Base => "/v2/",
            Self::Manifest(..) => "/v2/<name>/manifests/<reference>",
            Self::Blob(..) => "/v2/<name>/blobs/<digest>",
            Self::Uploads(_) => "/v2/<name>/blobs/uploads/",
            Self::Upload(..) => "/v2/<name>/blobs/uploads/<id>",
            Self::Tags(_) => "/v2/<name>/tags/list",
            Self::Referrers(..) => "/v2/<name>/referrers/<digest>",
            Self::Catalog => "/v2/_catalog",
            Self::History(..) => "/v2/<name>/_hull/tags/<tag>/history",
            Self::Token => "/token",
        }
    }

    /// The repository that the path names.
    pub(crate) fn repository(&self) -> Option<&RepositoryName> {
        match self {
            Self::Base | Self::Catalog | Self::Token => None,
            Self::Manifest(name, _)
            | Self::Blob(name, _)
            | Self::Uploads(name)
            | Self::Upload(name, _)
            | Self::Tags(name)
            | Self::Referrers(name, _)
            | Self::History(name, _) => Some(name),
        }
    }

    /// The methods that the path understands, as in `Allow`.
    pub(crate) fn methods(&self) -> &'static [Method] {
        match self {
            Self::Base | Self::Tags(_) | Self::Referrers(..) | Self::Catalog | Self::History(..) => {
                &[Method::GET, Method::HEAD]
            }
            Self::Blob(..) => &[Method::GET, Method::HEAD, Method::DELETE],
            Self::Manifest(..) => &[Method::GET, Method::HEAD, Method::PUT, Method::DELETE],
            Self::Uploads(_) => &[Method::POST],
            Self::Token => &[Method::GET, Method::POST],
            Self::Upload(..) => &[Method::GET, Method::PATCH, Method::PUT, Method::DELETE],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Time;

    const EMPTY: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[track_caller]
    fn check(path: &str, want: Route) {
        assert_eq!(Route::parse(path), Ok(want), "{path}");
    }

    #[track_caller]
    fn check_error(path: &str, want: &str) {
        let error = Route::parse(path).unwrap_err().to_string();
        assert!(error.starts_with(want), "{path}: {error}");
    }

    fn name(text: &str) -> RepositoryName {
        RepositoryName::parse(text).unwrap()
    }

    fn tag(text: &str) -> ManifestName {
        ManifestName::Tag(Tag::parse(text).unwrap())
    }

    #[test]
    fn each_endpoint_is_recognised_from_its_right_hand_end() {
        let empty = Digest::sha256(b"");
        check("/v2", Route::Base);
        check("/v2/", Route::Base);
        check("/v2/web/manifests/1.4", Route::Manifest(name("web"), tag("1.4")));
        check("/v2/a/b/c/manifests/latest", Route::Manifest(name("a/b/c"), tag("latest")));
        check(
            &format!("/v2/web/manifests/{EMPTY}"),
            Route::Manifest(name("web"), ManifestName::Digest(empty)),
        );
        check(&format!("/v2/web/blobs/{EMPTY}"), Route::Blob(name("web"), empty));
        check(&format!("/v2/web/blobs/{}", EMPTY.replace(':', "%3A")), Route::Blob(name("web"), empty));
        check("/v2/web/blobs/uploads/", Route::Uploads(name("web")));
        check("/v2/web/blobs/uploads", Route::Uploads(name("web")));
        check(
            &format!("/v2/a/b/blobs/uploads/{}", "0".repeat(48)),
            Route::Upload(name("a/b"), UploadId::new(Time::from_secs(0), [0; 16])),
        );
        check("/v2/web/tags/list", Route::Tags(name("web")));
        check("/token", Route::Token);
        check(&format!("/v2/a/b/referrers/{EMPTY}"), Route::Referrers(name("a/b"), empty));
        check("/v2/_catalog", Route::Catalog);
        check("/v2/a/b/_hull/tags/1.4/history", Route::History(name("a/b"), Tag::parse("1.4").unwrap()));
    }

    #[test]
    fn repositories_may_be_called_like_the_fixed_words() {
        check("/v2/manifests/manifests/manifests", Route::Manifest(name("manifests"), tag("manifests")));
        check("/v2/a/blobs/uploads/manifests/x", Route::Manifest(name("a/blobs/uploads"), tag("x")));
        check("/v2/a/tags/list/tags/list", Route::Tags(name("a/tags/list")));
        check("/v2/blobs/blobs/uploads/", Route::Uploads(name("blobs")));
        check("/v2/v2/tags/list", Route::Tags(name("v2")));
    }

    #[test]
    fn everything_else_is_an_error_that_says_what_is_wrong() {
        check_error("/", "nothing is served");
        check_error("/v1/", "nothing is served");
        check_error("/token/", "nothing is served");
        check_error("/v2x/a/tags/list", "nothing is served");
        check_error("/v2/web", "nothing is served");
        check_error("/v2/_catalog/x", "nothing is served");
        check_error("/v2/web/_hull/tags/.x/history", "`.x` is not a tag");
        check_error("/v2/web/referrers/latest", "`latest` is not a digest");
        check_error("/v2/web/tags/all", "nothing is served");
        check_error("/v2/%ff/tags/list", "nothing is served");
        check_error("/v2/tags/list", "`` is not a repository name");
        check_error("/v2/manifests/latest", "`` is not a repository name");
        check_error("/v2//manifests/latest", "`` is not a repository name");
        check_error("/v2/Web/manifests/latest", "`Web` is not a repository name");
        check_error("/v2/../../etc/manifests/latest", "`../../etc` is not a repository name");
        check_error("/v2/%2e%2e/etc/manifests/latest", "`../etc` is not a repository name");
        check_error("/v2/web/manifests/", "`` is not a tag");
        check_error("/v2/web/manifests/.x", "`.x` is not a tag");
        check_error("/v2/web/manifests/sha256:00", "`sha256:00` is not a digest");
        check_error("/v2/web/blobs/latest", "`latest` is not a digest");
        check_error("/v2/web/blobs/md5:00", "`md5:00` is not a digest");
        check_error("/v2/web/blobs/", "`` is not a digest");
        check_error("/v2/web/blobs/uploads/42", "there is no such upload");
        check_error("/v2/blobs/uploads/", "nothing is served");
    }

    proptest::proptest! {
        #[test]
        fn no_path_leads_out_of_its_repository(path in "/v2/[a-zA-Z0-9._%:/@ -]{0,60}(/manifests/|/blobs/|/tags/)[a-z0-9./%:-]{0,20}") {
            if let Ok(Route::Manifest(name, _) | Route::Blob(name, _) | Route::Tags(name)) = Route::parse(&path) {
                let name = name.as_str();
                proptest::prop_assert!(!name.contains("..") && !name.starts_with('/') && !name.ends_with('/'));
            }
        }

        #[test]
        fn any_path_is_read_without_a_panic(path in ".{0,80}") {
            let _ = Route::parse(&path);
        }
    }
}
