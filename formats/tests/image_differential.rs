//! Our readers against QEMU's: random images of every kind, read both ways, must be the same disk.
//!
//! Every image comes from one seed, which is printed. `HULL_DIFFERENTIAL_SEED` repeats a run,
//! `HULL_DIFFERENTIAL_IMAGES` makes it longer. Skipped where `qemu-img` and `qemu-io` are missing.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a failed test shows how its image was made")]

#[path = "image_differential/chains.rs"]
mod chains;
mod image_samples;
#[path = "image_differential/second_opinion.rs"]
mod second_opinion;
#[path = "image_differential/vmdk_parts.rs"]
mod vmdk_parts;

use std::env;
use std::fs::{self, File};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use formats::image::{self, ImageRequest, Limits, Source};
use formats::{Disk, RunKind};
use serde_json::Value;

/// About half of the images in a default run. The conformance suite compares many more.
const IMAGES: u64 = 20;
const SEED: u64 = 20_231_122;
const LIMITS: Limits = Limits { max_size_bytes: 1 << 30 };
const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures");

#[test]
fn qcow2_images_read_as_qemu_reads_them() {
    differential("qcow2", 50, make_qcow2);
}

#[test]
fn vmdk_images_read_as_qemu_reads_them() {
    differential("vmdk", 30, make_vmdk);
}

#[test]
fn vhd_images_read_as_qemu_reads_them() {
    differential("vpc", 25, make_vhd);
}

#[test]
fn vdi_images_read_as_qemu_reads_them() {
    differential("vdi", 20, make_vdi);
}

#[test]
fn vhdx_images_read_as_qemu_reads_them() {
    differential("vhdx", 20, make_vhdx);
}

#[test]
fn a_log_is_replayed_as_qemu_replays_it() {
    if !has_qemu() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (image, disk) = (folder.path().join("image.vhdx"), folder.path().join("disk.raw"));
    let (with_log, content) = image_samples::vhdx::with_log();
    fs::write(&image, with_log).unwrap();
    fs::write(&disk, content).unwrap();
    run("qemu-img", &["check", "-f", "vhdx", "-r", "all", text(&image)]);
    run("qemu-img", &["compare", "-f", "vhdx", "-F", "raw", text(&image), text(&disk)]);
    compare(&image, "vhdx", folder.path(), &mut Random(SEED));
}

#[test]
fn raw_images_read_as_qemu_reads_them() {
    differential("raw", 20, make_raw);
}

#[test]
fn images_from_other_tools_read_as_qemu_reads_them() {
    if !has_qemu() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    for (name, format) in [("ext2.qcow2", "qcow2"), ("ext2.vmdk", "vmdk"), ("ext2.vhd", "vpc")] {
        compare(&Path::new(FIXTURES).join(name), format, folder.path(), &mut Random(SEED));
    }
}

/// Makes `percent` of the images with `make` and compares each. `make` gets the folder to work in and
/// returns the image.
fn differential(format: &str, percent: u64, make: fn(&Path, &mut Random) -> PathBuf) {
    repeated(format, percent, |folder, random| {
        let image = make(folder, random);
        compare(&image, format, folder, random);
    });
}

/// Calls `compare` for `percent` of the images, each time with an empty folder to work in.
fn repeated(kind: &str, percent: u64, compare: impl Fn(&Path, &mut Random)) {
    if !has_qemu() {
        return;
    }
    let number = |name, default| env::var(name).map_or(default, |text| text.parse().expect(name));
    let seed = number("HULL_DIFFERENTIAL_SEED", SEED);
    let images = (number("HULL_DIFFERENTIAL_IMAGES", IMAGES) * percent).div_ceil(100);
    println!("{images} {kind} images, HULL_DIFFERENTIAL_SEED={seed}");
    for index in 0..images {
        let folder = tempfile::tempdir().unwrap();
        println!("image {index}");
        compare(folder.path(), &mut Random(seed ^ (index + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)));
    }
}

