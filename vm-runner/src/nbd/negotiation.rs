//! Fixed newstyle negotiation: which export, which reply format, which metadata.
//!
//! Works on any byte stream. An unknown or malformed option is refused and the client may go on;
//! a wrong magic number or an option longer than any valid one ends the connection.
//!
//! Source: NBD protocol, "Fixed newstyle negotiation", "Option types", "Metadata querying".

use std::io::{self, Read, Write};
use std::sync::Arc;

use super::export::{Export, Exports};
use super::wire::{
    self, IHAVEOPT, MAX_REQUEST_BYTES, MAX_STRING_BYTES, NBDMAGIC, OPTION_REPLY_MAGIC, handshake_flag, info,
    option, option_reply, read_u16, read_u32, read_u64, transmission_flag,
};

/// The one metadata context there is.
const ALLOCATION_CONTEXT: &str = "base:allocation";

/// The number by which replies name that context.
pub(super) const ALLOCATION_CONTEXT_ID: u32 = 1;

/// Room for a name and a dozen metadata queries of the greatest length.
const MAX_OPTION_BYTES: u32 = 64 << 10;

/// The request size that is served with the least overhead: one chunk of a disk at its longest.
const PREFERRED_BLOCK_BYTES: u32 = 256 << 10;

/// What was agreed on.
#[derive(Debug, Clone)]
pub(super) struct Session {
    pub(super) export: Arc<Export>,
    pub(super) structured_replies: bool,
    /// `base:allocation` was selected, which implies structured replies.
    pub(super) allocation_context: bool,
}

/// Why negotiation ended without a session, other than by the client's wish.
#[derive(Debug, thiserror::Error)]
pub(super) enum NegotiationError {
    #[error("the client broke off")]
    Io(#[from] io::Error),
    #[error("the client sent {field} {found:#x}")]
    Protocol { field: &'static str, found: u64 },
    #[error("the client asked for an export that is not there")]
    NoSuchExport,
}

/// Greets a client and answers its options until it picks an export; `None` if it leaves politely.
pub(super) fn negotiate(
    stream: &mut (impl Read + Write),
    exports: &Exports,
) -> Result<Option<Session>, NegotiationError> {
    let mut greeting = Vec::with_capacity(18);
    greeting.extend(NBDMAGIC.to_be_bytes());
    greeting.extend(IHAVEOPT.to_be_bytes());
    greeting.extend((handshake_flag::FIXED_NEWSTYLE | handshake_flag::NO_ZEROES).to_be_bytes());
    stream.write_all(&greeting)?;

    let known = u32::from(handshake_flag::FIXED_NEWSTYLE | handshake_flag::NO_ZEROES);
    let client_flags = read_u32(stream)?;
    if client_flags & !known != 0 {
        return Err(protocol("unknown handshake flags", client_flags));
    }
    let no_zeroes = client_flags & u32::from(handshake_flag::NO_ZEROES) != 0;
    let mut haggling =
        Haggling { stream, exports, no_zeroes, structured_replies: false, allocation_of: None };
    loop {
        match haggling.next_option()? {
            Step::Again => {}
            Step::Agreed(session) => return Ok(Some(session)),
            Step::Left => return Ok(None),
        }
    }
}

/// Negotiation in progress.
struct Haggling<'a, S> {
    stream: &'a mut S,
    exports: &'a Exports,
    no_zeroes: bool,
    structured_replies: bool,
    /// The export whose `base:allocation` was selected last.
    allocation_of: Option<Arc<Export>>,
}

enum Step {
    Again,
    Agreed(Session),
    Left,
}

impl<S: Read + Write> Haggling<'_, S> {
    fn next_option(&mut self) -> Result<Step, NegotiationError> {
        let magic = read_u64(self.stream)?;
        if magic != IHAVEOPT {
            return Err(NegotiationError::Protocol { field: "option magic", found: magic });
        }
        let option = read_u32(self.stream)?;
        let len = read_u32(self.stream)?;
        if len > MAX_OPTION_BYTES {
            return Err(protocol("an option of length", len));
        }
        let mut data = vec![0; len as usize];
        self.stream.read_exact(&mut data)?;
        match option {
            option::EXPORT_NAME => self.export_name(&data).map(Step::Agreed),
            option::ABORT => {
                self.reply(option, option_reply::ACK, &[])?;
                Ok(Step::Left)
            }
            option::LIST => self.list(&data),
            option::INFO | option::GO => self.info_or_go(option, &data),
            option::STRUCTURED_REPLY if data.is_empty() => {
                self.structured_replies = true;
                self.acknowledge(option)
            }
            option::STRUCTURED_REPLY => self.refuse(option, option_reply::ERR_INVALID),
            option::LIST_META_CONTEXT | option::SET_META_CONTEXT => self.meta_context(option, &data),
            _ => self.refuse(option, option_reply::ERR_UNSUPPORTED),
        }
    }

    /// The oldest way to pick an export. It knows no refusal but to hang up.
    fn export_name(&mut self, name: &[u8]) -> Result<Session, NegotiationError> {
        let export = std::str::from_utf8(name).ok().and_then(|name| self.exports.find(name));
        let export = Arc::clone(export.ok_or(NegotiationError::NoSuchExport)?);
        let mut answer = Vec::with_capacity(134);
        answer.extend(export.disk().size_bytes().to_be_bytes());
        answer.extend(export_flags().to_be_bytes());
        if !self.no_zeroes {
            answer.extend([0; 124]);
        }
        self.stream.write_all(&answer)?;
        Ok(self.session(export))
    }

