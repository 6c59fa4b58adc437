//! When a request is worth another attempt, and how long to wait before it.
//!
//! The waiting time doubles from attempt to attempt and is spread at random over its upper half, so that
//! many clients cut off together do not come back together. A registry that names a time itself
//! (`Retry-After`, RFC 9110 section 10.2.3) is believed, up to a limit.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

use crate::RequestError;

/// The longest that a registry's `Retry-After` is obeyed.
const LONGEST_ASKED: Duration = Duration::from_secs(60);
/// So much must arrive between two failures for the second one to count as the first again.
const FRESH_START_BYTES: u64 = 1 << 20;
/// Attempts to reach a registry that has not answered anything yet: a wrong host name should fail now.
const ATTEMPTS_BEFORE_FIRST_ANSWER: u32 = 2;

/// How often, and how patiently, a failed request is repeated.
#[derive(Debug, Clone, Copy)]
pub struct RetryPolicy {
    /// Attempts in all, the first one included.
    pub attempts: u32,
    /// The wait before the second attempt.
    pub first_delay: Duration,
    /// The longest wait.
    pub longest_delay: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        let first_delay = Duration::from_millis(250);
        Self { attempts: 6, first_delay, longest_delay: Duration::from_secs(8) }
    }
}

/// The failures of one piece of work so far.
#[derive(Debug)]
pub(crate) struct Failures {
    policy: RetryPolicy,
    count: u32,
    bytes_at_last: u64,
}

impl Failures {
    pub(crate) fn new(policy: RetryPolicy) -> Self {
        Self { policy, count: 0, bytes_at_last: 0 }
    }

    /// Notes a failure after `bytes` of the work were done, and says how long to wait before the next
    /// attempt; `None` if there should be none. `answered` says whether the registry ever answered.
    pub(crate) fn next_delay(
        &mut self,
        error: &RequestError,
        bytes: u64,
        answered: bool,
    ) -> Option<Duration> {
        if bytes >= self.bytes_at_last.saturating_add(FRESH_START_BYTES) {
            self.count = 0;
        }
        self.bytes_at_last = bytes;
        self.count += 1;
        let attempts = match answered {
            true => self.policy.attempts,
            false => self.policy.attempts.min(ATTEMPTS_BEFORE_FIRST_ANSWER),
        };
        if !error.is_temporary() || self.count >= attempts {
            return None;
        }
        Some(delay(self.policy, self.count, error.retry_after(), RandomState::new().build_hasher().finish()))
    }
}

/// The wait after failure number `count`, counted from 1. `random` is uniform over all of `u64`.
fn delay(policy: RetryPolicy, count: u32, asked: Option<Duration>, random: u64) -> Duration {
    if let Some(asked) = asked {
        return asked.min(LONGEST_ASKED);
    }
    let doubled = policy.first_delay.saturating_mul(1 << (count - 1).min(16)).min(policy.longest_delay);
    let half = doubled / 2;
    half + half.mul_f64(random as f64 / u64::MAX as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: RetryPolicy = RetryPolicy {
        attempts: 4,
        first_delay: Duration::from_millis(100),
        longest_delay: Duration::from_millis(300),
    };

    fn busy(retry_after: Option<Duration>) -> RequestError {
        RequestError::Busy { origin: "http://r".into(), status: 503, retry_after }
    }

    #[test]
    fn waits_double_and_are_spread_over_their_upper_half() {
        let ms = Duration::from_millis;
        let rows =
            [(1, 0, 50), (1, u64::MAX, 100), (2, 0, 100), (2, u64::MAX, 200), (3, 0, 150), (99, 0, 150)];
        for (count, random, want) in rows {
            assert_eq!(delay(POLICY, count, None, random), ms(want), "failure {count}");
        }
        assert_eq!(delay(POLICY, 1, Some(ms(2_000)), 0), ms(2_000));
        assert_eq!(delay(POLICY, 1, Some(ms(10_000_000)), 0), LONGEST_ASKED);
    }

    #[test]
    fn attempts_end_unless_something_arrives_between_failures() {
        let mut failures = Failures::new(POLICY);
        let mut again = |bytes| failures.next_delay(&busy(None), bytes, true).is_some();
        assert_eq!([again(0), again(0), again(0), again(0)], [true, true, true, false]);
        assert!(again(FRESH_START_BYTES));
        assert_eq!([again(FRESH_START_BYTES + 1), again(FRESH_START_BYTES + 2)], [true, true]);
        assert!(!again(FRESH_START_BYTES + 3), "a trickle is no progress");
    }

    #[test]
    fn a_refusal_is_final_and_a_silent_host_is_tried_twice() {
        let refused = RequestError::NotFound { what: "web:1".into() };
        assert_eq!(Failures::new(POLICY).next_delay(&refused, 0, true), None);
        let mut failures = Failures::new(POLICY);
        assert!(failures.next_delay(&busy(None), 0, false).is_some());
        assert!(failures.next_delay(&busy(None), 0, false).is_none());
    }
}
