//! What published ports let in and turned away, counted by the relay's thread and read by others.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use firewall::Refusal;

/// What the published ports of one ingress rule have let in and turned away since the VM started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublishedCounters {
    /// The rule that publishes the ports.
    pub rule: String,
    /// Connections (TCP) or conversations (UDP) let in.
    pub accepted: u64,
    /// Turned away because no rule lets their source in.
    pub denied_source: u64,
    /// Turned away because they came too fast.
    pub denied_rate: u64,
    /// Turned away because as many were open as may be.
    pub denied_connections: u64,
    /// Let in, but the guest refused them or did not answer.
    pub unanswered: u64,
}

/// The counters themselves.
#[derive(Debug, Default)]
pub(super) struct Counters {
    accepted: AtomicU64,
    denied_source: AtomicU64,
    denied_rate: AtomicU64,
    denied_connections: AtomicU64,
    unanswered: AtomicU64,
}

impl Counters {
    pub(super) fn admitted(&self) {
        self.accepted.fetch_add(1, Relaxed);
    }

    pub(super) fn refused(&self, refusal: Refusal) {
        let counter = match refusal {
            Refusal::NoRule => &self.denied_source,
            Refusal::Rate => &self.denied_rate,
            Refusal::Connections => &self.denied_connections,
        };
        counter.fetch_add(1, Relaxed);
    }

    pub(super) fn unanswered(&self) {
        self.unanswered.fetch_add(1, Relaxed);
    }

    pub(super) fn read(&self, rule: &str) -> PublishedCounters {
        PublishedCounters {
            rule: rule.to_owned(),
            accepted: self.accepted.load(Relaxed),
            denied_source: self.denied_source.load(Relaxed),
            denied_rate: self.denied_rate.load(Relaxed),
            denied_connections: self.denied_connections.load(Relaxed),
            unanswered: self.unanswered.load(Relaxed),
        }
    }
}
