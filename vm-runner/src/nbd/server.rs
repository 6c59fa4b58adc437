//! Connections and the socket they come from.

use std::io;
use std::net::Shutdown;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::export::Exports;
use super::negotiation::negotiate;
use super::transmission::Transmission;

/// Requests of one connection that are served at once, at most.
const MAX_THREADS_PER_CONNECTION: usize = 8;

/// Clients that a listener serves at once; more are turned away.
const MAX_CONNECTIONS: usize = 16;

/// How long to wait for descriptors or memory to be there again.
const PAUSE_AFTER_FAILED_ACCEPT: Duration = Duration::from_millis(100);

/// Why no socket listens.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on `{}` for NBD clients", path.display())]
pub struct BindError {
    /// Where.
    pub path: PathBuf,
    /// Why not.
    #[source]
    pub source: io::Error,
}

/// One client being served. Dropping it hangs up.
#[derive(Debug)]
pub struct Connection {
    stream: Arc<UnixStream>,
    thread: Option<JoinHandle<()>>,
}

impl Connection {
    /// Serves `exports` to the other end of `stream`, on threads of its own, until either end hangs up.
    ///
    /// # Errors
    ///
    /// Where no thread can be started.
    pub fn serve(stream: UnixStream, exports: Exports) -> io::Result<Self> {
        let stream = Arc::new(stream);
        let served = Arc::clone(&stream);
        let thread = thread::Builder::new().name("nbd".into()).spawn(move || {
            let _hang_up = HangUp(&served, Shutdown::Both);
            serve_client(&served, &exports);
        })?;
        Ok(Self { stream, thread: Some(thread) })
    }

    /// A connection whose other end is returned, to be handed to the client as a descriptor.
    ///
    /// No file name is involved, so nothing is left behind and nobody else can connect.
    ///
    /// # Errors
    ///
    /// Where no socket pair or no thread can be had.
    pub fn pair(exports: Exports) -> io::Result<(Self, UnixStream)> {
        let (ours, theirs) = UnixStream::pair()?;
        Ok((Self::serve(ours, exports)?, theirs))
    }

    /// Waits until the client has left.
    pub fn wait(mut self) {
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let _ = self.stream.shutdown(Shutdown::Both);
    }
}

/// Both phases, on this thread and, once there is a session, on more.
fn serve_client(stream: &UnixStream, exports: &Exports) {
    // Why a client left is of no use to anybody: QEMU reports its own side, a stranger is not owed a report.
    let Ok(Some(session)) = negotiate(&mut &*stream, exports) else { return };
    let transmission = Transmission::new(session, stream, stream);
    let serve = || {
        // Wakes the thread that waits for the next request; replies still go out.
        let _hang_up = HangUp(stream, Shutdown::Read);
        transmission.serve();
    };
    thread::scope(|scope| {
        for _ in 1..threads_per_connection() {
            // Fewer threads serve more slowly, and this one is there already.
            let _ = thread::Builder::new().name("nbd".into()).spawn_scoped(scope, serve);
        }
        serve();
    });
}

/// One thread for each processor, and one that takes the next request meanwhile. More of them would
/// only take turns: a packed disk is decompressed and checked, so its readers are busy, not waiting.
fn threads_per_connection() -> usize {
    thread::available_parallelism()
        .map_or(2, |processors| processors.get() + 1)
        .min(MAX_THREADS_PER_CONNECTION)
}

/// Shuts a stream down when dropped, after a panic in a disk too: a client that is never answered
/// would wait for ever.
#[derive(Debug)]
struct HangUp<'a>(&'a UnixStream, Shutdown);

impl Drop for HangUp<'_> {
    fn drop(&mut self) {
        let _ = self.0.shutdown(self.1);
    }
}

/// A Unix socket that serves every client that connects. Dropping it hangs up on all of them and
/// removes the socket.
#[derive(Debug)]
pub struct Listener {
    path: PathBuf,
    socket: UnixListener,
    clients: Arc<Mutex<Vec<Weak<UnixStream>>>>,
}

impl Listener {
    /// Listens on `path`, which must not exist, for this user's clients only.
    ///
    /// # Errors
    ///
    /// [`BindError`]: the path is taken, too long (108 bytes), or its folder cannot be written.
    pub fn bind(path: &Path, exports: Exports) -> Result<Self, BindError> {
        let failed = |source| BindError { path: path.into(), source };
        let socket = UnixListener::bind(path).map_err(failed)?;
        let listener = Self { path: path.into(), socket, clients: Arc::default() };
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
        let socket = listener.socket.try_clone().map_err(failed)?;
        let clients = Arc::clone(&listener.clients);
        thread::Builder::new()
            .name("nbd-listener".into())
            .spawn(move || accept(&socket, &clients, &exports))
            .map_err(failed)?;
        Ok(listener)
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let _ = rustix::net::shutdown(&self.socket, rustix::net::Shutdown::Both); // Ends `accept`.
        let _ = std::fs::remove_file(&self.path);
        for client in self.clients.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            if let Some(stream) = client.upgrade() {
                let _ = stream.shutdown(Shutdown::Both);
            }
        }
    }
}

fn accept(socket: &UnixListener, clients: &Mutex<Vec<Weak<UnixStream>>>, exports: &Exports) {
    loop {
        let stream = match socket.accept() {
            Ok((stream, _)) => stream,
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => return, // Shut down.
            Err(_) => {
                thread::sleep(PAUSE_AFTER_FAILED_ACCEPT);
                continue;
            }
        };
        let mut clients = clients.lock().unwrap_or_else(PoisonError::into_inner);
        clients.retain(|client| client.strong_count() > 0);
        if clients.len() >= MAX_CONNECTIONS {
            continue; // Dropping the stream turns the client away.
        }
        let stream = Arc::new(stream);
        clients.push(Arc::downgrade(&stream));
        let exports = exports.clone();
        // Without a thread the stream is dropped, which is an answer too.
        let _ = thread::Builder::new().name("nbd".into()).spawn(move || serve_client(&stream, &exports));
    }
}
