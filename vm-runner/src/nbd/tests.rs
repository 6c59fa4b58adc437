//! Both phases of the protocol, in memory: what a client sends, well-formed or not, and what it gets.

use std::io::{self, Cursor, Read, Write};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use formats::{Disk, ReadError, Run, RunKind};
use proptest::prelude::*;

use super::export::{Export, Exports};
use super::negotiation::{NegotiationError, Session, negotiate};
use super::transmission::Transmission;
use super::wire::{
    self, ErrorCode, IHAVEOPT, OPTION_REPLY_MAGIC, REQUEST_MAGIC, Request, SIMPLE_REPLY_MAGIC,
    STRUCTURED_REPLY_MAGIC, chunk, command, option, option_reply, read_u16, read_u32, read_u64,
};

/// A disk in memory whose runs are blocks of 64 KiB. Bytes of 0xee cannot be read.
#[derive(Debug)]
struct MemoryDisk(Vec<u8>);

const RUN_BYTES: usize = 64 << 10;
const UNREADABLE: u8 = 0xee;

impl Disk for MemoryDisk {
    fn size_bytes(&self) -> u64 {
        self.0.len() as u64
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), ReadError> {
        let content = &self.0[offset as usize..][..buf.len()];
        if content.contains(&UNREADABLE) {
            return Err(ReadError::Io { what: "a block".into(), source: io::ErrorKind::TimedOut.into() });
        }
        buf.copy_from_slice(content);
        Ok(())
    }

    fn runs(&self, offset: u64, len: u64) -> Result<Vec<Run>, ReadError> {
        let (mut at, end) = (offset as usize, (offset + len) as usize);
        let mut runs = Vec::new();
        while at < end {
            let next = ((at / RUN_BYTES + 1) * RUN_BYTES).min(end);
            let zero = self.0[at..next].iter().all(|byte| *byte == 0);
            runs.push(Run {
                len: (next - at) as u64,
                kind: if zero { RunKind::Zero } else { RunKind::Data },
            });
            at = next;
        }
        Ok(runs)
    }
}

fn export(name: &str, content: Vec<u8>) -> Export {
    Export::new(name, Arc::new(MemoryDisk(content)), |_| {})
}

/// What a client sends, and what it has been sent.
struct Wire {
    from_client: Cursor<Vec<u8>>,
    to_client: Vec<u8>,
}

impl Read for Wire {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.from_client.read(buf)
    }
}

