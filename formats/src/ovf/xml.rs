//! XML from strangers, as a tree over the text it was read from.
//!
//! quick-xml cuts the text into tags; what it leaves to its user is checked here: names, references, characters,
//! namespaces, one root. There is no DTD, so no entity but the five predefined ones, and nothing that names another
//! file. Depth, elements, attributes, declarations and lengths are bounded before anything is kept.
//!
//! The tree holds offsets into the text, so that an element can be given back byte for byte.
//!
//! Source: XML 1.0 (fifth edition), Namespaces in XML 1.0 (third edition).

use std::borrow::Cow;
use std::collections::{BTreeMap, HashSet};
use std::ops::Range;

use quick_xml::Reader;
use quick_xml::events::{BytesDecl, BytesStart, Event};

use super::OvfError;
use super::error::quoted;

/// The longest document, in bytes of the file.
pub(super) const MOST_BYTES: usize = 16 << 20;
const MOST_DEPTH: usize = 64;
const MOST_NODES: usize = 1 << 16;
const MOST_ATTRIBUTES: usize = 1 << 18;
/// Tags, texts, comments, processing instructions and references in text.
const MOST_PIECES: usize = 1 << 19;
const MOST_REFERENCES: usize = 1 << 18;
/// `&#x10FFFF;`, and leading zeros.
const MOST_REFERENCE_BYTES: usize = 16;
const MOST_ATTRIBUTES_OF_ONE: usize = 64;
/// Declarations in force at one place.
const MOST_NAMESPACES: usize = 32;
const MOST_NAMESPACE_BYTES: usize = 512;
const MOST_NAME_BYTES: usize = 256;
/// One run of text, or one attribute's value.
const MOST_TEXT_BYTES: usize = 4 << 20;

const XML_NAMESPACE: &str = "http://www.w3.org/XML/1998/namespace";

/// Bytes of the text. Documents are far shorter than 4 GiB.
type Span = Range<u32>;

/// The bytes of a document as text, without the byte order mark.
///
/// UTF-16 must have one. Offsets in errors about the text are those of its UTF-8 form.
pub(super) fn decode(bytes: &[u8]) -> Result<Cow<'_, str>, OvfError> {
    if bytes.len() > MOST_BYTES {
        return Err(OvfError::TooLarge { bytes: bytes.len(), most: MOST_BYTES });
    }
    let units = |rest: &[u8], unit: fn([u8; 2]) -> u16| {
        let (pairs, odd) = rest.as_chunks();
        let text: Option<String> =
            char::decode_utf16(pairs.iter().map(|pair| unit(*pair))).map(Result::ok).collect();
        let found = || "UTF-16 with half a character".to_owned();
        text.filter(|_| odd.is_empty()).ok_or_else(|| OvfError::Encoding { offset: 0, found: found() })
    };
    match bytes {
        [0xff, 0xfe, rest @ ..] => units(rest, u16::from_le_bytes).map(Cow::Owned),
        [0xfe, 0xff, rest @ ..] => units(rest, u16::from_be_bytes).map(Cow::Owned),
        [0xef, 0xbb, 0xbf, rest @ ..] => utf8(rest),
        _ => utf8(bytes),
    }
}

fn utf8(bytes: &[u8]) -> Result<Cow<'_, str>, OvfError> {
    std::str::from_utf8(bytes).map(Cow::Borrowed).map_err(|error| {
        let offset = error.valid_up_to();
        OvfError::Encoding { offset, found: format!("no UTF-8: {:#04x}", bytes[offset]) }
    })
}

/// A document, cut into elements.
#[derive(Debug)]
pub(super) struct Document<'t> {
    text: &'t str,
    /// In the order of the document; the root is the first.
    nodes: Vec<Node>,
    attributes: Vec<Attribute>,
    /// Every declaration, in the order of the document.
    declarations: Vec<Declaration>,
}

#[derive(Debug)]
struct Node {
    /// The node after this one in the same element.
    next: Option<u32>,
    kind: NodeKind,
}

#[derive(Debug)]
enum NodeKind {
    Element(Box<Tag>),
    /// References are checked and still in it.
    Text(Span),
    CData(Span),
}

