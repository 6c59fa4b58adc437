//! A VM's processes and files, seen from outside.

use std::fs::{self, File};
use std::path::PathBuf;

use rustix::fs::{FlockOperation, flock};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::Host;

/// A VM of `host`, there or not.
#[derive(Debug)]
pub(crate) struct Vm<'h> {
    host: &'h Host,
    /// Unique on this machine, so that its QEMU can be told from those of other tests.
    pub(crate) name: String,
}

impl<'h> Vm<'h> {
    /// A name for a VM that no other test's has.
    pub(crate) fn of(host: &'h Host, name: &str) -> Self {
        let unique = host.folder().file_name().unwrap().to_str().unwrap();
        let unique: String = unique.chars().filter(char::is_ascii_alphanumeric).collect();
        Self { host, name: format!("{name}-{}", unique.to_ascii_lowercase()) }
    }

    pub(crate) fn folder(&self) -> PathBuf {
        self.host.home().join("vms").join(&self.name)
    }

    /// What was written down about it, as it stands there; null where nothing was.
    pub(crate) fn written(&self, file: &str) -> Value {
        let text = fs::read(self.folder().join(file)).unwrap_or_default();
        serde_json::from_slice(&text).unwrap_or_default()
    }

    /// The status that was written down last.
    pub(crate) fn written_status(&self) -> String {
        self.written("state.json")["status"].as_str().unwrap_or_default().to_owned()
    }

    /// Its id; empty as long as it has none.
    pub(crate) fn id(&self) -> String {
        self.written("spec.json")["id"].as_str().unwrap_or_default().to_owned()
    }

    /// True if nobody holds its lock.
    pub(crate) fn is_unlocked(&self) -> bool {
        let lock = File::options().append(true).open(self.folder().join("lock")).unwrap();
        let is_ours = flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok();
        // Given back at once, even if another test has just forked and its child has a copy of the file.
        let _ = flock(&lock, FlockOperation::Unlock);
        is_ours
    }

    /// Its supervisor, if that runs.
    pub(crate) fn supervisor(&self) -> Option<i32> {
        let folder = self.folder();
        process(|words| words.get(1) == Some(&"supervise") && words.get(2).copied() == folder.to_str())
    }

    /// Its QEMU, if that runs.
    pub(crate) fn qemu(&self) -> Option<i32> {
        let guest = format!("guest=hull-{},", self.name);
        process(|words| words.iter().any(|word| word.starts_with(&guest)))
    }
}

/// A process whose command line `is_wanted`. One that has ended has no command line.
fn process(is_wanted: impl Fn(&[&str]) -> bool) -> Option<i32> {
    fs::read_dir("/proc").unwrap().flatten().find_map(|process| {
        let pid = process.file_name().to_str()?.parse().ok()?;
        let line = fs::read(process.path().join("cmdline")).ok()?;
        let line = String::from_utf8_lossy(&line);
        let words: Vec<&str> = line.split('\0').collect();
        is_wanted(&words).then_some(pid)
    })
}

/// `kill -9`. A process that has ended is dead already.
pub(crate) fn kill(pid: i32) {
    send(pid, Signal::KILL);
}

pub(crate) fn send(pid: i32, signal: Signal) {
    let _ = kill_process(Pid::from_raw(pid).unwrap(), signal);
}