impl Write for Wire {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.to_client.write(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Negotiates with a client that answers the greeting with `flags` and then sends `options`; returns
/// the outcome and what the server sent after its greeting.
fn haggle(flags: u32, options: Vec<u8>) -> (Result<Option<Session>, NegotiationError>, Vec<u8>) {
    let exports = Exports::new([export("root", vec![1; 4096]), export("data", vec![0; 512])]);
    let mut sent = flags.to_be_bytes().to_vec();
    sent.extend(options);
    let mut wire = Wire { from_client: Cursor::new(sent), to_client: Vec::new() };
    let outcome = negotiate(&mut wire, &exports);
    (outcome, wire.to_client.split_off(18))
}

const MODERN: u32 = 3;

fn option(number: u32, data: &[u8]) -> Vec<u8> {
    let mut message = IHAVEOPT.to_be_bytes().to_vec();
    message.extend(number.to_be_bytes());
    message.extend((data.len() as u32).to_be_bytes());
    message.extend(data);
    message
}

fn string(text: &str) -> Vec<u8> {
    let mut bytes = (text.len() as u32).to_be_bytes().to_vec();
    bytes.extend(text.as_bytes());
    bytes
}

/// The data of `INFO` and `GO`, asking for no kind of information in particular.
fn go(name: &str) -> Vec<u8> {
    [string(name), vec![0, 0]].concat()
}

/// The data of the metadata options.
fn contexts(name: &str, queries: &[&str]) -> Vec<u8> {
    let mut data = string(name);
    data.extend((queries.len() as u32).to_be_bytes());
    queries.iter().for_each(|query| data.extend(string(query)));
    data
}

/// The option replies in `sent`: option, reply type, data.
fn replies(mut sent: &[u8]) -> Vec<(u32, u32, Vec<u8>)> {
    let mut replies = Vec::new();
    while !sent.is_empty() {
        assert_eq!(read_u64(&mut sent).unwrap(), OPTION_REPLY_MAGIC);
        let (option, reply) = (read_u32(&mut sent).unwrap(), read_u32(&mut sent).unwrap());
        let len = read_u32(&mut sent).unwrap() as usize;
        replies.push((option, reply, sent[..len].to_vec()));
        sent = &sent[len..];
    }
    replies
}

/// The options are answered with these reply types, in order.
#[track_caller]
fn check_replies(options: &[Vec<u8>], want: &[u32]) -> Option<Session> {
    let (outcome, sent) = haggle(MODERN, options.concat());
    let types: Vec<u32> = replies(&sent).iter().map(|(_, reply, _)| *reply).collect();
    assert_eq!(types, want, "{outcome:?}");
    outcome.ok().flatten()
}

use option_reply::{ACK, ERR_INVALID, ERR_UNKNOWN, ERR_UNSUPPORTED, INFO, META_CONTEXT, SERVER};

#[test]
fn a_modern_client_gets_structured_replies_and_allocation() {
    let structured = option(option::STRUCTURED_REPLY, &[]);
    let allocation = option(option::SET_META_CONTEXT, &contexts("root", &["base:allocation", "qemu:x"]));
    let go = option(option::GO, &go("root"));
    let session =
        check_replies(&[structured, allocation, go], &[ACK, META_CONTEXT, ACK, INFO, INFO, ACK]).unwrap();
    assert!(session.structured_replies && session.allocation_context);
    assert_eq!(session.export.name(), "root");
}

#[test]
fn metadata_of_one_export_is_not_had_for_another() {
    let structured = option(option::STRUCTURED_REPLY, &[]);
    let allocation = option(option::SET_META_CONTEXT, &contexts("data", &["base:allocation"]));
    let nothing = option(option::SET_META_CONTEXT, &contexts("root", &[]));
    let to_root = option(option::GO, &go("root"));
    let session = check_replies(
        &[structured.clone(), allocation.clone(), to_root.clone()],
        &[ACK, META_CONTEXT, ACK, INFO, INFO, ACK],
    );
    assert!(!session.unwrap().allocation_context);
    let to_data = option(option::GO, &go("data"));
    let session = check_replies(
        &[structured, allocation, nothing, to_data],
        &[ACK, META_CONTEXT, ACK, ACK, INFO, INFO, ACK],
    );
    assert!(!session.unwrap().allocation_context);
}

#[test]
fn what_is_asked_wrongly_is_refused_and_the_client_may_go_on() {
    let to_root = option(option::GO, &go("root"));
    for (wrong, want) in [
        (option(5, &[]), ERR_UNSUPPORTED),
        (option(99, &[1; 100]), ERR_UNSUPPORTED),
        (option(option::LIST, &[0]), ERR_INVALID),
        (option(option::STRUCTURED_REPLY, &[0]), ERR_INVALID),
        (option(option::GO, &[]), ERR_INVALID),
        (option(option::GO, &go("absent")), ERR_UNKNOWN),
        (option(option::GO, &go("")), ERR_UNKNOWN), // Which of the two is not said.
        (option(option::INFO, &string("root")), ERR_INVALID),
        (option(option::INFO, &[0, 0, 0, 9, b'r']), ERR_INVALID),
        (option(option::INFO, &[0, 0, 0, 1, 0xff, 0, 0]), ERR_INVALID),
        (option(option::SET_META_CONTEXT, &contexts("root", &["base:allocation"])), ERR_INVALID), // Not structured.
    ] {
        assert!(check_replies(&[wrong, to_root.clone()], &[want, INFO, INFO, ACK]).is_some());
    }
    let structured = option(option::STRUCTURED_REPLY, &[]);
    let lying = [string("root"), u32::MAX.to_be_bytes().to_vec()].concat();
    let lying = option(option::SET_META_CONTEXT, &lying);
    check_replies(&[structured.clone(), lying], &[ACK, ERR_INVALID]);
    let listing = option(option::LIST_META_CONTEXT, &contexts("root", &["base:"]));
    check_replies(&[structured, listing], &[ACK, META_CONTEXT, ACK]);
}

#[test]
fn exports_are_listed_and_described() {
    let (_, sent) = haggle(MODERN, [option(option::LIST, &[]), option(option::INFO, &go("data"))].concat());
    let replies = replies(&sent);
    assert_eq!(replies[0], (option::LIST, SERVER, string("root")));
    assert_eq!(replies[1], (option::LIST, SERVER, string("data")));
    let size_and_flags = [vec![0, 0], 512_u64.to_be_bytes().to_vec(), vec![1, 7]].concat();
    assert_eq!(replies[3], (option::INFO, INFO, size_and_flags));
}

#[test]
fn an_old_client_picks_by_name_and_gets_its_zeroes() {
    let (session, sent) = haggle(0, option(option::EXPORT_NAME, b"root"));
    assert!(!session.unwrap().unwrap().structured_replies);
    assert_eq!(sent.len(), 8 + 2 + 124);
    let (session, sent) = haggle(MODERN, option(option::EXPORT_NAME, b"root"));
    assert!(session.unwrap().is_some());
    assert_eq!(sent, [0, 0, 0, 0, 0, 0, 16, 0, 1, 7]);
    let (session, sent) = haggle(MODERN, option(option::EXPORT_NAME, b"absent"));
    assert!(matches!(session, Err(NegotiationError::NoSuchExport)));
    assert!(sent.is_empty());
}

#[test]
fn a_client_that_breaks_the_protocol_is_hung_up_on() {
    let (outcome, _) = haggle(MODERN, b"GET / HTTP/1.1\r\n\r\n".to_vec());
    assert_eq!(outcome.unwrap_err().to_string(), "the client sent option magic 0x474554202f204854");
    let (outcome, _) = haggle(4, Vec::new());
    assert_eq!(outcome.unwrap_err().to_string(), "the client sent unknown handshake flags 0x4");
    let mut huge = option(option::GO, &[]);
    huge.truncate(12);
    huge.extend(u32::MAX.to_be_bytes());
    let (outcome, sent) = haggle(MODERN, huge);
    assert_eq!(outcome.unwrap_err().to_string(), "the client sent an option of length 0xffffffff");
    assert!(sent.is_empty());
    let (outcome, sent) = haggle(MODERN, option(option::ABORT, &[]));
    assert!(outcome.unwrap().is_none());
    assert_eq!(replies(&sent), [(option::ABORT, ACK, Vec::new())]);
}

/// A reply to a request, put together.
#[derive(Debug, PartialEq, Eq)]
enum Reply {
    Content(Vec<u8>),
    Status(Vec<(u32, u32)>),
    Done,
    Error(u32),
}

/// A request, as sent.
fn request(command: u16, flags: u16, offset: u64, len: u32) -> Vec<u8> {
    let mut bytes = REQUEST_MAGIC.to_be_bytes().to_vec();
    bytes.extend(flags.to_be_bytes());
    bytes.extend(command.to_be_bytes());
    bytes.extend(7_u64.to_be_bytes());
    bytes.extend(offset.to_be_bytes());
    bytes.extend(len.to_be_bytes());
    bytes
}

/// What a client of a disk with `content` is sent for `requests`.
fn serve(content: &[u8], structured_replies: bool, requests: &[u8]) -> Vec<u8> {
    let session = Session {
        export: Arc::new(export("root", content.to_vec())),
        structured_replies,
        allocation_context: structured_replies,
    };
    let sent = Arc::new(Mutex::new(Vec::new()));
    Transmission::new(session, requests, Sent(Arc::clone(&sent))).serve();
    let sent = sent.lock().unwrap();
    sent.clone()
}

struct Sent(Arc<Mutex<Vec<u8>>>);

impl Write for Sent {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The one structured reply in `sent`, to a request for `len` bytes from `offset` on. Content is
/// put where its chunks say, and there must be a chunk for every byte.
fn structured(mut sent: &[u8], offset: u64, len: usize) -> Reply {
    let mut content = vec![None; len];
    let mut reply = Reply::Done;
    loop {
        assert_eq!(read_u32(&mut sent).unwrap(), STRUCTURED_REPLY_MAGIC);
        let (flags, kind) = (read_u16(&mut sent).unwrap(), read_u16(&mut sent).unwrap());
        assert_eq!(read_u64(&mut sent).unwrap(), 7, "the cookie");
        let payload_bytes = read_u32(&mut sent).unwrap() as usize;
        let (mut payload, rest) = sent.split_at(payload_bytes);
        sent = rest;
        match kind {
            chunk::OFFSET_DATA | chunk::OFFSET_HOLE => {
                let at = (read_u64(&mut payload).unwrap() - offset) as usize;
                let bytes = match kind {
                    chunk::OFFSET_DATA => payload.to_vec(),
                    _ => vec![0; read_u32(&mut payload).unwrap() as usize],
                };
                for (place, byte) in content[at..].iter_mut().zip(bytes) {
                    assert_eq!(place.replace(byte), None, "sent twice");
                }
                reply = Reply::Content(Vec::new());
            }
            chunk::BLOCK_STATUS => {
                assert_eq!(read_u32(&mut payload).unwrap(), 1, "the context");
                let mut extents = Vec::new();
                while !payload.is_empty() {
                    extents.push((read_u32(&mut payload).unwrap(), read_u32(&mut payload).unwrap()));
                }
                reply = Reply::Status(extents);
            }
            chunk::ERROR => reply = Reply::Error(read_u32(&mut payload).unwrap()),
            kind => assert_eq!(kind, chunk::NONE),
        }
        if flags & chunk::FLAG_DONE != 0 {
            assert!(sent.is_empty(), "something after the end");
            break;
        }
    }
    match reply {
        Reply::Content(_) => Reply::Content(content.into_iter().map(|byte| byte.unwrap()).collect()),
        other => other,
    }
}

/// The one simple reply in `sent`.
fn simple(mut sent: &[u8]) -> Reply {
    assert_eq!(read_u32(&mut sent).unwrap(), SIMPLE_REPLY_MAGIC);
    let error = read_u32(&mut sent).unwrap();
    assert_eq!(read_u64(&mut sent).unwrap(), 7, "the cookie");
    match (error, sent) {
        (0, []) => Reply::Done,
        (0, content) => Reply::Content(content.to_vec()),
        (error, []) => Reply::Error(error),
        _ => panic!("content after an error"),
    }
}

/// The request is answered with `want`, whichever form of reply was agreed on.
#[track_caller]
fn check(content: &[u8], command: u16, flags: u16, (offset, len): (u64, u32), want: &Reply) {
    let mut bytes = request(command, flags, offset, len);
    if command == command::WRITE {
        bytes.extend(vec![0x25; len as usize]);
    }
    assert_eq!(&structured(&serve(content, true, &bytes), offset, len as usize), want);
    if command != command::BLOCK_STATUS {
        assert_eq!(&simple(&serve(content, false, &bytes)), want);
    }
}

/// 3 MiB: data, then zeros, then data with one byte that cannot be read, near the end.
fn three_parts() -> Vec<u8> {
    let mut content = vec![7; 3 << 20];
    content[1 << 20..2 << 20].fill(0);
    content[(3 << 20) - 5000] = UNREADABLE;
    content
}

const INVALID: Reply = Reply::Error(ErrorCode::Invalid as u32);
const NOT_PERMITTED: Reply = Reply::Error(ErrorCode::NotPermitted as u32);
const IO: Reply = Reply::Error(ErrorCode::Io as u32);

#[test]
fn reads_give_the_disks_bytes_or_an_error() {
    let disk = three_parts();
    for (offset, len) in [(0, 1), (0, 5 << 19), ((1 << 20) - 1, 2), ((3 << 20) - 1, 1), (1 << 20, 1 << 20)] {
        let content = disk[offset as usize..][..len as usize].to_vec();
        check(&disk, command::READ, 0, (offset, len), &Reply::Content(content));
    }
    check(&disk, command::READ, 0, (0, 3 << 20), &IO);
    check(&disk, command::READ, 0, ((3 << 20) - 5000, 1), &IO);
}

#[test]
fn reads_that_cannot_be_are_invalid() {
    let disk = three_parts();
    for (flags, offset, len) in [
        (0, 0, 0),
        (0, 3 << 20, 1),
        (0, (3 << 20) - 1, 2),
        (0, u64::MAX, 1),
        (0, 0, u32::MAX),
        (1 << 2, 0, 1), // DF was not offered.
    ] {
        let bytes = request(command::READ, flags, offset, len);
        assert_eq!(structured(&serve(&disk, true, &bytes), 0, 0), INVALID);
        assert_eq!(simple(&serve(&disk, false, &bytes)), INVALID);
    }
}

#[test]
fn nothing_is_written() {
    let disk = three_parts();
    for command in [command::WRITE, command::TRIM, command::WRITE_ZEROES] {
        check(&disk, command, 0, (0, 4096), &NOT_PERMITTED);
    }
    check(&disk, command::FLUSH, 0, (0, 0), &Reply::Done);
    check(&disk, 42, 0, (0, 0), &INVALID);
}

#[test]
fn holes_are_told_without_being_read() {
    let disk = three_parts();
    let data_hole_data = Reply::Status(vec![(1 << 20, 0), (1 << 20, 3), (1 << 20, 0)]);
    check(&disk, command::BLOCK_STATUS, 0, (0, 3 << 20), &data_hole_data);
    let only_one = 1 << 3;
    check(&disk, command::BLOCK_STATUS, only_one, (1 << 20, 2 << 20), &Reply::Status(vec![(1 << 20, 3)]));
    check(&disk, command::BLOCK_STATUS, 0, (5, 10), &Reply::Status(vec![(10, 0)]));
    let bytes = request(command::BLOCK_STATUS, 0, 0, 1);
    assert_eq!(simple(&serve(&disk, false, &bytes)), INVALID); // The context was not selected.
}

#[test]
fn a_failed_read_is_reported_once() {
    let failures = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&failures);
    let export = Export::new("root", Arc::new(MemoryDisk(three_parts())), move |failure| {
        assert_eq!((failure.export, failure.offset), ("root", (3 << 20) - 5000));
        counter.fetch_add(1, Ordering::Relaxed);
    });
    let session = Session { export: Arc::new(export), structured_replies: true, allocation_context: false };
    let bytes = request(command::READ, 0, (3 << 20) - 5000, 4096);
    Transmission::new(session, bytes.as_slice(), io::sink()).serve();
    assert_eq!(failures.load(Ordering::Relaxed), 1);
}

#[test]
fn after_nonsense_or_goodbye_nothing_is_answered() {
    let disk = [1; 512];
    let read = request(command::READ, 0, 0, 1);
    for end in [
        request(command::DISC, 0, 0, 0),
        request(command::WRITE, 0, 0, wire::MAX_REQUEST_BYTES + 1),
        request(command::WRITE, 0, 0, 1000), // Whose payload the next request would be.
        vec![0; Request::BYTES],
        vec![0x25, 0x60],
    ] {
        assert_eq!(serve(&disk, true, &[end, read.clone()].concat()), [] as [u8; 0]);
    }
}

proptest! {
    /// Whatever a client sends, negotiation ends, and says little.
    #[test]
    fn negotiation_survives_any_bytes(options in prop::collection::vec((0..12_u32, prop::collection::vec(any::<u8>(), 0..64)), 0..8), junk in prop::collection::vec(any::<u8>(), 0..64)) {
        let mut bytes: Vec<u8> = options.iter().flat_map(|(number, data)| option(*number, data)).collect();
        bytes.extend(junk);
        let (_, sent) = haggle(MODERN, bytes);
        prop_assert!(sent.len() < 4096);
    }

    /// Whatever a client asks, nothing panics and each request has at most one answer.
    #[test]
    fn transmission_survives_any_requests(requests in prop::collection::vec((0..10_u16, any::<u16>(), any::<u64>(), any::<u32>()), 0..8), junk in prop::collection::vec(any::<u8>(), 0..64)) {
        let mut bytes: Vec<u8> =
            requests.iter().flat_map(|&(command, flags, offset, len)| request(command, flags, offset, len)).collect();
        bytes.extend(junk);
        serve(&[0; 4096], true, &bytes);
        serve(&[0; 4096], false, &bytes);
    }

    /// Every range of every disk is read exactly.
    #[test]
    fn any_range_reads_as_the_disk(runs in prop::collection::vec(0..3_u8, 1..40), start in 0..1_000_000_u64, len in 1..2_000_000_u32) {
        let content: Vec<u8> = runs.iter().flat_map(|byte| vec![*byte; RUN_BYTES]).collect();
        let offset = start % content.len() as u64;
        let len = len.min((content.len() as u64 - offset) as u32);
        let want = Reply::Content(content[offset as usize..][..len as usize].to_vec());
        let sent = serve(&content, true, &request(command::READ, 0, offset, len));
        prop_assert!(structured(&sent, offset, len as usize) == want);
    }
}
