//! QEMU as the engine.
//!
//! [`Qemu`] starts the process; `args` is the one place that knows QEMU's command line. The process
//! is given descriptors and, apart from firmware, no path; it may not start programs, gain rights or
//! outlive the thread that started it. It is spoken to over QMP alone, on a socket that has no name.
//!
//! Works with QEMU 7.2 and newer.

mod args;
mod firmware;
mod process;

pub use firmware::{FirmwareMissing, UefiFirmware, find_uefi};
pub use process::{NotInstalled, Qemu};
