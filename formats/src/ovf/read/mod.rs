//! An OVF descriptor, read.
//!
//! Tolerant where the specification or its best-known writers are, strict where a guess could boot a different machine:
//! what must be understood and is not, ids that do not lead anywhere, numbers that are none. Everything is read
//! for one configuration.
//!
//! Source: DSP0243 1.1.0 and 2.1.1, sections 7 to 9.

mod disks;
mod foreign;
mod items;
mod kinds;
mod ovirt;
mod sections;
mod systems;
mod units;

pub(super) use kinds::resource;

use std::borrow::Cow;
use std::cell::Cell;
use std::collections::HashMap;

use super::error::quoted;
use super::model::{DeploymentOption, Descriptor};
use super::xml::{Document, Element, decode};
use super::{Doubt, OvfError, Warning, names};

/// What texts that stand in the document once may take where elements share them.
const MOST_REPEATED_BYTES: usize = 1 << 20;
/// Machines, files, disks, networks, items of a machine and so on.
const MOST_OF_A_KIND: usize = 1 << 12;
const MOST_WARNINGS: usize = 1 << 12;
/// What identifies something, and so may be repeated.
const MOST_ID_BYTES: usize = 1 << 10;
/// Words in a text that is a list of them.
const MOST_WORDS: usize = 64;

/// Reads a descriptor for the configuration with this id, or for its default one.
///
/// # Errors
///
/// [`OvfError`], naming the field, where it lies, what it holds and what could stand there.
pub fn parse(bytes: &[u8], configuration: Option<&str>) -> Result<Descriptor, OvfError> {
    let text = decode(bytes)?;
    let document = Document::parse(&text)?;
    let root = document.root();
    if root.name() != "Envelope" || !names::is_ovf(root.namespace()) {
        let found = match root.namespace() {
            "" => quoted(root.name()),
            namespace => format!("{} of {}", quoted(root.name()), quoted(namespace)),
        };
        return Err(OvfError::NotAnEnvelope { offset: root.offset(), found });
    }
    let mut reading = Reading::new(&root);
    let options = reading.options(&root)?;
    reading.configuration = chosen(&options, configuration)?;
    reading.envelope(&root, options)
}

/// The id of the configuration that is read: the one asked for, the default one, or the first.
fn chosen(options: &[DeploymentOption], asked: Option<&str>) -> Result<Option<String>, OvfError> {
    let found = match asked {
        Some(asked) => options.iter().find(|option| option.id == asked),
        None => options.iter().find(|option| option.is_default).or(options.first()),
    };
    match (found, asked) {
        (None, Some(asked)) => {
            let ids: Vec<_> = options.iter().take(16).map(|option| quoted(&option.id)).collect();
            let wanted =
                if ids.is_empty() { "none, for it offers none".to_owned() } else { ids.join(" or ") };
            Err(OvfError::NoSuchConfiguration { found: quoted(asked), wanted })
        }
        (found, _) => Ok(found.map(|option| option.id.clone())),
    }
}

/// What is known while a descriptor is read.
struct Reading {
    configuration: Option<String>,
    /// The texts that elements name by an id.
    messages: HashMap<String, String>,
    repeated_bytes_left: Cell<usize>,
    ovirt: bool,
    foreign_sections: usize,
    /// Where the drives' items stand, in the order of machines and drives.
    drive_offsets: Vec<usize>,
    warnings: Vec<Warning>,
}

impl Reading {
    fn new(root: &Element<'_>) -> Self {
        Reading {
            configuration: None,
            messages: messages(root),
            repeated_bytes_left: Cell::new(MOST_REPEATED_BYTES),
            ovirt: names::is_ovirt(root.namespace()),
            foreign_sections: 0,
            drive_offsets: Vec::new(),
            warnings: Vec::new(),
        }
    }

