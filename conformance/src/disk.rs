//! One disk of an appliance: its index, and every chunk that the index leads to.
//!
//! Page after page; in a page, frame after frame, so that a frame is fetched and decompressed once for all
//! its chunks. Held at one time: the root, a page, a frame and its content.
//!
//! Source: disk-index, "Reading".

use std::collections::BTreeMap;

use sha2::{Digest as _, Sha256};
use zstd::bulk::Decompressor;

use crate::cuts::{self, Next};
use crate::descriptor::Digest;
use crate::disk_index::{BLOCK_BYTES, Chunk, Page, PageEntry, ROOT_HEADER_BYTES, Root, RootHeader, Run};
use crate::manifest::{Appliance, DiskLayer};
use crate::oci_layout::{Blob, Layout};
use crate::packs;
use crate::raw_disk::RawImage;
use crate::report::Report;
use crate::rules::Rule;

/// The rules and their versions that are known: (rule, version).
const EXTENTS: (u16, u16) = (1, 1);
const CONTENT: (u16, u16) = (2, 1);

/// How far a disk is checked beyond its root.
#[derive(Debug)]
pub(crate) enum Content<'a> {
    /// Every chunk, and against this image.
    Compare(&'a RawImage),
    /// Every chunk.
    Walk,
    /// Not again: another layer has the same index. So a small manifest cannot ask for the same work without end.
    Known,
}

/// Checks a disk from its index to its last chunk. Returns the packs that it uses.
pub(crate) fn check(
    layout: &Layout,
    appliance: &Appliance,
    layer: &DiskLayer,
    content: &Content<'_>,
    report: &mut Report,
) -> Vec<Digest> {
    let what = format!("disk `{}`", layer.name);
    let Some(index) = layout.by_digest(&layer.index.digest) else { return Vec::new() };
    let Some(root) = read_root(index, layer, &what, report) else { return Vec::new() };
    let disk_bytes = root.header.disk_bytes;
    if let Some(wanted) = appliance.config_disks.get(&layer.name) {
        report.check(Rule::ConfigDisks, disk_bytes == *wanted, || {
            format!("{what} has {disk_bytes} bytes; the config says {wanted}")
        });
    }
    for (number, pack) in root.packs.iter().enumerate() {
        let same = appliance.packs.get(&pack.digest) == Some(&pack.size_bytes);
        report.check(Rule::RootPackLayers, same, || {
            format!("{what}, pack {number}: no layer {} of {} bytes", pack.digest, pack.size_bytes)
        });
    }
    let raw = match content {
        Content::Compare(raw) => Some(*raw).filter(|raw| raw.check_size(disk_bytes, &what, report)),
        Content::Walk | Content::Known => None,
    };
    match Decompressor::new() {
        _ if matches!(content, Content::Known) => {}
        Ok(decompressor) => {
            DiskCheck { layout, index, root: &root, raw, what: &what, decompressor }.check_pages(report);
        }
        Err(error) => report.fail(Rule::FrameContent, || format!("zstd does not start: {error}")),
    }
    root.packs.into_iter().map(|pack| pack.digest).collect()
}

fn read_root(index: &Blob, layer: &DiskLayer, what: &str, report: &mut Report) -> Option<Root> {
    let mut start = [0; ROOT_HEADER_BYTES];
    let there = index.read_at(0, &mut start);
    report.check(Rule::RootLength, there.is_ok(), || {
        format!("{what}: its index has {} bytes", index.size_bytes)
    });
    there.ok()?;
    let header = RootHeader::read(&start, what, report)?;
    let root_bytes = header.root_bytes();
    if let Some(wanted) = layer.root_bytes {
        report.check(Rule::RootSize, root_bytes == wanted, || {
            format!("{what}: the root has {root_bytes} bytes; the annotation says {wanted}")
        });
    }
    let bytes = index.read(0, root_bytes as usize).map_err(|_| {
        format!("{what}: the root would have {root_bytes} bytes; the index has {}", index.size_bytes)
    });
    let bytes = report.accept(Rule::RootLength, bytes)?;
    if let Some(digest) = &layer.root_digest {
        report.check(Rule::RootDigest, digest.is_of(&bytes), || format!("{what}: the root is not {digest}"));
    }
    Root::read(header, &bytes, index.size_bytes, what, report)
}

/// A disk while its pages are walked.
struct DiskCheck<'a> {
    layout: &'a Layout,
    index: &'a Blob,
    root: &'a Root,
    raw: Option<&'a RawImage>,
    what: &'a str,
    decompressor: Decompressor<'static>,
}

/// A chunk with its place on the disk.
struct Placed<'a> {
    run: usize,
    first_block: u64,
    chunk: &'a Chunk,
    next: Next,
}

