//! A disk image in a plain archive, with the files that belong to it: the parts of a VMDK, or the images that a qcow2 image
//! is a difference to.
//!
//! Which image is meant must be beyond doubt. It is the one VMDK descriptor file, or else the one image that no other
//! names as its backing file; and no image may be left that it does not use. A raw disk looks like anything, and so is
//! taken only where it is the whole archive, or where an image names it. Names from inside are compared with those of the
//! members in the image's own folder, and never used as paths.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::io;

use formats::image::{self as images, Format, Parts, Refusal, Source};
use formats::tar::{Member, Members};

use super::draft::{Draft, DraftImage, NamedSource};
use super::notice::{MAX_EXAMPLES, Notice, What};
use super::{Import, ImportError, ImportRequest, Kind, image};

/// What raw disks are a multiple of.
const SECTOR: u64 = 512;

/// A member that is a disk image, or a part of one.
#[derive(Debug)]
struct Found {
    format: Format,
    is_descriptor: bool,
    /// The member that it would be a difference to, if that is there.
    backing: Option<String>,
}

/// A machine with the one disk that is in the archive `name`; `None` where no member is a disk image.
pub(super) fn import(
    members: &Members,
    name: &str,
    request: &ImportRequest<'_>,
) -> Result<Option<Import>, ImportError> {
    let found = find(members)?;
    if found.is_empty() {
        return Ok(None);
    }
    let in_doubt = || {
        let images = found.keys().take(MAX_EXAMPLES).map(|image| (*image).to_owned()).collect();
        ImportError::NotOneImage { name: name.to_owned(), images }
    };
    let top = top(&found).ok_or_else(in_doubt)?;
    let chain = chain(top, members, &found);
    let layers = chain
        .iter()
        .map(|member| NamedSource { source: members.source(member), name: member.name.clone() })
        .collect();
    let used = chain.iter().map(|member| member.name.clone()).collect();
    let beside = Beside { members, folder: folder(top), used: RefCell::new(used) };

    let format = found[top].format;
    let mut draft = Draft::new(Kind::ArchivedImage(format), &request.default_name(), request);
    let image = DraftImage { layers, format: Some(format), said_bytes: None };
    draft.machines.push(image::alone(&draft.name, image, image::devices(format)));
    let mut imported = draft.open(request, Some(&beside))?;

    let used = beside.used.into_inner();
    if found.keys().any(|image| !used.contains(*image)) {
        return Err(in_doubt());
    }
    let names: Vec<_> =
        members.iter().map(|member| &member.name).filter(|name| !used.contains(*name)).cloned().collect();
    if !names.is_empty() {
        imported.notices.push(Notice { machine: None, what: What::FilesLeftOut { names } });
    }
    Ok(Some(imported))
}

/// The members that are disk images by their content, by their names.
fn find(members: &Members) -> Result<BTreeMap<&str, Found>, ImportError> {
    let mut found = BTreeMap::new();
    let is_alone = members.iter().nth(1).is_none();
    for member in members.iter() {
        let failed = |reason| ImportError::image(&member.name, reason);
        let source = members.source(member);
        let format = match images::detect(&source) {
            Ok(Format::Raw) if !is_alone || !is_raw_disk(&source) => continue,
            Ok(format) => format,
            Err(reason @ Refusal::Io { .. }) => return Err(failed(reason)),
            Err(_) => continue,
        };
        let is_descriptor = format == Format::Vmdk && images::is_vmdk_descriptor(&source).map_err(failed)?;
        let backing = match format {
            Format::Qcow2 => images::declared_backing(&source).map_err(failed)?,
            _ => None,
        };
        let backing = backing.map(|backing| format!("{}{backing}", folder(&member.name)));
        found.insert(&*member.name, Found { format, is_descriptor, backing });
    }
    Ok(found)
}

fn is_raw_disk(source: &Source) -> bool {
    source.size_bytes() != 0 && source.size_bytes().is_multiple_of(SECTOR)
}

/// The one image that all others may belong to.
fn top<'a>(found: &BTreeMap<&'a str, Found>) -> Option<&'a str> {
    let only = |mut names: Vec<&'a str>| if names.len() == 1 { names.pop() } else { None };
    let descriptors: Vec<_> =
        found.iter().filter(|(_, image)| image.is_descriptor).map(|(name, _)| *name).collect();
    if !descriptors.is_empty() {
        return only(descriptors);
    }
    let named: BTreeSet<_> = found.values().filter_map(|image| image.backing.as_deref()).collect();
    only(found.keys().copied().filter(|name| !named.contains(name)).collect())
}

/// The image `top` and those that it is a difference to, as far as they are there. Ends where one comes again.
fn chain<'a>(top: &str, members: &'a Members, found: &BTreeMap<&str, Found>) -> Vec<&'a Member> {
    let mut chain = Vec::new();
    let mut seen = BTreeSet::new();
    let mut next = Some(top);
    while let Some(member) = next.and_then(|name| members.get(name)) {
        if !seen.insert(&member.name) {
            break;
        }
        chain.push(member);
        next = found.get(&*member.name).and_then(|image| image.backing.as_deref());
    }
    chain
}

/// The folders of a name, with the slash behind them.
fn folder(name: &str) -> &str {
    &name[..name.rfind('/').map_or(0, |slash| slash + 1)]
}

/// The members in an image's folder, and which of them have been used.
#[derive(Debug)]
struct Beside<'a> {
    members: &'a Members,
    folder: &'a str,
    used: RefCell<BTreeSet<String>>,
}

impl Parts for Beside<'_> {
    fn part(&self, name: &str) -> io::Result<Option<Source>> {
        let Some(member) = self.members.get(&format!("{}{name}", self.folder)) else { return Ok(None) };
        self.used.borrow_mut().insert(member.name.clone());
        Ok(Some(self.members.source(member)))
    }
}
