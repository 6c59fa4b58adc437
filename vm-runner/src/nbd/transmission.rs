//! The transmission phase: requests in, replies out, several at once.
//!
//! Each thread of a connection takes turns: it reads one request, lets the next thread read, and
//! answers. So a request is served by the thread that read it, as many run at once as there are
//! threads, and memory is bounded by the threads' buffers. Replies come in any order.
//!
//! Source: NBD protocol, "Transmission", "Structured reply chunk message".

use std::io::{self, Read, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use formats::{ReadError, Run, RunKind};

use super::negotiation::{ALLOCATION_CONTEXT_ID, Session};
use super::wire::{
    CHUNK_HEADER_BYTES, ErrorCode, MAX_REQUEST_BYTES, Request, SIMPLE_HEADER_BYTES, allocation, chunk,
    chunk_header, command, command_flag, simple_header,
};

/// The most content in one chunk of a structured reply, and so the size of a thread's buffer.
const PIECE_BYTES: u64 = 1 << 20;

/// A shorter stretch of zeros is sent as data: the client handles one chunk faster than three.
const MIN_HOLE_BYTES: u64 = 64 << 10;

/// The most extents in one answer to `BLOCK_STATUS`.
const MAX_EXTENTS: usize = 4096;

/// A structured chunk with content: header, offset, content.
const DATA_START: usize = CHUNK_HEADER_BYTES + 8;

/// One connection in the transmission phase, shared by its threads.
#[derive(Debug)]
pub(super) struct Transmission<R, W> {
    session: Session,
    requests: Mutex<R>,
    replies: Mutex<W>,
    ended: AtomicBool,
}

/// What a client asks for, as far as it can be served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Task {
    Read { offset: u64, len: u32 },
    BlockStatus { offset: u64, len: u32, only_one: bool },
    Flush,
    Refuse(ErrorCode),
}

impl<R: Read, W: Write> Transmission<R, W> {
    pub(super) fn new(session: Session, from: R, to: W) -> Self {
        Self { session, requests: Mutex::new(from), replies: Mutex::new(to), ended: AtomicBool::new(false) }
    }

    /// Serves requests until the client leaves, breaks the protocol or cannot be reached. Meant to
    /// be called by several threads; when one returns, the caller must see to it that a thread which
    /// waits for a request is woken by the end of the stream.
    pub(super) fn serve(&self) {
        let mut buf = vec![0; DATA_START];
        while let Some((cookie, task)) = self.next_task() {
            if self.answer(cookie, task, &mut buf).is_err() {
                self.ended.store(true, Ordering::Relaxed);
                break;
            }
        }
    }

    /// Reads the next request, and with it the payload of a write, which is dropped.
    fn next_task(&self) -> Option<(u64, Task)> {
        let mut requests = lock(&self.requests);
        if self.ended.load(Ordering::Relaxed) {
            return None;
        }
        let request = read_request(&mut *requests);
        if request.is_none() {
            self.ended.store(true, Ordering::Relaxed);
        }
        request.map(|request| self.check(&request))
    }

    /// What to do about a request, judged by its numbers alone.
    fn check(&self, request: &Request) -> (u64, Task) {
        let Request { cookie, offset, len, flags, .. } = *request;
        let size_bytes = self.session.export.disk().size_bytes();
        let on_disk = len > 0 && offset.checked_add(len.into()).is_some_and(|end| end <= size_bytes);
        let task = match request.command {
            command::READ if on_disk && len <= MAX_REQUEST_BYTES && flags == 0 => Task::Read { offset, len },
            command::BLOCK_STATUS
                if on_disk && self.session.allocation_context && flags & !command_flag::REQ_ONE == 0 =>
            {
                Task::BlockStatus { offset, len, only_one: flags & command_flag::REQ_ONE != 0 }
            }
            command::FLUSH => Task::Flush,
            command::WRITE | command::TRIM | command::WRITE_ZEROES => Task::Refuse(ErrorCode::NotPermitted),
            _ => Task::Refuse(ErrorCode::Invalid),
        };
        (cookie, task)
    }

