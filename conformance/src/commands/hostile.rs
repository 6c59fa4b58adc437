//! `hostile`: files that lie, and what hull answers.

use std::error::Error;
use std::fs;
use std::io::{self, Write as _};
use std::path::PathBuf;

use conformance::hostile;

/// Give hull files that lie, and hold its answers against what they must be
///
/// Each must be refused in the right words, or accepted where it breaks no rule; nothing may be left behind,
/// and no file may take more than 1 s of processor time and 64 MiB.
#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("task").required(true).multiple(true))]
pub(crate) struct Arguments {
    /// Write the files into this folder
    #[arg(long, value_name = "DIR", group = "task", conflicts_with = "hull")]
    make: Option<PathBuf>,
    /// The `hull` binary
    #[arg(long, group = "task")]
    hull: Option<PathBuf>,
    /// Write the table, as a page, into this file too
    #[arg(long, value_name = "FILE", requires = "hull")]
    page: Option<PathBuf>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<bool, Box<dyn Error>> {
    if let Some(folder) = &arguments.make {
        writeln!(io::stdout(), "{} files", hostile::make(folder)?)?;
    }
    let Some(hull) = &arguments.hull else { return Ok(false) };
    let scratch = tempfile::tempdir()?;
    let answers = hostile::run(&hull.canonicalize()?, scratch.path(), &mut |answer| {
        for problem in &answer.wrong {
            // Nothing is left to do where stderr is closed.
            let _ = writeln!(io::stderr(), "{}: {problem}: {}", answer.name, answer.said);
        }
    })?;
    let table = hostile::to_table(&answers);
    if let Some(page) = &arguments.page {
        fs::write(page, format!("{HEAD}{table}"))?;
    }
    io::stdout().write_all(table.as_bytes())?;
    Ok(answers.iter().any(|answer| !answer.wrong.is_empty() || answer.is_over_bounds()))
}

const HEAD: &str = "# Hostile files

Written by `hull-conformance hostile --hull PATH --page docs/hostile-files.md`; do not edit. Each file was made byte by byte and
given to `hull` in a process of its own; the memory is that process's peak. A right answer has the exit code and the words
that are wanted, leaves nothing behind, and stays within 1 s of processor time and 64 MiB.
`hull-conformance hostile --make DIR` writes the files.

";
