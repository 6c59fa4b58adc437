//! `hull.toml`: what the author of an appliance writes.
//!
//! Read from text to values, every value checked, every error with its line and column. What values may
//! say together is judged in `appliance`, which judges strangers' documents too; what it finds is led back
//! to the line that says it. The files that are named are never opened here.
//!
//! With one machine its tables stand at the top level; with several, each `[machines.NAME]` holds
//! the same tables: `disk`, `nic`, `volume`, `policy` and `firewall`.
//!
//! The grammar is documented, key by key, in `docs/hull-toml.md`.

mod firewall;
mod section;
mod units;
mod write;

use std::path::{Component, Path, PathBuf};

use appliance::policy::{
    Health, HealthCheck, Lifecycle, MachinePolicy, Placement, PolicyError, Resources, Restart, Rollback,
    Trust,
};
use appliance::{
    ApplianceConfig, Arch, Bus, ConfigError, Console, Devices, DiskMode, Firmware, Machine, Nic, NicModel,
    Policy, Volume,
};
use formats::image::Format;
use toml::Spanned;
use toml::de::DeTable;

pub use units::size as parse_size;
pub use write::{Remarks, Subject, Unwritable};

pub use section::{Item, Section};
use section::{Places, Text};

/// A `hull.toml`, read and checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HullToml {
    /// The appliance, but for the sizes of its disks: those are 0 until the sources have been opened.
    pub config: ApplianceConfig,
    /// What it asks of its host.
    pub policy: Policy,
    /// The OVF descriptor that it came from.
    pub ovf: Option<NamedFile>,
    /// Where its disks come from, in the order of the machines and their disks.
    pub sources: Vec<DiskSource>,
}

/// Where a disk comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskSource {
    /// The disk's name.
    pub disk: String,
    /// The image.
    pub image: NamedFile,
    /// The images that it is a difference to, the nearest first.
    pub backing: Vec<NamedFile>,
    /// The folder with the files of an image that is cut into several.
    pub parts: Option<NamedFile>,
    /// What the image is read as; what it looks like where that is `None`.
    pub format: Option<Format>,
}

/// A file or folder that `hull.toml` names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedFile {
    /// Relative to the folder of `hull.toml`; never leads out of it by its own spelling.
    pub path: PathBuf,
    /// The line in `hull.toml` that names it, from 1.
    pub line: usize,
    /// The column in that line, from 1, in characters.
    pub column: usize,
}

/// What is wrong in a `hull.toml`, and where.
#[derive(Debug, thiserror::Error)]
#[error("line {line}, column {column}: {problem}")]
pub struct HullTomlError {
    /// From 1.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
    /// What is wrong there.
    pub problem: Problem,
}

/// What is wrong at a place in a `hull.toml`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Problem {
    /// Not TOML.
    #[error("{0}")]
    Syntax(String),
    /// A key that the schema does not have.
    #[error("unknown key `{key}`; {hint}")]
    UnknownKey {
        /// The key, control characters escaped.
        key: String,
        /// The nearest known key, or all of them.
        hint: String,
    },
    /// A key that must be there.
    #[error("`{key}` is missing from {section}")]
    Missing {
        /// The key.
        key: &'static str,
        /// The table that lacks it.
        section: String,
    },
    /// A value of another type.
    #[error("`{key}` is {found}; expected {wanted}")]
    WrongType {
        /// The key's full name.
        key: String,
        /// The type found.
        found: &'static str,
        /// The type wanted.
        wanted: &'static str,
    },
    /// A value of the right type that cannot be.
    #[error("`{key}` is `{found}`; expected {wanted}")]
    BadValue {
        /// The key's full name.
        key: String,
        /// The value, control characters escaped.
        found: String,
        /// What could stand there.
        wanted: String,
    },
    /// Two tables of which one must be.
    #[error(
        "both `[machine]` and `[machines]`; use `[machine]` for one machine, `[machines.NAME]` for several"
    )]
    OneOrSeveral,
    /// A top-level table that belongs to one of several machines.
    #[error("`{key}` at the top level is for one machine; with several, write `{key}` under `machines.NAME`")]
    WhoseTable {
        /// The table's key.
        key: &'static str,
    },
    /// A value of the policy.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// A value of the config.
    #[error(transparent)]
    Config(#[from] ConfigError),
}

