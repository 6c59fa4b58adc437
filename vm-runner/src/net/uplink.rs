//! A VM's way out: a pair of interfaces, one on the host and one in its namespace.
//!
//! Only machines whose policy lets them reach somebody have one. For the others the namespace is a
//! dead end: both interfaces are inside, so that what they try to send is routed, judged and
//! counted like everybody's, and there is no way by which it could leave.

use super::NetError;
use super::host::{self, HostLock};
use super::layout::{Link, Names, UPLINK};
use super::namespace::{self, Namespace};
use super::program::{self, ProgramError};

/// The far side of a dead end.
const DEAD_END: &str = "end0";

/// Makes the uplink, up on both sides and routed, and has the host let it out.
///
/// What an error leaves behind, [`remove`] takes away.
pub(super) fn create(names: &Names, namespace: &Namespace, mtu: u16) -> Result<(), NetError> {
    let lock = HostLock::take().map_err(NetError::io("lock the host's network"))?;
    let (outer, inner) = (&names.uplink, &names.namespace);
    let link = Link::choose(names.seed, &host::networks(&host::interfaces()?));
    let Link { host, inside } = link.ok_or(NetError::NoFreeLink)?;
    program::ip_batch(
        "make the uplink",
        &format!("link add {outer} mtu {mtu} type veth peer name {UPLINK} mtu {mtu} netns {inner}"),
    )?;
    for (setting, value) in [
        (format!("net/ipv6/conf/{outer}/disable_ipv6"), "1"),
        (format!("net/ipv4/conf/{outer}/rp_filter"), "1"),
        (format!("net/ipv4/conf/{outer}/accept_redirects"), "0"),
        (format!("net/ipv4/conf/{outer}/send_redirects"), "0"),
    ] {
        namespace::set_if_present(&setting, value).map_err(NetError::io("configure the uplink"))?;
    }
    lock.open_way_out()?;
    program::ip_batch(
        "bring the uplink up",
        &format!("address add {host}/31 dev {outer}\nlink set {outer} up"),
    )?;
    let commands = format!(
        "address add {inside}/31 dev {UPLINK}\nlink set {UPLINK} up\nroute add default via {host} dev {UPLINK}"
    );
    super::inside(namespace, || Ok(program::ip_batch("bring the uplink up inside", &commands)?))
}

/// Makes an uplink that leads nowhere.
pub(super) fn create_dead_end(namespace: &Namespace) -> Result<(), NetError> {
    let commands = format!(
        "link add {UPLINK} type veth peer name {DEAD_END}\nlink set {UPLINK} up\nroute add default dev {UPLINK}"
    );
    super::inside(namespace, || Ok(program::ip_batch("make an uplink that leads nowhere", &commands)?))
}

/// Removes the uplink, if it is there; its other end goes with it.
pub(super) fn remove(names: &Names) -> Result<(), ProgramError> {
    if host::interfaces()?.iter().any(|interface| interface.name == names.uplink) {
        program::ip("remove the uplink", &["link", "delete", &names.uplink])?;
    }
    Ok(())
}
