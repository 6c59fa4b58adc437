//! What an appliance asks of the host that runs it, and what it forbids itself: the policy blob.
//!
//! Allow-only and order-free: rules add up, nothing shadows anything, and what no rule allows is
//! dropped. So "is this wider than before?" has an answer. These are the values as written; what
//! they mean for a packet is decided in `firewall`.
//!
//! Stored as canonical JSON, one document for the whole appliance.

mod peer;
mod ports;

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

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
    /// Names that may be asked for besides those in `fqdn:` peers; only with [`DnsMode::Proxy`].
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
    /// The machine's ports.
    pub ports: Vec<PortRange>,
    /// Who may connect. Empty: nobody.
    pub from: Vec<Peer>,
    /// The host's port that leads here.
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
    /// The other side's ports.
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
    /// How many of the keys must have signed.
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

/// Why a policy, or a value in one, cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PolicyError {
    /// Not JSON, or not of this shape.
    #[error("the appliance's policy is not as policy version 1 says")]
    Malformed(#[source] serde_json::Error),
    /// Written by a newer hull.
    #[error("the appliance's policy has version {found}; this hull enforces version 1")]
    Version {
        /// What the policy says.
        found: u32,
    },
    /// Two rules of one direction share a name.
    #[error("two {direction} rules are named `{name}`")]
    DuplicateRule {
        /// `ingress` or `egress`.
        direction: &'static str,
        /// The shared name, control characters escaped.
        name: String,
    },
    /// A rule's name that could not stand in a counter's name.
    #[error("`{name}` is not a rule name; expected 1 to 63 lower-case letters, digits and `-`")]
    BadRuleName {
        /// The name, control characters escaped.
        name: String,
    },
    /// A range that starts at 0, ends before it starts, or is no range.
    #[error("`{text}` is not a port or range of ports; expected 1 to 65535, such as 443 or \"8000-8010\"")]
    BadPorts {
        /// What was found, control characters escaped.
        text: String,
    },
    /// A peer that is none of the known kinds.
    #[error(
        "`{text}` is not a peer; expected an address range such as \"10.0.0.0/8\", \"fqdn:name\", \
         \"peer:machine\" or \"host\""
    )]
    BadPeer {
        /// What was found, control characters escaped.
        text: String,
    },
    /// An address range whose address has bits after the prefix.
    #[error("`{found}` has address bits after its prefix; did you mean `{meant}`?")]
    HostBits {
        /// What was found.
        found: IpNet,
        /// The range that holds it.
        meant: IpNet,
    },
    /// An exception outside of what it is an exception to.
    #[error("exception `{except}` is not inside `{cidr}`")]
    ExceptOutside {
        /// The exception.
        except: IpNet,
        /// The range.
        cidr: IpNet,
    },
    /// Not a domain name.
    #[error("`{text}` is not a domain name; expected labels of letters, digits and `-`, `*.` only in front")]
    BadFqdn {
        /// What was found, control characters escaped.
        text: String,
    },
    /// A published rule whose ports run past 65535 on the host.
    #[error("rule `{rule}` publishes {count} ports from {host_port}; the last one is past 65535")]
    PublishOverflow {
        /// The rule's name.
        rule: String,
        /// The first port on the host.
        host_port: u16,
        /// How many ports the rule has.
        count: u32,
    },
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

    /// Checks what the types alone do not: names and uniqueness of rules, published ports.
    ///
    /// # Errors
    ///
    /// As [`Policy::parse`].
    pub fn check(&self) -> Result<(), PolicyError> {
        if self.policy_version != 1 {
            return Err(PolicyError::Version { found: self.policy_version });
        }
        self.machines.values().try_for_each(|machine| machine.firewall.check())
    }

    /// What holds for `machine`; everything denied where the policy does not list it.
    pub fn machine(&self, machine: &str) -> MachinePolicy {
        self.machines.get(machine).cloned().unwrap_or_default()
    }
}

impl Firewall {
    /// Checks names and uniqueness of rules, and published ports.
    ///
    /// # Errors
    ///
    /// [`PolicyError::DuplicateRule`], [`PolicyError::BadRuleName`], [`PolicyError::PublishOverflow`].
    pub fn check(&self) -> Result<(), PolicyError> {
        check_names("ingress", self.ingress.iter().map(|rule| rule.name.as_str()))?;
        check_names("egress", self.egress.iter().map(|rule| rule.name.as_str()))?;
        for rule in &self.ingress {
            let count: u32 = rule.ports.iter().map(PortRange::count).sum();
            let Some(publish) = rule.publish else { continue };
            if u32::from(publish.host_port) + count > 1 << 16 {
                let rule = rule.name.clone();
                return Err(PolicyError::PublishOverflow { rule, host_port: publish.host_port, count });
            }
        }
        Ok(())
    }
}

fn check_names<'a>(direction: &'static str, names: impl Iterator<Item = &'a str>) -> Result<(), PolicyError> {
    let mut seen = std::collections::BTreeSet::new();
    for name in names {
        if !crate::config::is_label(name) {
            return Err(PolicyError::BadRuleName { name: name.escape_debug().to_string() });
        }
        if !seen.insert(name) {
            return Err(PolicyError::DuplicateRule { direction, name: name.to_owned() });
        }
    }
    Ok(())
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

    #[test]
    fn two_rules_cannot_share_a_name() {
        let rule = serde_json::json!({ "name": "a", "proto": "tcp", "ports": [1], "to": [] });
        let bytes = serde_json::to_vec(&serde_json::json!({
            "policyVersion": 1, "machines": { "web": { "firewall": { "egress": [rule, rule] } } }
        }));
        let error = Policy::parse(&bytes.unwrap()).unwrap_err();
        assert_eq!(error.to_string(), "two egress rules are named `a`");
    }
}
