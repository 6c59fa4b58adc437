//! Writing a `hull.toml`: what [`HullToml`] says, as an author would have written it.
//!
//! Defaults are left out, and comments say what the values cannot. Reading the text again gives the same: that is
//! checked before it is handed out, so a value that `hull.toml` cannot say is an error and never a silent change.
//!
//! Source: TOML 1.1; `docs/hull-toml.md`.

use std::collections::BTreeMap;
use std::fmt::{Display, Write as _};

use appliance::policy::{
    Dns, DnsMode, EgressRule, Firewall, FlowLimits, Health, HealthCheck, Icmp, IngressRule, Lifecycle,
    LogPolicy, MachinePolicy, Mode, OnNarrow, Peer, PortRange, Proto, Publish, Rate, RatePer, Resources,
    Restart, Rollback,
};
use appliance::{Arch, Bus, Console, Devices, Disk, DiskMode, Firmware, Machine, Nic, NicModel, Volume};

use super::{BUSES, DiskSource, HullToml, INTERVAL_MS, NIC_MODELS, NamedFile, RETRIES, START_PERIOD_MS};

/// Arrays that would make a line longer than this are written with one item on each line.
const MAX_LINE: usize = 100;

/// What is said in comments, by what it is about.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Remarks(BTreeMap<Subject, Vec<String>>);

/// What a comment is about; it stands above that.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subject {
    /// The whole file.
    File,
    /// The machine of this name.
    Machine(String),
    /// The disk or volume of this name.
    Drive(String),
    /// The NIC of this machine and name.
    Nic(String, String),
    /// The firewall of the machine of this name.
    Firewall(String),
}

/// A value that no `hull.toml` can say, though an appliance may have it.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the appliance has something that hull.toml cannot say: a machine out of the order of names, a size that is \
     not in whole sectors, or a day that is in no calendar"
)]
pub struct Unwritable;

impl Remarks {
    /// Adds a line about `subject`. Control characters in it are escaped.
    pub fn add(&mut self, subject: Subject, line: impl Display) {
        let line: String = line.to_string().chars().flat_map(plain).collect();
        self.0.entry(subject).or_default().push(line);
    }

    /// Adds the lines of `others` below those that are here.
    pub fn append(&mut self, others: Remarks) {
        for (subject, lines) in others.0 {
            self.0.entry(subject).or_default().extend(lines);
        }
    }
}

fn plain(c: char) -> Box<dyn Iterator<Item = char>> {
    if c.is_control() { Box::new(c.escape_default()) } else { Box::new(std::iter::once(c)) }
}

impl HullToml {
    /// The text of a `hull.toml` that says this. Sizes of disks and the parent are no part of it.
    ///
    /// # Errors
    ///
    /// [`Unwritable`].
    pub fn write(&self, remarks: &Remarks) -> Result<String, Unwritable> {
        let mut writer = Writer { text: String::new(), remarks };
        writer.document(self);
        match HullToml::parse(&writer.text) {
            Ok(read) if read.without_places() == self.without_places() => Ok(writer.text),
            _ => Err(Unwritable),
        }
    }

    /// The same, with all that the text of a `hull.toml` does not say left out.
    fn without_places(&self) -> HullToml {
        let mut same = self.clone();
        same.config.parent = None;
        same.config.machines.iter_mut().flat_map(|m| &mut m.disks).for_each(|disk| disk.size_bytes = 0);
        let disks = same.sources.iter_mut();
        let files = disks.flat_map(|disk| {
            std::iter::once(&mut disk.image).chain(&mut disk.backing).chain(&mut disk.parts)
        });
        files.chain(&mut same.ovf).for_each(|named| (named.line, named.column) = (0, 0));
        same
    }
}

struct Writer<'a> {
    text: String,
    remarks: &'a Remarks,
}

