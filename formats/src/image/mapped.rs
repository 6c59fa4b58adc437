//! What all formats have in common that keep a map from the guest's disk to places in the file.
//!
//! A format says where a stretch of the disk lies ([`Map::extent`]) and, where it compresses, how what is
//! compressed is read; reading, zeros and runs are done here, once.

use std::fmt;

use super::source::Source;
use crate::disk::{Disk, ReadError, Run, RunKind, check_range};

/// A stretch of the guest's disk that lies in one place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Extent<P> {
    /// Length in bytes, never 0.
    pub(super) len: u64,
    pub(super) place: Place<P>,
}

impl<P> Extent<P> {
    /// Whether `next`, which follows it on the disk, also follows it where it lies.
    pub(super) fn continues_in(&self, next: &Extent<P>) -> bool {
        match (&self.place, &next.place) {
            (Place::Zero, Place::Zero) | (Place::Inherited, Place::Inherited) => true,
            (Place::Stored { offset }, Place::Stored { offset: next }) => offset + self.len == *next,
            _ => false,
        }
    }
}

/// `P` names what is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place<P> {
    /// Nowhere: it reads as zeros.
    Zero,
    /// In the image that this one is a difference to; zeros where there is none, or past its end.
    Inherited,
    /// In the file from this offset on, byte for byte.
    Stored { offset: u64 },
    /// In what is compressed as a whole, from byte `within` of its content on.
    Packed { unit: P, within: u64 },
}

/// A format's map of the disk.
pub(super) trait Map: fmt::Debug + Send + Sync {
    /// How it names what is compressed; [`Infallible`](std::convert::Infallible) where nothing is.
    type Packed;

    /// Size of the disk in bytes.
    fn size_bytes(&self) -> u64;

    /// Where the disk's content from `offset` on lies, as one extent of at most `most` bytes.
    ///
    /// The range is not empty and lies on the disk. What the extent names lies in the file. The work
    /// is bounded: at most one table is loaded.
    fn extent(&self, file: &Source, offset: u64, most: u64) -> Result<Extent<Self::Packed>, ReadError>;

    /// Fills `piece` with the content of `unit`, which [`Map::extent`] has named, from byte `within` on.
    fn read_packed(
        &self,
        file: &Source,
        unit: Self::Packed,
        within: u64,
        piece: &mut [u8],
    ) -> Result<(), ReadError>;
}

/// A disk in an image whose format keeps a map.
#[derive(Debug)]
pub(super) struct MappedDisk<M> {
    file: Source,
    map: M,
    parent: Option<Box<dyn Disk>>,
}

/// What is stored in one stretch of at least so many bytes may well be a hole of the file, which counts as zeros then.
/// Where it is less, asking the file system takes longer than reading.
const LEAST_HOLE_BYTES: u64 = 1 << 20;

/// Ends [`Disk::runs`] early on a fragmented map, and bounds the tables it loads.
const MOST_EXTENTS_PER_CALL: usize = 256;

impl<M: Map> MappedDisk<M> {
    /// A disk whose `map` leads into `file` and, where it says so, to `parent`.
    pub(super) fn new(file: Source, map: M, parent: Option<Box<dyn Disk>>) -> Self {
        MappedDisk { file, map, parent }
    }

    /// The bytes of `offset..end` that the parent has.
    fn inherited_bytes(&self, offset: u64, end: u64) -> u64 {
        let parent_bytes = self.parent.as_ref().map_or(0, |parent| parent.size_bytes());
        end.min(parent_bytes).saturating_sub(offset)
    }

    fn read_inherited(&self, offset: u64, piece: &mut [u8]) -> Result<(), ReadError> {
        let here = self.inherited_bytes(offset, offset + piece.len() as u64) as usize;
        let (inherited, past_its_end) = piece.split_at_mut(here);
        past_its_end.fill(0);
        match &self.parent {
            Some(parent) if here > 0 => parent.read_at(offset, inherited),
            _ => Ok(()),
        }
    }

    /// The runs of an extent at `offset` that `len` bytes are inherited of; possibly fewer.
    fn inherited_runs(&self, offset: u64, len: u64) -> Result<Vec<Run>, ReadError> {
        match (&self.parent, self.inherited_bytes(offset, offset + len)) {
            (None, _) | (_, 0) => Ok(vec![Run { len, kind: RunKind::Zero }]),
            (Some(parent), here) => parent.runs(offset, here),
        }
    }
}

