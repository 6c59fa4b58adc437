//! The firewall's rules as all targets see them: one shape for both directions, and what becomes of the parts that
//! no target has words for.

use appliance::policy::{
    EgressRule, Firewall, FlowLimits, IngressRule, LogPolicy, Peer, PortRange, Proto, Publish, Rate,
};

use super::Limits;
use super::loss::{Effect, LossReport};

/// Which way a connection is opened, as the machine sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    Ingress,
    Egress,
}

/// A rule of either direction.
#[derive(Debug, Clone)]
pub(super) struct Rule<'a> {
    pub(super) direction: Direction,
    pub(super) name: &'a str,
    pub(super) proto: Proto,
    pub(super) ports: &'a [PortRange],
    pub(super) peers: &'a [Peer],
    rate: Option<Rate>,
    max_connections: Option<u32>,
    publish: Option<Publish>,
    log: LogPolicy,
}

impl Rule<'_> {
    /// As [`Loss::key`](super::Loss::key) names it; `part` is one of its keys.
    pub(super) fn key(&self, part: &str) -> String {
        let direction = match self.direction {
            Direction::Ingress => "ingress",
            Direction::Egress => "egress",
        };
        let dot = if part.is_empty() { "" } else { "." };
        format!("firewall.{direction}.{}{dot}{part}", self.name)
    }

    /// The key that holds its peers.
    pub(super) fn peers_key(&self) -> String {
        self.key(match self.direction {
            Direction::Ingress => "from",
            Direction::Egress => "to",
        })
    }
}

impl<'a> From<&'a IngressRule> for Rule<'a> {
    fn from(rule: &'a IngressRule) -> Self {
        Self {
            direction: Direction::Ingress,
            name: &rule.name,
            proto: rule.proto,
            ports: &rule.ports,
            peers: &rule.from,
            rate: rule.rate,
            max_connections: rule.max_connections,
            publish: rule.publish,
            log: rule.log,
        }
    }
}

impl<'a> From<&'a EgressRule> for Rule<'a> {
    fn from(rule: &'a EgressRule) -> Self {
        Self {
            direction: Direction::Egress,
            name: &rule.name,
            proto: rule.proto,
            ports: &rule.ports,
            peers: &rule.to,
            rate: rule.rate,
            max_connections: None,
            publish: None,
            log: rule.log,
        }
    }
}

/// The rules that a target without rates, limits, published ports and logs can take over, in the order in which
/// they were written; what is lost goes into `report`.
pub(super) fn expressible<'a>(
    firewall: &'a Firewall,
    machine: &str,
    limits: Limits,
    report: &mut LossReport,
) -> Vec<Rule<'a>> {
    let ingress = firewall.ingress.iter().map(Rule::from);
    let all: Vec<Rule<'a>> = ingress.chain(firewall.egress.iter().map(Rule::from)).collect();
    all.into_iter().filter(|rule| keep(rule, machine, limits, report)).collect()
}

fn keep(rule: &Rule<'_>, machine: &str, limits: Limits, report: &mut LossReport) -> bool {
    if rule.publish.is_some() {
        let becomes = "no port of the host leads there";
        report.lose(Some(machine), rule.key("publish"), Effect::Narrower, becomes);
    }
    if rule.log != LogPolicy::None {
        report.lose(Some(machine), rule.key("log"), Effect::Other, "nothing is logged");
    }
    let limited = [
        (rule.rate.is_some(), "rate", "new connections"),
        (rule.max_connections.is_some(), "max-connections", "connections at one time"),
    ];
    let mut kept = true;
    for (_, key, what) in limited.into_iter().filter(|(is_limited, ..)| *is_limited) {
        match limits {
            Limits::Respected => {
                let becomes = format!("the rule is left out, for {what} cannot be limited");
                report.lose(Some(machine), rule.key(key), Effect::Narrower, becomes);
                kept = false;
            }
            Limits::Dropped => {
                let becomes = format!("the rule holds without its limit on {what}");
                report.lose(Some(machine), rule.key(key), Effect::Wider, becomes);
            }
        }
    }
    kept
}

/// What a machine may do in all: no target has these bounds. Those that nobody has written are not reported as lost.
pub(super) fn report_flow_limits(flow_limits: FlowLimits, machine: &str, report: &mut LossReport) {
    let usual = FlowLimits::default();
    let becomes = "flows are not counted: there may be any number";
    for (key, is_usual) in [
        ("flows", flow_limits.flows == usual.flows),
        ("new-flows-per-second", flow_limits.new_flows_per_second == usual.new_flows_per_second),
    ] {
        let key = format!("firewall.limits.{key}");
        if is_usual {
            report.notice(Some(machine), key, Effect::Wider, becomes);
        } else {
            report.lose(Some(machine), key, Effect::Wider, becomes);
        }
    }
}
