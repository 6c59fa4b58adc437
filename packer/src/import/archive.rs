//! Archives: what is in one is told by its members, and each kind is read by the module that knows it.

use formats::image::Source;
use formats::ovf::Package;
use formats::tar::{Members, TarError};

use super::notice::MAX_EXAMPLES;
use super::{Import, ImportError, ImportRequest, Kind, archived_image, container, ovf, vagrant};

/// The largest document in an archive that is read whole.
const MAX_DOCUMENT_BYTES: u64 = 4 << 20;

/// Whether a file that begins with `start` is a tar archive.
pub(super) fn is_tar(start: &[u8]) -> bool {
    start.get(257..262) == Some(b"ustar")
}

/// What is in the archive in `source`.
pub(super) fn import(
    source: &Source,
    name: &str,
    request: &ImportRequest<'_>,
) -> Result<Import, ImportError> {
    if let Some(members) = saved_by_docker(source) {
        return container::of_archive(&members, request);
    }
    let members =
        Members::read(source).map_err(|source| ImportError::Archive { name: name.to_owned(), source })?;
    if members.get(vagrant::METADATA).is_some() {
        return vagrant::import(source, &members, request);
    }
    if container::is_archive(&members) {
        return container::of_archive(&members, request);
    }
    if members.iter().any(|member| member.name.to_ascii_lowercase().ends_with(".ovf")) {
        return ovf::import(&Package::from_archive(source)?, Kind::Ova, request);
    }
    if let Some(imported) = archived_image::import(&members, name, request)? {
        return Ok(imported);
    }
    let members = members.iter().take(MAX_EXAMPLES).map(|member| member.name.clone()).collect();
    Err(ImportError::UnknownArchive { name: name.to_owned(), members })
}

/// The members of what `docker save` or skopeo wrote, where links stand beside the layers that they lead to; `None` for
/// anything else.
fn saved_by_docker(source: &Source) -> Option<Members> {
    let is_refused = matches!(Members::read(source), Err(TarError::Refused { .. }));
    let members = is_refused.then(|| Members::read_past_links(source).ok()).flatten()?;
    container::is_saved_by_docker(&members).then_some(members)
}

/// The content of a small member; `None` where it is not there.
pub(super) fn small(members: &Members, name: &str) -> Result<Option<Vec<u8>>, ImportError> {
    let Some(member) = members.get(name) else { return Ok(None) };
    read_whole(&members.source(member), name).map(Some)
}

/// The whole content of a small document that is called `name`.
pub(super) fn read_whole(source: &Source, name: &str) -> Result<Vec<u8>, ImportError> {
    let (found, most) = (source.size_bytes(), MAX_DOCUMENT_BYTES);
    if found > most {
        return Err(ImportError::LongDocument { name: name.to_owned(), found, most });
    }
    let mut content = vec![0; found as usize];
    let read = source.read_exact_at(&mut content, 0);
    read.map_err(|source| ImportError::Member { name: name.to_owned(), source })?;
    Ok(content)
}
