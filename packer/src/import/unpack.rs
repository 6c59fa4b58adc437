//! Compressed files, unpacked to files that nobody else sees.
//!
//! A file made here has no name: it is gone when it is closed, whatever happens. What is zero takes no room in it.
//! No more is written than the caller allows; a file that would be larger is refused when that is reached.
//!
//! Source: RFC 1952 (gzip, several members end to end), RFC 8878 (zstd).

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use flate2::bufread::MultiGzDecoder;
use formats::image::Source;

use crate::Progress;

/// Read and written at a time; what is zero in all of such a piece becomes a hole.
pub(super) const PIECE_BYTES: usize = 64 << 10;
/// The largest window that a zstd frame may ask for, as a power of two: 8 MiB, what RFC 8878 asks readers to have.
const ZSTD_WINDOW_LOG: u32 = 23;

/// How a file is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Packing {
    Gzip,
    Zstd,
}

/// Where files are unpacked to, and how large they may be.
#[derive(Debug, Clone, Copy)]
pub(super) struct Room<'a> {
    pub(super) folder: &'a Path,
    pub(super) most_bytes: u64,
    /// Is told how much of the packed file has been read.
    pub(super) progress: &'a dyn Progress,
}

/// Why a compressed file is not unpacked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UnpackError {
    /// It has more in it than is accepted.
    #[error("`{}` unpacks to more than {most} bytes", name.escape_debug())]
    TooLarge {
        /// The file.
        name: String,
        /// The most accepted.
        most: u64,
    },
    /// It is damaged, or cannot be read.
    #[error("{packing}: `{}` cannot be unpacked, after {at} bytes of what is in it", name.escape_debug())]
    Damaged {
        /// How it is compressed.
        packing: &'static str,
        /// The file.
        name: String,
        /// How much of its content was there, in bytes.
        at: u64,
        /// The reason.
        #[source]
        source: io::Error,
    },
    /// There is no room for what is in it.
    #[error("cannot write a file in `{}`", folder.display())]
    Write {
        /// Where it was to be.
        folder: PathBuf,
        /// The reason.
        #[source]
        source: io::Error,
    },
}

impl Packing {
    const fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
        }
    }

    /// The compression of a file that begins with `start`.
    pub(super) fn detect(start: &[u8]) -> Option<Self> {
        match start {
            [0x1f, 0x8b, 8, ..] => Some(Self::Gzip),
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Some(Self::Zstd),
            _ => None,
        }
    }
}

/// Unpacks `source`, which messages call `name`, to a file without a name.
///
/// # Errors
///
/// [`UnpackError`].
pub(super) fn unpack(
    (source, name): (&Source, &str),
    packing: Packing,
    room: Room<'_>,
) -> Result<Source, UnpackError> {
    let failed = |source| UnpackError::Write { folder: room.folder.to_owned(), source };
    let damaged =
        |at, source| UnpackError::Damaged { packing: packing.name(), name: name.to_owned(), at, source };
    let file = tempfile::tempfile_in(room.folder).map_err(failed)?;
    let reader = Reader { source, at: 0, name, progress: room.progress };
    let packed = BufReader::with_capacity(PIECE_BYTES, reader);
    let mut unpacked: Box<dyn Read + '_> = match packing {
        Packing::Gzip => Box::new(MultiGzDecoder::new(packed)),
        Packing::Zstd => {
            let mut decoder = zstd::Decoder::with_buffer(packed).map_err(|source| damaged(0, source))?;
            decoder.window_log_max(ZSTD_WINDOW_LOG).map_err(|source| damaged(0, source))?;
            Box::new(decoder)
        }
    };
    let mut piece = vec![0; PIECE_BYTES];
    let mut at = 0;
    loop {
        let len = fill(&mut *unpacked, &mut piece).map_err(|source| damaged(at, source))?;
        if len == 0 {
            break;
        }
        if len as u64 > room.most_bytes - at {
            return Err(UnpackError::TooLarge { name: name.to_owned(), most: room.most_bytes });
        }
        write_unless_zero(&file, &piece[..len], at).map_err(failed)?;
        at += len as u64;
    }
    file.set_len(at).map_err(failed)?;
    Source::new(file).map_err(|refusal| failed(io::Error::other(refusal)))
}

/// Writes `piece` at `offset` of a file that has nothing there yet, and leaves a hole where it is all zeros.
pub(super) fn write_unless_zero(file: &File, piece: &[u8], offset: u64) -> io::Result<()> {
    match piece.iter().any(|byte| *byte != 0) {
        true => file.write_all_at(piece, offset),
        false => Ok(()),
    }
}

/// Reads until `piece` is full or there is no more; says how much that was.
fn fill(from: &mut dyn Read, piece: &mut [u8]) -> io::Result<usize> {
    let mut len = 0;
    while len < piece.len() {
        match from.read(&mut piece[len..]) {
            Ok(0) => break,
            Ok(read) => len += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(len)
}

/// A source from its beginning to its end.
struct Reader<'a> {
    source: &'a Source,
    at: u64,
    name: &'a str,
    progress: &'a dyn Progress,
}

impl Read for Reader<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let rest = self.source.size_bytes() - self.at;
        let len = buf.len().min(usize::try_from(rest).unwrap_or(usize::MAX));
        self.source.read_exact_at(&mut buf[..len], self.at)?;
        self.at += len as u64;
        self.progress.prepared(self.name, self.at, self.source.size_bytes());
        Ok(len)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use flate2::write::GzEncoder;

    use super::*;

    fn source(content: &[u8]) -> Source {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(content).unwrap();
        Source::new(file).unwrap()
    }

    fn gzip(content: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(content).unwrap();
        encoder.finish().unwrap()
    }

    fn unpacked(packed: &[u8], most: u64) -> Result<Vec<u8>, String> {
        let folder = tempfile::tempdir().unwrap();
        let packing = Packing::detect(packed).unwrap();
        let room = Room { folder: folder.path(), most_bytes: most, progress: &() };
        let unpacked = unpack((&source(packed), "a.gz"), packing, room);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        let unpacked = unpacked.map_err(|error| error.to_string())?;
        let mut content = vec![0; unpacked.size_bytes() as usize];
        unpacked.read_exact_at(&mut content, 0).unwrap();
        Ok(content)
    }

    #[test]
    fn what_was_packed_comes_out_and_no_more_than_is_allowed() {
        let mut content = vec![0; 300_000];
        content[200_000..200_100].fill(7);
        for packed in [gzip(&content), zstd::encode_all(&*content, 1).unwrap()] {
            assert_eq!(unpacked(&packed, 300_000).as_ref(), Ok(&content));
            assert_eq!(
                unpacked(&packed, 299_999),
                Err("`a.gz` unpacks to more than 299999 bytes".to_owned())
            );
            let cut = unpacked(&packed[..packed.len() - 5], 1 << 30);
            assert!(cut.unwrap_err().contains("`a.gz` cannot be unpacked, after "));
        }
        let two = [gzip(b"one"), gzip(b"two")].concat();
        assert_eq!(unpacked(&two, 6).unwrap(), b"onetwo");
    }

    #[test]
    fn zeros_take_no_room() {
        use std::os::unix::fs::MetadataExt as _;
        let file = tempfile::tempfile().unwrap();
        file.set_len(1 << 20).unwrap();
        write_unless_zero(&file, &[0; 64 << 10], 0).unwrap();
        assert_eq!(file.metadata().unwrap().blocks(), 0);
        write_unless_zero(&file, &[1; 1], 4096).unwrap();
        assert!(file.metadata().unwrap().blocks() > 0);
    }
}
