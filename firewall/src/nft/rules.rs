//! Which chains and rules make a compiled policy hold.
//!
//! Two principles. What no policy can open is dropped before connection tracking sees it. What opens a flow passes
//! `open_flow`, whatever allowed it, so the machine's limits hold over both directions together.
//!
//! Egress `per = "source"` needs no bucket per source: the only source is the machine.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use appliance::policy::{LogPolicy, Mode};

use super::interfaces::Interfaces;
use super::text::{Base, Chain, Family, Rule, Table, Verdict, rule};
use crate::compile::{Allow, Compiled};
use crate::environment::FlowLog;
use crate::intervals::{IntervalSet, Number};
use crate::vocabulary::{Denial, Direction};

use Verdict::{Accept, Drop, Goto, Jump, Masquerade, Return};

/// Log lines in a second, and at once, for one rule.
const LOG_LIMIT: &str = "limit rate 5/second burst 10 packets";

/// The most that an egress limit is written as; nft_limit.c refuses rates of about half as much again.
const MAX_EGRESS_MBIT: u32 = 100_000;

/// Every table of a machine's namespace.
pub(super) fn tables(compiled: &Compiled, interfaces: &Interfaces) -> [Table; 2] {
    let net = Net { compiled, interfaces };
    let mut inet = vec![net.pre_fragment(), net.pre_source(), net.track(), net.related(), net.open_flow()];
    inet.extend(compiled.egress.iter().flat_map(|allow| net.rule_chains(allow)));
    inet.extend([net.to_host(), net.via_forward(), net.to_guest(), net.source_nat()]);
    [(Family::Inet, inet), (Family::Netdev, vec![net.pin_arp(), net.inlet_pin()])]
        .map(|(family, chains)| Table { family, counters: counters_of(&chains), chains })
}

/// The name of a rule's counter: `out_` and the rule's name with `_` for `-`, which rule names do not have.
pub(super) fn rule_counter(direction: Direction, name: &str) -> String {
    let prefix = match direction {
        Direction::Ingress => "in",
        Direction::Egress => "out",
    };
    format!("{prefix}_{}", name.replace('-', "_"))
}

/// The name of the counter of what an egress rule's rate turned away.
pub(super) fn over_rate_counter(name: &str) -> String {
    format!("over_{}", rule_counter(Direction::Egress, name))
}

/// The name of the counter of what was dropped for a reason.
pub(super) fn denial_counter(denial: Denial) -> String {
    format!("drop_{}", denial.as_str().replace('-', "_"))
}

fn counters_of(chains: &[Chain]) -> Vec<String> {
    let used: BTreeSet<&String> =
        chains.iter().flat_map(|chain| &chain.rules).filter_map(|r| r.counter.as_ref()).collect();
    used.into_iter().cloned().collect()
}

fn denied(matches: impl Into<String>, denial: Denial) -> Rule {
    rule(matches).count(denial_counter(denial)).then(Drop)
}

fn chain(name: impl Into<String>, rules: Vec<Rule>) -> Chain {
    Chain { name: name.into(), base: None, rules }
}

fn base_chain(
    name: &str,
    hook: &'static str,
    priority: i32,
    policy: &'static str,
    rules: Vec<Rule>,
) -> Chain {
    let base = Base { kind: "filter", hook, device: None, priority, policy };
    Chain { name: name.to_owned(), base: Some(base), rules }
}

struct Net<'a> {
    compiled: &'a Compiled,
    interfaces: &'a Interfaces,
}

