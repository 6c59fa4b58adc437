//! The header of a hosted sparse extent, and the footer that completes it in a stream.
//!
//! A writer that cannot go back leaves the grain directory's place open in the header and repeats the
//! header, complete, at the end of the file:
//!
//! ```text
//! | footer marker: 1 sector | footer: the header again | end-of-stream marker: a sector of zeros |
//! ```
//!
//! Source: "Virtual Disk Format 5.0", "Hosted Sparse Extent Header", "Markers".

use std::fmt;
use std::ops::Range;

use super::super::source::Source;
use super::super::{Format, Limits, Refusal};
use super::{FORMAT, MAGIC, SECTOR};

/// `gdOffset` of a header whose footer knows better.
const GD_AT_END: u64 = u64::MAX;

const FLAG_NEWLINES: u32 = 1 << 0;
const FLAG_REDUNDANT_DIRECTORY: u32 = 1 << 1;
const FLAG_ZERO_GRAINS: u32 = 1 << 2;
const FLAG_COMPRESSED: u32 = 1 << 16;
const FLAG_MARKERS: u32 = 1 << 17;
const KNOWN_FLAGS: u32 =
    FLAG_NEWLINES | FLAG_REDUNDANT_DIRECTORY | FLAG_ZERO_GRAINS | FLAG_COMPRESSED | FLAG_MARKERS;

const COMPRESSION_NONE: u16 = 0;
const COMPRESSION_DEFLATE: u16 = 1;

/// The specification's value, which all known writers keep to.
pub(super) const ENTRIES_PER_TABLE: u64 = 512;
/// In sectors. The specification's least, and twice what any known writer uses.
const GRAIN_SECTORS: Range<u64> = 8..4097;
/// Ours: a grain directory is kept in memory. 64 TiB in grains of 64 KiB need 8 MiB.
pub(super) const LARGEST_DIRECTORY_BYTES: u64 = 16 << 20;
/// Ours: the descriptor is kept in memory while it is checked. Writers use 10 KiB.
const LARGEST_DESCRIPTOR_SECTORS: u64 = 256;

/// What a checked header says. Every range it names lies in the file.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Header {
    capacity_sectors: u64,
    grain_sectors: u64,
    pub(super) has_zero_grains: bool,
    pub(super) compressed: bool,
    /// In bytes of the file; empty where there is none.
    pub(super) descriptor: Range<u64>,
    /// In bytes of the file, as large as the disk needs.
    pub(super) directory: Range<u64>,
}

impl Header {
    pub(super) fn size_bytes(&self) -> u64 {
        self.capacity_sectors * SECTOR
    }

    pub(super) fn grain_bytes(&self) -> u64 {
        self.grain_sectors * SECTOR
    }

    /// Whether an extent of so many sectors has as many grains as this one.
    pub(super) fn has_grains_of(&self, sectors: u64) -> bool {
        sectors.div_ceil(self.grain_sectors) == self.capacity_sectors.div_ceil(self.grain_sectors)
    }

    /// The same extent, ending elsewhere in its last grain.
    pub(super) fn with_size(self, capacity_sectors: u64) -> Self {
        debug_assert!(self.has_grains_of(capacity_sectors));
        Header { capacity_sectors, ..self }
    }

    /// Bytes of the disk that one grain table describes.
    pub(super) fn bytes_per_table(&self) -> u64 {
        self.grain_bytes() * ENTRIES_PER_TABLE
    }