impl Writer<'_> {
    fn document(&mut self, toml: &HullToml) {
        let HullToml { config, policy, ovf, sources } = toml;
        self.remarks(&Subject::File);
        self.header("[appliance]");
        self.key("name", quoted(&config.name));
        self.key("version", quoted(&config.version));
        self.optional("title", config.title.as_deref().map(quoted));
        self.optional("ovf", ovf.as_ref().map(path));

        let alone = matches!(&*config.machines, [machine] if machine.name == config.name);
        let mut sources = sources.iter();
        for (n, machine) in config.machines.iter().enumerate() {
            let of = if alone { String::new() } else { format!("machines.{}.", machine.name) };
            self.machine(machine, if alone { "machine" } else { of.trim_end_matches('.') });
            for disk in &machine.disks {
                self.disk(disk, sources.next(), &of);
            }
            machine.volumes.iter().for_each(|volume| self.volume(volume, &of));
            machine.nics.iter().for_each(|nic| self.nic(nic, machine, &of));
            // The earliest day of all machines counts, so one of them can say it.
            let expires = policy.expires.as_deref().filter(|_| n == 0);
            self.policy(&policy.machine(&machine.name), expires, &of);
            self.firewall(&policy.machine(&machine.name).firewall, machine, &of);
        }
        if let Some(trust) = &policy.trust {
            self.header("[policy.trust]");
            let keys = array(trust.keys.iter().map(|key| quoted(key)), "signatures = { require = 1, keys = ");
            self.key("signatures", format_args!("{{ require = {}, keys = {keys} }}", trust.require));
        }
        if let Some(placement) = &policy.placement {
            self.header("[policy.placement]");
            self.key("hosts", array(placement.hosts.iter().map(|host| quoted(host)), "hosts = "));
        }
    }

    fn machine(&mut self, machine: &Machine, header: &str) {
        self.gap();
        self.remarks(&Subject::Machine(machine.name.clone()));
        self.header(&format!("[{header}]"));
        let default_firmware = match machine.arch {
            Arch::Amd64 => Firmware::Bios,
            Arch::Arm64 => Firmware::Uefi,
        };
        self.unless(Arch::Amd64, "arch", machine.arch, |arch| quoted(arch.as_str()));
        self.key("vcpus", machine.vcpus);
        self.key("memory", size(machine.memory_bytes));
        self.unless(default_firmware, "firmware", machine.firmware, |firmware| {
            let word = match firmware {
                Firmware::Bios => "bios",
                Firmware::Uefi => "uefi",
                Firmware::UefiSecure => "uefi-secure",
            };
            quoted(word)
        });
        self.optional("cpu", machine.cpu.as_deref().map(quoted));
        self.unless(Console::Serial, "console", machine.console, |_| quoted("none"));
        self.unless(Devices::Virtio, "devices", machine.devices, |_| quoted("compat"));
        self.optional("start-order", machine.start_order);
    }

    fn disk(&mut self, disk: &Disk, source: Option<&DiskSource>, of: &str) {
        self.gap();
        self.remarks(&Subject::Drive(disk.name.clone()));
        self.header(&format!("[[{of}disk]]"));
        self.key("name", quoted(&disk.name));
        if let Some(source) = source {
            self.key("source", path(&source.image));
            self.optional("format", source.format.map(|format| quoted(format.name())));
            if !source.backing.is_empty() {
                self.key("backing", array(source.backing.iter().map(path), "backing = "));
            }
            self.optional("parts", source.parts.as_ref().map(path));
        }
        self.unless(DiskMode::Overlay, "mode", disk.mode, |mode| {
            quoted(if mode == DiskMode::ReadOnly { "read-only" } else { "ephemeral" })
        });
        self.optional("bus", disk.bus.map(|bus| quoted(bus_word(bus))));
    }

    fn volume(&mut self, volume: &Volume, of: &str) {
        self.gap();
        self.remarks(&Subject::Drive(volume.name.clone()));
        self.header(&format!("[[{of}volume]]"));
        self.key("name", quoted(&volume.name));
        self.key("size", size(volume.size_bytes));
    }

    fn nic(&mut self, nic: &Nic, machine: &Machine, of: &str) {
        self.gap();
        self.remarks(&Subject::Nic(machine.name.clone(), nic.name.clone()));
        self.header(&format!("[[{of}nic]]"));
        self.key("name", quoted(&nic.name));
        self.optional("network", nic.network.as_deref().map(quoted));
        self.optional("model", nic.model.map(|model| quoted(nic_word(model))));
    }

    fn policy(&mut self, policy: &MachinePolicy, expires: Option<&str>, of: &str) {
        if let Some(Resources { disk }) = policy.resources {
            self.header(&format!("[{of}policy.resources]"));
            self.optional(
                "disk",
                disk.map(|disk| inline([("iops", disk.iops.map(text)), ("mbps", disk.mbps.map(text))])),
            );
        }
        if let Some(Health { check, interval_ms, start_period_ms, retries }) = &policy.health {
            self.header(&format!("[{of}policy.health]"));
            match check {
                HealthCheck::Http { port, path } => {
                    self.key(
                        "check",
                        format_args!("{{ http = {} }}", quoted(&format!("http://:{port}{path}"))),
                    );
                }
                HealthCheck::Tcp { port } => self.key("check", format_args!("{{ tcp = {port} }}")),
                HealthCheck::Ready => self.key("check", quoted("ready")),
            }
            self.unless(INTERVAL_MS, "interval", *interval_ms, duration);
            self.unless(START_PERIOD_MS, "start-period", *start_period_ms, duration);
            self.unless(RETRIES, "retries", *retries, text);
        }
        let Lifecycle { restart, max_restarts, rollback } = policy.lifecycle;
        if policy.lifecycle != Lifecycle::default() || expires.is_some() {
            self.header(&format!("[{of}policy.lifecycle]"));
            self.unless(Restart::No, "restart", restart, |restart| {
                quoted(if restart == Restart::Always { "always" } else { "on-failure" })
            });
            self.optional("max-restarts", max_restarts);
            self.unless(Rollback::No, "rollback", rollback, |_| quoted("on-unhealthy"));
            self.optional("expires", expires);
        }
    }

    fn firewall(&mut self, firewall: &Firewall, machine: &Machine, of: &str) {
        let Firewall { mode, on_narrow, icmp, dns, limits, ingress, egress } = firewall;
        let subject = Subject::Firewall(machine.name.clone());
        if self.remarks.0.contains_key(&subject) {
            self.gap();
            self.remarks(&subject);
        }
        let rules = Firewall { ingress: ingress.clone(), egress: egress.clone(), ..Firewall::default() };
        if *firewall != rules {
            self.header(&format!("[{of}firewall]"));
            self.unless(Mode::Enforce, "mode", *mode, |_| quoted("audit"));
            self.unless(OnNarrow::Cut, "on-narrow", *on_narrow, |_| quoted("keep"));
            self.unless(Icmp::default(), "icmp", *icmp, icmp_table);
            self.unless(&Dns::default(), "dns", dns, dns_table);
            self.unless(FlowLimits::default(), "limits", *limits, limits_table);
        }
        for rule in ingress {
            self.header(&format!("[[{of}firewall.ingress]]"));
            self.ingress(rule);
        }
        for rule in egress {
            self.header(&format!("[[{of}firewall.egress]]"));
            self.egress(rule);
        }
    }

    fn ingress(&mut self, rule: &IngressRule) {
        self.rule(&rule.name, rule.proto, &rule.ports, ("from", &rule.from));
        self.optional(
            "publish",
            rule.publish.map(|Publish { host_port, bind }| {
                let bind = (bind != std::net::Ipv4Addr::LOCALHOST).then(|| quoted(&bind.to_string()));
                inline([("host-port", Some(text(host_port))), ("bind", bind)])
            }),
        );
        self.optional("rate", rule.rate.map(rate_table));
        self.optional("max-connections", rule.max_connections);
        self.unless(LogPolicy::None, "log", rule.log, log_word);
    }

    fn egress(&mut self, rule: &EgressRule) {
        self.rule(&rule.name, rule.proto, &rule.ports, ("to", &rule.to));
        self.optional("rate", rule.rate.map(rate_table));
        self.unless(LogPolicy::None, "log", rule.log, log_word);
    }

    fn rule(&mut self, name: &str, proto: Proto, ports: &[PortRange], (key, peers): (&str, &[Peer])) {
        self.key("name", quoted(name));
        self.key("proto", quoted(proto.as_str()));
        let port = |range: &PortRange| match range.count() {
            1 => range.to_string(),
            _ => quoted(&range.to_string()),
        };
        self.key("ports", array(ports.iter().map(port), "ports = "));
        self.key(key, array(peers.iter().map(peer), "from = "));
    }

    /// A line of a comment for everything that is remarked about `subject`.
    fn remarks(&mut self, subject: &Subject) {
        for line in self.remarks.0.get(subject).into_iter().flatten() {
            let line = format!("# {line}");
            self.text.push_str(line.trim_end());
            self.text.push('\n');
        }
    }

    /// An empty line, unless there is one, or nothing yet.
    fn gap(&mut self) {
        if !self.text.is_empty() && !self.text.ends_with("\n\n") {
            self.text.push('\n');
        }
    }

    /// The header of a table, below its comments or an empty line.
    fn header(&mut self, header: &str) {
        let below_comment = self.text.lines().last().is_some_and(|line| line.starts_with('#'));
        if !below_comment {
            self.gap();
        }
        self.text.push_str(header);
        self.text.push('\n');
    }

    fn key(&mut self, key: &str, value: impl Display) {
        writeln!(self.text, "{key} = {value}").expect("writing to a string cannot fail");
    }

    fn optional(&mut self, key: &str, value: Option<impl Display>) {
        if let Some(value) = value {
            self.key(key, value);
        }
    }

    /// The key, unless its value is what holds without it.
    fn unless<T: PartialEq>(&mut self, default: T, key: &str, value: T, write: impl FnOnce(T) -> String) {
        if value != default {
            self.key(key, write(value));
        }
    }
}

