//! The root of a disk index: the disk's size, the packs, and where each page lies.
//!
//! Source: `docs/formats/disk-index.md`, section "Root".

use std::collections::HashSet;

use appliance::{Blob, Digest};

use super::fields::Fields;
use super::{
    BLOCK_BYTES, IndexError, MAX_DISK_BYTES, MAX_PACK_BYTES, MAX_PACKS, MAX_PAGE_BYTES, PAGE_BLOCKS,
};
use super::{MAX_ROOT_BYTES, page};
use crate::cut::CutRule;

pub(super) const MAGIC: &[u8; 8] = b"hulldisk";
pub(super) const VERSION: u16 = 1;
pub(super) const HEADER_BYTES: u64 = 32;
pub(super) const PACK_BYTES: u64 = 40;
pub(super) const PAGE_BYTES: u64 = 52;

/// What a disk index starts with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Root {
    /// The disk's size in bytes. Where it is no multiple of [`BLOCK_BYTES`], the last block's content
    /// goes on with zeros.
    pub size_bytes: u64,
    /// How its chunks were cut. Readers do not need to know the rule.
    pub cut_rule: CutRule,
    /// The packs that its pages use, by number.
    pub packs: Vec<Blob>,
    /// The pages, in order. A page of disk that is not listed is all zeros.
    pub pages: Vec<PageEntry>,
}

/// Where a page lies in the index, and what it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageEntry {
    /// The first block that the page describes: a multiple of [`PAGE_BLOCKS`].
    pub first_block: u64,
    /// Where the page starts, in bytes from the start of the index.
    pub offset: u64,
    /// Its length in bytes.
    pub len: u32,
    /// Digest of its bytes.
    pub sha256: [u8; 32],
}

impl Root {
    /// Reads a root. `bytes` are all of it, already checked against the root's digest.
    ///
    /// # Errors
    ///
    /// [`IndexError`], which names the first field that cannot be right.
    pub fn parse(bytes: &[u8]) -> Result<Self, IndexError> {
        let mut fields = Fields::new("root", bytes);
        if bytes.len() as u64 > MAX_ROOT_BYTES {
            return Err(fields.length("no disk needs more than 14286880"));
        }
        let magic: [u8; 8] = fields.array()?;
        if &magic != MAGIC {
            return Err(IndexError::NotAnIndex { found: magic.escape_ascii().to_string() });
        }
        let version = fields.u16()?;
        if version != VERSION {
            return Err(IndexError::UnsupportedVersion { found: version });
        }
        let cut_rule = CutRule { id: fields.u16()?, version: fields.u16()? };
        let reserved = fields.u16()?;
        fields.check(reserved == 0, ("reserved", 2), reserved, "it is 0 in version 1")?;
        let size_bytes = fields.u64()?;
        let possible = (1..=MAX_DISK_BYTES).contains(&size_bytes);
        fields.check(possible, ("size", 8), size_bytes, "a disk has 1 byte to 64 TiB")?;
        let pack_count = fields.u32()?;
        fields.check(
            pack_count as usize <= MAX_PACKS,
            ("pack count", 4),
            pack_count,
            "a disk uses at most 16384 packs",
        )?;
        let page_count = fields.u32()?;
        let pages_at_most = size_bytes.div_ceil(BLOCK_BYTES * PAGE_BLOCKS);
        fields.check(
            u64::from(page_count) <= pages_at_most,
            ("page count", 4),
            page_count,
            "the disk has fewer pages of 256 MiB",
        )?;
        fields.check(
            (pack_count == 0) == (page_count == 0),
            ("page count", 4),
            page_count,
            "pages and packs need one another",
        )?;
        if fields.left() as u64 != u64::from(pack_count) * PACK_BYTES + u64::from(page_count) * PAGE_BYTES {
            return Err(fields.length("its counts say otherwise"));
        }
        let packs = parse_packs(&mut fields, pack_count as usize)?;
        let pages = parse_pages(&mut fields, page_count as usize, size_bytes, bytes.len() as u64)?;
        Ok(Self { size_bytes, cut_rule, packs, pages })
    }

