//! What an appliance consists of: machines, their disks, NICs and volumes.
//!
//! The config blob of the manifest, as canonical JSON. It says what the machine *is*; what it asks
//! of its surroundings is the [`Policy`](crate::Policy), a blob of its own.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::{Digest, canonical};

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
    /// The machines, in the order they start.
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
    /// The least CPU level that the guest needs, such as `x86-64-v2`; absent for the host's choice.
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
    /// Models that guests without virtio drivers know: AHCI disks, e1000 NICs.
    Compat,
}

/// A disk that is part of the image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Disk {
    /// Unique in the appliance; the disk index layer carries it.
    pub name: String,
    /// Size as the guest sees it, in bytes; a multiple of 512.
    pub size_bytes: u64,
    /// What happens to what the guest writes.
    pub mode: DiskMode,
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
}

/// Data that survives upgrades and is never part of the image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Volume {
    /// Unique in the appliance.
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
    #[error("the appliance's config names two {kind}s `{name}`")]
    Duplicate {
        /// What kind of thing.
        kind: &'static str,
        /// The shared name, control characters escaped.
        name: String,
    },
    /// A name that could not be a file name, a label or a table column.
    #[error(
        "the appliance's config names a {kind} `{name}`; names are 1 to 63 lower-case letters, digits and \
         `-`, starting with a letter or digit"
    )]
    BadName {
        /// What kind of thing.
        kind: &'static str,
        /// The name, control characters escaped.
        name: String,
    },
    /// A number outside what a machine can have.
    #[error("the appliance's config gives {field} as {found}; {wanted}")]
    BadValue {
        /// Which number.
        field: &'static str,
        /// What the config says.
        found: u64,
        /// What it may say.
        wanted: &'static str,
    },
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

    /// Checks what the types alone do not: names, uniqueness and ranges.
    ///
    /// # Errors
    ///
    /// As [`ApplianceConfig::parse`].
    pub fn check(&self) -> Result<(), ConfigError> {
        if self.format_version != 1 {
            return Err(ConfigError::Version { found: self.format_version });
        }
        check_name("appliance", &self.name)?;
        check_count("the number of machines", self.machines.len(), 1)?;
        unique("machine", self.machines.iter().map(|machine| &machine.name))?;
        unique("disk", self.machines.iter().flat_map(|m| &m.disks).map(|disk| &disk.name))?;
        unique("volume", self.machines.iter().flat_map(|m| &m.volumes).map(|volume| &volume.name))?;
        self.machines.iter().try_for_each(Machine::check)
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
    fn check(&self) -> Result<(), ConfigError> {
        range("vcpus", u64::from(self.vcpus), 1..=1024, "a machine has 1 to 1024")?;
        range("memory", self.memory_bytes, 1 << 20..=1 << 44, "a machine has 1 MiB to 16 TiB, in bytes")?;
        check_count("the number of disks", self.disks.len(), 0)?;
        check_count("the number of NICs", self.nics.len(), 0)?;
        check_count("the number of volumes", self.volumes.len(), 0)?;
        unique("NIC", self.nics.iter().map(|nic| &nic.name))?;
        let sizes = self.disks.iter().map(|disk| disk.size_bytes);
        for size in sizes.chain(self.volumes.iter().map(|volume| volume.size_bytes)) {
            if size == 0 || size % 512 != 0 || size > 1 << 50 {
                let wanted = "disks and volumes have 512 bytes to 1 PiB, in whole sectors of 512";
                return Err(ConfigError::BadValue { field: "a disk's size", found: size, wanted });
            }
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

fn unique<'a>(kind: &'static str, names: impl Iterator<Item = &'a String>) -> Result<(), ConfigError> {
    let mut seen = BTreeSet::new();
    for name in names {
        check_name(kind, name)?;
        if !seen.insert(name) {
            return Err(ConfigError::Duplicate { kind, name: name.escape_debug().to_string() });
        }
    }
    Ok(())
}

fn check_count(field: &'static str, count: usize, least: u64) -> Result<(), ConfigError> {
    range(field, count as u64, least..=MAX_ITEMS as u64, "there are at most 64, and at least one machine")
}

fn range(
    field: &'static str,
    found: u64,
    allowed: std::ops::RangeInclusive<u64>,
    wanted: &'static str,
) -> Result<(), ConfigError> {
    if allowed.contains(&found) { Ok(()) } else { Err(ConfigError::BadValue { field, found, wanted }) }
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

    /// The sample with the value at `pointer` replaced is refused with `want`.
    #[track_caller]
    fn check_error(pointer: &str, value: serde_json::Value, want: &str) {
        let mut config = sample();
        *config.pointer_mut(pointer).unwrap() = value;
        let error = ApplianceConfig::parse(&serde_json::to_vec(&config).unwrap()).unwrap_err();
        assert!(error.to_string().contains(want), "{error}");
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
        check_error("/machines/0/vcpus", 0.into(), "vcpus as 0");
        check_error("/machines/0/memoryBytes", 1.into(), "memory as 1");
        check_error("/machines/0/disks/0/sizeBytes", 1000.into(), "a disk's size as 1000");
        check_error("/machines/0/disks/0/name", "../root".into(), "a disk `../root`");
        check_error("/machines/0/name", "\u{1b}[2J".into(), "a machine `\\u{1b}[2J`");
        check_error("/machines", serde_json::json!([]), "the number of machines as 0");
    }
}