#[derive(Debug)]
struct Tag {
    all: Span,
    name: Name,
    attributes: Span,
    first_child: Option<u32>,
    last_child: Option<u32>,
    /// Its own declarations.
    declarations: Span,
    /// The element around it.
    parent: Option<u32>,
}

#[derive(Debug, Clone)]
struct Name {
    local: Span,
    namespace: Uri,
}

#[derive(Debug)]
struct Attribute {
    name: Name,
    /// References are checked and still in it.
    value: Span,
}

#[derive(Debug)]
struct Declaration {
    prefix: Span,
    uri: Uri,
}

/// Where a namespace's URI stands.
#[derive(Debug, Clone)]
enum Uri {
    None,
    /// In the text, without references.
    Text(Span),
    /// One that is known by its prefix.
    Known(&'static str),
}

/// An element of a document.
#[derive(Debug, Clone, Copy)]
pub(super) struct Element<'d> {
    document: &'d Document<'d>,
    tag: &'d Tag,
}

/// The namespaces that prefixes stand for which real descriptors use without declaring them.
const KNOWN_PREFIXES: [(&str, &str); 8] = [
    ("ovf", super::names::ENVELOPE),
    ("rasd", super::names::RASD),
    ("vssd", super::names::VSSD),
    ("sasd", super::names::SASD),
    ("vmw", super::names::VMW),
    ("vbox", super::names::VBOX),
    ("xsi", super::names::XSI),
    ("ovfstr", super::names::STRINGS),
];

impl<'t> Document<'t> {
    /// Cuts a document into its elements.
    pub(super) fn parse(text: &'t str) -> Result<Self, OvfError> {
        check_characters(text)?;
        let mut builder = Builder::new(text);
        builder.read()?;
        Ok(builder.document)
    }

    pub(super) fn root(&self) -> Element<'_> {
        Element { document: self, tag: self.tag(0) }
    }

    fn tag(&self, at: u32) -> &Tag {
        match &self.nodes[at as usize].kind {
            NodeKind::Element(tag) => tag,
            NodeKind::Text(_) | NodeKind::CData(_) => {
                unreachable!("only elements hold others, and the root is one")
            }
        }
    }

    fn span(&self, span: &Span) -> &str {
        &self.text[span.start as usize..span.end as usize]
    }

    fn uri<'d>(&'d self, uri: &'d Uri) -> &'d str {
        match uri {
            Uri::None => "",
            Uri::Text(span) => self.span(span),
            Uri::Known(known) => known,
        }
    }
}

