//! Which addresses a rule's peer means, for targets that know ranges and exceptions only.
//!
//! Source: `appliance::policy::Peer`; special-purpose addresses: RFC 6890.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::{IpNet, Ipv4Net, Ipv4Subnets};

/// What no machine reaches, whatever its rules say: its own host, link-local and metadata addresses, many at once.
const NEVER: [&str; 10] = [
    "0.0.0.0/8",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "224.0.0.0/4",
    "255.255.255.255/32",
    "::/128",
    "::1/128",
    "fd00:ec2::254/128",
    "fe80::/10",
    "ff00::/8",
];

/// The ranges that no machine reaches.
pub(super) fn never_reached() -> impl Iterator<Item = IpNet> {
    NEVER.iter().map(|net| net.parse().expect("the table holds address ranges"))
}

/// A range and what is left out of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Block {
    pub(super) net: IpNet,
    /// Disjoint, ascending, each smaller than `net` and inside it.
    pub(super) except: Vec<IpNet>,
}

impl Block {
    /// `net` less `except`; `None` where a single exception leaves nothing.
    pub(super) fn new(net: IpNet, except: impl IntoIterator<Item = IpNet>) -> Option<Self> {
        let mut except: Vec<IpNet> = except.into_iter().filter(|hole| overlap(net, *hole)).collect();
        if except.iter().any(|hole| hole.contains(&net)) {
            return None;
        }
        // A range comes right before those that lie inside it.
        except.sort_by_key(|hole| (hole.network(), hole.prefix_len()));
        let mut disjoint: Vec<IpNet> = Vec::new();
        for hole in except {
            if disjoint.last().is_none_or(|last| !last.contains(&hole)) {
                disjoint.push(hole);
            }
        }
        Some(Self { net, except: disjoint })
    }

    /// The same addresses as IPv4 ranges without exceptions, ascending; `None` for IPv6.
    pub(super) fn ipv4_nets(&self) -> Option<Vec<Ipv4Net>> {
        let IpNet::V4(net) = self.net else { return None };
        let mut nets = Vec::new();
        // The lowest address that is not dealt with yet; past the highest there is, where that is `None`.
        let mut next = Some(net.network());
        let mut add_up_to = |from: Option<Ipv4Addr>, to: Option<u32>| {
            if let (Some(from), Some(to)) = (from, to)
                && from.to_bits() <= to
            {
                nets.extend(Ipv4Subnets::new(from, to.into(), 0));
            }
        };
        for hole in &self.except {
            let (IpAddr::V4(first), IpAddr::V4(last)) = (hole.network(), hole.broadcast()) else { continue };
            add_up_to(next, first.to_bits().checked_sub(1));
            next = last.to_bits().checked_add(1).map(Ipv4Addr::from_bits);
        }
        add_up_to(next, Some(net.broadcast().to_bits()));
        Some(nets)
    }
}

/// Two ranges of addresses are apart, or one lies inside the other.
pub(super) fn overlap(a: IpNet, b: IpNet) -> bool {
    a.contains(&b) || b.contains(&a)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(net: &str, except: &[&str]) -> Option<Block> {
        Block::new(net.parse().unwrap(), except.iter().map(|hole| hole.parse().unwrap()))
    }

    #[track_caller]
    fn check_nets(net: &str, except: &[&str], want: &[&str]) {
        let nets = block(net, except).map_or(Vec::new(), |block| block.ipv4_nets().unwrap());
        assert_eq!(nets.iter().map(ToString::to_string).collect::<Vec<_>>(), want);
    }

    #[test]
    fn exceptions_are_inside_disjoint_and_smaller() {
        let found = block("10.0.0.0/8", &["10.1.2.0/24", "11.0.0.0/8", "10.1.0.0/16", "::/0", "10.0.0.0/32"]);
        let except: Vec<_> = found.unwrap().except.iter().map(ToString::to_string).collect();
        assert_eq!(except, ["10.0.0.0/32", "10.1.0.0/16"]);
        assert_eq!(block("10.0.0.0/8", &["10.0.0.0/8"]), None);
        assert_eq!(block("169.254.169.254/32", &["169.254.0.0/16"]), None);
        assert_eq!(block("::1/128", &["0.0.0.0/0"]).unwrap().except, []);
    }

    #[test]
    fn what_is_left_is_said_in_whole_ranges() {
        check_nets("10.0.0.0/8", &[], &["10.0.0.0/8"]);
        check_nets("10.0.0.0/30", &["10.0.0.1/32"], &["10.0.0.0/32", "10.0.0.2/31"]);
        check_nets("0.0.0.0/0", &["0.0.0.0/1"], &["128.0.0.0/1"]);
        check_nets("0.0.0.0/0", &["128.0.0.0/1"], &["0.0.0.0/1"]);
        check_nets("10.0.0.0/8", &["10.0.0.0/9", "10.128.0.0/9"], &[]);
        check_nets("10.0.0.0/8", &["10.0.0.0/8"], &[]);
        assert_eq!(block("::/0", &[]).unwrap().ipv4_nets(), None);
    }

    #[test]
    fn every_address_is_in_exactly_one_range_or_left_out() {
        let found =
            block("0.0.0.0/0", &["10.0.0.0/8", "10.1.0.0/16", "255.255.255.255/32", "0.0.0.0/8"]).unwrap();
        let nets = found.ipv4_nets().unwrap();
        for address in [
            "0.0.0.0",
            "9.255.255.255",
            "10.0.0.0",
            "10.1.1.1",
            "11.0.0.0",
            "255.255.255.254",
            "255.255.255.255",
        ] {
            let address: Ipv4Addr = address.parse().unwrap();
            let left_out = found.except.iter().any(|hole| hole.contains(&IpAddr::V4(address)));
            assert_eq!(
                nets.iter().filter(|net| net.contains(&address)).count(),
                usize::from(!left_out),
                "{address}"
            );
        }
    }
}
