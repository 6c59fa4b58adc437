//! How busy a VM is.

use serde::{Deserialize, Serialize};

/// How busy a VM is. Counters run from its start.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Stats {
    /// Processor time that QEMU has used, in milliseconds.
    pub cpu_ms: u64,
    /// Memory that QEMU occupies, in bytes.
    pub memory_bytes: u64,
    /// What passed the firewall and what did not, in the order of the rules.
    pub firewall: Vec<FirewallCounter>,
    /// What came through published ports, in the order of the rules.
    pub published: Vec<PublishedStats>,
    /// What the guest read and wrote.
    pub disks: Vec<DiskStats>,
}

/// Packets that a rule allowed, or that were dropped for one reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FirewallCounter {
    /// `ingress` or `egress` for what a rule allowed, `over rate` for what it allowed but for its rate,
    /// `dropped` for a reason to drop.
    pub kind: String,
    /// The rule's name, or the reason.
    pub name: String,
    /// Packets.
    pub packets: u64,
    /// Bytes.
    pub bytes: u64,
}

/// Connections (TCP) or conversations (UDP) through the ports that a rule publishes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PublishedStats {
    /// The ingress rule.
    pub rule: String,
    /// Let in.
    pub accepted: u64,
    /// Turned away because no rule lets their source in.
    pub denied_source: u64,
    /// Turned away because they came too fast.
    pub denied_rate: u64,
    /// Turned away because as many were open as may be.
    pub denied_connections: u64,
    /// Let in, but the guest did not answer.
    pub unanswered: u64,
}

/// What the guest read from and wrote to a disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DiskStats {
    /// The disk's name.
    pub name: String,
    /// Bytes read.
    pub read_bytes: u64,
    /// Bytes written.
    pub written_bytes: u64,
}

/// Processor time in milliseconds and resident memory in bytes of a process; zeros if it is gone.
///
/// Source: proc(5), `/proc/PID/stat` fields 14, 15 and 24.
pub(super) fn of_process(pid: i32) -> (u64, u64) {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields: Vec<u64> = stat
        .rsplit_once(')')
        .map(|(_, rest)| {
            rest.split_ascii_whitespace().skip(1).map(|field| field.parse().unwrap_or(0)).collect()
        })
        .unwrap_or_default();
    let field = |number: usize| fields.get(number - 4).copied().unwrap_or(0);
    let ticks_per_second = rustix::param::clock_ticks_per_second();
    let pages = field(24).saturating_mul(rustix::param::page_size() as u64);
    ((field(14) + field(15)) * 1000 / ticks_per_second.max(1), pages)
}
