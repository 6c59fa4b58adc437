//! The names in a [`Storage`](crate::Storage): paths that are safe on every backend by construction.
//!
//! ```text
//! key       = component *( "/" component )          at most 1024 bytes, S3's limit
//! component = 1*255( ALPHA | DIGIT | "." | "_" | "+" | "-" )      not starting with "."
//! ```
//!
//! So a key never leaves its folder, never meets a backend's own files (whose names start with a
//! dot), and needs no escaping anywhere.

use std::fmt;

/// The name of something in a [`Storage`](crate::Storage), or of a folder of such names.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key(String); // Invariant: matches the grammar above.

/// Why a string is not a key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{text}` is not a key; expected parts of letters, digits, `.`, `_`, `+` and `-`, \
     not starting with `.`, separated by `/`"
)]
pub struct KeyError {
    text: String,
}

/// The longest key, in bytes.
const MAX_KEY: usize = 1024;
/// The longest component: what file systems accept.
const MAX_COMPONENT: usize = 255;

impl Key {
    /// The key with this text.
    ///
    /// # Errors
    ///
    /// [`KeyError`] where the text does not match the grammar.
    pub fn new(text: impl Into<String>) -> Result<Self, KeyError> {
        let text = text.into();
        if text.len() <= MAX_KEY && text.split('/').all(component_ok) {
            Ok(Self(text))
        } else {
            Err(KeyError { text: text.escape_debug().to_string() })
        }
    }

    /// The whole key.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// True for one part of a key: nothing else may name a file of the folder backend.
pub(crate) fn component_ok(component: &str) -> bool {
    !component.is_empty()
        && component.len() <= MAX_COMPONENT
        && !component.starts_with('.')
        && component.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'_' | b'+' | b'-'))
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, ok: bool) {
        assert_eq!(Key::new(text).is_ok(), ok, "{text}");
    }

    #[test]
    fn only_safe_relative_paths_are_keys() {
        check("a", true);
        check("blobs/sha256/ab/abcd", true);
        check("repositories/team+web/tags/1.0-rc_2+/00000000000000000001", true);
        check(&"a".repeat(255), true);
        check("", false);
        check("/a", false);
        check("a/", false);
        check("a//b", false);
        check(".", false);
        check("a/../b", false);
        check("a/.lock", false);
        check("a b", false);
        check("a\0", false);
        check("é", false);
        check(&"a".repeat(256), false);
        check(&["a"; 513].join("/"), false);
    }

    #[test]
    fn what_is_printed_is_escaped() {
        assert!(Key::new("\x1b[2J").unwrap_err().to_string().starts_with("`\\u{1b}[2J` is not a key"));
    }
}
