//! From an appliance's machine to a guest that runs: network, disks, QEMU, in this order.
//!
//! The policy is in force before QEMU exists, and QEMU is held until all is in place. Whatever fails
//! on the way, nothing of it is left.

use std::fs::File;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use appliance::policy::{DiskLimits, HealthCheck, MachinePolicy, Mode};
use appliance::{DiskMode, Firmware as FirmwareKind};
use formats::Disk;

use super::home::VmFolder;
use super::state::{PublishedPort, Spec};
use crate::engine::{
    Accel, ControlError, Cpu, Drive, DriveContent, DriveLimits, Firmware, Hypervisor, MachineSpec, Nic,
    ProcessOptions, SecureBoot, StartError, Started, UnixUser, X86Level,
};
use crate::net::{self, NetError, Network, NetworkSpec};
use crate::overlay::{self, OverlayError};
use crate::{kvm, nbd, qemu};

/// Everything that a supervisor needs to know about the VM it is for.
#[derive(Debug)]
pub struct Launch {
    /// Where the VM's files are.
    pub folder: VmFolder,
    /// What the VM is.
    pub spec: Spec,
    /// The machine, from the appliance's config.
    pub machine: appliance::Machine,
    /// What holds for it, from the appliance's policy.
    pub policy: MachinePolicy,
    /// The content of the machine's disks, in their order.
    pub disks: Vec<Arc<dyn Disk>>,
    /// Where the machine's volumes are kept.
    pub volumes: PathBuf,
}

/// A guest that runs, and what it runs on. Dropping it ends the guest, then removes its network.
#[derive(Debug)]
pub(super) struct Running {
    // In this order: the guest goes before what it uses.
    pub(super) machine: Box<dyn crate::engine::Machine>,
    disks: Vec<nbd::Connection>,
    pub(super) network: Option<Network>,
    /// What this host does not enforce or give, for people.
    pub(super) notices: Vec<String>,
}

/// What comes out of a guest that has just been started.
#[derive(Debug)]
pub(super) struct Outputs {
    pub(super) events: std::sync::mpsc::Receiver<crate::engine::MachineEvent>,
    pub(super) serial: std::os::unix::net::UnixStream,
    pub(super) ready: std::os::unix::net::UnixStream,
}

