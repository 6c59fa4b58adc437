//! The one process that a running VM has besides QEMU.
//!
//! It holds the VM's lock for life, owns the network, the disks and QEMU, and writes down how the VM
//! is. Everything that can happen to a VM arrives in one channel; one loop decides what follows. It never
//! lets a guest run whose policy is not in force, and never ends one because something could not be written.
//!
//! ```text
//! Starting --> Running --> Ready <--> Unhealthy          any of these --stop--> Stopping --> Stopped
//!    ^            `----------+-----------'--> Failed
//!    `---- Restarting <------' if the policy says so, for a pause
//! ```

use std::fs::OpenOptions;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use appliance::policy::{Health, HealthCheck, Restart};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::console::Console;
use super::control::{self, Answer, Asked, Request};
use super::health::{self, Judge, Verdict};
use super::home::VmError;
use super::launch::{Launch, LaunchError, Outputs, Running};
use super::state::{Event, ProcessId, State, Status, unix_now_s};
use super::stats::{self, DiskStats, FirewallCounter, PublishedStats, Stats};
use crate::engine::{Accel, Hypervisor, MachineEvent, ShutdownCause};
use crate::kvm;
use crate::net::{NetError, Network};
use firewall::nft::Count;

/// How often the power button is pressed on a guest that does not heed it: it may not listen yet.
const PRESS_AGAIN: Duration = Duration::from_secs(5);
/// The longest time that a guest is given to shut down, whatever somebody asks for.
const LONGEST_PATIENCE: Duration = Duration::from_secs(24 * 3600);
/// How long QEMU gets to end after it was told to, before it is killed.
const QUIT_TIME: Duration = Duration::from_secs(10);
/// How long a health check may take to connect.
const CHECK_TIME: Duration = Duration::from_secs(5);
/// How much longer a guest's start period is when a translator executes it. A Debian boot takes 5 s of
/// processor time natively and some 20 to 35 s translated.
const TCG_SLOWNESS: u32 = 5;
/// The longest pause before a failed VM is started again.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Why a supervisor could not do its work at all.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SuperviseError {
    /// The VM's folder cannot be written.
    #[error(transparent)]
    Folder(#[from] VmError),
    /// The sockets, the console or the signals cannot be set up.
    #[error("cannot set up {what}")]
    SetUp {
        /// What.
        what: &'static str,
        /// The reason.
        #[source]
        source: io::Error,
    },
    /// The VM did not start.
    #[error(transparent)]
    Launch(#[from] LaunchError),
}

/// Something that happened.
#[derive(Debug)]
enum Happening {
    /// To the machine of this run.
    Machine(u32, MachineEvent),
    /// QEMU of this run has gone.
    Gone(u32),
    /// The guest of this run is what it was not before.
    Health(u32, Verdict),
    /// Somebody asks for something.
    Asked(Asked),
    /// The process was told to end.
    Terminate,
}

/// How a run of the guest ended.
#[derive(Debug)]
enum Ended {
    /// It shut itself down, or was stopped.
    Stopped { asked: bool },
    /// In another way.
    Failed { reason: String },
}

/// How the time between two runs of the guest came to its end.
#[derive(Debug)]
enum Pause {
    /// The guest is to be started.
    Over,
    /// It is not, because of a signal, or of somebody who waits for an answer.
    Ended(Option<Asked>),
}

/// Runs the VM until it has ended, and tells `listener` of every change.
///
/// The caller holds the VM's lock, and is the process's main thread: QEMU dies with it.
///
/// # Errors
///
/// [`SuperviseError`]; the VM's state says so too, where it could be written.
pub fn supervise(
    launch: Launch,
    hypervisor: &dyn Hypervisor,
    listener: impl FnMut(&Event),
) -> Result<Status, SuperviseError> {
    raise_open_files();
    let (sender, happenings) = mpsc::channel();
    let mut supervisor = Supervisor {
        state: launch.folder.state()?,
        launch,
        listener,
        sender,
        happenings,
        run: 0,
        stopping: None,
        unrecorded: None,
    };
    let outcome = supervisor.live(hypervisor);
    let removed = supervisor.launch.folder.remove_runtime();
    if let Err(error) = &outcome {
        supervisor.enter(Status::Failed, Some(chain(error)));
    }
    removed?;
    outcome.map(|()| supervisor.state.status)
}

/// Closes every file but stdin, stdout and stderr that whoever started this process left open: a VM
/// must not hold a script's lock, nor QEMU see what it was never given.
///
/// For the first moment of a process only, when it has opened nothing itself.
pub fn close_inherited_files() {
    // SAFETY: closes descriptors by number and touches no memory. None of them is owned by a value of
    // this process, because it has opened none yet; that is what the function is documented for.
    #[expect(unsafe_code, reason = "no library closes a range of descriptors")]
    let closed = unsafe { libc::close_range(3, libc::c_uint::MAX, 0) };
    // Kernels before 5.9 do not have it, and keep what was open.
    let _ = closed;
}

/// Lets this process open as many files as it may: each connection to a published port takes two, and
/// the guest's disks must never wait for one.
fn raise_open_files() {
    let limit = getrlimit(Resource::Nofile);
    // Where it is refused, fewer connections are served.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
}

#[derive(Debug)]
struct Supervisor<L> {
    launch: Launch,
    listener: L,
    state: State,
    sender: Sender<Happening>,
    happenings: Receiver<Happening>,
    /// Counts the guest's starts, so that what an earlier one left in the channel is told apart.
    run: u32,
    stopping: Option<Stopping>,
    /// Why the state that is written down is not the VM's.
    unrecorded: Option<VmError>,
}

/// A stop that was asked for and is not over.
#[derive(Debug)]
struct Stopping {
    deadline: Instant,
    next_press: Instant,
    asked: Vec<Asked>,
}

impl<L: FnMut(&Event)> Supervisor<L> {
    fn live(&mut self, hypervisor: &dyn Hypervisor) -> Result<(), SuperviseError> {
        let set_up = |what| move |source| SuperviseError::SetUp { what, source };
        self.launch.folder.make_runtime()?;
        let sender = self.sender.clone();
        control::listen(&self.launch.folder.control_socket(), move |asked| {
            let _ = sender.send(Happening::Asked(asked));
        })
        .map_err(set_up("the control socket"))?;
        let console = Console::open(&self.launch.folder.serial_log(), &self.launch.folder.console_socket())
            .map_err(set_up("the console"))?;
        listen_for_signals(self.sender.clone()).map_err(set_up("signal handling"))?;
        self.state.restarts = 0;
        loop {
            let mut ended = self.run_once(hypervisor, &console)?;
            let mut asked = self.stopping.take().map(|stopping| stopping.asked).unwrap_or_default();
            if asked.is_empty() && self.starts_again(&ended) {
                match self.pause(&ended)? {
                    Pause::Over => {
                        self.state.restarts += 1;
                        continue;
                    }
                    Pause::Ended(by) => {
                        asked.extend(by);
                        ended = Ended::Stopped { asked: true };
                    }
                }
            }
            let by_itself = matches!(ended, Ended::Stopped { .. });
            self.launch.folder.remove_runtime()?;
            match ended {
                Ended::Stopped { .. } => self.enter(Status::Stopped, None),
                Ended::Failed { reason } => self.enter(Status::Failed, Some(reason)),
            }
            asked.into_iter().for_each(|asked| asked.answer(&Answer::Ended { by_itself }));
            return self.unrecorded.take().map_or(Ok(()), |error| Err(error.into()));
        }
    }

    /// Starts the guest and stays with it until it has ended and nothing of it is left.
    fn run_once(&mut self, hypervisor: &dyn Hypervisor, console: &Console) -> Result<Ended, SuperviseError> {
        self.run += 1;
        self.enter(Status::Starting, None);
        let chosen =
            kvm::choose(self.launch.spec.accel, self.launch.machine.arch).map_err(LaunchError::from)?;
        self.state.accel = Some(chosen.accel.to_string());
        self.state.accel_reason = Some(chosen.reason);
        let log = self.launch.folder.path().join("disk-errors.log");
        let started = self.launch.start(hypervisor, chosen.accel, move |failure| {
            let line = format!(
                "{}: cannot read byte {}: {}\n",
                failure.export,
                failure.offset,
                chain(failure.error)
            );
            note(&log, &line);
        })?;
        let (running, outputs) = started;
        let health = self.watch(&running, outputs, console, chosen.accel)?;
        self.state.qemu = i32::try_from(running.machine.pid()).ok().and_then(ProcessId::of);
        self.state.ports = self.launch.ports();
        self.state.notices = running.notices.clone();
        self.state.has_run = true;
        // Written down before the guest runs: whoever has to clean up finds QEMU by it.
        self.launch.folder.record(&self.state)?;
        running.machine.resume().map_err(LaunchError::from)?;
        self.enter(Status::Running, None);
        let ended = self.stay(&running);
        drop(health);
        self.state.qemu = None;
        self.state.ports = Vec::new();
        running.remove().map_err(LaunchError::from)?;
        ended
    }

    /// Connects everything that comes out of the guest to the channel. Dropping the result ends the
    /// health checks.
    fn watch(
        &self,
        running: &Running,
        outputs: Outputs,
        console: &Console,
        accel: Accel,
    ) -> Result<Sender<()>, SuperviseError> {
        let set_up = |what| move |source| SuperviseError::SetUp { what, source };
        console.connect(outputs.serial).map_err(set_up("the console"))?;
        let (run, sender) = (self.run, self.sender.clone());
        spawn("machine events", move || {
            for event in outputs.events {
                let _ = sender.send(Happening::Machine(run, event));
            }
            let _ = sender.send(Happening::Gone(run));
        })
        .map_err(set_up("a thread"))?;
        let (over, is_over) = mpsc::channel();
        let Some(health) = self.launch.policy.health.clone() else { return Ok(over) };
        let slowness = if accel == Accel::Tcg { TCG_SLOWNESS } else { 1 };
        let sender = self.sender.clone();
        let report = move |verdict| drop(sender.send(Happening::Health(run, verdict)));
        match (&health.check, &running.network) {
            (HealthCheck::Ready, _) => {
                let patience = Duration::from_millis(health.start_period_ms).saturating_mul(slowness);
                let (told, is_ready) = mpsc::channel();
                spawn("ready", move || wait_for_ready(outputs.ready, || told.send(()).unwrap_or_default()))
                    .and_then(|()| spawn("readiness", move || judge_readiness(&is_ready, patience, report)))
            }
            (_, Some(network)) => {
                let connector = network.connector();
                let connect = move |port| connector.connect_tcp(port, CHECK_TIME);
                spawn("health", move || check_health(&health, slowness, connect, &is_over, report))
            }
            // A machine without a network has no ports to ask.
            (_, None) => Ok(()),
        }
        .map_err(set_up("a thread"))?;
        Ok(over)
    }

    /// Answers what happens until the guest has ended.
    fn stay(&mut self, running: &Running) -> Result<Ended, SuperviseError> {
        let mut cause = None;
        loop {
            let happening = match self.wait() {
                Some(happening) => happening,
                None => {
                    self.urge(running);
                    continue;
                }
            };
            match happening {
                Happening::Machine(run, event) if run == self.run => match event {
                    MachineEvent::Shutdown(by) => cause = Some(by),
                    MachineEvent::Panicked => cause = Some(ShutdownCause::Panic),
                    MachineEvent::DriveError { drive, no_space: true, .. } => {
                        let reason =
                            format!("the host's disk is full; the guest is held at a write to `{drive}`");
                        self.enter(Status::Unhealthy, Some(reason));
                    }
                    _ => {}
                },
                Happening::Gone(run) if run == self.run => return Ok(self.how_it_ended(running, cause)),
                Happening::Health(run, verdict) if run == self.run && self.stopping.is_none() => {
                    match verdict {
                        Verdict::Ready => self.enter(Status::Ready, None),
                        Verdict::Unhealthy => {
                            self.enter(Status::Unhealthy, Some("its health check fails".to_owned()));
                        }
                    }
                }
                Happening::Asked(asked) => self.answer(asked, running),
                Happening::Terminate => self.stop(Duration::from_secs(60), None),
                // Of an earlier run.
                Happening::Machine(..) | Happening::Gone(_) | Happening::Health(..) => {}
            }
        }
    }

    /// The next thing that happens; `None` when it is time to urge a guest that is to stop.
    fn wait(&self) -> Option<Happening> {
        let Some(stopping) = &self.stopping else { return self.happenings.recv().ok() };
        let until = stopping.next_press.min(stopping.deadline);
        self.happenings.recv_timeout(until.saturating_duration_since(Instant::now())).ok()
    }

    /// Presses the power button again, or ends QEMU when the guest's time is over.
    fn urge(&mut self, running: &Running) {
        let Some(stopping) = &mut self.stopping else { return };
        let now = Instant::now();
        if now < stopping.deadline {
            stopping.next_press = now + PRESS_AGAIN;
            // A guest, or a QEMU, that does not hear it is dealt with at the deadline.
            let _ = running.machine.press_power_button();
        } else {
            stopping.deadline = now + QUIT_TIME;
            stopping.next_press = stopping.deadline;
            end(running);
        }
    }

    fn answer(&mut self, asked: Asked, running: &Running) {
        match asked.request {
            Request::Stop { timeout_s } => self.stop(Duration::from_secs(timeout_s), Some(asked)),
            Request::Kill => {
                self.stop(QUIT_TIME, Some(asked));
                running.machine.kill();
            }
            Request::Stats => asked.answer(&match self.stats(running) {
                Ok(stats) => Answer::Stats(stats),
                Err(error) => Answer::Failed(error),
            }),
        }
    }

    /// Begins to stop the guest, or joins a stop that has begun: the earlier deadline holds.
    fn stop(&mut self, patience: Duration, asked: Option<Asked>) {
        let now = Instant::now();
        let deadline = now + patience.min(LONGEST_PATIENCE);
        let is_new = self.stopping.is_none();
        let stopping = self.stopping.get_or_insert(Stopping { deadline, next_press: now, asked: Vec::new() });
        stopping.deadline = stopping.deadline.min(deadline);
        stopping.asked.extend(asked);
        if is_new {
            self.enter(Status::Stopping, None);
        }
    }

    fn stats(&self, running: &Running) -> Result<Stats, String> {
        let (cpu_ms, memory_bytes) = stats::of_process(running.machine.pid().cast_signed());
        let drives = running.machine.drive_counters().map_err(|error| chain(&error))?;
        let disks = drives.into_iter().map(|drive| DiskStats {
            name: drive.drive,
            read_bytes: drive.read_bytes,
            written_bytes: drive.written_bytes,
        });
        let firewall = match &running.network {
            Some(network) => firewall_counters(network).map_err(|error| chain(&error))?,
            None => Vec::new(),
        };
        let published = running.network.iter().flat_map(Network::published).map(|rule| PublishedStats {
            rule: rule.rule,
            accepted: rule.accepted,
            denied_source: rule.denied_source,
            denied_rate: rule.denied_rate,
            denied_connections: rule.denied_connections,
            unanswered: rule.unanswered,
        });
        let published = published.collect();
        Ok(Stats { cpu_ms, memory_bytes, firewall, published, disks: disks.collect() })
    }

    fn how_it_ended(&self, running: &Running, cause: Option<ShutdownCause>) -> Ended {
        let status = match running.machine.wait(QUIT_TIME) {
            Ok(Some(status)) => Some(status),
            _ => {
                running.machine.kill();
                None
            }
        };
        let asked = self.stopping.is_some();
        let signal = status.and_then(|status| std::os::unix::process::ExitStatusExt::signal(&status));
        match (cause, signal) {
            (Some(ShutdownCause::Guest), _) => Ended::Stopped { asked },
            _ if asked => Ended::Stopped { asked },
            (Some(ShutdownCause::Panic), _) => Ended::Failed { reason: "the guest's kernel panicked".into() },
            (_, Some(signal)) => Ended::Failed { reason: format!("QEMU was killed by signal {signal}") },
            (Some(ShutdownCause::Host), None) => Ended::Stopped { asked },
            (None, None) => {
                let how = status
                    .map_or_else(|| "and had to be killed".to_owned(), |status| format!("with {status}"));
                Ended::Failed { reason: format!("QEMU ended {how}; see qemu.log in the VM's folder") }
            }
        }
    }

    fn starts_again(&self, ended: &Ended) -> bool {
        let lifecycle = self.launch.policy.lifecycle;
        let wanted = match (lifecycle.restart, ended) {
            (Restart::No, _) | (_, Ended::Stopped { asked: true }) => false,
            (Restart::OnFailure, ended) => matches!(ended, Ended::Failed { .. }),
            (Restart::Always, _) => true,
        };
        wanted && lifecycle.max_restarts.is_none_or(|max| self.state.restarts < max)
    }

    /// Waits before the guest is started again: 1 s, 2 s, 4 s and so on.
    fn pause(&mut self, ended: &Ended) -> Result<Pause, SuperviseError> {
        let pause = Duration::from_secs(1 << self.state.restarts.min(6)).min(LONGEST_PAUSE);
        let why = match ended {
            Ended::Stopped { .. } => "it shut itself down",
            Ended::Failed { reason } => reason,
        };
        let reason = format!("{why}; it is started again after {} s", pause.as_secs());
        self.enter(Status::Restarting, Some(reason));
        let until = Instant::now() + pause;
        loop {
            match self.happenings.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Err(_) => return Ok(Pause::Over),
                Ok(Happening::Terminate) => return Ok(Pause::Ended(None)),
                Ok(Happening::Asked(asked)) => match asked.request {
                    Request::Stats => asked.answer(&Answer::Failed("it is not running".to_owned())),
                    Request::Stop { .. } | Request::Kill => return Ok(Pause::Ended(Some(asked))),
                },
                Ok(_) => {}
            }
        }
    }

    /// Writes down how the VM is from now on, and tells whoever listens. What cannot be written is no
    /// reason to end a guest: it is tried again at the next change.
    fn enter(&mut self, status: Status, reason: Option<String>) {
        let event = Event { unix_s: unix_now_s(), status, reason };
        self.state.status = status;
        self.state.reason = event.reason.clone();
        self.state.since_unix_s = event.unix_s;
        self.unrecorded = self.launch.folder.record(&self.state).err();
        // The state says what is; how it came about may be lost.
        let _ = self.launch.folder.record_event(&event);
        (self.listener)(&event);
    }
}

