//! A folder in which one image is made, and what was done there.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use super::SuiteError;

/// The folder of one image. Programs run in it, so that what is recorded can be repeated anywhere.
#[derive(Debug)]
pub(crate) struct Workshop {
    folder: PathBuf, // Removed with everything in it.
    recipe: Vec<String>,
}

impl Workshop {
    /// An empty folder at `folder`.
    pub(crate) fn open(folder: PathBuf) -> Result<Self, SuiteError> {
        let made = fs::create_dir_all(&folder);
        let shop = Self { folder, recipe: Vec::new() };
        made.map_err(|error| shop.failed(error))?;
        Ok(shop)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Every command so far, and what was made without one, as lines of a shell script.
    pub(crate) fn recipe(&self) -> String {
        self.recipe.join("\n")
    }

    /// Notes what was made without a command.
    pub(crate) fn note(&mut self, what: String) {
        self.recipe.push(format!("# {what}"));
    }

    /// Runs a program to its end, which must be a good one; returns what it printed.
    pub(crate) fn run(&mut self, program: &str, arguments: &[&str]) -> Result<Vec<u8>, SuiteError> {
        let output = self.attempt(program, arguments)?;
        if output.status.success() {
            return Ok(output.stdout);
        }
        Err(SuiteError::Failed { command: self.recipe.pop().unwrap_or_default(), said: said(&output) })
    }

    /// Runs a program to its end, whichever that is.
    pub(crate) fn attempt(&mut self, program: &str, arguments: &[&str]) -> Result<Output, SuiteError> {
        let words = [program].into_iter().chain(arguments.iter().copied()).map(quoted);
        self.recipe.push(words.collect::<Vec<_>>().join(" "));
        let output = Command::new(program).args(arguments).current_dir(&self.folder).output();
        output.map_err(|source| SuiteError::NotStarted { program: program.to_owned(), source })
    }

    pub(crate) fn failed(&self, source: io::Error) -> SuiteError {
        SuiteError::Scratch { folder: self.folder.clone(), source }
    }
}

impl Drop for Workshop {
    fn drop(&mut self) {
        // It lies in a folder for scratch; what stays there is looked after with it.
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// What a program complained of, on one line.
pub(crate) fn said(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr);
    let text = if text.trim().is_empty() { String::from_utf8_lossy(&output.stdout) } else { text };
    let text = text.trim().escape_debug().to_string();
    format!("{}: {}", output.status, text.chars().take(600).collect::<String>())
}

fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_=./,:".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) { word.to_owned() } else { format!("'{word}'") }
}

/// The path as an argument.
pub(crate) fn text(path: &Path) -> &str {
    path.to_str().expect("paths of the suite are UTF-8")
}
