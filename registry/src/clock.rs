//! The time of day, as the registry writes it into keys and records.
//!
//! Seconds are enough: times here decide when something may be forgotten, never who was first.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

/// A point in time: seconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Time(u64);

impl Time {
    /// So many seconds after the beginning of 1970.
    pub const fn from_secs(seconds: u64) -> Self {
        Self(seconds)
    }

    /// Seconds since the beginning of 1970.
    pub const fn as_secs(self) -> u64 {
        self.0
    }

    /// So much later. Parts of a second do not count.
    pub(crate) const fn after(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(duration.as_secs()))
    }

    /// How long ago `earlier` was; nothing where it lies ahead.
    pub(crate) const fn since(self, earlier: Self) -> Duration {
        Duration::from_secs(self.0.saturating_sub(earlier.0))
    }
}

/// Tells the time.
pub trait Clock: fmt::Debug + Send + Sync {
    /// The time of day.
    fn now(&self) -> Time;
}

/// The clock of this machine.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Time {
        let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Time(since_1970.as_secs())
    }
}

/// A clock that goes on no faster than time passes: one that is set ahead makes nothing older.
#[derive(Debug)]
pub(crate) struct SteadyClock {
    clock: Arc<dyn Clock>,
    /// What the clock said when this one was made, and how long the machine had been up.
    began: (Time, Duration),
}

impl SteadyClock {
    pub(crate) fn over(clock: Arc<dyn Clock>) -> Self {
        let began = (clock.now(), uptime());
        Self { clock, began }
    }
}

impl Clock for SteadyClock {
    fn now(&self) -> Time {
        let (time, up) = self.began;
        let passed = uptime().saturating_sub(up).as_secs();
        self.clock.now().min(Time::from_secs(time.as_secs().saturating_add(passed)))
    }
}

/// How long the machine has been up, sleep included.
fn uptime() -> Duration {
    rustix::time::clock_gettime(rustix::time::ClockId::Boottime).try_into().unwrap_or_default()
}

/// A clock that a test sets.
#[cfg(test)]
#[derive(Debug, Default)]
pub(crate) struct TestClock(std::sync::atomic::AtomicU64);

#[cfg(test)]
impl TestClock {
    pub(crate) fn set(&self, time: u64) {
        self.0.store(time, std::sync::atomic::Ordering::SeqCst);
    }
}

#[cfg(test)]
impl Clock for TestClock {
    fn now(&self) -> Time {
        Time(self.0.load(std::sync::atomic::Ordering::SeqCst))
    }
}
