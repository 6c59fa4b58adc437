//! What an appliance consists of: machines, their disks, NICs and volumes.
//!
//! The config blob of the manifest, as canonical JSON. It says what the machine *is*; what it asks
//! of its surroundings is the [`Policy`](crate::Policy), a blob of its own. Never says where the disks'
//! content lies (the manifest does), nor whether this host can run the machine.
//!
//! Source: `docs/formats/appliance.md`, section 4.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};

use crate::{Digest, Fault, canonical};

/// The most machines, and the most disks, NICs or volumes of one machine, that a config may list.
const MAX_ITEMS: usize = 64;

/// An appliance: one or more machines that are packed, moved and versioned together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ApplianceConfig {
    /// Version of this document; 1.
    pub format_version: u32,
    /// What the author calls it; the name of its machine too, where there is just one.
    pub name: String,
    /// The author's version, free text.
    pub version: String,
    /// One line for people.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub title: Option<String>,
    /// The machines, all of one architecture, in the order in which their disks are packed. The order says
    /// nothing of when they start.
    pub machines: Vec<Machine>,
    /// Manifest of the version that this one was packed against: a hint, never trusted.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub parent: Option<Digest>,
}

/// One virtual machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Machine {
    /// Unique in the appliance.
    pub name: String,
    /// The processor architecture.
    pub arch: Arch,
    /// Virtual processors, at least 1.
    pub vcpus: u32,
    /// Memory in bytes.
    pub memory_bytes: u64,
    /// What starts the boot loader.
    pub firmware: Firmware,
    /// The least CPU level that the guest needs, one of [`Arch::cpu_levels`]; absent for the host's choice.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub cpu: Option<String>,
    /// Where the guest's console is.
    pub console: Console,
    /// Which device models the guest has drivers for.
    pub devices: Devices,
    /// Disks from the image, in the order the guest sees them; the first one boots.
    pub disks: Vec<Disk>,
    /// Network interfaces, in the order the guest sees them.
    pub nics: Vec<Nic>,
    /// Data that is not part of the image and survives upgrades; attached after the disks.
    pub volumes: Vec<Volume>,
    /// When it starts: machines with lower numbers first, those without a number last.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub start_order: Option<u32>,
}

/// A processor architecture, by the names that OCI uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Arch {
    /// x86-64.
    Amd64,
    /// AArch64.
    Arm64,
}

/// What starts the boot loader.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Firmware {
    /// A PC BIOS.
    Bios,
    /// UEFI without secure boot.
    Uefi,
    /// UEFI with secure boot enforced.
    UefiSecure,
}

/// Where the guest's console is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Console {
    /// The first serial port.
    Serial,
    /// No console.
    None,
}

/// Which device models the machine is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Devices {
    /// virtio throughout.
    Virtio,
    /// Models that guests without virtio drivers know: those that the disks and NICs name, AHCI and e1000
    /// where they name none.
    Compat,
}

/// What a disk was attached to on the platform it comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Bus {
    /// virtio block device.
    Virtio,
    /// AHCI.
    Sata,
    /// Parallel ATA.
    Ide,
    /// NVM Express.
    Nvme,
    /// BusLogic parallel SCSI.
    BusLogic,
    /// LSI Logic parallel SCSI.
    LsiLogic,
    /// LSI Logic SAS.
    LsiSas,
    /// VMware's paravirtual SCSI.
    Pvscsi,
}

/// What network card the machine had on the platform it comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NicModel {
    /// virtio network device.
    Virtio,
    /// Intel 82545EM.
    E1000,
    /// Intel 82574L.
    E1000e,
    /// AMD PCnet.
    Pcnet,
    /// Realtek RTL8139.
    Rtl8139,
    /// VMware's third paravirtual card.
    Vmxnet3,
}

/// A disk that is part of the image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Disk {
    /// Unique in the appliance, among its volumes too; the disk index layer carries it.
    pub name: String,
    /// Size as the guest sees it, in bytes; a multiple of 512.
    pub size_bytes: u64,
    /// What happens to what the guest writes.
    pub mode: DiskMode,
    /// What it is attached to where [`Devices::Compat`] holds, and on export.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub bus: Option<Bus>,
}

