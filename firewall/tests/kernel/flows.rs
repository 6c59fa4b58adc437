//! Whole conversations over ordinary sockets: answers come back, errors come back, and nothing else comes in.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use firewall::{Denial, Direction};
use serde_json::json;

use crate::lab::{GUEST, Lab, OUTSIDE, Place, UPLINK};
use crate::loading::compiled;

const PATIENCE: Duration = Duration::from_secs(60);
/// How long to wait for what must not come.
const MOMENT: Duration = Duration::from_millis(200);

fn at(address: [u8; 4], port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::from(address), port)
}

fn udp(lab: &Lab, place: Place, port: u16, patience: Duration) -> UdpSocket {
    let socket = lab.inside(place, || UdpSocket::bind(("0.0.0.0", port)).unwrap());
    socket.set_read_timeout(Some(patience)).unwrap();
    socket
}

#[test]
fn the_machine_talks_to_whom_it_may_from_behind_the_uplink() {
    let Some(lab) = Lab::new() else { return };
    lab.enforce(&compiled(json!({
        "egress": [{ "name": "web-out", "proto": "tcp", "ports": [443], "to": ["172.30.0.0/24"] }],
    })));
    let listener = lab.inside(Place::Outside, || TcpListener::bind("0.0.0.0:443").unwrap());
    let mut client =
        lab.inside(Place::Guest, || TcpStream::connect_timeout(&at(OUTSIDE, 443), PATIENCE)).unwrap();
    let (mut server, peer) = listener.accept().unwrap();
    assert_eq!(peer.ip(), IpAddr::from(UPLINK));
    server.write_all(b"hello").unwrap();
    drop(server);
    let mut greeting = String::new();
    client.read_to_string(&mut greeting).unwrap();
    assert_eq!(greeting, "hello");
    // Its first packet alone, which is sent a second time where the answer takes a second.
    assert!((1..=2).contains(&lab.counters().rules[&(Direction::Egress, "web-out".to_owned())].packets));
    let refused = lab.inside(Place::Guest, || TcpStream::connect_timeout(&at(OUTSIDE, 444), MOMENT));
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::TimedOut);
    assert!(lab.counters().denied[&Denial::NoEgressRule].packets >= 1);
}

#[test]
fn the_relay_reaches_the_ports_that_rules_name() {
    let Some(lab) = Lab::new() else { return };
    let rule = json!({ "name": "http", "proto": "tcp", "ports": [80], "from": ["192.0.2.0/24"] });
    lab.enforce(&compiled(json!({ "ingress": [rule] })));
    let listeners =
        lab.inside(Place::Guest, || [80, 81].map(|port| TcpListener::bind(("0.0.0.0", port)).unwrap()));
    let mut relay = lab.inside(Place::Host, || TcpStream::connect_timeout(&at(GUEST, 80), PATIENCE)).unwrap();
    let (mut server, peer) = listeners[0].accept().unwrap();
    assert_eq!(peer.ip(), IpAddr::from([10, 0, 2, 2]));
    server.write_all(b"220 ready").unwrap(); // a server that speaks first
    drop(server);
    let mut greeting = String::new();
    relay.read_to_string(&mut greeting).unwrap();
    assert_eq!(greeting, "220 ready");
    let closed = lab.inside(Place::Host, || TcpStream::connect_timeout(&at(GUEST, 81), MOMENT));
    assert!(closed.is_err());
    assert!(lab.counters().denied[&Denial::NoIngressRule].packets >= 1);
}

#[test]
fn an_error_about_a_flow_comes_back_to_the_machine() {
    let Some(lab) = Lab::new() else { return };
    let rule = json!({ "name": "ntp", "proto": "udp", "ports": [123], "to": ["0.0.0.0/0"] });
    lab.enforce(&compiled(json!({ "egress": [rule] })));
    let socket = udp(&lab, Place::Guest, 0, MOMENT);
    socket.connect(at(OUTSIDE, 123)).unwrap();
    let deadline = Instant::now() + PATIENCE;
    // Nobody listens there: the ICMP error is the only way to learn of it. Older kernels send a bounded
    // number of them in a second, whoever asks.
    let error = loop {
        let asked = socket.send(b"?").and_then(|_| socket.recv(&mut [0; 8]));
        match asked.unwrap_err().kind() {
            ErrorKind::WouldBlock if Instant::now() < deadline => {}
            error => break error,
        }
    };
    assert_eq!(error, ErrorKind::ConnectionRefused);
}

#[test]
fn nobody_outside_reaches_the_machine_or_its_namespace() {
    let Some(lab) = Lab::new() else { return };
    let rule = json!({ "name": "any", "proto": "udp", "ports": ["1-65535"], "from": ["0.0.0.0/0"] });
    lab.enforce(&compiled(json!({ "ingress": [rule], "icmp": { "pingIn": true } })));
    lab.ip(Place::Outside, "route add 10.0.2.0/24 via 172.30.0.2");
    let guest = udp(&lab, Place::Guest, 7777, MOMENT);
    let host = udp(&lab, Place::Host, 7777, MOMENT);
    let outside = udp(&lab, Place::Outside, 0, MOMENT);
    outside.send_to(b"!", at(GUEST, 7777)).unwrap();
    outside.send_to(b"!", at(UPLINK, 7777)).unwrap();
    assert!(guest.recv(&mut [0; 8]).is_err() && host.recv(&mut [0; 8]).is_err());
    assert_eq!(lab.counters().denied[&Denial::Unsolicited].packets, 2);
    // The namespace's own sockets, such as a resolver's, do get their answers.
    host.send_to(b"?", outside_address(&outside)).unwrap();
    let mut buffer = [0; 8];
    outside.set_read_timeout(Some(PATIENCE)).unwrap();
    let (_, from) = outside.recv_from(&mut buffer).unwrap();
    outside.send_to(b"!", from).unwrap();
    host.set_read_timeout(Some(PATIENCE)).unwrap();
    assert_eq!(host.recv(&mut buffer).unwrap(), 1);
}

fn outside_address(socket: &UdpSocket) -> SocketAddr {
    at(OUTSIDE, socket.local_addr().unwrap().port())
}

#[test]
fn a_machine_without_an_address_can_ask_for_one() {
    let Some(lab) = Lab::new() else { return };
    lab.enforce(&compiled(json!({})));
    lab.ip(Place::Guest, "address flush dev eth0");
    lab.ip(Place::Guest, "route add default dev eth0");
    let server = udp(&lab, Place::Host, 67, PATIENCE);
    let client = udp(&lab, Place::Guest, 68, PATIENCE);
    client.set_broadcast(true).unwrap();
    client.send_to(b"discover", at([255; 4], 67)).unwrap();
    let mut buffer = [0; 16];
    let (length, from) = server.recv_from(&mut buffer).unwrap();
    assert_eq!((&buffer[..length], from), (&b"discover"[..], at([0; 4], 68)));
    lab.ip(Place::Guest, "address add 10.0.2.15/24 dev eth0");
    server.send_to(b"offer", at(GUEST, 68)).unwrap();
    assert_eq!(client.recv(&mut buffer).unwrap(), 5);
    // A renewal goes to the server's own address; anything else there is closed.
    client.send_to(b"renew", at([10, 0, 2, 2], 67)).unwrap();
    assert_eq!(server.recv(&mut buffer).unwrap(), 5);
    let other = udp(&lab, Place::Host, 69, MOMENT);
    client.send_to(b"?", at([10, 0, 2, 2], 69)).unwrap();
    assert!(other.recv(&mut buffer).is_err());
    assert_eq!(lab.counters().denied[&Denial::HostService].packets, 1);
}