    fn list(&mut self, data: &[u8]) -> Result<Step, NegotiationError> {
        if !data.is_empty() {
            return self.refuse(option::LIST, option_reply::ERR_INVALID);
        }
        for export in self.exports.clone().iter() {
            let mut entry = Vec::new();
            entry.extend((export.name().len() as u32).to_be_bytes());
            entry.extend(export.name().as_bytes());
            self.reply(option::LIST, option_reply::SERVER, &entry)?;
        }
        self.acknowledge(option::LIST)
    }

    fn info_or_go(&mut self, option: u32, data: &[u8]) -> Result<Step, NegotiationError> {
        let Some(name) = parse_info(data) else {
            return self.refuse(option, option_reply::ERR_INVALID);
        };
        let Some(export) = self.exports.find(name).map(Arc::clone) else {
            return self.refuse(option, option_reply::ERR_UNKNOWN);
        };
        let mut description = Vec::new();
        description.extend(info::EXPORT.to_be_bytes());
        description.extend(export.disk().size_bytes().to_be_bytes());
        description.extend(export_flags().to_be_bytes());
        self.reply(option, option_reply::INFO, &description)?;
        let mut sizes = Vec::new();
        sizes.extend(info::BLOCK_SIZE.to_be_bytes());
        for bytes in [1, PREFERRED_BLOCK_BYTES, MAX_REQUEST_BYTES] {
            sizes.extend(bytes.to_be_bytes());
        }
        self.reply(option, option_reply::INFO, &sizes)?;
        self.reply(option, option_reply::ACK, &[])?;
        Ok(if option == option::GO { Step::Agreed(self.session(export)) } else { Step::Again })
    }

    fn meta_context(&mut self, option: u32, data: &[u8]) -> Result<Step, NegotiationError> {
        let selecting = option == option::SET_META_CONTEXT;
        if selecting {
            self.allocation_of = None;
        }
        let Some((name, queries)) = parse_meta_context(data).filter(|_| self.structured_replies) else {
            return self.refuse(option, option_reply::ERR_INVALID);
        };
        let Some(export) = self.exports.find(name).map(Arc::clone) else {
            return self.refuse(option, option_reply::ERR_UNKNOWN);
        };
        let listed = !selecting && (queries.is_empty() || queries.contains(&"base:"));
        if listed || queries.contains(&ALLOCATION_CONTEXT) {
            let mut context = ALLOCATION_CONTEXT_ID.to_be_bytes().to_vec();
            context.extend(ALLOCATION_CONTEXT.as_bytes());
            self.reply(option, option_reply::META_CONTEXT, &context)?;
            self.allocation_of = if selecting { Some(export) } else { self.allocation_of.take() };
        }
        self.acknowledge(option)
    }

    fn session(&self, export: Arc<Export>) -> Session {
        let allocation_context = self.allocation_of.as_ref().is_some_and(|of| Arc::ptr_eq(of, &export));
        Session { export, structured_replies: self.structured_replies, allocation_context }
    }

    fn acknowledge(&mut self, option: u32) -> Result<Step, NegotiationError> {
        self.refuse(option, option_reply::ACK)
    }

    /// A reply without data after which the client may go on.
    fn refuse(&mut self, option: u32, reply: u32) -> Result<Step, NegotiationError> {
        self.reply(option, reply, &[])?;
        Ok(Step::Again)
    }

    fn reply(&mut self, option: u32, reply: u32, data: &[u8]) -> io::Result<()> {
        let mut message = Vec::with_capacity(20 + data.len());
        message.extend(OPTION_REPLY_MAGIC.to_be_bytes());
        message.extend(option.to_be_bytes());
        message.extend(reply.to_be_bytes());
        message.extend((data.len() as u32).to_be_bytes());
        message.extend(data);
        self.stream.write_all(&message)
    }
}

/// Safe over several connections: nothing is ever written.
fn export_flags() -> u16 {
    transmission_flag::HAS_FLAGS
        | transmission_flag::READ_ONLY
        | transmission_flag::SEND_FLUSH
        | transmission_flag::CAN_MULTI_CONN
}

fn protocol(field: &'static str, found: u32) -> NegotiationError {
    NegotiationError::Protocol { field, found: found.into() }
}

/// The export's name in the data of `INFO` or `GO`: name, count, and that many kinds of
/// information asked for. All there is gets sent, so the kinds are of no interest.
fn parse_info(mut data: &[u8]) -> Option<&str> {
    let name = take_string(&mut data)?;
    let kinds = read_u16(&mut data).ok()?;
    (data.len() == usize::from(kinds) * 2).then_some(name)
}

/// The export's name and the queries in the data of a metadata option.
fn parse_meta_context(mut data: &[u8]) -> Option<(&str, Vec<&str>)> {
    let name = take_string(&mut data)?;
    let count = read_u32(&mut data).ok()?;
    // Each query has at least its length, so a count that lies is found out before it costs memory.
    if data.len() < usize::try_from(count).ok()?.checked_mul(4)? {
        return None;
    }
    let queries = (0..count).map(|_| take_string(&mut data)).collect::<Option<Vec<_>>>()?;
    data.is_empty().then_some((name, queries))
}

/// A length and that many bytes of UTF-8.
fn take_string<'a>(data: &mut &'a [u8]) -> Option<&'a str> {
    let len = usize::try_from(wire::read_u32(data).ok()?).ok()?;
    if len > MAX_STRING_BYTES {
        return None;
    }
    let (text, rest) = data.split_at_checked(len)?;
    *data = rest;
    std::str::from_utf8(text).ok()
}
