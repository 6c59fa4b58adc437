//! A disk image alone: a machine of one disk, of which nothing but the disk is known.

use std::fs::File;
use std::path::Path;

use appliance::{Devices, Disk, DiskMode, Nic};
use formats::image::{self, Format, Parts, Source};
use rustix::fs::{Mode, OFlags};

use super::draft::{Assumed, Draft, DraftImage, DraftMachine, NamedSource};
use super::{ImportError, ImportRequest, Kind, names};
use crate::FolderParts;

/// A draft of a machine with the disk in `source` alone.
pub(super) fn draft(source: Source, name: &str, request: &ImportRequest<'_>) -> Result<Draft, ImportError> {
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
    let mut draft = Draft::new(Kind::Image(format), &stem(request.path), request);
    draft.parts = parts.transpose()?.map(|parts| Box::new(parts) as Box<dyn Parts>);
    let image = DraftImage { layers, format: request.image.format, said_bytes: None };
    draft.machines.push(alone(&draft.name, image, devices(format)));
    Ok(draft)
}

/// A machine with one disk and one NIC, of which nothing else is known but which devices it may have.
pub(super) fn alone(name: &str, image: DraftImage, devices: (Devices, &'static str)) -> DraftMachine {
    let disk = Disk { name: "root".to_owned(), size_bytes: 0, mode: DiskMode::Overlay, bus: None };
    let nic = Nic { name: "eth0".to_owned(), network: None, model: None };
    let (devices, why) = devices;
    DraftMachine {
        disks: vec![(disk, image)],
        nics: vec![nic],
        devices: Assumed { value: devices, why },
        ..DraftMachine::new(name)
    }
}

/// Which devices a guest knows whose disk is in this format.
pub(super) fn devices(format: Format) -> (Devices, &'static str) {
    match format {
        Format::Raw | Format::Qcow2 => {
            (Devices::Virtio, "guests with disks of this format mostly have drivers for virtio")
        }
        _ => (Devices::Compat, "a guest with a disk of this format may have no drivers for virtio"),
    }
}

/// The name of a file without what comes after its first full stop, as a name for an appliance.
pub(super) fn stem(path: &Path) -> String {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let stem = name.split('.').find(|part| !part.is_empty()).unwrap_or_default();
    names::label(stem).unwrap_or_else(|| "imported".to_owned())
}

/// A pipe is opened without waiting for a writer; [`Source`] refuses it then.
pub(super) fn open_file(path: &Path) -> Result<File, ImportError> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(file) => Ok(file.into()),
        Err(error) => Err(ImportError::File { path: path.to_owned(), source: error.into() }),
    }
}
