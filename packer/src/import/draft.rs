//! What a file says of an appliance, before its disks are opened; and from there to an [`Import`].
//!
//! A draft says only what its file says. What is left open is chosen here, in one place for all kinds of files, and
//! every choice is told.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

use appliance::{
    ApplianceConfig, Arch, Console, Devices, Disk, Fault, Firmware, Machine, Nic, Policy, Volume,
};
use formats::image::{self, Format, Image, ImageRequest, Layer, Limits, Parts, ReadCache, Source};

use super::notice::{Notice, What};
use super::{Import, ImportError, ImportRequest, Kind, WholeImage, firmware};
use crate::Appliance;
use crate::hull_toml::Remarks;

/// What a machine has if nothing says it.
const VCPUS: u32 = 2;
const MEMORY_BYTES: u64 = 1 << 30;
const VERSION: &str = "1.0";
/// What the tables of all disks, which are open at once, may take of memory. A disk of 1 TiB mostly has 4 MiB at most.
const MAX_TABLE_BYTES: u64 = 64 << 20;

/// What a file says of an appliance.
#[derive(Debug)]
pub(super) struct Draft {
    pub(super) kind: Kind,
    pub(super) name: String,
    pub(super) version: Option<String>,
    pub(super) title: Option<String>,
    pub(super) machines: Vec<DraftMachine>,
    /// A policy of hull's own that was in the file; its machines have the names that those above have.
    pub(super) policy: Option<Policy>,
    pub(super) ovf: Option<Vec<u8>>,
    pub(super) eulas: Vec<String>,
    pub(super) notices: Vec<Notice>,
    pub(super) remarks: Remarks,
}

/// What a file says of one machine.
#[derive(Debug)]
pub(super) struct DraftMachine {
    pub(super) name: String,
    pub(super) arch: Option<Arch>,
    pub(super) vcpus: Option<u32>,
    pub(super) memory_bytes: Option<u64>,
    pub(super) firmware: Option<Firmware>,
    pub(super) devices: Assumed<Devices>,
    pub(super) disks: Vec<(Disk, DraftImage)>,
    pub(super) volumes: Vec<Volume>,
    pub(super) nics: Vec<Nic>,
    pub(super) start_order: Option<u32>,
}

/// A value that was concluded and not said.
#[derive(Debug, Clone, Copy)]
pub(super) struct Assumed<T> {
    pub(super) value: T,
    pub(super) why: &'static str,
}

/// Where a disk's content is.
#[derive(Debug)]
pub(super) struct DraftImage {
    /// The image, then those that it is a difference to, the nearest first. There is one at least.
    pub(super) layers: Vec<NamedSource>,
    /// What the image is read as; found out where that is `None`.
    pub(super) format: Option<Format>,
    /// The size that the file says the disk has.
    pub(super) said_bytes: Option<u64>,
}

/// A file, and how messages call it.
#[derive(Debug, Clone)]
pub(super) struct NamedSource {
    pub(super) source: Source,
    pub(super) name: String,
}

/// What opening the disks brings to light.
#[derive(Debug, Default)]
struct Opened {
    disks: Vec<Box<dyn formats::Disk>>,
    whole_images: Vec<Option<WholeImage>>,
    notices: Vec<Notice>,
    table_bytes: u64,
    /// All disks stay open until the last is packed, and share it.
    cache: ReadCache,
}

impl Draft {
    /// A draft without machines, of what is called `name` unless a wish is there.
    pub(super) fn new(kind: Kind, name: &str, request: &ImportRequest<'_>) -> Self {
        Self {
            kind,
            name: request.wishes.name.clone().unwrap_or_else(|| name.to_owned()),
            version: None,
            title: None,
            machines: Vec::new(),
            policy: None,
            ovf: None,
            eulas: Vec::new(),
            notices: Vec::new(),
            remarks: Remarks::default(),
        }
    }

    /// Opens the disks and fills in what was left open. Images cut into several may name `parts`.
    pub(super) fn open(
        mut self,
        request: &ImportRequest<'_>,
        parts: Option<&dyn Parts>,
    ) -> Result<Import, ImportError> {
        // As `hull.toml` has them.
        self.machines.sort_by(|a, b| a.name.cmp(&b.name));
        let mut opened = Opened { notices: self.notices, ..Opened::default() };
        let mut machines = Vec::new();
        for draft in self.machines {
            let first = opened.disks.len();
            for (disk, image) in &draft.disks {
                opened.open(&draft.name, disk, image, parts, request)?;
            }
            let boots_from = opened.disks.get(first).map(|disk| &**disk);
            let chosen = draft.choose(boots_from, request)?;
            opened.notices.extend(chosen.1);
            machines.push(chosen.0);
        }
        let wished = request.wishes.version.clone().or(self.version);
        let version = wished.unwrap_or_else(|| VERSION.to_owned());
        let policy = policy_of(self.policy, &machines);
        let (name, title) = (self.name, self.title);
        let config = ApplianceConfig { format_version: 1, name, version, title, machines, parent: None };
        let names_others = |fault: Fault<_>| ImportError::Policy { source: Box::new(fault.error) };
        policy.check_machines(&config).map_err(names_others)?;
        let appliance = Appliance::new(config, policy, opened.disks, self.ovf)?;
        Ok(Import {
            kind: self.kind,
            appliance,
            notices: opened.notices,
            eulas: self.eulas,
            whole_images: opened.whole_images,
            remarks: self.remarks,
        })
    }
}

