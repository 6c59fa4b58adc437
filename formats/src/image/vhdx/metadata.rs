//! The metadata region: the disk's size, the size of its blocks and sectors, and whether it has a parent.
//!
//! Every item must lie in the region, apart from the others. Items that are not known here are left alone,
//! unless the file says that they are needed.
//!
//! Source: \[MS-VHDX\] 2.6.

use std::ops::Range;

use super::super::source::Source;
use super::super::{Format, Limits, Refusal};
use super::guid::Guid;
use super::sealed::Fields;
use super::{FORMAT, MIB};

pub(super) const TABLE_BYTES: usize = 64 << 10;
pub(super) const SIGNATURE: &[u8] = b"metadata";
pub(super) const HEADER_BYTES: usize = 32;
pub(super) const ENTRY_BYTES: usize = 32;
const MOST_ENTRIES: u16 = 2047;
const MOST_USER_ENTRIES: usize = 1024;

// Where the fields lie in the table's header and in an entry.
pub(super) const ENTRY_COUNT: usize = 10;
pub(super) const OFFSET: usize = 16;
pub(super) const LENGTH: usize = 20;
pub(super) const FLAGS: usize = 24;

const IS_USER: u32 = 1 << 0;
/// For writers: the item goes with the disk's content, not with the file.
pub(super) const IS_VIRTUAL_DISK: u32 = 1 << 1;
pub(super) const IS_REQUIRED: u32 = 1 << 2;

pub(super) const FILE_PARAMETERS: Guid = Guid::new(0xcaa16737_fa36_4d43_b3b6_33f0aa44e76b);
pub(super) const VIRTUAL_DISK_SIZE: Guid = Guid::new(0x2fa54224_cd1b_4876_b211_5dbed83bf4b8);
pub(super) const PAGE_83_DATA: Guid = Guid::new(0xbeca12ab_b2e6_4523_93ef_c309e000c746);
pub(super) const LOGICAL_SECTOR_SIZE: Guid = Guid::new(0x8141bf1d_a96f_4709_ba47_f233a8faab5f);
pub(super) const PHYSICAL_SECTOR_SIZE: Guid = Guid::new(0xcda348c7_445d_4471_9cc9_e9885251c556);
const PARENT_LOCATOR: Guid = Guid::new(0xa8d35f2d_b30b_454d_abf7_d3d84834ab0c);
const KNOWN: [Guid; 6] = [
    FILE_PARAMETERS,
    VIRTUAL_DISK_SIZE,
    PAGE_83_DATA,
    LOGICAL_SECTOR_SIZE,
    PHYSICAL_SECTOR_SIZE,
    PARENT_LOCATOR,
];

const HAS_PARENT: u32 = 1 << 1;
/// LeaveBlockAllocated and HasParent.
const KNOWN_PARAMETERS: u32 = 0b11;

const BLOCK_BYTES: Range<u64> = MIB..(256 << 20) + 1;
/// The specification's limit.
pub(super) const LARGEST_DISK: u64 = 64 << 40;
/// Sectors of the disk that one block of the sector bitmap describes.
const SECTORS_PER_CHUNK: u64 = 1 << 23;

/// What the metadata says of the disk.
#[derive(Debug)]
pub(super) struct Metadata {
    /// A multiple of `sector_bytes`.
    pub(super) size_bytes: u64,
    /// A power of two from 1 to 256 MiB.
    pub(super) block_bytes: u64,
    /// 512 or 4096.
    pub(super) sector_bytes: u64,
    /// Where the image is a difference to another one.
    pub(super) parent: Option<ParentItem>,
}

/// Where the file says what its parent is.
#[derive(Debug)]
pub(super) struct ParentItem {
    /// Where the flag stands that makes the file a difference.
    pub(super) flag_at: u64,
    /// The parent locator, in bytes of the file.
    pub(super) locator: Range<u64>,
}

impl Metadata {
    pub(super) fn load(file: &Source, region: &Range<u64>, limits: Limits) -> Result<Self, Refusal> {
        let items = Items::load(file, region)?;
        let (block_bytes, has_parent_at) = items.file_parameters()?;
        let sector_bytes = items.sector_bytes(LOGICAL_SECTOR_SIZE, "LogicalSectorSize")?;
        items.sector_bytes(PHYSICAL_SECTOR_SIZE, "PhysicalSectorSize")?;
        items.bytes::<16>(PAGE_83_DATA, "page 83 data")?;
        let parent = match has_parent_at {
            Some(flag_at) => {
                Some(ParentItem { flag_at, locator: items.range(PARENT_LOCATOR, "parent locator")? })
            }
            None => None,
        };
        let size_bytes = items.size_bytes(sector_bytes, limits)?;
        Ok(Metadata { size_bytes, block_bytes, sector_bytes, parent })
    }

