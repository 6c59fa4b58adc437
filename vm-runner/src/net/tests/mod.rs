//! Networks as a guest, a client and the host see them, with real packets. Needs root.

mod surroundings;

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use firewall::{Denial, nft::Count};
use serde_json::json;
use testkit::wait;

use self::surroundings::{Guest, world};
use super::*;

/// Longer than anything takes that works.
const LONG: Duration = Duration::from_secs(60);
/// How long to wait for an answer that must not come.
const SHORT: Duration = Duration::from_millis(300);

/// True if this host can have VM networks; else says why a test is skipped.
fn can_run() -> bool {
    let result = check_host();
    if let Err(error) = &result {
        eprintln!("skipped: {error}");
    }
    result.is_ok()
}

/// An id that no other test, and no other run, has.
fn unique_id() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("t{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

fn policy(firewall: serde_json::Value) -> MachinePolicy {
    serde_json::from_value(json!({ "firewall": firewall })).unwrap()
}

fn spec<'a>(vm: &'a str, policy: &'a MachinePolicy) -> NetworkSpec<'a> {
    NetworkSpec { vm, mac: guest_mac(vm, 0), host_name: Some("web"), policy, mode: Mode::Enforce }
}

/// Ports of this host that were free a moment ago.
fn free_ports<const N: usize>() -> [u16; N] {
    let held = [(); N].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    held.map(|listener| listener.local_addr().unwrap().port())
}

fn ingress(name: &str, proto: &str, port: u16, host_port: u16) -> serde_json::Value {
    json!({ "name": name, "proto": proto, "ports": [port], "from": ["0.0.0.0/0"], "publish": { "hostPort": host_port } })
}

fn egress(name: &str, port: u16, to: &str) -> serde_json::Value {
    json!({ "name": name, "proto": "tcp", "ports": [port], "to": [to] })
}

fn connect(address: impl Into<SocketAddr>) -> Result<TcpStream, ErrorKind> {
    TcpStream::connect_timeout(&address.into(), LONG).map_err(|error| error.kind())
}

/// Connects where nobody may answer.
fn knock(address: impl Into<SocketAddr>) -> Result<(), ErrorKind> {
    TcpStream::connect_timeout(&address.into(), SHORT).map(drop).map_err(|error| error.kind())
}

fn read_to_end(mut stream: impl Read) -> Vec<u8> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    bytes
}

fn denied(network: &Network, denial: Denial) -> u64 {
    network.counters().unwrap().denied.get(&denial).map_or(0, |count| count.packets)
}

/// `attempt` is denied, and counted; again and again, for it may be lost on its way, or late.
#[track_caller]
fn assert_denied(network: &Network, denial: Denial, attempt: impl Fn()) {
    wait::until(&format!("{denial:?} is counted"), || {
        attempt();
        (denied(network, denial) > 0).then_some(())
    });
}

