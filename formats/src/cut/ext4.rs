//! Where the extents of an ext4 file system start.
//!
//! Reads the superblock, the group descriptors, the inode tables and the extent trees, and no file.
//! Whatever cannot be right is passed over. Time and memory are bounded by [`MAX_READ_BYTES`] and
//! [`MAX_STARTS`], not by what the file system claims.
//!
//! Source: the Linux kernel's documentation of ext4, "Data Structures and Algorithms": "The Super
//! Block", "Block Group Descriptors", "Inode Table", "The Contents of inode.i_block".

use std::ops::Range;

use crate::packed::BLOCK_BYTES;
use crate::{Disk, RunKind};

/// The most metadata that is read of one file system: the inodes of 8 million files.
const MAX_READ_BYTES: u64 = 2 << 30;
/// The most extents of one disk whose starts are remembered, 8 bytes each.
const MAX_STARTS: usize = 1 << 22;
/// The most groups that are looked at: 128 TiB of the usual size.
const MAX_GROUPS: u64 = 1 << 20;
/// How much of an inode table is read at once.
const PIECE_BYTES: u64 = 1 << 20;
/// The deepest extent tree that the kernel makes.
const MAX_DEPTH: u16 = 5;

const MAGIC: u16 = 0xef53;
const EXTENT_MAGIC: u16 = 0xf30a;
const INCOMPAT_META_BG: u32 = 0x10;
const INCOMPAT_64BIT: u32 = 0x80;
const COMPAT_SPARSE_SUPER2: u32 = 0x200;
const RO_COMPAT_SPARSE_SUPER: u32 = 0x1;
/// Either says that `bg_flags` and `bg_itable_unused` can be believed.
const RO_COMPAT_GROUP_CHECKSUMS: u32 = 0x10 | 0x400;
const GROUP_INODES_UNUSED: u16 = 0x1;
const INODE_EXTENTS: u32 = 0x8_0000;

/// Adds the blocks of the disk at which extents start to `starts`, in no order, if `part` of `disk` is
/// an ext4 file system; and returns what it says that it covers, in bytes of the disk.
pub(super) fn extents(disk: &dyn Disk, part: Range<u64>, starts: &mut Vec<u64>) -> Option<Range<u64>> {
    let superblock = Superblock::read(disk, &part)?;
    let covered = part.start..part.start + superblock.blocks * superblock.block_bytes;
    let mut walk = Walk { disk, part, superblock, starts, budget_bytes: MAX_READ_BYTES };
    // What could not be read stays without cuts.
    let _ = walk.groups();
    Some(covered)
}

/// What the superblock says, as far as it matters here.
#[derive(Debug)]
struct Superblock {
    block_bytes: u64,
    blocks: u64,
    first_data_block: u64,
    blocks_per_group: u64,
    inodes_per_group: u64,
    inode_bytes: u64,
    descriptor_bytes: u64,
    compat: u32,
    incompat: u32,
    ro_compat: u32,
    first_meta_group: u64,
    backup_groups: [u64; 2],
}

/// The way through one file system.
struct Walk<'a> {
    disk: &'a dyn Disk,
    part: Range<u64>,
    superblock: Superblock,
    starts: &'a mut Vec<u64>,
    /// How much more may be read.
    budget_bytes: u64,
}

