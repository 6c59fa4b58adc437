//! Between the moment a key gets its name and the moment the name is durable.

use std::io;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};

use blob_store::{Faults, FolderStorage, Key, Put, Step, Storage, StorageError};
use bytes::Bytes;

use crate::{one_at_a_time, scratch};

/// Stops whoever makes the names of `folder` durable, until it is told to go on.
#[derive(Debug)]
struct Hold {
    folder: PathBuf,
    arrived: Sender<()>,
    go_on: Mutex<Receiver<()>>,
}

impl Faults for Hold {
    fn before(&self, step: Step<'_>) -> io::Result<()> {
        if step == (Step::SyncFolder { path: &self.folder }) {
            self.arrived.send(()).unwrap();
            self.go_on.lock().unwrap().recv().unwrap();
        }
        Ok(())
    }

    fn after(&self, _: Step<'_>) {}
}

#[test]
fn nobody_sees_or_acknowledges_a_key_before_it_is_durable() {
    let _turn = one_at_a_time();
    let root = scratch();
    let ((arrived, arrivals), (go_on, held)) = (channel(), channel());
    let hold = Hold { folder: root.path().join("k"), arrived, go_on: Mutex::new(held) };
    let storage = FolderStorage::open_with_faults(root.path(), Arc::new(hold)).unwrap();
    let key = Key::new("k/x").unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
    let put = || {
        let (storage, key) = (storage.clone(), key.clone());
        runtime.spawn(async move { storage.put_if_absent(&key, Bytes::from("x")).await.unwrap() })
    };
    let first = put();
    arrivals.recv().unwrap();
    assert!(root.path().join("k/x").exists());
    runtime.block_on(async {
        let size = storage.size_bytes(&key).await;
        assert!(matches!(size, Err(StorageError::Missing { .. })), "{size:?}");
        assert!(matches!(storage.open(&key).await, Err(StorageError::Missing { .. })));
        assert_eq!(storage.list(&Key::new("k").unwrap(), None, 9).await.unwrap(), []);
    });
    // Another who puts it finds that it exists, and waits as well.
    let second = put();
    arrivals.recv().unwrap();
    assert!(!first.is_finished() && !second.is_finished());
    go_on.send(()).unwrap();
    go_on.send(()).unwrap();
    assert_eq!(runtime.block_on(first).unwrap(), Put::Created);
    assert_eq!(runtime.block_on(second).unwrap(), Put::Exists);
    assert_eq!(runtime.block_on(storage.size_bytes(&key)).unwrap(), 1);
}
