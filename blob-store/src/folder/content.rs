//! How a session's content gets into its file.
//!
//! Long content goes to the disk directly, past the kernel's cache. Copying it there costs about as
//! much as receiving it did; and what waits in the cache to be written holds up every `sync` on the
//! file system, of other uploads as well. What is short, or does not lie on page boundaries, goes
//! through the cache, and so does everything where the file system cannot do without.
//!
//! The price is that the first pull after a push reads from the disk. Measured in one run on a busy
//! virtual machine, 1 GiB each, medians of three:
//!
//! ```text
//!                                        push              first pull        later pulls
//! past the cache                         1.8 s, 1.4 s CPU  1.4 s, 0.5 s CPU  1.1 s, 0.4 s CPU
//! past the cache, fetched back at once   1.8 s, 1.3 s CPU  1.5 s, 0.6 s CPU  1.6 s, 0.4 s CPU
//! through the cache, early write-back    7.4 s, 3.6 s CPU  1.5 s, 0.4 s CPU  1.4 s, 0.4 s CPU
//! ```
//!
//! The cache makes a push four times as slow to save a fraction of a second once. Fetching back what
//! was just pushed takes the disk away from other pushes, also for content that nobody pulls, and a
//! pull right after the push is no faster for it. So a pull fetches what it needs, ahead of itself.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use super::steps::Steps;

/// What content that goes to the disk directly begins and ends at a multiple of, in the file, and
/// begins at a multiple of in memory. More than most disks ask for.
const BOUNDARY: usize = 4 << 10;
/// The shortest content that goes to the disk directly. Shorter content is soon read again.
const DIRECT_MIN: usize = 1 << 20;

/// The file of a session.
#[derive(Debug)]
pub(super) struct ContentFile {
    cached: Arc<File>,
    /// The same file, past the cache; opened when it is needed. `None` where that cannot be had.
    direct: OnceLock<Option<File>>,
}

impl ContentFile {
    pub(super) fn new(file: File) -> Self {
        Self { cached: Arc::new(file), direct: OnceLock::new() }
    }

    /// The file for everything but appending.
    pub(super) fn file(&self) -> &Arc<File> {
        &self.cached
    }

    /// Writes all of `bytes` at `offset`. After an error some of them may be there.
    pub(super) fn write(&self, steps: &Steps, path: &Path, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let (direct, rest) = bytes.split_at(direct_part(offset, bytes));
        if !direct.is_empty() {
            self.write_direct(steps, path, offset, direct)?;
        }
        steps.write(&self.cached, path, offset + direct.len() as u64, rest)
    }

    fn write_direct(&self, steps: &Steps, path: &Path, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let direct = self.direct.get_or_init(|| steps.reopen_direct(path).ok());
        let written = match direct {
            Some(file) => steps.write(file, path, offset, bytes),
            None => Err(io::ErrorKind::InvalidInput.into()),
        };
        match written {
            // The file system wants the cache, or wider boundaries.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                steps.write(&self.cached, path, offset, bytes)
            }
            written => written,
        }
    }
}

/// How many of `bytes` can go to the disk directly: the first so many, or none.
fn direct_part(offset: u64, bytes: &[u8]) -> usize {
    let lies_well = offset.is_multiple_of(BOUNDARY as u64) && bytes.as_ptr().align_offset(BOUNDARY) == 0;
    let part = bytes.len() - bytes.len() % BOUNDARY;
    if lies_well && part >= DIRECT_MIN { part } else { 0 }
}
