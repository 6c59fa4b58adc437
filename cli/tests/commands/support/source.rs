//! What an author has: a folder with a hull.toml and a disk.

use std::fs;
use std::path::{Path, PathBuf};

use super::Host;

/// The folder's hull.toml, unless a test writes another.
pub(crate) const HULL_TOML: &str = r#"[appliance]
name = "drill"
version = "1.0"
title = "A sector that halts"

[machine]
memory = "64MiB"

[[disk]]
name = "root"
source = "disk.raw"

[[nic]]
name = "eth0"

[[firewall.ingress]]
name = "http"
proto = "tcp"
ports = [80]
from = ["0.0.0.0/0"]

[[firewall.egress]]
name = "out"
proto = "tcp"
ports = [443]
to = ["198.51.100.0/24"]
"#;

/// Makes the folder `name` with [`HULL_TOML`] and `disk` as its disk.
pub(crate) fn author(host: &Host, name: &str, disk: &[u8]) -> PathBuf {
    author_in(host.folder(), name, disk)
}

/// As [`author`], in a folder that is no host's.
pub(crate) fn author_in(folder: &Path, name: &str, disk: &[u8]) -> PathBuf {
    let folder = folder.join(name);
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("hull.toml"), HULL_TOML).unwrap();
    fs::write(folder.join("disk.raw"), disk).unwrap();
    folder
}

/// Replaces `from` in the folder's hull.toml, where it stands, by `to`.
#[track_caller]
pub(crate) fn edit(folder: &Path, from: &str, to: &str) {
    let path = folder.join("hull.toml");
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.contains(from), "hull.toml has no `{from}`");
    fs::write(path, text.replacen(from, to, 1)).unwrap();
}
