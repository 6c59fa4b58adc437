//! What an appliance asks of the host that runs it, and what it forbids itself: the policy blob.
//!
//! Allow-only and order-free: rules add up, nothing shadows anything, and what no rule allows is
//! dropped. So "is this wider than before?" has an answer. These are the values as written; what
//! they mean for a packet is decided in `firewall`, and never here.
//!
//! Stored as canonical JSON, one document for the whole appliance.
//!
//! Source: `docs/formats/appliance.md`, section 5.

mod check;
mod error;
mod peer;
mod ports;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};

pub use error::PolicyError;
pub use peer::{Fqdn, Peer};
pub use ports::PortRange;

use crate::canonical;

/// The policy of an appliance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Policy {
    /// Version of this document; 1.
    pub policy_version: u32,
    /// What holds for each machine, by its name. A machine that is not listed is denied everything.
    pub machines: BTreeMap<String, MachinePolicy>,
    /// Who must have signed the appliance.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub trust: Option<Trust>,
    /// Where it may run.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub placement: Option<Placement>,
    /// The last day on which it may be started, as `YYYY-MM-DD` in UTC.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub expires: Option<String>,
}

/// What holds for one machine. The default denies everything and limits nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MachinePolicy {
    /// Its packet rules.
    #[serde(default)]
    pub firewall: Firewall,
    /// Limits that the runner enforces.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub resources: Option<Resources>,
    /// How to tell that it works.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub health: Option<Health>,
    /// What happens when it stops or does not get well.
    #[serde(default)]
    pub lifecycle: Lifecycle,
}

/// A machine's packet rules. The default has none, so nothing passes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Firewall {
    /// Whether what is not allowed is dropped or only counted.
    #[serde(default)]
    pub mode: Mode,
    /// What becomes of open flows that a new policy denies.
    #[serde(default)]
    pub on_narrow: OnNarrow,
    /// Which pings pass. Errors that belong to an allowed flow always do.
    #[serde(default)]
    pub icmp: Icmp,
    /// Whom the machine may ask for names.
    #[serde(default)]
    pub dns: Dns,
    /// Bounds on the machine's flows.
    #[serde(default)]
    pub limits: FlowLimits,
    /// What may reach the machine.
    #[serde(default)]
    pub ingress: Vec<IngressRule>,
    /// What the machine may reach.
    #[serde(default)]
    pub egress: Vec<EgressRule>,
}

/// Whether the rules are enforced.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// What is not allowed is dropped.
    #[default]
    Enforce,
    /// What is not allowed is counted and passes. Takes effect only where the host agrees.
    Audit,
}

/// What becomes of open flows that a new policy denies.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnNarrow {
    /// They end.
    #[default]
    Cut,
    /// They go on until they end by themselves.
    Keep,
}

/// Which pings pass.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Icmp {
    /// Echo requests to the machine.
    #[serde(default)]
    pub ping_in: bool,
    /// Echo requests from the machine.
    #[serde(default)]
    pub ping_out: bool,
}

/// Whom the machine may ask for names.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Dns {
    /// How name queries are treated.
    #[serde(default)]
    pub mode: DnsMode,
    /// Names that may be asked for besides those in `fqdn:` peers; none unless [`DnsMode::Proxy`].
    #[serde(default)]
    pub names: Vec<Fqdn>,
}

/// How name queries are treated.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DnsMode {
    /// No queries.
    #[default]
    None,
    /// Only to the host's proxy, only for names that the policy lists.
    Proxy,
    /// To the host's resolver, for any name.
    Open,
}

/// Bounds on a machine's flows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FlowLimits {
    /// Flows at one time.
    pub flows: u32,
    /// New flows in a second, both directions together.
    pub new_flows_per_second: u32,
    /// What the machine may send, in Mbit/s; absent for no limit.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub egress_mbit: Option<u32>,
}

impl FlowLimits {
    /// What [`FlowLimits::flows`] and [`FlowLimits::new_flows_per_second`] may be.
    pub const FLOWS: RangeInclusive<u32> = 1..=1_000_000;
    /// What [`FlowLimits::egress_mbit`] may be.
    pub const EGRESS_MBIT: RangeInclusive<u32> = 1..=400_000;
}