fn has_qemu() -> bool {
    let found =
        ["qemu-img", "qemu-io"].iter().all(|tool| Command::new(tool).arg("--version").output().is_ok());
    if !found {
        eprintln!("skipped: qemu-img and qemu-io are needed for comparison");
    }
    found
}

#[track_caller]
fn compare(path: &Path, format: &str, folder: &Path, random: &mut Random) {
    let request = ImageRequest::new(source(path), "image", LIMITS);
    compare_disk(image::open(request).unwrap().disk.as_ref(), path, format, folder, random);
}

fn source(path: &Path) -> Source {
    Source::new(File::open(path).unwrap()).unwrap()
}

/// Reads the whole disk, then random ranges of it from two threads, and its map, and does the same to the image
/// with QEMU.
#[track_caller]
fn compare_disk(disk: &dyn Disk, path: &Path, format: &str, folder: &Path, random: &mut Random) {
    let reference = folder.join("reference");
    run("qemu-img", &["convert", "-f", format, "-O", "raw", text(path), text(&reference)]);
    let want = fs::read(&reference).unwrap();
    assert_eq!(disk.size_bytes(), want.len() as u64);

    let mut found = vec![0xa5; want.len()];
    disk.read_at(0, &mut found).unwrap();
    let differs = found.iter().zip(&want).position(|(found, want)| found != want);
    assert_eq!(differs, None, "first differing byte");
    let want = &want[..];
    std::thread::scope(|scope| {
        for _ in 0..2 {
            let random = Random(random.next());
            scope.spawn(move || compare_ranges(disk, want, random));
        }
    });
    compare_maps(disk, want, &qemu_map(path, format));
}

#[track_caller]
fn compare_ranges(disk: &dyn Disk, want: &[u8], mut random: Random) {
    for _ in 0..25 {
        let range = random.range(want.len());
        let mut found = vec![0xa5; range.len()];
        disk.read_at(range.start as u64, &mut found).unwrap();
        assert!(found == want[range.clone()], "bytes {range:?} differ");
    }
}

