//! What a tag names: the image index, and which of its entries are appliances.
//!
//! Tools that copy an index rewrite it, so of an entry only `platform` and the annotation must be there.
//!
//! Source: docs/formats/appliance.md; image-spec 1.1, "OCI Image Index Specification".

use std::collections::BTreeSet;

use serde_json::Value;

use crate::descriptor::Descriptor;
use crate::manifest::APPLIANCE;
use crate::oci_layout::Layout;
use crate::report::Report;
use crate::rules::Rule;

/// Media type of an image index.
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// Media type of a manifest.
pub(crate) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// On an entry: the platform that the machines need.
const PLATFORM: &str = "dev.hullvm.platform";
/// The platforms that there are.
const PLATFORMS: [&str; 2] = ["linux/amd64", "linux/arm64"];
/// The layer of a container disk.
const TAR_ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";

/// An entry of the index that is an appliance.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) manifest: Descriptor,
    /// Such as `linux/amd64`.
    pub(crate) platform: String,
}

/// Follows `index.json` to the image indexes and returns the appliances in them.
pub(crate) fn appliances(layout: &Layout, report: &mut Report) -> Vec<Entry> {
    if let Some(version) = layout.file("oci-layout", report) {
        let version = &version["imageLayoutVersion"];
        report.check(Rule::LayoutVersion, version == "1.0.0", || format!("it says {version}"));
    }
    let Some(top) = layout.file("index.json", report) else { return Vec::new() };
    let right = top["schemaVersion"] == 2 && (top["mediaType"].is_null() || top["mediaType"] == INDEX);
    report.check(Rule::LayoutIndex, right, || "`index.json` is no image index".to_owned());
    let mut found = Vec::new();
    let mut indexes = BTreeSet::new();
    for descriptor in descriptors(&top["manifests"], "index.json", report) {
        if descriptor.media_type != INDEX {
            report.fail(Rule::LayoutIndex, || {
                format!("`index.json` names a blob of type `{}`, not an image index", descriptor.media_type)
            });
            continue;
        }
        report.check(Rule::LayoutIndex, true, String::new);
        if !indexes.insert(descriptor.digest.clone()) {
            continue; // two tags of one appliance
        }
        if let Some((_, index)) = layout.document(&descriptor, "image index", report) {
            found.extend(entries(layout, &index, report));
        }
    }
    if indexes.is_empty() {
        report.fail(Rule::LayoutIndex, || "`index.json` names no image index".to_owned());
    }
    found
}

/// The appliances of one image index.
fn entries(layout: &Layout, index: &Value, report: &mut Report) -> Vec<Entry> {
    let right = index["schemaVersion"] == 2 && index["mediaType"] == INDEX;
    report.check(Rule::IndexKind, right, || {
        format!("schema version {}, type {}", index["schemaVersion"], index["mediaType"])
    });
    let mut found = Vec::new();
    let mut appliances = 0;
    let mut platforms = BTreeSet::new();
    for (position, entry) in descriptors(&index["manifests"], "image index", report).into_iter().enumerate() {
        let what = format!("entry {position} of the image index");
        let manifest = report.check(Rule::IndexEntries, entry.media_type == MANIFEST, || {
            format!("{what} is of type `{}`", entry.media_type)
        });
        match entry.annotations.get(PLATFORM) {
            _ if !manifest => {}
            Some(platform) => {
                let known = PLATFORMS.contains(&platform.as_str()) && platforms.insert(platform.clone());
                report.check(Rule::IndexAnnotation, known, || {
                    format!("{what} is for `{platform}`, which is unknown or there already")
                });
                check_appliance_entry(&entry, &what, report);
                appliances += 1;
                if known {
                    found.push(Entry { platform: platform.clone(), manifest: entry });
                }
            }
            None => check_container(layout, &entry, &what, appliances == 0, report),
        }
    }
    if appliances == 0 {
        report.fail(Rule::IndexEntries, || format!("no entry has the annotation `{PLATFORM}`: no appliance"));
    }
    found
}

fn check_appliance_entry(entry: &Descriptor, what: &str, report: &mut Report) {
    let platform = entry.platform.as_deref();
    report.check(Rule::IndexPlatform, platform == Some("unknown/unknown"), || {
        format!("{what} has platform {}; container tools would take it", platform.unwrap_or("of no kind"))
    });
    if let Some(kind) = &entry.artifact_type {
        report.check(Rule::IndexArtifactType, kind == APPLIANCE, || format!("{what} is a `{kind}`"));
    } else {
        report.skip(Rule::IndexArtifactType, "the entries have none: a tool has rewritten the index");
    }
}

/// An entry without the annotation: an ordinary image, for tools that boot container disks.
fn check_container(layout: &Layout, entry: &Descriptor, what: &str, first: bool, report: &mut Report) {
    let linux = entry.platform.as_deref().is_some_and(|platform| platform.starts_with("linux/"));
    report.check(Rule::ContainerDisk, first && linux, || {
        format!("{what} has no `{PLATFORM}`, so it is a container image; these are for linux and come first")
    });
    let Some((_, manifest)) = layout.document(entry, what, report) else { return };
    let layers = descriptors(&manifest["layers"], what, report);
    for layer in &layers {
        layout.blob(layer, what, report);
    }
    let one = matches!(&layers[..], [layer] if layer.media_type == TAR_ZSTD);
    report.check(Rule::ContainerDisk, one, || {
        let kinds: Vec<_> = layers.iter().map(|layer| layer.media_type.as_str()).collect();
        format!("{what} has the layers {kinds:?}")
    });
}

/// The descriptors in a JSON list; what is none goes to the report.
pub(crate) fn descriptors(list: &Value, what: &str, report: &mut Report) -> Vec<Descriptor> {
    let Some(items) = list.as_array() else {
        report.fail(Rule::Descriptors, || format!("{what} has no list of descriptors"));
        return Vec::new();
    };
    let parse = |(position, item): (usize, &Value)| {
        let parsed = Descriptor::parse(item);
        report.accept(
            Rule::Descriptors,
            parsed.map_err(|problem| format!("{what}, number {position}: {problem}")),
        )
    };
    items.iter().enumerate().filter_map(parse).collect()
}
