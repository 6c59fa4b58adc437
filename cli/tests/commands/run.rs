//! A real guest behind its firewall: `run`, `ps`, `stats`, `logs`, `stop`, `start`, `rm`.
//!
//! One test that boots, for that takes the time. The guest is Linux with a web server; what answers on its
//! ports is written in `testkit/guest/init`.

use std::fs;
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;
use testkit::guest;

use crate::support::disks::boot;
use crate::support::registry::Guard;
use crate::support::source::author;
use crate::support::vm::{Vm, send};
use crate::support::world::World;
use crate::support::{Host, wait};

/// Somebody in the world outside, at an address that is nobody's (RFC 5737).
const OUTSIDE: &str = "198.51.100.2";
/// What they say.
const HELLO: &str = "hello from outside";
/// The port of theirs that the policy names, and one that it does not.
const NAMED: u16 = 9000;
const NOT_NAMED: u16 = 9001;

const HULL_TOML: &str = r#"
[appliance]
name = "guest"
version = "1"

[machine]
memory = "256MiB"

[[disk]]
name = "root"
source = "guest.raw"

[[nic]]
name = "eth0"

[policy.health]
check = { http = "http://:80/healthz" }

[[firewall.ingress]]
name = "http"
proto = "tcp"
ports = [80]
from = ["0.0.0.0/0"]
publish = { host-port = 8080 }

[[firewall.ingress]]
name = "banner"
proto = "tcp"
ports = [2525]
from = ["0.0.0.0/0"]
publish = { host-port = 2525 }

[[firewall.egress]]
name = "outside"
proto = "tcp"
ports = [9000]
to = ["198.51.100.2"]
"#;

#[test]
fn a_guest_boots_behind_its_firewall_and_keeps_what_it_wrote() {
    let Some(host) = host_with_guest() else { return };
    start_outside(host.world());
    let before = host.world().state();
    let (vm, other) = (Vm::of(&host, "web"), Vm::of(&host, "other"));

    host.ok(&format!("run -d --name {} guest:1", vm.name));
    is_up(&host, &vm, 1);
    is_listed_as_it_is(&host, &vm);
    what_is_published_answers(&host);
    what_no_rule_names_is_closed(&host, &vm);
    egress_is_what_the_policy_says(&host, &vm);
    assert_eq!(get(&host, 8080, "/cgi-bin/count"), (200, "1\n".into()));
    assert_eq!(get(&host, 8080, "/cgi-bin/count"), (200, "2\n".into()));
    logs_are_kept(&host, &vm);

    // Another one of the same appliance boots while the first one stops and starts again.
    let line = format!("run -d -p 8181:80 -p 2526:2525 --name {} guest:1", other.name);
    thread::scope(|scope| {
        let booted = scope.spawn(|| host.run(&line));
        stops_by_itself(&host, &vm);
        stays_attached_until_interrupted(&host, &vm);
        booted.join().unwrap().ok();
    });
    assert_eq!(get(&host, 8181, "/cgi-bin/count"), (200, "1\n".into()), "its writes are its own");
    host.ok(&format!("rm --force {} {}", vm.name, other.name));
    assert_eq!(host.ok("ps --all --json"), "[]");
    assert_eq!(host.world().state(), before);
    assert_eq!((vm.qemu(), other.qemu(), other.supervisor()), (None, None, None));
}

#[test]
fn a_guest_that_does_not_get_well_is_not_ready() {
    let Some(host) = Host::for_vms() else { return };
    let folder = author(&host, "a", &boot());
    let hull_toml = fs::read_to_string(folder.join("hull.toml")).unwrap();
    let health = "[policy.health]\ncheck = { tcp = 80 }\nstart-period = \"1ms\"\nretries = 1\n\
                  [[volume]]\nname = \"data\"\nsize = \"1GiB\"\n";
    fs::write(folder.join("hull.toml"), format!("{hull_toml}\n{health}")).unwrap();
    host.ok("pack a -t sick:1");
    let vm = Vm::of(&host, "sick");
    let line = format!("run -d --name {} sick:1", vm.name);
    host.run(&line).fails(1, &[&vm.name, "not ready", "health check fails", "hull logs", "hull stats"]);
    assert_eq!(host.vm(&vm.name)["state"]["status"], "unhealthy");
    host.ok(&format!("kill {}", vm.name));
    assert_eq!(host.vm(&vm.name)["state"]["status"], "stopped");
    host.ok(&format!("rm {}", vm.name));
    let volume = host.home().join("volumes").join(&vm.name).join("data.qcow2");
    assert!(volume.is_file(), "volumes survive what they were made for");
}