/// What happens to what the guest writes to a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DiskMode {
    /// Kept beside the image until the VM is removed.
    Overlay,
    /// Forgotten when the VM stops.
    Ephemeral,
    /// The guest cannot write.
    ReadOnly,
}

/// A network interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Nic {
    /// Unique in the machine.
    pub name: String,
    /// The private network between the appliance's machines that it joins; absent for the outside.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub network: Option<String>,
    /// Which card it is where [`Devices::Compat`] holds, and on export.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub model: Option<NicModel>,
}

/// Data that survives upgrades and is never part of the image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Volume {
    /// Unique in the appliance, among its disks too.
    pub name: String,
    /// Size in bytes; a multiple of 512.
    pub size_bytes: u64,
}

/// Why a config blob cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// Not JSON, or not of this shape.
    #[error("the appliance's config is not as format version 1 says")]
    Malformed(#[source] serde_json::Error),
    /// Written by a newer hull.
    #[error("the appliance's config has format version {found}; this hull reads version 1")]
    Version {
        /// What the config says.
        found: u32,
    },
    /// Two things share a name that must be unique.
    #[error("two {kind}s are named `{name}`")]
    Duplicate {
        /// What kind of thing.
        kind: &'static str,
        /// The shared name.
        name: String,
    },
    /// A disk and a volume share a name.
    #[error("a disk and a volume are named `{name}`; the guest gets both as drives, told apart by name")]
    DiskAndVolume {
        /// The shared name.
        name: String,
    },
    /// A name that could not be a file name, a label or a table column.
    #[error(
        "the name of the {kind} is `{name}`; names are 1 to 63 lower-case letters, digits and `-`, starting with a \
         letter or digit"
    )]
    BadName {
        /// What kind of thing.
        kind: &'static str,
        /// The name, control characters escaped.
        name: String,
    },
    /// A number outside what a machine can have.
    #[error("{field} is {found}; {wanted}")]
    BadValue {
        /// Which number.
        field: &'static str,
        /// What the config says.
        found: u64,
        /// What it may say.
        wanted: &'static str,
    },
    /// A CPU level that is none of the machine's architecture.
    #[error("`{level}` is no CPU level of {}; it has {}", .arch.as_str(), .arch.cpu_levels().join(", "))]
    CpuLevel {
        /// The level, control characters escaped.
        level: String,
        /// The machine's architecture.
        arch: Arch,
    },
    /// Firmware that the machine's architecture has not got.
    #[error("{} machines have no PC BIOS; they start with UEFI", .arch.as_str())]
    NoBios {
        /// The machine's architecture.
        arch: Arch,
    },
    /// Machines of different architectures: no host could run both, and the index names one platform.
    #[error("machine `{name}` is of {} and the first one of {}; an appliance has one architecture", .found.as_str(), .first.as_str())]
    MixedArch {
        /// The machine's name.
        name: String,
        /// Its architecture.
        found: Arch,
        /// The architecture of the appliance's first machine.
        first: Arch,
    },
}

impl From<Fault<Self>> for ConfigError {
    fn from(fault: Fault<Self>) -> Self {
        fault.error
    }
}

impl ApplianceConfig {
    /// Reads a config blob and checks every value in it.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] where the blob is not a config, is of another version, or holds values that
    /// no machine can have.
    pub fn parse(bytes: &[u8]) -> Result<Self, ConfigError> {
        let config: Self = serde_json::from_slice(bytes).map_err(ConfigError::Malformed)?;
        config.check()?;
        Ok(config)
    }

    /// The canonical bytes, which are what gets hashed.
    pub fn to_bytes(&self) -> Vec<u8> {
        canonical::to_vec(self)
    }

    /// Checks what the types alone do not: names, uniqueness, ranges, and what belongs together.
    ///
    /// # Errors
    ///
    /// As [`ApplianceConfig::parse`].
    pub fn check(&self) -> Result<(), ConfigError> {
        Ok(self.check_places()?)
    }

