//! The suite for registries is itself tested: on Debian's `docker-registry`, whose faults are known, on `hull registry
//! serve`, which must have none, on servers that answer nonsense, and on a good registry whose answers are falsified.
//!
//! Skipped where `docker-registry` is missing, or `hull` has not been built: building it is not this test's business.

#![expect(clippy::print_stderr, reason = "a test that cannot run here says why it is skipped")]

mod docker_registry;
mod falsified;
mod hull_registry;
mod nonsense;
mod servers;

use std::num::NonZeroUsize;
use std::time::Duration;

use conformance::Outcome;
use conformance::registry::{Findings, Options, SECTIONS, Version, run};

/// Everything of the newer text, against a registry that answers when it can.
fn options(url: String) -> Options {
    Options {
        url,
        user: None,
        prefix: "suite".to_owned(),
        only: Vec::new(),
        version: Version::Dev,
        limit: Duration::from_secs(60),
        jobs: NonZeroUsize::new(4).unwrap(),
    }
}

/// The sections of these names alone.
fn only(url: String, sections: &[&str]) -> Options {
    let found = SECTIONS.iter().map(|section| section.name).filter(|name| sections.contains(name)).collect();
    Options { only: found, ..options(url) }
}

fn findings(options: &Options) -> Findings {
    run(options, &mut |_| {}).unwrap()
}

#[track_caller]
fn outcome(findings: &Findings, check: &str) -> Outcome {
    findings.all.iter().find(|finding| finding.check == check).unwrap_or_else(|| panic!("no {check}")).outcome
}

/// `FAIL name` and `SKIP name` for all checks that did not pass, in order, with what was found beside them.
fn not_passed(findings: &Findings) -> Vec<(String, String)> {
    let mut lines: Vec<(String, String)> = findings
        .all
        .iter()
        .filter(|finding| finding.outcome != Outcome::Pass)
        .map(|finding| (format!("{} {}", finding.outcome.word(), finding.check), finding.remark.clone()))
        .collect();
    lines.sort_unstable();
    lines
}
