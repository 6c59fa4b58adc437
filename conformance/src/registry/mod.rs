//! The suite for registries: what distribution-spec 1.1 says, tried from outside.
//!
//! ```text
//! Section --> Check --Lab (a repository of its own)--> Client --> one request, one connection --> the registry
//!                |                                       `-- Conduct: what holds for every answer
//!                `--> Verdict --> Finding --> table, JSON
//! ```
//!
//! Several checks are tried at a time. Each check cites the sentence that it tries, pushes what it needs into repositories that no other check uses, and
//! deletes it again where the registry deletes. A registry that hangs fails, and is not waited for twice. Redirects
//! are followed, since the specification allows them anywhere.
//!
//! It never links what it judges, and takes nothing from the specification's own test programs.
//!
//! Source: OCI distribution-spec 1.1.1, and its main branch at 967efdc for [`Version::Dev`]; RFC 9110 where the
//! specification refers to it; OCI image-spec 1.1.1 for content.

mod answer;
mod check;
mod checks;
mod client;
mod conduct;
mod content;
mod credentials;
mod findings;
mod http;
mod lab;
mod url;

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

pub use check::{Check, Level, Section, Version};
pub use checks::SECTIONS;
pub use credentials::User;
pub use findings::{Finding, Findings};
pub use url::UrlError;

use crate::Outcome;
use answer::{Problem, Verdict};
use client::Client;
use lab::Lab;

/// What is to be run.
#[derive(Debug, Clone)]
pub struct Options {
    /// `http://HOST[:PORT]` or `https://HOST[:PORT]`.
    pub url: String,
    /// Who asks; nobody, where the registry lets everybody in.
    pub user: Option<User>,
    /// What the names of all repositories begin with.
    pub prefix: String,
    /// The sections to run; all where that is empty.
    pub only: Vec<&'static str>,
    /// The text that the registry is held against.
    pub version: Version,
    /// How long one answer may take.
    pub limit: Duration,
    /// How many checks are tried at a time.
    pub jobs: NonZeroUsize,
}

/// Why the suite cannot run: nothing that is said of the registry.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SuiteError {
    /// The URL means nothing.
    #[error(transparent)]
    Url(#[from] UrlError),
    /// Nobody listens, or the first answer is no HTTP.
    #[error("there is no registry at {url}: {reason}")]
    NoRegistry {
        /// The URL.
        url: String,
        /// What was tried, and what came of it.
        reason: String,
    },
}

/// Runs the checks, several at a time, and calls `tell` for each, in the order of [`SECTIONS`].
///
/// # Errors
///
/// [`SuiteError`], before the first check.
pub fn run(options: &Options, tell: &mut dyn FnMut(&Finding)) -> Result<Findings, SuiteError> {
    let base = url::Target::parse(&options.url)?;
    let client = Client::new(base, options.limit, options.user.clone());
    if let Err(Problem::Wrong(reason)) = client.ask("GET", "/v2/").send() {
        return Err(SuiteError::NoRegistry { url: options.url.clone(), reason });
    }
    let mut findings = Findings {
        registry: options.url.clone(),
        version: options.version,
        all: Vec::new(),
        left_out: Vec::new(),
    };
    let is_wanted = |section: &&Section| options.only.is_empty() || options.only.contains(&section.name);
    let mut at_once = Vec::new();
    let mut after = Vec::new();
    for section in SECTIONS.iter().filter(is_wanted) {
        let of_version = |check: &&Check| check.since <= options.version;
        let tasks = section.checks.iter().filter(of_version).map(|check| (section, check));
        match section.name {
            checks::SIGNING_IN if options.user.is_none() => {
                findings.left_out.push((section.name, "no user was given"));
            }
            checks::SIGNING_IN | checks::CONDUCT => after.extend(tasks),
            _ => at_once.extend(tasks),
        }
    }
    for (tasks, jobs) in [(at_once, options.jobs.get()), (after, 1)] {
        let found =
            try_all(&tasks, jobs, &|(section, check)| find(section, check, &client, &options.prefix), tell);
        findings.all.extend(found);
    }
    Ok(findings)
}

type Task = (&'static Section, &'static Check);

/// Tries the checks, `jobs` at a time, and tells of each when all before it are done.
fn try_all(
    tasks: &[Task],
    jobs: usize,
    find: &(dyn Fn(Task) -> Finding + Sync),
    tell: &mut dyn FnMut(&Finding),
) -> Vec<Finding> {
    let (sender, receiver) = mpsc::channel();
    let next = AtomicUsize::new(0);
    let work = |sender: mpsc::Sender<(usize, Finding)>| {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let Some(task) = tasks.get(number) else { return };
            // The receiver outlives all senders.
            let _ = sender.send((number, find(*task)));
        }
    };
    let (mut done, mut early) = (Vec::new(), BTreeMap::new());
    thread::scope(|scope| {
        for _ in 0..jobs {
            let sender = sender.clone();
            scope.spawn(|| work(sender));
        }
        drop(sender);
        for (number, finding) in receiver {
            early.insert(number, finding);
            while let Some(finding) = early.remove(&done.len()) {
                tell(&finding);
                done.push(finding);
            }
        }
    });
    done
}

fn find(section: &Section, check: &Check, client: &Client, prefix: &str) -> Finding {
    let began = Instant::now();
    let verdict = match client.has_given_up() {
        true => {
            Err(Problem::Wrong("not tried, because the registry no longer answers `GET /v2/`".to_owned()))
        }
        false => attempt(check, client, prefix),
    };
    let (outcome, remark) = match verdict {
        Ok(()) => (Outcome::Pass, String::new()),
        Err(Problem::Wrong(remark) | Problem::Silent(remark)) => (Outcome::Fail, remark),
        Err(Problem::Unsupported(remark)) => (Outcome::Skip, remark),
    };
    Finding {
        section: section.name,
        check: check.name,
        level: check.level,
        since: check.since,
        source: check.source.unwrap_or(section.heading),
        says: check.says,
        outcome,
        remark,
        took: began.elapsed(),
    }
}

/// Tries a check. Where the registry was silent it is asked for a sign of life, before the check's content is deleted.
fn attempt(check: &Check, client: &Client, prefix: &str) -> Verdict {
    let lab = Lab::new(client, prefix);
    let verdict = (check.run)(&lab);
    if matches!(verdict, Err(Problem::Silent(_))) {
        client.is_alive();
    }
    verdict
}
