//! The power goes after the N-th change to the disk, for every N, and takes what was not synced.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use blob_store::FolderStorage;

use crate::disk::{Disk, PowerCut};
use crate::faults::{Fault, Hand};
use crate::script::{Crash, Known, Op, Player, script};
use crate::{one_at_a_time, run, scratch};

/// How many ways of losing some of what is not certain are tried, besides those of losing all.
const CHANCES: u64 = 6;

const ROOT: &str = "srv/storage";

/// Plays until something fails, and returns how many operations were acknowledged.
async fn play_until_stopped(script: &[Op], player: &mut Player, hand: &Hand) -> usize {
    for (number, op) in (1..).zip(script) {
        if player.play(op).await.is_err() {
            return number - 1;
        }
        hand.acknowledged.store(number, Ordering::SeqCst);
    }
    script.len()
}

/// The disk after each step of the script, and how many operations were acknowledged by then.
fn history(script: &[Op]) -> (Vec<(Disk, usize)>, tempfile::TempDir) {
    let top = scratch();
    let hand = Hand::recording(Disk::new(top.path()));
    run(async {
        let storage = FolderStorage::open_with_faults(top.path().join(ROOT), hand.clone()).unwrap();
        let done = play_until_stopped(script, &mut Player::new(storage), &hand).await;
        assert_eq!(done, script.len());
    });
    let history = hand.history();
    (history, top)
}

/// The storage that a power cut leaves of `disk` opens, and holds what `known` says.
fn check_image(disk: &Disk, known: &Known, cut: PowerCut) {
    let top = scratch();
    disk.write_image(top.path(), cut);
    let root = top.path().join(ROOT);
    let hand = Hand::new(Disk::found(top.path()), None);
    let storage = FolderStorage::open_with_faults(&root, hand.clone()).unwrap();
    run(known.check(&storage, &hand.disk(), &root, Crash::PowerCut));
}

#[test]
fn what_was_acknowledged_survives_a_power_cut_at_every_step() {
    let _turn = one_at_a_time();
    let script = script();
    let (history, top) = history(&script);
    let mut images = 0;
    for (number, (disk, before)) in history.iter().enumerate() {
        let chances = (0..CHANCES).map(|chance| PowerCut::Some(chance << 32 | number as u64));
        let cuts: Vec<_> =
            [PowerCut::All, PowerCut::Content, PowerCut::Names].into_iter().chain(chances).collect();
        // The next step may be that of a later operation: until then, all before that were acknowledged.
        let after = history.get(number + 1).map_or(script.len(), |(_, acknowledged)| *acknowledged);
        for acknowledged in *before..=after {
            let known = Known::after(&script, acknowledged);
            known.check_disk(disk, &top.path().join(ROOT));
            cuts.iter().for_each(|cut| check_image(disk, &known, *cut));
            images += cuts.len();
        }
    }
    println!("figure: power cut points = {}, disks compared = {images}, lost = 0", history.len());
}

#[test]
fn after_a_kill_at_every_step_readers_see_only_what_survives_a_power_cut() {
    let _turn = one_at_a_time();
    let script = script();
    for at in 1.. {
        let top = scratch();
        let root = top.path().join(ROOT);
        let hand = Hand::new(Disk::new(top.path()), Some((at, Fault::Stop)));
        let acknowledged = run(async {
            match FolderStorage::open_with_faults(&root, hand.clone()) {
                Ok(storage) => play_until_stopped(&script, &mut Player::new(storage), &hand).await,
                Err(_) => 0,
            }
        });
        let known = Known::after(&script, acknowledged);
        // It is stopped again while it starts, each time a step later, until it starts whole.
        for again in 1.. {
            let hand = Hand::on(hand.shared_disk(), Some((again, Fault::Stop)));
            if let Ok(storage) = FolderStorage::open_with_faults(&root, hand.clone()) {
                run(known.check(&storage, &hand.disk(), &root, Crash::Kill));
                break;
            }
        }
        known.check_disk(&hand.disk(), &root);
        if acknowledged == script.len() {
            println!("figure: stops before a power cut = {}, lost = 0", at - 1);
            return;
        }
    }
}

/// One who deletes a key is stopped at step `at`, and after a start another deletes the last key below it.
/// False if there is no such step.
fn stop_a_delete(at: usize) -> bool {
    let top = scratch();
    let root = top.path().join(ROOT);
    let hand = Hand::new(Disk::new(top.path()), None);
    let mut known = Known::default();
    let mut play = async |hand: &Arc<Hand>, ops: &[Op]| {
        let mut player = Player::new(FolderStorage::open_with_faults(&root, hand.clone()).unwrap());
        for op in ops {
            match player.play(op).await {
                Ok(put) => known.acknowledge(op, put),
                Err(_) => known.doubt(op),
            }
        }
        known.check_disk(&hand.disk(), &root);
    };
    run(async {
        let (upper, lower) = (Op::Delete("w/1/a"), Op::Delete("w/1/b/c"));
        play(&hand, &[Op::Put("w/1/a", "x".into()), Op::Put("w/1/b/c", "y".into())]).await;
        let stopped = Hand::on(hand.shared_disk(), Some((at, Fault::Stop)));
        play(&stopped, std::slice::from_ref(&upper)).await;
        // Its folders go, and with them the trace of a deletion that was not acknowledged.
        play(&hand, &[lower, upper]).await;
        play(&hand, &[Op::Put("w/1/a", "z".into()), Op::Delete("w/1/a")]).await;
        stopped.failed_step().is_some()
    })
}

#[test]
fn what_was_deleted_before_a_crash_does_not_come_back_with_its_folder() {
    let _turn = one_at_a_time();
    let stops = (1..).take_while(|at| stop_a_delete(*at)).count();
    assert!(stops >= 3, "{stops}");
}

#[test]
fn the_drill_sees_what_is_lost() {
    let _turn = one_at_a_time();
    let script = script();
    let (history, top) = history(&script);
    // Acknowledged one operation too early, each of them would be lost at some point.
    let root = top.path().join(ROOT);
    let is_lost = |(disk, acknowledged): &(Disk, usize)| {
        let known = Known::after(&script, script.len().min(acknowledged + 1));
        std::panic::catch_unwind(|| known.check_disk(disk, &root)).is_err()
    };
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let lost = history.iter().filter(|point| is_lost(point)).count();
    std::panic::set_hook(hook);
    assert!(lost > 20, "{lost}");
}
