//! An OVA, written: disks first into files without names, then into the archive, whose descriptor says how long they are.

use std::fs::File;
use std::io::{self, BufReader, Seek as _, SeekFrom};
use std::path::Path;

use formats::ovf::OvaWriter;

use super::super::write::{ExportError, Writer};
use super::Package;

/// Writes `package` to `out`, which is empty; messages call it `path`.
pub(in crate::export) fn write(
    writer: &Writer<'_>,
    package: &Package,
    path: &Path,
    out: &File,
) -> Result<(), ExportError> {
    let failed = |source| ExportError::Write { path: path.to_owned(), source };
    let archive_failed = |source| ExportError::Ova { path: path.to_owned(), source };
    let mut descriptor = package.descriptor.clone();
    let text = |descriptor: &_| {
        formats::ovf::write(descriptor).map_err(|source| ExportError::Ovf { path: path.to_owned(), source })
    };
    // As long as it can become.
    descriptor.files.iter_mut().for_each(|file| file.size_bytes = Some(u64::MAX));
    let reserved_bytes = text(&descriptor)?.len() as u64;
    let out = out.try_clone().map_err(failed)?;
    let mut archive = OvaWriter::create(out, &package.stem, reserved_bytes).map_err(archive_failed)?;
    for (file, (disk, target)) in descriptor.files.iter_mut().zip(&package.disks) {
        let image = writer.scratch().map_err(failed)?;
        writer.image(disk, *target, path, image.file())?;
        let mut image = image.file();
        image.seek(SeekFrom::Start(0)).map_err(failed)?;
        let mut member = archive.member(&file.href).map_err(archive_failed)?;
        io::copy(&mut BufReader::with_capacity(1 << 20, image), &mut member).map_err(failed)?;
        file.size_bytes = Some(member.finish().map_err(archive_failed)?);
    }
    archive.finish(&text(&descriptor)?).map_err(archive_failed)?;
    Ok(())
}