    /// As [`ApplianceConfig::check`], and says which value is at fault.
    ///
    /// # Errors
    ///
    /// As [`ApplianceConfig::parse`], with the place of the first one.
    pub fn check_places(&self) -> Result<(), Fault<ConfigError>> {
        if self.format_version != 1 {
            return Err(Fault::new("formatVersion", ConfigError::Version { found: self.format_version }));
        }
        check_name("appliance", &self.name).map_err(|error| Fault::new("name", error))?;
        let Some(first) = self.machines.first() else {
            let wanted = "an appliance has at least one";
            let error = ConfigError::BadValue { field: "the number of machines", found: 0, wanted };
            return Err(Fault::new("machines", error));
        };
        check_count("machines", "the number of machines", self.machines.len())?;
        let (mut machines, mut drives) = (Names::default(), Names::default());
        for (n, machine) in self.machines.iter().enumerate() {
            let within = |fault: Fault<ConfigError>| fault.within(format_args!("machines/{n}"));
            machines.add("machine", &machine.name).map_err(within)?;
            if machine.arch != first.arch {
                let (name, found) = (machine.name.clone(), machine.arch);
                let error = ConfigError::MixedArch { name, found, first: first.arch };
                return Err(within(Fault::new("arch", error)));
            }
            machine.check(&mut drives).map_err(within)?;
        }
        Ok(())
    }

    /// The machine called `name`.
    pub fn machine(&self, name: &str) -> Option<&Machine> {
        self.machines.iter().find(|machine| machine.name == name)
    }

    /// The platform that the machines need, such as `linux/amd64`: the value of
    /// [`ANNOTATION_PLATFORM`](crate::media_type::ANNOTATION_PLATFORM).
    pub fn platform(&self) -> String {
        format!("linux/{}", self.machines.first().map_or(Arch::Amd64, |machine| machine.arch).as_str())
    }
}

impl Machine {
    /// Checks the machine; `drives` are the names that its disks and volumes must not have.
    fn check<'a>(&'a self, drives: &mut Names<'a>) -> Result<(), Fault<ConfigError>> {
        let vcpus = u64::from(self.vcpus);
        range("vcpus", "the number of vcpus", vcpus, 1..=1024, "a machine has 1 to 1024")?;
        let wanted = "a machine has 1 MiB to 16 TiB";
        range("memoryBytes", "the memory in bytes", self.memory_bytes, 1 << 20..=1 << 44, wanted)?;
        if let Some(level) = &self.cpu
            && !self.arch.cpu_levels().contains(&level.as_str())
        {
            let level = level.escape_debug().to_string();
            return Err(Fault::new("cpu", ConfigError::CpuLevel { level, arch: self.arch }));
        }
        if (self.arch, self.firmware) == (Arch::Arm64, Firmware::Bios) {
            return Err(Fault::new("firmware", ConfigError::NoBios { arch: self.arch }));
        }
        check_count("disks", "the number of disks", self.disks.len())?;
        check_count("nics", "the number of NICs", self.nics.len())?;
        check_count("volumes", "the number of volumes", self.volumes.len())?;
        for (n, disk) in self.disks.iter().enumerate() {
            let within = |fault: Fault<ConfigError>| fault.within(format_args!("disks/{n}"));
            drives.add("disk", &disk.name).map_err(within)?;
            check_size("the disk's size in bytes", disk.size_bytes).map_err(within)?;
        }
        for (n, volume) in self.volumes.iter().enumerate() {
            let within = |fault: Fault<ConfigError>| fault.within(format_args!("volumes/{n}"));
            drives.add("volume", &volume.name).map_err(within)?;
            check_size("the volume's size in bytes", volume.size_bytes).map_err(within)?;
        }
        let mut nics = Names::default();
        for (n, nic) in self.nics.iter().enumerate() {
            let within = |fault: Fault<ConfigError>| fault.within(format_args!("nics/{n}"));
            nics.add("NIC", &nic.name).map_err(within)?;
            let network = nic.network.as_deref().map_or(Ok(()), |name| check_name("network", name));
            network.map_err(|error| within(Fault::new("network", error)))?;
        }
        Ok(())
    }
}