/// Ends QEMU: politely, so that overlays are whole, then for certain.
fn end(running: &Running) {
    let ended = running.machine.power_off().is_ok()
        && running.machine.wait(QUIT_TIME).is_ok_and(|status| status.is_some());
    if !ended {
        running.machine.kill();
    }
}

/// Adds a line to a log that nobody may be there to read. A guest decides how often it reads what
/// cannot be read, so the log has an end.
fn note(log: &Path, line: &str) {
    const MAX_LOG_BYTES: u64 = 64 << 10;
    if let Ok(mut log) = OpenOptions::new().append(true).create(true).open(log)
        && log.metadata().is_ok_and(|metadata| metadata.len() < MAX_LOG_BYTES)
    {
        let _ = log.write_all(line.as_bytes());
    }
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<()> {
    thread::Builder::new().name(name.to_owned()).spawn(work).map(drop)
}

/// Waits for the guest's first `READY=1`, then listens to nothing it says. sd_notify(3) has the same words.
fn wait_for_ready(port: UnixStream, ready: impl Fn()) {
    const LONGEST_LINE: u64 = 4096;
    let mut lines = BufReader::new(port);
    let mut line = Vec::new();
    while let Ok(1..) = (&mut lines).take(LONGEST_LINE).read_until(b'\n', &mut line) {
        if line.trim_ascii() == b"READY=1" {
            ready();
            break;
        }
        line.clear();
    }
    // A guest that goes on talking must not have to wait for us.
    let _ = io::copy(&mut lines, &mut io::sink());
}

/// Reports the guest ready when it has said so, and unhealthy when it has not in time.
fn judge_readiness(is_ready: &Receiver<()>, patience: Duration, report: impl Fn(Verdict)) {
    match is_ready.recv_timeout(patience) {
        Ok(()) => report(Verdict::Ready),
        Err(RecvTimeoutError::Disconnected) => {}
        Err(RecvTimeoutError::Timeout) => {
            report(Verdict::Unhealthy);
            if is_ready.recv() == Ok(()) {
                report(Verdict::Ready);
            }
        }
    }
}

fn check_health(
    health: &Health,
    slowness: u32,
    connect: impl Fn(u16) -> io::Result<std::net::TcpStream>,
    is_over: &Receiver<()>,
    report: impl Fn(Verdict),
) {
    let start = Instant::now();
    let mut judge = Judge::new(health, slowness);
    let interval = Duration::from_millis(health.interval_ms);
    let mut is_ready = false;
    loop {
        // Until the guest is there, look often: whoever waits for it waits for this.
        let pause = if is_ready { interval } else { interval.min(Duration::from_secs(1)) };
        if is_over.recv_timeout(pause) != Err(RecvTimeoutError::Timeout) {
            return;
        }
        let passed = health::passes(&health.check, |port| {
            let guest = connect(port)?;
            guest.set_read_timeout(Some(CHECK_TIME))?;
            guest.set_write_timeout(Some(CHECK_TIME))?;
            Ok(guest)
        });
        is_ready |= passed;
        if let Some(verdict) = judge.hear(passed, start.elapsed()) {
            report(verdict);
        }
    }
}

/// SIGTERM and SIGINT ask the VM to stop; a terminal that is closed is none of its business.
fn listen_for_signals(sender: Sender<Happening>) -> io::Result<()> {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
    let mut signals = signal_hook::iterator::Signals::new([SIGTERM, SIGINT, SIGHUP])?;
    spawn("signals", move || {
        for signal in signals.forever() {
            if signal != SIGHUP {
                let _ = sender.send(Happening::Terminate);
            }
        }
    })
}

/// What the firewall let pass and dropped, by rule and reason.
fn firewall_counters(network: &Network) -> Result<Vec<FirewallCounter>, NetError> {
    let counters = network.counters()?;
    let counter = |kind: &str, name: &str, count: Count| FirewallCounter {
        kind: kind.to_owned(),
        name: name.to_owned(),
        packets: count.packets,
        bytes: count.bytes,
    };
    let rules =
        counters.rules.iter().map(|((direction, rule), count)| counter(direction.as_str(), rule, *count));
    let over_rate = counters.over_rate.iter().map(|(rule, count)| counter("over rate", rule, *count));
    let denied = counters.denied.iter().map(|(reason, count)| counter("dropped", reason.as_str(), *count));
    Ok(rules.chain(over_rate).chain(denied).collect())
}

/// An error and its reasons in one line.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(reason) = source {
        let reason_text = reason.to_string();
        if !text.ends_with(&reason_text) {
            text = format!("{text}: {reason_text}");
        }
        source = reason.source();
    }
    text
}
