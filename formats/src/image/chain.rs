//! An image and those that it is a difference to, opened from the last one upwards.
//!
//! Which files these are is the caller's word alone; what an image says of its parent is only held against it.

use std::cell::Cell;

use super::{Format, Image, ImageRequest, Layer, LeftOut, Limits, OpenError, Parts, ReadCache, Refusal};
use super::{Source, detect, qcow2, raw, vdi, vhd, vhdx, vmdk};
use crate::Disk;

/// A read goes down the chain by as many calls, and each image keeps its own tables in memory.
const LONGEST_CHAIN: usize = 256;
/// Ours: what the tables of a chain that stay in memory may have in all. QEMU allows one qcow2 image as much.
const MOST_TABLE_BYTES: u64 = 32 << 20;

/// What a format may use besides the image's own bytes.
#[derive(Debug)]
pub(super) struct Surroundings<'a> {
    pub(super) limits: Limits,
    pub(super) parts: Option<&'a dyn Parts>,
    pub(super) memory: &'a Memory,
    /// The image that this one is a difference to. A format that reads differences takes it; one that is left
    /// was not asked for.
    pub(super) parent: Option<Parent>,
}

/// What the images of a chain keep in memory together: no more than one alone could.
#[derive(Debug)]
pub(super) struct Memory {
    pub(super) cache: ReadCache,
    table_bytes_left: Cell<u64>,
}

impl Memory {
    fn new(cache: ReadCache) -> Self {
        Memory { cache, table_bytes_left: Cell::new(MOST_TABLE_BYTES) }
    }

    /// Takes room for tables that stay in memory as long as the disk is open.
    pub(super) fn take_tables(&self, bytes: u64) -> Result<(), Refusal> {
        let left = self.table_bytes_left.get();
        match left.checked_sub(bytes) {
            Some(left) => {
                self.table_bytes_left.set(left);
                Ok(())
            }
            None => Err(Refusal::TablesTooLarge { bytes, left, most: MOST_TABLE_BYTES }),
        }
    }

    /// What has been taken for tables.
    fn table_bytes(&self) -> u64 {
        MOST_TABLE_BYTES - self.table_bytes_left.get()
    }
}

/// An opened image that another one may be a difference to.
#[derive(Debug)]
pub(super) struct Parent {
    pub(super) disk: Box<dyn Disk>,
    pub(super) identity: Option<Identity>,
}

/// How a format names a state of a disk, so that a difference is only ever applied to what it was taken from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Identity {
    /// VMDK: the content identifier.
    Cid(u32),
    /// VHD: the unique id.
    Vhd([u8; 16]),
    /// VHDX: the GUID that changes with the disk, in the byte order of the file.
    Vhdx([u8; 16]),
    /// VDI: the UUID, in the byte order of the file.
    Vdi([u8; 16]),
}

/// What a format makes of an image.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) disk: Box<dyn Disk>,
    pub(super) identity: Option<Identity>,
    pub(super) left_out: Vec<LeftOut>,
}

impl Opened {
    /// A disk of which nothing else is to be said.
    pub(super) fn new(disk: impl Disk + 'static) -> Self {
        Opened { disk: Box::new(disk), identity: None, left_out: Vec::new() }
    }
}

pub(super) fn open(request: ImageRequest<'_>) -> Result<Image, OpenError> {
    let ImageRequest { layer, backing, parts, limits, cache } = request;
    let layers: Vec<Layer<'_>> = [layer].into_iter().chain(backing).collect();
    let formats = settle_formats(&layers, limits)?;
    let image_format = formats[0];
    let memory = &Memory::new(cache);
    let mut below = None;
    for (layer, format) in layers.into_iter().zip(formats).rev() {
        let parent = below.map(|Opened { disk, identity, .. }| Parent { disk, identity });
        below = Some(open_layer(layer, format, Surroundings { limits, parts, memory, parent })?);
    }
    let Opened { disk, left_out, .. } = below.expect("the image itself is a layer");
    Ok(Image { format: image_format, disk, left_out, table_bytes: memory.table_bytes() })
}

/// What each layer is read as, from the image down: what the caller says, or else what the layer above says of
/// its parent, or else what its magic says.
fn settle_formats(layers: &[Layer<'_>], limits: Limits) -> Result<Vec<Format>, OpenError> {
    let most = LONGEST_CHAIN;
    if layers.len() > most {
        let reason = Refusal::ChainTooLong { found: layers.len(), most };
        return Err(OpenError { name: layers[0].name.to_owned(), reason });
    }
    let mut formats = Vec::with_capacity(layers.len());
    let mut declared = None;
    for (index, layer) in layers.iter().enumerate() {
        let refused = |reason| OpenError { name: layer.name.to_owned(), reason };
        let format = match layer.format.or(declared) {
            Some(format) => format,
            None => detect(&layer.source).map_err(refused)?,
        };
        declared = match layers.get(index + 1) {
            Some(Layer { format: None, .. }) => {
                declared_parent(format, &layer.source, limits).map_err(refused)?
            }
            _ => None,
        };
        formats.push(format);
    }
    Ok(formats)
}

/// The format that an image names for the one that it is a difference to, where its own format has a place for that.
fn declared_parent(format: Format, source: &Source, limits: Limits) -> Result<Option<Format>, Refusal> {
    match format {
        Format::Qcow2 => qcow2::declared_parent(source, limits),
        Format::Vhd => vhd::declared_parent(source, limits),
        Format::Raw | Format::Vmdk | Format::Vdi | Format::Vhdx => Ok(None),
    }
}

fn open_layer(layer: Layer<'_>, format: Format, mut around: Surroundings<'_>) -> Result<Opened, OpenError> {
    let Layer { source, name, .. } = layer;
    let opened = match format {
        Format::Raw => raw::RawDisk::open(source, around.limits).map(Opened::new),
        Format::Qcow2 => qcow2::open(source, &mut around),
        Format::Vmdk => vmdk::open(source, &mut around),
        Format::Vhd => vhd::open(source, &mut around),
        Format::Vdi => vdi::open(source, &mut around),
        Format::Vhdx => vhdx::open(source, &mut around),
    };
    let opened = match around.parent {
        Some(_) if opened.is_ok() => Err(Refusal::UnusedBacking { format }),
        _ => opened,
    };
    opened.map_err(|reason| OpenError { name: name.to_owned(), reason })
}
