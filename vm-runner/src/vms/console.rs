//! The guest's serial console: everything goes to a log; whoever attaches sees the end of it and what
//! follows, and may type.
//!
//! The guest never waits for a reader: one that does not keep up is cut off.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

/// A log that reaches this size becomes `serial.log.1`, and a new one begins.
const MAX_LOG_BYTES: u64 = 16 << 20;
/// What somebody who attaches sees of what was before.
const REPLAY_BYTES: u64 = 64 << 10;

/// The console of one VM, for as long as its supervisor lives.
#[derive(Debug, Clone)]
pub(super) struct Console(Arc<Mutex<Inner>>);

#[derive(Debug)]
struct Inner {
    log_path: PathBuf,
    log: File,
    log_bytes: u64,
    readers: Vec<UnixStream>,
    /// The guest's serial port, while it runs.
    port: Option<UnixStream>,
}

impl Console {
    /// Goes on with the log at `log_path`, and listens at `socket` for people who attach.
    ///
    /// # Errors
    ///
    /// What the file system says of either.
    pub(super) fn open(log_path: &Path, socket: &Path) -> io::Result<Self> {
        let log = open_log(log_path)?;
        let log_bytes = log.metadata()?.len();
        let inner = Inner { log_path: log_path.to_owned(), log, log_bytes, readers: Vec::new(), port: None };
        let console = Self(Arc::new(Mutex::new(inner)));
        let listener = UnixListener::bind(socket)?;
        let listening = console.clone();
        thread::Builder::new().name("console".into()).spawn(move || {
            for stream in listener.incoming().flatten() {
                // Somebody who has gone again before they were served is none of our errors.
                let _ = listening.attach(stream);
            }
        })?;
        Ok(console)
    }

    /// Connects the console to the serial port of a guest that has just been started.
    ///
    /// # Errors
    ///
    /// Where a thread cannot be made.
    pub(super) fn connect(&self, port: UnixStream) -> io::Result<()> {
        let mut output = port.try_clone()?;
        self.lock().port = Some(port);
        let console = self.clone();
        thread::Builder::new().name("serial".into()).spawn(move || {
            let mut piece = [0; 16 << 10];
            while let Ok(read @ 1..) = output.read(&mut piece) {
                console.lock().take(&piece[..read]);
            }
            console.lock().port = None;
        })?;
        Ok(())
    }

    /// Shows the end of the log to `stream`, then what follows; what it sends goes to the guest.
    fn attach(&self, stream: UnixStream) -> io::Result<()> {
        let mut input = stream.try_clone()?;
        {
            let mut inner = self.lock();
            let mut tail = Vec::new();
            let mut log = File::open(&inner.log_path)?;
            log.seek(SeekFrom::Start(inner.log_bytes.saturating_sub(REPLAY_BYTES)))?;
            log.take(REPLAY_BYTES).read_to_end(&mut tail)?;
            (&stream).write_all(&tail)?;
            stream.set_nonblocking(true)?;
            inner.readers.push(stream);
        }
        let console = self.clone();
        thread::Builder::new().name("console client".into()).spawn(move || {
            let mut piece = [0; 4 << 10];
            loop {
                match input.read(&mut piece) {
                    Ok(read @ 1..) => console.type_in(&piece[..read]),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => wait_readable(&input),
                    _ => return,
                }
            }
        })?;
        Ok(())
    }

    fn type_in(&self, keys: &[u8]) {
        let port = self.lock().port.as_ref().and_then(|port| port.try_clone().ok());
        if let Some(mut port) = port {
            // A guest that has gone hears nothing.
            let _ = port.write_all(keys);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn take(&mut self, output: &[u8]) {
        // A full disk costs the log, never the guest.
        if self.log.write_all(output).is_ok() {
            self.log_bytes += output.len() as u64;
        }
        if self.log_bytes >= MAX_LOG_BYTES {
            let old = self.log_path.with_extension("log.1");
            if fs::rename(&self.log_path, old).is_ok()
                && let Ok(log) = open_log(&self.log_path)
            {
                self.log = log;
                self.log_bytes = 0;
            }
        }
        self.readers.retain_mut(|reader| reader.write_all(output).is_ok());
    }
}

fn open_log(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o600).open(path)
}

fn wait_readable(stream: &UnixStream) {
    let mut ready = [rustix::event::PollFd::new(stream, rustix::event::PollFlags::IN)];
    // Whatever it says, the next read says it better.
    let _ = rustix::event::poll(&mut ready, None);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_attaches_sees_what_was_and_what_follows_and_may_type() {
        let folder = tempfile::tempdir().unwrap();
        let (log, socket) = (folder.path().join("serial.log"), folder.path().join("console"));
        fs::write(&log, "before ").unwrap();
        let console = Console::open(&log, &socket).unwrap();
        let (mut guest, port) = UnixStream::pair().unwrap();
        console.connect(port).unwrap();
        let mut person = UnixStream::connect(&socket).unwrap();
        let mut seen = [0; 7];
        person.read_exact(&mut seen).unwrap();
        assert_eq!(&seen, b"before ");
        guest.write_all(b"login: ").unwrap();
        person.read_exact(&mut seen).unwrap();
        assert_eq!(&seen, b"login: ");
        person.write_all(b"root\n").unwrap();
        let mut typed = [0; 5];
        guest.read_exact(&mut typed).unwrap();
        assert_eq!(&typed, b"root\n");
        assert_eq!(fs::read(&log).unwrap(), b"before login: ");
    }

    #[test]
    fn a_reader_that_does_not_read_never_holds_up_the_guest() {
        let folder = tempfile::tempdir().unwrap();
        let (log, socket) = (folder.path().join("serial.log"), folder.path().join("console"));
        let console = Console::open(&log, &socket).unwrap();
        let _silent = UnixStream::connect(&socket).unwrap();
        let (mut guest, port) = UnixStream::pair().unwrap();
        console.connect(port).unwrap();
        for _ in 0..64 {
            guest.write_all(&[b'x'; 64 << 10]).unwrap();
        }
        drop(guest);
    }
}