/// A host with the appliance `guest:1`.
fn host_with_guest() -> Option<Host> {
    let host = Host::for_vms()?;
    let disk = match guest::disk() {
        Ok(disk) => disk,
        Err(reason) => {
            eprintln!("skipped: {reason}");
            return None;
        }
    };
    let folder = host.folder().join("guest");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("hull.toml"), HULL_TOML).unwrap();
    fs::copy(disk, folder.join("guest.raw")).unwrap();
    host.ok("pack guest -t guest:1");
    Some(host)
}

/// Somebody at [`OUTSIDE`] who says [`HELLO`] to whoever asks, on both ports.
fn start_outside(world: &World) {
    world.run("ip netns add outside");
    world.run("ip link add outside0 type veth peer name eth0 netns outside");
    world.run("ip address add 198.51.100.1/24 dev outside0");
    world.run("ip link set outside0 up");
    world.run(&format!("ip -n outside address add {OUTSIDE}/24 dev eth0"));
    world.run("ip -n outside link set eth0 up");
    world.run("ip -n outside route add default via 198.51.100.1");
    for port in [NAMED, NOT_NAMED] {
        let listener = world.inside(Some("outside"), || TcpListener::bind((OUTSIDE, port)).unwrap());
        thread::spawn(move || listener.incoming().flatten().for_each(|client| drop(say_hello(client))));
    }
    assert_eq!(fetch(world, &format!("{OUTSIDE}:{NOT_NAMED}"), "/").unwrap(), (200, HELLO.to_owned()));
}

fn say_hello(mut client: TcpStream) -> io::Result<()> {
    let request = BufReader::new(&client).lines();
    request.map_while(Result::ok).take_while(|line| !line.is_empty()).for_each(drop);
    let length = HELLO.len();
    client.write_all(format!("HTTP/1.0 200 OK\r\nContent-Length: {length}\r\n\r\n{HELLO}").as_bytes())
}

/// Asks a web server in the world's network: the status and the body.
fn fetch(world: &World, address: &str, path: &str) -> io::Result<(u16, String)> {
    let mut stream = world.inside(None, || TcpStream::connect(address))?;
    stream.set_read_timeout(Some(wait::LIMIT))?;
    stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or(ErrorKind::InvalidData)?;
    let status =
        head.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or(ErrorKind::InvalidData)?;
    Ok((status, body.to_owned()))
}

/// Asks the guest's web server through the host's `port`.
#[track_caller]
fn get(host: &Host, port: u16, path: &str) -> (u16, String) {
    fetch(host.world(), &format!("127.0.0.1:{port}"), path).unwrap()
}

/// Waits until the guest has said for the `boots`th time that all its services are up. The health check asks
/// only one of them, the first.
fn is_up(host: &Host, vm: &Vm, boots: usize) {
    wait::until("the guest is up", || {
        let log = host.ok(&format!("logs {}", vm.name));
        (log.lines().filter(|line| *line == guest::READY_LINE).count() == boots).then_some(())
    });
}

