//! The oracle's packets as bytes on the wire, sent and caught through raw sockets.
//!
//! Each carries a number of its own after its header. Packets of one batch take one path on one processor, so when
//! the batch's last packet, which always passes, has been caught, all that passed before it has been too.
//!
//! Source: RFC 791, 768, 792, 9293 (headers), 1071 (checksum); raw(7).

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use firewall::oracle::{Origin, Packet, Payload};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType};
use rustix::net::{recv, sendto, socket_with, sockopt};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::lab::{Lab, Place};

/// Set on packets of the test. End hosts send nothing else, so that no answer makes a flow of a probe.
pub(crate) const TTL: u8 = 77;

const CAUGHT_PROTOCOLS: [u32; 4] = [1, 6, 17, 47];
const PATIENCE: Duration = Duration::from_secs(60);

/// Raw sockets of the whole lab.
pub(crate) struct Wire {
    guest: OwnedFd,
    host: OwnedFd,
    catchers: Vec<OwnedFd>,
    next_number: u32,
}

impl Wire {
    /// Opens the sockets and silences the lab's own network stacks.
    pub(crate) fn new(lab: &Lab) -> Self {
        for place in [Place::Guest, Place::Outside] {
            let rules = "table ip hull_mute { chain out_all { \
                         type filter hook output priority -400; policy accept; \
                         ip ttl != 77 drop; }; }";
            lab.exec(place, "nft", &[rules]);
        }
        let mut catchers = Vec::new();
        for place in [Place::Guest, Place::Host, Place::Outside] {
            catchers.extend(lab.inside(place, || CAUGHT_PROTOCOLS.map(raw_socket)));
        }
        for catcher in &catchers {
            sockopt::set_socket_recv_buffer_size_force(catcher, 8 << 20).unwrap();
        }
        let sender = || raw_socket(255);
        Self {
            guest: lab.inside(Place::Guest, sender),
            host: lab.inside(Place::Host, sender),
            catchers,
            next_number: 1,
        }
    }

    /// Sends `packets`, then `marker`, and says of each packet whether it arrived anywhere.
    pub(crate) fn send(&mut self, packets: &[Packet], marker: &Packet) -> Vec<bool> {
        pin_to_one_processor();
        let first = self.next_number;
        for packet in packets.iter().chain([marker]) {
            let (socket, next_hop) = match packet.origin {
                Origin::Guest => (&self.guest, Ipv4Addr::new(10, 0, 2, 2)),
                Origin::Namespace => (&self.host, Ipv4Addr::new(10, 0, 2, 15)),
                Origin::Uplink => panic!("packets from outside are sent by real sockets"),
            };
            // The address says where the frame goes; the header, which is ours, may say otherwise.
            let bytes = encode(packet, self.next_number);
            match sendto(socket, &bytes, SendFlags::empty(), &SocketAddrV4::new(next_hop, 0)) {
                Ok(_) | Err(Errno::PERM) => {} // PERM: dropped on the way out, which is an answer
                Err(error) => panic!("{packet:?}: {error}"),
            }
            self.next_number += 1;
        }
        let caught = self.catch_until(self.next_number - 1);
        (first..self.next_number - 1).map(|number| caught.contains(&number)).collect()
    }

    fn catch_until(&self, marker: u32) -> BTreeSet<u32> {
        let (start, mut caught) = (Instant::now(), BTreeSet::new());
        loop {
            self.catch(&mut caught);
            if caught.contains(&marker) {
                // What came before it may have reached a socket that had been read by then.
                self.catch(&mut caught);
                return caught;
            }
            assert!(start.elapsed() < PATIENCE, "the packet that always passes did not arrive");
            let mut events: Vec<PollFd<'_>> =
                self.catchers.iter().map(|fd| PollFd::new(fd, PollFlags::IN)).collect();
            let timeout = Timespec { tv_sec: 1, tv_nsec: 0 };
            poll(&mut events, Some(&timeout)).unwrap();
        }
    }

