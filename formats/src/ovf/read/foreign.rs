//! Sections that are not understood: kept as they stand, or refused where they must be understood.
//!
//! Source: DSP0243 1.1.0, 7.1 and 2.1.1, 7.1 ("ovf:required").

use super::super::error::quoted;
use super::super::model::{ForeignSection, NamespaceBinding};
use super::super::names;
use super::super::xml::Element;
use super::{Doubt, OvfError, Reading, attribute, boolean, section_name};

const MOST_SECTIONS: usize = 1024;

/// Sections that writers require to be understood, and that say nothing of the machine itself.
const HARMLESS: [(&str, &str, &str); 14] = [
    (names::VMW, "StorageSection", "it names a storage policy of the host"),
    (names::VMW, "StorageGroupSection", "it names a storage policy of the host"),
    (names::VMW, "TagBasedPlacementSection", "it says which host to choose"),
    (names::VMW, "TagBasedPlacementGroupSection", "it says which host to choose"),
    (names::VMW, "PlacementSection", "it says which host to choose"),
    (names::VMW, "PlacementGroupSection", "it says which host to choose"),
    (names::VMW, "BootOrderSection", "it says which drive to try first"),
    (names::VMW, "IpAssignmentSection", "it says how the host may give addresses"),
    (names::VBOX, "Machine", "it repeats the machine in VirtualBox's own words"),
    (names::ENVELOPE, "InstallSection", "it says that the guest installs itself at its first start"),
    (names::ENVELOPE, "BootDeviceSection", "it says which drive to try first"),
    (names::ENVELOPE, "PlacementSection", "it says which host to choose"),
    (names::ENVELOPE, "PlacementGroupSection", "it says which host to choose"),
    (names::ENVELOPE, "ResourceAllocationSection", "it limits what the host gives"),
];

impl Reading {
    /// Keeps a section that is not understood.
    pub(super) fn keep(
        &mut self,
        element: &Element<'_>,
        kept: &mut Vec<ForeignSection>,
    ) -> Result<(), OvfError> {
        let name = match section_name(element) {
            name if name.is_empty() => element.name().to_owned(),
            name => name.into_owned(),
        };
        // oVirt marks nothing as not required, and what it writes for itself would be refused elsewhere.
        if self.ovirt && says_required(element).is_none() && names::is_ovf(element.namespace()) {
            return self.warn(element, Doubt::SectionLeftOut { name });
        }
        if must_be_understood(element) {
            let Some(reason) = harmless(element) else {
                let found = match element.namespace() {
                    "" => quoted(&name),
                    namespace => format!("{} of {}", quoted(&name), quoted(namespace)),
                };
                return Err(OvfError::RequiredSection { offset: element.offset(), found });
            };
            self.warn(element, Doubt::RequiredSectionKept { name, reason })?;
        } else {
            self.warn(element, Doubt::SectionKept { name })?;
        }
        kept.push(self.capture(element)?);
        Ok(())
    }

    /// The element as text, with what the text relies on.
    pub(super) fn capture(&mut self, element: &Element<'_>) -> Result<ForeignSection, OvfError> {
        if self.foreign_sections == MOST_SECTIONS {
            let what = "sections that are not understood";
            return Err(OvfError::TooMany { offset: element.offset(), what, most: MOST_SECTIONS });
        }
        self.foreign_sections += 1;
        Ok(capture(element))
    }
}

/// The element as text, with what the text relies on.
pub(in crate::ovf) fn capture(element: &Element<'_>) -> ForeignSection {
    let binding =
        |(prefix, uri): (&str, &str)| NamespaceBinding { prefix: prefix.to_owned(), uri: uri.to_owned() };
    ForeignSection {
        namespace: element.namespace().to_owned(),
        name: element.name().to_owned(),
        xml: element.xml().to_owned(),
        namespaces: element.relies_on().into_iter().map(binding).collect(),
    }
}

/// A section must be, unless it says otherwise; an element that is no section must only be if it says so.
fn must_be_understood(element: &Element<'_>) -> bool {
    let is_section = element.name().ends_with("Section") || section_name(element).ends_with("Section");
    says_required(element).unwrap_or(is_section)
}

fn says_required(element: &Element<'_>) -> Option<bool> {
    attribute(element, "required").and_then(|text| boolean(&text))
}

/// Why it is safe to pass the section over, if it is.
fn harmless(element: &Element<'_>) -> Option<&'static str> {
    let section = section_name(element);
    let (namespace, name) = match section.as_ref() {
        "" => (element.namespace(), element.name()),
        name => (names::ENVELOPE, name),
    };
    let found = HARMLESS.iter().find(|known| known.0 == namespace && known.1 == name);
    found.map(|(_, _, reason)| *reason)
}
