//! Where an image's bytes come from: a file, a part of one, or several parts end to end.
//!
//! Read by offset from any thread, the length taken once. The file's own position is never relied on. An image
//! is expected to keep still while it is read; where it shrinks, reads fail, and where it changes, they
//! return what is there.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, FileTypeExt};
use std::sync::Arc;

use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;

use super::Refusal;
use crate::{ReadError, Run, RunKind};

/// Copied before progress is told again.
const MOST_COPIED_AT_ONCE: u64 = 64 << 20;
/// Copied at a time where the kernel cannot do it.
const COPY_BYTES: usize = 1 << 20;

/// The bytes of an image: a file or block device, a member of an archive, or an image that was cut into parts.
#[derive(Debug, Clone)]
pub struct Source {
    /// In order and without gaps; none is empty.
    pieces: Vec<Piece>,
    size_bytes: u64,
}

#[derive(Debug, Clone)]
struct Piece {
    /// Where in the source it starts.
    at: u64,
    len: u64,
    file: Arc<File>,
    /// Where in the file it starts.
    file_offset: u64,
}

/// A failed read of the image's bytes, which is a [`Refusal`] while opening and a [`ReadError`] later.
#[derive(Debug)]
pub(crate) struct ReadFailed {
    offset: u64,
    len: usize,
    source: io::Error,
}

impl Source {
    /// All of a regular file or block device.
    ///
    /// # Errors
    ///
    /// [`Refusal::NotAFile`], [`Refusal::Io`].
    pub fn new(file: File) -> Result<Self, Refusal> {
        let size_bytes = size_of(&file)?;
        let piece = Piece { at: 0, len: size_bytes, file: Arc::new(file), file_offset: 0 };
        Ok(Self::concat([Source { pieces: vec![piece], size_bytes }]))
    }

    /// Sources end to end, as one.
    ///
    /// # Panics
    ///
    /// If together they had 2^64 bytes.
    pub fn concat(sources: impl IntoIterator<Item = Source>) -> Self {
        let mut all = Source { pieces: Vec::new(), size_bytes: 0 };
        for piece in sources.into_iter().flat_map(|source| source.pieces).filter(|piece| piece.len > 0) {
            let at = all.size_bytes;
            all.size_bytes = at.checked_add(piece.len).expect("sources have less than 2^64 bytes");
            all.pieces.push(Piece { at, ..piece });
        }
        all
    }

    /// The bytes in `range` as a source of their own; `None` where they do not lie in this one.
    pub fn window(&self, range: Range<u64>) -> Option<Self> {
        if range.start > range.end || range.end > self.size_bytes {
            return None;
        }
        let pieces = self.pieces.iter().filter_map(|piece| {
            let start = range.start.max(piece.at);
            let end = range.end.min(piece.at + piece.len);
            let file_offset = piece.file_offset + start.checked_sub(piece.at)?;
            let len = end.checked_sub(start)?;
            let piece = Piece { at: 0, len, file: Arc::clone(&piece.file), file_offset };
            Some(Source { pieces: vec![piece], size_bytes: len })
        });
        Some(Self::concat(pieces))
    }

