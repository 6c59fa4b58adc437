//! The folder backend changes the disk in one file only, `steps.rs`, so that tests see every change.

use std::fs;
use std::path::{Path, PathBuf};

/// The one file that changes the disk.
const SEAM: &str = "steps.rs";

/// All that the other files may ask of `std::fs` and `rustix`: what reads, and what is only advice.
const ALLOWED: [(&str, &[&str]); 4] = [
    (
        "fs::",
        &[
            "read_dir",
            "metadata",
            "symlink_metadata",
            "File",
            "Advice",
            "fadvise",
            "flock",
            "FlockOperation",
            "statvfs",
            "StatVfsMountFlags",
            "FileExt",
            "MetadataExt",
        ],
    ),
    ("File::", &["open"]),
    ("rustix::", &["fs", "io"]),
    ("io::", &["self", "Error", "ErrorKind", "Errno", "IoSliceMut", "Result", "ReadWriteFlags", "preadv2"]),
];

/// What would change the disk through a file that is open already, or by another way round.
const FORBIDDEN: [&str; 17] = [
    "OpenOptions",
    "File::options",
    "DirBuilder",
    "Write",
    "write_at",
    "write_all",
    "write_vectored",
    "pwrite",
    "sync_data",
    "sync_all",
    "set_len",
    "set_permissions",
    "set_times",
    "set_modified",
    "fallocate",
    "ftruncate",
    "Command",
];

/// The names in `line` that follow `prefix`.
fn names_after<'a>(line: &'a str, prefix: &'a str) -> impl Iterator<Item = &'a str> {
    line.match_indices(prefix).filter_map(move |(at, _)| {
        let rest = &line[at + prefix.len()..];
        let name = rest.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or_default();
        (begins_a_name(line, at) && !name.is_empty()).then_some(name)
    })
}

fn begins_a_name(line: &str, at: usize) -> bool {
    !line[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_')
}

/// What in `source` may change the disk: the line's number, and why it was found.
fn changes(source: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (number, line) in (1..).zip(source.lines().take_while(|line| !line.contains("#[cfg(test)]"))) {
        let code = line.split("//").next().unwrap_or_default();
        for (prefix, allowed) in ALLOWED {
            let bad = names_after(code, prefix).filter(|name| !allowed.contains(name));
            found.extend(bad.map(|name| format!("line {number}: {prefix}{name}")));
        }
        let is_there = |name: &str| code.match_indices(name).any(|(at, _)| begins_a_name(code, at));
        let bad = FORBIDDEN.iter().filter(|name| is_there(name));
        found.extend(bad.map(|name| format!("line {number}: {name}")));
    }
    found
}

#[test]
fn only_one_file_of_the_backend_changes_the_disk() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files: Vec<PathBuf> =
        fs::read_dir(src.join("folder")).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.push(src.join("folder.rs"));
    assert!(files.len() >= 5, "{files:?}");
    for path in files {
        let found = changes(&fs::read_to_string(&path).unwrap());
        match path.ends_with(SEAM) {
            true => assert!(!found.is_empty(), "the search finds nothing where all of it is"),
            false => assert_eq!(found, [""; 0], "{} changes the disk", path.display()),
        }
    }
}

#[test]
fn the_search_finds_calls_that_change_the_disk() {
    for (line, want) in [
        ("fs::write(path, b\"x\")?;", 1),
        ("std::fs::rename(a, b)", 1),
        ("let file = File::create(path)?;", 1),
        ("rustix::fs::renameat(a, b)", 1),
        ("file.write_all_at(piece, 0)?;", 1),
        ("use std::io::{self, Write as _};", 1),
        ("file.set_len(0)", 1),
        ("rustix::mm::mmap()", 1),
        ("let file = File::open(path)?; // File::create", 0),
        ("rustix::fs::fadvise(&file, 0, None, Advice::WillNeed)", 0),
    ] {
        assert_eq!(changes(line).len(), want, "{line}: {:?}", changes(line));
    }
}
