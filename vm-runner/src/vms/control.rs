//! How other processes talk to a VM's supervisor: one request and one answer per connection, a line
//! of JSON each, over a socket in a folder that only its user may enter.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::stats::Stats;

/// The longest request or answer, in bytes.
const MAX_LINE: u64 = 1 << 20;

/// What a supervisor can be asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Request {
    /// Let the guest shut down; when it has not after `timeout_s`, end it.
    #[serde(rename_all = "camelCase")]
    Stop {
        /// Time for the guest, in seconds.
        timeout_s: u64,
    },
    /// End the guest at once.
    Kill,
    /// How busy it is.
    Stats,
}

/// What a supervisor answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Answer {
    /// The VM has ended.
    #[serde(rename_all = "camelCase")]
    Ended {
        /// True if the guest shut itself down when it was asked to.
        by_itself: bool,
    },
    /// How busy it is.
    Stats(Stats),
    /// It could not be done.
    Failed(String),
}

/// Why a supervisor did not answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ControlError {
    /// Nobody listens.
    #[error("the VM's supervisor cannot be reached at `{}`", path.display())]
    Unreachable {
        /// The socket.
        path: PathBuf,
        /// The reason.
        #[source]
        source: io::Error,
    },
    /// It went away, or did not answer in time.
    #[error("the VM's supervisor did not answer")]
    NoAnswer(#[source] io::Error),
    /// It said that it could not.
    #[error("the VM's supervisor could not do it: {0}")]
    Failed(String),
}

/// Asks the supervisor behind `socket`, and waits for its answer.
///
/// # Errors
///
/// [`ControlError`].
pub fn ask(socket: &Path, request: &Request) -> Result<Answer, ControlError> {
    let path = socket.to_owned();
    let mut stream =
        UnixStream::connect(socket).map_err(|source| ControlError::Unreachable { path, source })?;
    // The guest's own time, and some for the supervisor to end what does not end by itself.
    let patience = match request {
        Request::Stop { timeout_s } => Duration::from_secs(timeout_s.saturating_add(30)),
        _ => Duration::from_secs(30),
    };
    let answered = (|| {
        stream.set_read_timeout(Some(patience))?;
        write_line(&mut stream, request)?;
        read_line(&stream)
    })();
    match answered.map_err(ControlError::NoAnswer)? {
        Answer::Failed(reason) => Err(ControlError::Failed(reason)),
        answer => Ok(answer),
    }
}

/// A request, and where its answer goes.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) request: Request,
    stream: UnixStream,
}

impl Asked {
    /// Answers. Whoever asked may have gone; then nobody hears it.
    pub(super) fn answer(mut self, answer: &Answer) {
        let _ = write_line(&mut self.stream, answer);
    }
}

/// Listens at `socket` and hands every request to `on_request`, until the process ends.
///
/// # Errors
///
/// What the file system says of the socket.
pub(super) fn listen(socket: &Path, on_request: impl Fn(Asked) + Send + Sync + 'static) -> io::Result<()> {
    let listener = UnixListener::bind(socket)?;
    let on_request = std::sync::Arc::new(on_request);
    thread::Builder::new().name("control".into()).spawn(move || {
        for stream in listener.incoming().flatten() {
            let on_request = on_request.clone();
            // A client that dawdles delays nobody else.
            let _ = thread::Builder::new().name("control client".into()).spawn(move || {
                let _ = stream.set_read_timeout(Some(Duration::from_secs(5)));
                let _ = stream.set_write_timeout(Some(Duration::from_secs(5)));
                if let Ok(request) = read_line(&stream) {
                    on_request(Asked { request, stream });
                }
            });
        }
    })?;
    Ok(())
}

fn write_line<T: Serialize>(stream: &mut UnixStream, value: &T) -> io::Result<()> {
    let mut line = serde_json::to_vec(value).expect("our own types serialise");
    line.push(b'\n');
    stream.write_all(&line)
}

fn read_line<T: serde::de::DeserializeOwned>(stream: &UnixStream) -> io::Result<T> {
    let mut line = Vec::new();
    BufReader::new(stream.take(MAX_LINE)).read_until(b'\n', &mut line)?;
    if line.is_empty() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(serde_json::from_slice(&line)?)
}
