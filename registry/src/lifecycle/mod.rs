//! What happens to stored content as time goes by.

mod caretaker;
mod collector;
#[cfg(test)]
mod interleavings;
mod retention;
mod scrub;
mod sweep;
#[cfg(test)]
mod tests;

pub use self::caretaker::{CareError, Caretaker};
pub(crate) use self::collector::Collector;
pub use self::collector::{Collected, Mode, Retired};
pub(crate) use self::scrub::Scrubber;
pub use self::scrub::{Damaged, Scrubbed};
