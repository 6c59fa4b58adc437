//! A disk as a reader gives it, held against what QEMU says is on it.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;

use sha2::{Digest as _, Sha256};

use super::nbd::MAX_READ_BYTES;
use super::random::Random;

/// Ranged reads of each image.
const RANGES: u64 = 100;

/// What is compared: a disk that can only be read, and asked where it is zero.
pub(crate) trait Disk {
    fn size_bytes(&self) -> u64;
    fn read(&mut self, offset: u64, buf: &mut [u8]) -> io::Result<()>;
    /// The stretches from `offset` on, at least one; together they may be longer than `len`.
    fn stretches(&mut self, offset: u64, len: u64) -> io::Result<Vec<Stretch>>;
}

/// A part of a disk, by what is said of it without reading it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stretch {
    pub(crate) len: u64,
    /// It reads as zeros.
    pub(crate) is_zero: bool,
}

/// What QEMU says of an image.
#[derive(Debug)]
pub(crate) struct Reference {
    /// All of the disk, raw.
    pub(crate) raw: File,
    pub(crate) size_bytes: u64,
    /// What is neither stored in the image nor inherited, in order.
    pub(crate) absent: Vec<Range<u64>>,
}

/// One thing that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Difference {
    /// The reader does not open an image that QEMU made.
    #[error("the image is not opened: {said}")]
    NotOpened {
        /// What was said instead, escaped.
        said: String,
    },
    /// The disk has another size.
    #[error("the disk has {found} bytes; wanted {wanted}")]
    Size {
        /// What the reader says.
        found: u64,
        /// What QEMU says.
        wanted: u64,
    },
    /// Another content.
    #[error("read whole, the disk has sha256 {found}; wanted {wanted}; first different at byte {at}")]
    Whole {
        /// The reader's digest.
        found: String,
        /// QEMU's.
        wanted: String,
        /// The first byte that differs.
        at: u64,
    },
    /// Another content of a part that was read alone.
    #[error("read alone, bytes {} to {} differ, first at byte {at}", range.start, range.end)]
    Part {
        /// What was read.
        range: Range<u64>,
        /// The first byte that differs.
        at: u64,
    },
    /// Something promised to be zeros is not.
    #[error("bytes {} to {} are said to be zeros; byte {at} is not", range.start, range.end)]
    FalseHole {
        /// What was said to be zeros.
        range: Range<u64>,
        /// The first byte that is not.
        at: u64,
    },
    /// A hole is not known as one.
    #[error("bytes {} to {} are absent from the image, and not said to be zeros", range.start, range.end)]
    MissedHole {
        /// What QEMU knows to be absent.
        range: Range<u64>,
    },
    /// A read failed that should not.
    #[error("bytes {} to {} cannot be read: {said}", range.start, range.end)]
    NotRead {
        /// What was read.
        range: Range<u64>,
        /// The reason.
        said: String,
    },
    /// The holes cannot be had.
    #[error("no hole map from byte {at} on: {said}")]
    NoMap {
        /// Where the question started.
        at: u64,
        /// The reason.
        said: String,
    },
    /// An image could not be written.
    #[error("writing {target}: {said}")]
    NotWritten {
        /// The format.
        target: &'static str,
        /// What was said instead, escaped.
        said: String,
    },
    /// A written image is not what it should be, by QEMU's word.
    #[error("{judge} of the {target} that was written: {said}")]
    BadlyWritten {
        /// The format.
        target: &'static str,
        /// Which of QEMU's programs says so.
        judge: &'static str,
        /// What it says, escaped.
        said: String,
    },
}

/// How much is zero without being stored, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Holes {
    /// What QEMU says is absent.
    pub absent: u64,
    /// What the reader says is zero.
    pub found: u64,
}

/// What comparing one image came to.
#[derive(Debug, Default)]
pub(crate) struct Compared {
    pub(crate) comparisons: u64,
    pub(crate) differences: Vec<Difference>,
    pub(crate) holes: Holes,
}

impl Compared {
    pub(crate) fn note(&mut self, result: Result<(), Difference>) {
        self.comparisons += 1;
        self.differences.extend(result.err());
    }
}

