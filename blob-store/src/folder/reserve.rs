//! Space that is kept for tombstones, so that a full disk can be emptied again.
//!
//! ```text
//! <root>/.reserve/<n>   64 KiB that mean nothing, 16 of them
//! ```
//!
//! Before something can be deleted, a tombstone often has to be put, and that takes a file number, a
//! block, perhaps another for its folder. Where the disk has none left, files of the reserve are given
//! up, one after the other, until the tombstone fits. From then on nothing else is written until the
//! reserve is whole again: no push takes what was given up. The first write that finds enough space,
//! since something was deleted, makes it whole.
//!
//! The files hold noise: a file system that compresses would keep nothing for zeros. Nothing of this is
//! made durable. After a power cut the reserve may be smaller, and is made whole again.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use super::steps::Steps;

/// Folder of the reserve.
const RESERVE: &str = ".reserve";
const FILES: u64 = 16;
const FILE_BYTES: usize = 64 << 10;

#[derive(Debug)]
pub(super) struct Reserve {
    folder: PathBuf,
    /// Known to be whole. False at the start, so that the first write looks.
    is_whole: AtomicBool,
    /// Held by who changes the files.
    changing: Mutex<()>,
}

impl Reserve {
    /// The reserve of the storage in `root`. The first [`Reserve::make_whole`] makes its files.
    pub(super) fn new(root: &Path) -> Self {
        Self { folder: root.join(RESERVE), is_whole: AtomicBool::new(false), changing: Mutex::default() }
    }

    /// Makes the reserve whole unless it is. Costs next to nothing where it is.
    ///
    /// # Errors
    ///
    /// Where that fails, there is no space for other writes either.
    pub(super) fn make_whole(&self, steps: &Steps) -> io::Result<()> {
        if self.is_whole.load(Ordering::Acquire) {
            return Ok(());
        }
        let _changing = self.changing.lock().expect("nobody panics while holding the reserve");
        if !self.folder.is_dir() {
            steps.make_folder(&self.folder)?;
        }
        for number in 0..FILES {
            let path = self.folder.join(number.to_string());
            match fs::metadata(&path) {
                Ok(data) if data.len() == FILE_BYTES as u64 => continue,
                Ok(_) => steps.remove(&path)?, // stopped while it was being written
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
            let file = steps.create(&path)?;
            steps.write(&file, &path, 0, &noise(number))?;
        }
        self.is_whole.store(true, Ordering::Release);
        Ok(())
    }

    /// Gives up a file of the reserve. False if none is left.
    pub(super) fn give_up_one(&self, steps: &Steps) -> io::Result<bool> {
        let _changing = self.changing.lock().expect("nobody panics while holding the reserve");
        self.is_whole.store(false, Ordering::Release);
        let Some(file) = fs::read_dir(&self.folder)?.next() else { return Ok(false) };
        steps.remove(&file?.path())?;
        Ok(true)
    }
}

/// Bytes that no file system can store in less space, others for each number.
fn noise(number: u64) -> Vec<u8> {
    let mut state = number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut bytes = vec![0; FILE_BYTES];
    for word in bytes.chunks_exact_mut(8) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        word.copy_from_slice(&state.to_le_bytes());
    }
    bytes
}
