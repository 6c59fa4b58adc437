//! A network, a `/run` and nothing else of a test's own: what VMs do to their host's network, and what
//! other tests do to it, cannot be mixed up.
//!
//! A process that sleeps holds the two namespaces; with it they go.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::registry::Guard;

/// Namespaces for network and mounts. `/run` in it is empty and nobody else's.
#[derive(Debug)]
pub(crate) struct World {
    holder: Guard,
}

impl World {
    /// A world whose only network interface is loopback; `None`, and says that the test skips, where
    /// this may not make one.
    pub(crate) fn new() -> Option<Self> {
        let script = "mount -t tmpfs tmpfs /run && ip link set lo up && echo made && exec sleep infinity";
        let mut command = Command::new("unshare");
        command.args(["--mount", "--net", "--propagation", "private", "sh", "-c", script]);
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
        let Ok(child) = child else {
            eprintln!("skipped: `unshare` is not installed");
            return None;
        };
        let mut holder = Guard(child);
        let mut made = String::new();
        BufReader::new(holder.0.stdout.take().unwrap()).read_line(&mut made).unwrap();
        if made.is_empty() {
            eprintln!("skipped: may not make namespaces");
            return None;
        }
        Some(Self { holder })
    }

    /// `program`, to be run in this world and in `folder`.
    pub(crate) fn command(&self, program: &str, folder: &Path) -> Command {
        let mut command = Command::new("/usr/bin/nsenter");
        let target = self.holder.0.id().to_string();
        command.args(["--target", &target, "--mount", "--net"]);
        command.arg(format!("--wd={}", folder.display())).arg("--").arg(program);
        command
    }

    /// Runs a program in this world, which succeeds, and returns what it wrote.
    #[track_caller]
    pub(crate) fn run(&self, line: &str) -> String {
        let mut words = line.split_ascii_whitespace();
        let mut command = self.command(words.next().unwrap(), Path::new("/"));
        let output = command.args(words).output().unwrap();
        assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Does `work` in this world's network, or in that of the namespace that it calls `name`. A socket
    /// that is made there stays there.
    #[track_caller]
    pub(crate) fn inside<T: Send>(&self, name: Option<&str>, work: impl FnOnce() -> T + Send) -> T {
        let path = match name {
            None => PathBuf::from(format!("/proc/{}/ns/net", self.holder.0.id())),
            Some(name) => self.path(&format!("/run/netns/{name}")),
        };
        let namespace = File::open(&path).unwrap();
        let enter_and_work = || {
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
            work()
        };
        std::thread::scope(|scope| scope.spawn(enter_and_work).join().unwrap())
    }

    /// Where a file of this world is for us.
    pub(crate) fn path(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{path}", self.holder.0.id()))
    }

    /// Everything that VMs may change in a host's network, and what they leave in `/run`: one line each.
    pub(crate) fn state(&self) -> Vec<String> {
        let mut state: Vec<String> = Vec::new();
        let lines = |text: String| text.lines().map(str::to_owned).collect::<Vec<_>>();
        state.extend(lines(self.run("ip -brief address")));
        state.extend(lines(self.run("ip -4 route")));
        state.extend(lines(self.run("nft list ruleset")));
        state.extend(lines(self.run("sysctl net.ipv4.ip_forward")));
        for folder in ["/run/netns", "/run/hull"] {
            let entries = fs::read_dir(self.path(folder)).into_iter().flatten();
            state.extend(entries.map(|entry| entry.unwrap().path().display().to_string()));
        }
        // A lock that nobody holds is nothing.
        state.retain(|line| !line.ends_with("/run/hull/network.lock"));
        state
    }
}
