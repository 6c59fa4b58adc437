//! Listing tags.
//!
//! Source: OCI distribution-spec 1.1, "Listing Tags" (end-8a, end-8b); RFC 8288 (`Link`).

use http::header;

use super::{Answer, ApiError, Call, Service, json, text_value};
use crate::name::RepositoryName;

/// Most tags in one answer, whatever the client asks for.
const MAX_TAGS: usize = 1000;

impl Service {
    pub(super) async fn list_tags(&self, repository: &RepositoryName, call: &Call) -> Answer {
        let limit = match call.query.get("n") {
            None => MAX_TAGS,
            Some(value) => count(value)?.min(MAX_TAGS),
        };
        // One more than is shown tells whether there are more.
        let after = call.query.get("last");
        let found = self.repositories.tags(repository, after, limit + 1).await?;
        let mut tags = found.ok_or(ApiError::NameUnknown)?;
        let are_more = tags.len() > limit;
        tags.truncate(limit);
        let next = tags.last().filter(|_| are_more).map(|last| {
            let link = format!("</v2/{repository}/tags/list?n={limit}&last={last}>; rel=\"next\"");
            (header::LINK, text_value(&link))
        });
        Ok(json(next, &serde_json::json!({ "name": repository.as_str(), "tags": tags })))
    }
}

/// A count that the client wants. What does not fit a number is more than there can be.
fn count(value: &str) -> Result<usize, ApiError> {
    match !value.is_empty() && value.bytes().all(|c| c.is_ascii_digit()) {
        true => Ok(value.parse().unwrap_or(usize::MAX)),
        false => Err(ApiError::BadCount { value: value.escape_debug().to_string() }),
    }
}
