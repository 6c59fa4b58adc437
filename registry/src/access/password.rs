//! Passwords: hashed with argon2id, verified with the same work whoever asks.
//!
//! Hashes made by `htpasswd -B` (bcrypt) are kept as they came and verified as what they are. How
//! long a login takes must not tell whether there is such a user. So each one is one argon2id
//! verification, of a hash that nothing matches if need be, and one of bcrypt too once any user is
//! known to have such a hash.
//!
//! A verification takes 19 MiB and a good part of a second of a slow core. At most two run at a time,
//! on threads of their own, however many clients guess.
//!
//! Source: RFC 9106; OWASP Password Storage Cheat Sheet (19 MiB, two passes, one lane).

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use argon2::Argon2;
use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher as _, PasswordVerifier as _};
use serde::{Deserialize, Serialize};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::secret::Secret;
use crate::random;

/// Hashing that may be under way at a time.
const PARALLEL: usize = 2;
/// Shortest password that is accepted for a new user, in characters.
const MIN_CHARS: usize = 8;
/// Longest password, in bytes. More is only work for the server.
const MAX_BYTES: usize = 1024;
/// Costs of bcrypt that are verified: what anybody uses. Each step doubles the work.
const BCRYPT_COSTS: std::ops::RangeInclusive<u32> = 4..=15;
/// What argon2id verifies where there is no such hash. Whether it matches is never looked at.
const NO_ARGON2: &str =
    "$argon2id$v=19$m=19456,t=2,p=1$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

/// A hash with everything that it takes to verify a password: a PHC string of argon2id, or bcrypt's.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct StoredPassword(String);

/// Why a password is not accepted for a user.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PasswordError {
    /// Easily guessed.
    #[error("a password needs at least {MIN_CHARS} characters; this one has {chars}")]
    TooShort {
        /// How many it has.
        chars: usize,
    },
    /// Nobody types that.
    #[error("a password may have at most {MAX_BYTES} bytes; this one has {bytes}")]
    TooLong {
        /// How many it has.
        bytes: usize,
    },
}

/// Hashes and verifies, a few at a time.
#[derive(Debug)]
pub(crate) struct Passwords {
    turns: Arc<Semaphore>,
    /// The cost of the bcrypt hashes that are in use; 0 if none is known.
    bcrypt_cost: AtomicU32,
}

/// The right to hash. Whoever waits for it does no work meanwhile.
#[derive(Debug)]
pub(crate) struct Turn(
    #[allow(dead_code, reason = "held, and dropped on the thread that hashes")] OwnedSemaphorePermit,
);

/// What one verification consists of.
#[derive(Debug, PartialEq, Eq)]
struct Work {
    argon2: String,
    bcrypt: Option<String>,
    decides: Decides,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Decides {
    Argon2,
    Bcrypt,
    Nothing,
}

impl StoredPassword {
    /// The bcrypt hash of an htpasswd file; `None` if it is none, or none that we verify.
    pub(crate) fn from_bcrypt(text: &str) -> Option<Self> {
        let stored = Self(text.to_owned());
        stored.bcrypt_cost().is_some().then_some(stored)
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    fn is_argon2(&self) -> bool {
        self.0.starts_with("$argon2id$")
    }

    /// `$2y$10$`, 22 characters of salt, 31 of hash.
    fn bcrypt_cost(&self) -> Option<u32> {
        let rest = ["$2y$", "$2b$", "$2a$"].iter().find_map(|head| self.0.strip_prefix(head))?;
        let (cost, hash) = rest.split_once('$')?;
        let is_hash =
            hash.len() == 53 && hash.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'/'));
        let is_cost = cost.len() == 2 && cost.bytes().all(|c| c.is_ascii_digit());
        let cost = cost.parse().ok().filter(|_| is_cost)?;
        (is_hash && BCRYPT_COSTS.contains(&cost)).then_some(cost)
    }
}

/// Not the hash: it can be guessed at, at leisure.
impl std::fmt::Debug for StoredPassword {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("StoredPassword(***)")
    }
}

