//! Relayed UDP: one socket towards the guest for each client, so that answers find their way back.
//!
//! A port bound to a wildcard address answers from the address that the host's routes choose, which on
//! a host with several is not always the one that was asked; bind such ports to one address.
//!
//! A conversation is over when neither side has sent anything for [`IDLE`]. Datagrams that cannot be
//! passed on at once are dropped, as on any network.

use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use firewall::Ticket;

/// How long a conversation may be silent; as the kernel's own for UDP that was answered.
pub(super) const IDLE: Duration = Duration::from_secs(120);

/// The largest datagram there can be.
pub(super) const DATAGRAM_BYTES: usize = 65_535;

/// Datagrams in a row from one socket before others get their turn.
pub(super) const MOST_ROUNDS: usize = 64;

/// Names a conversation: the published port's index, and the client.
pub(super) type Key = (usize, SocketAddr);

/// A client and the socket that speaks for it towards the guest.
#[derive(Debug)]
pub(super) struct Conversation {
    pub(super) key: Key,
    pub(super) guest: UdpSocket,
    pub(super) ticket: Ticket,
    last_heard: Instant,
}

impl Conversation {
    /// A conversation over a socket that is connected to the guest and does not block.
    pub(super) fn new(key: Key, guest: UdpSocket, ticket: Ticket, now: Instant) -> Self {
        Self { key, guest, ticket, last_heard: now }
    }

    /// Passes a client's datagram on.
    pub(super) fn send_in(&mut self, datagram: &[u8], now: Instant) {
        self.last_heard = now;
        drop(self.guest.send(datagram)); // full, or nobody listens: lost, as datagrams may be
    }

    /// Passes the guest's datagrams back to the client, from the port it sent its own to.
    pub(super) fn send_back(&mut self, published: &UdpSocket, buffer: &mut [u8], now: Instant) {
        for _ in 0..MOST_ROUNDS {
            match self.guest.recv(buffer) {
                Ok(length) => {
                    self.last_heard = now;
                    drop(published.send_to(&buffer[..length], self.key.1));
                }
                // Refused: nobody listens in the guest yet. The error has been taken off the socket.
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
                Err(_) => return,
            }
        }
    }

    /// True if it has been silent for so long that it is over.
    pub(super) fn is_over(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.last_heard) >= IDLE
    }
}

/// Which conversation is in which slot.
pub(super) type Index = HashMap<Key, usize>;
