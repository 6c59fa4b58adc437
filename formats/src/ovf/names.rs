//! The names that OVF documents are made of.
//!
//! A namespace is recognised by what writers really put there: the envelope's by its versions, CIM's by the class
//! that its URI ends with.
//!
//! Source: DMTF DSP8023; VMware's, VirtualBox's and oVirt's writers.

/// The namespace of OVF 1.x envelopes, which the writer uses.
pub(super) const ENVELOPE: &str = "http://schemas.dmtf.org/ovf/envelope/1";
/// `CIM_ResourceAllocationSettingData`.
pub(super) const RASD: &str =
    "http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData";
/// `CIM_VirtualSystemSettingData`.
pub(super) const VSSD: &str =
    "http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_VirtualSystemSettingData";
/// `CIM_StorageAllocationSettingData`.
pub(super) const SASD: &str =
    "http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_StorageAllocationSettingData";
/// VMware's additions.
pub(super) const VMW: &str = "http://www.vmware.com/schema/ovf";
/// VirtualBox's machine settings.
pub(super) const VBOX: &str = "http://www.virtualbox.org/ovf/machine";
/// Texts in other languages, in some descriptors.
pub(super) const STRINGS: &str = "http://schemas.dmtf.org/ovf/strings/1";
/// XML Schema's attributes in documents.
pub(super) const XSI: &str = "http://www.w3.org/2001/XMLSchema-instance";

/// Whether this is the namespace of OVF itself, of any version: 0.9's was VMware's, oVirt's has a slash at its end, and
/// documents without a namespace are taken for OVF too.
pub(super) fn is_ovf(namespace: &str) -> bool {
    let versions = namespace.strip_prefix("http://schemas.dmtf.org/ovf/envelope/");
    namespace.is_empty()
        || versions.is_some_and(|version| matches!(version.trim_end_matches('/'), "1" | "2"))
        || namespace == "http://www.vmware.com/schema/ovf/1/envelope"
        || namespace == STRINGS
}

/// Whether oVirt wrote the envelope.
pub(super) fn is_ovirt(namespace: &str) -> bool {
    namespace == "http://schemas.dmtf.org/ovf/envelope/1/"
}

/// Whether this is the namespace of what an item's elements say.
pub(super) fn is_cim(namespace: &str) -> bool {
    namespace.contains("CIM_") || is_ovf(namespace)
}

pub(super) fn is_vmware(namespace: &str) -> bool {
    namespace == VMW
}
