//! The N-th change to the disk fails, for every N: no space is left, or the disk is broken.

use std::fs;
use std::path::Path;

use blob_store::{FolderStorage, StorageError};
use rustix::io::Errno;

use crate::disk::Disk;
use crate::faults::{Fault, Hand, Lasting};
use crate::script::{Crash, Known, Op, Player, script};
use crate::{one_at_a_time, run, scratch};

/// A storage that fails while the script is played on it, as the registry would play it: an append
/// is tried twice, a session that could not be synced or finished is aborted.
struct Drill<'a> {
    player: Player,
    known: Known,
    hand: &'a Hand,
    root: &'a Path,
    errno: Errno,
    lasting: Lasting,
    /// Errors that were not [`StorageError::ReadOnly`].
    failures: usize,
}

impl Drill<'_> {
    async fn play(&mut self, op: &Op) {
        if self.player.lacks_the_session_of(op) {
            return;
        }
        let is_done = self.try_once(op).await;
        match op {
            Op::Append(..) if !is_done => drop(self.try_once(op).await),
            Op::Sync(number) | Op::Finish(number, _) if !is_done => {
                self.try_once(&Op::Abort(*number)).await;
            }
            // Also where its file could not be removed: appending to it would change the key.
            Op::Finish(number, name) => {
                assert!(!self.player.is_open(*number).await, "session {number} is {name}, and is open");
            }
            _ => {}
        }
        self.known.check_reading(&self.player.storage, &self.hand.disk(), self.root).await;
        self.known.check_disk(&self.hand.disk(), self.root);
    }

    async fn try_once(&mut self, op: &Op) -> bool {
        let was_well = self.hand.failed_step().is_none();
        match self.player.play(op).await {
            Ok(put) => {
                self.known.acknowledge(op, put);
                true
            }
            Err(error) => {
                self.check_error(op, &error, was_well);
                self.known.doubt(op);
                false
            }
        }
    }

    /// An error says what happened, and only what must fail does.
    fn check_error(&mut self, op: &Op, error: &StorageError, was_well: bool) {
        let step = self.hand.failed_step().unwrap_or_else(|| panic!("{op:?} failed by itself: {error:?}"));
        match error {
            StorageError::ReadOnly => assert!(self.is_read_only(), "read-only after a failed {step}"),
            StorageError::Full => assert_eq!(self.errno, Errno::NOSPC),
            StorageError::Io { source, .. } => {
                assert_eq!(source.raw_os_error(), Some(self.errno.raw_os_error()));
                assert_ne!(self.errno, Errno::NOSPC);
            }
            error => panic!("{op:?}: {error:?}"),
        }
        if !matches!(error, StorageError::ReadOnly) {
            self.failures += 1;
            assert!(was_well || self.lasting != Lasting::Once, "{op:?} failed long after a failed {step}");
            let needs_no_space = matches!(op, Op::Delete(_) | Op::Abort(_));
            assert!(was_well || self.lasting != Lasting::Full || !needs_no_space, "{op:?} on a full disk");
        }
    }

    /// Whether something failed after which nobody knows what is durable.
    fn is_read_only(&self) -> bool {
        self.errno == Errno::IO && self.hand.has_failed_to_sync()
    }

    /// What can still be done when the script is through.
    async fn check_end(&mut self) {
        if self.is_read_only() {
            for op in [Op::Put("zz", "x".into()), Op::Delete("blobs/bb/empty"), Op::Begin(9)] {
                let error = self.player.play(&op).await.unwrap_err();
                assert!(matches!(error, StorageError::ReadOnly), "{op:?}: {error:?}");
            }
        } else if self.lasting == Lasting::Once {
            self.play(&Op::Put("zz", "x".into())).await;
            assert!(self.failures <= 1);
            // What was not removed, or perhaps has a key that is not durable, waits for the next start.
            let step = self.hand.failed_step();
            let may_be_left = step.is_some_and(|step| step == "remove" || step == "sync folder");
            let left = fs::read_dir(self.root.join(".new")).unwrap().count();
            assert!(left <= usize::from(may_be_left), "{left} files are left after a failed {step:?}");
        }
    }
}

/// Plays the script while step `at` fails. False if the script has no such step.
async fn drill(at: usize, errno: Errno, lasting: Lasting) -> bool {
    let top = scratch();
    let root = top.path().join("srv/storage");
    let hand = Hand::new(Disk::new(top.path()), Some((at, Fault::Fail(errno, lasting))));
    let mut known = match FolderStorage::open_with_faults(&root, hand.clone()) {
        Err(error) => {
            assert!(hand.failed_step().is_some(), "{error:?}");
            Known::default()
        }
        Ok(storage) => {
            let (player, known) = (Player::new(storage), Known::default());
            let mut drill = Drill { player, known, hand: &hand, root: &root, errno, lasting, failures: 0 };
            for op in script() {
                drill.play(&op).await;
            }
            drill.check_end().await;
            drill.known
        }
    };
    known.check_disk(&hand.disk(), &root);
    known.may_keep_sessions =
        matches!(hand.failed_step(), Some("remove" | "sync folder")) || lasting == Lasting::Dead;
    let well = Hand::on(hand.shared_disk(), None);
    let storage = FolderStorage::open_with_faults(&root, well.clone()).unwrap();
    known.check(&storage, &well.disk(), &root, Crash::Kill).await;
    known.check_disk(&well.disk(), &root);
    hand.failed_step().is_some()
}

#[test]
fn what_a_failed_append_left_is_no_part_of_the_content() {
    let _turn = one_at_a_time();
    let top = scratch();
    let root = top.path().join("storage");
    let (long, short) = (vec![1; 1000], vec![2; 10]);
    let steps_before = {
        let hand = Hand::new(Disk::new(top.path()), None);
        let storage = FolderStorage::open_with_faults(&root, hand.clone()).unwrap();
        run(Player::new(storage).play(&Op::Begin(1))).unwrap();
        hand.steps().len()
    };
    let other = scratch();
    let root = other.path().join("storage");
    // Neither can all of it be written, nor what was written be cut off.
    let fault = Fault::Fail(Errno::IO, Lasting::Twice);
    let hand = Hand::new(Disk::new(other.path()), Some((steps_before + 1, fault)));
    let storage = FolderStorage::open_with_faults(&root, hand.clone()).unwrap();
    run(async {
        let mut player = Player::new(storage);
        player.play(&Op::Begin(1)).await.unwrap();
        player.play(&Op::Append(1, vec![long.into()])).await.unwrap_err();
        assert_eq!(hand.failed_step(), Some("write"));
        player.play(&Op::Append(1, vec![short.clone().into()])).await.unwrap();
        player.play(&Op::Finish(1, "k")).await.unwrap();
    });
    assert_eq!(fs::read(root.join("k")).unwrap(), short);
}

#[test]
fn whatever_fails_nothing_acknowledged_is_lost_and_reading_goes_on() {
    let _turn = one_at_a_time();
    let mut failures = 0;
    for (errno, lasting) in [
        (Errno::NOSPC, Lasting::Once),
        (Errno::NOSPC, Lasting::Full),
        (Errno::IO, Lasting::Once),
        (Errno::IO, Lasting::Dead),
    ] {
        failures += (1..).take_while(|at| run(drill(*at, errno, lasting))).count();
    }
    println!("figure: failed steps = {failures}, lost = 0");
}
