//! Images that are written here: read back the same, here and by QEMU, and the same bytes on any number of
//! threads.

#![allow(clippy::print_stderr, reason = "a test that skips a part says so")]

use std::fs::{self, File};
use std::io;
use std::num::NonZeroUsize;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use formats::image::{
    self, Compression, Format, ImageRequest, ImageWriteError, Limits, Source, Target, VmdkAdapter,
    WriteOptions, write_stream_optimized,
};
use formats::{Disk, ReadError, Run, RunKind};
use proptest::prelude::*;

const TARGETS: [Target; 6] = [
    Target::Raw,
    Target::Qcow2(Compression::None),
    Target::Qcow2(Compression::Zlib),
    Target::Qcow2(Compression::Zstd),
    Target::VmdkStream(VmdkAdapter::Ide),
    Target::VmdkSparse(VmdkAdapter::LsiLogic),
];

/// One unit of most formats.
const UNIT: usize = 64 << 10;

fn options(threads: usize) -> WriteOptions {
    let identity = *b"sixteen bytes ID";
    WriteOptions { threads: NonZeroUsize::new(threads).unwrap(), identity }
}

/// Opens a file as the disk that it holds.
fn open(path: &Path, format: Format) -> Box<dyn Disk> {
    let limits = Limits { max_size_bytes: 1 << 50 };
    let mut request = ImageRequest::new(Source::new(File::open(path).unwrap()).unwrap(), "image", limits);
    request.layer.format = Some(format);
    image::open(request).unwrap().disk
}

fn content(disk: &dyn Disk) -> Vec<u8> {
    let mut content = vec![0; disk.size_bytes() as usize];
    disk.read_at(0, &mut content).unwrap();
    content
}

fn has_qemu() -> bool {
    let found = Command::new("qemu-img").arg("--version").output().is_ok();
    if !found {
        eprintln!("skipped: qemu-img is needed for comparison");
    }
    found
}

#[track_caller]
fn qemu_img(folder: &Path, line: &str) {
    let output = Command::new("qemu-img").args(line.split(' ')).current_dir(folder).output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "qemu-img {line}: {}", String::from_utf8_lossy(&said));
}

/// Writes the disk `content` in all formats, and has each read here and by QEMU.
#[track_caller]
fn check(content_of_disk: &[u8]) {
    let folder = tempfile::tempdir().unwrap();
    let raw = folder.path().join("disk.raw");
    fs::write(&raw, content_of_disk).unwrap();
    let disk = open(&raw, Format::Raw);
    for target in TARGETS {
        if content_of_disk.is_empty() && target.format() == Format::Vmdk {
            continue;
        }
        let path = folder.path().join("image");
        let mut written: Option<Vec<u8>> = None;
        for threads in [1, 2, 5] {
            let file = File::create(&path).unwrap();
            let len = image::write(&*disk, target, file, &options(threads), &|_| ()).unwrap();
            let bytes = fs::read(&path).unwrap();
            assert_eq!(bytes.len() as u64, len, "{target:?}");
            assert!(written.is_none_or(|written| written == bytes), "{target:?} on {threads} threads");
            written = Some(bytes);
        }
        assert!(content(&*open(&path, target.format())) == content_of_disk, "{target:?}");
        if has_qemu() {
            let format = target.format().name();
            qemu_img(folder.path(), &format!("compare -f raw -F {format} disk.raw image"));
            if target != Target::Raw {
                qemu_img(folder.path(), &format!("check -f {format} image"));
            }
        }
    }
}

/// Content that cannot be compressed.
fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut word = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    (0..len.div_ceil(8)).flat_map(|_| word()).take(len).collect()
}

/// Content that compresses well.
fn text(len: usize) -> Vec<u8> {
    b"The quick brown fox jumps over the lazy dog. ".iter().copied().cycle().take(len).collect()
}

#[test]
fn disks_without_content_are_written() {
    check(&[]);
    check(&[0; 512]);
    check(&vec![0; 5 << 20]);
}

#[test]
fn disks_of_one_sector_and_of_odd_sizes_are_written() {
    check(&[7; 512]);
    check(&noise(UNIT - 512));
    check(&text(UNIT));
    check(&text(UNIT + 512));
    check(&noise(3 * UNIT + 1024));
}

#[test]
fn disks_full_of_data_are_written() {
    check(&noise(4 << 20));
    check(&text(4 << 20));
}

