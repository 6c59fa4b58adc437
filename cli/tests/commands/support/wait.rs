//! Waiting for something that happens in another process: looked for often, and not for ever.

use std::time::{Duration, Instant};

/// Far beyond what anything takes on a busy machine: a test never waits this long and passes.
pub(crate) const LIMIT: Duration = Duration::from_secs(120);
const PAUSE: Duration = Duration::from_millis(1);

/// Returns what `look` finds, as soon as it finds something. `what` says what was waited for in vain.
#[track_caller]
pub(crate) fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + LIMIT;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        std::thread::sleep(PAUSE);
    }
}

/// Waits until the process `pid` has ended.
#[track_caller]
pub(crate) fn until_ended(pid: i32) {
    until("a process has ended", || has_ended(pid).then_some(()));
}

/// True if there is no process `pid`, or only what is left for its parent to notice: a zombie, and no
/// thread besides it that may still hold its files.
fn has_ended(pid: i32) -> bool {
    let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { return true };
    // proc(5): the state is the first field after the command, which is in parentheses.
    let is_zombie = stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with(['Z', 'X']));
    is_zombie && std::fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count) <= 1
}
