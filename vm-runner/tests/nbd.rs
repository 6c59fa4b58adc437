//! The NBD server, spoken to by QEMU's own programs.

#![expect(clippy::print_stderr, reason = "a test that is skipped says why")]

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};

use formats::{Disk, ReadError, Run, RunKind};
use vm_runner::nbd::{Export, Exports, Listener};

const BLOCK: usize = 4096;

/// A disk in memory, one byte per block: the block is full of it. Some blocks cannot be read.
#[derive(Debug)]
struct Pattern {
    blocks: Vec<u8>,
    unreadable: Option<usize>,
}

impl Disk for Pattern {
    fn size_bytes(&self) -> u64 {
        (self.blocks.len() * BLOCK) as u64
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), ReadError> {
        for (at, byte) in (offset as usize..).zip(buf) {
            if self.unreadable == Some(at / BLOCK) {
                return Err(ReadError::WrongDigest {
                    what: "block".into(),
                    found: "a".into(),
                    wanted: "b".into(),
                });
            }
            *byte = self.blocks[at / BLOCK];
        }
        Ok(())
    }

    fn runs(&self, offset: u64, len: u64) -> Result<Vec<Run>, ReadError> {
        let mut runs = Vec::new();
        let mut at = offset;
        while at < offset + len {
            let end = ((at / BLOCK as u64 + 1) * BLOCK as u64).min(offset + len);
            let zero = self.blocks[at as usize / BLOCK] == 0;
            runs.push(Run { len: end - at, kind: if zero { RunKind::Zero } else { RunKind::Data } });
            at = end;
        }
        Ok(runs)
    }
}

/// 8 MiB: data, holes of many lengths, and a tail of data.
fn pattern() -> Vec<u8> {
    (0..2048_u32)
        .map(|block| match block {
            512..1500 => 0,
            _ if block.is_multiple_of(7) || block / 40 % 3 == 1 => 0,
            _ => (block % 255 + 1) as u8,
        })
        .collect()
}

fn content(blocks: &[u8]) -> Vec<u8> {
    blocks.iter().flat_map(|&byte| [byte; BLOCK]).collect()
}

/// Runs a QEMU program, returns whether it succeeded and what it printed. `None` where there is none.
fn qemu(program: &str, args: &[&str]) -> Option<(bool, String)> {
    match Command::new(program).args(args).output() {
        Ok(output) => {
            let said = [output.stdout, output.stderr].concat();
            Some((output.status.success(), String::from_utf8_lossy(&said).into_owned()))
        }
        Err(_) => {
            eprintln!("skipped: {program} is not installed");
            None
        }
    }
}

#[track_caller]
fn succeeds(program: &str, args: &[&str]) -> Option<String> {
    let (success, said) = qemu(program, args)?;
    assert!(success, "{program} {args:?}: {said}");
    Some(said)
}

struct Served {
    folder: tempfile::TempDir,
    _listener: Listener,
    uri: String,
}

fn serve(disk: Pattern, failures: Sender<String>) -> Served {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("nbd");
    let failures = Mutex::new(failures);
    let export = Export::new("root", Arc::new(disk), move |failure| {
        failures.lock().unwrap().send(failure.error.to_string()).unwrap();
    });
    let other = Export::new("other", Arc::new(Pattern { blocks: vec![1], unreadable: None }), |_| {});
    let listener = Listener::bind(&socket, Exports::new([export, other])).unwrap();
    let uri = format!("nbd+unix:///root?socket={}", socket.display());
    Served { folder, _listener: listener, uri }
}

fn path(folder: &Path, name: &str) -> String {
    folder.join(name).to_str().unwrap().to_owned()
}

