//! An appliance for other platforms: what is written there, and what is lost on the way.
//!
//! Planning and writing are two steps. A [`Plan`] is made of the config and the policy alone: it has every
//! document in full, names the disks to be written, and lists each thing that the target cannot express.
//! Nothing has been touched then, so that a person can still say no.
//!
//! ```text
//! Subject (config, policy, OVF) --kubevirt, libvirt, disks, ...--> Plan { files, report } --write--> file or folder
//! ```
//!
//! Nothing becomes wider silently. A rule that a target cannot express is left out, or covers less, and the
//! [`LossReport`] says so. Where more can happen there whatever is written, because the target carries no firewall at
//! all or does not make some promise of hull's, it says that too.
//!
//! Never: the network; a path from inside an appliance.

mod addresses;
mod container_disk;
mod disks;
mod hardware;
mod kubevirt;
mod libvirt;
mod loss;
mod ova;
mod rules;
mod write;
mod yaml;

use std::path::PathBuf;

use appliance::policy::{Lifecycle, Rollback};
use appliance::{ApplianceConfig, Arch, Machine, Policy};
use formats::image::Target;
use formats::ovf::{OvfError, OvfWriteError};

pub use disks::{container_disks, images};
pub use kubevirt::kubevirt;
pub use libvirt::libvirt;
pub use loss::{Effect, Loss, LossReport};
pub use ova::{Package, ova};
pub use write::{ExportError, ExportOptions};

/// What is exported: an appliance, or one of its machines.
#[derive(Debug, Clone)]
pub struct Subject<'a> {
    config: &'a ApplianceConfig,
    policy: &'a Policy,
    machines: Vec<&'a Machine>,
    limits: Limits,
}

/// What becomes of a rule whose rate, or number of connections, the target cannot limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Limits {
    /// It is left out.
    #[default]
    Respected,
    /// It holds without its limit, and so is wider.
    Dropped,
}

/// What an export is going to write, and what it loses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The files.
    pub output: Planned,
    /// What the target cannot express.
    pub report: LossReport,
}

/// One file, or a folder of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Planned {
    /// A single file.
    File(Content),
    /// A folder; the names are those of plain files.
    Folder(Vec<(String, Content)>),
}

/// What a file is to hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// A document.
    Text(String),
    /// A disk.
    Image {
        /// Which one.
        disk: PlannedDisk,
        /// What it is written as.
        target: Target,
    },
    /// A disk in a container image, as an OCI archive.
    ContainerDisk {
        /// Which one.
        disk: PlannedDisk,
        /// What it is written as within.
        image: Target,
        /// The architecture of the machine that boots it.
        arch: Arch,
        /// How the archive's one image is called.
        tag: String,
    },
    /// Machines and disks in one archive.
    Ova(Box<Package>),
}

/// Where a disk's content comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PlannedDisk {
    /// A disk of the appliance.
    OfAppliance {
        /// Its name.
        name: String,
    },
    /// Nowhere: a volume that nobody has written to.
    Empty {
        /// Its size.
        size_bytes: u64,
    },
}

/// Why an appliance cannot be exported at all.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PlanError {
    /// The machine that was asked for is not in the appliance.
    #[error("there is no machine `{}`; the appliance has {}", name.escape_debug(), machines.join(", "))]
    NoSuchMachine {
        /// What was asked for.
        name: String,
        /// What there is.
        machines: Vec<String>,
    },
    /// The disk that was asked for is not in the appliance.
    #[error("there is no disk `{}`; there is {}", name.escape_debug(), disks.join(", "))]
    NoSuchDisk {
        /// What was asked for.
        name: String,
        /// What there is.
        disks: Vec<String>,
    },
    /// A name that is right for hull and not for the target.
    #[error("{kind} `{name}` cannot be called so there; {wanted}")]
    Name {
        /// What kind of thing.
        kind: &'static str,
        /// Its name.
        name: String,
        /// What the target asks of names.
        wanted: &'static str,
    },
    /// The OVF that the appliance came from cannot be read.
    #[error("the OVF in the appliance cannot be read")]
    Ovf(#[source] OvfError),
    /// The descriptor cannot be written.
    #[error("the machines cannot be described in OVF")]
    Descriptor(#[source] OvfWriteError),
    /// A folder that documents could not name.
    #[error("`{}` cannot be named in a document; wanted a whole path in UTF-8 without control characters", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
    },
    /// More NICs than the target's network has addresses for.
    #[error("there are {count} NICs that lead outside; the network has {most} addresses")]
    TooManyNics {
        /// How many there are.
        count: usize,
        /// How many there could be.
        most: usize,
    },
}

impl<'a> Subject<'a> {
    /// The whole appliance, or the one machine of it that is called `machine`.
    ///
    /// # Errors
    ///
    /// [`PlanError::NoSuchMachine`].
    pub fn new(
        config: &'a ApplianceConfig,
        policy: &'a Policy,
        machine: Option<&str>,
        limits: Limits,
    ) -> Result<Self, PlanError> {
        let is_wanted = |entry: &&Machine| machine.is_none_or(|name| entry.name == name);
        let machines: Vec<&Machine> = config.machines.iter().filter(is_wanted).collect();
        if machines.is_empty() {
            let name = machine.unwrap_or_default().to_owned();
            let machines = config.machines.iter().map(|machine| machine.name.clone()).collect();
            return Err(PlanError::NoSuchMachine { name, machines });
        }
        Ok(Self { config, policy, machines, limits })
    }

    fn has_machine(&self, name: &str) -> bool {
        self.machines.iter().any(|machine| machine.name == name)
    }
}

/// What the appliance asks of whoever runs it, which no other platform knows.
fn report_appliance(subject: &Subject<'_>, report: &mut LossReport) {
    let policy = subject.policy;
    if policy.expires.is_some() {
        report.lose(None, "policy.lifecycle.expires", Effect::Wider, "it can be started after that day too");
    }
    if policy.trust.is_some() {
        report.lose(None, "policy.trust", Effect::Wider, "nobody verifies signatures before it starts");
    }
    if policy.placement.as_ref().is_some_and(|placement| !placement.hosts.is_empty()) {
        report.lose(None, "policy.placement", Effect::Wider, "it can be started on any host");
    }
}

fn report_lifecycle(machine: &str, lifecycle: &Lifecycle, report: &mut LossReport) {
    if lifecycle.rollback == Rollback::OnUnhealthy {
        let becomes = "nothing goes back by itself after an upgrade";
        report.lose(Some(machine), "policy.lifecycle.rollback", Effect::Other, becomes);
    }
}
