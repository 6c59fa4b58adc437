//! Boots appliances: their network first, then their disks, then QEMU; supervises them; cleans up
//! after them, whatever was killed.
//!
//! - [`Vms`], [`Vm`]: the VMs of this machine and their folders.
//! - [`Launch`], [`supervise`]: the one process that a running VM has besides QEMU.
//! - [`control`]: how other processes talk to it.
//! - [`engine`], [`qemu`], [`qmp`], [`kvm`]: the machine monitor, and what executes the guest.
//! - [`net`]: a network namespace per VM, with the policy in force before the guest runs.
//! - [`nbd`], [`overlay`]: the disks: read from whoever hands in a [`formats::Disk`], written to overlays.
//!
//! It never speaks HTTP but for a health check's one request, never knows where a disk's content comes from, and never decides what a
//! policy means. QEMU's command line is in one module, and so is every rule in nft's language.

mod child;
pub mod engine;
pub mod kvm;
pub mod nbd;
pub mod net;
pub mod overlay;
pub mod qemu;
pub mod qmp;
mod vms;

pub use kvm::AccelRequest;
pub use qemu::Qemu;
pub use vms::*;
