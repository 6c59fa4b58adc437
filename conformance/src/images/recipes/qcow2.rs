//! qcow2: versions, cluster sizes, refcount widths, compression, extended L2, snapshots, bitmaps, backing files.

use super::content::{Changes, End, any_size, change, raw_file};
use super::{Kind, Made};
use crate::images::SuiteError;
use crate::images::random::Random;
use crate::images::workshop::Workshop;

pub(super) fn single(shop: &mut Workshop, random: &mut Random) -> Result<Made, SuiteError> {
    let options = Options::any(random);
    let file = "image.qcow2";
    if random.one_in(2) {
        raw_file(shop, "source.raw", options.size, random)?;
        let text = options.text();
        let mut arguments = vec!["convert", "-f", "raw", "-O", "qcow2", "-o", &text];
        arguments.extend(options.compress.then_some("-c"));
        shop.run("qemu-img", &[&arguments[..], &["source.raw", file]].concat())?;
    } else {
        let size = options.size.to_string();
        shop.run("qemu-img", &["create", "-q", "-f", "qcow2", "-o", &options.text(), file, &size])?;
    }
    write_to(shop, file, &options, random)?;
    Ok(Made { kind: Kind::Qcow2, format: "qcow2", file: file.into(), backing: Vec::new(), has_parts: false })
}

/// One to three images over a base of any format, each of a size of its own.
pub(super) fn chain(shop: &mut Workshop, random: &mut Random) -> Result<Made, SuiteError> {
    let size = any_size(random);
    raw_file(shop, "base.raw", size, random)?;
    let base: (&str, &str, &'static str) = random.choice(&[
        ("base.raw", "", "raw"),
        ("base.qcow2", "cluster_size=4096", "qcow2"),
        ("base.qcow2", "compression_type=zstd", "qcow2"),
        ("base.vmdk", "subformat=streamOptimized", "vmdk"),
        ("base.vmdk", "subformat=monolithicSparse", "vmdk"),
        ("base.vhdx", "subformat=dynamic", "vhdx"),
        ("base.vhd", "subformat=dynamic,force_size=on", "vpc"),
        ("base.vdi", "static=off", "vdi"),
    ]);
    let (file, options, format) = base;
    if format != "raw" {
        shop.run("qemu-img", &["convert", "-f", "raw", "-O", format, "-o", options, "base.raw", file])?;
    }
    let mut backing = vec![(file.to_owned(), format)];
    for level in 0..=random.below(3) {
        let mut options = Options::any(random);
        options.size = match random.below(3) {
            0 => any_size(random),
            1 => (size / 2).next_multiple_of(512),
            _ => size,
        };
        // With a backing file, extended L2 is what allows preallocation.
        options.preallocation = if options.extended { "metadata" } else { "off" };
        let (below, format) = &backing[0];
        let text = format!("{},backing_file={below},backing_fmt={format}", options.text());
        let file = format!("level{level}.qcow2");
        let size = options.size.to_string();
        shop.run("qemu-img", &["create", "-q", "-f", "qcow2", "-o", &text, &file, &size])?;
        write_to(shop, &file, &options, random)?;
        backing.insert(0, (file, "qcow2"));
    }
    let (file, _) = backing.remove(0);
    Ok(Made { kind: Kind::Qcow2Chain, format: "qcow2", file, backing, has_parts: false })
}

#[derive(Debug)]
struct Options {
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

impl Options {
    fn any(random: &mut Random) -> Self {
        let version = if random.one_in(4) { 2 } else { 3 };
        let cluster_bits = 9 + random.below(13);
        let extended = version == 3 && cluster_bits >= 14 && random.one_in(2);
        // Small clusters make QEMU slow.
        let size = any_size(random);
        let size = if cluster_bits < 12 { size.min((1 << 20) + size % 65536 / 512 * 512) } else { size };
        let compress = random.one_in(2);
        let preallocation = match random.below(6) {
            _ if compress || size > 16 << 20 => "off",
            0 => "metadata",
            1 => "falloc",
            2 => "full",
            _ => "off",
        };
        let zstd = version == 3 && random.one_in(2);
        let refcount_bits = if version == 3 { 1 << random.below(7) } else { 16 };
        let lazy = version == 3 && random.one_in(4);
        Self { version, size, cluster_bits, extended, zstd, compress, refcount_bits, lazy, preallocation }
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

/// Writes to it, and sometimes takes a snapshot, adds a bitmap or leaves it in the middle of it.
fn write_to(
    shop: &mut Workshop,
    file: &str,
    options: &Options,
    random: &mut Random,
) -> Result<(), SuiteError> {
    let compressed = options.compress.then_some(1 << options.cluster_bits);
    let changes = Changes { size: options.size, most: 12, zeros: true, compressed, end: End::Closed };
    change(shop, "qcow2", file, changes, random)?;
    // A snapshot adds one to all refcounts, and those of clusters that hold compressed ones are higher.
    if options.refcount_bits >= 16 && random.one_in(4) {
        shop.run("qemu-img", &["snapshot", "-c", "before", file])?;
        change(shop, "qcow2", file, changes, random)?;
    }
    if options.version == 3 && random.one_in(4) {
        shop.run("qemu-img", &["bitmap", "--add", file, "changes"])?;
        change(shop, "qcow2", file, changes, random)?;
    }
    // The refcounts are stale then, and the image says so. Compressed clusters share them, so QEMU may lose those.
    if options.lazy && !options.compress && random.one_in(2) {
        change(shop, "qcow2", file, Changes { end: End::Killed, ..changes }, random)?;
    }
    Ok(())
}
