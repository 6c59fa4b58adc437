//! The qcow2 header: parsed, and refused unless everything it names can be read and lies in the file.
//!
//! Pure: bytes of the first cluster and the file's length in, a checked header out.
//!
//! Source: `qcow2.txt`, "Header", "Additional fields" and "Header extensions".

use std::ops::Range;

use super::super::decompress::Codec;
use super::super::quoted::quoted;
use super::super::{Limits, Refusal};
use super::FORMAT;

/// QEMU's limit; the specification has none.
pub(super) const LARGEST_CLUSTER: usize = 1 << LARGEST_CLUSTER_BITS;
const LARGEST_CLUSTER_BITS: u32 = 21;
const SMALLEST_CLUSTER_BITS: u32 = 9;
/// Subclusters are a 32nd of a cluster and may not be smaller than a sector.
const SMALLEST_EXTENDED_CLUSTER_BITS: u32 = 14;

const V2_HEADER_BYTES: u64 = 72;
const V3_HEADER_BYTES: u64 = 104;

/// QEMU's limit, and ours: an L1 table is kept in memory.
const LARGEST_L1_BYTES: u64 = 32 << 20;
/// QEMU's limit.
const MOST_SNAPSHOTS: u32 = 65536;
/// A snapshot table's entry without its variable parts.
const SNAPSHOT_ENTRY_BYTES: u64 = 40;

const DIRTY: u64 = 1 << 0;
const CORRUPT: u64 = 1 << 1;
const EXTERNAL_DATA_FILE: u64 = 1 << 2;
const COMPRESSION_TYPE: u64 = 1 << 3;
const EXTENDED_L2: u64 = 1 << 4;
const KNOWN_FEATURES: u64 = DIRTY | CORRUPT | EXTERNAL_DATA_FILE | COMPRESSION_TYPE | EXTENDED_L2;

const EXTENSION_END: u32 = 0;
const EXTENSION_BACKING_FORMAT: u32 = 0xe279_2aca;
const EXTENSION_ENCRYPTION: u32 = 0x0537_be77;
const EXTENSION_DATA_FILE: u32 = 0x4441_5441;

/// The specification's limit.
const LONGEST_BACKING_NAME_BYTES: u64 = 1023;

const ENCRYPTED: &str =
    "encrypted images are not read: have it decrypted where it was made, with `qemu-img convert`";
const DATA_FILE: &str = "images whose data lies in another file are not read: have them joined where they were made, with `qemu-img convert`";

/// What a checked header says. Every range it names lies in the file, past the header's own cluster.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) version: u32,
    pub(super) cluster_bits: u32,
    /// A multiple of 512.
    pub(super) size_bytes: u64,
    pub(super) codec: Codec,
    pub(super) l2_entry: L2Entry,
    /// The active L1 table, in bytes of the file. It covers at least the disk.
    pub(super) l1_table: Range<u64>,
    pub(super) refcount_table: Range<u64>,
    /// Internal snapshots, which are not read.
    pub(super) snapshots: u32,
    /// What the header says of the image that this one is a difference to.
    pub(super) backing: Option<BackingFile>,
}

/// A backing file, as the image that has it describes it: never opened by its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct BackingFile {
    /// Where in the file the name lies.
    pub(super) offset: u64,
    /// In quotes and escaped.
    pub(super) name: String,
    pub(super) format: Option<BackingFormat>,
}

/// What a backing file is to be read as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct BackingFormat {
    /// Where in the file the header extension lies.
    pub(super) offset: u64,
    /// QEMU's name of the format.
    pub(super) name: Vec<u8>,
}

/// Where the fields end that say where the backing file's name lies.
pub(super) const BACKING_NAME_FIELDS_END: usize = 20;

/// Where the backing file's name lies, in the file of `file_bytes` that begins with `start`.
pub(super) fn backing_name(start: &[u8], file_bytes: u64) -> Option<Range<u64>> {
    let offset = u64::from_be_bytes(*start.get(8..)?.first_chunk()?);
    let len = u64::from(u32::from_be_bytes(*start.get(16..)?.first_chunk()?));
    let end = offset.checked_add(len).filter(|end| *end <= file_bytes)?;
    let is_name =
        offset != 0 && (1..=LONGEST_BACKING_NAME_BYTES).contains(&len) && start.starts_with(super::MAGIC);
    is_name.then_some(offset..end)
}

