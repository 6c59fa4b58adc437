//! TLS as clients see it: what is spoken, what is not, and a certificate that changes.

mod common;

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use blob_store::MemoryStorage;
use common::{Registry, connect, figure};
use registry::{Limits, Tls};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, ProtocolVersion, RootCertStore, StreamOwned};

/// A certificate that is its own authority, and its key.
struct Issued {
    certificate: String,
    key: String,
    der: CertificateDer<'static>,
}

fn issued() -> Issued {
    let issued = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let (certificate, key) = (issued.cert.pem(), issued.signing_key.serialize_pem());
    Issued { certificate, key, der: issued.cert.der().clone() }
}

impl Issued {
    fn tls(&self) -> Tls {
        Tls::new(self.certificate.as_bytes(), self.key.as_bytes()).unwrap()
    }
}

fn serve(tls: &Tls, limits: Limits) -> Registry {
    Registry::configured(Arc::new(MemoryStorage::new()), limits, |config| config.tls = Some(tls.clone()))
}

/// Connects to a server that must show `trusted`, offering `alpn`.
fn try_connect(
    addr: SocketAddr,
    trusted: &Issued,
    versions: &[&'static rustls::SupportedProtocolVersion],
    alpn: &[&str],
) -> std::io::Result<StreamOwned<ClientConnection, TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(trusted.der.clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    let client = ClientConnection::new(Arc::new(config), ServerName::try_from("localhost").unwrap()).unwrap();
    let mut stream = StreamOwned::new(client, connect(addr)?);
    while stream.conn.is_handshaking() {
        stream.conn.complete_io(&mut stream.sock)?;
    }
    Ok(stream)
}

fn get(stream: &mut StreamOwned<ClientConnection, TcpStream>) -> String {
    try_get(stream).unwrap()
}

fn try_get(stream: &mut StreamOwned<ClientConnection, TcpStream>) -> std::io::Result<String> {
    stream.write_all(b"GET /v2/ HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

#[test]
fn tls_1_2_and_1_3_are_spoken_and_browsers_are_told_to_stay() {
    let issued = issued();
    let registry = serve(&issued.tls(), Limits::default());
    for (versions, want) in [
        (&[&rustls::version::TLS12], ProtocolVersion::TLSv1_2),
        (&[&rustls::version::TLS13], ProtocolVersion::TLSv1_3),
    ] {
        let mut stream = try_connect(registry.addr, &issued, versions, &["h2", "http/1.1"]).unwrap();
        assert_eq!(stream.conn.protocol_version(), Some(want));
        assert_eq!(stream.conn.alpn_protocol(), Some(&b"http/1.1"[..]));
        let answer = get(&mut stream);
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        assert!(answer.contains("\r\nstrict-transport-security: max-age=63072000\r\n"), "{answer}");
    }
    assert!(try_connect(registry.addr, &issued, rustls::ALL_VERSIONS, &["h2"]).is_err());
}

#[test]
fn who_does_not_speak_tls_is_cut_off_and_nobody_waits_for_them() {
    const HALF_OPEN: usize = 100;
    let issued = issued();
    let limits = Limits { handshake_timeout: Duration::from_secs(1), ..Limits::default() };
    let registry = serve(&issued.tls(), limits);
    let half_open = (0..HALF_OPEN).map(|n| {
        let mut stream = connect(registry.addr).unwrap();
        // The first bytes of a ClientHello, or none at all.
        stream.write_all(&b"\x16\x03\x01\x02\x00\x01"[..n % 7]).unwrap();
        stream
    });
    let mut open: Vec<_> = half_open.collect();
    let mut plain = connect(registry.addr).unwrap();
    plain.write_all(b"GET /v2/ HTTP/1.1\r\nhost: localhost\r\n\r\n").unwrap();
    open.push(plain);
    let cut_off = open.len();
    open.iter().for_each(|stream| stream.set_nonblocking(true).unwrap());
    let (began, mut served) = (Instant::now(), 0);
    while !open.is_empty() || served == 0 {
        assert!(began.elapsed() < Duration::from_secs(60), "{} are not cut off", open.len());
        // On a busy machine an honest client may be too slow for this limit now and then.
        let connected = try_connect(registry.addr, &issued, rustls::ALL_VERSIONS, &[]);
        if let Ok(answer) = connected.and_then(|mut good| try_get(&mut good)) {
            assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"));
            served += 1;
        }
        open.retain_mut(is_open);
    }
    for _ in 0..cut_off {
        let event = registry.events.recv_timeout(Duration::from_secs(20)).unwrap();
        assert!(event.starts_with("HandshakeFailed { peer: 127.0.0.1"), "{event}");
    }
    figure(&format!("clients without TLS cut off = {cut_off}, requests served meanwhile = {served}"));
}

/// Whether the server keeps a connection, on which it must not answer.
fn is_open(stream: &mut TcpStream) -> bool {
    let mut answer = [0; 64];
    match stream.read(&mut answer) {
        Ok(0) => false,
        Ok(bytes) => {
            let answer = &answer[..bytes];
            assert!(!answer.starts_with(b"HTTP"), "{}", answer.escape_ascii());
            true
        }
        Err(error) => error.kind() == ErrorKind::WouldBlock,
    }
}

#[test]
fn a_half_open_handshake_does_not_keep_the_server_from_stopping() {
    let issued = issued();
    let hour = Duration::from_secs(3600);
    let registry = serve(&issued.tls(), Limits { handshake_timeout: hour, drain: hour, ..Limits::default() });
    let mut silent = connect(registry.addr).unwrap();
    get(&mut try_connect(registry.addr, &issued, rustls::ALL_VERSIONS, &[]).unwrap());
    drop(registry);
    assert!(matches!(silent.read(&mut [0]), Ok(0) | Err(_)));
}

#[test]
fn a_new_certificate_serves_new_connections_and_a_bad_one_none() {
    let (old, new) = (issued(), issued());
    let tls = old.tls();
    let registry = serve(&tls, Limits::default());
    let connects = |trusted| try_connect(registry.addr, trusted, rustls::ALL_VERSIONS, &[]);
    let mut before = connects(&old).unwrap();
    tls.reload(new.certificate.as_bytes(), old.key.as_bytes()).unwrap_err();
    assert!(connects(&old).is_ok() && connects(&new).is_err());
    tls.reload(new.certificate.as_bytes(), new.key.as_bytes()).unwrap();
    assert!(connects(&old).is_err() && connects(&new).is_ok());
    assert!(get(&mut before).starts_with("HTTP/1.1 200 OK\r\n"));
}
