//! The relay's thread: one epoll loop over all published ports and everything that came through them.
//!
//! It runs inside the VM's namespace, so each socket it makes belongs there; the ports were opened
//! before and belong to the host, as does whatever they accept. Nothing in the loop blocks.
//!
//! The process also serves the guest's disks, so clients can take only a part of its descriptors and of
//! its memory. The latter without anybody waiting for others: when many do not read what they asked for,
//! less is read at once for all.

use std::collections::VecDeque;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use appliance::policy::Proto;
use firewall::{Client, Gate, Refusal, Ticket};
use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;
use rustix::process::{Resource, getrlimit};
use rustix::time::Timespec;
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};

use super::counters::Counters;
use super::slots::Slots;
use super::tcp::{Connection, Progress, SCRATCH_BYTES, Side};
use super::udp::{self, Conversation};
use super::{CONNECT_TIME, Listening, Port};

/// The most TCP connections, and the most UDP conversations, of one VM.
const MOST_OPEN: usize = 4096;
/// Descriptors that are left to the rest of the process.
const RESERVED_DESCRIPTORS: u64 = 256;
const CONNECTION_DESCRIPTORS: usize = 2;
const CONVERSATION_DESCRIPTORS: usize = 1;
/// While less than this is kept for TCP receivers, each piece read may fill the whole buffer.
const AMPLE_BYTES: usize = 31 << 20;
/// What may be read at once when more is kept than that.
const SPARING_BYTES: usize = 4 << 10;
/// So this is the most that is ever kept: each direction keeps one piece.
const MOST_KEPT_BYTES: usize = AMPLE_BYTES + 2 * SCRATCH_BYTES + 2 * MOST_OPEN * SPARING_BYTES;
const _: () = assert!(MOST_KEPT_BYTES <= 64 << 20);
/// Connections accepted in a row from one port before others get their turn.
const MOST_ACCEPTS: usize = 64;
/// Events taken from the kernel at a time.
const MOST_EVENTS: usize = 256;
/// How often silent UDP conversations are looked for.
const SWEEP: Duration = Duration::from_secs(10);
/// When a silent TCP peer is asked whether it still lives: so the dead do not keep places for ever.
const KEEPALIVE: Duration = Duration::from_secs(300);

/// What an event is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token {
    Stop,
    Port(usize),
    Tcp(usize, Side),
    Udp(usize),
}

/// A connection, and what epoll has been told about it.
#[derive(Debug)]
struct Relayed {
    connection: Connection,
    ticket: Ticket,
    counters: Arc<Counters>,
    /// What each side is registered for, client first; `None` if it is not.
    watched: [Option<EventFlags>; 2],
    serial: u64,
}

/// All the state of the thread.
#[derive(Debug)]
pub(super) struct Worker {
    epoll: OwnedFd,
    guest: Ipv4Addr,
    ports: Vec<Port>,
    gate: Gate,
    /// What the gate's time counts from.
    started: Instant,
    connections: Slots<Relayed>,
    conversations: Slots<Conversation>,
    by_client: udp::Index,
    /// Connections that the guest has not accepted yet, oldest first: when, which, and its serial.
    connecting: VecDeque<(Instant, usize, u64)>,
    /// How long the guest may take to accept.
    pub(super) connect_time: Duration,
    serial: u64,
    /// How many descriptors clients may take.
    pub(super) most_descriptors: usize,
    /// What all connections together keep for receivers that do not take it.
    kept_bytes: usize,
    /// See [`AMPLE_BYTES`].
    pub(super) ample_bytes: usize,
    scratch: Vec<u8>,
    /// Given up for a moment when the process is out of descriptors, to accept and refuse with.
    spare: Option<OwnedFd>,
}

