//! What no policy may say: what the types alone do not forbid, and what no host could enforce.
//!
//! Holds for every policy, whoever wrote it. What lets nothing pass and does no harm is tolerated, such as
//! a rule that nobody is the peer of. Never asks what *this* host can do: that is the compiler's business,
//! in `firewall`.
//!
//! Source: `docs/formats/appliance.md`, section 5.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::ops::RangeInclusive;

use super::{
    Dns, DnsMode, EgressRule, Firewall, FlowLimits, Health, HealthCheck, IngressRule, MachinePolicy, Peer,
    Policy, PolicyError, PortRange, Publish, Rate, Resources, Trust,
};
use crate::{ApplianceConfig, Fault, Machine, is_label};

/// The most rules of one direction: as many as `firewall` compiles.
const MAX_RULES: usize = 1024;

type Checked = Result<(), Fault<PolicyError>>;

impl Policy {
    /// Checks what the types alone do not: names, uniqueness, ranges, and what can be enforced.
    ///
    /// # Errors
    ///
    /// As [`Policy::parse`].
    pub fn check(&self) -> Result<(), PolicyError> {
        Ok(self.check_places()?)
    }

    /// As [`Policy::check`], and says which value is at fault.
    ///
    /// # Errors
    ///
    /// As [`Policy::parse`], with the place of the first one.
    pub fn check_places(&self) -> Result<(), Fault<PolicyError>> {
        if self.policy_version != 1 {
            return Err(Fault::new("policyVersion", PolicyError::Version { found: self.policy_version }));
        }
        for (name, machine) in &self.machines {
            if !is_label(name) {
                let name = name.escape_debug().to_string();
                return Err(Fault::new("machines", PolicyError::BadMachineName { name }));
            }
            machine.check().map_err(|fault| fault.within(format_args!("machines/{name}")))?;
        }
        self.trust.as_ref().map_or(Ok(()), check_trust).map_err(|fault| fault.within("trust"))?;
        self.expires.as_deref().map_or(Ok(()), check_day)
    }

    /// Checks what the policy says against the machines that it says it of.
    ///
    /// Apart from [`Policy::check`], because a host may read the policy without the config, and because
    /// none of it opens anything: such a rule stays closed, such a check never passes.
    ///
    /// # Errors
    ///
    /// [`PolicyError::NoSuchMachine`], [`PolicyError::NoSuchPeer`], [`PolicyError::PublishWithoutNic`]
    /// and [`PolicyError::CheckWithoutNic`], with the place in the policy.
    pub fn check_machines(&self, config: &ApplianceConfig) -> Result<(), Fault<PolicyError>> {
        for (name, policy) in &self.machines {
            let within = |fault: Fault<PolicyError>| fault.within(format_args!("machines/{name}"));
            let Some(machine) = config.machine(name) else {
                let error = PolicyError::NoSuchMachine { name: name.escape_debug().to_string() };
                return Err(within(Fault { at: String::new(), error }));
            };
            policy.firewall.check_peers(config).map_err(within)?;
            if machine.nics.is_empty() {
                policy.check_without_nic(machine).map_err(within)?;
            }
        }
        Ok(())
    }
}

impl MachinePolicy {
    fn check(&self) -> Checked {
        self.firewall
            .check_numbers()
            .and_then(|()| self.firewall.check_places())
            .map_err(|fault| fault.within("firewall"))?;
        self.resources.as_ref().map_or(Ok(()), check_resources)?;
        self.health.as_ref().map_or(Ok(()), check_health).map_err(|fault| fault.within("health"))
    }

    fn check_without_nic(&self, machine: &Machine) -> Checked {
        let machine = || machine.name.clone();
        if let Some(n) = self.firewall.ingress.iter().position(|rule| rule.publish.is_some()) {
            let rule = self.firewall.ingress[n].name.clone();
            let error = PolicyError::PublishWithoutNic { rule, machine: machine() };
            return Err(Fault::new(format_args!("firewall/ingress/{n}/publish"), error));
        }
        match self.health.as_ref().map(|health| &health.check) {
            Some(HealthCheck::Http { .. } | HealthCheck::Tcp { .. }) => {
                Err(Fault::new("health/check", PolicyError::CheckWithoutNic { machine: machine() }))
            }
            Some(HealthCheck::Ready) | None => Ok(()),
        }
    }
}

