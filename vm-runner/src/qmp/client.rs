//! The QMP client: commands out, replies and events in.
//!
//! ```text
//! call() --line--> QEMU --line--> reader thread --reply--> the call with that id
//!                                       `--------event--> the sink given to connect()
//! ```
//!
//! When QEMU closes the stream, every waiting call ends with [`CallError::Gone`] and the sink is
//! dropped, which is how a channel behind it learns that nothing more will come.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use std::{io, thread};

use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::message::{BlockStats, BlockStatsBody, ErrorBody, Event, Line, QemuVersion, RunState, StatusInfo};
use super::transcript::{Speaker, Transcript};

/// The longest line accepted; the whole schema, the longest answer there is, has 200 KiB.
const MAX_LINE_BYTES: u64 = 8 << 20;

/// How long the commands with a method of their own may take.
const SHORT: Duration = Duration::from_secs(10);

/// Why no conversation came about.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The stream failed or ended before the greeting, or the greeting took too long.
    #[error("no greeting on the QMP socket")]
    NoGreeting(#[source] io::Error),
    /// The other side is not QEMU.
    #[error("the QMP socket greets with `{found}`; expected a line with a member `QMP`")]
    BadGreeting {
        /// The beginning of the line, control characters escaped.
        found: String,
    },
    /// The greeting came, the first command failed.
    #[error("QMP capabilities could not be negotiated")]
    Negotiation(#[source] CallError),
}

/// Why a command has no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CallError {
    /// QEMU said no.
    #[error("QEMU refused `{command}`: {description}")]
    Refused {
        /// The command.
        command: String,
        /// The schema's error class, such as `GenericError` or `DeviceNotFound`.
        class: String,
        /// QEMU's words, control characters escaped.
        description: String,
    },
    /// QEMU is silent. The command may still take effect later.
    #[error("QEMU did not answer `{command}` within {} ms", waited.as_millis())]
    Timeout {
        /// The command.
        command: String,
        /// How long was waited.
        waited: Duration,
    },
    /// The stream is closed: QEMU has ended, or is not to be talked to any more.
    #[error("QEMU closed its QMP socket before answering `{command}`")]
    Gone {
        /// The command.
        command: String,
    },
    /// The answer has another shape than the schema says.
    #[error("QEMU answered `{command}` with something unexpected")]
    BadAnswer {
        /// The command.
        command: String,
        /// Where it differs.
        #[source]
        source: serde_json::Error,
    },
}

/// A conversation with one QEMU. Usable from several threads at once.
#[derive(Debug)]
pub struct Client {
    stream: UnixStream,
    shared: Arc<Shared>,
    next_id: AtomicU64,
    version: QemuVersion,
}

#[derive(Debug, Default)]
struct Shared {
    writing: Mutex<()>,
    pending: Mutex<Pending>,
    transcript: Mutex<Transcript>,
}

type Reply = Result<Value, ErrorBody>;

#[derive(Debug, Default)]
struct Pending {
    waiting: HashMap<u64, SyncSender<Reply>>,
    gone: bool, // Invariant: once set, `waiting` stays empty.
}

impl Client {
    /// Reads the greeting, leaves negotiation mode, and from then on hands every event to `on_event`.
    ///
    /// `on_event` runs on the reader thread: it must not block and must not call this client.
    /// `timeout` bounds the wait for the greeting.
    ///
    /// # Errors
    ///
    /// [`ConnectError`]; the stream is then closed.
    pub fn connect(
        stream: UnixStream,
        timeout: Duration,
        on_event: impl FnMut(Event) + Send + 'static,
    ) -> Result<Self, ConnectError> {
        let mut lines = BufReader::new(stream.try_clone().map_err(ConnectError::NoGreeting)?);
        stream.set_read_timeout(Some(timeout)).map_err(ConnectError::NoGreeting)?;
        let shared = Arc::new(Shared::default());
        let version = read_greeting(&mut lines, &shared)?;
        stream.set_read_timeout(None).map_err(ConnectError::NoGreeting)?;
        let for_reader = Arc::clone(&shared);
        thread::Builder::new()
            .name("qmp-reader".into())
            .spawn(move || read_lines(lines, &for_reader, on_event))
            .map_err(ConnectError::NoGreeting)?;
        let client = Self { stream, shared, next_id: AtomicU64::new(1), version };
        client.call("qmp_capabilities", &Value::Null, timeout).map_err(ConnectError::Negotiation)?;
        Ok(client)
    }

