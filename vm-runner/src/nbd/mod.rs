//! An NBD server for readable disks: how a guest's disk gets from hull into QEMU.
//!
//! Read-only exports over Unix sockets. A request is answered with the disk's bytes, with holes
//! where the disk is known to be zero, or with an error; never with bytes that the disk did not
//! vouch for. What a client sends is bounded before it is believed: a wrong magic number or an
//! oversized message ends its connection and nothing else. There is no TLS and no TCP.
//!
//! ```text
//! socket --> negotiation --> Session --> transmission, several threads per connection
//! ```
//!
//! Source: NBD protocol, `doc/proto.md` of the NetworkBlockDevice project: fixed newstyle
//! negotiation, structured replies, `base:allocation` metadata.

mod export;
mod negotiation;
mod server;
#[cfg(test)]
mod tests;
mod transmission;
mod wire;

pub use export::{Export, Exports, ReadFailure};
pub use server::{BindError, Connection, Listener};
