//! QEMU's process: started held, spoken to over QMP, never outliving us.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use appliance::Arch;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal};
use serde_json::Value;

use super::args::{self, CommandLine, Lines};
use crate::child;
use crate::engine::{
    ControlError, DriveCounters, DriveOperation, Hypervisor, Machine, MachineEvent, MachineSpec,
    ProcessOptions, ShutdownCause, StartError, Started,
};
use crate::qmp::{self, CallError, Client, ConnectError};

/// How long a QEMU may take to greet, on a busy host.
const GREETING_TIMEOUT: Duration = Duration::from_secs(30);

/// Events that wait to be read. Past this, the kinds that a guest can cause by the thousand are
/// dropped; the others wait for room.
const MAX_WAITING_EVENTS: usize = 1024;

/// How much of QEMU's log is quoted when it fails.
const MAX_QUOTE_BYTES: u64 = 600;

/// A QEMU program for one processor architecture.
#[derive(Debug, Clone)]
pub struct Qemu {
    program: PathBuf,
}

/// QEMU is not there.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{program}` is not installed; Debian and Ubuntu have it in the package {package}")]
pub struct NotInstalled {
    /// The program looked for.
    pub program: &'static str,
    /// The Debian package that has it.
    pub package: &'static str,
}

impl Qemu {
    /// The QEMU that emulates `arch`, looked for in the folders of `search_path`, which is what the
    /// variable `PATH` holds.
    ///
    /// # Errors
    ///
    /// [`NotInstalled`], which names the package.
    pub fn find(arch: Arch, search_path: &OsStr) -> Result<Self, NotInstalled> {
        let (program, package) = args::program(arch);
        std::env::split_paths(search_path)
            .map(|folder| folder.join(program))
            .find(|path| rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok() && path.is_file())
            .map(|program| Self { program })
            .ok_or(NotInstalled { program, package })
    }

    /// The program at `program`.
    pub fn at(program: PathBuf) -> Self {
        Self { program }
    }

    /// Where the program is.
    pub fn program(&self) -> &Path {
        &self.program
    }
}

