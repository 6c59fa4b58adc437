//! VHDX images built by hand, with a log that must be replayed and with a parent.
//!
//! ```text
//! MiB 0 headers   1 log   2 metadata   3 block allocation table   4 blocks, 1 MiB each
//! ```

use proptest::prelude::*;

use super::put;

pub(crate) const MIB: usize = 1 << 20;
pub(crate) const HEADERS: [usize; 2] = [64 << 10, 128 << 10];
pub(crate) const REGION_TABLES: [usize; 2] = [192 << 10, 256 << 10];
pub(crate) const LOG: usize = MIB;
pub(crate) const METADATA: usize = 2 * MIB;
pub(crate) const ITEMS: usize = METADATA + (64 << 10);
pub(crate) const BAT: usize = 3 * MIB;
pub(crate) const BLOCKS: usize = 4 * MIB;

/// Four blocks, the last of which ends after three sectors.
pub(crate) const DISK_BYTES: usize = 3 * MIB + 3 * 512;
pub(crate) const SECTOR: usize = 4096;

pub(crate) const STATE_OF_DISK: [u8; 16] = *b"state of content";
const LOG_GUID: [u8; 16] = *b"the log's number";

/// A dynamic VHDX and its disk: blocks 0 and 3 are stored, block 1 is absent, block 2 is zero.
pub(crate) fn dynamic() -> (Vec<u8>, Vec<u8>) {
    let mut image = vec![0; BLOCKS + MIB + 3 * 512];
    put(&mut image, 0, b"vhdxfile");
    for (header, number) in HEADERS.into_iter().zip([1u64, 2]) {
        put(&mut image, header, b"head");
        put(&mut image, header + 8, &number.to_le_bytes());
        put(&mut image, header + 32, &STATE_OF_DISK);
        put(&mut image, header + 66, &1u16.to_le_bytes());
        put(&mut image, header + 68, &(MIB as u32).to_le_bytes());
        put(&mut image, header + 72, &(LOG as u64).to_le_bytes());
    }
    for table in REGION_TABLES {
        put(&mut image, table, b"regi");
        put(&mut image, table + 8, &2u32.to_le_bytes());
        put_region(&mut image, table + 16, "2dc27766f62342009d64115e9bfd4a08", BAT);
        put_region(&mut image, table + 48, "8b7ca20647904b9ab8fe575f050f886e", METADATA);
    }
    put(&mut image, METADATA, b"metadata");
    put_item(&mut image, "caa16737fa364d43b3b633f0aa44e76b", 0b100, &(MIB as u64).to_le_bytes());
    put_item(&mut image, "2fa54224cd1b4876b2115dbed83bf4b8", 0b110, &(DISK_BYTES as u64).to_le_bytes());
    put_item(&mut image, "beca12abb2e6452393efc309e000c746", 0b110, b"page 83: 16 byte");
    put_item(&mut image, "8141bf1da96f4709ba47f233a8faab5f", 0b110, &512u32.to_le_bytes());
    put_item(&mut image, "cda348c7445d44719cc9e9885251c556", 0b110, &4096u32.to_le_bytes());
    put_entry(&mut image, 0, BLOCKS, 6);
    put_entry(&mut image, 2, 0, 2);
    put_entry(&mut image, 3, BLOCKS + MIB, 6);
    for at in [0, 200_000, MIB - 4096, MIB] {
        let len = if at == MIB { 1536 } else { 4096 };
        put(&mut image, BLOCKS + at, &super::content(at as u8 | 3, len));
    }
    seal(&mut image);

    let mut disk = vec![0; DISK_BYTES];
    put(&mut disk, 0, &image[BLOCKS..BLOCKS + MIB]);
    put(&mut disk, 3 * MIB, &image[BLOCKS + MIB..]);
    (image, disk)
}

