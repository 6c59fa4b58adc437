//! What a registry answered, and what a check makes of it.
//!
//! A check asks for what it wants of an [`Answer`] and gets a [`Problem`] that names the request, what was found and
//! what was wanted. Text from the registry is escaped here.

use std::fmt::Display;

use serde_json::Value;

use super::http::{Received, header};
use super::url::Target;

/// How many bytes of a body a problem shows.
const SHOWN_BYTES: usize = 160;

/// Why a check does not pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Problem {
    /// The registry does otherwise than it should.
    Wrong(String),
    /// The registry says that it does not do this, where it need not.
    Unsupported(String),
    /// The registry did not answer in time.
    Silent(String),
}

pub(crate) type Verdict = Result<(), Problem>;

/// A problem unless `good`.
pub(crate) fn hold(good: bool, problem: impl FnOnce() -> String) -> Verdict {
    if good { Ok(()) } else { Err(Problem::Wrong(problem())) }
}

/// An answer, with the request that it belongs to.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    /// Method and path, and whatever else says what was asked.
    pub(crate) request: String,
    /// Where it was sent to, after redirects.
    pub(crate) target: Target,
    pub(crate) received: Received,
}

impl Answer {
    pub(crate) fn status(&self) -> u16 {
        self.received.status
    }

    pub(crate) fn body(&self) -> &[u8] {
        &self.received.body
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        header(&self.received.headers, name)
    }

    /// All values of a header that may stand several times or hold a list, one by one.
    pub(crate) fn list(&self, name: &str) -> Vec<&str> {
        let headers = self.received.headers.iter().filter(|(found, _)| found.eq_ignore_ascii_case(name));
        headers
            .flat_map(|(_, value)| value.split(','))
            .map(str::trim)
            .filter(|item| !item.is_empty())
            .collect()
    }

    /// What was found and what was wanted, with the request in front.
    pub(crate) fn problem(&self, what: impl Display) -> Problem {
        Problem::Wrong(format!("{} => {}: {what}", self.request, self.status()))
    }

    /// As [`Answer::problem`], for what need not be supported.
    pub(crate) fn unsupported(&self) -> Problem {
        Problem::Unsupported(format!("{} => {}", self.request, self.status()))
    }

    /// The status is one of these.
    pub(crate) fn is(&self, wanted: &[u16]) -> Result<&Self, Problem> {
        if wanted.contains(&self.status()) {
            return Ok(self);
        }
        let wanted: Vec<String> = wanted.iter().map(u16::to_string).collect();
        let body = match self.body() {
            [] => String::new(),
            body => format!("; it says: {}", shown(body)),
        };
        Err(self.problem(format_args!("wanted {}{body}", wanted.join(" or "))))
    }

    /// The client's fault, whatever the number.
    pub(crate) fn is_refusal(&self) -> Result<&Self, Problem> {
        match self.status() {
            400..500 => Ok(self),
            _ => Err(self.problem("wanted a 4xx")),
        }
    }

    /// As `wanted` says, unless the registry does not do this at all: `400`, `404`, `405` or `501`.
    pub(crate) fn is_or_unsupported(&self, wanted: &[u16]) -> Result<&Self, Problem> {
        match self.status() {
            status if wanted.contains(&status) => Ok(self),
            400 | 404 | 405 | 501 => Err(self.unsupported()),
            _ => self.is(wanted),
        }
    }

    /// The header's value; it must be there.
    pub(crate) fn need(&self, name: &str) -> Result<&str, Problem> {
        self.header(name).ok_or_else(|| self.problem(format_args!("wanted the header {name}")))
    }

    pub(crate) fn header_is(&self, name: &str, wanted: &str) -> Result<&Self, Problem> {
        match self.need(name)? {
            found if found == wanted => Ok(self),
            found => {
                Err(self.problem(format_args!("{name} is `{}`; wanted `{wanted}`", found.escape_debug())))
            }
        }
    }

    pub(crate) fn body_is(&self, wanted: &[u8]) -> Result<&Self, Problem> {
        let found = self.body();
        if found == wanted {
            return Ok(self);
        }
        let differs = found.iter().zip(wanted).position(|(a, b)| a != b);
        let at = differs.map_or_else(String::new, |at| format!("; they differ from byte {at} on"));
        Err(self.problem(format_args!("{} bytes; wanted {} others{at}", found.len(), wanted.len())))
    }

    pub(crate) fn has_no_body(&self) -> Result<&Self, Problem> {
        match self.body() {
            [] => Ok(self),
            body => Err(self.problem(format_args!("wanted no body; it has {}", shown(body)))),
        }
    }

    pub(crate) fn json(&self) -> Result<Value, Problem> {
        let wrong = |_| self.problem(format_args!("wanted JSON; it has {}", shown(self.body())));
        serde_json::from_slice(self.body()).map_err(wrong)
    }

    /// The codes of an error's body; none where the body is not JSON, which is allowed.
    pub(crate) fn codes(&self) -> Vec<String> {
        let body: Value = serde_json::from_slice(self.body()).unwrap_or_default();
        let errors = body["errors"].as_array().cloned().unwrap_or_default();
        errors.iter().filter_map(|error| error["code"].as_str()).map(str::to_owned).collect()
    }

    /// An error with one of these codes, if it says any.
    pub(crate) fn says(&self, wanted: &[&str]) -> Result<&Self, Problem> {
        let codes = self.codes();
        if codes.is_empty() || codes.iter().any(|code| wanted.contains(&code.as_str())) {
            return Ok(self);
        }
        let found = codes.join(", ");
        Err(self.problem(format_args!(
            "the code is `{}`; wanted {}",
            found.escape_debug(),
            wanted.join(" or ")
        )))
    }
}

/// The beginning of a body, fit for a terminal.
pub(crate) fn shown(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(&body[..body.len().min(SHOWN_BYTES)]);
    let dots = if body.len() > SHOWN_BYTES { " ..." } else { "" };
    format!("{}{dots}", text.trim_end().escape_debug().to_string().replace("\\\"", "\""))
}