fn icmp_table(icmp: Icmp) -> String {
    inline([("ping-in", icmp.ping_in.then(|| text(true))), ("ping-out", icmp.ping_out.then(|| text(true)))])
}

fn dns_table(dns: &Dns) -> String {
    let mode = match dns.mode {
        DnsMode::None => "none",
        DnsMode::Proxy => "proxy",
        DnsMode::Open => "open",
    };
    let names = dns.names.iter().map(|name| quoted(name.as_str()));
    let names = (!dns.names.is_empty()).then(|| array(names, "dns = { mode = \"proxy\", names = "));
    inline([("mode", Some(quoted(mode))), ("names", names)])
}

fn limits_table(limits: FlowLimits) -> String {
    let FlowLimits { flows, new_flows_per_second, egress_mbit } = limits;
    let default = FlowLimits::default();
    let new_flows =
        (new_flows_per_second != default.new_flows_per_second).then(|| text(new_flows_per_second));
    inline([
        ("flows", (flows != default.flows).then(|| text(flows))),
        ("new-flows-per-second", new_flows),
        ("egress-mbit", egress_mbit.map(text)),
    ])
}

fn rate_table(Rate { new_per_second, burst, per }: Rate) -> String {
    inline([
        ("new-per-second", Some(text(new_per_second))),
        ("burst", (burst != new_per_second).then(|| text(burst))),
        ("per", (per == RatePer::Source).then(|| quoted("source"))),
    ])
}