impl Firewall {
    /// Checks the rules: their names and ports, what they publish, and which names may be asked for. The
    /// numbers in them are checked by [`Policy::check`].
    ///
    /// # Errors
    ///
    /// [`PolicyError::NamesWithoutProxy`], [`PolicyError::DuplicateRule`], [`PolicyError::BadRuleName`],
    /// [`PolicyError::NoPorts`], [`PolicyError::PublishOverflow`], [`PolicyError::PublishedTwice`].
    pub fn check(&self) -> Result<(), PolicyError> {
        Ok(self.check_places()?)
    }

    fn check_places(&self) -> Checked {
        check_dns(&self.dns)?;
        let ingress = self.ingress.iter().map(|rule| (rule.name.as_str(), rule.ports.as_slice()));
        check_rules("ingress", ingress)?;
        let egress = self.egress.iter().map(|rule| (rule.name.as_str(), rule.ports.as_slice()));
        check_rules("egress", egress)?;
        let mut published: Vec<Published<'_>> = Vec::new();
        for (n, rule) in self.ingress.iter().enumerate() {
            let Some(publish) = rule.publish else { continue };
            let place = format!("ingress/{n}/publish/hostPort");
            let this = Published::of(rule, publish).map_err(|error| Fault::new(&place, error))?;
            match published.iter().find_map(|first| first.collision(&this)) {
                Some(error) => return Err(Fault::new(place, error)),
                None => published.push(this),
            }
        }
        Ok(())
    }

    /// Checks how many rules there are and every number in them, before anybody walks them in pairs.
    fn check_numbers(&self) -> Checked {
        for (direction, count) in [("ingress", self.ingress.len()), ("egress", self.egress.len())] {
            if count > MAX_RULES {
                let error = PolicyError::TooManyRules { direction, count };
                return Err(Fault::new(format_args!("{direction}/{MAX_RULES}"), error));
            }
        }
        let FlowLimits { flows, new_flows_per_second, egress_mbit } = self.limits;
        range("limits/flows", "the limit on flows", flows, FlowLimits::FLOWS)?;
        let field = "the limit on new flows per second";
        range("limits/newFlowsPerSecond", field, new_flows_per_second, FlowLimits::FLOWS)?;
        let egress_mbit = egress_mbit.unwrap_or(*FlowLimits::EGRESS_MBIT.end());
        range("limits/egressMbit", "the limit on egress", egress_mbit, FlowLimits::EGRESS_MBIT)?;
        for (n, IngressRule { rate, max_connections, .. }) in self.ingress.iter().enumerate() {
            let within = |fault: Fault<PolicyError>| fault.within(format_args!("ingress/{n}"));
            rate.map_or(Ok(()), check_rate).map_err(within)?;
            let most = max_connections.unwrap_or(u32::MAX);
            range("maxConnections", "the most connections", most, 1..=u32::MAX).map_err(within)?;
        }
        for (n, EgressRule { rate, .. }) in self.egress.iter().enumerate() {
            rate.map_or(Ok(()), check_rate).map_err(|fault| fault.within(format_args!("egress/{n}")))?;
        }
        Ok(())
    }

    fn check_peers(&self, config: &ApplianceConfig) -> Checked {
        let ingress = self.ingress.iter().map(|rule| &rule.from).enumerate();
        let egress = self.egress.iter().map(|rule| &rule.to).enumerate();
        let ingress = ingress.map(|(n, peers)| (format!("firewall/ingress/{n}/from"), peers));
        let egress = egress.map(|(n, peers)| (format!("firewall/egress/{n}/to"), peers));
        for (list, peers) in ingress.chain(egress) {
            for (n, peer) in peers.iter().enumerate() {
                let Peer::Machine(name) = peer else { continue };
                if config.machine(name).is_none() {
                    let machines: Vec<_> = config.machines.iter().map(|machine| &*machine.name).collect();
                    let machines = machines.join(", ");
                    let error = PolicyError::NoSuchPeer { name: name.clone(), machines };
                    return Err(Fault::new(format_args!("{list}/{n}"), error));
                }
            }
        }
        Ok(())
    }
}

/// The ports of the host that a rule wants.
struct Published<'a> {
    rule: &'a IngressRule,
    bind: IpAddr,
    first: u16,
    last: u16,
}

