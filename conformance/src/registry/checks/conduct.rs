//! What is judged from all answers of the run, at its end.

use crate::registry::answer::Verdict;
use crate::registry::check::{Section, must, sound};
use crate::registry::conduct::Fault;
use crate::registry::lab::Lab;

pub(super) const SECTION: Section = Section {
    name: "conduct",
    heading: "distribution-spec, API",
    checks: &[
        sound("conduct-no-server-error", "nothing that the suite sends is answered 5xx", no_server_error)
            .from("RFC 9110, 15.6"),
        must(
            "conduct-error-format",
            "an error in JSON is a list of errors with code, message and detail",
            error_format,
        )
        .from("distribution-spec, API, Error Codes"),
        must("conduct-error-codes", "an error in JSON has codes of the table only", error_codes)
            .from("distribution-spec, API, Error Codes"),
        must(
            "conduct-warnings",
            "Warning headers are 299 - \"text\", without a date, 4096 bytes at most",
            warnings,
        )
        .from("distribution-spec, API, Warnings"),
        sound("conduct-still-alive", "after all this the registry still works", alive),
    ],
};

fn no_server_error(lab: &Lab<'_>) -> Verdict {
    lab.client.conduct.judge(Fault::ServerError)
}

fn error_format(lab: &Lab<'_>) -> Verdict {
    // At least one error is among the answers.
    lab.get_manifest("nobody")?.is_refusal()?;
    lab.client.conduct.judge(Fault::ErrorFormat)
}

fn error_codes(lab: &Lab<'_>) -> Verdict {
    lab.get_manifest("nobody")?.is_refusal()?;
    lab.client.conduct.judge(Fault::ErrorCode)
}

fn warnings(lab: &Lab<'_>) -> Verdict {
    lab.client.ask("GET", "/v2/").send()?;
    lab.client.conduct.judge(Fault::Warning)
}

fn alive(lab: &Lab<'_>) -> Verdict {
    let manifest = lab.tagged("a")?;
    lab.get_manifest("a")?.is(&[200])?.body_is(&manifest.bytes)?;
    Ok(())
}
