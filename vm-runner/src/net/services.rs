//! What serves a guest from inside its namespace: the DHCP server and the relay, a thread each.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread::JoinHandle;

use firewall::{Environment, Gate, Resolver};
use rustix::event::{EventfdFlags, eventfd};

use super::error::NetError;
use super::layout::TAP;
use super::namespace::Namespace;
use super::relay::{Ports, PublishedCounters, Relay};
use super::{NetworkSpec, dhcp};

/// For how long a guest may use its address before it asks again: one day.
const LEASE_SECONDS: u32 = 86_400;

/// The threads that serve the guest; dropping this ends them.
#[derive(Debug)]
pub(super) struct Services {
    stop: Arc<OwnedFd>,
    dhcp: Option<JoinHandle<()>>,
    relay: Option<Relay>,
}

impl Services {
    pub(super) fn start(
        namespace: &Namespace,
        offer: dhcp::Offer,
        ports: Ports,
        gate: Gate,
    ) -> Result<Self, NetError> {
        let stop = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
        let stop = Arc::new(stop.map_err(|errno| NetError::io("make an event descriptor")(errno.into()))?);
        let mut services = Self { stop, dhcp: None, relay: None };
        let socket =
            namespace.enter(|| dhcp::bind(TAP)).map_err(NetError::io("enter the network namespace"))?;
        let socket = socket.map_err(NetError::io("listen for DHCP requests"))?;
        let (stop, guest) = (Arc::clone(&services.stop), offer.address);
        // An error ends the thread when its socket breaks, which is when the tap has gone.
        let dhcp = namespace.spawn("hull-dhcp", move || drop(dhcp::serve(&socket, &offer, &stop)));
        services.dhcp = Some(dhcp.map_err(NetError::io("start the DHCP server"))?);
        let relay = ports.relay(gate, namespace, guest, &services.stop);
        services.relay = Some(relay.map_err(NetError::io("start the relay of published ports"))?);
        Ok(services)
    }

    /// What the published ports have let in and turned away, rule by rule.
    pub(super) fn published(&self) -> Vec<PublishedCounters> {
        self.relay.as_ref().map(Relay::counters).unwrap_or_default()
    }

    /// Ends the threads and waits for them. The counters stay readable.
    pub(super) fn end(&mut self) {
        // It can only fail where the counter is full, and then it is raised.
        let _ = rustix::io::write(&self.stop, &1_u64.to_ne_bytes());
        if let Some(thread) = self.dhcp.take() {
            drop(thread.join());
        }
        if let Some(relay) = &mut self.relay {
            relay.join();
        }
    }
}

impl Drop for Services {
    fn drop(&mut self) {
        self.end();
    }
}

/// What DHCP tells the guest.
pub(super) fn offer(spec: &NetworkSpec<'_>, environment: &Environment, mtu: u16) -> dhcp::Offer {
    let network = &environment.network;
    dhcp::Offer {
        mac: spec.mac,
        address: network.guest,
        gateway: network.gateway,
        resolver: (environment.resolver != Resolver::Absent).then_some(network.resolver),
        mtu,
        host_name: spec.host_name.filter(|name| is_host_name(name)).map(str::to_owned),
        lease_seconds: LEASE_SECONDS,
    }
}

/// True for what RFC 1123 lets one label of a host's name be.
fn is_host_name(name: &str) -> bool {
    let inner = |c: u8| c.is_ascii_alphanumeric() || c == b'-';
    (1..=63).contains(&name.len())
        && name.bytes().all(inner)
        && !name.starts_with('-')
        && !name.ends_with('-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_labels_are_offered_as_host_names() {
        for (name, want) in [
            ("web", true),
            ("Web-1", true),
            ("", false),
            ("-a", false),
            ("a-", false),
            ("a.b", false),
            ("a b", false),
        ] {
            assert_eq!(is_host_name(name), want, "{name}");
        }
        assert!(!is_host_name(&"a".repeat(64)));
    }
}
