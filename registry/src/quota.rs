//! The books of repositories with a quota: what they hold, what is being uploaded, what is left.
//!
//! Arithmetic only; counting what is in the storage is [`crate::repository`]'s.
//!
//! ```text
//! used       counted in the storage once, then kept: what is stored is added
//! reserved   the rooms of uploads under way, and of whatever is about to be stored
//!            used + reserved never grows past the limit
//! ```
//!
//! - What is here already costs nothing, so it matters who was first. Whoever stores something
//!   *enters* first and looks then whether it is here. Of those who store the same at the same time,
//!   one pays.
//! - The count errs on the side of too much: what was stored while somebody counted may be in it
//!   twice, and nothing is taken off when something is deleted. The books know when that may be so,
//!   and nobody is refused then before it was counted again.
//! - Other servers on the same storage have books of their own, so there a count is believed for a
//!   minute. Servers that store at the same time may pass the quota by what they store within it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use appliance::Digest;
use blob_store::Sharing;

use crate::name::RepositoryName;
use crate::rules::Rules;

/// How long a count is believed where others change the storage too, and how long one is that leads
/// to a refusal: a collector may have deleted something since.
const BELIEVED: Duration = Duration::from_secs(60);
/// Repositories whose books are kept, beside those in use: a few MiB in all. Others are counted anew.
const KEPT: usize = 8192;

/// The books of all repositories.
#[derive(Debug)]
pub(crate) struct Quotas {
    rules: Arc<Rules>,
    sharing: Sharing,
    accounts: Mutex<HashMap<RepositoryName, Arc<Account>>>,
}

/// The books of one repository.
#[derive(Debug)]
pub(crate) struct Account {
    repository: RepositoryName,
    limit_bytes: u64,
    sharing: Sharing,
    books: Mutex<Books>,
    /// Held by whoever counts.
    counting: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct Books {
    count: Option<Count>,
    reserved_bytes: u64,
    /// Bytes that were added while somebody counts.
    added_bytes: u64,
    /// True if something was deleted while somebody counts.
    was_freed: bool,
    storing: HashMap<Content, Storing>,
}

#[derive(Debug)]
struct Count {
    used_bytes: u64,
    /// When counting began.
    time: Instant,
    /// False if there may be less by now.
    is_exact: bool,
}

/// What is stored once in a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Content {
    Blob(Digest),
    Manifest(Digest),
}

/// Those who store the same content now.
#[derive(Debug, Default)]
struct Storing {
    entered: usize,
    is_paid: bool,
    /// True if what some of them found here may be gone since.
    was_freed: bool,
}

/// Bytes that are set aside for somebody, free again when dropped.
#[derive(Debug)]
pub(crate) struct Room {
    account: Arc<Account>,
    bytes: AtomicU64, // Changed only while the account's books are held.
}

/// Somebody who is about to store something.
#[derive(Debug)]
pub(crate) struct Entrance {
    account: Arc<Account>,
    content: Content,
}

/// Something that is being stored, and for which there is room. To be paid when it is there; dropped
/// unpaid, the books are counted anew.
#[derive(Debug)]
pub(crate) struct Charge {
    entrance: Entrance,
    was_here: bool,
    is_settled: bool,
}

/// A repository would hold more than it may.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the repository's quota of {limit_bytes} bytes is exceeded: it holds {used_bytes}, {reserved_bytes} are \
     being uploaded, and {wanted_bytes} more are wanted"
)]
pub(crate) struct QuotaExceeded {
    pub(crate) limit_bytes: u64,
    pub(crate) used_bytes: u64,
    pub(crate) reserved_bytes: u64,
    pub(crate) wanted_bytes: u64,
}

/// Why no room was given.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum NoRoom {
    /// There is none.
    Exceeded(QuotaExceeded),
    /// Nobody can say before it was counted.
    CountFirst,
}

/// Which counts are good enough for a refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trust {
    /// A young one that is exact.
    Exact,
    /// Any: counting again brought nothing better.
    Any,
}

impl Quotas {
    pub(crate) fn new(rules: Arc<Rules>, sharing: Sharing) -> Self {
        Self { rules, sharing, accounts: Mutex::default() }
    }

