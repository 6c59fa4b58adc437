//! The independent answer: may this packet pass? A linear scan over the policy as written.
//!
//! Written from the policy schema's text, not from the compiler: it has its own address test, its own list of
//! forbidden destinations and its own idea of a flow, so that an error would have to be made twice to go unseen.
//! `tests/kernel.rs` holds the kernel against it, and people are shown its answers.
//!
//! Not modelled: TCP's windows and closing, timeouts, bandwidth, checksums, and what lies below IP (MAC, ARP).
//! Never: I/O or a clock; the history carries the time that the caller told it.
//!
//! Source: `appliance::policy`; RFC 6890 (special-purpose addresses); RFC 792 (ICMP).

mod flows;
mod packet;
mod peers;

use std::net::{IpAddr, Ipv4Addr};

use appliance::policy::{DnsMode, Firewall, Mode, Peer, Proto, Rate};

pub use flows::History;
pub use packet::{FlowKey, Origin, Packet, Payload, TcpFlags};
pub use peers::{admits, admits_anybody};

use crate::environment::{Environment, Resolver};
use crate::vocabulary::{Denial, Direction};
use flows::Standing;

/// Whether a packet passes, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It passes.
    Allow(Grounds),
    /// It is dropped.
    Drop(Denial),
}

impl Verdict {
    /// True if it passes.
    pub fn passes(&self) -> bool {
        matches!(self, Self::Allow(_))
    }
}

/// Why a packet passes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Grounds {
    /// A rule of the policy allows it.
    Rule {
        /// The rule's direction.
        direction: Direction,
        /// The rule's name.
        name: String,
    },
    /// It belongs to a flow that was allowed and answered.
    Established,
    /// It is an ICMP error about such a flow.
    Related,
    /// It asks for an address, or grants one.
    Dhcp,
    /// It asks the host's resolver, and the policy's `dns` allows that.
    Dns,
    /// It is a ping that the policy's `icmp` allows.
    Ping,
    /// It is the runner's health check.
    Health,
    /// It would have been dropped for this, but the host only audits.
    Audit(Denial),
}

/// Decides one packet, and enters what it opens into `history`.
///
/// Time for rates is what [`History::advance_to`] was told last. For a connection that comes through hull's relay this
/// answers for the relay's own packets, whatever client they stand for; clients are [`crate::Gate`]'s business.
pub fn decide(
    policy: &Firewall,
    environment: &Environment,
    history: &mut History,
    packet: &Packet,
) -> Verdict {
    let case = Case { policy, environment, packet };
    match case.before_flows() {
        Some(verdict) => verdict,
        None => match history.standing(packet) {
            Standing::Established => Verdict::Allow(Grounds::Established),
            Standing::Related => Verdict::Allow(Grounds::Related),
            Standing::Invalid => Verdict::Drop(Denial::Invalid),
            Standing::New => case.decide_new(history),
        },
    }
}

struct Case<'a> {
    policy: &'a Firewall,
    environment: &'a Environment,
    packet: &'a Packet,
}

