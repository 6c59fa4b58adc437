//! `start`: start a VM again that has ended. Also what `run` does once its VM is made.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, ExitCode, Stdio};
use std::thread;

use packer::Platform;
use serde::{Deserialize, Serialize};
use signal_hook::consts::{SIGINT, SIGTERM};
use vm_runner::control::Request;
use vm_runner::{Event, Spec, State, Status, VmFolder, VmLock};

use super::console::{self, Attachment};
use crate::context::Context;
use crate::error::{CommandError, Exit};
use crate::text;

/// Start a VM again, with everything its guest had written
#[derive(Debug, clap::Args)]
pub(crate) struct StartArgs {
    /// The VM's name
    name: String,
    /// Stay, with the terminal as the guest's console
    #[arg(long, short)]
    attach: bool,
}

pub(crate) fn run(context: &Context, args: &StartArgs) -> Result<ExitCode, CommandError> {
    let vms = context.vms()?;
    let vm = vms.get(&args.name)?;
    let lock = vms.lock(&vm)?;
    start(context, &vm.spec, &vm.folder, lock, !args.attach)
}

/// What a supervisor tells whoever started it: a line of JSON each.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Told {
    /// The VM is what it was not before.
    Event(Event),
    /// The supervisor has failed.
    Error {
        /// The chain of reasons.
        message: String,
        /// What to do about it.
        hint: Option<String>,
    },
}

/// Starts the VM's supervisor. Detached, returns when the VM is ready; else stays until it has ended
/// or the person detaches.
pub(super) fn start(
    context: &Context,
    spec: &Spec,
    folder: &VmFolder,
    lock: VmLock,
    detach: bool,
) -> Result<ExitCode, CommandError> {
    let platform = Platform::open(&context.store()?, &spec.manifest)?;
    crate::host::admit(&platform.policy)?;
    let is_checked = platform.policy.machine(&spec.machine).health.is_some();
    let mut supervisor = spawn_supervisor(folder, lock)?;
    let told = BufReader::new(supervisor.stdout.take().expect("it was asked for"));
    let (folder, name) = (folder.clone(), spec.name.clone());
    let mut listening = Listening { told, supervisor, folder: folder.clone(), name, has_run: false };
    listening.until(Status::Running)?;
    listening.has_run = true;
    say_how(&folder.state()?);
    if detach {
        if is_checked {
            text::say("The guest boots; waiting until it is ready.");
            listening.until(Status::Ready)?;
        }
        text::result(&spec.name);
        return Ok(ExitCode::SUCCESS);
    }
    stop_on_signals(&folder)?;
    let vm = context.vms()?.get(&spec.name)?;
    // The supervisor must not wait for us to hear what it tells while we are at the console.
    let ending = thread::spawn(move || listening.until(Status::Stopped));
    if console::attach(&vm)? == Attachment::Detached {
        text::say(format_args!("\nDetached. `hull console {}` attaches again.", spec.name));
        return Ok(ExitCode::SUCCESS);
    }
    ending.join().expect("listening does not panic")?;
    Ok(ExitCode::SUCCESS)
}

/// Says what executes the guest and why, where it can be reached, and what this host does not do.
fn say_how(state: &State) {
    if let (Some(accel), Some(reason)) = (&state.accel, &state.accel_reason) {
        text::say(format_args!("Runs on {accel}: {}.", text::plain(reason)));
    }
    for port in &state.ports {
        text::say(format_args!("{}/{} of the guest is at {}.", port.proto, port.guest_port, port.host));
    }
    for notice in &state.notices {
        text::say(format_args!("Note: {}.", text::plain(notice)));
    }
}

/// The supervisor inherits the lock as its stdin, tells what happens on its stdout, and complains to
/// a log.
fn spawn_supervisor(folder: &VmFolder, lock: VmLock) -> Result<Child, CommandError> {
    let log = File::options().append(true).create(true).open(folder.supervisor_log())?;
    let program = std::env::current_exe()?;
    let supervisor = Command::new(program)
        .arg("supervise")
        .arg(folder.path())
        .current_dir("/")
        .stdin(Stdio::from(lock.into_file()))
        .stdout(Stdio::piped())
        .stderr(Stdio::from(log))
        .spawn()?;
    Ok(supervisor)
}

