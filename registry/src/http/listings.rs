//! Lists in pages: a repository's tags, a tag's history, the repositories.
//!
//! Source: OCI distribution-spec 1.1, "Listing Tags" (end-8a, end-8b); RFC 8288 (`Link`). The catalog is
//! docker's; the history is ours.

use http::header::{self, HeaderName, HeaderValue};
use serde_json::json;

use super::{Answer, ApiError, Call, Service, json, text_value};
use crate::access::gate::Caller;
use crate::access::right::Action;
use crate::layout;
use crate::name::{RepositoryName, Tag};

/// Most entries in one answer, whatever the client asks for.
const MAX_PAGE: usize = 1000;

impl Service {
    pub(super) async fn list_tags(&self, repository: &RepositoryName, call: &Call) -> Answer {
        let page = Page::of(call)?;
        let mut tags = self.repositories.tags(repository, call.query.get("last"), page.looked_up()).await?;
        if tags.is_empty() && !self.repositories.exists(repository).await? {
            return Err(ApiError::NameUnknown);
        }
        let next = page.cut(&mut tags).then(|| tags.last()).flatten().map(|last| last.tag.as_str());
        let link = page.link(&format!("/v2/{repository}/tags/list"), next);
        let tags: Vec<&str> = tags.iter().map(|live| live.tag.as_str()).collect();
        Ok(json(link, &json!({ "name": repository.as_str(), "tags": tags })))
    }

    pub(super) async fn list_repositories(&self, call: &Call) -> Answer {
        let page = Page::of(call)?;
        let last = call.query.get("last").map(RepositoryName::parse).transpose()?;
        let mut names = self.readable_names(last, page.looked_up(), &call.caller).await?;
        let next = page.cut(&mut names).then(|| names.last()).flatten().map(RepositoryName::as_str);
        let link = page.link("/v2/_catalog", next);
        let names: Vec<&str> = names.iter().map(RepositoryName::as_str).collect();
        Ok(json(link, &json!({ "repositories": names })))
    }

    /// At most `limit` repositories after `last` that somebody may pull from.
    async fn readable_names(
        &self,
        mut last: Option<RepositoryName>,
        limit: usize,
        caller: &Caller,
    ) -> Result<Vec<RepositoryName>, ApiError> {
        let mut names = Vec::new();
        loop {
            let found = self.repositories.names(last.as_ref(), MAX_PAGE).await?;
            let are_more = found.len() == MAX_PAGE;
            last = found.last().cloned();
            names.extend(found.into_iter().filter(|name| caller.has_right(Action::Pull, name)));
            if names.len() >= limit || !are_more {
                names.truncate(limit);
                return Ok(names);
            }
        }
    }

    /// What a tag has named, newest first.
    pub(super) async fn list_history(&self, repository: &RepositoryName, tag: &Tag, call: &Call) -> Answer {
        let page = Page::of(call)?;
        let before = call.query.get("last").and_then(layout::place_of_entry);
        let mut entries = self.repositories.history(repository, tag, before, page.looked_up()).await?;
        if entries.is_empty() && before.is_none() && page.limit > 0 {
            return Err(ApiError::ManifestUnknown);
        }
        let next = page.cut(&mut entries).then(|| entries.last()).flatten();
        let next = next.map(|last| layout::log_entry_name(last.place));
        let link =
            page.link(&format!("/v2/{repository}/_hull/tags/{}/history", tag.as_str()), next.as_deref());
        let entries: Vec<_> = entries.iter().map(|placed| &placed.entry).collect();
        Ok(json(link, &json!({ "name": repository.as_str(), "tag": tag.as_str(), "history": entries })))
    }
}

/// How much of a list is wanted: the parameter `n`.
struct Page {
    limit: usize,
}

impl Page {
    fn of(call: &Call) -> Result<Self, ApiError> {
        let limit = match call.query.get("n") {
            None => MAX_PAGE,
            Some(value) => count(value)?.min(MAX_PAGE),
        };
        Ok(Self { limit })
    }

    /// One more than is shown tells whether there are more.
    const fn looked_up(&self) -> usize {
        self.limit + 1
    }

    /// Leaves only what is shown. True if there is more, and showing anything was wanted at all.
    fn cut<T>(&self, found: &mut Vec<T>) -> bool {
        let are_more = found.len() > self.limit;
        found.truncate(self.limit);
        are_more && self.limit > 0
    }

    /// The header that leads to the page after the entry `last`.
    fn link(&self, path: &str, last: Option<&str>) -> Option<(HeaderName, HeaderValue)> {
        let limit = self.limit;
        last.map(|last| (header::LINK, text_value(&format!("<{path}?n={limit}&last={last}>; rel=\"next\""))))
    }
}

/// A count that the client wants. What does not fit a number is more than there can be.
fn count(value: &str) -> Result<usize, ApiError> {
    match !value.is_empty() && value.bytes().all(|c| c.is_ascii_digit()) {
        true => Ok(value.parse().unwrap_or(usize::MAX)),
        false => Err(ApiError::BadCount { value: value.escape_debug().to_string() }),
    }
}
