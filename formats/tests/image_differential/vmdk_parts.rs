//! VMDKs in several files, and differences between VMDKs, made and read by QEMU and read by us.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use formats::RunKind;
use formats::image::{self, ImageRequest, Layer, Limits, Parts, ReadCache, Source};

use super::chains::compare_chain;
use super::image_samples::vmdk_streams::{Style, vmdk_stream};
use super::{Random, SEED, compare, has_qemu, make_raw_of, repeated, run, source, text};

/// The files of a folder that QEMU has written itself.
#[derive(Debug)]
struct Folder<'a>(&'a Path);

impl Parts for Folder<'_> {
    fn part(&self, name: &str) -> io::Result<Option<Source>> {
        let path = self.0.join(name);
        if path.exists() { Ok(Some(Source::new(File::open(path)?).unwrap())) } else { Ok(None) }
    }
}

#[test]
fn vmdks_in_several_files_read_as_qemu_reads_them() {
    repeated("split vmdk", 15, |folder, random| {
        let image = make_split(folder, random);
        compare_chain(&[image], "vmdk", Some(&Folder(folder)), folder, random);
    });
}

#[test]
fn vmdk_differences_read_as_qemu_reads_them() {
    repeated("chains of vmdk", 15, |folder, random| {
        let layers = make_chain(folder, random);
        compare_chain(&layers, "vmdk", Some(&Folder(folder)), folder, random);
    });
}

/// QEMU takes the size of a stream from its header, which VirtualBox rounds up.
#[test]
fn streams_in_the_style_of_others_read_as_qemu_reads_them() {
    if !has_qemu() {
        return;
    }
    for style in [Style::OpenVmdk, Style::Nfc] {
        let folder = tempfile::tempdir().unwrap();
        let image = folder.path().join("stream.vmdk");
        let mut content = vmdk_stream(style).0;
        content.resize(content.len().next_multiple_of(512), 0); // QEMU wants the last sector whole
        fs::write(&image, content).unwrap();
        compare(&image, "vmdk", folder.path(), &mut Random(SEED));
    }
}

#[test]
fn a_disk_of_more_than_one_full_extent_is_put_together_at_their_borders() {
    if !has_qemu() {
        return;
    }
    const GIB: u64 = 1 << 30;
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("large.vmdk");
    for kind in ["twoGbMaxExtentSparse", "twoGbMaxExtentFlat"] {
        let options = format!("subformat={kind}");
        run("qemu-img", &["create", "-q", "-f", "vmdk", "-o", &options, text(&image), "5G"]);
        let written = [
            (0, 512, 1),
            (2 * GIB - 512, 1024, 2),
            (4 * GIB - 70_000 / 512 * 512, 140_288, 3),
            (5 * GIB - 512, 512, 4),
        ];
        let commands: Vec<String> =
            written.iter().map(|(at, len, pattern)| format!("write -P {pattern} {at} {len}")).collect();
        let mut args = vec!["-t", "unsafe", "-f", "vmdk"];
        args.extend(commands.iter().flat_map(|command| ["-c", command]));
        run("qemu-io", &[&args[..], &[text(&image)]].concat());

        let parts = Folder(folder.path());
        let layer = Layer { source: source(&image), name: "image", format: None };
        let limits = Limits { max_size_bytes: 5 * GIB };
        let request =
            ImageRequest { layer, backing: Vec::new(), parts: Some(&parts), limits, cache: ReadCache::new() };
        let disk = image::open(request).unwrap().disk;
        assert_eq!(disk.size_bytes(), 5 * GIB);
        for (at, len, pattern) in written {
            let start = at.saturating_sub(1000);
            let mut found = vec![0xa5; ((at + len + 1000).min(5 * GIB) - start) as usize];
            disk.read_at(start, &mut found).unwrap();
            for (index, byte) in found.into_iter().enumerate() {
                let inside = (at..at + len).contains(&(start + index as u64));
                assert_eq!(byte, if inside { pattern } else { 0 }, "{kind}: byte {index} around {at}");
            }
        }
        let (mut at, mut stored) = (0, 0);
        while at < 5 * GIB {
            for run in disk.runs(at, 5 * GIB - at).unwrap() {
                at += run.len;
                stored += if run.kind == RunKind::Data { run.len } else { 0 };
            }
        }
        assert!((142_336..1 << 20).contains(&stored), "{kind}: {stored} bytes are stored");
    }
}

fn any_options(random: &mut Random) -> String {
    let mut options = String::new();
    match random.below(3) {
        0 => options += ",hwversion=7",
        1 => options += ",compat6=on",
        _ => {}
    }
    options
}

