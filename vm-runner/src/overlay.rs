//! Empty qcow2 images: what a guest writes to, over a disk that is never written.
//!
//! The image says nothing about what lies beneath it: no backing file is named, because a name in a
//! file is a path that somebody opens. Whoever starts QEMU joins overlay and disk by node name.
//!
//! ```text
//! cluster 0     header (104 bytes), end of header extensions
//! cluster 1     refcount table, one entry used
//! cluster 2     refcount block: one reference for each cluster in this list
//! cluster 3...  L1 table, all zero: nothing is allocated
//! ```
//!
//! Source: QEMU `docs/interop/qcow2.txt`, version 3.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, Permissions};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};

const CLUSTER_BITS: u32 = 16;
const CLUSTER_BYTES: u64 = 1 << CLUSTER_BITS;

/// Disk bytes under one L1 entry: a cluster of L2 entries of 8 bytes, each for a cluster.
const BYTES_PER_L1_ENTRY: u64 = CLUSTER_BYTES / 8 * CLUSTER_BYTES;

/// References are counted in 16 bits, the order being the power of two.
const REFCOUNT_ORDER: u32 = 4;

const HEADER_BYTES: u32 = 104;

/// The largest disk: one refcount block must do for the L1 table, and QEMU takes no L1 table over 32 MiB.
const MAX_DISK_BYTES: u64 = (32 << 20) / 8 * BYTES_PER_L1_ENTRY;

/// Why there is no overlay.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OverlayError {
    /// No qcow2 of this size.
    #[error("a disk of {size_bytes} bytes cannot have an overlay; it must be a multiple of 512, up to 2 PiB")]
    BadSize {
        /// The size asked for.
        size_bytes: u64,
    },
    /// The file cannot be made; among other reasons because it is already there.
    #[error("cannot create the overlay `{}`", path.display())]
    Io {
        /// Where.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

/// Creates an overlay for a disk of `size_bytes` at `path`, readable and writable by this user only,
/// and returns it open for both. File and directory entry are on stable storage afterwards. Whoever is
/// killed meanwhile leaves the whole overlay or nothing at `path`, and perhaps a hidden file beside it that
/// the next call removes.
///
/// # Errors
///
/// [`OverlayError`]. A file that is already there is left alone.
pub fn create(path: &Path, size_bytes: u64) -> Result<File, OverlayError> {
    let metadata = empty_image(size_bytes).ok_or(OverlayError::BadSize { size_bytes })?;
    let failed = |source| OverlayError::Io { path: path.into(), source };
    publish(path, &metadata).map_err(failed)
}

/// An overlay without a name, on the file system of `folder`: what the guest writes is gone when the
/// last descriptor is closed, however that comes about.
///
/// # Errors
///
/// [`OverlayError`]; its path is the folder's.
pub fn create_ephemeral(folder: &Path, size_bytes: u64) -> Result<File, OverlayError> {
    let metadata = empty_image(size_bytes).ok_or(OverlayError::BadSize { size_bytes })?;
    let failed = |source| OverlayError::Io { path: folder.into(), source };
    let file = tempfile::tempfile_in(folder).map_err(failed)?;
    write_image(&file, &metadata).map_err(failed)?;
    Ok(file)
}

/// Writes the image beside `path`, and gives it that name once it is whole.
fn publish(path: &Path, image: &Image) -> io::Result<File> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut prefix = OsString::from(".");
    prefix.push(path.file_name().ok_or(io::ErrorKind::InvalidInput)?);
    prefix.push(".new-");
    remove_leftovers(folder, &prefix)?;
    let new = tempfile::Builder::new()
        .prefix(&prefix)
        .permissions(Permissions::from_mode(0o600))
        .tempfile_in(folder)?;
    write_image(new.as_file(), image)?;
    new.as_file().sync_all()?;
    let file = new.persist_noclobber(path)?;
    File::open(folder)?.sync_all()?;
    Ok(file)
}

