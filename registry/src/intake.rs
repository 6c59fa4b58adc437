//! The body of a request that belongs to an upload, on its way in: pieces are hashed and become batches.
//!
//! A piece is hashed by who received it, at once: there it is still in the processor's cache, and
//! fetching it from memory later costs a third of the hashing on top. What arrives meanwhile waits in
//! the socket, so that the next piece is a long one.

use std::pin::pin;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::watch;

use crate::batch::Batches;
use crate::hashed::Hashed;
use crate::http::body::RequestBody;
use crate::upload::{Chunk, UploadError};
use crate::uploads::UploadsError;

/// A body that is being read.
pub(crate) struct Intake {
    body: RequestBody,
    chunk: Chunk,
    hashed: Hashed,
    /// What arrived with the batch before and had no room in it. It has been hashed.
    rest: Bytes,
    batches: Arc<Batches>,
    rank: Rank,
}

/// What one request is among those for the same upload.
#[derive(Debug, Clone)]
pub(crate) struct Rank {
    pub(crate) number: u64,
    /// The number of the newest request. Whoever has a smaller one gives way.
    pub(crate) newest: watch::Receiver<u64>,
}

/// A part of a body.
pub(crate) struct Received {
    pub(crate) content: Bytes,
    /// `None` while the body goes on; else how it ended.
    pub(crate) end: Option<Result<(), UploadsError>>,
}

impl Intake {
    /// `hashed` is of what the upload holds already.
    pub(crate) fn new(
        body: RequestBody,
        chunk: Chunk,
        hashed: Hashed,
        batches: Arc<Batches>,
        rank: Rank,
    ) -> Self {
        Self { body, chunk, hashed, rest: Bytes::new(), batches, rank }
    }

    /// Reads on until a batch is full or the body ends.
    pub(crate) async fn receive(&mut self) -> Received {
        let rest_bytes = self.rest.len() as u64;
        let expected = self.chunk.outstanding().map(|bytes| bytes + rest_bytes);
        let mut batch = self.batches.begin(self.chunk.place() - rest_bytes, expected);
        batch.fill_from(&mut self.rest);
        let mut overtaken = pin!(self.rank.newest.wait_for(|newest| *newest > self.rank.number));
        let mut end = None;
        while end.is_none() && !batch.is_full() {
            let next = tokio::select! {
                biased;
                _ = &mut overtaken => Err(UploadsError::Overtaken),
                next = self.body.next() => next.map_err(UploadsError::from),
            };
            match next {
                Ok(Some(mut piece)) => match self.chunk.accept(piece.len() as u64) {
                    Ok(()) => {
                        self.hashed.update(&piece);
                        batch.fill_from(&mut piece);
                        self.rest = piece;
                    }
                    Err(error) => end = Some(Err(error.into())),
                },
                Ok(None) => end = Some(Ok(())),
                Err(error) => end = Some(Err(error)),
            }
        }
        Received { content: batch.into_bytes(), end }
    }

    /// The hash of all that was received, and whether the body was as long as its head said, once it
    /// has ended.
    pub(crate) fn end(self) -> (Hashed, Result<(), UploadError>) {
        (self.hashed, self.chunk.end().map(|_| ()))
    }
}