#[test]
fn disks_with_holes_and_data_of_all_kinds_are_written() {
    // Past the first L2 table and grain table of 32 MiB.
    let mut disk = vec![0; (70 << 20) + 512];
    for (number, unit) in disk.chunks_mut(UNIT).enumerate() {
        match number * number % 11 {
            1 => unit.copy_from_slice(&noise(unit.len())),
            3 => unit.copy_from_slice(&text(unit.len())),
            4 => unit[unit.len() / 2] = 1,
            5 => unit[..512].copy_from_slice(&noise(512)),
            _ => {}
        }
    }
    check(&disk);
}

/// Changes from one kind of content to the next at sectors, anywhere.
fn any_disk() -> impl Strategy<Value = Vec<u8>> {
    let piece = (0..4u8, 1..300usize).prop_map(|(kind, sectors)| match kind {
        0 => noise(sectors * 512),
        1 => text(sectors * 512),
        _ => vec![0; sectors * 512],
    });
    proptest::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_written_reads_the_same(disk_content in any_disk(), threads in 1..4usize) {
        let mut raw = tempfile::NamedTempFile::new().unwrap();
        io::Write::write_all(&mut raw, &disk_content).unwrap();
        let disk = open(raw.path(), Format::Raw);
        for target in TARGETS {
            let image = tempfile::NamedTempFile::new().unwrap();
            let out = image.as_file().try_clone().unwrap();
            match image::write(&*disk, target, out, &options(threads), &|_| ()) {
                Err(ImageWriteError::NoBytes { .. }) => prop_assert!(disk_content.is_empty()),
                written => {
                    prop_assert_eq!(written.unwrap(), image.as_file().metadata().unwrap().len());
                    prop_assert!(content(&*open(image.path(), target.format())) == disk_content, "{:?}", target);
                }
            }
        }
    }
}

#[test]
fn a_raw_image_has_holes_where_the_disk_is_zero() {
    use std::os::unix::fs::MetadataExt;
    let folder = tempfile::tempdir().unwrap();
    let [raw, image] = ["raw", "image"].map(|name| folder.path().join(name));
    let mut disk = vec![0; 8 << 20];
    disk[1 << 20..][..512].fill(1);
    fs::write(&raw, &disk).unwrap();
    let file = File::create(&image).unwrap();
    image::write(&*open(&raw, Format::Raw), Target::Raw, file, &options(2), &|_| ()).unwrap();
    assert!(fs::metadata(&image).unwrap().blocks() * 512 <= 64 << 10);
}

/// A disk of any size with a sector of ones at its start, in the middle and at its end.
#[derive(Debug)]
struct Huge(u64);

impl Huge {
    fn data(&self) -> [u64; 3] {
        [0, (self.0 / 2) & !511, self.0 - 512]
    }
}

impl Disk for Huge {
    fn size_bytes(&self) -> u64 {
        self.0
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), ReadError> {
        for (at, byte) in (offset..).zip(buf) {
            *byte = u8::from(self.data().contains(&(at & !511)));
        }
        Ok(())
    }

    fn runs(&self, offset: u64, len: u64) -> Result<Vec<Run>, ReadError> {
        let next = self.data().into_iter().find(|&data| data + 512 > offset);
        let run = match next.unwrap_or(self.0) {
            data if data > offset => Run { len: data - offset, kind: RunKind::Zero },
            data => Run { len: data + 512 - offset, kind: RunKind::Data },
        };
        Ok(vec![Run { len: run.len.min(len), ..run }])
    }
}

#[test]
fn disks_of_terabytes_take_what_their_content_takes() {
    for (target, size_bytes) in [
        (Target::Raw, 4 << 40),
        (Target::Qcow2(Compression::None), 64 << 40),
        (Target::Qcow2(Compression::Zstd), 64 << 40),
        (Target::VmdkStream(VmdkAdapter::default()), 64 << 40),
        (Target::VmdkSparse(VmdkAdapter::default()), (2 << 40) - UNIT as u64),
    ] {
        let image = tempfile::NamedTempFile::new().unwrap();
        let disk = Huge(size_bytes);
        let out = image.as_file().try_clone().unwrap();
        image::write(&disk, target, out, &options(2), &|_| ()).unwrap();
        let read = open(image.path(), target.format());
        assert_eq!(read.size_bytes(), size_bytes, "{target:?}");
        for at in disk.data() {
            let mut sector = [0; 512];
            read.read_at(at, &mut sector).unwrap();
            assert_eq!(sector, [1; 512], "{target:?}");
        }
        if has_qemu() && target.format() == Format::Qcow2 {
            let line = format!("check -f qcow2 {}", image.path().display());
            qemu_img(Path::new("/"), &line);
        }
    }
}

