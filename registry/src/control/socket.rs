//! The control socket: where it is, who may connect, and the server's end of it.
//!
//! ```text
//! <control>/          0700: only the server's user can enter, and root
//! <control>/socket    0600
//! ```
//!
//! The folder is made anew at each start, so what another server or user left there does not matter;
//! that no other server runs is seen to by the lock of the storage.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustix::fs::{Mode, OFlags};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinSet;

use super::Keeper;
use crate::http::control;

/// The socket's name in its folder.
const SOCKET: &str = "socket";
/// Connections at a time. An operator needs one.
const CONNECTIONS: usize = 64;
/// How long a client may take over a request's head.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long to wait after a connection could not be accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Listens, and removes the socket when it goes.
#[derive(Debug)]
pub(crate) struct Control {
    listener: UnixListener,
    folder: PathBuf,
    keeper: Arc<Keeper>,
}

impl Control {
    /// Makes the folder and the socket in it. Connections wait until [`Control::run`].
    pub(crate) fn bind(folder: PathBuf, keeper: Keeper) -> io::Result<Self> {
        remove(&folder)?;
        fs::DirBuilder::new().mode(0o700).create(&folder)?;
        let (_folder, socket) = address(&folder)?;
        let listener = UnixListener::bind(&socket)?;
        fs::set_permissions(&socket, fs::Permissions::from_mode(0o600))?;
        Ok(Self { listener, folder, keeper: Arc::new(keeper) })
    }

    /// Takes orders for ever.
    pub(crate) async fn run(self) {
        let mut connections = JoinSet::new();
        loop {
            while connections.len() >= CONNECTIONS {
                connections.join_next().await;
            }
            let Ok((stream, _)) = self.listener.accept().await else {
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            };
            while connections.try_join_next().is_some() {}
            if is_trusted(&stream) {
                connections.spawn(serve(stream, Arc::clone(&self.keeper)));
            }
        }
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        // What stays is replaced at the next start.
        let _ = remove(&self.folder);
    }
}

/// Connects to the server that listens in `folder`.
pub(super) async fn connect(folder: &Path) -> io::Result<UnixStream> {
    let (_folder, socket) = address(folder)?;
    UnixStream::connect(socket).await
}

async fn serve(stream: UnixStream, keeper: Arc<Keeper>) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(PATIENCE)
        .max_buf_size(64 << 10)
        .serve_connection(
            TokioIo::new(stream),
            service_fn(move |request| control::answer(Arc::clone(&keeper), request)),
        );
    // How a connection ends is its client's business.
    let _ = connection.await;
}

/// True for the server's own user and for root.
fn is_trusted(stream: &UnixStream) -> bool {
    let own = rustix::process::geteuid().as_raw();
    stream.peer_cred().is_ok_and(|peer| peer.uid() == own || peer.uid() == 0)
}

/// Where the socket of a folder is, as long as the folder is held open. Addresses of sockets have 107
/// bytes at most, and paths may be longer.
///
/// Source: unix(7), `sun_path`; proc(5), `/proc/pid/fd`.
fn address(folder: &Path) -> io::Result<(OwnedFd, PathBuf)> {
    let held = rustix::fs::open(folder, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let socket = format!("/proc/self/fd/{}/{SOCKET}", held.as_raw_fd());
    Ok((held, socket.into()))
}

/// Removes the socket and its folder, if they are there.
fn remove(folder: &Path) -> io::Result<()> {
    for removed in [fs::remove_file(folder.join(SOCKET)), fs::remove_dir(folder)] {
        match removed {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}
