//! Reading, storing and deleting manifests.
//!
//! Source: OCI distribution-spec 1.1, "Pulling manifests" (end-3), "Pushing Manifests" (end-7), "Deleting
//! tags", "Deleting Manifests" (end-9); `tag` parameters (end-7b) are of its development version.

use appliance::{Algorithm, Hasher};
use http::header::{self, HeaderName};
use http::{Method, StatusCode};

use super::body::ResponseBody;
use super::{Answer, ApiError, Call, DOCKER_CONTENT_DIGEST, Service, empty, etag, respond, text_value};
use crate::cache::CacheKey;
use crate::manifest::Manifest;
use crate::name::{ManifestName, RepositoryName, Tag};
use crate::on_thread::on_thread;
use crate::repository::PutManifest;

/// Largest manifest: what the specification asks registries to accept at least.
const MAX_MANIFEST: u64 = appliance::manifest::MAX_BYTES;
/// Most tags that one request may set.
const MAX_TAGS: usize = 100;

const OCI_SUBJECT: HeaderName = HeaderName::from_static("oci-subject");
const OCI_TAG: HeaderName = HeaderName::from_static("oci-tag");

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
        let (algorithm, wanted, tags) = match &name {
            ManifestName::Digest(digest) => (digest.algorithm(), Some(*digest), more_tags(&call)?),
            ManifestName::Tag(tag) => (Algorithm::Sha256, None, vec![tag.clone()]),
        };
        let (content, media_type) = (bytes.clone(), call.header(&header::CONTENT_TYPE).map(str::to_owned));
        let check = move || {
            let mut hasher = Hasher::new(algorithm);
            hasher.update(&content);
            (hasher.finish(), Manifest::check(&content, media_type.as_deref()))
        };
        let (digest, manifest) = on_thread(bytes.len(), check).await;
        if let Some(wanted) = wanted.filter(|wanted| *wanted != digest) {
            return Err(ApiError::ManifestDigest { wanted, found: digest });
        }
        let manifest = manifest?;
        let (repository, manifest, tags) = (&repository, &manifest, &tags);
        let put = PutManifest { repository, manifest, digest, bytes, tags, by: call.author(repository) };
        self.repositories.put_manifest(&put).await?;
        let mut headers = vec![
            (header::LOCATION, text_value(&format!("/v2/{repository}/manifests/{digest}"))),
            (DOCKER_CONTENT_DIGEST, text_value(&digest.to_string())),
        ];
        if let Some(subject) = &manifest.subject {
            headers.push((OCI_SUBJECT, text_value(&subject.to_string())));
        }
        if wanted.is_some() && !tags.is_empty() {
            let names: Vec<&str> = tags.iter().map(Tag::as_str).collect();
            headers.push((OCI_TAG, text_value(&names.join(", "))));
        }
        Ok(empty(StatusCode::CREATED, headers))
    }

    /// Deletes a tag, or a manifest with all its tags.
    pub(super) async fn delete_manifest(
        &self,
        repository: &RepositoryName,
        name: &ManifestName,
        call: &Call,
    ) -> Answer {
        let was_there = match name {
            ManifestName::Tag(tag) => {
                self.repositories.delete_tag(repository, tag, call.author(repository)).await?
            }
            ManifestName::Digest(digest) => {
                self.repositories.delete_manifest(repository, *digest, call.author(repository)).await?
            }
        };
        match was_there {
            true => Ok(empty(StatusCode::ACCEPTED, [])),
            false => Err(ApiError::ManifestUnknown),
        }
    }
}

/// The tags that a manifest is to have besides its digest.
fn more_tags(call: &Call) -> Result<Vec<Tag>, ApiError> {
    let tags: Vec<Tag> = call.query.all("tag").map(Tag::parse).collect::<Result<_, _>>()?;
    match tags.len() > MAX_TAGS {
        true => Err(ApiError::TooManyTags { limit: MAX_TAGS }),
        false => Ok(tags),
    }
}
