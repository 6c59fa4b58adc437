//! Crashes, power cuts and failing disks, at every step of the folder backend.
//!
//! One script of operations is played again and again, and something else goes wrong each time:
//!
//! - `failing`: the N-th change to the disk fails, for every N;
//! - `killed`: the process is killed before, during and after the N-th change, for every N, and again
//!   while it starts;
//! - `power_cut`: for every N, what was not made durable after N changes is lost, or some of it;
//! - `system_calls`: the kernel's own list of calls shows that no change was overlooked;
//! - `waiting`: what others see while a change is not durable yet.
//!
//! Each time the storage is opened again and compared with what was acknowledged.

mod disk;
mod failing;
mod faults;
mod killed;
mod power_cut;
mod script;
mod system_calls;
mod waiting;

use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tempfile::TempDir;

/// Held by each test: a process that is being started holds, for a moment, the lock of every storage
/// that is open in this one.
fn one_at_a_time() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A folder in memory where there is one: what survives a power cut is computed here, not tried.
fn scratch() -> TempDir {
    let memory = Path::new("/dev/shm");
    tempfile::tempdir_in(memory).or_else(|_| tempfile::tempdir()).unwrap()
}

fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}
