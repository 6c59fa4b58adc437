//! Chains of qcow2 images, made and read by QEMU and read by us.

use std::path::{Path, PathBuf};

use formats::image::{self, ImageRequest, Layer, Parts, ReadCache};

use super::{
    LIMITS, Qcow2Options, Random, compare_disk, make_qcow2, make_raw, repeated, run, source, text, write_some,
};

#[test]
fn qcow2_chains_read_as_qemu_reads_them() {
    repeated("chains of qcow2", 15, |folder, random| {
        let layers = make_chain(folder, random);
        compare_chain(&layers, "qcow2", None, folder, random);
    });
}

/// Opens `layers`, the image first, and compares.
#[track_caller]
pub(super) fn compare_chain(
    layers: &[PathBuf],
    format: &str,
    parts: Option<&dyn Parts>,
    folder: &Path,
    random: &mut Random,
) {
    let layer = |path: &PathBuf| Layer { source: source(path), name: "image", format: None };
    let backing = layers[1..].iter().map(layer).collect();
    let request =
        ImageRequest { layer: layer(&layers[0]), backing, parts, limits: LIMITS, cache: ReadCache::new() };
    let disk = image::open(request).unwrap().disk;
    compare_disk(disk.as_ref(), &layers[0], format, folder, random);
}

/// One to three overlays over a raw or a qcow2 image, the last one first.
fn make_chain(folder: &Path, random: &mut Random) -> Vec<PathBuf> {
    let (base, mut format) = if random.one_in(3) {
        (make_raw(folder, random), "raw")
    } else {
        (make_qcow2(folder, random), "qcow2")
    };
    let mut layers = vec![base];
    for level in 0..=random.below(3) {
        let overlay = folder.join(format!("overlay{level}.qcow2"));
        let options = Qcow2Options { preallocation: "off", ..Qcow2Options::any(random) };
        println!("over {format}: {options:?}");
        let (below, size) = (text(&layers[0]), options.size.to_string());
        let create = ["create", "-q", "-f", "qcow2", "-o", &options.text(), "-b", below, "-F", format];
        run("qemu-img", &[&create[..], &[text(&overlay), &size]].concat());
        write_some(&overlay, &options, random);
        layers.insert(0, overlay);
        format = "qcow2";
    }
    layers
}
