//! The server's log, on stderr: sentences for people, or a JSON object on each line for programs.
//!
//! Text says what an operator should know, and with `--verbose` each request. JSON has each request
//! anyway: whoever collects it filters. Whoever logs never waits: lines go through a queue to a thread
//! that writes, and what finds the queue full is counted and not written.
//!
//! Whatever came from a client has its control characters escaped. Queries, headers and the names of
//! uploads do not get here: see [`registry::Exchange`].

use std::fmt::Display;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, SyncSender, TrySendError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use registry::{Audit, AuditedAction, Collected, Event, Exchange, Observer, Outcome};
use serde_json::{Map, Value, json};

use super::config::LogFormat;
use crate::text::{self, plain};

/// Lines that may wait to be written.
const QUEUE: usize = 4096;
/// How long the last lines may take.
const LAST_LINES: Duration = Duration::from_secs(1);

/// How much a line matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Level {
    Info,
    Warning,
    Error,
}

/// The log of a server.
#[derive(Debug)]
pub(super) struct Log {
    format: LogFormat,
    is_verbose: bool,
    queue: SyncSender<Order>,
    lost: AtomicU64,
}

/// What the writing thread is told.
#[derive(Debug)]
enum Order {
    Write(String),
    /// Everything before this is written.
    Answer(SyncSender<()>),
}

impl Log {
    /// Starts to write.
    pub(super) fn new(format: LogFormat, is_verbose: bool) -> Self {
        let (queue, orders) = mpsc::sync_channel(QUEUE);
        std::thread::spawn(move || {
            for order in orders {
                match order {
                    Order::Write(line) => text::say(line),
                    // Whoever asked may have lost patience.
                    Order::Answer(asked) => drop(asked.try_send(())),
                }
            }
        });
        Self { format, is_verbose, queue, lost: AtomicU64::new(0) }
    }

    /// Logs a sentence of the server's own.
    pub(super) fn say(&self, level: Level, message: impl Display) {
        self.write(level, "message", message, Map::new());
    }

    /// Waits until everything is written, but not for long.
    pub(super) fn finish(&self) {
        let (written, is_written) = mpsc::sync_channel(1);
        // A log that nobody reads does not keep the server from ending.
        if self.queue.try_send(Order::Answer(written)).is_ok() {
            let _ = is_written.recv_timeout(LAST_LINES);
        }
    }

    /// Logs `message` as text, or as JSON with what else is known.
    fn write(&self, level: Level, event: &str, message: impl Display, more: Map<String, Value>) {
        let line = match self.format {
            LogFormat::Text => message.to_string(),
            LogFormat::Json => {
                let mut line = Map::new();
                line.insert("time".to_owned(), timestamp(SystemTime::now()).into());
                line.insert("level".to_owned(), level.name().into());
                line.insert("event".to_owned(), event.into());
                line.insert("message".to_owned(), message.to_string().into());
                line.extend(more);
                Value::from(line).to_string()
            }
        };
        self.enqueue(line);
    }