impl<'d> Element<'d> {
    /// The name without its prefix.
    pub(super) fn name(&self) -> &'d str {
        self.document.span(&self.tag.name.local)
    }

    /// The namespace of the name; empty where there is none.
    pub(super) fn namespace(&self) -> &'d str {
        self.document.uri(&self.tag.name.namespace)
    }

    /// Where the element starts in the text, in bytes.
    pub(super) fn offset(&self) -> usize {
        self.tag.all.start as usize
    }

    /// All of the element as it stands in the text.
    pub(super) fn xml(&self) -> &'d str {
        self.document.span(&self.tag.all)
    }

    /// The elements right inside it.
    pub(super) fn children(&self) -> impl Iterator<Item = Element<'d>> + use<'d> {
        let document = self.document;
        self.nodes().filter_map(move |node| match &node.kind {
            NodeKind::Element(tag) => Some(Element { document, tag }),
            NodeKind::Text(_) | NodeKind::CData(_) => None,
        })
    }

    fn nodes(&self) -> impl Iterator<Item = &'d Node> + use<'d> {
        let nodes = &self.document.nodes;
        let first = self.tag.first_child.map(|at| &nodes[at as usize]);
        std::iter::successors(first, |node| node.next.map(|at| &nodes[at as usize]))
    }

    /// The text right inside it, without that of its elements.
    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        for node in self.nodes() {
            match &node.kind {
                NodeKind::Text(span) => text += &unescaped(self.document.span(span)),
                NodeKind::CData(span) => {
                    text += &self.document.span(span).replace("\r\n", "\n").replace('\r', "\n")
                }
                NodeKind::Element(_) => {}
            }
        }
        text
    }

    /// The attribute's value, if `namespace` accepts the attribute's own.
    pub(super) fn attribute(&self, namespace: impl Fn(&str) -> bool, name: &str) -> Option<Cow<'d, str>> {
        let attributes =
            &self.document.attributes[self.tag.attributes.start as usize..self.tag.attributes.end as usize];
        let found = attributes.iter().find(|attribute| {
            self.document.span(&attribute.name.local) == name
                && namespace(self.document.uri(&attribute.name.namespace))
        })?;
        Some(attribute_text(self.document.span(&found.value)))
    }

    /// What the element's text relies on being declared around it: prefix and URI, sorted by prefix.
    ///
    /// A prefix counts as relied on where it stands anywhere in the text with a colon behind it, since names may be
    /// in values too.
    pub(super) fn relies_on(&self) -> Vec<(&'d str, &'d str)> {
        let mut bindings = self.bindings_around();
        let names = self.xml().split(|c: char| c != ':' && !is_name_part(c));
        let parts = names.flat_map(|name| name.split_inclusive(':'));
        let used: HashSet<&str> = parts
            .filter_map(|part| bindings.get_key_value(part.strip_suffix(':')?))
            .map(|(prefix, _)| *prefix)
            .collect();
        let needs_default = bindings.get("").is_some_and(|uri| !uri.is_empty() || self.has_bare_names());
        bindings.retain(|prefix, _| if prefix.is_empty() { needs_default } else { used.contains(prefix) });
        bindings.into_iter().collect()
    }

    /// What prefixes mean around the element, without those that the element itself declares.
    fn bindings_around(&self) -> BTreeMap<&'d str, &'d str> {
        let document = self.document;
        let mut bindings = BTreeMap::from(KNOWN_PREFIXES);
        bindings.insert("", "");
        let mut tags = Vec::new();
        let mut around = self.tag.parent;
        while let Some(at) = around {
            tags.push(document.tag(at));
            around = document.tag(at).parent;
        }
        let declarations = |tag: &'d Tag| {
            &document.declarations[tag.declarations.start as usize..tag.declarations.end as usize]
        };
        for declaration in tags.into_iter().rev().flat_map(declarations) {
            bindings.insert(document.span(&declaration.prefix), document.uri(&declaration.uri));
        }
        for declaration in declarations(self.tag) {
            bindings.remove(document.span(&declaration.prefix));
        }
        bindings
    }

    /// Whether the element or one in it has a name in no namespace.
    fn has_bare_names(&self) -> bool {
        let mut open = vec![*self];
        while let Some(element) = open.pop() {
            if element.namespace().is_empty() {
                return true;
            }
            open.extend(element.children());
        }
        false
    }
}

/// Builds a document from quick-xml's events.
struct Builder<'t> {
    document: Document<'t>,
    /// The elements that are open, as nodes.
    open: Vec<u32>,
    /// The declarations in force.
    scope: Vec<u32>,
    /// How many of them each open element found in force.
    outer: Vec<usize>,
    /// A run of text that may go on with a reference.
    run: Option<Span>,
    pieces: usize,
    references: usize,
}

impl<'t> Builder<'t> {
    fn new(text: &'t str) -> Self {
        let document = Document { text, nodes: Vec::new(), attributes: Vec::new(), declarations: Vec::new() };
        Builder {
            document,
            open: Vec::new(),
            scope: Vec::new(),
            outer: Vec::new(),
            run: None,
            pieces: 0,
            references: 0,
        }
    }

