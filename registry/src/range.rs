//! Byte ranges: what a download asks for, and where an uploaded chunk belongs.
//!
//! Source: RFC 9110, section 14 ("Range Requests"); OCI distribution-spec 1.1, "Pushing a blob in
//! chunks", whose `Content-Range` is two numbers and no more.

use std::ops::Range;

/// Bytes of a blob, both ends included: `0-9` is ten bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ByteRange {
    first: u64,
    last: u64, // Invariant: first <= last < u64::MAX.
}

/// A `Content-Range` that is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not the range of a chunk; expected its first and last byte, as in `0-9`")]
pub(crate) struct ChunkRangeError {
    text: String,
}

impl ByteRange {
    /// Reads the `Content-Range` of a chunk.
    pub(crate) fn parse_chunk(text: &str) -> Result<Self, ChunkRangeError> {
        let parsed = text.split_once('-').and_then(|(first, last)| Some((number(first)?, number(last)?)));
        match parsed {
            Some((first, last)) if first <= last && last < u64::MAX => Ok(Self { first, last }),
            _ => Err(ChunkRangeError { text: text.escape_debug().to_string() }),
        }
    }

    pub(crate) const fn first(self) -> u64 {
        self.first
    }

    /// How many bytes it spans; at least one.
    pub(crate) const fn size_bytes(self) -> u64 {
        self.last - self.first + 1
    }
}

/// What a `Range` header means for content of a certain size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// All of it: the header is absent, not understood, or asks for several ranges, which RFC 9110
    /// lets a server answer with the whole.
    Whole,
    /// This part, which is not empty.
    Part(Range<u64>),
    /// A part that the content does not have.
    Unsatisfiable,
}

impl Wanted {
    /// Reads a `Range` header for content of `size` bytes.
    pub(crate) fn parse(header: Option<&str>, size: u64) -> Self {
        let spec = header.and_then(|text| {
            let (unit, spec) = text.split_once('=')?;
            unit.trim().eq_ignore_ascii_case("bytes").then(|| spec.trim())
        });
        let Some((first, last)) = spec.and_then(|spec| spec.split_once('-')) else { return Self::Whole };
        let part = match (number(first), number(last)) {
            (Some(first), Some(last)) if first <= last => first..last.saturating_add(1).min(size),
            (Some(first), None) if last.is_empty() => first..size,
            (None, Some(suffix)) if first.is_empty() => size.saturating_sub(suffix)..size,
            _ => return Self::Whole,
        };
        if part.is_empty() { Self::Unsatisfiable } else { Self::Part(part) }
    }
}

/// Decimal digits and nothing else. What does not fit is as large as can be.
fn number(text: &str) -> Option<u64> {
    let is_number = !text.is_empty() && text.bytes().all(|c| c.is_ascii_digit());
    is_number.then(|| text.parse().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(header: &str, size: u64, want: Wanted) {
        assert_eq!(Wanted::parse(Some(header), size), want, "{header} of {size}");
    }

    #[test]
    fn a_range_is_cut_to_what_is_there() {
        check("bytes=0-9", 100, Wanted::Part(0..10));
        check("bytes=0-0", 100, Wanted::Part(0..1));
        check("bytes=99-99", 100, Wanted::Part(99..100));
        check("bytes=90-1000", 100, Wanted::Part(90..100));
        check("bytes=90-", 100, Wanted::Part(90..100));
        check("bytes=-10", 100, Wanted::Part(90..100));
        check("bytes=-1000", 100, Wanted::Part(0..100));
        check("BYTES = 5-6", 100, Wanted::Part(5..7));
        check("bytes=0-99999999999999999999999", 100, Wanted::Part(0..100));
    }

    #[test]
    fn a_range_outside_is_unsatisfiable() {
        check("bytes=100-", 100, Wanted::Unsatisfiable);
        check("bytes=100-200", 100, Wanted::Unsatisfiable);
        check("bytes=-0", 100, Wanted::Unsatisfiable);
        check("bytes=0-", 0, Wanted::Unsatisfiable);
        check("bytes=-5", 0, Wanted::Unsatisfiable);
        check("bytes=99999999999999999999999-", 100, Wanted::Unsatisfiable);
    }

    #[test]
    fn what_is_not_one_range_is_answered_with_the_whole() {
        assert_eq!(Wanted::parse(None, 100), Wanted::Whole);
        for header in
            ["", "bytes", "bytes=", "bytes=-", "bytes=9-0", "bytes=a-b", "bytes=0-1,5-6", "lines=0-1"]
        {
            check(header, 100, Wanted::Whole);
        }
        check("bytes=+1-2", 100, Wanted::Whole);
        check("bytes=1 -2", 100, Wanted::Whole);
    }

    #[test]
    fn a_chunk_says_its_first_and_last_byte() {
        let range = ByteRange::parse_chunk("10-19").unwrap();
        assert_eq!((range.first(), range.size_bytes()), (10, 10));
        for text in ["", "-", "1-", "-1", "9-0", "bytes 0-9/10", "0-9/10", "a-b", "0-18446744073709551615"] {
            assert!(ByteRange::parse_chunk(text).is_err(), "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn a_part_lies_in_the_content_and_is_not_empty(header in "(bytes=)?[0-9]{0,21}-?[0-9]{0,21}", size: u64) {
            if let Wanted::Part(range) = Wanted::parse(Some(&header), size) {
                proptest::prop_assert!(range.start < range.end && range.end <= size);
            }
        }
    }
}
