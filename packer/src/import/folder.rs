//! An OVF package that lies in a folder: the descriptor, and the files beside it.

use std::ffi::OsStr;
use std::path::Path;

use formats::ovf::Package;

use super::{Import, ImportError, ImportRequest, Kind, ovf};
use crate::FolderParts;

/// Whether a file that begins with `start` is XML, and so perhaps an OVF descriptor.
pub(super) fn is_descriptor(start: &[u8]) -> bool {
    let text = match start {
        [0xef, 0xbb, 0xbf, rest @ ..] | rest => rest,
    };
    // UTF-16 with its mark.
    if let [0xfe, 0xff, 0, b'<', ..] | [0xff, 0xfe, b'<', 0, ..] = start {
        return true;
    }
    // VDI images begin with `<<< `.
    matches!(text.trim_ascii_start(), [b'<', b'?' | b'!' | b'_' | b':' | b'a'..=b'z' | b'A'..=b'Z', ..])
}

/// The package in the folder at `path`: the one whose descriptor is called `descriptor`, or else the only one.
pub(super) fn import(
    path: &Path,
    descriptor: Option<&OsStr>,
    request: &ImportRequest<'_>,
) -> Result<Import, ImportError> {
    let files =
        FolderParts::open(path).map_err(|source| ImportError::File { path: path.to_owned(), source })?;
    let descriptor = match descriptor {
        Some(name) => name.to_str().map(str::to_owned),
        None => only(files.names().filter(|name| name.to_ascii_lowercase().ends_with(".ovf")), path)?,
    };
    let descriptor = descriptor.ok_or_else(|| ImportError::NoDescriptor { path: path.to_owned() })?;
    ovf::import(&Package::from_folder(&descriptor, &files)?, Kind::OvfFolder, request)
}

/// The one name of several.
fn only<'a>(mut names: impl Iterator<Item = &'a str>, folder: &Path) -> Result<Option<String>, ImportError> {
    match (names.next(), names.next()) {
        (Some(first), Some(second)) => {
            let names = [first.to_owned(), second.to_owned()];
            Err(ImportError::TwoDescriptors { path: folder.to_owned(), names })
        }
        (name, _) => Ok(name.map(str::to_owned)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_descriptor_is_told_from_a_disk_by_its_first_character() {
        for (start, want) in [
            (b"<?xml version".as_slice(), true),
            (b"\xef\xbb\xbf\r\n <Envelope", true),
            (b"\xff\xfe<\0E\0", true),
            (b"\xfe\xff\0<\0E", true),
            (b"<!-- a comment --><Envelope/>", true),
            (b"<<< Oracle VM VirtualBox Disk Image >>>", false),
            (b"\xeb\x63\x90<", false),
            (b"\0\0<", false),
            (b"", false),
        ] {
            assert_eq!(is_descriptor(start), want, "{}", start.escape_ascii());
        }
    }
}