    fn envelope(
        mut self,
        root: &Element<'_>,
        options: Vec<DeploymentOption>,
    ) -> Result<Descriptor, OvfError> {
        let configuration = self.configuration.clone();
        let mut descriptor = Descriptor { options, configuration, ..Descriptor::default() };
        let mut content = Vec::new();
        let mut references = None;
        let mut disks = Vec::new();
        let mut eulas = Vec::new();
        for element in root.children() {
            match section_name(&element).as_ref() {
                "References" if references.replace(element).is_some() => {
                    return Err(malformed(&element, "References", "there again", "all files in one"));
                }
                "References" => descriptor.files = self.files(&element)?,
                "DiskSection" => disks.push(element),
                "NetworkSection" => self.networks(&element, &mut descriptor.networks)?,
                "VirtualSystem" | "VirtualSystemCollection" => content.push(element),
                // In OVF 0.9.
                "EulaSection" => eulas.extend(self.child_message(&element, "License")),
                "DeploymentOptionSection" | "Strings" => {}
                _ => self.keep(&element, &mut descriptor.foreign)?,
            }
        }
        if let [_, second, ..] = content[..] {
            let wanted = "one machine, or a VirtualSystemCollection around all";
            return Err(malformed(&second, "VirtualSystem", "a second one in the envelope", wanted));
        }
        if let Some(content) = content.first() {
            self.content(content, &mut descriptor)?;
        }
        match (&mut descriptor.collection, descriptor.systems.first_mut()) {
            (Some(collection), _) => collection.eulas.extend(eulas),
            (None, Some(system)) => system.eulas.extend(eulas),
            (None, None) => {}
        }
        self.disks(&disks, &mut descriptor)?;
        self.check_drives(&descriptor)?;
        if self.ovirt {
            ovirt::add_controllers(&disks, &mut descriptor);
        }
        descriptor.warnings = self.warnings;
        Ok(descriptor)
    }

    /// Whether the element is there in the chosen configuration.
    fn applies(&self, element: &Element<'_>) -> bool {
        let Some(configurations) = attribute(element, "configuration") else { return true };
        let chosen = self.configuration.as_deref();
        configurations.split_whitespace().any(|configuration| Some(configuration) == chosen)
    }

    fn warn(&mut self, element: &Element<'_>, doubt: Doubt) -> Result<(), OvfError> {
        self.warn_at(element.offset(), doubt)
    }

    fn warn_at(&mut self, offset: usize, doubt: Doubt) -> Result<(), OvfError> {
        if self.warnings.len() == MOST_WARNINGS {
            return Err(OvfError::TooMany { offset, what: "doubts", most: MOST_WARNINGS });
        }
        self.warnings.push(Warning { offset, doubt });
        Ok(())
    }

    /// The element's text, or the one that it names by an id.
    fn message(&self, element: &Element<'_>) -> Option<String> {
        let text = trimmed(element);
        if text.is_some() {
            return text;
        }
        let message = self.messages.get(attribute(element, "msgid")?.as_ref())?;
        self.repeated(message)
    }

    /// A text of the document once more. All of them together are bounded; after that there are none.
    fn repeated(&self, text: &str) -> Option<String> {
        let left = self.repeated_bytes_left.get().checked_sub(text.len())?;
        self.repeated_bytes_left.set(left);
        Some(text.to_owned())
    }
}

/// The texts of the first `Strings` in the document itself.
fn messages(root: &Element<'_>) -> HashMap<String, String> {
    let mut bundles = root
        .children()
        .filter(|element| section_name(element) == "Strings" && attribute(element, "fileRef").is_none());
    let messages = bundles.next().into_iter().flat_map(|bundle| bundle.children());
    messages
        .filter(|message| message.name() == "Msg")
        .filter_map(|message| Some((attribute(&message, "msgid")?.into_owned(), trimmed(&message)?)))
        .collect()
}

