//! Long content begins its way to the disk while more of it arrives, so that the sync at its end finds
//! little left to do. A hint only: nothing is durable before that sync.

use std::fs::File;
use std::num::NonZeroU64;

use rustix::fs::Advice;

/// How much is worth a call to the kernel, in bytes.
const STEP: u64 = 4 << 20;

/// Has the kernel begin to write `flushed..end` to the disk, once that is worth it. Returns what
/// `flushed` is now.
///
/// The advice that content is not needed does this, as `sync_file_range` would: pages that were not
/// written back yet are not dropped, only their write-back is started.
pub(crate) fn begin(file: &File, flushed: u64, end: u64) -> u64 {
    match NonZeroU64::new(end - flushed) {
        Some(length) if length.get() >= STEP => {
            let _ = rustix::fs::fadvise(file, flushed, Some(length), Advice::DontNeed);
            end
        }
        _ => flushed,
    }
}