impl Passwords {
    pub(crate) fn new() -> Self {
        Self { turns: Arc::new(Semaphore::new(PARALLEL)), bcrypt_cost: AtomicU32::new(0) }
    }

    /// Some user has this hash, so from now on all verifications cost as much as it does.
    pub(crate) fn notice(&self, stored: &StoredPassword) {
        if let Some(cost) = stored.bcrypt_cost() {
            self.bcrypt_cost.fetch_max(cost, Ordering::Relaxed);
        }
    }

    /// Waits for the right to hash.
    pub(crate) async fn turn(&self) -> Turn {
        Turn(Arc::clone(&self.turns).acquire_owned().await.expect("the semaphore is never closed"))
    }

    /// Hashes a new password.
    pub(crate) async fn hash(&self, password: Secret) -> Result<StoredPassword, PasswordError> {
        let (chars, bytes) = (password.reveal().chars().count(), password.reveal().len());
        if chars < MIN_CHARS {
            return Err(PasswordError::TooShort { chars });
        }
        if bytes > MAX_BYTES {
            return Err(PasswordError::TooLong { bytes });
        }
        let salt: [u8; 16] = random::bytes();
        let hash = move || {
            let hashed = Argon2::default().hash_password_with_salt(password.reveal().as_bytes(), &salt);
            StoredPassword(hashed.expect("a password of this length can be hashed").to_string())
        };
        Ok(on_thread(self.turn().await, hash).await)
    }

    /// True if `password` is the one that `stored` was made of. Always false for `None`, after the
    /// same work.
    pub(crate) async fn verify(&self, turn: Turn, password: Secret, stored: Option<&StoredPassword>) -> bool {
        if let Some(stored) = stored {
            self.notice(stored);
        }
        let work = self.work(stored);
        on_thread(turn, move || work.run(&password)).await
    }

    fn work(&self, stored: Option<&StoredPassword>) -> Work {
        let cost = self.bcrypt_cost.load(Ordering::Relaxed);
        let no_bcrypt = (cost > 0).then(|| format!("$2b${cost:02}${}", ".".repeat(53)));
        let nothing = Work { argon2: NO_ARGON2.to_owned(), bcrypt: no_bcrypt, decides: Decides::Nothing };
        match stored {
            Some(stored) if stored.is_argon2() => {
                Work { argon2: stored.0.clone(), decides: Decides::Argon2, ..nothing }
            }
            Some(stored) if stored.bcrypt_cost().is_some() => {
                Work { bcrypt: Some(stored.0.clone()), decides: Decides::Bcrypt, ..nothing }
            }
            _ => nothing,
        }
    }
}

impl Work {
    fn run(&self, password: &Secret) -> bool {
        let password = password.reveal().as_bytes();
        // More would only be work. Nobody has such a password.
        let password = &password[..password.len().min(MAX_BYTES + 1)];
        let argon2 = PasswordHash::new(&self.argon2)
            .is_ok_and(|hash| Argon2::default().verify_password(password, &hash).is_ok());
        let bcrypt = self.bcrypt.as_ref().is_some_and(|hash| bcrypt::verify(password, hash).unwrap_or(false));
        match self.decides {
            Decides::Argon2 => argon2,
            Decides::Bcrypt => bcrypt,
            Decides::Nothing => false,
        }
    }
}