#[test]
fn qemu_img_copies_every_byte_and_sees_every_hole() {
    let blocks = pattern();
    let served = serve(Pattern { blocks: blocks.clone(), unreadable: None }, channel().0);
    let raw = path(served.folder.path(), "expected.raw");
    fs::write(&raw, content(&blocks)).unwrap();
    let copy = path(served.folder.path(), "copy.raw");
    let Some(_) = succeeds("qemu-img", &["convert", "-O", "raw", &served.uri, &copy]) else { return };
    assert!(fs::read(&copy).unwrap() == content(&blocks), "the copy differs");
    succeeds("qemu-img", &["compare", "-f", "raw", "-F", "raw", &raw, &served.uri]);

    let map = succeeds("qemu-img", &["map", "--output=json", "-f", "raw", &served.uri]).unwrap();
    let map: serde_json::Value = serde_json::from_str(&map).unwrap();
    let mut seen = Vec::new();
    for extent in map.as_array().unwrap() {
        let count = extent["length"].as_u64().unwrap() as usize / BLOCK;
        seen.extend(std::iter::repeat_n(extent["zero"].as_bool().unwrap(), count));
    }
    let expected: Vec<bool> = blocks.iter().map(|&byte| byte == 0).collect();
    assert!(seen == expected, "qemu-img sees other holes");
}

#[test]
fn reads_of_any_alignment_are_exact() {
    let blocks = pattern();
    let served = serve(Pattern { blocks: blocks.clone(), unreadable: None }, channel().0);
    // qemu-io checks the bytes itself, a stretch of one value at a time.
    let mut commands = Vec::new();
    for (offset, len) in [(0, 1), (4095, 2), (513, 70_000), (2_000_000, 500_001), ((8 << 20) - 1, 1)] {
        let mut at = offset;
        while at < offset + len {
            let end = ((at / BLOCK + 1) * BLOCK).min(offset + len);
            commands.push(format!("read -P {} {at} {}", blocks[at / BLOCK], end - at));
            at = end;
        }
    }
    let mut args = vec!["-r", "-f", "raw"];
    args.extend(commands.iter().flat_map(|command| ["-c", command]));
    args.push(&served.uri);
    let Some(said) = succeeds("qemu-io", &args) else { return };
    assert!(!said.contains("Pattern verification failed"), "{said}");
    assert_eq!(said.matches(" ops; ").count(), commands.len());
}

#[test]
fn a_block_that_cannot_be_read_is_an_error_there_and_nowhere_else() {
    let (sender, failures) = channel();
    let mut blocks = pattern();
    blocks[300] = 9;
    let served = serve(Pattern { blocks: blocks.clone(), unreadable: Some(300) }, sender);
    let at = 300 * BLOCK;
    let bad = format!("read -P 9 {at} 512");
    let across = format!("read {} {}", at - (1 << 20), 2 << 20);
    let good = format!("read -P {} {} 4096", blocks[301], at + BLOCK);
    let Some((_, said)) =
        qemu("qemu-io", &["-r", "-f", "raw", "-c", &bad, "-c", &across, "-c", &good, &served.uri])
    else {
        return;
    };
    assert_eq!(said.matches("read failed: Input/output error").count(), 2, "{said}");
    assert_eq!(said.matches("read 4096/4096 bytes").count(), 1, "{said}");
    let reported: Vec<String> = failures.try_iter().collect();
    assert_eq!(reported.len(), 2, "{reported:?}");
}

#[test]
fn nobody_writes_and_nobody_finds_what_is_not_there() {
    let served = serve(Pattern { blocks: pattern(), unreadable: None }, channel().0);
    let Some((success, said)) = qemu("qemu-io", &["-f", "raw", "-c", "write 0 512", &served.uri]) else {
        return;
    };
    assert!(!success, "{said}");
    let absent = served.uri.replace("/root", "/absent");
    let (success, said) = qemu("qemu-img", &["info", &absent]).unwrap();
    assert!(!success && said.contains("absent"), "{said}");
    let other = served.uri.replace("/root", "/other");
    let said = succeeds("qemu-img", &["info", &other]).unwrap();
    assert!(said.contains("4 KiB (4096 bytes)"), "{said}");
}
