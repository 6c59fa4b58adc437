//! Black-box suites: they judge what hull writes by the specifications alone.
//!
//! [`appliance::check`] reads an appliance as a file (an OCI image-layout archive or folder) and holds
//! every byte of it against `docs/formats/disk-index.md` and the OCI image specification. Each thing that
//! it looks at is a [`Rule`] with the section that demands it; a [`Report`] has one row for every rule,
//! also for those that were not reached, with the reason.
//!
//! [`images::run`] lets hull read and write random disk images, and lets QEMU's programs judge.
//!
//! [`hostile::run`] gives hull files that lie.
//!
//! [`registry::run`] holds a registry, ours or another one, against the distribution specification.
//!
//! It never links what it judges: no crate of this workspace is a dependency, and no code was taken over
//! from one. It never believes a size from the archive: what is read at once has a fixed bound (a pack, 64
//! MiB, is the largest). Whatever is in the archive, the answer is a report.

pub mod appliance;
mod canonical_json;
mod config;
mod cuts;
mod descriptor;
mod disk;
mod disk_index;
pub mod hostile;
mod image_index;
pub mod images;
mod manifest;
mod oci_layout;
mod packs;
mod raw_disk;
pub mod registry;
mod report;
mod rules;

pub use descriptor::Digest;
pub use oci_layout::OpenError;
pub use raw_disk::RawDisk;
pub use report::{Outcome, Report, Row};
pub use rules::Rule;