/// One of QEMU's kinds in several files, or extents of several of those put together by hand.
fn make_split(folder: &Path, random: &mut Random) -> PathBuf {
    let image = folder.join("image.vmdk");
    let extents = if random.one_in(3) { 1 } else { 2 + random.below(4) };
    let mut lines = String::new();
    for number in 0..extents {
        let kind = ["monolithicFlat", "twoGbMaxExtentFlat", "twoGbMaxExtentSparse"][random.below(3) as usize];
        let mut size = (1 + random.below(4096)) * 512;
        if extents > 1 && kind.ends_with("Sparse") {
            // QEMU 7.2 reads on in an extent that ends within a grain; only a disk's last one does.
            size = size.next_multiple_of(65536);
        }
        let raw = make_raw_of(folder, random, size);
        let zeroed = if kind.ends_with("Sparse") && random.one_in(2) { ",zeroed_grain=on" } else { "" };
        let options = format!("subformat={kind}{zeroed}{}", any_options(random));
        println!("{options}, {size} bytes");
        let piece = if extents == 1 { image.clone() } else { folder.join(format!("piece {number}.vmdk")) };
        run("qemu-img", &["convert", "-f", "raw", "-O", "vmdk", "-o", &options, text(&raw), text(&piece)]);
        write_some(&piece, size, random);
        let descriptor = fs::read_to_string(&piece).unwrap();
        let line = descriptor.lines().find(|line| line.starts_with("RW ")).unwrap();
        lines += &match line.strip_suffix(" 0") {
            // A part of a flat file, at an offset.
            Some(line) if extents > 1 && random.one_in(2) => {
                let name = line.split_once("FLAT ").unwrap().1;
                let first = random.below(size / 512);
                format!("RW {} FLAT {name} {first}\n", 1 + random.below(size / 512 - first))
            }
            _ => format!("{line}\n"),
        };
    }
    if extents > 1 {
        let start = "# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID=ffffffff\ncreateType=\"twoGbMaxExtentFlat\"";
        // QEMU 7.2 takes an extent that follows an empty line twice.
        fs::write(&image, format!("{start}\n# Extent description\n{lines}\nddb.adapterType = \"ide\"\n"))
            .unwrap();
    }
    image
}

/// One to three differences over a VMDK of any kind, the last one first.
fn make_chain(folder: &Path, random: &mut Random) -> Vec<PathBuf> {
    let size = (1 + random.below(8192)) * 512;
    let raw = make_raw_of(folder, random, size);
    let base = folder.join("base.vmdk");
    let kinds = ["monolithicSparse", "monolithicFlat", "twoGbMaxExtentSparse", "streamOptimized"];
    let options = format!("subformat={}", kinds[random.below(4) as usize]);
    println!("{options}, {size} bytes");
    run("qemu-img", &["convert", "-f", "raw", "-O", "vmdk", "-o", &options, text(&raw), text(&base)]);
    let mut layers = vec![base];
    for level in 0..=random.below(3) {
        let delta = folder.join(format!("delta{level}.vmdk"));
        let size = (1 + random.below(8192)) * 512;
        let kind = ["monolithicSparse", "twoGbMaxExtentSparse", "streamOptimized"][random.below(3) as usize];
        let zeroed = if kind != "streamOptimized" && random.one_in(2) { ",zeroed_grain=on" } else { "" };
        let options = format!("subformat={kind}{zeroed}{}", any_options(random));
        println!("over it: {options}, {size} bytes");
        let create = ["create", "-q", "-f", "vmdk", "-F", "vmdk", "-b", text(&layers[0]), "-o", &options];
        run("qemu-img", &[&create[..], &[text(&delta), &size.to_string()]].concat());
        if kind == "streamOptimized" {
            write_grains_once(&delta, size, random);
        } else {
            write_some(&delta, size, random);
        }
        layers.insert(0, delta);
    }
    layers
}

fn write_some(image: &Path, size: u64, random: &mut Random) {
    let mut commands = Vec::new();
    for _ in 0..random.below(8) {
        let first = random.below(size / 512);
        let len = random.small(0..9).min(size / 512 - first) * 512;
        let how = if random.one_in(3) { "-z".to_owned() } else { format!("-P {}", 1 + random.below(255)) };
        commands.push(format!("write {how} {} {len}", first * 512));
    }
    write(image, &commands);
}

/// QEMU writes each grain of a stream once, and whole.
fn write_grains_once(image: &Path, size: u64, random: &mut Random) {
    let mut commands = Vec::new();
    for grain in 0..size / 65536 {
        if random.one_in(3) {
            commands.push(format!("write -P {} {} 65536", 1 + random.below(255), grain * 65536));
        }
    }
    write(image, &commands);
}

fn write(image: &Path, commands: &[String]) {
    let mut args = vec!["-t", "unsafe", "-f", "vmdk"];
    args.extend(commands.iter().flat_map(|command| ["-c", command]));
    run("qemu-io", &[&args[..], &[text(image)]].concat());
}