impl Superblock {
    fn read(disk: &dyn Disk, part: &Range<u64>) -> Option<Self> {
        let mut raw = [0; 1024];
        if part.end.checked_sub(part.start)? < 2048 {
            return None;
        }
        disk.read_at(part.start + 1024, &mut raw).ok()?;
        if le16(&raw, 0x38) != MAGIC {
            return None;
        }
        let incompat = le32(&raw, 0x60);
        let is_64bit = incompat & INCOMPAT_64BIT != 0;
        let high = |at| if is_64bit { u64::from(le32(&raw, at)) << 32 } else { 0 };
        // Revision 0 has inodes of 128 bytes and nothing that came later.
        let inode_bytes = if le32(&raw, 0x4c) == 0 { 128 } else { u64::from(le16(&raw, 0x58)) };
        let superblock = Self {
            block_bytes: 1024_u64.checked_shl(le32(&raw, 0x18)).filter(|bytes| *bytes <= 65_536)?,
            blocks: u64::from(le32(&raw, 0x04)) | high(0x150),
            first_data_block: le32(&raw, 0x14).into(),
            blocks_per_group: le32(&raw, 0x20).into(),
            inodes_per_group: le32(&raw, 0x28).into(),
            inode_bytes,
            descriptor_bytes: if is_64bit { le16(&raw, 0xfe).into() } else { 32 },
            compat: le32(&raw, 0x5c),
            incompat,
            ro_compat: le32(&raw, 0x64),
            first_meta_group: le32(&raw, 0x104).into(),
            backup_groups: [le32(&raw, 0x24c).into(), le32(&raw, 0x250).into()],
        };
        superblock.is_possible(part.end - part.start).then_some(superblock)
    }

    fn is_possible(&self, part_bytes: u64) -> bool {
        self.blocks.checked_mul(self.block_bytes).is_some_and(|bytes| 0 < bytes && bytes <= part_bytes)
            && self.first_data_block <= 1
            && self.blocks_per_group > 0
            && (1..=8 * self.block_bytes).contains(&self.inodes_per_group)
            && (128..=self.block_bytes).contains(&self.inode_bytes)
            && (32..=self.block_bytes).contains(&self.descriptor_bytes)
    }

    fn groups(&self) -> u64 {
        (self.blocks - self.first_data_block.min(self.blocks)).div_ceil(self.blocks_per_group)
    }

    fn descriptors_per_block(&self) -> u64 {
        self.block_bytes / self.descriptor_bytes
    }

    /// The block that holds the descriptors of the groups from `number * descriptors_per_block` on.
    fn descriptor_block(&self, number: u64) -> u64 {
        if self.incompat & INCOMPAT_META_BG == 0 || number < self.first_meta_group {
            return self.first_data_block + 1 + number;
        }
        let group = number * self.descriptors_per_block();
        let first = self.first_data_block + group * self.blocks_per_group;
        // With blocks of 1 KiB and nothing before the superblock's, block 0 is there all the same.
        let boot_block = number == 0 && self.block_bytes == 1024 && self.first_data_block == 0;
        first + u64::from(self.has_superblock(group)) + u64::from(boot_block)
    }

    fn has_superblock(&self, group: u64) -> bool {
        if group == 0 {
            return true;
        }
        if self.compat & COMPAT_SPARSE_SUPER2 != 0 {
            return self.backup_groups.contains(&group);
        }
        let is_power_of = |base: u64| {
            std::iter::successors(Some(base), |power| power.checked_mul(base))
                .take_while(|power| *power <= group)
                .any(|power| power == group)
        };
        group == 1 || self.ro_compat & RO_COMPAT_SPARSE_SUPER == 0 || [3, 5, 7].into_iter().any(is_power_of)
    }
}

