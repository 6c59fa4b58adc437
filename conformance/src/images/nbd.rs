//! An NBD client that reads and asks for holes, over a Unix socket.
//!
//! It holds the server to the protocol: a reply that does not answer the request, covers it twice or not at
//! all, or is longer than it can be, is an error. Nothing is allocated by a length that the server sent.
//!
//! Source: NBD protocol, `doc/proto.md` of the NetworkBlockDevice project: "Fixed newstyle negotiation",
//! "Structured replies", "Metadata querying", "`base:allocation` metadata context".

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use super::compare::{Disk, Stretch};

/// How long a server may be silent. It says that a server hangs, and nothing of how fast it is.
const PATIENCE: Duration = Duration::from_secs(60);
/// The most that is asked for at once; servers take at least this much.
pub(crate) const MAX_READ_BYTES: usize = 1 << 20;
/// The most extents that a reply may have.
const MAX_EXTENTS: u32 = 1 << 20;

const NBDMAGIC: u64 = u64::from_be_bytes(*b"NBDMAGIC");
const IHAVEOPT: u64 = u64::from_be_bytes(*b"IHAVEOPT");
const OPTION_REPLY: u64 = 0x0003_e889_0455_65a9;
const REQUEST: u32 = 0x2560_9513;
const STRUCTURED_REPLY: u32 = 0x668e_33ef;

const FIXED_NEWSTYLE: u16 = 1;
const NO_ZEROES: u16 = 2;
const READ_ONLY: u16 = 2;

const OPT_GO: u32 = 7;
const OPT_STRUCTURED_REPLY: u32 = 8;
const OPT_SET_META_CONTEXT: u32 = 10;
const REP_ACK: u32 = 1;
const REP_INFO: u32 = 3;
const REP_META_CONTEXT: u32 = 4;
const INFO_EXPORT: u16 = 0;
const CONTEXT: &str = "base:allocation";

const CMD_READ: u16 = 0;
const CMD_DISC: u16 = 2;
const CMD_BLOCK_STATUS: u16 = 7;
const DONE: u16 = 1;
const REPLY_NONE: u16 = 0;
const REPLY_DATA: u16 = 1;
const REPLY_HOLE: u16 = 2;
const REPLY_BLOCK_STATUS: u16 = 5;
/// `NBD_STATE_ZERO`.
const STATE_ZERO: u32 = 2;

/// A connection to a read-only export.
#[derive(Debug)]
pub(crate) struct Client {
    stream: UnixStream,
    size_bytes: u64,
    context: u32,
    cookie: u64,
}

impl Client {
    /// Agrees on the export called `""`, structured replies and `base:allocation`.
    pub(crate) fn connect(stream: UnixStream) -> io::Result<Self> {
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let mut client = Self { stream, size_bytes: 0, context: 0, cookie: 0 };
        let greeting = (client.u64()?, client.u64()?);
        let flags = client.u16()?;
        if greeting != (NBDMAGIC, IHAVEOPT) || flags & (FIXED_NEWSTYLE | NO_ZEROES) != 3 {
            return Err(wrong(format!("the server greets with {greeting:x?} and flags {flags:#x}")));
        }
        client.stream.write_all(&u32::from(FIXED_NEWSTYLE | NO_ZEROES).to_be_bytes())?;
        client.option(OPT_STRUCTURED_REPLY, &[])?;
        client.set_context()?;
        client.go()?;
        Ok(client)
    }

    fn set_context(&mut self) -> io::Result<()> {
        let mut ask = vec![0; 4];
        ask.extend(1_u32.to_be_bytes());
        ask.extend((CONTEXT.len() as u32).to_be_bytes());
        ask.extend(CONTEXT.as_bytes());
        let replies = self.option(OPT_SET_META_CONTEXT, &ask)?;
        match &replies[..] {
            [(REP_META_CONTEXT, reply)] if reply.get(4..) == Some(CONTEXT.as_bytes()) => {
                self.context = u32_at(reply, 0);
                Ok(())
            }
            other => Err(wrong(format!("asked for {CONTEXT}, the server answers {other:?}"))),
        }
    }

    fn go(&mut self) -> io::Result<()> {
        let replies = self.option(OPT_GO, &[0; 6])?;
        let export = replies.iter().find(|(kind, reply)| {
            *kind == REP_INFO && reply.len() == 12 && reply[..2] == INFO_EXPORT.to_be_bytes()
        });
        let (_, export) = export.ok_or_else(|| wrong("the server does not say how large the export is"))?;
        if u16::from_be_bytes([export[10], export[11]]) & READ_ONLY == 0 {
            return Err(wrong("the export is not read-only"));
        }
        self.size_bytes = u64::from_be_bytes(export[2..10].try_into().expect("8 bytes"));
        Ok(())
    }

    /// Sends an option; returns what is said before its acknowledgement.
    fn option(&mut self, option: u32, content: &[u8]) -> io::Result<Vec<(u32, Vec<u8>)>> {
        let mut message = IHAVEOPT.to_be_bytes().to_vec();
        message.extend(option.to_be_bytes());
        message.extend((content.len() as u32).to_be_bytes());
        message.extend(content);
        self.stream.write_all(&message)?;
        let mut replies = Vec::new();
        loop {
            let (magic, to, kind, len) = (self.u64()?, self.u32()?, self.u32()?, self.u32()?);
            if (magic, to) != (OPTION_REPLY, option) || len > 8192 || replies.len() == 16 {
                return Err(wrong(format!("option {option} is answered {magic:#x}, {to}, {len} bytes")));
            }
            let mut reply = vec![0; len as usize];
            self.stream.read_exact(&mut reply)?;
            match kind {
                REP_ACK => return Ok(replies),
                kind if kind >> 31 == 1 => {
                    let said = String::from_utf8_lossy(&reply).escape_debug().to_string();
                    return Err(wrong(format!("option {option} is refused: {kind:#x} {said}")));
                }
                kind => replies.push((kind, reply)),
            }
        }
    }

