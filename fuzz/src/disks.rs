//! Disk images, and where their content is cut.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use formats::cut::CutPlan;
use formats::image::{self, Format, ImageRequest, Limits, Parts, Source};
use formats::packed::MAX_CHUNK_BLOCKS;
use formats::{Disk, RunKind};
use rustix::fs::{MemfdFlags, memfd_create};

use crate::fold::unfold;
use crate::seal;

/// A disk that claims more is refused; this is more than any reader keeps in memory.
const LIMITS: Limits = Limits { max_size_bytes: 1 << 45 };
/// How much of a disk is read from a place.
const PIECE_BYTES: u64 = 1 << 17;
/// How many stretches of a disk are walked.
const MAX_RUNS: usize = 4096;

/// Any bytes as a raw disk.
pub fn raw(bytes: &[u8]) {
    open(file_of(bytes), Some(Format::Raw));
}

/// Any bytes as whatever they seem to be.
pub fn detect(bytes: &[u8]) {
    open(file_of(bytes), None);
}

/// Any bytes as a qcow2 image.
pub fn qcow2(bytes: &[u8]) {
    open(file_of(bytes), Some(Format::Qcow2));
}

/// Any bytes as a VMDK, all of whose parts are the same bytes again.
pub fn vmdk(bytes: &[u8]) {
    open(file_of(bytes), Some(Format::Vmdk));
}

/// Any folded bytes as a VHD, with right checksums.
pub fn vhd(bytes: &[u8]) {
    let mut file = content_of(bytes);
    seal::vhd(&mut file);
    open(file_of(&file), Some(Format::Vhd));
}

/// Any folded bytes as a VHDX, with right checksums.
pub fn vhdx(bytes: &[u8]) {
    let mut file = content_of(bytes);
    seal::vhdx(&mut file);
    open(file_of(&file), Some(Format::Vhdx));
}

/// Any folded bytes as a VDI.
pub fn vdi(bytes: &[u8]) {
    open(file_of(&content_of(bytes)), Some(Format::Vdi));
}

/// Any folded bytes as a disk with partitions and file systems, by which its content is cut.
pub fn cut(bytes: &[u8]) {
    let file = content_of(bytes);
    let Some(disk) = open(file_of(&file), Some(Format::Raw)) else { return };
    let plan = CutPlan::of(disk.as_ref());
    // Whatever is on the disk, chunks follow one another, and none is longer than a chunk may be.
    let content = &file[..file.len() / 4096 * 4096];
    let mut cutter = plan.cutter();
    let mut end = 0;
    let marks = plan.marks(0, content).map(Some).chain([None]);
    for mark in marks {
        let chunk = match mark {
            Some(mark) => cutter.push(mark),
            None => cutter.finish(),
        };
        let Some(chunk) = chunk else { continue };
        assert!(chunk.start >= end && chunk.start < chunk.end, "{chunk:?} after {end}");
        assert!(
            chunk.end - chunk.start <= MAX_CHUNK_BLOCKS && chunk.end <= content.len() as u64 / 4096,
            "{chunk:?}"
        );
        end = chunk.end;
    }
}

fn content_of(folded: &[u8]) -> Vec<u8> {
    let (len, pieces) = unfold(folded);
    let mut content = vec![0; len as usize];
    for (at, block) in pieces {
        content[at as usize..][..block.len()].copy_from_slice(&block);
    }
    content
}

static ZEROS: [u8; 4096] = [0; 4096];

/// A file in memory; blocks of zeros are holes in it.
pub(crate) fn file_of(bytes: &[u8]) -> File {
    let file = File::from(memfd_create("input", MemfdFlags::CLOEXEC).expect("a file in memory"));
    file.set_len(bytes.len() as u64).expect("room in memory");
    for (number, block) in bytes.chunks(4096).enumerate().filter(|(_, block)| **block != ZEROS[..block.len()])
    {
        file.write_all_at(block, number as u64 * 4096).expect("room in memory");
    }
    file
}

/// Opens the file, and holds the disk against what disks promise.
fn open(file: File, format: Option<Format>) -> Option<Box<dyn Disk>> {
    let source = Source::new(file).expect("it is a file");
    let parts = Same(source.clone());
    let mut request = ImageRequest::new(source, "input", LIMITS);
    request.layer.format = format;
    request.parts = Some(&parts);
    let opened = image::open(request).ok()?;
    assert!(format.is_none_or(|format| format == opened.format));
    check(opened.disk.as_ref());
    Some(opened.disk)
}

/// A folder in which every name means the same file.
#[derive(Debug)]
struct Same(Source);

impl Parts for Same {
    fn part(&self, _name: &str) -> io::Result<Option<Source>> {
        Ok(Some(self.0.clone()))
    }
}

fn check(disk: &dyn Disk) {
    let size = disk.size_bytes();
    assert!(size <= LIMITS.max_size_bytes, "a disk of {size} bytes was not refused");
    assert!(disk.read_at(size, &mut [0]).is_err(), "a byte past the end was read");
    assert!(disk.read_at(u64::MAX, &mut [0]).is_err(), "a byte past the end was read");
    for at in [0, size / 3, (size / 2).saturating_sub(1), size.saturating_sub(PIECE_BYTES)] {
        check_piece(disk, at, PIECE_BYTES.min(size - at));
    }
    walk(disk);
}

/// A piece reads the same whole, in two parts, and where it is said to be zeros it is.
fn check_piece(disk: &dyn Disk, at: u64, len: u64) {
    let mut whole = vec![0xa5; len as usize];
    if disk.read_at(at, &mut whole).is_err() {
        return;
    }
    let (mut first, mut second) = (vec![0x5a; len as usize / 3], vec![0x5a; len as usize - len as usize / 3]);
    disk.read_at(at, &mut first).expect("a part of what can be read can be read");
    disk.read_at(at + first.len() as u64, &mut second).expect("a part of what can be read can be read");
    assert!(whole == [first, second].concat(), "{len} bytes at {at} read otherwise in parts");
    let Ok(runs) = disk.runs(at, len) else { return };
    let mut rest = whole.as_slice();
    for run in runs {
        assert!(run.len > 0 && run.len <= rest.len() as u64, "a run of {} bytes", run.len);
        let (here, after) = rest.split_at(run.len as usize);
        assert!(run.kind == RunKind::Data || here.iter().all(|byte| *byte == 0), "zeros that are none");
        rest = after;
    }
    assert!(len == 0 || rest.len() < whole.len(), "no run at {at}");
}

/// Runs cover the disk without gaps, from its start on.
fn walk(disk: &dyn Disk) {
    let (mut at, mut count) = (0, 0);
    while at < disk.size_bytes() && count < MAX_RUNS {
        let Ok(runs) = disk.runs(at, disk.size_bytes() - at) else { return };
        assert!(!runs.is_empty(), "no run at {at}");
        for run in runs {
            assert!(run.len > 0 && run.len <= disk.size_bytes() - at, "a run of {} bytes at {at}", run.len);
            at += run.len;
            count += 1;
        }
    }
}
