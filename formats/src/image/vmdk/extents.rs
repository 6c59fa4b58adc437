//! A disk whose descriptor is a file of its own and whose extents lie in other files, end to end.
//!
//! The files are those that the caller has handed over. A name in the descriptor must be a plain one and is compared
//! with theirs; it is never used as a path. No byte of a file is used twice, so that the disk is never larger
//! than its files but for what a sparse extent leaves out.
//!
//! Source: "Virtual Disk Format 5.0", "The Extent Description".

use std::collections::HashMap;
use std::sync::Arc;

use super::super::chain::{Memory, Opened, Parent, Surroundings};
use super::super::concat::{ConcatDisk, Content, DiskWindow};
use super::super::raw::RawDisk;
use super::super::source::Source;
use super::super::{Format, Limits, Parts, Refusal};
use super::descriptor::{Descriptor, Extent, ExtentKind, Line};
use super::header::{Header, LARGEST_DIRECTORY_BYTES};
use super::{FORMAT, SECTOR, sparse_disk};
use crate::Disk;

/// QEMU's limit. The largest that VMware writes have about 300 KiB.
const LARGEST_DESCRIPTOR_BYTES: u64 = 1 << 20;

const COMPRESSED: &str = "compressed extents are only read where they are the whole disk";

/// Opens the disk that the descriptor in `file` puts together.
pub(super) fn open(file: &Source, around: &mut Surroundings<'_>) -> Result<Opened, Refusal> {
    if file.size_bytes() > LARGEST_DESCRIPTOR_BYTES {
        let found = format!("a file of {} bytes", file.size_bytes());
        return Err(FORMAT.malformed(
            0,
            "descriptor",
            found,
            format!("at most {LARGEST_DESCRIPTOR_BYTES} bytes"),
        ));
    }
    let text = file.start(LARGEST_DESCRIPTOR_BYTES as usize)?;
    let descriptor = Descriptor::parse(&text, 0)?;
    check_size(&descriptor, around.limits)?;
    check_no_byte_used_twice(&descriptor)?;
    let parent = descriptor.take_parent(around)?.map(|Parent { disk, .. }| Arc::from(disk));
    let mut assembly = Assembly {
        parts: around.parts,
        limits: around.limits,
        memory: around.memory,
        known: HashMap::new(),
        parent,
        extents: descriptor.extents.len(),
        directory_bytes: 0,
        disk: ConcatDisk::new(),
    };
    for extent in &descriptor.extents {
        assembly.add(extent)?;
    }
    Ok(Opened { identity: descriptor.identity(), ..Opened::new(assembly.disk) })
}

fn check_size(descriptor: &Descriptor<'_>, limits: Limits) -> Result<(), Refusal> {
    let size_bytes = descriptor.sectors()?.saturating_mul(SECTOR);
    let max_size_bytes = limits.max_size_bytes;
    if size_bytes > max_size_bytes {
        return Err(Refusal::TooLarge { format: Format::Vmdk, size_bytes, max_size_bytes });
    }
    Ok(())
}

/// A descriptor of a few kilobytes could make terabytes of one file otherwise.
fn check_no_byte_used_twice(descriptor: &Descriptor<'_>) -> Result<(), Refusal> {
    let mut used: Vec<(&str, u64, u64, Line<'_>)> = descriptor
        .extents
        .iter()
        .filter_map(|Extent { line, sectors, kind }| match kind {
            ExtentKind::Flat { name, first_sector } => {
                Some((name.as_str(), *first_sector, first_sector.saturating_add(*sectors), *line))
            }
            ExtentKind::Sparse { name } => Some((name.as_str(), 0, u64::MAX, *line)),
            ExtentKind::Zero => None,
        })
        .collect();
    used.sort_by_key(|&(name, start, _, line)| (name, start, line.offset));
    for pair in used.windows(2) {
        let [(name, _, end, _), (next_name, next_start, _, line)] = pair else { continue };
        if name == next_name && next_start < end {
            let wanted = "a part of the file that no other extent has";
            return Err(FORMAT.malformed(line.offset, "extent description", line.quoted(), wanted));
        }
    }
    Ok(())
}

/// A disk that is being put together.
struct Assembly<'a> {
    parts: Option<&'a dyn Parts>,
    limits: Limits,
    memory: &'a Memory,
    /// The parts that have been asked for, by their names. An extent for every sector may name the same file, and
    /// whoever hands it over may have to open it, or to hash all of it.
    known: HashMap<String, Source>,
    parent: Option<Arc<dyn Disk>>,
    /// How many there will be.
    extents: usize,
    /// Of all sparse extents so far; they are kept in memory.
    directory_bytes: u64,
    disk: ConcatDisk,
}

