//! The words in which the compiler, the kernel's counters and the oracle speak about packets.

use std::fmt;

/// Which way a connection is opened, as the machine sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Direction {
    /// To the machine.
    Ingress,
    /// From the machine.
    Egress,
}

impl Direction {
    /// `ingress` or `egress`, as in hull.toml.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        }
    }
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why a packet did not pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Denial {
    /// No ingress rule allows it.
    NoIngressRule,
    /// No egress rule allows it.
    NoEgressRule,
    /// Rules allow it, but each of them is over its rate.
    RuleRate,
    /// The machine has as many flows as it may.
    Flows,
    /// The machine opened as many flows in this second as it may.
    NewFlows,
    /// The machine sent as much in this second as it may.
    Bandwidth,
    /// The source is not the machine's own address.
    Spoofed,
    /// A fragment of an IP packet.
    Fragment,
    /// Belongs to no flow and opens none: not a SYN, an answer to nothing, a bad checksum.
    Invalid,
    /// Comes from outside and answers nothing that the machine sent.
    Unsolicited,
    /// To a link-local address, which is where clouds keep credentials.
    LinkLocal,
    /// To a multicast or broadcast address.
    Multicast,
    /// To the host's own network stack: loopback, the host's addresses, services that no rule names.
    HostService,
    /// To an address of the machine's own subnet, where nobody else is.
    OwnSubnet,
    /// Neither TCP, UDP nor ICMP.
    Protocol,
    /// IPv6, which machines are not given an address for.
    Ipv6,
    /// ARP that speaks for somebody else, or is no question and no answer.
    Arp,
    /// A frame that carries neither IPv4, IPv6 nor ARP.
    EtherType,
}

impl Denial {
    /// Every reason, in the order in which people should read them.
    pub const ALL: [Self; 18] = [
        Self::NoIngressRule,
        Self::NoEgressRule,
        Self::RuleRate,
        Self::Flows,
        Self::NewFlows,
        Self::Bandwidth,
        Self::Spoofed,
        Self::Fragment,
        Self::Invalid,
        Self::Unsolicited,
        Self::LinkLocal,
        Self::Multicast,
        Self::HostService,
        Self::OwnSubnet,
        Self::Protocol,
        Self::Ipv6,
        Self::Arp,
        Self::EtherType,
    ];

    /// A short name, lower case with `-`; part of `--json` output and of counters' names.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NoIngressRule => "no-ingress-rule",
            Self::NoEgressRule => "no-egress-rule",
            Self::RuleRate => "rule-rate",
            Self::Flows => "flows",
            Self::NewFlows => "new-flows",
            Self::Bandwidth => "bandwidth",
            Self::Spoofed => "spoofed",
            Self::Fragment => "fragment",
            Self::Invalid => "invalid",
            Self::Unsolicited => "unsolicited",
            Self::LinkLocal => "link-local",
            Self::Multicast => "multicast",
            Self::HostService => "host-service",
            Self::OwnSubnet => "own-subnet",
            Self::Protocol => "protocol",
            Self::Ipv6 => "ipv6",
            Self::Arp => "arp",
            Self::EtherType => "ether-type",
        }
    }
}

impl fmt::Display for Denial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
