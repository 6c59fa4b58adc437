//! The appliance's manifest with its config and policy.
//!
//! Source: docs/formats/appliance.md; image-spec 1.1, "OCI Image Manifest Specification"; disk-index, "Index" (annotations
//! of the root).

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::canonical_json;
use crate::config::{self, is_name};
use crate::descriptor::{Descriptor, Digest};
use crate::image_index::{Entry, MANIFEST, descriptors};
use crate::oci_layout::{Blob, Layout, MAX_DOCUMENT_BYTES};
use crate::report::Report;
use crate::rules::Rule;

/// `artifactType` of an appliance's manifest.
pub(crate) const APPLIANCE: &str = "application/vnd.hullvm.appliance.v1+json";
const CONFIG: &str = "application/vnd.hullvm.appliance.config.v1+json";
const POLICY: &str = "application/vnd.hullvm.appliance.policy.v1+json";
const DISK_INDEX: &str = "application/vnd.hullvm.disk.index.v1";
const DISK_PACK: &str = "application/vnd.hullvm.disk.pack.v1";
const OVF: &str = "application/vnd.ovf.v1+xml";
const NVRAM: &str = "application/vnd.hullvm.nvram.v1";

/// What an appliance's manifest leads to.
#[derive(Debug, Default)]
pub(crate) struct Appliance {
    pub(crate) disks: Vec<DiskLayer>,
    /// Sizes as the descriptors have them.
    pub(crate) packs: BTreeMap<Digest, u64>,
    /// The disks of the config, with their sizes in bytes.
    pub(crate) config_disks: BTreeMap<String, u64>,
}

/// A disk's index.
#[derive(Debug)]
pub(crate) struct DiskLayer {
    pub(crate) name: String,
    pub(crate) index: Descriptor,
    /// From the annotations, where they are right.
    pub(crate) root_digest: Option<Digest>,
    pub(crate) root_bytes: Option<u64>,
}

/// Reads the manifest of `entry`, with config and policy, and checks that all its blobs are there.
pub(crate) fn read(layout: &Layout, entry: &Entry, report: &mut Report) -> Option<Appliance> {
    let (_, manifest) = layout.document(&entry.manifest, "manifest", report)?;
    let kind = [&manifest["mediaType"], &manifest["artifactType"]];
    let right = manifest["schemaVersion"] == 2 && kind == [MANIFEST, APPLIANCE];
    report.check(Rule::ManifestKind, right, || {
        format!("schema version {}, type {}, artifact type {}", manifest["schemaVersion"], kind[0], kind[1])
    });

    let mut appliance = Appliance::default();
    let mut policy = None;
    let mut kinds = BTreeSet::new();
    for (position, layer) in descriptors(&manifest["layers"], "layers", report).into_iter().enumerate() {
        let what = format!("layer {position}");
        let blob = layout.blob(&layer, &what, report);
        let kind = layer.media_type.as_str();
        report
            .check(Rule::PolicyFirst, (position == 0) == (kind == POLICY), || format!("{what} is `{kind}`"));
        let once = !matches!(kind, OVF | NVRAM) || kinds.insert(kind.to_owned());
        let known = [POLICY, DISK_INDEX, DISK_PACK, OVF, NVRAM].contains(&kind);
        report.check(Rule::LayerTypes, known && once, || format!("{what} is `{kind}`"));
        match kind {
            POLICY => policy = policy.or(Some(layer)),
            OVF => blob.into_iter().for_each(|blob| check_ovf(blob, &what, report)),
            DISK_INDEX => appliance.disks.extend(disk_layer(layer, &what, report)),
            DISK_PACK => {
                let first = appliance.packs.insert(layer.digest, layer.size_bytes).is_none();
                report.check(Rule::LayersOnce, first, || format!("{what} is a pack that is listed before"));
            }
            _ => {}
        }
    }
    if policy.is_none() {
        report.fail(Rule::PolicyFirst, || "there is no policy".to_owned());
    }
    let machines = read_config(layout, &manifest, &entry.platform, &mut appliance, report);
    if let Some(policy) = policy {
        check_policy(layout, &policy, machines.as_ref(), report);
    }
    check_disk_names(&appliance, report);
    Some(appliance)
}

