//! `hull.toml`: what the author of an appliance writes.
//!
//! Read from text to values, every value checked, every error with its line and column. The files
//! that it names are not opened here.
//!
//! With one machine its tables stand at the top level; with several, each `[machines.NAME]` holds
//! the same tables: `disk`, `nic`, `volume`, `policy` and `firewall`.
//!
//! The grammar is documented, key by key, in `docs/hull-toml.md`.

mod firewall;
mod section;
mod units;

use std::path::{Component, Path, PathBuf};

use appliance::policy::{
    Health, HealthCheck, Lifecycle, MachinePolicy, Placement, PolicyError, Resources, Restart, Rollback,
    Trust,
};
use appliance::{
    ApplianceConfig, Arch, ConfigError, Console, Devices, DiskMode, Firmware, Machine, Nic, Policy, Volume,
};
use toml::de::DeTable;

use section::{Item, Section, Text};

/// A `hull.toml`, read and checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HullToml {
    /// The appliance, but for the sizes of its disks: those are 0 until the sources have been opened.
    pub config: ApplianceConfig,
    /// What it asks of its host.
    pub policy: Policy,
    /// Where its disks come from, in the order of the machines and their disks.
    pub sources: Vec<DiskSource>,
}

/// Where a disk comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskSource {
    /// The disk's name.
    pub disk: String,
    /// The image, relative to the folder of `hull.toml`; never leads out of it by its own spelling.
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

impl HullToml {
    /// Reads the text of a `hull.toml`.
    ///
    /// # Errors
    ///
    /// [`HullTomlError`], the first one in the order of reading.
    pub fn parse(text: &str) -> Result<Self, HullTomlError> {
        let table = DeTable::parse(text).map_err(|error| {
            let problem = Problem::Syntax(error.message().escape_debug().to_string());
            Text(text).error(error.span().unwrap_or(0..0), problem)
        })?;
        let document = Section::document(Text(text), &table);
        Reader::default().read(document)
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
            (None, Some(machines)) => self.several(&document, &machines.section()?)?,
            (Some(_), Some(_)) => return Err(document.error(Problem::OneOrSeveral)),
            (None, None) => return Err(document.need("machine").expect_err("it is not there")),
        }
        let place = document.need("appliance")?;
        document.finish()?;

        let config = ApplianceConfig {
            format_version: 1,
            name,
            version,
            title,
            machines: self.machines,
            parent: None,
        };
        // Sizes of disks come later; everything else can be checked now.
        let mut sized = config.clone();
        sized.machines.iter_mut().flat_map(|m| &mut m.disks).for_each(|disk| disk.size_bytes = 512);
        sized.check().map_err(|error| place.error(error.into()))?;
        Ok(HullToml { config, policy: self.policy.expect("set above"), sources: self.sources })
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
        for (name, item) in machines.entries() {
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
        let mut machine = Machine {
            name: name.to_owned(),
            arch: optional(
                section.get("arch"),
                &[("amd64", Arch::Amd64), ("arm64", Arch::Arm64)],
                Arch::Amd64,
            )?,
            vcpus: section.get("vcpus").map_or(Ok(1), |vcpus| vcpus.number(1..=1024))?,
            memory_bytes: section.need("memory")?.read(units::size, units::SIZE)?,
            firmware: optional(
                section.get("firmware"),
                &[("bios", Firmware::Bios), ("uefi", Firmware::Uefi), ("uefi-secure", Firmware::UefiSecure)],
                Firmware::Bios,
            )?,
            cpu: section.get("cpu").map(|cpu| cpu_level(&cpu)).transpose()?,
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
        };
        let tables_of = tables.unwrap_or(&section);
        for disk in tables_of.sections("disk")? {
            machine.disks.push(self.disk(disk)?);
        }
        for volume in tables_of.sections("volume")? {
            let name = label(&volume.need("name")?)?;
            let size_bytes = volume.need("size")?.read(units::size, units::SIZE)?;
            volume.finish()?;
            machine.volumes.push(Volume { name, size_bytes });
        }
        for nic in tables_of.sections("nic")? {
            let network = nic.get("network").map(|network| label(&network)).transpose()?;
            machine.nics.push(Nic { name: label(&nic.need("name")?)?, network });
            nic.finish()?;
        }
        let mut policy = MachinePolicy::default();
        if let Some(firewall) = tables_of.section("firewall")? {
            policy.firewall = firewall::firewall(firewall)?;
        }
        if let Some(of_machine) = tables_of.section("policy")? {
            self.policy_of_machine(of_machine, &mut policy, tables.is_some())?;
        }
        section.finish()?;
        self.policy_mut().machines.insert(name.to_owned(), policy);
        self.machines.push(machine);
        Ok(())
    }

    fn disk(&mut self, section: Section<'_>) -> Result<appliance::Disk, HullTomlError> {
        let name = label(&section.need("name")?)?;
        let source = section.need("source")?;
        let path = source.read(inside, "a path inside the folder of hull.toml, without `..`")?;
        let (line, column) = source.place();
        self.sources.push(DiskSource { disk: name.clone(), path, line, column });
        let modes = [
            ("overlay", DiskMode::Overlay),
            ("ephemeral", DiskMode::Ephemeral),
            ("read-only", DiskMode::ReadOnly),
        ];
        let mode = optional(section.get("mode"), &modes, DiskMode::Overlay)?;
        section.finish()?;
        Ok(appliance::Disk { name, size_bytes: 0, mode })
    }

    /// `[policy.trust]` and `[policy.placement]`, which hold for the whole appliance.
    fn policy_of_appliance(&self, document: &Section<'_>, policy: &mut Policy) -> Result<(), HullTomlError> {
        let Some(section) = document.section("policy")? else { return Ok(()) };
        if let Some(trust) = section.section("trust")? {
            if let Some(signatures) = trust.section("signatures")? {
                let require = signatures.need("require")?.number(1..=64)?;
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
        policy: &mut MachinePolicy,
        with_appliance: bool,
    ) -> Result<(), HullTomlError> {
        if with_appliance {
            // Read by `policy_of_appliance`.
            section.get("trust");
            section.get("placement");
        }
        policy.resources = section.section("resources")?.map(resources).transpose()?;
        policy.health = section.section("health")?.map(health).transpose()?;
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

fn health(section: Section<'_>) -> Result<Health, HullTomlError> {
    let check = section.need("check")?;
    let duration = |key: &'static str, default: u64| {
        section.get(key).map_or(Ok(default), |item| item.read(units::duration_ms, units::DURATION))
    };
    let health = Health {
        check: health_check(&check)?,
        interval_ms: duration("interval", 10_000)?,
        start_period_ms: duration("start-period", 120_000)?,
        retries: section.get("retries").map_or(Ok(3), |retries| retries.number(1..=1000))?,
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
    let levels = ["x86-64-v1", "x86-64-v2", "x86-64-v3", "x86-64-v4", "armv8.0", "armv8.2", "armv9.0"];
    item.choice(&levels.map(|level| (level, level))).map(str::to_owned)
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
