//! The suite for an appliance as a file.

use std::collections::BTreeSet;
use std::path::Path;

use crate::disk::{self, Content};
use crate::oci_layout::{Layout, OpenError};
use crate::raw_disk::{RawDisk, RawImage};
use crate::report::Report;
use crate::rules::Rule;
use crate::{image_index, manifest, packs};

/// Judges the appliance at `archive`, an OCI image-layout archive or folder, and holds its disks against
/// `raw_disks`.
///
/// # Errors
///
/// [`OpenError`] where `archive` cannot be opened at all. Everything else that may be wrong is in the report.
pub fn check(archive: &Path, raw_disks: &[RawDisk]) -> Result<Report, OpenError> {
    let mut report = Report::default();
    let layout = Layout::open(archive, &mut report)?;
    layout.check_digests(&mut report);
    let mut disks = BTreeSet::new();
    let (mut compared, mut walked, mut packs_walked) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for entry in image_index::appliances(&layout, &mut report) {
        let Some(appliance) = manifest::read(&layout, &entry, &mut report) else { continue };
        let mut used = BTreeSet::new();
        for layer in &appliance.disks {
            let raw = raw_disks.iter().find(|raw| raw.name == layer.name);
            let raw = raw.and_then(|raw| open_raw(raw, &mut report));
            let index = &layer.index.digest;
            let first = walked.insert(index.clone());
            let content = match &raw {
                Some(raw) if compared.insert((index.clone(), layer.name.clone())) => Content::Compare(raw),
                _ if first => Content::Walk,
                _ => Content::Known,
            };
            used.extend(disk::check(&layout, &appliance, layer, &content, &mut report));
            disks.insert(layer.name.clone());
        }
        for digest in appliance.packs.keys() {
            report.check(Rule::PackUse, used.contains(digest), || format!("pack {digest} is not used"));
            if let Some(pack) = layout.by_digest(digest).filter(|_| packs_walked.insert(digest.clone())) {
                packs::check_pack(pack, &format!("pack {digest}"), &mut report);
            }
        }
    }
    for raw in raw_disks.iter().filter(|raw| !disks.contains(&raw.name)) {
        report.fail(Rule::RawSize, || format!("the appliance has no disk `{}`", raw.name));
    }
    if raw_disks.is_empty() {
        report.skip(Rule::RawSize, "no raw disk was given");
        report.skip(Rule::RawContent, "no raw disk was given");
    }
    Ok(report)
}

fn open_raw(raw: &RawDisk, report: &mut Report) -> Option<RawImage> {
    let image = RawImage::open(&raw.path)
        .map_err(|error| format!("`{}` cannot be read: {error}", raw.path.display()));
    match image {
        Ok(image) => Some(image),
        Err(problem) => {
            report.fail(Rule::RawSize, || problem);
            None
        }
    }
}
