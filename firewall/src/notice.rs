//! Where a policy cannot be granted as written. Always narrower than written, and said so.

use std::fmt;

use crate::vocabulary::Direction;

/// Something in a policy that this host does not, or not yet, do. Its `Display` is one sentence for the user.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Notice {
    /// The image asks for audit mode, which only the host may set.
    AuditNotGranted,
    /// A rule names peers by domain name, and nothing resolves them yet: they stay closed.
    NameNotResolved {
        /// The rule's direction.
        direction: Direction,
        /// The rule.
        rule: String,
        /// The name.
        name: String,
    },
    /// A rule names another machine, and there are no networks between machines yet: it stays closed.
    MachineNotReachable {
        /// The rule's direction.
        direction: Direction,
        /// The rule.
        rule: String,
        /// The other machine.
        machine: String,
    },
    /// An egress rule names IPv6 addresses, and machines have none to reach them from.
    NoIpv6 {
        /// The rule.
        rule: String,
    },
    /// A rule asks for a log, and the host offers none.
    NotLogged {
        /// The rule's direction.
        direction: Direction,
        /// The rule.
        rule: String,
    },
    /// The policy wants any name resolved, and the host offers no resolver.
    NoResolver,
    /// The policy wants listed names resolved, and the host offers no resolver that refuses the others.
    NoFilteringResolver,
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AuditNotGranted => f.write_str(
                "the image asks for audit mode, which only the host can set; its rules are enforced",
            ),
            Self::NameNotResolved { direction, rule, name } => {
                write!(
                    f,
                    "{direction} rule `{rule}`: `fqdn:{name}` stays closed; this version resolves no names for rules"
                )
            }
            Self::MachineNotReachable { direction, rule, machine } => write!(
                f,
                "{direction} rule `{rule}`: `peer:{machine}` stays closed; this version has no networks between machines"
            ),
            Self::NoIpv6 { rule } => {
                write!(
                    f,
                    "egress rule `{rule}`: its IPv6 addresses stay closed; machines have IPv4 only in this version"
                )
            }
            Self::NotLogged { direction, rule } => {
                write!(f, "{direction} rule `{rule}` asks for a log, which this host does not offer")
            }
            Self::NoResolver => f.write_str("this host offers no resolver; the machine cannot look up names"),
            Self::NoFilteringResolver => f.write_str(
                "this host offers no resolver that checks names; the machine cannot look up the names of its policy",
            ),
        }
    }
}