    fn read(&mut self) -> Result<(), OvfError> {
        let mut reader = Reader::from_str(self.document.text);
        reader.config_mut().check_comments = true;
        loop {
            let start = reader.buffer_position() as usize;
            let event = reader.read_event().map_err(|error| {
                let offset = reader.error_position() as usize;
                let found = format!("the markup ({})", error.to_string().escape_debug());
                OvfError::NotWellFormed { offset, found, wanted: "complete tags that close each other" }
            })?;
            let all = start as u32..reader.buffer_position() as u32;
            if self.pieces == MOST_PIECES {
                return Err(OvfError::TooMany { offset: start, what: "tags and texts", most: MOST_PIECES });
            }
            self.pieces += 1;
            match event {
                Event::Text(_) => self.text(all)?,
                Event::GeneralRef(_) => {
                    self.check_references(&all)?;
                    self.text(all)?;
                }
                Event::CData(_) => self.cdata(&all)?,
                Event::Start(tag) => self.start(&tag, all)?,
                Event::Empty(tag) => {
                    self.start(&tag, all.clone())?;
                    self.end(all.end)?;
                }
                Event::End(_) => self.end(all.end)?,
                Event::Comment(_) => self.flush()?,
                Event::PI(_) => self.flush()?,
                Event::Decl(declaration) => check_declaration(&declaration, self.document.text, start)?,
                Event::DocType(_) => return Err(OvfError::Doctype { offset: start }),
                Event::Eof => break,
            }
        }
        self.flush()?;
        let end = self.document.text.len();
        if self.document.nodes.is_empty() || !self.open.is_empty() {
            let wanted = "one element, closed";
            return Err(OvfError::NotWellFormed {
                offset: end,
                found: "the end of the text".to_owned(),
                wanted,
            });
        }
        Ok(())
    }

    /// Text, or a reference in it, which the run of text before it goes on with.
    fn text(&mut self, all: Span) -> Result<(), OvfError> {
        let run = match self.run.take() {
            Some(run) => run.start..all.end,
            None => all,
        };
        if (run.end - run.start) as usize > MOST_TEXT_BYTES {
            let what = "bytes in one text";
            return Err(OvfError::TooMany { offset: run.start as usize, what, most: MOST_TEXT_BYTES });
        }
        self.run = Some(run);
        Ok(())
    }

    /// Makes sure that every `&` starts a reference to an allowed character or to one of the five entities.
    fn check_references(&mut self, span: &Span) -> Result<(), OvfError> {
        const WANTED: &str = "a reference to a character, or one of &amp; &lt; &gt; &quot; &apos;";
        let (text, offset) = (self.document.span(span), span.start as usize);
        let mut count = self.references;
        for (at, _) in text.match_indices('&') {
            if count == MOST_REFERENCES {
                return Err(OvfError::TooMany {
                    offset: offset + at,
                    what: "references",
                    most: MOST_REFERENCES,
                });
            }
            count += 1;
            let name = &text[at + 1..];
            let name = match name.bytes().take(MOST_REFERENCE_BYTES).position(|byte| byte == b';') {
                Some(end) => &name[..end],
                None => return Err(not_well_formed(offset + at, &text[at..], WANTED)),
            };
            if resolve_reference(name).is_none() {
                return Err(not_well_formed(offset + at, &format!("&{name};"), WANTED));
            }
        }
        self.references = count;
        Ok(())
    }

    /// Ends the run of text.
    fn flush(&mut self) -> Result<(), OvfError> {
        let Some(run) = self.run.take() else { return Ok(()) };
        let (text, offset) = (self.document.span(&run), run.start as usize);
        if let Some(at) = text.find("]]>") {
            return Err(not_well_formed(offset + at, "]]>", "`]]&gt;` in text"));
        }
        if text.chars().all(is_space) {
            return Ok(());
        }
        if self.open.is_empty() {
            return Err(not_well_formed(offset, text, "no text outside the document's element"));
        }
        self.push(NodeKind::Text(run.clone()), offset)?;
        Ok(())
    }

    fn cdata(&mut self, all: &Span) -> Result<(), OvfError> {
        self.flush()?;
        let offset = all.start as usize;
        if self.open.is_empty() {
            return Err(not_well_formed(
                offset,
                self.document.span(all),
                "no text outside the document's element",
            ));
        }
        if (all.end - all.start) as usize > MOST_TEXT_BYTES {
            return Err(OvfError::TooMany { offset, what: "bytes in one text", most: MOST_TEXT_BYTES });
        }
        let inner = all.start + "<![CDATA[".len() as u32..all.end - "]]>".len() as u32;
        self.push(NodeKind::CData(inner), offset)?;
        Ok(())
    }

