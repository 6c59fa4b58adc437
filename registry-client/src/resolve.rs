//! Small questions to a registry: what does a tag name, which tags are there.
//!
//! Source: OCI distribution-spec 1.1, "Pulling manifests" (`HEAD`) and "Listing Tags".

use appliance::{Digest, Reference, media_type};
use reqwest::header::{ACCEPT, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, LINK};
use reqwest::{Method, StatusCode, Url};
use serde::Deserialize;

use crate::progress::Silent;
use crate::request::printable;
use crate::session::{Access, Call, Session};
use crate::{Client, RequestError};

/// What one page of tags may hold, in bytes.
const MAX_PAGE: u64 = 4 << 20;
/// Tags asked for at a time.
const TAGS_PER_PAGE: &str = "1000";
/// Pages read of one list: a million tags.
const MAX_PAGES: usize = 1000;

/// What a reference names, as the registry says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    /// The digest of the index or manifest.
    pub digest: Digest,
    /// Its media type, control characters escaped.
    pub media_type: String,
    /// Its size in bytes, where the registry says so.
    pub size_bytes: Option<u64>,
}

#[derive(Deserialize)]
struct TagsPage {
    // Some registries write `null` for none.
    tags: Option<Vec<String>>,
}

impl Client {
    /// What `reference`, which has a host, names. Nothing is fetched.
    ///
    /// # Errors
    ///
    /// [`RequestError`]; [`RequestError::NotFound`] where it names nothing.
    pub async fn resolve(&self, reference: &Reference) -> Result<Resolved, RequestError> {
        let session = Session::new(self, reference.host().unwrap_or_default(), reference, Access::Pull)?;
        let what = reference.to_string();
        let call =
            Call::new(Method::HEAD, session.manifest_url(reference.version()), &what, &[StatusCode::OK])
                .header(ACCEPT, media_type::INDEX)
                .header(ACCEPT, media_type::MANIFEST);
        let response = session.send(&call, &Silent).await?;
        let headers = response.headers();
        let digest = claimed_digest(headers).ok_or_else(|| {
            RequestError::protocol(&what, "no digest", "a digest in `Docker-Content-Digest`")
        })?;
        let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
        Ok(Resolved {
            digest,
            media_type: printable(text(CONTENT_TYPE).unwrap_or_default()),
            size_bytes: text(CONTENT_LENGTH).and_then(|size| size.parse().ok()),
        })
    }

    /// The tags of the repository that `reference`, which has a host, is in; in the registry's order.
    ///
    /// # Errors
    ///
    /// [`RequestError`]; [`RequestError::NotFound`] where there is no such repository.
    pub async fn tags(&self, reference: &Reference) -> Result<Vec<String>, RequestError> {
        let session = Session::new(self, reference.host().unwrap_or_default(), reference, Access::Pull)?;
        let what = format!("repository {}", reference.repository());
        let mut next = Some(session.tags_url());
        next.as_mut().expect("just set").query_pairs_mut().append_pair("n", TAGS_PER_PAGE);
        let mut found = Vec::new();
        for _ in 0..MAX_PAGES {
            let Some(url) = next else { return Ok(found) };
            let call = Call::new(Method::GET, url.clone(), &what, &[StatusCode::OK]);
            let (headers, body) = session.read(&call, MAX_PAGE, &Silent).await?;
            let page: TagsPage = serde_json::from_slice(&body)
                .map_err(|error| RequestError::protocol(&what, error.to_string(), "a list of tags"))?;
            found.extend(page.tags.unwrap_or_default());
            next = next_page(&url, &headers);
        }
        let found = format!("more than {MAX_PAGES} pages of tags");
        Err(RequestError::protocol(&what, found, "a list with an end"))
    }
}

/// The digest that an answer claims its content has. Not to be believed before the content is hashed.
pub(crate) fn claimed_digest(headers: &HeaderMap) -> Option<Digest> {
    headers.get("docker-content-digest")?.to_str().ok()?.parse().ok()
}

/// The target of `Link: <...>; rel="next"`, where it is on the same host.
pub(crate) fn next_page(current: &Url, headers: &HeaderMap) -> Option<Url> {
    let link = headers.get(LINK)?.to_str().ok()?;
    let (target, params) = link.trim().strip_prefix('<')?.split_once('>')?;
    let is_next = params.split(';').any(|param| matches!(param.trim(), "rel=\"next\"" | "rel=next"));
    let url = current.join(target).ok()?;
    (is_next && url.origin() == current.origin() && url != *current).then_some(url)
}

#[cfg(test)]
mod tests {
    use reqwest::header::HeaderValue;

    use super::*;

    #[test]
    fn only_a_next_page_on_the_same_host_is_followed() {
        let current = Url::parse("http://127.0.0.1:5000/v2/a/tags/list?n=2").unwrap();
        let rows = [
            (
                "</v2/a/tags/list?n=2&last=b>; rel=\"next\"",
                Some("http://127.0.0.1:5000/v2/a/tags/list?n=2&last=b"),
            ),
            ("<?n=2&last=b>;rel=next", Some("http://127.0.0.1:5000/v2/a/tags/list?n=2&last=b")),
            ("</v2/a/tags/list?n=2>; rel=\"next\"", None),
            ("</x>; rel=\"prev\"", None),
            ("<http://evil.example/x>; rel=\"next\"", None),
            ("/x", None),
        ];
        for (link, want) in rows {
            let headers = [(LINK, HeaderValue::from_static(link))].into_iter().collect();
            assert_eq!(next_page(&current, &headers).as_ref().map(Url::as_str), want, "{link}");
        }
    }
}