    fn request(&mut self, command: u16, offset: u64, len: u32) -> io::Result<()> {
        self.cookie += 1;
        let mut message = Vec::with_capacity(28);
        message.extend(REQUEST.to_be_bytes());
        message.extend([0; 2]);
        message.extend(command.to_be_bytes());
        message.extend(self.cookie.to_be_bytes());
        message.extend(offset.to_be_bytes());
        message.extend(len.to_be_bytes());
        self.stream.write_all(&message)
    }

    /// Reads the head of a chunk: flags, type, length. An error chunk is read whole, and is an error.
    fn chunk(&mut self) -> io::Result<(u16, u16, u32)> {
        let (magic, flags, kind, cookie, len) =
            (self.u32()?, self.u16()?, self.u16()?, self.u64()?, self.u32()?);
        if (magic, cookie) != (STRUCTURED_REPLY, self.cookie) {
            return Err(wrong(format!(
                "a reply has magic {magic:#x} and cookie {cookie}, not {}",
                self.cookie
            )));
        }
        if kind >> 15 == 0 {
            return Ok((flags, kind, len));
        }
        let mut said = vec![0; len.min(8192) as usize];
        self.stream.read_exact(&mut said)?;
        let number = if said.len() >= 4 { u32_at(&said, 0) } else { 0 };
        let text = String::from_utf8_lossy(said.get(6..).unwrap_or_default()).escape_debug().to_string();
        Err(io::Error::other(format!("the server answers error {number} {text}")))
    }

    fn read_once(&mut self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.request(CMD_READ, offset, buf.len() as u32)?;
        // Chunks may come in any order; together they are as long as the request, and none covers another.
        let mut covered: Vec<(u64, u64)> = Vec::new();
        loop {
            let (flags, kind, len) = self.chunk()?;
            if kind == REPLY_NONE && len == 0 {
            } else if (kind == REPLY_DATA && len > 8) || (kind == REPLY_HOLE && len == 12) {
                let at = self.u64()?;
                let bytes = if kind == REPLY_DATA { u64::from(len - 8) } else { u64::from(self.u32()?) };
                let start =
                    at.checked_sub(offset).filter(|start| start.saturating_add(bytes) <= buf.len() as u64);
                let Some(start) = start else {
                    return Err(wrong(format!("{bytes} bytes at {at} were not asked for")));
                };
                let piece = &mut buf[start as usize..(start + bytes) as usize];
                if kind == REPLY_DATA {
                    self.stream.read_exact(piece)?
                } else {
                    piece.fill(0)
                }
                covered.push((start, start + bytes));
            } else {
                return Err(wrong(format!("a read is answered by a chunk of type {kind}, {len} bytes")));
            }
            if flags & DONE != 0 {
                break;
            }
        }
        covered.sort_unstable();
        let end = covered.iter().try_fold(0, |end, piece| (piece.0 == end).then_some(piece.1));
        if end != Some(buf.len() as u64) {
            return Err(wrong(format!("{} bytes at {offset} are answered in pieces {covered:?}", buf.len())));
        }
        Ok(())
    }

    fn u16(&mut self) -> io::Result<u16> {
        self.bytes().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> io::Result<u32> {
        self.bytes().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> io::Result<u64> {
        self.bytes().map(u64::from_be_bytes)
    }

    fn bytes<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.stream.read_exact(&mut bytes)?;
        Ok(bytes)
    }
}

impl Disk for Client {
    fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    fn read(&mut self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let mut at = offset;
        for piece in buf.chunks_mut(MAX_READ_BYTES) {
            self.read_once(at, piece)?;
            at += piece.len() as u64;
        }
        Ok(())
    }

    fn stretches(&mut self, offset: u64, len: u64) -> io::Result<Vec<Stretch>> {
        // A multiple of every block size, so that servers with one of their own accept it.
        let len = len.min(1 << 30) as u32;
        self.request(CMD_BLOCK_STATUS, offset, len)?;
        let mut stretches = Vec::new();
        loop {
            let (flags, kind, reply_bytes) = self.chunk()?;
            if kind == REPLY_BLOCK_STATUS && reply_bytes % 8 == 4 && reply_bytes / 8 <= MAX_EXTENTS {
                if self.u32()? != self.context {
                    return Err(wrong("a status is of a context that was not asked for"));
                }
                for _ in 0..reply_bytes / 8 {
                    let (len, flags) = (self.u32()?, self.u32()?);
                    stretches.push(Stretch { len: len.into(), is_zero: flags & STATE_ZERO != 0 });
                }
            } else if kind != REPLY_NONE || reply_bytes != 0 {
                return Err(wrong(format!(
                    "a status is answered by a chunk of type {kind}, {reply_bytes} bytes"
                )));
            }
            if flags & DONE != 0 {
                return Ok(stretches);
            }
        }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        // The server sees the end of the connection anyhow.
        let _ = self.request(CMD_DISC, 0, 0);
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(bytes[at..at + 4].try_into().expect("4 bytes"))
}

fn wrong(what: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.into())
}
