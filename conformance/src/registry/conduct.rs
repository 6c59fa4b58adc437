//! What holds for every answer, whatever was asked: watched while the checks run, judged at the end.

use std::collections::BTreeMap;
use std::sync::Mutex;

use serde_json::Value;

use super::answer::{Answer, Problem, Verdict, shown};

/// How many cases of one kind are kept.
const MAX_CASES: usize = 3;

/// The codes that an error may have, "Error Codes", code-1 to code-14.
pub(crate) const CODES: [&str; 14] = [
    "BLOB_UNKNOWN",
    "BLOB_UPLOAD_INVALID",
    "BLOB_UPLOAD_UNKNOWN",
    "DIGEST_INVALID",
    "MANIFEST_BLOB_UNKNOWN",
    "MANIFEST_INVALID",
    "MANIFEST_UNKNOWN",
    "NAME_INVALID",
    "NAME_UNKNOWN",
    "SIZE_INVALID",
    "UNAUTHORIZED",
    "DENIED",
    "UNSUPPORTED",
    "TOOMANYREQUESTS",
];
/// Older registries' codes, which the specification allows under "Legacy Docker support error codes".
const LEGACY_CODES: [&str; 2] = ["TAG_INVALID", "MANIFEST_UNVERIFIED"];
/// The most that all `Warning` headers of an answer may have together.
const MAX_WARNING_BYTES: usize = 4096;

/// What can be wrong with any answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fault {
    ServerError,
    ErrorFormat,
    ErrorCode,
    Warning,
}

#[derive(Debug, Default)]
pub(crate) struct Conduct(Mutex<BTreeMap<Fault, Vec<String>>>);

impl Conduct {
    pub(crate) fn watch(&self, answer: &Answer) {
        let status = answer.status();
        if status >= 500 {
            self.note(Fault::ServerError, format!("{} => {status}", answer.request));
        }
        if (400..500).contains(&status)
            && let Ok(body) = serde_json::from_slice::<Value>(answer.body())
        {
            self.watch_error(answer, &body);
        }
        let warnings =
            answer.received.headers.iter().filter(|(name, _)| name.eq_ignore_ascii_case("warning"));
        let warnings: Vec<&str> = warnings.map(|(_, value)| value.as_str()).collect();
        let plain = |warning: &&str| warning.starts_with("299 - \"") && warning.ends_with('"');
        if !warnings.iter().all(plain)
            || warnings.iter().map(|text| text.len()).sum::<usize>() > MAX_WARNING_BYTES
        {
            let found = shown(warnings.join(", ").as_bytes());
            self.note(Fault::Warning, format!("{} => Warning: {found}", answer.request));
        }
    }

    fn watch_error(&self, answer: &Answer, body: &Value) {
        let errors = body.get("errors").and_then(Value::as_array);
        let codes = errors.map(|errors| errors.iter().map(|error| error.get("code").and_then(Value::as_str)));
        let codes: Option<Vec<&str>> = codes.and_then(Iterator::collect);
        let messages = errors.into_iter().flatten().filter_map(|error| error.get("message"));
        let written = |code: &&str| {
            !code.is_empty() && code.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_')
        };
        let good = codes.as_ref().is_some_and(|codes| !codes.is_empty() && codes.iter().all(written))
            && messages.into_iter().all(Value::is_string);
        let case = || format!("{} => {} {}", answer.request, answer.status(), shown(answer.body()));
        if !good {
            self.note(Fault::ErrorFormat, case());
        } else if !codes
            .unwrap_or_default()
            .iter()
            .all(|code| CODES.contains(code) || LEGACY_CODES.contains(code))
        {
            self.note(Fault::ErrorCode, case());
        }
    }

    fn note(&self, fault: Fault, case: String) {
        let mut cases = self.0.lock().expect("no thread panics while it notes");
        let cases = cases.entry(fault).or_default();
        if cases.len() < MAX_CASES {
            cases.push(case);
        }
    }

    /// A problem if any answer so far had this fault.
    pub(crate) fn judge(&self, fault: Fault) -> Verdict {
        let cases = self.0.lock().expect("no thread panics while it notes");
        cases.get(&fault).map_or(Ok(()), |cases| Err(Problem::Wrong(cases.join("; "))))
    }
}
