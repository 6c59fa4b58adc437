//! HTTP/1.1 by hand: one request on one connection, sent byte for byte as it is given.
//!
//! A check may send what no library would: a path with `..`, a body shorter than announced. What comes back is read
//! with bounds in size and in time, so a server that hangs, drips or babbles is an error and never a wait without end.
//! It never repairs anything on either side, and never sends a second request on a connection.
//!
//! Source: RFC 9112; `Expect` as in RFC 9110, section 10.1.1.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use super::url::Address;

/// The longest head of an answer.
const MAX_HEAD_BYTES: usize = 64 << 10;
/// The longest body of an answer.
const MAX_BODY_BYTES: usize = 64 << 20;
/// How long the end of a connection is waited for where nothing may follow the head.
const END_LIMIT: Duration = Duration::from_secs(1);
/// How long one write may block before an early answer is looked for.
const WRITE_SLICE: Duration = Duration::from_millis(100);

/// What follows the head of a request.
#[derive(Debug, Clone)]
pub(crate) enum Body {
    /// Nothing, and no length either.
    None,
    /// With `Content-Length`.
    Whole(Vec<u8>),
    /// With `Content-Length`, once the server said `100 Continue`.
    AfterContinue(Vec<u8>),
    /// In pieces, with `Transfer-Encoding: chunked`.
    Pieces(Vec<u8>),
    /// `Content-Length` says more than follows; the sending side is then closed.
    Short { announced: u64, bytes: Vec<u8> },
}

/// A request, ready to be sent.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) path: String,
    /// Those that the body needs, `Host` and `Connection` are added.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Body,
}

/// What came back.
#[derive(Debug, Clone)]
pub(crate) struct Received {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    /// Also what follows the answer to a `HEAD`, where nothing may.
    pub(crate) body: Vec<u8>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ExchangeError {
    #[error("cannot connect to {address}")]
    Connect { address: Address, source: io::Error },
    #[error("no whole answer within {} s", limit.as_secs_f32())]
    Silent { limit: Duration },
    #[error("the connection was closed before the answer was whole")]
    Closed,
    #[error("the connection broke")]
    Broken(#[source] io::Error),
    #[error("the answer is not HTTP: {0}")]
    Garbled(&'static str),
    #[error("the answer has more than {} MiB", MAX_BODY_BYTES >> 20)]
    Endless,
    #[error("cannot speak TLS with {address}")]
    Tls { address: Address, source: rustls::Error },
}

/// Sends the request and reads the answer, all within `limit`.
pub(crate) fn exchange(
    address: &Address,
    tls: &Arc<ClientConfig>,
    request: &Request,
    limit: Duration,
) -> Result<Received, ExchangeError> {
    let mut wire = Wire::open(address, tls, limit)?;
    wire.send(address, request)?;
    let (status, headers) = wire.head()?;
    let body = wire.body(request, status, &headers)?;
    Ok(Received { status, headers, body })
}

/// How servers are recognised: by the machine's own list of authorities.
pub(crate) fn tls() -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring knows the default versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    Arc::new(config)
}

/// The value of the first header of this name.
pub(crate) fn header<'a>(headers: &'a [(String, String)], name: &str) -> Option<&'a str> {
    headers.iter().find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
}

/// One connection.
#[derive(Debug)]
struct Wire {
    stream: Stream,
    /// Read but not used yet.
    buffer: Vec<u8>,
    limit: Duration,
    deadline: Instant,
}