/// `run -d` has returned, so the health check has passed.
fn is_listed_as_it_is(host: &Host, vm: &Vm) {
    let listed = host.json("ps --json");
    let listed = &listed[0];
    assert_eq!(listed["name"], vm.name.as_str());
    assert_eq!(listed["reference"], "guest:1");
    let state = &listed["state"];
    assert_eq!((&state["status"], &state["restarts"]), (&"ready".into(), &0.into()));
    let accel = state["accel"].as_str().unwrap();
    assert!(["kvm", "tcg"].contains(&accel) && !state["accelReason"].as_str().unwrap().is_empty());
    assert_eq!(state["qemu"]["pid"], vm.qemu().unwrap());
    let ports = state["ports"].as_array().unwrap().iter();
    let ports: Vec<_> = ports.map(|port| format!("{} -> {}", port["host"], port["guestPort"])).collect();
    assert_eq!(ports, [r#""127.0.0.1:8080" -> 80"#, r#""127.0.0.1:2525" -> 2525"#]);
    let table = host.ok("ps");
    assert!(table.lines().nth(1).unwrap().starts_with(&vm.name) && table.contains("ready"), "{table}");
}

fn what_is_published_answers(host: &Host) {
    assert_eq!(get(host, 8080, guest::HEALTH_PATH), (200, "ok\n".into()));
    // A protocol in which the server speaks first: nothing is sent before it has.
    let mut stream = host.world().inside(None, || TcpStream::connect("127.0.0.1:2525")).unwrap();
    stream.set_read_timeout(Some(wait::LIMIT)).unwrap();
    let mut banner = vec![0; guest::BANNER.len()];
    stream.read_exact(&mut banner).unwrap();
    assert_eq!(banner, guest::BANNER.as_bytes());
    stream.write_all(b"hello\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "250 hello\r\n");
}

/// The guest serves 8081 as well. The host has nothing there, and the network next to the guest's card
/// no way through.
fn what_no_rule_names_is_closed(host: &Host, vm: &Vm) {
    let refused = host.world().inside(None, || TcpStream::connect("127.0.0.1:8081"));
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::ConnectionRefused);
    let before = dropped(host, vm);
    let namespace = format!("hull-{}", vm.id());
    let guest: SocketAddr = "10.0.2.15:8081".parse().unwrap();
    let patience = Duration::from_secs(1);
    let next_door = host.world().inside(Some(&namespace), || TcpStream::connect_timeout(&guest, patience));
    assert!(next_door.is_err());
    assert!(dropped(host, vm) > before, "what is dropped is counted");
}

fn egress_is_what_the_policy_says(host: &Host, vm: &Vm) {
    let ask = |port: u16| get(host, 8080, &format!("/cgi-bin/fetch?{OUTSIDE}:{port}/"));
    // The guest waits four seconds for an answer.
    wait::until("the named port answers", || (ask(NAMED) == (200, format!("{HELLO}\n"))).then_some(()));
    let before = dropped(host, vm);
    assert_eq!(ask(NOT_NAMED).0, 502);
    assert!(dropped(host, vm) > before, "what is dropped is counted");
    let stats = host.json(&format!("stats --json {}", vm.name));
    let rules = stats["firewall"].as_array().unwrap();
    let allowed = rules.iter().find(|rule| rule["kind"] == "egress" && rule["name"] == "outside").unwrap();
    assert!(allowed["packets"].as_u64().unwrap() > 0);
    assert!(stats["disks"][0]["readBytes"].as_u64().unwrap() > 1 << 20);
}

/// Packets that the VM's firewall has dropped so far.
fn dropped(host: &Host, vm: &Vm) -> u64 {
    let stats = host.json(&format!("stats --json {}", vm.name));
    let counters = stats["firewall"].as_array().unwrap().iter();
    let dropped = counters.filter(|counter| counter["kind"] == "dropped");
    dropped.map(|counter| counter["packets"].as_u64().unwrap()).sum()
}

fn logs_are_kept(host: &Host, vm: &Vm) {
    let log = host.ok(&format!("logs {}", vm.name));
    assert!(!log.contains(|c: char| c.is_control() && c != '\n' && c != '\t'));
    assert_eq!(host.ok(&format!("logs --tail 2 {}", vm.name)).lines().count(), 2);
}

/// The power button is enough, and nobody had to wait for the end of its time.
fn stops_by_itself(host: &Host, vm: &Vm) {
    let stopped = host.run(&format!("stop {}", vm.name));
    assert_eq!(stopped.ok(), vm.name);
    assert_eq!(stopped.stderr, "");
    let state = host.vm(&vm.name)["state"].take();
    assert_eq!(
        (&state["status"], &state["reason"], &state["qemu"]),
        (&"stopped".into(), &Value::Null, &Value::Null)
    );
    assert_eq!(vm.qemu(), None);
    host.run(&format!("stats {}", vm.name)).fails(1, &[&vm.name, "stopped", "hull start"]);
}

/// In the foreground the console is on stdout; an interrupt shuts the guest down. What it had written
/// before is still there.
fn stays_attached_until_interrupted(host: &Host, vm: &Vm) {
    let mut start = host.hull(["start", "--attach", &vm.name]);
    let mut start = Guard(start.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap());
    wait::until("it is ready", || (vm.written_status() == "ready").then_some(()));
    assert_eq!(get(host, 8080, "/cgi-bin/count"), (200, "3\n".into()));
    is_up(host, vm, 2);
    send(start.0.id().cast_signed(), Signal::INT);
    let mut console = String::new();
    start.0.stdout.take().unwrap().read_to_string(&mut console).unwrap();
    assert_eq!(start.0.wait().unwrap().code(), Some(0));
    let boots = console.lines().filter(|line| *line == guest::READY_LINE).count();
    assert_eq!(boots, 2, "the log of the first boot is shown too\n{console}");
    assert_eq!(host.vm(&vm.name)["state"]["status"], "stopped");
}
