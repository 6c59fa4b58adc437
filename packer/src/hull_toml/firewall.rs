//! `[firewall]`: the packet rules, as values. What they may say together is judged elsewhere.

use appliance::policy::{
    Dns, DnsMode, EgressRule, Firewall, FlowLimits, Icmp, IngressRule, LogPolicy, Mode, OnNarrow, Peer,
    PortRange, Proto, Publish, Rate, RatePer,
};

use super::section::{Item, Section};
use super::{HullTomlError, label, optional};

/// Reads a `[firewall]` table, of which the value at `at` is made.
pub(super) fn firewall(section: Section<'_>, at: &str) -> Result<Firewall, HullTomlError> {
    let mut firewall = Firewall {
        mode: optional(
            section.get("mode"),
            &[("enforce", Mode::Enforce), ("audit", Mode::Audit)],
            Mode::Enforce,
        )?,
        on_narrow: optional(
            section.get("on-narrow"),
            &[("cut", OnNarrow::Cut), ("keep", OnNarrow::Keep)],
            OnNarrow::Cut,
        )?,
        icmp: section.section("icmp")?.map_or(Ok(Icmp::default()), icmp)?,
        dns: section.section("dns")?.map_or(Ok(Dns::default()), |section| dns(section, at))?,
        limits: section.section("limits")?.map_or(Ok(FlowLimits::default()), limits)?,
        ingress: Vec::new(),
        egress: Vec::new(),
    };
    // Reassembly would decide for the guest what a packet is, so nothing else can be asked for.
    optional(section.get("fragments"), &[("drop", ())], ())?;
    for (n, rule) in section.sections("ingress")?.into_iter().enumerate() {
        firewall.ingress.push(ingress(rule, &format!("{at}/ingress/{n}"))?);
    }
    for (n, rule) in section.sections("egress")?.into_iter().enumerate() {
        firewall.egress.push(egress(rule, &format!("{at}/egress/{n}"))?);
    }
    section.finish()?;
    Ok(firewall)
}

fn ingress(rule: Section<'_>, at: &str) -> Result<IngressRule, HullTomlError> {
    let rule = rule.noted_as(at);
    let read = IngressRule {
        name: name(&rule, at)?,
        proto: proto(&rule)?,
        ports: ports(&rule.need("ports")?.noted_as(format!("{at}/ports")))?,
        from: peers(&rule.need("from")?, &format!("{at}/from"))?,
        publish: rule.section("publish")?.map(|section| publish(section, at)).transpose()?,
        rate: rule.section("rate")?.map(rate).transpose()?,
        max_connections: rule.get("max-connections").map(|max| max.number(1..=u32::MAX)).transpose()?,
        log: log(&rule)?,
    };
    rule.finish()?;
    Ok(read)
}

fn egress(rule: Section<'_>, at: &str) -> Result<EgressRule, HullTomlError> {
    let rule = rule.noted_as(at);
    let read = EgressRule {
        name: name(&rule, at)?,
        proto: proto(&rule)?,
        ports: ports(&rule.need("ports")?.noted_as(format!("{at}/ports")))?,
        to: peers(&rule.need("to")?, &format!("{at}/to"))?,
        rate: rule.section("rate")?.map(rate).transpose()?,
        log: log(&rule)?,
    };
    rule.finish()?;
    Ok(read)
}

fn name(rule: &Section<'_>, at: &str) -> Result<String, HullTomlError> {
    label(&rule.need("name")?.noted_as(format!("{at}/name")))
}

fn proto(rule: &Section<'_>) -> Result<Proto, HullTomlError> {
    rule.need("proto")?.choice(&[("tcp", Proto::Tcp), ("udp", Proto::Udp)])
}

fn log(rule: &Section<'_>) -> Result<LogPolicy, HullTomlError> {
    let words = [("none", LogPolicy::None), ("denied", LogPolicy::Denied), ("new", LogPolicy::New)];
    optional(rule.get("log"), &words, LogPolicy::None)
}

