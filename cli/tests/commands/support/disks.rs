//! Small disks.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The size of every disk here.
pub(crate) const DISK_BYTES: usize = 8 << 20;

/// A disk that boots to `BOOT` and then halts.
pub(crate) fn boot() -> Vec<u8> {
    let mut disk = testkit::boot_sector();
    disk.resize(DISK_BYTES, 0);
    disk
}

/// A disk of which `data_bytes` at its beginning cannot be compressed and the rest is zero. Another
/// `seed` is another content.
pub(crate) fn noise(seed: u64, data_bytes: usize) -> Vec<u8> {
    let mut disk = vec![0; DISK_BYTES.max(data_bytes)];
    // xorshift64 (Marsaglia, 2003): good enough to defeat a compressor.
    let mut state = 0x9e37_79b9_7f4a_7c15 ^ (seed + 1);
    for word in disk[..data_bytes].chunks_exact_mut(8) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        word.copy_from_slice(&state.to_le_bytes());
    }
    disk
}

/// Converts a raw disk with `qemu-img`; `options` such as `-O qcow2`. Returns the new image.
#[track_caller]
pub(crate) fn convert(raw: &Path, options: &str, name: &str) -> PathBuf {
    let image = raw.with_file_name(name);
    let mut command = Command::new("qemu-img");
    command.args(["convert", "-f", "raw"]).args(options.split(' ')).arg(raw).arg(&image);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    image
}

/// Runs `qemu-img create` in `folder`.
#[track_caller]
pub(crate) fn create(folder: &Path, arguments: &str) {
    let mut command = Command::new("qemu-img");
    command.arg("create").args(arguments.split(' ')).current_dir(folder);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Overwrites bytes of a file.
#[track_caller]
pub(crate) fn patch(file: &Path, offset: usize, bytes: &[u8]) {
    let mut content = fs::read(file).unwrap();
    content[offset..][..bytes.len()].copy_from_slice(bytes);
    fs::write(file, content).unwrap();
}

/// Cuts a file off after `len` bytes.
#[track_caller]
pub(crate) fn cut(file: &Path, len: u64) {
    fs::File::options().write(true).open(file).and_then(|file| file.set_len(len)).unwrap();
}
