//! The real `hull`, run as a person or a script runs it: arguments in; exit code, stdout and stderr out.
//!
//! One file per subject. Each test has a host of its own: an empty store, a clean environment. Boots
//! need root, QEMU and nft; a test that lacks something prints why it skips.

#![expect(clippy::print_stderr, reason = "a test that skips says so")]

mod bad_input;
mod convert;
mod drill;
mod exchange;
mod export;
mod help;
mod history;
mod import;
mod import_ovf;
mod interop;
mod nbd;
mod pack;
mod registry;
mod run;
mod serve;
mod support;
