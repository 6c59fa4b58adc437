//! What a check is: a sentence of a specification, how strongly it is meant, and a function that tries it.

use super::answer::Verdict;
use super::lab::Lab;

/// One check.
#[derive(Debug, Clone, Copy)]
pub struct Check {
    pub(crate) name: &'static str,
    pub(crate) level: Level,
    pub(crate) since: Version,
    /// What is demanded, in the suite's own words.
    pub(crate) says: &'static str,
    /// Where, if not under the section's heading.
    pub(crate) source: Option<&'static str>,
    pub(crate) run: fn(&Lab<'_>) -> Verdict,
}

/// Checks of one part of the specification.
#[derive(Debug, Clone, Copy)]
pub struct Section {
    /// As `--only` takes it.
    pub name: &'static str,
    /// The heading in the specification.
    pub heading: &'static str,
    pub(crate) checks: &'static [Check],
}

/// How strongly something is demanded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// The text says MUST.
    Must,
    /// The text says SHOULD.
    Should,
    /// The text says MAY: skipped where it is not done, failed where it is done wrongly.
    May,
    /// No text says it. It is what whoever runs a registry on a network may expect.
    Sound,
}

/// Which text the registry is held against.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// distribution-spec 1.1.
    V1_1,
    /// The main branch of distribution-spec, after 1.1.1.
    Dev,
}

impl Level {
    /// `MUST`, `SHOULD`, `MAY` or `SOUND`.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Must => "MUST",
            Self::Should => "SHOULD",
            Self::May => "MAY",
            Self::Sound => "SOUND",
        }
    }
}

impl Version {
    /// `1.1` or `dev`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::V1_1 => "1.1",
            Self::Dev => "dev",
        }
    }
}

type Run = fn(&Lab<'_>) -> Verdict;

pub(crate) const fn must(name: &'static str, says: &'static str, run: Run) -> Check {
    Check { name, level: Level::Must, since: Version::V1_1, says, source: None, run }
}

pub(crate) const fn should(name: &'static str, says: &'static str, run: Run) -> Check {
    Check { level: Level::Should, ..must(name, says, run) }
}

pub(crate) const fn may(name: &'static str, says: &'static str, run: Run) -> Check {
    Check { level: Level::May, ..must(name, says, run) }
}

pub(crate) const fn sound(name: &'static str, says: &'static str, run: Run) -> Check {
    Check { level: Level::Sound, ..must(name, says, run) }
}

impl Check {
    /// It is demanded since 1.1 only.
    pub(crate) const fn dev(self) -> Self {
        Self { since: Version::Dev, ..self }
    }

    /// It is demanded elsewhere than under the section's heading.
    pub(crate) const fn from(self, source: &'static str) -> Self {
        Self { source: Some(source), ..self }
    }
}
