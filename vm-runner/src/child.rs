//! Programs that we start end with us: what a killed supervisor leaves running would work against whoever cleans up.

use std::io;

use rustix::process::{Pid, Signal};

/// For the child, between fork and exec: it is killed when the thread that started it ends, and so when
/// its process `parent` does. Call it after the user has changed, which takes it back.
///
/// Makes system calls and builds errors without allocating, so it may be called in a forked child.
///
/// # Errors
///
/// Where the kernel refuses, or `parent` has ended before this was arranged.
///
/// Source: prctl(2), `PR_SET_PDEATHSIG`.
pub(crate) fn end_with(parent: Pid) -> io::Result<()> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    if rustix::process::getppid() != Some(parent) {
        return Err(io::ErrorKind::BrokenPipe.into());
    }
    Ok(())
}
