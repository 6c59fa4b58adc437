//! What a suite found: one row for every rule, for people and for machines.
//!
//! A rule that was met a million times is one row; of what failed, the first few cases are kept. Text from
//! the judged side is escaped here, in one place, so that it cannot reach into the terminal.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::rules::Rule;

/// How many reasons of one failed rule are kept.
const MAX_REASONS: usize = 5;
/// How many characters of a reason are kept.
const MAX_REASON_CHARS: usize = 300;

/// The findings, by rule.
#[derive(Debug, Default)]
pub struct Report {
    tallies: BTreeMap<Rule, Tally>,
}

#[derive(Debug, Default)]
struct Tally {
    met: u64,
    broken: u64,
    reasons: Vec<String>,
    skipped: Option<String>,
}

/// How a rule came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Checked, and never broken.
    Pass,
    /// Broken at least once.
    Fail,
    /// Not checked.
    Skip,
}

/// One line of the report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// The rule.
    pub rule: Rule,
    /// How it came out.
    pub outcome: Outcome,
    /// How many things were held against it.
    pub checked: u64,
    /// How many of them broke it.
    pub broken: u64,
    /// Why it failed (the first few cases) or was skipped; empty for a pass.
    pub reasons: Vec<String>,
}

impl Report {
    /// Notes that something met `rule`, or, where `good` is false, that it did not and why. Returns `good`.
    pub(crate) fn check(&mut self, rule: Rule, good: bool, problem: impl FnOnce() -> String) -> bool {
        let tally = self.tallies.entry(rule).or_default();
        if good {
            tally.met += 1;
            return true;
        }
        tally.broken += 1;
        if tally.reasons.len() < MAX_REASONS {
            tally.reasons.push(printable(&problem()));
        }
        false
    }

    /// Notes that something broke `rule`.
    pub(crate) fn fail(&mut self, rule: Rule, problem: impl FnOnce() -> String) {
        self.check(rule, false, problem);
    }

    /// The value, if it is right; otherwise notes why not.
    pub(crate) fn accept<T>(&mut self, rule: Rule, result: Result<T, String>) -> Option<T> {
        match result {
            Ok(value) => {
                self.check(rule, true, String::new);
                Some(value)
            }
            Err(problem) => {
                self.fail(rule, || problem);
                None
            }
        }
    }

    /// Says why `rule` is not checked; it has no effect where it is checked elsewhere.
    pub(crate) fn skip(&mut self, rule: Rule, reason: &str) {
        self.tallies.entry(rule).or_default().skipped.get_or_insert_with(|| printable(reason));
    }

    /// True if any rule was broken.
    pub fn failed(&self) -> bool {
        self.tallies.values().any(|tally| tally.broken > 0)
    }

    /// One row for every rule, in the catalogue's order.
    pub fn rows(&self) -> Vec<Row> {
        Rule::ALL.iter().map(|rule| self.row(*rule)).collect()
    }

    /// The report as a table for people, with a closing count.
    pub fn to_table(&self) -> String {
        let rows = self.rows();
        let width = |text: fn(Rule) -> &'static str| Rule::ALL.iter().map(|rule| text(*rule).len()).max();
        let (names, sections) = (width(Rule::name).unwrap_or(0), width(Rule::section).unwrap_or(0));
        let mut table = String::new();
        for row in &rows {
            let (name, section) = (row.rule.name(), row.rule.section());
            let result = row.outcome.word();
            let remark = match row.outcome {
                Outcome::Pass => format!("{} checked", row.checked),
                Outcome::Fail => format!("{} of {}: {}", row.broken, row.checked, row.rule.must()),
                Outcome::Skip => row.reasons.join("; "),
            };
            table += &format!("{name:names$}  {section:sections$}  {result}  {remark}\n");
            if row.outcome == Outcome::Fail {
                row.reasons.iter().for_each(|reason| table += &format!("    {reason}\n"));
            }
        }
        let [passed, failed, skipped] = counts(&rows);
        table + &format!("{passed} passed, {failed} failed, {skipped} skipped\n")
    }

