//! What VMs with a way out change on the host itself: one nft table, and packet forwarding.
//!
//! Both are there while at least one uplink is, whichever process made it. Everything here is done
//! under a lock, and can be done again: what a killed process left half done, the next one completes.
//!
//! Forwarding is a switch for the whole host, one for each version of IP, and VMs need IPv4's alone.
//! Where that was off before, a file remembers it, the table drops every forwarded IPv4 packet that is
//! not a VM's, so that the host becomes nobody else's router, and the last uplink to go switches it off
//! again. IPv6 is left as it is.
//!
//! Known limit: a program that comes to need IPv4 forwarding only while VMs have a way out finds the
//! switch on and leaves no trace of its wish. What it forwards is dropped meanwhile, and later the
//! switch goes off. On such hosts switch it on (`net.ipv4.ip_forward=1` in sysctl.d) before the first VM.

use std::fs::{self, File};
use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use ipnet::Ipv4Net;
use rustix::fs::{FlockOperation, flock};
use serde::Deserialize;

use super::NetError;
use super::layout::{LINKS, OUR_INTERFACES, PREFIX};
use super::program::{self, ProgramError};

/// Where the host's network is locked, and what it was before is remembered: one folder for the host.
const RUNTIME_DIR: &str = "/run/hull";
const LOCK: &str = "network.lock";
/// Exists while forwarding is on only because of us. Holds the id of the boot it is about, so that a
/// file which outlived a reboot says nothing.
const WAS_OFF: &str = "forwarding-was-off";

const FORWARDING: &str = "/proc/sys/net/ipv4/ip_forward";
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// What packets to the outside are at most, where the host's own way out does not say less.
const MTU: u16 = 1500;
/// What every IPv4 link carries at least (RFC 791 asks for 68, everybody counts on this).
const LEAST_MTU: u16 = 576;

/// The right to change the host's network; held by one thread of one process at a time.
#[derive(Debug)]
pub(super) struct HostLock(#[expect(dead_code, reason = "held, and given back by closing it")] OwnedFd);

impl HostLock {
    /// Waits for the lock.
    pub(super) fn take() -> io::Result<Self> {
        fs::create_dir_all(RUNTIME_DIR)?;
        let path = Path::new(RUNTIME_DIR).join(LOCK);
        let lock = File::options().create(true).append(true).mode(0o600).open(path)?;
        flock(&lock, FlockOperation::LockExclusive)?;
        Ok(Self(lock.into()))
    }

    /// Makes the host a router for VMs, and for nobody who has not made it one already.
    pub(super) fn open_way_out(&self) -> Result<(), NetError> {
        let boot = fs::read_to_string(BOOT_ID).map_err(NetError::io("read the boot's id"))?;
        let forwarding =
            fs::read_to_string(FORWARDING).map_err(NetError::io("read whether packets are forwarded"))?;
        if forwarding.trim() == "0" {
            fs::write(was_off(), &boot).map_err(NetError::io("remember that packets were not forwarded"))?;
        }
        let only_ours = fs::read_to_string(was_off()).is_ok_and(|about| about == boot);
        program::nft_load("let VMs out of the host", &table(only_ours))?;
        if forwarding.trim() == "0" {
            fs::write(FORWARDING, "1").map_err(NetError::io("forward packets"))?;
        }
        Ok(())
    }

    /// Takes back what [`open_way_out`](Self::open_way_out) did, if no VM is left that needs it.
    pub(super) fn close_way_out_if_unused(&self) -> Result<(), NetError> {
        if interfaces()?.iter().any(|interface| interface.name.starts_with(PREFIX)) {
            return Ok(());
        }
        let boot = fs::read_to_string(BOOT_ID).map_err(NetError::io("read the boot's id"))?;
        if fs::read_to_string(was_off()).is_ok_and(|about| about == boot) {
            fs::write(FORWARDING, "0").map_err(NetError::io("stop forwarding packets"))?;
        }
        // Naming the table before deleting it makes this work where it is not there.
        program::nft_load("remove its table from the host", "table inet hull\ndelete table inet hull\n")?;
        match fs::remove_file(was_off()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(NetError::io("forget that packets were not forwarded")(error))
            }
            _ => Ok(()),
        }
    }
}

pub(super) fn was_off() -> PathBuf {
    Path::new(RUNTIME_DIR).join(WAS_OFF)
}

