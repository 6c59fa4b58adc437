//! VMDK, of every kind that QEMU writes.

use super::content::{Changes, End, any_size, change, raw_file};
use super::{Kind, Made};
use crate::images::SuiteError;
use crate::images::random::Random;
use crate::images::workshop::Workshop;

pub(super) fn single(
    shop: &mut Workshop,
    kind: Kind,
    name: &str,
    random: &mut Random,
) -> Result<Made, SuiteError> {
    let size = any_size(random);
    one(shop, kind, name, size, random)
}

/// One to three differences over a monolithicSparse image. QEMU wants all of them as large as the first.
pub(super) fn chain(shop: &mut Workshop, random: &mut Random) -> Result<Made, SuiteError> {
    let size = any_size(random);
    let mut backing = vec![(one(shop, Kind::VmdkSparse, "base", size, random)?.file, "vmdk")];
    for level in 0..=random.below(3) {
        let file = format!("level{level}.vmdk");
        let mut options = format!("backing_file={},backing_fmt=vmdk", backing[0].0);
        if random.one_in(2) {
            options += ",zeroed_grain=on";
        }
        shop.run("qemu-img", &["create", "-q", "-f", "vmdk", "-o", &options, &file])?;
        write_to(shop, &file, size, random)?;
        backing.insert(0, (file, "vmdk"));
    }
    let (file, _) = backing.remove(0);
    Ok(Made { kind: Kind::VmdkChain, format: "vmdk", file, backing, has_parts: false })
}

fn one(
    shop: &mut Workshop,
    kind: Kind,
    name: &str,
    size: u64,
    random: &mut Random,
) -> Result<Made, SuiteError> {
    let subformat = match kind {
        Kind::VmdkStream => "streamOptimized",
        Kind::VmdkFlat => "monolithicFlat",
        Kind::VmdkSplitSparse => "twoGbMaxExtentSparse",
        Kind::VmdkSplitFlat => "twoGbMaxExtentFlat",
        _ => "monolithicSparse",
    };
    let is_flat = matches!(kind, Kind::VmdkFlat | Kind::VmdkSplitFlat);
    let mut options = format!("subformat={subformat}");
    if !is_flat && random.one_in(3) {
        options += ",zeroed_grain=on";
    }
    options += match random.below(6) {
        0 => ",adapter_type=lsilogic",
        1 => ",adapter_type=buslogic",
        2 => ",compat6=on",
        3 => ",hwversion=14",
        _ => "",
    };
    let file = format!("{name}.vmdk");
    if kind != Kind::VmdkStream && random.one_in(3) {
        shop.run("qemu-img", &["create", "-q", "-f", "vmdk", "-o", &options, &file, &size.to_string()])?;
    } else {
        let source = format!("{name}.raw");
        raw_file(shop, &source, size, random)?;
        shop.run("qemu-img", &["convert", "-f", "raw", "-O", "vmdk", "-o", &options, &source, &file])?;
    }
    // A streamOptimized image is written once.
    if kind != Kind::VmdkStream {
        write_to(shop, &file, size, random)?;
    }
    let has_parts = is_flat || kind == Kind::VmdkSplitSparse;
    Ok(Made { kind, format: "vmdk", file, backing: Vec::new(), has_parts })
}

fn write_to(shop: &mut Workshop, file: &str, size: u64, random: &mut Random) -> Result<(), SuiteError> {
    let changes = Changes { size, most: 10, zeros: true, compressed: None, end: End::Closed };
    change(shop, "vmdk", file, changes, random)
}
