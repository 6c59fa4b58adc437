//! Who may come in: what hull's relay asks before it connects a client to the machine.
//!
//! The kernel sees only the relay on the machine's link, so what depends on the client - its address, its rate, how
//! many connections a rule has - is decided here, from the policy as written. The relay does the I/O, tells the time,
//! and gives every ticket back.
//!
//! Never: a socket, a clock. Memory is bounded by the rules and [`RateLimiter`]'s table.

use std::net::IpAddr;
use std::time::Duration;

use appliance::policy::{Firewall, IngressRule, Mode, Proto};

use crate::bucket::RateLimiter;
use crate::environment::Environment;
use crate::oracle;

/// Whoever connects to a published port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Client {
    address: IpAddr,
    host: bool,
}

impl Client {
    /// A client that connects from `address` to the host's address `reached`. It is the host itself if it comes from
    /// loopback or from the very address that it connects to. IPv4 addresses in IPv6 form are taken as what they are.
    pub fn new(address: IpAddr, reached: IpAddr) -> Self {
        let (address, reached) = (address.to_canonical(), reached.to_canonical());
        Self { address, host: address.is_loopback() || address == reached }
    }

    /// Where it connects from.
    pub fn address(self) -> IpAddr {
        self.address
    }

    /// True if it is the host itself.
    pub fn is_host(self) -> bool {
        self.host
    }
}

/// Why a client does not get in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No rule names this port and this client.
    #[error("no ingress rule allows this client")]
    NoRule,
    /// Rules do, but each is over its rate.
    #[error("too many new connections in a short time")]
    Rate,
    /// Rules do, but each has as many connections as it may.
    #[error("too many connections at one time")]
    Connections,
}

/// A connection's place, to be given back with [`Gate::release`] when it ends.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "the connection counts against its rule until the ticket is given back"]
pub struct Ticket {
    // An index into `Gate::doors`; none where the host only audits and no rule applied.
    door: Option<usize>,
    refusal: Option<Refusal>,
}

impl Ticket {
    /// Why the client would have been refused, where the host only audits.
    pub fn audited(&self) -> Option<Refusal> {
        self.refusal
    }
}

/// All of a machine's ingress rules, with what they let in so far.
#[derive(Debug, Clone)]
pub struct Gate {
    mode: Mode,
    // Those without a rate first, then by name: a client takes a token only where nothing else lets it in.
    doors: Vec<Door>,
}

#[derive(Debug, Clone)]
struct Door {
    rule: IngressRule,
    limiter: Option<RateLimiter>,
    open: u32,
}

impl Gate {
    /// A gate through which nobody came yet.
    pub fn new(policy: &Firewall, environment: &Environment) -> Self {
        let mut doors: Vec<Door> = policy
            .ingress
            .iter()
            .map(|rule| Door { limiter: rule.rate.map(RateLimiter::new), rule: rule.clone(), open: 0 })
            .collect();
        doors.sort_by(|a, b| (a.limiter.is_some(), &a.rule.name).cmp(&(b.limiter.is_some(), &b.rule.name)));
        Self { mode: environment.mode, doors }
    }

    /// Lets `client` connect to the machine's `port`, or says why not. `now` counts from any fixed start.
    ///
    /// # Errors
    ///
    /// The [`Refusal`] that came closest to letting the client in.
    pub fn admit(
        &mut self,
        proto: Proto,
        port: u16,
        client: Client,
        now: Duration,
    ) -> Result<Ticket, Refusal> {
        let mut refusal = Refusal::NoRule;
        for (index, door) in self.doors.iter_mut().enumerate() {
            if !door.leads_to(proto, port) || !oracle::admits(&door.rule, client) {
                continue;
            }
            if door.rule.max_connections.is_some_and(|most| door.open >= most) {
                refusal = Refusal::Connections;
                continue;
            }
            if !door.limiter.as_mut().is_none_or(|limiter| limiter.take(client.address, now)) {
                refusal = Refusal::Rate;
                continue;
            }
            door.open += 1;
            return Ok(Ticket { door: Some(index), refusal: None });
        }
        match self.mode {
            Mode::Enforce => Err(refusal),
            Mode::Audit => Ok(Ticket { door: None, refusal: Some(refusal) }),
        }
    }

    /// The rule that a ticket was given under.
    pub fn rule(&self, ticket: &Ticket) -> Option<&str> {
        ticket.door.and_then(|index| self.doors.get(index)).map(|door| door.rule.name.as_str())
    }

    /// Takes a ticket back: its connection ended.
    pub fn release(&mut self, ticket: Ticket) {
        if let Some(door) = ticket.door.and_then(|index| self.doors.get_mut(index)) {
            door.open = door.open.saturating_sub(1);
        }
    }
}

