//! Reading and storing manifests.
//!
//! Source: OCI distribution-spec 1.1, "Pulling manifests" (end-3), "Pushing Manifests" (end-7).

use appliance::{Algorithm, Hasher};
use http::{Method, StatusCode, header};

use super::body::ResponseBody;
use super::{Answer, ApiError, Call, DOCKER_CONTENT_DIGEST, Service, empty, etag, respond, text_value};
use crate::cache::CacheKey;
use crate::manifest::Manifest;
use crate::name::{ManifestName, RepositoryName};

/// Largest manifest: what the specification asks registries to accept at least.
const MAX_MANIFEST: u64 = appliance::manifest::MAX_BYTES;

impl Service {
    pub(super) async fn get_manifest(
        &self,
        repository: RepositoryName,
        name: ManifestName,
        call: &Call,
    ) -> Answer {
        let found = self.repositories.manifest(&CacheKey { repository, name }).await?;
        let manifest = found.ok_or(ApiError::ManifestUnknown)?;
        let mut headers = vec![
            (DOCKER_CONTENT_DIGEST, text_value(&manifest.digest.to_string())),
            (header::ETAG, text_value(&etag(&manifest.digest))),
            (header::CONTENT_TYPE, text_value(&manifest.media_type)),
        ];
        if call.knows(&manifest.digest) {
            return Ok(empty(StatusCode::NOT_MODIFIED, headers));
        }
        headers.push((header::CONTENT_LENGTH, manifest.bytes.len().into()));
        let body = if call.method == Method::HEAD { Default::default() } else { manifest.bytes.clone() };
        Ok(respond(StatusCode::OK, headers, ResponseBody::whole(body)))
    }

    pub(super) async fn put_manifest(
        &self,
        repository: RepositoryName,
        name: ManifestName,
        mut call: Call,
    ) -> Answer {
        let bytes = call.body.whole(MAX_MANIFEST).await?;
        let (algorithm, wanted, tag) = match &name {
            ManifestName::Digest(digest) => (digest.algorithm(), Some(*digest), None),
            ManifestName::Tag(tag) => (Algorithm::Sha256, None, Some(tag)),
        };
        let mut hasher = Hasher::new(algorithm);
        hasher.update(&bytes);
        let found = hasher.finish();
        if let Some(wanted) = wanted.filter(|wanted| *wanted != found) {
            return Err(ApiError::ManifestDigest { wanted, found });
        }
        let manifest = Manifest::check(&bytes, call.header(&header::CONTENT_TYPE))?;
        let missing = self.repositories.missing_blobs(&repository, &manifest.blobs).await?;
        if !missing.is_empty() {
            return Err(ApiError::MissingBlobs { missing });
        }
        self.repositories.put_manifest(&repository, tag, found, &manifest, bytes).await?;
        let headers = [
            (header::LOCATION, text_value(&format!("/v2/{repository}/manifests/{found}"))),
            (DOCKER_CONTENT_DIGEST, text_value(&found.to_string())),
        ];
        Ok(empty(StatusCode::CREATED, headers))
    }
}