impl Worker {
    pub(super) fn new(ports: Vec<Port>, gate: Gate, guest: Ipv4Addr, stop: &OwnedFd) -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, stop, Token::Stop.data(), EventFlags::IN)?;
        for (index, port) in ports.iter().enumerate() {
            let socket = match &port.socket {
                Listening::Tcp(socket) => socket.as_fd(),
                Listening::Udp(socket) => socket.as_fd(),
            };
            epoll::add(&epoll, socket, Token::Port(index).data(), EventFlags::IN)?;
        }
        let spare = Some(epoll.try_clone()?);
        let most_descriptors = descriptors_for_clients(getrlimit(Resource::Nofile).current, ports.len());
        Ok(Self {
            epoll,
            guest,
            ports,
            gate,
            started: Instant::now(),
            connections: Slots::new(),
            conversations: Slots::new(),
            by_client: udp::Index::new(),
            connecting: VecDeque::new(),
            connect_time: CONNECT_TIME,
            serial: 0,
            most_descriptors,
            kept_bytes: 0,
            ample_bytes: AMPLE_BYTES,
            scratch: vec![0; SCRATCH_BYTES],
            spare,
        })
    }

    /// Relays until told to stop. All connections end with the thread.
    pub(super) fn run(&mut self) -> io::Result<()> {
        let mut events = Vec::with_capacity(MOST_EVENTS);
        let mut next_sweep = Instant::now() + SWEEP;
        loop {
            events.clear();
            let timeout = self.time_until_due(Instant::now(), next_sweep);
            match epoll::wait(&self.epoll, spare_capacity(&mut events), timeout.as_ref()) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            let now = Instant::now();
            for event in &events {
                match Token::from(event.data) {
                    Token::Stop => return Ok(()),
                    Token::Port(port) => self.serve_port(port, now),
                    Token::Tcp(slot, side) => self.serve_connection(slot, side, event.flags),
                    Token::Udp(slot) => self.serve_conversation(slot, now),
                }
            }
            self.give_up_connecting(now);
            if now >= next_sweep {
                self.sweep(now);
                next_sweep = now + SWEEP;
            }
            self.connections.recycle();
            self.conversations.recycle();
        }
    }

    /// How long there is nothing to do unless something happens; `None` for ever.
    fn time_until_due(&self, now: Instant, next_sweep: Instant) -> Option<Timespec> {
        let sweep = (self.conversations.len() > 0).then_some(next_sweep);
        let connect = self.connecting.front().map(|(due, ..)| *due);
        let due = [sweep, connect].into_iter().flatten().min()?;
        Timespec::try_from(due.saturating_duration_since(now)).ok()
    }

    fn serve_port(&mut self, port: usize, now: Instant) {
        match self.ports[port].socket {
            Listening::Tcp(_) => self.accept(port, now),
            Listening::Udp(_) => self.receive(port, now),
        }
    }

    fn accept(&mut self, port: usize, now: Instant) {
        for _ in 0..MOST_ACCEPTS {
            let Listening::Tcp(listener) = &self.ports[port].socket else { return };
            match listener.accept() {
                Ok((client, source)) => self.admit(port, client, source, now),
                Err(error) if is_exhausted(&error) => {
                    self.spare = None;
                    refuse_next(listener);
                    self.spare = self.epoll.try_clone().ok();
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => {} // that one client is gone already
            }
        }
    }

    /// True if clients may take `more` descriptors.
    fn has_descriptors(&self, more: usize) -> bool {
        let taken = self.connections.len() * CONNECTION_DESCRIPTORS
            + self.conversations.len() * CONVERSATION_DESCRIPTORS;
        taken + more <= self.most_descriptors
    }

    fn admit(&mut self, port: usize, client: TcpStream, source: SocketAddr, now: Instant) {
        let Port { guest_port, ref counters, .. } = self.ports[port];
        let counters = Arc::clone(counters);
        let reached = client.local_addr().unwrap_or(source);
        let ticket = if self.connections.len() < MOST_OPEN && self.has_descriptors(CONNECTION_DESCRIPTORS) {
            let from = Client::new(source.ip(), reached.ip());
            self.gate.admit(Proto::Tcp, guest_port, from, now.duration_since(self.started))
        } else {
            Err(Refusal::Connections)
        };
        let ticket = match ticket {
            Ok(ticket) => ticket,
            Err(refusal) => {
                counters.refused(refusal);
                return refuse(&client);
            }
        };
        counters.admitted();
        let guest = begin_connect(SocketAddr::from((self.guest, guest_port)));
        let Ok(guest) = guest.and_then(|guest| prepare(&client).map(|()| guest)) else {
            counters.unanswered();
            self.gate.release(ticket);
            return refuse(&client);
        };
        self.serial += 1;
        let serial = self.serial;
        let connection = Connection::new(client.into(), guest.into());
        let slot =
            self.connections.insert(Relayed { connection, ticket, counters, watched: [None; 2], serial });
        self.connecting.push_back((now + self.connect_time, slot, serial));
        self.settle(slot, Progress::Going);
    }

    fn serve_connection(&mut self, slot: usize, side: Side, flags: EventFlags) {
        let Some(relayed) = self.connections.get_mut(slot) else { return };
        let hung_up = flags.contains(EventFlags::HUP) && !flags.contains(EventFlags::ERR);
        if hung_up && relayed.connection.waits_for(side).is_empty() {
            // It is closed both ways and would be reported again and again. What is still on its
            // way from it to the other side goes on.
            relayed.watched[side as usize] = None;
            let _ = epoll::delete(&self.epoll, relayed.connection.descriptor(side));
            return;
        }
        let kept_before = relayed.connection.kept_bytes();
        let piece = if self.kept_bytes < self.ample_bytes { SCRATCH_BYTES } else { SPARING_BYTES };
        let progress = relayed.connection.advance(side, flags, &mut self.scratch[..piece]);
        self.kept_bytes = self.kept_bytes - kept_before + relayed.connection.kept_bytes();
        self.settle(slot, progress);
    }

    /// Ends a connection that is over, or tells epoll what it waits for now.
    fn settle(&mut self, slot: usize, progress: Progress) {
        let Some(relayed) = self.connections.get_mut(slot) else { return };
        let watched = progress == Progress::Going
            && [Side::Client, Side::Guest]
                .into_iter()
                .all(|side| relayed.watch(&self.epoll, slot, side).is_ok());
        if watched {
            return;
        }
        let Some(relayed) = self.connections.remove(slot) else { return };
        self.kept_bytes -= relayed.connection.kept_bytes();
        if progress != Progress::Done {
            relayed.connection.reset();
        }
        if relayed.connection.is_connecting() {
            relayed.counters.unanswered();
        }
        self.gate.release(relayed.ticket);
    }

    fn give_up_connecting(&mut self, now: Instant) {
        while let Some((due, slot, serial)) = self.connecting.front().copied() {
            let connection = self.connections.get_mut(slot).filter(|relayed| relayed.serial == serial);
            let waiting = connection.is_some_and(|relayed| relayed.connection.is_connecting());
            if waiting && due > now {
                return;
            }
            self.connecting.pop_front();
            if waiting {
                self.settle(slot, Progress::Reset);
            }
        }
    }

    fn receive(&mut self, port: usize, now: Instant) {
        let mut buffer = std::mem::take(&mut self.scratch);
        for _ in 0..udp::MOST_ROUNDS {
            let Listening::Udp(published) = &self.ports[port].socket else { break };
            let (length, client) = match published.recv_from(&mut buffer[..udp::DATAGRAM_BYTES]) {
                Ok(received) => received,
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => continue,
                Err(_) => break,
            };
            if let Some(conversation) = self.conversation_with(port, client, now) {
                conversation.send_in(&buffer[..length], now);
            }
        }
        self.scratch = buffer;
    }

    /// The conversation that a client has, or may begin.
    fn conversation_with(
        &mut self,
        port: usize,
        client: SocketAddr,
        now: Instant,
    ) -> Option<&mut Conversation> {
        let key = (port, client);
        let slot = match self.by_client.get(&key) {
            Some(slot) => *slot,
            None => self.begin_conversation(key, now)?,
        };
        self.conversations.get_mut(slot)
    }

    fn begin_conversation(&mut self, key: udp::Key, now: Instant) -> Option<usize> {
        let Port { socket: Listening::Udp(published), guest_port, counters } = &self.ports[key.0] else {
            return None;
        };
        let ticket = if self.conversations.len() < MOST_OPEN && self.has_descriptors(CONVERSATION_DESCRIPTORS)
        {
            let reached = published.local_addr().unwrap_or(key.1);
            let from = Client::new(key.1.ip(), reached.ip());
            self.gate.admit(Proto::Udp, *guest_port, from, now.duration_since(self.started))
        } else {
            Err(Refusal::Connections)
        };
        let ticket = ticket.map_err(|refusal| counters.refused(refusal)).ok()?;
        counters.admitted();
        let Ok(guest) = converse(SocketAddr::from((self.guest, *guest_port))) else {
            counters.unanswered();
            self.gate.release(ticket);
            return None;
        };
        let slot = self.conversations.insert(Conversation::new(key, guest, ticket, now));
        let conversation = self.conversations.get_mut(slot)?;
        if epoll::add(&self.epoll, &conversation.guest, Token::Udp(slot).data(), EventFlags::IN).is_err() {
            counters.unanswered();
            self.gate.release(self.conversations.remove(slot)?.ticket);
            return None;
        }
        self.by_client.insert(key, slot);
        Some(slot)
    }

    fn serve_conversation(&mut self, slot: usize, now: Instant) {
        let Some(conversation) = self.conversations.get_mut(slot) else { return };
        if let Listening::Udp(published) = &self.ports[conversation.key.0].socket {
            conversation.send_back(published, &mut self.scratch[..udp::DATAGRAM_BYTES], now);
        }
    }

    fn sweep(&mut self, now: Instant) {
        let Self { gate, conversations, by_client, .. } = self;
        conversations.remove_all(
            |conversation| conversation.is_over(now),
            |conversation| {
                by_client.remove(&conversation.key);
                gate.release(conversation.ticket);
            },
        );
    }
}

