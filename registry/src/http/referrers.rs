//! Listing the manifests that are about a manifest.
//!
//! Source: OCI distribution-spec 1.1, "Listing Referrers" (end-12a, end-12b).

use appliance::{Digest, media_type};
use http::header::{self, HeaderName, HeaderValue};

use super::{Answer, Call, Service, json, text_value};
use crate::name::{RepositoryName, parse_digest};

/// Most bytes of descriptors in one answer, so that it is no larger than a manifest.
const MAX_PAGE: usize = 3 << 20;

const OCI_FILTERS_APPLIED: HeaderName = HeaderName::from_static("oci-filters-applied");

impl Service {
    pub(super) async fn list_referrers(
        &self,
        repository: &RepositoryName,
        subject: &Digest,
        call: &Call,
    ) -> Answer {
        let artifact_type = call.query.get("artifactType").filter(|wanted| !wanted.is_empty());
        let after = call.query.get("last").map(parse_digest).transpose()?;
        let found =
            self.repositories.referrers(repository, subject, artifact_type, after.as_ref(), MAX_PAGE).await?;
        let mut headers = Vec::new();
        if let Some(last) = found.next {
            let mut query = form_urlencoded::Serializer::new(String::new());
            query.extend_pairs(artifact_type.map(|wanted| ("artifactType", wanted)));
            query.append_pair("last", &last.to_string());
            let link = format!("</v2/{repository}/referrers/{subject}?{}>; rel=\"next\"", query.finish());
            headers.push((header::LINK, text_value(&link)));
        }
        if artifact_type.is_some() {
            headers.push((OCI_FILTERS_APPLIED, HeaderValue::from_static("artifactType")));
        }
        let index = serde_json::json!({
            "schemaVersion": 2,
            "mediaType": media_type::INDEX,
            "manifests": found.referrers,
        });
        let mut response = json(headers, &index);
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type::INDEX));
        Ok(response)
    }
}