/// Size, the whole, 100 parts, holes.
pub(crate) fn compare(
    disk: &mut dyn Disk,
    reference: &Reference,
    random: &mut Random,
) -> io::Result<Compared> {
    let mut compared = Compared::default();
    let (found, wanted) = (disk.size_bytes(), reference.size_bytes);
    compared.note(if found == wanted { Ok(()) } else { Err(Difference::Size { found, wanted }) });
    if found != wanted {
        return Ok(compared);
    }
    compared.note(whole(disk, reference)?);
    for _ in 0..RANGES {
        compared.note(part(disk, reference, random.range(wanted))?);
        if compared.differences.len() > 4 {
            break;
        }
    }
    match holes(disk, wanted) {
        Ok(zeros) => {
            compared.holes = Holes { absent: total(&reference.absent), found: total(&zeros) };
            compared.note(no_false_hole(&zeros, reference)?);
            compared.note(no_missed_hole(&zeros, &reference.absent));
        }
        Err(difference) => compared.note(Err(difference)),
    }
    Ok(compared)
}

fn whole(disk: &mut dyn Disk, reference: &Reference) -> io::Result<Result<(), Difference>> {
    let (mut found, mut wanted) = (Sha256::new(), Sha256::new());
    let mut first = None;
    let (mut ours, mut theirs) = (vec![0; MAX_READ_BYTES], vec![0; MAX_READ_BYTES]);
    let mut at = 0;
    while at < reference.size_bytes {
        let len = (reference.size_bytes - at).min(MAX_READ_BYTES as u64);
        let (ours, theirs) = (&mut ours[..len as usize], &mut theirs[..len as usize]);
        if let Err(error) = disk.read(at, ours) {
            return Ok(Err(not_read(at..at + len, &error)));
        }
        reference.raw.read_exact_at(theirs, at)?;
        first = first.or_else(|| first_difference(ours, theirs).map(|within| at + within));
        found.update(ours);
        wanted.update(theirs);
        at += len;
    }
    let [found, wanted] = [found, wanted].map(|hasher| hex::encode(hasher.finalize()));
    if found == wanted {
        return Ok(Ok(()));
    }
    Ok(Err(Difference::Whole { found, wanted, at: first.unwrap_or(0) }))
}

fn part(disk: &mut dyn Disk, reference: &Reference, range: Range<u64>) -> io::Result<Result<(), Difference>> {
    let len = (range.end - range.start) as usize;
    let (mut ours, mut theirs) = (vec![0xa5; len], vec![0; len]);
    if let Err(error) = disk.read(range.start, &mut ours) {
        return Ok(Err(not_read(range, &error)));
    }
    reference.raw.read_exact_at(&mut theirs, range.start)?;
    Ok(match first_difference(&ours, &theirs) {
        Some(within) => Err(Difference::Part { at: range.start + within, range }),
        None => Ok(()),
    })
}

/// What the disk says is zero, in order, neighbours joined.
fn holes(disk: &mut dyn Disk, size_bytes: u64) -> Result<Vec<Range<u64>>, Difference> {
    let mut zeros: Vec<Range<u64>> = Vec::new();
    let mut at = 0;
    while at < size_bytes {
        let no_map = |said: String| Difference::NoMap { at, said };
        let stretches = disk.stretches(at, size_bytes - at).map_err(|error| no_map(error.to_string()))?;
        if stretches.is_empty() {
            return Err(no_map("an empty answer".to_owned()));
        }
        for stretch in stretches {
            let end = at.saturating_add(stretch.len).min(size_bytes);
            if stretch.len == 0 {
                return Err(Difference::NoMap { at, said: "an empty stretch".to_owned() });
            }
            match zeros.last_mut() {
                Some(last) if stretch.is_zero && last.end == at => last.end = end,
                _ if stretch.is_zero && at < end => zeros.push(at..end),
                _ => {}
            }
            at = end;
        }
    }
    Ok(zeros)
}

fn no_false_hole(zeros: &[Range<u64>], reference: &Reference) -> io::Result<Result<(), Difference>> {
    let mut content = vec![0; MAX_READ_BYTES];
    for range in zeros {
        let mut at = range.start;
        while at < range.end {
            let len = (range.end - at).min(MAX_READ_BYTES as u64);
            let content = &mut content[..len as usize];
            reference.raw.read_exact_at(content, at)?;
            if let Some(within) = content.iter().position(|byte| *byte != 0) {
                return Ok(Err(Difference::FalseHole { range: range.clone(), at: at + within as u64 }));
            }
            at += len;
        }
    }
    Ok(Ok(()))
}

fn no_missed_hole(zeros: &[Range<u64>], absent: &[Range<u64>]) -> Result<(), Difference> {
    for range in absent {
        let before = zeros.partition_point(|zeros| zeros.end <= range.start);
        let is_covered =
            zeros.get(before).is_some_and(|zeros| zeros.start <= range.start && range.end <= zeros.end);
        if !is_covered {
            return Err(Difference::MissedHole { range: range.clone() });
        }
    }
    Ok(())
}

