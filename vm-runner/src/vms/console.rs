//! The guest's serial console: everything goes to a log; whoever attaches sees the end of it and what
//! follows, and may type.
//!
//! The guest never waits for a reader: one that does not keep up is cut off, and sees that.
//!
//! Descriptors: a guest's port takes one, and everybody who is attached takes one, whatever they do.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::net::Shutdown;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

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
    readers: Vec<Arc<UnixStream>>,
    /// The guest's serial port, while it runs.
    port: Option<Arc<UnixStream>>,
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
        let port = Arc::new(port);
        self.lock().port = Some(Arc::clone(&port));
        let console = self.clone();
        thread::Builder::new().name("serial".into()).spawn(move || {
            let mut piece = [0; 16 << 10];
            while let Ok(read @ 1..) = (&*port).read(&mut piece) {
                console.lock().take(&piece[..read]);
            }
            let mut inner = console.lock();
            // By now it may be the port of the next guest.
            inner.port.take_if(|current| Arc::ptr_eq(current, &port));
        })?;
        Ok(())
    }

    /// Shows the end of the log to `stream`, then what follows; what it sends goes to the guest.
    fn attach(&self, stream: UnixStream) -> io::Result<()> {
        let stream = Arc::new(stream);
        {
            let mut inner = self.lock();
            let mut tail = Vec::new();
            let mut log = File::open(&inner.log_path)?;
            log.seek(SeekFrom::Start(inner.log_bytes.saturating_sub(REPLAY_BYTES)))?;
            log.take(REPLAY_BYTES).read_to_end(&mut tail)?;
            stream.set_nonblocking(true)?;
            (&*stream).write_all(&tail)?;
            inner.readers.push(Arc::clone(&stream));
        }
        let console = self.clone();
        thread::Builder::new().name("console client".into()).spawn(move || {
            console.listen(&stream);
            // Who has no more to say may go on watching.
            wait_for(&stream, PollFlags::HUP);
            console.lock().readers.retain(|reader| !Arc::ptr_eq(reader, &stream));
        })?;
        Ok(())
    }

    /// Hands what somebody types to the guest, until they end that.
    fn listen(&self, mut stream: &UnixStream) {
        let mut piece = [0; 4 << 10];
        loop {
            match stream.read(&mut piece) {
                Ok(read @ 1..) => self.type_in(&piece[..read]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => wait_for(stream, PollFlags::IN),
                _ => return,
            }
        }
    }

    fn type_in(&self, keys: &[u8]) {
        let port = self.lock().port.clone();
        if let Some(port) = port {
            // A guest that has gone hears nothing.
            let _ = (&*port).write_all(keys);
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
        self.readers.retain(|reader| {
            let keeps_up = (&**reader).write_all(output).is_ok();
            if !keeps_up {
                // The thread that listens to it has the socket too: it must end, not only be forgotten.
                let _ = reader.shutdown(Shutdown::Both);
            }
            keeps_up
        });
    }
}

fn open_log(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o600).open(path)
}

/// Waits until `flags` are true of the socket, or it has been closed or shut down both ways.
fn wait_for(stream: &UnixStream, flags: PollFlags) {
    while let Err(Errno::INTR) = poll(&mut [PollFd::new(stream, flags)], None) {}
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
    fn a_reader_that_does_not_read_never_holds_up_the_guest_and_is_cut_off() {
        let folder = tempfile::tempdir().unwrap();
        let (log, socket) = (folder.path().join("serial.log"), folder.path().join("console"));
        fs::write(&log, "before").unwrap();
        let console = Console::open(&log, &socket).unwrap();
        let mut silent = UnixStream::connect(&socket).unwrap();
        silent.read_exact(&mut [0; 6]).unwrap();
        let (mut guest, port) = UnixStream::pair().unwrap();
        console.connect(port).unwrap();
        for _ in 0..64 {
            guest.write_all(&[b'x'; 64 << 10]).unwrap();
        }
        // What it was sent before it was too late, and then the end.
        let mut seen = Vec::new();
        silent.read_to_end(&mut seen).unwrap();
        assert!(seen.len() < 64 * (64 << 10), "{}", seen.len());
    }

    #[test]
    fn who_has_no_more_to_type_goes_on_watching_and_who_leaves_is_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let (log, socket) = (folder.path().join("serial.log"), folder.path().join("console"));
        fs::write(&log, "before").unwrap();
        let console = Console::open(&log, &socket).unwrap();
        let (mut guest, port) = UnixStream::pair().unwrap();
        console.connect(port).unwrap();
        let mut person = UnixStream::connect(&socket).unwrap();
        person.shutdown(Shutdown::Write).unwrap();
        let mut seen = [0; 6];
        person.read_exact(&mut seen).unwrap();
        guest.write_all(b"login:").unwrap();
        person.read_exact(&mut seen).unwrap();
        assert_eq!(&seen, b"login:");
        drop(person);
        // The guest says nothing more, and still nothing of the person is kept.
        while !console.lock().readers.is_empty() {
            thread::yield_now();
        }
    }
}
