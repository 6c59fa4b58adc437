//! The appliance suite is itself tested: on what hull packs, on somebody else's software, and on damage.

#![expect(clippy::print_stderr, reason = "a test that cannot run here says why it is skipped")]

mod binary;
mod damage;
mod hull_binary;
mod others_software;
mod sample;
