//! The last lines of a QMP conversation, kept for bug reports.
//!
//! Bounded in lines and in bytes per line, however much QEMU says.

use std::collections::VecDeque;

const MAX_LINES: usize = 200;
const MAX_LINE_BYTES: usize = 512;

/// Who said a line.
#[derive(Debug, Clone, Copy)]
pub(super) enum Speaker {
    Us,
    Qemu,
}

/// What was said last, oldest first.
#[derive(Debug, Default)]
pub(super) struct Transcript {
    lines: VecDeque<String>, // Invariant: at most MAX_LINES.
}

impl Transcript {
    pub(super) fn record(&mut self, speaker: Speaker, line: &[u8]) {
        if self.lines.len() == MAX_LINES {
            self.lines.pop_front();
        }
        let shown = &line[..line.len().min(MAX_LINE_BYTES)];
        let cut = if shown.len() < line.len() { " ..." } else { "" };
        let arrow = match speaker {
            Speaker::Us => "->",
            Speaker::Qemu => "<-",
        };
        let text = String::from_utf8_lossy(shown);
        let escaped: String = text.trim_end().chars().flat_map(escape_control).collect();
        self.lines.push_back(format!("{arrow} {escaped}{cut}"));
    }

    pub(super) fn lines(&self) -> Vec<String> {
        self.lines.iter().cloned().collect()
    }
}

/// Control characters escaped, everything else as it is: the lines are JSON and are to stay readable.
fn escape_control(c: char) -> impl Iterator<Item = char> {
    let escaped = c.is_control().then(|| c.escape_debug());
    let plain = escaped.is_none().then_some(c);
    escaped.into_iter().flatten().chain(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_last_lines_are_kept_and_long_ones_are_cut() {
        let mut transcript = Transcript::default();
        for _ in 0..1000 {
            transcript.record(Speaker::Qemu, &[b'x'; 10_000]);
        }
        transcript.record(Speaker::Us, b"{\"execute\":\"\x1b[2J\"}\r\n");
        let lines = transcript.lines();
        assert_eq!(lines.len(), MAX_LINES);
        assert_eq!(lines[0].len(), MAX_LINE_BYTES + "<-  ...".len());
        assert_eq!(lines[MAX_LINES - 1], "-> {\"execute\":\"\\u{1b}[2J\"}");
    }
}
