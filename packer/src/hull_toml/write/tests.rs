//! What is written reads back the same, whatever it is; and one file as a person would see it.

use appliance::policy::{DiskLimits, Fqdn, Placement, Trust};
use appliance::{ApplianceConfig, Policy};
use formats::image::Format;
use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

use super::*;

fn label() -> impl Strategy<Value = String> {
    "[a-z0-9][a-z0-9-]{0,9}"
}

/// Text with everything that is special in TOML, or to a terminal.
fn text() -> impl Strategy<Value = String> {
    "[a-z \"'\\\\\n\t\r#=\u{1b}\u{9b}\u{7f}\u{0}é]{0,12}"
}

fn named() -> impl Strategy<Value = NamedFile> {
    "[a-z \"'\\\\#é]{1,8}(/[a-z.]{1,3}x)?".prop_map(|path| NamedFile {
        path: path.into(),
        line: 0,
        column: 0,
    })
}

fn sectors() -> impl Strategy<Value = u64> {
    prop_oneof![(1..=4096u64).prop_map(|n| n << 20), (2048..=1u64 << 31).prop_map(|n| n * 512)]
}

prop_compose! {
    fn source()(
        image in named(), backing in vec(named(), 0..3), parts in option::of(named()),
        format in option::of(select(Format::ALL)),
    ) -> DiskSource {
        DiskSource { disk: String::new(), image, backing, parts, format }
    }
}

type Drives = (Vec<(DiskMode, Option<Bus>, DiskSource)>, Vec<u64>);

fn drives() -> impl Strategy<Value = Drives> {
    let mode = select(vec![DiskMode::Overlay, DiskMode::Ephemeral, DiskMode::ReadOnly]);
    let bus = option::of(select(BUSES.iter().map(|(_, bus)| *bus).collect::<Vec<_>>()));
    (vec((mode, bus, source()), 0..3), vec(sectors(), 0..2))
}

fn nics() -> impl Strategy<Value = Vec<Nic>> {
    let model = option::of(select(NIC_MODELS.iter().map(|(_, model)| *model).collect::<Vec<_>>()));
    btree_map(label(), (option::of(label()), model), 1..3).prop_map(|nics| {
        nics.into_iter().map(|(name, (network, model))| Nic { name, network, model }).collect()
    })
}

prop_compose! {
    fn machine(arch: Arch)(
        vcpus in 1..=1024u32, memory_bytes in sectors(), uefi in any::<bool>(), secure in any::<bool>(),
        cpu in option::of(select(arch.cpu_levels())), serial in any::<bool>(), virtio in any::<bool>(),
        nics in nics(), start_order in option::of(0..=65535u32),
    ) -> Machine {
        let firmware = match (arch, uefi, secure) {
            (_, true, true) => Firmware::UefiSecure,
            (Arch::Amd64, false, _) => Firmware::Bios,
            _ => Firmware::Uefi,
        };
        Machine {
            name: String::new(), arch, vcpus, memory_bytes, firmware, cpu: cpu.map(str::to_owned),
            console: if serial { Console::Serial } else { Console::None },
            devices: if virtio { Devices::Virtio } else { Devices::Compat },
            disks: Vec::new(), nics, volumes: Vec::new(), start_order,
        }
    }
}

fn peer() -> impl Strategy<Value = Peer> {
    let words = ["host", "0.0.0.0/0", "192.0.2.7", "2001:db8::/32", "fqdn:*.example.org", "peer:x"];
    let except = Peer::net("10.0.0.0/8".parse().unwrap(), vec!["10.1.0.0/16".parse().unwrap()]).unwrap();
    prop_oneof![select(words.to_vec()).prop_map(|word| word.parse().unwrap()), Just(except)]
}

fn ports() -> impl Strategy<Value = Vec<PortRange>> {
    let range =
        (1..=60_000u16, 0..=3u16).prop_map(|(first, more)| PortRange::new(first, first + more).unwrap());
    vec(range, 1..12)
}

fn rate() -> impl Strategy<Value = Option<Rate>> {
    let rate = (1..=1_000_000u32, option::of(1..=1_000_000u32), any::<bool>());
    option::of(rate.prop_map(|(new_per_second, burst, source)| Rate {
        new_per_second,
        burst: burst.unwrap_or(new_per_second),
        per: if source { RatePer::Source } else { RatePer::Rule },
    }))
}

fn proto() -> impl Strategy<Value = Proto> {
    select(vec![Proto::Tcp, Proto::Udp])
}

fn log() -> impl Strategy<Value = LogPolicy> {
    select(vec![LogPolicy::None, LogPolicy::Denied, LogPolicy::New])
}

