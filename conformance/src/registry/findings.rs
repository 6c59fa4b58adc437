//! What the suite found, for people and for machines. The JSON is described in `docs/conformance.md`.

use std::time::Duration;

use serde_json::{Value, json};

use super::check::{Level, Version};
use crate::Outcome;

/// One check, and how it came out.
#[derive(Debug, Clone)]
pub struct Finding {
    /// The section's name.
    pub section: &'static str,
    /// The check's name, of which there is one in the suite.
    pub check: &'static str,
    /// How strongly it is demanded.
    pub level: Level,
    /// Since when it is demanded.
    pub since: Version,
    /// Where it is demanded: specification and heading.
    pub source: &'static str,
    /// What is demanded.
    pub says: &'static str,
    /// How it came out.
    pub outcome: Outcome,
    /// What was found and wanted, or why it was skipped; empty for a pass. Escaped.
    pub remark: String,
    /// How long it took.
    pub took: Duration,
}

/// All findings of a run.
#[derive(Debug, Clone)]
pub struct Findings {
    /// The registry's URL.
    pub registry: String,
    /// The text that it was held against.
    pub version: Version,
    /// In the order in which they were made.
    pub all: Vec<Finding>,
    /// Sections that were not run, and why.
    pub left_out: Vec<(&'static str, &'static str)>,
}

impl Finding {
    /// One line for a table, and one more with what was wrong.
    pub fn to_lines(&self) -> String {
        let Self { section, check, level, outcome, says, remark, .. } = self;
        let line = format!("{section:<18}  {check:<34}  {}  {:<6}", outcome.word(), level.word());
        match outcome {
            Outcome::Pass => format!("{}\n", line.trim_end()),
            Outcome::Fail => format!("{line}  {says}\n    {remark}\n"),
            Outcome::Skip => format!("{line}  {remark}\n"),
        }
    }

    fn to_json(&self) -> Value {
        json!({
            "section": self.section,
            "check": self.check,
            "level": self.level.word(),
            "since": self.since.name(),
            "source": self.source,
            "says": self.says,
            "result": self.outcome.word(),
            "remark": self.remark,
            "milliseconds": u64::try_from(self.took.as_millis()).unwrap_or(u64::MAX),
        })
    }
}

impl Findings {
    /// How many checks came out so.
    pub fn count(&self, outcome: Outcome) -> usize {
        self.all.iter().filter(|finding| finding.outcome == outcome).count()
    }

    /// `N PASS, N FAIL, N SKIP`, after the sections that were left out.
    pub fn summary(&self) -> String {
        let left_out: String =
            self.left_out.iter().map(|(section, reason)| format!("{section} not run: {reason}\n")).collect();
        let [pass, fail, skip] =
            [Outcome::Pass, Outcome::Fail, Outcome::Skip].map(|outcome| self.count(outcome));
        format!("{left_out}{pass} PASS, {fail} FAIL, {skip} SKIP\n")
    }

    /// Everything, as `--json` writes it.
    pub fn to_json(&self) -> Value {
        let left_out =
            self.left_out.iter().map(|(section, reason)| json!({ "section": section, "reason": reason }));
        json!({
            "format": 1,
            "registry": self.registry,
            "version": self.version.name(),
            "pass": self.count(Outcome::Pass),
            "fail": self.count(Outcome::Fail),
            "skip": self.count(Outcome::Skip),
            "left_out": left_out.collect::<Vec<_>>(),
            "checks": self.all.iter().map(Finding::to_json).collect::<Vec<_>>(),
        })
    }
}
