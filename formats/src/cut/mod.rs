//! Where a disk is cut into chunks.

/// How the chunks of a disk were cut: a rule's number and its version, as in the disk index.
///
/// For whoever compares two disks: chunks that were cut alike are the ones that can be equal. Readers
/// do not need it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CutRule {
    /// The rule.
    pub id: u16,
    /// Its version.
    pub version: u16,
}
