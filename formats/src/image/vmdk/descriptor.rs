//! The descriptor: text that says what kind of disk this is, which files its extents are in, and what it is a
//! difference to. It is embedded in a sparse extent, or a file of its own.
//!
//! Pure: text in, checked values out. File names are only ever compared with those that the caller knows. Keys that
//! are not known are passed over.
//!
//! Source: "Virtual Disk Format 5.0", "The Descriptor File"; where it is silent, what VirtualBox and QEMU 7.2 accept.

use super::super::Refusal;
use super::super::chain::{Identity, Parent, Surroundings};
use super::super::quoted::quoted;
use super::header::Header;
use super::{FORMAT, SECTOR};

const NO_PARENT: u32 = u32::MAX;

/// Ours. 8 TiB, VMware's largest disk that is cut up, are 4099 extents.
const MOST_EXTENTS: usize = 8192;

const ENCRYPTED: &str = "encrypted disks are not read: have it decrypted where it was made";
const ESX_SNAPSHOT: &str = "the sparse formats that only ESX uses are not read: \
    have the disk cloned there with `vmkfstools -i`, or exported as OVF";
const HOST_DEVICE: &str =
    "it stands for a device of the host that made it: have that copied into an image there";
const NOT_IN_ONE_FILE: &str = "only streamOptimized and monolithicSparse lie in one file: open the descriptor file, which names all of them";

/// Whether a file that starts with `start` is a descriptor file.
pub(super) fn is_descriptor_file(start: &[u8]) -> bool {
    let start = start.strip_prefix(b"\xef\xbb\xbf").unwrap_or(start);
    let line = start.split(|&byte| byte == b'\n').next().unwrap_or_default();
    let Some(title) = line.strip_prefix(b"#") else { return false };
    [&b"Disk DescriptorFile"[..], b"Disk Descriptor File"]
        .iter()
        .any(|wanted| title.trim_ascii().eq_ignore_ascii_case(wanted))
}

/// What a descriptor says.
#[derive(Debug)]
pub(super) struct Descriptor<'a> {
    /// Where in the file the text starts.
    offset: u64,
    kind: Line<'a>,
    /// The content identifier, which changes when the disk is first written to after a difference was taken.
    cid: Option<u32>,
    /// That of the disk that this one is a difference to, and where it is written.
    parent: Option<(Line<'a>, u32)>,
    /// At least one.
    pub(super) extents: Vec<Extent<'a>>,
}

/// One extent of the disk, in their order.
#[derive(Debug)]
pub(super) struct Extent<'a> {
    pub(super) line: Line<'a>,
    /// Its size; at least 1.
    pub(super) sectors: u64,
    pub(super) kind: ExtentKind,
}

/// Where an extent's content is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ExtentKind {
    /// In a file, byte for byte, from a sector on.
    Flat { name: String, first_sector: u64 },
    /// In a sparse extent of its own.
    Sparse { name: String },
    /// Nowhere: zeros.
    Zero,
}

/// A line, or the value in one, without the white space around it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Line<'a> {
    /// Where in the file the line starts.
    pub(super) offset: u64,
    /// In an encoding that a key may name; keys and numbers are ASCII in all of them.
    text: &'a [u8],
}

impl<'a> Descriptor<'a> {
    /// Parses the text that lies at `offset` of the file and ends at its first zero byte.
    pub(super) fn parse(bytes: &'a [u8], offset: u64) -> Result<Self, Refusal> {
        let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
        let text = Text { offset, bytes: &bytes[..end] };
        text.check_not_encrypted()?;
        let kind = match text.value("createType")? {
            Some(kind) => kind,
            None => return Err(FORMAT.malformed(offset, "createType", "missing", "the disk's kind")),
        };
        check_kind(kind)?;
        let cid = text.value("CID")?.and_then(|cid| cid.hex());
        Ok(Descriptor { offset, kind, cid, parent: text.parent()?, extents: text.extents()? })
    }

    pub(super) fn identity(&self) -> Option<Identity> {
        self.cid.map(Identity::Cid)
    }

