//! Bodies: what clients send, at a pace that they must keep, and what they get.
//!
//! There is no limit on how long a body may take in all; a limit like that cuts large blobs off on
//! slow lines. But a client that sends almost nothing for a while is cut off.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use blob_store::{ContentStream, StorageError};
use bytes::Bytes;
use futures_util::StreamExt as _;
use http_body_util::BodyExt as _;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::time::Instant;

use crate::exchange::Exchange;

/// How slow a client may be.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace {
    /// In each window of this length ...
    pub(crate) window: Duration,
    /// ... at least this many bytes must arrive.
    pub(crate) floor_bytes: u64,
}

/// How much of a body that nobody wants is read: enough for a client to send a chunk of a usual size
/// to its end.
const UNWANTED: u64 = 16 << 20;

/// The body of a request.
///
/// Dropped before its end, it is read on for a while by a task of its own: a client that is answered
/// while it is still sending would otherwise see a broken connection instead of the answer.
#[derive(Debug)]
pub(crate) struct RequestBody {
    /// `None` once it has ended, well or badly.
    body: Option<PacedBody>,
}

/// A body that is watched. Dropped, it is gone, and what is still sent with it.
#[derive(Debug)]
struct PacedBody {
    body: Incoming,
    pace: Pace,
    exchange: Arc<Exchange>,
    window_end: Instant,
    window_bytes: u64,
}

/// Why a body ended early.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BodyError {
    #[error("fewer than {} bytes arrived within {} seconds", pace.floor_bytes, pace.window.as_secs())]
    TooSlow { pace: Pace },
    #[error("the body is larger than {limit} bytes")]
    TooLarge { limit: u64 },
    #[error("the connection was lost before the body was complete")]
    Broken(#[source] hyper::Error),
}

impl RequestBody {
    /// `exchange` learns how many bytes arrive.
    pub(crate) fn new(body: Incoming, pace: Pace, exchange: Arc<Exchange>) -> Self {
        let window_end = Instant::now() + pace.window;
        let paced = PacedBody { body, pace, exchange, window_end, window_bytes: 0 };
        Self { body: Some(paced).filter(|paced| !paced.body.is_end_stream()) }
    }

    /// The next piece; `None` at the end.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, BodyError> {
        let Some(body) = &mut self.body else { return Ok(None) };
        let next = body.next().await;
        if !matches!(next, Ok(Some(_))) {
            self.body = None;
        }
        next
    }

    /// The whole body, of at most `limit` bytes.
    pub(crate) async fn whole(&mut self, limit: u64) -> Result<Bytes, BodyError> {
        let mut whole = Vec::new();
        while let Some(piece) = self.next().await? {
            if whole.len() as u64 + piece.len() as u64 > limit {
                return Err(BodyError::TooLarge { limit });
            }
            whole.extend_from_slice(&piece);
        }
        Ok(whole.into())
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        if let (Some(body), Ok(runtime)) = (self.body.take(), tokio::runtime::Handle::try_current()) {
            runtime.spawn(body.discard());
        }
    }
}

impl PacedBody {
    async fn next(&mut self) -> Result<Option<Bytes>, BodyError> {
        // Time that passed while nobody waited for the client is not the client's.
        if Instant::now() >= self.window_end {
            self.start_window();
        }
        loop {
            match tokio::time::timeout_at(self.window_end, self.body.frame()).await {
                Ok(None) => return Ok(None),
                Ok(Some(Err(error))) => return Err(BodyError::Broken(error)),
                Ok(Some(Ok(frame))) => {
                    // Trailers mean nothing here.
                    if let Ok(piece) = frame.into_data() {
                        self.window_bytes += piece.len() as u64;
                        self.exchange.received(piece.len());
                        return Ok(Some(piece));
                    }
                }
                Err(_) if self.window_bytes < self.pace.floor_bytes => {
                    return Err(BodyError::TooSlow { pace: self.pace });
                }
                Err(_) => self.start_window(),
            }
        }
    }

    fn start_window(&mut self) {
        self.window_end = Instant::now() + self.pace.window;
        self.window_bytes = 0;
    }

    /// Reads on and forgets what it reads.
    async fn discard(mut self) {
        let mut discarded = 0;
        while let Ok(Some(piece)) = self.next().await {
            discarded += piece.len() as u64;
            if discarded > UNWANTED {
                return;
            }
        }
    }
}

/// The body of a response.
pub(crate) enum ResponseBody {
    Whole(Bytes),
    /// The header says how long it is.
    Stream(ContentStream),
}

impl ResponseBody {
    pub(crate) const fn whole(content: Bytes) -> Self {
        Self::Whole(content)
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        match self.get_mut() {
            Self::Whole(content) if content.is_empty() => Poll::Ready(None),
            Self::Whole(content) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(content))))),
            Self::Stream(stream) => stream.poll_next_unpin(cx).map(|piece| {
                piece.map(|piece| {
                    piece.map(Frame::data).map_err(|error: StorageError| io::Error::other(error))
                })
            }),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Whole(content) if content.is_empty())
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(content) => SizeHint::with_exact(content.len() as u64),
            Self::Stream(_) => SizeHint::default(),
        }
    }
}
