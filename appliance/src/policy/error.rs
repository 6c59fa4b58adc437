//! Why a policy, or a value in one, cannot be used.
//!
//! Says what was found and what was wanted, in words that hold for the blob and for `hull.toml`; never
//! where, which is [`Fault`]'s business.

use std::net::IpAddr;

use ipnet::IpNet;

use super::Proto;
use crate::Fault;

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
    /// Too many rules.
    #[error("{count} {direction} rules; there are at most 1024")]
    TooManyRules {
        /// `ingress` or `egress`.
        direction: &'static str,
        /// How many there are.
        count: usize,
    },
    /// A rule that names no port.
    #[error("{direction} rule `{rule}` names no port; expected at least one")]
    NoPorts {
        /// `ingress` or `egress`.
        direction: &'static str,
        /// The rule's name.
        rule: String,
    },
    /// A published rule whose ports run past 65535 on the host.
    #[error("rule `{rule}` publishes {count} ports from {host_port}; the last one is past 65535")]
    PublishOverflow {
        /// The rule's name.
        rule: String,
        /// The first port on the host.
        host_port: u16,
        /// How many ports the rule has.
        count: u64,
    },
    /// Two rules that want the same port of the host.
    #[error(
        "rules `{first}` and `{rule}` both publish {} port {host_port}, at {first_bind} and {bind}",
        .proto.as_str()
    )]
    PublishedTwice {
        /// The rule that comes first.
        first: String,
        /// Its address.
        first_bind: IpAddr,
        /// The other rule.
        rule: String,
        /// Its address.
        bind: IpAddr,
        /// The protocol.
        proto: Proto,
        /// The lowest port that both want.
        host_port: u16,
    },
    /// Names to be asked for, and no proxy that tells names apart.
    #[error("dns names are listed with mode `{mode}`; only mode `proxy` lets some names pass and not others")]
    NamesWithoutProxy {
        /// The mode.
        mode: &'static str,
    },
    /// A number that cannot be enforced.
    #[error("{field} is {found}; expected {least} to {most}")]
    OutOfRange {
        /// Which number.
        field: &'static str,
        /// What the policy says.
        found: u64,
        /// The least it may say.
        least: u64,
        /// The most it may say.
        most: u64,
    },
    /// A health check of a path that cannot stand in a request.
    #[error("`{path}` is not a path to ask for; expected `/` and printable ASCII without spaces")]
    BadPath {
        /// The path, control characters escaped.
        path: String,
    },
    /// A key of the machines that is no machine's name.
    #[error("`{name}` is not a machine's name; expected 1 to 63 lower-case letters, digits and `-`")]
    BadMachineName {
        /// The name, control characters escaped.
        name: String,
    },
    /// More signatures than there are keys to make them.
    #[error(
        "{require} signatures are required and {keys} different keys listed; no appliance could have them"
    )]
    TooFewKeys {
        /// How many are required.
        require: u32,
        /// How many different keys there are.
        keys: usize,
    },
    /// A last day that is no day.
    #[error("`{text}` is not a day; expected one such as 2027-06-30")]
    BadDay {
        /// What was found, control characters escaped.
        text: String,
    },
    /// A policy for a machine that the appliance has not got.
    #[error("the appliance has no machine `{name}` that the policy could hold for")]
    NoSuchMachine {
        /// The name.
        name: String,
    },
    /// A peer that is no machine of the appliance.
    #[error("`peer:{name}` is no machine of the appliance; it has {machines}")]
    NoSuchPeer {
        /// The name.
        name: String,
        /// The machines that there are.
        machines: String,
    },
    /// A published port of a machine without a NIC.
    #[error("rule `{rule}` publishes a port of machine `{machine}`, which has no NIC")]
    PublishWithoutNic {
        /// The rule's name.
        rule: String,
        /// The machine's name.
        machine: String,
    },
    /// A health check over the network, of a machine without a NIC.
    #[error("machine `{machine}` has no NIC, so this check could never pass; use `ready`")]
    CheckWithoutNic {
        /// The machine's name.
        machine: String,
    },
}

impl From<Fault<Self>> for PolicyError {
    fn from(fault: Fault<Self>) -> Self {
        fault.error
    }
}
