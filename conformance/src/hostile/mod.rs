//! The suite of hostile files: each is made here, given to hull, and must be answered rightly.
//!
//! A right answer is the exit code, words that name what is wrong, nothing left behind, and no more time and
//! memory than the bounds. Files that look hostile and break no rule must be accepted, within the same bounds.
//!
//! The files are made byte by byte from the formats' specifications; no code of hull's is used.

mod archive;
mod boxes;
mod bytes;
mod ova;
mod plain;
mod qcow2;
mod run;
mod vdi;
mod vhd;
mod vhdx;
mod vmdk;

use std::fs;
use std::io::{self, Read as _};
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::{DeflateEncoder, ZlibEncoder};

pub use run::Answer;

/// The most processor time that any file may take.
pub const MAX_CPU: Duration = Duration::from_secs(1);
/// The most memory that any file may take.
pub const MAX_PEAK_BYTES: u64 = 64 << 20;

/// A file, or several that belong together, and what must be done about it.
#[derive(Debug)]
struct Hostile {
    name: &'static str,
    what: &'static str,
    want: Want,
    /// The first one is given to hull.
    files: Vec<(&'static str, Bytes)>,
    command: Task,
    /// More arguments.
    more: Vec<&'static str>,
}

/// What hull is asked to do with the file.
#[derive(Debug, Clone, Copy)]
enum Task {
    /// Copy the disk to a raw image.
    Convert,
    /// Write a folder with hull.toml and the disks.
    Import,
}

#[derive(Debug, Clone, Copy)]
enum Want {
    /// Exit code 0, and the disk.
    Accepted,
    /// Exit code 1, nothing left, and these words among those on stderr.
    Refused { says: &'static str },
}

const fn accepted() -> Want {
    Want::Accepted
}

const fn refused(says: &'static str) -> Want {
    Want::Refused { says }
}

/// A file for `hull convert`.
fn convert(name: &'static str, what: &'static str, want: Want, files: Vec<(&'static str, Bytes)>) -> Hostile {
    Hostile { name, what, want, files, command: Task::Convert, more: Vec::new() }
}

/// A file for `hull import`.
fn import(name: &'static str, what: &'static str, want: Want, files: Vec<(&'static str, Bytes)>) -> Hostile {
    Hostile { command: Task::Import, ..convert(name, what, want, files) }
}

impl Hostile {
    fn with(mut self, more: &[&'static str]) -> Self {
        self.more.extend(more);
        self
    }

    /// The folder may be used for parts.
    fn with_parts(self) -> Self {
        self.with(&["--parts", "."])
    }

    fn arguments(&self) -> Vec<&'static str> {
        let (file, _) = self.files[0];
        let task: &[_] = match self.command {
            Task::Convert => &["convert", file, "--to", "raw", "-o", "out/disk", "--max-size", "1024"],
            Task::Import => &["import", file, "--init", "out/disk", "--max-size", "1"],
        };
        [task, &self.more].concat()
    }
}

/// Every file, made when it is asked for.
fn all() -> impl Iterator<Item = Hostile> {
    let disks = qcow2::all().chain(vmdk::all()).chain(vhd::all()).chain(vhdx::all()).chain(vdi::all());
    disks.chain(plain::all()).chain(ova::all()).chain(boxes::all())
}

/// Gives every file to the program at `hull`, one after the other, and calls `tell` with each answer.
///
/// # Errors
///
/// Those of writing the files below `scratch`, which is left empty, and of starting hull.
pub fn run(hull: &Path, scratch: &Path, tell: &mut dyn FnMut(&Answer)) -> io::Result<Vec<Answer>> {
    let mut answers = Vec::new();
    for hostile in all() {
        let folder = scratch.join(hostile.name);
        fs::create_dir(&folder)?;
        let answer = run::run(&hostile, hull, &folder)?;
        fs::remove_dir_all(&folder)?;
        tell(&answer);
        answers.push(answer);
    }
    Ok(answers)
}

/// Writes every file, each into a folder of its own in `folder`, and returns how many folders there are.
///
/// # Errors
///
/// Those of writing.
pub fn make(folder: &Path) -> io::Result<u64> {
    let mut count = 0;
    for hostile in all() {
        let folder = folder.join(hostile.name);
        fs::create_dir_all(&folder)?;
        for (name, content) in &hostile.files {
            content.write(&folder.join(name))?;
        }
        count += 1;
    }
    Ok(count)
}

impl Answer {
    /// True if it took more than the bounds.
    pub fn is_over_bounds(&self) -> bool {
        self.cpu > MAX_CPU || self.peak_bytes > MAX_PEAK_BYTES
    }
}

/// The answers as a Markdown table; the last line counts them.
pub fn to_table(answers: &[Answer]) -> String {
    let mut table = "| file | what it is | answer | exit | CPU ms | MiB | |\n| --- | --- | --- | --- | --- | --- | --- |\n".to_owned();
    for answer in answers {
        let mut verdict = answer.wrong.join("; ");
        if answer.is_over_bounds() {
            verdict += " over the bounds";
        }
        let exit = answer.exit.map_or("none".to_owned(), |code| code.to_string());
        let said = match answer.wanted {
            // The hint is for people who want to go on.
            Some(_) => answer.said.split("; hint: ").next().unwrap_or_default(),
            None if answer.exit == Some(0) => "accepted",
            None => answer.said.as_str(),
        };
        let cells = [answer.name, answer.what, said, &exit].map(|cell| cell.replace('|', "\\|"));
        table += &format!(
            "| {} | {} | {} | {} |\n",
            cells.join(" | "),
            answer.cpu.as_millis(),
            answer.peak_bytes.div_ceil(1 << 20),
            if verdict.is_empty() { "right" } else { &verdict },
        );
    }
    let wrong = answers.iter().filter(|answer| !answer.wrong.is_empty()).count();
    let over = answers.iter().filter(|answer| answer.is_over_bounds()).count();
    table + &format!("\n{} files, {wrong} answered wrongly, {over} over the bounds\n", answers.len())
}

/// `len` bytes of `byte`, compressed piece by piece: the memory of this process counts as that of those it starts.
fn deflate(byte: u8, len: usize) -> Vec<u8> {
    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::default());
    let written = io::copy(&mut io::repeat(byte).take(len as u64), &mut encoder);
    written.and_then(|_| encoder.finish()).expect("a vector takes everything")
}

/// As [`deflate`], with zlib's head and checksum.
fn zlib(byte: u8, len: usize) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
    let written = io::copy(&mut io::repeat(byte).take(len as u64), &mut encoder);
    written.and_then(|_| encoder.finish()).expect("a vector takes everything")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn there_are_enough_files_and_each_has_a_name_of_its_own() {
        let names: Vec<_> = all().map(|hostile| hostile.name).collect();
        assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len());
        assert!(names.len() >= 60);
    }
}
