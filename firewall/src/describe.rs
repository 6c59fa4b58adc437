//! A machine's firewall as a table for people. The caller draws it.

use appliance::policy::{DnsMode, Firewall, Rate, RatePer};

use crate::vocabulary::Direction;

/// One line of the table: something that may pass. What is not listed may not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Which way connections are opened.
    pub direction: Direction,
    /// The rule's name; `(ping)` and `(dns)` for what stands outside of rules.
    pub name: String,
    /// `tcp`, `udp`, `icmp`, or `tcp, udp`.
    pub proto: &'static str,
    /// The destination's ports, such as `443` and `8000-8010`; none for pings.
    pub ports: Vec<String>,
    /// The other side, as written in hull.toml. None means nobody.
    pub peers: Vec<String>,
    /// Where it is published on the host, such as `127.0.0.1:8080`; with several ports, the first and last one.
    pub publish: Option<String>,
    /// Limits of the rule's own, such as `50/s, burst 100, per source`.
    pub limits: Vec<String>,
}

/// What a policy lets pass, ingress first, rules in the order in which they were written.
pub fn describe(policy: &Firewall) -> Vec<Row> {
    let row = |direction, name: &str, proto| Row {
        direction,
        name: name.to_owned(),
        proto,
        ports: Vec::new(),
        peers: Vec::new(),
        publish: None,
        limits: Vec::new(),
    };
    let mut rows: Vec<Row> = policy
        .ingress
        .iter()
        .map(|rule| Row {
            ports: show_all(&rule.ports),
            peers: show_all(&rule.from),
            publish: show_publish(&rule.published_ports(), rule.publish.map(|publish| publish.bind)),
            limits: show_limits(rule.rate, rule.max_connections),
            ..row(Direction::Ingress, &rule.name, rule.proto.as_str())
        })
        .collect();
    if policy.icmp.ping_in {
        rows.push(Row { peers: vec!["host".to_owned()], ..row(Direction::Ingress, "(ping)", "icmp") });
    }
    rows.extend(policy.egress.iter().map(|rule| Row {
        ports: show_all(&rule.ports),
        peers: show_all(&rule.to),
        limits: show_limits(rule.rate, None),
        ..row(Direction::Egress, &rule.name, rule.proto.as_str())
    }));
    if policy.icmp.ping_out {
        rows.push(Row { peers: vec!["0.0.0.0/0".to_owned()], ..row(Direction::Egress, "(ping)", "icmp") });
    }
    let resolver = match policy.dns.mode {
        DnsMode::None => None,
        DnsMode::Proxy => Some("host's resolver, listed names"),
        DnsMode::Open => Some("host's resolver, any name"),
    };
    rows.extend(resolver.map(|peer| Row {
        ports: vec!["53".to_owned()],
        peers: vec![peer.to_owned()],
        ..row(Direction::Egress, "(dns)", "tcp, udp")
    }));
    rows
}

fn show_all<T: ToString>(values: &[T]) -> Vec<String> {
    values.iter().map(ToString::to_string).collect()
}

fn show_publish(ports: &[(u16, u16)], bind: Option<std::net::IpAddr>) -> Option<String> {
    let (first, last) = (ports.first()?.0, ports.last()?.0);
    let first_address = std::net::SocketAddr::new(bind?, first);
    Some(if first == last { first_address.to_string() } else { format!("{first_address}-{last}") })
}

fn show_limits(rate: Option<Rate>, max_connections: Option<u32>) -> Vec<String> {
    let rate = rate.map(|Rate { new_per_second, burst, per }| {
        let per = if per == RatePer::Source { ", per source" } else { "" };
        format!("{new_per_second}/s, burst {burst}{per}")
    });
    let connections = max_connections.map(|most| format!("{most} connections"));
    rate.into_iter().chain(connections).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_row_says_what_may_pass_in_the_authors_words() {
        let policy: Firewall = serde_json::from_value(json!({
            "icmp": { "pingIn": true, "pingOut": true },
            "dns": { "mode": "proxy" },
            "ingress": [
                { "name": "http", "proto": "tcp", "ports": [80, "8000-8010"], "from": ["0.0.0.0/0", "host"],
                  "publish": { "hostPort": 8080 }, "maxConnections": 9,
                  "rate": { "newPerSecond": 50, "burst": 100, "per": "source" } },
                { "name": "v6", "proto": "udp", "ports": [53], "from": [], "publish": { "hostPort": 53, "bind": "::1" } },
            ],
            "egress": [{ "name": "lan", "proto": "udp", "ports": [1], "to": [{ "cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"] }],
                         "rate": { "newPerSecond": 1, "burst": 2 } }],
        }))
        .unwrap();
        let show = |row: Row| {
            let Row { direction, name, proto, ports, peers, publish, limits } = row;
            let publish = publish.unwrap_or_default();
            format!(
                "{direction} | {name} | {proto} | {} | {} | {publish} | {}",
                ports.join(" "),
                peers.join(" "),
                limits.join("; ")
            )
        };
        let rows: Vec<String> = describe(&policy).into_iter().map(show).collect();
        insta::assert_snapshot!(rows.join("\n"), @r#"
    ingress | http | tcp | 80 8000-8010 | 0.0.0.0/0 host | 127.0.0.1:8080-8091 | 50/s, burst 100, per source; 9 connections
    ingress | v6 | udp | 53 |  | [::1]:53 | 
    ingress | (ping) | icmp |  | host |  | 
    egress | lan | udp | 1 | 10.0.0.0/8 except 10.1.0.0/16 |  | 1/s, burst 2
    egress | (ping) | icmp |  | 0.0.0.0/0 |  | 
    egress | (dns) | tcp, udp | 53 | host's resolver, listed names |  |
    "#);
    }
}
