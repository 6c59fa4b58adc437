//! How often somebody may be wrong about a password.
//!
//! An address may fail ten times a minute at one account, and sixty times at all accounts together. A
//! guess counts as wrong from before it is checked until it turns out to be right, so that many at the
//! same time are no way around. What is remembered is bounded: when there is too much, those who have
//! not failed for the longest time are forgotten.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher as _, RandomState};
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use crate::clock::Time;
use crate::peers::counted_as;

/// The time in which failures are counted.
const WINDOW: Duration = Duration::from_secs(60);
/// Failures of one address at one account.
const AT_ONE_ACCOUNT: usize = 10;
/// Failures of one address at all accounts.
const AT_ALL_ACCOUNTS: usize = 60;
/// Those who failed that are remembered: twice this many.
const REMEMBERED: usize = 4096;

/// Whoever fails too often waits.
#[derive(Debug)]
pub(crate) struct Guesses {
    hasher: RandomState,
    failures: Mutex<Failures>,
}

/// A guess that is being checked.
#[derive(Debug)]
pub(crate) struct Guess {
    at_one_account: Counter,
    at_all_accounts: Counter,
    time: Time,
}

/// There were too many. How long to wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TooManyGuesses {
    pub(crate) retry_after: Duration,
}

/// A hash of whose failures are counted, under a key of this process: nobody can choose two that are
/// the same.
type Counter = u64;

/// Two generations, as in [`crate::cache`].
#[derive(Debug, Default)]
struct Failures {
    young: HashMap<Counter, VecDeque<Time>>,
    old: HashMap<Counter, VecDeque<Time>>,
}

impl Guesses {
    pub(crate) fn new() -> Self {
        Self { hasher: RandomState::new(), failures: Mutex::default() }
    }

    /// Whether `address` may try at `account` now. Nothing is counted.
    pub(crate) fn check(&self, account: &str, address: IpAddr, now: Time) -> Result<(), TooManyGuesses> {
        let (one, all) = self.counters(account, address);
        let mut failures = self.failures();
        failures.check(one, AT_ONE_ACCOUNT, now)?;
        failures.check(all, AT_ALL_ACCOUNTS, now)
    }

    /// As [`Guesses::check`], but only for this one account.
    pub(crate) fn check_account(
        &self,
        account: &str,
        address: IpAddr,
        now: Time,
    ) -> Result<(), TooManyGuesses> {
        let (one, _) = self.counters(account, address);
        self.failures().check(one, AT_ONE_ACCOUNT, now)
    }

    /// Begins a guess, which counts as wrong until [`Guesses::was_right`].
    pub(crate) fn begin(&self, account: &str, address: IpAddr, now: Time) -> Result<Guess, TooManyGuesses> {
        let (at_one_account, at_all_accounts) = self.counters(account, address);
        let mut failures = self.failures();
        failures.check(at_one_account, AT_ONE_ACCOUNT, now)?;
        failures.check(at_all_accounts, AT_ALL_ACCOUNTS, now)?;
        failures.of(at_one_account).push_back(now);
        failures.of(at_all_accounts).push_back(now);
        Ok(Guess { at_one_account, at_all_accounts, time: now })
    }

    pub(crate) fn was_right(&self, guess: &Guess) {
        let mut failures = self.failures();
        for counter in [guess.at_one_account, guess.at_all_accounts] {
            let times = failures.of(counter);
            if let Some(index) = times.iter().rposition(|time| *time == guess.time) {
                times.remove(index);
            }
        }
    }

    fn counters(&self, account: &str, address: IpAddr) -> (Counter, Counter) {
        let address = counted_as(address);
        (self.hash((address, Some(account))), self.hash((address, None)))
    }

    fn hash(&self, whose: (IpAddr, Option<&str>)) -> Counter {
        self.hasher.hash_one(whose)
    }

    fn failures(&self) -> MutexGuard<'_, Failures> {
        self.failures.lock().expect("nobody panics while holding the failures")
    }
}

impl Failures {
    fn check(&mut self, counter: Counter, limit: usize, now: Time) -> Result<(), TooManyGuesses> {
        let Some(times) = self.young.get_mut(&counter).or_else(|| self.old.get_mut(&counter)) else {
            return Ok(());
        };
        // A clock that was set back must not lock anybody out for longer.
        times.retain(|time| *time <= now && now.since(*time) < WINDOW);
        match times.front() {
            Some(first) if times.len() >= limit => {
                Err(TooManyGuesses { retry_after: WINDOW.saturating_sub(now.since(*first)) })
            }
            _ => Ok(()),
        }
    }

