//! Disk images, read and written; packs and disk indexes.
//!
//! [`ovf`] reads and writes the descriptors and archives that machines travel in between platforms; [`tar`] finds
//! the files in an archive without unpacking it.
//!
//! Everything that can be read as a guest's disk is a [`Disk`]: a foreign image ([`image`]), or an
//! index with anything that can fetch a range of a blob ([`packed`]). [`cut`] says where a disk is best cut
//! into chunks.
//!
//! Files are handed in opened. Nothing here opens a path named inside an image, allocates by an
//! unchecked field, starts a process or uses the network.

mod cache;
pub mod cut;
mod disk;
pub mod image;
pub mod ovf;
pub mod packed;
pub mod tar;

pub use disk::{Disk, ReadError, Run, RunKind};