    /// Reads and checks the header, and the footer if there must be one.
    pub(super) fn load(file: &Source, limits: Limits) -> Result<Self, Refusal> {
        let fields = Fields::load(file, 0, "header")?;
        fields.check_version_and_flags()?;
        fields.check_newlines()?;
        let header = Header {
            capacity_sectors: fields.capacity_sectors(limits)?,
            grain_sectors: fields.grain_sectors()?,
            has_zero_grains: fields.flags() & FLAG_ZERO_GRAINS != 0,
            compressed: fields.compressed()?,
            descriptor: fields.descriptor(file)?,
            directory: 0..0,
        };
        if fields.u64(GD_OFFSET) != GD_AT_END {
            let directory = fields.directory(file, &header)?;
            return Ok(Header { directory, ..header });
        }
        let footer = load_footer(file)?;
        footer.check_version_and_flags()?;
        fields.check_same(&footer)?;
        let directory = footer.directory(file, &header)?;
        Ok(Header { directory, ..header })
    }
}

// Where the fields lie in header and footer.
const VERSION: usize = 4;
const FLAGS: usize = 8;
const CAPACITY: usize = 12;
const GRAIN_SIZE: usize = 20;
pub(super) const DESCRIPTOR_OFFSET: usize = 28;
const DESCRIPTOR_SIZE: usize = 36;
const ENTRIES: usize = 44;
const GD_OFFSET: usize = 56;
const NEWLINES: usize = 73;
const COMPRESSION: usize = 77;

/// The fields of a header or footer, each with the checks that need no other.
struct Fields {
    bytes: [u8; SECTOR as usize],
    /// Where in the file they lie.
    offset: u64,
}

impl Fields {
    fn load(file: &Source, offset: u64, what: &'static str) -> Result<Self, Refusal> {
        if !file.holds(offset, SECTOR) {
            let found = format!("cut off after {} bytes", file.size_bytes());
            return Err(FORMAT.malformed(offset, what, found, format!("{SECTOR} bytes")));
        }
        let mut bytes = [0; SECTOR as usize];
        file.read(offset, &mut bytes)?;
        if !bytes.starts_with(MAGIC) {
            return Err(FORMAT.malformed(
                offset,
                "magic",
                format!("`{}`", bytes[..4].escape_ascii()),
                "`KDMV`",
            ));
        }
        Ok(Fields { bytes, offset })
    }

    fn u16(&self, at: usize) -> u16 {
        u16::from_le_bytes(self.array(at))
    }

    fn u32(&self, at: usize) -> u32 {
        u32::from_le_bytes(self.array(at))
    }

    fn u64(&self, at: usize) -> u64 {
        u64::from_le_bytes(self.array(at))
    }

    fn array<const N: usize>(&self, at: usize) -> [u8; N] {
        *self.bytes[at..].first_chunk().expect("all fields lie well inside the sector")
    }

    /// Where the field lies in the file.
    fn at(&self, field: usize) -> u64 {
        self.offset + field as u64
    }

    fn flags(&self) -> u32 {
        self.u32(FLAGS)
    }

    fn check_version_and_flags(&self) -> Result<(), Refusal> {
        let version = self.u32(VERSION);
        if !(1..=3).contains(&version) {
            let refused = "only versions 1 to 3 are read";
            return Err(FORMAT.unsupported(self.at(VERSION), "version", version, refused));
        }
        if self.flags() & !KNOWN_FLAGS != 0 {
            let found = format!("{:#x}", self.flags());
            return Err(FORMAT.unsupported(
                self.at(FLAGS),
                "flags",
                found,
                "it has bits that are not known here",
            ));
        }
        Ok(())
    }

    /// Four characters that a transfer in text mode would have changed.
    fn check_newlines(&self) -> Result<(), Refusal> {
        let found = &self.bytes[NEWLINES..NEWLINES + 4];
        if self.flags() & FLAG_NEWLINES != 0 && found != b"\n \r\n" {
            let found = format!("`{}`", found.escape_ascii());
            let wanted = "`\\n \\r\\n`; a transfer in text mode would have damaged it";
            return Err(FORMAT.malformed(self.at(NEWLINES), "newline test", found, wanted));
        }
        Ok(())
    }

