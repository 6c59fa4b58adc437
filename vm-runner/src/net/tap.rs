//! The tap device: the guest's network card on one side, the namespace's interface on the other.
//!
//! The device lives as long as a descriptor of it is open, so nothing of it outlives QEMU and us.
//!
//! Source: Linux, Documentation/networking/tuntap.rst; QEMU, net/tap-linux.c for the header.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;

/// The character device that makes taps.
pub(super) const DEVICE: &str = "/dev/net/tun";

const IFF_TAP: u16 = 0x0002;
const IFF_NO_PI: u16 = 0x1000;
const IFF_VNET_HDR: u16 = 0x4000;

/// `struct ifreq`, as far as `TUNSETIFF` reads it.
#[repr(C)]
struct InterfaceRequest {
    name: [u8; 16],
    flags: u16,
    padding: [u8; 22],
}

/// Makes the tap `name` in the namespace of the calling thread. It is down, and has no address.
///
/// Frames carry a virtio-net header, so that checksums and segmentation can be left to whoever is
/// best at them; QEMU asks the descriptor for that and needs no option.
#[expect(unsafe_code, reason = "an ioctl on a descriptor, described by a structure")]
pub(super) fn create(name: &str) -> io::Result<OwnedFd> {
    /// `TUNSETIFF`: `_IOW('T', 202, int)`, although it reads an `ifreq`.
    const SET_INTERFACE: rustix::ioctl::Opcode = rustix::ioctl::opcode::write::<i32>(b'T', 202);

    assert!(name.len() < 16, "an interface's name has at most 15 bytes");
    let device = File::options().read(true).write(true).open(DEVICE)?;
    let mut request =
        InterfaceRequest { name: [0; 16], flags: IFF_TAP | IFF_NO_PI | IFF_VNET_HDR, padding: [0; 22] };
    request.name[..name.len()].copy_from_slice(name.as_bytes());
    // SAFETY: `TUNSETIFF` reads and writes back one `struct ifreq`, 40 bytes on every 64-bit Linux, which
    // `InterfaceRequest` is by layout; it lives on this stack for the whole call. The name in it ends
    // with a zero, by the assertion above.
    unsafe {
        let request = rustix::ioctl::Updater::<SET_INTERFACE, _>::new(&mut request);
        rustix::ioctl::ioctl(&device, request)?;
    }
    Ok(device.into())
}

const _: () = assert!(size_of::<InterfaceRequest>() == 40);