/// Nothing of the VM's is left; and nothing of hull's at all, if no other VM runs just now.
#[track_caller]
fn assert_nothing_is_left(vm: &str) {
    let names = Names::of(vm).unwrap();
    assert!(!namespace::exists(&names.namespace));
    assert!(!Network::list().unwrap().iter().any(|other| other == vm));
    let lock = HostLock::take().unwrap();
    let interfaces = host::interfaces().unwrap();
    assert!(interfaces.iter().all(|interface| interface.name != names.uplink));
    if interfaces.iter().all(|interface| !interface.name.starts_with(PREFIX)) {
        let tables = program::nft_query("list tables", &["list", "tables"]).unwrap();
        assert!(!tables.contains(r#""name": "hull""#), "{tables}");
        assert!(!host::was_off().exists());
    }
    drop(lock);
}

#[test]
fn a_guest_gets_its_address_by_dhcp() {
    if !can_run() {
        return;
    }
    let (vm, policy) = (unique_id(), policy(json!({})));
    let network = Network::create(&spec(&vm, &policy)).unwrap();
    let guest = Guest::plug_into(&network.tap, guest_mac(&vm, 0), &vm);
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("configure");
    std::fs::write(
        &script,
        "#!/bin/sh\n[ \"$1\" = bound ] && echo $ip/$mask $router ${dns:-none} $mtu $hostname $lease\nexit 0\n",
    )
    .unwrap();
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
    let client = guest.room.enter(|| {
        let options =
            ["udhcpc", "-i", "eth0", "-n", "-t", "20", "-q", "-f", "-O", "mtu", "-O", "hostname", "-s"];
        Command::new("busybox").args(options).arg(&script).stderr(Stdio::inherit()).output()
    });
    let Ok(client) = client else {
        eprintln!("skipped: busybox is not installed");
        return;
    };
    let said = String::from_utf8_lossy(&client.stdout);
    let mtu = host::mtu_of_way_out().unwrap();
    assert_eq!(said.trim(), format!("10.0.2.15/24 10.0.2.2 none {mtu} web 86400"));
    drop(guest);
    network.remove().unwrap();
    assert_nothing_is_left(&vm);
}

#[test]
fn published_ports_lead_to_the_guest_and_no_others_do() {
    if !can_run() {
        return;
    }
    let [http, mail, closed, names] = free_ports();
    let policy = policy(json!({ "ingress": [
        ingress("http", "tcp", 80, http),
        ingress("mail", "tcp", 25, mail),
        ingress("closed", "tcp", 81, closed),
        ingress("names", "udp", 53, names),
    ] }));
    let vm = unique_id();
    let network = Network::create(&spec(&vm, &policy)).unwrap();
    let guest = Guest::plug_into(&network.tap, guest_mac(&vm, 0), &vm);
    guest.configure();
    let listen = |port| guest.room.enter(|| TcpListener::bind(("10.0.2.15", port)).unwrap());

    // A big answer to a big question that ends before the answer begins.
    let server = listen(80);
    let echo = std::thread::spawn(move || {
        let (mut stream, from) = server.accept().unwrap();
        let question = read_to_end(&stream);
        stream.write_all(&question).unwrap();
        (question.len(), from.ip())
    });
    let mut client = connect(([127, 0, 0, 1], http)).unwrap();
    let question: Vec<u8> = (0..8_000_000_u32).map(|n| (n % 251) as u8).collect();
    client.write_all(&question).unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    assert!(read_to_end(&client) == question);
    assert_eq!(echo.join().unwrap(), (question.len(), Ipv4Addr::new(10, 0, 2, 2).into()));

    // A server that speaks first.
    let server = listen(25);
    let greeter = std::thread::spawn(move || server.accept().unwrap().0.write_all(b"220 ready").unwrap());
    assert_eq!(read_to_end(connect(([127, 0, 0, 1], mail)).unwrap()), b"220 ready");
    greeter.join().unwrap();

    // Nobody listens in the guest: the client's connection is reset, not ended; perhaps while it waits for
    // `connect` to return.
    let connected = connect(([127, 0, 0, 1], closed));
    let ended = connected.and_then(|mut refused| refused.read(&mut [0]).map_err(|error| error.kind()));
    assert_eq!(ended, Err(ErrorKind::ConnectionReset));

    let server = guest.room.enter(|| UdpSocket::bind("10.0.2.15:53").unwrap());
    server.set_read_timeout(Some(LONG)).unwrap();
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.set_read_timeout(Some(LONG)).unwrap();
    client.connect(("127.0.0.1", names)).unwrap();
    for word in [&b"one"[..], b"two"] {
        let mut buffer = [0; 16];
        client.send(word).unwrap();
        let (length, relay) = server.recv_from(&mut buffer).unwrap();
        server.send_to(&buffer[..length], relay).unwrap();
        let length = client.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], word);
    }

    // The guest listens, but no rule names the port.
    let _unnamed = listen(22);
    let connector = network.connector();
    assert_eq!(connector.connect_tcp(22, SHORT).map(drop).map_err(|e| e.kind()), Err(ErrorKind::TimedOut));
    assert!(denied(&network, Denial::NoIngressRule) > 0);

    let counted =
        |rule: &str| network.published().into_iter().find(|counters| counters.rule == rule).unwrap();
    assert_eq!((counted("http").accepted, counted("names").accepted), (1, 1));
    assert_eq!((counted("closed").accepted, counted("closed").unanswered), (1, 1));
    drop(guest);
    network.remove().unwrap();
    assert_nothing_is_left(&vm);
}

#[test]
fn a_guest_reaches_what_its_policy_names_and_nothing_else() {
    if !can_run() {
        return;
    }
    let vm = unique_id();
    let number = (std::process::id() % 60) as u8 * 4;
    let (host, there) = (Ipv4Addr::new(198, 51, 100, number + 1), Ipv4Addr::new(198, 51, 100, number + 2));
    let world = world(&vm, number);
    let everywhere = TcpListener::bind("0.0.0.0:0").unwrap(); // a service of the host
    let service = everywhere.local_addr().unwrap().port();
    let policy = policy(json!({ "egress": [
        egress("packages", 443, &there.to_string()),
        egress("anything", service, "0.0.0.0/0"),
    ] }));
    let network = Network::create(&spec(&vm, &policy)).unwrap();
    let guest = Guest::plug_into(&network.tap, guest_mac(&vm, 0), &vm);
    guest.configure();

    let server = world.enter(|| TcpListener::bind((there, 443)).unwrap());
    let answer = std::thread::spawn(move || {
        let (mut stream, from) = server.accept().unwrap();
        stream.write_all(b"package").unwrap();
        from.ip()
    });
    let stream = guest.room.enter(|| connect((there, 443))).unwrap();
    assert_eq!(read_to_end(stream), b"package");
    assert_eq!(answer.join().unwrap(), host); // the world sees the host, not the guest

    let _other = world.enter(|| TcpListener::bind((there, 444)).unwrap());
    assert_denied(&network, Denial::NoEgressRule, || {
        assert_eq!(guest.room.enter(|| knock((there, 444))), Err(ErrorKind::TimedOut));
    });

    // Services of the host, by each address that leads to it; the policy allows the port.
    let uplink = Names::of(&vm).unwrap().uplink;
    let link = host::interfaces().unwrap().into_iter().find(|interface| interface.name == uplink).unwrap();
    let link = host::networks(&[link])[0].addr();
    assert_denied(&network, Denial::HostService, || {
        for address in [host, link, Ipv4Addr::new(10, 0, 2, 2)] {
            assert_eq!(guest.room.enter(|| knock((address, service))), Err(ErrorKind::TimedOut), "{address}");
        }
    });

    guest.room.ip("address add 10.0.2.99/24 dev eth0");
    assert_denied(&network, Denial::Spoofed, || {
        guest.room.enter(|| UdpSocket::bind("10.0.2.99:0").unwrap().send_to(b"x", (there, 443)).unwrap());
    });

    let counters = network.counters().unwrap();
    let passed = |rule: &str| counters.rules.get(&(Direction::Egress, rule.to_owned())).copied();
    assert!(matches!(passed("packages"), Some(Count { packets: 1.., .. })), "{counters:?}");
    drop(guest);
    network.remove().unwrap();
    assert_nothing_is_left(&vm);
}