#[derive(Debug)]
enum Stream {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Wire {
    fn open(address: &Address, tls: &Arc<ClientConfig>, limit: Duration) -> Result<Self, ExchangeError> {
        let connect = |source| ExchangeError::Connect { address: address.clone(), source };
        let mut places = (address.host.as_str(), address.port).to_socket_addrs().map_err(connect)?;
        let place = places.next().ok_or_else(|| connect(io::ErrorKind::NotFound.into()))?;
        let deadline = Instant::now() + limit;
        let socket = TcpStream::connect_timeout(&place, limit).map_err(connect)?;
        // Only a matter of speed.
        let _ = socket.set_nodelay(true);
        let stream = if address.secure {
            let refused = |source| ExchangeError::Tls { address: address.clone(), source };
            let name = ServerName::try_from(address.host.clone())
                .map_err(|_| refused(rustls::Error::UnsupportedNameType))?;
            let session = ClientConnection::new(tls.clone(), name).map_err(refused)?;
            Stream::Tls(Box::new(StreamOwned::new(session, socket)))
        } else {
            Stream::Plain(socket)
        };
        Ok(Self { stream, buffer: Vec::new(), limit, deadline })
    }

    fn send(&mut self, address: &Address, request: &Request) -> Result<(), ExchangeError> {
        let Request { method, path, headers, body } = request;
        let mut head = format!("{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n");
        headers.iter().for_each(|(name, value)| head += &format!("{name}: {value}\r\n"));
        head += &match body {
            Body::None => String::new(),
            Body::Whole(bytes) => format!("Content-Length: {}\r\n", bytes.len()),
            Body::AfterContinue(bytes) => {
                format!("Content-Length: {}\r\nExpect: 100-continue\r\n", bytes.len())
            }
            Body::Pieces(_) => "Transfer-Encoding: chunked\r\n".to_owned(),
            Body::Short { announced, .. } => format!("Content-Length: {announced}\r\n"),
        };
        head += "\r\n";
        let mut bytes = head.into_bytes();
        match body {
            Body::None => {}
            Body::Whole(body) | Body::Short { bytes: body, .. } => bytes.extend_from_slice(body),
            Body::Pieces(body) => {
                for piece in body.chunks(10_000) {
                    bytes.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
                    bytes.extend_from_slice(piece);
                    bytes.extend_from_slice(b"\r\n");
                }
                bytes.extend_from_slice(b"0\r\n\r\n");
            }
            Body::AfterContinue(body) => {
                self.write(&bytes)?;
                if !self.is_told_to_go_on()? {
                    return Ok(());
                }
                bytes.clone_from(body);
            }
        }
        self.write(&bytes)?;
        if let (Body::Short { .. }, Stream::Plain(socket)) = (body, &self.stream) {
            // Fails where the server has closed already; then its answer is there, or none comes.
            let _ = socket.shutdown(std::net::Shutdown::Write);
        }
        Ok(())
    }

    /// True after `100 Continue`; false if the whole answer comes at once.
    fn is_told_to_go_on(&mut self) -> Result<bool, ExchangeError> {
        let end = self.whole_head()?;
        let told = self.buffer.starts_with(b"HTTP/1.1 100");
        if told {
            self.buffer.drain(..end);
        }
        Ok(told)
    }

