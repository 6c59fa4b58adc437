//! What QEMU says of an image: its content, raw, and what of it is stored nowhere.

use std::fs::File;
use std::ops::Range;

use serde_json::Value;

use super::SuiteError;
use super::compare::Reference;
use super::recipes::Made;
use super::workshop::Workshop;

/// Writes the disk to `reference.raw` in the workshop.
pub(crate) fn reference(made: &Made, shop: &mut Workshop) -> Result<Reference, SuiteError> {
    let out = "reference.raw";
    shop.run("qemu-img", &["convert", "-f", made.format, "-O", "raw", &made.file, out])?;
    let raw = File::open(shop.path(out)).map_err(|error| shop.failed(error))?;
    let size_bytes = raw.metadata().map_err(|error| shop.failed(error))?.len();
    let map = shop.run("qemu-img", &["map", "--output=json", "-f", made.format, &made.file])?;
    let absent =
        absent(&map).ok_or_else(|| SuiteError::NoMap { found: String::from_utf8_lossy(&map).into() })?;
    Ok(Reference { raw, size_bytes, absent })
}

/// What reads as zeros and has no place in a file. What has one is stored, though perhaps as a hole of the
/// file; readers may call that either.
fn absent(map: &[u8]) -> Option<Vec<Range<u64>>> {
    let map: Value = serde_json::from_slice(map).ok()?;
    let mut absent: Vec<Range<u64>> = Vec::new();
    for entry in map.as_array()? {
        let start = entry["start"].as_u64()?;
        let end = start + entry["length"].as_u64()?;
        if entry["zero"].as_bool()? && !entry["data"].as_bool()? && entry.get("offset").is_none() {
            match absent.last_mut() {
                Some(last) if last.end == start => last.end = end,
                _ => absent.push(start..end),
            }
        }
    }
    Some(absent)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_has_no_place_in_a_file_is_absent() {
        let map = br#"[
            { "start": 0, "length": 512, "depth": 0, "present": true, "zero": false, "data": true, "offset": 512 },
            { "start": 512, "length": 512, "depth": 0, "present": true, "zero": true, "data": false },
            { "start": 1024, "length": 512, "depth": 1, "present": false, "zero": true, "data": false },
            { "start": 1536, "length": 512, "depth": 0, "present": true, "zero": true, "data": false, "offset": 0 }]"#;
        assert!(absent(map).unwrap().iter().eq([&(512..1536)]));
        assert_eq!(absent(b"[{}]"), None);
    }
}
