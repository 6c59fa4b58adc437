//! How images are made: everything that `qemu-img` and `qemu-io` offer, chosen at random.
//!
//! Sizes are of every order from one sector to some hundred MiB and multiples of nothing but the sector; what
//! is stored in an image stays small, so that ten thousand can be made in an hour.

mod content;
mod others;
mod qcow2;
mod vmdk;

use super::SuiteError;
use super::random::Random;
use super::workshop::Workshop;

/// An image, and all files that belong to it, by their names in the workshop.
#[derive(Debug)]
pub(crate) struct Made {
    pub(crate) kind: Kind,
    /// By QEMU's name.
    pub(crate) format: &'static str,
    pub(crate) file: String,
    /// The images that it is a difference to, the nearest first, with QEMU's names of their formats.
    pub(crate) backing: Vec<(String, &'static str)>,
    /// It is cut into several files of the folder.
    pub(crate) has_parts: bool,
}

/// The kinds of images, as they are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Kind {
    /// The disk's bytes.
    Raw,
    /// One qcow2 file.
    Qcow2,
    /// A qcow2 file over one to three others, of any format.
    Qcow2Chain,
    /// VMDK monolithicSparse.
    VmdkSparse,
    /// VMDK streamOptimized.
    VmdkStream,
    /// VMDK monolithicFlat.
    VmdkFlat,
    /// VMDK twoGbMaxExtentSparse.
    VmdkSplitSparse,
    /// VMDK twoGbMaxExtentFlat.
    VmdkSplitFlat,
    /// A VMDK over another one.
    VmdkChain,
    /// VHD, fixed.
    VhdFixed,
    /// VHD, dynamic.
    VhdDynamic,
    /// VHDX, fixed.
    VhdxFixed,
    /// VHDX, dynamic.
    VhdxDynamic,
    /// VDI, preallocated.
    VdiStatic,
    /// VDI, dynamic.
    VdiDynamic,
}

/// The kinds, their names, and how many of a hundred images are of each.
const KINDS: [(Kind, &str, u64); 15] = [
    (Kind::Raw, "raw", 6),
    (Kind::Qcow2, "qcow2", 32),
    (Kind::Qcow2Chain, "qcow2-chain", 12),
    (Kind::VmdkSparse, "vmdk-sparse", 6),
    (Kind::VmdkStream, "vmdk-stream", 6),
    (Kind::VmdkFlat, "vmdk-flat", 2),
    (Kind::VmdkSplitSparse, "vmdk-split-sparse", 3),
    (Kind::VmdkSplitFlat, "vmdk-split-flat", 2),
    (Kind::VmdkChain, "vmdk-chain", 3),
    (Kind::VhdFixed, "vhd-fixed", 3),
    (Kind::VhdDynamic, "vhd-dynamic", 7),
    (Kind::VhdxFixed, "vhdx-fixed", 3),
    (Kind::VhdxDynamic, "vhdx-dynamic", 7),
    (Kind::VdiStatic, "vdi-static", 2),
    (Kind::VdiDynamic, "vdi-dynamic", 6),
];

impl Kind {
    /// Every kind, in the order of the report.
    pub const ALL: [Self; KINDS.len()] = {
        let mut all = [Self::Raw; KINDS.len()];
        let mut at = 0;
        while at < KINDS.len() {
            all[at] = KINDS[at].0;
            at += 1;
        }
        all
    };

    /// Its name, such as `vhdx-dynamic`.
    pub const fn name(self) -> &'static str {
        KINDS[self as usize].1
    }

    fn any(random: &mut Random) -> Self {
        let mut rest = random.below(KINDS.iter().map(|(.., share)| share).sum());
        for (kind, _, share) in KINDS {
            match rest.checked_sub(share) {
                Some(less) => rest = less,
                None => return kind,
            }
        }
        unreachable!("the rest is less than all shares together")
    }
}

/// Makes an image of a random kind, or of one of `only` where there are any.
pub(crate) fn make(shop: &mut Workshop, only: &[Kind], random: &mut Random) -> Result<Made, SuiteError> {
    let kind = if only.is_empty() { Kind::any(random) } else { random.choice(only) };
    match kind {
        Kind::Raw => others::raw(shop, random),
        Kind::Qcow2 => qcow2::single(shop, random),
        Kind::Qcow2Chain => qcow2::chain(shop, random),
        Kind::VmdkSparse
        | Kind::VmdkStream
        | Kind::VmdkFlat
        | Kind::VmdkSplitSparse
        | Kind::VmdkSplitFlat => vmdk::single(shop, kind, "image", random),
        Kind::VmdkChain => vmdk::chain(shop, random),
        Kind::VhdFixed | Kind::VhdDynamic => others::vhd(shop, kind, random),
        Kind::VhdxFixed | Kind::VhdxDynamic => others::vhdx(shop, kind, random),
        Kind::VdiStatic | Kind::VdiDynamic => others::vdi(shop, kind, random),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_listed_in_their_own_order_and_shares_make_a_hundred() {
        for (at, kind) in Kind::ALL.into_iter().enumerate() {
            assert_eq!(kind as usize, at);
        }
        assert_eq!(KINDS.iter().map(|(.., share)| share).sum::<u64>(), 100);
    }
}
