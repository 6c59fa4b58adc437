//! Frames of a missing pack, made from chunks that are here.
//!
//! The encoder gives the same bytes for the same content and level, so a pack that hull wrote as it always
//! does can be had again without fetching it. Each chunk is checked before it is used. What comes out
//! is no more than a good guess, as another zstd may compress differently: whoever uses it checks
//! the pack's digest.

use std::sync::Arc;

use appliance::Digest;
use blob_store::{LocalStore, LocalStoreError, PartialBlob};
use formats::packed::{BLOCK_BYTES, DEFAULT_LEVEL, FrameDecoder, FrameEncoder};

use crate::recipe::{FrameRecipe, Piece, Place};

/// How many frames' content is kept, at most 1 MiB each: chunks that lie together mostly lay together before.
const MAX_RECENT: usize = 4;

/// Makes frames, one after the other.
#[derive(Debug)]
pub(crate) struct Rebuilder {
    store: LocalStore,
    decoder: FrameDecoder,
    encoder: FrameEncoder,
    /// Content of the frames that were read last, the latest at the end.
    recent: Vec<Recent>,
    compressed: Vec<u8>,
    content: Vec<u8>,
    frame: Vec<u8>,
}

#[derive(Debug)]
struct Recent {
    pack: Arc<Digest>,
    offset: u64,
    content: Vec<u8>,
}

/// Why there is no frame.
#[derive(Debug)]
pub(crate) enum NotRebuilt {
    /// A chunk cannot be read, or is damaged.
    Unreadable,
    /// The frame has another length than the index says: another encoder made the pack.
    OtherEncoder,
    /// It cannot be written.
    Store(LocalStoreError),
}

impl Rebuilder {
    pub(crate) fn new(store: LocalStore) -> Self {
        Self {
            store,
            decoder: FrameDecoder::default(),
            encoder: FrameEncoder::new(DEFAULT_LEVEL),
            recent: Vec::new(),
            compressed: Vec::new(),
            content: Vec::new(),
            frame: Vec::new(),
        }
    }

    /// Appends a frame to the pack that `partial` is to be, which reaches to its start or into it. `partial`
    /// is unchanged after an error.
    pub(crate) fn append(
        &mut self,
        frame: &FrameRecipe,
        partial: &mut PartialBlob,
    ) -> Result<(), NotRebuilt> {
        self.content.clear();
        for piece in &frame.pieces {
            self.collect(piece).ok_or(NotRebuilt::Unreadable)?;
        }
        self.encoder.encode(&self.content, &mut self.frame);
        if self.frame.len() != frame.len as usize {
            return Err(NotRebuilt::OtherEncoder);
        }
        let there = usize::try_from(partial.len() - frame.offset).expect("a frame fits in memory");
        partial.append(&self.frame[there..]).map_err(NotRebuilt::Store)
    }

    /// Appends a chunk to the content, if it is what its digest promises.
    fn collect(&mut self, piece: &Piece) -> Option<()> {
        self.load(&piece.place)?;
        let start = usize::from(piece.place.first) * BLOCK_BYTES as usize;
        let len = usize::from(piece.blocks) * BLOCK_BYTES as usize;
        let chunk = self.recent.last()?.content.get(start..start + len)?;
        (Digest::sha256(chunk) == Digest::Sha256(piece.sha256)).then(|| self.content.extend_from_slice(chunk))
    }

    /// Makes the content of the frame at `place` the last of the recent ones.
    fn load(&mut self, place: &Place) -> Option<()> {
        let (pack, frame) = (&place.pack, &place.frame);
        let is_it = |recent: &Recent| recent.offset == frame.offset && recent.pack == *pack;
        if let Some(found) = self.recent.iter().position(is_it) {
            self.recent[found..].rotate_left(1);
            return Some(());
        }
        self.compressed.resize(frame.len as usize, 0);
        self.store.blob(pack).ok()?.read_at(frame.offset, &mut self.compressed).ok()?;
        let mut content = match self.recent.len() < MAX_RECENT {
            true => Vec::new(),
            false => self.recent.remove(0).content,
        };
        self.decoder.decode(&self.compressed, frame.content_bytes(), &mut content).ok()?;
        self.recent.push(Recent { pack: Arc::clone(pack), offset: frame.offset, content });
        Some(())
    }
}