fn ingress() -> impl Strategy<Value = Vec<IngressRule>> {
    let bind = select(vec!["127.0.0.1", "0.0.0.0", "::1"]).prop_map(|bind| bind.parse().unwrap());
    let rule = (proto(), ports(), vec(peer(), 0..9), option::of(bind), rate(), option::of(1u32..), log());
    let rules = btree_map(label(), rule, 0..3);
    rules.prop_map(|rules| {
        let rules = rules.into_iter().enumerate();
        let rules = rules.map(|(n, (name, (proto, ports, from, bind, rate, max_connections, log)))| {
            // Far enough from each other that no two rules publish the same port.
            let publish = bind.map(|bind| Publish { host_port: 1000 * (n as u16 + 1), bind });
            IngressRule { name, proto, ports, from, publish, rate, max_connections, log }
        });
        rules.collect()
    })
}

fn egress() -> impl Strategy<Value = Vec<EgressRule>> {
    let rules = btree_map(label(), (proto(), ports(), vec(peer(), 0..3), rate(), log()), 0..3);
    rules.prop_map(|rules| {
        let rules = rules.into_iter();
        rules
            .map(|(name, (proto, ports, to, rate, log))| EgressRule { name, proto, ports, to, rate, log })
            .collect()
    })
}

prop_compose! {
    fn firewall()(
        audit in any::<bool>(), keep in any::<bool>(), ping_in in any::<bool>(), ping_out in any::<bool>(),
        dns in select(vec![DnsMode::None, DnsMode::Proxy, DnsMode::Open]),
        names in vec(select(vec!["a.example", "*.b.example"]), 0..3),
        flows in option::of(1..=1_000_000u32), new_flows in option::of(1..=1_000_000u32),
        egress_mbit in option::of(1..=400_000u32), ingress in ingress(), egress in egress(),
    ) -> Firewall {
        let default = FlowLimits::default();
        let names: Vec<Fqdn> = names.iter().map(|name| name.parse().unwrap()).collect();
        Firewall {
            mode: if audit { Mode::Audit } else { Mode::Enforce },
            on_narrow: if keep { OnNarrow::Keep } else { OnNarrow::Cut },
            icmp: Icmp { ping_in, ping_out },
            dns: Dns { mode: dns, names: if dns == DnsMode::Proxy { names } else { Vec::new() } },
            limits: FlowLimits {
                flows: flows.unwrap_or(default.flows),
                new_flows_per_second: new_flows.unwrap_or(default.new_flows_per_second),
                egress_mbit,
            },
            ingress,
            egress,
        }
    }
}

fn health() -> impl Strategy<Value = Health> {
    let check = prop_oneof![
        (1u16.., "/[!-~]{0,8}").prop_map(|(port, path)| HealthCheck::Http { port, path }),
        (1u16..).prop_map(|port| HealthCheck::Tcp { port }),
        Just(HealthCheck::Ready),
    ];
    let ms = |least: u64| {
        prop_oneof![least..=Health::LONGEST_MS, (1..=60u64).prop_map(|s| s * 60_000), Just(10_000)]
    };
    (check, ms(1), ms(0), Health::RETRIES).prop_map(|(check, interval_ms, start_period_ms, retries)| Health {
        check,
        interval_ms,
        start_period_ms,
        retries,
    })
}

prop_compose! {
    fn machine_policy()(
        firewall in option::of(firewall()), health in option::of(health()),
        resources in option::of(option::of((option::of(1u32..), option::of(1u32..)))),
        restart in select(vec![Restart::No, Restart::OnFailure, Restart::Always]),
        max_restarts in option::of(any::<u32>()), rollback in any::<bool>(),
    ) -> MachinePolicy {
        let resources = resources.map(|disk| Resources {
            disk: disk.map(|(iops, mbps)| DiskLimits { iops, mbps }),
        });
        let rollback = if rollback { Rollback::OnUnhealthy } else { Rollback::No };
        let lifecycle = Lifecycle { restart, max_restarts, rollback };
        MachinePolicy { firewall: firewall.unwrap_or_default(), resources, health, lifecycle }
    }
}

/// Names each disk and volume for its place, so that no two share a name.
fn assemble(
    (name, named_alike): (String, bool),
    machines: BTreeMap<String, (Machine, Drives, MachinePolicy)>,
    (version, title, ovf): (String, Option<String>, Option<NamedFile>),
    (trust, placement, expires): (Option<Trust>, Option<Placement>, Option<String>),
) -> HullToml {
    let (mut config_machines, mut policies, mut sources) = (Vec::new(), BTreeMap::new(), Vec::new());
    let alone = machines.len() == 1 && named_alike;
    for (own, (mut machine, (disks, volumes), policy)) in machines {
        machine.name = if alone { name.clone() } else { own };
        for (mode, bus, source) in disks {
            let disk = format!("disk-{}", sources.len());
            machine.disks.push(Disk { name: disk.clone(), size_bytes: 0, mode, bus });
            sources.push(DiskSource { disk, ..source });
        }
        for (n, size_bytes) in volumes.into_iter().enumerate() {
            machine.volumes.push(Volume { name: format!("v{n}-{}", config_machines.len()), size_bytes });
        }
        policies.insert(machine.name.clone(), policy);
        config_machines.push(machine);
    }
    let machines = config_machines;
    let config = ApplianceConfig { format_version: 1, name, version, title, machines, parent: None };
    let policy = Policy { policy_version: 1, machines: policies, trust, placement, expires };
    HullToml { config, policy, ovf, sources }
}

