//! What is written as VHD and VDI is the same disk again: to our readers, and to QEMU.

#![allow(clippy::print_stderr, reason = "a skipped test says why")]

mod image_samples;

use std::fs::{self, File};
use std::num::NonZeroUsize;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use formats::image::{self, ImageRequest, ImageWriteError, Limits, Source, Target, WriteOptions, write};
use formats::{Disk, ReadError, Run, RunKind};

const TARGETS: [(Target, &str); 3] =
    [(Target::VhdFixed, "vpc"), (Target::VhdDynamic, "vpc"), (Target::Vdi, "vdi")];
const MIB: u64 = 1 << 20;

fn options(threads: usize) -> WriteOptions {
    WriteOptions { threads: NonZeroUsize::new(threads).unwrap(), identity: *b"0123456789abcdef" }
}

/// A disk that is zero except for `len` bytes at each of `places`.
fn raw_file(folder: &Path, size: u64, places: &[(u64, usize)]) -> PathBuf {
    let path = folder.join("disk.raw");
    let file = File::create(&path).unwrap();
    file.set_len(size).unwrap();
    for &(at, len) in places {
        let content: Vec<u8> = (0..len).map(|byte| (at as usize + byte / 5 % 250 + 1) as u8 | 1).collect();
        file.write_all_at(&content, at).unwrap();
    }
    path
}

fn open(path: &Path) -> Box<dyn Disk> {
    let source = Source::new(File::open(path).unwrap()).unwrap();
    let limits = Limits { max_size_bytes: 1 << 43 };
    image::open(ImageRequest::new(source, "disk", limits)).unwrap().disk
}

fn content(disk: &dyn Disk) -> Vec<u8> {
    let mut content = vec![0xa5; disk.size_bytes() as usize];
    disk.read_at(0, &mut content).unwrap();
    content
}

#[track_caller]
fn written(disk: &dyn Disk, target: Target, path: &Path, threads: usize) -> Vec<u8> {
    let out = File::create(path).unwrap();
    let len = write(disk, target, out, &options(threads), &|_| ()).unwrap();
    let bytes = fs::read(path).unwrap();
    assert_eq!(bytes.len() as u64, len);
    bytes
}

#[track_caller]
fn qemu_img(args: &[&str]) -> Vec<u8> {
    let output = Command::new("qemu-img").args(args).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "qemu-img {}: {errors}", args.join(" "));
    output.stdout
}

/// Writes a disk in each format, and compares what comes back.
#[track_caller]
fn check(size: u64, places: &[(u64, usize)]) {
    let folder = tempfile::tempdir().unwrap();
    let raw = raw_file(folder.path(), size, places);
    let disk = open(&raw);
    let qemu = Command::new("qemu-img").arg("--version").output().is_ok();
    if !qemu {
        eprintln!("skipped: comparison with qemu-img, which is not here");
    }
    for (target, format) in TARGETS {
        let path = folder.path().join("disk.image");
        let first = written(&*disk, target, &path, 1);
        assert!(written(&*disk, target, &path, 3) == first, "{target:?} depends on the threads");
        let found = open(&path);
        assert_eq!(found.size_bytes(), size.next_multiple_of(512), "{target:?}");
        assert!(content(&*found) == content(&*disk), "{target:?} of {size} bytes");
        // QEMU takes a footer that is also the first sector for that of a growing image.
        if qemu && size > 0 {
            let (raw, image) = (raw.to_str().unwrap(), path.to_str().unwrap());
            let info = qemu_img(&["info", "--output=json", "-f", format, image]);
            let info: serde_json::Value = serde_json::from_slice(&info).unwrap();
            assert_eq!(info["virtual-size"], size.next_multiple_of(512), "{target:?}");
            qemu_img(&["compare", "-f", "raw", "-F", format, raw, image]);
            if format == "vdi" {
                qemu_img(&["check", "-f", "vdi", image]);
            }
        }
    }
}

#[test]
fn a_disk_of_any_size_comes_back() {
    check(0, &[]);
    check(512, &[]);
    check(512, &[(0, 512)]);
    check(100, &[(0, 100)]);
    check(700, &[(600, 100)]);
    check(MIB, &[(MIB - 1, 1)]);
    check(2 * MIB, &[(0, 2 << 20)]);
    check(2 * MIB + 512, &[(2 * MIB, 512)]);
    check(5 * MIB + 1536, &[(0, 1), (MIB, 3 << 20), (5 * MIB + 1000, 100)]);
    check(9 * MIB - 512, &[(8 * MIB, 5000)]);
    check(150 * MIB, &[(149 * MIB, 77), (3 * MIB, 4096), (MIB + 5, 1)]);
}

