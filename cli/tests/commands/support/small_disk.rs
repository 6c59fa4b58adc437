//! A file system that is soon full.

use std::path::{Path, PathBuf};
use std::process::Command;

/// A small file system in memory; unmounted when this goes.
#[derive(Debug)]
pub(crate) struct SmallDisk(PathBuf);

impl SmallDisk {
    /// Mounts `size` (such as `4m`) at `path`; `None`, and says that the test skips, where this may not mount.
    pub(crate) fn mount(path: &Path, size: &str) -> Option<Self> {
        std::fs::create_dir_all(path).unwrap();
        match mount(path, &format!("size={size}")) {
            true => Some(Self(path.to_owned())),
            false => {
                eprintln!("skipped: may not mount a file system");
                None
            }
        }
    }

    /// Makes it `size`, with everything that is on it.
    #[track_caller]
    pub(crate) fn resize(&self, size: &str) {
        assert!(mount(&self.0, &format!("remount,size={size}")));
    }
}

fn mount(path: &Path, options: &str) -> bool {
    let mut command = Command::new("mount");
    command.args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(path);
    command.output().is_ok_and(|output| output.status.success())
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: what still has a file open there loses nothing.
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}