    /// The bytes of this root.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.encoded_len() as usize);
        bytes.extend(MAGIC);
        bytes.extend(VERSION.to_le_bytes());
        bytes.extend(self.cut_rule.id.to_le_bytes());
        bytes.extend(self.cut_rule.version.to_le_bytes());
        bytes.extend(0_u16.to_le_bytes());
        bytes.extend(self.size_bytes.to_le_bytes());
        bytes.extend((self.packs.len() as u32).to_le_bytes());
        bytes.extend((self.pages.len() as u32).to_le_bytes());
        for pack in &self.packs {
            bytes.extend(pack.digest.as_bytes());
            bytes.extend(pack.size_bytes.to_le_bytes());
        }
        for page in &self.pages {
            bytes.extend(page.first_block.to_le_bytes());
            bytes.extend(page.offset.to_le_bytes());
            bytes.extend(page.len.to_le_bytes());
            bytes.extend(page.sha256);
        }
        bytes
    }

    /// Length of this root in bytes: where the first page starts.
    pub fn encoded_len(&self) -> u64 {
        HEADER_BYTES + self.packs.len() as u64 * PACK_BYTES + self.pages.len() as u64 * PAGE_BYTES
    }

    /// The length of the whole index in bytes: root and pages.
    pub fn index_bytes(&self) -> u64 {
        self.pages.last().map_or(self.encoded_len(), |page| page.offset + u64::from(page.len))
    }

    /// Blocks of the disk, the last one perhaps not whole.
    pub fn blocks(&self) -> u64 {
        self.size_bytes.div_ceil(BLOCK_BYTES)
    }

    /// How many blocks `page` describes.
    pub fn page_blocks(&self, page: &PageEntry) -> u64 {
        (self.blocks() - page.first_block).min(PAGE_BLOCKS)
    }
}

fn parse_packs(fields: &mut Fields<'_>, count: usize) -> Result<Vec<Blob>, IndexError> {
    let mut packs: Vec<Blob> = Vec::with_capacity(count);
    let mut seen = HashSet::with_capacity(count);
    for number in 0..count {
        let digest = Digest::Sha256(fields.array()?);
        fields.check(
            seen.insert(digest),
            ("pack digest", 32),
            number as u64,
            "the same pack is listed twice",
        )?;
        let size_bytes = fields.u64()?;
        let possible = (1..=MAX_PACK_BYTES).contains(&size_bytes);
        fields.check(possible, ("pack size", 8), size_bytes, "a pack has 1 byte to 64 MiB")?;
        packs.push(Blob { digest, size_bytes });
    }
    Ok(packs)
}

fn parse_pages(
    fields: &mut Fields<'_>,
    count: usize,
    size_bytes: u64,
    root_bytes: u64,
) -> Result<Vec<PageEntry>, IndexError> {
    let mut pages: Vec<PageEntry> = Vec::with_capacity(count);
    let mut next_offset = root_bytes;
    for _ in 0..count {
        let first_block = fields.u64()?;
        let found = ("first block", 8);
        fields.check(first_block % PAGE_BLOCKS == 0, found, first_block, "it is a multiple of 65536")?;
        let ascends = pages.last().is_none_or(|last| last.first_block < first_block);
        fields.check(ascends, found, first_block, "pages are in ascending order")?;
        let on_disk = first_block < size_bytes.div_ceil(BLOCK_BYTES);
        fields.check(on_disk, found, first_block, "the disk ends before it")?;
        let offset = fields.u64()?;
        let adjoins = offset == next_offset;
        fields.check(adjoins, ("page offset", 8), offset, "pages lie end to end behind the root")?;
        let len = fields.u32()?;
        let possible = (page::MIN_BYTES..=MAX_PAGE_BYTES).contains(&u64::from(len));
        fields.check(possible, ("page length", 4), len, "a page has 64 to 3670024 bytes")?;
        next_offset += u64::from(len);
        pages.push(PageEntry { first_block, offset, len, sha256: fields.array()? });
    }
    Ok(pages)
}