    /// Writes until all is sent or the server answers early. An error is left to the reading side, which may find an
    /// answer sent before the server closed.
    fn write(&mut self, bytes: &[u8]) -> Result<(), ExchangeError> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let left = self.left()?;
            let part = &rest[..rest.len().min(64 << 10)];
            let result = match &mut self.stream {
                Stream::Plain(socket) => {
                    if bytes.len() > part.len() && has_input(socket) {
                        return Ok(());
                    }
                    let _ = socket.set_write_timeout(Some(left.min(WRITE_SLICE)));
                    socket.write(part)
                }
                Stream::Tls(stream) => {
                    let _ = stream.sock.set_write_timeout(Some(left));
                    let _ = stream.sock.set_read_timeout(Some(left));
                    stream.write(part)
                }
            };
            match result {
                Ok(0) => return Ok(()),
                Ok(written) => rest = &rest[written..],
                Err(error) if is_transient(&error) => {}
                Err(error) => match tls_error(error) {
                    Some(error) => return Err(error),
                    None => return Ok(()),
                },
            }
        }
        Ok(())
    }

    fn left(&self) -> Result<Duration, ExchangeError> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(ExchangeError::Silent { limit: self.limit }) } else { Ok(left) }
    }

    /// Reads more; false at the end.
    fn fill(&mut self) -> Result<bool, ExchangeError> {
        let mut piece = [0; 64 << 10];
        let read = loop {
            let left = self.left()?;
            let result = match &mut self.stream {
                Stream::Plain(socket) => {
                    let _ = socket.set_read_timeout(Some(left));
                    socket.read(&mut piece)
                }
                Stream::Tls(stream) => {
                    let _ = stream.sock.set_read_timeout(Some(left));
                    stream.read(&mut piece)
                }
            };
            match result {
                Ok(read) => break read,
                Err(error) if is_transient(&error) => {}
                // A close without TLS's goodbye is a close.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => break 0,
                Err(error) => return Err(tls_error(error).unwrap_or(ExchangeError::Closed)),
            }
        };
        self.buffer.extend_from_slice(&piece[..read]);
        Ok(read > 0)
    }

    fn need(&mut self) -> Result<(), ExchangeError> {
        if self.fill()? { Ok(()) } else { Err(ExchangeError::Closed) }
    }

    /// Reads until a head is in the buffer, and says where it ends.
    fn whole_head(&mut self) -> Result<usize, ExchangeError> {
        loop {
            if let Some(at) = find(&self.buffer, b"\r\n\r\n") {
                return Ok(at + 4);
            }
            if self.buffer.len() > MAX_HEAD_BYTES {
                return Err(ExchangeError::Garbled("its head does not end"));
            }
            self.need()?;
        }
    }

    fn head(&mut self) -> Result<(u16, Vec<(String, String)>), ExchangeError> {
        loop {
            let end = self.whole_head()?;
            let mut fields = [httparse::EMPTY_HEADER; 128];
            let mut parsed = httparse::Response::new(&mut fields);
            let read = parsed.parse(&self.buffer[..end]);
            if !matches!(read, Ok(httparse::Status::Complete(_))) {
                return Err(ExchangeError::Garbled("its head has no status line and headers"));
            }
            let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
            let headers =
                parsed.headers.iter().map(|field| (field.name.to_owned(), text(field.value))).collect();
            let status = parsed.code.unwrap_or_default();
            self.buffer.drain(..end);
            if status >= 200 {
                return Ok((status, headers));
            }
        }
    }

    fn body(
        &mut self,
        request: &Request,
        status: u16,
        headers: &[(String, String)],
    ) -> Result<Vec<u8>, ExchangeError> {
        if request.method == "HEAD" || matches!(status, 204 | 304) {
            self.deadline = self.deadline.min(Instant::now() + END_LIMIT);
            // Whatever goes wrong behind the answer does not make it less whole.
            while self.buffer.len() < MAX_HEAD_BYTES && matches!(self.fill(), Ok(true)) {}
            return Ok(std::mem::take(&mut self.buffer));
        }
        let coding = header(headers, "transfer-encoding").unwrap_or_default();
        if coding.to_ascii_lowercase().ends_with("chunked") {
            return self.pieces();
        }
        let Some(length) = header(headers, "content-length") else { return self.all() };
        let length: usize = length.trim().parse().map_err(|_| ExchangeError::Garbled("its length"))?;
        self.take(length)
    }

    fn take(&mut self, count: usize) -> Result<Vec<u8>, ExchangeError> {
        if count > MAX_BODY_BYTES {
            return Err(ExchangeError::Endless);
        }
        while self.buffer.len() < count {
            self.need()?;
        }
        Ok(self.buffer.drain(..count).collect())
    }

    fn all(&mut self) -> Result<Vec<u8>, ExchangeError> {
        while self.fill()? {
            if self.buffer.len() > MAX_BODY_BYTES {
                return Err(ExchangeError::Endless);
            }
        }
        Ok(std::mem::take(&mut self.buffer))
    }

    /// Source: RFC 9112, section 7.1.
    fn pieces(&mut self) -> Result<Vec<u8>, ExchangeError> {
        let mut body = Vec::new();
        loop {
            let line = self.line()?;
            let size = line.split(';').next().unwrap_or_default().trim();
            let size =
                usize::from_str_radix(size, 16).map_err(|_| ExchangeError::Garbled("a chunk's size"))?;
            if size == 0 {
                while !self.line()?.is_empty() {}
                return Ok(body);
            }
            if body.len().saturating_add(size) > MAX_BODY_BYTES {
                return Err(ExchangeError::Endless);
            }
            body.extend(self.take(size)?);
            if !self.line()?.is_empty() {
                return Err(ExchangeError::Garbled("a chunk is longer than its size"));
            }
        }
    }

    fn line(&mut self) -> Result<String, ExchangeError> {
        loop {
            if let Some(at) = find(&self.buffer, b"\r\n") {
                let line = self.buffer.drain(..at + 2).take(at).collect();
                return String::from_utf8(line).map_err(|_| ExchangeError::Garbled("a chunk's size"));
            }
            if self.buffer.len() > MAX_HEAD_BYTES {
                return Err(ExchangeError::Garbled("a chunk's size does not end"));
            }
            self.need()?;
        }
    }
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}

