//! A packet, as far as a policy can tell packets apart.

use std::net::IpAddr;

use appliance::policy::Proto;

/// One IP packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packet {
    /// Where it comes from.
    pub origin: Origin,
    /// Its source address.
    pub source: IpAddr,
    /// Its destination address. For [`Origin::Uplink`], after the translation back to the machine's address.
    pub destination: IpAddr,
    /// True for any fragment, the first one too.
    pub fragment: bool,
    /// What it carries.
    pub payload: Payload,
}

/// Where a packet enters the machine's network namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Origin {
    /// From the machine, through its tap.
    Guest,
    /// From outside, through the uplink.
    Uplink,
    /// From hull's own sockets in the namespace: relay, health checks, DHCP.
    Namespace,
}

/// What an IP packet carries. Ports and identifiers are as on the wire, in host order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Payload {
    /// A TCP segment.
    Tcp {
        /// Source port.
        source_port: u16,
        /// Destination port.
        destination_port: u16,
        /// Its flags.
        flags: TcpFlags,
    },
    /// A UDP datagram.
    Udp {
        /// Source port.
        source_port: u16,
        /// Destination port.
        destination_port: u16,
    },
    /// An ICMP echo request.
    EchoRequest {
        /// Its identifier.
        id: u16,
    },
    /// An ICMP echo reply.
    EchoReply {
        /// Its identifier.
        id: u16,
    },
    /// ICMP destination unreachable, time exceeded or parameter problem.
    IcmpError {
        /// The flow of the packet that it quotes, as that packet was sent.
        about: FlowKey,
    },
    /// Any other ICMP message.
    OtherIcmp,
    /// Neither TCP, UDP nor ICMP.
    Other {
        /// The IP protocol number.
        protocol: u8,
    },
}

/// Those of a segment's flags that open and close connections.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TcpFlags {
    /// SYN.
    pub syn: bool,
    /// ACK.
    pub ack: bool,
    /// FIN.
    pub fin: bool,
    /// RST.
    pub rst: bool,
}

impl TcpFlags {
    /// What opens a connection: SYN and none of the others.
    pub const SYN: Self = Self { syn: true, ack: false, fin: false, rst: false };
    /// What answers it.
    pub const SYN_ACK: Self = Self { syn: true, ack: true, fin: false, rst: false };
}

/// What packets of one flow have in common, as seen from the side that sent this one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FlowKey {
    /// What runs over IP.
    pub protocol: FlowProtocol,
    /// Source address and port; for ICMP echo the identifier in place of the port.
    pub source: (IpAddr, u16),
    /// Destination address and port; for ICMP echo the identifier in place of the port.
    pub destination: (IpAddr, u16),
}

/// Protocols that have flows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FlowProtocol {
    /// TCP or UDP.
    Transport(Proto),
    /// ICMP echo.
    Echo,
}

impl FlowKey {
    /// The same flow, seen from the other side.
    pub fn reversed(self) -> Self {
        Self { protocol: self.protocol, source: self.destination, destination: self.source }
    }
}

impl Packet {
    /// The flow that the packet belongs to or opens, if it can have one.
    pub fn flow_key(&self) -> Option<FlowKey> {
        let key = |protocol, source_port, destination_port| FlowKey {
            protocol,
            source: (self.source, source_port),
            destination: (self.destination, destination_port),
        };
        match self.payload {
            Payload::Tcp { source_port, destination_port, .. } => {
                Some(key(FlowProtocol::Transport(Proto::Tcp), source_port, destination_port))
            }
            Payload::Udp { source_port, destination_port } => {
                Some(key(FlowProtocol::Transport(Proto::Udp), source_port, destination_port))
            }
            Payload::EchoRequest { id } | Payload::EchoReply { id } => Some(key(FlowProtocol::Echo, id, id)),
            Payload::IcmpError { .. } | Payload::OtherIcmp | Payload::Other { .. } => None,
        }
    }

    /// The protocol and destination port that rules speak of.
    pub(super) fn service(&self) -> Option<(Proto, u16)> {
        match self.payload {
            Payload::Tcp { destination_port, .. } => Some((Proto::Tcp, destination_port)),
            Payload::Udp { destination_port, .. } => Some((Proto::Udp, destination_port)),
            _ => None,
        }
    }
}
