//! A connection, plain or with TLS, whose writes may stall, but not for ever.
//!
//! A client that asks for a large blob and then reads nothing would keep its connection, and the
//! memory behind it, until the end of time. Reading needs no such limit here: between requests the
//! server waits for a head with a time limit, and within one it watches the body's pace.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};
use tokio_rustls::server::TlsStream;

/// A connection that fails when nothing could be written for a while.
#[derive(Debug)]
pub(crate) struct Connection {
    transport: Transport,
    stall_limit: Duration,
    /// Runs while a write is waiting for the client.
    stall: Pin<Box<Sleep>>,
    is_stalled: bool,
}

/// What carries the bytes.
#[derive(Debug)]
pub(crate) enum Transport {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// Does the same with whatever carries the bytes.
macro_rules! transport {
    ($this:expr, $stream:ident => $call:expr) => {
        match &mut $this.transport {
            Transport::Plain($stream) => $call,
            Transport::Tls($stream) => $call,
        }
    };
}

impl Connection {
    pub(crate) fn new(transport: Transport, stall_limit: Duration) -> Self {
        Self { transport, stall_limit, stall: Box::pin(tokio::time::sleep(stall_limit)), is_stalled: false }
    }

    /// Passes on what became of a write, and keeps the time that writes wait.
    fn watch<T>(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.is_stalled = false;
            return written;
        }
        if !self.is_stalled {
            self.is_stalled = true;
            let limit = Instant::now() + self.stall_limit;
            self.stall.as_mut().reset(limit);
        }
        ready!(self.stall.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client does not read its answer")))
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        transport!(self, stream => Pin::new(stream).poll_read(cx, buf))
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = transport!(self, stream => Pin::new(stream).poll_write(cx, buf));
        self.watch(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = transport!(self, stream => Pin::new(stream).poll_write_vectored(cx, bufs));
        self.watch(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        match &self.transport {
            Transport::Plain(stream) => stream.is_write_vectored(),
            Transport::Tls(stream) => stream.is_write_vectored(),
        }
    }

    /// TLS keeps what it could not write yet, so that here is where its writes wait.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = transport!(self, stream => Pin::new(stream).poll_flush(cx));
        self.watch(cx, flushed)
    }

    /// TLS says goodbye, which waits like any write.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let closed = transport!(self, stream => Pin::new(stream).poll_shutdown(cx));
        self.watch(cx, closed)
    }
}
