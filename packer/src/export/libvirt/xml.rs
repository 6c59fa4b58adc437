//! XML, written: elements, attributes and text, indented.
//!
//! Source: XML 1.0 (fifth edition), sections 2.2 "Characters" and 2.4 "Character Data and Markup".

/// An element with its attributes, in order, and either elements or text in it.
#[derive(Debug, Clone)]
pub(super) struct Element {
    name: &'static str,
    attributes: Vec<(&'static str, String)>,
    children: Vec<Element>,
    text: Option<String>,
}

/// An element called `name`, with nothing in it.
pub(super) fn element(name: &'static str) -> Element {
    Element { name, attributes: Vec::new(), children: Vec::new(), text: None }
}

impl Element {
    /// The same with an attribute.
    pub(super) fn with(mut self, name: &'static str, value: impl ToString) -> Self {
        self.attributes.push((name, value.to_string()));
        self
    }

    /// The same with `text` in place of elements.
    pub(super) fn text(mut self, text: impl ToString) -> Self {
        self.text = Some(text.to_string());
        self
    }

    /// The same with a further element in it.
    pub(super) fn child(mut self, child: Element) -> Self {
        self.children.push(child);
        self
    }

    /// The same with further elements in it.
    pub(super) fn children(mut self, children: impl IntoIterator<Item = Element>) -> Self {
        self.children.extend(children);
        self
    }

    /// The element as a document.
    pub(super) fn document(&self) -> String {
        let mut text = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n".to_owned();
        self.write(&mut text, 0);
        text
    }

    /// The depth is that of our own documents.
    fn write(&self, out: &mut String, indent: usize) {
        let margin = " ".repeat(indent);
        out.push_str(&margin);
        out.push('<');
        out.push_str(self.name);
        for (name, value) in &self.attributes {
            out.push_str(&format!(" {name}=\"{}\"", escape(value)));
        }
        match &self.text {
            Some(text) => out.push_str(&format!(">{}</{}>\n", escape(text), self.name)),
            None if self.children.is_empty() => out.push_str("/>\n"),
            None => {
                out.push_str(">\n");
                self.children.iter().for_each(|child| child.write(out, indent + 2));
                out.push_str(&format!("{margin}</{}>\n", self.name));
            }
        }
    }
}

/// `text` as character data or an attribute's value. What XML has no way to write becomes U+FFFD.
fn escape(text: &str) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut out, c| {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&apos;"),
            '\t' | '\n' | '\r' => out.push_str(&format!("&#{};", c as u32)),
            '\u{0}'..='\u{1f}' | '\u{fffe}' | '\u{ffff}' => out.push('\u{fffd}'),
            c => out.push(c),
        }
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_stays_text() {
        let tree =
            element("a").with("b", "<\"'&\n").child(element("c").text("x]]>\u{1b}")).child(element("d"));
        let want = "\
<?xml version=\"1.0\" encoding=\"UTF-8\"?>
<a b=\"&lt;&quot;&apos;&amp;&#10;\">
  <c>x]]&gt;\u{fffd}</c>
  <d/>
</a>
";
        assert_eq!(tree.document(), want);
    }
}
