//! hull's own policy in an OVF: put there by an export, and used again.
//!
//! `<hull:PolicySection ovf:required="false">` in the envelope, with the policy's canonical JSON as its text. Nobody
//! else's section can say what passes the firewall.

use appliance::Policy;
use formats::ovf::Descriptor;

use super::super::ImportError;

const NAMESPACE: &str = "https://hullvm.dev/ovf/1";
const SECTION: &str = "PolicySection";

/// The policy in the descriptor, if there is one.
pub(super) fn of(descriptor: &Descriptor) -> Result<Option<Policy>, ImportError> {
    let ours = |section: &&_| {
        let section: &formats::ovf::ForeignSection = section;
        section.namespace == NAMESPACE && section.name == SECTION
    };
    let mut sections = descriptor.foreign_sections().map(|(_, section)| section).filter(ours);
    let Some(section) = sections.next() else { return Ok(None) };
    if sections.next().is_some() {
        return Err(ImportError::TwoPolicies);
    }
    let text = section.text().map_err(|source| ImportError::Ovf { name: SECTION.to_owned(), source })?;
    let policy = Policy::parse(text.trim().as_bytes());
    policy.map(Some).map_err(|source| ImportError::Policy { source: Box::new(source) })
}