    /// An error means that the client cannot be reached.
    fn answer(&self, cookie: u64, task: Task, buf: &mut Vec<u8>) -> io::Result<()> {
        match task {
            Task::Read { offset, len } if self.session.structured_replies => {
                self.read_in_chunks(cookie, offset, len.into(), buf)
            }
            Task::Read { offset, len } => self.read_whole(cookie, offset, len.into()),
            Task::BlockStatus { offset, len, only_one } => {
                self.block_status(cookie, offset, len.into(), only_one)
            }
            Task::Flush => self.finish(cookie),
            Task::Refuse(code) => self.fail(cookie, code, "not possible on this export"),
        }
    }

    /// A read answered piece by piece, zeros as holes. Once a piece has failed, the reply ends with
    /// the error and the client drops the pieces it has.
    fn read_in_chunks(&self, cookie: u64, offset: u64, len: u64, buf: &mut Vec<u8>) -> io::Result<()> {
        let mut at = offset;
        let end = offset + len;
        while at < end {
            let run = match self.next_run(at, end - at) {
                Ok(run) => run,
                Err(error) => return self.read_failed(cookie, at, end - at, &error),
            };
            let done = if at + run.len == end { chunk::FLAG_DONE } else { 0 };
            match run.kind {
                RunKind::Zero => self.send_hole(cookie, at, run.len, done)?,
                RunKind::Data => {
                    let size = DATA_START + run.len as usize;
                    if buf.len() < size {
                        buf.resize(size, 0);
                    }
                    let chunk = &mut buf[..size];
                    if let Err(error) = self.session.export.disk().read_at(at, &mut chunk[DATA_START..]) {
                        return self.read_failed(cookie, at, run.len, &error);
                    }
                    let payload_bytes = (size - CHUNK_HEADER_BYTES) as u32;
                    let header = chunk_header(done, chunk::OFFSET_DATA, cookie, payload_bytes);
                    chunk[..CHUNK_HEADER_BYTES].copy_from_slice(&header);
                    chunk[CHUNK_HEADER_BYTES..DATA_START].copy_from_slice(&at.to_be_bytes());
                    lock(&self.replies).write_all(chunk)?;
                }
            }
            at += run.len;
        }
        Ok(())
    }

    /// What to send next of a read: a hole, or content of at most [`PIECE_BYTES`].
    fn next_run(&self, offset: u64, len: u64) -> Result<Run, ReadError> {
        if len <= MIN_HOLE_BYTES {
            return Ok(Run { len, kind: RunKind::Data });
        }
        let window = len.min(PIECE_BYTES);
        let mut data_bytes = 0;
        for run in merge(self.session.export.disk().runs(offset, window)?, window) {
            match run.kind {
                RunKind::Zero if run.len >= MIN_HOLE_BYTES => {
                    if data_bytes > 0 {
                        break;
                    }
                    return Ok(run);
                }
                RunKind::Zero | RunKind::Data => data_bytes += run.len,
            }
        }
        assert!(data_bytes > 0, "a disk's runs cover at least the first byte");
        Ok(Run { len: data_bytes, kind: RunKind::Data })
    }

    fn send_hole(&self, cookie: u64, offset: u64, len: u64, flags: u16) -> io::Result<()> {
        let mut payload = [0; 12];
        payload[..8].copy_from_slice(&offset.to_be_bytes());
        payload[8..].copy_from_slice(&(len as u32).to_be_bytes());
        self.send_chunk(flags, chunk::OFFSET_HOLE, cookie, &payload)
    }

    /// A read for a client without structured replies, which must have all of it or an error.
    fn read_whole(&self, cookie: u64, offset: u64, len: u64) -> io::Result<()> {
        let mut message = vec![0; SIMPLE_HEADER_BYTES + len as usize];
        let (header, content) = message.split_at_mut(SIMPLE_HEADER_BYTES);
        if let Err(error) = self.session.export.disk().read_at(offset, content) {
            return self.read_failed(cookie, offset, len, &error);
        }
        header.copy_from_slice(&simple_header(None, cookie));
        lock(&self.replies).write_all(&message)
    }