impl<'a> Published<'a> {
    fn of(rule: &'a IngressRule, Publish { host_port, bind }: Publish) -> Result<Self, PolicyError> {
        let count: u64 = rule.ports.iter().map(|range| u64::from(range.count())).sum();
        match u16::try_from(u64::from(host_port) + count.saturating_sub(1)) {
            Ok(last) => Ok(Self { rule, bind, first: host_port, last }),
            Err(_) => Err(PolicyError::PublishOverflow { rule: rule.name.clone(), host_port, count }),
        }
    }

    fn collision(&self, later: &Self) -> Option<PolicyError> {
        let same_ports = self.first <= later.last && later.first <= self.last;
        let collide = self.rule.proto == later.rule.proto && same_ports && overlap(self.bind, later.bind);
        collide.then(|| PolicyError::PublishedTwice {
            first: self.rule.name.clone(),
            first_bind: self.bind,
            rule: later.rule.name.clone(),
            bind: later.bind,
            proto: self.rule.proto,
            host_port: self.first.max(later.first),
        })
    }
}

/// True if no two sockets can listen on one port of both addresses: `0.0.0.0` is every IPv4 address, and
/// `::` is every address. RFC 3493, section 3.7.
fn overlap(a: IpAddr, b: IpAddr) -> bool {
    let (a, b) = (a.to_canonical(), b.to_canonical());
    let covers = |all: IpAddr, one: IpAddr| all.is_unspecified() && (all.is_ipv6() || one.is_ipv4());
    a == b || covers(a, b) || covers(b, a)
}

fn check_rules<'a>(
    direction: &'static str,
    rules: impl Iterator<Item = (&'a str, &'a [PortRange])>,
) -> Checked {
    let mut seen = BTreeSet::new();
    for (n, (name, ports)) in rules.enumerate() {
        let fault = |key, error| Err(Fault::new(format_args!("{direction}/{n}/{key}"), error));
        if !is_label(name) {
            return fault("name", PolicyError::BadRuleName { name: name.escape_debug().to_string() });
        }
        if !seen.insert(name) {
            return fault("name", PolicyError::DuplicateRule { direction, name: name.to_owned() });
        }
        if ports.is_empty() {
            return fault("ports", PolicyError::NoPorts { direction, rule: name.to_owned() });
        }
    }
    Ok(())
}

fn check_dns(dns: &Dns) -> Checked {
    let mode = match dns.mode {
        DnsMode::Proxy => return Ok(()),
        DnsMode::None => "none",
        DnsMode::Open => "open",
    };
    match dns.names.as_slice() {
        [] => Ok(()),
        _ => Err(Fault::new("dns/names", PolicyError::NamesWithoutProxy { mode })),
    }
}

fn check_rate(rate: Rate) -> Checked {
    range("rate/newPerSecond", "the rate of new connections", rate.new_per_second, Rate::TOKENS)?;
    range("rate/burst", "the burst of new connections", rate.burst, Rate::TOKENS)
}

fn check_resources(resources: &Resources) -> Checked {
    // 0 is how QEMU spells "no limit".
    let Some(disk) = resources.disk else { return Ok(()) };
    let (iops, mbps) = (disk.iops.unwrap_or(u32::MAX), disk.mbps.unwrap_or(u32::MAX));
    range("resources/disk/iops", "the limit on disk requests", iops, 1..=u32::MAX)?;
    range("resources/disk/mbps", "the limit on disk megabytes", mbps, 1..=u32::MAX)
}

fn check_health(health: &Health) -> Checked {
    let longest = Health::LONGEST_MS;
    range("intervalMs", "the interval between checks in ms", health.interval_ms, 1..=longest)?;
    range("startPeriodMs", "the start period in ms", health.start_period_ms, 0..=longest)?;
    range("retries", "the number of failed checks", health.retries, Health::RETRIES)?;
    let port = match &health.check {
        HealthCheck::Ready => return Ok(()),
        HealthCheck::Tcp { port } => *port,
        HealthCheck::Http { port, path } => {
            if !path.starts_with('/') || !path.bytes().all(|c| c.is_ascii_graphic()) {
                let path = path.escape_debug().to_string();
                return Err(Fault::new("check", PolicyError::BadPath { path }));
            }
            *port
        }
    };
    range("check", "the checked port", port, 1..=u16::MAX)
}

fn check_trust(trust: &Trust) -> Checked {
    let keys = trust.keys.iter().collect::<BTreeSet<_>>().len();
    if trust.require as usize > keys {
        let error = PolicyError::TooFewKeys { require: trust.require, keys };
        return Err(Fault::new("require", error));
    }
    Ok(())
}