#[test]
fn blocks_of_zeros_are_not_stored() {
    let folder = tempfile::tempdir().unwrap();
    let disk = open(&raw_file(folder.path(), 64 * MIB, &[(10 * MIB, 1), (63 * MIB, 1)]));
    for (target, most) in [(Target::VhdDynamic, 5 * MIB), (Target::Vdi, 3 * MIB)] {
        let path = folder.path().join("disk.image");
        assert!(written(&*disk, target, &path, 2).len() as u64 <= most, "{target:?}");
    }
}

#[test]
fn a_fixed_vhd_takes_no_space_where_it_is_zero() {
    use std::os::unix::fs::MetadataExt as _;
    let folder = tempfile::tempdir().unwrap();
    let disk = open(&raw_file(folder.path(), 64 * MIB, &[(10 * MIB, 1)]));
    let path = folder.path().join("disk.vhd");
    written(&*disk, Target::VhdFixed, &path, 2);
    assert!(fs::metadata(&path).unwrap().blocks() * 512 < MIB);
}

/// The headers, byte for byte, so that no change of them goes unseen.
#[test]
fn headers_stay_as_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let disk = open(&raw_file(folder.path(), 3 * MIB, &[(2 * MIB, 9)]));
    let path = folder.path().join("disk.image");
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let vhd = written(&*disk, Target::VhdDynamic, &path, 2);
    let footer = "636f6e65637469780000000200010000000000000000020000000000".to_owned()
        + "71656d32000100005769326b00000000003000000000000000300000005a041100000003fffff496"
        + "30313233343536373839616263646566";
    assert_eq!(hex(&vhd[..84]), footer);
    assert_eq!(hex(&vhd[vhd.len() - 512..][..84]), footer);
    assert_eq!(
        hex(&vhd[512..552]),
        "6378737061727365ffffffffffffffff0000000000000600000100000000000200200000fffff475"
    );
    assert_eq!(hex(&vhd[1536..1548]), "ffffffff00000004ffffffff");
    let vdi = written(&*disk, Target::Vdi, &path, 2);
    assert_eq!(&vdi[..24], b"<<< hull disk image >>>\n");
    assert_eq!(hex(&vdi[64..84]), "7f10dabe01000100900100000100000000000000");
    assert_eq!(
        hex(&vdi[340..424]),
        "000200000000100000000000000000000000000000020000000000000000300000000000\
         00001000000000000300000001000000\
         3031323334353687b839616263646566cfcecdcccbcac98887c69e9d9c9b9a99"
    );
    assert_eq!(hex(&vdi[512..528]), "ffffffffffffffff0000000000000000");
}

/// A disk of nothing.
#[derive(Debug)]
struct Zeros(u64);

impl Disk for Zeros {
    fn size_bytes(&self) -> u64 {
        self.0
    }

    fn read_at(&self, _offset: u64, buf: &mut [u8]) -> Result<(), ReadError> {
        buf.fill(0);
        Ok(())
    }

    fn runs(&self, _offset: u64, len: u64) -> Result<Vec<Run>, ReadError> {
        Ok(vec![Run { len, kind: RunKind::Zero }])
    }
}

#[test]
fn the_largest_disks_are_written_and_no_larger_ones() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk.image");
    for (target, most, named) in [
        (Target::VhdDynamic, 2040 << 30, "vhd"),
        (Target::VhdFixed, 2040 << 30, "vhd"),
        (Target::Vdi, 4 << 40, "vdi"),
    ] {
        let error =
            write(&Zeros(most + 1), target, File::create(&path).unwrap(), &options(2), &|_| ()).unwrap_err();
        assert!(matches!(error, ImageWriteError::TooLarge { .. }));
        let wanted = format!("{named}: the disk has {} bytes; the format holds at most {most}", most + 1);
        assert_eq!(error.to_string(), wanted);
        write(&Zeros(most), target, File::create(&path).unwrap(), &options(2), &|_| ()).unwrap();
        let disk = open(&path);
        assert_eq!(disk.size_bytes(), most, "{target:?}");
        disk.read_at(most - 512, &mut [0; 512]).unwrap();
    }
}