/// The same, whose last two changes of the block allocation table and one of block 0 are in the log only. The
/// sequence of three entries goes over the log's end; what its first entry does, the second undoes.
pub(crate) fn with_log() -> (Vec<u8>, Vec<u8>) {
    let (mut image, mut disk) = dynamic();
    let table = image[BAT..BAT + SECTOR].to_vec();
    let mut older = table.clone();
    older[8 * 3..8 * 4].fill(0);
    put(&mut image, BAT, &[0xee; 8]);
    image[BAT + 8..BAT + SECTOR].fill(0x07);

    let last = MIB - 2 * SECTOR;
    let stale = [Change::Data(BLOCKS, vec![0x55; SECTOR])];
    let first = [Change::Data(BAT, older), Change::Data(BLOCKS, vec![0x77; SECTOR])];
    let second = [Change::Data(BAT, table), Change::Zero(BLOCKS, SECTOR)];
    let entries = [
        (3 * SECTOR, LogEntry::new(5, 3 * SECTOR, &stale)),
        (5 * SECTOR, LogEntry::new(6, 0, &stale)),
        (last, LogEntry::new(41, last, &first)),
        (SECTOR, LogEntry::new(42, last, &second)),
        (LAST_ENTRY - LOG, LogEntry::new(43, last, &[])),
    ];
    for (at, entry) in &entries {
        put_log_entry(&mut image, *at, entry);
    }
    use_log(&mut image, MIB);
    disk[..SECTOR].fill(0);
    (image, disk)
}

/// Where the last entry of [`with_log`]'s sequence is; nothing is changed by it.
pub(crate) const LAST_ENTRY: usize = LOG + 3 * SECTOR;

/// Makes the headers say that the log has `len` bytes and holds something.
pub(crate) fn use_log(image: &mut [u8], len: usize) {
    for header in HEADERS {
        put(image, header + 48, &LOG_GUID);
        put(image, header + 68, &(len as u32).to_le_bytes());
    }
    seal(image);
}

/// A difference to [`dynamic`] and the disk that both make: of block 0, sectors 2 and 9 to 100 are its own; block 1
/// is absent, block 2 zero and block 3 all its own.
pub(crate) fn differencing() -> (Vec<u8>, Vec<u8>) {
    let (mut image, mut disk) = dynamic();
    let bitmap = image.len().next_multiple_of(MIB);
    image.resize(bitmap + MIB, 0);
    put(&mut image, ITEMS + 4, &2u32.to_le_bytes());
    let linkage = "{74617473-2065-666f-2063-6f6e74656e74}";
    put_item(&mut image, "a8d35f2db30b454dabf7d3d84834ab0c", 0b100, &locator(linkage, r"..\base.vhdx"));
    put_entry(&mut image, 0, BLOCKS, 7);
    put_entry(&mut image, 4096, bitmap, 6);
    for sector in std::iter::once(2).chain(9..101) {
        image[bitmap + sector / 8] |= 1 << (sector % 8);
        let own = [sector as u8 ^ 0x80; 512];
        put(&mut image, BLOCKS + sector * 512, &own);
        put(&mut disk, sector * 512, &own);
    }
    put(&mut image, BLOCKS + MIB, b"its own");
    put(&mut disk, 3 * MIB, b"its own");
    seal(&mut image);
    (image, disk)
}

/// Flips bytes where a sample's structures are, and makes the checksums right again in most cases.
pub(crate) fn damaged() -> impl Strategy<Value = Vec<u8>> {
    let samples = prop_oneof![Just(dynamic().0), Just(with_log().0), Just(differencing().0)];
    let place = prop_oneof![
        (prop::sample::select(HEADERS.to_vec()), 0usize..80),
        (prop::sample::select(REGION_TABLES.to_vec()), 0usize..80),
        (Just(METADATA), 0usize..224),
        (Just(ITEMS), 0usize..260),
        (Just(BAT), 0usize..32),
        (Just(BAT + 8 * 4096), 0usize..8),
        (prop::sample::select(vec![MIB - 2 * SECTOR, SECTOR, 3 * SECTOR]), (0usize..128))
            .prop_map(|(at, by)| (LOG + at, by)),
    ];
    let flips = prop::collection::vec((place, any::<u8>()), 1..5);
    let cut = prop::option::weighted(0.1, 0..8 * MIB);
    (samples, flips, prop::bool::weighted(0.8), cut).prop_map(|(mut image, flips, sealed, cut)| {
        for ((at, by), byte) in flips {
            image[at + by] = byte;
        }
        image.truncate(cut.unwrap_or(image.len()));
        if sealed {
            seal(&mut image);
        }
        image
    })
}

