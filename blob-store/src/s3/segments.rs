//! The segments that content is made of, in order, written down shortly.
//!
//! A segment's name says where it begins, so equal segments in a row need one line, however many they
//! are. A terabyte is a handful of lines.
//!
//! ```text
//! segments = *( count " " bytes " " attempt LF ) "end" LF        numbers without leading zeros
//! ```

use std::fmt::Write as _;
use std::ops::Range;

/// The content's parts, one behind the other.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Segments {
    runs: Vec<Run>, // Invariant: no run is empty, neighbours differ, the sum of all bytes fits a `u64`.
    size_bytes: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Run {
    count: u64,
    bytes: u64,
    attempt: u32,
}

/// One segment: where it begins in the content, and which of the objects that begin there it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Segment {
    pub(super) offset: u64,
    pub(super) bytes: u64,
    pub(super) attempt: u32,
}

/// Why a text is not a list of segments.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the list of segments is damaged")]
pub(super) struct DamagedSegments;

impl Segments {
    pub(super) fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// Puts a segment of `bytes`, not 0, behind the others.
    ///
    /// # Errors
    ///
    /// Where the sum would not fit a `u64`; then nothing is changed.
    pub(super) fn push(&mut self, bytes: u64, attempt: u32) -> Result<(), DamagedSegments> {
        self.push_run(Run { count: 1, bytes, attempt })
    }

    fn push_run(&mut self, run: Run) -> Result<(), DamagedSegments> {
        let added = run.count.checked_mul(run.bytes).filter(|added| *added > 0).ok_or(DamagedSegments)?;
        self.size_bytes = self.size_bytes.checked_add(added).ok_or(DamagedSegments)?;
        match self.runs.last_mut() {
            Some(last) if (last.bytes, last.attempt) == (run.bytes, run.attempt) => last.count += run.count,
            _ => self.runs.push(run),
        }
        Ok(())
    }

    /// The last segment.
    pub(super) fn last(&self) -> Option<Segment> {
        let run = self.runs.last()?;
        Some(Segment { offset: self.size_bytes - run.bytes, bytes: run.bytes, attempt: run.attempt })
    }

    /// The first segment.
    pub(super) fn first(&self) -> Option<Segment> {
        self.runs.first().map(|run| Segment { offset: 0, bytes: run.bytes, attempt: run.attempt })
    }

    /// Takes the last segment away.
    pub(super) fn pop(&mut self) -> Option<Segment> {
        let last = self.last()?;
        self.size_bytes -= last.bytes;
        let run = self.runs.last_mut()?;
        run.count -= 1;
        if run.count == 0 {
            self.runs.pop();
        }
        Some(last)
    }

    /// What must be read for the bytes of `range`: segments, and which of their bytes, at most
    /// `most` at a time. `range` lies in the content.
    pub(super) fn reads(self, range: Range<u64>, most: u64) -> impl Iterator<Item = (Segment, Range<u64>)> {
        let mut position = range.start;
        let (mut run, mut run_start) = (0, 0);
        std::iter::from_fn(move || {
            if position >= range.end {
                return None;
            }
            let mut current = self.runs[run];
            while position >= run_start + current.count * current.bytes {
                run_start += current.count * current.bytes;
                run += 1;
                current = self.runs[run];
            }
            let offset = position - (position - run_start) % current.bytes;
            let end = range.end.min(offset + current.bytes).min(position.saturating_add(most));
            let read = position - offset..end - offset;
            position = end;
            Some((Segment { offset, bytes: current.bytes, attempt: current.attempt }, read))
        })
    }

    /// Appends the list to `text`, as [`Segments::parse`] reads it.
    pub(super) fn write_to(&self, text: &mut String) {
        for Run { count, bytes, attempt } in &self.runs {
            writeln!(text, "{count} {bytes} {attempt}").expect("a string takes any text");
        }
        text.push_str("end\n");
    }

