//! What our objects begin with: a line of our own in every one of them, so that no content that a
//! client sends can be taken for a record, and a record that a copying tool moved is still one.
//!
//! ```text
//! under a key    "hull content 1" LF, then the content
//!                "hull segments 1 " size LF session LF segments
//! in a log       "hull session 1 open" LF segments
//!                "hull session 1 finish " key LF segments
//!                "hull session 1 abort" LF "end" LF
//!                "hull session 1 delete " key LF "end" LF
//! ```

use super::segments::{DamagedSegments, Segments, number};
use crate::Key;
use crate::storage::SessionId;

/// What content that lies under its key itself begins with.
pub(super) const CONTENT: &[u8] = b"hull content 1\n";
/// At least as long as the first line of any object under a key.
pub(super) const FIRST_LINE: u64 = 64;

const SEGMENTS: &str = "hull segments 1 ";
const SESSION: &str = "hull session 1 ";

/// Why an object is none of ours.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum DamagedRecord {
    #[error("the object does not begin as one of this storage; did another program write it?")]
    Foreign,
    #[error(transparent)]
    Segments(#[from] DamagedSegments),
    #[error("the list of segments holds {found} bytes; its first line says {wanted}")]
    Size { found: u64, wanted: u64 },
}

/// What the first line of an object under a key says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum FirstLine {
    /// The content follows.
    Content,
    /// A [`Record`] of content of this size.
    Record { size_bytes: u64 },
}

impl FirstLine {
    /// Reads the beginning of an object, [`FIRST_LINE`] bytes or all of it.
    pub(super) fn parse(start: &[u8]) -> Result<Self, DamagedRecord> {
        if start.starts_with(CONTENT) {
            return Ok(Self::Content);
        }
        let line = start.split(|c| *c == b'\n').next().unwrap_or_default();
        let text = std::str::from_utf8(line).map_err(|_| DamagedRecord::Foreign)?;
        let size_bytes = text.strip_prefix(SEGMENTS).and_then(number).ok_or(DamagedRecord::Foreign)?;
        Ok(Self::Record { size_bytes })
    }
}

/// What lies under a key whose content is in segments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) id: SessionId,
    pub(super) segments: Segments,
}

impl Record {
    pub(super) fn to_text(&self) -> String {
        let mut text = format!("{SEGMENTS}{}\n{}\n", self.segments.size_bytes(), self.id);
        self.segments.write_to(&mut text);
        text
    }

    pub(super) fn parse(bytes: &[u8]) -> Result<Self, DamagedRecord> {
        let FirstLine::Record { size_bytes } = FirstLine::parse(bytes)? else {
            return Err(DamagedRecord::Foreign);
        };
        let text = std::str::from_utf8(bytes).map_err(|_| DamagedRecord::Foreign)?;
        let rest = text.split_once('\n').and_then(|(_, rest)| rest.split_once('\n'));
        let (id, segments) = rest.ok_or(DamagedRecord::Foreign)?;
        let id = SessionId::parse(id).ok_or(DamagedRecord::Foreign)?;
        let segments = Segments::parse(segments)?;
        match segments.size_bytes() {
            found if found != size_bytes => Err(DamagedRecord::Size { found, wanted: size_bytes }),
            _ => Ok(Self { id, segments }),
        }
    }
}

/// An entry of a session's log: what has become of the session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum LogEntry {
    /// It holds this content.
    Open(Segments),
    /// It becomes, or has become, this key.
    Finish(Key, Segments),
    /// It is given up.
    Abort,
    /// The key that it had become is deleted, and its segments with it.
    Delete(Key),
}

impl LogEntry {
    pub(super) fn to_text(&self) -> String {
        let none = Segments::default();
        let (state, segments) = match self {
            Self::Open(segments) => ("open".to_owned(), segments),
            Self::Finish(key, segments) => (format!("finish {key}"), segments),
            Self::Abort => ("abort".to_owned(), &none),
            Self::Delete(key) => (format!("delete {key}"), &none),
        };
        let mut text = format!("{SESSION}{state}\n");
        segments.write_to(&mut text);
        text
    }

    pub(super) fn parse(bytes: &[u8]) -> Result<Self, DamagedRecord> {
        let text = std::str::from_utf8(bytes).map_err(|_| DamagedRecord::Foreign)?;
        let line = text.split_once('\n').and_then(|(line, rest)| Some((line.strip_prefix(SESSION)?, rest)));
        let (state, segments) = line.ok_or(DamagedRecord::Foreign)?;
        let segments = Segments::parse(segments)?;
        let key = |text: &str| Key::new(text).map_err(|_| DamagedRecord::Foreign);
        match state.split_once(' ') {
            None if state == "open" => Ok(Self::Open(segments)),
            None if state == "abort" => Ok(Self::Abort),
            Some(("finish", text)) => Ok(Self::Finish(key(text)?, segments)),
            Some(("delete", text)) => Ok(Self::Delete(key(text)?)),
            _ => Err(DamagedRecord::Foreign),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segments() -> Segments {
        let mut segments = Segments::default();
        segments.push(4, 0).unwrap();
        segments.push(3, 1).unwrap();
        segments
    }

    #[test]
    fn a_record_reads_back_whole_or_not_at_all() {
        let record = Record { id: SessionId::new([0xab; 32]), segments: segments() };
        let text = record.to_text();
        assert_eq!(text, format!("hull segments 1 7\n{}\n1 4 0\n1 3 1\nend\n", "ab".repeat(32)));
        assert_eq!(Record::parse(text.as_bytes()).unwrap(), record);
        for cut in 0..text.len() {
            assert!(Record::parse(&text.as_bytes()[..cut]).is_err(), "{cut}");
        }
        let wrong = text.replacen(" 7\n", " 8\n", 1);
        let error = Record::parse(wrong.as_bytes()).unwrap_err();
        assert_eq!(error.to_string(), "the list of segments holds 7 bytes; its first line says 8");
    }

    #[test]
    fn the_first_line_tells_content_from_a_record() {
        let check = |start: &[u8], want| assert_eq!(FirstLine::parse(start), want);
        check(b"hull content 1\n", Ok(FirstLine::Content));
        check(b"hull content 1\nhull segments 1 7\n", Ok(FirstLine::Content));
        check(b"hull segments 1 7\nrest", Ok(FirstLine::Record { size_bytes: 7 }));
        check(b"hull segments 1 07\n", Err(DamagedRecord::Foreign));
        check(b"hull content 2\n", Err(DamagedRecord::Foreign));
        check(b"", Err(DamagedRecord::Foreign));
        check(b"\xff\n", Err(DamagedRecord::Foreign));
    }

    #[test]
    fn log_entries_read_back() {
        let key = Key::new("blobs/x").unwrap();
        for entry in [
            LogEntry::Open(Segments::default()),
            LogEntry::Open(segments()),
            LogEntry::Finish(key.clone(), segments()),
            LogEntry::Abort,
            LogEntry::Delete(key),
        ] {
            assert_eq!(LogEntry::parse(entry.to_text().as_bytes()).unwrap(), entry);
        }
        assert!(LogEntry::parse(b"hull session 1 open\n1 4 0\n").is_err());
        assert!(LogEntry::parse(b"hull session 1 finish ../x\nend\n").is_err());
        assert!(LogEntry::parse(b"hull session 1 else\nend\n").is_err());
    }
}