    fn capacity_sectors(&self, limits: Limits) -> Result<u64, Refusal> {
        let sectors = self.u64(CAPACITY);
        if sectors == 0 {
            return Err(FORMAT.malformed(self.at(CAPACITY), "capacity", sectors, "at least one sector"));
        }
        let size_bytes = sectors.checked_mul(SECTOR);
        let max_size_bytes = limits.max_size_bytes;
        if size_bytes.is_none_or(|size_bytes| size_bytes > max_size_bytes) {
            let size_bytes = size_bytes.unwrap_or(u64::MAX);
            return Err(Refusal::TooLarge { format: Format::Vmdk, size_bytes, max_size_bytes });
        }
        Ok(sectors)
    }

    fn grain_sectors(&self) -> Result<u64, Refusal> {
        let sectors = self.u64(GRAIN_SIZE);
        if !GRAIN_SECTORS.contains(&sectors) || !sectors.is_power_of_two() {
            let (least, most) = (GRAIN_SECTORS.start, GRAIN_SECTORS.end - 1);
            let wanted = format!("a power of two from {least} to {most} sectors");
            return Err(FORMAT.malformed(self.at(GRAIN_SIZE), "grainSize", sectors, wanted));
        }
        let entries = self.u32(ENTRIES);
        if u64::from(entries) != ENTRIES_PER_TABLE {
            return Err(FORMAT.malformed(
                self.at(ENTRIES),
                "numGTEsPerGT",
                entries,
                ENTRIES_PER_TABLE.to_string(),
            ));
        }
        Ok(sectors)
    }

    fn compressed(&self) -> Result<bool, Refusal> {
        let compressed = self.flags() & FLAG_COMPRESSED != 0;
        if compressed && self.flags() & FLAG_MARKERS == 0 {
            let found = format!("{:#x}", self.flags());
            let refused = "compressed grains without markers are not read";
            return Err(FORMAT.unsupported(self.at(FLAGS), "flags", found, refused));
        }
        let algorithm = self.u16(COMPRESSION);
        let expected = if compressed { COMPRESSION_DEFLATE } else { COMPRESSION_NONE };
        if algorithm != expected {
            let wanted = format!("{expected}, as the flags say");
            return Err(FORMAT.malformed(self.at(COMPRESSION), "compressAlgorithm", algorithm, wanted));
        }
        Ok(compressed)
    }

    fn descriptor(&self, file: &Source) -> Result<Range<u64>, Refusal> {
        let sector = self.u64(DESCRIPTOR_OFFSET);
        let sectors = self.u64(DESCRIPTOR_SIZE);
        if sector == 0 || sectors == 0 {
            return Ok(0..0);
        }
        if sectors > LARGEST_DESCRIPTOR_SECTORS {
            let wanted = format!("at most {LARGEST_DESCRIPTOR_SECTORS} sectors");
            return Err(FORMAT.malformed(self.at(DESCRIPTOR_SIZE), "descriptorSize", sectors, wanted));
        }
        self.range(file, DESCRIPTOR_OFFSET, "descriptorOffset", sectors * SECTOR)
    }

    fn directory(&self, file: &Source, header: &Header) -> Result<Range<u64>, Refusal> {
        let sector = self.u64(GD_OFFSET);
        if sector == 0 || sector == GD_AT_END {
            return Err(FORMAT.malformed(
                self.at(GD_OFFSET),
                "gdOffset",
                sector,
                "the grain directory's sector",
            ));
        }
        let bytes = header.size_bytes().div_ceil(header.bytes_per_table()) * 4;
        if bytes > LARGEST_DIRECTORY_BYTES {
            let wanted = format!("a disk whose grain directory has at most {LARGEST_DIRECTORY_BYTES} bytes");
            return Err(FORMAT.malformed(CAPACITY as u64, "capacity", header.capacity_sectors, wanted));
        }
        let directory = self.range(file, GD_OFFSET, "gdOffset", bytes)?;
        if directory.start < header.descriptor.end && header.descriptor.start < directory.end {
            let wanted = "a grain directory apart from the descriptor";
            return Err(FORMAT.malformed(self.at(GD_OFFSET), "gdOffset", sector, wanted));
        }
        Ok(directory)
    }

