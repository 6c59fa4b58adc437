//! The relay over loopback: the same thread and the same sockets, with no namespace in between.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};

use firewall::Environment;
use rustix::event::{EventfdFlags, eventfd};
use serde_json::json;

use super::worker::Worker;
use super::*;

/// A running relay from a free port of 127.0.0.1 to a port of the same host.
struct Bench {
    port: u16,
    stop: OwnedFd,
    counted: Vec<(String, Arc<Counters>)>,
    thread: Option<JoinHandle<()>>,
}

impl Bench {
    /// Publishes `guest_port` by a rule that says `more` than the rest.
    fn new(guest_port: u16, more: &serde_json::Value, change: impl FnOnce(&mut Worker)) -> Self {
        let mut rule = json!({
            "name": "web", "proto": "tcp", "ports": [guest_port], "from": ["127.0.0.0/8"], "publish": { "hostPort": 0 },
        });
        rule.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let firewall: Firewall = serde_json::from_value(json!({ "ingress": [rule] })).unwrap();
        let Ports { ports, counted } = Ports::open(&firewall).unwrap();
        let Listening::Tcp(listener) = &ports[0].socket else { panic!("the rule says tcp") };
        let port = listener.local_addr().unwrap().port();
        let stop = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
        let gate = Gate::new(&firewall, &Environment::default());
        let mut worker = Worker::new(ports, gate, Ipv4Addr::LOCALHOST, &stop).unwrap();
        change(&mut worker);
        let thread = std::thread::spawn(move || worker.run().unwrap());
        Self { port, stop, counted, thread: Some(thread) }
    }

    fn connect(&self) -> TcpStream {
        self.try_to_connect().unwrap()
    }

    /// Connects where the relay may refuse, which it may do before `connect` returns.
    fn try_to_connect(&self) -> io::Result<TcpStream> {
        TcpStream::connect((Ipv4Addr::LOCALHOST, self.port))
    }

    fn counters(&self) -> PublishedCounters {
        self.counted[0].1.read("web")
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        rustix::io::write(&self.stop, &1_u64.to_ne_bytes()).unwrap();
        let ended = self.thread.take().map(JoinHandle::join);
        assert!(std::thread::panicking() || matches!(ended, Some(Ok(()))));
    }
}

/// A guest's server, and a relay to it.
fn bench(more: &serde_json::Value) -> (TcpListener, Bench) {
    let server = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = server.local_addr().unwrap().port();
    (server, Bench::new(port, more, |_| ()))
}

#[track_caller]
fn assert_reset(connected: io::Result<TcpStream>) {
    let ended = connected.and_then(|mut stream| {
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        stream.read(&mut [0])
    });
    assert_eq!(ended.unwrap_err().kind(), ErrorKind::ConnectionReset);
}

