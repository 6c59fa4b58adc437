//! What the kernel was asked to do, by its own account: no change to the disk passes the seam by.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use crate::killed::{ARGUMENTS, lines, player};
use crate::script::script;
use crate::{one_at_a_time, scratch};

/// Calls that name a file and change nothing.
const HARMLESS: [&str; 16] = [
    "read",
    "pread64",
    "preadv2",
    "readv",
    "lseek",
    "close",
    "fstat",
    "newfstatat",
    "statx",
    "access",
    "readlink",
    "getdents64",
    "fadvise64",
    "fcntl",
    "flock",
    "execve",
];

/// What the backend calls the change that a line of the trace shows, or the line where it should know
/// of it and does not. `None` for what changes nothing.
fn step_of(line: &str) -> Option<String> {
    let call = line.split_whitespace().nth(1)?;
    let (name, arguments) = call.split_once('(')?;
    let step = match name {
        _ if HARMLESS.contains(&name) => return None,
        "openat" | "open" if !line.contains("O_CREAT") => {
            // A file that is there already may be opened to be written; writing is what changes it.
            return line.contains("O_TRUNC").then(|| line.to_owned());
        }
        "openat" | "open" => "create",
        "pwrite64" => "write",
        "ftruncate" => "cut",
        "fdatasync" => "sync data",
        "fsync" => "sync folder",
        "syncfs" => "sync file system",
        "mkdir" | "mkdirat" => "make folder",
        "link" | "linkat" => "link",
        "rmdir" => "remove folder",
        "unlinkat" if line.contains("AT_REMOVEDIR") => "remove folder",
        "unlink" | "unlinkat" => "remove",
        _ => return Some(format!("{line} {arguments}")),
    };
    Some(step.to_owned())
}

fn count(steps: impl IntoIterator<Item = String>) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    steps.into_iter().for_each(|step| *counts.entry(step).or_default() += 1);
    counts
}

#[test]
fn the_kernel_sees_the_changes_that_the_seam_sees() {
    let _turn = one_at_a_time();
    let may_trace = Command::new("strace").args(["-o", "/dev/null", "true"]).output();
    if !may_trace.is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: strace is not there or may not trace");
        return;
    }
    let (top, traces) = (scratch(), scratch());
    let trace = traces.path().join("trace");
    let program = std::env::current_exe().unwrap();
    // All calls of all threads; descriptors with the paths of their files.
    let mut command = player("strace", top.path(), script().len(), None);
    command.args(["-f", "-y", "-o"]).arg(&trace).arg(program).args(ARGUMENTS);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let seam = count(lines(&output, "step ").into_iter().map(str::to_owned));
    let kernel = count(steps_of_the_trace(&trace, top.path()));
    assert_eq!(kernel, seam);
    let steps: usize = seam.values().sum();
    println!("figure: changes that the kernel saw = {steps}, changes past the seam = 0");
}

fn steps_of_the_trace(trace: &Path, top: &Path) -> Vec<String> {
    let trace = String::from_utf8_lossy(&fs::read(trace).unwrap()).into_owned();
    // A call that another thread interrupts is named twice; the second time without its arguments.
    let calls = trace.lines().filter(|line| !line.contains(" resumed>"));
    let top = top.to_str().unwrap();
    // What lies on no path here may be another way to change the disk.
    let is_ours = |line: &&str| line.contains(top) || line.contains("io_uring_setup(");
    calls.filter(is_ours).filter_map(step_of).collect()
}
