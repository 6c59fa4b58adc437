//! Clients push, pull, mount and delete while garbage is collected without a pause, with a grace period
//! so short that there is always garbage.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use blob_store::FolderStorage;
use common::pusher::{Counts, Pusher};
use common::{Registry, figure, repetitions};
use registry::{Garbage, Limits};

const CLIENTS: u64 = 4;
const GRACE: Duration = Duration::from_secs(4);

#[test]
fn garbage_collection_disturbs_nobody() {
    let wanted = repetitions("HULL_SOAK_OPERATIONS", 2_000);
    let wanted_cycles = repetitions("HULL_SOAK_CYCLES", 10);
    let folder = tempfile::tempdir().unwrap();
    let storage = Arc::new(FolderStorage::open(folder.path()).unwrap());
    let garbage = Garbage { grace: GRACE, interval: None };
    let registry = Registry::configured(storage, Limits::default(), |config| config.garbage = garbage);
    let counts = Counts::default();
    let is_over = AtomicBool::new(false);
    let (mut cycles, mut freed, mut blobs) = (0, 0, 0);
    std::thread::scope(|scope| {
        let pushers: Vec<_> = (0..CLIENTS)
            .map(|number| {
                let (counts, is_over, client) = (&counts, &is_over, registry.client());
                scope.spawn(move || {
                    let mut pusher = Pusher::new(number, vec![client], GRACE, counts);
                    while !is_over.load(Ordering::SeqCst) {
                        pusher.step();
                    }
                    for _ in 0..20 {
                        pusher.pull();
                    }
                })
            })
            .collect();
        // Until enough was done, and garbage had the time to become some.
        while pushers.iter().all(|pusher| !pusher.is_finished())
            && (counts.operations.load(Ordering::SeqCst) < wanted || cycles < wanted_cycles || blobs == 0)
        {
            let collected = registry.collect();
            cycles += 1;
            freed += collected.freed_bytes;
            blobs += collected.deleted_generations;
        }
        is_over.store(true, Ordering::SeqCst);
    });
    let (operations, too_slow) = (counts.operations.into_inner(), counts.too_slow.into_inner());
    figure(&format!(
        "soak operations = {operations}, cycles = {cycles}, blobs deleted = {blobs}, bytes freed = {freed}, \
         failures = 0, pushes slower than the promise = {too_slow}"
    ));
    assert!(blobs > 0, "there was no garbage");
}