impl Default for FlowLimits {
    fn default() -> Self {
        Self { flows: 16_384, new_flows_per_second: 500, egress_mbit: None }
    }
}

/// One reason to let a connection in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct IngressRule {
    /// Unique among the machine's ingress rules; counters, logs and explanations use it.
    pub name: String,
    /// The transport protocol.
    pub proto: Proto,
    /// The machine's ports, at least one.
    pub ports: Vec<PortRange>,
    /// Who may connect. Empty: nobody.
    pub from: Vec<Peer>,
    /// The host's port that leads here; no two rules share one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub publish: Option<Publish>,
    /// How fast new connections may come.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub rate: Option<Rate>,
    /// Connections at one time through this rule; absent for no bound of its own.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub max_connections: Option<u32>,
    /// What of it is logged.
    #[serde(default)]
    pub log: LogPolicy,
}

/// One reason to let a connection out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EgressRule {
    /// Unique among the machine's egress rules; counters, logs and explanations use it.
    pub name: String,
    /// The transport protocol.
    pub proto: Proto,
    /// The other side's ports, at least one.
    pub ports: Vec<PortRange>,
    /// Whom the machine may reach. Empty: nobody.
    pub to: Vec<Peer>,
    /// How fast new connections may go out.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub rate: Option<Rate>,
    /// What of it is logged.
    #[serde(default)]
    pub log: LogPolicy,
}

/// A transport protocol that rules can name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Proto {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Proto {
    /// The name in lower case, as nft and hull.toml spell it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

/// A host's port that leads to the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Publish {
    /// The first port on the host; the rule's further ports follow it one by one.
    pub host_port: u16,
    /// The host's address that listens; 127.0.0.1 unless the author says otherwise.
    #[serde(default = "loopback")]
    pub bind: IpAddr,
}

fn loopback() -> IpAddr {
    IpAddr::from([127, 0, 0, 1])
}

/// How fast new connections may come: a token bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Rate {
    /// Tokens that arrive in a second.
    pub new_per_second: u32,
    /// The most tokens that wait.
    pub burst: u32,
    /// Who shares a bucket.
    #[serde(default)]
    pub per: RatePer,
}

impl Rate {
    /// What [`Rate::new_per_second`] and [`Rate::burst`] may be.
    pub const TOKENS: RangeInclusive<u32> = 1..=1_000_000;
}

/// Who shares a token bucket.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RatePer {
    /// Everybody that the rule lets in.
    #[default]
    Rule,
    /// Each source address for itself.
    Source,
}

/// What of a rule's traffic is logged; always limited in rate.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogPolicy {
    /// Nothing.
    #[default]
    None,
    /// What the rule's own limits turn away.
    Denied,
    /// Each new connection.
    New,
}

/// Limits that the runner enforces.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Resources {
    /// Limits on each disk.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub disk: Option<DiskLimits>,
}

/// Limits on a disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DiskLimits {
    /// Reads and writes in a second.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub iops: Option<u32>,
    /// Megabytes (10^6 bytes) in a second.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub mbps: Option<u32>,
}

/// How to tell that a machine works.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Health {
    /// What is asked of it.
    pub check: HealthCheck,
    /// Time between two checks, in milliseconds.
    pub interval_ms: u64,
    /// Time after the start in which a failed check does not count, in milliseconds.
    pub start_period_ms: u64,
    /// Failed checks in a row that make it unhealthy.
    pub retries: u32,
}

impl Health {
    /// The longest that [`Health::interval_ms`] and [`Health::start_period_ms`] may be: 7 days.
    pub const LONGEST_MS: u64 = 7 * 24 * 3_600_000;
    /// What [`Health::retries`] may be.
    pub const RETRIES: RangeInclusive<u32> = 1..=1000;
}

/// What a health check asks of a machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum HealthCheck {
    /// A GET that must be answered with a status from 200 to 399.
    Http {
        /// The machine's port.
        port: u16,
        /// The path and query, starting with `/`.
        path: String,
    },
    /// A connection that must be accepted.
    Tcp {
        /// The machine's port.
        port: u16,
    },
    /// The guest writes `READY=1` to its virtio-serial port `dev.hullvm.ready`.
    Ready,
}

