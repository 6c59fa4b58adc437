//! Cuts of real file systems, made by `mke2fs` and partitioned by `sfdisk`; and of damaged ones.

#![expect(clippy::print_stderr, reason = "a test that is skipped says why")]

use std::fs;
use std::io::Write as _;
use std::process::{Command, Stdio};

use formats::cut::{CutPlan, CutRule};
use formats::{Disk, ReadError, Run, RunKind};

const BLOCK: usize = 4096;
const MIB: usize = 1 << 20;

/// A disk in memory, without holes.
#[derive(Debug, Clone)]
struct Memory(Vec<u8>);

impl Disk for Memory {
    fn size_bytes(&self) -> u64 {
        self.0.len() as u64
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), ReadError> {
        let len = buf.len() as u64;
        let error = ReadError::OutOfRange { offset, len, size_bytes: self.size_bytes() };
        let end = offset.checked_add(len).filter(|end| *end <= self.size_bytes()).ok_or(error)?;
        buf.copy_from_slice(&self.0[offset as usize..end as usize]);
        Ok(())
    }

    fn runs(&self, _offset: u64, len: u64) -> Result<Vec<Run>, ReadError> {
        Ok(vec![Run { len, kind: RunKind::Data }])
    }
}

/// The first blocks of all chunks of the disk.
fn chunk_starts(disk: &Memory) -> (CutRule, Vec<u64>) {
    let plan = CutPlan::of(disk);
    let mut content = disk.0.clone();
    content.resize(content.len().next_multiple_of(BLOCK), 0);
    let mut cutter = plan.cutter();
    let mut starts = Vec::new();
    let mut next = 0;
    for mark in plan.marks(0, &content) {
        starts.extend(cutter.push(mark));
    }
    starts.extend(cutter.finish());
    for chunk in &starts {
        assert!((1..=64).contains(&(chunk.end - chunk.start)) && chunk.start >= next, "{chunk:?}");
        let between = next as usize * BLOCK..chunk.start as usize * BLOCK;
        assert!(content[between].iter().all(|byte| *byte == 0), "only zeros are in no chunk");
        next = chunk.end;
    }
    (plan.rule(), starts.iter().map(|chunk| chunk.start).collect())
}

/// Says why a test cannot run, if a tool is missing.
fn missing(tool: &str) -> bool {
    let found = Command::new(tool).arg("-V").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok();
    if !found {
        eprintln!("skipped: {tool} is not installed");
    }
    !found
}

/// Content that starts with a block that says which file it is.
fn file_content(number: usize, blocks: usize) -> Vec<u8> {
    let mut content = format!("file number {number:06} ").into_bytes().repeat(BLOCK / 18 * blocks + 100);
    content.truncate(blocks * BLOCK);
    for (at, byte) in content.iter_mut().enumerate().skip(64) {
        *byte ^= (at / BLOCK) as u8;
    }
    content
}

/// A file system of `size` with forty files, one of them full of holes; and the first block of each file.
fn ext4(options: &[&str], size: usize) -> (Vec<u8>, Vec<Vec<u8>>) {
    let folder = tempfile::tempdir().unwrap();
    let tree = folder.path().join("tree");
    fs::create_dir(&tree).unwrap();
    let mut firsts = Vec::new();
    for number in 0..40 {
        let content = file_content(number, 1 + number % 7 * 5);
        firsts.push(content[..BLOCK].to_vec());
        fs::write(tree.join(format!("{number}")), content).unwrap();
    }
    // Data in every other 16 KiB: more extents than an inode holds.
    let mut holes = fs::File::create(tree.join("holes")).unwrap();
    for number in 100..180 {
        use std::io::Seek as _;
        holes.seek(std::io::SeekFrom::Start((number as u64 - 100) * 32_768)).unwrap();
        let content = file_content(number, 4);
        firsts.push(content[..BLOCK].to_vec());
        holes.write_all(&content).unwrap();
    }
    let image = folder.path().join("image");
    fs::File::create(&image).unwrap().set_len(size as u64).unwrap();
    run(
        Command::new("mke2fs").args(["-q", "-F", "-t", "ext4", "-d"]).arg(&tree).args(options).arg(&image),
        "",
    );
    (fs::read(&image).unwrap(), firsts)
}

#[track_caller]
fn run(command: &mut Command, input: &str) {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success(), "{command:?}");
}

/// On a file system made with `options`, each extent of each file starts a chunk.
#[track_caller]
fn check_extents(options: &[&str]) {
    let (disk, firsts) = ext4(options, 24 * MIB);
    check_starts(disk, &firsts);
}

#[track_caller]
fn check_starts(disk: Vec<u8>, firsts: &[Vec<u8>]) {
    let (rule, starts) = chunk_starts(&Memory(disk.clone()));
    assert_eq!(rule, CutRule::EXTENTS);
    for first in firsts {
        let at = disk.chunks_exact(BLOCK).position(|block| block == first).expect("the file is there");
        let name = String::from_utf8_lossy(&first[..18]);
        assert!(starts.binary_search(&(at as u64)).is_ok(), "{name} at block {at}");
    }
}