#[test]
fn disks_that_a_format_cannot_hold_are_refused() {
    for (target, size_bytes) in [
        (Target::Qcow2(Compression::None), (1 << 50) + 512),
        (Target::VmdkStream(VmdkAdapter::default()), (64 << 40) + 512),
        (Target::VmdkSparse(VmdkAdapter::default()), 2 << 40),
    ] {
        let out = tempfile::tempfile().unwrap();
        let error = image::write(&Huge(size_bytes), target, out, &options(1), &|_| ()).unwrap_err();
        assert!(matches!(error, ImageWriteError::TooLarge { .. }), "{error}");
    }
}

#[test]
fn only_a_fresh_file_is_written() {
    let disk = Huge(1 << 20);
    let used = tempfile::tempfile().unwrap();
    used.write_all_at(b"mine", 0).unwrap();
    for (file, words) in [
        (used.try_clone().unwrap(), "a file of 4 bytes; wanted an empty regular file"),
        (File::options().write(true).open("/dev/full").unwrap(), "no regular file"),
    ] {
        for target in TARGETS {
            let file = file.try_clone().unwrap();
            let error = image::write(&disk, target, file, &options(1), &|_| ()).unwrap_err();
            assert!(error.to_string().contains(words), "{error}");
        }
    }
    assert_eq!(used.metadata().unwrap().len(), 4);
}

#[test]
fn a_file_that_cannot_be_written_is_named_with_the_place() {
    for target in TARGETS {
        let read_only = tempfile::NamedTempFile::new().unwrap();
        let file = File::open(read_only.path()).unwrap();
        let error = image::write(&Huge(1 << 20), target, file, &options(1), &|_| ()).unwrap_err();
        let words = format!("{}: cannot write ", target.format().name());
        assert!(matches!(error, ImageWriteError::Write { .. }), "{error}");
        assert!(error.to_string().starts_with(&words), "{error}");
    }
}

/// Takes so many bytes and no more.
#[derive(Debug)]
struct Short(usize);

impl io::Write for Short {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(self.0);
        self.0 -= taken;
        if taken == 0 { Err(io::ErrorKind::StorageFull.into()) } else { Ok(taken) }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_stream_is_written_front_to_back_wherever_it_goes() {
    let folder = tempfile::tempdir().unwrap();
    let [raw, image] = ["raw", "image"].map(|name| folder.path().join(name));
    fs::write(&raw, [noise(3 * UNIT), vec![0; 40 << 20], text(UNIT)].concat()).unwrap();
    let disk = open(&raw, Format::Raw);
    let adapter = VmdkAdapter::Ide;
    let file = File::create(&image).unwrap();
    image::write(&*disk, Target::VmdkStream(adapter), file, &options(2), &|_| ()).unwrap();
    let mut stream = Vec::new();
    let len = write_stream_optimized(&*disk, adapter, &mut stream, &options(3), &|_| ()).unwrap();
    assert_eq!(len, stream.len() as u64);
    assert!(stream == fs::read(&image).unwrap());
    let descriptor = String::from_utf8_lossy(&stream[512..2048]).into_owned();
    for line in
        ["CID=73204944", "ddb.adapterType = \"ide\"", "ddb.geometry.heads = \"16\"", "RW 82432 SPARSE"]
    {
        assert!(descriptor.contains(line), "{line} in {descriptor}");
    }

    let mut short = Short(128 * 512 + 1000);
    let error = write_stream_optimized(&*disk, adapter, &mut short, &options(2), &|_| ()).unwrap_err();
    assert_eq!(error.to_string(), "vmdk: cannot write a grain, at byte 65536 of the file");
}

#[test]
fn progress_ends_at_the_end_of_the_disk() {
    let last = std::sync::atomic::AtomicU64::new(0);
    let progress = |done| last.store(done, std::sync::atomic::Ordering::Relaxed);
    for (size_bytes, target) in (1..).map(|n| (n << 30) + 512).zip(TARGETS) {
        let out = tempfile::tempfile().unwrap();
        image::write(&Huge(size_bytes), target, out, &options(2), &progress).unwrap();
        assert_eq!(last.load(std::sync::atomic::Ordering::Relaxed), size_bytes);
    }
}