/// SIGINT and SIGTERM let the guest shut down, the second one ends it. On a terminal in raw mode
/// Ctrl-C is a key like any other and goes to the guest.
fn stop_on_signals(folder: &VmFolder) -> Result<(), CommandError> {
    let mut signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM])?;
    let socket = folder.control_socket();
    thread::spawn(move || {
        let requests = [Request::Stop { timeout_s: 60 }, Request::Kill];
        for (_, request) in signals.forever().zip(requests) {
            let socket = socket.clone();
            // The answer comes when it has ended, and so does the end of the console.
            thread::spawn(move || drop(vm_runner::control::ask(&socket, &request)));
        }
    });
    Ok(())
}

/// A supervisor of ours, and the other end of its stdout.
#[derive(Debug)]
struct Listening<R> {
    told: R,
    supervisor: Child,
    folder: VmFolder,
    name: String,
    /// Whether the guest has been let run.
    has_run: bool,
}

impl<R: BufRead> Listening<R> {
    /// Waits until the VM is what is `wanted`. Where it has ended, nothing of it is left when this
    /// returns, its supervisor included.
    ///
    /// # Errors
    ///
    /// [`Exit::NotStarted`] if it never ran, [`Exit::Failed`] if it ended or does not get well.
    fn until(&mut self, wanted: Status) -> Result<(), CommandError> {
        let mut end = None;
        let mut line = String::new();
        loop {
            line.clear();
            if self.told.read_line(&mut line)? == 0 {
                self.supervisor.wait()?;
                return end.unwrap_or_else(|| Err(self.gone()));
            }
            match serde_json::from_str(&line) {
                Ok(Told::Event(event)) => match event.status {
                    Status::Stopped if wanted == Status::Stopped => end = Some(Ok(())),
                    Status::Stopped | Status::Failed => end = Some(Err(self.ended(&event))),
                    status if status == wanted => return Ok(()),
                    Status::Unhealthy if wanted == Status::Ready => return Err(self.unhealthy(event.reason)),
                    _ => {}
                },
                Ok(Told::Error { message, hint }) => {
                    let error = CommandError::new(self.exit(), message);
                    end = Some(Err(CommandError { hint, ..error }));
                }
                Err(_) => {}
            }
        }
    }

    fn unhealthy(&self, reason: Option<String>) -> CommandError {
        let reason = reason.unwrap_or_default();
        CommandError::new(
            Exit::Failed,
            format_args!("the VM `{}` runs and is not ready: {reason}", self.name),
        )
        .hint(format!(
            "`hull logs {0}` shows its console, `hull stats {0}` what its firewall dropped",
            self.name
        ))
    }

    /// What the VM ended with; the last line of the guest's console often says why.
    fn ended(&self, event: &Event) -> CommandError {
        let how = event.reason.clone().unwrap_or_else(|| "it shut itself down".to_owned());
        let log = std::fs::read(self.folder.serial_log()).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let last = log.lines().rev().map(str::trim).find(|line| !line.is_empty());
        let said =
            last.map_or_else(String::new, |last| format!("; the guest's last words: {}", text::plain(last)));
        CommandError::new(Exit::Failed, format_args!("the VM `{}` has ended: {how}{said}", self.name))
            .hint(format!("`hull logs {}` shows its console", self.name))
    }

    fn exit(&self) -> Exit {
        if self.has_run { Exit::Failed } else { Exit::NotStarted }
    }

    fn gone(&self) -> CommandError {
        CommandError::new(self.exit(), format_args!("the supervisor of `{}` ended without a word", self.name))
            .hint(format!("it may have said why in {}", self.folder.supervisor_log().display()))
    }
}