    /// The length in bytes.
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// Fills `buf` with the bytes from `offset` on.
    ///
    /// # Errors
    ///
    /// Those of reading the file; [`io::ErrorKind::UnexpectedEof`] where the bytes are not there.
    pub fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        if !buf.is_empty() && !self.holds(offset, buf.len() as u64) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let (mut rest, mut at) = (buf, offset);
        while !rest.is_empty() {
            let piece = self.piece_at(at);
            let within = at - piece.at;
            let here = (piece.len - within).min(rest.len() as u64);
            let (now, later) = rest.split_at_mut(here as usize);
            piece.file.read_exact_at(now, piece.file_offset + within)?;
            (rest, at) = (later, at + here);
        }
        Ok(())
    }

    /// Copies all of it to `out`, a file that has nothing in it yet. Holes stay holes, and where the file system can
    /// share the blocks, nothing is moved. Tells `progress` how many bytes are done.
    ///
    /// # Errors
    ///
    /// Those of reading and writing the files.
    pub fn copy_to(&self, out: &File, progress: &dyn Fn(u64)) -> io::Result<()> {
        out.set_len(self.size_bytes)?;
        let mut at = 0;
        while at < self.size_bytes {
            let end = self.size_bytes.min(at + MOST_COPIED_AT_ONCE);
            let run = self.run(at, end).map_err(io::Error::other)?;
            if run.kind == RunKind::Data {
                self.copy_run(at, run.len, out)?;
            }
            at += run.len;
            progress(at);
        }
        Ok(())
    }

    /// Copies `len` bytes from `at` on, which lie in one piece.
    fn copy_run(&self, at: u64, len: u64, out: &File) -> io::Result<()> {
        let piece = self.piece_at(at);
        let mut from = piece.file_offset + (at - piece.at);
        let (mut to, end) = (at, at + len);
        while to < end {
            let most = usize::try_from(end - to).unwrap_or(usize::MAX);
            match rustix::fs::copy_file_range(&piece.file, Some(&mut from), out, Some(&mut to), most) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(_) | Err(Errno::INTR) => {}
                // Between these two files the kernel cannot.
                Err(Errno::XDEV | Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
                    let mut buf = vec![0; most.min(COPY_BYTES)];
                    piece.file.read_exact_at(&mut buf, from)?;
                    out.write_all_at(&buf, to)?;
                    (from, to) = (from + buf.len() as u64, to + buf.len() as u64);
                }
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }

    /// Whether `len` bytes from `offset` on lie in the source.
    pub(crate) fn holds(&self, offset: u64, len: u64) -> bool {
        offset.checked_add(len).is_some_and(|end| end <= self.size_bytes)
    }

    /// As [`Source::read_exact_at`], with an error that says what was read.
    pub(crate) fn read(&self, offset: u64, buf: &mut [u8]) -> Result<(), ReadFailed> {
        self.read_exact_at(buf, offset).map_err(|source| ReadFailed { offset, len: buf.len(), source })
    }

    /// The first bytes: `most` of them, or as many as there are.
    pub(crate) fn start(&self, most: usize) -> Result<Vec<u8>, ReadFailed> {
        let len = usize::try_from(self.size_bytes).map_or(most, |size| size.min(most));
        let mut start = vec![0; len];
        self.read(0, &mut start)?;
        Ok(start)
    }

    /// The hole or data that starts at `offset` and ends at `end` at the latest, as `SEEK_HOLE` and `SEEK_DATA`
    /// of lseek(2) tell it; where the file system or the device knows none, all is data.
    ///
    /// Needs `offset < end`, and `end` in the source.
    pub(crate) fn run(&self, offset: u64, end: u64) -> Result<Run, ReadError> {
        let piece = self.piece_at(offset);
        let file_offset = piece.file_offset + (offset - piece.at);
        let most = end.min(piece.at + piece.len) - offset;
        let run = |to: u64, kind| Run { len: (to.max(file_offset + 1) - file_offset).min(most), kind };
        match piece.seek(SeekFrom::Data(file_offset))? {
            Found::Nothing => {
                piece.check_not_shrunk()?;
                return Ok(Run { len: most, kind: RunKind::Zero });
            }
            Found::Unsupported => return Ok(Run { len: most, kind: RunKind::Data }),
            Found::At(data) if data > file_offset => return Ok(run(data, RunKind::Zero)),
            Found::At(_) => {}
        }
        match piece.seek(SeekFrom::Hole(file_offset))? {
            Found::At(hole) => Ok(run(hole, RunKind::Data)),
            Found::Nothing | Found::Unsupported => Ok(Run { len: most, kind: RunKind::Data }),
        }
    }

    /// The piece that byte `at`, which the source has, lies in.
    fn piece_at(&self, at: u64) -> &Piece {
        let after = self.pieces.partition_point(|piece| piece.at <= at);
        &self.pieces[after - 1]
    }
}

/// What a search for data or a hole came to.
enum Found {
    At(u64),
    /// There is none up to the end of the file.
    Nothing,
    Unsupported,
}