    /// The parent that the caller has handed over, if this is a difference, and to that very disk.
    pub(super) fn take_parent(&self, around: &mut Surroundings<'_>) -> Result<Option<Parent>, Refusal> {
        let Some((line, cid)) = self.parent else { return Ok(None) };
        let Some(parent) = around.parent.take() else {
            return Err(FORMAT.no_backing(line.offset, "parentCID", line.quoted()));
        };
        let wanted = match parent.identity {
            Some(Identity::Cid(found)) if found == cid => return Ok(Some(parent)),
            Some(Identity::Cid(found)) => {
                format!("{found:08x}, the CID of the backing file: it is another, or changed")
            }
            _ => "a backing file that has a CID, which only a VMDK has".to_owned(),
        };
        Err(FORMAT.malformed(line.offset, "parentCID", line.quoted(), wanted))
    }

    /// Checks that the file whose header this is can be the whole disk; gives the disk's size in sectors.
    ///
    /// Writers may round the header's size up to a whole grain. The descriptor's is what the guest saw.
    pub(super) fn check_embedded(&self, header: &Header) -> Result<u64, Refusal> {
        if ![&b"streamOptimized"[..], b"monolithicSparse"].iter().any(|kind| self.kind.is(kind)) {
            return Err(FORMAT.unsupported(
                self.kind.offset,
                "createType",
                self.kind.quoted(),
                NOT_IN_ONE_FILE,
            ));
        }
        if let Some(second) = self.extents.get(1) {
            return Err(FORMAT.unsupported(
                second.line.offset,
                "second extent",
                second.line.quoted(),
                NOT_IN_ONE_FILE,
            ));
        }
        let Extent { line, sectors, kind } = &self.extents[0];
        if !matches!(kind, ExtentKind::Sparse { .. }) {
            return Err(FORMAT.unsupported(
                line.offset,
                "extent description",
                line.quoted(),
                NOT_IN_ONE_FILE,
            ));
        }
        if !header.has_grains_of(*sectors) {
            let wanted = format!("the header's capacity, {} sectors", header.size_bytes() / SECTOR);
            return Err(FORMAT.malformed(line.offset, "extent description", line.quoted(), wanted));
        }
        Ok(*sectors)
    }

    /// The disk's size in sectors.
    pub(super) fn sectors(&self) -> Result<u64, Refusal> {
        let sum = self.extents.iter().try_fold(0u64, |sum, extent| sum.checked_add(extent.sectors));
        sum.ok_or_else(|| {
            FORMAT.malformed(self.offset, "size of all extents", "2^64 sectors or more", "less")
        })
    }
}

/// The kinds whose extents are read are told apart by their extents; the others are refused here.
fn check_kind(kind: Line<'_>) -> Result<(), Refusal> {
    const READ: [&[u8]; 7] = [
        b"streamOptimized",
        b"monolithicSparse",
        b"monolithicFlat",
        b"twoGbMaxExtentSparse",
        b"twoGbMaxExtentFlat",
        b"vmfs",
        b"custom",
    ];
    const REFUSED: [(&[u8], &str); 8] = [
        (b"vmfsSparse", ESX_SNAPSHOT),
        (b"seSparse", ESX_SNAPSHOT),
        (b"vmfsRaw", HOST_DEVICE),
        (b"vmfsRawDeviceMap", HOST_DEVICE),
        (b"vmfsRDM", HOST_DEVICE),
        (b"vmfsPassthroughRawDeviceMap", HOST_DEVICE),
        (b"fullDevice", HOST_DEVICE),
        (b"partitionedDevice", HOST_DEVICE),
    ];
    if READ.iter().any(|read| kind.is(read)) {
        return Ok(());
    }
    let refused = REFUSED.iter().find(|(refused, _)| kind.is(refused));
    let why = refused.map_or("that kind of disk is not known here", |&(_, why)| why);
    Err(FORMAT.unsupported(kind.offset, "createType", kind.quoted(), why))
}

struct Text<'a> {
    offset: u64,
    bytes: &'a [u8],
}

