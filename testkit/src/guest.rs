//! A whole small machine to boot: Debian's kernel, busybox, a web server, about four seconds without hardware virtualisation.
//!
//! What it does, port by port, is written in `testkit/guest/init`; `scripts/build-test-guest` makes its disk. Here the disk is
//! built when it is first asked for, once for all test processes, and kept under `target/`.
//! It never installs a package: where a tool is missing the caller gets a reason to skip.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What the guest writes to its serial console, on a line of its own, when all its services answer.
pub const READY_LINE: &str = "HULL-GUEST READY";
/// The guest's page that answers `ok`, on ports 80 and 8081.
pub const HEALTH_PATH: &str = "/healthz";
/// What the service on port 2525 says to whoever connects, before it reads anything.
pub const BANNER: &str = "220 hull test guest\r\n";
/// Memory that the guest needs to boot, in MiB.
pub const MEMORY_MIB: u32 = 256;

/// Why there is no test guest on this machine: a reason to skip.
#[derive(Debug, thiserror::Error)]
#[error("no test guest: {reason}")]
pub struct Unavailable {
    reason: String,
}

/// The guest's disk, raw, 48 MiB. Shared by all tests, so boot it through an overlay or a snapshot.
///
/// # Errors
///
/// [`Unavailable`] with what the build said last.
pub fn disk() -> Result<PathBuf, Unavailable> {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let folder = workspace.join("target/test-guest");
    let disk = folder.join("guest.raw");
    let _lock = lock(&folder).map_err(|e| Unavailable { reason: format!("{}: {e}", folder.display()) })?;
    let script = workspace.join("scripts/build-test-guest");
    let built = Command::new(&script)
        .arg(&disk)
        .output()
        .map_err(|e| Unavailable { reason: format!("{}: {e}", script.display()) })?;
    if built.status.success() {
        return Ok(disk);
    }
    let said = String::from_utf8_lossy(&built.stderr);
    Err(Unavailable { reason: said.lines().last().unwrap_or("the build failed and said nothing").to_owned() })
}

/// Held while the disk is looked at or built; released when the file is closed.
fn lock(folder: &Path) -> io::Result<File> {
    std::fs::create_dir_all(folder)?;
    let lock = File::create(folder.join("lock"))?;
    lock.lock()?;
    Ok(lock)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guest_is_a_partitioned_disk_that_a_bios_can_start() {
        let disk = match disk() {
            Ok(disk) => disk,
            Err(reason) => return eprintln!("skipped: {reason}"),
        };
        let image = std::fs::read(disk).unwrap();
        assert_eq!(image.len(), 48 << 20);
        assert_eq!(image[510..512], [0x55, 0xaa], "boot signature");
        assert_eq!(image[446], 0x80, "the first partition is the active one");
        assert_eq!(image[(1 << 20) + 1024 + 56..][..2], [0x53, 0xef], "ext4 at 1 MiB");
    }
}
