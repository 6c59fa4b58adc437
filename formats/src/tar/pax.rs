//! What stands before a member about it: GNU's long name, or PAX records.
//!
//! A record may say what the member's own header has no room for: a name that is longer than its field or not
//! ASCII, a size of 8 GiB or more. What contradicts the header is refused, for another reader could go by the header.
//!
//! Source: POSIX.1-2017, pax, "pax Extended Header"; GNU tar manual, "Basic Tar Format".

use super::header::{Header, OCTAL_END};
use super::{TarError, malformed};

/// The longest name, in bytes.
const MOST_NAME_BYTES: usize = 4096;
/// Bytes of a name that any writer puts into the header before it cuts it off.
const CUT_NAME_BYTES: usize = 99;

/// What is known of the next member.
#[derive(Debug, Default)]
pub(super) struct Extended {
    name: Option<String>,
    size_bytes: Option<u64>,
    has_records: bool,
}

impl Extended {
    pub(super) fn is_empty(&self) -> bool {
        self.name.is_none() && !self.has_records
    }

    /// Takes GNU's long name, which ends with a NUL.
    pub(super) fn add_long_name(&mut self, offset: u64, content: &[u8]) -> Result<(), TarError> {
        self.set_name(offset, content.strip_suffix(&[0]).unwrap_or(content))
    }

    fn set_name(&mut self, offset: u64, name: &[u8]) -> Result<(), TarError> {
        let wanted = "UTF-8 of 1 to 4096 bytes";
        let found = || format!("`{}`", name[..name.len().min(64)].escape_ascii());
        match std::str::from_utf8(name) {
            Ok(text) if (1..=MOST_NAME_BYTES).contains(&text.len()) => {
                if self.name.replace(text.to_owned()).is_some() {
                    return Err(malformed(offset, "name", &found(), "one extended name for a member"));
                }
                Ok(())
            }
            _ => Err(malformed(offset, "name", &found(), wanted)),
        }
    }

    /// Takes PAX records; `has_links` says whether one may be about where a link leads.
    pub(super) fn add_records(
        &mut self,
        offset: u64,
        content: &[u8],
        has_links: bool,
    ) -> Result<(), TarError> {
        if std::mem::replace(&mut self.has_records, true) {
            return Err(malformed(offset, "extended header", "there twice for one member", "it once"));
        }
        for record in records(offset, content) {
            let (key, value) = record?;
            match key {
                "path" => self.set_name(offset, value)?,
                "size" => {
                    let text = std::str::from_utf8(value).ok();
                    let is_number =
                        |text: &&str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
                    let Some(size) = text.filter(is_number).and_then(|text| text.parse().ok()) else {
                        let found = format!("`{}`", value[..value.len().min(64)].escape_ascii());
                        return Err(malformed(offset, "size", &found, "a number below 2^64"));
                    };
                    if self.size_bytes.replace(size).is_some() {
                        return Err(malformed(offset, "size", "there twice", "it once"));
                    }
                }
                "linkpath" if has_links => {}
                _ => check_harmless(offset, key, value)?,
            }
        }
        Ok(())
    }

    /// The member's name. One that was given in advance goes on where the header's was cut off.
    pub(super) fn name(&self, header: &Header) -> Result<String, TarError> {
        let Some(name) = &self.name else { return Ok(header.name.clone()) };
        let own = header.name.as_str();
        // What writers put into the header for a name that is not ASCII.
        let spellings = [
            name.clone(),
            name.chars().filter(char::is_ascii).collect(),
            name.chars().map(|c| if c.is_ascii() { c } else { '?' }).collect(),
        ];
        let agrees = |spelling: &String| {
            *spelling == own || (own.len() >= CUT_NAME_BYTES && spelling.starts_with(own))
        };
        if spellings.iter().any(agrees) {
            return Ok(name.clone());
        }
        let (found, wanted) = (name.escape_debug(), own.escape_debug());
        Err(malformed(
            header.offset,
            "extended name",
            &format!("`{found}`"),
            &format!("`{wanted}`, as in the header, or what it was cut off from"),
        ))
    }

    /// The member's size. One that was given in advance repeats the header's, or is too large for it.
    pub(super) fn size_bytes(&self, header: &Header) -> Result<u64, TarError> {
        match self.size_bytes {
            None => Ok(header.size_bytes),
            Some(size) if size == header.size_bytes => Ok(size),
            Some(size) if size >= OCTAL_END && header.size_bytes == 0 => Ok(size),
            Some(size) => {
                let wanted = format!("{}, as in the header", header.size_bytes);
                Err(malformed(header.offset, "extended size", &size.to_string(), &wanted))
            }
        }
    }
}

/// Refuses records for all members that change what any of them is.
pub(super) fn check_global(offset: u64, content: &[u8]) -> Result<(), TarError> {
    for record in records(offset, content) {
        let (key, value) = record?;
        check_harmless(offset, key, value)?;
    }
    Ok(())
}

/// Refuses a record that changes what a member is.
fn check_harmless(offset: u64, key: &str, value: &[u8]) -> Result<(), TarError> {
    let is_known = matches!(key, "atime" | "ctime" | "mtime" | "uid" | "gid" | "uname" | "gname" | "comment");
    let is_utf8 = key == "hdrcharset" && value == b"ISO-IR 10646 2000 UTF-8";
    let is_of_a_vendor = key.starts_with(|c: char| c.is_ascii_uppercase()) && !key.starts_with("GNU.sparse");
    if is_known || is_utf8 || is_of_a_vendor {
        return Ok(());
    }
    let found = format!("`{}`", key.escape_debug());
    Err(malformed(offset, "extended record", &found, "one that changes nothing, or a path or size"))
}

/// The records `LENGTH KEY=VALUE\n`, where the length counts all of the record.
fn records(offset: u64, content: &[u8]) -> impl Iterator<Item = Result<(&str, &[u8]), TarError>> {
    let mut rest = content;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let Some((key, value, after)) = record(rest) else {
            let found = format!("`{}`", rest[..rest.len().min(64)].escape_ascii());
            rest = &[];
            return Some(Err(malformed(
                offset,
                "extended record",
                &found,
                "`LENGTH KEY=VALUE` and a line feed",
            )));
        };
        rest = after;
        Some(Ok((key, value)))
    })
}

/// The first record, key and value, and what stands behind it.
fn record(content: &[u8]) -> Option<(&str, &[u8], &[u8])> {
    let space = content.iter().take(8).position(|byte| *byte == b' ')?;
    let digits = std::str::from_utf8(&content[..space]).ok()?;
    let len: usize = digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok())??;
    let (record, after) = content.split_at_checked(len)?;
    let record = record.get(space + 1..)?.strip_suffix(b"\n")?;
    let equals = record.iter().position(|byte| *byte == b'=')?;
    let key = std::str::from_utf8(&record[..equals]).ok()?;
    Some((key, &record[equals + 1..], after))
}
