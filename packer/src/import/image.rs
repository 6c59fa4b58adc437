//! A disk image alone: a machine of one disk, of which nothing but the disk is known.

use std::fs::File;
use std::path::Path;

use appliance::{Devices, Disk, DiskMode, Nic};
use formats::image::{self, Format, Parts, Source};
use rustix::fs::{Mode, OFlags};

use super::draft::{Assumed, Draft, DraftImage, DraftMachine, NamedSource};
use super::{Import, ImportError, ImportRequest, Kind};
use crate::FolderParts;

/// A machine with the disk in `source` alone.
pub(super) fn import(source: Source, name: &str, request: &ImportRequest<'_>) -> Result<Import, ImportError> {
    let format = match request.image.format {
        Some(format) => format,
        None => image::detect(&source).map_err(|reason| ImportError::image(name, reason))?,
    };
    let parts = request.image.parts.map(|folder| {
        let opened = FolderParts::open(folder);
        opened.map_err(|source| ImportError::File { path: folder.to_owned(), source })
    });
    let mut layers = vec![NamedSource { source, name: name.to_owned() }];
    for path in request.image.backing {
        let (file, name) = (open_file(path)?, path.display().to_string());
        let source = Source::new(file).map_err(|reason| ImportError::image(&name, reason))?;
        layers.push(NamedSource { source, name });
    }
    let mut draft = Draft::new(Kind::Image(format), &request.default_name(), request);
    let image = DraftImage { layers, format: request.image.format, said_bytes: None };
    draft.machines.push(alone(&draft.name, image, devices(format)));
    let parts = parts.transpose()?;
    draft.open(request, parts.as_ref().map(|parts| parts as &dyn Parts))
}

/// A machine with one disk and one NIC, of which nothing else is known but which devices it may have.
pub(super) fn alone(name: &str, image: DraftImage, devices: Assumed<Devices>) -> DraftMachine {
    let disk = Disk { name: "root".to_owned(), size_bytes: 0, mode: DiskMode::Overlay, bus: None };
    DraftMachine { disks: vec![(disk, image)], ..with_nic(name, devices) }
}

/// A machine with one NIC and nothing else.
pub(super) fn with_nic(name: &str, devices: Assumed<Devices>) -> DraftMachine {
    let nic = Nic { name: "eth0".to_owned(), network: None, model: None };
    DraftMachine { nics: vec![nic], devices, ..DraftMachine::new(name) }
}

/// Which devices a guest knows whose disk is in this format.
pub(super) fn devices(format: Format) -> Assumed<Devices> {
    match format {
        Format::Raw | Format::Qcow2 => Assumed {
            value: Devices::Virtio,
            why: "guests with disks of this format mostly have drivers for virtio",
        },
        _ => Assumed {
            value: Devices::Compat,
            why: "a guest with a disk of this format may have no drivers for virtio",
        },
    }
}

/// A pipe is opened without waiting for a writer; [`Source`] refuses it then.
pub(super) fn open_file(path: &Path) -> Result<File, ImportError> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(file) => Ok(file.into()),
        Err(error) => Err(ImportError::File { path: path.to_owned(), source: error.into() }),
    }
}