    /// The books of a repository; `None` if it has no quota.
    pub(crate) fn account(&self, repository: &RepositoryName) -> Option<Arc<Account>> {
        let limit_bytes = self.rules.quota(repository.as_str())?;
        let mut accounts = self.accounts.lock().expect("nobody panics while holding the accounts");
        if let Some(account) = accounts.get(repository) {
            return Some(Arc::clone(account));
        }
        if accounts.len() >= KEPT {
            accounts.retain(|_, account| Arc::strong_count(account) > 1);
        }
        let account = Arc::new(Account {
            repository: repository.clone(),
            limit_bytes,
            sharing: self.sharing,
            books: Mutex::default(),
            counting: tokio::sync::Mutex::default(),
        });
        accounts.insert(repository.clone(), Arc::clone(&account));
        Some(account)
    }
}

impl Account {
    pub(crate) const fn repository(&self) -> &RepositoryName {
        &self.repository
    }

    /// Waits until nobody else counts. `None` if somebody began to after `wanted`, and is done.
    pub(crate) async fn begin_count(&self, wanted: Instant) -> Option<tokio::sync::MutexGuard<'_, ()>> {
        let turn = self.counting.lock().await;
        let mut books = self.books();
        if books.count.as_ref().is_some_and(|count| count.time >= wanted) {
            return None;
        }
        (books.added_bytes, books.was_freed) = (0, false);
        drop(books);
        Some(turn)
    }

    /// Notes what was found by a count that began at `time`.
    pub(crate) fn end_count(&self, found_bytes: u64, time: Instant) {
        let mut books = self.books();
        let is_exact = books.added_bytes == 0 && !books.was_freed && books.storing.is_empty();
        let used_bytes = found_bytes.saturating_add(books.added_bytes);
        books.count = Some(Count { used_bytes, time, is_exact });
    }

    /// Something was deleted.
    pub(crate) fn freed(&self) {
        let mut books = self.books();
        books.was_freed = true;
        books.count.iter_mut().for_each(|count| count.is_exact = false);
        books.storing.values_mut().for_each(|storing| storing.was_freed = true);
    }

    /// To be called before looking whether the content is here.
    pub(crate) fn enter(self: &Arc<Self>, content: Content) -> Entrance {
        self.books().storing.entry(content).or_default().entered += 1;
        Entrance { account: Arc::clone(self), content }
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().expect("nobody panics while holding the books")
    }
}

impl Room {
    /// Room for nothing yet.
    pub(crate) const fn new(account: Arc<Account>) -> Self {
        Self { account, bytes: AtomicU64::new(0) }
    }

    pub(crate) const fn account(&self) -> &Arc<Account> {
        &self.account
    }

    /// Makes room for `bytes` in all, if it is less.
    pub(crate) fn grow(&self, bytes: u64, now: Instant, trust: Trust) -> Result<(), NoRoom> {
        let Account { limit_bytes, sharing, .. } = *self.account;
        let mut books = self.account.books();
        let held = self.bytes.load(Ordering::Relaxed);
        let Some(wanted_bytes) = bytes.checked_sub(held).filter(|wanted| *wanted > 0) else { return Ok(()) };
        let Some(count) = &books.count else { return Err(NoRoom::CountFirst) };
        let is_young = now.saturating_duration_since(count.time) < BELIEVED;
        if sharing == Sharing::Shared && !is_young && trust == Trust::Exact {
            return Err(NoRoom::CountFirst);
        }
        let (used_bytes, reserved_bytes) = (count.used_bytes, books.reserved_bytes);
        let taken = used_bytes.saturating_add(reserved_bytes);
        if taken.checked_add(wanted_bytes).is_some_and(|all| all <= limit_bytes) {
            books.reserved_bytes += wanted_bytes;
            self.bytes.store(bytes, Ordering::Relaxed);
            return Ok(());
        }
        match trust == Trust::Any || (count.is_exact && is_young) {
            true => {
                Err(NoRoom::Exceeded(QuotaExceeded { limit_bytes, used_bytes, reserved_bytes, wanted_bytes }))
            }
            false => Err(NoRoom::CountFirst),
        }
    }

    /// Sets the room to what is taken already, whatever the quota is.
    pub(crate) fn hold(&self, bytes: u64) {
        self.set(&mut self.account.books(), bytes);
    }

    fn set(&self, books: &mut Books, bytes: u64) {
        let held = self.bytes.swap(bytes, Ordering::Relaxed);
        books.reserved_bytes = (books.reserved_bytes - held).saturating_add(bytes);
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.hold(0);
    }
}

