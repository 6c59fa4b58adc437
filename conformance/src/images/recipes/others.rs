//! Raw files, VHD, VHDX and VDI.

use super::content::{Changes, End, any_size, change, raw_file};
use super::{Kind, Made};
use crate::images::SuiteError;
use crate::images::random::Random;
use crate::images::workshop::Workshop;

pub(super) fn raw(shop: &mut Workshop, random: &mut Random) -> Result<Made, SuiteError> {
    let size = any_size(random);
    raw_file(shop, "image.raw", size, random)?;
    Ok(Made {
        kind: Kind::Raw,
        format: "raw",
        file: "image.raw".into(),
        backing: Vec::new(),
        has_parts: false,
    })
}

pub(super) fn vhd(shop: &mut Workshop, kind: Kind, random: &mut Random) -> Result<Made, SuiteError> {
    let subformat = if kind == Kind::VhdFixed { "fixed" } else { "dynamic" };
    // Otherwise QEMU rounds the size up to what cylinders, heads and sectors can say.
    let force_size = random.choice(&["on", "on", "off"]);
    let options = format!("subformat={subformat},force_size={force_size}");
    create(shop, kind, "vpc", "image.vhd", &options, random)
}

pub(super) fn vhdx(shop: &mut Workshop, kind: Kind, random: &mut Random) -> Result<Made, SuiteError> {
    let subformat = if kind == Kind::VhdxFixed { "fixed" } else { "dynamic" };
    let block_mib = 1 << random.below(9); // to 256 MiB
    let log_mib = 1 + random.below(4);
    // Without blocks of the state "zero" QEMU loses zero writes, as its own help says.
    let mut options = format!("subformat={subformat},log_size={log_mib}M");
    if random.one_in(4) {
        options += ",block_size=0"; // as the size of the disk suggests
    } else {
        options += &format!(",block_size={block_mib}M");
    }
    create(shop, kind, "vhdx", "image.vhdx", &options, random)
}

pub(super) fn vdi(shop: &mut Workshop, kind: Kind, random: &mut Random) -> Result<Made, SuiteError> {
    let options = if kind == Kind::VdiStatic { "static=on" } else { "static=off" };
    create(shop, kind, "vdi", "image.vdi", options, random)
}

/// Converted from a raw file or empty, then written to.
fn create(
    shop: &mut Workshop,
    kind: Kind,
    format: &'static str,
    file: &str,
    options: &str,
    random: &mut Random,
) -> Result<Made, SuiteError> {
    let size = any_size(random);
    if random.one_in(3) {
        shop.run("qemu-img", &["create", "-q", "-f", format, "-o", options, file, &size.to_string()])?;
    } else {
        raw_file(shop, "source.raw", size, random)?;
        let arguments = ["convert", "-f", "raw", "-O", format, "-o", options, "source.raw", file];
        shop.run("qemu-img", &arguments)?;
    }
    let changes = Changes { size, most: 10, zeros: true, compressed: None, end: End::Closed };
    change(shop, format, file, changes, random)?;
    Ok(Made { kind, format, file: file.to_owned(), backing: Vec::new(), has_parts: false })
}
