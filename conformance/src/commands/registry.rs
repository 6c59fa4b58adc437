//! `registry`: a registry, by its URL.

use std::error::Error;
use std::fs;
use std::io::{self, Write as _};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use conformance::Outcome;
use conformance::registry::{self, Finding, Options, SECTIONS, User, Version};

/// Hold a registry against the OCI distribution specification
///
/// Pushes and deletes, in new repositories only. Ends with `N PASS, N FAIL, N SKIP`.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The registry, as `http://HOST[:PORT]` or `https://HOST[:PORT]`
    url: String,
    /// Who signs in
    #[arg(long, value_name = "NAME", requires = "password_file")]
    user: Option<String>,
    /// A file whose first line is the password
    #[arg(long, value_name = "FILE", requires = "user")]
    password_file: Option<PathBuf>,
    /// What the names of all repositories begin with
    #[arg(long, value_name = "NAME", default_value = "conformance")]
    repository: String,
    /// Only this section; may be repeated
    #[arg(long, value_name = "SECTION", value_parser = section)]
    only: Vec<&'static str>,
    /// The text: distribution-spec 1.1, or its main branch
    #[arg(long, value_parser = version, default_value = "1.1")]
    version: Version,
    /// How many seconds one answer may take
    #[arg(long, value_name = "SECONDS", default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..))]
    limit: u64,
    /// Checks at a time
    #[arg(long, default_value = "4")]
    jobs: NonZeroUsize,
    /// Write JSON to a file too, as docs/conformance.md describes it
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<bool, Box<dyn Error>> {
    let options = Options {
        url: arguments.url.clone(),
        user: user(arguments)?,
        prefix: arguments.repository.clone(),
        only: arguments.only.clone(),
        version: arguments.version,
        limit: Duration::from_secs(arguments.limit),
        jobs: arguments.jobs,
    };
    let mut out = io::stdout().lock();
    let mut printed = Ok(());
    let findings = registry::run(&options, &mut |finding: &Finding| {
        if printed.is_ok() {
            printed = out.write_all(finding.to_lines().as_bytes());
        }
    })?;
    printed?;
    write!(out, "{}", findings.summary())?;
    out.flush()?;
    if let Some(path) = &arguments.json {
        fs::write(path, format!("{:#}\n", findings.to_json()))?;
    }
    Ok(findings.count(Outcome::Fail) > 0)
}

fn user(arguments: &Arguments) -> Result<Option<User>, Box<dyn Error>> {
    let (Some(name), Some(path)) = (&arguments.user, &arguments.password_file) else { return Ok(None) };
    let text =
        fs::read_to_string(path).map_err(|error| format!("cannot read `{}`: {error}", path.display()))?;
    let password = text.lines().next().unwrap_or_default().to_owned();
    Ok(Some(User { name: name.clone(), password }))
}

fn section(name: &str) -> Result<&'static str, String> {
    let found = SECTIONS.iter().find(|section| section.name == name);
    let names = || SECTIONS.iter().map(|section| section.name).collect::<Vec<_>>().join(", ");
    found.map(|section| section.name).ok_or_else(|| format!("expected one of {}", names()))
}

fn version(name: &str) -> Result<Version, String> {
    let found = [Version::V1_1, Version::Dev].into_iter().find(|version| version.name() == name);
    found.ok_or_else(|| "expected 1.1 or dev".to_owned())
}