impl Net<'_> {
    /// Frames from the machine: its own MAC address, IPv4, and ARP for itself.
    fn inlet_pin(&self) -> Chain {
        let (mac, tap) = (self.interfaces.guest_mac, &self.interfaces.tap);
        let rules = vec![
            denied(format!("ether saddr != {mac}"), Denial::Spoofed),
            rule("ether type ip").then(Accept),
            rule("ether type arp").then(Goto("pin_arp".to_owned())),
            denied("ether type ip6", Denial::Ipv6),
            denied("", Denial::EtherType),
        ];
        let base = Base {
            kind: "filter",
            hook: "ingress",
            device: Some(tap.to_string()),
            priority: -500,
            policy: "drop",
        };
        Chain { name: "inlet_pin".to_owned(), base: Some(base), rules }
    }

    /// ARP from the machine: questions and answers that name itself, or nobody (RFC 5227 probes).
    fn pin_arp(&self) -> Chain {
        let (mac, guest) = (self.interfaces.guest_mac, self.compiled.network.guest);
        let own = format!(
            "arp operation {{ request, reply }} arp saddr ether {mac} arp saddr ip {{ 0.0.0.0, {guest} }}"
        );
        chain("pin_arp", vec![rule(own).then(Accept), denied("", Denial::Arp)])
    }

    /// Fragments, before the kernel puts them together. Both directions: neither side's rules see ports in them.
    fn pre_fragment(&self) -> Chain {
        let rules = vec![
            denied("ip frag-off & 0x3fff != 0", Denial::Fragment),
            denied("exthdr frag exists", Denial::Fragment),
        ];
        base_chain("pre_fragment", "prerouting", -450, "accept", rules)
    }

    /// What the machine sends: from its own address, to where a rule could lead at all.
    fn pre_source(&self) -> Chain {
        let network = &self.compiled.network;
        let mut rules = vec![
            rule(format!("iifname != \"{}\"", self.interfaces.tap)).then(Return),
            rule(self.dhcp_question()).then(Accept),
            denied(format!("ip saddr != {}", network.guest), Denial::Spoofed),
        ];
        for (denial, addresses) in &self.compiled.forbidden {
            rules.extend(v4_match("ip daddr", addresses).map(|matches| denied(matches, *denial)));
        }
        rules.push(denied("meta l4proto != { icmp, tcp, udp }", Denial::Protocol));
        rules.extend(self.compiled.limits.egress_mbit.map(|mbit| {
            let bytes_per_second = u64::from(mbit.min(MAX_EGRESS_MBIT)) * 125_000;
            // A tenth of a second, and never less than a few of the largest packets that a tap delivers.
            let burst = (bytes_per_second / 10).clamp(262_144, 1 << 30);
            let over = format!("limit rate over {bytes_per_second} bytes/second burst {burst} bytes");
            self.denied_by_limit(over, Denial::Bandwidth)
        }));
        base_chain("pre_source", "prerouting", -310, "accept", rules)
    }

    /// Returns only for packets that open a flow, or repeat one that nobody answered.
    fn track(&self) -> Chain {
        let rules = vec![
            rule("ct state established").then(Accept),
            rule("ct state related").then(Goto("track_related".to_owned())),
            denied("ct state != new", Denial::Invalid),
            denied("tcp flags & (fin | syn | rst | ack) != syn", Denial::Invalid),
        ];
        chain("track", rules)
    }

    fn related(&self) -> Chain {
        let errors = "icmp type { destination-unreachable, time-exceeded, parameter-problem }";
        chain("track_related", vec![rule(errors).then(Accept), denied("", Denial::Invalid)])
    }

    fn open_flow(&self) -> Chain {
        let (flows, per_second) = (self.compiled.limits.flows, self.compiled.limits.new_flows_per_second);
        let over = format!("limit rate over {per_second}/second burst {per_second} packets");
        let rules = vec![
            self.denied_by_limit(format!("ct count over {flows}"), Denial::Flows),
            self.denied_by_limit(over, Denial::NewFlows),
            rule("").then(Accept),
        ];
        chain("open_flow", rules)
    }

    /// What an egress rule does with a new flow that it matches: `rule_out_<name>`, and `over_out_<name>` where
    /// something happens to what its rate turns away. Comes back for the next rule to try.
    fn rule_chains(&self, allow: &Allow) -> Vec<Chain> {
        let counter = rule_counter(Direction::Egress, &allow.name);
        let over = over_rate_counter(&allow.name);
        let mut chains = Vec::new();
        let mut rules = Vec::new();
        if let Some(rate) = allow.rate {
            let turned_away = self.logged(allow, LogPolicy::Denied).map(|log| chain(over.clone(), vec![log]));
            let verdict = if turned_away.is_some() { Goto(over.clone()) } else { Return };
            let matches =
                format!("limit rate over {}/second burst {} packets", rate.new_per_second, rate.burst);
            rules.push(rule(matches).count(over).then(verdict));
            chains.extend(turned_away);
        }
        rules.extend(self.logged(allow, LogPolicy::New));
        rules.push(rule("").count(counter).then(Goto("open_flow".to_owned())));
        chains.push(chain(rule_chain(allow), rules));
        chains
    }

    /// The rule that logs, if `allow` asks for that kind of log.
    fn logged(&self, allow: &Allow, what: LogPolicy) -> Option<Rule> {
        let FlowLog::Group(group) = self.compiled.flow_log else { return None };
        let word = if what == LogPolicy::New { "new" } else { "denied" };
        (allow.log == what).then(|| rule(LOG_LIMIT).log(group, &format!("hull egress {} {word}", allow.name)))
    }

    /// To the namespace itself. From the machine: DHCP, names, pings, and what rules open on the `host`. From
    /// elsewhere: answers to what hull's own sockets sent.
    fn to_host(&self) -> Chain {
        let (compiled, tap) = (self.compiled, &self.interfaces.tap);
        let (gateway, resolver) = (compiled.network.gateway, compiled.network.resolver);
        let open = || Goto("open_flow".to_owned());
        let mut rules = vec![
            rule("iifname \"lo\"").then(Accept),
            rule(format!("iifname \"{tap}\" {}", self.dhcp_question())).then(Accept),
            rule("").then(Jump("track".to_owned())),
            denied(format!("iifname != \"{tap}\""), Denial::Unsolicited),
        ];
        if compiled.names_resolved {
            for proto in ["udp", "tcp"] {
                rules.push(rule(format!("ip daddr {resolver} {proto} dport 53")).then(open()));
            }
        }
        if compiled.icmp.ping_out {
            rules.push(rule(format!("ip daddr {gateway} icmp type echo-request")).then(open()));
        }
        for allow in compiled.egress.iter().filter(|allow| allow.host) {
            let service = service_match(allow);
            rules.extend(
                service
                    .map(|ports| rule(format!("ip daddr {gateway} {ports}")).then(Jump(rule_chain(allow)))),
            );
        }
        rules.push(denied("", Denial::HostService));
        base_chain("to_host", "input", 0, "drop", rules)
    }

    /// From the machine to outside, and the answers.
    fn via_forward(&self) -> Chain {
        let (compiled, Interfaces { tap, uplink, .. }) = (self.compiled, self.interfaces);
        let mut rules = vec![
            rule("").then(Jump("track".to_owned())),
            denied(format!("iifname != \"{tap}\""), Denial::Unsolicited),
            denied(format!("oifname != \"{uplink}\""), Denial::OwnSubnet),
        ];
        if compiled.icmp.ping_out {
            rules.push(rule("icmp type echo-request").then(Goto("open_flow".to_owned())));
        }
        for allow in &compiled.egress {
            let matches = v4_match("ip daddr", &allow.peers.v4).zip(service_match(allow));
            rules.extend(matches.map(|(addresses, ports)| {
                rule(format!("{addresses} {ports}")).then(Jump(rule_chain(allow)))
            }));
        }
        rules.push(self.denied_by_policy(Denial::NoEgressRule));
        base_chain("via_forward", "forward", 0, "drop", rules)
    }

    /// From the namespace's own sockets. To the machine: DHCP's answers, the relay's connections to ports that a rule
    /// opens to somebody, health checks, pings. Elsewhere they are hull's own affair.
    fn to_guest(&self) -> Chain {
        let (compiled, tap) = (self.compiled, &self.interfaces.tap);
        let (guest, gateway) = (compiled.network.guest, compiled.network.gateway);
        let open = || Goto("open_flow".to_owned());
        let dhcp =
            format!("udp sport 67 udp dport 68 ip saddr {gateway} ip daddr {{ {guest}, 255.255.255.255 }}");
        let mut rules = vec![
            rule(format!("oifname != \"{tap}\"")).then(Accept),
            denied("meta nfproto ipv6", Denial::Ipv6),
            rule(dhcp).then(Accept),
            rule("").then(Jump("track".to_owned())),
            denied("meta l4proto != { icmp, tcp, udp }", Denial::Protocol),
        ];
        let link = format!("ip saddr {gateway} ip daddr {guest}");
        if compiled.icmp.ping_in {
            rules.push(rule(format!("{link} icmp type echo-request")).then(open()));
        }
        for allow in &compiled.ingress {
            let counter = rule_counter(Direction::Ingress, &allow.name);
            let service = service_match(allow);
            rules.extend(service.map(|ports| rule(format!("{link} {ports}")).count(counter).then(open())));
        }
        rules.extend(
            ports_match("tcp", &compiled.health_ports)
                .map(|ports| rule(format!("{link} {ports}")).then(open())),
        );
        rules.push(self.denied_by_policy(Denial::NoIngressRule));
        base_chain("to_guest", "output", 0, "drop", rules)
    }

    fn source_nat(&self) -> Chain {
        let (guest, uplink) = (self.compiled.network.guest, &self.interfaces.uplink);
        let base = Base { kind: "nat", hook: "postrouting", device: None, priority: 100, policy: "accept" };
        let masquerade = rule(format!("oifname \"{uplink}\" ip saddr {guest}")).then(Masquerade);
        Chain { name: "source_nat".to_owned(), base: Some(base), rules: vec![masquerade] }
    }

    fn dhcp_question(&self) -> String {
        let (guest, gateway) = (self.compiled.network.guest, self.compiled.network.gateway);
        format!(
            "udp sport 68 udp dport 67 ip saddr {{ 0.0.0.0, {guest} }} ip daddr {{ {gateway}, 255.255.255.255 }}"
        )
    }

    /// The end of a chain of rules.
    fn denied_by_policy(&self, denial: Denial) -> Rule {
        let verdict = if self.compiled.mode == Mode::Audit { Accept } else { Drop };
        rule("").count(denial_counter(denial)).then(verdict)
    }

    /// A limit of the policy: while auditing it counts, and the packet goes on.
    fn denied_by_limit(&self, matches: String, denial: Denial) -> Rule {
        let counted = rule(matches).count(denial_counter(denial));
        if self.compiled.mode == Mode::Audit { counted } else { counted.then(Drop) }
    }
}