/// What an element is called in OVF 1 and 2; empty where it is none of OVF's.
///
/// OVF 0.9 and oVirt write `<Section xsi:type="ovf:DiskSection_Type">`.
fn section_name<'d>(element: &Element<'d>) -> Cow<'d, str> {
    if !names::is_ovf(element.namespace()) {
        return Cow::Borrowed("");
    }
    if !matches!(element.name(), "Section" | "Content") {
        return Cow::Borrowed(element.name());
    }
    let Some(kind) = element.attribute(|namespace| namespace == names::XSI, "type") else {
        return Cow::Borrowed(element.name());
    };
    let local = kind.rsplit(':').next().unwrap_or_default();
    Cow::Owned(local.strip_suffix("_Type").unwrap_or(local).to_owned())
}

/// An attribute of OVF's, which some writers leave without its prefix. Where it is there with one and without, the one
/// with it counts, which is what other readers see.
fn attribute<'d>(element: &Element<'d>, name: &str) -> Option<Cow<'d, str>> {
    let prefixed = element.attribute(|namespace| !namespace.is_empty() && names::is_ovf(namespace), name);
    prefixed.or_else(|| element.attribute(str::is_empty, name))
}

/// The words of a list, as many as any list has.
fn words(text: &str) -> impl Iterator<Item = String> {
    let words = text.split(|c: char| c.is_whitespace() || c == ',').filter(|word| !word.is_empty());
    words.take(MOST_WORDS).map(str::to_owned)
}

/// An attribute that must be there and not be empty: an id or a name.
fn required_attribute(element: &Element<'_>, name: &'static str) -> Result<String, OvfError> {
    match attribute(element, name) {
        Some(value) if value.len() > MOST_ID_BYTES => {
            let found = format!("{} bytes long", value.len());
            Err(malformed(element, &field(element, name), &found, &format!("at most {MOST_ID_BYTES} bytes")))
        }
        Some(value) if !value.trim().is_empty() => Ok(value.trim().to_owned()),
        Some(_) => Err(malformed(element, &field(element, name), "empty", "a value")),
        None => Err(malformed(element, &field(element, name), "missing", "a value")),
    }
}

/// A number in an attribute that may be missing.
fn number_attribute(element: &Element<'_>, name: &'static str) -> Result<Option<u64>, OvfError> {
    let Some(text) = attribute(element, name) else { return Ok(None) };
    number(&text)
        .map(Some)
        .ok_or_else(|| malformed(element, &field(element, name), &quoted(&text), WHOLE_NUMBER))
}

const WHOLE_NUMBER: &str = "a whole number below 2^64";

fn number(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok())?
}

/// `true` or `false`, or nothing of that kind.
fn boolean(text: &str) -> Option<bool> {
    match text.trim().to_ascii_lowercase().as_str() {
        "true" | "1" => Some(true),
        "false" | "0" => Some(false),
        _ => None,
    }
}

/// Whether the descriptor cannot be used where the element is not understood.
fn is_required(element: &Element<'_>) -> bool {
    attribute(element, "required").and_then(|text| boolean(&text)).unwrap_or(true)
}

/// The element's text without white space around it, unless there is none.
fn trimmed(element: &Element<'_>) -> Option<String> {
    let text = element.text();
    let text = text.trim();
    (!text.is_empty()).then(|| text.to_owned())
}

fn field(element: &Element<'_>, attribute: &str) -> String {
    format!("ovf:{attribute} of {}", element.name().escape_debug())
}

fn malformed(element: &Element<'_>, field: &str, found: &str, wanted: &str) -> OvfError {
    let (field, found, wanted) = (field.to_owned(), found.to_owned(), wanted.to_owned());
    OvfError::Malformed { offset: element.offset(), field, found, wanted }
}

/// Refuses one more of something where there are already more than any descriptor has.
fn check_count(element: &Element<'_>, count: usize, what: &'static str) -> Result<(), OvfError> {
    if count < MOST_OF_A_KIND {
        return Ok(());
    }
    Err(OvfError::TooMany { offset: element.offset(), what, most: MOST_OF_A_KIND })
}
