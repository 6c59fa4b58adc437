//! What happens when the disk is full, or takes no writes. A file of its own, and one test at a time: it starts `mount`,
//! and a process that is being started holds, for a moment, the lock of every storage that is open.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;

use blob_store::{FolderStorage, Key, SessionId, Storage, StorageError, read_whole};
use bytes::Bytes;
use tempfile::TempDir;

const ID: SessionId = SessionId::new([9; 32]);
static TURN: Mutex<()> = Mutex::new(());

fn key(text: &str) -> Key {
    Key::new(text).unwrap()
}

fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

#[expect(clippy::print_stderr, reason = "who reads the test's output should know")]
fn skipped(why: &str) -> Option<Mounted> {
    eprintln!("skipped: {why}");
    None
}

/// A small file system, unmounted when it is dropped.
struct Mounted {
    folder: TempDir,
    _image: TempDir,
}

impl Mounted {
    /// One in memory.
    fn tmpfs(options: &str) -> Option<Self> {
        Self::mount(tempfile::tempdir().unwrap(), &["-t", "tmpfs", "-o", options, "tmpfs"])
    }

    /// A real one, with a journal, in a file.
    fn ext4(mkfs: &[&str]) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let image = folder.path().join("image");
        File::create(&image).unwrap().set_len(16 << 20).unwrap();
        let made = Command::new("mkfs.ext4").args(["-q", "-m", "0"]).args(mkfs).arg(&image).status();
        if !made.is_ok_and(|status| status.success()) {
            return skipped("cannot make an ext4 file system here");
        }
        Self::mount(folder, &["-o", "loop", image.to_str().unwrap()])
    }

    fn mount(image: TempDir, arguments: &[&str]) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount").args(arguments).arg(folder.path()).status();
        if !mounted.is_ok_and(|status| status.success()) {
            return skipped(&format!("cannot mount {arguments:?} here"));
        }
        Some(Self { folder, _image: image })
    }

    /// Calls `meanwhile` while the file system takes no writes.
    async fn while_read_only(&self, meanwhile: impl AsyncFnOnce()) {
        let mount = |arguments: &[&str]| {
            assert!(Command::new("mount").args(arguments).arg(self.path()).status().unwrap().success());
        };
        // Over itself: the mount below has files that are open for writing.
        mount(&["--bind", self.path().to_str().unwrap()]);
        mount(&["-o", "remount,bind,ro"]);
        meanwhile().await;
        assert!(Command::new("umount").arg(self.path()).status().unwrap().success());
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg(self.folder.path()).status();
        assert!(unmounted.unwrap().success());
    }
}

/// Takes all the space that is left on the file system of `folder`, as another program would.
fn fill_bytes(folder: &Path) {
    let mut file = File::create(folder.join("other")).unwrap();
    for size in [64 << 10, 512, 1] {
        while file.write_all(&vec![7; size]).is_ok() {}
    }
    assert_eq!(file.write_all(&[7]).unwrap_err().kind(), io::ErrorKind::StorageFull);
    // A block of its own is not to be had either.
    assert!(fs::write(folder.join("more"), [7; 5000]).is_err());
}

/// Takes all file numbers that are left.
fn fill_numbers(folder: &Path) {
    fs::create_dir(folder.join("others")).unwrap();
    let made = |number: &u32| File::create(folder.join("others").join(number.to_string())).is_ok();
    (0..).take_while(made).count();
}

#[test]
fn a_full_disk_is_said_and_leaves_the_storage_usable() {
    let _turn = TURN.lock();
    let Some(disk) = Mounted::tmpfs("size=4m") else { return };
    run(async {
        let storage = FolderStorage::open(disk.path()).unwrap();
        let large = Bytes::from(vec![1; 8 << 20]);
        let put = storage.put_if_absent(&key("large"), large.clone()).await;
        assert!(matches!(put, Err(StorageError::Full)), "{put:?}");
        let mut session = storage.begin(ID).await.unwrap();
        session.append(0, vec![Bytes::from("abc")]).await.unwrap();
        let appended = session.append(3, vec![large]).await;
        assert!(matches!(appended, Err(StorageError::Full)), "{appended:?}");
        // The session ends where it ended before, and what fits is still accepted.
        session.append(3, vec![Bytes::from("def")]).await.unwrap();
        session.finish(&key("small")).await.unwrap();
        assert_eq!(read_whole(&storage, &key("small"), 9).await.unwrap(), "abcdef");
        assert!(storage.put_if_absent(&key("more"), Bytes::from("x")).await.is_ok());
    });
}

