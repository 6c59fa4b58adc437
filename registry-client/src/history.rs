//! What a tag has named: a question that hull's own registry answers, and no other.
//!
//! `GET /v2/<name>/_hull/tags/<tag>/history`, in pages as lists of tags are (RFC 8288, `Link`):
//!
//! ```json
//! {"name": "team/web", "tag": "1.4", "history": [{"digest": "sha256:...", "time": 1763793600, "by": "user:alice"}]}
//! ```
//!
//! The newest entry comes first; its digest is `null` where the tag was deleted.

use appliance::{Digest, Reference};
use reqwest::{Method, StatusCode};
use serde::Deserialize;

use crate::progress::Silent;
use crate::resolve::next_page;
use crate::session::{Access, Call, Session};
use crate::{Client, RequestError};

/// Entries asked for at a time.
const PER_PAGE: &str = "1000";
/// Pages read of one history: a million entries.
const MAX_PAGES: usize = 1000;
/// What all pages together may hold: such a million, and room for long names.
const MAX_BYTES: u64 = 256 << 20;

/// What a tag named from some time on.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct TagEntry {
    /// The index or manifest; `None` where the tag was deleted.
    pub digest: Option<Digest>,
    /// When it was set, in seconds since 1970, as the registry says.
    pub time: u64,
    /// Who set it, as the registry says. Not escaped.
    pub by: String,
}

/// Why there is no history.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HistoryError {
    /// The reference names no registry.
    #[error("`{reference}` names no registry, and only registries keep the history of tags")]
    NoRegistry {
        /// The reference.
        reference: Reference,
    },
    /// The reference has a digest, which never names anything else.
    #[error("`{reference}` has a digest and no tag; only tags have a history")]
    NoTag {
        /// The reference.
        reference: Reference,
    },
    /// The tag is there, but not its history: some other registry.
    #[error("the registry keeps no history of `{reference}`; only hull's own does")]
    NotKept {
        /// The reference.
        reference: Reference,
    },
    /// A request failed.
    #[error(transparent)]
    Request(#[from] RequestError),
}

#[derive(Deserialize)]
struct Page {
    history: Vec<TagEntry>,
}

impl Client {
    /// What the tag of `reference` has named, newest first.
    ///
    /// # Errors
    ///
    /// [`HistoryError`]; [`RequestError::NotFound`] where there never was such a tag.
    pub async fn history(&self, reference: &Reference) -> Result<Vec<TagEntry>, HistoryError> {
        let Some(host) = reference.host() else {
            return Err(HistoryError::NoRegistry { reference: reference.clone() });
        };
        let Some(tag) = reference.tag() else {
            return Err(HistoryError::NoTag { reference: reference.clone() });
        };
        let session = Session::new(self, host, reference, Access::Pull)?;
        match read(&session, tag, reference).await {
            // A registry that has the tag and not its history knows of no histories.
            Err(RequestError::NotFound { .. } | RequestError::Refused { .. })
                if self.resolve(reference).await.is_ok() =>
            {
                Err(HistoryError::NotKept { reference: reference.clone() })
            }
            read => Ok(read?),
        }
    }
}

async fn read(
    session: &Session<'_>,
    tag: &str,
    reference: &Reference,
) -> Result<Vec<TagEntry>, RequestError> {
    let what = format!("history of {reference}");
    let mut url = session.history_url(tag);
    url.query_pairs_mut().append_pair("n", PER_PAGE);
    let (mut found, mut left) = (Vec::new(), MAX_BYTES);
    for _ in 0..MAX_PAGES {
        let call = Call::new(Method::GET, url.clone(), &what, &[StatusCode::OK]);
        let (headers, body) = session.read(&call, left, &Silent).await?;
        left -= body.len() as u64;
        let page: Page = serde_json::from_slice(&body)
            .map_err(|error| RequestError::protocol(&what, error.to_string(), "a tag's history"))?;
        found.extend(page.history);
        match next_page(&url, &headers) {
            Some(next) => url = next,
            None => return Ok(found),
        }
    }
    let found = format!("more than {MAX_PAGES} pages");
    Err(RequestError::protocol(&what, found, "a history with an end"))
}
