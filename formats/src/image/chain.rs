//! An image and those that it is a difference to, opened from the last one upwards.
//!
//! Which files these are is the caller's word alone; what an image says of its parent is only held against it.

use super::{Format, Image, ImageRequest, Layer, LeftOut, Limits, OpenError, Parts, Refusal};
use super::{detect, qcow2, raw, vmdk};
use crate::Disk;

/// What a format may use besides the image's own bytes.
#[derive(Debug)]
pub(super) struct Surroundings<'a> {
    pub(super) limits: Limits,
    pub(super) parts: Option<&'a dyn Parts>,
    /// The image that this one is a difference to. A format that reads differences takes it; one that is left
    /// was not asked for.
    pub(super) parent: Option<Parent>,
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
    /// VHD, VHDX and VDI: a UUID, in the byte order of the file.
    Uuid([u8; 16]),
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
    let ImageRequest { layer, backing, parts, limits } = request;
    let mut parent = None;
    for layer in backing.into_iter().rev() {
        let (_, opened) = open_layer(layer, Surroundings { limits, parts, parent })?;
        parent = Some(Parent { disk: opened.disk, identity: opened.identity });
    }
    let (format, opened) = open_layer(layer, Surroundings { limits, parts, parent })?;
    Ok(Image { format, disk: opened.disk, left_out: opened.left_out })
}

fn open_layer(layer: Layer<'_>, mut around: Surroundings<'_>) -> Result<(Format, Opened), OpenError> {
    let name = layer.name;
    let opened = open_unnamed(layer, &mut around).and_then(|opened| match around.parent {
        Some(_) => Err(Refusal::UnusedBacking { format: opened.0 }),
        None => Ok(opened),
    });
    opened.map_err(|reason| OpenError { name: name.to_owned(), reason })
}

fn open_unnamed(layer: Layer<'_>, around: &mut Surroundings<'_>) -> Result<(Format, Opened), Refusal> {
    let source = layer.source;
    let format = match layer.format {
        Some(format) => format,
        None => detect(&source)?,
    };
    let opened = match format {
        Format::Raw => Opened::new(raw::RawDisk::open(source, around.limits)?),
        Format::Qcow2 => qcow2::open(source, around)?,
        Format::Vmdk => vmdk::open(source, around)?,
    };
    Ok((format, opened))
}
