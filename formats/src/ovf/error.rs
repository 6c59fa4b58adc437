//! Why a descriptor is not read or not written, and what was read with a doubt.

use std::fmt;

/// Why an OVF descriptor is not read. Text from the document is escaped; offsets are in its bytes.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OvfError {
    /// The document is longer than any descriptor.
    #[error("OVF: the document has {bytes} bytes; the limit is {most}")]
    TooLarge {
        /// Its length.
        bytes: usize,
        /// The longest accepted.
        most: usize,
    },
    /// The document is in an encoding that is not read.
    #[error("OVF: at byte {offset}, the document is {found}; wanted UTF-8, or UTF-16 with a byte order mark")]
    Encoding {
        /// Where that shows.
        offset: usize,
        /// What it is.
        found: String,
    },
    /// The document is not XML.
    #[error("OVF: at byte {offset}, {found} is not well-formed XML; wanted {wanted}")]
    NotWellFormed {
        /// Where.
        offset: usize,
        /// What stands there.
        found: String,
        /// What could stand there.
        wanted: &'static str,
    },
    /// The document declares a type, which could make it grow without end or name other files.
    #[error("OVF: at byte {offset}, the document has a document type declaration (DTD); wanted none")]
    Doctype {
        /// Where it starts.
        offset: usize,
    },
    /// The document has more of something than any descriptor.
    #[error("OVF: at byte {offset}, the document has more than {most} {what}")]
    TooMany {
        /// Where the limit is passed.
        offset: usize,
        /// Of what.
        what: &'static str,
        /// The most accepted.
        most: usize,
    },
    /// The document is something else.
    #[error("OVF: at byte {offset}, the document's element is {found}; wanted an OVF `Envelope`")]
    NotAnEnvelope {
        /// Where the element starts.
        offset: usize,
        /// Its name and namespace.
        found: String,
    },
    /// The descriptor contradicts its specification.
    #[error("OVF: at byte {offset}, {field} is {found}; wanted {wanted}")]
    Malformed {
        /// Where the element starts.
        offset: usize,
        /// The attribute or element, by its name in the specification.
        field: String,
        /// What was found.
        found: String,
        /// What could stand there.
        wanted: String,
    },
    /// The descriptor may be right, but asks for what is not read.
    #[error("OVF: at byte {offset}, {field} is {found}: {refused}")]
    Unsupported {
        /// Where the element starts.
        offset: usize,
        /// The attribute or element, by its name in the specification.
        field: String,
        /// What was found.
        found: String,
        /// What is not read, and a way out where there is one.
        refused: &'static str,
    },
    /// A section that the descriptor says must be understood is not.
    #[error(
        "OVF: at byte {offset}, the descriptor requires {found} to be understood, and it is not known here; wanted it with ovf:required=\"false\""
    )]
    RequiredSection {
        /// Where the section starts.
        offset: usize,
        /// Its name and namespace.
        found: String,
    },
    /// The descriptor does not offer the configuration that was asked for.
    #[error("OVF: the descriptor has no configuration {found}; wanted {wanted}")]
    NoSuchConfiguration {
        /// The one asked for.
        found: String,
        /// Those that it has.
        wanted: String,
    },
}

/// Why a descriptor is not written.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OvfWriteError {
    /// XML 1.0 has no way to carry a character.
    #[error("OVF: {field} has the character {found}, which XML 1.0 cannot carry")]
    Character {
        /// Where in the model.
        field: &'static str,
        /// The character, escaped.
        found: String,
    },
    /// Two things have one id.
    #[error("OVF: two {what} have the id {id}; wanted ids of their own")]
    SameId {
        /// Two of what.
        what: &'static str,
        /// The id, quoted and escaped.
        id: String,
    },
    /// A thing names another that is not there.
    #[error("OVF: {field} names {id}, which is not in the descriptor")]
    Dangling {
        /// Where in the model.
        field: &'static str,
        /// What is named, quoted and escaped.
        id: String,
    },
    /// A descriptor of several machines needs a collection around them, and one without machines is none.
    #[error(
        "OVF: the descriptor has {systems} machines and no collection around them; wanted one machine, or a collection"
    )]
    NoCollection {
        /// How many machines.
        systems: usize,
    },
    /// A foreign section's text is not one element, or relies on a prefix that is not declared.
    #[error("OVF: the foreign section {name} cannot be written: {found}; wanted one well-formed element")]
    Foreign {
        /// The section's name, quoted and escaped.
        name: String,
        /// What is wrong with it.
        found: String,
    },
}

/// Something in a descriptor that was left out, guessed or read against the specification.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    /// Where in the document the element starts, in bytes.
    pub offset: usize,
    /// What it is about.
    pub doubt: Doubt,
}