/// Fills a disk by `fill`, and empties it again through tombstones, of which `tombstones` fit.
#[track_caller]
fn check_emptying(disk: Option<Mounted>, fill: fn(&Path), tombstones: usize) {
    let Some(disk) = disk else { return };
    run(async {
        let storage = FolderStorage::open(disk.path()).unwrap();
        let content = Bytes::from(vec![1; 100_000]);
        let blob = |number: usize| key(&format!("blobs/{number}/content"));
        let tombstone = |number: usize| key(&format!("blobs/{number}/content.closed"));
        for number in 0..tombstones {
            storage.put_if_absent(&blob(number), content.clone()).await.unwrap();
        }
        fill(disk.path());
        let put = storage.put_if_absent(&key("blobs/new"), content.clone()).await;
        assert!(matches!(put, Err(StorageError::Full)), "{put:?}");
        for number in 0..tombstones {
            let put = storage.put_tombstone(&tombstone(number), Bytes::from(vec![2; 200])).await;
            put.unwrap_or_else(|error| panic!("tombstone {number}: {error}"));
            // Nobody else gets what the tombstone needs.
            let begun = storage.begin(ID).await;
            assert!(matches!(begun, Err(StorageError::Full)), "{begun:?}");
        }
        // All keys are there, and can be deleted.
        for number in 0..tombstones {
            assert_eq!(read_whole(&storage, &blob(number), 1 << 20).await.unwrap(), content);
            storage.delete(&blob(number)).await.unwrap();
            storage.delete(&tombstone(number)).await.unwrap();
        }
        storage.put_if_absent(&key("blobs/new"), content.clone()).await.unwrap();
        assert_eq!(fs::read_dir(disk.path().join(".reserve")).unwrap().count(), 16);
        drop(storage);
        FolderStorage::open(disk.path()).unwrap();
    });
}

#[test]
fn a_full_disk_can_be_emptied() {
    let _turn = TURN.lock();
    check_emptying(Mounted::tmpfs("size=6m"), fill_bytes, 40);
    check_emptying(Mounted::ext4(&[]), fill_bytes, 40);
}

#[test]
fn a_disk_without_file_numbers_can_be_emptied() {
    let _turn = TURN.lock();
    // A second name takes a file number here, until the first is removed.
    check_emptying(Mounted::tmpfs("size=8m,nr_inodes=100"), fill_numbers, 15);
    check_emptying(Mounted::ext4(&["-N", "128"]), fill_numbers, 16);
}

#[test]
fn a_storage_opens_and_reads_on_a_disk_that_was_filled_meanwhile() {
    let _turn = TURN.lock();
    let Some(disk) = Mounted::tmpfs("size=4m,nr_inodes=100") else { return };
    run(async {
        let storage = FolderStorage::open(disk.path()).unwrap();
        storage.put_if_absent(&key("a"), Bytes::from("x")).await.unwrap();
        drop(storage);
        fill_bytes(disk.path());
        fill_numbers(disk.path());
        let storage = FolderStorage::open(disk.path()).unwrap();
        assert_eq!(read_whole(&storage, &key("a"), 9).await.unwrap(), "x");
        storage.put_tombstone(&key("a.closed"), Bytes::from("y")).await.unwrap();
        storage.delete(&key("a")).await.unwrap();
        storage.delete(&key("a.closed")).await.unwrap();
    });
}

#[test]
fn a_file_system_that_becomes_read_only_is_said_and_read() {
    let _turn = TURN.lock();
    let Some(disk) = Mounted::tmpfs("size=64m") else { return };
    run(async {
        let storage = FolderStorage::open(disk.path()).unwrap();
        storage.put_if_absent(&key("a"), Bytes::from("x")).await.unwrap();
        disk.while_read_only(async || {
            for refused in [
                storage.check_writable().await,
                storage.put_if_absent(&key("b"), Bytes::from("y")).await.map(drop),
                storage.put_tombstone(&key("a.closed"), Bytes::new()).await.map(drop),
                storage.delete(&key("a")).await,
                storage.begin(ID).await.map(drop),
            ] {
                assert!(matches!(refused, Err(StorageError::ReadOnly)), "{refused:?}");
            }
            assert_eq!(read_whole(&storage, &key("a"), 9).await.unwrap(), "x");
        })
        .await;
        storage.check_writable().await.unwrap();
        storage.put_if_absent(&key("b"), Bytes::from("y")).await.unwrap();
    });
}
