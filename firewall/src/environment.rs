//! What the host decided or has to offer: everything that a policy's meaning depends on besides the policy.

use std::net::{IpAddr, Ipv4Addr};

use appliance::policy::{HealthCheck, MachinePolicy, Mode};
use ipnet::Ipv4Net;

/// The host's side of a machine's firewall. The default enforces, offers nothing and names no host address.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Environment {
    /// Whether rules are enforced. Only the host may choose [`Mode::Audit`]; what the image asks is a wish.
    pub mode: Mode,
    /// Who is who on the machine's link.
    pub network: Network,
    /// Addresses of the host itself, as far as the machine could reach them through its uplink. No `cidr` rule
    /// opens them: rules that mean the host say `host`.
    pub host_addresses: Vec<IpAddr>,
    /// Who answers name queries at [`Network::resolver`].
    pub resolver: Resolver,
    /// Where logged packets go.
    pub flow_log: FlowLog,
    /// TCP ports of the machine that the runner itself asks for the machine's health; no rule is needed for it.
    pub health_ports: Vec<u16>,
}

impl Environment {
    /// The default environment with the ports that the machine's health check needs.
    pub fn for_machine(machine: &MachinePolicy) -> Self {
        let health_ports = match machine.health.as_ref().map(|health| &health.check) {
            Some(HealthCheck::Http { port, .. } | HealthCheck::Tcp { port }) => vec![*port],
            Some(HealthCheck::Ready) | None => Vec::new(),
        };
        Self { health_ports, ..Self::default() }
    }
}

/// The addresses on the link between a machine and its host. The default is the one that every guest of QEMU's user
/// network knows. Machines have no IPv6 address in this version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    /// The subnet that both sides think they are in.
    pub subnet: Ipv4Net,
    /// The machine: 10.0.2.15.
    pub guest: Ipv4Addr,
    /// The host's side of the link: 10.0.2.2. Also where hull's relay connects from.
    pub gateway: Ipv4Addr,
    /// Where the machine sends name queries: 10.0.2.3.
    pub resolver: Ipv4Addr,
}

impl Default for Network {
    fn default() -> Self {
        Self {
            subnet: Ipv4Net::new_assert(Ipv4Addr::new(10, 0, 2, 0), 24),
            guest: Ipv4Addr::new(10, 0, 2, 15),
            gateway: Ipv4Addr::new(10, 0, 2, 2),
            resolver: Ipv4Addr::new(10, 0, 2, 3),
        }
    }
}

/// Who answers name queries.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Resolver {
    /// Nobody.
    #[default]
    Absent,
    /// One that asks on for any name. Serves policies with `dns.mode = "open"`.
    Forwards,
    /// One that refuses names that the policy does not list. Serves `proxy`, and `open` as well.
    Filters,
}

/// Where logged packets go.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum FlowLog {
    /// Nowhere: rules that ask for a log have none.
    #[default]
    Absent,
    /// To whoever listens to this NFLOG group in the machine's network namespace. Egress rules only.
    Group(u16),
}