/// Reads another document of ours the way a `hull.toml` is read: `read` takes its keys one by one, and a
/// key that it did not ask for is an error.
///
/// # Errors
///
/// The first thing that is wrong, in the text or in the eyes of `read`.
pub fn read_document<T>(
    text: &str,
    read: impl FnOnce(&Section<'_>) -> Result<T, HullTomlError>,
) -> Result<T, HullTomlError> {
    let places = Places::default();
    let source = Text::new(text, &places);
    let table = table(source, text)?;
    let document = Section::document(source, &table);
    let value = read(&document)?;
    document.finish()?;
    Ok(value)
}

/// The tables and values of a document.
fn table<'t>(source: Text<'_>, text: &'t str) -> Result<Spanned<DeTable<'t>>, HullTomlError> {
    DeTable::parse(text).map_err(|error| {
        let problem = Problem::Syntax(error.message().escape_debug().to_string());
        source.error(error.span().unwrap_or(0..0), problem)
    })
}

impl HullToml {
    /// Reads the text of a `hull.toml`.
    ///
    /// # Errors
    ///
    /// [`HullTomlError`]: the first value that cannot be, else the first one that does not go with the others.
    pub fn parse(text: &str) -> Result<Self, HullTomlError> {
        let places = Places::default();
        let source = Text::new(text, &places);
        let table = table(source, text)?;
        let read = Reader::default().read(Section::document(source, &table))?;
        read.check(source)?;
        Ok(read)
    }

    /// Checks what the values say together.
    fn check(&self, source: Text<'_>) -> Result<(), HullTomlError> {
        // Sizes of disks come later; everything else can be checked now.
        let mut sized = self.config.clone();
        sized.machines.iter_mut().flat_map(|m| &mut m.disks).for_each(|disk| disk.size_bytes = 512);
        sized.check_places().map_err(|fault| source.fault("config", fault))?;
        self.policy.check_places().map_err(|fault| source.fault("policy", fault))?;
        self.policy.check_machines(&self.config).map_err(|fault| source.fault("policy", fault))
    }
}

/// What has been read so far.
#[derive(Debug, Default)]
struct Reader {
    machines: Vec<Machine>,
    policy: Option<Policy>,
    sources: Vec<DiskSource>,
}

impl Reader {
    fn read(mut self, document: Section<'_>) -> Result<HullToml, HullTomlError> {
        let header = document.need("appliance")?.section()?;
        let name = label(&header.need("name")?)?;
        let version = header.need("version")?.text()?.to_owned();
        let title = header.get("title").map(|title| title.text().map(str::to_owned)).transpose()?;
        let ovf = header.get("ovf").map(|ovf| named_file(&ovf)).transpose()?;
        header.finish()?;

        let mut policy = Policy {
            policy_version: 1,
            machines: Default::default(),
            trust: None,
            placement: None,
            expires: None,
        };
        self.policy_of_appliance(&document, &mut policy)?;
        self.policy = Some(policy);
        match (document.get("machine"), document.get("machines")) {
            (Some(machine), None) => self.machine(&name, machine.section()?, Some(&document))?,
            (None, Some(machines)) => {
                let machines = machines.noted_as("config/machines").section()?;
                self.several(&document, &machines)?;
            }
            (Some(_), Some(machines)) => return Err(machines.error(Problem::OneOrSeveral)),
            (None, None) => return Err(document.need("machine").expect_err("it is not there")),
        }
        document.finish()?;
        let config = ApplianceConfig {
            format_version: 1,
            name,
            version,
            title,
            machines: self.machines,
            parent: None,
        };
        Ok(HullToml { config, policy: self.policy.expect("set above"), ovf, sources: self.sources })
    }

    /// `[machines.NAME]`, in the order of their names.
    fn several(&mut self, document: &Section<'_>, machines: &Section<'_>) -> Result<(), HullTomlError> {
        for key in ["disk", "volume", "nic", "firewall"] {
            if let Some(item) = document.get(key) {
                return Err(item.error(Problem::WhoseTable { key }));
            }
        }
        if let Some(policy) = document.section("policy")? {
            // Read by `policy_of_appliance`; the rest of it belongs to a machine.
            policy.get("trust");
            policy.get("placement");
            policy.finish()?;
        }
        let mut entries: Vec<_> = machines.entries().collect();
        entries.sort_unstable_by_key(|(name, _)| *name);
        for (name, item) in entries {
            let name = check_label(name).ok_or_else(|| item.error(bad_label("machines", name)))?.to_owned();
            self.machine(&name, item.section()?, None)?;
        }
        Ok(())
    }

    /// One machine: `section` holds its own keys, `tables` those that describe what belongs to it,
    /// where that is not the same table.
    fn machine(
        &mut self,
        name: &str,
        section: Section<'_>,
        tables: Option<&Section<'_>>,
    ) -> Result<(), HullTomlError> {
        let at = format!("config/machines/{}", self.machines.len());
        let section = section.noted_as(&at);
        let mut machine = bare_machine(name, &section, &at)?;
        let tables_of = tables.unwrap_or(&section);
        for (n, disk) in tables_of.sections("disk")?.into_iter().enumerate() {
            machine.disks.push(self.disk(disk, &format!("{at}/disks/{n}"))?);
        }
        for (n, table) in tables_of.sections("volume")?.into_iter().enumerate() {
            machine.volumes.push(volume(table, &format!("{at}/volumes/{n}"))?);
        }
        for (n, table) in tables_of.sections("nic")?.into_iter().enumerate() {
            machine.nics.push(nic(table, &format!("{at}/nics/{n}"))?);
        }
        let at = format!("policy/machines/{name}");
        let mut policy = MachinePolicy::default();
        if let Some(firewall) = tables_of.section("firewall")? {
            policy.firewall = firewall::firewall(firewall, &format!("{at}/firewall"))?;
        }
        if let Some(of_machine) = tables_of.section("policy")? {
            self.policy_of_machine(of_machine, &at, &mut policy, tables.is_some())?;
        }
        section.finish()?;
        self.policy_mut().machines.insert(name.to_owned(), policy);
        self.machines.push(machine);
        Ok(())
    }

    fn disk(&mut self, section: Section<'_>, at: &str) -> Result<appliance::Disk, HullTomlError> {
        let section = section.noted_as(at);
        let name = label(&section.need("name")?.noted_as(format!("{at}/name")))?;
        let backing = section.get("backing").map_or(Ok(Vec::new()), |backing| backing.items())?;
        self.sources.push(DiskSource {
            disk: name.clone(),
            image: named_file(&section.need("source")?)?,
            backing: backing.iter().map(named_file).collect::<Result<_, _>>()?,
            parts: section.get("parts").map(|parts| named_file(&parts)).transpose()?,
            format: section.get("format").map(|format| format.choice(&formats())).transpose()?,
        });
        let modes = [
            ("overlay", DiskMode::Overlay),
            ("ephemeral", DiskMode::Ephemeral),
            ("read-only", DiskMode::ReadOnly),
        ];
        let mode = optional(section.get("mode"), &modes, DiskMode::Overlay)?;
        let bus = section.get("bus").map(|bus| bus.choice(BUSES)).transpose()?;
        section.finish()?;
        Ok(appliance::Disk { name, size_bytes: 0, mode, bus })
    }

    /// `[policy.trust]` and `[policy.placement]`, which hold for the whole appliance.
    fn policy_of_appliance(&self, document: &Section<'_>, policy: &mut Policy) -> Result<(), HullTomlError> {
        let Some(section) = document.section("policy")? else { return Ok(()) };
        if let Some(trust) = section.section("trust")? {
            if let Some(signatures) = trust.section("signatures")? {
                let require = signatures.need("require")?.noted_as("policy/trust/require").number(1..=64)?;
                let keys = texts(&signatures.need("keys")?)?;
                signatures.finish()?;
                policy.trust = Some(Trust { require, keys });
            }
            trust.finish()?;
        }
        if let Some(placement) = section.section("placement")? {
            policy.placement = Some(Placement { hosts: texts(&placement.need("hosts")?)? });
            placement.finish()?;
        }
        Ok(())
    }

    /// `[policy.resources]`, `[policy.health]` and `[policy.lifecycle]` of one machine.
    fn policy_of_machine(
        &mut self,
        section: Section<'_>,
        at: &str,
        policy: &mut MachinePolicy,
        with_appliance: bool,
    ) -> Result<(), HullTomlError> {
        if with_appliance {
            // Read by `policy_of_appliance`.
            section.get("trust");
            section.get("placement");
        }
        policy.resources = section.section("resources")?.map(resources).transpose()?;
        policy.health = section.section("health")?.map(|table| health(table, at)).transpose()?;
        if let Some(lifecycle) = section.section("lifecycle")? {
            let (of_machine, expires) = lifecycle_of(lifecycle)?;
            policy.lifecycle = of_machine;
            let earliest = &mut self.policy_mut().expires;
            *earliest = match (earliest.take(), expires) {
                (Some(one), Some(other)) => Some(one.min(other)),
                (one, other) => one.or(other),
            };
        }
        section.finish()
    }

    fn policy_mut(&mut self) -> &mut Policy {
        self.policy.as_mut().expect("set before the first machine is read")
    }
}

/// A machine with what its own table says, before its disks, volumes and NICs.
fn bare_machine(name: &str, section: &Section<'_>, at: &str) -> Result<Machine, HullTomlError> {
    let key_at = |key: &str| format!("{at}/{key}");
    let arch = section.get("arch").map(|arch| arch.noted_as(key_at("arch")));
    let arch = optional(arch, &[("amd64", Arch::Amd64), ("arm64", Arch::Arm64)], Arch::Amd64)?;
    let default_firmware = match arch {
        Arch::Amd64 => Firmware::Bios,
        Arch::Arm64 => Firmware::Uefi,
    };
    Ok(Machine {
        name: name.to_owned(),
        arch,
        vcpus: section.get("vcpus").map_or(Ok(1), |vcpus| vcpus.number(1..=1024))?,
        memory_bytes: section
            .need("memory")?
            .noted_as(key_at("memoryBytes"))
            .read(units::size, units::SIZE)?,
        firmware: optional(
            section.get("firmware").map(|firmware| firmware.noted_as(key_at("firmware"))),
            &[("bios", Firmware::Bios), ("uefi", Firmware::Uefi), ("uefi-secure", Firmware::UefiSecure)],
            default_firmware,
        )?,
        cpu: section.get("cpu").map(|cpu| cpu_level(&cpu.noted_as(key_at("cpu")))).transpose()?,
        console: optional(
            section.get("console"),
            &[("serial", Console::Serial), ("none", Console::None)],
            Console::Serial,
        )?,
        devices: optional(
            section.get("devices"),
            &[("virtio", Devices::Virtio), ("compat", Devices::Compat)],
            Devices::Virtio,
        )?,
        disks: Vec::new(),
        nics: Vec::new(),
        volumes: Vec::new(),
        start_order: section.get("start-order").map(|order| order.number(0..=65535)).transpose()?,
    })
}

const BUSES: &[(&str, Bus)] = &[
    ("virtio", Bus::Virtio),
    ("sata", Bus::Sata),
    ("ide", Bus::Ide),
    ("nvme", Bus::Nvme),
    ("bus-logic", Bus::BusLogic),
    ("lsi-logic", Bus::LsiLogic),
    ("lsi-sas", Bus::LsiSas),
    ("pvscsi", Bus::Pvscsi),
];

const NIC_MODELS: &[(&str, NicModel)] = &[
    ("virtio", NicModel::Virtio),
    ("e1000", NicModel::E1000),
    ("e1000e", NicModel::E1000e),
    ("pcnet", NicModel::Pcnet),
    ("rtl8139", NicModel::Rtl8139),
    ("vmxnet3", NicModel::Vmxnet3),
];

fn volume(section: Section<'_>, at: &str) -> Result<Volume, HullTomlError> {
    let section = section.noted_as(at);
    let name = label(&section.need("name")?.noted_as(format!("{at}/name")))?;
    let size = section.need("size")?.noted_as(format!("{at}/sizeBytes"));
    let volume = Volume { name, size_bytes: size.read(units::size, units::SIZE)? };
    section.finish()?;
    Ok(volume)
}

fn nic(section: Section<'_>, at: &str) -> Result<Nic, HullTomlError> {
    let section = section.noted_as(at);
    let network = section.get("network").map(|network| label(&network)).transpose()?;
    let name = label(&section.need("name")?.noted_as(format!("{at}/name")))?;
    let model = section.get("model").map(|model| model.choice(NIC_MODELS)).transpose()?;
    let nic = Nic { name, network, model };
    section.finish()?;
    Ok(nic)
}

fn resources(section: Section<'_>) -> Result<Resources, HullTomlError> {
    let mut resources = Resources::default();
    if let Some(disk) = section.section("disk")? {
        resources.disk = Some(appliance::policy::DiskLimits {
            iops: disk.get("iops").map(|iops| iops.number(1..=u32::MAX)).transpose()?,
            mbps: disk.get("mbps").map(|mbps| mbps.number(1..=u32::MAX)).transpose()?,
        });
        disk.finish()?;
    }
    section.finish()?;
    Ok(resources)
}

/// What a health check does where `[policy.health]` does not say it.
const INTERVAL_MS: u64 = 10_000;
const START_PERIOD_MS: u64 = 120_000;
const RETRIES: u32 = 3;

fn health(section: Section<'_>, at: &str) -> Result<Health, HullTomlError> {
    let check = section.need("check")?.noted_as(format!("{at}/health/check"));
    let interval = |item: Item<'_>| item.read(units::duration_ms, units::DURATION);
    let start_period = |item: Item<'_>| item.read(units::start_period_ms, units::START_PERIOD);
    let health = Health {
        check: health_check(&check)?,
        interval_ms: section.get("interval").map_or(Ok(INTERVAL_MS), interval)?,
        start_period_ms: section.get("start-period").map_or(Ok(START_PERIOD_MS), start_period)?,
        retries: section.get("retries").map_or(Ok(RETRIES), |retries| retries.number(Health::RETRIES))?,
    };
    section.finish()?;
    Ok(health)
}

/// `{ http = "http://:80/healthz" }`, `{ tcp = 443 }`, or `"ready"`.
fn health_check(item: &Item<'_>) -> Result<HealthCheck, HullTomlError> {
    if !item.is_section() {
        return item.choice(&[("ready", ())]).map(|()| HealthCheck::Ready);
    }
    let section = item.section()?;
    let check = match (section.get("http"), section.get("tcp")) {
        (Some(url), None) => {
            let (port, path) = url.read(units::guest_url, units::GUEST_URL)?;
            HealthCheck::Http { port, path }
        }
        (None, Some(port)) => HealthCheck::Tcp { port: port.number(1..=u16::MAX)? },
        _ => {
            let wanted = "either `http` or `tcp`".to_owned();
            let problem =
                Problem::BadValue { key: "policy.health.check".into(), found: "a table".into(), wanted };
            return Err(item.error(problem));
        }
    };
    section.finish()?;
    Ok(check)
}

fn lifecycle_of(section: Section<'_>) -> Result<(Lifecycle, Option<String>), HullTomlError> {
    let restarts = [("no", Restart::No), ("on-failure", Restart::OnFailure), ("always", Restart::Always)];
    let rollbacks = [("no", Rollback::No), ("on-unhealthy", Rollback::OnUnhealthy)];
    let lifecycle = Lifecycle {
        restart: optional(section.get("restart"), &restarts, Restart::No)?,
        max_restarts: section.get("max-restarts").map(|max| max.number(0..=u32::MAX)).transpose()?,
        rollback: optional(section.get("rollback"), &rollbacks, Rollback::No)?,
    };
    let expires = section.get("expires").map(|expires| expires.date()).transpose()?;
    section.finish()?;
    Ok((lifecycle, expires))
}

fn optional<T: Copy>(
    item: Option<Item<'_>>,
    words: &[(&'static str, T)],
    default: T,
) -> Result<T, HullTomlError> {
    item.map_or(Ok(default), |item| item.choice(words))
}

fn texts(item: &Item<'_>) -> Result<Vec<String>, HullTomlError> {
    item.items()?.iter().map(|item| item.text().map(str::to_owned)).collect()
}

const LABEL: &str = "1 to 63 lower-case letters, digits and `-`, starting with a letter or digit";

fn label(item: &Item<'_>) -> Result<String, HullTomlError> {
    item.read(|text| check_label(text).map(str::to_owned), LABEL)
}

fn check_label(text: &str) -> Option<&str> {
    appliance::is_label(text).then_some(text)
}

fn bad_label(key: &str, found: &str) -> Problem {
    Problem::BadValue { key: key.into(), found: found.escape_debug().to_string(), wanted: LABEL.into() }
}

fn cpu_level(item: &Item<'_>) -> Result<String, HullTomlError> {
    let levels = [Arch::Amd64, Arch::Arm64].into_iter().flat_map(Arch::cpu_levels);
    let levels: Vec<_> = levels.map(|level| (*level, *level)).collect();
    item.choice(&levels).map(str::to_owned)
}

fn formats() -> Vec<(&'static str, Format)> {
    Format::ALL.iter().map(|format| (format.name(), *format)).collect()
}

fn named_file(item: &Item<'_>) -> Result<NamedFile, HullTomlError> {
    let path = item.read(inside, "a path inside the folder of hull.toml, without `..`")?;
    let (line, column) = item.place();
    Ok(NamedFile { path, line, column })
}

/// `text` as a path that stays inside the folder it is relative to.
fn inside(text: &str) -> Option<PathBuf> {
    let path = Path::new(text);
    let stays = !text.is_empty()
        && path.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
    stays.then(|| path.to_owned())
}

#[cfg(test)]
mod tests;
