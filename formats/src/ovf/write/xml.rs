//! XML text, written element by element.

use super::super::OvfWriteError;
use super::super::model::NamespaceBinding;
use super::super::xml::is_allowed;

/// A document as far as it is written.
#[derive(Debug)]
pub(super) struct Writer {
    text: String,
    /// The elements that are open.
    depth: usize,
    namespaces: Vec<NamespaceBinding>,
}

impl Writer {
    /// A document whose envelope declares `namespaces`.
    pub(super) fn new(namespaces: Vec<NamespaceBinding>) -> Self {
        Writer { text: "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n".to_owned(), depth: 0, namespaces }
    }

    pub(super) fn into_text(self) -> String {
        self.text
    }

    pub(super) fn namespaces(&self) -> &[NamespaceBinding] {
        &self.namespaces
    }

    pub(super) fn envelope_tag(&self) -> String {
        let declarations: String = self.namespaces.iter().map(declaration).collect();
        format!("<Envelope{declarations}>")
    }

    pub(super) fn envelope(&mut self) {
        self.text += &self.envelope_tag();
        self.text.push('\n');
        self.depth = 1;
    }

    /// An element's start tag, without attributes.
    pub(super) fn open(&mut self, name: &str) {
        self.start(name);
        self.end_start();
    }

    /// An element's start tag as far as its name. Attributes follow, then [`Writer::end_start`] or
    /// [`Writer::end_empty`].
    pub(super) fn start(&mut self, name: &str) {
        self.indent();
        self.text.push('<');
        self.text += name;
    }

    pub(super) fn end_start(&mut self) {
        self.text += ">\n";
        self.depth += 1;
    }

    pub(super) fn end_empty(&mut self) {
        self.text += "/>\n";
    }

    pub(super) fn close(&mut self, name: &str) {
        self.depth -= 1;
        self.indent();
        self.text += &format!("</{name}>\n");
    }

    pub(super) fn attribute(&mut self, name: &'static str, value: &str) -> Result<(), OvfWriteError> {
        self.text += &format!(" {name}=\"");
        self.escaped(name, value, Kind::Attribute)?;
        self.text.push('"');
        Ok(())
    }

    pub(super) fn some_attribute(
        &mut self,
        name: &'static str,
        value: Option<&str>,
    ) -> Result<(), OvfWriteError> {
        value.map_or(Ok(()), |value| self.attribute(name, value))
    }

    pub(super) fn number_attribute(&mut self, name: &str, value: u64) {
        self.text += &format!(" {name}=\"{value}\"");
    }

    /// An element of text only.
    pub(super) fn element(&mut self, name: &'static str, text: &str) -> Result<(), OvfWriteError> {
        self.indent();
        self.text += &format!("<{name}>");
        self.escaped(name, text, Kind::Text)?;
        self.text += &format!("</{name}>\n");
        Ok(())
    }

    pub(super) fn some_element(
        &mut self,
        name: &'static str,
        text: Option<&str>,
    ) -> Result<(), OvfWriteError> {
        text.map_or(Ok(()), |text| self.element(name, text))
    }

    pub(super) fn number(&mut self, name: &str, value: u64) {
        self.indent();
        self.text += &format!("<{name}>{value}</{name}>\n");
    }

    pub(super) fn some_number(&mut self, name: &str, value: Option<u64>) {
        if let Some(value) = value {
            self.number(name, value);
        }
    }

    /// A well-formed element as it stands.
    pub(super) fn verbatim(&mut self, xml: &str) {
        self.indent();
        self.text += xml;
        self.text.push('\n');
    }

    fn indent(&mut self) {
        self.text.extend(std::iter::repeat_n("  ", self.depth));
    }

    /// Text with what XML would read otherwise as references; line ends and tabs too, where XML would change them.
    fn escaped(&mut self, field: &'static str, text: &str, kind: Kind) -> Result<(), OvfWriteError> {
        for c in text.chars() {
            match (c, kind) {
                ('&', _) => self.text += "&amp;",
                ('<', _) => self.text += "&lt;",
                ('>', _) => self.text += "&gt;",
                ('"', Kind::Attribute) => self.text += "&quot;",
                ('\r', _) => self.text += "&#13;",
                ('\n', Kind::Attribute) => self.text += "&#10;",
                ('\t', Kind::Attribute) => self.text += "&#9;",
                (c, _) if is_allowed(c) => self.text.push(c),
                (c, _) => {
                    return Err(OvfWriteError::Character { field, found: c.escape_debug().to_string() });
                }
            }
        }
        Ok(())
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Attribute,
    Text,
}

/// A declaration with the space before it. The URI's text goes out as it came in, without references.
pub(super) fn declaration(binding: &NamespaceBinding) -> String {
    let NamespaceBinding { prefix, uri } = binding;
    let quote = if uri.contains('"') { '\'' } else { '"' };
    match prefix.as_str() {
        "" => format!(" xmlns={quote}{uri}{quote}"),
        prefix => format!(" xmlns:{prefix}={quote}{uri}{quote}"),
    }
}
