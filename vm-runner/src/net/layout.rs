//! Names and addresses of a VM's network: all of them follow from the VM's id, or are the same for all.
//!
//! ```text
//!            host                      namespace hull-<id>                    guest
//!  eth0 -- hull-<hash> ============ up0                 vm0 ---------------- eth0
//!          100.127.x.y/31   veth    100.127.x.y+1/31    10.0.2.2/24   tap    10.0.2.15/24
//! ```

use std::net::Ipv4Addr;

use appliance::Digest;
use firewall::nft::MacAddress;
use ipnet::Ipv4Net;

/// The tap, in the namespace.
pub(super) const TAP: &str = "vm0";
/// The way out, in the namespace.
pub(super) const UPLINK: &str = "up0";
/// What the names of our namespaces, and of our interfaces on the host, start with.
pub(super) const PREFIX: &str = "hull-";
/// Which interfaces of the host are ours, in nft's words.
pub(super) const OUR_INTERFACES: &str = "hull-*";

/// The hardware address of the gateway: that of QEMU's user network, so that a VM which moves
/// between hosts and between kinds of network keeps talking to the same one.
pub(super) const GATEWAY_MAC: &str = "52:55:0a:00:02:02";

/// Where the links between the host and namespaces get their addresses: the last /16 of the range
/// that RFC 6598 sets aside for the inside of a provider's network. Guests never see it.
pub(super) const LINKS: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(100, 127, 0, 0), 16);

/// The hardware address of the `nic`-th network card of a VM: always the same for the same VM, in the
/// range that QEMU's guests use (52:54:00).
pub fn guest_mac(vm: &str, nic: usize) -> MacAddress {
    let hash = Digest::sha256(format!("{nic} {vm}").as_bytes());
    let bytes = hash.as_bytes();
    MacAddress::new([0x52, 0x54, 0x00, bytes[0], bytes[1], bytes[2]])
        .expect("52:... is one machine's address")
}

/// The names that a VM's network goes by on the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Names {
    /// The network namespace.
    pub(super) namespace: String,
    /// The host's end of the uplink; interfaces' names have at most 15 bytes.
    pub(super) uplink: String,
    /// Where the search for a free link starts.
    pub(super) seed: u16,
}

impl Names {
    /// The names for the VM `id`; `None` unless it is 1 to 64 letters, digits, `-`, `_` and `.`, and
    /// starts with a letter or digit.
    pub(super) fn of(id: &str) -> Option<Self> {
        let plain = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.');
        let starts_well = id.as_bytes().first().is_some_and(u8::is_ascii_alphanumeric);
        if !starts_well || id.len() > 64 || !id.bytes().all(plain) {
            return None;
        }
        let hash = Digest::sha256(id.as_bytes());
        let bytes = hash.as_bytes();
        Some(Self {
            namespace: format!("{PREFIX}{id}"),
            uplink: format!("{PREFIX}{}", &hash.hex()[..10]),
            seed: u16::from_be_bytes([bytes[30], bytes[31]]),
        })
    }
}

/// The two addresses of a link between the host and a namespace: a /31, as in RFC 3021.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) host: Ipv4Addr,
    pub(super) inside: Ipv4Addr,
}

impl Link {
    /// The first link at or after the one `seed` points at that overlaps none of `taken`, the
    /// networks of the host's interfaces; `None` if all are taken.
    pub(super) fn choose(seed: u16, taken: &[Ipv4Net]) -> Option<Self> {
        let links = 1_u32 << (31 - LINKS.prefix_len());
        (0..links).map(|step| (u32::from(seed) + step) % links).find_map(|number| {
            let host = Ipv4Addr::from_bits(LINKS.network().to_bits() + 2 * number);
            let inside = Ipv4Addr::from_bits(host.to_bits() + 1);
            let free = !taken.iter().any(|net| net.contains(&host) || net.contains(&inside));
            free.then_some(Self { host, inside })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_become_names_the_kernel_takes() {
        let names = Names::of("web-1.2_x").unwrap();
        assert_eq!(names.namespace, "hull-web-1.2_x");
        assert_eq!(names.uplink.len(), 15);
        assert_ne!(names.uplink, Names::of("web-1.2_y").unwrap().uplink);
        for bad in ["", "-x", ".x", "../x", "a/b", "a b", "a\n", "é", &"x".repeat(65)] {
            assert_eq!(Names::of(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn a_vm_keeps_its_hardware_address() {
        let mac = guest_mac("web", 0);
        assert_eq!(mac, guest_mac("web", 0));
        assert_ne!(mac, guest_mac("web", 1));
        assert!(mac.to_string().starts_with("52:54:00:"));
    }

    /// With `taken` in use, a search that starts at `seed` ends at the link of `want`.
    #[track_caller]
    fn check_link(seed: u16, taken: &[&str], want: Option<[&str; 2]>) {
        let taken: Vec<Ipv4Net> = taken.iter().map(|net| net.parse().unwrap()).collect();
        let found = Link::choose(seed, &taken).map(|link| [link.host.to_string(), link.inside.to_string()]);
        assert_eq!(found, want.map(|pair| pair.map(str::to_owned)));
    }

    #[test]
    fn a_free_link_is_found_next_to_those_in_use() {
        check_link(0, &[], Some(["100.127.0.0", "100.127.0.1"]));
        check_link(5, &[], Some(["100.127.0.10", "100.127.0.11"]));
        check_link(5, &["100.127.0.10/31"], Some(["100.127.0.12", "100.127.0.13"]));
        check_link(5, &["10.0.0.1/8", "100.127.0.11/32"], Some(["100.127.0.12", "100.127.0.13"]));
        check_link(0, &["100.127.3.4/20"], Some(["100.127.16.0", "100.127.16.1"])); // a network of the host
        check_link(0x7fff, &["100.127.255.254/31"], Some(["100.127.0.0", "100.127.0.1"])); // round the end
        check_link(0xffff, &[], Some(["100.127.255.254", "100.127.255.255"]));
        check_link(3, &["100.64.0.0/10"], None);
    }
}