    fn start(&mut self, start: &BytesStart<'_>, all: Span) -> Result<(), OvfError> {
        self.flush()?;
        let offset = all.start as usize;
        if self.open.is_empty() && !self.document.nodes.is_empty() {
            return Err(not_well_formed(offset, self.document.span(&all), "one element around all others"));
        }
        if self.open.len() == MOST_DEPTH {
            return Err(OvfError::TooMany { offset, what: "elements in each other", most: MOST_DEPTH });
        }
        let outer = self.scope.len();
        let first = self.document.declarations.len() as u32;
        let raw = self.raw_attributes(start, offset)?;
        raw.iter().try_for_each(|(_, value)| self.check_references(value))?;
        for (name, value) in &raw {
            self.declare(name, value)?;
        }
        let name_start = all.start + 1;
        let name = name_start..name_start + start.name().as_ref().len() as u32;
        let name = self.resolve(name, Kind::Element)?;
        let attributes = self.attributes(&raw, offset)?;
        let declarations = first..self.document.declarations.len() as u32;
        let parent = self.open.last().copied();
        let tag = Tag { all, name, attributes, first_child: None, last_child: None, declarations, parent };
        let at = self.push(NodeKind::Element(Box::new(tag)), offset)?;
        self.open.push(at);
        self.outer.push(outer);
        Ok(())
    }

    fn end(&mut self, end: u32) -> Result<(), OvfError> {
        self.flush()?;
        let (Some(at), Some(outer)) = (self.open.pop(), self.outer.pop()) else {
            let wanted = "an end tag only behind its start tag";
            return Err(not_well_formed(end as usize, "an end tag", wanted));
        };
        if let NodeKind::Element(tag) = &mut self.document.nodes[at as usize].kind {
            tag.all.end = end;
        }
        self.scope.truncate(outer);
        Ok(())
    }

    /// Appends a node to the element that is open.
    fn push(&mut self, kind: NodeKind, offset: usize) -> Result<u32, OvfError> {
        let nodes = &mut self.document.nodes;
        if nodes.len() == MOST_NODES {
            return Err(OvfError::TooMany { offset, what: "elements and texts", most: MOST_NODES });
        }
        let at = nodes.len() as u32;
        nodes.push(Node { next: None, kind });
        let Some(&parent) = self.open.last() else { return Ok(at) };
        let NodeKind::Element(tag) = &mut nodes[parent as usize].kind else {
            unreachable!("only elements are open")
        };
        match tag.last_child.replace(at) {
            Some(before) => nodes[before as usize].next = Some(at),
            None => tag.first_child = Some(at),
        }
        Ok(at)
    }

    /// The attributes of a tag, names and values, declarations among them.
    fn raw_attributes(&self, start: &BytesStart<'_>, offset: usize) -> Result<Vec<(Span, Span)>, OvfError> {
        let mut raw = Vec::new();
        for attribute in start.attributes().with_checks(false) {
            let attribute = attribute.map_err(|error| {
                let found = format!("an attribute ({})", error.to_string().escape_debug());
                OvfError::NotWellFormed { offset, found, wanted: "`name=\"value\"`" }
            })?;
            if raw.len() == MOST_ATTRIBUTES_OF_ONE {
                let what = "attributes in one element";
                return Err(OvfError::TooMany { offset, what, most: MOST_ATTRIBUTES_OF_ONE });
            }
            let name = self.span_of(attribute.key.as_ref());
            let value = self.span_of(&attribute.value);
            let (at, text) = (value.start as usize, self.document.span(&value));
            if !self.document.text[..name.start as usize].ends_with(is_space) {
                return Err(not_well_formed(
                    name.start as usize,
                    attribute.key.as_ref(),
                    "a space before an attribute",
                ));
            }
            if text.len() > MOST_TEXT_BYTES {
                let what = "bytes in an attribute";
                return Err(OvfError::TooMany { offset: at, what, most: MOST_TEXT_BYTES });
            }
            if let Some(less) = text.find('<') {
                return Err(not_well_formed(at + less, "<", "`&lt;` in a value"));
            }
            raw.push((name, value));
        }
        Ok(raw)
    }

    /// Where a part of the text that quick-xml gave back stands in it.
    fn span_of(&self, part: &str) -> Span {
        let start = part.as_ptr().addr() - self.document.text.as_ptr().addr();
        start as u32..(start + part.len()) as u32
    }