    fn enqueue(&self, line: String) {
        let lost = self.lost.swap(0, Ordering::Relaxed);
        if lost > 0 && self.queue.try_send(Order::Write(self.loss(lost))).is_err() {
            self.lost.fetch_add(lost, Ordering::Relaxed);
        }
        if let Err(TrySendError::Full(_)) = self.queue.try_send(Order::Write(line)) {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn loss(&self, lines: u64) -> String {
        let message = format!("{} of the log could not be written in time", text::count(lines, "line"));
        match self.format {
            LogFormat::Text => message,
            LogFormat::Json => json!({ "level": "warning", "event": "lost", "message": message }).to_string(),
        }
    }

    /// True if what clients do is logged, not only what an operator should know.
    fn has_everything(&self) -> bool {
        self.is_verbose || self.format == LogFormat::Json
    }

    fn request(&self, request: &Exchange) {
        if !self.has_everything() {
            return;
        }
        self.write(Level::Info, "request", sentence(request), fields(request));
    }
}

/// Who did what, or tried to.
impl Log {
    fn audit(&self, audit: &Audit) {
        let is_refusal = audit.outcome == Outcome::Denied;
        // Of a push it is the manifest that matters to people.
        if audit.action == AuditedAction::PushBlob && !self.has_everything() {
            return;
        }
        let Audit { principal, action, outcome, .. } = audit;
        let address = audit.address.map(|address| address.to_string());
        let mut message = plain(principal);
        message += &address.as_ref().map(|address| format!(" at {address}")).unwrap_or_default();
        message += &format!(": {action}");
        for what in [&audit.repository, &audit.object, &audit.digest.map(|digest| digest.to_string())] {
            message += &what.as_ref().map(|what| format!(" {}", plain(what))).unwrap_or_default();
        }
        message += &format!(": {outcome}");
        let fields = json!({
            "principal": plain(principal),
            "peer": address,
            "action": action.to_string(),
            "repository": audit.repository,
            "object": audit.object.as_deref().map(plain),
            "digest": audit.digest,
            "outcome": outcome.to_string(),
        });
        let Value::Object(fields) = fields else { unreachable!("it is written as an object") };
        let level = if is_refusal { Level::Warning } else { Level::Info };
        self.write(level, "audit", message, fields);
    }
}

impl Observer for Log {
    fn observe(&self, event: &Event<'_>) {
        let none = Map::new();
        match event {
            Event::RequestAnswered { request } => self.request(request),
            Event::RequestFailed { request, error } => {
                let (method, path) = (plain(request.method().as_str()), plain(&request.path()));
                let message = format!("{method} {path} failed: {}", text::chain_of(*error));
                self.write(Level::Error, "failed", message, identity(request));
            }
            Event::AcceptFailed { error } => {
                let message = format!("cannot accept a connection: {error}");
                self.write(Level::Error, "accept-failed", message, none);
            }
            Event::ConnectionRefused { is_news: false, .. } => {}
            Event::ConnectionRefused { peer, limit, .. } => {
                let message = format!(
                    "{peer} has {limit} connections and gets no more; `limits.connections-per-address` says so"
                );
                self.write(Level::Warning, "connection-refused", message, none);
            }
            Event::HandshakeFailed { .. } if !self.has_everything() => {}
            Event::HandshakeFailed { peer, error } => {
                let message = format!("no TLS with {peer}: {}", plain(&error.to_string()));
                self.write(Level::Info, "handshake-failed", message, none);
            }
            Event::Audit(audit) => self.audit(audit),
            Event::UploadsExpired { count } => {
                let message = format!("{} forgotten", text::count(*count as u64, "abandoned upload"));
                self.write(Level::Info, "uploads-expired", message, none);
            }
            Event::ExpiryFailed { error } => {
                let message = format!("cannot look for abandoned uploads: {}", text::chain_of(*error));
                self.write(Level::Error, "expiry-failed", message, none);
            }
            Event::GarbageCollected { collected } => {
                let message = format!("garbage collection {}", garbage_sentence(collected));
                self.write(Level::Info, "garbage-collected", message, none);
                for damaged in &collected.damaged {
                    let message =
                        format!("garbage collection took nothing more of a repository: {}", plain(damaged));
                    self.write(Level::Error, "record-damaged", message, Map::new());
                }
            }
            Event::Scrubbed { scrubbed } => {
                let message = format!(
                    "a scrub read {} in {} and found {} damaged; {} could not be read{}",
                    text::size(scrubbed.bytes),
                    text::count(scrubbed.objects, "object"),
                    scrubbed.damaged.len(),
                    scrubbed.failed.len(),
                    if scrubbed.is_incomplete { ", and it ended there" } else { "" },
                );
                let is_clean = scrubbed.damaged.is_empty() && scrubbed.failed.is_empty();
                let level = if is_clean { Level::Info } else { Level::Error };
                self.write(level, "scrubbed", message, none);
            }
            Event::CollectionFailed { error } => {
                let message = format!("garbage collection broke off: {}", text::chain_of(*error));
                self.write(Level::Error, "collection-failed", message, none);
            }
            // What is added to the library is added here too.
            _ => {}
        }
    }
}

impl Level {
    fn name(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

/// What a cycle of garbage collection did, or would do.
pub(super) fn garbage_sentence(collected: &Collected) -> String {
    format!(
        "freed {} in {}, and marked {} to go",
        text::size(collected.freed_bytes),
        text::count(collected.deleted_generations, "blob"),
        text::count(collected.closed_generations.saturating_sub(collected.deleted_generations), "blob"),
    )
}

/// A request as people read it.
fn sentence(request: &Exchange) -> String {
    let (method, path) = (plain(request.method().as_str()), plain(&request.path()));
    let status = request.status().map_or_else(|| "unanswered".to_owned(), |status| status.to_string());
    let who = request.principal().map(|who| format!(" ({})", plain(who))).unwrap_or_default();
    let moved = match (request.received_bytes(), request.sent_bytes()) {
        (0, sent) => text::size(sent),
        (received, _) => format!("{} received", text::size(received)),
    };
    let cut = if request.status().is_some() && !request.is_sent() { ", cut off" } else { "" };
    let time = text::duration(request.duration());
    format!("{}{who} {method} {path}: {status}, {moved} in {time}{cut}", request.peer().ip())
}

/// What tells one request from another.
fn identity(request: &Exchange) -> Map<String, Value> {
    let fields = json!({
        "request": request.id(),
        "peer": request.peer().to_string(),
        "method": plain(request.method().as_str()),
        "path": plain(&request.path()),
        "repository": request.repository(),
        "principal": request.principal().map(plain),
    });
    let Value::Object(fields) = fields else { unreachable!("it is written as an object") };
    fields
}

/// All that is known of a request.
fn fields(request: &Exchange) -> Map<String, Value> {
    let mut fields = identity(request);
    let more = json!({
        "route": request.route(),
        "status": request.status(),
        "received-bytes": request.received_bytes(),
        "sent-bytes": request.sent_bytes(),
        "complete": request.is_sent(),
        "duration-ms": request.duration().as_secs_f64() * 1e3,
        "user-agent": request.user_agent().map(plain),
    });
    let Value::Object(more) = more else { unreachable!("it is written as an object") };
    fields.extend(more);
    fields
}

/// As RFC 3339 has it, in UTC, with milliseconds.
fn timestamp(time: SystemTime) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (seconds, ms) = (since.as_secs(), since.subsec_millis());
    let (hours, minutes) = (seconds / 3600 % 24, seconds / 60 % 60);
    format!("{}T{hours:02}:{minutes:02}:{:02}.{ms:03}Z", vm_runner::day_of(seconds), seconds % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_as_rfc_3339_has_them() {
        let check = |ms, want| assert_eq!(timestamp(UNIX_EPOCH + Duration::from_millis(ms)), want);
        check(0, "1970-01-01T00:00:00.000Z");
        check(1_709_251_199_042, "2024-02-29T23:59:59.042Z");
    }
}