#[test]
fn extents_start_chunks_in_every_kind_of_ext4() {
    if missing("mke2fs") {
        return;
    }
    check_extents(&["-b", "4096"]);
    check_extents(&["-b", "4096", "-O", "^64bit,^metadata_csum"]);
    check_extents(&["-b", "4096", "-O", "^flex_bg"]);
    check_extents(&["-b", "4096", "-O", "^resize_inode,meta_bg", "-g", "1024"]);
    check_extents(&["-b", "4096", "-O", "^resize_inode,meta_bg,^64bit", "-g", "1024"]);
    check_extents(&["-b", "4096", "-O", "^resize_inode,sparse_super2", "-g", "1024"]);
    check_extents(&["-b", "4096", "-O", "bigalloc", "-C", "16384"]);
    check_extents(&["-b", "4096", "-I", "128"]);
}

#[test]
fn a_file_system_in_a_partition_is_found() {
    if missing("mke2fs") || missing("sfdisk") {
        return;
    }
    let (file_system, firsts) = ext4(&["-b", "4096"], 24 * MIB);
    for table in [
        "label: gpt\nstart=2048, size=2048\nstart=8192, size=49152\n",
        "label: dos\nstart=8192, size=49152, type=83\n",
        "label: dos\nstart=2048, size=60000, type=5\nstart=8192, size=49152, type=83\n",
    ] {
        let folder = tempfile::tempdir().unwrap();
        let image = folder.path().join("image");
        fs::File::create(&image).unwrap().set_len(40 * MIB as u64).unwrap();
        run(Command::new("sfdisk").arg("-q").arg(&image), table);
        let mut disk = fs::read(&image).unwrap();
        disk[4 * MIB..28 * MIB].copy_from_slice(&file_system);
        check_starts(disk, &firsts);
    }
}

#[test]
fn a_disk_without_a_file_system_is_cut_by_its_content() {
    let disk: Vec<u8> = (0..200).flat_map(|number| file_content(number, 3)).collect();
    let (rule, starts) = chunk_starts(&Memory(disk.clone()));
    assert_eq!(rule, CutRule::CONTENT);
    // What comes after an insertion is cut as before.
    let inserted = [&file_content(1000, 7)[..], &disk].concat();
    let (_, moved) = chunk_starts(&Memory(inserted));
    let same = starts.iter().filter(|start| moved.contains(&(*start + 7))).count();
    assert!(starts.len() > 30 && same >= starts.len() - 2, "{same} of {}", starts.len());
}

/// A file system with any bits of its metadata turned is cut, if badly, and none of it is lost.
#[test]
fn a_damaged_file_system_only_makes_cuts_worse() {
    if missing("mke2fs") {
        return;
    }
    let (intact, _) = ext4(&["-b", "4096", "-O", "^resize_inode,meta_bg", "-g", "1024"], 16 * MIB);
    let mut state = 7_u64;
    let mut random = |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below
    };
    for round in 0..100 {
        let mut disk = intact.clone();
        for _ in 0..1 + round % 20 {
            // Superblock and descriptors, or inodes and trees wherever they are.
            let at = if random(2) == 0 { 1024 + random(8 * 1024) } else { random(disk.len()) };
            disk[at] ^= 1 << random(8);
        }
        if random(4) == 0 {
            disk.truncate(random(disk.len()));
        }
        chunk_starts(&Memory(disk));
    }
}

/// Every field of the superblock at its extremes: neither a panic nor an endless walk.
#[test]
fn a_hostile_superblock_is_survived() {
    if missing("mke2fs") {
        return;
    }
    let mut disk = Memory(ext4(&["-b", "1024"], 16 * MIB).0);
    for at in (1024..1024 + 0x260).step_by(2) {
        let intact: [u8; 2] = disk.0[at..at + 2].try_into().unwrap();
        for value in [0_u16, 1, 0x7fff, 0xffff] {
            disk.0[at..at + 2].copy_from_slice(&value.to_le_bytes());
            CutPlan::of(&disk);
        }
        disk.0[at..at + 2].copy_from_slice(&intact);
    }
}

/// An inode whose tree's inner nodes all lead back to one another ends at the depth that a tree can have.
#[test]
fn an_extent_tree_in_a_circle_ends() {
    if missing("mke2fs") {
        return;
    }
    let (mut disk, firsts) = ext4(&["-b", "4096"], 24 * MIB);
    // The leaf of the file with holes becomes an inner node, full of pointers to itself.
    let magic = [0x0a, 0xf3];
    let leaf = disk.chunks_exact(BLOCK).position(|block| block.starts_with(&magic)).expect("a tree node");
    let node = &mut disk[leaf * BLOCK..][..BLOCK];
    node[2..4].copy_from_slice(&340_u16.to_le_bytes());
    node[6..8].copy_from_slice(&4_u16.to_le_bytes());
    for entry in node[12..].chunks_exact_mut(12) {
        entry[4..8].copy_from_slice(&(leaf as u32).to_le_bytes());
        entry[8..10].copy_from_slice(&[0, 0]);
    }
    check_starts(disk, &firsts[..40]);
}
