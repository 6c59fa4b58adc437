//! SIGKILL before, during and after the N-th change to the disk, for every N, and while the storage
//! is opened again.
//!
//! What is killed is this test binary, started again and told by its environment what to do. It says
//! which operations were acknowledged until it is killed.

use std::env;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;

use blob_store::{FolderStorage, Put};

use crate::disk::Disk;
use crate::faults::{Fault, Hand, Moment};
use crate::script::{Crash, Known, Op, Player, script};
use crate::{one_at_a_time, run, scratch};

/// The folder that holds the storage's folder.
const TOP: &str = "HULL_TEST_DRILL_TOP";
/// How many operations are played.
const OPERATIONS: &str = "HULL_TEST_DRILL_OPERATIONS";
/// The step at which the process is killed, and the moment.
const KILL: &str = "HULL_TEST_DRILL_KILL";

const ROOT: &str = "srv/storage";

/// Not a test of its own: what is killed.
#[test]
fn play_the_script_where_the_environment_says() {
    let Some(top) = env::var_os(TOP) else { return };
    let fault = env::var(KILL).ok().map(|text| {
        let (at, moment) = text.split_once(' ').unwrap();
        let moments = [Moment::Before, Moment::Half, Moment::After];
        let moment = moments.into_iter().find(|known| format!("{known:?}") == moment).unwrap();
        (at.parse().unwrap(), Fault::Kill(moment))
    });
    let operations: usize = env::var(OPERATIONS).unwrap().parse().unwrap();
    let top = Path::new(&top);
    let hand = Hand::new(Disk::found(top), fault);
    let storage = FolderStorage::open_with_faults(top.join(ROOT), hand.clone()).unwrap();
    println!();
    run(async {
        let mut player = Player::new(storage);
        for (number, op) in script().iter().enumerate().take(operations) {
            player.play(op).await.unwrap();
            println!("acknowledged {}", number + 1);
        }
    });
    for (step, _) in hand.steps() {
        println!("step {step}");
    }
}

/// The command that plays `operations` operations in `top`, killed at `kill`.
pub(crate) fn player(program: &str, top: &Path, operations: usize, kill: Option<(usize, Moment)>) -> Command {
    let mut command = Command::new(program);
    command.env(TOP, top).env(OPERATIONS, operations.to_string());
    if let Some((at, moment)) = kill {
        command.env(KILL, format!("{at} {moment:?}"));
    }
    command
}

/// The arguments by which this binary does what the environment says.
pub(crate) const ARGUMENTS: [&str; 3] =
    ["--exact", "killed::play_the_script_where_the_environment_says", "--nocapture"];

/// The lines of `output` that begin with `prefix`, without it.
pub(crate) fn lines<'a>(output: &'a Output, prefix: &str) -> Vec<&'a str> {
    let text = std::str::from_utf8(&output.stdout).unwrap();
    text.lines().filter_map(|line| line.strip_prefix(prefix)).collect()
}

fn start(top: &Path, operations: usize, kill: Option<(usize, Moment)>) -> Output {
    let program = env::current_exe().unwrap();
    player(program.to_str().unwrap(), top, operations, kill).args(ARGUMENTS).output().unwrap()
}

fn was_killed(output: &Output) -> bool {
    match output.status.signal() {
        Some(9) => true,
        None if output.status.success() => false,
        _ => panic!("{output:?}"),
    }
}

/// Opens the storage until it is no longer killed, each time a step later. How often it was killed.
fn kill_while_it_starts(top: &Path) -> usize {
    (1..).take_while(|at| was_killed(&start(top, 0, Some((*at, Moment::After))))).count()
}

fn check(top: &Path, known: &Known) {
    let root = top.join(ROOT);
    let hand = Hand::new(Disk::found(top), None);
    let storage = FolderStorage::open_with_faults(&root, hand.clone()).unwrap();
    run(async {
        known.check(&storage, &hand.disk(), &root, Crash::Kill).await;
        let put = Player::new(storage).play(&Op::Put("z/later", "x".into())).await.unwrap();
        assert_eq!(put, Some(Put::Created));
    });
}

/// The steps of the script, from opening the storage on, and which were done.
fn steps(script: &[Op]) -> Vec<(&'static str, bool)> {
    let top = scratch();
    let hand = Hand::new(Disk::new(top.path()), None);
    run(async {
        let storage = FolderStorage::open_with_faults(top.path().join(ROOT), hand.clone()).unwrap();
        let mut player = Player::new(storage);
        for op in script {
            player.play(op).await.unwrap();
        }
    });
    Arc::into_inner(hand).unwrap().steps()
}

#[test]
fn a_kill_at_every_step_loses_nothing() {
    let _turn = one_at_a_time();
    let script = script();
    let steps = steps(&script);
    let (mut kills, mut kills_at_start) = (0, 0);
    for (at, (step, is_done)) in (1..).zip(&steps) {
        for moment in [Moment::Before, Moment::Half, Moment::After] {
            let is_moment = match moment {
                Moment::Before => true,
                Moment::Half => *step == "write",
                Moment::After => *is_done,
            };
            if !is_moment {
                continue;
            }
            let top = scratch();
            let output = start(top.path(), script.len(), Some((at, moment)));
            assert!(was_killed(&output), "not killed {moment:?} step {at}, {step}");
            kills += 1;
            kills_at_start += kill_while_it_starts(top.path());
            let acknowledged = lines(&output, "acknowledged ").len();
            check(top.path(), &Known::after(&script, acknowledged));
        }
    }
    println!("figure: kill points = {kills}, lost = 0");
    println!("figure: kill points while starting after a kill = {kills_at_start}, lost = 0");
}