impl Relayed {
    /// Tells epoll what a side waits for, unless it knows.
    fn watch(&mut self, epoll: &OwnedFd, slot: usize, side: Side) -> Result<(), Errno> {
        let wanted = self.connection.waits_for(side);
        let (socket, data) = (self.connection.descriptor(side), Token::Tcp(slot, side).data());
        match self.watched[side as usize] {
            Some(watched) if watched == wanted => return Ok(()),
            Some(_) => epoll::modify(epoll, socket, data, wanted)?,
            None if wanted.is_empty() && !self.connection.is_connecting() => return Ok(()),
            None => epoll::add(epoll, socket, data, wanted)?,
        }
        self.watched[side as usize] = Some(wanted);
        Ok(())
    }
}

impl Token {
    /// The kind in the lowest byte, the number above.
    fn data(self) -> EventData {
        let (kind, number) = match self {
            Self::Stop => (0, 0),
            Self::Port(number) => (1, number),
            Self::Tcp(number, Side::Client) => (2, number),
            Self::Tcp(number, Side::Guest) => (3, number),
            Self::Udp(number) => (4, number),
        };
        EventData::new_u64((number as u64) << 8 | kind)
    }
}

impl From<EventData> for Token {
    fn from(data: EventData) -> Self {
        let number = (data.u64() >> 8) as usize;
        match data.u64() & 0xff {
            1 => Self::Port(number),
            2 => Self::Tcp(number, Side::Client),
            3 => Self::Tcp(number, Side::Guest),
            4 => Self::Udp(number),
            _ => Self::Stop,
        }
    }
}