/// Makes the checksums right of headers, region tables and the entries of a log of 1 MiB in its usual place.
pub(crate) fn seal(image: &mut [u8]) {
    for header in HEADERS {
        seal_range(image, header, SECTOR);
    }
    for table in REGION_TABLES {
        seal_range(image, table, 64 << 10);
    }
    for at in (0..MIB).step_by(SECTOR) {
        if image.len() >= LOG + MIB && image[LOG + at..].starts_with(b"loge") {
            seal_log_entry(image, at);
        }
    }
}

fn seal_range(image: &mut [u8], at: usize, len: usize) {
    if let Some(bytes) = image.get_mut(at..at + len) {
        bytes[4..8].fill(0);
        let crc = crc32c::crc32c(bytes);
        put(bytes, 4, &crc.to_le_bytes());
    }
}

fn seal_log_entry(image: &mut [u8], at: usize) {
    let len = u32::from_le_bytes(image[LOG + at + 8..][..4].try_into().unwrap()) as usize;
    image[LOG + at + 4..LOG + at + 8].fill(0);
    let in_log = |sector: usize| LOG + (at + sector) % MIB;
    let crc = (0..len.min(MIB))
        .step_by(SECTOR)
        .fold(0, |crc, sector| crc32c::crc32c_append(crc, &image[in_log(sector)..in_log(sector) + SECTOR]));
    put(image, LOG + at + 4, &crc.to_le_bytes());
}

/// Stores the GUID whose digits are those of `written`: the first three groups are little-endian.
fn guid(written: &str) -> [u8; 16] {
    let mut bytes = u128::from_str_radix(written, 16).unwrap().to_be_bytes();
    bytes[..4].reverse();
    bytes[4..6].reverse();
    bytes[6..8].reverse();
    bytes
}

fn put_region(image: &mut [u8], entry: usize, name: &str, offset: usize) {
    put(image, entry, &guid(name));
    put(image, entry + 16, &(offset as u64).to_le_bytes());
    put(image, entry + 24, &(MIB as u32).to_le_bytes());
    put(image, entry + 28, &1u32.to_le_bytes());
}

/// Adds an item to the metadata, after the last one.
fn put_item(image: &mut [u8], name: &str, flags: u32, content: &[u8]) {
    let count = usize::from(image[METADATA + 10]);
    let before = METADATA + 32 * count;
    let field = |image: &[u8], at: usize| u32::from_le_bytes(image[at..at + 4].try_into().unwrap()) as usize;
    let offset =
        if count == 0 { ITEMS - METADATA } else { field(image, before + 16) + field(image, before + 20) };
    let entry = METADATA + 32 * (count + 1);
    put(image, entry, &guid(name));
    put(image, entry + 16, &(offset as u32).to_le_bytes());
    put(image, entry + 20, &(content.len() as u32).to_le_bytes());
    put(image, entry + 24, &flags.to_le_bytes());
    put(image, METADATA + offset, content);
    image[METADATA + 10] += 1;
}

fn put_entry(image: &mut [u8], number: usize, offset: usize, state: u64) {
    put(image, BAT + 8 * number, &(offset as u64 | state).to_le_bytes());
}

