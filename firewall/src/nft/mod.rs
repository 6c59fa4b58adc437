//! The kernel as enforcer: nft text from a compiled policy, and what `nft -j` answers, read back.
//!
//! Everything is loaded inside the machine's own network namespace, with `nft -f -`:
//!
//! ```text
//!            tap                       namespace                            uplink
//!   guest ---------> inlet_pin > pre_fragment > pre_source --+-- via_forward > source_nat ---> outside
//!    MAC, ARP, EtherType                                     |
//!                                                            +-- to_host    DHCP, DNS, `host`
//!   guest <---------------------------------- to_guest --------- relay, health checks, DHCP
//! ```
//!
//! First [`deny_all`], before the tap is up; then [`ruleset`], which takes its place in one step; then [`verify`], on
//! what `nft -j list ruleset` says. An error in a text leaves what was loaded before.
//!
//! nft text is written in this module and nowhere else. It never runs nft.
//!
//! Source: nft(8) 1.0.6; hook priorities: linux/netfilter_ipv4.h (defragmentation -400, connection tracking -200).

mod interfaces;
mod listing;
mod rules;
mod text;

pub use interfaces::{InterfaceError, InterfaceName, Interfaces, MacAddress};
pub use listing::{Count, Counters, ListingError, VerifyError, parse_counters, verify};

use crate::compile::Compiled;
use text::{Base, Chain, Family, Table, Verdict};

/// Arguments of `nft` that load a text from standard input.
pub const LOAD: [&str; 2] = ["-f", "-"];
/// Arguments of `nft` that print what [`verify`] reads.
pub const LIST_RULESET: [&str; 3] = ["-j", "list", "ruleset"];
/// Arguments of `nft` that print what [`parse_counters`] reads.
pub const LIST_COUNTERS: [&str; 3] = ["-j", "list", "counters"];

/// The name of hull's tables, one per family.
const TABLE: &str = "hull";

/// Rules that let nothing into, out of or through the namespace. Needs no interface to be there.
///
/// The one rule in it drops nothing that would have passed: it names connection tracking, so that the kernel sets that
/// up and [`sysctls`](crate::sysctls) finds its settings.
pub fn deny_all() -> String {
    let denied = |name: &str, hook, rules| Chain {
        name: name.to_owned(),
        base: Some(Base { kind: "filter", hook, device: None, priority: 0, policy: "drop" }),
        rules,
    };
    let tracking = text::rule("ct state invalid").then(Verdict::Drop);
    let chains = vec![
        denied("to_host", "input", vec![tracking]),
        denied("via_forward", "forward", Vec::new()),
        denied("to_guest", "output", Vec::new()),
    ];
    Table { family: Family::Inet, counters: Vec::new(), chains }.to_string()
}

/// The rules of a machine. Replaces what [`deny_all`] or an earlier `ruleset` loaded, in one step; counters start at
/// 0. The tap must exist, up or not.
pub fn ruleset(compiled: &Compiled, interfaces: &Interfaces) -> String {
    rules::tables(compiled, interfaces).iter().map(ToString::to_string).collect()
}

#[cfg(test)]
mod tests;
