//! Waiting for something that happens on another thread or in another process: looked for often, and not for ever.

use std::time::{Duration, Instant};

/// Far beyond what anything takes on a busy machine: a test never waits this long and passes.
pub const LIMIT: Duration = Duration::from_secs(120);
const PAUSE: Duration = Duration::from_millis(1);

/// Returns what `look` finds, as soon as it finds something.
///
/// # Panics
///
/// If it finds nothing within [`LIMIT`]; `what` says what was waited for in vain.
#[track_caller]
pub fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + LIMIT;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        std::thread::sleep(PAUSE);
    }
}