/// Why a VM did not start. Nothing of it is left.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LaunchError {
    /// The machine needs something that this version does not have.
    #[error("{what} cannot be run by this version of hull")]
    NotSupported {
        /// What the machine has.
        what: &'static str,
    },
    /// KVM was asked for and is not to be had.
    #[error(transparent)]
    Accel(#[from] kvm::KvmUnusable),
    /// The network could not be set up.
    #[error("the VM's network could not be set up")]
    Network(#[from] NetError),
    /// A disk's overlay could not be made.
    #[error(transparent)]
    Overlay(#[from] OverlayError),
    /// QEMU did not start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// QEMU did not let the guest run.
    #[error("the guest could not be let run")]
    Resume(#[from] ControlError),
    /// The volumes under this VM's name are another appliance's.
    #[error("the volumes in `{}` belong to the appliance and machine `{found}`", folder.display())]
    VolumeOwner {
        /// Where they are.
        folder: PathBuf,
        /// Whose they are, control characters escaped.
        found: String,
    },
    /// A volume has another size than the appliance says.
    #[error("the volume `{volume}` has {found} bytes; the appliance wants {wanted}")]
    VolumeSize {
        /// Its name.
        volume: String,
        /// Its size.
        found: u64,
        /// The size in the config.
        wanted: u64,
    },
    /// UEFI firmware is not installed.
    #[error(transparent)]
    NoFirmware(#[from] qemu::FirmwareMissing),
    /// QEMU could not be connected to what it runs on.
    #[error("cannot connect QEMU to its disks and network")]
    Connect(#[source] io::Error),
    /// A file of the VM could not be opened.
    #[error("cannot open `{}`", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The reason.
        #[source]
        source: io::Error,
    },
}

impl Running {
    /// Ends the guest if it still runs, and removes what it ran on.
    ///
    /// # Errors
    ///
    /// [`NetError`] where something of its network may be left.
    pub(super) fn remove(self) -> Result<(), NetError> {
        drop(self.machine);
        // QEMU has gone, so each server sees the end of its connection.
        self.disks.into_iter().for_each(nbd::Connection::wait);
        self.network.map_or(Ok(()), Network::remove)
    }
}

impl Launch {
    /// The host's addresses that will lead to the guest's ports.
    pub(super) fn ports(&self) -> Vec<PublishedPort> {
        let rules = &self.policy.firewall.ingress;
        let published = rules.iter().flat_map(|rule| {
            let bind = rule.publish.map(|publish| publish.bind);
            rule.published_ports().into_iter().zip(std::iter::repeat(bind)).filter_map(
                move |((host, guest), bind)| {
                    Some(PublishedPort {
                        rule: rule.name.clone(),
                        proto: rule.proto.as_str().to_owned(),
                        host: (bind?, host).into(),
                        guest_port: guest,
                    })
                },
            )
        });
        published.collect()
    }

    /// Starts the guest.
    ///
    /// The process dies with the thread that calls this.
    ///
    /// # Errors
    ///
    /// [`LaunchError`].
    pub(super) fn start(
        &self,
        hypervisor: &dyn Hypervisor,
        accel: Accel,
        on_read_failure: impl Fn(&nbd::ReadFailure<'_>) + Clone + Send + Sync + 'static,
    ) -> Result<(Running, Outputs), LaunchError> {
        self.check()?;
        let network = self.network()?;
        let mut disks = Vec::new();
        let mut drives = Vec::new();
        let limits = self.policy.resources.and_then(|resources| resources.disk).unwrap_or_default();
        for (disk, content) in self.machine.disks.iter().zip(&self.disks) {
            let export = nbd::Export::new(&disk.name, content.clone(), on_read_failure.clone());
            let (server, image) = nbd::Connection::pair(export.into()).map_err(LaunchError::Connect)?;
            disks.push(server);
            let content = match disk.mode {
                DiskMode::ReadOnly => DriveContent::ReadOnly { image },
                DiskMode::Overlay => DriveContent::Overlay { image, overlay: self.overlay(disk)? },
                DiskMode::Ephemeral => {
                    let overlay = overlay::create_ephemeral(self.folder.path(), disk.size_bytes)?;
                    DriveContent::Overlay { image, overlay }
                }
            };
            let limits = drive_limits(limits);
            drives.push(Drive { name: disk.name.clone(), content, limits, bus: disk.bus });
        }
        for volume in &self.machine.volumes {
            let content = DriveContent::Volume { file: self.volume(volume)? };
            let limits = drive_limits(limits);
            // Of the first disk's controller it is certain that the guest has a driver for it.
            let bus = self.machine.disks.first().and_then(|disk| disk.bus);
            drives.push(Drive { name: volume.name.clone(), content, limits, bus });
        }
        let nics = match (&network, self.machine.nics.first()) {
            (Some(network), Some(nic)) => {
                let tap = network.tap().try_clone_to_owned().map_err(LaunchError::Connect)?;
                let mac = net::guest_mac(&self.spec.id, 0).octets();
                vec![Nic { name: nic.name.clone(), mac, tap, model: nic.model }]
            }
            _ => Vec::new(),
        };
        let spec = MachineSpec {
            name: format!("hull-{}", self.spec.name),
            arch: self.machine.arch,
            vcpus: self.machine.vcpus,
            memory_bytes: self.machine.memory_bytes,
            firmware: self.firmware()?,
            cpu: self.cpu(),
            accel,
            devices: self.machine.devices,
            drives,
            nics,
        };
        let log = self.open(
            self.folder.path().join("qemu.log"),
            File::options().read(true).append(true).create(true),
        )?;
        let user = unprivileged_user(&self.spec.id, accel);
        let mut notices: Vec<_> =
            network.iter().flat_map(Network::notices).map(ToString::to_string).collect();
        if user.is_none() && rustix::process::geteuid().is_root() {
            notices.push("QEMU runs as root, because /dev/kvm is open to root alone".to_owned());
        }
        let options = ProcessOptions { user, log };
        let Started { machine, events, serial, ready, notices: replaced } =
            hypervisor.start_paused(spec, options)?;
        notices.extend(replaced);
        Ok((Running { machine, disks, network, notices }, Outputs { events, serial, ready }))
    }

    fn check(&self) -> Result<(), LaunchError> {
        let unsupported = |what| Err(LaunchError::NotSupported { what });
        let check = self.policy.health.as_ref().map(|health| &health.check);
        if self.machine.nics.is_empty()
            && matches!(check, Some(HealthCheck::Http { .. } | HealthCheck::Tcp { .. }))
        {
            return unsupported("a health check over the network of a machine without a NIC");
        }
        if self.machine.nics.iter().any(|nic| nic.network.is_some()) {
            return unsupported("a private network between machines");
        }
        if self.machine.nics.len() > 1 {
            return unsupported("a machine with several NICs");
        }
        Ok(())
    }

    fn network(&self) -> Result<Option<Network>, LaunchError> {
        if self.machine.nics.is_empty() {
            return Ok(None);
        }
        let spec = NetworkSpec {
            vm: &self.spec.id,
            mac: net::guest_mac(&self.spec.id, 0),
            host_name: Some(&self.machine.name),
            policy: &self.policy,
            // An image may ask to be watched only; the host says whether, and this one does not.
            mode: Mode::Enforce,
        };
        Ok(Some(Network::create(&spec)?))
    }

    /// What the guest wrote to `disk`: a new overlay at the first start, the same one after that.
    fn overlay(&self, disk: &appliance::Disk) -> Result<File, LaunchError> {
        let path = self.folder.overlay(&disk.name);
        match path.exists() {
            true => self.open(path, File::options().read(true).write(true)),
            false => Ok(overlay::create(&path, disk.size_bytes)?),
        }
    }

    /// What the guest keeps in `volume`: a new one at the first start, the same one after that, also of
    /// a later VM of this name and appliance.
    fn volume(&self, volume: &appliance::Volume) -> Result<File, LaunchError> {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.volumes)
            .map_err(|source| LaunchError::Io { path: self.volumes.clone(), source })?;
        self.own_volumes()?;
        let path = self.volumes.join(format!("{}.qcow2", volume.name));
        if !path.exists() {
            return Ok(overlay::create(&path, volume.size_bytes)?);
        }
        let file = self.open(path.clone(), File::options().read(true).write(true))?;
        // Where QEMU's qcow2 says how large the disk is: docs/interop/qcow2.txt, "Header".
        let mut size = [0; 8];
        file.read_exact_at(&mut size, 24).map_err(|source| LaunchError::Io { path, source })?;
        let found = u64::from_be_bytes(size);
        if found != volume.size_bytes {
            let (volume, wanted) = (volume.name.clone(), volume.size_bytes);
            return Err(LaunchError::VolumeSize { volume, found, wanted });
        }
        Ok(file)
    }

    /// Volumes belong to the appliance that made them: another one of the same name is not given them.
    fn own_volumes(&self) -> Result<(), LaunchError> {
        let path = self.volumes.join("owner");
        let io = |source| LaunchError::Io { path: path.clone(), source };
        let owner = format!("{} {}\n", self.spec.reference.repository(), self.spec.machine);
        match std::fs::read_to_string(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => std::fs::write(&path, owner).map_err(io),
            Ok(found) if found == owner => Ok(()),
            Ok(found) => {
                let found = found.trim_end().escape_debug().to_string();
                Err(LaunchError::VolumeOwner { folder: self.volumes.clone(), found })
            }
            Err(error) => Err(io(error)),
        }
    }

    fn firmware(&self) -> Result<Firmware, LaunchError> {
        let secure_boot = match self.machine.firmware {
            FirmwareKind::Bios => return Ok(Firmware::Bios),
            FirmwareKind::Uefi => SecureBoot::Off,
            FirmwareKind::UefiSecure => SecureBoot::Enforced,
        };
        let installed = qemu::find_uefi(Path::new("/"), self.machine.arch, secure_boot)?;
        let path = self.folder.path().join("uefi-variables");
        if !path.exists() {
            let copied = std::fs::copy(&installed.variables_template, &path);
            copied.map_err(|source| LaunchError::Io { path: path.clone(), source })?;
        }
        let variables = self.open(path, File::options().read(true).write(true))?;
        Ok(Firmware::Uefi { code: installed.code, variables, secure_boot })
    }

    /// The level that the author asks for, so that the VM can move between hosts; else whatever the
    /// accelerator offers.
    fn cpu(&self) -> Cpu {
        self.machine.cpu.as_deref().and_then(X86Level::parse).map_or(Cpu::Native, Cpu::X86Level)
    }

    fn open(&self, path: PathBuf, options: &std::fs::OpenOptions) -> Result<File, LaunchError> {
        options.open(&path).map_err(|source| LaunchError::Io { path, source })
    }
}

fn drive_limits(limits: DiskLimits) -> DriveLimits {
    DriveLimits {
        iops: limits.iops.map(u64::from),
        bytes_per_second: limits.mbps.map(|mbps| u64::from(mbps) * 1_000_000),
    }
}

/// A user that nobody else is, for QEMU to become: it needs no right but those of the descriptors it
/// is given, and `/dev/kvm`. `None` where we may not become anybody else, or `/dev/kvm` is ours alone.
///
/// The range is the one that systemd gives to dynamic users; see systemd.exec(5), `DynamicUser=`.
fn unprivileged_user(id: &str, accel: Accel) -> Option<UnixUser> {
    const FIRST: u32 = 61_184;
    const COUNT: u32 = 65_519 - FIRST + 1;
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    let uid = FIRST + u32::from_str_radix(id, 16).unwrap_or(0) % COUNT;
    match accel {
        Accel::Tcg => Some(UnixUser { uid, gid: uid }),
        Accel::Kvm => {
            let device = rustix::fs::stat("/dev/kvm").ok()?;
            let [anybody, group] = [0o006, 0o060].map(|bits| device.st_mode & bits == bits);
            // Root's own group would be more than the device.
            match (anybody, group && device.st_gid != 0) {
                (true, _) => Some(UnixUser { uid, gid: uid }),
                (false, true) => Some(UnixUser { uid, gid: device.st_gid }),
                (false, false) => None,
            }
        }
    }
}
