//! The media types and annotations of an appliance on the wire, format version 1.
//!
//! Names only. What the documents of each type hold is said beside the code that reads them, and nothing
//! here ever decides what is accepted.
//!
//! Source: OCI image-spec 1.1, `media-types.md` (index and manifest) and `manifest.md` (`artifactType`);
//! RFC 6838 for hull's own names, in the vendor tree; `docs/formats/appliance.md`.

/// An OCI image index: what a tag names.
pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// An OCI image manifest; hull's artifact manifests are of this type too.
pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// `artifactType` of an appliance's manifest.
pub const APPLIANCE: &str = "application/vnd.hullvm.appliance.v1+json";
/// The manifest's config: [`crate::ApplianceConfig`].
pub const CONFIG: &str = "application/vnd.hullvm.appliance.config.v1+json";
/// The first layer: [`crate::Policy`].
pub const POLICY: &str = "application/vnd.hullvm.appliance.policy.v1+json";
/// One per disk: the root and the pages that say where each piece of the disk lies.
pub const DISK_INDEX: &str = "application/vnd.hullvm.disk.index.v1";
/// Independent zstd frames, end to end.
pub const DISK_PACK: &str = "application/vnd.hullvm.disk.pack.v1";
/// The OVF descriptor that the appliance came from, byte for byte.
pub const OVF: &str = "application/vnd.ovf.v1+xml";
/// UEFI variables.
pub const NVRAM: &str = "application/vnd.hullvm.nvram.v1";

/// On an index entry: the platform that the appliance's machines need, such as `linux/amd64`.
///
/// The entry's own `platform` is `unknown/unknown`, so that container tools choose another entry.
pub const ANNOTATION_PLATFORM: &str = "dev.hullvm.platform";
/// On a disk index layer: the disk's name.
pub const ANNOTATION_DISK: &str = "dev.hullvm.disk";
/// On a disk index layer: digest of the index's root, so that the root can be checked alone.
pub const ANNOTATION_ROOT_DIGEST: &str = "dev.hullvm.disk.root.digest";
/// On a disk index layer: length of the index's root in bytes, in decimal.
pub const ANNOTATION_ROOT_SIZE: &str = "dev.hullvm.disk.root.size";
