//! Other platforms' names as hull's: lower-case letters, digits and `-`, each once.

use std::collections::BTreeSet;

/// The longest name.
const MAX_CHARS: usize = 63;

/// Names that have been given so far.
#[derive(Debug, Default)]
pub(super) struct Names(BTreeSet<String>);

impl Names {
    /// A name that nobody else has, as near to `wanted` as it can be.
    pub(super) fn give(&mut self, wanted: &str, otherwise: &str) -> String {
        let name = label(wanted).unwrap_or_else(|| otherwise.to_owned());
        let numbered = (2..).map(|n| {
            let number = format!("-{n}");
            let room = MAX_CHARS - number.len();
            format!("{}{number}", name[..name.len().min(room)].trim_end_matches('-'))
        });
        let mut names = std::iter::once(name.clone()).chain(numbered);
        let free = names.find(|name| !self.0.contains(name)).expect("there is no end of numbers");
        self.0.insert(free.clone());
        free
    }
}

/// `text` with everything that no name can have as `-`; `None` where nothing would be left.
pub(crate) fn label(text: &str) -> Option<String> {
    let mut name = String::new();
    for c in text.chars() {
        match c.to_ascii_lowercase() {
            c @ ('a'..='z' | '0'..='9') => name.push(c),
            _ if name.is_empty() || name.ends_with('-') => {}
            _ => name.push('-'),
        }
        if name.len() == MAX_CHARS {
            break;
        }
    }
    name.truncate(name.trim_end_matches('-').len());
    (!name.is_empty()).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_keep_what_they_can() {
        let long = "x".repeat(80);
        for (text, want) in [
            ("web", Some("web")),
            ("Debian 12 (64-bit)", Some("debian-12-64-bit")),
            ("__vm__", Some("vm")),
            ("../../etc/passwd", Some("etc-passwd")),
            ("\u{1b}[2J", Some("2j")),
            ("Übung", Some("bung")),
            ("---", None),
            ("", None),
            (long.as_str(), Some(&long[..63])),
        ] {
            assert_eq!(label(text).as_deref(), want, "{text:?}");
            assert!(label(text).is_none_or(|name| appliance::is_label(&name)), "{text:?}");
        }
    }

    #[test]
    fn no_name_is_given_twice() {
        let mut names = Names::default();
        let long = "y".repeat(63);
        let given =
            [("disk", "disk"), ("Disk", "disk-2"), ("", "root"), ("-", "root-2"), ("disk-2", "disk-2-2")];
        for (wanted, want) in given {
            assert_eq!(names.give(wanted, "root"), want);
        }
        assert_eq!(names.give(&long, ""), long);
        assert_eq!(names.give(&long, ""), format!("{}-2", &long[..61]));
    }
}