    /// Adds the numbers of all packets that have arrived.
    fn catch(&self, caught: &mut BTreeSet<u32>) {
        let mut buffer = [0u8; 2048];
        for catcher in &self.catchers {
            while let Ok((_, length)) = recv(catcher, &mut buffer, RecvFlags::empty()) {
                caught.extend(number_in(&buffer[..length]));
            }
        }
    }
}

/// To the first of those that this thread may run on.
fn pin_to_one_processor() {
    let allowed = sched_getaffinity(None).unwrap();
    let mut processors = CpuSet::new();
    processors.set((0..CpuSet::MAX_CPU).find(|&number| allowed.is_set(number)).unwrap());
    sched_setaffinity(None, &processors).unwrap();
}

fn raw_socket(protocol: u32) -> OwnedFd {
    let protocol = Protocol::from_raw(protocol.try_into().unwrap());
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    socket_with(AddressFamily::INET, SocketType::RAW, flags, Some(protocol)).unwrap()
}

/// The number that a packet of the test carries.
fn number_in(packet: &[u8]) -> Option<u32> {
    let header = usize::from(packet.first()? & 15) * 4;
    let number = header + if packet[9] == 6 { 20 } else { 8 };
    let bytes = packet.get(number..number + 4).filter(|_| packet[8].abs_diff(TTL) < 3)?;
    Some(u32::from_be_bytes(bytes.try_into().unwrap()))
}

fn encode(packet: &Packet, number: u32) -> Vec<u8> {
    let (IpAddr::V4(source), IpAddr::V4(destination)) = (packet.source, packet.destination) else {
        panic!("IPv4 only");
    };
    let (protocol, mut body): (u8, Vec<u8>) = match packet.payload {
        Payload::Tcp { source_port, destination_port, flags } => {
            let bits = u8::from(flags.fin)
                | u8::from(flags.syn) << 1
                | u8::from(flags.rst) << 2
                | u8::from(flags.ack) << 4;
            let ports = [source_port.to_be_bytes(), destination_port.to_be_bytes()].concat();
            let sequence = if flags.ack { [0, 0, 0, 1, 0, 0, 0, 1] } else { [0, 0, 0, 1, 0, 0, 0, 0] };
            (6, [&ports[..], &sequence, &[0x50, bits, 0xff, 0xff, 0, 0, 0, 0]].concat())
        }
        Payload::Udp { source_port, destination_port } => {
            let ports = [source_port.to_be_bytes(), destination_port.to_be_bytes()].concat();
            (17, [&ports[..], &[0, 12, 0, 0]].concat())
        }
        Payload::EchoRequest { id } => (1, [&[8, 0, 0, 0], &id.to_be_bytes()[..], &[0, 1]].concat()),
        Payload::EchoReply { id } => (1, [&[0, 0, 0, 0], &id.to_be_bytes()[..], &[0, 1]].concat()),
        Payload::OtherIcmp => (1, vec![13, 0, 0, 0, 0, 7, 0, 1]),
        Payload::IcmpError { .. } => panic!("errors are provoked from real sockets"),
        Payload::Other { protocol } => (protocol, vec![0; 8]),
    };
    body.extend(number.to_be_bytes());
    let pseudo =
        [&source.octets()[..], &destination.octets(), &[0, protocol], &(body.len() as u16).to_be_bytes()]
            .concat();
    let (covered, at) = match protocol {
        6 => ([&pseudo[..], &body].concat(), 16),
        17 => ([&pseudo[..], &body].concat(), 6),
        _ => (body.clone(), 2),
    };
    if matches!(protocol, 1 | 6 | 17) {
        body[at..at + 2].copy_from_slice(&checksum(&covered).to_be_bytes());
    }
    let more_fragments = if packet.fragment { 0x20 } else { 0 };
    let mut bytes = vec![0x45, 0, 0, 0, 0x12, 0x34, more_fragments, 0, TTL, protocol, 0, 0];
    bytes.extend(source.octets());
    bytes.extend(destination.octets());
    bytes.extend(body);
    bytes // the kernel fills in total length and header checksum
}

fn checksum(bytes: &[u8]) -> u16 {
    let sum: u32 =
        bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0))).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    !((folded & 0xffff) + (folded >> 16)) as u16
}