/// How large an L2 entry is, and what it can say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum L2Entry {
    /// 64 bits: a cluster is of one kind.
    Standard,
    /// 128 bits: each of 32 subclusters has its own state.
    Extended,
}

impl L2Entry {
    pub(super) fn words(self) -> u64 {
        match self {
            L2Entry::Standard => 1,
            L2Entry::Extended => 2,
        }
    }
}

impl Header {
    pub(super) fn cluster_bytes(&self) -> u64 {
        1 << self.cluster_bits
    }

    /// Bytes of the disk that one L2 table describes.
    pub(super) fn bytes_per_table(&self) -> u64 {
        let entries = self.cluster_bytes() / (8 * self.l2_entry.words());
        entries << self.cluster_bits
    }

    /// `start` is the file's start: [`LARGEST_CLUSTER`] bytes, or all there are.
    pub(super) fn parse(start: &[u8], file_bytes: u64, limits: Limits) -> Result<Self, Refusal> {
        let fields = Fields { start, file_bytes };
        let version = fields.version()?;
        let features = fields.features(version)?;
        let cluster_bits = fields.cluster_bits(features)?;
        let header_bytes = fields.header_bytes(version, cluster_bits)?;
        fields.check_encryption()?;
        let mut backing = fields.backing_file(header_bytes, cluster_bits)?;
        let backing_format = fields.extensions(header_bytes, cluster_bits, backing.as_ref())?;
        if let Some(backing) = &mut backing {
            backing.format = backing_format;
        }
        fields.check_refcount_width(version)?;
        let mut header = Header {
            version,
            cluster_bits,
            size_bytes: fields.size_bytes(limits)?,
            codec: fields.codec(features, header_bytes)?,
            l2_entry: if features & EXTENDED_L2 == 0 { L2Entry::Standard } else { L2Entry::Extended },
            l1_table: 0..0,
            refcount_table: fields.refcount_table(cluster_bits)?,
            snapshots: fields.snapshots(cluster_bits)?,
            backing,
        };
        header.l1_table = fields.l1_table(&header)?;
        Ok(header)
    }
}

/// The header's fields by their offsets, each with the checks that need no other.
struct Fields<'a> {
    start: &'a [u8],
    file_bytes: u64,
}

