//! What an operator should know, and who is told.
//!
//! The library prints nothing and keeps no log: it observes, and whoever runs the server decides what
//! becomes of it. Nothing in an event is a secret: paths have no query and no upload's name, and
//! credentials are not there at all.

use std::fmt;
use std::io;
use std::net::IpAddr;

use crate::access::audit::Audit;
use crate::exchange::Exchange;
use crate::lifecycle::{Collected, Scrubbed};

/// Is told what an operator should know. Called from many threads, and must not block.
pub trait Observer: fmt::Debug + Send + Sync {
    /// Something happened.
    fn observe(&self, event: &Event<'_>);
}

/// Nobody is told anything.
impl Observer for () {
    fn observe(&self, _: &Event<'_>) {}
}

/// What an operator should know.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// A request is over: it was answered, or its client went away.
    RequestAnswered {
        /// All that is known of it.
        request: &'a Exchange,
    },
    /// A request was answered with a 5xx status, or with what is there although not all could be done that
    /// belongs to it. [`Event::RequestAnswered`] follows.
    RequestFailed {
        /// What is known of it so far.
        request: &'a Exchange,
        /// Why.
        error: &'a (dyn std::error::Error + 'static),
    },
    /// A connection could not be accepted; often too many files are open.
    AcceptFailed {
        /// Why.
        error: &'a io::Error,
    },
    /// A connection was closed at once: its address has as many as it may have.
    ConnectionRefused {
        /// The address; of IPv6, the first of its /64 network.
        peer: IpAddr,
        /// How many it may have.
        limit: usize,
        /// False if the same was observed before, and the address has had half of them ever since.
        is_news: bool,
    },
    /// A client did not get as far as a request, because TLS did not come about.
    HandshakeFailed {
        /// The client's address.
        peer: IpAddr,
        /// Why.
        error: &'a io::Error,
    },
    /// Somebody changed something, or tried what they may not.
    Audit(&'a Audit),
    /// Abandoned uploads were forgotten.
    UploadsExpired {
        /// How many.
        count: usize,
    },
    /// Abandoned uploads could not be looked for.
    ExpiryFailed {
        /// Why.
        error: &'a (dyn std::error::Error + 'static),
    },
    /// A cycle of garbage collection has ended.
    GarbageCollected {
        /// What it found and deleted.
        collected: &'a Collected,
    },
    /// Everything was read again.
    Scrubbed {
        /// What was found.
        scrubbed: &'a Scrubbed,
    },
    /// A cycle of garbage collection broke off. The next one goes on with what it left.
    CollectionFailed {
        /// Why.
        error: &'a (dyn std::error::Error + 'static),
    },
}