    /// The version from the greeting.
    pub fn version(&self) -> QemuVersion {
        self.version
    }

    /// Sends a command and waits for its answer, at most `timeout`.
    ///
    /// `arguments` is a JSON object, or `Null` for none.
    ///
    /// # Errors
    ///
    /// [`CallError`]. After a timeout the client is usable; the late answer is ignored.
    pub fn call(&self, command: &str, arguments: &Value, timeout: Duration) -> Result<Value, CallError> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let (sender, receiver) = sync_channel(1);
        {
            let mut pending = lock(&self.shared.pending);
            if pending.gone {
                return Err(CallError::Gone { command: command.into() });
            }
            pending.waiting.insert(id, sender);
        }
        let sent = self.send(id, command, arguments, timeout);
        let reply = match sent {
            Ok(()) => receiver.recv_timeout(timeout),
            Err(_) => Err(RecvTimeoutError::Disconnected),
        };
        lock(&self.shared.pending).waiting.remove(&id);
        match reply {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => Err(CallError::Refused {
                command: command.into(),
                class: error.class,
                description: error.desc.escape_debug().to_string(),
            }),
            Err(RecvTimeoutError::Timeout) => {
                Err(CallError::Timeout { command: command.into(), waited: timeout })
            }
            Err(RecvTimeoutError::Disconnected) => Err(CallError::Gone { command: command.into() }),
        }
    }

    /// `cont`: lets the guest run.
    ///
    /// # Errors
    ///
    /// [`CallError`], as for the commands below.
    pub fn cont(&self) -> Result<(), CallError> {
        self.call("cont", &Value::Null, SHORT).map(drop)
    }

    /// `stop`: holds the guest between two instructions.
    ///
    /// # Errors
    ///
    /// [`CallError`].
    pub fn stop(&self) -> Result<(), CallError> {
        self.call("stop", &Value::Null, SHORT).map(drop)
    }

    /// `system_powerdown`: presses the power button. That the guest heeds it is not promised.
    ///
    /// # Errors
    ///
    /// [`CallError`].
    pub fn system_powerdown(&self) -> Result<(), CallError> {
        self.call("system_powerdown", &Value::Null, SHORT).map(drop)
    }

    /// `quit`: ends QEMU. Disks are flushed; the guest is not asked.
    ///
    /// # Errors
    ///
    /// [`CallError`]. A stream that closes instead of answering counts as done.
    pub fn quit(&self) -> Result<(), CallError> {
        match self.call("quit", &Value::Null, SHORT) {
            Ok(_) | Err(CallError::Gone { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// `query-status`: what the machine is doing.
    ///
    /// # Errors
    ///
    /// [`CallError`].
    pub fn query_status(&self) -> Result<RunState, CallError> {
        self.query::<StatusInfo>("query-status").map(|info| info.status)
    }

    /// `query-blockstats`: what each drive has read and written.
    ///
    /// # Errors
    ///
    /// [`CallError`].
    pub fn query_blockstats(&self) -> Result<Vec<BlockStats>, CallError> {
        let drives = self.query::<Vec<BlockStatsBody>>("query-blockstats")?;
        Ok(drives.into_iter().filter_map(BlockStatsBody::into_stats).collect())
    }

    /// The last lines of the conversation, oldest first: `->` sent, `<-` received.
    pub fn transcript(&self) -> Vec<String> {
        lock(&self.shared.transcript).lines()
    }

    fn query<T: DeserializeOwned>(&self, command: &str) -> Result<T, CallError> {
        let answer = self.call(command, &Value::Null, SHORT)?;
        serde_json::from_value(answer)
            .map_err(|source| CallError::BadAnswer { command: command.into(), source })
    }

    /// Writes one command as one line. A failed write leaves the stream unusable, so it is closed.
    fn send(&self, id: u64, command: &str, arguments: &Value, timeout: Duration) -> io::Result<()> {
        let mut message = json!({ "execute": command, "id": id });
        if !arguments.is_null() {
            message["arguments"] = arguments.clone();
        }
        let line = format!("{message}\r\n");
        lock(&self.shared.transcript).record(Speaker::Us, line.as_bytes());
        let _one_line_at_a_time = lock(&self.shared.writing);
        self.stream.set_write_timeout(Some(timeout))?;
        (&self.stream).write_all(line.as_bytes()).inspect_err(|_| {
            let _ = self.stream.shutdown(Shutdown::Both);
        })
    }
}

impl Drop for Client {
    /// Closes the stream, which ends the reader thread.
    fn drop(&mut self) {
        let _ = self.stream.shutdown(Shutdown::Both);
    }
}

/// The first line says that this is QEMU, and which.
fn read_greeting(lines: &mut impl BufRead, shared: &Shared) -> Result<QemuVersion, ConnectError> {
    let line = read_line(lines)
        .and_then(|line| line.ok_or_else(|| io::ErrorKind::UnexpectedEof.into()))
        .map_err(ConnectError::NoGreeting)?;
    lock(&shared.transcript).record(Speaker::Qemu, &line);
    match serde_json::from_slice::<Line>(&line) {
        Ok(Line { greeting: Some(greeting), .. }) => Ok(greeting.version.into()),
        _ => {
            let start = String::from_utf8_lossy(&line[..line.len().min(80)]);
            Err(ConnectError::BadGreeting { found: start.trim_end().escape_debug().to_string() })
        }
    }
}

/// Hands out replies and events until the stream ends, fails, or says something that is not QMP.
fn read_lines(mut lines: impl BufRead, shared: &Shared, mut on_event: impl FnMut(Event)) {
    while let Ok(Some(text)) = read_line(&mut lines) {
        lock(&shared.transcript).record(Speaker::Qemu, &text);
        let Ok(line) = serde_json::from_slice::<Line>(&text) else { break };
        if let Some(name) = line.event {
            on_event(Event { name, data: line.data });
            continue;
        }
        let reply = match (line.returned, line.error) {
            (_, Some(error)) => Err(error),
            (Some(value), None) => Ok(value),
            (None, None) => continue,
        };
        let waiting = line.id.as_u64().and_then(|id| lock(&shared.pending).waiting.remove(&id));
        if let Some(waiting) = waiting {
            let _ = waiting.send(reply); // Its call may have timed out.
        }
    }
    let mut pending = lock(&shared.pending);
    pending.gone = true;
    pending.waiting.clear(); // Dropping the senders wakes the calls.
}

/// The next line, without its end; `None` at the end of the stream.
fn read_line(lines: &mut impl BufRead) -> io::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    lines.by_ref().take(MAX_LINE_BYTES).read_until(b'\n', &mut line)?;
    match line.last() {
        None => Ok(None),
        Some(b'\n') => Ok(Some(line)),
        Some(_) => Err(io::ErrorKind::UnexpectedEof.into()), // Cut off, or longer than any line may be.
    }
}

/// No lock here is held across anything that can panic half-way, so a poisoned one is still sound.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    const GREETING: &str = r#"{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}, "package": "x"}, "capabilities": ["oob"], "new": 1}}"#;
    const PATIENT: Duration = Duration::from_secs(10);

    /// A QEMU that greets, accepts `qmp_capabilities`, and then does what `script` says.
    fn fake(script: impl FnOnce(&mut Fake) + Send + 'static) -> (Client, mpsc::Receiver<Event>) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        thread::spawn(move || {
            let mut fake = Fake { lines: BufReader::new(theirs) };
            fake.say(GREETING);
            let id = fake.hear("qmp_capabilities");
            fake.say(&format!(r#"{{"return": {{}}, "id": {id}}}"#));
            script(&mut fake);
        });
        let (sender, events) = mpsc::channel();
        let client = Client::connect(ours, PATIENT, move |event| sender.send(event).unwrap()).unwrap();
        (client, events)
    }

    struct Fake {
        lines: BufReader<UnixStream>,
    }

    impl Fake {
        fn say(&mut self, line: &str) {
            self.lines.get_mut().write_all(format!("{line}\r\n").as_bytes()).unwrap();
        }

        /// Expects `command`, returns its id.
        #[track_caller]
        fn hear(&mut self, command: &str) -> Value {
            let line = read_line(&mut self.lines).unwrap().unwrap();
            let heard: Value = serde_json::from_slice(&line).unwrap();
            assert_eq!(heard["execute"], command);
            heard["id"].clone()
        }
    }

    #[test]
    fn replies_find_their_calls_in_any_order() {
        let (client, _events) = fake(|qemu| {
            let ids = [qemu.hear("a"), qemu.hear("a")];
            for id in ids.iter().rev() {
                qemu.say(&format!(r#"{{"return": {{"mine": {id}}}, "id": {id}}}"#));
            }
            let _ = read_line(&mut qemu.lines);
        });
        thread::scope(|scope| {
            let calls: Vec<_> =
                (0..2).map(|_| scope.spawn(|| client.call("a", &Value::Null, PATIENT))).collect();
            let mut answers: Vec<u64> = calls
                .into_iter()
                .map(|call| call.join().unwrap().unwrap()["mine"].as_u64().unwrap())
                .collect();
            answers.sort_unstable();
            assert_eq!(answers, [2, 3]);
        });
        assert_eq!(client.version().to_string(), "7.2.22");
    }

    #[test]
    fn events_arrive_between_a_command_and_its_reply() {
        let (client, events) = fake(|qemu| {
            let id = qemu.hear("cont");
            qemu.say(r#"{"timestamp": {"seconds": 1, "microseconds": 2}, "event": "RESUME"}"#);
            qemu.say(&format!(r#"{{"return": {{}}, "id": {id}}}"#));
            qemu.say(r#"{"event": "SHUTDOWN", "data": {"guest": true, "reason": "guest-shutdown"}}"#);
        });
        client.cont().unwrap();
        let names: Vec<String> = events.iter().map(|event| event.name).collect();
        assert_eq!(names, ["RESUME", "SHUTDOWN"]); // And the channel ends when QEMU does.
        assert!(matches!(client.stop(), Err(CallError::Gone { .. })));
    }

    #[test]
    fn a_refusal_carries_qemus_words_escaped() {
        let (client, _events) = fake(|qemu| {
            let id = qemu.hear("stop");
            qemu.say(&format!(
                r#"{{"error": {{"class": "GenericError", "desc": "no\u001b[2J"}}, "id": {id}}}"#
            ));
            let _ = read_line(&mut qemu.lines);
        });
        let error = client.stop().unwrap_err();
        assert_eq!(error.to_string(), r"QEMU refused `stop`: no\u{1b}[2J");
    }

    #[test]
    fn a_silent_qemu_costs_the_caller_its_timeout_and_a_late_reply_is_ignored() {
        let (client, _events) = fake(|qemu| {
            let late = qemu.hear("stop");
            let id = qemu.hear("query-status");
            qemu.say(&format!(r#"{{"return": {{}}, "id": {late}}}"#));
            qemu.say(&format!(
                r#"{{"return": {{"status": "prelaunch", "running": false, "x": 1}}, "id": {id}}}"#
            ));
            let _ = read_line(&mut qemu.lines);
        });
        let error = client.call("stop", &Value::Null, Duration::from_millis(1)).unwrap_err();
        assert!(matches!(error, CallError::Timeout { .. }), "{error}");
        assert_eq!(client.query_status().unwrap(), RunState::Prelaunch);
    }

    #[test]
    fn an_unknown_run_state_is_not_an_error() {
        let (client, _events) = fake(|qemu| {
            let id = qemu.hear("query-status");
            qemu.say(&format!(r#"{{"return": {{"status": "colo"}}, "id": {id}}}"#));
            let _ = read_line(&mut qemu.lines);
        });
        assert_eq!(client.query_status().unwrap(), RunState::Other);
    }

    #[test]
    fn something_that_is_not_qmp_ends_the_conversation() {
        let (client, _events) = fake(|qemu| {
            qemu.hear("quit");
            qemu.say("SSH-2.0-OpenSSH");
            let _ = read_line(&mut qemu.lines);
        });
        assert!(client.quit().is_ok());
        assert!(matches!(client.cont(), Err(CallError::Gone { .. })));
        let heard = client.transcript();
        assert_eq!(heard.last().unwrap(), "<- SSH-2.0-OpenSSH");
    }

    #[test]
    fn a_greeting_from_something_else_is_refused() {
        for (said, want) in [
            (
                "SSH-2.0-\x1b[2J\n",
                "the QMP socket greets with `SSH-2.0-\\u{1b}[2J`; expected a line with a member `QMP`",
            ),
            ("{}\n", "the QMP socket greets with `{}`; expected a line with a member `QMP`"),
            ("", "no greeting on the QMP socket"),
        ] {
            let (ours, mut theirs) = UnixStream::pair().unwrap();
            theirs.write_all(said.as_bytes()).unwrap();
            drop(theirs);
            let error = Client::connect(ours, PATIENT, |_| {}).unwrap_err();
            assert_eq!(error.to_string(), want);
        }
    }
}