    /// Blocks of the disk that one block of the sector bitmap describes.
    pub(super) fn blocks_per_chunk(&self) -> u64 {
        SECTORS_PER_CHUNK * self.sector_bytes / self.block_bytes
    }

    pub(super) fn blocks(&self) -> u64 {
        self.size_bytes.div_ceil(self.block_bytes)
    }

    /// The number of the entry for a block in the block allocation table, where one for a sector bitmap follows
    /// those of each chunk.
    pub(super) fn entry_of_block(&self, number: u64) -> u64 {
        number + number / self.blocks_per_chunk()
    }

    /// Entries that the block allocation table must have.
    pub(super) fn bat_entries(&self) -> u64 {
        let (blocks, per_chunk) = (self.blocks(), self.blocks_per_chunk());
        match self.parent {
            Some(_) => blocks.div_ceil(per_chunk) * (per_chunk + 1),
            None => blocks + blocks.saturating_sub(1) / per_chunk,
        }
    }
}

/// The system items of a metadata region.
#[derive(Debug)]
struct Items<'a> {
    file: &'a Source,
    region: &'a Range<u64>,
    /// Those known here, in bytes of the file.
    known: Vec<(Guid, Range<u64>)>,
}

impl<'a> Items<'a> {
    fn load(file: &'a Source, region: &'a Range<u64>) -> Result<Self, Refusal> {
        let mut table = vec![0; TABLE_BYTES];
        file.read(region.start, &mut table)?;
        let header = Fields { bytes: &table, offset: region.start };
        if !table.starts_with(SIGNATURE) {
            let found = format!("`{}`", table[..SIGNATURE.len()].escape_ascii());
            return Err(FORMAT.malformed(region.start, "metadata table", found, "`metadata`"));
        }
        let count = header.u16(ENTRY_COUNT);
        if count > MOST_ENTRIES {
            let wanted = format!("at most {MOST_ENTRIES}");
            return Err(FORMAT.malformed(
                header.at(ENTRY_COUNT),
                "EntryCount of the metadata",
                count,
                wanted,
            ));
        }
        let (mut known, mut names, mut places) = (Vec::new(), Vec::new(), Vec::new());
        let entries = table[HEADER_BYTES..].chunks_exact(ENTRY_BYTES).take(usize::from(count));
        for (index, bytes) in entries.enumerate() {
            let entry = Fields { bytes, offset: header.at(HEADER_BYTES + index * ENTRY_BYTES) };
            let (guid, is_user) = (entry.guid(0), entry.u32(FLAGS) & IS_USER != 0);
            let place = item(region, &entry)?;
            names.push((guid, is_user, entry.at(0)));
            places.push((place.clone(), entry.at(OFFSET)));
            if KNOWN.contains(&guid) && !is_user {
                known.push((guid, place));
            } else if entry.u32(FLAGS) & IS_REQUIRED != 0 {
                let refused = "the file needs an item that is not known here";
                return Err(FORMAT.unsupported(entry.at(0), "metadata item", guid, refused));
            }
        }
        check_names(names, header.at(ENTRY_COUNT))?;
        check_apart(places)?;
        Ok(Items { file, region, known })
    }

    fn range(&self, guid: Guid, name: &'static str) -> Result<Range<u64>, Refusal> {
        let found = self.known.iter().find(|(known, _)| *known == guid);
        let missing = || {
            FORMAT.malformed(
                self.region.start,
                "metadata table",
                format!("without {name}"),
                "all system items",
            )
        };
        found.map(|(_, range)| range.clone()).ok_or_else(missing)
    }

    /// The item's bytes, and where they are.
    fn bytes<const N: usize>(&self, guid: Guid, name: &'static str) -> Result<([u8; N], u64), Refusal> {
        let range = self.range(guid, name)?;
        let len = range.end - range.start;
        if len != N as u64 {
            return Err(FORMAT.malformed(
                range.start,
                name,
                format!("{len} bytes long"),
                format!("{N} bytes"),
            ));
        }
        let mut bytes = [0; N];
        self.file.read(range.start, &mut bytes)?;
        Ok((bytes, range.start))
    }