    /// Puts a declaration into force, if the attribute is one.
    fn declare(&mut self, name: &Span, value: &Span) -> Result<(), OvfError> {
        let (text, offset) = (self.document.span(name), name.start as usize);
        let uri = self.document.span(value);
        let prefix = match text.strip_prefix("xmlns") {
            Some("") => name.end..name.end,
            Some(rest) if rest.starts_with(':') => name.start + "xmlns:".len() as u32..name.end,
            _ => return Ok(()),
        };
        let prefix_text = self.document.span(&prefix);
        if !prefix.is_empty()
            && (uri.is_empty() || matches!(prefix_text, "xml" | "xmlns") || !is_name(prefix_text))
        {
            return Err(not_well_formed(offset, text, "a prefix of one's own and a namespace for it"));
        }
        if uri.len() > MOST_NAMESPACE_BYTES {
            let what = "bytes in a namespace";
            return Err(OvfError::TooMany { offset, what, most: MOST_NAMESPACE_BYTES });
        }
        if uri.contains('&') {
            return Err(not_well_formed(offset, uri, "a namespace without references"));
        }
        if self.scope.len() == MOST_NAMESPACES {
            let what = "namespaces in one place";
            return Err(OvfError::TooMany { offset, what, most: MOST_NAMESPACES });
        }
        let uri = if uri.is_empty() { Uri::None } else { Uri::Text(value.clone()) };
        self.scope.push(self.document.declarations.len() as u32);
        self.document.declarations.push(Declaration { prefix, uri });
        Ok(())
    }

    /// Keeps the attributes that are no declarations, and makes sure that no two are the same.
    fn attributes(&mut self, raw: &[(Span, Span)], offset: usize) -> Result<Span, OvfError> {
        let first = self.document.attributes.len();
        let whole: &'t str = self.document.text;
        let mut seen = HashSet::new();
        for (name, value) in raw {
            let text = &whole[name.start as usize..name.end as usize];
            if !seen.insert(text) {
                return Err(not_well_formed(name.start as usize, text, "each attribute once"));
            }
            if text == "xmlns" || text.starts_with("xmlns:") {
                continue;
            }
            let name = self.resolve(name.clone(), Kind::Attribute)?;
            let document = &mut self.document;
            // Two names of one namespace may have different prefixes.
            let same = |other: &Attribute| {
                !document.uri(&name.namespace).is_empty()
                    && document.span(&other.name.local) == document.span(&name.local)
                    && document.uri(&other.name.namespace) == document.uri(&name.namespace)
            };
            if document.attributes[first..].iter().any(same) {
                return Err(not_well_formed(
                    name.local.start as usize,
                    document.span(&name.local),
                    "each attribute once",
                ));
            }
            if document.attributes.len() == MOST_ATTRIBUTES {
                return Err(OvfError::TooMany { offset, what: "attributes", most: MOST_ATTRIBUTES });
            }
            document.attributes.push(Attribute { name, value: value.clone() });
        }
        Ok(first as u32..self.document.attributes.len() as u32)
    }

    /// Cuts a name into prefix and local part, and finds the prefix's namespace.
    fn resolve(&self, name: Span, kind: Kind) -> Result<Name, OvfError> {
        let text = self.document.span(&name);
        let offset = name.start as usize;
        let (prefix, local) = text.split_once(':').unwrap_or(("", text));
        if text.len() > MOST_NAME_BYTES
            || !is_name(local)
            || !(prefix.is_empty() || is_name(prefix))
            || text.starts_with(':')
        {
            return Err(not_well_formed(offset, text, "a name, with a prefix or without"));
        }
        let local = name.end - local.len() as u32..name.end;
        if prefix.is_empty() && kind == Kind::Attribute {
            return Ok(Name { local, namespace: Uri::None });
        }
        let declared = self.scope.iter().rev().map(|at| &self.document.declarations[*at as usize]);
        let mut declared = declared.filter(|declaration| self.document.span(&declaration.prefix) == prefix);
        let namespace = match declared.next() {
            Some(declaration) => declaration.uri.clone(),
            None if prefix.is_empty() => Uri::None,
            None if prefix == "xml" => Uri::Known(XML_NAMESPACE),
            None => match KNOWN_PREFIXES.iter().find(|(known, _)| *known == prefix) {
                Some((_, uri)) => Uri::Known(uri),
                None => return Err(not_well_formed(offset, text, "a prefix that is declared")),
            },
        };
        Ok(Name { local, namespace })
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Element,
    Attribute,
}

fn not_well_formed(offset: usize, found: &str, wanted: &'static str) -> OvfError {
    OvfError::NotWellFormed { offset, found: quoted(found), wanted }
}

fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\r' | '\n')
}