impl Case<'_> {
    /// What holds for every packet, whether or not it belongs to a flow.
    fn before_flows(&self) -> Option<Verdict> {
        let (packet, network) = (self.packet, &self.environment.network);
        let (IpAddr::V4(source), IpAddr::V4(destination)) = (packet.source, packet.destination) else {
            return Some(Verdict::Drop(Denial::Ipv6));
        };
        if packet.fragment {
            return Some(Verdict::Drop(Denial::Fragment));
        }
        match packet.origin {
            Origin::Guest
                if self.is_dhcp(68, 67, &[Ipv4Addr::UNSPECIFIED, network.guest], network.gateway) =>
            {
                Some(Verdict::Allow(Grounds::Dhcp))
            }
            Origin::Guest if source != network.guest => Some(Verdict::Drop(Denial::Spoofed)),
            Origin::Guest => self.forbidden(destination).or(self.without_flows()).map(Verdict::Drop),
            Origin::Namespace if self.is_dhcp(67, 68, &[network.gateway], network.guest) => {
                Some(Verdict::Allow(Grounds::Dhcp))
            }
            Origin::Namespace => self.without_flows().map(Verdict::Drop),
            Origin::Uplink => None,
        }
    }

    /// Protocols that no rule can name.
    fn without_flows(&self) -> Option<Denial> {
        matches!(self.packet.payload, Payload::Other { .. }).then_some(Denial::Protocol)
    }

    fn is_dhcp(&self, from_port: u16, to_port: u16, sources: &[Ipv4Addr], destination: Ipv4Addr) -> bool {
        let Payload::Udp { source_port, destination_port } = self.packet.payload else { return false };
        source_port == from_port
            && destination_port == to_port
            && sources.iter().any(|address| self.packet.source == *address)
            && (self.packet.destination == Ipv4Addr::BROADCAST || self.packet.destination == destination)
    }

    /// Destinations that no rule opens.
    fn forbidden(&self, destination: Ipv4Addr) -> Option<Denial> {
        let network = &self.environment.network;
        let in_subnet = peers::in_net(destination.into(), network.subnet.into());
        let subnet_broadcast = in_subnet && destination == network.subnet.broadcast();
        if destination == network.gateway || destination == network.resolver {
            None
        } else if destination.is_link_local() {
            Some(Denial::LinkLocal)
        } else if destination.is_multicast() || destination.is_broadcast() || subnet_broadcast {
            Some(Denial::Multicast)
        } else if in_subnet {
            Some(Denial::OwnSubnet)
        } else if destination.is_loopback() || destination.octets()[0] == 0 || self.is_host(destination) {
            Some(Denial::HostService)
        } else {
            None
        }
    }

    fn is_host(&self, address: Ipv4Addr) -> bool {
        self.environment.host_addresses.iter().any(|host| host.to_canonical() == IpAddr::V4(address))
    }

    /// A packet that opens a flow, or repeats one that nobody answered.
    fn decide_new(&self, history: &mut History) -> Verdict {
        let (packet, network) = (self.packet, &self.environment.network);
        match packet.origin {
            Origin::Uplink => Verdict::Drop(Denial::Unsolicited),
            Origin::Namespace => self.to_guest(history),
            Origin::Guest
                if packet.destination == network.gateway || packet.destination == network.resolver =>
            {
                self.to_host(history)
            }
            Origin::Guest => self.to_outside(history),
        }
    }

    fn to_guest(&self, history: &mut History) -> Verdict {
        let network = &self.environment.network;
        if self.packet.source != network.gateway || self.packet.destination != network.guest {
            return self.denied(history, Denial::NoIngressRule);
        }
        if matches!(self.packet.payload, Payload::EchoRequest { .. }) && self.policy.icmp.ping_in {
            return self.opened(history, Grounds::Ping);
        }
        let Some((proto, port)) = self.packet.service() else {
            return self.denied(history, Denial::NoIngressRule);
        };
        let rule = self.policy.ingress.iter().find(|rule| {
            rule.proto == proto
                && rule.ports.iter().any(|range| range.contains(port))
                && rule.from.iter().any(admits_anybody)
        });
        if let Some(rule) = rule {
            let grounds = Grounds::Rule { direction: Direction::Ingress, name: rule.name.clone() };
            return self.opened(history, grounds);
        }
        if proto == Proto::Tcp && self.environment.health_ports.contains(&port) {
            return self.opened(history, Grounds::Health);
        }
        self.denied(history, Denial::NoIngressRule)
    }

    fn to_host(&self, history: &mut History) -> Verdict {
        let network = &self.environment.network;
        if matches!(self.packet.payload, Payload::EchoRequest { .. })
            && self.policy.icmp.ping_out
            && self.packet.destination == network.gateway
        {
            return self.opened(history, Grounds::Ping);
        }
        let Some((proto, port)) = self.packet.service() else { return Verdict::Drop(Denial::HostService) };
        if self.packet.destination == network.resolver {
            let served = match self.policy.dns.mode {
                DnsMode::None => false,
                DnsMode::Proxy => self.environment.resolver == Resolver::Filters,
                DnsMode::Open => self.environment.resolver != Resolver::Absent,
            };
            return if served && port == 53 {
                self.opened(history, Grounds::Dns)
            } else {
                Verdict::Drop(Denial::HostService)
            };
        }
        self.by_egress_rules(history, proto, port).unwrap_or(Verdict::Drop(Denial::HostService))
    }

    fn to_outside(&self, history: &mut History) -> Verdict {
        if matches!(self.packet.payload, Payload::EchoRequest { .. }) && self.policy.icmp.ping_out {
            return self.opened(history, Grounds::Ping);
        }
        let Some((proto, port)) = self.packet.service() else {
            return self.denied(history, Denial::NoEgressRule);
        };
        self.by_egress_rules(history, proto, port)
            .unwrap_or_else(|| self.denied(history, Denial::NoEgressRule))
    }

    /// The rules that allow the packet, tried in order: those without a rate first, then by name. Nothing where no
    /// rule means this packet at all.
    fn by_egress_rules(&self, history: &mut History, proto: Proto, port: u16) -> Option<Verdict> {
        let destination = self.packet.destination;
        let to_host = destination == self.environment.network.gateway;
        let means = |peer: &Peer| if to_host { *peer == Peer::Host } else { peers::holds(peer, destination) };
        let mut matching: Vec<(&str, Option<Rate>)> = self
            .policy
            .egress
            .iter()
            .filter(|rule| rule.proto == proto && rule.ports.iter().any(|range| range.contains(port)))
            .filter(|rule| rule.to.iter().any(means))
            .map(|rule| (rule.name.as_str(), rule.rate))
            .collect();
        if matching.is_empty() {
            return None;
        }
        matching.sort_by_key(|(name, rate)| (rate.is_some(), *name));
        let within_rate =
            matching.into_iter().find(|(name, rate)| rate.is_none_or(|rate| history.take(name, rate)));
        Some(match within_rate {
            Some((name, _)) => {
                self.opened(history, Grounds::Rule { direction: Direction::Egress, name: name.to_owned() })
            }
            None if to_host => Verdict::Drop(Denial::RuleRate),
            None => self.denied(history, Denial::RuleRate),
        })
    }

    /// A new flow that is allowed, unless the machine has or opens too many.
    fn opened(&self, history: &mut History, grounds: Grounds) -> Verdict {
        match history.open(self.packet, &self.policy.limits) {
            Ok(()) => Verdict::Allow(grounds),
            Err(denial) => self.denied(history, denial),
        }
    }

    /// A new flow that is not allowed. Passes where the host only audits.
    fn denied(&self, history: &mut History, denial: Denial) -> Verdict {
        match self.environment.mode {
            Mode::Enforce => Verdict::Drop(denial),
            Mode::Audit => {
                history.enter(self.packet);
                Verdict::Allow(Grounds::Audit(denial))
            }
        }
    }
}

#[cfg(test)]
mod tests;