/// What happens when a machine stops or does not get well.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Lifecycle {
    /// When it is started again.
    #[serde(default)]
    pub restart: Restart,
    /// Starts after the first one that are tried; absent for no bound.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub max_restarts: Option<u32>,
    /// When an upgrade goes back by itself.
    #[serde(default)]
    pub rollback: Rollback,
}

/// When a machine is started again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Restart {
    /// Never.
    #[default]
    No,
    /// After it failed.
    OnFailure,
    /// Whenever it stopped and nobody asked it to.
    Always,
}

/// When an upgrade goes back by itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rollback {
    /// Never.
    #[default]
    No,
    /// When the new version does not become healthy.
    OnUnhealthy,
}

/// Who must have signed an appliance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Trust {
    /// How many of the keys must have signed; not more than there are.
    pub require: u32,
    /// The keys, such as `ed25519:...`.
    pub keys: Vec<String>,
}

/// Where an appliance may run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Placement {
    /// Names of hosts, `*` for any part of a label. Empty: anywhere.
    #[serde(default)]
    pub hosts: Vec<String>,
}

impl Policy {
    /// Reads a policy blob and checks every value in it.
    ///
    /// # Errors
    ///
    /// [`PolicyError`] where the blob is not a policy, is of another version, or holds rules that
    /// cannot be enforced.
    pub fn parse(bytes: &[u8]) -> Result<Self, PolicyError> {
        let policy: Self = serde_json::from_slice(bytes).map_err(PolicyError::Malformed)?;
        policy.check()?;
        Ok(policy)
    }

    /// The canonical bytes, which are what gets hashed and signed.
    pub fn to_bytes(&self) -> Vec<u8> {
        canonical::to_vec(self)
    }

    /// What holds for `machine`; everything denied where the policy does not list it.
    pub fn machine(&self, machine: &str) -> MachinePolicy {
        self.machines.get(machine).cloned().unwrap_or_default()
    }
}

impl IngressRule {
    /// Which host port leads to which port of the machine, in order; empty unless published.
    pub fn published_ports(&self) -> Vec<(u16, u16)> {
        let Some(publish) = self.publish else { return Vec::new() };
        (publish.host_port..=u16::MAX)
            .zip(self.ports.iter().flat_map(|range| range.first()..=range.last()))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_reads_back_as_the_bytes_it_was() {
        let bytes = canonical::to_vec(&serde_json::json!({
            "policyVersion": 1,
            "machines": { "web": {
                "firewall": {
                    "mode": "enforce", "onNarrow": "cut", "icmp": { "pingIn": false, "pingOut": true },
                    "dns": { "mode": "proxy", "names": ["ntp.example.org"] },
                    "limits": { "flows": 16384, "newFlowsPerSecond": 500 },
                    "ingress": [{
                        "name": "http", "proto": "tcp", "ports": [80, "8000-8010"], "from": ["0.0.0.0/0", "::/0"],
                        "publish": { "hostPort": 8080, "bind": "127.0.0.1" },
                        "rate": { "newPerSecond": 50, "burst": 100, "per": "source" }, "log": "none",
                    }],
                    "egress": [{
                        "name": "packages", "proto": "tcp", "ports": [443], "log": "none",
                        "to": ["fqdn:packages.example.org", { "cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"] }],
                    }],
                },
                "health": { "check": { "http": { "port": 80, "path": "/healthz" } },
                    "intervalMs": 10_000, "startPeriodMs": 120_000, "retries": 3 },
                "lifecycle": { "restart": "on-failure", "maxRestarts": 5, "rollback": "on-unhealthy" },
            } },
            "expires": "2027-06-30",
        }));
        let policy = Policy::parse(&bytes).unwrap();
        assert_eq!(String::from_utf8(policy.to_bytes()).unwrap(), String::from_utf8(bytes).unwrap());
        let http = &policy.machine("web").firewall.ingress[0];
        assert_eq!(http.published_ports()[..2], [(8080, 80), (8081, 8000)]);
        assert_eq!(policy.machine("other"), MachinePolicy::default());
    }
}
