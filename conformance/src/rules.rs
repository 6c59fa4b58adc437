//! The catalogue: every rule that an appliance is held against, and where it is written.
//!
//! `appliance` is `docs/formats/appliance.md`, by section; `disk-index` is
//! `docs/formats/disk-index.md`; `image-layout`, `image-index`, `manifest` and `descriptor` are documents
//! of the OCI image specification 1.1.

/// Declares the rules in the order of the report: variant, name, section, and what must be.
macro_rules! catalogue {
    ($($rule:ident, $name:literal, $section:literal, $must:literal;)*) => {
        /// One thing that must be true of an appliance.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[non_exhaustive]
        pub enum Rule {
            $(#[doc = $must] $rule,)*
        }

        impl Rule {
            /// Every rule, in the order of the report.
            pub const ALL: &[Self] = &[$(Self::$rule,)*];

            /// Its name in the report, such as `root-magic`.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$rule => $name,)* }
            }

            /// The document and section that demand it.
            pub const fn section(self) -> &'static str {
                match self { $(Self::$rule => $section,)* }
            }

            /// What must be, in a sentence.
            pub const fn must(self) -> &'static str {
                match self { $(Self::$rule => $must,)* }
            }
        }
    };
}

catalogue! {
    // The file as such.
    ArchiveFiles, "archive-files", "image-layout", "plain files and folders, each whole, none twice";
    LayoutVersion, "layout-version", "image-layout, oci-layout", "`imageLayoutVersion` is 1.0.0";
    LayoutIndex, "layout-index", "image-layout, index.json", "`index.json` is an image index and names an image index";
    BlobNames, "blob-names", "image-layout, blobs", "blobs are called `blobs/ALGORITHM/HEX`";
    BlobDigests, "blob-digests", "image-layout, blobs", "each blob has the digest that is its name";
    BlobsPresent, "blobs-present", "descriptor", "each blob that is named is there";
    BlobSizes, "blob-sizes", "descriptor", "each blob has the size that its descriptor says";
    Documents, "json-documents", "image-index, manifest", "indexes, manifests, config and policy are JSON of at most 4 MiB";
    Descriptors, "descriptors", "descriptor", "each has a media type, a digest and a size";

    // What a tag names.
    IndexKind, "index-kind", "appliance 2", "schema version 2, of the media type of an image index";
    IndexEntries, "index-entries", "appliance 2", "at least one appliance; nothing but appliances and container images";
    IndexPlatform, "index-platform", "appliance 2", "an appliance's `platform` is unknown/unknown";
    IndexAnnotation, "index-annotation", "appliance 2", "`dev.hullvm.platform` is linux/amd64 or linux/arm64, each once";
    IndexArtifactType, "index-artifact-type", "appliance 2", "an entry's `artifactType`, if any, is the appliance's";
    ContainerDisk, "container-disk", "appliance 2", "a container image comes first, is for linux, and has one tar+zstd layer";

    // The manifest.
    ManifestKind, "manifest-kind", "appliance 3", "schema version 2, an image manifest with the appliance's `artifactType`";
    ManifestConfig, "manifest-config", "appliance 3", "the config has the media type of an appliance's";
    PolicyFirst, "policy-first", "appliance 3", "the first layer is the policy, and no other";
    LayerTypes, "layer-types", "appliance 3", "layers are policy, disk indexes, packs, OVF or NVRAM, the last two at most once";
    OvfLayer, "ovf-layer", "appliance 1", "the OVF is at most 4 MiB of XML in UTF-8 or UTF-16, an envelope, without a document type";
    LayersOnce, "layers-once", "appliance 3", "no pack is listed twice, and no two disk indexes are for one disk";
    DiskAnnotation, "disk-annotation", "appliance 3", "`dev.hullvm.disk` is a name of 1 to 63 lower-case letters, digits and `-`";
    RootAnnotations, "root-annotations", "disk-index, Index", "`dev.hullvm.disk.root.digest` and `.size` are a digest and a size";

    // Config and policy.
    ConfigCanonical, "config-canonical", "appliance 4", "canonical JSON: sorted keys, no white space, integers only";
    ConfigVersion, "config-version", "appliance 4", "format version 1 with at least one machine";
    ConfigFields, "config-fields", "appliance 4", "the documented fields, each with a value that it may have, and no others";
    ConfigDisks, "config-disks", "appliance 3", "one disk index per disk of the config, of the same size";
    ConfigPlatform, "config-platform", "appliance 2", "the machines' architecture is the one that the index names";
    PolicyCanonical, "policy-canonical", "appliance 5", "canonical JSON: sorted keys, no white space, integers only";
    PolicyVersion, "policy-version", "appliance 5", "policy version 1, for machines of the config";

    // The root of a disk index.
    RootDigest, "root-digest", "disk-index, Index", "the root has the digest in the layer's annotation";
    RootSize, "root-size", "disk-index, Index", "the root has the size in the layer's annotation";
    RootMagic, "root-magic", "disk-index, Root", "begins with `hulldisk`, version 1";
    RootReserved, "root-reserved", "disk-index, Root", "the reserved bytes are 0";
    DiskSize, "disk-size", "disk-index, Root", "1 to 2^46 bytes";
    PackCount, "pack-count", "disk-index, Root", "at most 16,384; 0 exactly if there are no pages";
    PageCount, "page-count", "disk-index, Root", "at most the pages that the disk has";
    RootLength, "root-length", "disk-index, Root", "the root is all there";
    RootPacks, "root-packs", "disk-index, Root", "no pack twice, each of 1 to 67,108,864 bytes";
    RootPackLayers, "root-pack-layers", "appliance 3", "each pack of a root is a layer of the manifest, with that size";
    PageOrder, "page-order", "disk-index, Root", "first blocks are multiples of 65,536, on the disk, ascending";
    PageOffsets, "page-offsets", "disk-index, Root", "each page starts where the one before, or the root, ends";
    PageLengths, "page-lengths", "disk-index, Root", "64 to 3,670,024 bytes, inside the index";
    PageDigests, "page-digests", "disk-index, Root", "each page has its digest";
    IndexEnd, "index-end", "disk-index, Index", "the index ends where its last page ends";

    // Its pages.
    PageCounts, "page-counts", "disk-index, Page", "1 frame and 1 run at least, at most one of each per block";
    FrameOrder, "frame-order", "disk-index, Page", "frames ascend by pack, then by offset, without overlap";
    FrameUse, "frame-use", "disk-index, Page", "each frame is used by a chunk";
    FramePack, "frame-pack", "disk-index, Page", "a number of the root's list";
    FramePlace, "frame-place", "disk-index, Page", "the frame lies inside its pack";
    FrameBlocks, "frame-blocks", "disk-index, Page", "1 to 256 blocks of content";
    FrameLength, "frame-length", "disk-index, Page", "1 to c + c/256 + 64 bytes for c bytes of content";
    RunKinds, "run-kinds", "disk-index, Page", "a run is of kind 0 or 1, and all there";
    ZeroRuns, "zero-runs", "disk-index, Page", "the reserved byte is 0; no zero run follows another";
    ChunkBlocks, "chunk-blocks", "disk-index, Page", "1 to 64 blocks";
    ChunkFrame, "chunk-frame", "disk-index, Page", "a number of the page's list of frames";
    ChunkPlace, "chunk-place", "disk-index, Page", "a chunk ends inside its frame's content";
    PageBlocks, "page-blocks", "disk-index, Page", "the runs have exactly the page's blocks";
    PageEnd, "page-end", "disk-index, Page", "the page ends after its last run";

    // The content.
    FrameContent, "frame-content", "disk-index, Reading 3", "one zstd frame of the given length, states and has the promised content size";
    ChunkDigests, "chunk-digests", "disk-index, Reading 4", "each chunk has its digest";
    LastBlock, "last-block", "disk-index, Words", "after the disk's end, its last block goes on with zeros";
    ZeroBlocks, "cut-zero-blocks", "disk-index, Where chunks are cut", "rules 1 and 2: no chunk holds a zero block";
    ContentCuts, "cut-by-content", "disk-index, Where chunks are cut", "rule 2: chunks end where the hash says, and nowhere else";

    // Packs.
    PackSize, "pack-size", "disk-index, Words", "1 byte to 64 MiB";
    PackFrames, "pack-frames", "disk-index, Words", "zstd frames end to end and nothing else";
    PackFrameSizes, "pack-frame-sizes", "disk-index, Words", "each frame carries its content size, 1 to 256 blocks";
    PackContent, "pack-content", "disk-index, Words", "`zstd -d` reads the pack";
    PackUse, "pack-use", "appliance 3", "each pack layer is used by a disk";

    // Against the disk it was made of.
    RawSize, "raw-size", "disk-index, Root", "the disk has the raw disk's size, up to a whole sector of 512 bytes";
    RawContent, "raw-content", "disk-index, Reading", "the disk reads as the raw disk";
}