fn rule_chain(allow: &Allow) -> String {
    format!("rule_{}", rule_counter(Direction::Egress, &allow.name))
}

fn service_match(allow: &Allow) -> Option<String> {
    ports_match(allow.proto.as_str(), &allow.ports)
}

fn ports_match(proto: &str, ports: &IntervalSet<u16>) -> Option<String> {
    set_of(ports, |port| port.to_string()).map(|set| format!("{proto} dport {set}"))
}

/// A match on IPv4 addresses, which matches IPv4 only even where it means all of it.
fn v4_match(field: &str, addresses: &IntervalSet<u32>) -> Option<String> {
    if addresses.is_all() {
        return Some("meta nfproto ipv4".to_owned());
    }
    set_of(addresses, |bits| Ipv4Addr::from_bits(bits).to_string()).map(|set| format!("{field} {set}"))
}

/// An anonymous set, or nothing where it would be empty, which nft cannot say.
fn set_of<T: Number>(set: &IntervalSet<T>, show: impl Fn(T) -> String) -> Option<String> {
    let ranges: Vec<String> = set
        .ranges()
        .iter()
        .map(
            |(first, last)| {
                if first == last { show(*first) } else { format!("{}-{}", show(*first), show(*last)) }
            },
        )
        .collect();
    (!ranges.is_empty()).then(|| format!("{{ {} }}", ranges.join(", ")))
}
