//! Tables, chains and rules as values, and how nft spells them.
//!
//! Rules keep their counter and verdict apart from what they match, so that `listing` can compare what was loaded with
//! what was meant, rule by rule.
//!
//! Source: nft(8), version 1.0.6 and later.

use std::fmt;

/// A table.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) family: Family,
    pub(super) counters: Vec<String>,
    pub(super) chains: Vec<Chain>,
}

/// A table's address family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Family {
    Inet,
    Netdev,
}

impl Family {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Inet => "inet",
            Self::Netdev => "netdev",
        }
    }
}

/// A chain. Names never are words of nft's grammar: each has an underscore.
#[derive(Debug)]
pub(super) struct Chain {
    pub(super) name: String,
    /// Where packets enter it; nothing for a chain that only others jump to.
    pub(super) base: Option<Base>,
    pub(super) rules: Vec<Rule>,
}

/// Where packets enter a chain.
#[derive(Debug, Clone)]
pub(super) struct Base {
    /// `filter` or `nat`.
    pub(super) kind: &'static str,
    pub(super) hook: &'static str,
    pub(super) device: Option<String>,
    pub(super) priority: i32,
    /// `accept` or `drop`.
    pub(super) policy: &'static str,
}

/// A rule: `matches counter log verdict`, of which the verdict alone must be there.
#[derive(Debug, Default)]
pub(super) struct Rule {
    matches: String,
    pub(super) counter: Option<String>,
    log: Option<String>,
    pub(super) verdict: Option<Verdict>,
}

/// What a rule does with a packet that it matches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    Accept,
    Drop,
    Return,
    Jump(String),
    Goto(String),
    Masquerade,
}

/// A rule that matches what `matches` says, or everything where that is empty.
pub(super) fn rule(matches: impl Into<String>) -> Rule {
    Rule { matches: matches.into(), ..Rule::default() }
}

impl Rule {
    pub(super) fn count(mut self, counter: impl Into<String>) -> Self {
        self.counter = Some(counter.into());
        self
    }

    /// Logs what it matches to an NFLOG group. `prefix` is made of names and spaces only.
    pub(super) fn log(mut self, group: u16, prefix: &str) -> Self {
        self.log = Some(format!("log prefix \"{prefix}\" group {group}"));
        self
    }

    pub(super) fn then(mut self, verdict: Verdict) -> Self {
        self.verdict = Some(verdict);
        self
    }
}

impl fmt::Display for Table {
    /// A table that takes the place of one of the same name, all at once.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (family, name) = (self.family.as_str(), super::TABLE);
        writeln!(f, "add table {family} {name}\ndelete table {family} {name}\ntable {family} {name} {{")?;
        for counter in &self.counters {
            writeln!(f, "  counter {counter} {{ }}")?;
        }
        self.chains.iter().try_for_each(|chain| chain.fmt(f))?;
        writeln!(f, "}}")
    }
}

impl fmt::Display for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "  chain {} {{", self.name)?;
        if let Some(Base { kind, hook, device, priority, policy }) = &self.base {
            write!(f, "    type {kind} hook {hook} ")?;
            if let Some(device) = device {
                write!(f, "device \"{device}\" ")?;
            }
            writeln!(f, "priority {priority}; policy {policy};")?;
        }
        for rule in &self.rules {
            writeln!(f, "    {rule}")?;
        }
        writeln!(f, "  }}")
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let matches = Some(self.matches.clone()).filter(|matches| !matches.is_empty());
        let counter = self.counter.as_ref().map(|counter| format!("counter name \"{counter}\""));
        let verdict = self.verdict.as_ref().map(ToString::to_string);
        let parts: Vec<String> =
            [matches, counter, self.log.clone(), verdict].into_iter().flatten().collect();
        f.write_str(&parts.join(" "))
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Accept => f.write_str("accept"),
            Self::Drop => f.write_str("drop"),
            Self::Return => f.write_str("return"),
            Self::Jump(chain) => write!(f, "jump {chain}"),
            Self::Goto(chain) => write!(f, "goto {chain}"),
            Self::Masquerade => f.write_str("masquerade"),
        }
    }
}