    /// The size of a block, and where it says that the image has a parent.
    fn file_parameters(&self) -> Result<(u64, Option<u64>), Refusal> {
        let (bytes, offset) = self.bytes::<8>(FILE_PARAMETERS, "file parameters")?;
        let fields = Fields { bytes: &bytes, offset };
        let (block_bytes, flags) = (u64::from(fields.u32(0)), fields.u32(4));
        if !BLOCK_BYTES.contains(&block_bytes) || !block_bytes.is_power_of_two() {
            let wanted = "a power of two from 1 MiB to 256 MiB";
            return Err(FORMAT.malformed(fields.at(0), "BlockSize", block_bytes, wanted));
        }
        if flags & !KNOWN_PARAMETERS != 0 {
            let refused = "it has bits that are not known here";
            return Err(FORMAT.unsupported(fields.at(4), "file parameters", format!("{flags:#x}"), refused));
        }
        Ok((block_bytes, (flags & HAS_PARENT != 0).then(|| fields.at(4))))
    }

    fn sector_bytes(&self, guid: Guid, name: &'static str) -> Result<u64, Refusal> {
        let (bytes, offset) = self.bytes(guid, name)?;
        match u32::from_le_bytes(bytes) {
            sector @ (512 | 4096) => Ok(u64::from(sector)),
            other => Err(FORMAT.malformed(offset, name, other, "512 or 4096")),
        }
    }

    fn size_bytes(&self, sector_bytes: u64, limits: Limits) -> Result<u64, Refusal> {
        let (bytes, offset) = self.bytes(VIRTUAL_DISK_SIZE, "VirtualDiskSize")?;
        let size_bytes = u64::from_le_bytes(bytes);
        let max_size_bytes = limits.max_size_bytes;
        if size_bytes > max_size_bytes {
            return Err(Refusal::TooLarge { format: Format::Vhdx, size_bytes, max_size_bytes });
        }
        if !size_bytes.is_multiple_of(sector_bytes) || size_bytes > LARGEST_DISK {
            let wanted = format!("whole sectors of {sector_bytes} bytes, and at most 64 TiB");
            return Err(FORMAT.malformed(offset, "VirtualDiskSize", size_bytes, wanted));
        }
        Ok(size_bytes)
    }
}

/// The bytes of the file that an entry names. They lie in the region, past the table.
fn item(region: &Range<u64>, entry: &Fields<'_>) -> Result<Range<u64>, Refusal> {
    let (offset, length) = (u64::from(entry.u32(OFFSET)), u64::from(entry.u32(LENGTH)));
    if length == 0 && offset == 0 {
        return Ok(region.start..region.start);
    }
    if length == 0 || length > MIB {
        let wanted = "at most 1 MiB, and 0 only where the offset is 0";
        return Err(FORMAT.malformed(entry.at(LENGTH), "Length of a metadata item", length, wanted));
    }
    let region_bytes = region.end - region.start;
    if offset < TABLE_BYTES as u64 || offset + length > region_bytes {
        let wanted =
            format!("{length} bytes past the table that lie in the region, which has {region_bytes}");
        return Err(FORMAT.malformed(entry.at(OFFSET), "Offset of a metadata item", offset, wanted));
    }
    Ok(region.start + offset..region.start + offset + length)
}

/// Checks that no item is there twice. Each comes with whether it is a user's, and its place in the file.
fn check_names(mut names: Vec<(Guid, bool, u64)>, count_at: u64) -> Result<(), Refusal> {
    let of_users = names.iter().filter(|(_, is_user, _)| *is_user).count();
    if of_users > MOST_USER_ENTRIES {
        let wanted = format!("at most {MOST_USER_ENTRIES} that are a user's");
        return Err(FORMAT.malformed(count_at, "EntryCount of the metadata", of_users, wanted));
    }
    names.sort();
    match names.windows(2).find(|pair| (pair[0].0, pair[0].1) == (pair[1].0, pair[1].1)) {
        Some(pair) => Err(FORMAT.malformed(pair[1].2, "metadata item", pair[1].0, "each item once")),
        None => Ok(()),
    }
}

/// Checks that no two items overlap. Each comes with the place of its offset in the file.
fn check_apart(mut places: Vec<(Range<u64>, u64)>) -> Result<(), Refusal> {
    places.retain(|(range, _)| !range.is_empty());
    places.sort_by_key(|(range, _)| range.start);
    match places.windows(2).find(|pair| pair[1].0.start < pair[0].0.end) {
        Some([_, (range, at)]) => {
            let found = format!("that of byte {}", range.start);
            Err(FORMAT.malformed(*at, "Offset of a metadata item", found, "items that do not overlap"))
        }
        _ => Ok(()),
    }
}