impl Hypervisor for Qemu {
    fn start_paused(&self, spec: MachineSpec, options: ProcessOptions) -> Result<Started, StartError> {
        let name = self.program.display().to_string();
        let io_failed = |source| StartError::Io { program: name.clone(), source };
        let (qmp, qemu_qmp) = UnixStream::pair().map_err(io_failed)?;
        let (serial, qemu_serial) = UnixStream::pair().map_err(io_failed)?;
        let (ready, qemu_ready) = UnixStream::pair().map_err(io_failed)?;
        let lines = Lines {
            qmp: qemu_qmp.as_raw_fd(),
            serial: qemu_serial.as_raw_fd(),
            ready: qemu_ready.as_raw_fd(),
        };
        let mut line = args::command_line(&spec, lines)?;
        let notices = std::mem::take(&mut line.notices);
        let stderr = options.log.try_clone().map_err(io_failed)?;
        let mut command = Command::new(&self.program);
        command.args(&line.args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(stderr).env_clear();
        if let Some(user) = options.user {
            command.uid(user.uid).gid(user.gid); // As root, this drops the other groups too.
        }
        confine(&mut command, line);
        let child = command.spawn().map_err(io_failed)?;
        let process = Process::adopt(child).map_err(io_failed)?;
        let drives: Vec<String> = spec.drives.iter().map(|drive| drive.name.clone()).collect();
        // From here on QEMU alone holds its ends, so that each side sees the other one go.
        drop((spec, qemu_qmp, qemu_serial, qemu_ready));

        let (sender, events) = sync_channel(MAX_WAITING_EVENTS);
        let names = drives.clone();
        let client = Client::connect(qmp, GREETING_TIMEOUT, move |event| forward(&sender, &names, &event));
        match client {
            Ok(client) => {
                let machine = Box::new(QemuMachine { client, process, drives });
                Ok(Started { machine, events, serial, ready, notices })
            }
            Err(error) => Err(failed_start(name, &process, error, options.log)),
        }
    }
}

/// What the new process does between fork and exec: it gives up its chance of more rights, arranges to
/// die with us, and keeps the descriptors that are meant for it.
#[expect(unsafe_code, reason = "the standard library has no safe way to run code in a forked child")]
fn confine(command: &mut Command, line: CommandLine) {
    let us = rustix::process::getpid();
    let prepare = move || {
        rustix::thread::set_no_new_privs(true)?;
        child::end_with(us)?;
        line.inherited.iter().try_for_each(|&fd| keep_open(fd))
    };
    // SAFETY: `prepare` runs in the child after fork, where only async-signal-safe functions may be
    // called: it makes system calls, reads memory that it owns, and builds errors without allocating.
    unsafe { command.pre_exec(prepare) };
}

/// Lets a descriptor survive exec.
#[expect(unsafe_code, reason = "the descriptor is known by number, as QEMU's arguments name it")]
fn keep_open(fd: RawFd) -> io::Result<()> {
    // SAFETY: the number was taken from descriptors that the specification owns, or from our ends of
    // socket pairs; both live until after the fork, and the child closes none before exec.
    let fd = unsafe { BorrowedFd::borrow_raw(fd) };
    Ok(rustix::io::fcntl_setfd(fd, rustix::io::FdFlags::empty())?)
}

/// Why QEMU did not greet: most often it has complained and ended.
fn failed_start(program: String, process: &Process, error: ConnectError, log: File) -> StartError {
    // A closed socket means that the process is about to end by itself, with a status worth knowing.
    let gone =
        matches!(error, ConnectError::NoGreeting(_) | ConnectError::Negotiation(CallError::Gone { .. }));
    let ended = if gone { process.wait(Duration::from_secs(10)) } else { Ok(None) };
    match ended {
        Ok(Some(status)) => StartError::Exited { program, status, said: last_words(log) },
        _ => StartError::NoConversation { program, source: error }, // Dropping the process kills it.
    }
}

/// The end of QEMU's log, on one line.
fn last_words(mut log: File) -> String {
    let mut text = Vec::new();
    let end = log.seek(SeekFrom::End(0)).unwrap_or(0);
    let read = log
        .seek(SeekFrom::Start(end.saturating_sub(MAX_QUOTE_BYTES)))
        .and_then(|_| log.take(MAX_QUOTE_BYTES).read_to_end(&mut text));
    if read.is_err() || text.is_empty() {
        return "it said nothing".into();
    }
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    lines.join("; ").escape_debug().to_string()
}

/// Hands on what the supervisor can act upon.
fn forward(to: &SyncSender<MachineEvent>, drives: &[String], event: &qmp::Event) {
    let Some(event) = translate(drives, event) else { return };
    match event {
        MachineEvent::DriveError { .. } | MachineEvent::Reset => drop(to.try_send(event)),
        _ => drop(to.send(event)), // Fails where nobody listens.
    }
}

/// An event in the supervisor's terms; `None` for one it has no use for.
///
/// Source: QAPI `run-state.json`, `block-core.json`.
fn translate(drives: &[String], event: &qmp::Event) -> Option<MachineEvent> {
    let member = |name: &str| event.data.get(name).and_then(Value::as_str).unwrap_or_default();
    let set = |name: &str| event.data.get(name).and_then(Value::as_bool).unwrap_or(false);
    Some(match event.name.as_str() {
        "RESUME" => MachineEvent::Resumed,
        "STOP" => MachineEvent::Paused,
        "RESET" => MachineEvent::Reset,
        "GUEST_PANICKED" => MachineEvent::Panicked,
        "SHUTDOWN" => MachineEvent::Shutdown(match member("reason") {
            "guest-panic" => ShutdownCause::Panic,
            _ if set("guest") => ShutdownCause::Guest,
            _ => ShutdownCause::Host,
        }),
        "BLOCK_IO_ERROR" => MachineEvent::DriveError {
            operation: if member("operation") == "write" {
                DriveOperation::Write
            } else {
                DriveOperation::Read
            },
            drive: drive_name(drives, member("node-name")),
            no_space: set("nospace"),
        },
        _ => return None,
    })
}

/// The drive whose top node is called `node`.
fn drive_name(drives: &[String], node: &str) -> String {
    let drive = args::node_index(node).and_then(|index| drives.get(index));
    drive.cloned().unwrap_or_else(|| node.escape_debug().to_string())
}

/// A running QEMU.
#[derive(Debug)]
struct QemuMachine {
    client: Client,
    process: Process,
    drives: Vec<String>,
}

impl Machine for QemuMachine {
    fn pid(&self) -> u32 {
        self.process.pid
    }