    fn block_status(&self, cookie: u64, offset: u64, len: u64, only_one: bool) -> io::Result<()> {
        let runs = match self.session.export.disk().runs(offset, len) {
            Ok(runs) => merge(runs, len),
            Err(error) => return self.read_failed(cookie, offset, len, &error),
        };
        let extents = if only_one { 1 } else { MAX_EXTENTS };
        let mut payload = ALLOCATION_CONTEXT_ID.to_be_bytes().to_vec();
        for run in runs.iter().take(extents) {
            let flags = match run.kind {
                RunKind::Data => 0,
                RunKind::Zero => allocation::HOLE | allocation::ZERO,
            };
            payload.extend((run.len as u32).to_be_bytes()); // At most `len`, which came as 32 bits.
            payload.extend(flags.to_be_bytes());
        }
        self.send_chunk(chunk::FLAG_DONE, chunk::BLOCK_STATUS, cookie, &payload)
    }

    fn read_failed(&self, cookie: u64, offset: u64, len: u64, error: &ReadError) -> io::Result<()> {
        self.session.export.report(offset, len, error);
        self.fail(cookie, ErrorCode::Io, "the disk cannot be read here")
    }

    fn finish(&self, cookie: u64) -> io::Result<()> {
        if self.session.structured_replies {
            self.send_chunk(chunk::FLAG_DONE, chunk::NONE, cookie, &[])
        } else {
            lock(&self.replies).write_all(&simple_header(None, cookie))
        }
    }

    fn fail(&self, cookie: u64, code: ErrorCode, words: &str) -> io::Result<()> {
        if !self.session.structured_replies {
            return lock(&self.replies).write_all(&simple_header(Some(code), cookie));
        }
        let mut payload = (code as u32).to_be_bytes().to_vec();
        payload.extend((words.len() as u16).to_be_bytes());
        payload.extend(words.as_bytes());
        self.send_chunk(chunk::FLAG_DONE, chunk::ERROR, cookie, &payload)
    }

    fn send_chunk(&self, flags: u16, kind: u16, cookie: u64, payload: &[u8]) -> io::Result<()> {
        let mut message = chunk_header(flags, kind, cookie, payload.len() as u32).to_vec();
        message.extend(payload);
        lock(&self.replies).write_all(&message)
    }
}

/// The next request; `None` where the client leaves, breaks off or breaks the protocol.
fn read_request(from: &mut impl Read) -> Option<Request> {
    let mut header = [0; Request::BYTES];
    from.read_exact(&mut header).ok()?;
    let request = Request::parse(&header)?;
    match request.command {
        command::DISC => return None,
        command::WRITE if request.len > MAX_REQUEST_BYTES => return None,
        command::WRITE => {
            let payload_bytes = u64::from(request.len);
            let skipped = io::copy(&mut from.by_ref().take(payload_bytes), &mut io::sink()).ok()?;
            if skipped < payload_bytes {
                return None;
            }
        }
        _ => {}
    }
    Some(request)
}

/// Neighbours of the same kind joined, cut at `len` bytes.
fn merge(runs: Vec<Run>, len: u64) -> Vec<Run> {
    let mut merged: Vec<Run> = Vec::with_capacity(runs.len());
    let mut left = len;
    for run in runs {
        let run_len = run.len.min(left);
        left -= run_len;
        match merged.last_mut() {
            Some(last) if last.kind == run.kind => last.len += run_len,
            _ if run_len > 0 => merged.push(Run { len: run_len, kind: run.kind }),
            _ => break,
        }
    }
    merged
}

/// A thread that panicked in a disk left neither stream in the middle of a message: requests are
/// read and replies written whole, or the connection ends.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
