//! Gives the guest its address: a DHCP server for one client, inside the VM's namespace.
//!
//! It hears only what comes in by the tap, and never touches the host's network. A guest that
//! brings its own address along (10.0.2.15/24, gateway 10.0.2.2) works without it.

mod message;

use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::event::{PollFd, PollFlags, poll};
use socket2::{Domain, Protocol, Socket, Type};

pub(super) use message::Offer;

const SERVER_PORT: u16 = 67;

/// A socket that DHCP requests of `device` arrive at. Call it inside the namespace.
pub(super) fn bind(device: &str) -> io::Result<std::net::UdpSocket> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
    socket.bind_device(Some(device.as_bytes()))?;
    socket.set_broadcast(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, SERVER_PORT)).into())?;
    Ok(socket.into())
}

/// Answers requests until `stop` becomes readable, or until the device is gone.
pub(super) fn serve(socket: &std::net::UdpSocket, offer: &Offer, stop: &Arc<OwnedFd>) -> io::Result<()> {
    let mut datagram = [0; message::MOST_BYTES];
    loop {
        let mut ready = [PollFd::new(socket, PollFlags::IN), PollFd::new(stop, PollFlags::IN)];
        match poll(&mut ready, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        if !ready[1].revents().is_empty() {
            return Ok(());
        }
        match socket.recv(&mut datagram) {
            Ok(length) => respond(socket, &datagram[..length], offer),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(error) => return Err(error),
        }
    }
}

/// An answer that cannot be sent is a lost packet, and the client asks again after a while.
fn respond(socket: &std::net::UdpSocket, datagram: &[u8], offer: &Offer) {
    if let Some(reply) = message::answer(datagram, offer) {
        let to: SocketAddrV4 = reply.to;
        drop(socket.send_to(&reply.bytes, to));
    }
}