#[test]
fn a_machine_that_may_reach_nobody_has_no_way_out() {
    if !can_run() {
        return;
    }
    let (vm, policy) = (unique_id(), policy(json!({})));
    let network = Network::create(&spec(&vm, &policy)).unwrap();
    let uplink = Names::of(&vm).unwrap().uplink;
    assert!(host::interfaces().unwrap().iter().all(|interface| interface.name != uplink));
    let guest = Guest::plug_into(&network.tap, guest_mac(&vm, 0), &vm);
    guest.configure();
    assert_denied(&network, Denial::NoEgressRule, || {
        assert_eq!(guest.room.enter(|| knock(([192, 0, 2, 1], 80))), Err(ErrorKind::TimedOut));
    });
    drop(network);
    assert_nothing_is_left(&vm);
}

#[test]
fn two_networks_do_not_disturb_each_other() {
    if !can_run() {
        return;
    }
    let (one, two) = (unique_id(), unique_id());
    let policy = policy(json!({ "egress": [egress("any", 80, "0.0.0.0/0")] }));
    let first = Network::create(&spec(&one, &policy)).unwrap();
    let second = Network::create(&spec(&two, &policy)).unwrap();
    let networks = host::networks(&host::interfaces().unwrap());
    let links: Vec<_> = networks.iter().filter(|net| layout::LINKS.contains(&net.addr())).collect();
    assert!(
        links.len() >= 2 && links.iter().all(|a| links.iter().filter(|b| *b == a).count() == 1),
        "{links:?}"
    );
    first.remove().unwrap();
    assert_eq!(std::fs::read_to_string("/proc/sys/net/ipv4/ip_forward").unwrap().trim(), "1");
    let tables = program::nft_query("list tables", &["list", "tables"]).unwrap();
    assert!(tables.contains(r#""name": "hull""#), "{tables}");
    second.remove().unwrap();
    assert_nothing_is_left(&one);
    assert_nothing_is_left(&two);
}

#[test]
fn what_a_killed_supervisor_left_is_cleaned_up_by_the_vms_id() {
    if !can_run() {
        return;
    }
    let vm = unique_id();
    let policy = policy(json!({ "egress": [egress("any", 80, "0.0.0.0/0")] }));
    std::mem::forget(Network::create(&spec(&vm, &policy)).unwrap()); // QEMU even holds the tap still
    assert!(Network::list().unwrap().contains(&vm));
    let again = Network::create(&spec(&vm, &policy)).unwrap_err();
    assert_eq!(again.to_string(), format!("the network namespace `hull-{vm}` exists already"));
    for _ in 0..2 {
        Network::cleanup(&vm).unwrap();
        assert_nothing_is_left(&vm);
    }
}

#[test]
fn a_port_that_is_taken_is_an_error_before_anything_is_made() {
    if !can_run() {
        return;
    }
    let holder = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = holder.local_addr().unwrap().port();
    let (vm, policy) = (unique_id(), policy(json!({ "ingress": [ingress("http", "tcp", 80, port)] })));
    let error = Network::create(&spec(&vm, &policy)).unwrap_err();
    let want =
        format!("ingress rule `http` publishes tcp 127.0.0.1:{port}, which is already in use on this host");
    assert_eq!(error.to_string(), want);
    assert_nothing_is_left(&vm);
}

#[test]
fn an_error_half_way_undoes_what_came_before() {
    if !can_run() {
        return;
    }
    let vm = unique_id();
    let policy = policy(json!({ "egress": [egress("any", 80, "0.0.0.0/0")] }));
    // Somebody has the name of the uplink, which is made after the namespace, its rules and the tap.
    let uplink = Names::of(&vm).unwrap().uplink;
    program::ip("prepare the test", &["link", "add", &uplink, "type", "veth"]).unwrap();
    let error = Network::create(&spec(&vm, &policy)).unwrap_err().to_string();
    assert!(error.starts_with("`ip` failed to make the uplink: RTNETLINK answers: File exists"), "{error}");
    assert_nothing_is_left(&vm);
}
