//! One relayed TCP connection: bytes both ways, each end closed when the other is.
//!
//! Says what it waits for and is told when that has come; the sockets never block. What one side
//! sent and the other did not yet take is kept, at most as much as the caller lets it read at once, and
//! nothing more is read from a side until that is gone. So a slow reader slows its sender, as without a
//! relay.
//!
//! ```text
//! Connecting --guest accepts--> Open --both directions finished--> Over(Done)
//!      `------- refused ----------'------ an error on a side -----> Over(Reset)
//! ```

use std::os::fd::{AsFd, OwnedFd};

use rustix::event::epoll::EventFlags;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, Shutdown, recv, send, shutdown, sockopt};

/// The buffer that a relay's thread reads into; shared by all of its connections.
pub(super) const SCRATCH_BYTES: usize = 256 << 10;

/// Reads in a row from one side before others get their turn.
const MOST_ROUNDS: usize = 8;

/// One of the two ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    /// Whoever connected to the published port.
    Client,
    /// The guest.
    Guest,
}

/// What has become of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    /// It goes on.
    Going,
    /// All is sent and both ends are closed.
    Done,
    /// One end broke. The other must be reset, so that it cannot mistake this for an orderly end.
    Reset,
}

/// A connection and what is on its way.
#[derive(Debug)]
pub(super) struct Connection {
    client: OwnedFd,
    guest: OwnedFd,
    connecting: bool,
    up: Flow,
    down: Flow,
}

impl Connection {
    /// A connection whose guest side has begun to connect. Both descriptors must be non-blocking.
    pub(super) fn new(client: OwnedFd, guest: OwnedFd) -> Self {
        Self { client, guest, connecting: true, up: Flow::default(), down: Flow::default() }
    }

    /// The descriptor of a side.
    pub(super) fn descriptor(&self, side: Side) -> &OwnedFd {
        match side {
            Side::Client => &self.client,
            Side::Guest => &self.guest,
        }
    }

    /// True until the guest has accepted.
    pub(super) fn is_connecting(&self) -> bool {
        self.connecting
    }

    /// What must become possible on a side before anything can go on there.
    pub(super) fn waits_for(&self, side: Side) -> EventFlags {
        let (inward, outward) = match side {
            Side::Client => (&self.up, &self.down),
            Side::Guest => (&self.down, &self.up),
        };
        if self.connecting {
            return if side == Side::Guest { EventFlags::OUT } else { EventFlags::empty() };
        }
        let mut flags = EventFlags::empty();
        flags.set(EventFlags::IN, inward.wants_read());
        flags.set(EventFlags::OUT, outward.wants_write());
        flags
    }

    /// How much it keeps for receivers that do not take it.
    pub(super) fn kept_bytes(&self) -> usize {
        self.up.pending.len() + self.down.pending.len()
    }

    /// Moves what can be moved, after epoll reported `flags` for `side`; at most as much at once as
    /// `scratch` is long.
    pub(super) fn advance(&mut self, side: Side, flags: EventFlags, scratch: &mut [u8]) -> Progress {
        if flags.contains(EventFlags::ERR) {
            return Progress::Reset;
        }
        if self.connecting {
            if side == Side::Client {
                return Progress::Going;
            }
            match sockopt::socket_error(&self.guest) {
                Ok(Ok(())) => self.connecting = false,
                Ok(Err(_)) | Err(_) => return Progress::Reset,
            }
        }
        let up = self.up.pump(&self.client, &self.guest, scratch);
        let down = self.down.pump(&self.guest, &self.client, scratch);
        match (up, down) {
            (Ok(()), Ok(())) if self.up.finished && self.down.finished => Progress::Done,
            (Ok(()), Ok(())) => Progress::Going,
            _ => Progress::Reset,
        }
    }

    /// Breaks both ends off: their peers see a reset, not an end.
    pub(super) fn reset(&self) {
        for end in [&self.client, &self.guest] {
            // Where it fails the socket is broken already, and its peer knows.
            let _ = sockopt::set_socket_linger(end, Some(std::time::Duration::ZERO));
        }
    }
}

/// One direction of a connection.
#[derive(Debug, Default)]
struct Flow {
    /// Read but not yet written: `pending[written..]`. Invariant: empty once all is written.
    pending: Vec<u8>,
    written: usize,
    /// The sender has sent its last byte.
    ended: bool,
    /// The receiver has been told so.
    finished: bool,
}

impl Flow {
    fn wants_read(&self) -> bool {
        !self.ended && self.pending.is_empty()
    }

    fn wants_write(&self) -> bool {
        !self.pending.is_empty()
    }

