//! The checks, a file for each part of the specification.

mod catalog;
mod chunks;
mod conduct;
mod deletion;
mod errors;
mod manifest_content;
mod mounts;
mod names;
mod pulling_blobs;
mod pulling_manifests;
mod pushing_blobs;
mod pushing_manifests;
mod ranges;
mod referrers;
mod referrers_content;
mod sha512;
mod signing_in;
mod support;
mod tags;
mod uploads;

use super::check::Section;

/// The section that needs a user. Its wrong passwords may make a registry careful, so it is run when others are done.
pub(crate) const SIGNING_IN: &str = signing_in::SECTION.name;
/// The section that judges all answers.
pub(crate) const CONDUCT: &str = conduct::SECTION.name;

/// All sections, in the order in which they are reported.
pub const SECTIONS: &[Section] = &[
    support::SECTION,
    pulling_manifests::SECTION,
    pulling_blobs::SECTION,
    ranges::SECTION,
    pushing_blobs::SECTION,
    chunks::SECTION,
    uploads::SECTION,
    mounts::SECTION,
    pushing_manifests::SECTION,
    manifest_content::SECTION,
    sha512::SECTION,
    tags::SECTION,
    catalog::SECTION,
    referrers::SECTION,
    referrers_content::SECTION,
    deletion::SECTION,
    names::SECTION,
    errors::SECTION,
    signing_in::SECTION,
    conduct::SECTION,
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_check_has_a_name_of_its_own_and_says_something() {
        let checks: Vec<_> = SECTIONS.iter().flat_map(|section| section.checks).collect();
        let names: BTreeSet<_> = checks.iter().map(|check| check.name).collect();
        assert_eq!(names.len(), checks.len());
        for check in checks {
            let plain =
                check.name.bytes().all(|byte| byte.is_ascii_lowercase() || b"-0123456789".contains(&byte));
            assert!(plain && check.name.len() <= 34, "{}", check.name);
            assert!(check.says.len() > 20 && !check.says.ends_with('.'), "{}", check.says);
        }
    }
}
