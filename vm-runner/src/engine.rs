//! What a machine monitor must be able to do, whichever it is.
//!
//! The border between the supervisor, which knows about appliances, and the one module that knows
//! about QEMU. Every connection between them is a descriptor that the supervisor opened: disks as
//! NBD connections and overlay files, NICs as taps, the serial port as a socket. So the monitor needs
//! no path of ours, can run as a user that may open nothing, and cannot be reached by anybody else.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::sync::mpsc::Receiver;
use std::time::Duration;
use std::{fmt, io};

use appliance::{Arch, Bus, Devices, NicModel};

/// Starts machines.
pub trait Hypervisor: fmt::Debug + Send + Sync {
    /// Starts the monitor's process with the guest held before its first instruction.
    ///
    /// The process dies with the *thread* that calls this, so that thread must live as long as the
    /// machine is to run.
    ///
    /// # Errors
    ///
    /// [`StartError`]; no process is left.
    fn start_paused(&self, spec: MachineSpec, options: ProcessOptions) -> Result<Started, StartError>;
}

/// A machine that has been started. Dropping it kills the process.
pub trait Machine: fmt::Debug + Send + Sync {
    /// The monitor's process.
    fn pid(&self) -> u32;

    /// The monitor's name and version, such as `QEMU 7.2.22`.
    fn monitor(&self) -> String;

    /// Lets the guest run.
    ///
    /// # Errors
    ///
    /// [`ControlError`], as for all that follows.
    fn resume(&self) -> Result<(), ControlError>;

    /// Holds the guest between two instructions.
    ///
    /// # Errors
    ///
    /// [`ControlError`].
    fn pause(&self) -> Result<(), ControlError>;

    /// Presses the power button. Whether the guest heeds it shows in [`MachineEvent::Shutdown`].
    ///
    /// # Errors
    ///
    /// [`ControlError`].
    fn press_power_button(&self) -> Result<(), ControlError>;

    /// Ends the machine as a cut cable would, with what it has written safe in its overlays.
    ///
    /// # Errors
    ///
    /// [`ControlError`]. That the process is already gone is none.
    fn power_off(&self) -> Result<(), ControlError>;

    /// What each drive has read and written since the start.
    ///
    /// # Errors
    ///
    /// [`ControlError`].
    fn drive_counters(&self) -> Result<Vec<DriveCounters>, ControlError>;

    /// Kills the process, which cannot refuse.
    fn kill(&self);

    /// Waits for the process to end, at most `timeout`; `None` where it still runs then.
    ///
    /// # Errors
    ///
    /// Where the operating system fails to say.
    fn wait(&self, timeout: Duration) -> io::Result<Option<ExitStatus>>;

    /// The last of what was said to and by the monitor, for bug reports.
    fn transcript(&self) -> Vec<String>;
}

/// A machine, held before its first instruction, and what comes out of it.
#[derive(Debug)]
pub struct Started {
    /// Control over it.
    pub machine: Box<dyn Machine>,
    /// What happens to it, in order. The channel ends when the monitor does.
    pub events: Receiver<MachineEvent>,
    /// The first serial port, both ways. Bytes nobody reads make the guest's writes wait.
    pub serial: UnixStream,
    /// The virtio-serial port [`READY_PORT`], both ways.
    pub ready: UnixStream,
    /// Where the machine is not what was asked for, for the person who runs it.
    pub notices: Vec<String>,
}

/// The virtio-serial port on which a guest says that it is ready.
pub const READY_PORT: &str = "dev.hullvm.ready";

/// A machine as the monitor sees it.
#[derive(Debug)]
pub struct MachineSpec {
    /// For process listings.
    pub name: String,
    /// The guest's processor architecture.
    pub arch: Arch,
    /// Virtual processors.
    pub vcpus: u32,
    /// Memory in bytes; rounded up to whole MiB.
    pub memory_bytes: u64,
    /// What the processor runs first.
    pub firmware: Firmware,
    /// The processor model.
    pub cpu: Cpu,
    /// Who executes the guest's instructions.
    pub accel: Accel,
    /// Which device models the guest has drivers for.
    pub devices: Devices,
    /// In the order the guest sees them; the first one boots.
    pub drives: Vec<Drive>,
    /// In the order the guest sees them.
    pub nics: Vec<Nic>,
}

/// What the processor runs first.
#[derive(Debug)]
pub enum Firmware {
    /// The monitor's own PC BIOS.
    Bios,
    /// A ROM in place of a BIOS.
    Rom(PathBuf),
    /// UEFI.
    Uefi {
        /// The code, never written.
        code: PathBuf,
        /// This machine's variables, open for writing: a copy of the template that goes with the code.
        variables: File,
        /// Whether variables are out of the guest's reach unless firmware writes them.
        secure_boot: SecureBoot,
    },
}

/// Whether the firmware accepts signed boot loaders only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SecureBoot {
    /// Anything boots.
    Off,
    /// Enforced, with the variables protected by system management mode.
    Enforced,
}

/// The processor model that the guest sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cpu {
    /// What the accelerator offers: the host's own processor under KVM.
    Native,
    /// A level of the x86-64 psABI, 1 to 4, the same on every host.
    X86Level(X86Level),
}