    fn pump(&mut self, from: impl AsFd, to: impl AsFd, scratch: &mut [u8]) -> Result<(), Errno> {
        for _ in 0..MOST_ROUNDS {
            self.flush(&to)?;
            if !self.wants_read() {
                break;
            }
            match retry(|| recv(&from, &mut *scratch, RecvFlags::empty()).map(|(length, _)| length)) {
                Ok(0) => self.ended = true,
                Ok(length) => self.pass_on(&scratch[..length], &to)?,
                Err(Errno::AGAIN) => break,
                Err(error) => return Err(error),
            }
        }
        if self.ended && self.pending.is_empty() && !self.finished {
            self.finished = true;
            match shutdown(to, Shutdown::Write) {
                Ok(()) | Err(Errno::NOTCONN) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Writes fresh bytes, and keeps what the receiver does not take now.
    fn pass_on(&mut self, bytes: &[u8], to: impl AsFd) -> Result<(), Errno> {
        let taken = match retry(|| send(&to, bytes, SendFlags::NOSIGNAL)) {
            Ok(taken) => taken,
            Err(Errno::AGAIN) => 0,
            Err(error) => return Err(error),
        };
        self.pending.extend_from_slice(&bytes[taken..]);
        Ok(())
    }

    /// Writes kept bytes. The buffer is given back when it is empty: most connections need none.
    fn flush(&mut self, to: impl AsFd) -> Result<(), Errno> {
        while self.wants_write() {
            match retry(|| send(&to, &self.pending[self.written..], SendFlags::NOSIGNAL)) {
                Ok(taken) => self.written += taken,
                Err(Errno::AGAIN) => return Ok(()),
                Err(error) => return Err(error),
            }
            if self.written == self.pending.len() {
                self.pending = Vec::new();
                self.written = 0;
            }
        }
        Ok(())
    }
}

fn retry<T>(mut call: impl FnMut() -> Result<T, Errno>) -> Result<T, Errno> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            result => return result,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{ErrorKind, Read, Write};
    use std::os::unix::net::UnixStream;

    use super::*;

    /// A connection, and the sockets at its far ends: the client's and the guest's.
    fn connection() -> (Connection, UnixStream, UnixStream) {
        let (client, near_client) = UnixStream::pair().unwrap();
        let (guest, near_guest) = UnixStream::pair().unwrap();
        for socket in [&client, &near_client, &guest, &near_guest] {
            socket.set_nonblocking(true).unwrap();
        }
        (Connection::new(near_client.into(), near_guest.into()), client, guest)
    }

    fn step(connection: &mut Connection, side: Side) -> Progress {
        let flags = connection.waits_for(side);
        connection.advance(side, flags, &mut vec![0; SCRATCH_BYTES])
    }

    fn read(mut socket: &UnixStream) -> Result<Vec<u8>, ErrorKind> {
        let mut bytes = vec![0; 1 << 20];
        let length = socket.read(&mut bytes).map_err(|error| error.kind())?;
        bytes.truncate(length);
        Ok(bytes)
    }

    #[test]
    fn nothing_is_read_before_the_guest_has_accepted() {
        let (mut connection, mut client, guest) = connection();
        client.write_all(b"early").unwrap();
        assert_eq!(connection.waits_for(Side::Client), EventFlags::empty());
        assert_eq!(step(&mut connection, Side::Client), Progress::Going);
        assert_eq!(read(&guest), Err(ErrorKind::WouldBlock));
        assert_eq!(step(&mut connection, Side::Guest), Progress::Going);
        assert_eq!(read(&guest), Ok(b"early".to_vec()));
    }

    #[test]
    fn the_guest_may_speak_first() {
        let (mut connection, client, mut guest) = connection();
        guest.write_all(b"220 ready").unwrap();
        step(&mut connection, Side::Guest);
        assert_eq!(read(&client), Ok(b"220 ready".to_vec()));
    }

    #[test]
    fn an_end_closes_one_direction_only() {
        let (mut connection, client, mut guest) = connection();
        client.shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!(step(&mut connection, Side::Guest), Progress::Going);
        assert_eq!(read(&guest), Ok(vec![])); // the guest sees the end ...
        guest.write_all(b"answer").unwrap();
        assert_eq!(step(&mut connection, Side::Guest), Progress::Going);
        assert_eq!(read(&client), Ok(b"answer".to_vec())); // ... and can still answer
        drop(guest);
        assert_eq!(step(&mut connection, Side::Guest), Progress::Done);
        assert_eq!(read(&client), Ok(vec![]));
    }

    #[test]
    fn a_receiver_that_is_full_stops_its_sender() {
        let (mut connection, mut client, guest) = connection();
        step(&mut connection, Side::Guest);
        let bytes: Vec<u8> = (0..1_000_000_u32).map(|n| (n % 251) as u8).collect();
        let (mut sent, mut received, mut was_full) = (0, Vec::new(), false);
        while received.len() < bytes.len() {
            if sent < bytes.len()
                && let Ok(more) = client.write(&bytes[sent..])
            {
                sent += more;
            }
            assert_eq!(step(&mut connection, Side::Client), Progress::Going);
            assert!(connection.up.pending.len() <= SCRATCH_BYTES);
            if connection.up.wants_write() {
                was_full = true;
                assert!(!connection.waits_for(Side::Client).contains(EventFlags::IN));
                assert!(connection.waits_for(Side::Guest).contains(EventFlags::OUT));
            }
            // The guest reads only when nothing else can go on.
            if (was_full || sent == bytes.len())
                && let Ok(more) = read(&guest)
            {
                received.extend(more);
            }
        }
        assert!(was_full);
        assert_eq!(received, bytes);
    }

    #[test]
    fn no_more_is_kept_than_may_be_read_at_once() {
        let (mut connection, mut client, guest) = connection();
        step(&mut connection, Side::Guest);
        let mut taken = 0;
        while let Ok(more) = client.write(&[0; 4096]) {
            taken += more;
            let flags = connection.waits_for(Side::Client);
            connection.advance(Side::Client, flags, &mut [0; 1000]);
        }
        assert!((1..=1000).contains(&connection.kept_bytes()), "{}", connection.kept_bytes());
        let mut received = 0;
        while received < taken {
            received += read(&guest).map_or(0, |bytes| bytes.len());
            step(&mut connection, Side::Guest);
        }
        assert_eq!((received, connection.kept_bytes()), (taken, 0));
    }

    #[test]
    fn a_broken_side_is_a_reset() {
        let (mut connection, client, guest) = connection();
        step(&mut connection, Side::Guest);
        drop(guest); // unread by the guest, so the next write fails
        (&client).write_all(b"lost").unwrap();
        assert_eq!(step(&mut connection, Side::Client), Progress::Reset);
        assert_eq!(connection.advance(Side::Guest, EventFlags::ERR, &mut []), Progress::Reset);
    }
}