impl Fields<'_> {
    fn u32(&self, at: usize) -> u32 {
        self.start
            .get(at..)
            .and_then(|bytes| bytes.first_chunk())
            .map_or(0, |bytes| u32::from_be_bytes(*bytes))
    }

    fn u64(&self, at: usize) -> u64 {
        self.start
            .get(at..)
            .and_then(|bytes| bytes.first_chunk())
            .map_or(0, |bytes| u64::from_be_bytes(*bytes))
    }

    fn version(&self) -> Result<u32, Refusal> {
        if !self.start.starts_with(super::MAGIC) {
            let found = format!("`{}`", self.start[..self.start.len().min(4)].escape_ascii());
            return Err(FORMAT.malformed(0, "magic", found, "`QFI\\xfb`"));
        }
        let version = self.u32(4);
        let header_bytes = if version < 3 { V2_HEADER_BYTES } else { V3_HEADER_BYTES };
        if (self.start.len() as u64) < header_bytes {
            let found = format!("cut off after {} bytes", self.start.len());
            return Err(FORMAT.malformed(0, "header", found, format!("{header_bytes} bytes")));
        }
        match version {
            2 | 3 => Ok(version),
            _ => Err(FORMAT.unsupported(4, "version", version, "only versions 2 and 3 are read")),
        }
    }

    fn features(&self, version: u32) -> Result<u64, Refusal> {
        if version < 3 {
            return Ok(0);
        }
        let features = self.u64(72);
        let refuse =
            |refused| Err(FORMAT.unsupported(72, "incompatible_features", format!("{features:#x}"), refused));
        if features & !KNOWN_FEATURES != 0 {
            return refuse("it has bits that are not known here");
        }
        if features & CORRUPT != 0 {
            return refuse("the image is marked corrupt: repair a copy of it with `qemu-img check -r all`");
        }
        if features & EXTERNAL_DATA_FILE != 0 {
            return refuse(DATA_FILE);
        }
        Ok(features)
    }

    fn cluster_bits(&self, features: u64) -> Result<u32, Refusal> {
        let cluster_bits = self.u32(20);
        let extended = features & EXTENDED_L2 != 0;
        let least = if extended { SMALLEST_EXTENDED_CLUSTER_BITS } else { SMALLEST_CLUSTER_BITS };
        if (least..=LARGEST_CLUSTER_BITS).contains(&cluster_bits) {
            return Ok(cluster_bits);
        }
        Err(FORMAT.malformed(20, "cluster_bits", cluster_bits, format!("{least} to {LARGEST_CLUSTER_BITS}")))
    }

    /// The length of the header, where its extensions start.
    fn header_bytes(&self, version: u32, cluster_bits: u32) -> Result<u64, Refusal> {
        if version < 3 {
            return Ok(V2_HEADER_BYTES);
        }
        let header_bytes = u64::from(self.u32(100));
        let most = self.file_bytes.min(1 << cluster_bits);
        if !(V3_HEADER_BYTES..=most).contains(&header_bytes) || !header_bytes.is_multiple_of(8) {
            let wanted = format!("a multiple of 8 from {V3_HEADER_BYTES} to {most}");
            return Err(FORMAT.malformed(100, "header_length", header_bytes, wanted));
        }
        Ok(header_bytes)
    }

    fn check_encryption(&self) -> Result<(), Refusal> {
        match self.u32(32) {
            0 => Ok(()),
            1 => Err(FORMAT.unsupported(32, "crypt_method", "1 (AES)", ENCRYPTED)),
            2 => Err(FORMAT.unsupported(32, "crypt_method", "2 (LUKS)", ENCRYPTED)),
            other => Err(FORMAT.malformed(32, "crypt_method", other, "0")),
        }
    }

    fn backing_file(&self, header_bytes: u64, cluster_bits: u32) -> Result<Option<BackingFile>, Refusal> {
        let (offset, len) = (self.u64(8), u64::from(self.u32(16)));
        if offset == 0 {
            return Ok(None);
        }
        if !(1..=LONGEST_BACKING_NAME_BYTES).contains(&len) {
            let wanted = format!("1 to {LONGEST_BACKING_NAME_BYTES} bytes");
            return Err(FORMAT.malformed(16, "backing_file_size", len, wanted));
        }
        let room = header_bytes..self.file_bytes.min(1 << cluster_bits);
        match offset.checked_add(len) {
            Some(end) if offset >= room.start && end <= room.end => {
                let name = quoted(&self.start[offset as usize..end as usize]);
                Ok(Some(BackingFile { offset, name, format: None }))
            }
            _ => {
                let wanted = format!("a name of {len} bytes that lies in {} to {}", room.start, room.end);
                Err(FORMAT.malformed(8, "backing_file_offset", offset, wanted))
            }
        }
    }

    /// Walks the header extensions, which end where the backing file's name starts; gives its format. All but the
    /// end marker are optional by the specification; those that belong to features refused here are refused too.
    fn extensions(
        &self,
        header_bytes: u64,
        cluster_bits: u32,
        backing: Option<&BackingFile>,
    ) -> Result<Option<BackingFormat>, Refusal> {
        let area_end = backing.map_or(self.file_bytes.min(1 << cluster_bits), |backing| backing.offset);
        let mut format = None;
        let mut at = header_bytes;
        // Eight bytes that do not fit end the area as well as an end marker does.
        while at + 8 <= area_end {
            let kind = self.u32(at as usize);
            let len = u64::from(self.u32(at as usize + 4));
            match kind {
                EXTENSION_END => break,
                EXTENSION_ENCRYPTION => {
                    return Err(FORMAT.unsupported(
                        at,
                        "header extension",
                        "an encryption header",
                        ENCRYPTED,
                    ));
                }
                EXTENSION_DATA_FILE => {
                    return Err(FORMAT.unsupported(at, "header extension", "a data file name", DATA_FILE));
                }
                _ => {}
            }
            let room = area_end - at - 8;
            if len > room {
                let wanted = format!("at most {room} bytes, to the end of the header extensions");
                return Err(FORMAT.malformed(at + 4, "header extension length", len, wanted));
            }
            if kind == EXTENSION_BACKING_FORMAT {
                let name = &self.start[at as usize + 8..(at + 8 + len) as usize];
                format = Some(BackingFormat { offset: at, name: name.to_vec() });
            }
            at += 8 + len.next_multiple_of(8);
        }
        Ok(format)
    }

    /// How many there are. They are not read; that their table lies in the file is checked all the same.
    fn snapshots(&self, cluster_bits: u32) -> Result<u32, Refusal> {
        let count = self.u32(60);
        if count == 0 {
            return Ok(0);
        }
        if count > MOST_SNAPSHOTS {
            return Err(FORMAT.malformed(60, "nb_snapshots", count, format!("at most {MOST_SNAPSHOTS}")));
        }
        let bytes = u64::from(count) * SNAPSHOT_ENTRY_BYTES;
        self.table(64, "snapshots_offset", bytes, cluster_bits)?;
        Ok(count)
    }

    fn check_refcount_width(&self, version: u32) -> Result<(), Refusal> {
        let order = self.u32(96);
        if version >= 3 && order > 6 {
            return Err(FORMAT.malformed(96, "refcount_order", order, "at most 6"));
        }
        Ok(())
    }

    fn size_bytes(&self, limits: Limits) -> Result<u64, Refusal> {
        let size_bytes = self.u64(24);
        let max_size_bytes = limits.max_size_bytes;
        if size_bytes > max_size_bytes {
            return Err(Refusal::TooLarge { format: FORMAT, size_bytes, max_size_bytes });
        }
        if !size_bytes.is_multiple_of(512) {
            return Err(FORMAT.malformed(24, "size", size_bytes, "a multiple of 512"));
        }
        Ok(size_bytes)
    }

    fn codec(&self, features: u64, header_bytes: u64) -> Result<Codec, Refusal> {
        const OFFSET: u64 = 104;
        let present = header_bytes > OFFSET;
        let kind = if present { self.start[OFFSET as usize] } else { 0 };
        match (features & COMPRESSION_TYPE != 0, kind) {
            (false, 0) => Ok(Codec::Deflate),
            (true, 1) => Ok(Codec::Zstd),
            (false, _) => {
                Err(FORMAT.malformed(OFFSET, "compression_type", kind, "0, for its feature bit is not set"))
            }
            (true, 0) => {
                Err(FORMAT.malformed(OFFSET, "compression_type", kind, "1, for its feature bit is set"))
            }
            (true, _) => {
                Err(FORMAT.unsupported(OFFSET, "compression_type", kind, "only zlib and zstd are read"))
            }
        }
    }

    fn refcount_table(&self, cluster_bits: u32) -> Result<Range<u64>, Refusal> {
        let bytes = u64::from(self.u32(56)) << cluster_bits;
        self.table(48, "refcount_table_offset", bytes, cluster_bits)
    }

    fn l1_table(&self, header: &Header) -> Result<Range<u64>, Refusal> {
        let entries = u64::from(self.u32(36));
        let needed = header.size_bytes.div_ceil(header.bytes_per_table());
        let most = LARGEST_L1_BYTES / 8;
        if !(needed..=most).contains(&entries) {
            let wanted = format!("from {needed}, which the disk's size needs, to {most}");
            return Err(FORMAT.malformed(36, "l1_size", entries, wanted));
        }
        self.table(40, "l1_table_offset", entries * 8, header.cluster_bits)
    }

    /// The table of `bytes` whose offset is the field at `at`. An empty one may lie anywhere.
    fn table(
        &self,
        at: u64,
        field: &'static str,
        bytes: u64,
        cluster_bits: u32,
    ) -> Result<Range<u64>, Refusal> {
        let offset = self.u64(at as usize);
        if bytes == 0 {
            return Ok(0..0);
        }
        let cluster_bytes = 1 << cluster_bits;
        if !offset.is_multiple_of(cluster_bytes) {
            return Err(FORMAT.malformed(
                at,
                field,
                offset,
                format!("a multiple of the cluster size, {cluster_bytes}"),
            ));
        }
        if offset == 0 {
            return Err(FORMAT.malformed(at, field, offset, "an offset past the header"));
        }
        match offset.checked_add(bytes) {
            Some(end) if end <= self.file_bytes => Ok(offset..end),
            _ => {
                let wanted = format!("{bytes} bytes that lie in the file, which has {}", self.file_bytes);
                Err(FORMAT.malformed(at, field, offset, wanted))
            }
        }
    }
}
