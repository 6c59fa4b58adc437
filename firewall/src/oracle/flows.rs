//! What the oracle remembers: flows that were let through, and tokens that were taken.
//!
//! ```text
//! nothing --allowed packet--> unanswered --packet the other way--> answered
//! ```
//! Every packet of an unanswered flow that goes the first way is a new one again, as the kernel has it.

use std::collections::HashMap;
use std::time::Duration;

use appliance::policy::{FlowLimits, Rate};

use super::packet::{FlowKey, Packet, Payload, TcpFlags};
use crate::bucket::TokenBucket;
use crate::vocabulary::Denial;

/// What happened to one machine so far. Flows never end by themselves here, and there are at most as many as the
/// policy's limit allows, unless the host only audits.
#[derive(Debug, Clone, Default)]
pub struct History {
    now: Duration,
    /// Keyed as the first packet was sent; true once answered.
    flows: HashMap<FlowKey, bool>,
    rule_buckets: HashMap<String, TokenBucket>,
    new_flows: Option<TokenBucket>,
}

/// How a packet stands to the flows so far.
pub(super) enum Standing {
    Established,
    Related,
    New,
    Invalid,
}

impl History {
    /// Sets the time, counted from any fixed start. Time never runs back.
    pub fn advance_to(&mut self, now: Duration) {
        self.now = self.now.max(now);
    }

    pub(super) fn standing(&mut self, packet: &Packet) -> Standing {
        if let Payload::IcmpError { about } = packet.payload {
            let known = self.flows.contains_key(&about) || self.flows.contains_key(&about.reversed());
            return if known { Standing::Related } else { Standing::Invalid };
        }
        let Some(key) = packet.flow_key() else { return Standing::New };
        let opens = match packet.payload {
            Payload::Tcp { flags, .. } => flags == TcpFlags::SYN,
            Payload::EchoReply { .. } => false,
            _ => true,
        };
        if let Some(answered) =
            self.flows.get(&key).filter(|_| !matches!(packet.payload, Payload::EchoReply { .. }))
        {
            return match (answered, opens) {
                (true, _) => Standing::Established,
                (false, true) => Standing::New,
                (false, false) => Standing::Invalid,
            };
        }
        let answers = match packet.payload {
            Payload::Tcp { flags, .. } => flags == TcpFlags::SYN_ACK || flags.rst,
            Payload::EchoRequest { .. } => false,
            _ => true,
        };
        match self.flows.get_mut(&key.reversed()) {
            Some(answered) if *answered || answers => {
                *answered = true;
                Standing::Established
            }
            Some(_) => Standing::Invalid,
            None if opens => Standing::New,
            None => Standing::Invalid,
        }
    }

    /// Takes a token of a rule.
    pub(super) fn take(&mut self, rule: &str, rate: Rate) -> bool {
        let bucket = || TokenBucket::new(rate.new_per_second, rate.burst);
        self.rule_buckets.entry(rule.to_owned()).or_insert_with(bucket).take(self.now)
    }

    /// Enters an allowed packet's flow, if the machine may have one more.
    pub(super) fn open(&mut self, packet: &Packet, limits: &FlowLimits) -> Result<(), Denial> {
        let Some(key) = packet.flow_key() else { return Ok(()) };
        if !self.flows.contains_key(&key) && self.flows.len() >= limits.flows as usize {
            return Err(Denial::Flows);
        }
        let per_second = limits.new_flows_per_second;
        if !self.new_flows.get_or_insert_with(|| TokenBucket::new(per_second, per_second)).take(self.now) {
            return Err(Denial::NewFlows);
        }
        self.enter(packet);
        Ok(())
    }

    /// Enters a packet's flow in any case.
    pub(super) fn enter(&mut self, packet: &Packet) {
        if let Some(key) = packet.flow_key() {
            self.flows.entry(key).or_insert(false);
        }
    }
}
