//! Asking the person at the terminal. Questions go to stderr, answers come from stdin.

use std::io::{self, BufRead as _, IsTerminal as _, Write as _};

use rustix::termios::{self, LocalModes, OptionalActions};

use crate::error::{CommandError, Exit};
use crate::text;

/// Asks for a line.
pub(crate) fn ask(prompt: &str) -> Result<String, CommandError> {
    let mut stderr = io::stderr();
    write!(stderr, "{prompt}")?;
    stderr.flush()?;
    read_line()
}

/// Asks without showing what is typed.
pub(crate) fn ask_secret(prompt: &str) -> Result<String, CommandError> {
    let stdin = io::stdin();
    if !stdin.is_terminal() {
        return Err(CommandError::new(Exit::Usage, "there is no terminal to ask for a password")
            .hint("give it with `--password-stdin`"));
    }
    let before = termios::tcgetattr(&stdin).map_err(io::Error::from)?;
    let mut silent = before.clone();
    silent.local_modes -= LocalModes::ECHO;
    termios::tcsetattr(&stdin, OptionalActions::Flush, &silent).map_err(io::Error::from)?;
    let answer = ask(prompt);
    termios::tcsetattr(&stdin, OptionalActions::Flush, &before).map_err(io::Error::from)?;
    text::say("");
    answer
}

/// Reads a line of stdin, without its end.
pub(crate) fn read_line() -> Result<String, CommandError> {
    let mut line = String::new();
    io::stdin().lock().read_line(&mut line)?;
    let line = line.trim_end_matches(['\r', '\n']);
    if line.is_empty() {
        return Err(CommandError::new(Exit::Usage, "nothing was typed"));
    }
    Ok(line.to_owned())
}
