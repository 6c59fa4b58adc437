//! A machine, its namespace and the world outside, as three network namespaces joined by veth pairs.
//!
//! ```text
//!   guest: eth0 10.0.2.15  ===  vm0 10.0.2.2, .3 :host: up0 172.30.0.2  ===  out0 172.30.0.1 :outside
//! ```
//! `outside` takes every address for its own. The namespaces go away when the lab is dropped.

use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use firewall::nft::{self, Interfaces};
use firewall::{Compiled, sysctls};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// The machine's MAC address.
pub(crate) const GUEST_MAC: &str = "52:54:00:12:34:56";
/// The machine's address.
pub(crate) const GUEST: [u8; 4] = [10, 0, 2, 15];
/// The uplink's address, behind which the machine is masqueraded.
pub(crate) const UPLINK: [u8; 4] = [172, 30, 0, 2];
/// The other end of the uplink.
pub(crate) const OUTSIDE: [u8; 4] = [172, 30, 0, 1];

/// One of the three namespaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    Guest,
    Host,
    Outside,
}

pub(crate) struct Lab {
    tag: String,
}

impl Lab {
    /// The namespaces with [`nft::deny_all`] loaded and the links up, or why there are none.
    pub(crate) fn new() -> Option<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        if let Err(reason) = available() {
            eprintln!("skipped: {reason}");
            return None;
        }
        let tag = format!("hullfw-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let lab = Self { tag };
        for place in [Place::Guest, Place::Host, Place::Outside] {
            run(Command::new("ip").args(["netns", "add", &lab.name(place)]));
        }
        lab.load(&nft::deny_all());
        lab.wire();
        Some(lab)
    }

    fn wire(&self) {
        let (guest, host, outside) =
            (self.name(Place::Guest), self.name(Place::Host), self.name(Place::Outside));
        let link = |a: [&str; 2], b: [&str; 2]| {
            let ends =
                ["link", "add", a[0], "netns", a[1], "type", "veth", "peer", "name", b[0], "netns", b[1]];
            run(Command::new("ip").args(ends));
        };
        link(["vm0", &host], ["eth0", &guest]);
        link(["up0", &host], ["out0", &outside]);
        for (place, device) in
            [(Place::Guest, "eth0"), (Place::Host, "vm0"), (Place::Host, "up0"), (Place::Outside, "out0")]
        {
            self.write_sysctl(place, &format!("net/ipv6/conf/{device}/disable_ipv6"), "1");
            self.ip(place, &format!("link set {device} multicast off"));
        }
        for (path, value) in sysctls(&self.interfaces()) {
            self.write_sysctl(Place::Host, &path, value);
        }
        self.ip(Place::Guest, &format!("link set eth0 address {GUEST_MAC}"));
        for (place, device, address) in [
            (Place::Guest, "eth0", "10.0.2.15/24"),
            (Place::Host, "vm0", "10.0.2.2/24"),
            (Place::Host, "vm0", "10.0.2.3/32"),
            (Place::Host, "up0", "172.30.0.2/24"),
            (Place::Outside, "out0", "172.30.0.1/24"),
        ] {
            self.ip(place, &format!("address add {address} dev {device}"));
            self.ip(place, &format!("link set {device} up"));
        }
        self.ip(Place::Guest, "route add default via 10.0.2.2");
        self.ip(Place::Host, "route add default via 172.30.0.1");
        self.ip(Place::Outside, "link set lo up");
        self.ip(Place::Outside, "route add local 0.0.0.0/0 dev lo table main");
    }

    /// The names that the rules are written for.
    pub(crate) fn interfaces(&self) -> Interfaces {
        Interfaces {
            tap: "vm0".parse().unwrap(),
            uplink: "up0".parse().unwrap(),
            guest_mac: GUEST_MAC.parse().unwrap(),
        }
    }

    /// Loads a policy as the runner does, and reads it back.
    pub(crate) fn enforce(&self, compiled: &Compiled) {
        self.load(&nft::ruleset(compiled, &self.interfaces()));
        nft::verify(compiled, &self.interfaces(), &self.nft(&nft::LIST_RULESET)).unwrap();
    }

    /// Loads a text that must load.
    pub(crate) fn load(&self, text: &str) {
        let output = self.try_load(text);
        assert!(output.status.success(), "{}\n{text}", String::from_utf8_lossy(&output.stderr));
    }

    /// Loads a text that may not load.
    pub(crate) fn try_load(&self, text: &str) -> Output {
        let mut nft = self.command(Place::Host, "nft");
        let nft = nft.args(nft::LOAD).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = nft.spawn().unwrap();
        child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    }

    /// What nft answers.
    pub(crate) fn nft(&self, arguments: &[&str]) -> String {
        String::from_utf8(run(self.command(Place::Host, "nft").args(arguments))).unwrap()
    }

    pub(crate) fn counters(&self) -> nft::Counters {
        nft::parse_counters(&self.nft(&nft::LIST_COUNTERS)).unwrap()
    }

    /// Runs `ip` with arguments that are parted by spaces.
    pub(crate) fn ip(&self, place: Place, arguments: &str) {
        self.exec(place, "ip", &arguments.split(' ').collect::<Vec<_>>());
    }

    /// Runs a program that must succeed.
    pub(crate) fn exec(&self, place: Place, program: &str, arguments: &[&str]) {
        run(self.command(place, program).args(arguments));
    }

    pub(crate) fn write_sysctl(&self, place: Place, path: &str, value: &str) {
        let script = format!("echo {value} > /proc/sys/{path}");
        self.exec(place, "sh", &["-c", &script]);
    }

    /// Runs `work` on a thread inside a namespace; what it opens stays there.
    pub(crate) fn inside<T: Send>(&self, place: Place, work: impl FnOnce() -> T + Send) -> T {
        let namespace = File::open(format!("/run/netns/{}", self.name(place))).unwrap();
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
                work()
            });
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    fn command(&self, place: Place, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name(place), program]);
        command
    }

    fn name(&self, place: Place) -> String {
        format!("{}-{}", self.tag, format!("{place:?}").to_lowercase())
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for place in [Place::Guest, Place::Host, Place::Outside] {
            let deleted = Command::new("ip").args(["netns", "del", &self.name(place)]).status();
            if !deleted.is_ok_and(|status| status.success()) {
                eprintln!("network namespace {} is left over", self.name(place));
            }
        }
    }
}

fn available() -> Result<(), String> {
    if !rustix::process::geteuid().is_root() {
        return Err("network namespaces need root".to_owned());
    }
    for program in ["ip", "nft"] {
        let version = if program == "ip" { "-V" } else { "--version" };
        let found = Command::new(program).arg(version).stdout(Stdio::null()).stderr(Stdio::null()).status();
        found.map_err(|error| format!("`{program}`: {error}"))?;
    }
    Ok(())
}

fn run(command: &mut Command) -> Vec<u8> {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}
