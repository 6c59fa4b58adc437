//! Runs `ip` (iproute2) and `nft` (nftables), the two programs that configure the kernel for us.
//!
//! Everything is handed over on standard input, so nothing that came from an image ever stands on a
//! command line. A program inherits the network namespace of the thread that starts it: call these
//! inside [`Namespace::enter`](super::namespace::Namespace::enter) to work in a VM's.

use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::process::{Command, Output, Stdio};

use serde::de::DeserializeOwned;

use crate::child;

/// Why a program that configures the network did not do what it was told.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProgramError {
    /// It is not installed.
    #[error("`{program}` is not installed; it comes with the package `{package}`")]
    Missing {
        /// The program.
        program: &'static str,
        /// The package of Debian, Fedora and others that holds it.
        package: &'static str,
    },
    /// It could not be started, or its input and output broke.
    #[error("cannot run `{program}`")]
    Run {
        /// The program.
        program: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It said no.
    #[error("`{program}` failed to {task}: {message}")]
    Refused {
        /// The program.
        program: &'static str,
        /// What it was to do.
        task: &'static str,
        /// What it wrote to standard error, control characters escaped.
        message: String,
    },
    /// It did not write the JSON that it was asked for.
    #[error("`{program}` did not {task} as JSON")]
    Answer {
        /// The program.
        program: &'static str,
        /// What it was to do.
        task: &'static str,
        /// What is wrong with its answer.
        #[source]
        source: serde_json::Error,
    },
}

/// A program, its package, and what it is given besides a batch.
#[derive(Clone, Copy)]
struct Program {
    name: &'static str,
    package: &'static str,
}

const IP: Program = Program { name: "ip", package: "iproute2" };
const NFT: Program = Program { name: "nft", package: "nftables" };

/// Where administrators' programs are when the search path of the caller does not say.
const FOLDERS: [&str; 3] = ["", "/usr/sbin/", "/sbin/"];

/// The most of a program's complaint that an error repeats, in bytes.
const MESSAGE_BYTES: usize = 600;

/// Runs `ip` commands, one in a line, without the word `ip`. The first that fails ends the batch.
pub(super) fn ip_batch(task: &'static str, commands: &str) -> Result<(), ProgramError> {
    IP.run(task, &["-batch", "-"], commands).map(drop)
}

/// Runs one `ip` command.
pub(super) fn ip(task: &'static str, arguments: &[&str]) -> Result<(), ProgramError> {
    IP.run(task, arguments, "").map(drop)
}

/// Runs one `ip -j` query and reads its answer.
pub(super) fn ip_query<T: DeserializeOwned + Default>(
    task: &'static str,
    arguments: &[&str],
) -> Result<T, ProgramError> {
    let answer = IP.run(task, &[&["-j"], arguments].concat(), "")?;
    if answer.trim_ascii().is_empty() {
        return Ok(T::default()); // how `ip -j` says "none"
    }
    serde_json::from_slice(&answer).map_err(|source| ProgramError::Answer { program: IP.name, task, source })
}

/// Loads an nft script: all of it or, on an error, nothing.
pub(super) fn nft_load(task: &'static str, script: &str) -> Result<(), ProgramError> {
    NFT.run(task, &["-f", "-"], script).map(drop)
}

/// Runs one `nft -j` query and returns its answer.
pub(super) fn nft_query(task: &'static str, arguments: &[&str]) -> Result<String, ProgramError> {
    let answer = NFT.run(task, &[&["-j"], arguments].concat(), "")?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// Fails unless both programs can be started.
pub(super) fn check_installed() -> Result<(), ProgramError> {
    IP.run("tell its version", &["-V"], "")?;
    NFT.run("tell its version", &["--version"], "").map(drop)
}

impl Program {
    fn run(self, task: &'static str, arguments: &[&str], input: &str) -> Result<Vec<u8>, ProgramError> {
        let output = self.output(arguments, input)?;
        if output.status.success() {
            return Ok(output.stdout);
        }
        let message = describe(&output.stderr, input);
        Err(ProgramError::Refused { program: self.name, task, message })
    }

    fn output(self, arguments: &[&str], input: &str) -> Result<Output, ProgramError> {
        let failed = |source| ProgramError::Run { program: self.name, source };
        for folder in FOLDERS {
            let mut command = Command::new(format!("{folder}{}", self.name));
            command.args(arguments).env("LC_ALL", "C");
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
            end_with_us(&mut command);
            let mut child = match command.spawn() {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                child => child.map_err(failed)?,
            };
            // Both programs read all of their input before they write more than a pipe holds. One
            // that gives up early says why on standard error, which is worth more than our EPIPE.
            let mut stdin = child.stdin.take().expect("standard input is a pipe");
            drop(stdin.write_all(input.as_bytes()));
            drop(stdin);
            return child.wait_with_output().map_err(failed);
        }
        Err(ProgramError::Missing { program: self.name, package: self.package })
    }
}

/// Has the program killed with us. This thread waits for it, so it does not end sooner.
#[expect(unsafe_code, reason = "the standard library has no safe way to run code in a forked child")]
fn end_with_us(command: &mut Command) {
    let us = rustix::process::getpid();
    // SAFETY: what runs in the child after fork may be called there, as it says.
    unsafe { command.pre_exec(move || child::end_with(us)) };
}

/// What a program complained about, on one line, and which line of its input that was.
fn describe(stderr: &[u8], input: &str) -> String {
    let text = String::from_utf8_lossy(stderr);
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let failed = lines.iter().find_map(|line| line.strip_prefix("Command failed -:"));
    let command = failed.and_then(|number| input.lines().nth(number.parse::<usize>().ok()?.checked_sub(1)?));
    let said: Vec<&str> = lines.iter().filter(|line| !line.starts_with("Command failed")).copied().collect();
    let mut message = said.join("; ").escape_debug().to_string();
    if let Some((end, _)) = message.char_indices().nth(MESSAGE_BYTES) {
        message.truncate(end);
        message.push_str(" ...");
    }
    match command {
        Some(command) => format!("{message} (at `{}`)", command.escape_debug()),
        None => message,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_complaint_is_one_line_and_names_the_command() {
        let stderr = b"RTNETLINK answers: File exists\nCommand failed -:2\n";
        let input = "link set a up\naddr add 10.0.0.1/8 dev a\n";
        assert_eq!(
            describe(stderr, input),
            "RTNETLINK answers: File exists (at `addr add 10.0.0.1/8 dev a`)"
        );
        assert_eq!(describe(b"\x1b[31mno\n\n", ""), "\\u{1b}[31mno");
        assert!(describe(&[b'x'; 5000], "").len() < 700);
    }

    #[test]
    fn a_program_that_is_not_there_is_named_with_its_package() {
        let error =
            Program { name: "no-such-program", package: "some-package" }.run("x", &[], "").unwrap_err();
        assert_eq!(
            error.to_string(),
            "`no-such-program` is not installed; it comes with the package `some-package`"
        );
    }
}