/// Runs `work` on a thread that may block, and then lets the next one have its turn, even if whoever
/// asked has gone.
async fn on_thread<T: Send + 'static>(turn: Turn, work: impl FnOnce() -> T + Send + 'static) -> T {
    let done = tokio::task::spawn_blocking(move || {
        let _turn = turn;
        work()
    });
    done.await.expect("hashing does not panic, and ends before its runtime")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `bcrypt` of `password123`, cost 4.
    const BCRYPT: &str = "$2y$04$";

    fn bcrypt_of(password: &str, cost: u32) -> StoredPassword {
        StoredPassword::from_bcrypt(&bcrypt::hash(password, cost).unwrap()).unwrap()
    }

    async fn verify(passwords: &Passwords, password: &str, stored: Option<&StoredPassword>) -> bool {
        passwords.verify(passwords.turn().await, Secret::new(password), stored).await
    }

    #[tokio::test]
    async fn the_right_password_is_verified_and_others_are_not() {
        let passwords = Passwords::new();
        let stored = passwords.hash(Secret::new("correct horse")).await.unwrap();
        assert!(stored.as_str().starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{}", stored.as_str());
        assert!(verify(&passwords, "correct horse", Some(&stored)).await);
        assert!(!verify(&passwords, "correct horse ", Some(&stored)).await);
        assert!(!verify(&passwords, "", Some(&stored)).await);
        assert!(!verify(&passwords, "correct horse", None).await);

        let imported = bcrypt_of("battery staple", 4);
        assert!(verify(&passwords, "battery staple", Some(&imported)).await);
        assert!(!verify(&passwords, "battery", Some(&imported)).await);
        assert!(verify(&passwords, "correct horse", Some(&stored)).await);
        assert!(!verify(&passwords, "correct horse", None).await);
    }

    #[tokio::test]
    async fn the_same_password_is_never_stored_the_same() {
        let passwords = Passwords::new();
        let hash = async || passwords.hash(Secret::new("correct horse")).await.unwrap();
        assert_ne!(hash().await, hash().await);
    }

    #[test]
    fn a_login_is_the_same_work_whether_there_is_such_a_user_or_not() {
        /// The parameters of a hash, on which the work depends.
        fn cost(hash: &str) -> Vec<String> {
            hash.split('$')
                .skip(1)
                .take(if hash.contains("argon2") { 3 } else { 2 })
                .map(str::to_owned)
                .collect()
        }
        let check = |passwords: &Passwords, stored: &[Option<StoredPassword>]| {
            let costs = stored.iter().map(|stored| {
                let work = passwords.work(stored.as_ref());
                // The two spellings of one algorithm.
                (cost(&work.argon2), work.bcrypt.map(|hash| cost(&hash.replace("2y", "2b"))))
            });
            let costs: Vec<_> = costs.collect();
            assert!(costs.windows(2).all(|pair| pair[0] == pair[1]), "{costs:?}");
            costs[0].1.is_some()
        };
        let argon2 = Argon2::default().hash_password_with_salt(b"correct horse", &[1; 16]).unwrap();
        let argon2 = Some(StoredPassword(argon2.to_string()));
        let damaged = Some(StoredPassword("plain".to_owned()));
        let passwords = Passwords::new();
        assert!(!check(&passwords, &[argon2.clone(), None, damaged.clone()]));

        let imported = bcrypt_of("battery staple", 5);
        passwords.notice(&imported);
        assert!(check(&passwords, &[argon2, None, damaged, Some(imported)]));
    }

    #[tokio::test]
    async fn a_new_password_is_neither_short_nor_endless() {
        let passwords = Passwords::new();
        let hash = async |text: &str| passwords.hash(Secret::new(text)).await.map(drop);
        assert_eq!(hash("").await, Err(PasswordError::TooShort { chars: 0 }));
        assert_eq!(hash("äöüäöüä").await, Err(PasswordError::TooShort { chars: 7 }));
        assert_eq!(hash(&"x".repeat(1025)).await, Err(PasswordError::TooLong { bytes: 1025 }));
        hash(&"x".repeat(1024)).await.unwrap();
    }

    #[test]
    fn only_bcrypt_that_can_be_verified_is_taken_over() {
        let salted = |head: &str| format!("{head}{}", "a".repeat(53));
        let check = |text: &str, want: bool| {
            assert_eq!(StoredPassword::from_bcrypt(text).is_some(), want, "{text}");
        };
        check(&salted(BCRYPT), true);
        check(&salted("$2b$10$"), true);
        check(&salted("$2a$15$"), true);
        check(&salted("$2y$16$"), false);
        check(&salted("$2y$31$"), false);
        check(&salted("$2y$03$"), false);
        check(&salted("$2y$4$"), false);
        check(&salted("$2x$10$"), false);
        check(&salted("$2y$+5$"), false);
        check(&format!("{}=", &salted("$2y$10$")[..59]), false);
        check("$2y$10$short", false);
        check("$apr1$x$y", false);
        check("", false);
    }
}