fn first_difference(ours: &[u8], theirs: &[u8]) -> Option<u64> {
    if ours == theirs {
        return None;
    }
    ours.iter().zip(theirs).position(|(ours, theirs)| ours != theirs).map(|at| at as u64)
}

fn total(ranges: &[Range<u64>]) -> u64 {
    ranges.iter().map(|range| range.end - range.start).sum()
}

fn not_read(range: Range<u64>, error: &io::Error) -> Difference {
    Difference::NotRead { range, said: error.to_string().escape_debug().to_string() }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    /// A reader that may be wrong: content, and what it says is zero.
    struct Claims {
        content: Vec<u8>,
        size_bytes: u64,
        zeros: Vec<Range<u64>>,
    }

    impl Disk for Claims {
        fn size_bytes(&self) -> u64 {
            self.size_bytes
        }

        fn read(&mut self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
            let content = self.content.get(offset as usize..offset as usize + buf.len());
            buf.copy_from_slice(content.ok_or(io::ErrorKind::UnexpectedEof)?);
            Ok(())
        }

        fn stretches(&mut self, offset: u64, _len: u64) -> io::Result<Vec<Stretch>> {
            let inside = self.zeros.iter().find(|zeros| zeros.contains(&offset));
            let next = self.zeros.iter().map(|zeros| zeros.start).find(|start| *start > offset);
            let end = inside.map_or(next.unwrap_or(self.size_bytes), |zeros| zeros.end);
            Ok(vec![Stretch { len: end - offset, is_zero: inside.is_some() }])
        }
    }

    const SIZE: usize = 3 << 20;

    /// Data, 1 MiB of nothing, data.
    fn truth() -> (Vec<u8>, Reference) {
        let mut content = Random::new(1).noise(SIZE as u64);
        content[1 << 20..2 << 20].fill(0);
        let mut raw = tempfile::tempfile().unwrap();
        raw.write_all(&content).unwrap();
        let absent = vec![1 << 20..(1 << 20) + 4096, (1 << 20) + 65536..2 << 20];
        (content, Reference { raw, size_bytes: SIZE as u64, absent })
    }

    fn only(range: Range<u64>) -> Vec<Range<u64>> {
        std::iter::once(range).collect()
    }

    /// What is found in a right reader that `spoil` made wrong.
    fn found(spoil: impl FnOnce(&mut Claims)) -> Vec<Difference> {
        let (content, reference) = truth();
        let size_bytes = SIZE as u64;
        let mut claims = Claims { content, size_bytes, zeros: only(1 << 20..2 << 20) };
        spoil(&mut claims);
        compare(&mut claims, &reference, &mut Random::new(2)).unwrap().differences
    }

    #[test]
    fn a_right_reader_has_no_differences() {
        assert_eq!(found(|_| ()), []);
        // What is zero and stored may be called either.
        assert_eq!(
            found(|claims| claims.zeros = vec![1 << 20..(1 << 20) + 4096, (1 << 20) + 65536..2 << 20]),
            []
        );
    }

    #[test]
    fn one_wrong_bit_is_found() {
        let differences = found(|claims| claims.content[2_500_001] ^= 4);
        let is_found =
            |difference: &Difference| matches!(difference, Difference::Whole { at: 2_500_001, .. });
        assert!(differences.iter().any(is_found), "{differences:?}");
    }

    #[test]
    fn another_size_is_found() {
        let differences = found(|claims| claims.size_bytes += 512);
        assert_eq!(differences, [Difference::Size { found: SIZE as u64 + 512, wanted: SIZE as u64 }]);
    }

    #[test]
    fn a_disk_that_cannot_be_read_to_its_end_is_found() {
        let differences = found(|claims| claims.content.truncate(SIZE - 1));
        assert!(matches!(differences[0], Difference::NotRead { .. }), "{differences:?}");
    }

    #[test]
    fn data_called_a_hole_is_found() {
        let range = (1 << 20) - 1..2 << 20;
        let differences = found(|claims| claims.zeros = only(range.clone()));
        assert_eq!(differences, [Difference::FalseHole { at: range.start, range }]);
    }

    #[test]
    fn a_hole_called_data_is_found() {
        let differences = found(|claims| claims.zeros = only((1 << 20) + 512..2 << 20));
        assert_eq!(differences, [Difference::MissedHole { range: 1 << 20..(1 << 20) + 4096 }]);
    }
}