impl Assembly<'_> {
    fn add(&mut self, extent: &Extent<'_>) -> Result<(), Refusal> {
        let size_bytes = extent.sectors * SECTOR;
        let content = match &extent.kind {
            ExtentKind::Zero => Content::Zero,
            ExtentKind::Flat { name, first_sector } => {
                let file = self.part(extent, name)?;
                Content::Part { name: name.clone(), disk: self.flat(extent, &file, *first_sector)? }
            }
            ExtentKind::Sparse { name } => {
                let file = self.part(extent, name)?;
                let in_part = |reason| Refusal::Part { name: name.clone(), reason: Box::new(reason) };
                let header = Header::load(&file, self.limits).map_err(in_part)?;
                if !header.has_grains_of(extent.sectors) {
                    let wanted = format!(
                        "the capacity in that file's header, {} sectors",
                        header.size_bytes() / SECTOR
                    );
                    return Err(wrong(extent, wanted));
                }
                let disk = self.sparse(file, header.with_size(extent.sectors)).map_err(in_part)?;
                Content::Part { name: name.clone(), disk }
            }
        };
        self.disk.push(size_bytes, content);
        Ok(())
    }

    /// The file that an extent names.
    fn part(&mut self, extent: &Extent<'_>, name: &str) -> Result<Source, Refusal> {
        let line = extent.line;
        if matches!(name, "" | "." | "..") || name.contains(['/', '\\', '\0']) {
            return Err(wrong(extent, "a plain file name: names with folders in them are not followed"));
        }
        let Some(parts) = self.parts else {
            return Err(FORMAT.no_parts(line.offset, "extent description", line.quoted()));
        };
        if let Some(file) = self.known.get(name) {
            return Ok(file.clone());
        }
        match parts.part(name) {
            Ok(Some(file)) => {
                self.known.insert(name.to_owned(), file.clone());
                Ok(file)
            }
            Ok(None) => Err(Refusal::MissingPart { name: name.to_owned() }),
            Err(source) => {
                let what = format!("its part `{}`", name.escape_debug());
                Err(Refusal::Io { what, source })
            }
        }
    }

    fn flat(&self, extent: &Extent<'_>, file: &Source, first_sector: u64) -> Result<Box<dyn Disk>, Refusal> {
        let range = first_sector.checked_mul(SECTOR).and_then(|start| {
            let end = start.checked_add(extent.sectors * SECTOR)?;
            file.window(start..end)
        });
        match range {
            Some(window) => Ok(Box::new(RawDisk::open(window, self.limits)?)),
            None => Err(wrong(
                extent,
                format!("sectors that lie in the file, which has {} bytes", file.size_bytes()),
            )),
        }
    }

    fn sparse(&mut self, file: Source, header: Header) -> Result<Box<dyn Disk>, Refusal> {
        if header.compressed && self.extents > 1 {
            return Err(FORMAT.unsupported(0, "header", "one of a compressed extent", COMPRESSED));
        }
        self.directory_bytes += header.directory.end - header.directory.start;
        if self.directory_bytes > LARGEST_DIRECTORY_BYTES {
            let found = format!("the one with which all have {} bytes", self.directory_bytes);
            return Err(FORMAT.malformed(
                header.directory.start,
                "grain directory",
                found,
                format!("at most {LARGEST_DIRECTORY_BYTES} bytes of grain directories in all"),
            ));
        }
        let start = self.disk.size_bytes();
        let parent =
            self.parent.as_ref().and_then(|parent| DiskWindow::new(parent, start, header.size_bytes()));
        let parent = parent.map(|parent| Box::new(parent) as Box<dyn Disk>);
        Ok(Box::new(sparse_disk(file, header, parent, self.memory)?))
    }
}

fn wrong(extent: &Extent<'_>, wanted: impl Into<String>) -> Refusal {
    FORMAT.malformed(extent.line.offset, "extent description", extent.line.quoted(), wanted)
}
