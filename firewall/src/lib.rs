//! A machine's packet rules: what they mean, and the text that makes a kernel enforce them.
//!
//! ```text
//! appliance::policy::Firewall --compile()--> Compiled --nft::ruleset()--> text for `nft -f -`
//!                          \--> oracle::decide(), Gate: the same question answered from the policy as written
//! ```
//!
//! The compiler and the oracle share no code beyond the vocabulary ([`Denial`], [`Direction`], [`TokenBucket`]);
//! `tests/kernel.rs` sends real packets through the compiled rules and holds the outcome against the oracle.
//!
//! Never: I/O, a clock, randomness, async. The caller runs `nft`, opens sockets, and says what time it is.

mod bucket;
mod compile;
mod describe;
mod environment;
mod gate;
mod intervals;
pub mod nft;
mod notice;
pub mod oracle;
mod sysctl;
mod vocabulary;

pub use bucket::{RateLimiter, TokenBucket};
pub use compile::{Allow, CompileError, Compiled, compile};
pub use describe::{Row, describe};
pub use environment::{Environment, FlowLog, Network, Resolver};
pub use gate::{Client, Gate, Refusal, Ticket};
pub use intervals::{AddressSet, IntervalSet, Number};
pub use notice::Notice;
pub use sysctl::sysctls;
pub use vocabulary::{Denial, Direction};
