//! What a network under test is put between: a guest without QEMU, and a world beyond the host.
//!
//! The guest is a namespace with a tap of its own, and a thread that carries frames between that tap
//! and the VM's: so real sockets and a real DHCP client play the guest. The world is a namespace
//! behind the host, at addresses that RFC 5737 keeps for documentation.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::thread::JoinHandle;

use firewall::nft::MacAddress;
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};

use super::super::namespace::{self, Namespace};
use super::super::{program, tap};

/// A namespace that is deleted with the value.
#[derive(Debug)]
pub(super) struct Room {
    name: String,
    pub(super) namespace: Namespace,
}

impl Room {
    pub(super) fn new(name: String) -> Self {
        namespace::create(&name).unwrap();
        let namespace = Namespace::open(&name).unwrap();
        Self { name, namespace }
    }

    pub(super) fn ip(&self, commands: &str) {
        self.enter(|| program::ip_batch("prepare the test", commands)).unwrap();
    }

    pub(super) fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        self.namespace.enter(work).unwrap()
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        drop(namespace::delete(&self.name));
    }
}

/// The far side of a VM's tap.
#[derive(Debug)]
pub(super) struct Guest {
    pub(super) room: Room,
    stop: Arc<OwnedFd>,
    wire: Option<JoinHandle<()>>,
}

impl Guest {
    /// Plugs a guest with this hardware address, and no IP address, into `tap`.
    pub(super) fn plug_into(tap: &OwnedFd, mac: MacAddress, name: &str) -> Self {
        let room = Room::new(format!("guest-{name}"));
        let card = room.enter(|| tap::create("eth0")).unwrap();
        room.ip(&format!("link set lo up\nlink set eth0 address {mac}\nlink set eth0 up"));
        let stop = Arc::new(eventfd(0, EventfdFlags::CLOEXEC).unwrap());
        let (far, until) = (tap.try_clone().unwrap(), Arc::clone(&stop));
        let wire = std::thread::spawn(move || drop(carry(&card, &far, &until)));
        Self { room, stop, wire: Some(wire) }
    }

    /// Gives the guest the address that DHCP would give it.
    pub(super) fn configure(&self) {
        self.room.ip("address add 10.0.2.15/24 dev eth0\nroute add default via 10.0.2.2");
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        rustix::io::write(&self.stop, &1_u64.to_ne_bytes()).unwrap();
        drop(self.wire.take().map(JoinHandle::join));
    }
}

/// Carries frames, each with its virtio-net header, both ways between two taps.
fn carry(a: &OwnedFd, b: &OwnedFd, stop: &OwnedFd) -> io::Result<()> {
    let mut frame = vec![0; 128 << 10];
    loop {
        let mut ready =
            [a.as_fd(), b.as_fd(), stop.as_fd()].map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
        poll(&mut ready, None)?;
        let [from_a, from_b, stopped] = ready.map(|fd| !fd.revents().is_empty());
        if stopped {
            return Ok(());
        }
        for (from, to, is_ready) in [(a, b, from_a), (b, a, from_b)] {
            if is_ready {
                let length = rustix::io::read(from, &mut frame)?;
                // A card that is down takes nothing, as on any wire.
                let _ = rustix::io::write(to, &frame[..length]);
            }
        }
    }
}

/// A namespace behind the host: the host is 198.51.100.N + 1, the world 198.51.100.N + 2, in a /30.
pub(super) fn world(name: &str, n: u8) -> Room {
    let room = Room::new(format!("world-{name}"));
    let (outer, host, inside) = (format!("w{name}"), n + 1, n + 2);
    program::ip_batch(
        "prepare the test",
        &format!(
            "link add {outer} type veth peer name eth0 netns {}
             address add 198.51.100.{host}/30 dev {outer}
             link set {outer} up",
            room.name
        ),
    )
    .unwrap();
    room.ip(&format!("link set lo up\naddress add 198.51.100.{inside}/30 dev eth0\nlink set eth0 up"));
    room
}