fn log_word(log: LogPolicy) -> String {
    quoted(match log {
        LogPolicy::None => "none",
        LogPolicy::Denied => "denied",
        LogPolicy::New => "new",
    })
}

fn peer(peer: &Peer) -> String {
    match peer {
        Peer::Net { cidr, except } if !except.is_empty() => {
            let except = except.iter().map(|net| quoted(&net.to_string()));
            inline([("cidr", Some(quoted(&cidr.to_string()))), ("except", Some(array(except, "except = ")))])
        }
        peer => quoted(&peer.to_string()),
    }
}

/// The word that `hull.toml` has for a bus.
pub(crate) fn bus_word(bus: Bus) -> &'static str {
    word(BUSES, bus)
}

/// The word that `hull.toml` has for a network card.
pub(crate) fn nic_word(model: NicModel) -> &'static str {
    word(NIC_MODELS, model)
}

fn word<T: Copy + PartialEq>(words: &[(&'static str, T)], value: T) -> &'static str {
    words.iter().find(|(_, other)| *other == value).expect("each value has a word").0
}

fn path(named: &NamedFile) -> String {
    quoted(&named.path.display().to_string())
}

fn text(value: impl Display) -> String {
    value.to_string()
}

/// A size with the largest unit that it is whole in.
fn size(bytes: u64) -> String {
    let units = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)];
    let unit = units.into_iter().find(|(_, bits)| bytes.trailing_zeros() >= *bits && bytes > 0);
    quoted(&unit.map_or_else(|| format!("{bytes}B"), |(unit, bits)| format!("{}{unit}", bytes >> bits)))
}

/// A time with the largest unit that it is whole in.
fn duration(ms: u64) -> String {
    let units = [("h", 3_600_000), ("m", 60_000), ("s", 1000)];
    let unit = units.into_iter().find(|(_, unit)| ms >= *unit && ms.is_multiple_of(*unit));
    quoted(&unit.map_or_else(|| format!("{ms}ms"), |(name, unit)| format!("{}{name}", ms / unit)))
}

/// An array, on one line where it fits behind `before`.
fn array(items: impl Iterator<Item = String>, before: &str) -> String {
    let items: Vec<String> = items.collect();
    let line = format!("[{}]", items.join(", "));
    if items.len() < 2 || before.len() + line.chars().count() <= MAX_LINE {
        return line;
    }
    format!("[\n    {},\n]", items.join(",\n    "))
}

/// A table on one line, of the keys that have values.
fn inline<const N: usize>(entries: [(&str, Option<String>); N]) -> String {
    let entries = entries.into_iter().filter_map(|(key, value)| Some(format!("{key} = {}", value?)));
    let entries: Vec<String> = entries.collect();
    if entries.is_empty() { "{}".to_owned() } else { format!("{{ {} }}", entries.join(", ")) }
}

/// A basic string.
fn quoted(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            '\n' => quoted.push_str("\\n"),
            '\t' => quoted.push_str("\\t"),
            c if c.is_control() => {
                write!(quoted, "\\u{:04X}", u32::from(c)).expect("writing to a string cannot fail");
            }
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests;