impl Door {
    fn leads_to(&self, proto: Proto, port: u16) -> bool {
        self.rule.proto == proto && self.rule.ports.iter().any(|range| range.contains(port))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn gate(mode: Mode, rules: serde_json::Value) -> Gate {
        let policy: Firewall = serde_json::from_value(json!({ "ingress": rules })).unwrap();
        Gate::new(&policy, &Environment { mode, ..Environment::default() })
    }

    /// `address` connects to the host's 192.0.2.1, for the machine's TCP port 80.
    fn admit(gate: &mut Gate, address: &str) -> Result<Option<String>, Refusal> {
        let client = Client::new(address.parse().unwrap(), IpAddr::from([192, 0, 2, 1]));
        let ticket = gate.admit(Proto::Tcp, 80, client, Duration::ZERO)?;
        Ok(gate.rule(&ticket).map(str::to_owned))
    }

    #[track_caller]
    fn check(from: serde_json::Value, address: &str, want: Result<(), Refusal>) {
        let mut gate =
            gate(Mode::Enforce, json!([{ "name": "a", "proto": "tcp", "ports": [80], "from": from }]));
        assert_eq!(admit(&mut gate, address).map(|_| ()), want, "{address}");
    }

    #[test]
    fn a_client_gets_in_by_its_address_whatever_form_it_has() {
        let no = Err(Refusal::NoRule);
        check(json!(["198.51.100.0/24"]), "198.51.100.255", Ok(()));
        check(json!(["198.51.100.0/24"]), "198.51.101.0", no);
        check(json!(["198.51.100.0/24"]), "::ffff:198.51.100.7", Ok(()));
        check(json!(["0.0.0.0/0"]), "2001:db8::1", no);
        check(json!(["::/0"]), "198.51.100.7", no);
        check(json!([{ "cidr": "::/0", "except": ["2001:db8::/32"] }]), "2001:db8::1", no);
        check(json!([]), "198.51.100.7", no);
        check(json!(["fqdn:example.org", "peer:db"]), "198.51.100.7", no);
    }

    #[test]
    fn the_host_is_loopback_and_the_address_that_was_connected_to() {
        for (address, want) in [
            ("127.0.0.1", Ok(())),
            ("192.0.2.1", Ok(())),
            ("::1", Ok(())),
            ("192.0.2.2", Err(Refusal::NoRule)),
        ] {
            check(json!(["host"]), address, want);
        }
    }

    #[test]
    fn a_rule_has_at_most_its_connections_and_another_rule_may_still_admit() {
        let rule = |name: &str, from: &str| json!({ "name": name, "proto": "tcp", "ports": [80], "from": [from], "maxConnections": 1 });
        let mut gate = gate(Mode::Enforce, json!([rule("b", "0.0.0.0/0"), rule("a", "10.0.0.0/8")]));
        assert_eq!(admit(&mut gate, "10.0.0.1"), Ok(Some("a".to_owned())));
        assert_eq!(admit(&mut gate, "10.0.0.1"), Ok(Some("b".to_owned())));
        assert_eq!(admit(&mut gate, "10.0.0.1"), Err(Refusal::Connections));
        gate.release(Ticket { door: Some(0), refusal: None });
        assert_eq!(admit(&mut gate, "10.0.0.1"), Ok(Some("a".to_owned())));
    }

    #[test]
    fn a_rate_is_used_up_only_where_nothing_else_admits() {
        let rules = json!([
            { "name": "a", "proto": "tcp", "ports": [80], "from": ["0.0.0.0/0"], "rate": { "newPerSecond": 1, "burst": 1 } },
            { "name": "b", "proto": "tcp", "ports": [80], "from": ["10.0.0.0/8"] },
        ]);
        let mut gate = gate(Mode::Enforce, rules);
        assert_eq!(admit(&mut gate, "10.0.0.1"), Ok(Some("b".to_owned())));
        assert_eq!(admit(&mut gate, "192.0.2.9"), Ok(Some("a".to_owned())));
        assert_eq!(admit(&mut gate, "192.0.2.9"), Err(Refusal::Rate));
    }

    #[test]
    fn an_auditing_host_admits_and_says_why_it_would_not_have() {
        let mut gate = gate(Mode::Audit, json!([]));
        let client = Client::new(IpAddr::from([10, 0, 0, 1]), IpAddr::from([192, 0, 2, 1]));
        let ticket = gate.admit(Proto::Tcp, 80, client, Duration::ZERO).unwrap();
        assert_eq!((ticket.audited(), gate.rule(&ticket)), (Some(Refusal::NoRule), None));
    }
}