/// True if the server has said something already, or has closed.
fn has_input(socket: &TcpStream) -> bool {
    let peeked = socket.set_nonblocking(true).and_then(|()| socket.peek(&mut [0]));
    let _ = socket.set_nonblocking(false);
    peeked.is_ok()
}

/// True for what is tried again until the deadline.
fn is_transient(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted)
}

/// The error, if it is TLS that failed and not the connection below.
fn tls_error(error: io::Error) -> Option<ExchangeError> {
    error.get_ref().is_some_and(|inner| inner.is::<rustls::Error>()).then(|| ExchangeError::Broken(error))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::thread;

    use super::*;

    /// What is read of a server that sends `said` and closes.
    fn received(method: &str, said: &'static [u8]) -> Result<Received, ExchangeError> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = thread::spawn(move || {
            let (mut socket, _) = listener.accept().unwrap();
            let mut head = [0; 1024];
            assert!(socket.read(&mut head).unwrap() > 0);
            socket.write_all(said).unwrap();
        });
        let address = Address { secure: false, host: "127.0.0.1".into(), port };
        let request =
            Request { method: method.into(), path: "/".into(), headers: Vec::new(), body: Body::None };
        let received = exchange(&address, &tls(), &request, Duration::from_secs(20));
        server.join().unwrap();
        received
    }

    #[track_caller]
    fn body(said: &'static [u8], want: &[u8]) {
        assert_eq!(received("GET", said).unwrap().body, want, "{}", said.escape_ascii());
    }

    #[test]
    fn bodies_end_by_length_by_chunks_or_by_the_connection() {
        body(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabcdef", b"abc");
        body(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n1\r\nd\r\n0\r\n\r\n",
            b"abcd",
        );
        body(b"HTTP/1.1 200 OK\r\n\r\nabc", b"abc");
        body(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n", b"");
    }

    #[test]
    fn what_follows_the_answer_to_a_head_is_kept() {
        let received = received("HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc").unwrap();
        assert_eq!((received.status, received.body.as_slice()), (200, b"abc".as_slice()));
        assert_eq!(header(&received.headers, "CONTENT-LENGTH"), Some("3"));
    }

    #[test]
    fn answers_that_are_not_whole_are_errors() {
        for said in [
            b"".as_slice(),
            b"HTTP/1.1 200 OK\r\n",
            b"220 ready\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nab",
            b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\nab",
            b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\nab",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nab",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n",
        ] {
            assert!(received("GET", said).is_err(), "{}", said.escape_ascii());
        }
    }

    #[test]
    fn a_server_that_says_nothing_is_left() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let address = Address { secure: false, host: "127.0.0.1".into(), port };
        let body = Body::Whole(vec![0; 32 << 20]);
        let request = Request { method: "PUT".into(), path: "/".into(), headers: Vec::new(), body };
        let error = exchange(&address, &tls(), &request, Duration::from_secs(2)).unwrap_err();
        assert!(matches!(error, ExchangeError::Silent { .. }), "{error}");
    }
}
