//! The section of an OVF that carries the policy from an export of hull's to an import: `hull:PolicySection`, which other
//! platforms need not understand, with the policy's canonical JSON as its text.

use appliance::{Policy, canonical};
use formats::ovf::{ForeignSection, NamespaceBinding};

const NAMESPACE: &str = "https://hullvm.dev/ovf/1";
/// Its name without a prefix.
pub(crate) const NAME: &str = "PolicySection";

/// Whether it is this section. Nobody else's can say what passes the firewall.
pub(crate) fn is_policy_section(section: &ForeignSection) -> bool {
    section.namespace == NAMESPACE && section.name == NAME
}

/// The section with `policy` in it.
pub(crate) fn policy_section(policy: &Policy) -> ForeignSection {
    let json = String::from_utf8(canonical::to_vec(policy)).expect("JSON is UTF-8");
    let json = json.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    let xml = format!(
        "<hull:{NAME} xmlns:hull=\"{NAMESPACE}\" ovf:required=\"false\">\
         <Info>The firewall and the other rules that hull enforces</Info>{json}</hull:{NAME}>"
    );
    let binding =
        |prefix: &str, uri: &str| NamespaceBinding { prefix: prefix.to_owned(), uri: uri.to_owned() };
    let envelope = "http://schemas.dmtf.org/ovf/envelope/1";
    ForeignSection {
        namespace: NAMESPACE.to_owned(),
        name: NAME.to_owned(),
        xml,
        namespaces: vec![binding("", envelope), binding("ovf", envelope)],
    }
}
