//! Settings of a machine's network namespace that its rules rely on.

use crate::nft::Interfaces;

/// What to write below `/proc/sys` inside the namespace, after [`nft::deny_all`](crate::nft::deny_all) is loaded and
/// before the tap is up: path and value.
///
/// Each must succeed: without forwarding nothing leaves, and without the rest the rules hold less than they say.
/// Timeouts are shorter than the kernel's where a dead flow would hold its place for days.
///
/// Source: the kernel's Documentation/networking/ip-sysctl.rst and nf_conntrack-sysctl.rst.
pub fn sysctls(interfaces: &Interfaces) -> Vec<(String, &'static str)> {
    const OF_ALL: [(&str, &str); 8] = [
        ("net/ipv4/ip_forward", "1"),
        ("net/ipv4/conf/all/accept_redirects", "0"),
        ("net/ipv4/conf/all/send_redirects", "0"),
        ("net/ipv4/conf/all/accept_source_route", "0"),
        ("net/ipv4/conf/all/rp_filter", "1"),
        ("net/netfilter/nf_conntrack_tcp_loose", "0"),
        ("net/netfilter/nf_conntrack_tcp_timeout_established", "86400"),
        ("net/netfilter/nf_conntrack_tcp_timeout_syn_sent", "30"),
    ];
    const OF_EACH: [(&str, &str); 4] =
        [("accept_redirects", "0"), ("send_redirects", "0"), ("route_localnet", "0"), ("rp_filter", "1")];
    let links = [&interfaces.tap, &interfaces.uplink];
    OF_ALL
        .iter()
        .map(|(path, value)| ((*path).to_owned(), *value))
        .chain(links.into_iter().flat_map(|link| {
            OF_EACH.iter().map(move |(name, value)| (format!("net/ipv4/conf/{link}/{name}"), *value))
        }))
        .collect()
}
