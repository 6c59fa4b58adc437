//! Passwords that were verified lately, so that a client that shows one with each request costs one
//! verification a minute.
//!
//! What is remembered is a MAC over user, password and the hash that it was checked against, under a
//! key of this process. A hash that was replaced is another question, so nothing needs to be forgotten
//! when a record changes.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

use super::secret::Secret;
use crate::clock::Time;
use crate::random;

/// How long a verification is remembered.
const LIFE: Duration = Duration::from_secs(60);
/// Verifications that are remembered: twice this many.
const REMEMBERED: usize = 1024;

#[derive(Debug)]
pub(crate) struct Verified {
    key: [u8; 32],
    state: Mutex<State>,
}

/// A password that was shown, and what it was checked against.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Shown([u8; 32]);

/// Two generations, as in [`crate::cache`].
#[derive(Debug, Default)]
struct State {
    young: HashMap<Shown, Time>,
    old: HashMap<Shown, Time>,
}

impl Verified {
    pub(crate) fn new() -> Self {
        Self { key: random::bytes(), state: Mutex::default() }
    }

    pub(crate) fn shown(&self, user: &str, password: &Secret, stored: &str) -> Shown {
        let mut mac: Hmac<Sha256> = Hmac::new_from_slice(&self.key).expect("a key of any length does");
        for part in [user, password.reveal(), stored] {
            mac.update(&(part.len() as u64).to_le_bytes());
            mac.update(part.as_bytes());
        }
        Shown(mac.finalize().into_bytes().into())
    }

    pub(crate) fn contains(&self, shown: &Shown, now: Time) -> bool {
        let state = self.state();
        let verified = state.young.get(shown).or_else(|| state.old.get(shown));
        verified.is_some_and(|time| *time <= now && now.since(*time) < LIFE)
    }

    pub(crate) fn insert(&self, shown: Shown, now: Time) {
        let mut state = self.state();
        if state.young.len() >= REMEMBERED {
            state.old = std::mem::take(&mut state.young);
        }
        state.young.insert(shown, now);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nobody panics while holding what was verified")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verification_is_remembered_for_a_minute_and_for_this_very_record() {
        let verified = Verified::new();
        let shown = |user, password, stored| verified.shown(user, &Secret::new(password), stored);
        let at = Time::from_secs;
        verified.insert(shown("alice", "pw", "hash"), at(100));
        let check = |user, password, stored, second, want| {
            assert_eq!(verified.contains(&shown(user, password, stored), at(second)), want);
        };
        check("alice", "pw", "hash", 100, true);
        check("alice", "pw", "hash", 159, true);
        check("alice", "pw", "hash", 160, false);
        check("alice", "pw", "hash", 99, false);
        check("alice", "pw", "other", 100, false);
        check("alice", "p", "whash", 100, false);
        check("bob", "pw", "hash", 100, false);
    }

    #[test]
    fn memory_is_bounded() {
        let verified = Verified::new();
        for number in 0..5000_u32 {
            let shown = verified.shown(&number.to_string(), &Secret::new("pw"), "hash");
            verified.insert(shown, Time::from_secs(1));
        }
        let state = verified.state();
        assert!(state.young.len() <= REMEMBERED && state.old.len() <= REMEMBERED);
    }
}