/// What a [`Warning`] is about. Text from the document is quoted and escaped when it is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Doubt {
    /// A section is not understood; it is kept as text.
    SectionKept {
        /// The section's name.
        name: String,
    },
    /// A section says that it must be understood; it is known to say nothing of the machine, and kept as text.
    RequiredSectionKept {
        /// The section's name.
        name: String,
        /// Why that is safe.
        reason: &'static str,
    },
    /// A section that oVirt writes for itself is left out.
    SectionLeftOut {
        /// The section's name.
        name: String,
    },
    /// A device that may be missing is left out.
    DeviceLeftOut {
        /// The item's `InstanceID`.
        instance: String,
        /// Its `ResourceType`.
        resource_type: u16,
        /// Its `ResourceSubType`, if it has one.
        sub_type: Option<String>,
    },
    /// A controller or NIC is of a kind that is not known; it is read as its family's usual one.
    UnknownKind {
        /// The item's `InstanceID`.
        instance: String,
        /// Its `ResourceSubType`.
        sub_type: String,
    },
    /// A drive names a controller that is not there.
    NoSuchController {
        /// The drive's `InstanceID`.
        instance: String,
        /// The `Parent` that it names.
        parent: String,
    },
    /// A disk drive says neither what lies in it nor how large it is.
    EmptyDisk {
        /// The drive's `InstanceID`.
        instance: String,
    },
    /// A disk's size hangs on a property without a number, and no drive uses it; it is left out.
    DiskLeftOut {
        /// The disk's id.
        id: String,
    },
    /// A property's key has a character that the specification forbids.
    PropertyKey {
        /// The key.
        key: String,
    },
    /// A machine has more than one hardware section; the first is read.
    MoreHardware {
        /// The machine's id.
        system: String,
    },
    /// Something that there can be one of is there again; the first is read.
    Repeated {
        /// What.
        what: &'static str,
        /// Which.
        name: String,
    },
    /// A start order names a machine that is not there.
    StartsNothing {
        /// The id that it names.
        id: String,
    },
    /// A number or word that matters little cannot be read; it is passed over.
    PassedOver {
        /// The element or attribute.
        field: &'static str,
        /// What stands there.
        found: String,
    },
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at byte {}, {}", self.offset, self.doubt)
    }
}

impl fmt::Display for Doubt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Doubt::SectionKept { name } => {
                write!(f, "{} is not understood; it is kept as it stands", quoted(name))
            }
            Doubt::RequiredSectionKept { name, reason } => {
                write!(
                    f,
                    "{} is not understood, though required; it is kept as it stands: {reason}",
                    quoted(name)
                )
            }
            Doubt::SectionLeftOut { name } => {
                write!(f, "{} is what oVirt writes for itself; it is left out", quoted(name))
            }
            Doubt::DeviceLeftOut { instance, resource_type, sub_type } => {
                write!(f, "item {} asks for a device of type {resource_type}", quoted(instance))?;
                if let Some(sub_type) = sub_type {
                    write!(f, " ({})", quoted(sub_type))?;
                }
                f.write_str(", which is not known; it may be missing, and is left out")
            }
            Doubt::UnknownKind { instance, sub_type } => {
                let (instance, sub_type) = (quoted(instance), quoted(sub_type));
                write!(
                    f,
                    "item {instance} is of the kind {sub_type}, which is not known; its family's usual one is taken"
                )
            }
            Doubt::NoSuchController { instance, parent } => {
                let (instance, parent) = (quoted(instance), quoted(parent));
                write!(f, "drive {instance} is attached to {parent}, which is no controller")
            }
            Doubt::EmptyDisk { instance } => {
                write!(f, "disk drive {} has neither a disk nor a size; it is left out", quoted(instance))
            }
            Doubt::DiskLeftOut { id } => {
                let id = quoted(id);
                write!(
                    f,
                    "the size of disk {id} is not known in this configuration, which does not use it; it is left out"
                )
            }
            Doubt::PropertyKey { key } => {
                write!(f, "the property key {} has a full stop or colon, which OVF forbids", quoted(key))
            }
            Doubt::MoreHardware { system } => {
                write!(f, "machine {} has another hardware section; the first is read", quoted(system))
            }
            Doubt::Repeated { what, name } => {
                write!(f, "{what} {} is there again; the first is read", quoted(name))
            }
            Doubt::StartsNothing { id } => {
                write!(f, "the start order names {}, which is no machine", quoted(id))
            }
            Doubt::PassedOver { field, found } => {
                write!(f, "{field} is {}, which cannot be read; it is passed over", quoted(found))
            }
        }
    }
}

/// The length up to which text from a document appears in messages, in characters.
const QUOTED_CHARS: usize = 64;

/// Text from a document for a message: escaped, between backticks, cut off where it is long.
pub(super) fn quoted(text: &str) -> String {
    let end = text.char_indices().nth(QUOTED_CHARS).map(|(at, _)| at);
    match end {
        Some(end) => format!("`{}...`", text[..end].escape_debug()),
        None => format!("`{}`", text.escape_debug()),
    }
}
