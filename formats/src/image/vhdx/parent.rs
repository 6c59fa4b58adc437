//! The parent locator: which state of which disk an image is a difference to.
//!
//! Its paths are shown to a person, and never opened.
//!
//! Source: \[MS-VHDX\] 2.6.2.6.

use super::super::Refusal;
use super::super::chain::{Identity, Parent};
use super::super::quoted::quoted_text;
use super::super::source::Source;
use super::FORMAT;
use super::guid::Guid;
use super::metadata::ParentItem;
use super::sealed::Fields;

const VHDX_LOCATOR: Guid = Guid::new(0xb04aefb7_d19e_4a81_b789_25b8e9445913);
const HEADER_BYTES: usize = 20;
const ENTRY_BYTES: usize = 12;

// Where the fields lie in the locator's header and in an entry.
const KEY_VALUE_COUNT: usize = 18;
const VALUE_OFFSET: usize = 4;
const KEY_LENGTH: usize = 8;
const VALUE_LENGTH: usize = 10;

/// Both name the parent's state; a file under repair may have the second besides.
const LINKAGES: [&str; 2] = ["parent_linkage", "parent_linkage2"];
const PATHS: [&str; 3] = ["relative_path", "absolute_win32_path", "volume_path"];

const NO_VHDX: &str = "only differences to another VHDX image are read";

/// Checks that `parent` is in the state that the image was made from.
pub(super) fn check(file: &Source, item: &ParentItem, parent: Option<&Parent>) -> Result<(), Refusal> {
    let mut bytes = vec![0; (item.locator.end - item.locator.start) as usize];
    file.read(item.locator.start, &mut bytes)?;
    let locator = Locator::parse(Fields { bytes: &bytes, offset: item.locator.start })?;
    let Some(parent) = parent else {
        let path = PATHS.iter().find_map(|key| locator.value(key));
        let found = match path {
            Some((path, _)) => format!("set, and its parent is {}", quoted_text(&path)),
            None => "set".to_owned(),
        };
        return Err(FORMAT.no_backing(item.flag_at, "HasParent", found));
    };
    let linkages = LINKAGES.map(|key| locator.value(key));
    let Some((linkage, at)) = &linkages[0] else {
        let wanted = "the key `parent_linkage`";
        return Err(FORMAT.malformed(item.locator.start, "parent locator", "without a linkage", wanted));
    };
    let Some(Identity::Vhdx(state)) = parent.identity else {
        return Err(FORMAT.unsupported(*at, "parent_linkage", quoted_text(linkage), NO_VHDX));
    };
    let same = |(linkage, _): &(String, u64)| Guid::from_braced(linkage) == Some(Guid(state));
    if linkages.iter().flatten().any(same) {
        return Ok(());
    }
    let wanted = format!("`{}`, the state of the image that was handed over", Guid(state));
    Err(FORMAT.malformed(*at, "parent_linkage", quoted_text(linkage), wanted))
}

/// A parent locator, all of whose entries lie in it.
struct Locator<'a> {
    fields: Fields<'a>,
}

impl<'a> Locator<'a> {
    fn parse(fields: Fields<'a>) -> Result<Self, Refusal> {
        if fields.bytes.len() < HEADER_BYTES {
            let found = format!("{} bytes long", fields.bytes.len());
            return Err(FORMAT.malformed(fields.offset, "parent locator", found, "at least 20 bytes"));
        }
        if fields.guid(0) != VHDX_LOCATOR {
            return Err(FORMAT.unsupported(fields.offset, "LocatorType", fields.guid(0), NO_VHDX));
        }
        let room = (fields.bytes.len() - HEADER_BYTES) / ENTRY_BYTES;
        let count = fields.u16(KEY_VALUE_COUNT);
        if usize::from(count) > room {
            let wanted = format!("at most {room}, which the item has room for");
            return Err(FORMAT.malformed(fields.at(KEY_VALUE_COUNT), "KeyValueCount", count, wanted));
        }
        let locator = Locator { fields };
        for entry in locator.entries() {
            for (offset, length) in [(0, KEY_LENGTH), (VALUE_OFFSET, VALUE_LENGTH)] {
                if locator.text(&entry, offset, length).is_none() {
                    let wanted = "a text that lies in the parent locator";
                    return Err(FORMAT.malformed(
                        entry.at(offset),
                        "parent locator entry",
                        entry.u32(offset),
                        wanted,
                    ));
                }
            }
        }
        Ok(locator)
    }

    /// The value of `key`, and where in the file it stands.
    fn value(&self, key: &str) -> Option<(String, u64)> {
        let is_key = |entry: &Fields<'_>| {
            self.text(entry, 0, KEY_LENGTH).is_some_and(|text| units(text).eq(key.encode_utf16()))
        };
        let entry = self.entries().find(is_key)?;
        let text = self.text(&entry, VALUE_OFFSET, VALUE_LENGTH)?;
        let value = char::decode_utf16(units(text)).map(|unit| unit.unwrap_or(char::REPLACEMENT_CHARACTER));
        Some((value.collect(), self.fields.at(entry.u32(VALUE_OFFSET) as usize)))
    }

    fn entries(&self) -> impl Iterator<Item = Fields<'a>> {
        let Fields { bytes, offset } = self.fields;
        let count = usize::from(self.fields.u16(KEY_VALUE_COUNT));
        bytes[HEADER_BYTES..].chunks_exact(ENTRY_BYTES).take(count).enumerate().map(move |(index, bytes)| {
            Fields { bytes, offset: offset + (HEADER_BYTES + index * ENTRY_BYTES) as u64 }
        })
    }

    /// The text whose offset and length are the entry's fields at `offset` and `length`.
    fn text(&self, entry: &Fields<'_>, offset: usize, length: usize) -> Option<&'a [u8]> {
        let start = usize::try_from(entry.u32(offset)).ok()?;
        self.fields.bytes.get(start..start.checked_add(usize::from(entry.u16(length)))?)
    }
}

fn units(text: &[u8]) -> impl Iterator<Item = u16> {
    text.as_chunks().0.iter().map(|unit| u16::from_le_bytes(*unit))
}
