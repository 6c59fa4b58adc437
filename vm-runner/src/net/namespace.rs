//! A VM's network namespace: named, so that it can be found again, and entered by threads of ours.
//!
//! The name is a file in `/run/netns`, as `ip netns` keeps them, so a namespace outlives whoever
//! made it and a later process can delete it. Entering is per thread: no process of hull ever lives
//! in a VM's namespace, and QEMU only holds the tap's descriptor.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, mpsc};
use std::thread::{Builder, JoinHandle};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::program::{self, ProgramError};

/// Where named namespaces are.
const FOLDER: &str = "/run/netns";

/// An open network namespace. Clones are the same one; it stays usable, though nameless, after
/// [`delete`] for as long as one is left.
#[derive(Debug, Clone)]
pub(super) struct Namespace {
    link: Arc<OwnedFd>,
}

impl Namespace {
    /// Opens a namespace by its name.
    pub(super) fn open(name: &str) -> io::Result<Self> {
        let link = File::open(Path::new(FOLDER).join(name))?;
        Ok(Self { link: Arc::new(link.into()) })
    }

    /// Runs `work` in a thread that has entered the namespace, and waits for it.
    pub(super) fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> io::Result<T> {
        std::thread::scope(|scope| {
            let thread = Builder::new().name("hull-netns".to_owned()).spawn_scoped(scope, || {
                self.move_here()?;
                Ok(work())
            })?;
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Starts a thread that enters the namespace and stays there. After an error `work` has not run.
    pub(super) fn spawn(
        &self,
        thread_name: &str,
        work: impl FnOnce() + Send + 'static,
    ) -> io::Result<JoinHandle<()>> {
        let namespace = self.clone();
        let (report, entered) = mpsc::channel();
        let thread = Builder::new().name(thread_name.to_owned()).spawn(move || {
            let result = namespace.move_here();
            drop(namespace);
            let inside = result.is_ok();
            report.send(result).expect("whoever starts the thread waits for its report");
            if inside {
                work();
            }
        })?;
        entered.recv().expect("the thread reports before it does anything else")?;
        Ok(thread)
    }

    fn move_here(&self) -> io::Result<()> {
        Ok(move_into_link_name_space(self.link.as_fd(), Some(LinkNameSpaceType::Network))?)
    }
}

/// Makes a namespace; fails if there is one of that name. Nothing is up in it, not even loopback.
pub(super) fn create(name: &str) -> Result<(), ProgramError> {
    program::ip("create a network namespace", &["netns", "add", name])
}

/// Takes a namespace's name away; the namespace itself goes with the last thread and descriptor that uses it.
pub(super) fn delete(name: &str) -> Result<(), ProgramError> {
    if !exists(name) {
        return Ok(());
    }
    let result = program::ip("delete a network namespace", &["netns", "del", name]);
    if exists(name) { result } else { Ok(()) } // somebody else may have been faster
}

/// True if a namespace, or at least its name, is there.
pub(super) fn exists(name: &str) -> bool {
    Path::new(FOLDER).join(name).exists()
}

/// The names of all namespaces, in no order.
pub(super) fn names() -> io::Result<Vec<String>> {
    match fs::read_dir(FOLDER) {
        Ok(entries) => entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// Writes a kernel setting, given by its path below `/proc/sys`; those of `net` are the calling thread's
/// namespace's own.
pub(super) fn set(setting: &str, value: &str) -> io::Result<()> {
    fs::write(Path::new("/proc/sys").join(setting), value)
}

/// As [`set`], for what needs no switching off where this kernel does not have it.
pub(super) fn set_if_present(setting: &str, value: &str) -> io::Result<()> {
    match set(setting, value) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}
