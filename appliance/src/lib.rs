//! The nouns of hull: what an appliance is, what it is called, and what it asks of a host.
//!
//! Values and their parsing, shared by every other crate. Nothing here opens a file, reads a clock
//! or talks to a network.
//!
//! - [`Digest`] and [`Blob`]: how content is named.
//! - [`Reference`]: how an appliance is named, `HOST[:PORT]/NAME[:TAG|@DIGEST]`.
//! - [`ApplianceConfig`]: machines, disks, NICs and volumes.
//! - [`policy`]: what the appliance asks of, and forbids itself on, the host that runs it.
//! - [`Fault`]: what is wrong in one of these documents, and where.
//! - [`manifest`]: how all of it is laid out as OCI manifests.

pub mod canonical;
mod config;
mod digest;
mod fault;
pub mod manifest;
pub mod media_type;
pub mod policy;
mod reference;

pub use config::{
    ApplianceConfig, Arch, Bus, ConfigError, Console, Devices, Disk, DiskMode, Firmware, Machine, Nic,
    NicModel, Volume, is_label,
};
pub use digest::{Algorithm, Blob, Digest, DigestError, Hasher};
pub use fault::Fault;
pub use policy::Policy;
pub use reference::{Reference, ReferenceError, Version};