impl DraftMachine {
    /// A machine of which nothing is known.
    pub(super) fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            arch: None,
            vcpus: None,
            memory_bytes: None,
            firmware: None,
            devices: Assumed { value: Devices::Compat, why: "nothing says what the guest has drivers for" },
            disks: Vec::new(),
            volumes: Vec::new(),
            nics: Vec::new(),
            start_order: None,
        }
    }

    /// The machine, with wishes first, then what is said, then what is usual.
    fn choose(
        self,
        boots_from: Option<&dyn formats::Disk>,
        request: &ImportRequest<'_>,
    ) -> Result<(Machine, Vec<Notice>), ImportError> {
        const NOBODY: &str = "nothing says how much the guest needs";
        let wishes = &request.wishes;
        let mut notices = Vec::new();
        let mut assumed = |key, value: String, why| {
            let what = What::Assumed { key, value, why };
            notices.push(Notice { machine: Some(self.name.clone()), what });
        };
        let arch = wishes.arch.or(self.arch).unwrap_or(Arch::Amd64);
        let vcpus = wishes.vcpus.or(self.vcpus).unwrap_or_else(|| {
            assumed("vcpus", VCPUS.to_string(), NOBODY);
            VCPUS
        });
        let memory_bytes = wishes.memory_bytes.or(self.memory_bytes).unwrap_or_else(|| {
            assumed("memory", "1GiB".to_owned(), NOBODY);
            MEMORY_BYTES
        });
        let firmware = match (wishes.firmware.or(self.firmware), arch, boots_from) {
            (Some(firmware), ..) => firmware,
            (None, Arch::Arm64, _) => Firmware::Uefi,
            (None, Arch::Amd64, None) => Firmware::Bios,
            (None, Arch::Amd64, Some(disk)) => {
                let failed = |source| ImportError::Read { disk: self.disks[0].0.name.clone(), source };
                let firmware = firmware::of_disk(disk).map_err(failed)?;
                match firmware {
                    Firmware::Bios => assumed("firmware", "bios".to_owned(), "so the first disk looks"),
                    _ => assumed("firmware", "uefi".to_owned(), "no BIOS could boot the first disk"),
                }
                firmware
            }
        };
        let devices = wishes.devices.unwrap_or_else(|| {
            let word = if self.devices.value == Devices::Virtio { "virtio" } else { "compat" };
            assumed("devices", word.to_owned(), self.devices.why);
            self.devices.value
        });
        let machine = Machine {
            name: self.name.clone(),
            arch,
            vcpus,
            memory_bytes,
            firmware,
            cpu: None,
            console: Console::Serial,
            devices,
            disks: self.disks.into_iter().map(|(disk, _)| disk).collect(),
            nics: self.nics,
            volumes: self.volumes,
            start_order: self.start_order,
        };
        Ok((machine, notices))
    }
}

impl Opened {
    fn open(
        &mut self,
        machine: &str,
        disk: &Disk,
        draft: &DraftImage,
        parts: Option<&dyn Parts>,
        request: &ImportRequest<'_>,
    ) -> Result<(), ImportError> {
        let mut layers = draft.layers.iter().map(|NamedSource { source, name }| Layer {
            source: source.clone(),
            name,
            format: None,
        });
        let layer = layers.next().expect("a disk has an image");
        let named = Named { parts, any: AtomicBool::new(false) };
        let Image { format, disk: opened, left_out, table_bytes } = image::open(ImageRequest {
            layer: Layer { format: draft.format, ..layer },
            backing: layers.collect(),
            parts: parts.is_some().then_some(&named),
            limits: Limits { max_size_bytes: request.max_disk_bytes },
            cache: self.cache.clone(),
        })?;
        self.table_bytes += table_bytes;
        if self.table_bytes > MAX_TABLE_BYTES {
            let (what, found, most) = ("bytes of tables in disk images", self.table_bytes, MAX_TABLE_BYTES);
            return Err(ImportError::TooMany { what, found, most });
        }
        let mut notice = |what| self.notices.push(Notice { machine: Some(machine.to_owned()), what });
        for what in left_out {
            notice(What::ImageHoldsMore { disk: disk.name.clone(), what });
        }
        let found_bytes = opened.size_bytes();
        if let Some(said_bytes) = draft.said_bytes.filter(|said| *said != found_bytes) {
            notice(What::OtherSize { disk: disk.name.clone(), said_bytes, found_bytes });
        }
        let whole = draft.layers.len() == 1 && !named.any.into_inner();
        self.whole_images.push(whole.then(|| WholeImage { source: draft.layers[0].source.clone(), format }));
        self.disks.push(opened);
        Ok(())
    }
}

/// Parts, and whether any of them was used.
#[derive(Debug)]
struct Named<'a> {
    parts: Option<&'a dyn Parts>,
    any: AtomicBool,
}

impl Parts for Named<'_> {
    fn part(&self, name: &str) -> io::Result<Option<Source>> {
        let part = self.parts.map_or(Ok(None), |parts| parts.part(name))?;
        self.any.fetch_or(part.is_some(), Ordering::Relaxed);
        Ok(part)
    }
}

/// The policy that was in the file, or one that denies everything; with an entry for each machine.
fn policy_of(policy: Option<Policy>, machines: &[Machine]) -> Policy {
    let mut policy = policy.unwrap_or(Policy {
        policy_version: 1,
        machines: BTreeMap::new(),
        trust: None,
        placement: None,
        expires: None,
    });
    for machine in machines {
        policy.machines.entry(machine.name.clone()).or_default();
    }
    policy
}
