//! What goes wrong, and when: the hand at the backend's seam.

use std::fs;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use blob_store::{Faults, Step};
use rustix::io::Errno;
use rustix::process::{Signal, getpid, kill_process};

use crate::disk::Disk;

/// What goes wrong at a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It fails, and others after it.
    Fail(Errno, Lasting),
    /// The process is killed.
    Kill(Moment),
    /// As if the process were killed: nothing is done from this step on.
    Stop,
}

/// For how long something goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lasting {
    /// For one step.
    Once,
    /// For this step and the next.
    Twice,
    /// For all steps that need space.
    Full,
    /// For all steps.
    Dead,
}

/// When, in a step, the process is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Moment {
    Before,
    /// When half of what is to be written has been written.
    Half,
    After,
}

/// Numbers the steps, tells the model of the disk, and does the harm.
#[derive(Debug)]
pub(crate) struct Hand {
    /// The number of a step, from 1, and what goes wrong there.
    fault: Option<(usize, Fault)>,
    disk: Arc<Mutex<Disk>>,
    /// The names of all steps, and which were done.
    steps: Mutex<Vec<(&'static str, bool)>>,
    has_failed_to_sync: AtomicBool,
    /// Operations that were acknowledged so far; whoever plays them counts.
    pub(crate) acknowledged: AtomicUsize,
    /// The disk after each step, and how many operations were acknowledged by then.
    history: Option<Mutex<Vec<(Disk, usize)>>>,
}

impl Hand {
    pub(crate) fn new(disk: Disk, fault: Option<(usize, Fault)>) -> Arc<Self> {
        Self::on(Arc::new(Mutex::new(disk)), fault)
    }

    /// Works on a disk that something has happened to already.
    pub(crate) fn on(disk: Arc<Mutex<Disk>>, fault: Option<(usize, Fault)>) -> Arc<Self> {
        Arc::new(Self::with(fault, disk, None))
    }

    /// Does no harm, and remembers the disk after each step.
    pub(crate) fn recording(disk: Disk) -> Arc<Self> {
        let history = Mutex::new(vec![(disk.clone(), 0)]);
        Arc::new(Self::with(None, Arc::new(Mutex::new(disk)), Some(history)))
    }

    fn with(
        fault: Option<(usize, Fault)>,
        disk: Arc<Mutex<Disk>>,
        history: Option<Mutex<Vec<(Disk, usize)>>>,
    ) -> Self {
        let (steps, has_failed_to_sync, acknowledged) = Default::default();
        Self { fault, disk, steps, has_failed_to_sync, acknowledged, history }
    }

    /// The disk as it is now.
    pub(crate) fn disk(&self) -> Disk {
        self.disk.lock().unwrap().clone()
    }

    pub(crate) fn shared_disk(&self) -> Arc<Mutex<Disk>> {
        Arc::clone(&self.disk)
    }

    /// The names of all steps so far, and which were done: some fail by their nature.
    pub(crate) fn steps(&self) -> Vec<(&'static str, bool)> {
        self.steps.lock().unwrap().clone()
    }

    /// Whether a step by which something is made durable was made to fail.
    pub(crate) fn has_failed_to_sync(&self) -> bool {
        self.has_failed_to_sync.load(Ordering::SeqCst)
    }

    /// The name of the step that failed first, once it has.
    pub(crate) fn failed_step(&self) -> Option<&'static str> {
        let (at, _) = self.fault?;
        self.steps.lock().unwrap().get(at - 1).map(|(name, _)| *name)
    }

    pub(crate) fn history(&self) -> Vec<(Disk, usize)> {
        self.history.as_ref().unwrap().lock().unwrap().clone()
    }

    /// Does the first half of a write.
    fn write_half(&self, step: Step<'_>) {
        let Step::Write { path, offset, bytes } = step else { return };
        let bytes = &bytes[..bytes.len() / 2];
        let file = fs::OpenOptions::new().write(true).open(path).unwrap();
        file.write_all_at(bytes, offset).unwrap();
        self.disk.lock().unwrap().apply(Step::Write { path, offset, bytes });
    }
}

impl Faults for Hand {
    fn before(&self, step: Step<'_>) -> io::Result<()> {
        let number = {
            let mut steps = self.steps.lock().unwrap();
            steps.push((name(step), false));
            steps.len()
        };
        match self.fault {
            Some((at, Fault::Kill(Moment::Before))) if number == at => kill_myself(),
            Some((at, Fault::Kill(Moment::Half))) if number == at => {
                self.write_half(step);
                kill_myself()
            }
            Some((at, Fault::Stop)) if number >= at => Err(io::Error::other("the process was stopped")),
            Some((at, Fault::Fail(errno, lasting))) if number >= at => {
                let fails = match lasting {
                    _ if number == at => true,
                    Lasting::Once => false,
                    Lasting::Twice => number == at + 1,
                    Lasting::Full => needs_space(step),
                    Lasting::Dead => true,
                };
                if !fails {
                    return Ok(());
                }
                self.write_half(step);
                if name(step).starts_with("sync") {
                    self.has_failed_to_sync.store(true, Ordering::SeqCst);
                }
                Err(errno.into())
            }
            _ => Ok(()),
        }
    }

    fn after(&self, step: Step<'_>) {
        self.disk.lock().unwrap().apply(step);
        let number = {
            let mut steps = self.steps.lock().unwrap();
            steps.last_mut().unwrap().1 = true;
            steps.len()
        };
        if let Some(history) = &self.history {
            let acknowledged = self.acknowledged.load(Ordering::SeqCst);
            history.lock().unwrap().push((self.disk(), acknowledged));
        }
        if self.fault == Some((number, Fault::Kill(Moment::After))) {
            kill_myself();
        }
    }
}

fn kill_myself() -> ! {
    kill_process(getpid(), Signal::KILL).unwrap();
    unreachable!("nobody survives SIGKILL")
}

/// Whether a full disk refuses `step`.
pub(crate) fn needs_space(step: Step<'_>) -> bool {
    matches!(step, Step::Create { .. } | Step::Write { .. } | Step::MakeFolder { .. } | Step::Link { .. })
}

pub(crate) fn name(step: Step<'_>) -> &'static str {
    match step {
        Step::Create { .. } => "create",
        Step::Write { .. } => "write",
        Step::Cut { .. } => "cut",
        Step::SyncData { .. } => "sync data",
        Step::SyncFolder { .. } => "sync folder",
        Step::SyncFileSystem { .. } => "sync file system",
        Step::MakeFolder { .. } => "make folder",
        Step::Link { .. } => "link",
        Step::Remove { .. } => "remove",
        Step::RemoveFolder { .. } => "remove folder",
    }
}
