//! Raw images, written with a hole wherever a block of the disk is zero.

use std::ops::Range;

use crate::image::write::{ImageWriteError, Job, Output, is_zero};

/// What file systems give and keep at a time.
pub(in crate::image) const BLOCK_BYTES: usize = 4096;

pub(in crate::image) fn write(job: &Job<'_>, out: &Output) -> Result<u64, ImageWriteError> {
    let size_bytes = job.disk.size_bytes();
    out.extend_to(size_bytes)?;
    job.each_window(
        BLOCK_BYTES as u64,
        || find_data,
        |window| {
            for data in &window.made {
                let offset = window.offset + data.start as u64;
                // The last block may reach past the end of the disk.
                let len = (data.len() as u64).min(size_bytes - offset) as usize;
                out.write_at(offset, &window.content[data.start..][..len], "the disk's content")?;
            }
            Ok(())
        },
    )?;
    Ok(size_bytes)
}

/// The stretches of blocks that are not zero.
pub(in crate::image) fn find_data(content: &[u8], found: &mut Vec<Range<usize>>) {
    found.clear();
    for (number, block) in content.chunks_exact(BLOCK_BYTES).enumerate() {
        if is_zero(block) {
            continue;
        }
        let start = number * BLOCK_BYTES;
        match found.last_mut() {
            Some(last) if last.end == start => last.end += BLOCK_BYTES,
            _ => found.push(start..start + BLOCK_BYTES),
        }
    }
}