impl Arch {
    /// The name that OCI uses.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Amd64 => "amd64",
            Self::Arm64 => "arm64",
        }
    }

    /// The CPU levels that a guest may ask for, the least one first.
    ///
    /// Source: x86-64 psABI, "Micro-Architecture Levels"; the architecture versions of Arm.
    pub const fn cpu_levels(self) -> &'static [&'static str] {
        match self {
            Self::Amd64 => &["x86-64-v1", "x86-64-v2", "x86-64-v3", "x86-64-v4"],
            Self::Arm64 => &["armv8.0", "armv8.2", "armv9.0"],
        }
    }
}

/// True for 1 to 63 lower-case letters, digits and `-`, starting with a letter or digit: what every
/// name inside an appliance must be, so that it can stand in a path, a label or a table.
pub fn is_label(name: &str) -> bool {
    (1..=63).contains(&name.len())
        && !name.starts_with('-')
        && name.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-')
}

fn check_name(kind: &'static str, name: &str) -> Result<(), ConfigError> {
    if is_label(name) {
        Ok(())
    } else {
        Err(ConfigError::BadName { kind, name: name.escape_debug().to_string() })
    }
}

/// Names that must differ, and what each of them names.
#[derive(Debug, Default)]
struct Names<'a>(BTreeMap<&'a str, &'static str>);

impl<'a> Names<'a> {
    /// Adds the `name` of a `kind`, which stands there as `name`.
    fn add(&mut self, kind: &'static str, name: &'a str) -> Result<(), Fault<ConfigError>> {
        let added = check_name(kind, name).and_then(|()| match self.0.insert(name, kind) {
            None => Ok(()),
            Some(other) if other == kind => Err(ConfigError::Duplicate { kind, name: name.to_owned() }),
            Some(_) => Err(ConfigError::DiskAndVolume { name: name.to_owned() }),
        });
        added.map_err(|error| Fault::new("name", error))
    }
}

fn check_size(field: &'static str, size_bytes: u64) -> Result<(), Fault<ConfigError>> {
    let wanted = "disks and volumes have 512 bytes to 1 PiB, in whole sectors of 512";
    range("sizeBytes", field, size_bytes, 512..=1 << 50, wanted)?;
    if !size_bytes.is_multiple_of(512) {
        return Err(Fault::new("sizeBytes", ConfigError::BadValue { field, found: size_bytes, wanted }));
    }
    Ok(())
}

/// The place of a list that is too long is its first item too many.
fn check_count(list: &'static str, field: &'static str, count: usize) -> Result<(), Fault<ConfigError>> {
    let place = format_args!("{list}/{MAX_ITEMS}");
    range(place, field, count as u64, 0..=MAX_ITEMS as u64, "there are at most 64")
}