impl Walk<'_> {
    /// `None` where the budget ends.
    fn groups(&mut self) -> Option<()> {
        let groups = self.superblock.groups().min(MAX_GROUPS);
        let per_block = self.superblock.descriptors_per_block();
        let descriptor_bytes = self.superblock.descriptor_bytes as usize;
        for number in 0..groups.div_ceil(per_block) {
            let block = self.superblock.descriptor_block(number);
            let Some(block) = self.read_block(block)? else { continue };
            let here = per_block.min(groups - number * per_block) as usize;
            for descriptor in block.chunks_exact(descriptor_bytes).take(here) {
                self.group(descriptor)?;
            }
        }
        Some(())
    }

    fn group(&mut self, descriptor: &[u8]) -> Option<()> {
        let wide = descriptor.len() >= 64;
        let high = |at, width: u32| if wide { u64::from(le16(descriptor, at)) << width } else { 0 };
        let table = u64::from(le32(descriptor, 0x08)) | high(0x28, 32) | high(0x2a, 48);
        let mut inodes = self.superblock.inodes_per_group;
        if self.superblock.ro_compat & RO_COMPAT_GROUP_CHECKSUMS != 0 {
            if le16(descriptor, 0x12) & GROUP_INODES_UNUSED != 0 {
                return Some(());
            }
            let unused = u64::from(le16(descriptor, 0x1c)) | high(0x32, 16);
            inodes = inodes.saturating_sub(unused);
        }
        let Some(offset) = table.checked_mul(self.superblock.block_bytes) else { return Some(()) };
        self.inode_table(offset, inodes * self.superblock.inode_bytes)
    }

    fn inode_table(&mut self, mut offset: u64, len: u64) -> Option<()> {
        let inode_bytes = self.superblock.inode_bytes as usize;
        let whole = PIECE_BYTES - PIECE_BYTES % self.superblock.inode_bytes;
        let mut left = len;
        while left > 0 {
            let here = left.min(whole);
            if let Some(piece) = self.read(offset, here)? {
                for inode in piece.chunks_exact(inode_bytes) {
                    self.inode(inode)?;
                }
            }
            offset = offset.saturating_add(here);
            left -= here;
        }
        Some(())
    }

    fn inode(&mut self, inode: &[u8]) -> Option<()> {
        let (mode, links, flags) = (le16(inode, 0x00), le16(inode, 0x1a), le32(inode, 0x20));
        if mode == 0 || links == 0 || flags & INODE_EXTENTS == 0 {
            return Some(());
        }
        self.extent_node(&inode[0x28..0x28 + 60], MAX_DEPTH)
    }

    /// A node of an extent tree, which has at most `depth` levels below it.
    fn extent_node(&mut self, node: &[u8], depth: u16) -> Option<()> {
        if le16(node, 0) != EXTENT_MAGIC || le16(node, 6) > depth {
            return Some(());
        }
        let is_leaf = le16(node, 6) == 0;
        for entry in node.chunks_exact(12).skip(1).take(le16(node, 2).into()) {
            if is_leaf {
                let block = u64::from(le32(entry, 8)) | u64::from(le16(entry, 6)) << 32;
                self.extent_start(block)?;
            } else if let Some(depth) = depth.checked_sub(1) {
                let block = u64::from(le32(entry, 4)) | u64::from(le16(entry, 8)) << 32;
                if let Some(child) = self.read_block(block)? {
                    self.extent_node(&child, depth)?;
                }
            }
        }
        Some(())
    }

    fn extent_start(&mut self, block: u64) -> Option<()> {
        if self.starts.len() == MAX_STARTS {
            return None;
        }
        if block < self.superblock.blocks {
            // Rounded up: the block that the extent shares with what lies before it is not its start.
            let offset = self.part.start + block * self.superblock.block_bytes;
            self.starts.push(offset.div_ceil(BLOCK_BYTES));
        }
        Some(())
    }

    fn read_block(&mut self, block: u64) -> Option<Option<Vec<u8>>> {
        match block.checked_mul(self.superblock.block_bytes) {
            Some(offset) => self.read(offset, self.superblock.block_bytes),
            None => Some(None),
        }
    }

    /// `len` bytes from `offset` of the file system on. `Some(None)` where they cannot be read or are
    /// known to be zeros, `None` where the budget ends.
    fn read(&mut self, offset: u64, len: u64) -> Option<Option<Vec<u8>>> {
        self.budget_bytes = self.budget_bytes.checked_sub(len.max(512))?;
        let Some(start) = self.part.start.checked_add(offset) else { return Some(None) };
        if start.checked_add(len).is_none_or(|end| end > self.part.end) {
            return Some(None);
        }
        match self.disk.runs(start, len).ok().as_deref() {
            None => return Some(None),
            Some([only]) if only.kind == RunKind::Zero && only.len >= len => return Some(None),
            Some(_) => (),
        }
        let mut bytes = vec![0; len as usize];
        Some(self.disk.read_at(start, &mut bytes).ok().map(|()| bytes))
    }
}

fn le16(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(std::array::from_fn(|byte| bytes[at + byte]))
}

fn le32(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(std::array::from_fn(|byte| bytes[at + byte]))
}
