//! What is written down about a VM: its spec, once; its state, at every change; its events, in order.
//!
//! These are wire types: JSON on disk, read by whichever hull comes next. Unknown fields are
//! ignored, so that an older hull can list what a newer one started.

use appliance::{Digest, Reference};
use serde::{Deserialize, Serialize};

use crate::kvm::AccelRequest;

/// What a VM is: written when it is created and never again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Spec {
    /// What people call it; the name of its folder.
    pub name: String,
    /// Eight hex digits, unique on this machine: names its network namespace and interfaces.
    pub id: String,
    /// What it was started from.
    pub reference: Reference,
    /// The appliance's manifest: what it really is.
    pub manifest: Digest,
    /// The machine of the appliance that it runs.
    pub machine: String,
    /// What was asked for.
    pub accel: AccelRequest,
    /// Host addresses that lead to guest ports, in place of those that the image names.
    #[serde(default)]
    pub publish: Vec<PublishAt>,
    /// Seconds since 1970, UTC.
    pub created_unix_s: u64,
}

/// How a VM is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct State {
    /// In one word.
    pub status: Status,
    /// Why, where that is not obvious: the whole chain of reasons, one line.
    pub reason: Option<String>,
    /// When the status last changed: seconds since 1970, UTC.
    pub since_unix_s: u64,
    /// What executes the guest: `kvm` or `tcg`.
    pub accel: Option<String>,
    /// Why that, for people.
    pub accel_reason: Option<String>,
    /// Host addresses that lead to the guest's ports.
    pub ports: Vec<PublishedPort>,
    /// What the host could not enforce or give, for people.
    pub notices: Vec<String>,
    /// Whether its guest was ever let run: then there may be something to lose.
    pub has_run: bool,
    /// QEMU, while it runs.
    pub qemu: Option<ProcessId>,
    /// How often it was started again by itself.
    pub restarts: u32,
}

/// How a VM is, in one word.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// It has a folder, and nothing runs yet.
    #[default]
    Created,
    /// Network, disks and QEMU are being set up.
    Starting,
    /// The guest runs; its health check, if it has one, has not passed yet.
    Running,
    /// The guest runs and its health check passes.
    Ready,
    /// The guest runs and its health check fails.
    Unhealthy,
    /// It ended, and is started again after a pause, as its policy says.
    Restarting,
    /// It was asked to stop.
    Stopping,
    /// It ended as it was asked to, or shut itself down.
    Stopped,
    /// It could not start, or ended in another way.
    Failed,
}

impl Status {
    /// True while a supervisor must be there for it.
    pub fn is_alive(self) -> bool {
        !matches!(self, Self::Created | Self::Stopped | Self::Failed)
    }

    /// The word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Ready => "ready",
            Self::Unhealthy => "unhealthy",
            Self::Restarting => "restarting",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
            Self::Failed => "failed",
        }
    }
}

/// A host address that is to lead to a guest port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PublishAt {
    /// Where the host listens.
    pub host: std::net::SocketAddr,
    /// The guest's port: the first port of an ingress rule.
    pub guest_port: u16,
}

/// A host address that leads to a guest port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PublishedPort {
    /// The ingress rule that publishes it.
    pub rule: String,
    /// `tcp` or `udp`.
    pub proto: String,
    /// Where the host listens, such as `127.0.0.1:8080`.
    pub host: std::net::SocketAddr,
    /// The guest's port.
    pub guest_port: u16,
}

/// A process that is surely the same one: its number, and when it started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProcessId {
    /// The process number.
    pub pid: i32,
    /// Start time in clock ticks since the host booted: field 22 of `/proc/PID/stat`, proc(5).
    pub start_ticks: u64,
}

impl ProcessId {
    /// The process with this number, if there is one.
    pub fn of(pid: i32) -> Option<Self> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The second field is the command in parentheses and may hold anything, `)` and spaces too.
        let after_command = stat.rsplit_once(')')?.1;
        let start_ticks = after_command.split_ascii_whitespace().nth(19)?.parse().ok()?;
        Some(Self { pid, start_ticks })
    }

    /// True while this very process is there.
    pub fn is_alive(&self) -> bool {
        Self::of(self.pid).as_ref() == Some(self)
    }

    /// Ends the process at once, if it is still this one, and waits until it is gone.
    pub fn kill(&self) {
        use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
        let Some(pid) = Pid::from_raw(self.pid) else { return };
        let Ok(pidfd) = pidfd_open(pid, PidfdFlags::empty()) else { return };
        // The descriptor pins whoever has the number now; only then is the start time worth comparing.
        if !self.is_alive() || pidfd_send_signal(&pidfd, Signal::KILL).is_err() {
            return;
        }
        let mut ended = [rustix::event::PollFd::new(&pidfd, rustix::event::PollFlags::IN)];
        // A killed process ends; should the kernel hold it for ever, so would any wait of ours.
        let limit = rustix::event::Timespec { tv_sec: 10, tv_nsec: 0 };
        let _ = rustix::event::poll(&mut ended, Some(&limit));
    }
}

/// Something that happened to a VM: a line of `events.jsonl`, and of what `hull run` listens to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Event {
    /// Seconds since 1970, UTC.
    pub unix_s: u64,
    /// How the VM is from now on.
    pub status: Status,
    /// Why.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub reason: Option<String>,
}

/// Seconds since 1970, UTC.
pub fn unix_now_s() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}
