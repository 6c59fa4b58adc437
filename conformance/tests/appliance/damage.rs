//! Every rule has a damage that breaks it and is named for it; whatever is damaged, there is a report.

use std::collections::BTreeSet;

use conformance::{Outcome, Report, Rule, appliance};
use proptest::prelude::*;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::sample::{
    CONFIG, DISK_INDEX, File, MANIFEST, OCI_LAYOUT, PACK, PACK_ENTRY, PAGE_ENTRIES, POLICY, Sample, TOP,
    blob_file, descriptor, patch,
};

/// A way to damage the sample, and the rule that the report must name for it.
type Damage = (Rule, &'static str, fn(&mut Sample));

fn check(archive: &[u8]) -> Report {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("appliance.tar");
    std::fs::write(&path, archive).unwrap();
    appliance::check(&path, &[]).unwrap()
}

/// Each row's damage makes its rule fail.
#[track_caller]
fn check_table(table: &[Damage]) {
    for (rule, what, damage) in table {
        let mut sample = Sample::new();
        damage(&mut sample);
        let report = check(&sample.to_archive());
        let row = report.rows().into_iter().find(|row| row.rule == *rule).unwrap();
        assert_eq!(row.outcome, Outcome::Fail, "{what}: {}\n{}", rule.name(), report.to_table());
        assert!(!row.reasons.is_empty(), "{what}");
    }
}

#[test]
fn the_undamaged_sample_breaks_no_rule() {
    let report = check(&Sample::new().to_archive());
    assert!(!report.failed(), "{}", report.to_table());
    let skipped = report.rows().into_iter().filter(|row| row.outcome == Outcome::Skip).map(|row| row.rule);
    let skipped: Vec<_> = skipped.collect();
    let expected = [Rule::ContainerDisk, Rule::OvfLayer, Rule::ContentCuts, Rule::RawSize, Rule::RawContent];
    assert_eq!(skipped, expected);
}

#[test]
fn every_rule_has_a_damage_that_breaks_it() {
    let tables = [FILES, INDEX, MANIFESTS, DOCUMENTS, ROOT, PAGES, PACKS];
    let named: BTreeSet<_> = tables.iter().flat_map(|table| table.iter().map(|(rule, ..)| *rule)).collect();
    let raw = [Rule::RawSize, Rule::RawContent]; // tested with real disks
    let missing: Vec<_> =
        Rule::ALL.iter().filter(|rule| !named.contains(rule) && !raw.contains(rule)).collect();
    assert!(missing.is_empty(), "{missing:?}");
    assert!(tables.iter().map(|table| table.len()).sum::<usize>() >= 90);
}

#[test]
fn damaged_files_are_named() {
    check_table(FILES);
}

const FILES: &[Damage] = &[
    (Rule::ArchiveFiles, "archive cut in a blob", |s| s.edit_archive = |tar| tar.truncate(tar.len() - 4096)),
    (Rule::ArchiveFiles, "header with a wrong checksum", |s| s.edit_archive = |tar| tar[0] ^= 1),
    (Rule::ArchiveFiles, "a file twice", |s| s.edit_files = |files| files.push(files[PACK].clone())),
    (Rule::ArchiveFiles, "a link", |s| s.edit_archive = |tar| make_link(tar)),
    (Rule::BlobNames, "a short name", |s| s.edit_files = |files| files[PACK].name.truncate(20)),
    (Rule::BlobNames, "a way out", |s| s.edit_files = |files| files[PACK].name = "blobs/sha256/a..b".into()),
    (Rule::BlobDigests, "a byte of the pack", |s| s.edit_files = |files| files[PACK].bytes[9000] ^= 1),
    (Rule::BlobDigests, "a byte of the manifest", |s| s.edit_files = |files| files[MANIFEST].bytes[20] ^= 1),
    (Rule::BlobDigests, "config and policy swapped", |s| s.edit_files = |files| swap(files, CONFIG, POLICY)),
    (Rule::BlobDigests, "index and pack swapped", |s| s.edit_files = |files| swap(files, DISK_INDEX, PACK)),
    (Rule::BlobsPresent, "no pack", |s| s.edit_files = |files| drop(files.remove(PACK))),
    (Rule::BlobsPresent, "no config", |s| s.edit_files = |files| drop(files.remove(CONFIG))),
    (Rule::BlobSizes, "a blob cut short", |s| s.edit_files = |files| _ = files[PACK].bytes.pop()),
    (Rule::RootDigest, "a byte of the root", |s| s.edit_files = |files| files[DISK_INDEX].bytes[10] ^= 1),
    (Rule::PageDigests, "a byte of a page", |s| s.edit_files = |files| files[DISK_INDEX].bytes[0x150] ^= 1),
    (Rule::FrameContent, "a byte of a frame", |s| s.edit_files = |files| files[PACK].bytes[9000] ^= 1),
    (Rule::Documents, "no oci-layout", |s| s.edit_files = |files| drop(files.remove(OCI_LAYOUT))),
    (Rule::Documents, "no index.json", |s| s.edit_files = |files| drop(files.remove(TOP))),
    (Rule::Documents, "index.json cut short", |s| s.edit_files = |files| _ = files[TOP].bytes.pop()),
    (Rule::Documents, "nested too deep", |s| s.edit_files = |files| files[TOP].bytes = vec![b'['; 1 << 20]),
    (Rule::Documents, "a manifest of 5 MiB", |s| s.edit_manifest = |m| m["x"] = "x".repeat(5 << 20).into()),
    (Rule::LayoutVersion, "layout 2", |s| {
        s.edit_files = |files| files[OCI_LAYOUT].bytes = br#"{"imageLayoutVersion":"2.0.0"}"#.to_vec();
    }),
    (Rule::LayoutIndex, "the manifest itself", |s| {
        s.edit_top = |top| top["manifests"][0]["mediaType"] = MANIFEST_TYPE.into()
    }),
    (Rule::LayoutIndex, "nothing named", |s| s.edit_top = |top| top["manifests"] = json!([])),
];

#[test]
fn damaged_image_indexes_are_named() {
    check_table(INDEX);
}

const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";

const INDEX: &[Damage] = &[
    (Rule::Descriptors, "no list", |s| s.edit_index = |index| index["manifests"] = json!({})),
    (Rule::Descriptors, "a path as digest", |s| {
        s.edit_index = |index| index["manifests"][0]["digest"] = "sha256:../x".into()
    }),
    (Rule::Descriptors, "a size below 0", |s| {
        s.edit_index = |index| index["manifests"][0]["size"] = (-1).into()
    }),
    (Rule::Descriptors, "a number as annotation", |s| {
        s.edit_index = |index| index["manifests"][0]["annotations"]["x"] = 1.into()
    }),
    (Rule::BlobSizes, "a wrong size", |s| s.edit_index = |index| index["manifests"][0]["size"] = 1.into()),
    (Rule::IndexKind, "docker's list", |s| {
        s.edit_index =
            |index| index["mediaType"] = "application/vnd.docker.distribution.manifest.list.v2+json".into();
    }),
    (Rule::IndexKind, "schema version 1", |s| s.edit_index = |index| index["schemaVersion"] = 1.into()),
    (Rule::IndexEntries, "no annotation", |s| {
        s.edit_index = |index| index["manifests"][0]["annotations"] = json!({})
    }),
    (Rule::IndexEntries, "an index in the index", |s| {
        s.edit_index = |index| index["manifests"][0]["mediaType"] = "x".into()
    }),
    (Rule::IndexPlatform, "a platform to run on", |s| {
        s.edit_index =
            |index| index["manifests"][0]["platform"] = json!({ "os": "linux", "architecture": "amd64" });
    }),
    (Rule::IndexPlatform, "no platform", |s| {
        s.edit_index = |index| index["manifests"][0]["platform"] = Value::Null
    }),
    (Rule::IndexAnnotation, "an unknown platform", |s| {
        s.edit_index = |index| set_platform(index, "windows/amd64")
    }),
    (Rule::IndexAnnotation, "a platform twice", |s| {
        s.edit_index = |index| index["manifests"] = json!([index["manifests"][0], index["manifests"][0]]);
    }),
    (Rule::IndexArtifactType, "another artifact", |s| {
        s.edit_index = |index| index["manifests"][0]["artifactType"] = "x".into()
    }),
    (Rule::ContainerDisk, "an image after the appliance", |s| {
        s.edit_index = |index| {
            let mut image = index["manifests"][0].clone();
            image["annotations"] = Value::Null;
            image["platform"] = json!({ "os": "linux", "architecture": "amd64" });
            index["manifests"] = json!([index["manifests"][0], image]);
        }
    }),
    (Rule::ConfigPlatform, "the other platform", |s| {
        s.edit_index = |index| set_platform(index, "linux/arm64")
    }),
];

#[test]
fn damaged_manifests_are_named() {
    check_table(MANIFESTS);
}

const MANIFESTS: &[Damage] = &[
    (Rule::ManifestKind, "another artifact type", |s| {
        s.edit_manifest = |m| m["artifactType"] = "application/x".into()
    }),
    (Rule::ManifestKind, "no media type", |s| s.edit_manifest = |m| m["mediaType"] = Value::Null),
    (Rule::ManifestConfig, "a container's config", |s| {
        s.edit_manifest = |m| m["config"]["mediaType"] = "application/vnd.oci.image.config.v1+json".into();
    }),
    (Rule::PolicyFirst, "the policy second", |s| s.edit_manifest = |m| list(m).swap(0, 1)),
    (Rule::PolicyFirst, "no policy", |s| s.edit_manifest = |m| drop(list(m).remove(0))),
    (Rule::PolicyFirst, "no layers", |s| s.edit_manifest = |m| list(m).clear()),
    (Rule::LayerTypes, "an unknown layer", |s| {
        s.edit_manifest = |m| m["layers"][2]["mediaType"] = "text/plain".into()
    }),
    (Rule::LayersOnce, "a pack twice", |s| s.edit_manifest = |m| twice(m, 2)),
    (Rule::LayersOnce, "a disk twice", |s| s.edit_manifest = |m| twice(m, 1)),
    (Rule::OvfLayer, "a policy in place of the OVF", |s| {
        s.edit_manifest = |m| {
            let mut ovf = m["layers"][0].clone();
            ovf["mediaType"] = "application/vnd.ovf.v1+xml".into();
            list(m).push(ovf);
        }
    }),
    (Rule::DiskAnnotation, "a path as name", |s| annotate(s, |a| a["dev.hullvm.disk"] = "../root".into())),
    (Rule::DiskAnnotation, "no name", |s| {
        annotate(s, |a| drop(a.as_object_mut().unwrap().remove("dev.hullvm.disk")))
    }),
    (Rule::ConfigDisks, "a disk of another name", |s| annotate(s, |a| a["dev.hullvm.disk"] = "data".into())),
    (Rule::RootAnnotations, "no digest of the root", |s| {
        annotate(s, |a| a["dev.hullvm.disk.root.digest"] = "x".into())
    }),
    (Rule::RootAnnotations, "a root longer than its index", |s| {
        annotate(s, |a| a["dev.hullvm.disk.root.size"] = "449".into())
    }),
    (Rule::RootAnnotations, "a root of 0x100 bytes", |s| {
        annotate(s, |a| a["dev.hullvm.disk.root.size"] = "0x100".into())
    }),
    (Rule::RootDigest, "the digest of another root", |s| {
        annotate(s, |a| a["dev.hullvm.disk.root.digest"] = format!("sha256:{}", "0".repeat(64)).into());
    }),
    (Rule::RootSize, "a root of another size", |s| {
        annotate(s, |a| a["dev.hullvm.disk.root.size"] = "175".into())
    }),
    (Rule::RootPackLayers, "a pack that is no layer", |s| s.edit_manifest = |m| drop(list(m).remove(2))),
    (Rule::RootPackLayers, "a pack of another size", |s| {
        s.edit_manifest = |m| m["layers"][2]["size"] = 5.into()
    }),
    (Rule::PackUse, "a pack that no disk uses", |s| {
        s.edit_manifest = |m| m["layers"][2]["digest"] = m["config"]["digest"].clone()
    }),
];

#[test]
fn damaged_configs_and_policies_are_named() {
    check_table(DOCUMENTS);
}

const DOCUMENTS: &[Damage] = &[
    (Rule::ConfigCanonical, "a line feed at the end", |s| s.config.push(b'\n')),
    (Rule::ConfigCanonical, "a space", |s| replace(&mut s.config, r#""name":"#, r#""name": "#)),
    (Rule::ConfigCanonical, "a key twice", |s| replace(&mut s.config, r#""name":"#, r#""name":"a","name":"#)),
    (Rule::ConfigCanonical, "a fraction", |s| {
        replace(&mut s.config, r#""formatVersion":1"#, r#""formatVersion":1.0"#)
    }),
    (Rule::ConfigVersion, "version 2", |s| {
        replace(&mut s.config, r#""formatVersion":1"#, r#""formatVersion":2"#)
    }),
    (Rule::ConfigVersion, "no machines", |s| s.config = br#"{"formatVersion":1,"machines":[]}"#.to_vec()),
    (Rule::ConfigDisks, "another size", |s| replace(&mut s.config, "536900584", "536900585")),
    (Rule::ConfigDisks, "a disk twice", |s| {
        let disk = r#"{"mode":"overlay","name":"root","sizeBytes":536900584}"#;
        replace(&mut s.config, disk, &format!("{disk},{disk}"));
    }),
    (Rule::ConfigFields, "a bus that nothing has", |s| {
        replace(&mut s.config, r#""mode":"overlay""#, r#""bus":"scsi","mode":"overlay""#)
    }),
    (Rule::ConfigFields, "a field that nobody knows", |s| {
        replace(&mut s.config, r#""mode":"overlay""#, r#""encryption":"none","mode":"overlay""#)
    }),
    (Rule::ConfigPlatform, "another architecture", |s| replace(&mut s.config, "amd64", "arm64")),
    (Rule::Documents, "a config that is no JSON", |s| s.config = b"\xff".to_vec()),
    (Rule::PolicyCanonical, "keys out of order", |s| {
        s.policy = br#"{"policyVersion":1,"machines":{"x":{}}}"#.to_vec()
    }),
    (Rule::PolicyCanonical, "a needless escape", |s| replace(&mut s.policy, "\"x\"", r#""\u0078""#)),
    (Rule::PolicyVersion, "version 2", |s| replace(&mut s.policy, "1", "2")),
    (Rule::PolicyVersion, "a machine that is not there", |s| replace(&mut s.policy, "\"x\"", "\"y\"")),
];

#[test]
fn damaged_roots_are_named() {
    check_table(ROOT);
}

const ROOT: &[Damage] = &[
    (Rule::RootMagic, "another magic", |s| root(s, |root| root[0] = b'H')),
    (Rule::RootMagic, "version 2", |s| root(s, |root| root[8] = 2)),
    (Rule::RootReserved, "reserved bytes in use", |s| root(s, |root| root[15] = 1)),
    (Rule::DiskSize, "an empty disk", |s| root(s, |root| patch(root, 16, &0_u64.to_le_bytes()))),
    (Rule::DiskSize, "64 TiB and a byte", |s| {
        root(s, |root| patch(root, 16, &((1_u64 << 46) + 1).to_le_bytes()))
    }),
    (Rule::PackCount, "16,385 packs", |s| root(s, |root| patch(root, 24, &16_385_u32.to_le_bytes()))),
    (Rule::PackCount, "pages and no packs", |s| {
        root(s, |root| {
            root.drain(PACK_ENTRY..PAGE_ENTRIES[0]);
            root[24] = 0;
        })
    }),
    (Rule::PackCount, "packs and no pages", |s| {
        root(s, |root| {
            root.truncate(PAGE_ENTRIES[0]);
            root[28] = 0;
        })
    }),
    (Rule::PageCount, "more pages than the disk has", |s| root(s, |root| root[28] = 4)),
    (Rule::PageCount, "2^32 - 1 pages", |s| root(s, |root| patch(root, 28, &[0xff; 4]))),
    (Rule::RootLength, "16,384 packs of which one is there", |s| {
        root(s, |root| patch(root, 24, &16_384_u32.to_le_bytes()))
    }),
    (Rule::RootLength, "31 bytes", |s| s.edit_disk_index = Box::new(|index| index.truncate(31))),
    (Rule::RootPacks, "a pack twice", |s| {
        root(s, |root| {
            let pack = root[PACK_ENTRY..PAGE_ENTRIES[0]].to_vec();
            root.splice(PACK_ENTRY..PACK_ENTRY, pack);
            root[24] = 2;
        })
    }),
    (Rule::RootPacks, "a pack of 0 bytes", |s| root(s, |root| patch(root, PACK_ENTRY + 32, &[0; 8]))),
    (Rule::RootPacks, "a pack of 2^64 - 1 bytes", |s| {
        root(s, |root| patch(root, PACK_ENTRY + 32, &[0xff; 8]))
    }),
    (Rule::PageOrder, "a page between pages", |s| root(s, |root| root[PAGE_ENTRIES[0]] = 1)),
    (Rule::PageOrder, "a page twice", |s| root(s, |root| root[PAGE_ENTRIES[1] + 2] = 1)),
    (Rule::PageOrder, "a page behind the disk", |s| root(s, |root| root[PAGE_ENTRIES[1] + 2] = 3)),
    (Rule::PageOrder, "a page at block 2^64 - 65,536", |s| {
        root(s, |root| patch(root, PAGE_ENTRIES[1] + 2, &[0xff; 6]))
    }),
    (Rule::PageOffsets, "a page that starts late", |s| root(s, |root| root[PAGE_ENTRIES[0] + 8] += 1)),
    (Rule::PageOffsets, "a page in the root", |s| root(s, |root| root[PAGE_ENTRIES[0] + 8] = 0)),
    (Rule::PageLengths, "a page of 63 bytes", |s| root(s, |root| root[PAGE_ENTRIES[0] + 16] = 63)),
    (Rule::PageLengths, "a page of 3,670,025 bytes", |s| {
        root(s, |root| patch(root, PAGE_ENTRIES[1] + 16, &3_670_025_u32.to_le_bytes()))
    }),
    (Rule::PageLengths, "a page longer than the index", |s| root(s, |root| root[PAGE_ENTRIES[1] + 16] += 1)),
    (Rule::PageDigests, "another digest", |s| root(s, |root| root[PAGE_ENTRIES[1] + 20] ^= 1)),
    (Rule::IndexEnd, "a byte after the last page", |s| s.edit_disk_index = Box::new(|index| index.push(0))),
    (Rule::IndexEnd, "a byte too few", |s| s.edit_disk_index = Box::new(|index| _ = index.pop())),
    (Rule::LastBlock, "a disk that ends earlier", |s| {
        root(s, |root| patch(root, 16, &(0x2000_7000_u64 + 10).to_le_bytes()))
    }),
    (Rule::PageBlocks, "a disk that ends a block earlier", |s| {
        root(s, |root| patch(root, 16, &0x2000_7000_u64.to_le_bytes()))
    }),
];

#[test]
fn damaged_pages_are_named() {
    check_table(PAGES);
}

/// Where the second page has its frames and its runs: chunk, zeros, chunk, chunk.
const FRAMES: [usize; 2] = [8, 24];
const RUNS: [usize; 4] = [0x28, 0x50, 0x54, 0x7c];

const PAGES: &[Damage] = &[
    (Rule::PageCounts, "no frames", |s| patch(&mut s.pages[1], 0, &[0; 4])),
    (Rule::PageCounts, "2^32 - 1 frames", |s| patch(&mut s.pages[1], 0, &[0xff; 4])),
    (Rule::PageCounts, "no runs", |s| patch(&mut s.pages[1], 4, &[0; 4])),
    (Rule::PageCounts, "more runs than blocks", |s| s.pages[1][4] = 9),
    (Rule::FrameOrder, "frames that overlap", |s| s.pages[1][FRAMES[1]] -= 1),
    (Rule::FrameOrder, "frames in disorder", |s| {
        let (first, second) = s.pages[1][8..40].split_at_mut(16);
        first.swap_with_slice(second);
    }),
    (Rule::FrameUse, "a frame that no chunk uses", |s| s.pages[1][RUNS[3] + 4] = 0),
    (Rule::FramePack, "pack 1 of 1", |s| s.pages[1][FRAMES[1] + 12] = 1),
    (Rule::FramePlace, "a frame behind its pack", |s| {
        patch(&mut s.pages[1], FRAMES[1], &30_000_u64.to_le_bytes())
    }),
    (Rule::FramePlace, "a frame at 2^64 - 1", |s| patch(&mut s.pages[1], FRAMES[1], &[0xff; 8])),
    (Rule::FrameBlocks, "a frame of no blocks", |s| s.pages[1][FRAMES[1] + 14] = 0),
    (Rule::FrameBlocks, "a frame of 257 blocks", |s| {
        patch(&mut s.pages[1], FRAMES[1] + 14, &257_u16.to_le_bytes())
    }),
    (Rule::FrameLength, "a frame of no bytes", |s| patch(&mut s.pages[1], FRAMES[1] + 8, &[0; 4])),
    (Rule::FrameLength, "a frame too long for its content", |s| {
        patch(&mut s.pages[1], FRAMES[1] + 8, &(8192_u32 + 32 + 65).to_le_bytes());
    }),
    (Rule::RunKinds, "kind 2", |s| s.pages[1][RUNS[1]] = 2),
    (Rule::RunKinds, "a run less than counted", |s| s.pages[1][4] = 5),
    (Rule::RunKinds, "a run cut short", |s| _ = s.pages[1].pop()),
    (Rule::ZeroRuns, "the reserved byte in use", |s| s.pages[1][RUNS[1] + 1] = 1),
    (Rule::ZeroRuns, "zeros after zeros", |s| {
        s.pages[0].splice(0x18..0x1c, [0, 0, 0, 0, 0, 0, 0xf8, 0xff]); // 1 and 65,529 blocks for 65,530
        s.pages[0][4] = 4;
    }),
    (Rule::ChunkBlocks, "a chunk of no blocks", |s| s.pages[1][RUNS[3] + 1] = 0),
    (Rule::ChunkBlocks, "a chunk of 65 blocks", |s| s.pages[1][RUNS[3] + 1] = 65),
    (Rule::ChunkFrame, "frame 2 of 2", |s| s.pages[1][RUNS[3] + 4] = 2),
    (Rule::ChunkFrame, "frame 2^32 - 1", |s| patch(&mut s.pages[1], RUNS[3] + 4, &[0xff; 4])),
    (Rule::ChunkPlace, "a chunk past its frame", |s| s.pages[1][RUNS[3] + 2] = 1),
    (Rule::ChunkPlace, "a chunk from block 65,535 on", |s| patch(&mut s.pages[1], RUNS[3] + 2, &[0xff; 2])),
    (Rule::PageBlocks, "a block too many", |s| s.pages[1][RUNS[1] + 2] = 1),
    (Rule::PageBlocks, "a run too few", |s| s.pages[1][4] = 3),
    (Rule::PageEnd, "a byte after the last run", |s| s.pages[1].push(0)),
    (Rule::ChunkDigests, "another digest", |s| s.pages[1][RUNS[3] + 8] ^= 1),
    (Rule::ChunkDigests, "another chunk of the frame", |s| s.pages[1][RUNS[2] + 2] = 0),
    (Rule::FrameContent, "a frame a byte longer", |s| s.pages[0][0x10] += 1),
    (Rule::FrameContent, "a frame a byte shorter", |s| s.pages[1][FRAMES[1] + 8] -= 1),
    (Rule::FrameContent, "a frame that starts late", |s| {
        s.pages[1][FRAMES[1]] += 1;
        s.pages[1][FRAMES[1] + 8] -= 1;
    }),
    (Rule::FrameContent, "a block more than the frame has", |s| s.pages[1][FRAMES[1] + 14] = 3),
    (Rule::ContentCuts, "another rule than it was cut by", |s| s.root[10] = 2),
    (Rule::ZeroBlocks, "a chunk of zeros", |s| replace_last_chunk(s, &[0; 8192])),
    (Rule::LastBlock, "content behind the disk", |s| replace_last_chunk(s, &[7; 8192])),
];

#[test]
fn damaged_packs_are_named() {
    check_table(PACKS);
}

const PACKS: &[Damage] = &[
    (Rule::PackSize, "an empty pack", |s| s.pack.clear()),
    (Rule::PackSize, "64 MiB and a byte", |s| s.pack.resize((64 << 20) + 1, 0)),
    (Rule::PackFrames, "a byte after the last frame", |s| s.pack.push(0)),
    (Rule::PackFrames, "the last frame cut short", |s| _ = s.pack.pop()),
    (Rule::PackFrames, "a skippable frame", |s| s.pack.extend([0x50, 0x2a, 0x4d, 0x18, 1, 0, 0, 0, 0])),
    (Rule::PackFrames, "another magic", |s| s.pack[0] ^= 1),
    (Rule::FrameContent, "another magic, for a reader", |s| s.pack[0] ^= 1),
    (Rule::PackFrameSizes, "no content size", |s| {
        s.pack.extend(zstd::stream::encode_all(&[0; 4096][..], 3).unwrap())
    }),
    (Rule::PackFrameSizes, "a block cut short", |s| {
        s.pack.extend(zstd::bulk::compress(&[1; 4095], 3).unwrap())
    }),
    (Rule::PackFrameSizes, "no content", |s| s.pack.extend(zstd::bulk::compress(&[], 3).unwrap())),
    (Rule::PackFrameSizes, "257 blocks", |s| {
        s.pack.extend(zstd::bulk::compress(&[1; 257 << 12], 3).unwrap())
    }),
    (Rule::PackContent, "less than it states", |s| s.pack.extend(rle_frame(4095))),
    (Rule::PackContent, "more than it states", |s| s.pack.extend(rle_frame(4097))),
];

/// A frame that states 4096 bytes of content and has one block that repeats a byte `count` times.
///
/// Source: RFC 8878, sections 3.1.1.1 (single segment, content size in two bytes less 256) and 3.1.1.2
/// (RLE, last).
fn rle_frame(count: u32) -> Vec<u8> {
    let block = (count << 3 | 1 << 1 | 1).to_le_bytes();
    [&[0x28, 0xb5, 0x2f, 0xfd, 0x60, 0x00, 0x0f][..], &block[..3], &[7]].concat()
}

/// The last chunk of the disk, 2 blocks of which 1000 bytes of the second are on the disk, becomes this.
fn replace_last_chunk(sample: &mut Sample, content: &[u8; 8192]) {
    let frame = zstd::bulk::compress(content, 3).unwrap();
    let page = &mut sample.pages[1];
    patch(page, FRAMES[1], &(sample.pack.len() as u64).to_le_bytes());
    patch(page, FRAMES[1] + 8, &(frame.len() as u32).to_le_bytes());
    patch(page, RUNS[3] + 8, &Sha256::digest(content));
    sample.pack.extend(frame);
}

fn make_link(tar: &mut [u8]) {
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(tar::EntryType::Symlink);
    header.set_path("oci-layout").unwrap();
    header.set_link_name("/etc/passwd").unwrap();
    header.set_size(0);
    header.set_cksum();
    patch(tar, 0, header.as_bytes());
    tar[512..1024].fill(0);
}

fn swap(files: &mut [File], one: usize, other: usize) {
    let bytes = std::mem::take(&mut files[one].bytes);
    files[one].bytes = std::mem::replace(&mut files[other].bytes, bytes);
}

fn set_platform(index: &mut Value, platform: &str) {
    index["manifests"][0]["annotations"]["dev.hullvm.platform"] = platform.into();
}

fn list(manifest: &mut Value) -> &mut Vec<Value> {
    manifest["layers"].as_array_mut().unwrap()
}

fn twice(manifest: &mut Value, layer: usize) {
    let copy = manifest["layers"][layer].clone();
    list(manifest).push(copy);
}

fn root(sample: &mut Sample, edit: fn(&mut Vec<u8>)) {
    sample.edit_root = Box::new(edit);
}

fn replace(text: &mut Vec<u8>, from: &str, to: &str) {
    let before = String::from_utf8(text.clone()).unwrap();
    assert!(before.contains(from), "{before}");
    *text = before.replacen(from, to, 1).into_bytes();
}

/// Edits the annotations of the disk index's layer.
fn annotate(sample: &mut Sample, edit: fn(&mut Value)) {
    sample.edit_annotations = edit;
}

#[test]
fn a_way_out_of_the_archive_is_only_a_name() {
    let mut sample = Sample::new();
    sample.edit_files = |files| files.push(File { name: "x".into(), bytes: b"x".to_vec() });
    assert!(!check(&sample.to_archive()).failed());
    sample.edit_files = |files| files.push(blob_file(b"<Envelope/>"));
    assert!(!check(&sample.to_archive()).failed());
    sample.edit_manifest = |m| {
        let ovf = descriptor("application/vnd.ovf.v1+xml", b"<Envelope/>");
        list(m).push(ovf);
    };
    assert!(!check(&sample.to_archive()).failed());
}

#[test]
fn two_tags_of_one_appliance_are_one_appliance() {
    let mut sample = Sample::new();
    let once = check(&sample.to_archive());
    sample.edit_top = |top| top["manifests"] = json!([top["manifests"][0], top["manifests"][0]]);
    let twice = check(&sample.to_archive());
    let chunks = |report: &Report| {
        report.rows().into_iter().find(|row| row.rule == Rule::ChunkDigests).map(|row| row.checked)
    };
    assert!(!twice.failed());
    assert_eq!(chunks(&once), chunks(&twice));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// Any bytes in place of some of the archive's give a report, and a failed one where a blob was hit.
    #[test]
    fn a_flipped_byte_never_goes_unseen(at in 0_usize..24_000, with in 1_u8..) {
        let sample = Sample::new();
        let mut archive = sample.to_archive();
        let pack = archive.len() - 1024 - sample.pack.len().next_multiple_of(512);
        let at = pack + at % sample.pack.len();
        archive[at] ^= with;
        prop_assert!(check(&archive).failed());
    }

    /// Any archive gives a report.
    #[test]
    fn damage_anywhere_gives_a_report(hits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..40), keep in any::<prop::sample::Index>()) {
        let mut archive = Sample::new().to_archive();
        for (at, with) in hits {
            let at = at.index(archive.len());
            archive[at] = with;
        }
        archive.truncate(keep.index(archive.len()));
        check(&archive).to_table();
    }

    /// Any root and any page, with right digests around them, give a report.
    #[test]
    fn sealed_damage_in_the_index_gives_a_report(hits in prop::collection::vec((0_usize..3, any::<prop::sample::Index>(), any::<u8>()), 1..6)) {
        let mut sample = Sample::new();
        let mut root_hits = Vec::new();
        for (part, at, with) in hits {
            match part {
                2 => root_hits.push((at, with)),
                page => {
                    let page = &mut sample.pages[page];
                    let at = at.index(page.len());
                    page[at] = with;
                }
            }
        }
        sample.edit_root = Box::new(move |root| {
            for (at, with) in &root_hits {
                let at = at.index(root.len());
                root[at] = *with;
            }
        });
        check(&sample.to_archive()).to_table();
    }
}