fn disk_layer(layer: Descriptor, what: &str, report: &mut Report) -> Option<DiskLayer> {
    let annotation = |key: &str| layer.annotations.get(key).cloned();
    let root_digest = annotation("dev.hullvm.disk.root.digest").and_then(|digest| Digest::parse(&digest));
    report.check(Rule::RootAnnotations, root_digest.is_some(), || {
        format!("{what}: no digest in `dev.hullvm.disk.root.digest`")
    });
    let root_bytes = annotation("dev.hullvm.disk.root.size")
        .filter(|size| size.bytes().all(|c| c.is_ascii_digit()) && !size.starts_with('0'))
        .and_then(|size| size.parse().ok())
        .filter(|size| *size <= layer.size_bytes);
    report.check(Rule::RootAnnotations, root_bytes.is_some(), || {
        format!("{what}: no size inside the index in `dev.hullvm.disk.root.size`")
    });
    let name = annotation("dev.hullvm.disk");
    let named = name.as_deref().is_some_and(is_name);
    report.check(Rule::DiskAnnotation, named, || format!("{what}: `{}`", name.as_deref().unwrap_or("")));
    Some(DiskLayer { name: name?, index: layer, root_digest, root_bytes })
}

fn check_ovf(blob: &Blob, what: &str, report: &mut Report) {
    let fits = report.check(Rule::OvfLayer, blob.size_bytes <= MAX_DOCUMENT_BYTES, || {
        format!("{what} has {} bytes", blob.size_bytes)
    });
    if !fits {
        return;
    }
    let bytes = blob.read(0, blob.size_bytes as usize).map_err(|error| format!("cannot be read: {error}"));
    let checked = bytes.and_then(|bytes| config::check_ovf(&bytes));
    report.accept(Rule::OvfLayer, checked.map_err(|problem| format!("{what} {problem}")));
}

/// Reads the config and returns the names of its machines.
fn read_config(
    layout: &Layout,
    manifest: &Value,
    platform: &str,
    appliance: &mut Appliance,
    report: &mut Report,
) -> Option<BTreeSet<String>> {
    let parsed = Descriptor::parse(&manifest["config"]);
    let descriptor =
        report.accept(Rule::Descriptors, parsed.map_err(|problem| format!("config: {problem}")))?;
    report.check(Rule::ManifestConfig, descriptor.media_type == CONFIG, || {
        format!("the config is `{}`", descriptor.media_type)
    });
    let (bytes, config) = layout.document(&descriptor, "config", report)?;
    report.accept(Rule::ConfigCanonical, canonical_json::check(&bytes, &config));
    let machines = config["machines"].as_array().filter(|machines| !machines.is_empty());
    report.check(Rule::ConfigVersion, config["formatVersion"] == 1 && machines.is_some(), || {
        format!("format version {}, {} machines", config["formatVersion"], machines.map_or(0, Vec::len))
    });
    config::check(&config, report);
    let mut names = BTreeSet::new();
    for machine in machines? {
        let arch = machine["arch"].as_str().unwrap_or("");
        report.check(Rule::ConfigPlatform, platform == format!("linux/{arch}"), || {
            format!("a machine is for `{arch}`, the index entry for `{platform}`")
        });
        names.extend(machine["name"].as_str().map(str::to_owned));
        for disk in machine["disks"].as_array().into_iter().flatten() {
            let found = disk["name"].as_str().zip(disk["sizeBytes"].as_u64());
            let added = found
                .map(|(name, size)| appliance.config_disks.insert(name.to_owned(), size))
                .is_some_and(|earlier| earlier.is_none());
            report.check(Rule::ConfigDisks, added, || format!("not a disk, or one of a used name: {disk}"));
        }
    }
    Some(names)
}

fn check_policy(
    layout: &Layout,
    descriptor: &Descriptor,
    machines: Option<&BTreeSet<String>>,
    report: &mut Report,
) {
    let Some((bytes, policy)) = layout.document(descriptor, "policy", report) else { return };
    report.accept(Rule::PolicyCanonical, canonical_json::check(&bytes, &policy));
    report.check(Rule::PolicyVersion, policy["policyVersion"] == 1, || {
        format!("policy version {}", policy["policyVersion"])
    });
    let Some(machines) = machines else { return };
    for name in policy["machines"].as_object().into_iter().flat_map(|all| all.keys()) {
        report.check(Rule::PolicyVersion, machines.contains(name), || format!("no machine `{name}`"));
    }
}

/// One disk index per disk of the config, and the other way round.
fn check_disk_names(appliance: &Appliance, report: &mut Report) {
    let mut indexed = BTreeSet::new();
    for disk in &appliance.disks {
        let (name, first) = (&disk.name, indexed.insert(&disk.name));
        report.check(Rule::LayersOnce, first, || format!("two disk indexes are for `{name}`"));
        let known = appliance.config_disks.contains_key(name);
        report.check(Rule::ConfigDisks, known, || format!("the config has no disk `{name}`"));
    }
    for name in appliance.config_disks.keys() {
        report.check(Rule::ConfigDisks, indexed.contains(name), || {
            format!("there is no index of disk `{name}`")
        });
    }
}