impl Piece {
    /// Moves the file's own position, which nothing here reads from.
    fn seek(&self, to: SeekFrom) -> Result<Found, ReadError> {
        match seek(&self.file, to) {
            Ok(at) => Ok(Found::At(at)),
            Err(Errno::NXIO) => Ok(Found::Nothing),
            Err(Errno::INVAL | Errno::OPNOTSUPP) => Ok(Found::Unsupported),
            Err(errno) => {
                Err(ReadError::Io { what: "where the image's holes are".to_owned(), source: errno.into() })
            }
        }
    }

    /// Tells a hole at the end of the file from an end that has come nearer.
    fn check_not_shrunk(&self) -> Result<(), ReadError> {
        let failed = |source| ReadError::Io { what: "the image's size".to_owned(), source };
        let now = self.file.metadata().map_err(failed)?;
        if now.is_file() && now.len() < self.file_offset + self.len {
            return Err(failed(io::Error::new(io::ErrorKind::UnexpectedEof, "the file has become shorter")));
        }
        Ok(())
    }
}

/// The length of a regular file or block device, in bytes.
fn size_of(file: &File) -> Result<u64, Refusal> {
    let failed = |source| Refusal::Io { what: "the file's size".to_owned(), source };
    let metadata = file.metadata().map_err(failed)?;
    let kind = metadata.file_type();
    if kind.is_file() {
        return Ok(metadata.len());
    }
    if kind.is_block_device() {
        return seek(file, SeekFrom::End(0)).map_err(|errno| failed(errno.into()));
    }
    let found = match () {
        () if kind.is_dir() => "a folder",
        () if kind.is_fifo() => "a pipe",
        () if kind.is_socket() => "a socket",
        () => "a character device",
    };
    Err(Refusal::NotAFile { found })
}

impl ReadFailed {
    fn what(&self) -> String {
        format!("{} bytes at byte {} of the image", self.len, self.offset)
    }
}

impl From<ReadFailed> for Refusal {
    fn from(failed: ReadFailed) -> Self {
        Refusal::Io { what: failed.what(), source: failed.source }
    }
}

impl From<ReadFailed> for ReadError {
    fn from(failed: ReadFailed) -> Self {
        ReadError::Io { what: failed.what(), source: failed.source }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn source(content: &[u8]) -> Source {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(content).unwrap();
        Source::new(file).unwrap()
    }

    fn content(source: &Source) -> Vec<u8> {
        let mut content = vec![0; source.size_bytes() as usize];
        source.read_exact_at(&mut content, 0).unwrap();
        content
    }

    #[test]
    fn a_source_is_its_pieces_end_to_end() {
        let all = Source::concat([source(b"abc"), source(b""), source(b"defg").window(1..3).unwrap()]);
        assert_eq!(content(&all), b"abcef");
        assert_eq!(content(&all.window(2..4).unwrap()), b"ce");
        assert_eq!(content(&all.window(5..5).unwrap()), b"");
        assert!(all.window(4..6).is_none());
        assert!(all.read_exact_at(&mut [0; 2], 4).is_err());
        assert!(all.read_exact_at(&mut [0; 1], u64::MAX).is_err());
    }

    #[test]
    fn a_copy_has_the_same_bytes_and_the_same_holes() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"begin").unwrap();
        file.set_len(8 << 20).unwrap();
        file.write_all_at(b"end", (8 << 20) - 3).unwrap();
        let all = Source::concat([source(b"abc"), Source::new(file).unwrap().window(2..8 << 20).unwrap()]);
        let copy = tempfile::tempfile().unwrap();
        let done = std::sync::atomic::AtomicU64::new(0);
        all.copy_to(&copy, &|bytes| done.store(bytes, std::sync::atomic::Ordering::Relaxed)).unwrap();
        assert_eq!(done.into_inner(), all.size_bytes());
        use std::os::unix::fs::MetadataExt as _;
        assert!(copy.metadata().unwrap().blocks() * 512 < 1 << 20, "the hole was filled");
        assert_eq!(content(&Source::new(copy).unwrap()), content(&all));
    }

    #[test]
    fn runs_end_where_pieces_do() {
        let all = Source::concat([source(b"abc"), source(b"defg")]);
        let data = |len| Run { len, kind: RunKind::Data };
        assert_eq!(all.run(1, 7).unwrap(), data(2));
        assert_eq!(all.run(3, 5).unwrap(), data(2));
    }
}