impl<M: Map> Disk for MappedDisk<M> {
    fn size_bytes(&self) -> u64 {
        self.map.size_bytes()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), ReadError> {
        check_range(offset, buf.len() as u64, self.size_bytes())?;
        let mut at = offset;
        let mut rest = buf;
        while !rest.is_empty() {
            let extent = self.map.extent(&self.file, at, rest.len() as u64)?;
            let (piece, after) = rest.split_at_mut(extent.len as usize);
            match extent.place {
                Place::Zero => piece.fill(0),
                Place::Inherited => self.read_inherited(at, piece)?,
                Place::Stored { offset } => self.file.read(offset, piece)?,
                Place::Packed { unit, within } => self.map.read_packed(&self.file, unit, within, piece)?,
            }
            at += extent.len;
            rest = after;
        }
        Ok(())
    }

    fn runs(&self, offset: u64, len: u64) -> Result<Vec<Run>, ReadError> {
        check_range(offset, len, self.size_bytes())?;
        let end = offset + len;
        let mut at = offset;
        let mut runs: Vec<Run> = Vec::new();
        for _ in 0..MOST_EXTENTS_PER_CALL {
            if at == end {
                break;
            }
            let extent = self.map.extent(&self.file, at, end - at)?;
            let found = match extent.place {
                Place::Zero => vec![Run { len: extent.len, kind: RunKind::Zero }],
                Place::Inherited => self.inherited_runs(at, extent.len)?,
                Place::Stored { offset } if extent.len >= LEAST_HOLE_BYTES => {
                    vec![self.file.run(offset, offset + extent.len)?]
                }
                Place::Stored { .. } | Place::Packed { .. } => {
                    vec![Run { len: extent.len, kind: RunKind::Data }]
                }
            };
            for run in found {
                at += run.len;
                match runs.last_mut() {
                    Some(last) if last.kind == run.kind => last.len += run.len,
                    _ => runs.push(run),
                }
            }
            // The parent has looked as far as it may, and perhaps asked its own. Were it asked again for every extent
            // here, the work would be multiplied by each image of a chain.
            if matches!(extent.place, Place::Inherited) && self.parent.is_some() {
                break;
            }
        }
        Ok(runs)
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    const SIZE_BYTES: u64 = 1 << 40;

    /// Every second stripe is the parent's, the others are stored, all in one place.
    #[derive(Debug)]
    struct Stripes {
        stripe_bytes: u64,
        /// How often an extent was asked for.
        asked: Arc<AtomicU64>,
    }

    impl Map for Stripes {
        type Packed = Infallible;

        fn size_bytes(&self) -> u64 {
            SIZE_BYTES
        }

        fn extent(&self, _file: &Source, offset: u64, most: u64) -> Result<Extent<Infallible>, ReadError> {
            self.asked.fetch_add(1, Ordering::Relaxed);
            let len = most.min(self.stripe_bytes - offset % self.stripe_bytes);
            let is_stored = (offset / self.stripe_bytes).is_multiple_of(2);
            Ok(Extent { len, place: if is_stored { Place::Stored { offset: 0 } } else { Place::Inherited } })
        }

        fn read_packed(&self, _: &Source, unit: Infallible, _: u64, _: &mut [u8]) -> Result<(), ReadError> {
            match unit {}
        }
    }

    #[test]
    fn each_image_of_a_chain_adds_to_the_work_of_finding_runs_and_does_not_multiply_it() {
        let asked = Arc::new(AtomicU64::new(0));
        let file = tempfile::tempfile().unwrap();
        file.set_len(1 << 30).unwrap();
        let file = Source::new(file).unwrap();
        let chain = (9..31).step_by(7).fold(None, |parent: Option<Box<dyn Disk>>, stripe_bits| {
            let map = Stripes { stripe_bytes: 1 << stripe_bits, asked: Arc::clone(&asked) };
            Some(Box::new(MappedDisk::new(file.clone(), map, parent)))
        });
        let runs = chain.unwrap().runs(0, SIZE_BYTES).unwrap();
        assert!(runs.iter().map(|run| run.len).sum::<u64>() > 0);
        let asked = asked.load(Ordering::Relaxed);
        assert!(asked <= 4 * MOST_EXTENTS_PER_CALL as u64, "{asked} extents were asked for");
    }
}