#[test]
fn who_is_not_let_in_is_reset_and_the_guest_hears_nothing() {
    let (server, bench) = bench(&json!({ "from": ["192.0.2.0/24"] }));
    assert_reset(bench.try_to_connect());
    server.set_nonblocking(true).unwrap();
    assert_eq!(server.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
    let counters = bench.counters();
    assert_eq!((counters.accepted, counters.denied_source), (0, 1));
}

#[test]
fn connections_beyond_the_rules_bound_are_reset_until_one_ends() {
    let (server, bench) = bench(&json!({ "maxConnections": 1 }));
    let greeter = std::thread::spawn(move || {
        for _ in 0..2 {
            let (mut guest, _) = server.accept().unwrap();
            guest.write_all(b"!").unwrap();
            assert_eq!(guest.read(&mut [0]).unwrap(), 0); // the client has left
        }
    });
    let mut first = bench.connect();
    assert_eq!(first.read(&mut [0]).unwrap(), 1);
    assert_reset(bench.try_to_connect());
    drop(first);
    // The place is free once the relay has seen both ends close.
    while bench.try_to_connect().and_then(|mut next| next.read(&mut [0])).is_err() {
        std::thread::yield_now();
    }
    greeter.join().unwrap();
    assert_eq!(bench.counters().accepted, 2);
}

#[test]
fn connections_for_which_there_are_no_descriptors_are_reset() {
    let server = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = server.local_addr().unwrap().port();
    let bench = Bench::new(port, &json!({}), |worker| worker.most_descriptors = 5);
    let accepted = [(); 2].map(|()| (bench.connect(), server.accept().unwrap()));
    assert_reset(bench.try_to_connect());
    let counters = bench.counters();
    assert_eq!((counters.accepted, counters.denied_connections), (2, 1));
    drop(accepted);
}

#[test]
fn what_many_clients_do_not_read_is_kept_from_nobody_else() {
    let server = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = server.local_addr().unwrap().port();
    let bench = Bench::new(port, &json!({}), |worker| worker.ample_bytes = 1);
    let silent = [(); 3].map(|()| {
        let client = bench.connect();
        let (mut guest, _) = server.accept().unwrap();
        guest.set_nonblocking(true).unwrap();
        while guest.write(&[0; 64 << 10]).is_ok() {}
        (client, guest)
    });
    let mut client = bench.connect();
    let (mut guest, _) = server.accept().unwrap();
    let answer = std::thread::spawn(move || guest.write_all(&vec![7; 10 << 20]));
    let mut received = Vec::new();
    client.read_to_end(&mut received).unwrap();
    answer.join().unwrap().unwrap();
    assert_eq!(received.len(), 10 << 20);
    drop(silent);
}

#[test]
fn a_reset_travels_to_the_other_side() {
    let (server, bench) = bench(&json!({}));
    let client = bench.connect();
    let (guest, _) = server.accept().unwrap();
    socket2::SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
    drop(client);
    assert_reset(Ok(guest));
}

#[test]
fn a_client_that_ends_before_it_was_heard_gets_through() {
    let (server, bench) = bench(&json!({}));
    let mut client = bench.connect();
    client.write_all(b"question").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    let (mut guest, _) = server.accept().unwrap();
    let mut text = String::new();
    guest.read_to_string(&mut text).unwrap();
    guest.write_all(b"answer").unwrap();
    drop(guest);
    client.read_to_string(&mut text).unwrap();
    assert_eq!(text, "questionanswer");
}

#[test]
fn many_connections_go_on_at_the_same_time() {
    let (server, bench) = bench(&json!({}));
    let echo = std::thread::spawn(move || {
        let accepted: Vec<TcpStream> = (0..100).map(|_| server.accept().unwrap().0).collect();
        for mut stream in accepted.iter().rev() {
            let mut bytes = vec![0; 100_000];
            stream.read_exact(&mut bytes).unwrap();
            stream.write_all(&bytes).unwrap();
        }
    });
    let clients: Vec<TcpStream> = (0..100).map(|_| bench.connect()).collect();
    for (n, mut client) in clients.iter().enumerate() {
        client.write_all(&vec![n as u8; 100_000]).unwrap();
    }
    for (n, mut client) in clients.iter().enumerate() {
        let mut bytes = vec![0; 100_000];
        client.read_exact(&mut bytes).unwrap();
        assert!(bytes.iter().all(|byte| *byte == n as u8));
    }
    echo.join().unwrap();
    assert_eq!(bench.counters().accepted, 100);
}

#[test]
fn a_guest_that_never_answers_is_given_up() {
    let server = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    server.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
    server.listen(0).unwrap();
    let address = server.local_addr().unwrap().as_socket().unwrap();
    let _fills_the_queue = TcpStream::connect(address).unwrap(); // the kernel ignores who comes after
    let bench =
        Bench::new(address.port(), &json!({}), |worker| worker.connect_time = Duration::from_millis(1));
    assert_reset(bench.try_to_connect());
    assert_eq!(bench.counters().unanswered, 1);
}