fn range(
    place: impl std::fmt::Display,
    field: &'static str,
    found: u64,
    allowed: RangeInclusive<u64>,
    wanted: &'static str,
) -> Result<(), Fault<ConfigError>> {
    if allowed.contains(&found) {
        return Ok(());
    }
    Err(Fault::new(place, ConfigError::BadValue { field, found, wanted }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> serde_json::Value {
        serde_json::json!({
            "formatVersion": 1, "name": "web", "version": "1.4.0",
            "machines": [{
                "name": "web", "arch": "amd64", "vcpus": 2, "memoryBytes": 1 << 30, "firmware": "bios",
                "cpu": "x86-64-v2", "console": "serial", "devices": "virtio",
                "disks": [{ "name": "root", "sizeBytes": 2_u64 << 30, "mode": "overlay" }],
                "nics": [{ "name": "eth0" }],
                "volumes": [{ "name": "data", "sizeBytes": 10_u64 << 30 }],
            }],
        })
    }

    /// The sample with the value at `pointer` replaced is refused at `place`, and this is said.
    #[track_caller]
    fn check_error_at(pointer: &str, value: serde_json::Value, place: &str, want: &str) {
        let mut config = sample();
        *config.pointer_mut(pointer).unwrap() = value;
        let parsed = ApplianceConfig::parse(&serde_json::to_vec(&config).unwrap()).unwrap_err();
        let fault = serde_json::from_value::<ApplianceConfig>(config).unwrap().check_places().unwrap_err();
        assert_eq!((fault.at.as_str(), fault.error.to_string()), (place, parsed.to_string()));
        assert!(fault.error.to_string().contains(want), "{}", fault.error);
    }

    /// As [`check_error_at`], where the replaced value is the one at fault.
    #[track_caller]
    fn check_error(pointer: &str, value: serde_json::Value, want: &str) {
        check_error_at(pointer, value, pointer, want);
    }

    #[test]
    fn a_config_reads_back_as_the_bytes_it_was() {
        let bytes = canonical::to_vec(&sample());
        let config = ApplianceConfig::parse(&bytes).unwrap();
        assert_eq!(config.to_bytes(), bytes);
        assert_eq!(config.platform(), "linux/amd64");
    }

    #[test]
    fn impossible_machines_are_refused() {
        check_error("/formatVersion", 2.into(), "format version 2");
        check_error("/machines/0/vcpus", 0.into(), "the number of vcpus is 0");
        check_error("/machines/0/memoryBytes", 1.into(), "the memory in bytes is 1");
        check_error("/machines/0/disks/0/sizeBytes", 1000.into(), "the disk's size in bytes is 1000");
        check_error("/machines/0/volumes/0/sizeBytes", (1_u64 << 51).into(), "512 bytes to 1 PiB");
        check_error("/machines/0/disks/0/name", "../root".into(), "the name of the disk is `../root`");
        check_error("/machines/0/name", "\u{1b}[2J".into(), "the name of the machine is `\\u{1b}[2J`");
        check_error("/machines", serde_json::json!([]), "the number of machines is 0");
        let machines = vec![sample()["machines"][0].clone(); 65];
        check_error_at("/machines", machines.into(), "/machines/64", "the number of machines is 65");
        let network = serde_json::json!({ "name": "eth0", "network": "In side" });
        check_error_at("/machines/0/nics/0", network, "/machines/0/nics/0/network", "`In side`");
    }

    #[test]
    fn names_are_told_apart() {
        let two = |pointer: &str| sample().pointer(pointer).map(|item| vec![item.clone(); 2]).unwrap();
        for (list, want) in [
            ("/machines/0/disks", "two disks are named `root`"),
            ("/machines/0/nics", "two NICs are named `eth0`"),
            ("/machines/0/volumes", "two volumes are named `data`"),
            ("/machines", "two machines are named `web`"),
        ] {
            check_error_at(list, two(&format!("{list}/0")).into(), &format!("{list}/1/name"), want);
        }
        check_error("/machines/0/volumes/0/name", "root".into(), "a disk and a volume are named `root`");
    }

    #[test]
    fn levels_and_firmware_are_those_of_the_architecture() {
        check_error(
            "/machines/0/cpu",
            "armv8.2".into(),
            "`armv8.2` is no CPU level of amd64; it has x86-64-v1,",
        );
        check_error("/machines/0/cpu", "x86-64-v9".into(), "`x86-64-v9` is no CPU level");
        let arm = |cpu: &str, firmware: &str| {
            let mut machine = sample()["machines"][0].clone();
            machine["arch"] = "arm64".into();
            (machine["cpu"], machine["firmware"]) = (cpu.into(), firmware.into());
            machine
        };
        check_error_at("/machines/0", arm("x86-64-v2", "uefi"), "/machines/0/cpu", "no CPU level of arm64");
        check_error_at(
            "/machines/0",
            arm("armv8.2", "bios"),
            "/machines/0/firmware",
            "arm64 machines have no PC",
        );
        let mut mixed = arm("armv8.2", "uefi");
        mixed["name"] = "db".into();
        let machines = vec![sample()["machines"][0].clone(), mixed];
        let want = "machine `db` is of arm64 and the first one of amd64";
        check_error_at("/machines", machines.into(), "/machines/1/arch", want);
    }
}