    /// The `bytes` that start at the sector in `field`.
    fn range(
        &self,
        file: &Source,
        field: usize,
        name: &'static str,
        bytes: u64,
    ) -> Result<Range<u64>, Refusal> {
        let sector = self.u64(field);
        match sector.checked_mul(SECTOR) {
            Some(start) if file.holds(start, bytes) => Ok(start..start + bytes),
            _ => {
                let wanted = format!("{bytes} bytes that lie in the file, which has {}", file.size_bytes());
                Err(FORMAT.malformed(self.at(field), name, format!("sector {sector}"), wanted))
            }
        }
    }

    /// A footer may differ from its header in where things are, and in its version; never in what they mean.
    fn check_same(&self, footer: &Fields) -> Result<(), Refusal> {
        const SAME: [(usize, usize, &str); 5] = [
            (FLAGS, 4, "flags in the footer"),
            (CAPACITY, 8, "capacity in the footer"),
            (GRAIN_SIZE, 8, "grainSize in the footer"),
            (ENTRIES, 4, "numGTEsPerGT in the footer"),
            (COMPRESSION, 2, "compressAlgorithm in the footer"),
        ];
        for (at, len, field) in SAME {
            let (ours, theirs) = (&self.bytes[at..at + len], &footer.bytes[at..at + len]);
            if ours != theirs {
                let wanted = format!("0x{}, as in the header", little_endian_hex(ours));
                return Err(FORMAT.malformed(
                    footer.at(at),
                    field,
                    format!("0x{}", little_endian_hex(theirs)),
                    wanted,
                ));
            }
        }
        Ok(())
    }
}

fn little_endian_hex(bytes: &[u8]) -> String {
    bytes.iter().rev().map(|byte| format!("{byte:02x}")).collect()
}

/// The file's last sector may be cut off where the marker in it ends.
fn load_footer(file: &Source) -> Result<Fields, Refusal> {
    let end_of_stream = file.size_bytes().saturating_sub(1) / SECTOR * SECTOR;
    // Header, footer marker, footer.
    if end_of_stream < 3 * SECTOR {
        let found = format!("a file of {} bytes", file.size_bytes());
        return Err(FORMAT.malformed(0, "footer", found, "a footer at its end, for gdOffset says so"));
    }
    let footer = Fields::load(file, end_of_stream - SECTOR, "footer")?;
    Marker::FOOTER.check(file, end_of_stream - 2 * SECTOR, "footer marker")?;
    Marker::END_OF_STREAM.check(file, end_of_stream, "end-of-stream marker")?;
    Ok(footer)
}

/// What a marker that is followed by no grain says: the bytes of a grain, and its type. The sectors that follow it
/// come before both; not all writers fill them in.
#[derive(Debug, PartialEq, Eq)]
struct Marker {
    size: u32,
    kind: u32,
}

impl Marker {
    const FOOTER: Marker = Marker { size: 0, kind: 3 };
    const END_OF_STREAM: Marker = Marker { size: 0, kind: 0 };
    const BYTES: u64 = 16;

    fn check(&self, file: &Source, at: u64, field: &'static str) -> Result<(), Refusal> {
        if !file.holds(at, Self::BYTES) {
            let found = format!("cut off after {} bytes", file.size_bytes() - at);
            return Err(FORMAT.malformed(at, field, found, format!("{} bytes", Self::BYTES)));
        }
        let (mut size, mut kind) = ([0; 4], [0; 4]);
        file.read(at + 8, &mut size)?;
        file.read(at + 12, &mut kind)?;
        let found = Marker { size: u32::from_le_bytes(size), kind: u32::from_le_bytes(kind) };
        if found == *self { Ok(()) } else { Err(FORMAT.malformed(at, field, found, self.to_string())) }
    }
}

impl fmt::Display for Marker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "one of size {}, type {}", self.size, self.kind)
    }
}
