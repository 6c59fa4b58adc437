//! Disks end to end, as one disk; and a part of a disk, as a disk of its own.

use std::sync::Arc;

use crate::disk::{Disk, ReadError, Run, RunKind, check_range};

/// A disk that is made of others, one after the other.
#[derive(Debug)]
pub(super) struct ConcatDisk {
    /// In order and without gaps; none is empty.
    pieces: Vec<Piece>,
    size_bytes: u64,
}

#[derive(Debug)]
struct Piece {
    /// Where on the whole disk it starts.
    start: u64,
    size_bytes: u64,
    content: Content,
}

/// What a piece of a disk consists of.
#[derive(Debug)]
pub(super) enum Content {
    /// Zeros.
    Zero,
    /// A disk that is in a file of its own.
    Part {
        /// The file's name, for messages.
        name: String,
        /// All of it is used.
        disk: Box<dyn Disk>,
    },
}

impl ConcatDisk {
    /// A disk without any pieces.
    pub(super) fn new() -> Self {
        ConcatDisk { pieces: Vec::new(), size_bytes: 0 }
    }

    /// Adds `size_bytes`, at least one, after the last ones. All together must be less than 2^64.
    pub(super) fn push(&mut self, size_bytes: u64, content: Content) {
        self.pieces.push(Piece { start: self.size_bytes, size_bytes, content });
        self.size_bytes += size_bytes;
    }

    /// The piece that byte `at`, which the disk has, lies in.
    fn piece_at(&self, at: u64) -> &Piece {
        let after = self.pieces.partition_point(|piece| piece.start <= at);
        &self.pieces[after - 1]
    }
}

impl Disk for ConcatDisk {
    fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), ReadError> {
        check_range(offset, buf.len() as u64, self.size_bytes)?;
        let (mut rest, mut at) = (buf, offset);
        while !rest.is_empty() {
            let piece = self.piece_at(at);
            let within = at - piece.start;
            let here = (piece.size_bytes - within).min(rest.len() as u64);
            let (now, later) = rest.split_at_mut(here as usize);
            match &piece.content {
                Content::Zero => now.fill(0),
                Content::Part { name, disk } => disk.read_at(within, now).map_err(in_part(name))?,
            }
            (rest, at) = (later, at + here);
        }
        Ok(())
    }

    /// Ends where the piece does.
    fn runs(&self, offset: u64, len: u64) -> Result<Vec<Run>, ReadError> {
        check_range(offset, len, self.size_bytes)?;
        if len == 0 {
            return Ok(Vec::new());
        }
        let piece = self.piece_at(offset);
        let within = offset - piece.start;
        let len = len.min(piece.size_bytes - within);
        match &piece.content {
            Content::Zero => Ok(vec![Run { len, kind: RunKind::Zero }]),
            Content::Part { name, disk } => disk.runs(within, len).map_err(in_part(name)),
        }
    }
}

fn in_part(name: &str) -> impl Fn(ReadError) -> ReadError {
    move |reason| ReadError::Part { name: name.to_owned(), reason: Box::new(reason) }
}

/// A part of a disk that others use too.
#[derive(Debug)]
pub(super) struct DiskWindow {
    disk: Arc<dyn Disk>,
    start: u64,
    size_bytes: u64,
}

impl DiskWindow {
    /// The `most` bytes of `disk` from `start` on, or as many as it has; `None` where it has none.
    pub(super) fn new(disk: &Arc<dyn Disk>, start: u64, most: u64) -> Option<Self> {
        let size_bytes = disk.size_bytes().saturating_sub(start).min(most);
        (size_bytes > 0).then(|| DiskWindow { disk: Arc::clone(disk), start, size_bytes })
    }
}

impl Disk for DiskWindow {
    fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), ReadError> {
        check_range(offset, buf.len() as u64, self.size_bytes)?;
        self.disk.read_at(self.start + offset, buf)
    }

    fn runs(&self, offset: u64, len: u64) -> Result<Vec<Run>, ReadError> {
        check_range(offset, len, self.size_bytes)?;
        self.disk.runs(self.start + offset, len)
    }
}