impl<'a> Text<'a> {
    fn lines(&self) -> impl Iterator<Item = Line<'a>> {
        let mut next = self.offset;
        let lines = self.bytes.split_inclusive(|&byte| byte == b'\n').map(move |line| {
            let offset = next;
            next += line.len() as u64;
            Line { offset, text: line.trim_ascii() }
        });
        lines.filter(|line| !line.text.is_empty() && !line.text.starts_with(b"#"))
    }

    /// The lines that give a key a value: the key, and the value without its quotes.
    fn values(&self) -> impl Iterator<Item = (&'a [u8], Line<'a>)> {
        self.lines().filter_map(|line| {
            let equals = line.text.iter().position(|&byte| byte == b'=')?;
            let (key, value) = (line.text[..equals].trim_ascii(), line.text[equals + 1..].trim_ascii());
            let value = value.strip_prefix(b"\"").unwrap_or(value);
            let value = value.strip_suffix(b"\"").unwrap_or(value);
            Some((key, Line { text: value, ..line }))
        })
    }

    /// The only value of `key`.
    fn value(&self, key: &'static str) -> Result<Option<Line<'a>>, Refusal> {
        let mut values = self.values().filter(|(found, _)| found.eq_ignore_ascii_case(key.as_bytes()));
        let first = values.next().map(|(_, value)| value);
        match values.next() {
            Some((_, second)) => Err(FORMAT.malformed(second.offset, key, "there twice", "it once")),
            None => Ok(first),
        }
    }

    /// Workstation keeps the keys in the descriptor, ESX names the filter that encrypts.
    fn check_not_encrypted(&self) -> Result<(), Refusal> {
        let starts = |text: &[u8], start: &[u8]| {
            text.get(..start.len()).is_some_and(|t| t.eq_ignore_ascii_case(start))
        };
        let encrypted = self.values().find(|(key, value)| {
            starts(key, b"encryption")
                || (key.to_ascii_lowercase().ends_with(b"iofilters")
                    && value.text.windows(5).any(|part| part.eq_ignore_ascii_case(b"crypt")))
        });
        match encrypted {
            Some((key, line)) => {
                let found = Line { text: key, ..line }.quoted();
                Err(FORMAT.unsupported(line.offset, "key", found, ENCRYPTED))
            }
            None => Ok(()),
        }
    }

    fn parent(&self) -> Result<Option<(Line<'a>, u32)>, Refusal> {
        let hint = self.value("parentFileNameHint")?;
        let cid = match self.value("parentCID")? {
            None => None,
            Some(line) => match line.hex() {
                None => {
                    let wanted = "a number of up to 8 hex digits";
                    return Err(FORMAT.malformed(line.offset, "parentCID", line.quoted(), wanted));
                }
                // Some writers mean by 0 that there is none.
                Some(NO_PARENT) => None,
                Some(0) if hint.is_none() => None,
                Some(cid) => Some((line, cid)),
            },
        };
        match (cid, hint) {
            (None, Some(hint)) => {
                let wanted = "none, for parentCID says that there is no parent";
                Err(FORMAT.malformed(hint.offset, "parentFileNameHint", hint.quoted(), wanted))
            }
            (cid, _) => Ok(cid),
        }
    }

    fn extents(&self) -> Result<Vec<Extent<'a>>, Refusal> {
        let encoding = Encoding::of(self.value("encoding")?);
        let mut extents = Vec::new();
        for line in self.lines().filter(Line::is_extent) {
            if extents.len() == MOST_EXTENTS {
                let wanted = format!("at most {MOST_EXTENTS} extents");
                return Err(FORMAT.malformed(line.offset, "extent description", "one more", wanted));
            }
            extents.push(line.extent(encoding)?);
        }
        if extents.is_empty() {
            return Err(FORMAT.malformed(
                self.offset,
                "extent description",
                "missing",
                "at least one extent",
            ));
        }
        Ok(extents)
    }
}

impl<'a> Line<'a> {
    fn is(&self, word: &[u8]) -> bool {
        self.text.eq_ignore_ascii_case(word)
    }

    fn hex(&self) -> Option<u32> {
        let text = std::str::from_utf8(self.text).ok()?;
        let digits = text.bytes().all(|byte| byte.is_ascii_hexdigit());
        u32::from_str_radix(text, 16).ok().filter(|_| digits)
    }

    /// Whether the line describes an extent: access, sectors, type, file name.
    fn is_extent(&self) -> bool {
        let access = split_word(self.text).0;
        [&b"RW"[..], b"RDONLY", b"NOACCESS"].iter().any(|word| access.eq_ignore_ascii_case(word))
    }

