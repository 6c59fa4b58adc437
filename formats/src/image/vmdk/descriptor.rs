//! The descriptor embedded in a sparse extent: text that says what kind of disk this is.
//!
//! Only promises are checked: one of the two kinds that are read, one extent, no parent. The extent's
//! file name is not even parsed beyond its line, and keys that are not known are passed over.
//!
//! Source: "Virtual Disk Format 5.0", "The Descriptor File".

use super::super::Refusal;
use super::super::source::Source;
use super::header::Header;
use super::{MAKE_ONE_FILE, SECTOR, malformed, unsupported};

const NO_PARENT: &str = "ffffffff";
const PARENT: &str =
    "snapshots of a parent are not read: have the chain flattened where it was made, with `qemu-img convert`";

/// The length up to which text from the file appears in messages, in bytes.
const QUOTED_BYTES: usize = 64;

/// Reads the descriptor that `header` names and refuses it unless this one file is the whole disk.
pub(super) fn check(file: &Source, header: &Header) -> Result<(), Refusal> {
    let mut bytes = vec![0; (header.descriptor.end - header.descriptor.start) as usize];
    file.read(header.descriptor.start, &mut bytes)?;
    let text_bytes = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
    let descriptor = Descriptor { offset: header.descriptor.start, text: &bytes[..text_bytes] };
    descriptor.check_kind()?;
    descriptor.check_parent()?;
    descriptor.check_extent(header)
}

struct Descriptor<'a> {
    /// Where in the file the text starts.
    offset: u64,
    /// In an encoding that a key may name; keys and numbers are ASCII in all of them.
    text: &'a [u8],
}

/// A line, or the value in one, without the white space around it.
struct Line<'a> {
    /// Where in the file the line starts.
    offset: u64,
    text: &'a [u8],
}

impl<'a> Descriptor<'a> {
    fn lines(&self) -> impl Iterator<Item = Line<'a>> {
        let mut next = self.offset;
        let lines = self.text.split_inclusive(|&byte| byte == b'\n').map(move |line| {
            let offset = next;
            next += line.len() as u64;
            Line { offset, text: line.trim_ascii() }
        });
        lines.filter(|line| !line.text.is_empty() && !line.text.starts_with(b"#"))
    }

    /// The lines that give `key` a value, the value without its quotes.
    fn values(&self, key: &str) -> impl Iterator<Item = Line<'a>> {
        self.lines().filter_map(move |line| {
            let equals = line.text.iter().position(|&byte| byte == b'=')?;
            let (found, value) = (line.text[..equals].trim_ascii(), line.text[equals + 1..].trim_ascii());
            let value = value.strip_prefix(b"\"").unwrap_or(value);
            let value = value.strip_suffix(b"\"").unwrap_or(value);
            found.eq_ignore_ascii_case(key.as_bytes()).then_some(Line { text: value, ..line })
        })
    }

    fn check_kind(&self) -> Result<(), Refusal> {
        let mut kinds = self.values("createType");
        let Some(kind) = kinds.next() else {
            return Err(malformed(
                self.offset,
                "createType",
                "missing",
                "streamOptimized or monolithicSparse",
            ));
        };
        if let Some(second) = kinds.next() {
            return Err(malformed(second.offset, "createType", "there twice", "it once"));
        }
        match kind.text {
            b"streamOptimized" | b"monolithicSparse" => Ok(()),
            _ => Err(unsupported(kind.offset, "createType", kind.quoted(), MAKE_ONE_FILE)),
        }
    }

    fn check_parent(&self) -> Result<(), Refusal> {
        for parent in self.values("parentCID") {
            if !parent.text.eq_ignore_ascii_case(NO_PARENT.as_bytes()) {
                return Err(unsupported(parent.offset, "parentCID", parent.quoted(), PARENT));
            }
        }
        match self.values("parentFileNameHint").next() {
            Some(hint) => Err(unsupported(hint.offset, "parentFileNameHint", hint.quoted(), PARENT)),
            None => Ok(()),
        }
    }

    /// Exactly one extent, sparse, of the size that the header gives. Writers may round the header's
    /// size up to a whole grain.
    fn check_extent(&self, header: &Header) -> Result<(), Refusal> {
        let mut extents = self.lines().filter(Line::is_extent);
        let Some(extent) = extents.next() else {
            return Err(malformed(self.offset, "extent description", "missing", "one extent"));
        };
        if let Some(second) = extents.next() {
            let refused = "disks in several extents are not read: have it converted where it was made, with `qemu-img convert -O vmdk`";
            return Err(unsupported(second.offset, "second extent", second.quoted(), refused));
        }
        let mut words = extent.text.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty()).skip(1);
        let sectors = words.next().and_then(|word| std::str::from_utf8(word).ok()?.parse::<u64>().ok());
        let kind = words.next().unwrap_or_default();
        if kind != b"SPARSE" {
            return Err(unsupported(extent.offset, "extent description", extent.quoted(), MAKE_ONE_FILE));
        }
        let grains = |sectors: u64| sectors.div_ceil(header.grain_bytes() / SECTOR);
        let capacity = header.size_bytes() / SECTOR;
        if sectors.is_none_or(|sectors| grains(sectors) != grains(capacity)) {
            let wanted = format!("the header's capacity, {capacity} sectors");
            return Err(malformed(extent.offset, "extent description", extent.quoted(), wanted));
        }
        Ok(())
    }
}

impl Line<'_> {
    /// Whether the line describes an extent: access, sectors, type, file name.
    fn is_extent(&self) -> bool {
        let access = self.text.split(u8::is_ascii_whitespace).next().unwrap_or_default();
        [&b"RW"[..], b"RDONLY", b"NOACCESS"].iter().any(|word| access.eq_ignore_ascii_case(word))
    }

    fn quoted(&self) -> String {
        match self.text.get(..QUOTED_BYTES) {
            Some(start) => format!("`{}...`", start.escape_ascii()),
            None => format!("`{}`", self.text.escape_ascii()),
        }
    }
}