impl Entrance {
    /// There is room for the content, or it `was_here`.
    pub(crate) const fn admitted(self, was_here: bool) -> Charge {
        Charge { entrance: self, was_here, is_settled: false }
    }
}

impl Drop for Entrance {
    fn drop(&mut self) {
        let mut books = self.account.books();
        if let Some(storing) = books.storing.get_mut(&self.content) {
            storing.entered -= 1;
            if storing.entered == 0 {
                books.storing.remove(&self.content);
            }
        }
    }
}

impl Charge {
    /// The content, of `bytes`, is here. What was set aside for it in `room` is free again.
    pub(crate) fn pay(mut self, bytes: u64, room: &Room) {
        self.is_settled = true;
        let Entrance { account, content } = &self.entrance;
        let books = &mut *account.books();
        room.set(books, 0);
        let storing = books.storing.get_mut(content).expect("whoever entered is still there");
        if (!self.was_here || storing.was_freed) && !storing.is_paid {
            storing.is_paid = true;
            books.added_bytes = books.added_bytes.saturating_add(bytes);
            let count = books.count.iter_mut();
            count.for_each(|count| count.used_bytes = count.used_bytes.saturating_add(bytes));
        }
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        if !self.is_settled {
            self.entrance.account.books().count = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::{Pattern, Rule};

    fn name(text: &str) -> RepositoryName {
        RepositoryName::parse(text).unwrap()
    }

    fn quotas(sharing: Sharing) -> Quotas {
        let rule = Rule { quota_bytes: Some(100), ..Rule::new(Pattern::new("r*")) };
        Quotas::new(Arc::new(Rules(vec![rule])), sharing)
    }

    /// A repository with a quota of 100 bytes, counted as of `time`.
    fn account(used_bytes: u64, sharing: Sharing, time: Instant) -> Arc<Account> {
        let account = quotas(sharing).account(&name("r")).unwrap();
        account.end_count(used_bytes, time);
        account
    }

    const BLOB: Content = Content::Blob(Digest::Sha256([1; 32]));

    fn used(account: &Account) -> Option<(u64, bool)> {
        account.books().count.as_ref().map(|count| (count.used_bytes, count.is_exact))
    }

    /// Stores something that was not here.
    fn store(account: &Arc<Account>, bytes: u64) {
        account.enter(BLOB).admitted(false).pay(bytes, &Room::new(Arc::clone(account)));
    }

    #[test]
    fn only_repositories_with_a_quota_have_books() {
        let quotas = quotas(Sharing::Exclusive);
        assert!(quotas.account(&name("other")).is_none());
        let account = quotas.account(&name("r")).unwrap();
        assert!(Arc::ptr_eq(&account, &quotas.account(&name("r")).unwrap()));
    }

    #[test]
    fn the_books_of_many_repositories_take_little_room() {
        let quotas = quotas(Sharing::Exclusive);
        let in_use = quotas.account(&name("r")).unwrap();
        for number in 0..3 * KEPT {
            quotas.account(&name(&format!("r{number}"))).unwrap();
            assert!(quotas.accounts.lock().unwrap().len() <= KEPT);
        }
        assert!(Arc::ptr_eq(&in_use, &quotas.account(&name("r")).unwrap()));
    }

    #[test]
    fn rooms_and_what_is_used_stay_within_the_limit() {
        let now = Instant::now();
        let account = account(50, Sharing::Exclusive, now);
        let (one, two) = (Room::new(Arc::clone(&account)), Room::new(Arc::clone(&account)));
        let grow = |room: &Room, bytes| room.grow(bytes, now, Trust::Exact);
        let exceeded = |reserved_bytes, wanted_bytes| {
            let (limit_bytes, used_bytes) = (100, 50);
            let error = QuotaExceeded { limit_bytes, used_bytes, reserved_bytes, wanted_bytes };
            Err(NoRoom::Exceeded(error))
        };
        assert_eq!(grow(&one, 30), Ok(()));
        assert_eq!(grow(&one, 10), Ok(())); // has more
        assert_eq!(grow(&two, 21), exceeded(30, 21));
        assert_eq!(grow(&two, u64::MAX), exceeded(30, u64::MAX));
        assert_eq!(grow(&two, 20), Ok(()));
        assert_eq!(grow(&one, 31), exceeded(50, 1));
        drop(one);
        assert_eq!(grow(&two, 50), Ok(()));
        two.hold(70); // it is there all the same
        assert_eq!(grow(&Room::new(Arc::clone(&account)), 1), exceeded(70, 1));
        drop(two);
        assert_eq!(account.books().reserved_bytes, 0);
    }

    #[test]
    fn whoever_is_first_pays() {
        let account = account(0, Sharing::Exclusive, Instant::now());
        let room = || Room::new(Arc::clone(&account));
        let (one, two) = (account.enter(BLOB).admitted(false), account.enter(BLOB).admitted(false));
        one.pay(10, &room());
        two.pay(10, &room());
        assert_eq!(used(&account), Some((10, true)));
        account.enter(BLOB).admitted(true).pay(10, &room());
        assert_eq!(used(&account), Some((10, true)));
        let other = Content::Manifest(Digest::Sha256([1; 32]));
        account.enter(other).admitted(false).pay(5, &room());
        assert_eq!(used(&account), Some((15, true)));
        assert!(account.books().storing.is_empty());
    }

    #[test]
    fn what_an_upload_set_aside_becomes_what_is_used() {
        let now = Instant::now();
        let account = account(0, Sharing::Exclusive, now);
        let (room, other) = (Room::new(Arc::clone(&account)), Room::new(Arc::clone(&account)));
        room.grow(60, now, Trust::Exact).unwrap();
        account.enter(BLOB).admitted(false).pay(60, &room);
        other.grow(40, now, Trust::Exact).unwrap();
        assert_eq!((used(&account), account.books().reserved_bytes), (Some((60, true)), 40));
    }

    #[test]
    fn what_was_not_stored_for_certain_is_counted_anew() {
        let account = account(0, Sharing::Exclusive, Instant::now());
        drop(account.enter(BLOB));
        assert_eq!(used(&account), Some((0, true)));
        drop(account.enter(BLOB).admitted(false));
        assert_eq!(used(&account), None);
        let refused = Room::new(Arc::clone(&account)).grow(1, Instant::now(), Trust::Any);
        assert_eq!(refused, Err(NoRoom::CountFirst));
    }

    #[tokio::test]
    async fn a_count_that_something_happened_during_is_not_exact() {
        type During<'a> = &'a dyn Fn(&Arc<Account>);
        let check = async |during: During<'_>, want| {
            let account = account(0, Sharing::Exclusive, Instant::now());
            let wanted = Instant::now() + Duration::from_secs(1);
            let turn = account.begin_count(wanted).await.unwrap();
            during(&account);
            account.end_count(20, wanted);
            drop(turn);
            assert_eq!(used(&account), Some(want));
            assert!(account.begin_count(wanted).await.is_none());
        };
        check(&|_| {}, (20, true)).await;
        check(&|account| store(account, 10), (30, false)).await;
        check(&|account| account.freed(), (20, false)).await;
        check(&|account| std::mem::forget(account.enter(BLOB)), (20, false)).await;
    }

    #[test]
    fn nobody_is_refused_on_a_count_that_may_be_wrong() {
        let check = |sharing, age: Duration, freed: bool, wanted, want: Result<(), bool>| {
            let time = Instant::now();
            let account = account(90, sharing, time);
            if freed {
                account.freed();
            }
            let got = Room::new(account).grow(wanted, time + age, Trust::Exact);
            assert_eq!(got.map_err(|error| error == NoRoom::CountFirst), want);
        };
        let (young, old) = (Duration::from_secs(59), Duration::from_secs(60));
        let (exclusive, shared) = (Sharing::Exclusive, Sharing::Shared);
        check(exclusive, young, false, 10, Ok(()));
        check(exclusive, young, false, 11, Err(false));
        check(exclusive, young, true, 10, Ok(()));
        check(exclusive, young, true, 11, Err(true));
        check(exclusive, old, false, 10, Ok(()));
        check(exclusive, old, false, 11, Err(true));
        check(shared, young, false, 10, Ok(()));
        check(shared, old, false, 10, Err(true));
    }

    #[test]
    fn what_was_deleted_while_it_was_found_here_is_paid_again() {
        let account = account(10, Sharing::Exclusive, Instant::now());
        let charge = account.enter(BLOB).admitted(true);
        account.freed();
        charge.pay(10, &Room::new(Arc::clone(&account)));
        assert_eq!(used(&account), Some((20, false)));
    }
}