/// A microarchitecture level of x86-64.
///
/// Source: x86-64 psABI, "Micro-Architecture Levels".
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum X86Level {
    /// Every x86-64 processor.
    V1,
    /// SSE 4.2 and POPCNT: 2009 onwards.
    V2,
    /// AVX2, BMI and FMA: 2013 onwards.
    V3,
    /// AVX-512.
    V4,
}

impl X86Level {
    /// The level called `name`, such as `x86-64-v2`.
    pub fn parse(name: &str) -> Option<Self> {
        match name {
            "x86-64" | "x86-64-v1" => Some(Self::V1),
            "x86-64-v2" => Some(Self::V2),
            "x86-64-v3" => Some(Self::V3),
            "x86-64-v4" => Some(Self::V4),
            _ => None,
        }
    }
}

/// Who executes the guest's instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accel {
    /// The processor itself.
    Kvm,
    /// A translator in the monitor.
    Tcg,
}

impl fmt::Display for Accel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
        })
    }
}

/// A disk or volume.
#[derive(Debug)]
pub struct Drive {
    /// Letters, digits and `-`, unique in the machine. The guest sees it as the drive's serial number, cut at 20
    /// characters.
    pub name: String,
    /// Where its content is.
    pub content: DriveContent,
    /// How fast it may be.
    pub limits: DriveLimits,
    /// What it is attached to with [`Devices::Compat`]; AHCI where that is `None`.
    pub bus: Option<Bus>,
}

/// Where a drive's content is.
#[derive(Debug)]
pub enum DriveContent {
    /// An image that the guest cannot write: a connection to an NBD server with an export of the drive's name.
    ReadOnly {
        /// The connection.
        image: UnixStream,
    },
    /// The same, with a qcow2 image without a backing file on top, which takes what the guest writes.
    Overlay {
        /// The connection.
        image: UnixStream,
        /// The overlay, of the image's size, open for reading and writing.
        overlay: File,
    },
    /// A qcow2 image of its own, with nothing beneath.
    Volume {
        /// Open for reading and writing.
        file: File,
    },
}

/// How fast a drive may be; reads and writes together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DriveLimits {
    /// Requests per second.
    pub iops: Option<u64>,
    /// Bytes per second.
    pub bytes_per_second: Option<u64>,
}

/// A network interface.
#[derive(Debug)]
pub struct Nic {
    /// Letters, digits and `-`, unique in the machine.
    pub name: String,
    /// Its address.
    pub mac: [u8; 6],
    /// The tap it is plugged into, opened with a vnet header.
    pub tap: OwnedFd,
    /// Which card it is with [`Devices::Compat`]; an e1000 where that is `None`.
    pub model: Option<NicModel>,
}

/// How the monitor's process is to be run.
#[derive(Debug)]
pub struct ProcessOptions {
    /// The user to become before the program starts; `None` stays what it is.
    pub user: Option<UnixUser>,
    /// Where the monitor complains. Open for reading too, so that its words can be quoted when it fails.
    pub log: File,
}

/// A user by number. It is given no other groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnixUser {
    /// User.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
}

/// Something that happened to a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum MachineEvent {
    /// The guest runs.
    Resumed,
    /// The guest is held.
    Paused,
    /// The guest restarted.
    Reset,
    /// The guest's kernel gave up.
    Panicked,
    /// The machine is off, and the process about to end.
    Shutdown(ShutdownCause),
    /// A drive could not be read or written. The guest got an error, or is held where space ran out.
    DriveError {
        /// Whether it was a write.
        operation: DriveOperation,
        /// The drive's name.
        drive: String,
        /// Whether the host's file system is full, in which case the guest is held.
        no_space: bool,
    },
}

/// Who switched the machine off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ShutdownCause {
    /// The guest.
    Guest,
    /// The guest's kernel gave up.
    Panic,
    /// We, or somebody who signalled the process.
    Host,
}

/// What was tried on a drive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DriveOperation {
    /// A read.
    Read,
    /// A write.
    Write,
}

/// What a drive has read and written since the start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DriveCounters {
    /// The drive's name.
    pub drive: String,
    /// Bytes read by the guest.
    pub read_bytes: u64,
    /// Bytes written by the guest.
    pub written_bytes: u64,
    /// Read requests.
    pub reads: u64,
    /// Write requests.
    pub writes: u64,
}

/// Why a machine did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The monitor cannot make such a machine.
    #[error("{what} is not possible; {wanted}")]
    Impossible {
        /// What was asked for.
        what: String,
        /// What could have been.
        wanted: &'static str,
    },
    /// The process ended at once.
    #[error("{program} ended with {status} before the machine was there: {said}")]
    Exited {
        /// The program.
        program: String,
        /// How it ended.
        status: ExitStatus,
        /// The last lines of its log, control characters escaped.
        said: String,
    },
    /// The process runs and cannot be talked to. It has been killed.
    #[error("{program} does not speak QMP as it should")]
    NoConversation {
        /// The program.
        program: String,
        /// Why not.
        #[source]
        source: crate::qmp::ConnectError,
    },
    /// The process cannot be made.
    #[error("cannot start {program}")]
    Io {
        /// The program.
        program: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

/// Why a machine did not do as it was told.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct ControlError(#[from] pub(crate) crate::qmp::CallError);