/// The host's table, replacing whatever it was, in one transaction.
///
/// A VM reaches the world, masqueraded, but neither the host's own services nor another VM; what
/// comes in answers what a VM sent. An accept here does not overrule a drop elsewhere, so a host
/// whose own firewall drops forwarded packets keeps its VMs in until that firewall lets them out.
fn table(only_ours: bool) -> String {
    let others = if only_ours { "meta nfproto ipv4 drop" } else { "accept" };
    format!(
        "table inet hull
delete table inet hull
table inet hull {{
    chain masquerade_vms {{
        type nat hook postrouting priority srcnat; policy accept;
        ip saddr {LINKS} oifname != \"{OUR_INTERFACES}\" masquerade
    }}
    chain forward_vms {{
        type filter hook forward priority filter; policy accept;
        iifname \"{OUR_INTERFACES}\" oifname \"{OUR_INTERFACES}\" drop
        iifname \"{OUR_INTERFACES}\" accept
        oifname \"{OUR_INTERFACES}\" ct state established,related accept
        oifname \"{OUR_INTERFACES}\" drop
        {others}
    }}
    chain keep_vms_off_the_host {{
        type filter hook input priority filter; policy accept;
        iifname \"{OUR_INTERFACES}\" drop
    }}
}}
"
    )
}

/// An interface of the host, as `ip -j address` tells it.
#[derive(Debug, Deserialize)]
pub(super) struct Interface {
    #[serde(rename = "ifname", default)]
    pub(super) name: String,
    #[serde(rename = "addr_info", default)]
    addresses: Vec<Address>,
}

#[derive(Debug, Deserialize)]
struct Address {
    #[serde(default)]
    local: Option<IpAddr>,
    #[serde(rename = "prefixlen", default)]
    prefix_len: u8,
}

/// All interfaces of the namespace of the calling thread.
pub(super) fn interfaces() -> Result<Vec<Interface>, ProgramError> {
    program::ip_query("list the interfaces", &["address", "show"])
}

/// The IPv4 networks that interfaces are in.
pub(super) fn networks(interfaces: &[Interface]) -> Vec<Ipv4Net> {
    let addresses = interfaces.iter().flat_map(|interface| &interface.addresses);
    let network = |address: &Address| match address.local? {
        IpAddr::V4(local) => Ipv4Net::new(local, address.prefix_len).ok(),
        IpAddr::V6(_) => None,
    };
    addresses.filter_map(network).collect()
}

/// The addresses that the host answers to, other than loopback and those of our own links.
pub(super) fn addresses(interfaces: &[Interface]) -> Vec<IpAddr> {
    let others = interfaces.iter().filter(|interface| !interface.name.starts_with(PREFIX));
    let addresses = others.flat_map(|interface| &interface.addresses).filter_map(|address| address.local);
    addresses.filter(|address| !address.is_loopback()).collect()
}

/// What a packet may measure that leaves by the host's default route.
pub(super) fn mtu_of_way_out() -> Result<u16, ProgramError> {
    #[derive(Deserialize)]
    struct Route {
        #[serde(default)]
        dev: String,
    }
    let routes: Vec<Route> =
        program::ip_query("list the default routes", &["-4", "route", "show", "default"])?;
    let mtu = routes.first().and_then(|route| {
        let text = fs::read_to_string(format!("/sys/class/net/{}/mtu", route.dev)).ok()?;
        text.trim().parse().ok()
    });
    Ok(mtu.map_or(MTU, |mtu: u16| mtu.clamp(LEAST_MTU, MTU)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_from_what_iproute2_prints() {
        let json = r#"[{}, {"ifname":"lo","addr_info":[{"family":"inet","local":"127.0.0.1","prefixlen":8},{"local":"::1","prefixlen":128}]},
            {"ifname":"eth0","addr_info":[{"local":"192.0.2.7","prefixlen":24},{"local":"2001:db8::7","prefixlen":64}]},
            {"ifname":"tun0","addr_info":[{"local":"192.0.2.9","address":"192.0.2.10","prefixlen":32}]},
            {"ifname":"hull-0123456789","addr_info":[{"local":"100.127.0.10","prefixlen":31}]}]"#;
        let interfaces: Vec<Interface> = serde_json::from_str(json).unwrap();
        let networks: Vec<String> = networks(&interfaces).iter().map(ToString::to_string).collect();
        assert_eq!(networks, ["127.0.0.1/8", "192.0.2.7/24", "192.0.2.9/32", "100.127.0.10/31"]);
        let addresses: Vec<String> = addresses(&interfaces).iter().map(ToString::to_string).collect();
        assert_eq!(addresses, ["192.0.2.7", "2001:db8::7", "192.0.2.9"]);
    }

    #[test]
    fn a_host_that_was_no_router_becomes_one_for_vms_only() {
        assert!(table(true).contains("meta nfproto ipv4 drop"));
        assert!(!table(false).contains("meta nfproto ipv4 drop"));
        // A policy would be IPv6's as well, and the host may be a router for that.
        assert!([true, false].map(table).iter().all(|table| !table.contains("policy drop")));
    }
}