/// Removes what somebody who was killed left of this overlay. Should they live after all, they fail.
fn remove_leftovers(folder: &Path, prefix: &OsStr) -> io::Result<()> {
    for entry in folder.read_dir()? {
        let entry = entry?;
        if entry.file_name().as_bytes().starts_with(prefix.as_bytes()) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

fn write_image(mut file: &File, image: &Image) -> io::Result<()> {
    file.write_all(&image.header)?;
    file.write_all_at(&image.refcount_table_entry, CLUSTER_BYTES)?;
    file.write_all_at(&image.refcounts, 2 * CLUSTER_BYTES)?;
    file.set_len(image.file_bytes)
}

/// The parts of an empty image that are not zero.
struct Image {
    header: Vec<u8>,
    refcount_table_entry: [u8; 8],
    refcounts: Vec<u8>,
    file_bytes: u64,
}

/// `None` for a size that is no disk's.
fn empty_image(size_bytes: u64) -> Option<Image> {
    if size_bytes == 0 || !size_bytes.is_multiple_of(512) || size_bytes > MAX_DISK_BYTES {
        return None;
    }
    let l1_entries = size_bytes.div_ceil(BYTES_PER_L1_ENTRY);
    let l1_clusters = (l1_entries * 8).div_ceil(CLUSTER_BYTES);
    let clusters = 3 + l1_clusters;
    Some(Image {
        header: header(size_bytes, l1_entries as u32),
        refcount_table_entry: (2 * CLUSTER_BYTES).to_be_bytes(),
        refcounts: (0..clusters).flat_map(|_| 1u16.to_be_bytes()).collect(),
        file_bytes: clusters * CLUSTER_BYTES,
    })
}

/// Header and the empty list of extensions after it.
fn header(size_bytes: u64, l1_entries: u32) -> Vec<u8> {
    let mut header = Vec::with_capacity(HEADER_BYTES as usize + 8);
    header.extend(b"QFI\xfb");
    header.extend(3u32.to_be_bytes()); // version
    header.extend(0u64.to_be_bytes()); // backing_file_offset: none
    header.extend(0u32.to_be_bytes()); // backing_file_size
    header.extend(CLUSTER_BITS.to_be_bytes());
    header.extend(size_bytes.to_be_bytes());
    header.extend(0u32.to_be_bytes()); // crypt_method: none
    header.extend(l1_entries.to_be_bytes()); // l1_size
    header.extend((3 * CLUSTER_BYTES).to_be_bytes()); // l1_table_offset
    header.extend(CLUSTER_BYTES.to_be_bytes()); // refcount_table_offset
    header.extend(1u32.to_be_bytes()); // refcount_table_clusters
    header.extend(0u32.to_be_bytes()); // nb_snapshots
    header.extend(0u64.to_be_bytes()); // snapshots_offset
    header.extend(0u64.to_be_bytes()); // incompatible_features
    header.extend(0u64.to_be_bytes()); // compatible_features
    header.extend(0u64.to_be_bytes()); // autoclear_features
    header.extend(REFCOUNT_ORDER.to_be_bytes());
    header.extend(HEADER_BYTES.to_be_bytes()); // header_length
    header.extend([0; 8]); // end of header extensions
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_says_what_the_specification_asks() {
        let image = empty_image(1 << 30).unwrap();
        assert_eq!(image.header.len(), 112);
        assert_eq!(&image.header[..8], b"QFI\xfb\0\0\0\x03");
        assert_eq!(&image.header[8..20], [0; 12]); // No backing file.
        assert_eq!(image.file_bytes, 4 * CLUSTER_BYTES);
        assert_eq!(image.refcounts, [0, 1, 0, 1, 0, 1, 0, 1]);
    }

    #[test]
    fn only_sizes_that_a_disk_can_have_are_accepted() {
        for (size_bytes, possible) in [
            (0, false),
            (511, false),
            (512, true),
            (513, false),
            (10 << 40, true),
            (MAX_DISK_BYTES, true),
            (MAX_DISK_BYTES + 512, false),
            (u64::MAX, false),
        ] {
            assert_eq!(empty_image(size_bytes).is_some(), possible, "{size_bytes}");
        }
        // One refcount block counts the clusters of even the largest L1 table.
        let largest = empty_image(MAX_DISK_BYTES).unwrap();
        assert!(largest.refcounts.len() as u64 <= CLUSTER_BYTES);
    }
}