    /// Reads what [`Segments::write_to`] wrote, and nothing else.
    pub(super) fn parse(text: &str) -> Result<Self, DamagedSegments> {
        let body = text.strip_suffix("end\n").ok_or(DamagedSegments)?;
        let mut segments = Self::default();
        for line in body.lines() {
            let mut numbers = line.split(' ').map(number);
            let (count, bytes) = (numbers.next().flatten(), numbers.next().flatten());
            let attempt = numbers.next().flatten().and_then(|attempt| u32::try_from(attempt).ok());
            match (count, bytes, attempt, numbers.next()) {
                (Some(count), Some(bytes), Some(attempt), None) => {
                    segments.push_run(Run { count, bytes, attempt })?;
                }
                _ => return Err(DamagedSegments),
            }
        }
        let mut again = String::with_capacity(text.len());
        segments.write_to(&mut again);
        if again == text { Ok(segments) } else { Err(DamagedSegments) }
    }
}

/// A decimal number as it is printed: no sign, no leading zero.
pub(super) fn number(text: &str) -> Option<u64> {
    let is_plain = text.bytes().all(|c| c.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    text.parse().ok().filter(|_| is_plain)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn list(sizes: &[(u64, u32)]) -> Segments {
        let mut segments = Segments::default();
        for (bytes, attempt) in sizes {
            segments.push(*bytes, *attempt).unwrap();
        }
        segments
    }

    fn written(segments: &Segments) -> String {
        let mut text = String::new();
        segments.write_to(&mut text);
        text
    }

    #[test]
    fn equal_segments_in_a_row_are_one_line() {
        assert_eq!(written(&list(&[(4, 0), (4, 0), (4, 1), (2, 0)])), "2 4 0\n1 4 1\n1 2 0\nend\n");
        assert_eq!(written(&Segments::default()), "end\n");
    }

    #[test]
    fn only_what_was_written_reads_back() {
        let check = |text: &str, ok: bool| assert_eq!(Segments::parse(text).is_ok(), ok, "{text:?}");
        check("end\n", true);
        check("2 4 0\n1 2 0\nend\n", true);
        check("", false);
        check("2 4 0\n", false);
        check("end", false);
        check("2 4 0 end\n", false);
        check("0 4 0\nend\n", false);
        check("1 0 0\nend\n", false);
        check("1 4 0\n1 4 0\nend\n", false); // would be one line
        check("01 4 0\nend\n", false);
        check("+1 4 0\nend\n", false);
        check("1 4 0 0\nend\n", false);
        check("1 4 4294967296\nend\n", false);
        check("1 18446744073709551615 0\n1 1 0\nend\n", false);
        check("18446744073709551615 18446744073709551615 0\nend\n", false);
        check("1 4 0\r\nend\n", false);
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "[0-9 \nend]{0,40}") {
            let _ = Segments::parse(&text);
        }

        #[test]
        fn lists_read_back_and_cover_every_range(
            sizes in prop::collection::vec((1_u64..6, 0_u32..2), 0..12),
            (from, to) in (0_u64..60, 0_u64..60),
            most in 1_u64..8,
        ) {
            let segments = list(&sizes);
            prop_assert_eq!(Segments::parse(&written(&segments)).unwrap(), segments.clone());
            let size = segments.size_bytes();
            let (from, to) = (from.min(size), to.min(size));
            let mut position = from.min(to);
            for (segment, read) in segments.clone().reads(from.min(to)..from.max(to), most) {
                prop_assert_eq!(segment.offset + read.start, position);
                prop_assert!(read.end <= segment.bytes && !read.is_empty());
                prop_assert!(read.end - read.start <= most);
                position = segment.offset + read.end;
            }
            prop_assert_eq!(position, from.max(to));

            let mut popped = segments;
            for (bytes, attempt) in sizes.into_iter().rev() {
                let last = popped.pop().unwrap();
                prop_assert_eq!((last.bytes, last.attempt), (bytes, attempt));
                prop_assert_eq!(last.offset, popped.size_bytes());
            }
            prop_assert_eq!(popped, Segments::default());
        }
    }
}
