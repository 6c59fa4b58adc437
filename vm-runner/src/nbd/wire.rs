//! Numbers and fixed layouts of the NBD protocol; all integers are big-endian.

use std::io::{self, Read};

pub(super) const NBDMAGIC: u64 = 0x4e42_444d_4147_4943;
pub(super) const IHAVEOPT: u64 = 0x4948_4156_454f_5054;
pub(super) const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
pub(super) const REQUEST_MAGIC: u32 = 0x2560_9513;
pub(super) const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
pub(super) const STRUCTURED_REPLY_MAGIC: u32 = 0x668e_33ef;

/// The longest export name or metadata query that the protocol allows.
pub(super) const MAX_STRING_BYTES: usize = 4096;

/// The longest `READ`, and the longest payload of a refused `WRITE` that is skipped.
pub(super) const MAX_REQUEST_BYTES: u32 = 32 << 20;

/// Bits of the greeting and of the client's answer to it, the same in both.
pub(super) mod handshake_flag {
    pub(crate) const FIXED_NEWSTYLE: u16 = 1 << 0;
    pub(crate) const NO_ZEROES: u16 = 1 << 1;
}

/// What a client may ask for during negotiation.
pub(super) mod option {
    pub(crate) const EXPORT_NAME: u32 = 1;
    pub(crate) const ABORT: u32 = 2;
    pub(crate) const LIST: u32 = 3;
    pub(crate) const INFO: u32 = 6;
    pub(crate) const GO: u32 = 7;
    pub(crate) const STRUCTURED_REPLY: u32 = 8;
    pub(crate) const LIST_META_CONTEXT: u32 = 9;
    pub(crate) const SET_META_CONTEXT: u32 = 10;
}

/// How the server answers an option.
pub(super) mod option_reply {
    pub(crate) const ACK: u32 = 1;
    pub(crate) const SERVER: u32 = 2;
    pub(crate) const INFO: u32 = 3;
    pub(crate) const META_CONTEXT: u32 = 4;
    pub(crate) const ERR_UNSUPPORTED: u32 = 0x8000_0001;
    pub(crate) const ERR_INVALID: u32 = 0x8000_0003;
    pub(crate) const ERR_UNKNOWN: u32 = 0x8000_0006;
}

/// Kinds of information in an `INFO` reply.
pub(super) mod info {
    pub(crate) const EXPORT: u16 = 0;
    pub(crate) const BLOCK_SIZE: u16 = 3;
}

/// Bits that describe an export.
pub(super) mod transmission_flag {
    pub(crate) const HAS_FLAGS: u16 = 1 << 0;
    pub(crate) const READ_ONLY: u16 = 1 << 1;
    pub(crate) const SEND_FLUSH: u16 = 1 << 2;
    pub(crate) const CAN_MULTI_CONN: u16 = 1 << 8;
}

/// Request types.
pub(super) mod command {
    pub(crate) const READ: u16 = 0;
    pub(crate) const WRITE: u16 = 1;
    pub(crate) const DISC: u16 = 2;
    pub(crate) const FLUSH: u16 = 3;
    pub(crate) const TRIM: u16 = 4;
    pub(crate) const WRITE_ZEROES: u16 = 6;
    pub(crate) const BLOCK_STATUS: u16 = 7;
}

/// Bits of a request.
pub(super) mod command_flag {
    pub(crate) const REQ_ONE: u16 = 1 << 3;
}

/// Types of a structured reply's chunks, and its one flag.
pub(super) mod chunk {
    pub(crate) const FLAG_DONE: u16 = 1 << 0;
    pub(crate) const NONE: u16 = 0;
    pub(crate) const OFFSET_DATA: u16 = 1;
    pub(crate) const OFFSET_HOLE: u16 = 2;
    pub(crate) const BLOCK_STATUS: u16 = 5;
    pub(crate) const ERROR: u16 = 0x8001;
}

/// Bits of `base:allocation`.
pub(super) mod allocation {
    pub(crate) const HOLE: u32 = 1 << 0;
    pub(crate) const ZERO: u32 = 1 << 1;
}

/// Errors as the protocol numbers them, whatever the operating system's numbers are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum ErrorCode {
    NotPermitted = 1,
    Io = 5,
    Invalid = 22,
}

/// A request's header. Its claims are unchecked.
///
/// ```text
/// 0      4      6     8       16      24      28
/// | magic| flags| type| cookie| offset| length|
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) flags: u16,
    pub(super) command: u16,
    pub(super) cookie: u64,
    pub(super) offset: u64,
    pub(super) len: u32,
}

impl Request {
    pub(super) const BYTES: usize = 28;

    /// `None` where the magic number is wrong, after which nothing else on the stream makes sense.
    pub(super) fn parse(header: &[u8; Self::BYTES]) -> Option<Self> {
        let mut fields = &header[..];
        let magic = read_u32(&mut fields).ok()?;
        let request = Self {
            flags: read_u16(&mut fields).ok()?,
            command: read_u16(&mut fields).ok()?,
            cookie: read_u64(&mut fields).ok()?,
            offset: read_u64(&mut fields).ok()?,
            len: read_u32(&mut fields).ok()?,
        };
        (magic == REQUEST_MAGIC).then_some(request)
    }
}

/// Bytes of a structured reply's chunk before its payload: magic, flags, type, cookie, length.
pub(super) const CHUNK_HEADER_BYTES: usize = 20;

/// Bytes of a simple reply before its data: magic, error, cookie.
pub(super) const SIMPLE_HEADER_BYTES: usize = 16;

pub(super) fn chunk_header(flags: u16, kind: u16, cookie: u64, len: u32) -> [u8; CHUNK_HEADER_BYTES] {
    let mut header = [0; CHUNK_HEADER_BYTES];
    header[..4].copy_from_slice(&STRUCTURED_REPLY_MAGIC.to_be_bytes());
    header[4..6].copy_from_slice(&flags.to_be_bytes());
    header[6..8].copy_from_slice(&kind.to_be_bytes());
    header[8..16].copy_from_slice(&cookie.to_be_bytes());
    header[16..].copy_from_slice(&len.to_be_bytes());
    header
}

pub(super) fn simple_header(error: Option<ErrorCode>, cookie: u64) -> [u8; SIMPLE_HEADER_BYTES] {
    let mut header = [0; SIMPLE_HEADER_BYTES];
    header[..4].copy_from_slice(&SIMPLE_REPLY_MAGIC.to_be_bytes());
    header[4..8].copy_from_slice(&error.map_or(0, |code| code as u32).to_be_bytes());
    header[8..].copy_from_slice(&cookie.to_be_bytes());
    header
}

pub(super) fn read_u16(from: &mut impl Read) -> io::Result<u16> {
    let mut bytes = [0; 2];
    from.read_exact(&mut bytes)?;
    Ok(u16::from_be_bytes(bytes))
}

pub(super) fn read_u32(from: &mut impl Read) -> io::Result<u32> {
    let mut bytes = [0; 4];
    from.read_exact(&mut bytes)?;
    Ok(u32::from_be_bytes(bytes))
}

pub(super) fn read_u64(from: &mut impl Read) -> io::Result<u64> {
    let mut bytes = [0; 8];
    from.read_exact(&mut bytes)?;
    Ok(u64::from_be_bytes(bytes))
}