/// `YYYY-MM-DD`, so that days compare as text.
fn check_day(text: &str) -> Checked {
    let number = |at: usize, digits: usize| {
        let digits = text.get(at..at + digits).filter(|part| part.bytes().all(|c| c.is_ascii_digit()));
        digits.and_then(|digits| digits.parse::<u32>().ok())
    };
    let dashes = text.len() == 10 && text.get(4..5) == Some("-") && text.get(7..8) == Some("-");
    let parts = number(0, 4).zip(number(5, 2)).zip(number(8, 2));
    match parts {
        Some(((_, 1..=12), 1..=31)) if dashes => Ok(()),
        _ => Err(Fault::new("expires", PolicyError::BadDay { text: text.escape_debug().to_string() })),
    }
}

fn range<N: Into<u64> + PartialOrd>(
    place: &'static str,
    field: &'static str,
    found: N,
    allowed: RangeInclusive<N>,
) -> Checked {
    if allowed.contains(&found) {
        return Ok(());
    }
    let (least, most) = allowed.into_inner();
    let (least, most) = (least.into(), most.into());
    Err(Fault::new(place, PolicyError::OutOfRange { field, found: found.into(), least, most }))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// A policy for machine `web` is refused at `place` under it, and this is said.
    #[track_caller]
    fn check_error(web: Value, place: &str, want: &str) {
        let policy = json!({ "policyVersion": 1, "machines": { "web": web } });
        check_policy_error(policy, &format!("/machines/web{place}"), want);
    }

    #[track_caller]
    fn check_policy_error(policy: Value, place: &str, want: &str) {
        let parsed = Policy::parse(&serde_json::to_vec(&policy).unwrap()).unwrap_err();
        let fault = serde_json::from_value::<Policy>(policy).unwrap().check_places().unwrap_err();
        assert_eq!((fault.at.as_str(), fault.error.to_string().as_str()), (place, want));
        assert_eq!(parsed.to_string(), want);
    }

    fn ingress(rules: Value) -> Value {
        json!({ "firewall": { "ingress": rules } })
    }

    fn rule(name: &str, ports: Value) -> Value {
        json!({ "name": name, "proto": "tcp", "ports": ports, "from": [] })
    }

    /// Rules `a` and `b` with these ports, published at these ports and addresses, collide as `want` says.
    #[track_caller]
    fn check_published(a: (&str, u16, &str), b: (&str, u16, &str), want: Option<&str>) {
        let published = |name: &str, (ports, host_port, bind): (&str, u16, &str)| {
            let mut rule = rule(name, json!([ports]));
            rule["publish"] = json!({ "hostPort": host_port, "bind": bind });
            rule
        };
        let rules = ingress(json!([published("a", a), published("b", b)]));
        match want {
            Some(want) => check_error(rules, "/firewall/ingress/1/publish/hostPort", want),
            None => serde_json::from_value::<MachinePolicy>(rules).unwrap().check().unwrap(),
        }
    }

    #[test]
    fn rules_have_a_name_of_their_own_and_a_port() {
        let egress = json!({ "name": "a", "proto": "tcp", "ports": [1], "to": [] });
        let twice = json!({ "firewall": { "egress": [egress, egress] } });
        check_error(twice, "/firewall/egress/1/name", "two egress rules are named `a`");
        let named = ingress(json!([rule("a\" accept", json!([1]))]));
        let want = "`a\\\" accept` is not a rule name; expected 1 to 63 lower-case letters, digits and `-`";
        check_error(named, "/firewall/ingress/0/name", want);
        let want = "ingress rule `a` names no port; expected at least one";
        check_error(ingress(json!([rule("a", json!([]))])), "/firewall/ingress/0/ports", want);
        let many: Vec<_> = (0..1025).map(|n| rule(&format!("r{n}"), json!([1]))).collect();
        check_error(
            ingress(many.into()),
            "/firewall/ingress/1024",
            "1025 ingress rules; there are at most 1024",
        );
    }

    #[test]
    fn two_rules_cannot_have_the_same_port_of_the_host() {
        let want = "rules `a` and `b` both publish tcp port 8080, at 127.0.0.1 and 127.0.0.1";
        check_published(("80", 8080, "127.0.0.1"), ("81", 8080, "127.0.0.1"), Some(want));
        let want = "rules `a` and `b` both publish tcp port 8084, at 0.0.0.0 and 192.0.2.1";
        check_published(("80-84", 8080, "0.0.0.0"), ("90-99", 8084, "192.0.2.1"), Some(want));
        let want = "rules `a` and `b` both publish tcp port 80, at 127.0.0.1 and ::";
        check_published(("80", 80, "127.0.0.1"), ("80", 80, "::"), Some(want));
        check_published(("80-84", 8080, "0.0.0.0"), ("90-99", 8085, "192.0.2.1"), None);
        check_published(("80", 80, "127.0.0.1"), ("80", 80, "127.0.0.2"), None);
        check_published(("80", 80, "0.0.0.0"), ("80", 80, "::1"), None);
    }

    #[test]
    fn published_ports_end_at_the_last_one() {
        let publish = |ports: Value, host_port: u16| {
            let mut rule = rule("a", ports);
            rule["publish"] = json!({ "hostPort": host_port });
            ingress(json!([rule]))
        };
        let fits = serde_json::from_value::<MachinePolicy>(publish(json!(["1-6"]), 65_530)).unwrap();
        fits.check().unwrap();
        let place = "/firewall/ingress/0/publish/hostPort";
        let want = "rule `a` publishes 7 ports from 65530; the last one is past 65535";
        check_error(publish(json!(["1-7"]), 65_530), place, want);
        // More ports than 32 bits count.
        let want = "rule `a` publishes 6553500000 ports from 1; the last one is past 65535";
        check_error(publish(json!(vec!["1-65535"; 100_000]), 1), place, want);
    }

    #[test]
    fn numbers_can_be_enforced() {
        let rate = |new: u64, burst: u64| {
            let mut rule = rule("a", json!([1]));
            rule["rate"] = json!({ "newPerSecond": new, "burst": burst });
            ingress(json!([rule]))
        };
        let limits = |flows: u64, new: u64, mbit: u64| {
            let limits = json!({ "flows": flows, "newFlowsPerSecond": new, "egressMbit": mbit });
            json!({ "firewall": { "limits": limits } })
        };
        let health = |check: Value, interval: u64, retries: u64| json!({ "health": { "check": check, "intervalMs": interval, "startPeriodMs": 0, "retries": retries } });
        let http = |path: &str| json!({ "http": { "port": 80, "path": path } });
        let disk = |key: &str| json!({ "resources": { "disk": { key: 0 } } });
        let mut connections = rule("a", json!([1]));
        connections["maxConnections"] = 0.into();
        for (web, place, want) in [
            (
                rate(0, 1),
                "/firewall/ingress/0/rate/newPerSecond",
                "the rate of new connections is 0; expected 1 to 1000000",
            ),
            (
                rate(1, 0),
                "/firewall/ingress/0/rate/burst",
                "the burst of new connections is 0; expected 1 to 1000000",
            ),
            (
                ingress(json!([connections])),
                "/firewall/ingress/0/maxConnections",
                "the most connections is 0; expected 1 to 4294967295",
            ),
            (limits(0, 1, 1), "/firewall/limits/flows", "the limit on flows is 0; expected 1 to 1000000"),
            (
                limits(1, 1_000_001, 1),
                "/firewall/limits/newFlowsPerSecond",
                "the limit on new flows per second is 1000001; expected 1 to 1000000",
            ),
            (
                limits(1, 1, 0),
                "/firewall/limits/egressMbit",
                "the limit on egress is 0; expected 1 to 400000",
            ),
            (
                disk("iops"),
                "/resources/disk/iops",
                "the limit on disk requests is 0; expected 1 to 4294967295",
            ),
            (
                disk("mbps"),
                "/resources/disk/mbps",
                "the limit on disk megabytes is 0; expected 1 to 4294967295",
            ),
            (
                health("ready".into(), 0, 3),
                "/health/intervalMs",
                "the interval between checks in ms is 0; expected 1 to 604800000",
            ),
            (
                health("ready".into(), 1, 0),
                "/health/retries",
                "the number of failed checks is 0; expected 1 to 1000",
            ),
            (
                health(json!({ "tcp": { "port": 0 } }), 1, 1),
                "/health/check",
                "the checked port is 0; expected 1 to 65535",
            ),
            (
                health(http("/ HTTP/1.1\r\nX:"), 1, 1),
                "/health/check",
                "`/ HTTP/1.1\\r\\nX:` is not a path to ask for; expected `/` and printable ASCII without spaces",
            ),
        ] {
            check_error(web, place, want);
        }
    }

    #[test]
    fn names_are_listed_for_the_proxy_only() {
        let dns = |mode: &str| json!({ "firewall": { "dns": { "mode": mode, "names": ["a.example.org"] } } });
        for mode in ["none", "open"] {
            let want = format!(
                "dns names are listed with mode `{mode}`; only mode `proxy` lets some names pass and not others"
            );
            check_error(dns(mode), "/firewall/dns/names", &want);
        }
        serde_json::from_value::<MachinePolicy>(dns("proxy")).unwrap().check().unwrap();
    }

    #[test]
    fn what_holds_for_the_appliance_can_be_met() {
        let trust = json!({ "require": 2, "keys": ["a", "a"] });
        check_policy_error(
            json!({ "policyVersion": 1, "machines": {}, "trust": trust }),
            "/trust/require",
            "2 signatures are required and 1 different keys listed; no appliance could have them",
        );
        for day in ["2027-6-30", "2027-13-01", "2027-01-00", "never", "2027-01-0é", "+027-01-01"] {
            let policy = json!({ "policyVersion": 1, "machines": {}, "expires": day });
            let want = format!("`{day}` is not a day; expected one such as 2027-06-30");
            check_policy_error(policy, "/expires", &want);
        }
        check_policy_error(
            json!({ "policyVersion": 1, "machines": { "A/b": {} } }),
            "/machines",
            "`A/b` is not a machine's name; expected 1 to 63 lower-case letters, digits and `-`",
        );
    }

    #[test]
    fn what_harms_nobody_is_tolerated() {
        let policy = json!({
            "policyVersion": 1,
            "machines": { "web": ingress(json!([rule("nobody", json!([1, 1, "1-5"]))])) },
            "trust": { "require": 0, "keys": [] },
            "placement": { "hosts": [] },
        });
        Policy::parse(&serde_json::to_vec(&policy).unwrap()).unwrap();
    }

    /// A policy for a machine `web` without a NIC, beside `db` with one, does not fit: `want`.
    #[track_caller]
    fn check_misfit(machine: &str, policy: Value, place: &str, want: &str) {
        let machine_of = |name: &str, nics: Value| {
            json!({
                "name": name, "arch": "amd64", "vcpus": 1, "memoryBytes": 1 << 30, "firmware": "bios",
                "console": "serial", "devices": "virtio", "disks": [], "nics": nics, "volumes": [],
            })
        };
        let machines = [machine_of("db", json!([{ "name": "eth0" }])), machine_of("web", json!([]))];
        let config = json!({ "formatVersion": 1, "name": "x", "version": "1", "machines": machines });
        let config = ApplianceConfig::parse(&serde_json::to_vec(&config).unwrap()).unwrap();
        let policy = json!({ "policyVersion": 1, "machines": { machine: policy } });
        let policy = Policy::parse(&serde_json::to_vec(&policy).unwrap()).unwrap();
        let fault = policy.check_machines(&config).unwrap_err();
        let place = format!("/machines/{machine}{place}");
        assert_eq!((fault.at, fault.error.to_string()), (place, want.to_owned()));
    }

    #[test]
    fn a_policy_fits_the_machines_it_is_for() {
        check_misfit(
            "mail",
            json!({}),
            "",
            "the appliance has no machine `mail` that the policy could hold for",
        );
        let mut published = rule("http", json!([80]));
        published["publish"] = json!({ "hostPort": 80 });
        let want = "rule `http` publishes a port of machine `web`, which has no NIC";
        check_misfit("web", ingress(json!([published])), "/firewall/ingress/0/publish", want);
        let tcp = json!({ "tcp": { "port": 80 } });
        let health = json!({ "health": { "check": tcp, "intervalMs": 1, "startPeriodMs": 1, "retries": 1 } });
        let want = "machine `web` has no NIC, so this check could never pass; use `ready`";
        check_misfit("web", health, "/health/check", want);
        let mut from = rule("a", json!([80]));
        from["from"] = json!(["peer:web", "peer:mail"]);
        let want = "`peer:mail` is no machine of the appliance; it has db, web";
        check_misfit("db", ingress(json!([from])), "/firewall/ingress/0/from/1", want);
    }
}