    /// Parses `ACCESS SECTORS TYPE ["NAME" [FIRST SECTOR]]`.
    fn extent(self, encoding: Encoding) -> Result<Extent<'a>, Refusal> {
        let refused = |why| Err(FORMAT.unsupported(self.offset, "extent description", self.quoted(), why));
        let wrong =
            |wanted: &str| Err(FORMAT.malformed(self.offset, "extent description", self.quoted(), wanted));
        let (access, rest) = split_word(self.text);
        let (sectors, rest) = split_word(rest);
        let (kind, rest) = split_word(rest);
        if access.eq_ignore_ascii_case(b"NOACCESS") {
            return refused("the extent says that it must not be read");
        }
        let Some(sectors) = number(sectors).filter(|&sectors| sectors > 0) else {
            return wrong("a size of at least 1 sector");
        };
        let kind = match kind.to_ascii_uppercase().as_slice() {
            b"ZERO" => ExtentKind::Zero,
            b"FLAT" | b"VMFS" | b"SPARSE" => {
                let Some((name, first_sector)) = named(rest) else {
                    return wrong("a file name in quotes, then a sector or nothing");
                };
                let Some(name) = encoding.decode(name) else {
                    return wrong(
                        "a file name in the encoding that the descriptor names: UTF-8 or windows-1252",
                    );
                };
                match (kind.len(), first_sector) {
                    (6, None) => ExtentKind::Sparse { name },
                    (6, Some(_)) => return wrong("nothing after a sparse extent's file name"),
                    (_, first_sector) => ExtentKind::Flat { name, first_sector: first_sector.unwrap_or(0) },
                }
            }
            b"VMFSSPARSE" | b"SESPARSE" => return refused(ESX_SNAPSHOT),
            b"VMFSRDM" | b"VMFSRAW" => return refused(HOST_DEVICE),
            _ => return wrong("FLAT, SPARSE, ZERO or VMFS"),
        };
        Ok(Extent { line: self, sectors, kind })
    }

    pub(super) fn quoted(&self) -> String {
        quoted(self.text)
    }
}

/// The first word, and what follows the white space after it.
fn split_word(text: &[u8]) -> (&[u8], &[u8]) {
    let end = text.iter().position(u8::is_ascii_whitespace).unwrap_or(text.len());
    (&text[..end], text[end..].trim_ascii())
}

fn number(text: &[u8]) -> Option<u64> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// The name between quotes, and the number after it, if there is one; `None` where anything else is found.
fn named(text: &[u8]) -> Option<(&[u8], Option<u64>)> {
    let text = text.strip_prefix(b"\"")?;
    let end = text.iter().position(|&byte| byte == b'"')?;
    let after = text[end + 1..].trim_ascii();
    let first_sector = if after.is_empty() { None } else { Some(number(after)?) };
    Some((&text[..end], first_sector))
}

/// How file names are written.
#[derive(Debug, Clone, Copy)]
enum Encoding {
    Utf8,
    /// What Workstation uses on Windows in western Europe and America.
    Windows1252,
    /// One of many others; all have ASCII in common.
    Ascii,
}

impl Encoding {
    fn of(named: Option<Line<'_>>) -> Self {
        match named {
            None => Encoding::Utf8,
            Some(name) if name.is(b"UTF-8") => Encoding::Utf8,
            Some(name) if name.is(b"windows-1252") => Encoding::Windows1252,
            Some(_) => Encoding::Ascii,
        }
    }

    fn decode(self, text: &[u8]) -> Option<String> {
        match self {
            Encoding::Utf8 => String::from_utf8(text.to_vec()).ok(),
            Encoding::Ascii => text.is_ascii().then(|| text.iter().map(|&byte| char::from(byte)).collect()),
            Encoding::Windows1252 => text.iter().map(|&byte| windows_1252(byte)).collect(),
        }
    }
}

/// Latin-1 but for 0x80 to 0x9f. Source: the WHATWG Encoding Standard, index windows-1252.
fn windows_1252(byte: u8) -> Option<char> {
    const FROM_0X80: [char; 32] = [
        '€', '\0', '‚', 'ƒ', '„', '…', '†', '‡', 'ˆ', '‰', 'Š', '‹', 'Œ', '\0', 'Ž', '\0', '\0', '‘', '’',
        '“', '”', '•', '–', '—', '˜', '™', 'š', '›', 'œ', '\0', 'ž', 'Ÿ',
    ];
    match byte {
        0x80..=0x9f => Some(FROM_0X80[usize::from(byte - 0x80)]).filter(|&found| found != '\0'),
        _ => Some(char::from(byte)),
    }
}
