//! Waiting for what other processes do.

pub(crate) use testkit::wait::{LIMIT, until};

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
