//! The operator's end of the control socket.

use std::io;
use std::path::{Path, PathBuf};

use http::{Request, header};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;

use super::{Order, Refusal, Report, socket};

/// Speaks to a server, one connection for each order.
#[derive(Debug)]
pub(super) struct Client {
    folder: PathBuf,
}

/// Why there is no talking to a server.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LinkError {
    /// There is no socket, or nobody listens at it.
    #[error("no server listens at `{}`", folder.display())]
    Absent {
        /// The control folder.
        folder: PathBuf,
    },
    /// The socket is not this user's to use.
    #[error("the server at `{}` takes orders from its own user and from root only", folder.display())]
    NotAllowed {
        /// The control folder.
        folder: PathBuf,
    },
    /// The socket fails.
    #[error("cannot connect to the server at `{}`", folder.display())]
    Connect {
        /// The control folder.
        folder: PathBuf,
        /// The reason.
        #[source]
        source: io::Error,
    },
    /// The connection broke.
    #[error("the connection broke; the server may have stopped")]
    Broken(#[source] hyper::Error),
    /// The answer is none that this version knows.
    #[error("its answer is not understood; the server may be of another version")]
    Strange,
}

impl Client {
    /// Makes sure that somebody listens.
    pub(super) async fn new(folder: &Path) -> Result<Self, LinkError> {
        let client = Self { folder: folder.to_owned() };
        client.connect().await?;
        Ok(client)
    }

    /// Has an order carried out, however long that takes.
    pub(super) async fn send(&self, order: &Order) -> Result<Result<Report, Refusal>, LinkError> {
        let stream = TokioIo::new(self.connect().await?);
        let (mut sender, connection) = http1::handshake(stream).await.map_err(LinkError::Broken)?;
        let connection = tokio::spawn(connection);
        let order = serde_json::to_vec(order).expect("an order can be written as JSON");
        let request = Request::post("/")
            .header(header::HOST, "registry")
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(order)))
            .expect("a request of constants is one");
        let response = sender.send_request(request).await.map_err(LinkError::Broken)?;
        let status = response.status();
        let answer = response.into_body().collect().await.map_err(LinkError::Broken)?.to_bytes();
        connection.abort();
        if !status.is_success() {
            return Err(LinkError::Strange);
        }
        serde_json::from_slice(&answer).map_err(|_| LinkError::Strange)
    }

    async fn connect(&self) -> Result<tokio::net::UnixStream, LinkError> {
        let folder = self.folder.clone();
        socket::connect(&self.folder).await.map_err(|source| match source.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => LinkError::Absent { folder },
            io::ErrorKind::PermissionDenied => LinkError::NotAllowed { folder },
            _ => LinkError::Connect { folder, source },
        })
    }
}