/// `Zero` must hold; what QEMU knows to be stored must be `Data`, unless it is large, for a hole of the file may be
/// found there; and what QEMU knows to be absent `Zero`.
#[track_caller]
fn compare_maps(disk: &dyn Disk, content: &[u8], qemu: &[(Range<usize>, Stored)]) {
    let mut is_zero = vec![false; content.len()];
    let mut at = 0;
    while at < content.len() {
        for run in disk.runs(at as u64, (content.len() - at) as u64).unwrap() {
            let range = at..at + run.len as usize;
            if run.kind == RunKind::Zero {
                assert!(content[range.clone()].iter().all(|&byte| byte == 0), "zeros promised in {range:?}");
                is_zero[range.clone()].fill(true);
            }
            at = range.end;
        }
    }
    assert_eq!(at, content.len());
    for (range, stored) in qemu {
        let zeros = is_zero[range.clone()].iter().filter(|&&zero| zero).count();
        match stored {
            Stored::Yes if range.len() >= 1 << 20 => {}
            Stored::Yes => assert_eq!(zeros, 0, "zeros promised in {range:?}, which is stored"),
            Stored::No => assert_eq!(zeros, range.len(), "not all zeros in {range:?}, which is absent"),
            Stored::Perhaps => {}
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Stored {
    Yes,
    No,
    /// Allocated, and yet known to be zero.
    Perhaps,
}

fn qemu_map(path: &Path, format: &str) -> Vec<(Range<usize>, Stored)> {
    if format == "vhdx" {
        // QEMU calls all of a VHDX stored.
        return Vec::new();
    }
    let map: Value =
        serde_json::from_str(&run("qemu-img", &["map", "--output=json", "-f", format, text(path)])).unwrap();
    let entry = |entry: &Value| {
        let start = entry["start"].as_u64().unwrap() as usize;
        let stored = match (entry["data"].as_bool().unwrap(), entry["zero"].as_bool().unwrap()) {
            (true, false) => Stored::Yes,
            (false, true) if entry.get("offset").is_none() => Stored::No,
            _ => Stored::Perhaps,
        };
        (start..start + entry["length"].as_u64().unwrap() as usize, stored)
    };
    map.as_array().unwrap().iter().map(entry).collect()
}

/// A raw file with holes, zeros, noise and text.
fn make_raw(folder: &Path, random: &mut Random) -> PathBuf {
    let sectors = 1 + random.below(16384);
    let size = sectors * 512 - if random.one_in(3) { random.below(512) } else { 0 };
    make_raw_of(folder, random, size)
}

fn make_raw_of(folder: &Path, random: &mut Random, size: u64) -> PathBuf {
    let path = folder.join("image.raw");
    let file = File::create(&path).unwrap();
    file.set_len(size).unwrap();
    let mut at = 0;
    while at < size {
        let len = random.small(9..21).min(size - at);
        let content: Option<Vec<u8>> = match random.below(5) {
            0 | 1 => None,
            2 => Some(vec![0; len as usize]),
            3 => Some((0..len).map(|_| random.next() as u8).collect()),
            _ => Some((0..len).map(|at| (at / 11 % 251) as u8).collect()),
        };
        if let Some(content) = content {
            file.write_all_at(&content, at).unwrap();
        }
        at += len;
    }
    path
}

fn make_qcow2(folder: &Path, random: &mut Random) -> PathBuf {
    let options = Qcow2Options::any(random);
    make_qcow2_with(folder, options, random)
}

fn make_qcow2_with(folder: &Path, options: Qcow2Options, random: &mut Random) -> PathBuf {
    let image = folder.join("image.qcow2");
    println!("{options:?}");
    if random.one_in(2) {
        let raw = make_raw_of(folder, random, options.size);
        let mut args = vec!["convert", "-f", "raw", "-O", "qcow2", "-o"];
        let text_options = options.text();
        args.push(&text_options);
        if options.compress {
            args.push("-c");
        }
        run("qemu-img", &[&args[..], &[text(&raw), text(&image)]].concat());
    } else {
        let size = options.size.to_string();
        run("qemu-img", &["create", "-q", "-f", "qcow2", "-o", &options.text(), text(&image), &size]);
    }
    write_some(&image, &options, random);
    // A snapshot adds one to all refcounts, and those of clusters that hold compressed ones are higher.
    if options.refcount_bits >= 16 && random.one_in(4) {
        run("qemu-img", &["snapshot", "-c", "before", text(&image)]);
        write_some(&image, &options, random);
    }
    if options.version == 3 && random.one_in(4) {
        run("qemu-img", &["bitmap", "--add", text(&image), "changes"]);
        write_some(&image, &options, random);
    }
    image
}

#[derive(Debug)]
struct Qcow2Options {
    version: u32,
    size: u64,
    cluster_bits: u64,
    extended: bool,
    zstd: bool,
    compress: bool,
    refcount_bits: u32,
    lazy: bool,
    preallocation: &'static str,
}

impl Qcow2Options {
    fn any(random: &mut Random) -> Self {
        let version = if random.one_in(4) { 2 } else { 3 };
        let cluster_bits = 9 + random.below(13);
        let extended = version == 3 && cluster_bits >= 14 && random.one_in(2);
        // Small clusters make QEMU slow, large ones would hold the whole disk.
        let most_sectors = if cluster_bits < 12 { 2048 } else { 16384 };
        let size = (1 + random.below(most_sectors)) * 512;
        let compress = random.one_in(2);
        let preallocation = match random.below(6) {
            _ if compress => "off",
            0 => "metadata",
            1 => "falloc",
            2 => "full",
            _ => "off",
        };
        Qcow2Options {
            version,
            size,
            cluster_bits,
            extended,
            zstd: version == 3 && random.one_in(2),
            compress,
            refcount_bits: if version == 3 { 1 << random.below(7) } else { 16 },
            lazy: version == 3 && random.one_in(4),
            preallocation,
        }
    }

    fn text(&self) -> String {
        let switch = |on| if on { "on" } else { "off" };
        let mut text = format!(
            "compat={},cluster_size={},preallocation={}",
            if self.version == 2 { "0.10" } else { "1.1" },
            1 << self.cluster_bits,
            self.preallocation,
        );
        if self.version == 3 {
            text += &format!(
                ",extended_l2={},compression_type={},refcount_bits={},lazy_refcounts={}",
                switch(self.extended),
                if self.zstd { "zstd" } else { "zlib" },
                self.refcount_bits,
                switch(self.lazy),
            );
        }
        text
    }
}

/// Writes, zeroes, discards and compresses here and there.
fn write_some(image: &Path, options: &Qcow2Options, random: &mut Random) {
    let mut args = vec!["-t".to_owned(), "unsafe".to_owned(), "-f".to_owned(), "qcow2".to_owned()];
    let cluster = 1 << options.cluster_bits;
    for _ in 0..random.below(12) {
        let first = random.below(options.size / 512);
        let sectors = random.small(0..10).min(options.size / 512 - first);
        let (at, len, pattern) = (first * 512, sectors * 512, 1 + random.below(255));
        let command = match random.below(8) {
            0 => format!("write -z {at} {len}"),
            1 => format!("write -z -u {at} {len}"),
            2 => format!("discard {at} {len}"),
            // Compressed writes take whole clusters.
            3 if options.compress && at / cluster * cluster + cluster <= options.size => {
                format!("write -c -P {pattern} {} {cluster}", at / cluster * cluster)
            }
            _ => format!("write -P {pattern} {at} {len}"),
        };
        args.extend(["-c".to_owned(), command]);
    }
    args.push(text(image).to_owned());
    // QEMU refuses to compress over an allocated cluster; the other commands are carried out.
    Command::new("qemu-io").args(&args).output().unwrap();
    // Now and then QEMU 7.2 comes to hold what it writes for corrupt, and marks it so.
    let mut features = [0; 8];
    File::open(image).unwrap().read_exact_at(&mut features, 72).unwrap();
    if options.version == 3 && u64::from_be_bytes(features) & 2 != 0 {
        Command::new("qemu-img").args(["check", "-q", "-r", "all", text(image)]).output().unwrap();
    }
}

fn make_vmdk(folder: &Path, random: &mut Random) -> PathBuf {
    let size = (1 + random.below(16384)) * 512;
    let raw = make_raw_of(folder, random, size);
    let image = folder.join("image.vmdk");
    let options = match random.below(4) {
        0 | 1 => "subformat=streamOptimized",
        2 => "subformat=monolithicSparse",
        _ => "subformat=monolithicSparse,zeroed_grain=on",
    };
    println!("{options}, {size} bytes");
    run("qemu-img", &["convert", "-f", "raw", "-O", "vmdk", "-o", options, text(&raw), text(&image)]);
    if options.contains("monolithicSparse") {
        let at = random.below(size / 512) * 512;
        let write = format!("write -P 90 {at} 512");
        let zero = format!("write -z 0 {}", at.max(512));
        run("qemu-io", &["-t", "unsafe", "-f", "vmdk", "-c", &zero, "-c", &write, text(&image)]);
    } else if random.one_in(2) {
        let with_footer = image_samples::with_footer(fs::read(&image).unwrap());
        fs::write(&image, with_footer).unwrap();
    }
    image
}

/// Fixed and dynamic images, by QEMU and, as far as the size goes, by others.
fn make_vhd(folder: &Path, random: &mut Random) -> PathBuf {
    let subformat = if random.one_in(3) { "fixed" } else { "dynamic" };
    let force_size = if random.one_in(2) { "on" } else { "off" };
    let options = format!("subformat={subformat},force_size={force_size}");
    let image = make_of_blocks(folder, random, "vpc", &options);
    let creators: [&[u8; 4]; 7] = [b"vpc ", b"qemu", b"qem2", b"win ", b"d2v ", b"tap\0", b"CTXS"];
    let mut bytes = fs::read(&image).unwrap();
    let last = bytes.len() - 512;
    let creator = creators[random.below(7) as usize];
    let fewer_sectors = random.below(9);
    println!("by `{}`, {fewer_sectors} sectors shorter", creator.escape_ascii());
    for footer in if subformat == "fixed" { vec![last] } else { vec![0, last] } {
        image_samples::put(&mut bytes, footer + 28, creator);
        let size = u64::from_be_bytes(*bytes[footer + 48..].first_chunk().unwrap());
        let size = size.saturating_sub(fewer_sectors * 512);
        image_samples::put(&mut bytes, footer + 48, &size.to_be_bytes());
    }
    image_samples::vhd::sum(&mut bytes);
    fs::write(&image, bytes).unwrap();
    image
}

/// Dynamic and fixed images, some with zero blocks, as VirtualBox makes them.
fn make_vdi(folder: &Path, random: &mut Random) -> PathBuf {
    let options = if random.one_in(3) { "static=on" } else { "static=off" };
    let image = make_of_blocks(folder, random, "vdi", options);
    let mut bytes = fs::read(&image).unwrap();
    let blocks = u32::from_le_bytes(*bytes[384..].first_chunk().unwrap()) as usize;
    for entry in 0..blocks {
        if random.one_in(4) {
            image_samples::put(&mut bytes, 512 + entry * 4, &(u32::MAX - 1).to_le_bytes());
        }
    }
    fs::write(&image, bytes).unwrap();
    image
}

/// An image of a format with large blocks: converted from a raw one, or written here and there.
fn make_of_blocks(folder: &Path, random: &mut Random, format: &str, options: &str) -> PathBuf {
    let size = (1 + random.below(16384)) * 512;
    let image = folder.join(format!("image.{format}"));
    println!("{options}, {size} bytes");
    if random.one_in(2) {
        let raw = make_raw_of(folder, random, size);
        run("qemu-img", &["convert", "-f", "raw", "-O", format, "-o", options, text(&raw), text(&image)]);
    } else {
        run("qemu-img", &["create", "-q", "-f", format, "-o", options, text(&image), &size.to_string()]);
    }
    let mut args = vec!["-t".to_owned(), "unsafe".to_owned(), "-f".to_owned(), format.to_owned()];
    for _ in 0..random.below(6) {
        let first = random.below(size / 512);
        let (at, len) = (first * 512, random.small(0..12).min(size / 512 - first) * 512);
        let command = match random.below(5) {
            0 => format!("write -z {at} {len}"),
            1 => format!("discard {at} {len}"),
            _ => format!("write -P {} {at} {len}", 1 + random.below(255)),
        };
        args.extend(["-c".to_owned(), command]);
    }
    args.push(text(&image).to_owned());
    // Not every format can discard; the other commands are carried out.
    Command::new("qemu-io").args(&args).output().unwrap();
    image
}

/// Fixed or dynamic, with absent blocks or zero ones.
fn make_vhdx(folder: &Path, random: &mut Random) -> PathBuf {
    let options = format!(
        "subformat={},block_size={},log_size={},block_state_zero={}",
        if random.one_in(4) { "fixed" } else { "dynamic" },
        1u64 << (20 + random.below(5)),
        (1 + random.below(3)) << 20,
        if random.one_in(2) { "on" } else { "off" },
    );
    make_of_blocks(folder, random, "vhdx", &options)
}

#[track_caller]
fn run(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {}: {errors}", args.join(" "));
    String::from_utf8(output.stdout).unwrap()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Steele, Lea, Flood: SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    fn one_in(&mut self, count: u64) -> bool {
        self.below(count) == 0
    }

    /// A range of at least one byte in `0..end`.
    fn range(&mut self, end: usize) -> Range<usize> {
        let start = self.below(end as u64) as usize;
        start..start + (self.small(0..21) as usize).min(end - start)
    }

    /// A number from 1 to a power of two, as often of the order of 1 as of a million.
    fn small(&mut self, bits: Range<u64>) -> u64 {
        let bits = bits.start + self.below(bits.end - bits.start);
        1 + self.below(1 << bits)
    }
}
