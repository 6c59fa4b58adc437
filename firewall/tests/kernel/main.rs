//! The compiled rules in a real kernel, held against the oracle. Needs root, `ip` and `nft`; skipped otherwise.

#![expect(clippy::print_stderr, reason = "tests say why they skip, and how much they sent")]

mod differential;
mod flows;
mod lab;
mod limits;
mod link;
mod loading;
mod policies;
mod wire;