/// How many descriptors clients of `ports` open ports may take, where the process may have `limit`;
/// `None` is without limit.
fn descriptors_for_clients(limit: Option<u64>, ports: usize) -> usize {
    let most = MOST_OPEN * (CONNECTION_DESCRIPTORS + CONVERSATION_DESCRIPTORS);
    let left = limit.map(|limit| limit.saturating_sub(RESERVED_DESCRIPTORS + ports as u64));
    left.map_or(most, |left| usize::try_from(left).map_or(most, |left| left.min(most)))
}

/// A socket that is on its way to the guest.
fn begin_connect(guest: SocketAddr) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(guest), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    match socket.connect(&guest.into()) {
        Ok(()) => {}
        Err(error) if error.raw_os_error() == Some(Errno::INPROGRESS.raw_os_error()) => {}
        Err(error) => return Err(error),
    }
    let stream = TcpStream::from(socket);
    prepare(&stream)?;
    Ok(stream)
}

/// Neither blocks nor waits for more to send, and notices when its peer is dead.
fn prepare(socket: &TcpStream) -> io::Result<()> {
    socket.set_nonblocking(true)?;
    socket.set_nodelay(true)?;
    SockRef::from(socket).set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE))
}

fn converse(guest: SocketAddr) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.set_nonblocking(true)?;
    socket.connect(guest)?;
    Ok(socket)
}

/// Closes a connection so that its peer sees a reset.
fn refuse(client: &TcpStream) {
    drop(SockRef::from(client).set_linger(Some(Duration::ZERO)));
}

fn refuse_next(listener: &TcpListener) {
    if let Ok((client, _)) = listener.accept() {
        refuse(&client);
    }
}

/// True if the process or the host is out of descriptors or memory.
fn is_exhausted(error: &io::Error) -> bool {
    [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM]
        .iter()
        .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_take_no_descriptors_that_the_rest_of_the_process_needs() {
        for (limit, ports, want) in [
            (Some(0), 1, 0),
            (Some(256), 0, 0),
            (Some(1024), 1, 767),
            (Some(1024), 800, 0),
            (Some(1 << 20), 1, 3 * MOST_OPEN),
            (Some(u64::MAX), 1, 3 * MOST_OPEN),
            (None, 1, 3 * MOST_OPEN),
        ] {
            assert_eq!(descriptors_for_clients(limit, ports), want, "{limit:?}, {ports}");
        }
    }
}
