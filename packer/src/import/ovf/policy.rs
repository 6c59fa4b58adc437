//! hull's own policy in an OVF: put there by an export, and used again.
//!
//! `<hull:PolicySection ovf:required="false">` in the envelope, with the policy's canonical JSON as its text. Nobody
//! else's section can say what passes the firewall.

use appliance::Policy;
use formats::ovf::Descriptor;

use super::super::ImportError;
use crate::policy_section::{self, is_policy_section};

/// The policy in the descriptor, if there is one.
pub(super) fn of(descriptor: &Descriptor) -> Result<Option<Policy>, ImportError> {
    let sections = descriptor.foreign_sections().map(|(_, section)| section);
    let mut sections = sections.filter(|section| is_policy_section(section));
    let Some(section) = sections.next() else { return Ok(None) };
    if sections.next().is_some() {
        return Err(ImportError::TwoPolicies);
    }
    let text = section
        .text()
        .map_err(|source| ImportError::Ovf { name: policy_section::NAME.to_owned(), source })?;
    let policy = Policy::parse(text.trim().as_bytes());
    policy.map(Some).map_err(|source| ImportError::Policy { source: Box::new(source) })
}