impl DiskCheck<'_> {
    fn check_pages(&mut self, report: &mut Report) {
        let mut described = 0;
        for (number, entry) in self.root.pages.iter().enumerate() {
            let what = format!("{}, page {number}", self.what);
            self.check_zeros(described, entry.first_block, report);
            described = entry.first_block;
            let Some(page) = self.read_page(entry, &what, report) else { continue };
            self.check_page(entry, &page, &what, report);
            described += page.runs.iter().map(|run| u64::from(run.blocks())).sum::<u64>();
        }
        self.check_zeros(described, self.root.header.disk_blocks(), report);
    }

    fn read_page(&self, entry: &PageEntry, what: &str, report: &mut Report) -> Option<Page> {
        let bytes = self.index.read(entry.offset, entry.length as usize).ok();
        let right = bytes.as_ref().is_some_and(|bytes| entry.digest.is_of(bytes));
        report.check(Rule::PageDigests, right, || format!("{what} is not {}", entry.digest));
        Page::read(bytes.as_ref().filter(|_| right)?, self.root, entry.first_block, what, report)
    }

    fn check_page(&mut self, entry: &PageEntry, page: &Page, what: &str, report: &mut Report) {
        let mut by_frame: BTreeMap<u32, Vec<Placed<'_>>> = BTreeMap::new();
        let mut block = entry.first_block;
        for (number, run) in page.runs.iter().enumerate() {
            match run {
                Run::Zeros { blocks } => self.check_zeros(block, block + u64::from(*blocks), report),
                Run::Chunk(chunk) => {
                    let next = match page.runs.get(number + 1) {
                        Some(Run::Chunk(_)) => Next::Content,
                        _ => Next::End,
                    };
                    let placed = Placed { run: number, first_block: block, chunk, next };
                    by_frame.entry(chunk.frame).or_default().push(placed);
                }
            }
            block += u64::from(run.blocks());
        }
        for (number, chunks) in by_frame {
            let frame = &page.frames[number as usize];
            let pack = &self.root.packs[usize::from(frame.pack)];
            let content = match self.layout.by_digest(&pack.digest) {
                Some(blob) => packs::read_frame(blob, frame, &mut self.decompressor),
                None => Err(format!("its pack {} is not there", pack.digest)),
            };
            let content = content.map_err(|problem| format!("{what}, frame {number}: {problem}"));
            let Some(content) = report.accept(Rule::FrameContent, content) else { continue };
            for placed in chunks {
                let first = usize::from(placed.chunk.first_block_in_frame) * BLOCK_BYTES;
                let bytes = &content[first..][..usize::from(placed.chunk.blocks) * BLOCK_BYTES];
                self.check_chunk(&placed, bytes, &format!("{what}, run {}", placed.run), report);
            }
        }
    }

    fn check_chunk(&self, placed: &Placed<'_>, bytes: &[u8], what: &str, report: &mut Report) {
        let right = Sha256::digest(bytes).as_slice() == placed.chunk.digest;
        report.check(Rule::ChunkDigests, right, || format!("{what}: the chunk has another digest"));

        let offset = placed.first_block * BLOCK_BYTES as u64;
        let on_disk = (self.root.header.disk_bytes - offset).min(bytes.len() as u64) as usize;
        let (bytes_on_disk, after) = bytes.split_at(on_disk);
        if !after.is_empty() {
            report.check(Rule::LastBlock, after.iter().all(|byte| *byte == 0), || {
                format!("{what}: something lies after the disk's end")
            });
        }
        self.check_cuts(placed, bytes, what, report);
        if let Some(raw) = self.raw {
            raw.check_content(offset, bytes_on_disk, what, report);
        }
    }

    fn check_cuts(&self, placed: &Placed<'_>, bytes: &[u8], what: &str, report: &mut Report) {
        let (rule, version) = self.root.header.cut_rule;
        if ![EXTENTS, CONTENT].contains(&(rule, version)) {
            let reason = format!("cut rule {rule}, version {version}, is not known");
            report.skip(Rule::ZeroBlocks, &reason);
            return report.skip(Rule::ContentCuts, &reason);
        }
        let zeros = bytes.chunks(BLOCK_BYTES).position(|block| block.iter().all(|byte| *byte == 0));
        report.check(Rule::ZeroBlocks, zeros.is_none(), || {
            format!("{what}: block {} of the chunk is zeros", zeros.unwrap_or_default())
        });
        if (rule, version) == CONTENT {
            let cuts = cuts::check(bytes, placed.next);
            report.accept(Rule::ContentCuts, cuts.map_err(|problem| format!("{what}: the chunk {problem}")));
        } else {
            report
                .skip(Rule::ContentCuts, "all disks are cut by rule 1, which needs the file system to judge");
        }
    }

    /// Holds blocks that the index calls zeros against the raw disk.
    fn check_zeros(&self, from_block: u64, to_block: u64, report: &mut Report) {
        let byte = |block: u64| (block * BLOCK_BYTES as u64).min(self.root.header.disk_bytes);
        if let Some(raw) = self.raw {
            let what = format!("{}, zeros from block {from_block}", self.what);
            raw.check_zeros(byte(from_block), byte(to_block), &what, report);
        }
    }
}
