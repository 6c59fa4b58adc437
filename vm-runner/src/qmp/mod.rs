//! QMP: how QEMU is told what to do, and how it says what happened.
//!
//! One JSON object per line over a stream socket. A reader thread hands replies to whoever waits
//! for them and events to one sink, so a silent QEMU delays only its own caller. Unknown members
//! and events are ignored: QEMU adds some in every release. What it never does: speak the human
//! monitor, send a command the caller did not ask for, or wait longer than it was told to.
//!
//! Source: QEMU `docs/interop/qmp-spec.rst` and the QAPI schema, version 7.2.

mod client;
mod message;
mod transcript;

pub use client::{CallError, Client, ConnectError};
pub use message::{BlockStats, Event, QemuVersion, RunState};
