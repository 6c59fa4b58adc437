//! The text in a section that is carried without being understood.

use super::xml::Document;
use super::{ForeignSection, OvfError};

impl ForeignSection {
    /// The characters that stand directly in the section's element, without those of its children.
    ///
    /// # Errors
    ///
    /// [`OvfError`] where the section is not well-formed; one that was read is.
    pub fn text(&self) -> Result<String, OvfError> {
        let mut around = String::from("<section");
        for binding in self.namespaces.iter().filter(|binding| binding.prefix != "xml") {
            let colon = if binding.prefix.is_empty() { "" } else { ":" };
            let uri = binding.uri.replace('&', "&amp;").replace('<', "&lt;").replace('"', "&quot;");
            around.push_str(&format!(" xmlns{colon}{}=\"{uri}\"", binding.prefix));
        }
        let text = format!("{around}>{}</section>", self.xml);
        let document = Document::parse(&text)?;
        let element = document.root().children().next();
        Ok(element.map_or_else(String::new, |element| element.text()))
    }
}

#[cfg(test)]
mod tests {
    use super::super::parse;

    #[test]
    fn the_text_of_a_section_is_its_own_and_not_its_childrens() {
        let section = "<hull:PolicySection xmlns:hull=\"https://hullvm.dev/ovf/1\" ovf:required=\"false\"><Info>a \
                       policy</Info>{\"a\":\"&lt;&amp;\"}</hull:PolicySection>";
        let envelope = format!(
            "<Envelope xmlns=\"http://schemas.dmtf.org/ovf/envelope/1\" \
             xmlns:ovf=\"http://schemas.dmtf.org/ovf/envelope/1\">{section}<VirtualSystem ovf:id=\"a\"><Info/>\
             </VirtualSystem></Envelope>"
        );
        let descriptor = parse(envelope.as_bytes(), None).unwrap();
        assert_eq!(descriptor.foreign[0].name, "PolicySection");
        assert_eq!(descriptor.foreign[0].namespace, "https://hullvm.dev/ovf/1");
        assert_eq!(descriptor.foreign[0].text().unwrap(), "{\"a\":\"<&\"}");
    }
}
