//! What can go wrong between a policy and a network.

use std::io;

use firewall::CompileError;
use firewall::nft::{ListingError, VerifyError};

use super::program::ProgramError;
use super::relay::PublishError;
use super::{layout, tap};

/// Why a VM has no network. Whatever had been set up is undone.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NetError {
    /// Not run as root.
    #[error("creating a network namespace needs root, and this runs as user {uid}; run it with sudo")]
    NeedsRoot {
        /// The effective user.
        uid: u32,
    },
    /// The kernel has no tap devices, or hides them.
    #[error("there is no {}; load the kernel module `tun`, or give this container the device", tap::DEVICE)]
    NoTun,
    /// The VM's id cannot be part of a name.
    #[error("`{vm}` cannot name a network; expected 1 to 64 letters, digits, `-`, `_` and `.`")]
    BadId {
        /// What was given, control characters escaped.
        vm: String,
    },
    /// There is a network of that name, of a VM that runs or of one that was killed.
    #[error("the network namespace `{namespace}` exists already")]
    Exists {
        /// Its name.
        namespace: String,
    },
    /// A port cannot be published.
    #[error(transparent)]
    Publish(#[from] PublishError),
    /// The policy cannot be enforced.
    #[error("the machine's policy cannot be enforced")]
    Policy(#[source] CompileError),
    /// What the kernel says it enforces is not what it was told.
    #[error("the rules that were loaded are not in force")]
    NotInForce(#[source] VerifyError),
    /// The kernel's counters cannot be read.
    #[error("the rules' counters cannot be read")]
    Counters(#[source] ListingError),
    /// A program failed, or is missing.
    #[error(transparent)]
    Program(#[from] ProgramError),
    /// All 32,768 links between this host and VMs are in use, or the host uses those addresses itself.
    #[error("no address is free in {} for a link between the host and a VM", layout::LINKS)]
    NoFreeLink,
    /// The kernel refused something.
    #[error("cannot {doing}")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

impl NetError {
    /// Wraps what the kernel said about `doing`.
    pub(super) fn io(doing: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { doing, source }
    }

    pub(super) fn bad_id(vm: &str) -> Self {
        Self::BadId { vm: vm.escape_debug().to_string() }
    }
}
