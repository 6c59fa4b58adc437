//! Printing: errors, tables, sizes and times, as people read them.
//!
//! Everything that came out of an image, from a registry or from a guest passes through [`plain`], so
//! that it cannot drive the terminal.

#![expect(clippy::print_stderr, reason = "this is where hull prints")]

use std::fmt::Display;
use std::io::{IsTerminal as _, Write as _};
use std::time::Duration;

use comfy_table::{Attribute, Cell, ContentArrangement, Table, presets};

use crate::error::CommandError;

/// Prints a failure: the chain of reasons once, then what to do.
pub(crate) fn print_error(error: &CommandError) {
    eprintln!("error: {}", chain(error));
    if let Some(hint) = &error.hint {
        eprintln!("hint: {}", plain(hint));
    }
}

/// A failure and its reasons in one line.
pub(crate) fn chain(error: &CommandError) -> String {
    join(error.error.chain())
}

/// An error and its reasons in one line.
pub(crate) fn chain_of(error: &(dyn std::error::Error + 'static)) -> String {
    join(std::iter::successors(Some(error), |error| error.source()))
}

fn join<'a>(reasons: impl Iterator<Item = &'a (dyn std::error::Error + 'static)>) -> String {
    let mut message = String::new();
    for reason in reasons {
        let reason = plain(&reason.to_string());
        // A transparent wrapper says what its source says.
        if message.ends_with(&reason) {
            continue;
        }
        if !message.is_empty() {
            message.push_str(": ");
        }
        message.push_str(&reason);
    }
    message
}

/// Says something to the person at the terminal: on stderr. That nobody listens any more is no error.
pub(crate) fn say(message: impl Display) {
    let _ = writeln!(std::io::stderr(), "{message}");
}

/// Prints a result: on stdout, for pipes. A reader that has gone away is none of our errors.
pub(crate) fn result(line: impl Display) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// Prints a value as JSON, on stdout.
pub(crate) fn json(value: &serde_json::Value) {
    result(serde_json::to_string_pretty(value).expect("a JSON value serialises"));
}

/// Prints rows under bold headings, on stdout.
pub(crate) fn table(headings: &[&str], rows: Vec<Vec<String>>) {
    for line in table_lines(headings, rows, std::io::stdout().is_terminal()) {
        result(line);
    }
}

/// Says rows under bold headings to the person at the terminal: on stderr.
pub(crate) fn say_table(headings: &[&str], rows: Vec<Vec<String>>) {
    for line in table_lines(headings, rows, std::io::stderr().is_terminal()) {
        say(line);
    }
}

fn table_lines(headings: &[&str], rows: Vec<Vec<String>>, bold: bool) -> Vec<String> {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(headings.iter().map(|heading| {
        let cell = Cell::new(heading);
        if bold { cell.add_attribute(Attribute::Bold) } else { cell }
    }));
    table.add_rows(rows.into_iter().map(|row| row.into_iter().map(|cell| plain(&cell))));
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table.to_string().lines().map(|line| line.trim_end().to_owned()).collect()
}

/// `text` with control characters written out.
pub(crate) fn plain(text: &str) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut plain, c| {
        if c.is_control() {
            plain.extend(c.escape_default())
        } else {
            plain.push(c)
        }
        plain
    })
}

/// A size, such as `1.5 MiB`.
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if value < 9.95 { format!("{value:.1} {}", UNITS[unit]) } else { format!("{value:.0} {}", UNITS[unit]) }
}

/// A time, such as `1.5 s` or `3 min`.
pub(crate) fn duration(time: Duration) -> String {
    match time.as_secs() {
        0 => format!("{} ms", time.as_millis()),
        1..=99 => format!("{:.1} s", time.as_secs_f64()),
        100..=5_999 => format!("{} min", time.as_secs() / 60),
        6_000..=172_799 => format!("{} h", time.as_secs() / 3600),
        _ => format!("{} days", time.as_secs() / 86_400),
    }
}

/// How long something has been so, in whole units: `12 s`, `3 min`.
pub(crate) fn age(seconds: u64) -> String {
    match seconds {
        0..=99 => format!("{seconds} s"),
        _ => duration(Duration::from_secs(seconds)),
    }
}

/// `1 chunk`, `2 chunks`.
pub(crate) fn count(number: u64, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_two_digits_that_matter() {
        for (bytes, want) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (10 << 10, "10 KiB"),
            (1 << 20, "1.0 MiB"),
            (2 << 30, "2.0 GiB"),
            (u64::MAX, "16384 PiB"),
        ] {
            assert_eq!(size(bytes), want);
        }
    }

    #[test]
    fn what_came_from_outside_cannot_drive_the_terminal() {
        assert_eq!(plain("a\u{1b}[2Jb\u{9b}1m\u{7}"), "a\\u{1b}[2Jb\\u{9b}1m\\u{7}");
    }
}