fn hull_toml() -> impl Strategy<Value = HullToml> {
    let machines = select(vec![Arch::Amd64, Arch::Arm64])
        .prop_flat_map(|arch| btree_map(label(), (machine(arch), drives(), machine_policy()), 1..4));
    let of_appliance = (text(), option::of(text()), option::of(named()));
    let trust = vec("[a-z\"\\\\]{1,30}", 1..4).prop_map(|keys| Trust { require: 1, keys });
    let placement = vec(text(), 0..3).prop_map(|hosts| Placement { hosts });
    let expires = select(vec!["2027-06-30".to_owned(), "2028-02-29".to_owned()]);
    let policy = (option::of(trust), option::of(placement), option::of(expires));
    ((label(), any::<bool>()), machines, of_appliance, policy).prop_map(
        |(name, machines, of_appliance, policy)| {
            let mut toml = assemble(name, machines, of_appliance, policy);
            // A peer must be a machine that there is.
            let first = toml.config.machines[0].name.clone();
            for policy in toml.policy.machines.values_mut() {
                let peers = policy.firewall.ingress.iter_mut().map(|rule| &mut rule.from);
                let peers = peers.chain(policy.firewall.egress.iter_mut().map(|rule| &mut rule.to));
                peers.flatten().filter(|peer| matches!(peer, Peer::Machine(_))).for_each(|peer| {
                    *peer = Peer::Machine(first.clone());
                });
            }
            toml
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn what_is_written_reads_back_the_same(toml in hull_toml(), remark in text()) {
        let mut remarks = Remarks::default();
        let machine = toml.config.machines[0].name.clone();
        for subject in [Subject::File, Subject::Machine(machine.clone()), Subject::Firewall(machine)] {
            remarks.add(subject, &remark);
        }
        let text = toml.write(&remarks).unwrap();
        let read = HullToml::parse(&text).unwrap();
        prop_assert_eq!(read.without_places(), toml.without_places());
        let control = |c: char| c.is_control() && c != '\n';
        prop_assert!(!text.contains(control), "{text}");
    }
}

#[test]
fn what_hull_toml_cannot_say_is_not_written() {
    let text = "[appliance]\nname = \"x\"\nversion = \"1\"\n[machines.a]\nmemory = \"1MiB\"\n\
                [machines.b]\nmemory = \"1MiB\"\n[machines.a.policy.lifecycle]\nexpires = 2028-01-31\n";
    let toml = HullToml::parse(text).unwrap();
    let check = |spoil: fn(&mut HullToml)| {
        let mut toml = toml.clone();
        spoil(&mut toml);
        assert_eq!(toml.write(&Remarks::default()), Err(Unwritable));
    };
    check(|toml| toml.config.machines.reverse());
    check(|toml| toml.config.machines[0].memory_bytes += 1);
    check(|toml| toml.policy.expires = Some("2028-02-31".to_owned()));
}

#[test]
fn a_file_is_written_as_an_author_would_have() {
    let toml = HullToml::parse(super::super::tests::EXAMPLE).unwrap();
    let mut remarks = Remarks::default();
    remarks.add(Subject::File, "Made by a test.");
    remarks.add(Subject::Drive("root".to_owned()), "SCSI controller 0, address 0\u{1b}");
    let text = toml.write(&remarks).unwrap();
    let want = r#"# Made by a test.
[appliance]
name = "web"
version = "1.4.0"
title = "Shop front end"

[machine]
vcpus = 2
memory = "1GiB"
cpu = "x86-64-v2"

# SCSI controller 0, address 0\u{1b}
[[disk]]
name = "root"
source = "web.vmdk"

[[volume]]
name = "data"
size = "10GiB"

[[nic]]
name = "eth0"

[policy.resources]
disk = { iops = 2000, mbps = 100 }

[policy.health]
check = { http = "http://:80/healthz" }

[policy.lifecycle]
restart = "on-failure"
max-restarts = 5
rollback = "on-unhealthy"
expires = 2027-06-30

[firewall]
dns = { mode = "proxy", names = ["ntp.example.org"] }

[[firewall.ingress]]
name = "http"
proto = "tcp"
ports = [80, "8000-8010"]
from = ["0.0.0.0/0", "::/0"]
publish = { host-port = 8080 }
rate = { new-per-second = 50, burst = 100, per = "source" }

[[firewall.egress]]
name = "packages"
proto = "tcp"
ports = [443]
to = ["fqdn:packages.example.org", { cidr = "10.0.0.0/8", except = ["10.1.0.0/16"] }]

[policy.trust]
signatures = { require = 1, keys = ["ed25519:abc"] }

[policy.placement]
hosts = ["*.prod.example.org"]
"#;
    assert_eq!(text, want);
}