/// A parent locator with a linkage and a relative path.
fn locator(linkage: &str, path: &str) -> Vec<u8> {
    let utf16 = |text: &str| text.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<u8>>();
    let mut item = guid("b04aefb7d19e4a81b78925b8e9445913").to_vec();
    item.extend([0, 0, 2, 0]);
    let mut texts = Vec::new();
    for (key, value) in [("relative_path", path), ("parent_linkage", linkage)] {
        let (key, value) = (utf16(key), utf16(value));
        let key_at = 20 + 2 * 12 + texts.len();
        item.extend((key_at as u32).to_le_bytes());
        item.extend(((key_at + key.len()) as u32).to_le_bytes());
        item.extend((key.len() as u16).to_le_bytes());
        item.extend((value.len() as u16).to_le_bytes());
        texts.extend([key, value].concat());
    }
    item.extend(texts);
    item
}

/// What a descriptor of the log does to the file.
pub(crate) enum Change {
    Data(usize, Vec<u8>),
    Zero(usize, usize),
}

/// An entry of the log: its number, the position of the oldest that is needed with it, the file's length.
pub(crate) struct LogEntry<'a> {
    pub(crate) number: u64,
    pub(crate) tail: usize,
    pub(crate) file_bytes: u64,
    pub(crate) changes: &'a [Change],
}

impl<'a> LogEntry<'a> {
    pub(crate) fn new(number: u64, tail: usize, changes: &'a [Change]) -> Self {
        LogEntry { number, tail, file_bytes: 4 << 20, changes }
    }

    fn bytes(&self) -> Vec<u8> {
        let mut entry = vec![0; (64 + 32 * self.changes.len()).next_multiple_of(SECTOR)];
        let number = self.number.to_le_bytes();
        put(&mut entry, 0, b"loge");
        put(&mut entry, 12, &(self.tail as u32).to_le_bytes());
        put(&mut entry, 16, &number);
        put(&mut entry, 24, &(self.changes.len() as u32).to_le_bytes());
        put(&mut entry, 32, &LOG_GUID);
        put(&mut entry, 48, &(4u64 << 20).to_le_bytes());
        put(&mut entry, 56, &self.file_bytes.to_le_bytes());
        for (index, change) in self.changes.iter().enumerate() {
            let at = 64 + 32 * index;
            put(&mut entry, at + 24, &number);
            match change {
                Change::Zero(offset, len) => {
                    put(&mut entry, at, b"zero");
                    put(&mut entry, at + 8, &(*len as u64).to_le_bytes());
                    put(&mut entry, at + 16, &(*offset as u64).to_le_bytes());
                }
                Change::Data(offset, content) => {
                    put(&mut entry, at, b"desc");
                    put(&mut entry, at + 4, &content[SECTOR - 4..]);
                    put(&mut entry, at + 8, &content[..8]);
                    put(&mut entry, at + 16, &(*offset as u64).to_le_bytes());
                    let mut sector = content.clone();
                    put(&mut sector, 0, b"data");
                    put(&mut sector, 4, &number[4..]);
                    put(&mut sector, SECTOR - 4, &number[..4]);
                    entry.extend(sector);
                }
            }
        }
        let len = entry.len() as u32;
        put(&mut entry, 8, &len.to_le_bytes());
        let crc = crc32c::crc32c(&entry);
        put(&mut entry, 4, &crc.to_le_bytes());
        entry
    }
}

/// Puts a log in use, with nothing in it but `entry`, at the end of the file.
pub(crate) fn append_log(image: &mut Vec<u8>, entry: &LogEntry<'_>) {
    let entry = entry.bytes();
    let at = image.len().next_multiple_of(MIB);
    image.resize(at, 0);
    image.extend(&entry);
    image.resize(image.len().next_multiple_of(MIB), 0);
    for header in HEADERS {
        put(image, header + 72, &(at as u64).to_le_bytes());
    }
    let len = image.len() - at;
    use_log(image, len);
}

/// Puts an entry at byte `at` of a log of 1 MiB, from whose end it goes on at its start.
pub(crate) fn put_log_entry(image: &mut [u8], at: usize, entry: &LogEntry<'_>) {
    for (index, sector) in entry.bytes().chunks(SECTOR).enumerate() {
        put(image, LOG + (at + index * SECTOR) % MIB, sector);
    }
}