    /// The report as JSON: `passed`, `failed`, `skipped`, and `checks` with one object for each row.
    pub fn to_json(&self) -> Value {
        let rows = self.rows();
        let [passed, failed, skipped] = counts(&rows);
        let checks = rows.iter().map(|row| {
            json!({
                "check": row.rule.name(),
                "section": row.rule.section(),
                "must": row.rule.must(),
                "result": row.outcome.word(),
                "checked": row.checked,
                "broken": row.broken,
                "reasons": row.reasons,
            })
        });
        let checks: Vec<Value> = checks.collect();
        json!({ "passed": passed, "failed": failed, "skipped": skipped, "checks": checks })
    }

    fn row(&self, rule: Rule) -> Row {
        let none = Tally::default();
        let tally = self.tallies.get(&rule).unwrap_or(&none);
        let (outcome, reasons) = match tally {
            Tally { broken: 1.., .. } => (Outcome::Fail, tally.reasons.clone()),
            Tally { met: 1.., .. } => (Outcome::Pass, Vec::new()),
            Tally { skipped: Some(reason), .. } => (Outcome::Skip, vec![reason.clone()]),
            _ if self.failed() => (Outcome::Skip, vec!["not reached after what failed".to_owned()]),
            _ => (Outcome::Skip, vec!["the appliance has nothing of the kind".to_owned()]),
        };
        Row { rule, outcome, checked: tally.met + tally.broken, broken: tally.broken, reasons }
    }
}

impl Outcome {
    /// `PASS`, `FAIL` or `SKIP`.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Pass => "PASS",
            Self::Fail => "FAIL",
            Self::Skip => "SKIP",
        }
    }
}

/// How many rows passed, failed and were skipped.
fn counts(rows: &[Row]) -> [usize; 3] {
    [Outcome::Pass, Outcome::Fail, Outcome::Skip]
        .map(|outcome| rows.iter().filter(|row| row.outcome == outcome).count())
}

/// The text without anything that a terminal obeys, and not too long.
fn printable(text: &str) -> String {
    let escape = |c: char| match c {
        '\'' | '"' | '\\' => c.to_string(),
        c => c.escape_debug().to_string(),
    };
    text.chars().take(MAX_REASON_CHARS).map(escape).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rule_has_a_row_and_a_name_of_its_own() {
        let names: std::collections::BTreeSet<_> = Rule::ALL.iter().map(|rule| rule.name()).collect();
        assert_eq!(names.len(), Rule::ALL.len());
        assert_eq!(Report::default().rows().len(), Rule::ALL.len());
    }

    #[test]
    fn a_rule_broken_once_fails_however_often_it_is_met() {
        let mut report = Report::default();
        for at in 0..10 {
            report.check(Rule::RootMagic, at != 3, || format!("\u{1b}[2J at `{at}`"));
        }
        report.skip(Rule::RootMagic, "it is checked, so this is not said");
        report.skip(Rule::RawSize, "no raw disk was given");
        let rows = report.rows();
        let row = rows.iter().find(|row| row.rule == Rule::RootMagic).unwrap();
        assert_eq!((row.outcome, row.checked, row.broken), (Outcome::Fail, 10, 1));
        assert_eq!(row.reasons, [r"\u{1b}[2J at `3`"]);
        let raw = rows.iter().find(|row| row.rule == Rule::RawSize).unwrap();
        assert_eq!((raw.outcome, raw.reasons[0].as_str()), (Outcome::Skip, "no raw disk was given"));
        assert!(report.failed());
        assert_eq!(report.to_json()["failed"], 1);
        assert!(report.to_table().ends_with(&format!("0 passed, 1 failed, {} skipped\n", rows.len() - 1)));
    }
}