/// Whether XML 1.0 may have the character.
pub(super) fn is_allowed(c: char) -> bool {
    matches!(c, '\t' | '\n' | '\r' | ' '..='\u{fffd}' | '\u{10000}'..)
}

/// Whether this is a name without a colon.
pub(super) fn is_name(text: &str) -> bool {
    let starts = |c: char| is_name_part(c) && !matches!(c, '0'..='9' | '-' | '.' | '\u{b7}');
    text.starts_with(starts) && text.chars().all(is_name_part)
}

fn is_name_part(c: char) -> bool {
    matches!(c, 'A'..='Z' | 'a'..='z' | '0'..='9' | '_' | '-' | '.' | '\u{b7}' | '\u{c0}'..)
        && c != '\u{d7}'
        && c != '\u{f7}'
}

fn check_characters(text: &str) -> Result<(), OvfError> {
    match text.char_indices().find(|(_, c)| !is_allowed(*c)) {
        Some((at, c)) => Err(not_well_formed(at, &c.to_string(), "characters that XML 1.0 allows")),
        None => Ok(()),
    }
}

/// The declaration can only stand at the start, and must agree with what the text was decoded from.
fn check_declaration(declaration: &BytesDecl<'_>, text: &str, start: usize) -> Result<(), OvfError> {
    if start != 0 {
        return Err(not_well_formed(start, "<?xml", "the XML declaration at the very start"));
    }
    let encoding = match declaration.encoding() {
        None => return Ok(()),
        Some(Ok(encoding)) => encoding,
        Some(Err(_)) => return Err(not_well_formed(start, declaration, "`encoding=\"UTF-8\"`")),
    };
    let name = encoding.to_ascii_uppercase();
    if matches!(name.as_str(), "UTF-8" | "UTF8" | "UTF-16" | "UTF-16LE" | "UTF-16BE" | "US-ASCII" | "ASCII")
        || text.is_ascii()
    {
        return Ok(());
    }
    Err(OvfError::Encoding { offset: start, found: format!("said to be in {}", quoted(&encoding)) })
}

/// The character that `&name;` stands for.
fn resolve_reference(name: &str) -> Option<char> {
    let digits = |text: &str, radix| {
        let good = !text.is_empty() && text.bytes().all(|byte| char::from(byte).is_digit(radix));
        good.then(|| u32::from_str_radix(text, radix).ok())?
    };
    let number = match name {
        "amp" => return Some('&'),
        "lt" => return Some('<'),
        "gt" => return Some('>'),
        "quot" => return Some('"'),
        "apos" => return Some('\''),
        _ => match name.strip_prefix("#x") {
            Some(hex) => digits(hex, 16)?,
            None => digits(name.strip_prefix('#')?, 10)?,
        },
    };
    char::from_u32(number).filter(|c| is_allowed(*c))
}

/// Text with its line ends made one character and its references, which are checked, resolved.
fn unescaped(text: &str) -> Cow<'_, str> {
    if !text.contains(['&', '\r']) {
        return Cow::Borrowed(text);
    }
    let text = text.replace("\r\n", "\n").replace('\r', "\n");
    let mut done = String::with_capacity(text.len());
    let mut rest = text.as_str();
    while let Some((before, behind)) = rest.split_once('&') {
        let (name, after) = behind.split_once(';').expect("references are checked");
        done += before;
        done.extend(resolve_reference(name));
        rest = after;
    }
    Cow::Owned(done + rest)
}

/// A value as XML gives it to its reader: white space is made spaces before references are resolved.
fn attribute_text(raw: &str) -> Cow<'_, str> {
    if !raw.contains(['&', '\t', '\r', '\n']) {
        return Cow::Borrowed(raw);
    }
    let spaced = raw.replace("\r\n", " ").replace(['\t', '\r', '\n'], " ");
    Cow::Owned(unescaped(&spaced).into_owned())
}