    fn of(&mut self, counter: Counter) -> &mut VecDeque<Time> {
        if !self.young.contains_key(&counter) {
            if self.young.len() >= REMEMBERED {
                self.old = std::mem::take(&mut self.young);
            }
            let times = self.old.remove(&counter).unwrap_or_default();
            self.young.insert(counter, times);
        }
        self.young.get_mut(&counter).expect("it was just put there")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: &str = "192.0.2.1";

    fn guess(guesses: &Guesses, account: &str, address: &str, second: u64) -> Result<Guess, u64> {
        let begun = guesses.begin(account, address.parse().unwrap(), Time::from_secs(second));
        begun.map_err(|too_many| too_many.retry_after.as_secs())
    }

    /// Guesses wrong so many times, in one second.
    fn fail(guesses: &Guesses, account: &str, address: &str, second: u64, times: usize) {
        for _ in 0..times {
            guess(guesses, account, address, second).unwrap();
        }
    }

    #[test]
    fn ten_failures_a_minute_are_enough_for_one_account() {
        let guesses = Guesses::new();
        fail(&guesses, "alice", HERE, 100, 4);
        fail(&guesses, "alice", HERE, 130, 6);
        assert_eq!(guess(&guesses, "alice", HERE, 130).unwrap_err(), 30);
        assert_eq!(guess(&guesses, "alice", HERE, 159).unwrap_err(), 1);
        fail(&guesses, "alice", HERE, 160, 4);
        assert_eq!(guess(&guesses, "alice", HERE, 160).unwrap_err(), 30);
        // Others are not concerned, neither accounts nor addresses.
        guess(&guesses, "bob", HERE, 160).unwrap();
        guess(&guesses, "alice", "192.0.2.2", 160).unwrap();
    }

    #[test]
    fn whoever_is_right_has_not_failed() {
        let guesses = Guesses::new();
        for _ in 0..100 {
            let guess = guess(&guesses, "alice", HERE, 1).unwrap();
            guesses.was_right(&guess);
        }
        fail(&guesses, "alice", HERE, 1, 10);
        assert!(guess(&guesses, "alice", HERE, 1).is_err());
    }

    #[test]
    fn an_address_that_tries_many_accounts_waits_too() {
        let guesses = Guesses::new();
        for account in 0..60 {
            guess(&guesses, &account.to_string(), HERE, 1).unwrap();
        }
        assert_eq!(guess(&guesses, "alice", HERE, 31).unwrap_err(), 30);
        assert!(guesses.check("alice", HERE.parse().unwrap(), Time::from_secs(31)).is_err());
        guesses.check_account("alice", HERE.parse().unwrap(), Time::from_secs(31)).unwrap();
        guess(&guesses, "alice", "192.0.2.2", 31).unwrap();
        guess(&guesses, "alice", HERE, 61).unwrap();
    }

    #[test]
    fn a_network_of_one_ipv6_host_is_one_address() {
        let guesses = Guesses::new();
        for host in 0..10 {
            guess(&guesses, "alice", &format!("2001:db8:0:1::{host:x}"), 1).unwrap();
        }
        assert!(guess(&guesses, "alice", "2001:db8:0:1::ffff", 1).is_err());
        guess(&guesses, "alice", "2001:db8:0:2::1", 1).unwrap();
        fail(&guesses, "alice", "::ffff:192.0.2.1", 1, 10);
        assert!(guess(&guesses, "alice", HERE, 1).is_err());
    }

    #[test]
    fn a_clock_that_is_set_back_locks_nobody_out() {
        let guesses = Guesses::new();
        fail(&guesses, "alice", HERE, 100_000, 10);
        guess(&guesses, "alice", HERE, 10).unwrap();
    }

    #[test]
    fn memory_is_bounded_and_the_busy_are_not_forgotten() {
        let guesses = Guesses::new();
        for stranger in 0..10_u32 {
            for network in 0..2000_u32 {
                let address = format!("10.{stranger}.{}.{}", network >> 8, network & 0xff);
                guess(&guesses, "alice", &address, 1).unwrap();
            }
            fail(&guesses, "bob", HERE, 1, 1);
        }
        assert!(guess(&guesses, "bob", HERE, 1).is_err());
        let failures = guesses.failures();
        assert!(failures.young.len() <= REMEMBERED && failures.old.len() <= REMEMBERED);
    }
}
