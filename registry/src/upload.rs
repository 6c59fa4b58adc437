//! Blob uploads, from the opening `POST` to the closing `PUT`: the rules.
//!
//! An upload is a plain value: it is told what the client sent and decides whether it fits. The
//! handlers and the storage do the I/O ([`crate::uploads`]), so every rule here runs without a socket.
//!
//! ```text
//! POST --> Upload --PATCH, in order--> Upload --PUT ?digest=--> a blob
//!            |           `-- cut off: what arrived is kept
//!            `------ DELETE or expiry --------> gone
//! ```
//!
//! Source: OCI distribution-spec 1.1, "Pushing a blob in chunks" (end-4a, end-5, end-6, end-13).

use crate::range::ByteRange;

/// An upload between two requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Upload {
    received: u64,
    limit: u64,
}

/// What a request's head says about the chunk in its body.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct ChunkHead {
    /// `Content-Range`, where given.
    pub(crate) range: Option<ByteRange>,
    /// `Content-Length`, where given.
    pub(crate) length: Option<u64>,
}

/// A chunk that is arriving.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Chunk {
    /// Where the chunk belongs in the blob.
    start: u64,
    /// Bytes of it that have arrived.
    arrived: u64,
    /// How many must arrive, if the head said so.
    size: Option<u64>,
    limit: u64,
}

/// Why a chunk does not fit. What was accepted before stays, so the client may go on from there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum UploadError {
    /// A gap or an overlap. Answered 416, as the specification asks.
    #[error("the chunk starts at byte {got}; the upload goes on at byte {want}")]
    OutOfOrder { want: u64, got: u64 },
    /// The range and the body disagree. Answered `SIZE_INVALID`.
    #[error("the chunk has {got} bytes; its range has {want}")]
    LengthMismatch { want: u64, got: u64 },
    /// Past the limit. The specification names no status; we use 413.
    #[error("the blob is larger than {limit} bytes, which is the limit here")]
    TooLarge { limit: u64 },
}

impl Upload {
    /// An upload of which `received` bytes are stored, and which may become `limit` bytes long.
    pub(crate) const fn resume(received: u64, limit: u64) -> Self {
        Self { received, limit }
    }

    /// Accepts the head of the next chunk, before any of its bytes is read.
    pub(crate) fn begin_chunk(self, head: ChunkHead) -> Result<Chunk, UploadError> {
        if let Some(range) = head.range {
            if range.first() != self.received {
                return Err(UploadError::OutOfOrder { want: self.received, got: range.first() });
            }
            if let Some(got) = head.length.filter(|length| *length != range.size_bytes()) {
                return Err(UploadError::LengthMismatch { want: range.size_bytes(), got });
            }
        }
        let size = head.range.map(ByteRange::size_bytes).or(head.length);
        let chunk = Chunk { start: self.received, arrived: 0, size, limit: self.limit };
        chunk.check_limit(size.unwrap_or(0))?;
        Ok(chunk)
    }
}

impl Chunk {
    /// Accepts the next piece of the body.
    pub(crate) fn accept(&mut self, bytes: u64) -> Result<(), UploadError> {
        let got = self.arrived.saturating_add(bytes);
        self.check_limit(got)?;
        match self.size {
            Some(want) if got > want => Err(UploadError::LengthMismatch { want, got }),
            _ => {
                self.arrived = got;
                Ok(())
            }
        }
    }

    /// Where in the blob the next piece belongs.
    pub(crate) const fn place(self) -> u64 {
        self.start + self.arrived
    }

    /// How many bytes are still to come, if the head said so.
    pub(crate) fn outstanding(self) -> Option<u64> {
        self.size.map(|size| size - self.arrived)
    }

    /// The body has ended. Returns where the next chunk must start.
    pub(crate) fn end(self) -> Result<u64, UploadError> {
        match self.size {
            Some(want) if want != self.arrived => {
                Err(UploadError::LengthMismatch { want, got: self.arrived })
            }
            _ => Ok(self.place()),
        }
    }

    fn check_limit(&self, bytes: u64) -> Result<(), UploadError> {
        match self.start.checked_add(bytes).is_some_and(|end| end <= self.limit) {
            true => Ok(()),
            false => Err(UploadError::TooLarge { limit: self.limit }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::UploadError::{LengthMismatch, OutOfOrder, TooLarge};
    use super::*;

    /// An upload holding `stored` bytes of a 100-byte limit is sent a chunk with this
    /// `Content-Range` and `Content-Length`, whose body arrives in these pieces.
    #[track_caller]
    fn check(stored: u64, range: &str, length: Option<u64>, pieces: &[u64], want: Result<u64, UploadError>) {
        let range = (!range.is_empty()).then(|| ByteRange::parse_chunk(range).unwrap());
        let upload = Upload::resume(stored, 100);
        let got = upload.begin_chunk(ChunkHead { range, length }).and_then(|mut chunk| {
            pieces.iter().try_for_each(|piece| chunk.accept(*piece))?;
            chunk.end()
        });
        assert_eq!(got, want);
    }

    #[test]
    fn chunks_must_follow_each_other() {
        check(0, "0-9", Some(10), &[10], Ok(10));
        check(10, "10-19", Some(10), &[4, 6], Ok(20));
        check(10, "11-20", Some(10), &[], Err(OutOfOrder { want: 10, got: 11 })); // gap
        check(10, "9-18", Some(10), &[], Err(OutOfOrder { want: 10, got: 9 })); // overlap
        check(10, "0-9", Some(10), &[], Err(OutOfOrder { want: 10, got: 0 })); // again
    }

    #[test]
    fn range_and_body_must_agree() {
        check(0, "0-9", Some(9), &[], Err(LengthMismatch { want: 10, got: 9 }));
        check(0, "0-9", None, &[4], Err(LengthMismatch { want: 10, got: 4 }));
        check(0, "0-9", None, &[4, 7], Err(LengthMismatch { want: 10, got: 11 }));
        check(0, "", Some(10), &[4], Err(LengthMismatch { want: 10, got: 4 }));
    }

    #[test]
    fn a_body_without_a_range_goes_at_the_end() {
        check(10, "", None, &[5, 5], Ok(20));
        check(10, "", Some(0), &[], Ok(10));
        check(10, "", None, &[], Ok(10));
    }

    #[test]
    fn a_blob_is_as_long_as_the_limit_at_most() {
        check(0, "", Some(100), &[100], Ok(100));
        check(0, "", Some(101), &[], Err(TooLarge { limit: 100 }));
        check(90, "90-100", None, &[], Err(TooLarge { limit: 100 }));
        check(90, "", None, &[10, 1], Err(TooLarge { limit: 100 }));
        check(1, "", Some(u64::MAX), &[], Err(TooLarge { limit: 100 }));
        check(1, "", None, &[u64::MAX], Err(TooLarge { limit: 100 }));
    }
}