    fn monitor(&self) -> String {
        format!("QEMU {}", self.client.version())
    }

    fn resume(&self) -> Result<(), ControlError> {
        Ok(self.client.cont()?)
    }

    fn pause(&self) -> Result<(), ControlError> {
        Ok(self.client.stop()?)
    }

    fn press_power_button(&self) -> Result<(), ControlError> {
        Ok(self.client.system_powerdown()?)
    }

    fn power_off(&self) -> Result<(), ControlError> {
        match self.client.quit() {
            Ok(()) | Err(CallError::Gone { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn drive_counters(&self) -> Result<Vec<DriveCounters>, ControlError> {
        let stats = self.client.query_blockstats()?;
        let ours = stats.into_iter().filter(|stats| args::node_index(&stats.node).is_some());
        Ok(ours
            .map(|stats| DriveCounters {
                drive: drive_name(&self.drives, &stats.node),
                read_bytes: stats.read_bytes,
                written_bytes: stats.written_bytes,
                reads: stats.reads,
                writes: stats.writes,
            })
            .collect())
    }

    fn kill(&self) {
        self.process.kill();
    }

    fn wait(&self, timeout: Duration) -> io::Result<Option<ExitStatus>> {
        self.process.wait(timeout)
    }

    fn transcript(&self) -> Vec<String> {
        self.client.transcript()
    }
}

/// A child process, known by descriptor, so that no other process can be hit or waited for.
#[derive(Debug)]
struct Process {
    child: Mutex<Child>,
    pid: u32,
    pidfd: OwnedFd,
}

impl Process {
    /// Takes charge of a child. Where that fails, the child is killed.
    fn adopt(mut child: Child) -> io::Result<Self> {
        let pid = child.id();
        let known = Pid::from_raw(pid as i32).ok_or(io::ErrorKind::NotFound.into());
        let opened = known.and_then(|pid| Ok(rustix::process::pidfd_open(pid, PidfdFlags::empty())?));
        match opened {
            Ok(pidfd) => Ok(Self { child: Mutex::new(child), pid, pidfd }),
            Err(error) => {
                let _ = child.kill();
                let _ = child.wait();
                Err(error)
            }
        }
    }

    fn kill(&self) {
        let _ = rustix::process::pidfd_send_signal(&self.pidfd, Signal::KILL); // Fails where it has ended.
    }

    fn wait(&self, timeout: Duration) -> io::Result<Option<ExitStatus>> {
        let deadline = Instant::now() + timeout;
        loop {
            if let Some(status) = self.child().try_wait()? {
                return Ok(Some(status));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            let mut ended = [PollFd::new(&self.pidfd, PollFlags::IN)];
            let left = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
            match poll(&mut ended, Some(&left)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn child(&self) -> MutexGuard<'_, Child> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Process {
    /// Leaves neither a running process nor a zombie.
    fn drop(&mut self) {
        self.kill();
        let _ = self.child().wait();
    }
}
