//! Publishing a guest's ports elsewhere than its image says.
//!
//! The image decides who may reach which port; whoever runs it decides where on the host. So a port
//! that no rule names cannot be published at all.

use appliance::policy::{Firewall, PolicyError, Publish};

use super::state::PublishAt;

/// Why a port cannot be published.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PublishAtError {
    /// No ingress rule starts with this port.
    #[error("port {guest_port} of the guest cannot be published: {known}")]
    NoRule {
        /// The port asked for.
        guest_port: u16,
        /// The ports that could be.
        known: String,
    },
    /// The rule has more ports than the host has after the first one.
    #[error(transparent)]
    Policy(#[from] PolicyError),
}

/// Lets each rule whose first port is named be published where `wanted` says, in place of where the
/// image says.
///
/// # Errors
///
/// [`PublishAtError`]; the firewall may then be changed in part.
pub fn publish_at(firewall: &mut Firewall, wanted: &[PublishAt]) -> Result<(), PublishAtError> {
    for at in wanted {
        let starts = |rule: &&mut appliance::policy::IngressRule| {
            rule.ports.first().is_some_and(|range| range.first() == at.guest_port)
        };
        let Some(rule) = firewall.ingress.iter_mut().find(starts) else {
            let ports = firewall.ingress.iter().filter_map(|rule| rule.ports.first());
            let ports: Vec<_> = ports.map(|range| range.first().to_string()).collect();
            let known = match ports.as_slice() {
                [] => "the appliance's firewall lets nothing in".to_owned(),
                ports => format!("the appliance's firewall lets in {}", ports.join(", ")),
            };
            return Err(PublishAtError::NoRule { guest_port: at.guest_port, known });
        };
        rule.publish = Some(Publish { host_port: at.host.port(), bind: at.host.ip() });
    }
    Ok(firewall.check()?)
}

#[cfg(test)]
mod tests {
    use appliance::policy::{IngressRule, LogPolicy, PortRange, Proto};

    use super::*;

    fn firewall() -> Firewall {
        let rule = |name: &str, first, last| IngressRule {
            name: name.into(),
            proto: Proto::Tcp,
            ports: vec![PortRange::new(first, last).unwrap()],
            from: vec!["0.0.0.0/0".parse().unwrap()],
            publish: None,
            rate: None,
            max_connections: None,
            log: LogPolicy::None,
        };
        Firewall { ingress: vec![rule("http", 80, 80), rule("range", 8000, 8010)], ..Firewall::default() }
    }

    #[track_caller]
    fn check(host: &str, guest_port: u16, want: Result<(), &str>) {
        let at = PublishAt { host: host.parse().unwrap(), guest_port };
        let mut firewall = firewall();
        let done = publish_at(&mut firewall, &[at]).map_err(|error| error.to_string());
        assert_eq!(done.as_ref().map_err(String::as_str).copied(), want);
        if done.is_ok() {
            let rule = firewall.ingress.iter().find(|rule| rule.publish.is_some()).unwrap();
            assert_eq!(rule.published_ports()[0], (at.host.port(), guest_port));
        }
    }

    #[test]
    fn only_what_the_firewall_lets_in_can_be_published() {
        check("127.0.0.1:9090", 80, Ok(()));
        check("0.0.0.0:9000", 8000, Ok(()));
        let known = "the appliance's firewall lets in 80, 8000";
        check("127.0.0.1:22", 22, Err(&format!("port 22 of the guest cannot be published: {known}")));
        let past = "rule `range` publishes 11 ports from 65530; the last one is past 65535";
        check("127.0.0.1:65530", 8000, Err(past));
    }
}