/// Ports as numbers or `"first-last"`.
fn ports(item: &Item<'_>) -> Result<Vec<PortRange>, HullTomlError> {
    let port = |item: &Item<'_>| {
        if item.is_integer() {
            let port = item.number(1..=u16::MAX)?;
            PortRange::new(port, port).map_err(|error| item.error(error.into()))
        } else {
            item.parse()
        }
    };
    item.items()?.iter().map(port).collect()
}

/// Peers as strings or `{ cidr = "...", except = [...] }`.
fn peers(item: &Item<'_>, at: &str) -> Result<Vec<Peer>, HullTomlError> {
    let items = item.items()?.into_iter().enumerate();
    items.map(|(n, item)| peer(&item.noted_as(format!("{at}/{n}")))).collect()
}

fn peer(item: &Item<'_>) -> Result<Peer, HullTomlError> {
    if !item.is_section() {
        return item.parse();
    }
    const NET: &str = "an address range such as \"10.0.0.0/8\"";
    let section = item.section()?;
    let cidr = section.need("cidr")?.read(|text| text.parse().ok(), NET)?;
    let except = section.need("except")?.items()?;
    let except =
        except.iter().map(|item| item.read(|text| text.parse().ok(), NET)).collect::<Result<_, _>>()?;
    section.finish()?;
    Peer::net(cidr, except).map_err(|error| item.error(error.into()))
}

fn publish(section: Section<'_>, at: &str) -> Result<Publish, HullTomlError> {
    let section = section.noted_as(format!("{at}/publish"));
    let host_port = section.need("host-port")?.noted_as(format!("{at}/publish/hostPort"));
    let publish = Publish {
        host_port: host_port.number(1..=u16::MAX)?,
        bind: section
            .get("bind")
            .map(|bind| bind.read(|text| text.parse().ok(), "an address of the host such as \"127.0.0.1\""))
            .transpose()?
            .unwrap_or(std::net::Ipv4Addr::LOCALHOST.into()),
    };
    section.finish()?;
    Ok(publish)
}

fn rate(section: Section<'_>) -> Result<Rate, HullTomlError> {
    let new_per_second = section.need("new-per-second")?.number(Rate::TOKENS)?;
    let rate = Rate {
        new_per_second,
        burst: section.get("burst").map_or(Ok(new_per_second), |burst| burst.number(Rate::TOKENS))?,
        per: optional(
            section.get("per"),
            &[("rule", RatePer::Rule), ("source", RatePer::Source)],
            RatePer::Rule,
        )?,
    };
    section.finish()?;
    Ok(rate)
}

fn icmp(section: Section<'_>) -> Result<Icmp, HullTomlError> {
    let icmp = Icmp {
        ping_in: section.get("ping-in").map_or(Ok(false), |flag| flag.flag())?,
        ping_out: section.get("ping-out").map_or(Ok(false), |flag| flag.flag())?,
    };
    section.finish()?;
    Ok(icmp)
}

fn dns(section: Section<'_>, at: &str) -> Result<Dns, HullTomlError> {
    let modes = [("none", DnsMode::None), ("proxy", DnsMode::Proxy), ("open", DnsMode::Open)];
    let names = section.get("names").map(|names| names.noted_as(format!("{at}/dns/names")));
    let names = names.map_or(Ok(Vec::new()), |names| names.items())?;
    let dns = Dns {
        mode: optional(section.get("mode"), &modes, DnsMode::None)?,
        names: names.iter().map(|name| name.parse()).collect::<Result<_, _>>()?,
    };
    section.finish()?;
    Ok(dns)
}

fn limits(section: Section<'_>) -> Result<FlowLimits, HullTomlError> {
    let default = FlowLimits::default();
    let limits = FlowLimits {
        flows: section.get("flows").map_or(Ok(default.flows), |flows| flows.number(FlowLimits::FLOWS))?,
        new_flows_per_second: section
            .get("new-flows-per-second")
            .map_or(Ok(default.new_flows_per_second), |rate| rate.number(FlowLimits::FLOWS))?,
        egress_mbit: section
            .get("egress-mbit")
            .map(|mbit| mbit.number(FlowLimits::EGRESS_MBIT))
            .transpose()?,
    };
    section.finish()?;
    Ok(limits)
}
